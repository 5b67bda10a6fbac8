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

from daemon.config import Override, load
from daemon.dump import dump
from daemon.kinds import EXCHANGE_KINDS, KINDS, ConfigError
from daemon.settings import Config, ExchangeSettings, Server

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
    assert load(None, NOWHERE, defaults=DEFAULTS) == effective(DEFAULTS)


def effective(exchanges: dict[str, ExchangeSettings]) -> Config:
    """The defaults with what follows from them: what this machine is called."""
    return Config(server=Server(allowed_hosts=("localhost", "127.0.0.1", "[::1]")), exchanges=exchanges)


def test_the_shipped_file_says_the_defaults() -> None:
    """Every key is in it, with its default; a commented key is one whose default is absence."""
    shipped = Path(__file__).parents[2] / "config.toml"
    tree = tomllib.loads(shipped.read_text(encoding="utf-8"))
    exchanges = msgspec.convert(tree["exchanges"], dict[str, ExchangeSettings])
    Path("config.toml").write_bytes(shipped.read_bytes())
    assert load(None, NOWHERE, defaults=exchanges) == effective(exchanges)
    written = {
        (section, key)
        for section in Config.__struct_fields__
        if section not in ("sink", "exchanges")
        for key in tree[section]
    }
    way = {"proxy", "source_address", "ca_file"}
    absent = {("server", "certfile"), ("server", "keyfile"), ("auth", "anonymous"), ("record", "path")}
    assert written == set(KINDS) - absent - {("upstream", key) for key in way}
    assert all(set(table) == set(EXCHANGE_KINDS) - way for table in tree["exchanges"].values())
    assert all(re.search(rf"^# {key} = ", shipped.read_text(), re.MULTILINE) for _, key in absent if key != "path")


def test_every_key_says_what_it_may_be() -> None:
    assert all(kind.expected for kind in [*KINDS.values(), *EXCHANGE_KINDS.values()])


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


def test_what_follows_from_where_it_listens() -> None:
    """Rebinding and open metrics are a matter of the address: what is not given is what is safe there."""

    def follows(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        config = from_file(text)
        return config.server.allowed_hosts, config.auth.anonymous

    local = ("localhost", "127.0.0.1", "[::1]")
    everything, without_metrics = ("read", "export", "metrics"), ("read", "export")
    assert follows("") == (local, everything)
    assert follows('[server]\nhost = "::1"') == (local, everything)
    assert follows('[server]\nhost = "127.0.0.2"') == ((*local, "127.0.0.2"), everything)
    assert follows('[server]\nhost = "LocalHost"') == (local, everything)
    assert follows('[server]\nhost = "0.0.0.0"') == ((), without_metrics)
    assert follows('[server]\nhost = "::"') == ((), without_metrics)
    assert follows('[server]\nhost = "example.org"') == ((), without_metrics)
    assert follows('[server]\nport = -1\nunix_socket = "s"') == ((), without_metrics)
    assert follows('[server]\nhost = "::"\n[auth]\nanonymous = ["metrics"]') == ((), ("metrics",))
    assert follows('[server]\nallowed_hosts = ["A.example", "[::1]"]') == (("a.example", "[::1]"), everything)


def test_the_keys_are_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "my.toml").write_text("")
    assert load(None, NOWHERE, defaults=DEFAULTS).auth.keys_file == "keys.toml"
    assert load(Path("etc/my.toml"), NOWHERE, defaults=DEFAULTS).auth.keys_file == "etc/keys.toml"
    (tmp_path / "etc" / "my.toml").write_text('[auth]\nkeys_file = "/run/k"')
    assert load(Path("etc/my.toml"), NOWHERE, defaults=DEFAULTS).auth.keys_file == "/run/k"


def test_an_exchange_goes_the_common_way_unless_it_has_its_own() -> None:
    text = '[upstream]\nproxy = "http://p:1"\nsource_address = "192.0.2.1"\n[exchanges.binance]\n[exchanges.bybit]\n'
    config = from_file(text + 'proxy = ""\nsource_address = "::1"')
    ways = {name: (exchange.proxy, exchange.source_address) for name, exchange in config.exchanges.items()}
    assert ways == {"binance": ("http://p:1", "192.0.2.1"), "bybit": ("", "::1")}
    assert from_file(dump(config)) == config


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
    assert load(None, {"BINANCE_BASE_URL": "junk"}, defaults=only) == effective(only)


def test_dotenv_is_beside_the_file_and_plain(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "my.toml").write_text("")
    (there / ".env").write_text('# c\nexport PORT=4000\nLOG_LEVEL="debug"\nOTHER=$PORT\nBARE\nMARKETD_BARE__\n')
    config = load(there / "my.toml", NOWHERE, defaults=DEFAULTS)
    assert (config.server.port, config.log.level) == (4000, "DEBUG")
    (there / ".env").write_text("MARKETD_SERVER__HOST=${HOME}")
    assert "${HOME}" in message(lambda: load(there / "my.toml", {"HOME": "h"}, defaults=DEFAULTS))


def test_a_virtual_environment_called_dotenv_is_no_variables() -> None:
    Path(".env").mkdir()
    assert load(None, NOWHERE, defaults=DEFAULTS) == effective(DEFAULTS)


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
HOSTS = 'server.allowed_hosts: expected a list of host names and addresses without ports, IPv6 as "[::1]"'
NETWORKS = 'expected a list of addresses or networks such as "10.0.0.0/8"'
SCOPES = "expected a list of different scopes among read export metrics"
LISTEN = 'expected an address and a port such as "127.0.0.1:9464"'
PROXY = "a URL with a host and a port, http://, https://, socks5:// or socks5h://"
SYMBOLS = "expected a list of different symbols"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("port = 1", 'port: unknown section (did you mean "export"?)'),
        ("[sever]", 'sever: unknown section (did you mean "server"?)'),
        ("[server]\nprot = 1", 'server.prot: unknown key (did you mean "port"?)'),
        ('[server]\n"a\\nb" = 1', "server.a\\nb: unknown key"),
        ("server = 3", "server: expected a table, got 3"),
        ("[[server]]", "server: expected a table, got a list"),
        ("[exchanges.binanse]", 'exchanges.binanse: unknown exchange (did you mean "binance"?)'),
        ("[exchanges]\nbinance = true", "exchanges.binance: expected a table, got true"),
        ('[exchanges.binance]\nsymbol = ["A"]', 'exchanges.binance.symbol: unknown key (did you mean "symbols"?)'),
        ('[server]\nport = "abc"', 'server.port: expected an integer from -1 to 65535, got "abc"'),
        ("[server]\nport = true", "server.port: expected an integer from -1 to 65535, got true"),
        ("[server]\nport = 1.0", "server.port: expected an integer from -1 to 65535, got 1.0"),
        ("[server]\nport = 65536", "server.port: expected an integer from -1 to 65535, got 65536"),
        ("[server]\nport = -2", "server.port: expected an integer from -1 to 65535, got -2"),
        ("[server]\nport = 2026-01-01", "server.port: expected an integer from -1 to 65535, got a date"),
        (f"[server]\nport = 0x{'f' * 5000}", "server.port: expected an integer from -1 to 65535, got a huge integer"),
        ("[server]\nport = {}", "server.port: expected an integer from -1 to 65535, got a table"),
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
        ('[engine]\nrole = "edge"', "engine.role: a node of role edge needs engine.url, which is not given"),
        ("[record]\npart_mb = 0", "record.part_mb: expected an integer from 1 to 100000, got 0"),
        ("[record]\npath = true", "record.path: expected the path of a folder, got true"),
        (
            "[server]\nport = -1",
            "server.port: -1 is for a daemon that listens on server.unix_socket alone, which is not given",
        ),
        (
            f'[server]\nunix_socket = "{"s" * 108}"',
            f'server.unix_socket: expected the path of a socket, at most 107 bytes, got "{"s" * 80}"...',
        ),
        ('[server]\nallowed_hosts = ["a:80"]', f'{HOSTS}, got ["a:80"]'),
        ('[server]\nallowed_hosts = ["::1"]', f'{HOSTS}, got ["::1"]'),
        ('[server]\nallowed_hosts = ["[::g]"]', f'{HOSTS}, got ["[::g]"]'),
        ('[server]\ntrusted_proxies = ["proxy"]', f'server.trusted_proxies: {NETWORKS}, got ["proxy"]'),
        ('[server]\ntrusted_proxies = ["10.0.0.1/8"]', f'server.trusted_proxies: {NETWORKS}, got ["10.0.0.1/8"]'),
        ('[server]\nroot_path = "market"', 'server.root_path: expected a path such as "/market", got "market"'),
        ('[server]\nroot_path = "/a b"', 'server.root_path: expected a path such as "/market", got "/a b"'),
        ('[auth]\nanonymous = ["admin"]', f'auth.anonymous: {SCOPES}, got ["admin"]'),
        ('[auth]\nanonymous = ["read", "read"]', f'auth.anonymous: {SCOPES}, got ["read", "read"]'),
        ('[auth]\nkeys_file = ""', 'auth.keys_file: expected the path of a file, got ""'),
        ("[auth]\ntoken_in_query = 1", "auth.token_in_query: expected true or false, got 1"),
        ("[limits]\nexempt = [1]", f"limits.exempt: {NETWORKS}, got a list"),
        ("[limits]\nconnections = -1", "limits.connections: expected an integer of at least 0, got -1"),
        ("[limits]\nconnections = 1.5", "limits.connections: expected an integer of at least 0, got 1.5"),
        ("[limits]\nupstream_share = 1.1", "limits.upstream_share: expected a number from 0 to 1, got 1.1"),
        ("[limits]\nrequests_per_second = nan", "limits.requests_per_second: expected a number of at least 0, got nan"),
        ('[metrics]\nlisten = "9464"', f'metrics.listen: {LISTEN}, got "9464"'),
        ('[metrics]\nlisten = "a:99999"', f'metrics.listen: {LISTEN}, got "a:99999"'),
        ("[streams]\nhistory = 0", "streams.history: expected an integer from 100 to 100000, got 0"),
        *[
            (f'[upstream]\nproxy = "{url}"', f"upstream.proxy: expected {PROXY}")
            for url in (
                "host:1",
                "ftp://host:1",
                "http://u:hunter2@host",
                "socks5://host:0",
                "http://host:1/p",
                "socks5://",
            )
        ],
        ('[exchanges.binance]\nproxy = "x"', f"exchanges.binance.proxy: expected {PROXY}"),
        ('[upstream]\nsource_address = "a"', 'upstream.source_address: expected an IP address, got "a"'),
        ('[upstream]\nca_file = "nosuch.pem"', "upstream.ca_file: cannot be used: No such file or directory"),
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
        ({"MARKETD_SERVER__PORT": "abc"}, 'MARKETD_SERVER__PORT: expected an integer from -1 to 65535, got "abc"'),
        ({"PORT": ""}, 'PORT: expected an integer from -1 to 65535, got ""'),
        (
            {"MARKETD_SERVER__PROT": "1"},
            'MARKETD_SERVER__PROT: unknown variable (did you mean "MARKETD_SERVER__PORT"?)',
        ),
        ({"MARKETD_Q__Q": "1"}, "MARKETD_Q__Q: unknown variable"),
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
        ({"WS_RECONNECT_DELAY": "nan"}, f'WS_RECONNECT_DELAY: {SECONDS}, got "nan"'),
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
    assert message(from_environment) == '.env: PORT: expected an integer from -1 to 65535, got "x"'
    assert from_environment(PORT="1").server.port == 1
    Path(".env").write_text("MARKETD_X__Y=1\n")
    assert message(from_environment) == ".env: MARKETD_X__Y: unknown variable"
    Path(".env").write_bytes(b"\xff")
    assert message(from_environment) == ".env: not UTF-8 (at byte 0)"
    Path(".env").unlink()

    def option(*override: str) -> str:
        return message(lambda: load(None, NOWHERE, [Override(*override)], defaults=DEFAULTS))

    assert option("--port", "server.port", "x").startswith("command line: --port: expected an integer")
    assert option("--set", "server.prot", "1") == 'command line: --set: unknown key "server.prot"'


@pytest.mark.parametrize(
    "name",
    [
        "MARKETD_PORT",
        "MARKETD_PORT_8000_TCP",
        "MARKETD_PORT_8000_TCP_ADDR",
        "MARKETD_PORT_8000_TCP_PORT",
        "MARKETD_SERVICE_HOST",
        "MARKETD_SERVICE_PORT",
        "MARKETD_SERVICE_PORT_HTTP",
        "MARKETD_SERVER_PORT",
        "MARKETD_SERVER_SERVICE_HOST",
        "MARKETD_QQ",
        "MARKETD_HOME",
    ],
)
def test_variables_that_kubernetes_sets_are_none_of_ours(name: str) -> None:
    """It sets them in every pod beside a service that is called marketd."""
    told: list[str] = []
    text = "tcp://10.0.0.1:8000" if name.endswith(("PORT", "TCP")) else "10.0.0.1"
    assert load(None, {name: text}, defaults=DEFAULTS, warn=told.append) == effective(DEFAULTS)
    assert told == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MARKETD_SERVER_PORT", "MARKETD_SERVER__PORT"),
        ("MARKETD_SERVERPORT", "MARKETD_SERVER__PORT"),
        ("MARKETD_EXCHANGES_BYBIT_SYMBOLS", "MARKETD_EXCHANGES__BYBIT__SYMBOLS"),
        ("MARKETD_LOG_LEVL", "MARKETD_LOG__LEVEL"),
    ],
)
def test_a_variable_that_looks_misspelt_is_told(name: str, meant: str) -> None:
    told: list[str] = []
    Path(".env").write_text(f"{name}=1\n")
    assert load(None, NOWHERE, defaults=DEFAULTS, warn=told.append) == effective(DEFAULTS)
    assert told == [f'.env: {name}: not read (did you mean "{meant}"?)']


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


def test_dump_masks_proxies() -> None:
    text = dump(from_file('[upstream]\nproxy = "socks5h://user:hunter2@host:1080"'))
    assert "hunter2" not in text
    assert tomllib.loads(text)["exchanges"]["bybit"]["proxy"] == "socks5h://***@host:1080"


# --- any input at all

NAMES = st.sampled_from([*(name for key in KINDS for name in key), *EXCHANGE_KINDS, "exchanges", "binance", "x"])
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
    st.sampled_from([*("MARKETD_" + "__".join(key).upper() for key in KINDS), "PORT", "CORS_ORIGINS", "LOG_LEVEL"]),
    st.sampled_from(["SUPPORTED_SYMBOLS", "SUPPORTED_INTERVALS", "BINANCE_BASE_URL", "WS_RECONNECT_DELAY"]),
    st.text(max_size=10).map("MARKETD_{}".format),
)
TEXTS = st.one_of(st.text(st.characters(codec=None), max_size=20), SCALARS, st.from_regex(r"https?://[a-z@:?\[\]%/]*"))
ANY_INPUT = settings(
    max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def settled(call: Callable[[], Config]) -> None:
    """A printable ConfigError, or a config that says the same when it is written and read again."""
    told = ""
    try:
        text = dump(call())
    except ConfigError as error:
        told = str(error)
    else:
        Path(".env").unlink(missing_ok=True)
        text = text.replace('token = "***"', 'token = ""')  # what stands for a key is none
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
