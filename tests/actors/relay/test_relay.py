"""What a relay asks of the engine: one call for all that its lanes have to say, and no more than it takes."""

from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from actors.engine.memory import MemoryEngine
from actors.engine.words import Burst, EngineFull, Lease, Member, Refused
from actors.events import Topic
from actors.relay.members import Members
from actors.relay.relay import Relay
from actors.relay.takeover import lane_of
from actors.relay.writer import Knows
from tests.actors.relay.fixtures import LEASE, supervise, trade

FLUSH = 0.005
LANES = 4
SYMBOLS = [f"A{number}USDT" for number in range(20)]


class Counting(MemoryEngine):
    """`calls`: how many events each call of say brought. `is_full`: it takes none, and answers whatever else."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []
        self.is_full = False

    async def say(self, bursts: Mapping[Lease, Burst]) -> Mapping[Lease, Refused]:
        if self.is_full:
            raise EngineFull("no memory left")
        self.calls.append(sum(len(burst.entries) for burst in bursts.values()))
        return await super().say(bursts)


class NoFeeds:
    def __init__(self) -> None:
        self.feeds: Mapping[str, Knows] = {}


def hear(relay: Relay, number: int) -> None:
    """A trade of each symbol."""
    for symbol in SYMBOLS:
        relay.take(Topic("binance", symbol, "trades"), trade(symbol, number))


@pytest.fixture
def engine() -> Counting:
    return Counting()


@pytest.fixture
async def relay(engine: Counting, nursery: trio.Nursery) -> Relay:
    members = Members(engine, Member(name="a", role="both", address=""), seconds=LEASE)
    about: Any = {"lanes": LANES, "copies": 1, "seconds": LEASE, "flush": FLUSH, "supervise": supervise}
    made = Relay("binance", engine, members=members, **about)
    nursery.start_soon(members.run)
    nursery.start_soon(made.run, NoFeeds())
    await trio.sleep(LEASE)
    await trio.testing.wait_all_tasks_blocked()
    assert all(lane.lease for lane in made.lanes)
    return made


async def test_what_comes_together_is_said_in_one_call_over_all_lanes(
    engine: Counting, relay: Relay, autojump_clock: MockClock
) -> None:
    hear(relay, 1)
    await trio.testing.wait_all_tasks_blocked()
    assert engine.calls == [len(SYMBOLS)]  # the first after a silence does not wait
    for number in range(2, 5):
        hear(relay, number)
        await trio.sleep(FLUSH / 5)
    assert engine.calls == [len(SYMBOLS)]
    await trio.sleep(FLUSH)
    assert engine.calls == [len(SYMBOLS), 3 * len(SYMBOLS)]
    assert sum(lane.entries for lane in relay.lanes) == 4 * len(SYMBOLS)
    await trio.sleep(LEASE)
    assert engine.calls == [len(SYMBOLS), 3 * len(SYMBOLS)]


async def test_lanes_of_which_an_engine_takes_nothing_for_a_lease_are_let_go(
    engine: Counting, relay: Relay, autojump_clock: MockClock
) -> None:
    """What waits to be said would grow without end; what is remembered does not."""
    engine.is_full = True
    lanes = [relay.lanes[number] for number in {lane_of(symbol, LANES) for symbol in SYMBOLS}]
    terms = {lane.lease for lane in lanes}
    hear(relay, 1)
    await trio.sleep(LEASE / 2)
    assert {lane.lease for lane in lanes} == terms
    await trio.sleep(LEASE)
    assert not terms & {lane.lease for lane in lanes}
    engine.is_full = False
    await trio.sleep(LEASE)
    assert sum(engine.calls) == len(SYMBOLS)  # told once, by the next term
