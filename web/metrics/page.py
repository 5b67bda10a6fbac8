"""The page, as Prometheus reads it.

Law: nothing of the client library runs where things happen. One collector reads plain numbers when it is asked, and an
answer is kept for a second.
"""

import platform
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import trio
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from actors import clock
from web.metrics.clients import of_clients
from web.metrics.exchanges import of_exchanges
from web.metrics.families import counter, gauge, histogram
from web.metrics.keepers import of_archive, of_sinks
from web.metrics.nodes import of_ingests, of_node
from web.metrics.subjects import ProcessCounts, Subjects
from web.rest.route import archive_of

KEPT = 1.0  # seconds that an answer is
LAG_EVERY = 0.5  # seconds between two looks how late a timer is


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
        yield from of_exchanges(self._s.connectors, by_symbol=self._s.symbols())
        yield from of_clients(self._s, is_open=self._is_open)
        archive = archive_of(self._s.connectors)
        if archive is not None:
            yield from of_archive(archive)
        if self._s.node is not None:
            yield from of_node(self._s.node)
        if self._s.ingests is not None:
            yield from of_ingests(self._s.ingests)
        yield from of_sinks(self._s.sinks.report() if self._s.sinks is not None else ())
        yield from _process(self._s.process)


def _process(process: ProcessCounts) -> Iterator[Metric]:
    yield histogram("loop_lag_seconds", "How late a timer is", (), [((), process.loop_lag)])
    tasks = trio.lowlevel.current_statistics().tasks_living
    yield gauge("tasks", "Trio's tasks", (), [((), float(tasks))])
    about = (version("marketd"), platform.python_version())
    yield gauge("build_info", "What runs", ("version", "python"), [(about, 1.0)])
    reloads = [((result,), process.reloads.get(result, 0)) for result in ("ok", "failed")]
    yield counter("config_reloads", "Tries to load the configuration anew", ("result",), reloads)
    at = process.reloaded_at()
    yield gauge("config_reload_timestamp_seconds", "When the configuration was loaded last", (), [((), at)])
    lines = [((level,), count) for level, count in process.log_lines.items()]
    yield counter("log_lines", "Lines of the log", ("level",), lines)
