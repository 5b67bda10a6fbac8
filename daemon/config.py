"""What the operator decides: command line over environment over file over defaults, frozen.

Every value is checked where it was given, so that a `ConfigError` is one line: where, and what is
wrong. No exchange is named here (the caller brings their defaults), save by two variables of the
API's first version.
"""

import difflib
import hashlib
import io
import ipaddress
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import msgspec
from dotenv import dotenv_values
from msgspec import Struct

from actors.archive.series import KINDS
from actors.events import INTERVALS


class Server(Struct, frozen=True):
    """Where to listen. Port 0: the system chooses. TLS: certfile and keyfile, both or neither."""

    host: str = "127.0.0.1"
    port: int = 8000
    cors_origins: list[str] | Literal["*"] = []
    certfile: str | None = None
    keyfile: str | None = None


class Log(Struct, frozen=True):
    """`auto` is console on a terminal and json otherwise."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["auto", "console", "json"] = "auto"


class Streams(Struct, frozen=True):
    """`intervals`: at least one, of INTERVALS. `large_trade_threshold_usd`: quote units, >= 0.

    `resume_frames`, `resume_seconds`: how much of a topic is remembered for clients that come back.
    `topics_per_client`, `commands_per_second`: what one `/ws` connection may ask for.
    """

    intervals: tuple[str, ...] = ("1m", "5m", "15m", "1h", "4h", "1d")
    large_trade_threshold_usd: float = 100_000.0
    resume_frames: int = 5_000
    resume_seconds: float = 300.0
    topics_per_client: int = 1_000
    commands_per_second: float = 20.0


class OiVol(Struct, frozen=True):
    """What /ws/oi-vol watches. `window`: bars, 21 to 1500. `symbols` empty: every configured one."""

    timeframes: tuple[str, ...] = ("5m", "15m", "1h")
    window: int = 96
    z_threshold: float = 3.0
    symbols: tuple[str, ...] = ()


class Archive(Struct, frozen=True):
    """`path`: of the file, which its folder must be there for. `*_days`: how long a kind is kept, 0 = for ever."""

    enabled: bool = True
    path: str = "marketd.db"
    keep: tuple[str, ...] = KINDS
    ohlc_days: float = 0.0
    open_interest_days: float = 0.0
    open_interest_history_days: float = 0.0
    funding_days: float = 0.0
    funding_history_days: float = 0.0
    liquidations_days: float = 0.0
    large_trades_days: float = 0.0


class Supervision(Struct, frozen=True):
    """Seconds, finite and > 0; `max_reconnect_attempts` is a count, 0 = never give up."""

    reconnect_delay: float = 1.0
    max_reconnect_delay: float = 60.0
    max_reconnect_attempts: int = 0
    stable_after: float = 30.0


class Record(Struct, frozen=True):
    """`path`: the folder of the recordings, None = none are made. `part_mb`: megabytes after which a file is full."""

    path: str | None = None
    part_mb: int = 256


class ExchangeSettings(Struct, frozen=True, kw_only=True):
    """`symbols`: collected from the start, as the exchange spells them. URLs: without a trailing slash."""

    enabled: bool = True
    symbols: tuple[str, ...]
    on_demand: bool = True
    rest_url: str
    ws_url: str


class Config(Struct, frozen=True, kw_only=True):
    """The whole. `exchanges` has every known exchange, the ones that are switched off too."""

    server: Server = Server()
    log: Log = Log()
    streams: Streams = Streams()
    oi_vol: OiVol = OiVol()
    archive: Archive = Archive()
    supervision: Supervision = Supervision()
    record: Record = Record()
    exchanges: dict[str, ExchangeSettings]


class Override(NamedTuple):
    """A setting from the command line, e.g. ("--port", "server.port", "9000").

    The value is read as an environment variable's is.
    """

    option: str
    key: str
    value: str


class ConfigError(Exception):
    """str() is one printable line: where (file and key, variable or option) and what is wrong."""

    def __init__(self, where: str, what: str) -> None:
        # Keys, file names and values come from outside: no control character may reach the terminal.
        line = (c if c.isprintable() else ascii(c)[1:-1] for c in f"{where}: {what}")
        super().__init__("".join(line))


# --- what each key may be


class _Kind(NamedTuple):
    expected: str
    check: Callable[[object], object]  # a TOML value -> the value to keep, None: does not fit
    read: Callable[[str], object] = str  # text -> a TOML value; ValueError where it is none
    secret: bool = False  # the value may hold a password: never show it


def _integer(expected: str, low: int, high: int) -> _Kind:
    return _Kind(expected, lambda v: v if type(v) is int and low <= v <= high else None, int)


def _number(expected: str, fits: Callable[[float], bool]) -> _Kind:
    def check(value: object) -> float | None:
        if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > 1e300:
            return None
        return float(value) if math.isfinite(value) and fits(value) else None

    return _Kind(expected, check, float)


def _read_boolean(text: str) -> bool:
    if text.strip().lower() in ("true", "1", "yes"):
        return True
    if text.strip().lower() in ("false", "0", "no"):
        return False
    raise ValueError(text)


def _read_list(text: str) -> object:
    if text.lstrip().startswith("["):
        return json.loads(text)
    return [part.strip() for part in text.split(",")] if text.strip() else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value and value.isprintable() else None


def _host(value: object) -> str | None:
    host = _text(value)
    if host and ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            return None
    return host if host and re.fullmatch(r"[\w.:%-]+", host) else None


def _one_of(*options: str) -> _Kind:
    def check(value: object) -> str | None:
        word = value.strip().lower() if isinstance(value, str) else None
        return next((option for option in options if option.lower() == word), None)

    return _Kind(f"one of {', '.join(options)}", check)


def _names(expected: str, fits: Callable[[str], bool], *, least: int) -> _Kind:
    def check(value: object) -> tuple[str, ...] | None:
        if not isinstance(value, list) or len(value) < least:
            return None
        names = tuple(name for name in value if isinstance(name, str) and fits(name))
        return names if len(set(names)) == len(value) else None

    return _Kind(expected, check, _read_list)


def _origins(value: object) -> list[str] | str | None:
    if value in ("*", ["*"]):
        return "*"
    pattern = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@\\]+")
    if not isinstance(value, list) or not all(map(_text, value)):
        return None
    origins = [origin.lower() for origin in value]  # as browsers send them
    return origins if all(map(pattern.fullmatch, origins)) else None


def _url(*schemes: str) -> _Kind:
    def check(value: object) -> str | None:
        if not isinstance(value, str) or not value.isprintable() or re.search(r"[ #]", value):
            return None
        try:
            parts = urlsplit(value)
            fits = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a broken port or IPv6 address
            return None
        return (value if "?" in value else value.rstrip("/")) if fits else None

    expected = f"a URL with a host, {' or '.join(f'{scheme}://' for scheme in schemes)}"
    return _Kind(expected, check, secret=True)


def _is_age(days: float) -> bool:
    return 0 <= days <= 36_500  # a century: there are no times before the year 1


_Key = tuple[str, ...]

_BOOLEAN = _Kind("true or false", lambda v: v if isinstance(v, bool) else None, _read_boolean)
_SECONDS = _number("a number of seconds above 0", lambda seconds: seconds > 0)
_INTERVAL_LIST = _names(f"a list of different intervals among {' '.join(INTERVALS)}", INTERVALS.__contains__, least=1)
_SYMBOL_LIST = _names(
    "a list of different symbols",
    lambda symbol: bool(symbol) and symbol.isprintable() and " " not in symbol,
    least=0,
)
_KINDS: dict[_Key, _Kind] = {
    ("server", "host"): _Kind("a host name or an IP address", _host),
    ("server", "port"): _integer("an integer from 0 to 65535", 0, 65535),
    ("server", "cors_origins"): _Kind('"*" or a list of origins (no path)', _origins, _read_list),
    ("server", "certfile"): _Kind("the path of a file", _text),
    ("server", "keyfile"): _Kind("the path of a file", _text),
    ("log", "level"): _one_of("DEBUG", "INFO", "WARNING", "ERROR"),
    ("log", "format"): _one_of("auto", "console", "json"),
    ("streams", "intervals"): _INTERVAL_LIST,
    ("streams", "large_trade_threshold_usd"): _number("a number of at least 0", lambda n: n >= 0),
    ("streams", "resume_frames"): _integer("an integer from 1 to 1000000", 1, 1_000_000),
    ("streams", "resume_seconds"): _SECONDS,
    ("streams", "topics_per_client"): _integer("an integer from 1 to 10000", 1, 10_000),
    ("streams", "commands_per_second"): _number("a number above 0", lambda n: n > 0),
    ("oi_vol", "timeframes"): _INTERVAL_LIST,
    ("oi_vol", "window"): _integer("an integer from 21 to 1500", 21, 1500),
    ("oi_vol", "z_threshold"): _number("a number above 0", lambda n: n > 0),
    ("oi_vol", "symbols"): _SYMBOL_LIST,
    ("archive", "enabled"): _BOOLEAN,
    ("archive", "path"): _Kind("the path of a file", _text),
    ("archive", "keep"): _names(f"a list of different kinds among {' '.join(KINDS)}", KINDS.__contains__, least=0),
    **{("archive", f"{kind}_days"): _number("a number of days from 0 to 36500", _is_age) for kind in KINDS},
    ("supervision", "reconnect_delay"): _SECONDS,
    ("supervision", "max_reconnect_delay"): _SECONDS,
    ("supervision", "max_reconnect_attempts"): _integer("an integer of at least 0", 0, 2**63 - 1),
    ("supervision", "stable_after"): _SECONDS,
    ("record", "path"): _Kind("the path of a folder", _text),
    ("record", "part_mb"): _integer("an integer from 1 to 100000", 1, 100_000),
}
_EXCHANGE_KINDS: dict[str, _Kind] = {
    "enabled": _BOOLEAN,
    "symbols": _SYMBOL_LIST,
    "on_demand": _BOOLEAN,
    "rest_url": _url("http", "https"),
    "ws_url": _url("ws", "wss"),
}

# --- the layers

_FIRST_NAMES: dict[str, _Key] = {  # the variables of the API's first version
    "BINANCE_BASE_URL": ("exchanges", "binance", "rest_url"),
    "SUPPORTED_SYMBOLS": ("exchanges", "binance", "symbols"),
    "SUPPORTED_INTERVALS": ("streams", "intervals"),
    "LOG_LEVEL": ("log", "level"),
    "LARGE_TRADE_THRESHOLD_USD": ("streams", "large_trade_threshold_usd"),
    "WS_RECONNECT_DELAY": ("supervision", "reconnect_delay"),
    "WS_MAX_RECONNECT_ATTEMPTS": ("supervision", "max_reconnect_attempts"),
    "CORS_ORIGINS": ("server", "cors_origins"),
    "PORT": ("server", "port"),
}


class _Text(NamedTuple):
    text: str
    where: str  # what a message about it begins with


def load(
    path: Path | None,
    environ: Mapping[str, str],
    overrides: Iterable[Override] = (),
    *,
    defaults: Mapping[str, ExchangeSettings],
) -> Config:
    """The effective configuration; raises ConfigError.

    `path` None: ./config.toml where it exists. `defaults`: every known exchange; all of them run where
    the file names none, else those that the file, a variable or an option names. A .env file beside the
    config supplies what `environ` has not.
    """
    file = Path("config.toml") if path is None else path
    kinds = _KINDS | {("exchanges", name, key): kind for name in defaults for key, kind in _EXCHANGE_KINDS.items()}
    settings: dict[_Key, object] = {}
    origins: dict[_Key, str] = {}  # what a message about a setting begins with

    tree = _parse(_read(file, needed=path is not None), file)
    for key, value in _walk(tree, kinds, file):
        origins[key] = f"{file}: {'.'.join(key)}"
        settings[key] = _checked(kinds[key], value, origins[key])

    variables = _variables(file, environ)
    given = {key: variables[n] for n, key in _FIRST_NAMES.items() if n in variables and key in kinds}
    names = {"MARKETD_" + "__".join(key).upper(): key for key in kinds}
    for name, variable in variables.items():
        if name in names:
            given[names[name]] = variable
        elif name.startswith("MARKETD_"):
            raise ConfigError(variable.where, "unknown variable" + _hint(name, names))
    for option, dotted, text in overrides:
        key = tuple(dotted.split("."))
        given[key] = _Text(text, f"command line: {option}")
        if key not in kinds:
            raise ConfigError(given[key].where, f"unknown key {_show(dotted)}")
    port = given.get(("server", "port"))
    if port and port is variables.get("PORT"):
        # A platform that hands out the port dials from outside; a host given by name still wins.
        given.setdefault(("server", "host"), _Text("0.0.0.0", port.where))
    for key, (text, where) in given.items():
        origins[key] = where
        settings[key] = _from_text(kinds[key], text, where)
    named = tree.get("exchanges")
    if isinstance(named, dict) and named:
        asked_for = {*named, *(key[1] for key in given if key[0] == "exchanges")}
        for name in defaults.keys() - asked_for:
            settings["exchanges", name, "enabled"] = False
    return _assemble(settings, origins, defaults)


def _assemble(
    settings: Mapping[_Key, object],
    origins: Mapping[_Key, str],
    defaults: Mapping[str, ExchangeSettings],
) -> Config:
    exchanges = {name: msgspec.structs.asdict(default) for name, default in defaults.items()}
    tree: dict[str, dict[str, object]] = {name: {} for name in Config.__struct_fields__}
    tree["exchanges"] = dict(exchanges)
    for (section, *inner), value in settings.items():
        table = exchanges[inner[0]] if section == "exchanges" else tree[section]
        table[inner[-1]] = value
    config = msgspec.convert(tree, Config)

    # What no single value can be blamed for is reported at one of those that were given.
    def blame(section: str, *keys: str, what: str) -> None:
        where = next(origins[section, key] for key in keys if (section, key) in origins)
        raise ConfigError(where, what)

    wait, longest = config.supervision.reconnect_delay, config.supervision.max_reconnect_delay
    if longest < wait:
        what = f"max_reconnect_delay ({longest}) is less than reconnect_delay ({wait})"
        blame("supervision", "max_reconnect_delay", "reconnect_delay", what=what)
    if (config.server.certfile is None) != (config.server.keyfile is None):
        blame("server", "certfile", "keyfile", what="certfile and keyfile go together, give both")
    return _with_own_archive(config, defaults)


def _with_own_archive(config: Config, defaults: Mapping[str, ExchangeSettings]) -> Config:
    """What other hosts than the exchanges' own tell (a test network, a simulator) is history of another market.

    Where no file is named for the archive, such a market has one to itself.
    """
    others = sorted(
        (name, settings.rest_url, settings.ws_url)
        for name, settings in config.exchanges.items()
        if settings.enabled and (settings.rest_url, settings.ws_url) != (defaults[name].rest_url, defaults[name].ws_url)
    )
    if not others or config.archive.path != Archive().path:
        return config
    path = Path(config.archive.path)
    digest = hashlib.sha256(repr(others).encode()).hexdigest()[:8]
    archive = msgspec.structs.replace(config.archive, path=str(path.with_stem(f"{path.stem}-{digest}")))
    return msgspec.structs.replace(config, archive=archive)


def _read(file: Path, *, needed: bool) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        if not needed:
            return ""
        raise ConfigError(str(file), "no such file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(str(file), f"not UTF-8 (at byte {error.start})") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(str(file), f"cannot be read: {what}") from None


def _parse(text: str, file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(str(file), "nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, or an integer too long for int()
        lines = text.split("\n")
        end = f"(at line {len(lines)}, column {len(lines[-1]) + 1})"
        raise ConfigError(str(file), str(error).replace("(at end of document)", end)) from None


def _walk(
    table: dict[str, object], kinds: Mapping[_Key, _Kind], file: Path, prefix: _Key = ()
) -> Iterator[tuple[_Key, object]]:
    known = {key[len(prefix)] for key in kinds if key[: len(prefix)] == prefix}
    for name, value in table.items():
        key = (*prefix, name)
        where = f"{file}: {'.'.join(key)}"
        if name not in known:
            noun = {(): "section", ("exchanges",): "exchange"}.get(prefix, "key")
            raise ConfigError(where, f"unknown {noun}" + _hint(name, known))
        if key in kinds:
            yield key, value
        elif isinstance(value, dict):
            yield from _walk(value, kinds, file, key)
        else:
            raise ConfigError(where, f"expected a table, got {_show(value)}")


def _variables(file: Path, environ: Mapping[str, str]) -> dict[str, _Text]:
    """Every variable by name, with its origin; the environment's before the .env file's."""
    beside = file.with_name(".env")
    text = _read(beside, needed=False) if beside.is_file() else ""  # a venv may be called .env
    lines = dotenv_values(stream=io.StringIO(text), interpolate=False)
    found = {n: _Text(v, f"{beside}: {n}") for n, v in lines.items() if v is not None}
    return found | {n: _Text(v, f"environment: {n}") for n, v in environ.items()}


def _checked(kind: _Kind, value: object, where: str) -> object:
    kept = kind.check(value)
    if kept is None:
        got = "" if kind.secret else f", got {_show(value)}"
        raise ConfigError(where, f"expected {kind.expected}{got}")
    return kept


def _from_text(kind: _Kind, text: str, where: str) -> object:
    try:
        value = kind.read(text)
    except (ValueError, RecursionError):
        value = text  # does not fit either, and is shown as it was written
    return _checked(kind, value, where)


def _show(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() if abs(value) >= 1 << 64:  # may be too long for str()
            return "a huge integer"
        case int() | float():
            return str(value)
        case str():
            return json.dumps(value[:80], ensure_ascii=False) + "..." * (len(value) > 80)
        case list() if all(isinstance(item, str) for item in value[:10]):
            return f"[{', '.join(map(_show, value[:10]))}{', ...' * (len(value) > 10)}]"
        case list() | dict():
            return "a list" if isinstance(value, list) else "a table"
    return f"a {type(value).__name__}"


def _hint(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name[:80], known, n=1)
    return f' (did you mean "{close[0]}"?)' if close else ""


def dump(config: Config) -> str:
    """`config` as TOML, for people: what may be a secret in a URL is `***`."""
    tables = {name: getattr(config, name) for name in Config.__struct_fields__[:-1]}
    tables |= {f"exchanges.{name}": exchange for name, exchange in config.exchanges.items()}
    lines = []
    for name, table in tables.items():
        lines += ["", f"[{name}]"]
        for key, value in msgspec.structs.asdict(table).items():
            if value is not None:  # TOML has no null: a key that is not there
                lines.append(f"{key} = {_toml(_masked(value) if key.endswith('_url') else value)}")
    return "\n".join(lines[1:]) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)  # spelled alike: strings, numbers, booleans


def _masked(url: str) -> str:
    parts = urlsplit(url)
    _, secret, host = parts.netloc.rpartition("@")
    if not secret and not parts.query:
        return url
    query = "***" if parts.query else ""
    return urlunsplit(parts._replace(netloc=f"***@{host}" if secret else host, query=query))
