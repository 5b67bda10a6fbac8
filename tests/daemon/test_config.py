"""Configuration: which layer wins, what each mistake is told as, and that nothing else is ever raised."""

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.config import _EXCHANGE_KINDS, _KINDS, Config, ConfigError, ExchangeSettings, Override, dump, load

DEFAULTS = {
    "binance": ExchangeSettings(
        symbols=("BTCUSDT", "ETHUSDT"), rest_url="https://rest.example", ws_url="wss://ws.example/market"
    ),
    "bybit": ExchangeSettings(symbols=("BTCUSDT",), rest_url="https://b.example", ws_url="wss://b.example/v5"),
}
NOWHERE: dict[str, str] = {}


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def from_file(text: str, environ: Mapping[str, str] = NOWHERE) -> Config:
    Path("config.toml").write_text(text, encoding="utf-8")
    return load(None, environ, defaults=DEFAULTS)


def from_environment(**environ: str) -> Config:
    return load(None, environ, defaults=DEFAULTS)


def message(call: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    text = str(caught.value)
    assert text
    assert text.isprintable()
    return text


# --- defaults and the shipped file


def test_without_anything_the_defaults_hold() -> None:
    assert load(None, NOWHERE, defaults=DEFAULTS) == Config(exchanges=DEFAULTS)


def test_the_shipped_file_says_the_defaults() -> None:
    """Every key is in it, with its default; a commented key is one whose default is absence."""
    shipped = Path(__file__).parents[2] / "config.toml"
    tree = tomllib.loads(shipped.read_text(encoding="utf-8"))
    exchanges = msgspec.convert(tree["exchanges"], dict[str, ExchangeSettings])
    assert load(shipped, NOWHERE, defaults=exchanges) == Config(exchanges=exchanges)
    written = {
        (section, key) for section in Config.__struct_fields__ if section != "exchanges" for key in tree[section]
    }
    assert written == set(_KINDS) - {("server", "certfile"), ("server", "keyfile"), ("record", "path")}
    assert all(set(table) == set(_EXCHANGE_KINDS) for table in tree["exchanges"].values())


def test_every_field_has_a_kind() -> None:
    config = Config(exchanges=DEFAULTS)
    fields = {
        (section, key)
        for section in Config.__struct_fields__
        if section != "exchanges"
        for key in getattr(config, section).__struct_fields__
    }
    assert fields == set(_KINDS)
    assert set(ExchangeSettings.__struct_fields__) == set(_EXCHANGE_KINDS)


def test_a_partial_exchange_keeps_its_other_defaults() -> None:
    config = from_file('[exchanges.binance]\nsymbols = ["SOLUSDT"]\n')
    assert config.exchanges["binance"] == msgspec.structs.replace(DEFAULTS["binance"], symbols=("SOLUSDT",))
    assert config.exchanges["bybit"] == msgspec.structs.replace(DEFAULTS["bybit"], enabled=False)


def running(config: Config) -> set[str]:
    return {name for name, exchange in config.exchanges.items() if exchange.enabled}


def test_a_file_that_names_exchanges_runs_those() -> None:
    assert running(load(None, NOWHERE, defaults=DEFAULTS)) == set(DEFAULTS)
    assert running(from_file("[server]\nport = 1\n")) == set(DEFAULTS)
    assert running(from_file("[exchanges.binance]\n")) == {"binance"}
    assert running(from_file("[exchanges.binance]\nenabled = false\n[exchanges.bybit]\n")) == {"bybit"}


def test_a_variable_names_an_exchange_too() -> None:
    environ = {"MARKETD_EXCHANGES__BYBIT__SYMBOLS": "BTCUSDT"}
    assert running(from_file("[exchanges.binance]\n", environ)) == {"binance", "bybit"}
    assert running(load(None, environ, defaults=DEFAULTS)) == set(DEFAULTS)
    assert DEFAULTS["binance"].symbols == ("BTCUSDT", "ETHUSDT")


def test_the_two_delays_may_be_equal() -> None:
    assert from_environment(WS_RECONNECT_DELAY="60").supervision.reconnect_delay == 60


# --- precedence

LAYERS = ["file", "dotenv first name", "dotenv", "first name", "environment", "command line"]


@pytest.mark.parametrize("present", range(1, 1 << len(LAYERS)))
def test_the_latest_layer_wins(present: int) -> None:
    """Every combination of the layers that can set one key; a later one in LAYERS should win.

    One exception: variables are merged by name first, so the prefixed name of the .env file is before
    the environment's first name.
    """
    on = [layer for index, layer in enumerate(LAYERS) if present >> index & 1]
    dotenv, environ, overrides = [], {}, []
    expected: dict[str, float] = {}
    for number, layer in enumerate(LAYERS, 1):
        if layer not in on:
            continue
        expected[layer] = float(number)
        match layer:
            case "file":
                Path("config.toml").write_text(f"[streams]\nlarge_trade_threshold_usd = {number}\n")
            case "dotenv first name":
                dotenv.append(f"LARGE_TRADE_THRESHOLD_USD={number}")
            case "dotenv":
                dotenv.append(f"MARKETD_STREAMS__LARGE_TRADE_THRESHOLD_USD={number}")
            case "first name":
                environ["LARGE_TRADE_THRESHOLD_USD"] = str(number)
            case "environment":
                environ["MARKETD_STREAMS__LARGE_TRADE_THRESHOLD_USD"] = str(number)
            case "command line":
                overrides.append(Override("--threshold", "streams.large_trade_threshold_usd", str(number)))
    Path(".env").write_text("\n".join(dotenv))
    order = ["file", "dotenv first name", "first name", "dotenv", "environment", "command line"]
    winner = max(on, key=order.index)
    config = load(None, environ, overrides, defaults=DEFAULTS)
    assert config.streams.large_trade_threshold_usd == expected[winner]


@pytest.mark.parametrize(
    ("environ", "path", "value"),
    [
        ({"BINANCE_BASE_URL": "http://127.0.0.1:9/"}, "exchanges.binance.rest_url", "http://127.0.0.1:9"),
        ({"SUPPORTED_SYMBOLS": "A, B"}, "exchanges.binance.symbols", ("A", "B")),
        ({"SUPPORTED_SYMBOLS": '["A","B"]'}, "exchanges.binance.symbols", ("A", "B")),
        ({"SUPPORTED_INTERVALS": '["1m","1M"]'}, "streams.intervals", ("1m", "1M")),
        ({"LOG_LEVEL": "warning"}, "log.level", "WARNING"),
        ({"LARGE_TRADE_THRESHOLD_USD": "5e4"}, "streams.large_trade_threshold_usd", 50_000.0),
        ({"WS_RECONNECT_DELAY": "5"}, "supervision.reconnect_delay", 5.0),
        ({"WS_MAX_RECONNECT_ATTEMPTS": "10"}, "supervision.max_reconnect_attempts", 10),
        ({"CORS_ORIGINS": "*"}, "server.cors_origins", "*"),
        ({"CORS_ORIGINS": '["*"]'}, "server.cors_origins", "*"),
        ({"CORS_ORIGINS": ""}, "server.cors_origins", []),
        (
            {"CORS_ORIGINS": "https://A.example,http://b:3000"},
            "server.cors_origins",
            ["https://a.example", "http://b:3000"],
        ),
        ({"MARKETD_SERVER__PORT": "0"}, "server.port", 0),
        ({"MARKETD_SERVER__HOST": "::1"}, "server.host", "::1"),
        ({"MARKETD_LOG__FORMAT": "JSON"}, "log.format", "json"),
        ({"MARKETD_EXCHANGES__BYBIT__ENABLED": "No"}, "exchanges.bybit.enabled", False),
        ({"MARKETD_EXCHANGES__BYBIT__ON_DEMAND": "0"}, "exchanges.bybit.on_demand", False),
        ({"MARKETD_EXCHANGES__BYBIT__ENABLED": "yes"}, "exchanges.bybit.enabled", True),
        (
            {"MARKETD_EXCHANGES__BINANCE__SYMBOLS": "BTCUSDT,ETHUSDT"},
            "exchanges.binance.symbols",
            ("BTCUSDT", "ETHUSDT"),
        ),
        ({"SUPPORTED_SYMBOLS": "A", "MARKETD_EXCHANGES__BINANCE__SYMBOLS": "B"}, "exchanges.binance.symbols", ("B",)),
        ({"LOG_LEVEL": "trace", "MARKETD_LOG__LEVEL": "DEBUG"}, "log.level", "DEBUG"),
        ({"PATH": "/bin", "marketd_server__prot": "1", "SUPPORTED": "x"}, "server.port", 8000),
    ],
)
def test_variables(environ: dict[str, str], path: str, value: object) -> None:
    found: Any = load(None, environ, defaults=DEFAULTS)
    for name in path.split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    assert found == value
    assert type(found) is type(value)


PORT = ("PORT", "5000")
HOST = ("MARKETD_SERVER__HOST", "10.0.0.1")
OUR_PORT = ("MARKETD_SERVER__PORT", "6000")


@pytest.mark.parametrize(
    ("environ", "overrides", "address"),
    [
        ([], [], ("192.0.2.1", 1)),
        ([PORT], [], ("0.0.0.0", 5000)),
        ([PORT, HOST], [], ("10.0.0.1", 5000)),
        ([PORT, OUR_PORT], [], ("192.0.2.1", 6000)),
        ([PORT], [Override("--port", "server.port", "7000")], ("192.0.2.1", 7000)),
        ([PORT], [Override("--host", "server.host", "::1")], ("::1", 5000)),
        ([PORT, HOST], [Override("--host", "server.host", "::1")], ("::1", 5000)),
    ],
)
def test_a_platforms_port_listens_everywhere(
    environ: list[tuple[str, str]], overrides: list[Override], address: tuple[str, int]
) -> None:
    Path("config.toml").write_text('[server]\nhost = "192.0.2.1"\nport = 1\n')
    server = load(None, dict(environ), overrides, defaults=DEFAULTS).server
    assert (server.host, server.port) == address


def test_first_names_of_an_exchange_that_is_not_there_are_not_ours() -> None:
    only = {"bybit": DEFAULTS["bybit"]}
    assert load(None, {"BINANCE_BASE_URL": "junk"}, defaults=only) == Config(exchanges=only)


def test_dotenv_is_beside_the_file_and_plain(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "my.toml").write_text("")
    (there / ".env").write_text('# c\nexport PORT=4000\nLOG_LEVEL="debug"\nOTHER=$PORT\nBARE\nMARKETD_BARE\n')
    config = load(there / "my.toml", NOWHERE, defaults=DEFAULTS)
    assert (config.server.port, config.log.level) == (4000, "DEBUG")
    (there / ".env").write_text("MARKETD_SERVER__HOST=${HOME}")
    assert "${HOME}" in message(lambda: load(there / "my.toml", {"HOME": "h"}, defaults=DEFAULTS))


def test_a_virtual_environment_called_dotenv_is_no_variables() -> None:
    Path(".env").mkdir()
    assert load(None, NOWHERE, defaults=DEFAULTS) == Config(exchanges=DEFAULTS)


def test_a_byte_order_mark_and_dos_lines_are_fine() -> None:
    Path("config.toml").write_bytes(b"\xef\xbb\xbf[server]\r\nport = 5\r\n")
    assert load(None, NOWHERE, defaults=DEFAULTS).server.port == 5


# --- mistakes, in the file

INTERVALS = (
    "streams.intervals: expected a list of different intervals among"
    " 1m 3m 5m 15m 30m 1h 2h 4h 6h 8h 12h 1d 3d 1w 1M, got"
)
THRESHOLD = "streams.large_trade_threshold_usd: expected a number of at least 0"
LEVELS = "expected one of DEBUG, INFO, WARNING, ERROR"
REST_URL = "exchanges.binance.rest_url: expected a URL with a host, http:// or https://"
WS_URL = "exchanges.binance.ws_url: expected a URL with a host, ws:// or wss://"
ORIGINS = 'server.cors_origins: expected "*" or a list of origins (no path)'
SECONDS = "expected a number of seconds above 0"
SYMBOLS = "expected a list of different symbols"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("port = 1", "port: unknown section"),
        ("[sever]", 'sever: unknown section (did you mean "server"?)'),
        ("[server]\nprot = 1", 'server.prot: unknown key (did you mean "port"?)'),
        ('[server]\n"a\\nb" = 1', "server.a\\nb: unknown key"),
        ("server = 3", "server: expected a table, got 3"),
        ("[[server]]", "server: expected a table, got a list"),
        ("[exchanges.binanse]", 'exchanges.binanse: unknown exchange (did you mean "binance"?)'),
        ("[exchanges]\nbinance = true", "exchanges.binance: expected a table, got true"),
        ('[exchanges.binance]\nsymbol = ["A"]', 'exchanges.binance.symbol: unknown key (did you mean "symbols"?)'),
        ('[server]\nport = "abc"', 'server.port: expected an integer from 0 to 65535, got "abc"'),
        ("[server]\nport = true", "server.port: expected an integer from 0 to 65535, got true"),
        ("[server]\nport = 1.0", "server.port: expected an integer from 0 to 65535, got 1.0"),
        ("[server]\nport = 65536", "server.port: expected an integer from 0 to 65535, got 65536"),
        ("[server]\nport = -1", "server.port: expected an integer from 0 to 65535, got -1"),
        ("[server]\nport = 2026-01-01", "server.port: expected an integer from 0 to 65535, got a date"),
        (f"[server]\nport = 0x{'f' * 5000}", "server.port: expected an integer from 0 to 65535, got a huge integer"),
        ("[server]\nport = {}", "server.port: expected an integer from 0 to 65535, got a table"),
        ('[server]\nhost = ""', 'server.host: expected a host name or an IP address, got ""'),
        ('[server]\nhost = "a b"', 'server.host: expected a host name or an IP address, got "a b"'),
        ('[server]\nhost = "http://a"', 'server.host: expected a host name or an IP address, got "http://a"'),
        ('[server]\nhost = "127.0.0.1:80"', 'server.host: expected a host name or an IP address, got "127.0.0.1:80"'),
        ("[server]\nhost = 1", "server.host: expected a host name or an IP address, got 1"),
        ('[server]\ncors_origins = "a"', ORIGINS + ', got "a"'),
        ('[server]\ncors_origins = ["https://a/b"]', ORIGINS + ', got ["https://a/b"]'),
        ("[server]\ncors_origins = [1]", ORIGINS + ", got a list"),
        ('[server]\ncertfile = ""', 'server.certfile: expected the path of a file, got ""'),
        ('[server]\ncertfile = "c"', "server.certfile: certfile and keyfile go together, give both"),
        (
            "[archive]\nohlc_days = 738001",
            "archive.ohlc_days: expected a number of days from 0 to 36500, got 738001",
        ),
        ("[record]\npart_mb = 0", "record.part_mb: expected an integer from 1 to 100000, got 0"),
        ("[record]\npath = true", "record.path: expected the path of a folder, got true"),
        ('[server]\nkeyfile = "k"', "server.keyfile: certfile and keyfile go together, give both"),
        ('[log]\nlevel = "LOUD"', f'log.level: {LEVELS}, got "LOUD"'),
        ("[log]\nlevel = 10", "log.level: expected one of DEBUG, INFO, WARNING, ERROR, got 10"),
        ('[log]\nformat = "xml"', 'log.format: expected one of auto, console, json, got "xml"'),
        ("[streams]\nintervals = []", f"{INTERVALS} []"),
        ('[streams]\nintervals = ["7m"]', f'{INTERVALS} ["7m"]'),
        ('[streams]\nintervals = ["1m", "1m"]', f'{INTERVALS} ["1m", "1m"]'),
        ('[streams]\nintervals = "1m"', f'{INTERVALS} "1m"'),
        ("[streams]\nlarge_trade_threshold_usd = -1", THRESHOLD + ", got -1"),
        ("[streams]\nlarge_trade_threshold_usd = nan", THRESHOLD + ", got nan"),
        (f"[streams]\nlarge_trade_threshold_usd = 1{'0' * 400}", THRESHOLD + ", got a huge integer"),
        ("[supervision]\nreconnect_delay = 0", f"supervision.reconnect_delay: {SECONDS}, got 0"),
        ("[supervision]\nreconnect_delay = inf", f"supervision.reconnect_delay: {SECONDS}, got inf"),
        ("[supervision]\nstable_after = false", f"supervision.stable_after: {SECONDS}, got false"),
        ("[supervision]\nmax_reconnect_delay = -0.5", f"supervision.max_reconnect_delay: {SECONDS}, got -0.5"),
        (
            "[supervision]\nmax_reconnect_attempts = -1",
            "supervision.max_reconnect_attempts: expected an integer of at least 0, got -1",
        ),
        (
            "[supervision]\nmax_reconnect_delay = 0.5",
            "supervision.max_reconnect_delay: max_reconnect_delay (0.5) is less than reconnect_delay (1.0)",
        ),
        (
            "[supervision]\nreconnect_delay = 61",
            "supervision.reconnect_delay: max_reconnect_delay (60.0) is less than reconnect_delay (61.0)",
        ),
        ("[exchanges.binance]\nenabled = 1", "exchanges.binance.enabled: expected true or false, got 1"),
        ('[exchanges.binance]\nsymbols = [""]', f"exchanges.binance.symbols: {SYMBOLS}" + ', got [""]'),
        ('[exchanges.binance]\nsymbols = ["A B"]', f"exchanges.binance.symbols: {SYMBOLS}" + ', got ["A B"]'),
        ('[exchanges.binance]\nsymbols = ["A", "A"]', f"exchanges.binance.symbols: {SYMBOLS}" + ', got ["A", "A"]'),
        ('[exchanges.binance]\nsymbols = ["A", 1]', f"exchanges.binance.symbols: {SYMBOLS}" + ", got a list"),
        ('[exchanges.binance]\nsymbols = "A"', f"exchanges.binance.symbols: {SYMBOLS}" + ', got "A"'),
        *[
            (f"[exchanges.binance]\nrest_url = {url}", REST_URL)
            for url in (
                '"ftp://a"',
                '"a.example"',
                '"https://"',
                '"https:///x"',
                '"https://a:b"',
                '"https://a:99999"',
                '"https://[::"',
                '"https://a b"',
                '"https://a#f"',
                '"wss://a"',
                '""',
                "1",
                '"https://u:hunter2@:1"',
            )
        ],
        ('[exchanges.binance]\nws_url = "https://a"', WS_URL),
    ],
)
def test_a_mistake_in_the_file(text: str, expected: str) -> None:
    assert message(lambda: from_file(text)) == f"config.toml: {expected}"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[server]\nport = ", r"config\.toml: .*\(at line 2, column 8\)"),
        (b"[server]\nport 1", r"config\.toml: .*\(at line 2, column 6\)"),
        (b"[server]\nport = 1\nport = 2", r"config\.toml: .*\(at line 3, column 9\)"),
        (b"[server", r"config\.toml: .*\(at line 1, column 8\)"),
        (b"\xff\xfe", r"config\.toml: not UTF-8 \(at byte 0\)"),
        (b"a = " + b"[" * 5000, r"config\.toml: .*"),
        (b"a = " + b"1" * 5000, r"config\.toml: .*"),
        (b"a\x00b", r"config\.toml: .*line 1, column 2\)"),
    ],
)
def test_a_file_that_is_not_toml(content: bytes, expected: str) -> None:
    Path("config.toml").write_bytes(content)
    assert re.fullmatch(expected, message(lambda: load(None, NOWHERE, defaults=DEFAULTS)))


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(name: str) -> str:
        return message(lambda: load(Path(name), NOWHERE, defaults=DEFAULTS))

    Path("folder").mkdir()
    assert told("nosuch.toml") == "nosuch.toml: no such file"
    assert told("no\nsuch") == "no\\nsuch: no such file"
    assert told("folder") == "folder: cannot be read: Is a directory"
    assert told("a\0b").startswith("a\\x00b: cannot be read: ")
    assert told(".").startswith(".: cannot be read")

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    Path("config.toml").touch()
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert told("config.toml") == "config.toml: cannot be read: Permission denied"
    assert message(lambda: load(None, NOWHERE, defaults=DEFAULTS)).endswith("Permission denied")


# --- mistakes elsewhere


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"MARKETD_SERVER__PORT": "abc"}, 'MARKETD_SERVER__PORT: expected an integer from 0 to 65535, got "abc"'),
        ({"PORT": ""}, 'PORT: expected an integer from 0 to 65535, got ""'),
        (
            {"MARKETD_SERVER__PROT": "1"},
            'MARKETD_SERVER__PROT: unknown variable (did you mean "MARKETD_SERVER__PORT"?)',
        ),
        ({"MARKETD_QQ": "1"}, "MARKETD_QQ: unknown variable"),
        (
            {"MARKETD_EXCHANGES__OKX__ENABLED": "1"},
            'MARKETD_EXCHANGES__OKX__ENABLED: unknown variable (did you mean "MARKETD_EXCHANGES__BYBIT__ENABLED"?)',
        ),
        (
            {"MARKETD_EXCHANGES__BYBIT__ENABLED": "on"},
            'MARKETD_EXCHANGES__BYBIT__ENABLED: expected true or false, got "on"',
        ),
        ({"SUPPORTED_SYMBOLS": "A,"}, f'SUPPORTED_SYMBOLS: {SYMBOLS}, got ["A", ""]'),
        ({"SUPPORTED_SYMBOLS": '["A"'}, f'SUPPORTED_SYMBOLS: {SYMBOLS}, got "[\\"A\\""'),
        ({"SUPPORTED_SYMBOLS": "[" * 100_000}, f'SUPPORTED_SYMBOLS: {SYMBOLS}, got "' + "[" * 80 + '"...'),
        ({"BINANCE_BASE_URL": "binance.example"}, "BINANCE_BASE_URL: expected a URL with a host, http:// or https://"),
        ({"WS_RECONNECT_DELAY": "nan"}, f"WS_RECONNECT_DELAY: {SECONDS}, got nan"),
        (
            {"WS_RECONNECT_DELAY": "99"},
            "WS_RECONNECT_DELAY: max_reconnect_delay (60.0) is less than reconnect_delay (99.0)",
        ),
        ({"LOG_LEVEL": "\udcff\x1b[2J"}, f'LOG_LEVEL: {LEVELS}, got "\\udcff\\u001b[2J"'),
    ],
)
def test_a_mistake_in_the_environment(environ: dict[str, str], expected: str) -> None:
    assert message(lambda: load(None, environ, defaults=DEFAULTS)) == f"environment: {expected}"


def test_a_mistake_in_the_dotenv_file_or_an_option_names_it() -> None:
    Path(".env").write_text("PORT=x\n")
    assert message(from_environment) == '.env: PORT: expected an integer from 0 to 65535, got "x"'
    assert from_environment(PORT="1").server.port == 1
    Path(".env").write_text("MARKETD_X=1\n")
    assert message(from_environment) == ".env: MARKETD_X: unknown variable"
    Path(".env").write_bytes(b"\xff")
    assert message(from_environment) == ".env: not UTF-8 (at byte 0)"
    Path(".env").unlink()

    def option(*override: str) -> str:
        return message(lambda: load(None, NOWHERE, [Override(*override)], defaults=DEFAULTS))

    assert option("--port", "server.port", "x").startswith("command line: --port: expected an integer")
    assert option("--set", "server.prot", "1") == 'command line: --set: unknown key "server.prot"'


def test_a_password_in_a_url_is_never_told() -> None:
    text = message(lambda: from_environment(BINANCE_BASE_URL="ftp://user:hunter2@host"))
    assert "hunter2" not in text


# --- dump


def test_dump_loads_again() -> None:
    config = load(
        None,
        {
            "CORS_ORIGINS": "*",
            "MARKETD_SERVER__CERTFILE": 'a "b" \\ ü 😀',
            "MARKETD_SERVER__KEYFILE": "k",
            "MARKETD_SUPERVISION__RECONNECT_DELAY": "1e-7",
            "MARKETD_SUPERVISION__MAX_RECONNECT_DELAY": "1e20",
            "MARKETD_EXCHANGES__BYBIT__ENABLED": "no",
        },
        defaults=DEFAULTS,
    )
    assert from_file(dump(config)) == config


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:hunter2@host:1/p", "https://***@host:1/p"),
        ("https://hunter2@host", "https://***@host"),
        ("https://host/p?api_key=hunter2&x=1", "https://host/p?***"),
        ("https://host/p/", "https://host/p"),
    ],
)
def test_dump_masks_secrets(url: str, shown: str) -> None:
    config = from_environment(BINANCE_BASE_URL=url)
    text = dump(config)
    assert "hunter2" not in text
    assert tomllib.loads(text)["exchanges"]["binance"]["rest_url"] == shown
    assert from_file(text).exchanges["bybit"] == DEFAULTS["bybit"]


# --- any input at all

NAMES = st.sampled_from([*(name for key in _KINDS for name in key), *_EXCHANGE_KINDS, "exchanges", "binance", "x"])
SCALARS = st.sampled_from(
    ["1", "-1", "0.5", "nan", "inf", "true", '"1m"', '"*"', '"https://a@b"', "[]", '["A", 1]', "{}", "2020-01-01", "'"]
)
LINES = st.one_of(
    st.builds("[{}]".format, NAMES),
    st.builds("[{}.{}]".format, NAMES, NAMES),
    st.builds("{} = {}".format, NAMES, SCALARS),
    st.text(max_size=20),
)
VARIABLES = st.one_of(
    st.sampled_from([*("MARKETD_" + "__".join(key).upper() for key in _KINDS), "PORT", "CORS_ORIGINS", "LOG_LEVEL"]),
    st.sampled_from(["SUPPORTED_SYMBOLS", "SUPPORTED_INTERVALS", "BINANCE_BASE_URL", "WS_RECONNECT_DELAY"]),
    st.text(max_size=10).map("MARKETD_{}".format),
)
TEXTS = st.one_of(st.text(st.characters(codec=None), max_size=20), SCALARS, st.from_regex(r"https?://[a-z@:?\[\]%/]*"))
ANY_INPUT = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def settled(call: Callable[[], Config]) -> None:
    """A printable ConfigError, or a config that says the same when it is written and read again."""
    told = ""
    try:
        text = dump(call())
    except ConfigError as error:
        told = str(error)
    else:
        Path(".env").unlink(missing_ok=True)
        assert dump(from_file(text)) == text
    assert told.isprintable()


@ANY_INPUT
@given(st.lists(LINES, max_size=8).map("\n".join))
def test_any_file_gives_a_config_or_an_error(text: str) -> None:
    Path("config.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    settled(lambda: load(None, NOWHERE, defaults=DEFAULTS))


@ANY_INPUT
@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_give_a_config_or_an_error(content: bytes, dotenv: bool) -> None:
    Path("config.toml").write_bytes(b"" if dotenv else content)
    Path(".env").write_bytes(content if dotenv else b"")
    settled(lambda: load(None, NOWHERE, defaults=DEFAULTS))


@ANY_INPUT
@given(st.dictionaries(VARIABLES, TEXTS, max_size=4))
def test_any_environment_gives_a_config_or_an_error(environ: dict[str, str]) -> None:
    Path("config.toml").unlink(missing_ok=True)
    settled(lambda: load(None, environ, defaults=DEFAULTS))


def test_the_real_environment_is_a_mapping_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKETD_SERVER__PORT", "1234")
    assert load(None, os.environ, defaults=DEFAULTS).server.port == 1234


def test_another_market_has_an_archive_of_its_own(tmp_path: Path) -> None:
    """What a simulator or a test network tells must not get into the history of the exchange itself."""

    def path(*overrides: Override) -> str:
        return load(None, NOWHERE, overrides, defaults=DEFAULTS).archive.path

    name = next(iter(DEFAULTS))
    one = Override("--a", f"exchanges.{name}.rest_url", "http://127.0.0.1:9001")
    two = Override("--a", f"exchanges.{name}.rest_url", "http://127.0.0.1:9002")
    own = Override("--b", "archive.path", str(tmp_path / "mine.db"))
    assert path() == "marketd.db"
    assert path(one) == path(one)
    assert len({path(), path(one), path(two)}) == 3
    assert path(one, own) == str(tmp_path / "mine.db")
