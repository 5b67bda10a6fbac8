"""The bars of one symbol and interval: what is held, what may be published, what must be fetched. No I/O.

Two concerns meet here. What readers were told: bars in order, each closed exactly once, holes announced; all of it
hangs on `_expected`, the open of the next bar whose end they have yet to hear. And what is held: `rows`, a run that
answers requests from memory, without holes but for the exchange's own. Time is the exchange's own (`pushed_at`, `now`),
never a clock of ours.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from msgspec import structs

from actors.events import FINAL, Gap, Ohlc, bar_end
from actors.exchanges.exchange import Exchange
from actors.feeds.rows import Rows

GRACE = timedelta(seconds=5)  # a quiet symbol's closing frame comes about 2 s after its bar's end
RETRY = timedelta(seconds=30)  # before a bar that the exchange did not have is asked for again


class _Held(NamedTuple):
    """An update that waits for a repair."""

    bar: Ohlc
    pushed_at: datetime
    was_interrupted: bool  # between the bar before it and this one


class Bars:
    def __init__(self, exchange: Exchange, symbol: str, interval: str) -> None:
        self._exchange, self._symbol, self._interval = exchange, symbol, interval
        self.history = exchange.history
        self._is_unstamped = "ohlc" in exchange.unstamped  # updates do not say which one is the newer
        self.rows = self._rows()  # ascending; the last one may be open
        self.is_whole = False  # `rows` begins with the symbol's first bar
        self.needs_load = True  # `rows` does not yet reach as far back as it should
        self.settles_at: datetime | None = None  # when a hole right before `rows` is known for the exchange's own
        self.repair_from: datetime | None = None  # closed bars since then were missed and must be fetched
        self._final_before: datetime | None = None  # older bars were over when the repair was asked for
        self.late = 0  # updates dropped as duplicates or out of order
        self.due: datetime | None = None  # the exchange time by which the expected bar should have closed
        self._expected: datetime | None = None  # None until readers were told anything
        self._last: Ohlc | None = None  # the newest bar that they were told of
        self._is_provisional = False  # all they were told came from REST, which may be ahead of the stream
        self._pushed_at: datetime | None = None  # of the last stream update; None before the first
        self._held: list[_Held] = []
        self._interrupted = False  # the newest bar may have changed while nobody listened
        self._is_outdated = False  # so it may, and what is held of it is no answer

    def _rows(self, rows: Iterable[Ohlc] = ()) -> Rows:
        return Rows((self._exchange.name, self._symbol, self._interval), self.history, rows)

    def successor(self) -> "Bars":
        """Bars for the feed's next run: nothing is held, but what readers were told is not told again."""
        bars = Bars(self._exchange, self._symbol, self._interval)
        bars._expected, bars._last, bars.due = self._expected, self._last, self.due
        bars._is_provisional, bars._pushed_at = self._is_provisional, self._pushed_at
        bars.late = self.late
        bars._interrupted = True
        return bars

    # --- what the stream says ---

    def apply(self, bar: Ohlc, pushed_at: datetime) -> list[Ohlc]:
        """A stream update; returns what to publish now. Sets `repair_from` when a bar's close was missed."""
        if self.repair_from is not None:
            self._hold(bar, pushed_at)
            return []
        expected = self._expected
        if self._is_provisional and self._last is not None and bar.timestamp < self._last.timestamp:
            expected = None  # the stream is behind REST, and it is the stream that readers follow
        elif self._is_late(bar, pushed_at):
            self.late += 1
            return []
        told: list[Ohlc] = []
        if expected is not None and bar.timestamp > expected and not self._was_quiet():
            if not self._may_close() or not self._follows(expected, bar.timestamp):
                self.repair_from, self._final_before = expected, bar.timestamp
                self._hold(bar, pushed_at)
                return []
            told = [self._close_last()]
        self._interrupted = self._is_outdated = False  # every update carries the whole bar
        self._pushed_at = pushed_at
        self._tell(bar)
        return [*told, bar]

    def _is_late(self, bar: Ohlc, pushed_at: datetime) -> bool:
        if self._expected is not None and bar.timestamp < self._expected:
            return True
        if self._pushed_at is None:
            return False
        if self._is_unstamped and not (self._interrupted or bar.is_closed):
            last = self._last
            if last is not None and bar.timestamp == last.timestamp and bar.volume < last.volume:
                return True  # an older update: the volume of a bar only grows
        return pushed_at < self._pushed_at or (pushed_at == self._pushed_at and bar == self._last)

    def _may_close(self) -> bool:
        """The expected bar is known, all of it, and on this exchange only the next bar or the clock can close it."""
        is_known = self._last is not None and self._last.timestamp == self._expected
        return is_known and not self._exchange.closes_bars and not self._interrupted

    def _was_quiet(self) -> bool:
        """The expected bar has not begun; that nothing was heard of it means, on this exchange, that nothing traded."""
        has_begun = self._last is not None and self._last.timestamp == self._expected
        return not self._exchange.has_empty_bars and not has_begun and not self._interrupted

    def _follows(self, older: datetime, newer: datetime) -> bool:
        """No bar is missing between two opens, as far as the exchange makes bars at all."""
        return newer == bar_end(older, self._interval) or (newer > older and not self._exchange.has_empty_bars)

    def _close_last(self) -> Ohlc:
        if self._last is None:
            raise RuntimeError("there is no bar to close")
        closed = _closed(self._last)
        self._tell(closed)
        return closed

    def _hold(self, bar: Ohlc, pushed_at: datetime) -> None:
        """Keep an update until the repair ends: of each bar the newest, since only that one matters afterwards."""
        if self._held:
            newest, at, was_interrupted = self._held[-1]
            is_late = pushed_at < at or bar.timestamp < newest.timestamp
            is_late |= newest.is_closed and bar.timestamp == newest.timestamp
        else:
            newest, was_interrupted = None, self._interrupted
            is_late = self.repair_from is not None and bar.timestamp < self.repair_from
            is_late |= self._pushed_at is not None and pushed_at < self._pushed_at
        if is_late:
            self.late += 1
        elif newest is not None and bar.timestamp == newest.timestamp:
            self._held[-1] = _Held(bar, pushed_at, was_interrupted)
            self._interrupted = False
        else:
            self._held.append(_Held(bar, pushed_at, self._interrupted))
            self._interrupted = False

    def interrupt(self) -> None:
        """The connection was lost: what is known of the open bar may not be all of it."""
        self._interrupted = self._is_outdated = True

    def notice(self, now: datetime) -> list[Ohlc]:
        """Time passed at the exchange. A bar that is overdue is closed where we may, else `repair_from` is set."""
        if self.due is None or now < self.due or self.repair_from is not None:
            return []
        if self._may_close():
            return [self._close_last()]
        if self._was_quiet():
            self.due = now + RETRY
            return []
        self.repair_from, self._final_before = self._expected, None
        return []

    # --- what REST says ---

    def loaded(self, rows: list[Ohlc]) -> list[Ohlc]:
        """The newest bars arrived; returns what to publish: the current bar, if readers were told nothing yet.

        `needs_load` stays set where they do not reach up to what the stream built meanwhile.
        """
        run = self._settled_tail(rows)
        is_whole = len(run) == len(rows) < self.history
        self.settles_at = run[0].timestamp + FINAL if len(run) < len(rows) else None
        self.needs_load = False
        first = self.rows.first_open
        if first is None:
            self.rows = self._rows(run)
            self.is_whole = is_whole
        else:
            older = [row for row in run if row.timestamp < first]
            if older and (not older[-1].is_closed or not self._reaches(run, older[-1], first)):
                self.needs_load = True
            else:
                fits = len(older) + len(self.rows) <= self.history
                self.is_whole = is_whole and fits and (not run or run[0].timestamp <= first)
                self.rows = self._rows([*older, *self.rows])
        current = self.rows.last
        if self._expected is not None or current is None:
            return []
        self._is_provisional = True
        self._interrupted = True
        self._last, self._expected = current, self._after(current)
        self._set_due()
        return [current]

    def _reaches(self, run: list[Ohlc], older: Ohlc, first: datetime) -> bool:
        """REST's rows join those that begin at `first`: by their opens, or because they were made later."""
        return bar_end(older.timestamp, self._interval) == first or run[-1].timestamp >= first

    def repaired(self, rows: list[Ohlc], now: datetime, reason: str) -> list[Ohlc | Gap]:
        """The missed range arrived; returns its closed bars and what waited behind them, in order.

        What the rows do not cover is announced as an unrepaired gap, unless it may still come: a bar that was open when
        REST answered, or one that nothing newer has followed yet.
        """
        start, held = self._end_repair()
        told: list[Ohlc | Gap] = []
        until = held[0].bar.timestamp if held else None
        if until == start:  # the stream itself delivered what was overdue
            return [*self._release(held)]
        self.due = now + RETRY  # in case nothing is found
        missed = [row for row in rows if row.timestamp >= start and (until is None or row.timestamp < until)]
        for run in self._runs([_closed(row) for row in missed if self._is_final(row)]):
            if run[0].timestamp != self._expected:
                told += self._skip(run[0].timestamp, now, reason)
            told.append(self._gap(run[0].timestamp, bar_end(run[-1].timestamp, self._interval), now, reason, True))
            for row in run:
                self._tell(row)
                told.append(row)
        may_still_come = any(row.timestamp == self._expected for row in missed)
        if until is not None and self._expected != until and not may_still_come:
            told += self._skip(until, now, reason)
        if not held and not may_still_come and not self._exchange.has_empty_bars:
            self._interrupted = False  # nothing traded until now
        return [*told, *self._release(held)]

    def lacks(self, rows: list[Ohlc]) -> bool:
        """REST's answer ends before a bar that the stream shows to be over: it lags, and is to be asked again."""
        start, until = self.repair_from, self._held[0].bar.timestamp if self._held else None
        if start is None or until is None or until <= start:
            return False
        over = [row.timestamp for row in rows if start <= row.timestamp < until and self._is_final(row)]
        if self._exchange.has_empty_bars:
            return not over or bar_end(over[-1], self._interval) != until
        has_begun = self._last is not None and self._last.timestamp == start
        return has_begun and start not in over

    def _skip(self, until: datetime, now: datetime, reason: str) -> list[Gap]:
        """REST answered without the expected bars: lost, or never made where nothing traded."""
        has_begun = self._last is not None and self._last.timestamp == self._expected
        if self._exchange.has_empty_bars or has_begun:
            return [self._lose(until, now, reason)]
        self._expected = until
        self._set_due()
        return []

    def _is_final(self, row: Ohlc) -> bool:
        """As the exchange says; where it does not, by its clock, or because the stream had gone on to newer bars."""
        if row.is_closed or self._exchange.says_closed:
            return row.is_closed
        return self._final_before is not None and row.timestamp < self._final_before

    def abandon(self, now: datetime, reason: str) -> list[Ohlc | Gap]:
        """The missed range cannot be had: say so once, and go on with what waited."""
        start, held = self._end_repair()
        until = held[0].bar.timestamp if held else start
        while not held and bar_end(until, self._interval) <= now:
            until = bar_end(until, self._interval)
        lost = [self._lose(until, now, reason)] if until > start else []
        return [*lost, *self._release(held)]

    def _end_repair(self) -> tuple[datetime, list[_Held]]:
        if self.repair_from is None:
            raise RuntimeError("no repair is under way")
        start, held = self.repair_from, self._held
        self.repair_from, self._held = None, []
        return start, held

    def _release(self, held: list[_Held]) -> list[Ohlc]:
        interrupted_since = self._interrupted
        told: list[Ohlc] = []
        for bar, pushed_at, was_interrupted in held:
            self._interrupted = was_interrupted
            told += self.apply(bar, pushed_at)
        if held:
            self._interrupted = interrupted_since
        return told

    def _lose(self, until: datetime, now: datetime, reason: str) -> Gap:
        """What is expected will not come: go on at `until`, with a memory that begins there."""
        if self._expected is None:
            raise RuntimeError("nothing is expected")
        gap = self._gap(self._expected, until, now, reason, False)
        self._expected, self._last = until, None
        self._set_due()
        self._forget()
        return gap

    def _gap(self, start: datetime, end: datetime, now: datetime, reason: str, repaired: bool) -> Gap:
        return Gap(
            exchange=self._exchange.name,
            symbol=self._symbol,
            timestamp=now,
            start=start,
            end=end,
            reason=reason,
            repaired=repaired,
        )

    # --- what readers were told, and what is held ---

    def _tell(self, bar: Ohlc) -> None:
        self._is_provisional = False
        self._last, self._expected = bar, self._after(bar)
        self._set_due()
        self._remember(bar)

    def _after(self, bar: Ohlc) -> datetime:
        return bar_end(bar.timestamp, self._interval) if bar.is_closed else bar.timestamp

    def _set_due(self) -> None:
        if self._expected is not None:
            self.due = bar_end(self._expected, self._interval) + GRACE

    def _forget(self) -> None:
        """After a hole `rows` starts anew and is loaded again: the exchange may have what is missing."""
        self.rows.clear()
        self.is_whole = False
        self.needs_load = True

    def _remember(self, bar: Ohlc) -> None:
        newest, before = self.rows.last, self.rows.before_last
        if newest is None:
            self.rows.append(bar)
        elif bar.timestamp == newest.timestamp:
            if bar.is_closed or not newest.is_closed:
                self.rows.replace(bar)
        elif bar.timestamp > newest.timestamp:
            if not newest.is_closed or not self._follows(newest.timestamp, bar.timestamp):
                self._forget()
            elif len(self.rows) == self.history:
                self.is_whole = False
            self.rows.append(bar)
        elif before is not None and before.timestamp == bar.timestamp and bar.is_closed:
            self.rows.replace(bar, before_last=True)  # REST was ahead of the stream by one bar

    def _runs(self, rows: list[Ohlc]) -> list[list[Ohlc]]:
        """The rows cut at every hole."""
        runs = [rows[:1]] if rows else []
        for older, newer in pairwise(rows):
            if self._follows(older.timestamp, newer.timestamp):
                runs[-1].append(newer)
            else:
                runs.append([newer])
        return runs

    def unheard(self, now: datetime) -> datetime | None:
        """When the bar opened that began a while ago without a word of the stream, which waits for a first trade."""
        newest = self.rows.last
        if newest is None or not newest.is_closed or not self._exchange.has_empty_bars:
            return None
        opened = bar_end(newest.timestamp, self._interval)
        return opened if opened + GRACE <= now else None

    def begun(self, rows: list[Ohlc]) -> None:
        """REST tells of it: it is held, and readers hear of it when the stream says something."""
        for row in rows:
            newest = self.rows.last
            if newest is not None and newest.is_closed and row.timestamp == bar_end(newest.timestamp, self._interval):
                self.rows.append(row)

    def _settled_tail(self, rows: list[Ohlc]) -> list[Ohlc]:
        """The rows behind the last hole that the exchange may yet fill. Older holes are its own, and are held."""
        begins = 0
        for at, (older, newer) in enumerate(pairwise(rows), 1):
            if not self._follows(older.timestamp, newer.timestamp) and rows[-1].timestamp - newer.timestamp < FINAL:
                begins = at
        return rows[begins:]

    def has_settled(self, now: datetime) -> bool:
        """A hole that kept older bars from being held has become the exchange's own: they may be loaded."""
        return self.settles_at is not None and now >= self.settles_at

    @property
    def is_unsure(self) -> bool:
        """What is known of the newest bars may not be all of it."""
        return self.repair_from is not None or self._interrupted

    @property
    def current(self) -> Ohlc | None:
        """The newest bar that readers were told of: what REST has beyond it is yet to be told, in its order."""
        return self._last

    # --- answers from memory; None means: ask the exchange ---

    def _is_ready(self) -> bool:
        is_current = self.repair_from is None and not self._is_outdated
        return bool(self.rows) and not self.needs_load and is_current

    def held_since(self) -> datetime | None:
        """The open from which on every bar is held; None where memory is not current."""
        return self.rows.first_open if self._is_ready() else None

    def newest(self, limit: int, end: datetime | None = None) -> list[Ohlc] | None:
        """The last `limit` bars that opened before `end`; None where memory does not reach that far back."""
        return self.known(limit, end) if self._is_ready() else None

    def known(self, limit: int, end: datetime | None = None) -> list[Ohlc] | None:
        """The same as it was known last: newer ones may be missing, and the open one may have gone on."""
        count = len(self.rows) if end is None else self.rows.count_before(end)
        if not self.rows or (count < limit and not self.is_whole):
            return None
        return self.rows.part(count - limit, count)

    def between(self, start: datetime, end: datetime | None, limit: int) -> list[Ohlc] | None:
        """The first `limit` bars of `[start, end)`; None where memory does not hold them all."""
        first = self.rows.first_open
        if first is None or not self._is_ready() or (start < first and not self.is_whole):
            return None
        begin = self.rows.count_before(start)
        until = len(self.rows) if end is None else self.rows.count_before(end)
        return self.rows.part(begin, min(until, begin + limit))

    def history_before_live(self, count: int) -> tuple[datetime, list[Ohlc], bool] | None:
        """Where live updates go on, up to `count` closed bars right before it, and whether there are no older ones.

        A reader who is told these, and from now on what all readers are told, misses no close and hears none twice.
        None before anything was told.
        """
        if self._expected is None:
            return None
        self._is_provisional = False  # from REST or not: what is history now may not be told again by the stream
        until = self.rows.count_before(self._expected)
        before = self.rows.part(until - count, until)
        if not before or not self._reach_up_to(self._expected, before[-1]):
            return self._expected, [], False
        return self._expected, before, self.is_whole and not self.needs_load

    def _reach_up_to(self, expected: datetime, newest: Ohlc) -> bool:
        """All are closed and no bar is missing behind the newest: those of REST may lag behind what was told."""
        if not newest.is_closed:
            return False
        last = self._last.timestamp if self._last is not None and self._last.is_closed else None
        return self._after(newest) == expected or (
            not self._exchange.has_empty_bars and (last is None or newest.timestamp == last)
        )


def _closed(bar: Ohlc) -> Ohlc:
    return bar if bar.is_closed else structs.replace(bar, is_closed=True)
