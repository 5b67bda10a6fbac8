"""`GET /export/{kind}`: what the archive holds as a file, whole or in parts. The spool has it made and keeps it."""

import re
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from types import TracebackType

import msgspec
from quart import Response, current_app, request
from quart.wrappers.response import ResponseBody

from actors.archive import queries
from actors.archive.archive import Archive
from actors.archive.reads import Unreadable
from actors.archive.series import FAR, KINDS, WITH_INTERVAL, ArchiveKind, us
from actors.errors import NotReady, UnknownSymbol, Unsupported, UpstreamError
from web import parameters as p
from web.access.auth import ENDING, VISIT
from web.connectors import Connectors
from web.problems import BadParameter, InvalidParameters, NotFound, problem
from web.rest.dump import Job
from web.rest.formats import FORMATS, file_name, missing
from web.rest.headers import is_known
from web.rest.route import Route, archive_of, connector_of
from web.rest.spool import Spooled

LASTS = 3600.0  # seconds: a client that reads a byte now and then may not keep others from exporting for ever
PARTIAL = {"range", "if-range", "if-none-match"}  # headers of who reads a file in parts


async def export(connectors: Connectors, query: p.ExportQuery, *, kind: str) -> Response:
    """Everything of a kind that the archive holds, ascending within each symbol.

    Nothing is fetched: `marketd backfill` does that. Parquet and Arrow need the extra `arrow` to be installed.
    """
    kind, dot, suffix = kind.partition(".")
    if dot:  # for tools that go by a file's name
        if suffix not in FORMATS:
            raise NotFound(f"there is no file of the kind {suffix[:20]!r}; known: {', '.join(FORMATS)}")
        query = msgspec.structs.replace(query, format=suffix)
    if kind not in KINDS:
        raise NotFound(f"there is nothing called {kind[:60]!r} to export; known: {', '.join(KINDS)}")
    archive = archive_of(connectors)
    if archive is None:
        raise Unsupported("the archive is switched off: see [archive] in the configuration")
    job = await _job(connectors, archive, kind, query)
    form = FORMATS[job.format]
    account, spool = VISIT.get().account, current_app.extensions["spool"]

    def slot() -> ExitStack:
        taken = ExitStack()
        taken.enter_context(account.exporting())
        return taken

    is_part = request.method == "HEAD" or not PARTIAL.isdisjoint(name.lower() for name, _ in request.headers)
    spooled = spool.get(job, slot, archive.exports, is_part=is_part)
    ENDING.get().enter_context(spooled.reading())
    await spooled.begun.wait()
    if is_part:
        await spooled.whole.wait()
    if spooled.problem is not None:
        raise spooled.problem
    name = file_name(kind, job.exchange, job.symbol, job.interval, job.format)
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    if not spooled.whole.is_set():
        return _response(_Body(spooled), headers, form.content_type)
    if spooled.failure is not None:
        raise UpstreamError(f"the export broke off: {spooled.failure}")
    return _served(spooled, headers, form.content_type)


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
        limit=query.limit,
    )


RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    """`[start, end)` of one range; None where the whole is meant. Raises OutOfRange."""
    found = RANGE.fullmatch((header or "").strip())
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= size or start >= end:
        raise OutOfRange(size)
    return start, end


class OutOfRange(Exception):
    """Nothing of the file is within what was asked for."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the file has {size} bytes")
        self.size = size


def _served(spooled: Spooled, headers: dict[str, str], content_type: str) -> Response:
    """Of a file that is whole: all of it, a part, or that nothing has changed."""
    tag, size = f'"{spooled.tag}"', spooled.size
    headers = headers | {"ETag": tag, "Accept-Ranges": "bytes"}
    if is_known(tag, request.headers.get("If-None-Match", "")):
        return Response(b"", 304, headers=headers)
    condition = request.headers.get("If-Range")
    wanted = request.headers.get("Range") if condition in (None, tag) else None
    try:
        part = _range(wanted, size)
    except OutOfRange as error:
        told = problem("range_not_satisfiable", str(error))
        headers |= {"Content-Range": f"bytes */{size}"}
        body = msgspec.json.encode(told)
        return Response(body, 416, content_type="application/problem+json", headers=headers)
    start, end = part or (0, size)
    if part is not None:
        headers |= {"Content-Range": f"bytes {start}-{end - 1}/{size}"}
    response = _response(b"" if request.method == "HEAD" else _Body(spooled, start, end), headers, content_type)
    response.status_code = 200 if part is None else 206
    response.content_length = end - start
    return response


def _response(body: bytes | ResponseBody, headers: dict[str, str], content_type: str) -> Response:
    response = Response(body, content_type=content_type, headers=headers)
    response.timeout = LASTS  # a client that does not read at all is cut off by the server long before
    return response


class _Body(ResponseBody):
    """Some of a file's bytes."""

    def __init__(self, spooled: Spooled, start: int = 0, end: int | None = None) -> None:
        self._pieces = spooled.pieces(start, end)

    async def __aenter__(self) -> "_Body":
        return self

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._pieces:
            yield piece

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pieces.aclose()


ROUTES = [
    Route("/export/{kind}", *(export, p.ExportQuery, bytes, "archive", "What the archive holds, as a file")),
]
