"""What is told of clients: their connections, what they follow, ask and are refused."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import Metric, UnknownMetricFamily

from actors.facade.desk import Desk
from web.metrics.families import by_kind, counter, gauge, histogram
from web.metrics.subjects import Subjects
from web.rest.route import archive_of


def of_clients(s: Subjects, *, is_open: bool) -> Iterator[Metric]:
    """`is_open`: in OpenMetrics."""
    yield from _connections(s)
    yield _accepted(s.server.accepted, is_open=is_open)
    yield from _http(s)
    yield from _facade(s.desks)


def _connections(s: Subjects) -> Iterator[Metric]:
    outboxes, kind = list(s.server.outboxes()), ("kind",)
    sockets = sum(not outbox.closed for outbox in outboxes)
    open_now = {"http": s.server.open - sockets - s.web.sse, "websocket": sockets, "sse": s.web.sse}
    connections = [((name,), float(count)) for name, count in open_now.items()]
    yield gauge("connections", "Open connections of clients", kind, connections)
    yield gauge("connections_limit", "How many there may be", (), [((), float(s.connections_limit))])
    refused = [((reason,), count) for reason, count in s.server.refusals.items()]
    yield counter("connections_refused", "Connections and requests refused by the server", ("reason",), refused)
    yield gauge("subscriptions", "Topics followed, once per client", kind, by_kind(s.fanouts.subscriptions()))
    yield counter("deliveries", "Events written, once per client", kind, by_kind(s.web.deliveries))
    yield counter("sent_bytes", "Bytes of those", kind, by_kind(s.web.sent))
    about = "Received from the exchange to written to the last client"
    yield histogram("delivery_seconds", about, (), [((), s.web.delivery)])
    pending = sum(outbox.pending for outbox in outboxes)
    yield gauge("outbox_bytes", "Bytes that clients have not taken yet", (), [((), float(pending))])
    cut = [((reason.replace(" ", "_"),), count) for reason, count in s.server.cuts.items()]
    yield counter("clients_cut", "Clients cut off", ("reason",), cut)
    states = [((state,), float(count)) for state, count in s.fanouts.states().items()]
    yield gauge("fanouts", "Topics that are encoded for clients", ("state",), states)
    yield gauge(
        "resume_bytes", "Events remembered for clients that come back", (), [((), float(s.fanouts.remembered_bytes))]
    )


def _accepted(count: int, *, is_open: bool) -> Metric:
    """In OpenMetrics a counter is named without its `_total`, and that name is the gauge's."""
    about = "Connections accepted"
    if is_open:
        return UnknownMetricFamily("marketd_connections_total", about, float(count))
    return counter("connections", about, (), [((), count)])


def _http(s: Subjects) -> Iterator[Metric]:
    yield counter("http_requests", "Requests answered", ("route", "status"), s.web.requests.items())
    seconds = [((route,), each) for route, each in s.web.request_seconds.items()]
    yield histogram("http_request_seconds", "Until the answer began", ("route",), seconds)
    limited = [((limit,), count) for limit, count in s.auth.clients.limited.items()]
    yield counter("rate_limited", "Requests and commands over a limit", ("limit",), limited)
    failed = [((reason,), count) for reason, count in s.auth.failures.items()]
    yield counter("auth_failures", "Requests without the key they needed", ("reason",), failed)
    archive = archive_of(s.connectors)
    running = archive.exports.borrowed_tokens if archive is not None else 0
    yield gauge("exports", "Exports that are running", (), [((), float(running))])


def _facade(desks: Mapping[str, Desk]) -> Iterator[Metric]:
    asked = [((name, way), count) for name, desk in desks.items() for way, count in desk.counts.items()]
    yield counter("facade_requests", "Requests in an exchange's dialect, by who answered", ("exchange", "way"), asked)
    saved = [((name,), float(desk.saved)) for name, desk in desks.items()]
    yield counter("facade_saved_weight", "Weight that sharing and remembering spared", ("exchange",), saved)
