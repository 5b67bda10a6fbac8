"""The types of settings: what msgspec checks by itself, and beside it what it cannot.

A description says what a value must be, for the one line that a mistake is told in. In `extra`, `keep` is what msgspec
cannot check (it returns the value to keep, or raises ValueError), and `secret` marks what may hold a password.
"""

import ipaddress
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from actors.archive.series import KINDS
from actors.events import INTERVALS
from actors.sinks import patterns

# --- what msgspec cannot check


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError(value)
    return value


def _host(value: str) -> str:
    if ":" in value:
        ipaddress.IPv6Address(value)
    if not re.fullmatch(r"[\w.:%-]+", value):
        raise ValueError(value)
    return value


def _hosts(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"[{_host(v[1:-1])}]" if v.startswith("[") and v.endswith("]") else _name(v) for v in values)


def _name(value: str) -> str:
    if ":" in value:  # a port, or an IPv6 address without the brackets that it has in a Host header
        raise ValueError(value)
    return _host(value).lower()


def _origins(value: list[str] | str) -> list[str] | str:
    if value in ("*", ["*"]):
        return "*"
    origins = [_printable(origin).lower() for origin in value]  # as browsers send them
    if isinstance(value, str) or not all(re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#@\\]+", o) for o in origins):
        raise ValueError(value)
    return origins


def _root_path(value: str) -> str:
    path = value.rstrip("/")
    if path and not re.fullmatch(r"(/[\w.~-]+)+", path, re.ASCII):
        raise ValueError(value)
    return path


def _socket_path(value: str) -> str:
    if len(value.encode()) > 107:  # sockaddr_un has room for so many
        raise ValueError(value)
    return _printable(value)


def _address_and_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if value and not (port.isascii() and port.isdigit() and int(port) <= 65535 and _host(host.strip("[]"))):
        raise ValueError(value)
    return value


def _address(value: str) -> str:
    return str(ipaddress.ip_address(value)) if value else ""


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) < len(values) or not all(v.isprintable() and " " not in v for v in values):
        raise ValueError(values)
    return values


def _url(value: str) -> str:
    if not _printable(value) or re.search(r"[ #]", value):
        raise ValueError(value)
    parts = urlsplit(value)
    if not parts.hostname or parts.port == 0:
        raise ValueError(value)
    return value if "?" in value else value.rstrip("/")


def _proxy(value: str) -> str:
    if value and (urlsplit(_url(value)).port is None or urlsplit(value).path not in ("", "/")):
        raise ValueError(value)
    return value.rstrip("/")


def _own_url(value: str) -> str:
    return value and _url(value)


def _engine_url(value: str) -> str:
    if value and (not _printable(value) or re.search(r"[ #]", value)):
        raise ValueError(value)
    parts = urlsplit(value)
    if value and not (parts.path.strip("/") if parts.scheme == "unix" else parts.hostname and parts.port != 0):
        raise ValueError(value)
    return value


def _hosts_url(value: str) -> str:
    parts = urlsplit(value)
    hosts = parts.netloc.rpartition("@")[2].split(",")
    if not _printable(value) or re.search(r"[ #]", value) or parts.path.strip("/"):
        raise ValueError(value)
    if not all(re.fullmatch(r"([\w.-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?", host, re.ASCII) for host in hosts):
        raise ValueError(value)
    return value


def _patterns(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in _distinct(values):
        patterns.parsed(value)
    return values


# --- what a key may be

Port = Annotated[int, Meta(ge=-1, le=65535, description="an integer from -1 to 65535")]
Host = Annotated[str, Meta(min_length=1, description="a host name or an IP address", extra={"keep": _host})]
Hosts = Annotated[
    tuple[str, ...],
    Meta(description='a list of host names and addresses without ports, IPv6 as "[::1]"', extra={"keep": _hosts}),
]
FilePath = Annotated[str, Meta(min_length=1, description="the path of a file", extra={"keep": _printable})]
FolderPath = Annotated[str, Meta(min_length=1, description="the path of a folder", extra={"keep": _printable})]
Seconds = Annotated[float, Meta(gt=0, le=1e300, description="a number of seconds above 0")]
# A century at most: there are no times before the year 1.
Days = Annotated[float, Meta(ge=0, le=36_500, description="a number of days from 0 to 36500")]
Positive = Annotated[float, Meta(gt=0, le=1e300, description="a number above 0")]
_Interval = Annotated[str, Meta(pattern=rf"^({'|'.join(INTERVALS)})\Z")]
_INTERVALS = f"a list of different intervals among {' '.join(INTERVALS)}"
Intervals = Annotated[tuple[_Interval, ...], Meta(description=_INTERVALS, extra={"keep": _distinct})]
IntervalList = Annotated[tuple[_Interval, ...], Meta(min_length=1, description=_INTERVALS, extra={"keep": _distinct})]
KindList = Annotated[
    tuple[Annotated[str, Meta(pattern=rf"^({'|'.join(KINDS)})\Z")], ...],
    Meta(description=f"a list of different kinds among {' '.join(KINDS)}", extra={"keep": _distinct}),
]
SymbolList = Annotated[
    tuple[Annotated[str, Meta(min_length=1)], ...],
    Meta(description="a list of different symbols", extra={"keep": _distinct}),
]
ProxyUrl = Annotated[
    str,
    Meta(
        pattern=r"^((https?|socks5h?)://|\Z)",
        description="a URL with a host and a port, http://, https://, socks5:// or socks5h://",
        extra={"keep": _proxy, "secret": True},
    ),
]
EngineUrl = Annotated[
    str,
    Meta(
        pattern=r"^((rediss?|unix)://|\Z)",
        description="a URL, redis://, rediss:// or unix://",
        extra={"keep": _engine_url, "secret": True},
    ),
]
Token = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_-]{0,200}\Z",
        description="an API key, as `marketd key new` prints it",
        extra={"secret": True},
    ),
]
NodeName = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9._:-]{0,100}\Z", description="a name of letters, digits, dots, dashes, colons")
]
KafkaUrl = Annotated[
    str,
    Meta(
        pattern=r"^kafka(\+ssl)?://",
        description="a URL with hosts, kafka:// or kafka+ssl://",
        extra={"keep": _hosts_url, "secret": True},
    ),
]
TopicPatterns = Annotated[
    tuple[Annotated[str, Meta(min_length=1)], ...],
    Meta(
        min_length=1,
        description='a list of different topics such as "binance:*:trades" or "all:liquidations"',
        extra={"keep": _patterns},
    ),
]
KafkaTopic = Annotated[
    str,
    Meta(
        pattern=r"^([A-Za-z0-9._-]|\{exchange\}|\{kind\}){1,249}\Z",
        description="a name of letters, digits, dots, dashes and underscores, {exchange} and {kind}",
    ),
]
IpAddress = Annotated[str, Meta(description="an IP address", extra={"keep": _address})]
SocketPath = Annotated[str, Meta(description="the path of a socket, at most 107 bytes", extra={"keep": _socket_path})]
RootPath = Annotated[str, Meta(description='a path such as "/market"', extra={"keep": _root_path})]
Origins = Annotated[
    list[str] | Literal["*"], Meta(description='"*" or a list of origins (no path)', extra={"keep": _origins})
]
# Nobody is `admin` without a key.
ScopeList = Annotated[
    tuple[Literal["read", "export", "metrics"], ...],
    Meta(description="a list of different scopes among read export metrics", extra={"keep": _distinct}),
]
AddressAndPort = Annotated[
    str, Meta(description='an address and a port such as "127.0.0.1:9464"', extra={"keep": _address_and_port})
]
# The pattern lets "" pass: a recording knows no URLs.
HttpUrl = Annotated[
    str,
    Meta(
        pattern=r"^(https?://|\Z)",
        description="a URL with a host, http:// or https://",
        extra={"keep": _url, "secret": True},
    ),
]
OwnUrl = Annotated[
    str,
    Meta(
        pattern=r"^(https?://|\Z)",
        description="a URL with a host, http:// or https://",
        extra={"keep": _own_url, "secret": True},
    ),
]
WebSocketUrl = Annotated[
    str,
    Meta(
        pattern=r"^(wss?://|\Z)",
        description="a URL with a host, ws:// or wss://",
        extra={"keep": _url, "secret": True},
    ),
]


def integer(low: int, high: int) -> Meta:
    return Meta(ge=low, le=high, description=f"an integer from {low} to {high}")
