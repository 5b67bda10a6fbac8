"""What lanes said, shared: in their order, once, whatever the engine answers, and by whoever leads after another."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.engine.memory import START_MS, MemoryEngine
from actors.engine.words import ALL, EPOCH, Entry, Told
from actors.events import Liquidation, from_ms
from actors.relay.sharing import BATCH, PACE, WAITING, Sharing

LANE, TOPIC, STREAM = "binance.0", "binance:BTCUSDT:liquidations", "all:liquidations"


def liquidation(number: int) -> bytes:
    where: Any = {"exchange": "binance", "symbol": "BTCUSDT", "timestamp": from_ms(START_MS + number)}
    return msgspec.json.encode(Liquidation(**where, side="buy", price=1.0, quantity=1.0, value=float(number)))


def entries(*numbers: int) -> list[Entry]:
    trade = Entry("binance:BTCUSDT:trades", "trade", 1, b"{}")
    state = Entry("binance:BTCUSDT", "status", None, b"{}")
    return [trade, *(Entry(TOPIC, "liquidation", 1, liquidation(number)) for number in numbers), state]


async def told(engine: MemoryEngine) -> list[tuple[int | None, Any]]:
    """The number and value of all that is told over everything; of a gap its ends in ms."""
    found: list[tuple[int | None, Any]] = []
    for bursts in await engine.tail(ALL):
        for entry in bursts.entries:
            if entry.type != EPOCH:
                assert entry.topic == STREAM
                event = msgspec.json.decode(entry.text)
                found.append((entry.seq, event.get("value", (event.get("from"), event.get("to")))))
    return found


@asynccontextmanager
async def running(*sharings: Sharing) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for sharing in sharings:
            nursery.start_soon(sharing.run)
        yield
        nursery.cancel_scope.cancel()


def hold(engine: MemoryEngine, lane: str, epoch: str) -> None:
    """As of a lane that said all that is shared here."""
    it = engine._lane(lane)
    it.epoch, it.n = epoch, 1_000_000


def led(engine: MemoryEngine, tail: Sequence[Told] = ()) -> Sharing:
    sharing = Sharing(engine)
    hold(engine, LANE, "1-a")
    sharing.begin(LANE, "1-a", tail)
    return sharing


async def test_a_lane_is_shared_in_its_order_and_lost_answers_change_nothing(autojump_clock: MockClock) -> None:
    engine = MemoryEngine()
    sharing = led(engine)
    async with running(sharing):
        for n in range(1, 20):
            engine.answers_lost = n % 3
            sharing.add(LANE, n, entries(n, n) if n % 2 else entries())
            await trio.sleep(0.01 * n)
        await trio.sleep(1)
    odd = [n for n in range(1, 20, 2) for _ in range(2)]
    assert await told(engine) == [(seq, float(n)) for seq, n in enumerate(odd, 1)]


async def test_a_successor_shares_what_only_the_log_has(autojump_clock: MockClock) -> None:
    engine = MemoryEngine()
    first = led(engine)
    async with running(first):
        for n in (1, 2):
            first.add(LANE, n, entries(n))
        await trio.sleep(1)
        engine.is_away = True  # it said two more and slept before they were shared
        for n in (3, 4):
            first.add(LANE, n, entries(n))
        await trio.sleep(1)
        second = led(engine, [Told(f"{START_MS}-{n}", entries(n)) for n in range(1, 5)])
        second.add(LANE, 5, entries(5))
        engine.is_away = False
        async with running(second):
            await trio.sleep(1)
    assert await told(engine) == [(n, float(n)) for n in range(1, 6)]


async def test_what_a_memory_that_was_left_held_is_not_shared(autojump_clock: MockClock) -> None:
    engine = MemoryEngine()
    renewed = Told(f"{START_MS}-2", [Entry("", EPOCH, None, b'"1-a"')])
    sharing = led(engine, [Told(f"{START_MS}-1", entries(1)), renewed, Told(f"{START_MS}-3", entries(3))])
    async with running(sharing):
        await trio.sleep(1)
    assert await told(engine) == [(1, 3.0)]


async def test_an_engine_that_is_older_begins_another_memory(autojump_clock: MockClock) -> None:
    engine = MemoryEngine()
    await engine.renew(ALL, "", "1-x")
    sharing = led(engine)
    older = engine.snapshot()
    async with running(sharing):
        sharing.add(LANE, 1, entries(1))
        await trio.sleep(1)
        engine.restore(older)
        sharing.add(LANE, 2, entries(2))
        await trio.sleep(1)
        present = await engine.present(ALL)
        assert present.epoch != "1-x"
        assert present.seqs == {STREAM: 1}
        # Again, to before the other memory: it is one that was left.
        engine.restore(older)
        sharing.add(LANE, 3, entries(3))
        await trio.sleep(1)
        assert (await engine.present(ALL)).epoch not in ("1-x", present.epoch)


async def test_what_lanes_say_meanwhile_goes_together(autojump_clock: MockClock) -> None:
    engine = MemoryEngine()
    sharing = led(engine)
    hold(engine, "binance.1", "1-b")
    sharing.begin("binance.1", "1-b", ())
    async with running(sharing):
        for n in range(1, 11):
            sharing.add(LANE, n, entries(n))
            sharing.add("binance.1", n, entries(n))
            await trio.sleep(PACE / 10)
        await trio.sleep(1)
    assert len(await engine.tail(ALL)) == 2
    assert Counter(await told(engine)).total() == 20


async def test_a_burst_is_shared_whole(autojump_clock: MockClock) -> None:
    engine = MemoryEngine()
    sharing = led(engine)
    for n in range(1, BATCH + 3):
        sharing.add(LANE, n, entries(n, n))
    async with running(sharing):
        await trio.sleep(1)
    assert [value for _, value in await told(engine)] == [float(n) for n in range(1, BATCH + 3) for _ in range(2)]


async def test_what_an_engine_never_takes_is_bounded_and_announced(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = MemoryEngine()
    sharing = led(engine)
    engine.is_away = True
    async with running(sharing):
        for n in range(1, WAITING + 2):
            sharing.add(LANE, n, entries(n))
            if n == 1:
                await wait_all_tasks_blocked()
        engine.is_away = False
        await trio.sleep(1)
    gap, *rest = await told(engine)
    lost = WAITING // 2
    texts = [msgspec.to_builtins(from_ms(START_MS + at)) for at in (1, lost + 1)]
    assert gap == (None, tuple(texts))
    assert rest == [(n, float(n + lost)) for n in range(1, WAITING + 2 - lost)]
