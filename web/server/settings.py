"""What the server may be asked to hold to, and what it counts."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from web.server.outbox import Outbox
from web.server.pinned import Config
from web.server.protocol import StructuredLog


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client, and all of them together, may take. Times in seconds."""

    write_deadline: float = 5.0  # without a byte accepted by the peer: it is cut off
    outbox_bytes: int = 1 << 20  # pending for one client: over it, it is closed with 1013
    message_bytes: int = 256 << 10  # of one WebSocket message: over it, 1009; resuming 1000 topics takes 100 KiB
    header_bytes: int = 16 << 10  # of one request's target and headers: over it, 431
    connections: int = 10_000  # over it: 503
    head: float = 5.0  # for a whole request head, from the connection's beginning or the head's first byte
    keep_alive: float = 75.0  # between two requests: a bot that asks every 5 s must not meet the end of its connection
    grace: float = 5.0  # from stop to the end of the last connection


@dataclass(slots=True, kw_only=True)
class ServerStatistics:
    """Counts since the start, but for `open`."""

    open: int = 0  # connections there are now
    accepted: int = 0  # connections
    refused: int = 0  # connections over a limit, and requests answered without asking the app
    crashes: int = 0  # connections ended by a fault of the server
    cut: int = 0  # connections of clients that did not read
    refusals: Counter[str] = field(default_factory=Counter)  # those refused, by reason
    cuts: Counter[str] = field(default_factory=Counter)  # those cut, by reason
    outboxes: Callable[[], Iterable[Outbox]] = tuple  # of the connections there are now


def hypercorn_config(limits: Limits) -> Config:
    config = Config()
    config.accesslog = config.errorlog = None
    config.logger_class = StructuredLog
    config.include_server_header = False
    config.keep_alive_max_requests = sys.maxsize  # a brake for HTTP/2; here it would only make clients reconnect
    config.h11_max_incomplete_size = limits.header_bytes
    config.websocket_max_message_size = limits.message_bytes
    config.websocket_ping_interval = None  # its pings ignore missing pongs and outlive connections
    return config
