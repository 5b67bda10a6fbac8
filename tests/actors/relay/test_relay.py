"""What a relay asks of the engine: one call for all that its lanes have to say, and no more than it takes."""

from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from actors.engine.memory import MemoryEngine
from actors.engine.words import Burst, EngineFull, Fenced, Lease, Member, Refused
from actors.events import Topic
from actors.relay.closes import Knows
from actors.relay.members import Members
from actors.relay.relay import Relay
from actors.relay.saying import MOST, PAUSE, Saying
from actors.relay.takeover import lane_of
from actors.relay.writer import BURST
from tests.actors.relay.fixtures import LEASE, supervise, trade

FLUSH = 0.005
LANES = 4
SYMBOLS = [f"COIN{number * 7}USDT" for number in range(20)]  # some in each lane


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


def hear(relays: list[Relay], number: int) -> None:
    """A trade of each symbol of each exchange."""
    for relay, exchange in zip(relays, ("binance", "bybit"), strict=True):
        for symbol in SYMBOLS:
            relay.take(Topic(exchange, symbol, "trades"), trade(symbol, number))


@pytest.fixture
def engine() -> Counting:
    return Counting()


@pytest.fixture
async def relays(engine: Counting, nursery: trio.Nursery) -> list[Relay]:
    members = Members(engine, Member(name="a", role="both", address=""), seconds=LEASE)
    saying = Saying(engine, seconds=LEASE, flush=FLUSH)
    about: Any = {"lanes": LANES, "copies": 1, "seconds": LEASE, "saying": saying, "supervise": supervise}
    made = [Relay(name, engine, members=members, **about) for name in ("binance", "bybit")]
    nursery.start_soon(saying.run)
    nursery.start_soon(members.run)
    for relay in made:
        nursery.start_soon(relay.run, NoFeeds())
    await trio.sleep(LEASE)
    await trio.testing.wait_all_tasks_blocked()
    assert all(lane.lease for relay in made for lane in relay.lanes)
    return made


async def test_what_comes_together_is_said_in_one_call_over_all_lanes_of_all_exchanges(
    engine: Counting, relays: list[Relay], autojump_clock: MockClock
) -> None:
    once = 2 * len(SYMBOLS)
    hear(relays, 1)
    await trio.testing.wait_all_tasks_blocked()
    assert engine.calls == [once]  # the first after a silence does not wait
    for number in range(2, 5):
        hear(relays, number)
        await trio.sleep(FLUSH / 5)
    assert engine.calls == [once]
    await trio.sleep(FLUSH)
    assert engine.calls == [once, 3 * once]
    assert sum(lane.entries for relay in relays for lane in relay.lanes) == 4 * once
    await trio.sleep(LEASE)
    assert engine.calls == [once, 3 * once]


async def test_much_is_said_in_several_calls_and_no_lane_waits_for_another_one_to_be_done(
    engine: Counting, relays: list[Relay], autojump_clock: MockClock
) -> None:
    """An engine does nothing else while it takes a call."""
    for number in range(1, 301):
        hear(relays, number)
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(5):
        await trio.sleep(FLUSH)
    assert max(engine.calls) < MOST + BURST
    assert {lane.entries >= BURST for relay in relays for lane in relay.lanes if lane.writer.is_leading} == {True}
    await trio.sleep(20 * FLUSH)
    assert sum(engine.calls) == 300 * 2 * len(SYMBOLS)


async def test_lanes_of_which_an_engine_takes_nothing_for_a_lease_are_let_go(
    engine: Counting, relays: list[Relay], autojump_clock: MockClock
) -> None:
    """What waits to be said would grow without end; what is remembered does not."""
    engine.is_full = True
    lanes = [relay.lanes[number] for relay in relays for number in {lane_of(symbol, LANES) for symbol in SYMBOLS}]
    terms = {lane.lease for lane in lanes}
    hear(relays, 1)
    await trio.sleep(LEASE / 2)
    assert {lane.lease for lane in lanes} == terms
    await trio.sleep(LEASE)
    assert not terms & {lane.lease for lane in lanes}
    engine.is_full = False
    await trio.sleep(LEASE)
    assert sum(engine.calls) == 2 * len(SYMBOLS)  # told once, by the next term


async def test_what_was_not_taken_is_no_trouble_any_more_when_somebody_else_has_to_say_it(
    engine: Counting, relays: list[Relay], autojump_clock: MockClock
) -> None:
    engine.is_full = True
    hear(relays, 1)
    await trio.testing.wait_all_tasks_blocked()
    saying = relays[0]._saying
    assert saying.is_refused
    for lane in (lane for relay in relays for lane in relay.lanes):
        lane.refuse(Fenced("another node leads it"))
    await trio.sleep(PAUSE)
    await trio.testing.wait_all_tasks_blocked()
    assert not saying.is_refused


async def test_what_was_let_go_is_no_trouble_any_more(
    engine: Counting, relays: list[Relay], autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a node whose lanes another one leads would be away for as long as it has nothing to say."""
    told = []
    monkeypatch.setattr(relays[0]._saying, "_failed", lambda error: told.append("failed"))
    monkeypatch.setattr(relays[0]._saying, "_answered", lambda: told.append("over"))

    async def taken(*_: object) -> None:
        """Another node has it."""

    monkeypatch.setattr(engine, "take", taken)
    engine.is_full = True
    hear(relays, 1)
    await trio.sleep(LEASE - PAUSE * 2)
    assert set(told) == {"failed"}
    await trio.sleep(LEASE / 2)
    assert "over" in told
