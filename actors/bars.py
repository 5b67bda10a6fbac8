"""The bars of one symbol and interval: what is held, what may be published, what must be fetched. No I/O.

Two concerns meet here. What readers saw (`_last`): bars in order, each closed exactly once, holes announced. What is
held (`rows`): a contiguous run that answers requests from memory. Time is the exchange's: `pushed_at`, never a clock.
"""

from collections import deque
from datetime import datetime, timedelta
from itertools import islice, pairwise

from actors.events import Gap, Ohlc, bar_end
from actors.exchange import Exchange

GRACE = timedelta(seconds=5)  # a quiet symbol's closing frame comes about 2 s after its bar's end
RETRY = timedelta(seconds=30)  # before a bar that the exchange did not have is asked for again


class Bars:
    def __init__(self, exchange: Exchange, symbol: str, interval: str) -> None:
        self._exchange, self._symbol, self._interval = exchange, symbol, interval
        self.history = exchange.history
        self.rows: deque[Ohlc] = deque(maxlen=self.history)  # ascending, contiguous; the last one may be open
        self.is_whole = False  # `rows` begins with the symbol's first bar
        self.needs_load = True  # `rows` does not yet reach as far back as it should
        self.repair_from: datetime | None = None  # closed bars since then were missed and must be fetched
        self.late = 0  # updates dropped as duplicates or out of order
        self._last: Ohlc | None = None  # the newest bar that readers were told of
        self._pushed_at: datetime | None = None  # of the last stream update; None before the first
        self._held: list[tuple[Ohlc, datetime]] = []  # updates that wait for a repair
        self.due: datetime | None = None  # exchange time by which the next bar should have closed
        self._interrupted = False  # the open bar may have changed while nobody listened

    def successor(self) -> "Bars":
        """Bars for the feed's next run: nothing is held, but what readers were told is not told again."""
        bars = Bars(self._exchange, self._symbol, self._interval)
        bars._last, bars._pushed_at, bars.due = self._last, self._pushed_at, self.due
        return bars

    def apply(self, bar: Ohlc, pushed_at: datetime) -> list[Ohlc]:
        """A stream update; returns what to publish now. Sets `repair_from` when a bar's close was missed."""
        if self.repair_from is not None:
            self._hold(bar, pushed_at)
            return []
        last = self._last
        if last is not None:
            if self._pushed_at is None and bar.timestamp < last.timestamp:
                last = None  # only REST was heard so far, and the stream is behind it: the stream decides
            elif self._is_late(bar, last, pushed_at):
                self.late += 1
                return []
        if last is not None and bar.timestamp > last.timestamp:
            end = bar_end(last.timestamp, self._interval)
            if bar.timestamp != end or not (last.is_closed or self._closes_by_next()):
                self.repair_from = end if last.is_closed else last.timestamp
                self._hold(bar, pushed_at)
                return []
            if not last.is_closed:
                return [self._close(last), *self._accept(bar, pushed_at)]
        return self._accept(bar, pushed_at)

    def _accept(self, bar: Ohlc, pushed_at: datetime) -> list[Ohlc]:
        self._interrupted = False  # every update carries the whole bar
        self._pushed_at = pushed_at
        self._tell(bar)
        self._remember(bar)
        return [bar]

    def _closes_by_next(self) -> bool:
        """The exchange never says that a bar is final, and we heard all of this one."""
        return not self._exchange.closes_bars and not self._interrupted

    def _close(self, bar: Ohlc) -> Ohlc:
        closed = _closed(bar)
        self._tell(closed)
        self._remember(closed)
        return closed

    def interrupt(self) -> None:
        """The connection was lost: what is known of the open bar may not be all of it."""
        self._interrupted = True

    def _hold(self, bar: Ohlc, pushed_at: datetime) -> None:
        """Keep an update until the repair ends: of each bar the newest, since only that one matters afterwards."""
        if not self._held:
            self._held.append((bar, pushed_at))
            return
        newest, at = self._held[-1]
        is_newer = bar.timestamp > newest.timestamp
        if pushed_at < at or bar.timestamp < newest.timestamp or (newest.is_closed and not is_newer):
            self.late += 1
        elif is_newer:
            self._held.append((bar, pushed_at))
        else:
            self._held[-1] = (bar, pushed_at)

    def _is_late(self, bar: Ohlc, last: Ohlc, pushed_at: datetime) -> bool:
        if bar.timestamp < last.timestamp or (self._pushed_at is not None and pushed_at < self._pushed_at):
            return True
        same_bar = bar.timestamp == last.timestamp
        return same_bar and (last.is_closed or (pushed_at == self._pushed_at and bar == last))

    def notice(self, exchange_time: datetime) -> list[Ohlc]:
        """Time passed at the exchange. A bar that is overdue is closed where we may, else `repair_from` is set."""
        last = self._last
        if last is None or self.due is None or exchange_time < self.due or self.repair_from is not None:
            return []
        if not last.is_closed and self._closes_by_next():
            return [self._close(last)]
        self.repair_from = bar_end(last.timestamp, self._interval) if last.is_closed else last.timestamp
        return []

    def loaded(self, rows: list[Ohlc]) -> list[Ohlc]:
        """The newest bars arrived; returns what to publish: the current bar, if the stream has not spoken yet."""
        self.needs_load = False
        self.is_whole = len(rows) < self.history
        rows = _contiguous_tail(rows, self._interval)
        if self._pushed_at is None:
            self.rows = deque(rows, maxlen=self.history)
            current = self.rows[-1] if self.rows else None
            if current is None or self._last is not None:
                return []
            self._tell(current)
            return [current]
        streamed = list(self.rows)
        first = streamed[0].timestamp if streamed else None
        older = [row for row in rows if first is None or row.timestamp < first]
        if older and first is not None and bar_end(older[-1].timestamp, self._interval) != first:
            self.is_whole = False
            return []  # they do not join: what the stream built stands alone
        self.rows = deque([*older, *streamed], maxlen=self.history)
        return []

    def repaired(self, rows: list[Ohlc], now: datetime, reason: str) -> list[Ohlc | Gap]:
        """The missed range arrived; returns its closed bars and what waited behind them, in order.

        What the rows do not cover is announced as an unrepaired gap.
        """
        start, held = self._end_repair()
        told: list[Ohlc | Gap] = []
        self.due = now + RETRY  # in case nothing is found: the exchange has not made the bar yet
        until = held[0][0].timestamp if held else None
        found = [row for row in rows if row.timestamp >= start and (row.timestamp < until if until else row.is_closed)]
        expected = start
        for row in found:
            if row.timestamp != expected:
                told.append(self._gap(expected, row.timestamp, now, reason, repaired=False))
            expected = bar_end(row.timestamp, self._interval)
        if found:
            told.append(self._gap(start, expected, now, reason, repaired=True))
        for row in found:
            told.append(self._close(row))  # newer bars exist, so it is over whatever the exchange's clock says
        if until is not None and expected != until:
            told.append(self._gap(expected, until, now, reason, repaired=False))
            self._last = None
        return [*told, *self._release(held)]

    def abandon(self, now: datetime, reason: str) -> list[Ohlc | Gap]:
        """The missed range cannot be had: say so once, and go on with what waited."""
        start, held = self._end_repair()
        until = held[0][0].timestamp if held else now
        self._last = None
        self.due = None
        self._forget()
        if until <= start:
            return [*self._release(held)]
        return [self._gap(start, until, now, reason, repaired=False), *self._release(held)]

    def _end_repair(self) -> tuple[datetime, list[tuple[Ohlc, datetime]]]:
        if self.repair_from is None:
            raise RuntimeError("no repair is under way")
        start, held = self.repair_from, self._held
        self.repair_from, self._held = None, []
        return start, held

    def _forget(self) -> None:
        """`rows` must be one run: after a hole it starts anew and is loaded again."""
        self.rows.clear()
        self.is_whole = False
        self.needs_load = True

    def _release(self, held: list[tuple[Ohlc, datetime]]) -> list[Ohlc]:
        return [bar for update in held for bar in self.apply(*update)]

    def _gap(self, start: datetime, end: datetime, now: datetime, reason: str, *, repaired: bool) -> Gap:
        return Gap(
            exchange=self._exchange.name,
            symbol=self._symbol,
            timestamp=now,
            start=start,
            end=end,
            reason=reason,
            repaired=repaired,
        )

    def _tell(self, bar: Ohlc) -> None:
        self._last = bar
        due = bar_end(bar.timestamp, self._interval)
        self.due = (bar_end(due, self._interval) if bar.is_closed else due) + GRACE

    def _remember(self, bar: Ohlc) -> None:
        rows = self.rows
        if not rows:
            rows.append(bar)
            return
        newest = rows[-1]
        if bar.timestamp == newest.timestamp:
            if bar.is_closed or not newest.is_closed:
                rows[-1] = bar
        elif bar.timestamp == bar_end(newest.timestamp, self._interval):
            rows.append(bar)
        elif bar.timestamp > newest.timestamp:
            self._forget()
            rows.append(bar)
        elif len(rows) > 1 and rows[-2].timestamp == bar.timestamp and bar.is_closed:
            rows[-2] = bar  # REST was ahead of the stream by one bar

    def _is_ready(self) -> bool:
        return bool(self.rows) and not self.needs_load and self.repair_from is None

    def newest(self, limit: int) -> list[Ohlc] | None:
        """The last `limit` bars; None where memory does not reach that far back."""
        if not self._is_ready() or (len(self.rows) < limit and not self.is_whole):
            return None
        return list(islice(self.rows, max(0, len(self.rows) - limit), None))

    def between(self, start: datetime, end: datetime | None, limit: int) -> list[Ohlc] | None:
        """The first `limit` bars of `[start, end)`; None where memory does not hold them all."""
        if not self._is_ready():
            return None
        if start < self.rows[0].timestamp and not self.is_whole:
            return None
        found = (row for row in self.rows if row.timestamp >= start and (end is None or row.timestamp < end))
        return list(islice(found, limit))


def _contiguous_tail(rows: list[Ohlc], interval: str) -> list[Ohlc]:
    """The longest run without a hole that ends with the newest row."""
    first = 0
    for index, (older, newer) in enumerate(pairwise(rows), start=1):
        if bar_end(older.timestamp, interval) != newer.timestamp:
            first = index
    return rows[first:]


def _closed(bar: Ohlc) -> Ohlc:
    if bar.is_closed:
        return bar
    return Ohlc(**{name: getattr(bar, name) for name in bar.__struct_fields__ if name != "is_closed"}, is_closed=True)
