"""`/metrics`: everything that is counted anywhere, as Prometheus reads it.

Law: nothing of the client library runs where things happen. One collector reads plain numbers when it is asked, and an
answer is kept for a second. Labels come from the configuration and the program; no client can make one.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import trio
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from actors import clock
from actors.archive.archive import Archive
from actors.counts import BOUNDS, Histogram
from actors.events import Kind
from actors.facade.desk import Desk
from actors.feeds.everything import ALL
from actors.mirror.ingests import Ingests
from actors.node import Node
from actors.sinks.sinks import Sinks
from web.access.auth import Auth
from web.connectors import AnyConnector, AnyFeed, Connectors
from web.counts import WebCounts
from web.rest.route import archive_of
from web.server.settings import ServerStatistics
from web.streams.fanouts import Fanouts

KEPT = 1.0  # seconds that an answer is
LAG_EVERY = 0.5  # seconds between two looks how late a timer is
KINDS: tuple[Kind, ...] = ("ohlc", "trades", "large_trades", "liquidations", "funding", "oi")
STATES = ("starting", "live", "stale", "down", "failed")

Labels = tuple[str, ...]
Rows = Iterable[tuple[Labels, float]]


@dataclass
class ProcessCounts:
    """Of the process as a whole. `log_lines` and `reloads` are whoever's who writes and reloads."""

    log_lines: Mapping[str, int] = field(default_factory=dict)  # by level
    reloads: Mapping[str, int] = field(default_factory=dict)  # by result
    reloaded_at: Callable[[], float] = lambda: 0.0  # Unix seconds of the last good one
    loop_lag: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True)
class Subjects:
    """What there is to tell of."""

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


class Metrics:
    """The page, in either format."""

    def __init__(self, subjects: Subjects) -> None:
        self._plain = _registry(_Collector(subjects, is_open=False))
        self._open = _registry(_Collector(subjects, is_open=True))
        self._kept: dict[str, tuple[float, bytes]] = {}  # by content type: when it was made, and the text
        self._lag = subjects.process.loop_lag

    def page(self, accept: str) -> tuple[str, bytes]:
        """(content type, text): OpenMetrics where `accept` asks for it, else Prometheus' own."""
        encode, content_type = choose_encoder(accept)
        now = trio.current_time()
        made_at, text = self._kept.get(content_type, (float("-inf"), b""))
        if now - made_at >= KEPT:
            registry = self._open if content_type.startswith("application/openmetrics") else self._plain
            made_at, text = self._kept[content_type] = now, encode(registry)
        return content_type, text

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        """The page alone, as an application of its own: for a listener that nobody but the monitoring reaches."""
        del receive
        is_page = scope["type"] == "http" and scope["path"] == "/metrics" and scope["method"] in ("GET", "HEAD")
        accept = next((value for name, value in scope.get("headers", ()) if name == b"accept"), b"")
        kind, body = self.page(accept.decode("latin1")) if is_page else ("text/plain", b"only /metrics is here\n")
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        status = 200 if is_page else 404
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
        else:
            await send({"type": "websocket.close"})

    async def watch(self) -> None:
        """How late a timer is: what every task waits for its turn. For ever."""
        while True:
            due = clock.next_tick(LAG_EVERY)
            await trio.sleep_until(due)
            self._lag.observe(trio.current_time() - due)


def _registry(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(registry=registry)
    return registry


class _Collector(Collector):
    def __init__(self, subjects: Subjects, *, is_open: bool) -> None:
        self._s = subjects
        self._is_open = is_open  # in OpenMetrics

    def collect(self) -> Iterator[Metric]:
        yield from _feeds(self._s)
        yield from _lines(self._s.connectors)
        yield from _events(self._s)
        yield from _upstream(self._s.connectors)
        yield from _clients(self._s)
        yield _accepted(self._s.server.accepted, is_open=self._is_open)
        yield from _http(self._s)
        yield from _facade(self._s.desks)
        archive = archive_of(self._s.connectors)
        if archive is not None:
            yield from _archive(archive)
        if self._s.node is not None:
            yield from _node(self._s.node)
        if self._s.ingests is not None:
            yield from _ingests(self._s.ingests)
        if self._s.sinks is not None:
            yield from _sinks(self._s.sinks)
        yield from _process(self._s.process)


# --- one group each


def _feeds(s: Subjects) -> Iterator[Metric]:
    connectors = s.connectors
    feeds = [(name, feed) for name, connector in connectors.items() for feed in connector.feeds.values()]
    by_state = {(name, state): 0.0 for name in connectors for state in STATES}
    for name, feed in feeds:
        by_state[name, feed.health.state] += 1
    yield _gauge("exchange_up", "Whether at least one feed delivers", ("exchange",), _per(connectors, _is_up))
    yield _gauge("feeds", "Feeds by their state", ("exchange", "state"), by_state.items())
    on_demand = _per(connectors, lambda connector: sum(feed.symbol not in connector.symbols for feed in _of(connector)))
    yield _gauge("on_demand_feeds", "Feeds that the configuration does not name", ("exchange",), on_demand)
    if s.symbols():
        now = clock.now()
        up = [((name, feed.symbol), float(feed.health.state in ("live", "stale"))) for name, feed in feeds]
        ages = [
            ((name, feed.symbol), (now - feed.health.last_event).total_seconds())
            for name, feed in feeds
            if feed.health.last_event is not None
        ]
        yield _gauge("feed_up", "Whether a feed delivers", ("exchange", "symbol"), up)
        yield _gauge("feed_event_age_seconds", "Since a feed's last event", ("exchange", "symbol"), ages)


def _lines(connectors: Connectors) -> Iterator[Metric]:
    one, why = ("exchange",), ("exchange", "reason")
    yield _gauge("lines", "Connected lines", one, _per(connectors, lambda c: c.lines_connected))
    yield _counter("line_connects", "Connections made", one, _per(connectors, lambda c: c.counts.connects))
    lost = [((n, reason), count) for n, c in connectors.items() for reason, count in c.counts.disconnects.items()]
    yield _counter("line_disconnects", "Connections lost, refused or handed over", why, lost)
    yield _counter("upstream_frames", "WebSocket frames received", one, _per(connectors, lambda c: c.counts.frames))
    yield _counter("upstream_bytes", "Bytes of those frames", one, _per(connectors, lambda c: c.counts.bytes))
    bad = _per(connectors, lambda c: c.counts.bad_frames)
    yield _counter("upstream_bad_frames", "Frames that could not be read", one, bad)


def _events(s: Subjects) -> Iterator[Metric]:
    of, connectors = ("exchange", "kind"), s.connectors
    yield _counter("events", "Events told to readers", of, _by_kind(connectors, lambda c: c.counts.events))
    duplicates = _by_kind(connectors, lambda c: c.duplicates())
    yield _counter("duplicates", "Deliveries dropped as told already or too late", of, duplicates)
    # The first one is a rise only where there was a zero before it.
    gaps = [
        ((name, kind, str(repaired).lower()), connector.counts.gaps[kind, repaired])
        for name, connector in connectors.items()
        for kind in KINDS
        for repaired in (True, False)
    ]
    yield _counter("gaps", "Losses noticed", ("exchange", "kind", "repaired"), gaps)
    seconds = _by_kind(connectors, lambda c: c.counts.gap_seconds)
    yield _counter("gap_seconds", "Time that unrepaired losses cover", of, seconds)
    lags = [((n, kind), lag) for n, c in connectors.items() for kind, lag in c.counts.lag.items()]
    yield _histogram("event_lag_seconds", "Pushed by the exchange to received, skew taken off", of, lags)
    now = clock.now()
    ages: dict[Labels, float] = {}
    for name, connector in connectors.items():
        for feed in _of(connector):
            for kind, at in feed.last_heard().items():
                age = (now - at).total_seconds()
                ages[name, kind] = min(age, ages.get((name, kind), age))
    yield _gauge("event_age_seconds", "Since the youngest event", of, ages.items())
    skew = _per(connectors, lambda c: c.clock_skew.total_seconds())
    yield _gauge("clock_skew_seconds", "The exchange's clock minus ours", ("exchange",), skew)


def _upstream(connectors: Connectors) -> Iterator[Metric]:
    one, bucket = ("exchange",), ("exchange", "bucket")
    asked = [((n, outcome), count) for n, c in connectors.items() for outcome, count in c.counts.requests.items()]
    yield _counter("upstream_requests", "REST requests by how they ended", ("exchange", "outcome"), asked)
    seconds = [((name,), connector.counts.request_seconds) for name, connector in connectors.items()]
    yield _histogram("upstream_request_seconds", "How long a REST request took", one, seconds)
    reports = {name: connector.budget.report() for name, connector in connectors.items()}
    used = [((n, each.name), each.used / each.limit) for n, report in reports.items() for each in report.buckets]
    yield _gauge("budget_used_ratio", "Weight used of what the window allows", bucket, used)
    spent = [
        ((name, bucket_name, caller), weight)
        for name, connector in connectors.items()
        for bucket_name, kept in connector.budget.buckets.items()
        for caller, weight in kept.spent_total.items()
    ]
    yield _counter("budget_spent", "Weight spent, by whom it was spent for", (*bucket, "caller"), spent)
    waiting = [((name,), float(report.waiting)) for name, report in reports.items()]
    yield _gauge("budget_waiting", "Requests that wait for room", one, waiting)
    closed = [((name,), report.closed_for or 0.0) for name, report in reports.items()]
    yield _gauge("budget_closed_seconds", "Until requests may leave again; 0: they may", one, closed)


def _clients(s: Subjects) -> Iterator[Metric]:
    outboxes, kind = list(s.server.outboxes()), ("kind",)
    sockets = sum(not outbox.closed for outbox in outboxes)
    open_now = {"http": s.server.open - sockets - s.web.sse, "websocket": sockets, "sse": s.web.sse}
    connections = [((name,), float(count)) for name, count in open_now.items()]
    yield _gauge("connections", "Open connections of clients", kind, connections)
    yield _gauge("connections_limit", "How many there may be", (), [((), float(s.connections_limit))])
    refused = [((reason,), count) for reason, count in s.server.refusals.items()]
    yield _counter("connections_refused", "Connections and requests refused by the server", ("reason",), refused)
    followed = s.fanouts.subscriptions()
    yield _gauge("subscriptions", "Topics followed, once per client", kind, [((k,), n) for k, n in followed.items()])
    deliveries = [((k,), n) for k, n in s.web.deliveries.items()]
    yield _counter("deliveries", "Events written, once per client", kind, deliveries)
    sent = [((k,), n) for k, n in s.web.sent.items()]
    yield _counter("sent_bytes", "Bytes of those", kind, sent)
    about = "Received from the exchange to written to the last client"
    yield _histogram("delivery_seconds", about, (), [((), s.web.delivery)])
    pending = sum(outbox.pending for outbox in outboxes)
    yield _gauge("outbox_bytes", "Bytes that clients have not taken yet", (), [((), float(pending))])
    cut = [((reason.replace(" ", "_"),), count) for reason, count in s.server.cuts.items()]
    yield _counter("clients_cut", "Clients cut off", ("reason",), cut)
    states = [((state,), float(count)) for state, count in s.fanouts.states().items()]
    yield _gauge("fanouts", "Topics that are encoded for clients", ("state",), states)
    yield _gauge(
        "resume_bytes", "Events remembered for clients that come back", (), [((), float(s.fanouts.remembered_bytes))]
    )


def _accepted(count: int, *, is_open: bool) -> Metric:
    """In OpenMetrics a counter is named without its `_total`, and that name is the gauge's."""
    about = "Connections accepted"
    if is_open:
        return UnknownMetricFamily("marketd_connections_total", about, float(count))
    return _counter("connections", about, (), [((), count)])


def _http(s: Subjects) -> Iterator[Metric]:
    yield _counter("http_requests", "Requests answered", ("route", "status"), s.web.requests.items())
    seconds = [((route,), each) for route, each in s.web.request_seconds.items()]
    yield _histogram("http_request_seconds", "Until the answer began", ("route",), seconds)
    limited = [((limit,), count) for limit, count in s.auth.clients.limited.items()]
    yield _counter("rate_limited", "Requests and commands over a limit", ("limit",), limited)
    failed = [((reason,), count) for reason, count in s.auth.failures.items()]
    yield _counter("auth_failures", "Requests without the key they needed", ("reason",), failed)
    archive = archive_of(s.connectors)
    running = archive.exports.borrowed_tokens if archive is not None else 0
    yield _gauge("exports", "Exports that are running", (), [((), float(running))])


def _facade(desks: Mapping[str, Desk]) -> Iterator[Metric]:
    asked = [((name, way), count) for name, desk in desks.items() for way, count in desk.counts.items()]
    yield _counter("facade_requests", "Requests in an exchange's dialect, by who answered", ("exchange", "way"), asked)
    saved = [((name,), float(desk.saved)) for name, desk in desks.items()]
    yield _counter("facade_saved_weight", "Weight that sharing and remembering spared", ("exchange",), saved)


def _archive(archive: Archive) -> Iterator[Metric]:
    report, sizes = archive.report(), archive.sizes()
    yield _gauge("archive_up", "Whether the archive takes rows", (), [((), float(report.state == "ok"))])
    rows = [((kind,), count) for kind, count in archive.rows.items()]
    yield _counter("archive_rows", "Rows written", ("kind",), rows)
    yield _counter("archive_dropped_rows", "Rows lost", (), [((), report.dropped)])
    yield _gauge("archive_pending_rows", "Rows that wait to be written", (), [((), float(report.pending))])
    yield _histogram("archive_commit_seconds", "How long a batch took to be on disk", (), [((), archive.commits)])
    files = [((name,), float(size)) for name, size in (("db", sizes.database), ("wal", sizes.wal))]
    yield _gauge("archive_bytes", "Size of the archive's files", ("file",), files)
    yield _gauge("archive_free_bytes", "Room left on its disk", (), [((), float(sizes.free))])


def _node(node: Node) -> Iterator[Metric]:
    of, relays, mirrors = ("exchange",), node.relays, node.mirrors
    yield _gauge(
        "engine_up", "Whether the engine takes and tells events", (), [((), float(node.links.state == "live"))]
    )
    yield _counter("engine_failures", "Calls that the engine did not answer", (), [((), node.links.failures)])
    led = [((name,), float(sum(lane.lease is not None for lane in relay.lanes))) for name, relay in relays.items()]
    yield _gauge("engine_lanes_led", "Lanes that this node leads", of, led)
    said = [((name,), sum(lane.entries for lane in relay.lanes)) for name, relay in relays.items()]
    yield _counter("engine_said", "Events, gaps and states said to the engine", of, said)
    bursts = [((name,), sum(lane.said for lane in relay.lanes)) for name, relay in relays.items()]
    yield _counter("engine_bursts", "Bursts that carried them", of, bursts)
    gaps = [((name,), sum(lane.writer.gaps for lane in relay.lanes)) for name, relay in relays.items()]
    yield _counter("engine_gaps", "Topics of which nobody could tell a while, at takeovers", of, gaps)
    holes = [*(((name,), mirror.holes) for name, mirror in mirrors.items()), ((ALL,), node.everywhere.holes)]
    yield _counter("engine_holes", "Lanes that had to be read anew", of, holes)


def _sinks(sinks: Sinks) -> Iterator[Metric]:
    reports, of = sinks.report(), ("sink",)
    up = [((report.name,), float(report.state == "ok")) for report in reports]
    yield _gauge("sink_up", "Whether a sink takes rows", of, up)
    written = [((report.name,), report.written) for report in reports]
    yield _counter("sink_written", "Events and gaps that a sink acknowledged", of, written)
    dropped = [((report.name,), report.dropped) for report in reports]
    yield _counter("sink_dropped", "Events and gaps that a sink lost", of, dropped)
    pending = [((report.name,), float(report.pending)) for report in reports]
    yield _gauge("sink_pending", "Events and gaps that wait to be written", of, pending)


def _ingests(ingests: Ingests) -> Iterator[Metric]:
    for name, what, counts in (
        ("answered", "Questions that a node that collects answered", ingests.answered),
        ("failed", "Times that such a node was not reached, or went away", ingests.failed),
    ):
        rows = [((node,), float(count)) for node, count in counts.items()]
        yield _counter(f"ingest_{name}", what, ("node",), rows)


def _process(process: ProcessCounts) -> Iterator[Metric]:
    yield _histogram("loop_lag_seconds", "How late a timer is", (), [((), process.loop_lag)])
    tasks = trio.lowlevel.current_statistics().tasks_living
    yield _gauge("tasks", "Trio's tasks", (), [((), float(tasks))])
    about = (version("marketd"), platform.python_version())
    yield _gauge("build_info", "What runs", ("version", "python"), [(about, 1.0)])
    reloads = [((result,), process.reloads.get(result, 0)) for result in ("ok", "failed")]
    yield _counter("config_reloads", "Tries to load the configuration anew", ("result",), reloads)
    at = process.reloaded_at()
    yield _gauge("config_reload_timestamp_seconds", "When the configuration was loaded last", (), [((), at)])
    lines = [((level,), count) for level, count in process.log_lines.items()]
    yield _counter("log_lines", "Lines of the log", ("level",), lines)


# --- how numbers are told


def _gauge(name: str, about: str, labels: Labels, rows: Rows) -> Metric:
    family = GaugeMetricFamily(f"marketd_{name}", about, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _counter(name: str, about: str, labels: Labels, rows: Rows) -> Metric:
    family = CounterMetricFamily(f"marketd_{name}", about, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _histogram(name: str, about: str, labels: Labels, rows: Iterable[tuple[Labels, Histogram]]) -> Metric:
    family = HistogramMetricFamily(f"marketd_{name}", about, labels=labels)
    for values, histogram in rows:
        total, buckets = 0, []
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), histogram.counts, strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric(values, buckets, histogram.sum)
    return family


def _per(connectors: Connectors, value: Callable[[AnyConnector], float]) -> Rows:
    return [((name,), float(value(connector))) for name, connector in connectors.items()]


def _by_kind(connectors: Connectors, values: Callable[[AnyConnector], Mapping[Kind, float]]) -> Rows:
    return [((n, kind), value) for n, connector in connectors.items() for kind, value in values(connector).items()]


def _is_up(connector: AnyConnector) -> bool:
    return connector.is_live


def _of(connector: AnyConnector) -> Iterable[AnyFeed]:
    return connector.feeds.values()
