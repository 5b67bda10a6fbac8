"""The fan-out: order and completeness for clients that come and go while events are on their way."""

from datetime import datetime
from typing import Any, cast

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from actors.broadcast import Broadcast, Reader
from actors.events import Event, Gap, OpenInterest, Said, Topic, from_ms
from web.server.outbox import Outbox, payloads_of
from web.streams.fanout import Client, Fanout
from web.streams.memory import Cursor, Forgotten, Memory, Position, Room
from web.streams.trunk import CAPACITY, Trunk

TOPIC = Topic("binance", "BTCUSDT", "oi")


def interest(number: int) -> OpenInterest:
    return OpenInterest(
        exchange="binance",
        symbol="BTCUSDT",
        timestamp=from_ms(number),
        open_interest=float(number),
        open_interest_value=None,
    )


class Source:
    """A feed of one topic that remembers its last value."""

    def __init__(self) -> None:
        self.broadcast: Broadcast[Said] = Broadcast()
        self.last: OpenInterest | None = None
        self.received_at: datetime | None = None

    def publish(self, number: int) -> None:
        self.last = interest(number)
        self.broadcast.publish(self.last)

    def subscribe(self, topic: Topic, capacity: int) -> Reader[Said]:
        return self.broadcast.subscribe(capacity)

    def current(self, topic: Topic) -> Event | None:
        return self.last


class Received:
    """Stands for an outbox and keeps what it is given."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.closed_with: int | None = None

    def send(self, frames: bytes) -> None:
        for text in payloads_of(frames):
            self.numbers.append(int(msgspec.json.decode(text)["open_interest"]))

    def close(self, code: int, reason: str = "") -> None:
        self.closed_with = code


def grown(source: Source, nursery: trio.Nursery, memory: Memory | None = None, **options: Any) -> Fanout:
    """The only topic of a trunk that runs."""
    trunk = Trunk(source, TOPIC, Room(memory or Memory()))
    nursery.start_soon(trunk.run)
    return trunk.grow(**options)


def client(received: Received, **options: Any) -> Client:
    return Client(cast(Outbox, received), **options)


async def test_a_client_that_joins_while_events_are_on_their_way_gets_each_once_and_in_order(
    nursery: trio.Nursery,
) -> None:
    source = Source()
    fanout = grown(source, nursery)
    await trio.testing.wait_all_tasks_blocked()
    old, new = Received(), Received()
    fanout.join(client(old))
    source.publish(1)
    source.publish(2)
    fanout.join(client(new))
    source.publish(3)
    await trio.testing.wait_all_tasks_blocked()
    assert old.numbers == [1, 2, 3]
    assert new.numbers == [2, 3]
    fanout.trunk.cut(fanout)


@given(st.lists(st.sampled_from(["publish", "join", "leave", "yield"]), max_size=60))
def test_whoever_comes_whenever_hears_a_row_without_holes(steps: list[str]) -> None:
    async def run() -> None:
        source = Source()
        present: list[tuple[Client, Received, int]] = []
        done: list[tuple[Received, int, int]] = []
        count = 0
        async with trio.open_nursery() as nursery:
            fanout = grown(source, nursery)
            for step in steps:
                if step == "publish":
                    count += 1
                    source.publish(count)
                elif step == "join":
                    received = Received()
                    one = client(received)
                    fanout.join(one)
                    present.append((one, received, count))
                elif step == "leave" and present:
                    one, received, since = present.pop(0)
                    fanout.leave(one)
                    done.append((received, since, count))
                else:
                    await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked()
            for _, received, since in present:
                assert received.numbers == list(range(max(1, since), count + 1))
            for received, since, until in done:
                assert received.numbers == list(range(max(1, since), max(1, since) + len(received.numbers)))
                assert not received.numbers or received.numbers[-1] <= until
            nursery.cancel_scope.cancel()

    trio.run(run)


async def test_a_fan_out_that_lags_tells_its_clients_to_come_back(nursery: trio.Nursery) -> None:
    source = Source()
    trunk = Trunk(source, TOPIC, Room(Memory()))
    fanout = trunk.grow()
    received = Received()
    fanout.join(client(received))
    for number in range(1, CAPACITY + 2):  # it never gets to run meanwhile
        source.publish(number)
    await trunk.run()
    assert received.closed_with == 1013


async def test_only_what_a_filter_accepts_is_sent(nursery: trio.Nursery) -> None:
    source = Source()
    source.publish(1)
    some, all_of_it = Received(), Received()
    for received, accepts in ((some, lambda event: event.open_interest >= 3), (all_of_it, None)):
        fanout = grown(source, nursery, accepts=accepts)
        fanout.join(client(received))
    for number in range(2, 5):
        source.publish(number)
    await trio.testing.wait_all_tasks_blocked()
    assert some.numbers == [3, 4]
    assert all_of_it.numbers == [1, 2, 3, 4]
    nursery.cancel_scope.cancel()


# --- what is remembered


class Told:
    """A fan-out that remembers, and the numbers of what it replays."""

    def __init__(self, nursery: trio.Nursery, **memory: Any) -> None:
        self.source = Source()
        self.fanout = grown(self.source, nursery, memory=Memory(**memory), epoch="e")
        self.fanout.remember()
        self.count = 0

    async def event(self, count: int = 1) -> None:
        for _ in range(count):
            self.count += 1
            self.source.publish(self.count)
        await trio.testing.wait_all_tasks_blocked()

    async def gap(self) -> None:
        now = from_ms(1)
        gap = Gap(
            exchange="binance", symbol="BTCUSDT", timestamp=now, start=now, end=now, reason="lost", repaired=False
        )
        self.source.broadcast.publish(gap)
        await trio.testing.wait_all_tasks_blocked()

    def since(self, seq: int, epoch: str = "e") -> list[int | str] | None:
        """What a client that had `seq` is told; None: it is too late."""
        cursor = self.fanout.resume(Position(epoch, seq))
        if cursor is None:
            return None
        frames = [msgspec.json.decode(said.text) for said in self.fanout.read(cursor, 10_000)[0]]
        return [frame["seq"] if "seq" in frame else frame["type"] for frame in frames]


async def test_a_client_is_told_what_came_after_its_last_event(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    said = Told(nursery)
    await said.event(3)
    await said.gap()
    await said.event()
    assert said.since(0) == [1, 2, 3, "gap", 4]
    assert said.since(3) == ["gap", 4]
    assert said.since(4) == []
    for seq, epoch in ((5, "e"), (-1, "e"), (3, "another"), (10**30, "e")):
        assert said.since(seq, epoch) is None
    nursery.cancel_scope.cancel()


async def test_only_so_many_frames_are_remembered(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    said = Told(nursery, frames=3)
    await said.event(5)
    assert said.since(1) is None
    assert said.since(2) == [3, 4, 5]
    with pytest.raises(Forgotten):
        said.fanout.read(Cursor(1, 1, 0), 10)
    nursery.cancel_scope.cancel()


async def test_a_gap_that_fell_out_of_memory_is_not_passed_over(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    said = Told(nursery, frames=3)
    await said.event()
    for _ in range(4):
        await said.gap()
    await said.event(3)
    assert said.since(1) is None  # it would not be told of the first gap
    assert said.since(2) == [3, 4]
    nursery.cancel_scope.cancel()


async def test_only_so_many_seconds_are_remembered(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    said = Told(nursery, seconds=100.0)
    await said.event()
    await trio.sleep(60)
    await said.event()
    await trio.sleep(60)
    assert said.since(0) is None
    assert said.since(1) == [2]
    nursery.cancel_scope.cancel()


async def test_what_no_event_followed_is_remembered_however_old_it_is(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A quiet topic: its last client was there all the time, leaves for a moment, and has lost nothing."""
    said = Told(nursery, seconds=100.0)
    await said.event()
    await said.gap()
    await trio.sleep(1000)
    assert said.since(1) == ["gap"]
    await said.event()
    assert said.since(1) == ["gap", 2]
    await trio.sleep(101)
    assert said.since(1) is None
    assert said.since(2) == []
    nursery.cancel_scope.cancel()


async def test_a_repair_of_thousands_of_trades_ends_no_reader(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    said = Told(nursery)
    await said.event(30_000)
    assert not said.fanout.is_over
    assert said.since(30_000 - 5_000) == list(range(25_001, 30_001))
    nursery.cancel_scope.cancel()
