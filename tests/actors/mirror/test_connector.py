"""An edge's bars: what it answers from memory is what was told, without a hole and nothing twice, whenever it is read.

The engine is in memory, and late as a server may be.
"""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

import msgspec
import pytest
import trio
from trio.testing import MockClock

from actors import clock
from actors.engine.memory import START_MS, MemoryEngine
from actors.engine.words import STATUS, Burst, Entry, Lease
from actors.errors import NotReady, UnknownSymbol
from actors.events import Gap, Instrument, Ohlc, OpenInterest, Status, Topic, from_ms, ms
from actors.exchanges.exchange import Exchange, load_exchanges
from actors.feeds.interest import POLL_MIN
from actors.mirror.connector import READ_AGAIN, MirrorConnector
from actors.mirror.everywhere import Everywhere
from actors.mirror.feed import MENDED_WITHIN
from actors.mirror.ingests import Ingests
from actors.mirror.mirror import Mirror
from tests.actors.relay.fixtures import bar, supervise

EXCHANGE = load_exchanges()["binance"]
TOPIC = Topic("binance", "BTCUSDT", "ohlc", "1m")
LANE, MINUTE, LEASE = "binance.0", 60_000, 3600.0
OPEN = START_MS // MINUTE * MINUTE  # of the bar with the number 0

encode = msgspec.json.Encoder().encode


class Engine(MemoryEngine):
    """Bars are as they were `late` seconds before they arrive; news comes after `slow` seconds."""

    late = slow = 0.0
    readings = 0

    async def bars(self, lane: str, topic: str) -> Sequence[bytes]:
        self.readings += 1
        found = await super().bars(lane, topic)
        await trio.sleep(self.late)
        return found

    async def read(self, *args: Any) -> Any:
        found = await super().read(*args)
        await trio.sleep(self.slow)
        return found


class Nobody:
    """In the place of nodes that collect: it counts what it is asked."""

    asked = 0

    async def get(self, target: str, kind: Any) -> Any:
        self.asked += 1
        raise NotReady(target)


class Edge:
    """One edge, and the writer of the lane that it reads."""

    def __init__(self, engine: Engine, lease: Lease, exchange: Exchange) -> None:
        self.engine, self.lease = engine, lease
        self.number = 0  # of the bar that is open
        self.n = self.seq = 0
        everywhere = Everywhere(engine, supervise=supervise)
        self.mirror = Mirror(exchange, engine, lanes=1, seconds=LEASE, everywhere=everywhere, supervise=supervise)
        self.nobody = Nobody()
        self.connector = MirrorConnector(
            exchange, self.mirror, engine, cast(Ingests, self.nobody), symbols=["BTCUSDT"], supervise=supervise
        )

    async def say(self, *entries: Entry, closed: Sequence[int] = ()) -> None:
        self.n += 1
        assert not await self.engine.say({self.lease: Burst(self.n, entries, {str(TOPIC): closed} if closed else {})})

    def told(self, number: int, *, is_closed: bool) -> Entry:
        self.seq += 1
        return Entry(str(TOPIC), "ohlc", self.seq, encode(the_bar(number, is_closed=is_closed)))

    async def begin(self, state: Any = "live") -> None:
        """The feed is live, and its bar of the moment is open."""
        status = Status(
            exchange="binance", symbol="BTCUSDT", timestamp=opened(0), state=state, reason=None, next_retry=None
        )
        await self.say(Entry("binance:BTCUSDT", STATUS, None, encode(status)), self.told(0, is_closed=False))
        await self.arrived()

    async def close(self, *, opens: bool = True) -> None:
        """The open bar closes; the next one opens in the same burst, or is yet to be heard of."""
        entries = [self.told(self.number, is_closed=True)]
        closed, self.number = opened(self.number), self.number + 1
        if opens:
            entries.append(self.told(self.number, is_closed=False))
        await self.say(*entries, closed=[ms(closed)])

    async def write(self, first: int, last: int) -> None:
        """Closed bars of a range of numbers."""
        rows = {ms(opened(number)): encode(the_bar(number, is_closed=True)) for number in range(first, last)}
        await self.engine.write_bars(self.lease, str(TOPIC), rows)

    async def arrived(self) -> None:
        """The edge has read all that was said."""
        while self.mirror.lanes[0].n < self.n:  # noqa: ASYNC110 (the clock jumps)
            await trio.sleep(0.1)

    async def ohlc(self, limit: int, start: datetime | None = None, end: datetime | None = None) -> list[Ohlc]:
        return await self.connector.ohlc("btcusdt", "1m", limit=limit, start=start, end=end)


def opened(number: int) -> datetime:
    return from_ms(OPEN + number * MINUTE)


def the_bar(number: int, *, is_closed: bool) -> Ohlc:
    return bar("BTCUSDT", opened(number), 1000.0 + number, is_closed=is_closed)


def bars(first: int, last: int, *, with_open: bool = False) -> list[Ohlc]:
    """Those of a range of numbers, the last one open where that is said."""
    return [the_bar(number, is_closed=not (with_open and number == last - 1)) for number in range(first, last)]


@asynccontextmanager
async def edge(exchange: Exchange = EXCHANGE) -> AsyncIterator[Edge]:
    engine = Engine()
    instrument = Instrument(
        exchange="binance", symbol="BTCUSDT", base="BTC", quote="USDT", settle="USDT", status="TRADING",
        tick_size=0.1, step_size=0.1, funding_interval_hours=8,
    )  # fmt: skip
    await engine.write_catalogue("binance", encode([instrument]))
    lease = await engine.take(LANE, "in", 1e6, "1-a")
    assert lease is not None
    async with trio.open_nursery() as nursery:
        one = Edge(engine, lease, exchange)
        nursery.start_soon(one.mirror.run)
        nursery.start_soon(one.connector.run)
        while not one.connector.catalogue.instruments:  # noqa: ASYNC110 (the clock jumps)
            await trio.sleep(0.1)
        yield one
        nursery.cancel_scope.cancel()


async def test_bars_are_read_once_and_kept_by_the_log(autojump_clock: MockClock) -> None:
    async with edge() as one:
        await one.begin()
        await one.write(-50, 0)
        assert await one.ohlc(10) == bars(-9, 1, with_open=True)
        await one.close()
        await one.close(opens=False)
        await one.arrived()
        assert await one.ohlc(10) == bars(-8, 2)
        await one.close()
        await one.arrived()
        assert await one.ohlc(52) == bars(-48, 4, with_open=True)
        assert await one.ohlc(3, end=opened(1)) == bars(-2, 1)
        assert await one.ohlc(4, start=opened(0)) == bars(0, 4, with_open=True)
        assert await one.ohlc(2, start=opened(0)) == bars(0, 2)
        assert await one.ohlc(9, start=opened(1), end=opened(3)) == bars(1, 3)
        assert await one.ohlc(9, start=opened(2) + timedelta(seconds=1)) == bars(3, 4, with_open=True)
        assert (one.engine.readings, one.nobody.asked) == (1, 0)


@pytest.mark.parametrize("seed", range(60))
async def test_whenever_they_are_read_they_meet_the_log_without_a_seam(seed: int, autojump_clock: MockClock) -> None:
    chance = random.Random(seed)
    async with edge() as one:
        await one.begin()
        await one.write(-20, 0)
        one.engine.late, one.engine.slow = chance.uniform(0, 3), chance.uniform(0, 3)

        async def ask() -> None:
            found = await one.ohlc(15)
            feed = one.mirror.feed("BTCUSDT")
            begins, before, _ = feed.closed_bars("1m", 15) or pytest.fail("nothing was told")
            last = round((begins - opened(0)) / timedelta(minutes=1))  # by the log, as far as it was read
            is_open = feed.current(TOPIC) == the_bar(last, is_closed=False)
            assert found == bars(last - 15 + is_open, last + is_open, with_open=is_open)
            assert before == bars(last - 15, last)
            answered.append(last)

        answered: list[int] = []
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                await trio.sleep(chance.uniform(0, 1))
                await one.close(opens=chance.random() < 0.5)
                if chance.random() < 0.3:  # whoever leads has all of them
                    await one.write(one.number - 20, one.number)
                if chance.random() < 0.5:
                    nursery.start_soon(ask)
        await one.arrived()
        await ask()
        assert answered[-1] == 6
        assert one.nobody.asked == 0


@pytest.mark.parametrize("exchange", [EXCHANGE, replace(EXCHANGE, has_empty_bars=False)])
async def test_a_while_after_a_gap_they_are_read_again(exchange: Exchange, autojump_clock: MockClock) -> None:
    async with edge(exchange) as one:
        await one.begin()
        await one.write(-20, 0)
        assert await one.ohlc(10) == bars(-9, 1, with_open=True)
        where: Any = {"exchange": "binance", "symbol": "BTCUSDT", "timestamp": opened(5)}
        gap = Gap(**where, start=opened(0), end=opened(5), reason="unheard", repaired=False)
        one.number = 5
        await one.say(Entry(str(TOPIC), Gap.type, None, encode(gap)), one.told(5, is_closed=False))
        await one.arrived()
        with pytest.raises(NotReady, match="limit=10"):
            await one.ohlc(10)  # the engine lacks what was missed
        await one.write(-10, 5)
        await trio.sleep(MENDED_WITHIN)
        assert await one.ohlc(10) == bars(-4, 6, with_open=True)
        assert one.nobody.asked == 1


async def test_where_the_memory_is_another_one_they_are_read_again(autojump_clock: MockClock) -> None:
    async with edge() as one:
        await one.begin()
        await one.write(-20, 0)
        await one.ohlc(10)
        await one.engine.renew(LANE, "1-a", "2-b")
        one.n += 1
        await one.arrived()
        assert await one.ohlc(10) == bars(-9, 1, with_open=True)
        assert (one.engine.readings, one.nobody.asked) == (2, 0)


async def test_what_is_not_held_or_not_current_is_asked_of_who_collects(autojump_clock: MockClock) -> None:
    async with edge() as one:
        await one.begin()
        await one.write(-20, 0)
        assert len(await one.ohlc(21)) == 21
        for limit, start, end in ((22, None, None), (2, opened(-21), None), (5, None, opened(-17))):
            with pytest.raises(NotReady, match=f"/binance/ohlc/btcusdt/1m.limit={limit}"):
                await one.ohlc(limit, start, end)
        with pytest.raises(UnknownSymbol):
            await one.connector.ohlc("NONE", "1m", limit=1, start=None, end=None)
        assert one.nobody.asked == 3
        readings = one.engine.readings
        await one.begin("down")
        await trio.sleep(READ_AGAIN)
        with pytest.raises(NotReady, match="limit=5"):
            await one.ohlc(5)
        one.engine.is_away = True
        await trio.sleep(30)
        assert one.connector.feeds["BTCUSDT"].report().reason == "the engine is away"
        with pytest.raises(NotReady, match="limit=5"):
            await one.ohlc(5)
        assert one.engine.readings == readings  # in vain, and late


async def test_a_feed_is_stale_while_its_leader_is_silent_and_down_once_nobody_leads_it(
    autojump_clock: MockClock,
) -> None:
    async with edge() as one:
        await one.begin()
        feed, connector = one.mirror.feed("BTCUSDT"), one.connector
        with feed.subscribe(TOPIC, 100) as reader:

            async def states(seconds: float) -> list[tuple[str, str | None]]:
                await trio.sleep(seconds)
                told = [await reader.receive() for _ in range(reader.given - len(taken))]
                taken.extend(told)
                return [(said.state, said.reason) for said in told if isinstance(said, Status)]

            taken: list[Any] = []
            assert await states(0.6 * LEASE) == []
            await one.engine.release(one.lease)
            assert await states(0.6 * LEASE) == [("stale", "who collects it is silent")]
            assert (feed.report().state, connector.is_live, connector.not_ready_reason()) == ("stale", True, None)
            assert await states(3 * LEASE) == [("down", "no node collects it")]
            assert (feed.report().state, connector.is_live) == ("down", False)
            assert connector.not_ready_reason() == "no node collects it"
            again = await one.engine.take(LANE, "other", 1e6, "1-a")
            assert again is not None
            one.lease = again
            assert await states(LEASE) == [("live", None)]


@pytest.mark.parametrize("is_pushed", [False, True])
async def test_open_interest_that_is_polled_is_held_for_as_long_as_by_whoever_polls(
    autojump_clock: MockClock, is_pushed: bool
) -> None:
    """Where the exchange pushes it, what was told last is the present."""
    exchange = replace(EXCHANGE, pushed=EXCHANGE.pushed | {"oi"}) if is_pushed else EXCHANGE
    where: Any = {"exchange": "binance", "symbol": "BTCUSDT", "timestamp": clock.now()}
    interest = OpenInterest(**where, open_interest=5.0, open_interest_value=None)
    async with edge(exchange) as one:
        await one.begin()
        await one.say(Entry("binance:BTCUSDT:oi", "open_interest", 1, encode(interest)))
        await one.arrived()
        assert await one.connector.open_interest("btcusdt") == interest
        await trio.sleep(POLL_MIN)
        if is_pushed:
            assert one.connector.held_open_interest("BTCUSDT") == interest
            return
        assert one.connector.held_open_interest("BTCUSDT") is None
        with pytest.raises(NotReady):  # who collects is asked
            await one.connector.open_interest("BTCUSDT")
        assert one.nobody.asked == 1


async def test_open_interest_of_an_unknown_age_is_not_held(autojump_clock: MockClock) -> None:
    interest = OpenInterest(
        exchange="binance", symbol="BTCUSDT", timestamp=clock.now(), open_interest=5.0, open_interest_value=None
    )
    async with edge() as one:
        await one.begin()
        await one.say(Entry("binance:BTCUSDT:oi", "open_interest", 1, encode(interest)))
        await one.arrived()
        one.mirror.lanes[0].adopt(await one.engine.present(LANE))
        assert one.mirror.feed("BTCUSDT").current(Topic("binance", "BTCUSDT", "oi")) == interest
        assert one.connector.held_open_interest("BTCUSDT") is None


async def test_open_interest_that_is_told_late_is_not_held(autojump_clock: MockClock) -> None:
    """By a node that leads since then, and polled it before."""
    at = clock.now() - timedelta(seconds=POLL_MIN + 1)
    interest = OpenInterest(
        exchange="binance", symbol="BTCUSDT", timestamp=at, open_interest=5.0, open_interest_value=None
    )
    async with edge() as one:
        await one.begin()
        await one.say(Entry("binance:BTCUSDT:oi", "open_interest", 1, encode(interest)))
        await one.arrived()
        assert one.connector.held_open_interest("BTCUSDT") is None
