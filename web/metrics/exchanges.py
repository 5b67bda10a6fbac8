"""What is told of exchanges: their feeds, lines, events and requests."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import Metric

from actors import clock
from actors.events import Kind
from web.connectors import AnyConnector, AnyFeed, Connectors
from web.metrics.families import KINDS, Labels, Rows, by_kind, counter, gauge, histogram

STATES = ("starting", "live", "stale", "down", "failed")


def of_exchanges(connectors: Connectors, *, by_symbol: bool) -> Iterator[Metric]:
    """`by_symbol`: the series that are one per symbol, too."""
    yield from _feeds(connectors, by_symbol=by_symbol)
    yield from _lines(connectors)
    yield from _events(connectors)
    yield from _upstream(connectors)


def _feeds(connectors: Connectors, *, by_symbol: bool) -> Iterator[Metric]:
    feeds = [(name, feed) for name, connector in connectors.items() for feed in connector.feeds.values()]
    by_state = {(name, state): 0.0 for name in connectors for state in STATES}
    for name, feed in feeds:
        by_state[name, feed.health.state] += 1
    yield gauge("exchange_up", "Whether at least one feed delivers", ("exchange",), _per(connectors, _is_up))
    yield gauge("feeds", "Feeds by their state", ("exchange", "state"), by_state.items())
    on_demand = _per(connectors, lambda connector: sum(feed.symbol not in connector.symbols for feed in _of(connector)))
    yield gauge("on_demand_feeds", "Feeds that the configuration does not name", ("exchange",), on_demand)
    if by_symbol:
        now = clock.now()
        up = [((name, feed.symbol), float(feed.health.state in ("live", "stale"))) for name, feed in feeds]
        ages = [
            ((name, feed.symbol), (now - feed.health.last_event).total_seconds())
            for name, feed in feeds
            if feed.health.last_event is not None
        ]
        yield gauge("feed_up", "Whether a feed delivers", ("exchange", "symbol"), up)
        yield gauge("feed_event_age_seconds", "Since a feed's last event", ("exchange", "symbol"), ages)


def _lines(connectors: Connectors) -> Iterator[Metric]:
    one, why = ("exchange",), ("exchange", "reason")
    yield gauge("lines", "Connected lines", one, _per(connectors, lambda c: c.lines_connected))
    yield counter("line_connects", "Connections made", one, _per(connectors, lambda c: c.counts.connects))
    lost = [((n, reason), count) for n, c in connectors.items() for reason, count in c.counts.disconnects.items()]
    yield counter("line_disconnects", "Connections lost, refused or handed over", why, lost)
    yield counter("upstream_frames", "WebSocket frames received", one, _per(connectors, lambda c: c.counts.frames))
    yield counter("upstream_bytes", "Bytes of those frames", one, _per(connectors, lambda c: c.counts.bytes))
    bad = _per(connectors, lambda c: c.counts.bad_frames)
    yield counter("upstream_bad_frames", "Frames that could not be read", one, bad)


def _events(connectors: Connectors) -> Iterator[Metric]:
    of = ("exchange", "kind")
    yield counter("events", "Events told to readers", of, _by_kind(connectors, lambda c: c.counts.events))
    duplicates = _by_kind(connectors, lambda c: c.duplicates())
    yield counter("duplicates", "Deliveries dropped as told already or too late", of, duplicates)
    gaps = [
        ((name, kind, str(repaired).lower()), connector.counts.gaps[kind, repaired])
        for name, connector in connectors.items()
        for kind in KINDS
        for repaired in (True, False)
    ]
    yield counter("gaps", "Losses noticed", ("exchange", "kind", "repaired"), gaps)
    seconds = _by_kind(connectors, lambda c: c.counts.gap_seconds)
    yield counter("gap_seconds", "Time that unrepaired losses cover", of, seconds)
    lags = [((n, kind), lag) for n, c in connectors.items() for kind, lag in c.counts.lag.items()]
    yield histogram("event_lag_seconds", "Pushed by the exchange to received, skew taken off", of, lags)
    now = clock.now()
    ages: dict[Labels, float] = {}
    for name, connector in connectors.items():
        for feed in _of(connector):
            for kind, at in feed.last_heard().items():
                age = (now - at).total_seconds()
                ages[name, kind] = min(age, ages.get((name, kind), age))
    yield gauge("event_age_seconds", "Since the youngest event", of, ages.items())
    skew = _per(connectors, lambda c: c.clock_skew.total_seconds())
    yield gauge("clock_skew_seconds", "The exchange's clock minus ours", ("exchange",), skew)


def _upstream(connectors: Connectors) -> Iterator[Metric]:
    one, bucket = ("exchange",), ("exchange", "bucket")
    asked = [((n, outcome), count) for n, c in connectors.items() for outcome, count in c.counts.requests.items()]
    yield counter("upstream_requests", "REST requests by how they ended", ("exchange", "outcome"), asked)
    seconds = [((name,), connector.counts.request_seconds) for name, connector in connectors.items()]
    yield histogram("upstream_request_seconds", "How long a REST request took", one, seconds)
    reports = {name: connector.budget.report() for name, connector in connectors.items()}
    used = [((n, each.name), each.used / each.limit) for n, report in reports.items() for each in report.buckets]
    yield gauge("budget_used_ratio", "Weight used of what the window allows", bucket, used)
    spent = [
        ((name, bucket_name, caller), weight)
        for name, connector in connectors.items()
        for bucket_name, kept in connector.budget.buckets.items()
        for caller, weight in kept.spent_total.items()
    ]
    yield counter("budget_spent", "Weight spent, by whom it was spent for", (*bucket, "caller"), spent)
    waiting = [((name,), float(report.waiting)) for name, report in reports.items()]
    yield gauge("budget_waiting", "Requests that wait for room", one, waiting)
    closed = [((name,), report.closed_for or 0.0) for name, report in reports.items()]
    yield gauge("budget_closed_seconds", "Until requests may leave again; 0: they may", one, closed)


def _per(connectors: Connectors, value: Callable[[AnyConnector], float]) -> Rows:
    return [((name,), float(value(connector))) for name, connector in connectors.items()]


def _by_kind(connectors: Connectors, values: Callable[[AnyConnector], Mapping[Kind, float]]) -> Rows:
    return [((name, *kind), count) for name, each in connectors.items() for kind, count in by_kind(values(each))]


def _is_up(connector: AnyConnector) -> bool:
    return connector.is_live


def _of(connector: AnyConnector) -> Iterable[AnyFeed]:
    return connector.feeds.values()
