"""Fetches what the archive has missed, within the request budget: recent holes by itself, any range when told to."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

import structlog
import trio

from actors.archive.reads import Unreadable
from actors.archive.recall import Fetch, Recall, fetch_of
from actors.archive.series import Piece, Series, from_us, step_of, us
from actors.errors import MarketError, UpstreamGeoBlocked, UpstreamLimited, UpstreamTimeout
from actors.events import Event, Instrument, bar_end
from actors.exchanges.exchange import Rest
from actors.upstream.rest import Unreachable
from actors.upstream.way import NoWay

AFTER = 60.0  # seconds from the start: feeds load their own history first, and the archive gets that too
OF_THE_HOST = (UpstreamLimited, UpstreamGeoBlocked, UpstreamTimeout, Unreachable, NoWay)  # whatever it is asked for
PACE = 2.0  # seconds between two series: polling and the feeds wait in the same line for the budget
EVERY = 3600.0  # seconds; what exchanges do not push is fetched so often
BACK = timedelta(days=28)  # older holes are left to `marketd backfill`
FIRST_ROWS = 500  # of a series that nothing is held of yet
PAGE = 1000  # rows of one request, where the exchange has no smaller pages itself
FUNDING_PAGE = 500
INTEREST_PAGE = 500

Progress = Callable[[datetime, int], None]
"""(up to where it has come, rows of the last page)."""

Wanted = tuple[Instrument, tuple[str, ...]]
"""An instrument and the bars that are kept of it."""

log = structlog.get_logger()


def page_of(series: Series) -> int:
    """Rows to ask for at a time: one request, or few."""
    return {"open_interest_history": INTEREST_PAGE, "funding_history": FUNDING_PAGE}.get(series.kind, PAGE)


async def fill(recall: Recall, series: Series, fetch: Fetch, holes: Iterable[Piece], progress: Progress) -> None:
    """Fetch holes page by page, each on disk before the next is asked for. Raises MarketError.

    Only an answer without rows ends a hole early: a short one may be as much as the exchange tells at a time. Where the
    exchange has nothing, nothing is said to be held.
    """
    for hole in holes:
        wide = recall.with_neighbours(series, hole)
        at, end = from_us(wide.start), from_us(wide.end)
        while at < end:
            rows = await fetch(at, end, page_of(series))
            await recall.archive.flush()
            is_over = not rows or rows[-1].timestamp < at  # or not what was asked for
            at = end if is_over else _after(series, rows[-1])
            progress(at, len(rows))


def _after(series: Series, last: Event) -> datetime:
    """From where on there may be more rows."""
    if series.kind == "funding_history":  # settled a little early or late: the step may be too long
        return last.timestamp + timedelta(milliseconds=1)
    return bar_end(last.timestamp, series.interval)


class Refill:
    """Keeps one exchange's series free of recent holes."""

    def __init__(
        self, recall: Recall, rest: Rest, now: Callable[[], datetime], wanted: Callable[[], list[Wanted]]
    ) -> None:
        self._recall, self._rest, self._now, self._wanted = recall, rest, now, wanted
        self._asked: set[tuple[Series, Piece]] = set()  # holes that the exchange was asked for already

    async def run(self) -> None:
        """For ever. Raises MarketError where the host answers nobody; a series that errs waits for the next round."""
        await trio.sleep(AFTER)
        while True:
            oldest = us(self._now() - BACK)
            self._asked = {(series, piece) for series, piece in self._asked if piece.end >= oldest}
            for instrument, intervals in self._wanted():
                for series in self._series(instrument, intervals):
                    try:
                        await self._fill(series, instrument)
                    except MarketError as error:
                        if isinstance(error, OF_THE_HOST) or error.retry_after is not None:
                            raise
                        where = {"exchange": series.exchange, "symbol": series.symbol, "kind": series.kind}
                        log.info("archive.not_filled", **where, reason=str(error))
                        await trio.sleep(PACE)
            await trio.sleep(EVERY)

    def _series(self, instrument: Instrument, intervals: Iterable[str]) -> list[Series]:
        exchange, keep = self._recall.exchange, self._recall.archive.keep
        where = (exchange.name, instrument.symbol)
        found = [Series("ohlc", *where, interval) for interval in intervals]
        if exchange.capabilities.get("open_interest_history") is True:
            found.append(Series("open_interest_history", *where, exchange.open_interest_periods[0]))
        if exchange.capabilities.get("funding_rate_history") and instrument.funding_interval_hours is not None:
            found.append(Series("funding_history", *where))
        return [series for series in found if series.kind in keep]

    async def _fill(self, series: Series, instrument: Instrument) -> None:
        now = self._now()
        start, end = now - BACK, now - 2 * step_of(series) if series.kind == "ohlc" else now
        try:
            found = await self._recall.coverage(series, us(start), us(end))
        except Unreadable:
            return  # the next look will tell
        if not any(piece.is_held for piece in found):
            if series.kind == "ohlc":
                return  # its feed has not loaded yet
            start = max(start, now - FIRST_ROWS * step_of(series))
            found = [Piece(us(start), us(end), False)]
        elif not found[0].is_held:
            del found[0]  # before the archive began
        holes = [piece for piece in found if not piece.is_held and (series, piece) not in self._asked]
        rows: list[int] = []
        await fill(self._recall, series, fetch_of(self._rest, series, instrument), holes, lambda _, n: rows.append(n))
        # What ends now is another hole the next time.
        self._asked.update((series, piece) for piece in holes if piece.end < us(end))
        await trio.sleep(PACE if holes else 0)
        if sum(rows) and series.kind == "ohlc":
            log.info("archive.filled", exchange=series.exchange, symbol=series.symbol, kind=series.kind, rows=sum(rows))
