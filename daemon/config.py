"""Where settings come from: command line over environment over file over defaults.

Every value is checked where it was given, so that a `ConfigError` is one line: where, and what is wrong. No exchange is
named here (the caller brings their defaults), save by two variables of the API's first version.
"""

import difflib
import hashlib
import io
import re
import ssl
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
from dotenv import dotenv_values

from daemon.kinds import EXCHANGE_KINDS, KINDS, SINK_KINDS, ConfigError, Key, Kind, fitting, from_text, show
from daemon.settings import Archive, Config, ExchangeSettings, Server, is_loopback


class Override(NamedTuple):
    """A setting from the command line, e.g. ("--port", "server.port", "9000").

    The value is read as an environment variable's is.
    """

    option: str
    key: str
    value: str


_FIRST_NAMES: dict[str, Key] = {  # the variables of the API's first version
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
    warn: Callable[[str], object] = lambda line: None,
    listening: Server | None = None,
) -> Config:
    """The effective configuration; raises ConfigError.

    `path` None: ./config.toml where it exists. `defaults`: every known exchange; all of them run where
    the file names none, else those that the file, a variable or an option names. A .env file beside the
    config supplies what `environ` has not. `warn` gets a line for each variable that looks like one of ours, misspelt.
    `listening`: where a daemon listens that runs already: what follows from that follows from this.
    """
    file = Path("config.toml") if path is None else path
    kinds = KINDS | {("exchanges", name, key): kind for name in defaults for key, kind in EXCHANGE_KINDS.items()}
    settings: dict[Key, object] = {}
    origins: dict[Key, str] = {}  # what a message about a setting begins with

    tree = _parse(_read(file, needed=path is not None), file)
    variables = _variables(file, environ)
    if tables := _numbered(tree.pop("sink", []), file):
        tree["sink"] = tables
    numbers = dict.fromkeys([*tables, *_numbers_of_sinks(variables)])
    kinds |= {("sink", number, name): kind for number in numbers for name, kind in SINK_KINDS.items()}
    for key, value in _walk(tree, kinds, file):
        origins[key] = f"{file}: {'.'.join(key)}"
        settings[key] = fitting(kinds[key], value, origins[key])

    given = {key: variables[n] for n, key in _FIRST_NAMES.items() if n in variables and key in kinds}
    names = {"MARKETD_" + "__".join(key).upper(): key for key in kinds}
    for name, variable in variables.items():
        if name in names:
            given[names[name]] = variable
        elif name.startswith("MARKETD_") and "__" in name:
            raise ConfigError(variable.where, "unknown variable" + _hint(name, names, likeness=0.75))
        elif name.startswith("MARKETD_") and (meant := _meant(name, variable.text, names)):
            warn(str(ConfigError(variable.where, f'not read (did you mean "{meant}"?)')))
    for option, dotted, text in overrides:
        key = tuple(dotted.split("."))
        given[key] = _Text(text, f"command line: {option}")
        if key not in kinds:
            raise ConfigError(given[key].where, f"unknown key {show(dotted)}")
    port = given.get(("server", "port"))
    if port and port is variables.get("PORT"):
        # A platform that hands out the port dials from outside; a host given by name still wins.
        given.setdefault(("server", "host"), _Text("0.0.0.0", port.where))
    for key, (text, where) in given.items():
        origins[key] = where
        settings[key] = from_text(kinds[key], text, where)
    named = tree.get("exchanges")
    if isinstance(named, dict) and named:
        asked_for = {*named, *(key[1] for key in given if key[0] == "exchanges")}
        for name in defaults.keys() - asked_for:
            settings["exchanges", name, "enabled"] = False
    for number in numbers:
        for name in ("kind", "url", "topics"):
            if ("sink", number, name) not in settings:
                raise ConfigError(f"{file}: sink.{number}", f"{name} is missing")
    return _assemble(settings, origins, defaults, file.parent, listening)


def _numbered(sinks: object, file: Path) -> dict[str, object]:
    """The tables of [[sink]], each by its number as text: 0, 1, ..."""
    if not isinstance(sinks, list):
        raise ConfigError(f"{file}: sink", f"expected tables [[sink]], got {show(sinks)}")
    return {str(number): table for number, table in enumerate(sinks)}


def _numbers_of_sinks(variables: Iterable[str]) -> list[str]:
    """Those that variables name: MARKETD_SINK__0__URL."""
    return sorted({found[1] for name in variables if (found := re.fullmatch(r"MARKETD_SINK__(\d)__[A-Z_]+", name))})


def _assemble(
    settings: Mapping[Key, object],
    origins: Mapping[Key, str],
    defaults: Mapping[str, ExchangeSettings],
    folder: Path,
    listening: Server | None,
) -> Config:
    exchanges = {name: msgspec.structs.asdict(default) for name, default in defaults.items()}
    tree: dict[str, dict[str, object]] = {name: {} for name in Config.__struct_fields__}
    tree["exchanges"] = dict(exchanges)
    sinks: dict[str, dict[str, object]] = {}
    for (section, *inner), value in settings.items():
        match section:
            case "exchanges":
                table = exchanges[inner[0]]
            case "sink":
                table = sinks.setdefault(inner[0], {})
            case _:
                table = tree[section]
        table[inner[-1]] = value
    config = msgspec.convert(tree | {"sink": [sinks[number] for number in sorted(sinks, key=int)]}, Config)

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
    if config.server.port == -1 and not config.server.unix_socket:
        blame("server", "port", what="-1 is for a daemon that listens on server.unix_socket alone, which is not given")
    if config.engine.role != "both" and not config.engine.url:
        blame("engine", "role", what=f"a node of role {config.engine.role} needs engine.url, which is not given")
    for key, file in _authorities(config):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
        except OSError as error:  # ssl's own are such
            raise ConfigError(origins[key], f"cannot be used: {error.strerror or error}") from None
    return _with_own_archive(_filled_in(config, settings.keys(), folder, listening or config.server), defaults)


def _authorities(config: Config) -> Iterator[tuple[Key, str]]:
    """Every `ca_file` that is given, by its place."""
    tables = {("upstream",): config.upstream} | {("exchanges", name): e for name, e in config.exchanges.items()}
    return (((*place, "ca_file"), table.ca_file) for place, table in tables.items() if table.ca_file is not None)


def _filled_in(config: Config, given: Collection[Key], folder: Path, listening: Server) -> Config:
    """What is not given and follows from what is. `folder`: the config file's. `listening`: says where it listens."""
    change = msgspec.structs.replace
    server, auth, local = config.server, config.auth, is_loopback(listening)
    if local and not server.allowed_hosts:
        host = f"[{listening.host}]" if ":" in listening.host else listening.host.lower()
        server = change(server, allowed_hosts=tuple(dict.fromkeys(("localhost", "127.0.0.1", "[::1]", host))))
    if not local and ("auth", "anonymous") not in given:
        auth = change(auth, anonymous=tuple(scope for scope in auth.anonymous if scope != "metrics"))
    auth = change(auth, keys_file=str(folder / auth.keys_file))
    way = msgspec.structs.asdict(config.upstream)
    exchanges = {
        name: change(exchange, **{key: value for key, value in way.items() if getattr(exchange, key) is None})
        for name, exchange in config.exchanges.items()
    }
    return change(config, server=server, auth=auth, exchanges=exchanges)


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
    table: dict[str, object], kinds: Mapping[Key, Kind], file: Path, prefix: Key = ()
) -> Iterator[tuple[Key, object]]:
    known = {key[len(prefix)] for key in kinds if key[: len(prefix)] == prefix}
    if not prefix:
        known.add("sink")  # there may be none
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
            raise ConfigError(where, f"expected a table, got {show(value)}")


def _variables(file: Path, environ: Mapping[str, str]) -> dict[str, _Text]:
    """Every variable by name, with its origin; the environment's before the .env file's."""
    beside = file.with_name(".env")
    text = _read(beside, needed=False) if beside.is_file() else ""  # a venv may be called .env
    lines = dotenv_values(stream=io.StringIO(text), interpolate=False)
    found = {n: _Text(v, f"{beside}: {n}") for n, v in lines.items() if v is not None}
    return found | {n: _Text(v, f"environment: {n}") for n, v in environ.items()}


def _hint(name: str, known: Iterable[str], likeness: float = 0.6) -> str:
    close = difflib.get_close_matches(name[:80], known, n=1, cutoff=likeness)
    return f' (did you mean "{close[0]}"?)' if close else ""


def _meant(name: str, text: str, names: Iterable[str]) -> str | None:
    """The variable that one without a `__` may have been meant for: MARKETD_SERVER_PORT, say.

    Kubernetes sets variables for each service in each pod; where a service is called marketd, or marketd-something,
    they are none of ours.
    """
    if re.search(r"_SERVICE_HOST\Z|_SERVICE_PORT(_|\Z)|_PORT_\d+_(TCP|UDP|SCTP)(_|\Z)", name) or "://" in text:
        return None
    plain = {known.replace("__", "_"): known for known in names}
    close = difflib.get_close_matches(name[:80], plain, n=1, cutoff=0.9)
    return plain[close[0]] if close else None
