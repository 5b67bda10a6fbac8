"""What only this daemon saw, and nobody tells again: from the archive, and from memory what is not there yet."""

from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from actors.archive import flows, queries, store
from actors.archive.archive import Archive
from actors.archive.flows import Sums
from actors.archive.reads import Unreadable
from actors.archive.series import FAR, MICROSECOND, Row, Series, event_of, us
from actors.errors import NotReady
from actors.events import INTERVALS, LargeTrade, Liquidation, OpenInterest
from actors.exchanges.exchange import Exchange
from actors.feeds.derivation import DERIVABLE

VALUE = 4  # its place in the rows of both kinds
LATE = timedelta(seconds=3)  # after the end of a period its last sample is there

S = TypeVar("S", Liquidation, LargeTrade)


def with_sampled_interest(exchange: Exchange, kept: Collection[str]) -> Exchange:
    """An exchange without a history of open interest has one from the day that the archive began to keep samples.

    `kept`: the kinds that the archive keeps.
    """
    can = exchange.capabilities
    if "open_interest" not in kept or not can.get("open_interest") or can.get("open_interest_history"):
        return exchange
    return replace(
        exchange,
        capabilities={**can, "open_interest_history": "partial"},
        open_interest_periods=tuple(name for name in exchange.intervals if name in DERIVABLE),
    )


async def sampled(
    archive: Archive,
    series: Series,
    period: str,
    *,
    limit: int,
    start: datetime | None,
    end: datetime | None,
    now: datetime,
) -> list[OpenInterest]:
    """Open interest at the ends of periods, from samples: the last one of each period that is over and has any.

    Ascending: the first rows of `[start, end)` where there is a start, else the last ones. Raises NotReady.
    """
    length = INTERVALS[period] // MICROSECOND
    await archive.flush()
    # The row at T is made of [T - length, T): ranges of rows become ranges of samples.
    first = 0 if start is None else max(0, _ceil(us(start), length) - length)
    last = us(now - LATE) // length * length
    if end is not None:
        last = min(last, _ceil(us(end), length) - length)
    try:
        rows: list[Row] = await archive.reads.ask(
            lambda connection: queries.last_of_periods(
                connection, series, first, last, length, limit, newest=start is None
            )
        )
    except Unreadable as error:
        raise NotReady(str(error)) from error
    return [event_of(series, (row[0] // length * length + length, *row[1:])) for row in rows]


def _ceil(time: int, length: int) -> int:
    return -(-time // length) * length


class Seen(Generic[S]):
    """Liquidations or large trades of one symbol."""

    def __init__(self, archive: Archive | None, series: Series, memory: Iterable[S]) -> None:
        self._archive = archive if archive is not None and series.kind in archive.keep else None
        self.series = series
        self._memory: Iterable[S] = memory  # the latest, ascending

    async def events(self, *, limit: int, start: datetime | None, end: datetime | None, least: float) -> list[S]:
        """Each as often as it happened, ascending, of at least a value.

        The first `limit` of `[start, end)` where there is a start, else the last ones.
        """
        series, (begin, final) = self.series, _bounds(start, end)
        rows: list[Row] = []
        waiting: list[Row] = []
        if self._archive is not None:
            found = self._archive.pending_rows(series)  # before the file is read: what is written by then is in both
            waiting = [row for row in found if begin <= row[0] < final and row[VALUE] >= least]
            with suppress(Unreadable):  # memory alone, then; /health says so
                rows = await self._archive.reads.ask(
                    lambda connection: queries.read(
                        connection, series, begin, final, limit, newest=start is None, least=least
                    )
                )
        kept: list[S] = [event_of(series, row) for row in dict.fromkeys((*rows, *waiting))]
        # Equal ones happened as often as either has them: one may have forgotten, the other not written yet.
        both: Counter[S] = Counter(kept) | Counter(flows.within(self._memory, start, end, least))
        events = sorted(both.elements(), key=lambda event: event.timestamp)
        return events[:limit] if start is not None else events[-limit:]

    async def bars(self, interval: str, *, limit: int, start: datetime | None, end: datetime | None) -> list[Sums]:
        """Sums per bar of what happened within `[start, end)`: the first bars where there is a start, else the last."""
        length = INTERVALS[interval] // MICROSECOND
        found = None if self._archive is None else await self._kept_bars(self._archive, length, limit, start, end)
        if found is None:
            found = flows.of_events(flows.within(self._memory, start, end), length)
        return found[:limit] if start is not None else found[-limit:]

    async def _kept_bars(
        self, archive: Archive, length: int, limit: int, start: datetime | None, end: datetime | None
    ) -> list[Sums] | None:
        """None where the archive cannot be read."""
        series, (begin, final) = self.series, _bounds(start, end)
        await archive.flush()
        waiting = [row for row in archive.pending_rows(series) if begin <= row[0] < final]

        def query(connection: store.Connection) -> tuple[list[Sums], list[Row]]:
            # What waited before the file is read is either in it by then or not: as of one moment, which.
            with store.snapshot(connection):
                found = queries.sums(connection, series, begin, final, length, limit, newest=start is None)
                return found, queries.unwritten(connection, series, waiting)

        try:
            found, unwritten = await archive.reads.ask(query)
        except Unreadable:
            return None
        return flows.added(found, flows.of_rows(unwritten, length))


def _bounds(start: datetime | None, end: datetime | None) -> tuple[int, int]:
    return (0 if start is None else us(start)), (FAR if end is None else us(end))
