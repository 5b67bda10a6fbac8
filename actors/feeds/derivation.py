"""Longer bars made of one-minute bars, for an exchange that allows too few subscriptions for every interval. No I/O.

Only intervals that divide a day can be made so: they start on the same minutes everywhere. Sums are of decimals, so
that a volume made of many prints as it would if the exchange had added them.
"""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from actors.events import EPOCH, INTERVALS, Ohlc

BASE = "1m"
DERIVABLE = frozenset(name for name, length in INTERVALS.items() if INTERVALS[BASE] < length <= INTERVALS["1d"])


class Derivation:
    """One interval of one symbol."""

    def __init__(self, interval: str, *, has_empty_bars: bool) -> None:
        self._interval = interval
        self._has_empty_bars = has_empty_bars  # a minute without trades is a bar too
        self._length = INTERVALS[interval]
        self._made: Ohlc | None = None  # of the closed minutes of the running bar
        self._next: datetime | None = None  # the minute that must come next; None: some were missed

    def _start(self, minute: Ohlc) -> datetime:
        return minute.timestamp - (minute.timestamp - EPOCH) % self._length

    def _follows(self, time: datetime) -> bool:
        return self._next is not None and (time == self._next or (time > self._next and not self._has_empty_bars))

    def restart(self, minutes: Iterable[Ohlc]) -> None:
        """Begin again from minutes that are held, ascending and without a hole; the last may be open.

        Whatever was before the last minute with which a bar begins makes no difference, and there may be a day of it.
        """
        held = [*minutes]
        begins = next(
            (at for at in reversed(range(len(held))) if self._start(held[at]) == held[at].timestamp), len(held)
        )
        self.interrupt()
        for minute in held[begins:]:
            self.apply(minute)

    def interrupt(self) -> None:
        """Minutes were lost: no bar until the next one begins."""
        self._made, self._next = None, None

    def apply(self, minute: Ohlc) -> Ohlc | None:
        """The longer bar after one more update of a minute; None while its beginning is unknown."""
        start = self._start(minute)
        if self._made is not None and self._made.timestamp != start:
            self._made = None
        if minute.timestamp == start:
            self._made, self._next = None, start
        if self._next is None or not self._follows(minute.timestamp):
            self.interrupt()
            return None
        end = minute.timestamp + INTERVALS[BASE]
        bar = _joined(
            self._made, minute, self._interval, start, is_closed=minute.is_closed and end == start + self._length
        )
        self._next = minute.timestamp
        if minute.is_closed:
            self._made, self._next = bar, end
        return bar


def _joined(made: Ohlc | None, minute: Ohlc, interval: str, start: datetime, *, is_closed: bool) -> Ohlc:
    first = made or minute
    return Ohlc(
        exchange=minute.exchange,
        symbol=minute.symbol,
        timestamp=start,
        interval=interval,
        open=first.open,
        high=max(first.high, minute.high),
        low=min(first.low, minute.low),
        close=minute.close,
        volume=_sum(made.volume, minute.volume) if made else minute.volume,
        quote_volume=_sum_known(made.quote_volume, minute.quote_volume) if made else minute.quote_volume,
        trades_count=_count(made.trades_count, minute.trades_count) if made else minute.trades_count,
        is_closed=is_closed,
    )


def _sum(a: float, b: float) -> float:
    return float(Decimal(repr(a)) + Decimal(repr(b)))


def _sum_known(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else _sum(a, b)


def _count(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b
