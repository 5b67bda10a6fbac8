"""Liquidations and large trades per bar: how many, and their value by side. No I/O.

A bar in which nothing was seen does not exist: it would say that nothing happened, and that nobody knows.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from msgspec import Struct

from actors.archive.series import Row, from_us, us
from actors.events import LargeTrade, Liquidation

Sums = tuple[int, int, float, float]
"""Of one bar: its open in microseconds, how many events, the value of side "buy", the value of side "sell"."""


class LiquidationBar(Struct, frozen=True, kw_only=True):
    """Forced orders of one bar. `timestamp` is its open; values are in quote units."""

    exchange: str
    symbol: str
    timestamp: datetime
    interval: str
    count: int
    long_value: float  # of longs that were liquidated, by sells
    short_value: float


class LargeTradeBar(Struct, frozen=True, kw_only=True):
    """Large trades of one bar, by the aggressor's side."""

    exchange: str
    symbol: str
    timestamp: datetime
    interval: str
    count: int
    buy_value: float
    sell_value: float


E = TypeVar("E", Liquidation, LargeTrade)


def within(events: Iterable[E], start: datetime | None, end: datetime | None, least: float = 0.0) -> list[E]:
    """The events of `[start, end)` of at least a value."""
    return [
        event
        for event in events
        if (start is None or event.timestamp >= start)
        and (end is None or event.timestamp < end)
        and event.value >= least
    ]


def summed(rows: Iterable[tuple[int, str, float]], length: int) -> list[Sums]:
    """Bars of (time, side, value)."""
    bars: dict[int, Sums] = {}
    for time, side, value in rows:
        begin = time - time % length
        _, count, buys, sells = bars.get(begin, (begin, 0, 0.0, 0.0))
        bars[begin] = (begin, count + 1, buys + value * (side == "buy"), sells + value * (side == "sell"))
    return sorted(bars.values())


def of_events(events: Sequence[E], length: int) -> list[Sums]:
    return summed(((us(event.timestamp), event.side, event.value) for event in events), length)


def of_rows(rows: Sequence[Row], length: int) -> list[Sums]:
    """Of rows of these kinds: time, side, price, quantity, value, ..."""
    return summed(((row[0], row[1], row[4]) for row in rows), length)


def added(some: Sequence[Sums], more: Sequence[Sums]) -> list[Sums]:
    """The bars of both, ascending."""
    bars = {bar[0]: bar for bar in some}
    for begin, count, buys, sells in more:
        _, *before = bars.get(begin, (begin, 0, 0.0, 0.0))
        bars[begin] = (begin, before[0] + count, before[1] + buys, before[2] + sells)  # type: ignore[assignment]
    return sorted(bars.values())


def liquidation_bar(exchange: str, symbol: str, interval: str, sums: Sums) -> LiquidationBar:
    begin, count, buys, sells = sums
    return LiquidationBar(
        exchange=exchange,
        symbol=symbol,
        timestamp=from_us(begin),
        interval=interval,
        count=count,
        long_value=_plain(sells),
        short_value=_plain(buys),
    )


def large_trade_bar(exchange: str, symbol: str, interval: str, sums: Sums) -> LargeTradeBar:
    begin, count, buys, sells = sums
    return LargeTradeBar(
        exchange=exchange,
        symbol=symbol,
        timestamp=from_us(begin),
        interval=interval,
        count=count,
        buy_value=_plain(buys),
        sell_value=_plain(sells),
    )


def _plain(total: float) -> float:
    """A sum without the binary noise of adding: 12 digits, cents of ten billions."""
    return float(f"{total:.12g}")
