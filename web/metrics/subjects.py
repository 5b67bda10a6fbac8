"""What the page is made of, as it is handed over by whoever made it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from actors.counts import Histogram
from actors.facade.desk import Desk
from actors.mirror.ingests import Ingests
from actors.node import Node
from actors.sinks.sinks import Sinks
from web.access.auth import Auth
from web.connectors import Connectors
from web.counts import WebCounts
from web.server.settings import ServerStatistics
from web.streams.fanouts import Fanouts


@dataclass
class ProcessCounts:
    """Of the process as a whole. `log_lines` and `reloads` are whoever's who writes and reloads."""

    log_lines: Mapping[str, int] = field(default_factory=dict)  # by level
    reloads: Mapping[str, int] = field(default_factory=dict)  # by result
    reloaded_at: Callable[[], float] = lambda: 0.0  # Unix seconds of the last good one
    loop_lag: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True)
class Subjects:
    """What there is to tell of; None: not on this node."""

    connectors: Connectors
    fanouts: Fanouts
    auth: Auth
    web: WebCounts
    server: ServerStatistics
    process: ProcessCounts
    connections_limit: int
    desks: Mapping[str, Desk] = field(default_factory=dict)  # of the façade, by exchange
    symbols: Callable[[], bool] = lambda: False  # the series that are one per symbol, too
    node: Node | None = None  # among several
    ingests: Ingests | None = None  # that an edge asks
    sinks: Sinks | None = None
