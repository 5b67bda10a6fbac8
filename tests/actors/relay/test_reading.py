"""A takeover in time: at the end of the lease of whoever fell silent, and though its log is long."""

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
    """The more it answers, the longer that takes: a page as much as `page`, in seconds."""

    page = LEASE / 3

    async def tail(self, lane: str, behind: str = "0-0", count: int | None = None) -> Sequence[Told]:
        found = await super().tail(lane, behind, count)
        await trio.sleep(len(found) * self.page / PAGE)
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


async def test_a_lane_is_taken_over_when_its_lease_ends_and_its_log_is_read_by_then(autojump_clock: MockClock) -> None:
    engine, market = SlowEngine(), Market()
    engine.page = 0.3
    await written(engine, LANE, 3 * PAGE)
    nodes = [Node(market, engine, name) for name in ("a", "b")]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(market.run)
        for node in nodes:
            nursery.start_soon(node.run)
        await trio.sleep(4 * LEASE)
        leader, other = sorted(nodes, key=lambda node: node.relay.lanes[0].lease is None)
        renewed = (await engine.holders([LANE]))[LANE][1]
        before = (await engine.present(LANE)).n
        leader.kill()
        await trio.sleep(renewed + engine.page + 0.1)
        assert other.relay.lanes[0].lease is not None
        assert (await engine.present(LANE)).n > before
        nursery.cancel_scope.cancel()
