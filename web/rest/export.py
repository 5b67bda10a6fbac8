"""`GET /export/{kind}`: what the archive holds as a file, streamed from a process of its own; see `web.rest.dump`."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import msgspec
import structlog
import trio
from quart import Response, request
from quart.wrappers.response import ResponseBody

from actors.archive import queries
from actors.archive.archive import Archive
from actors.archive.reads import Unreadable
from actors.archive.series import FAR, KINDS, WITH_INTERVAL, ArchiveKind, us
from actors.errors import NotReady, UnknownSymbol, Unsupported
from web import parameters as p
from web.auth import ENDING, VISIT
from web.problems import BadParameter, InvalidParameters, NotFound
from web.rest.dump import Job
from web.rest.formats import FORMATS, file_name, missing
from web.rest.route import Connectors, Route, archive_of, connector_of

PIECE = 256 << 10  # bytes handed on at a time
ENDS_WITHIN = 2.0  # seconds, once it was killed
LASTS = 3600.0  # seconds: a client that reads a byte now and then may not keep others from exporting for ever
BUSY = 10.0  # seconds after which a client may ask again


# `-m` would look in the working directory first, where anything may be called `web`.
CHILD = (
    f"import sys; sys.path.append({str(Path(__file__).parents[2])!r}); from web.rest.dump import main; sys.exit(main())"
)

log = structlog.get_logger()


async def export(connectors: Connectors, query: p.ExportQuery, *, kind: str) -> Response:
    """Everything of a kind that the archive holds, ascending within each symbol.

    Nothing is fetched: `marketd backfill` does that. Parquet and Arrow need the extra `arrow` to be installed.
    """
    if kind not in KINDS:
        raise NotFound(f"there is nothing called {kind[:60]!r} to export; known: {', '.join(KINDS)}")
    archive = archive_of(connectors)
    if archive is None:
        raise Unsupported("the archive is switched off: see [archive] in the configuration")
    job = await _job(connectors, archive, kind, query)
    ENDING.get().enter_context(VISIT.get().account.exporting())
    if archive.exports.available_tokens == 0:
        raise NotReady(f"{archive.exports.total_tokens} exports are running already", retry_after=BUSY)
    form = FORMATS[job.format]
    name = file_name(kind, job.exchange, job.symbol, job.interval, job.format)
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    body = b"" if request.method == "HEAD" else _Body(job, archive.exports)
    response = Response(body, content_type=form.content_type, headers=headers)
    response.timeout = LASTS  # a client that does not read at all is cut off by the server long before
    return response


async def _job(connectors: Connectors, archive: Archive, kind: ArchiveKind, query: p.ExportQuery) -> Job:
    problems = []
    if kind in WITH_INTERVAL and query.interval is None:
        problems.append(BadParameter("interval", f"is needed for {kind}"))
    if kind not in WITH_INTERVAL and query.interval is not None:
        problems.append(BadParameter("interval", f"{kind} has none"))
    if reason := missing(query.format):
        problems.append(BadParameter("format", reason))
    if problems:
        raise InvalidParameters(problems)
    await archive.flush()
    exchange, symbol = query.exchange and query.exchange.lower(), query.symbol
    known = connectors.get(exchange or "")
    is_listed = False
    if symbol is not None and known is not None:
        with suppress(UnknownSymbol, NotReady):  # what is listed no more may be in the archive, spelled as it was
            symbol, is_listed = known.catalogue.resolve(symbol).symbol, True
    try:
        found = await archive.reads.ask(
            lambda connection: queries.find_series(
                connection, kind, exchange=exchange, symbol=symbol, interval=query.interval
            )
        )
    except Unreadable as error:
        raise NotReady(str(error)) from error
    if not found and exchange is not None:
        connector_of(connectors, exchange)  # one that is neither here nor in the archive
    if not found and symbol is not None and not is_listed:
        raise UnknownSymbol(f"the archive has no {kind} of {symbol[:60]!r}")
    return Job(
        path=str(archive.path.absolute()),
        kind=kind,
        format=query.format,
        exchange=exchange,
        symbol=symbol,
        interval=query.interval,
        start=us(query.start_time) if query.start_time else 0,
        end=us(query.end_time) if query.end_time else FAR,
    )


class BrokenExport(Exception):
    """The work ended before its end."""


class _Body(ResponseBody):
    """The bytes of an export. Whoever leaves ends the process that makes them."""

    def __init__(self, job: Job, limit: trio.CapacityLimiter) -> None:
        self._job, self._limit = job, limit
        self._process: trio.Process | None = None

    async def __aenter__(self) -> "_Body":
        try:
            self._limit.acquire_on_behalf_of_nowait(self)
        except trio.WouldBlock:  # another came first since it was looked at; the headers are gone
            raise BrokenExport("as many exports are running as may be") from None
        try:
            self._process = await trio.lowlevel.open_process(
                [sys.executable, "-P", "-c", CHILD, msgspec.json.encode(self._job).decode()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except BaseException:
            self._limit.release_on_behalf_of(self)
            raise
        return self

    async def __aiter__(self) -> AsyncIterator[bytes]:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        assert process.stderr is not None
        while piece := await process.stdout.receive_some(PIECE):
            yield bytes(piece)
        if await process.wait():
            # The headers are gone: only a connection that ends too early can tell the client.
            reason = bytes(await process.stderr.receive_some(2000)).decode("utf-8", "replace").strip()
            log.error("web.export_failed", kind=self._job.kind, reason=reason[-500:])
            raise BrokenExport(reason[-500:])

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        try:
            if process is not None:
                with trio.CancelScope(shield=True), trio.move_on_after(ENDS_WITHIN):
                    process.kill()
                    await process.wait()
                    for pipe in (process.stdout, process.stderr):
                        if pipe is not None:
                            await pipe.aclose()
        finally:
            self._limit.release_on_behalf_of(self)


ROUTES = [
    Route("/export/{kind}", *(export, p.ExportQuery, bytes, "archive", "What the archive holds, as a file")),
]
