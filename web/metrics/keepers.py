"""What is told of those that keep events: the archive and the sinks."""

from collections.abc import Iterator, Sequence

from prometheus_client.core import Metric

from actors.archive.archive import Archive
from actors.sinks.report import SinkReport
from web.metrics.families import counter, gauge, histogram


def of_archive(archive: Archive) -> Iterator[Metric]:
    report, sizes = archive.report(), archive.sizes()
    yield gauge("archive_up", "Whether the archive takes rows", (), [((), float(report.state == "ok"))])
    rows = [((kind,), count) for kind, count in archive.rows.items()]
    yield counter("archive_rows", "Rows written", ("kind",), rows)
    yield counter("archive_dropped_rows", "Rows lost", (), [((), report.dropped)])
    yield gauge("archive_pending_rows", "Rows that wait to be written", (), [((), float(report.pending))])
    yield histogram("archive_commit_seconds", "How long a batch took to be on disk", (), [((), archive.commits)])
    files = [((name,), float(size)) for name, size in (("db", sizes.database), ("wal", sizes.wal))]
    yield gauge("archive_bytes", "Size of the archive's files", ("file",), files)
    yield gauge("archive_free_bytes", "Room left on its disk", (), [((), float(sizes.free))])


def of_sinks(reports: Sequence[SinkReport]) -> Iterator[Metric]:
    """Also of none: an alert or a dashboard names nothing that the page does not know."""
    of = ("sink",)
    up = [((report.name,), float(report.state == "ok")) for report in reports]
    yield gauge("sink_up", "Whether a sink takes rows", of, up)
    written = [((report.name,), report.written) for report in reports]
    yield counter("sink_written", "Events and gaps that a sink acknowledged", of, written)
    dropped = [((report.name,), report.dropped) for report in reports]
    yield counter("sink_dropped", "Events and gaps that a sink lost", of, dropped)
    pending = [((report.name,), float(report.pending)) for report in reports]
    yield gauge("sink_pending", "Events and gaps that wait to be written", of, pending)
