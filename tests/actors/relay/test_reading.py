"""A takeover whose log takes longer to be read than a lease lasts."""

from collections.abc import Sequence
from typing import Any

import trio
from trio.testing import MockClock

from actors.engine.memory import MemoryEngine
from actors.engine.words import Burst, Entry, Told
from actors.relay.reading import PAGE, Reading
from tests.actors.relay.fixtures import LEASE, Market, Node

LANE, TOPIC = "binance.0", "binance:BTCUSDT:trades"


class SlowEngine(MemoryEngine):
    """The more it answers, the longer that takes."""

    async def tail(self, lane: str, behind: str = "0-0", count: int | None = None) -> Sequence[Told]:
        found = await super().tail(lane, behind, count)
        await trio.sleep(len(found) * LEASE / PAGE / 3)
        return found


async def written(engine: MemoryEngine, lane: str, bursts: int) -> None:
    lease = await engine.take(lane, "before", LEASE, "1-a")
    assert lease is not None
    for n in range(1, bursts + 1):
        await engine.say({lease: Burst(n, [Entry(TOPIC, "trade", n, b'{"timestamp":"2026-01-01T00:00:00Z"}')], {})})
    await engine.release(lease)


async def test_it_is_read_in_pages_to_its_end(autojump_clock: MockClock) -> None:
    for bursts in (0, 1, PAGE, 3 * PAGE + 7):
        engine: Any = MemoryEngine()
        await written(engine, LANE, bursts)
        reading = Reading(engine, LANE)
        while not reading.is_over:
            await reading.read_on()
        assert [told.n for told in reading.bursts] == list(range(1, bursts + 1))


async def test_whoever_reads_for_longer_than_a_lease_keeps_it(autojump_clock: MockClock) -> None:
    engine, market = SlowEngine(), Market()
    await written(engine, LANE, 12 * PAGE)  # four leases long
    node = Node(market, engine, "a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run)
        nursery.start_soon(market.run)
        await trio.sleep(6 * LEASE)
        present = await engine.present(LANE)
        assert present.holder == "a|2|1-a"  # it had to be taken once
        assert present.n > 12 * PAGE
        nursery.cancel_scope.cancel()
