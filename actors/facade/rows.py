"""Closed rows as the exchange spelled them, in contiguous stretches, and the rows of this moment. No I/O.

A stretch `[lo, hi)` says: these are all rows of that time, and they change no more. What comes after the newest stretch
is the tail: rows that may still change, known for a moment only. Times are the exchange's in ms; `at` is a clock that
nobody sets, in seconds.
"""

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from actors.exchanges.facade import Row, Rows, Series

TAIL_FRESH = 1.0  # seconds that an answer about the present is good for
EARLY_FRESH = 0.2  # seconds, where it lacks the bar that must have begun: the exchange's clock is a little behind
FRAME_FRESH = 2.0  # seconds that a pushed bar is, in a market that moves
UNFOLLOWED = 60_000  # ms after its end until a bar that no other follows is believed to be over: clocks differ
HOUR, MINUTE = 3_600_000, 60_000
OVERHEAD = 120  # bytes that a row takes beside its text


class Missing(NamedTuple):
    """Rows to ask for: those from `start` on, or the `limit` last ones up to `end`."""

    start: int | None
    end: int | None
    limit: int


class Cut(NamedTuple):
    """`texts`: what was asked for, where nothing is `missing`; None for both: nothing useful is known."""

    texts: list[bytes] | None
    missing: Missing | None


UNKNOWN = Cut(None, None)


class Stretch:
    __slots__ = ("hi", "lo", "texts", "times")

    def __init__(self, lo: int, hi: int, rows: Sequence[Row]) -> None:
        self.lo, self.hi = lo, hi
        self.times = [row.time for row in rows]
        self.texts = [row.text for row in rows]

    def between(self, start: int, end: int) -> tuple[int, int]:
        """The indexes of the rows of `[start, end]`."""
        return bisect_left(self.times, start), bisect_right(self.times, end)

    def take(self, other: "Stretch") -> None:
        """Become the whole of both; they touch or overlap."""
        first, second = (self, other) if self.lo <= other.lo else (other, self)
        at = bisect_left(second.times, first.hi)
        self.times, self.texts = first.times + second.times[at:], first.texts + second.texts[at:]
        self.lo, self.hi = first.lo, max(first.hi, second.hi)


class Kept:
    """One series."""

    def __init__(self) -> None:
        self.stretches: list[Stretch] = []  # ascending, apart from each other
        self.tail: tuple[Row, ...] = ()  # what follows the newest stretch
        self.tail_at = float("-inf")  # when it was so
        self.tail_for = 0.0  # seconds that it is good for
        self.tail_minute: int | None = None  # of the exchange's clock, when asked: every bar ends at one's end
        self.size = 0

    @property
    def newest(self) -> Stretch | None:
        return self.stretches[-1] if self.stretches else None

    def covering(self, time: int) -> Stretch | None:
        return next((stretch for stretch in self.stretches if stretch.lo <= time < stretch.hi), None)

    def knows_tail(self, now: int, at: float, quiet_since: float | None) -> bool:
        """Whether the tail is still the present. `quiet_since`: the market is followed, and silent since then."""
        is_fresh = at - self.tail_at <= self.tail_for
        if not self.tail or self.tail[-1].end <= now:  # the bar that is open now has no row, as far as is known
            return is_fresh and now // MINUTE == self.tail_minute
        return is_fresh or (quiet_since is not None and quiet_since < self.tail_at)

    def add(self, stretch: Stretch) -> None:
        apart = []
        for other in self.stretches:
            if other.hi < stretch.lo or stretch.hi < other.lo:
                apart.append(other)
            else:
                stretch.take(other)
        self.stretches = sorted([*apart, stretch], key=lambda one: one.lo)
        self.size = sum(len(text) + OVERHEAD for one in self.stretches for text in one.texts)


class RowStore:
    """Every series, the least recently asked for are forgotten first."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._series: OrderedDict[Series, Kept] = OrderedDict()
        self.size = 0

    def __contains__(self, series: Series) -> bool:
        return series in self._series

    def cut(self, asked: Rows, now: int, at: float, quiet_since: float | None = None) -> Cut:
        """What is known of the rows asked for, and what is missing of them."""
        kept = self._series.get(asked.series)
        if kept is None:
            return UNKNOWN
        self._series.move_to_end(asked.series)
        is_known = kept.knows_tail(now, at, quiet_since)
        return _newest(kept, asked, is_known) if asked.newest else _first(kept, asked, is_known)

    def put(self, asked: Rows, rows: Sequence[Row], *, asked_at: int, at: float, settle: int, has_holes: bool) -> None:
        """What the exchange answered to `asked`, when its clock showed `asked_at`, which was our `at`."""
        if asked.newest:
            whole = len(rows) < asked.limit
            if not rows and asked.start is None:
                return
            lo = (asked.start or 0) if whole else rows[0].time
            is_cut = False
        else:
            lo, is_cut = asked.start or 0, len(rows) >= asked.limit
        upto = None if is_cut or asked.end is None else asked.end + 1
        hi = settled_to(asked.series, rows, asked_at, settle)
        if is_cut:
            hi = min(hi, rows[-1].end)
        if upto is not None:
            hi = min(hi, upto)
        kept = self._series.setdefault(asked.series, Kept())
        self.size -= kept.size
        if hi > lo:
            kept.add(Stretch(lo, hi, [row for row in rows if lo <= row.time < hi]))
        newest = kept.newest
        reaches_present = not is_cut and (upto is None or upto > asked_at)
        if reaches_present and newest is not None and newest.hi >= hi and at >= kept.tail_at:
            kept.tail = tuple(row for row in rows if row.time >= newest.hi)
            lacks_present = bool(asked.series.interval) and not has_holes and (not rows or rows[-1].end <= asked_at)
            kept.tail_at, kept.tail_minute = at, asked_at // MINUTE
            kept.tail_for = EARLY_FRESH if lacks_present else TAIL_FRESH
        self.size += kept.size
        self._forget()

    def push(self, series: Series, row: Row, *, is_closed: bool, at: float) -> None:
        """A bar as a stream told it. Heeded where it is the one after the newest closed bar."""
        kept = self._series.get(series)
        newest = kept.newest if kept else None
        if kept is None or newest is None or row.time != newest.hi:
            return
        if is_closed:
            self.size -= kept.size
            newest.times.append(row.time)
            newest.texts.append(row.text)
            newest.hi = row.end
            kept.size += len(row.text) + OVERHEAD
            self.size += kept.size
            kept.tail, kept.tail_at, kept.tail_for = (), float("-inf"), 0.0
            self._forget()
        else:
            kept.tail = (row,)
            kept.tail_at, kept.tail_for, kept.tail_minute = at, FRAME_FRESH, None

    def _forget(self) -> None:
        while self.size > self._bytes_max and self._series:
            _, kept = self._series.popitem(last=False)
            self.size -= kept.size


def settled_to(series: Series, rows: Sequence[Row], asked_at: int, settle: int) -> int:
    """Up to when an answer about the time until now says all there will ever be.

    A bar is over when another follows it; the last one by the clock, with much to spare. Funding is settled at full
    hours and booked a moment later.
    """
    if not series.interval:
        hour = asked_at - asked_at % HOUR
        return hour + HOUR if asked_at - hour > UNFOLLOWED else hour
    if not rows:
        return 0
    last = rows[-1]
    if last.end + UNFOLLOWED <= asked_at:
        return last.end
    hi = last.time
    for row in reversed(rows[:-1]):
        if row.end + settle <= asked_at:
            break
        hi = row.time
    return hi


def _first(kept: Kept, asked: Rows, tail_is_known: bool) -> Cut:
    """The first rows from a start on."""
    start, end = asked.start or 0, asked.end
    newest = kept.newest
    if newest is None:
        return UNKNOWN
    stretch = kept.covering(start)
    texts: list[bytes] = []
    if stretch is not None:
        first, last = stretch.between(start, stretch.hi if end is None else end)
        texts = stretch.texts[first : min(last, first + asked.limit)]
        if len(texts) == asked.limit or (end is not None and end < stretch.hi):
            return Cut(texts, None)
    if (stretch is None and start < newest.hi) or stretch not in (None, newest):
        return UNKNOWN
    if not tail_is_known:
        return Cut(None, Missing(newest.hi, None, 0))
    tail = [row.text for row in kept.tail if row.time >= start and (end is None or row.time <= end)]
    return Cut([*texts, *tail][: asked.limit], None)


def _newest(kept: Kept, asked: Rows, tail_is_known: bool) -> Cut:
    """The last rows up to an end."""
    newest = kept.newest
    if newest is None:
        return UNKNOWN
    floor = asked.start or 0
    tail: list[bytes] = []
    stretch = newest
    if asked.end is None or asked.end >= newest.hi:
        if not tail_is_known:
            return Cut(None, Missing(newest.hi, None, 0))
        tail = [row.text for row in kept.tail if row.time >= floor and (asked.end is None or row.time <= asked.end)]
    else:
        covering = kept.covering(asked.end)
        if covering is None:
            return UNKNOWN
        stretch = covering
    first, last = stretch.between(floor, stretch.hi if asked.end is None else asked.end)
    room = max(0, asked.limit - len(tail))
    texts = [*stretch.texts[max(first, last - room) : last], *tail][-asked.limit :]
    if len(texts) == asked.limit or stretch.lo <= floor:
        return Cut(texts, None)
    return Cut(None, Missing(None, stretch.lo - 1, asked.limit - len(texts)))
