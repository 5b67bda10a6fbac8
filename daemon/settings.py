"""What the operator decides, frozen: every section, its keys and their defaults.

Where values come from is `daemon/config.py`'s matter. No exchange is named here.
"""

import ipaddress
from typing import Annotated, Literal

from msgspec import Meta, Struct

from actors.archive.series import KINDS
from actors.engine.words import Role
from daemon.values import (
    AddressAndPort,
    Days,
    EngineUrl,
    FilePath,
    FolderPath,
    Host,
    Hosts,
    HttpUrl,
    IntervalList,
    Intervals,
    IpAddress,
    KafkaTopic,
    KafkaUrl,
    KindList,
    NodeName,
    Origins,
    OwnUrl,
    Port,
    Positive,
    ProxyUrl,
    RootPath,
    ScopeList,
    Seconds,
    SocketPath,
    SymbolList,
    Token,
    TopicPatterns,
    WebSocketUrl,
    integer,
)
from web.access.limits import Count, Limits, Networks, Rate


class Server(Struct, frozen=True, forbid_unknown_fields=True):
    """Where and for whom to listen. TLS: certfile and keyfile, both or neither.

    `port`: 0: the system chooses; -1: only on `unix_socket` ("": there is none). `allowed_hosts`: what a request's Host
    may be; empty: every host. Loading fills in this machine's names where none is given and the bind is loopback.
    `trusted_proxies`: whose X-Forwarded-* are believed. `root_path`: "" or "/path" without a slash at the end.
    """

    host: Host = "127.0.0.1"
    port: Port = 8000
    unix_socket: SocketPath = ""
    allowed_hosts: Hosts = ()
    trusted_proxies: Networks = ()
    root_path: RootPath = ""
    cors_origins: Origins = []
    dashboard: bool = True
    certfile: FilePath | None = None
    keyfile: FilePath | None = None


class Auth(Struct, frozen=True, forbid_unknown_fields=True):
    """`keys_file`: absent: there are no keys; loading makes it a path from where the program runs.

    `anonymous`: scopes without a key. Loading leaves `metrics` out where none is given and the bind is not loopback.
    """

    keys_file: FilePath = "keys.toml"
    anonymous: ScopeList = ("read", "export", "metrics")
    token_in_query: bool = True


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    """`auto` is console on a terminal and json otherwise."""

    level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], Meta(description="one of DEBUG, INFO, WARNING, ERROR")
    ] = "INFO"
    format: Annotated[Literal["auto", "console", "json"], Meta(description="one of auto, console, json")] = "auto"


class Metrics(Struct, frozen=True, forbid_unknown_fields=True):
    """`listen`: "host:port" of a listener of its own, without keys; "": `/metrics` of the main one.

    `symbols`: the series that are one per symbol, too.
    """

    enabled: bool = True
    listen: AddressAndPort = ""
    symbols: bool = False


class Streams(Struct, frozen=True, forbid_unknown_fields=True):
    """`intervals`: at least one, of INTERVALS. `history`: bars held of each. `large_trade_threshold_usd`: quote units.

    `resume_frames`, `resume_seconds`: how much of a topic is remembered for clients that come back; `resume_bytes`: of
    all topics together. `topics_per_client`, `commands_per_second`: what one `/ws` connection may ask for.
    """

    intervals: IntervalList = ("1m", "5m", "15m", "1h", "4h", "1d")
    history: Annotated[int, integer(100, 100_000)] = 1_500
    large_trade_threshold_usd: Rate = 100_000.0
    resume_frames: Annotated[int, integer(1, 1_000_000)] = 5_000
    resume_seconds: Seconds = 300.0
    resume_bytes: Count = 256 << 20
    topics_per_client: Annotated[int, integer(1, 10_000)] = 1_000
    commands_per_second: Positive = 20.0


class OiVol(Struct, frozen=True, forbid_unknown_fields=True):
    """What /ws/oi-vol watches; no `timeframes`: nothing. `window`: bars. `symbols` empty: every configured one."""

    timeframes: Intervals = ("5m", "15m", "1h")
    window: Annotated[int, integer(21, 1500)] = 96
    z_threshold: Positive = 3.0
    symbols: SymbolList = ()


class Engine(Struct, frozen=True, forbid_unknown_fields=True):
    """The server between several nodes; no `url`: there is one node, and no such server.

    `name`: of this node, "": its host's name and port. `lease_seconds`: how long a dead leader is waited for. `lanes`:
    of each exchange, the same on every node. `copies`: nodes that follow each lane. `budget_share`: of an exchange's
    limits per address, for this node. `address`: the base URL where other nodes reach its REST; "": where it listens.
    `token`: the API key that an edge shows to those that collect. `flush_ms`: the longest an event waits for others.
    `prefix`: of every key.
    """

    url: EngineUrl = ""
    role: Annotated[Role, Meta(description="one of both, ingest, edge")] = "both"
    name: NodeName = ""
    address: OwnUrl = ""
    token: Token = ""
    lease_seconds: Annotated[float, Meta(ge=0.5, le=60, description="a number from 0.5 to 60")] = 3.0
    lanes: Annotated[int, integer(1, 64)] = 8
    copies: Annotated[int, integer(1, 16)] = 2
    budget_share: Annotated[float, Meta(gt=0, le=1, description="a number above 0, at most 1")] = 1.0
    flush_ms: Annotated[float, Meta(ge=0, le=1000, description="a number from 0 to 1000")] = 5.0
    prefix: NodeName = "marketd"


class Facade(Struct, frozen=True, forbid_unknown_fields=True):
    """Of /as/{exchange}. `passthrough`: ask the exchange for what is not held here. `relay`: streams that no feed has.

    `rows_mb`: megabytes of closed rows. `share`: of each of the exchange's allowances, for all clients of it together.
    """

    enabled: bool = True
    passthrough: bool = True
    relay: bool = True
    rows_mb: Annotated[int, integer(1, 100_000)] = 64
    share: Annotated[float, Meta(gt=0, le=0.95, description="a number above 0, at most 0.95")] = 0.5


class Export(Struct, frozen=True, forbid_unknown_fields=True):
    """Files that `/export` keeps for readers who come back for parts: how many, and megabytes of all together."""

    spool_mb: Annotated[int, integer(1, 1_000_000)] = 1024
    spool_files: Annotated[int, integer(1, 1000)] = 16


class Archive(Struct, frozen=True, forbid_unknown_fields=True):
    """`path`: of the file, which its folder must be there for. `*_days`: how long a kind is kept, 0 = for ever."""

    enabled: bool = True
    path: FilePath = "marketd.db"
    keep: KindList = KINDS
    ohlc_days: Days = 0.0
    open_interest_days: Days = 0.0
    open_interest_history_days: Days = 0.0
    funding_days: Days = 0.0
    funding_history_days: Days = 0.0
    liquidations_days: Days = 0.0
    large_trades_days: Days = 0.0


class Supervision(Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds; `max_reconnect_attempts` is a count, 0 = never give up."""

    reconnect_delay: Seconds = 1.0
    max_reconnect_delay: Seconds = 60.0
    max_reconnect_attempts: Count = 0
    stable_after: Seconds = 30.0


class Record(Struct, frozen=True, forbid_unknown_fields=True):
    """`path`: the folder of the recordings, None = none are made. `part_mb`: megabytes after which a file is full."""

    path: FolderPath | None = None
    part_mb: Annotated[int, integer(1, 100_000)] = 256


class UpstreamSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The way to every exchange that has none of its own. `proxy`: a URL. `source_address`: where calls leave from.

    `ca_file`: certificates that are believed beside the system's.
    """

    proxy: ProxyUrl | None = None
    source_address: IpAddress | None = None
    ca_file: FilePath | None = None


class ExchangeSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`symbols`: collected from the start, as the exchange spells them. URLs: without a trailing slash.

    `liquidations`: whether they are told, where the exchange has any.

    `proxy`, `source_address`, `ca_file`: as in UpstreamSettings; loading fills in what is given there. "" (proxy,
    source_address): none, whatever is given there.
    """

    enabled: bool = True
    symbols: SymbolList
    on_demand: bool = True
    liquidations: bool = True
    rest_url: HttpUrl
    ws_url: WebSocketUrl
    proxy: ProxyUrl | None = None
    source_address: IpAddress | None = None
    ca_file: FilePath | None = None


class Sink(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another system that what feeds say is written to; there may be several.

    `name`: "": its kind. `topics`: patterns, see actors/sinks/patterns.py. `kafka_topic`: what rows are written to.
    `min_value_usd`: events of a smaller value are left out, where they have one.
    """

    kind: Annotated[Literal["kafka"], Meta(description='"kafka"')]
    url: KafkaUrl
    topics: TopicPatterns
    name: NodeName = ""
    kafka_topic: KafkaTopic = "marketd-{kind}"
    min_value_usd: Rate = 0.0


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole. `exchanges` has every known exchange, the ones that are switched off too."""

    server: Server = Server()
    auth: Auth = Auth()
    limits: Limits = Limits()
    log: Log = Log()
    metrics: Metrics = Metrics()
    streams: Streams = Streams()
    oi_vol: OiVol = OiVol()
    engine: Engine = Engine()
    facade: Facade = Facade()
    archive: Archive = Archive()
    export: Export = Export()
    supervision: Supervision = Supervision()
    record: Record = Record()
    upstream: UpstreamSettings = UpstreamSettings()
    sink: tuple[Sink, ...] = ()
    exchanges: dict[str, ExchangeSettings]


def is_loopback(server: Server) -> bool:
    """Whether only this machine's own programs get in. A Unix socket is a proxy's way, so its clients are anywhere."""
    if server.port == -1:
        return False
    try:
        return ipaddress.ip_address(server.host.partition("%")[0]).is_loopback
    except ValueError:
        return server.host.lower() == "localhost"
