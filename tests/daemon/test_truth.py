"""The whole chain from a feed to clients of `/ws`, in memory and under a virtual clock: nothing lost in silence.

A history is a tape of decisions: what one generated market does, what its stream and REST make of it, how clients come,
go and come back. Every client checks what it is told as it is told it; at the end whoever left and resumed has heard
what the one that never left has heard.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec
import pytest
import structlog
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import clock, turns
from actors.errors import UpstreamError
from actors.events import EPOCH, Liquidation, Ohlc, Topic, Trade
from actors.exchanges import binance, bybit, hyperliquid, okx
from actors.exchanges.exchange import Backlog, Exchange, Rest, Update
from actors.feeds.everything import Everything
from actors.feeds.feed import Feed
from actors.feeds.interest import Turns
from actors.spikes import Spikes
from web.access.account import NONE, Account
from web.connectors import Connectors
from web.server.outbox import Outbox, payloads_of
from web.streams.fanouts import Fanouts
from web.streams.memory import Memory
from web.streams.multiplex import ClientLimits, Multiplex
from web.streams.topics import Sources

Json = Any
SYMBOL = "BTC"
START = EPOCH + timedelta(days=20_000)
MINUTE = timedelta(minutes=1)
MEMORY = Memory(frames=60, seconds=100.0)


def quiet(exchange: Exchange) -> Exchange:
    capabilities = {**exchange.capabilities, "open_interest": False}
    return replace(exchange, history=12, capabilities=capabilities, open_rest=binance.EXCHANGE.open_rest)


LOCAL = Account("", NONE, is_exempt=True)


class Market:
    """The truth. A trade every few seconds at most; bars are made of trades."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.now = START + timedelta(seconds=20)
        self.trades: list[Trade] = []
        self.liquidations: list[Liquidation] = []
        self.counts: dict[int, int] = dict.fromkeys(range(-8, 0), 1)  # trades per bar

    @property
    def minute(self) -> int:
        return (self.now - START) // MINUTE

    def trade(self) -> Trade:
        number = len(self.trades)
        self.now += timedelta(milliseconds=10)
        self.counts[self.minute] = self.counts.get(self.minute, 0) + 1
        made = Trade(
            exchange=self.exchange.name,
            symbol=SYMBOL,
            timestamp=self.now,
            side="buy",
            price=100.0,
            quantity=1.0,
            value=100.0,
            is_buyer_maker=False,
            trade_id=number if self.exchange.contiguous_trade_ids else f"{number * 7919 % 104_729:x}",
        )
        self.trades.append(made)
        return made

    def liquidate(self) -> Liquidation:
        self.now += timedelta(milliseconds=10)
        made = Liquidation(
            exchange=self.exchange.name,
            symbol=SYMBOL,
            timestamp=self.now,
            side="sell",
            price=100.0 + len(self.liquidations),
            quantity=1.0,
            value=100.0,
        )
        self.liquidations.append(made)
        return made

    def exists(self, index: int) -> bool:
        return -8 <= index <= self.minute and (self.exchange.has_empty_bars or index in self.counts)

    def bar(self, index: int, *, is_closed: bool | None = None) -> Ohlc:
        count = self.counts.get(index, 0)
        return Ohlc(
            exchange=self.exchange.name,
            symbol=SYMBOL,
            timestamp=START + index * MINUTE,
            interval="1m",
            open=100.0,
            high=100.0,
            low=100.0,
            close=100.0,
            volume=float(count),
            quote_volume=100.0 * count,
            trades_count=count,
            is_closed=index < self.minute if is_closed is None else is_closed,
        )

    def bars(self) -> list[Ohlc]:
        return [self.bar(index) for index in range(-8, self.minute + 1) if self.exists(index)]


class Upstream:
    """The exchange's REST, as well as it works at the moment."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.mood = 0  # 0: it works; 1: it refuses; 2: it is slow; 3: it lags behind the stream

    async def _answer(self) -> None:
        if self.mood == 1:
            raise UpstreamError("refused")
        await trio.sleep(3.0 if self.mood == 2 else 0.01)

    async def ohlc(
        self, symbol: str, interval: str, *, limit: int, start: datetime | None = None, end: datetime | None = None
    ) -> list[Ohlc]:
        rows = self.market.bars()
        await self._answer()
        if self.mood == 3:
            rows = rows[:-1]
        rows = [
            row for row in rows if (start is None or row.timestamp >= start) and (end is None or row.timestamp < end)
        ]
        return rows[:limit] if start is not None else rows[-limit:]

    async def missed_trades(self, symbol: str, last: Trade, first: Trade) -> list[Trade]:
        trades = list(self.market.trades)
        await self._answer()
        if self.mood == 3:
            trades = trades[:-2]
        if self.market.exchange.contiguous_trade_ids:
            return trades[int(last.trade_id) + 1 : int(first.trade_id)][:5]
        return trades[-8:]


class Connector:
    """As much of a connector as topics need."""

    def __init__(self, feed: Feed, upstream: Upstream) -> None:
        self.feed, self._upstream = feed, upstream
        self.name = feed.exchange.name

    @contextmanager
    def reading(self, topic: Topic) -> Iterator[Feed]:
        yield self.feed

    def check_capability(self, capability: str) -> None:
        pass

    def check_interval(self, interval: str | None) -> None:
        pass

    async def ohlc(self, symbol: str, interval: str, **query: Any) -> list[Ohlc]:
        return await self._upstream.ohlc(symbol, interval, **query)


class Client:
    """One program that follows one topic, on one connection after the other; it checks every frame."""

    def __init__(self, story: "Story", topic: str, *, backfill: int | None = None) -> None:
        self.story, self.topic = story, topic
        self.events: dict[tuple[str, int], Json] = {}  # by epoch and number, those that were told as they happened
        self.position: Json = None
        self.past: list[Json] = []  # bars of a backfill
        self.closed: list[str] = []
        self.gaps: list[Json] = []
        self.too_old = 0
        self.connection: Multiplex | None = None
        self.is_live = False
        self.is_resumed = False
        self.was_closed = False
        self.open(backfill)

    def open(self, backfill: int | None = None) -> None:
        self.is_live, self.too_old = backfill is None, 0
        self.is_resumed = self.position is not None
        command: Json = {"op": "subscribe", "topics": [self.topic]}
        if self.position is not None:
            command["since"] = {self.topic: self.position}
        if backfill is not None:
            command["backfill"] = backfill
        self.connection = Multiplex(
            cast(Outbox, self), self.story.fanouts, ClientLimits(commands_per_second=1e6), self.story.nursery, LOCAL
        )
        assert self.connection.take(msgspec.json.encode(command))

    def leave(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    # --- as an outbox ---

    def send(self, frames: bytes) -> None:
        for text in payloads_of(frames):
            self.hear(text)

    async def write_texts(self, texts: Sequence[bytes]) -> None:
        for text in texts:
            self.hear(text)
        await trio.sleep(self.story.write_takes)

    def close(self, code: int, reason: str = "") -> None:
        raise AssertionError(f"closed with {code}: {reason}")

    def hear(self, text: bytes) -> None:
        assert self.connection is not None, "told after it left"
        frame = msgspec.json.decode(text)
        match frame["type"]:
            case "ack" | "status":
                pass
            case "error":
                assert frame["code"] in ("upstream_error", "not_ready"), frame
                self.leave()
            case "live":
                assert not self.is_live
                self.is_live = True
            case "gap" if frame["reason"] == "resume_too_old":
                self.too_old += 1
                assert self.too_old == 1, "said twice"
                assert self.is_resumed
                self.is_resumed = False
                self.position = None
            case "gap":
                self.gaps.append(frame)
            case _ if "seq" not in frame:
                assert not self.is_live, "history after the live marker"
                self.past.append(frame)
            case _:
                self.hear_event(frame)

    def hear_event(self, frame: Json) -> None:
        assert self.is_live, "live before the marker"
        assert frame["topic"] == self.topic
        if self.position is not None:
            assert frame["epoch"] == self.position["epoch"]
            assert frame["seq"] == self.position["seq"] + 1, "not the next one"
            assert (frame["epoch"], frame["seq"]) not in self.events
        # The present value carries the number of the event that made it; only bars have one here.
        is_present = self.position is None and frame["type"] == "ohlc"
        self.position = {"epoch": frame["epoch"], "seq": frame["seq"]}
        if not is_present:
            self.events[frame["epoch"], frame["seq"]] = frame
        if frame["type"] == "ohlc":
            self.hear_bar(frame, is_present)

    def hear_bar(self, frame: Json, is_present: bool) -> None:
        if self.past:
            assert frame["timestamp"] > self.past[-1]["timestamp"], "told by history already"
        if self.closed and not is_present:
            assert frame["timestamp"] > self.closed[-1], "told after it was closed"
        if frame["is_closed"]:
            self.closed.append(frame["timestamp"])


class Story:
    def __init__(self, decisions: bytes, exchange: Exchange, nursery: trio.Nursery) -> None:
        self.decisions = iter(decisions)
        self.exchange, self.nursery = exchange, nursery
        self.market = Market(exchange)
        self.upstream = Upstream(self.market)
        self.write_takes = 0.0
        everything = Everything()
        rest = cast(Rest, self.upstream)
        self.feed = Feed(
            exchange,
            SYMBOL,
            ("1m",),
            large_trade_threshold_usd=1e9,
            supervise=self.supervise,
            repair=rest,
            background=rest,
            turns=Turns(exchange.budget["weight"], clock.now, lambda: 1),
            everything=everything,
            loads=trio.CapacityLimiter(1),
            missed_trades=self.upstream.missed_trades if exchange.missed_trades else None,
        )
        connector = Connector(self.feed, self.upstream)
        connectors = cast(Connectors, {exchange.name: connector})
        self.fanouts = Fanouts(nursery, self.supervise, Sources(connectors, everything, cast(Spikes, None)), MEMORY)
        self.is_connected = False
        self.delayed: list[Update] = []
        self.scope = trio.CancelScope()
        kinds = ["ohlc:1m", "trades"] + ["liquidations"] * ("liquidations" in exchange.pushed)
        self.names = [f"{exchange.name}:{SYMBOL}:{kind}" for kind in kinds]
        self.constant: list[Client] = []
        self.guests: list[Client] = []

    def decide(self, count: int) -> int:
        return next(self.decisions, 0) % count

    async def supervise(
        self,
        name: str,
        run: Callable[[], Awaitable[None]],
        *,
        on_change: Callable[[Any], None] | None = None,
        **context: object,
    ) -> None:
        while True:
            try:
                await run()
                return
            except UpstreamError:
                await trio.sleep(0.5)
            except Exception as error:
                if name == "feed" or type(error).__name__ != "NotReady":
                    raise
                await trio.sleep(0.5)

    async def run_feed(self) -> None:
        """A fault ends a run of the feed; the next one follows."""
        while True:
            with trio.CancelScope() as self.scope:
                await self.feed.run()
            await trio.sleep(0.2)

    async def run(self) -> None:
        self.nursery.start_soon(self.run_feed)
        await trio.sleep(0.05)
        self.connect()
        self.constant = [Client(self, name) for name in self.names]
        steps = (
            *(self.trade, self.trade, self.trade, self.trade, self.liquidate, self.next_bar, self.next_bar),
            *(self.cut, self.connect, self.connect, self.restart, self.change_mood, self.come, self.come),
            *(self.go, self.come_back, self.come_back, self.pass_time, self.catch_up, self.flicker),
        )
        from_line = {self.trade, self.liquidate, self.next_bar, self.pass_time, self.catch_up}
        for decision in self.decisions:
            step = steps[decision % len(steps)]
            # A line calls feeds and fan-outs in a step of its own; the slow twin wakes their tasks.
            with turns.step() if step in from_line and self.decide(3) else nullcontext():
                step()
            if self.decide(3):
                await trio.sleep(0.005)  # less than any answer takes: much is under way at once
            if self.decide(16) == 15:
                await trio.sleep((0.1, 1.0, 5.0, 12.0)[self.decide(4)])
            for client in self.constant:
                if client.connection is None:
                    client.open()
        await self.settle()

    # --- what happens upstream ---

    def deliver(self, event: Any) -> None:
        if not self.is_connected:
            return
        update = Update(event, self.market.now)
        match self.decide(10):
            case 7 if self.exchange.contiguous_trade_ids:
                pass  # lost
            case 8 if self.exchange.contiguous_trade_ids and not isinstance(event, Liquidation):
                self.delayed.append(update)
            case 9:
                self.feed.deliver(update, datetime.now(UTC))
                self.feed.deliver(update, datetime.now(UTC))
            case _:
                self.feed.deliver(update, datetime.now(UTC))

    def trade(self) -> None:
        self.deliver(self.market.trade())
        self.deliver(self.market.bar(self.market.minute))

    def liquidate(self) -> None:
        made = self.market.liquidate()
        if self.is_connected and "liquidations" in self.exchange.pushed:
            self.feed.deliver(Update(made, self.market.now), datetime.now(UTC))

    def next_bar(self) -> None:
        for _ in range(1 + self.decide(2)):
            index = self.market.minute
            self.market.now = START + (index + 1) * MINUTE + timedelta(milliseconds=100)
            if self.exchange.closes_bars:
                self.deliver(self.market.bar(index))

    def pass_time(self) -> None:
        """Within a bar: one that is overdue is noticed."""
        self.market.now += timedelta(seconds=6)
        self.trade()

    def catch_up(self) -> None:
        if self.delayed and self.is_connected:
            self.feed.deliver(self.delayed.pop(self.decide(len(self.delayed))), datetime.now(UTC))

    def cut(self) -> None:
        if self.is_connected:
            self.is_connected = False
            self.delayed.clear()
            self.feed.line_down("cut", 1.0)

    def connect(self) -> None:
        if not self.is_connected:
            self.is_connected = True
            for path in sorted(map(self.exchange.path_of, self.exchange.pushed)):
                self.feed.line_up(path)
            if self.exchange.missed_trades is None:
                self.feed.deliver(Backlog(SYMBOL, tuple(self.market.trades[-5:])), datetime.now(UTC))

    def restart(self) -> None:
        self.scope.cancel()

    def change_mood(self) -> None:
        self.upstream.mood = self.decide(4)

    # --- clients ---

    def come(self) -> None:
        name = self.names[self.decide(len(self.names))]
        backfill = (None, 3, 8)[self.decide(3)] if "ohlc" in name else None
        self.guests.append(Client(self, name, backfill=backfill))

    def pick(self) -> Client | None:
        return self.guests[self.decide(len(self.guests))] if self.guests else None

    def go(self) -> None:
        if client := self.pick():
            client.leave()

    def come_back(self) -> None:
        client = self.pick()
        if client and client.connection is None and client.position is not None:
            client.past.clear()
            client.open()

    def flicker(self) -> None:
        """Leaves and comes back within one moment."""
        if client := self.pick():
            client.leave()
            self.come_back()

    # --- the end ---

    async def settle(self) -> None:
        """Nothing fails any more."""
        self.upstream.mood = 0
        await trio.sleep(15.0)
        self.connect()
        self.decisions = iter(b"")
        for client in self.guests:
            if client.connection is None and client.position is not None:
                client.past.clear()
                client.open()
        for _ in range(3):
            self.trade()
            await trio.sleep(5.0)
            self.next_bar()
            await trio.sleep(5.0)
        self.trade()
        self.pass_time()
        self.liquidate()
        await trio.sleep(15.0)
        constant = {client.topic: client for client in self.constant}
        for client in self.guests:
            self.compare(client, constant[client.topic])
        for client in self.constant:
            self.judge(client)

    def compare(self, client: Client, constant: Client) -> None:
        """What both were told is the same, and both are at the present."""
        if client.connection is not None:
            assert client.position == constant.position, "not at the present"
        for place in client.events.keys() & constant.events.keys():
            assert client.events[place] == constant.events[place]
        if client.past and client.is_live and client.closed:
            self.check_seam(client)

    def check_seam(self, client: Client) -> None:
        times = [frame["timestamp"] for frame in client.past]
        assert times == sorted(set(times))
        assert all(frame["is_closed"] for frame in client.past)

    def judge(self, client: Client) -> None:
        """The one that never left, against the truth: every event once and in order, or a gap that covers it."""
        assert client.too_old == 0
        told = [event for _, event in sorted(client.events.items(), key=lambda item: item[0][1])]
        match client.topic.split(":")[2]:
            case "trades":
                events: list[Any] = list(self.market.trades)
                names = [trade.trade_id for trade in events]
                heard = [event["trade_id"] for event in told]
            case "liquidations":
                events = list(self.market.liquidations)
                names = [liquidation.price for liquidation in events]
                heard = [event["price"] for event in told]
            case _:
                events = [bar for bar in self.market.bars() if bar.is_closed]
                names = [_iso(bar.timestamp) for bar in events]
                heard = [event["timestamp"] for event in told if event["is_closed"]]
                for event in told:
                    if event["is_closed"]:
                        assert event["trades_count"] == events[names.index(event["timestamp"])].trades_count
        assert heard == [name for name in names if name in set(heard)], "twice, out of order, or what never was"
        begun = names.index(heard[0]) if heard else 0
        for name, event in list(zip(names, events, strict=True))[begun:]:
            time = _iso(event.timestamp)
            is_covered = any(gap["from"] <= time <= gap["to"] for gap in client.gaps if not gap["repaired"])
            assert name in heard or is_covered, f"{client.topic}: {name} of {time} is missing, and no gap says so"


def _iso(time: datetime) -> str:
    return cast(str, msgspec.to_builtins(time))


async def tell(decisions: bytes, exchange: Exchange) -> None:
    async with trio.open_nursery() as nursery:
        story = Story(decisions, exchange, nursery)
        try:
            await story.run()
        finally:
            for client in (*story.constant, *story.guests):
                client.leave()
        nursery.cancel_scope.cancel()


def run_story(decisions: bytes, exchange: Exchange) -> None:
    trio.run(tell, decisions, exchange, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.fixture(autouse=True)
def _silent(monkeypatch: pytest.MonkeyPatch) -> None:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())


TAPE = st.binary(min_size=30, max_size=120)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(TAPE)
def test_any_history_of_an_exchange_like_binance(decisions: bytes) -> None:
    run_story(decisions, quiet(binance.EXCHANGE))


@settings(max_examples=500, deadline=None, derandomize=True)
@given(TAPE)
def test_any_history_of_an_exchange_like_bybit(decisions: bytes) -> None:
    run_story(decisions, quiet(bybit.EXCHANGE))


@settings(max_examples=250, deadline=None, derandomize=True)
@given(TAPE)
def test_any_history_of_an_exchange_like_okx(decisions: bytes) -> None:
    run_story(decisions, quiet(okx.EXCHANGE))


@settings(max_examples=500, deadline=None, derandomize=True)
@given(TAPE)
def test_any_history_of_an_exchange_like_hyperliquid(decisions: bytes) -> None:
    run_story(decisions, quiet(hyperliquid.EXCHANGE))
