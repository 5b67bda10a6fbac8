"""History of one exchange from archive and exchange together: what is held comes from disk, the rest is fetched.

Whatever is fetched is kept, with the range that the answer covers completely. A range counts as held only if it was
seen without a gap or fetched whole, so a hole is always asked for again; rows within a hole are given nevertheless.
An exchange may lack bars itself: what it had nothing of a day later is settled. With the bars around it such a range
is held, hole included; without them nothing is written, and it is not asked for again for a while (`nothing`).
One answer costs as many questions as its size justifies: each hole is one, and the last of them asks for all that is
left, held or not. Where the archive cannot be read, the exchange alone answers.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from actors.archive import queries
from actors.archive.archive import Archive
from actors.archive.nothing import Nothing
from actors.archive.reads import Unreadable
from actors.archive.series import (
    FAR,
    MICROSECOND,
    Piece,
    Range,
    Series,
    Write,
    event_of,
    from_us,
    merged,
    pieces,
    row_of,
    step_of,
    us,
)
from actors.events import FINAL, Event, Instrument, Ohlc, bar_end
from actors.exchanges.exchange import Exchange, Rest

QUESTIONS = 12  # put to the exchange for one answer, at most
FEW, ROWS_PER_QUESTION = 3, 100  # fewer, where the answer is small
SETTLED = timedelta(hours=1)  # older history has no rows that are still to come
SURE = timedelta(seconds=5)  # after a bar's end its last trades are in it, whichever of the exchange's servers answers

Fetch = Callable[[datetime | None, datetime | None, int], Awaitable[list[Any]]]
"""(start, end, limit) -> rows of `[start, end)` from an exchange's REST: the first, or without a start the last."""


def fetch_of(rest: Rest, series: Series, instrument: Instrument) -> Fetch:
    """How the rows of a series of FETCHABLE are asked for."""

    async def fetch(start: datetime | None, end: datetime | None, limit: int) -> list[Any]:
        asked: dict[str, Any] = {"limit": limit, "start": start, "end": end}
        match series.kind:
            case "ohlc":
                return await rest.ohlc(series.symbol, series.interval, **asked)
            case "open_interest_history":
                return await rest.open_interest_history(series.symbol, series.interval, **asked)
            case "funding_history":
                return await rest.funding_history(instrument, **asked)
        raise ValueError(f"no exchange is asked for {series.kind}")

    return fetch


def questions_for(limit: int) -> int:
    """How often the exchange may be asked for one answer of up to `limit` rows."""
    return min(QUESTIONS, FEW + limit // ROWS_PER_QUESTION)


class Recall:
    def __init__(self, archive: Archive, exchange: Exchange, now: Callable[[], datetime]) -> None:
        self.archive = archive
        self.exchange = exchange
        self._now = now  # the exchange's clock
        self._nothing = Nothing()

    def keep(
        self, series: Series, events: Sequence[Event], start: datetime | None, end: datetime | None, limit: int
    ) -> None:
        """Put what was answered to (start, end, limit) into the archive, and what it says completely."""
        now = self._now()
        final = [e for e in events if not isinstance(e, Ohlc) or (e.is_closed and _end_of(e) <= now - SURE)]
        is_whole = start is None or len(events) < limit  # nothing between the last row and the end
        not_yet = events[len(final)].timestamp if len(final) < len(events) else None
        reach = not_yet or (end if is_whole else None)
        covered = self._covered(series, final, start, reach, now)
        if final:  # that there is nothing is not believed: the exchange may have forgotten it
            self.archive.put([Write(series, [row_of(series.kind, event) for event in final], covered)])
        begin = start or (events[0].timestamp if events else reach)
        until = reach or (_end_of(final[-1]) if final else begin)
        if begin and until:
            for piece in pieces(covered, us(begin), us(until)):
                if not piece.is_held and piece.end <= us(now - FINAL):
                    self._nothing.add(series, Range(piece.start, piece.end), us(now))

    def _covered(
        self, series: Series, events: list[Event], start: datetime | None, end: datetime | None, now: datetime
    ) -> list[Range]:
        """What an answer says completely; `end`: as far as it reaches, where it reaches beyond its last row."""
        covered = []
        runs = self._runs(series, events, now - FINAL)
        # Where there would have to be bars, none means that the answer stopped too early.
        is_to_end = end is not None and end <= now - SETTLED and not self._has_every_bar(series)
        for run in runs:
            first, last = run[0].timestamp, _end_of(run[-1])
            # No row can be missing before the first one, unless the exchange has forgotten it; rates it never forgets.
            is_first = series.kind == "funding_history" or (start is not None and first < start + step_of(series))
            if run is runs[0] and start is not None and is_first:
                first = min(start, first)
            if run is runs[-1] and end is not None and is_to_end:
                last = max(last, end)
            covered.append(Range(us(first), us(last)))
        return covered

    def _has_every_bar(self, series: Series) -> bool:
        return series.kind == "ohlc" and self.exchange.has_empty_bars

    def _runs(self, series: Series, events: list[Event], final: datetime) -> list[list[Event]]:
        """The rows, cut where bars are missing that may yet come, on an exchange that makes every bar."""
        runs = [events[:1]] if events else []
        for older, newer in pairwise(events):
            if self._has_every_bar(series) and _end_of(older) != newer.timestamp and newer.timestamp > final:
                runs.append([])
            runs[-1].append(newer)
        return runs

    # --- what can be fetched

    async def answer(
        self,
        series: Series,
        fetch: Fetch,
        *,
        limit: int,
        start: datetime | None,
        end: datetime | None,
        kept: timedelta | None = None,
    ) -> list[Any]:
        """Up to `limit` rows of `[start, end)`: the first ones when `start` is given, else the last ones.

        `kept`: how far back the exchange can be asked, where it refuses questions beyond. Raises MarketError.
        """
        if series.kind not in self.archive.keep:
            return await fetch(start, end, limit)
        now = self._now()
        final = FAR if end is None else us(end)
        try:
            found = await self.coverage(series, us(start) if start else 0, final)
            if not any(piece.is_held for piece in found):
                return await fetch(start, end, limit)
            horizon = us(now - kept) if kept else 0
            if start is None:
                return await self._last(series, fetch, found, limit, end, horizon)
            return await self._first(series, fetch, found, limit, end, horizon)
        except Unreadable:
            return await fetch(start, end, limit)

    async def _first(
        self, series: Series, fetch: Fetch, found: list[Piece], limit: int, end: datetime | None, horizon: int
    ) -> list[Any]:
        rows: list[Event] = []
        left = questions_for(limit)
        for piece in found:
            missing = limit - len(rows)
            if missing <= 0:
                break
            is_rest = not piece.is_held and left == 1
            until = found[-1].end if is_rest else piece.end
            held = await self._read(series, piece.start, until, missing)
            if piece.is_held:
                rows += held
                continue
            left -= 1
            if is_rest:
                asked = await self._ask(series, fetch, max(piece.start, horizon), end, missing)
            else:
                asked = await self._ask_hole(series, fetch, piece, missing, horizon)
            if len(asked) >= missing:  # there is more, so what is held behind is not next
                held = [event for event in held if event.timestamp <= asked[-1].timestamp]
            rows += _joined(held, asked)
            if is_rest:
                break
        return rows[:limit]

    async def _last(
        self, series: Series, fetch: Fetch, found: list[Piece], limit: int, end: datetime | None, horizon: int
    ) -> list[Any]:
        rows: list[Event] = []
        left = questions_for(limit)
        told: list[Event] | None = None  # all that the exchange has up to here, once it has nothing older
        for piece in reversed(found):
            missing = limit - len(rows)
            if missing <= 0:
                break
            is_hole = not piece.is_held and told is None and piece.end > horizon
            if is_hole and left == 1:
                held = await self._read(series, found[0].start, piece.end, missing, newest=True)
                asked = await fetch(None, None if piece.end == FAR else from_us(piece.end), missing)
                if len(asked) >= missing:
                    held = [event for event in held if event.timestamp >= asked[0].timestamp]
                return _joined(held, asked)[-missing:] + rows
            held = await self._read(series, piece.start, piece.end, missing, newest=True)
            if not piece.is_held and told is not None:
                held = _joined(held, _within(told, piece))
            elif is_hole:
                left -= 1
                width = (us(self._now()) if piece.end == FAR else piece.end) - max(piece.start, horizon)
                count = max(1, min(missing, width // (step_of(series) // MICROSECOND) + 2))
                wide = self.with_neighbours(series, piece)
                count += wide.end > piece.end
                asked = await fetch(None, None if piece.end == FAR else from_us(wide.end), count)
                told = asked if len(asked) < count else None
                held = _joined(held, _within(asked, piece))
            rows = held[-missing:] + rows
        return rows

    async def _ask(self, series: Series, fetch: Fetch, start: int, end: datetime | None, limit: int) -> list[Event]:
        now = self._now()
        if start > us(now) or (end is not None and us(end) <= start):
            return []
        width = (us(now) if end is None else us(end)) - start
        count = min(limit, width // (step_of(series) // MICROSECOND) + 2)
        return await fetch(from_us(start), end, max(1, count))

    def with_neighbours(self, series: Series, hole: Piece) -> Piece:
        """A hole as it should be asked for: with a bar on each side, if these can show that there is nothing between.

        They do so where every bar is made, and none that is missing comes any more.
        """
        if not self._has_every_bar(series) or hole.end > us(self._now() - FINAL):
            return hole
        around = (timedelta(days=31) if series.interval == "1M" else step_of(series)) // MICROSECOND
        return Piece(max(0, hole.start - around), hole.end + around, False)

    async def _ask_hole(self, series: Series, fetch: Fetch, hole: Piece, limit: int, horizon: int) -> list[Event]:
        """The first `limit` rows of a hole."""
        wide = self.with_neighbours(series, hole)
        limit += 2 * (wide != hole)
        asked = await self._ask(
            series, fetch, max(wide.start, horizon), None if hole.end == FAR else from_us(wide.end), limit
        )
        return _within(asked, hole)

    async def coverage(self, series: Series, start: int, end: int) -> list[Piece]:
        """`[start, end)` cut into what is held and what is not. Raises Unreadable."""
        found = await self.archive.reads.ask(lambda connection: queries.coverage(connection, series, start, end))
        nothing = merged(self._nothing.ranges(series, us(self._now())))
        # A hole that was empty in a part only is asked for as a whole, with the bars around it.
        return [
            piece._replace(is_held=piece.is_held or any(a <= piece.start and piece.end <= b for a, b in nothing))
            for piece in found
        ]

    async def _read(self, series: Series, start: int, end: int, limit: int, *, newest: bool = False) -> list[Event]:
        rows = await self.archive.reads.ask(
            lambda connection: queries.read(connection, series, start, end, limit, newest=newest)
        )
        return [event_of(series, row) for row in rows]


def _end_of(event: Event) -> datetime:
    """The earliest time of the next row."""
    return bar_end(event.timestamp, event.interval) if isinstance(event, Ohlc) else event.timestamp + MICROSECOND


def _within(events: Sequence[Event], piece: Piece) -> list[Event]:
    return [event for event in events if piece.start <= us(event.timestamp) < piece.end]


def _joined(held: Sequence[Event], asked: Sequence[Event]) -> list[Event]:
    """Both, by time; the exchange's word of now counts for more."""
    rows = {event.timestamp: event for event in held} | {event.timestamp: event for event in asked}
    return [rows[time] for time in sorted(rows)]
