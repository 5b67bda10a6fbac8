"""What is this node's to lead, over an engine in memory."""

from typing import Any

import trio
from trio.testing import MockClock

from actors.engine.memory import MemoryEngine
from actors.engine.words import Member
from actors.relay.claims import Claims
from actors.relay.lane import Lane
from actors.relay.members import Members
from actors.relay.writer import Writer
from tests.actors.relay.fixtures import LEASE

LANE = "binance.0"  # of which "left" comes before "right"


def node(name: str) -> Member:
    return Member(name=name, role="both", address="", ready=(LANE,))


async def test_a_lane_is_not_given_back_to_a_node_that_just_fell_silent(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """What a dead node said of itself may stand for longer than its lease."""
    engine = MemoryEngine()
    assert await engine.take(LANE, "left", LEASE, "1-a")
    await engine.announce(node("left"), 10 * LEASE)
    members = Members(engine, node("right"), seconds=LEASE, ready=lambda: (LANE,))
    lane = Lane(LANE, Writer(lambda symbol: None))
    about: Any = {"seconds": LEASE, "copies": 2, "on_failure": lambda error: None, "on_answer": lambda: None}
    claims = Claims(engine, members, [lane], **about)
    claims.expect([])
    nursery.start_soon(members.run)
    nursery.start_soon(claims.watch)
    with trio.fail_after(1.25 * LEASE):
        while not claims.may_take(lane):
            await claims.looked.wait()
    lane.lease = await engine.take(LANE, "right", 10 * LEASE, "1-a")
    assert lane.lease is not None
    await trio.sleep(0.9 * LEASE)
    assert not lane.is_awaited
    await trio.sleep(LEASE)  # it is there all the same: now it is believed
    assert lane.is_awaited
