"""What the archive's tests share: events, a feed that says what it is told to, an exchange that forgets."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trio

from actors.archive.archive import Archive
from actors.archive.series import KINDS
from actors.broadcast import Broadcast, Reader
from actors.errors import UpstreamError
from actors.events import (
    Event,
    FundingRate,
    Gap,
    Instrument,
    Kind,
    LargeTrade,
    Liquidation,
    Ohlc,
    OpenInterest,
    Said,
    Topic,
)
from actors.exchanges.binance import EXCHANGE
from tests.patience import WITHIN

T0 = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
WHERE: Any = {"exchange": "binance", "symbol": "BTCUSDT"}
QUIET = replace(EXCHANGE, has_empty_bars=False)  # an exchange that makes no bar where nothing traded
INSTRUMENT = Instrument(
    **WHERE,
    base="BTC",
    quote="USDT",
    settle="USDT",
    status="TRADING",
    tick_size=0.1,
    step_size=0.001,
    funding_interval_hours=8.0,
)


def now() -> datetime:
    """Later than everything here."""
    return T0 + timedelta(days=1)


def bar(minute: int, *, closed: bool = True, interval: str = "1m") -> Ohlc:
    price = 100.0 + minute % 50
    return Ohlc(
        **WHERE,
        timestamp=T0 + minute * MINUTE,
        interval=interval,
        open=price,
        high=price + 1.5,
        low=price - 0.7,
        close=price + 0.1,
        volume=3.25,
        quote_volume=None,
        trades_count=7,
        is_closed=closed,
    )


def liquidation(second: float, value: float = 1000.0, side: Any = "sell") -> Liquidation:
    time = T0 + timedelta(seconds=second)
    return Liquidation(**WHERE, timestamp=time, side=side, price=100.0, quantity=value / 100, value=value)


def large_trade(second: float, trade_id: int | str, value: float = 150_000.0, side: Any = "buy") -> LargeTrade:
    return LargeTrade(
        **WHERE,
        timestamp=T0 + timedelta(seconds=second),
        side=side,
        price=100.0,
        quantity=value / 100,
        value=value,
        is_buyer_maker=side == "sell",
        trade_id=trade_id,
    )


def interest(second: float, amount: float) -> OpenInterest:
    time = T0 + timedelta(seconds=second)
    return OpenInterest(**WHERE, timestamp=time, open_interest=amount, open_interest_value=None)


def funding(second: float, rate: float) -> FundingRate:
    return FundingRate(
        **WHERE,
        timestamp=T0 + timedelta(seconds=second),
        funding_rate=rate,
        funding_time=T0 + 6 * 60 * MINUTE,
        funding_interval_hours=8.0,
        mark_price=100.25,
    )


def gap(first: int, last: int, *, repaired: bool = False) -> Gap:
    start, end = T0 + first * MINUTE, T0 + last * MINUTE
    return Gap(**WHERE, timestamp=end, start=start, end=end, reason="lost", repaired=repaired)


class TellingFeed:
    """As much of a feed as a follower sees; it says what it is told to."""

    def __init__(self, exchange: Any = EXCHANGE, intervals: tuple[str, ...] = ("1m",)) -> None:
        self.exchange, self.symbol, self.intervals = exchange, "BTCUSDT", intervals
        self.broadcasts: dict[Topic, Broadcast[Said]] = {}

    def topic(self, kind: Kind, interval: str | None = None) -> Topic:
        return Topic(self.exchange.name, self.symbol, kind, interval)

    def subscribe(self, topic: Topic, capacity: int) -> Reader[Said]:
        return self.broadcasts.setdefault(topic, Broadcast()).subscribe(capacity)

    def say(self, *said: Event | Gap, interval: str = "1m") -> None:
        for item in said:
            kind = item.kind if isinstance(item, Event) else "ohlc"
            topic = self.topic(kind, interval if kind == "ohlc" else None)
            if topic in self.broadcasts:
                self.broadcasts[topic].publish(item)


class Remembering:
    """An exchange's REST: bars that it has, of which it forgets what is older than `since`; it counts the questions."""

    def __init__(self, bars: Sequence[Ohlc], *, since: datetime | None = None) -> None:
        self.bars = list(bars)
        self.since = since
        self.asked: list[tuple[datetime | None, datetime | None, int]] = []
        self.is_down = False

    async def ohlc(
        self, symbol: str, interval: str, *, limit: int, start: datetime | None = None, end: datetime | None = None
    ) -> list[Ohlc]:
        self.asked.append((start, end, limit))
        if self.is_down:
            raise UpstreamError("the exchange is down")
        found = [
            row
            for row in self.bars
            if (self.since is None or row.timestamp >= self.since)
            and (start is None or row.timestamp >= start)
            and (end is None or row.timestamp < end)
        ]
        return found[:limit] if start is not None else found[-limit:]

    async def nothing(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("not asked in these tests")

    server_time = instruments = open_interest = funding = open_interest_history = funding_history = nothing


@asynccontextmanager
async def archived(path: Path, **options: Any) -> AsyncIterator[Archive]:
    """An archive that writes for as long as the block lasts, open when it begins."""
    archive = Archive(path, **({"keep": KINDS} | options))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(archive.run)
        await archive.flush()
        yield archive
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], Any], within: float = WITHIN) -> None:
    with trio.fail_after(within):
        while not condition():  # noqa: ASYNC110  (there is no event to wait for)
            await trio.sleep(0.01)
