"""Topics that share a trunk: bursts, filters, rates and a shared memory change nothing for clients."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import turns
from actors.broadcast import Broadcast, Reader
from actors.events import Event, Gap, Liquidation, Ohlc, Said, Topic, from_ms
from web.server.outbox import Outbox, payloads_of
from web.streams.fanout import Client, Fanout
from web.streams.memory import Forgotten, Memory, Position, Room
from web.streams.pacing import Conflater
from web.streams.trunk import Trunk

TOPIC = Topic("binance", "BTCUSDT", "liquidations")
NOW = from_ms(1)


def liquidation(value: float) -> Liquidation:
    return Liquidation(
        exchange="binance", symbol="BTCUSDT", timestamp=NOW, side="buy", price=1.0, quantity=value, value=value
    )


def bar(number: float) -> Ohlc:
    where: Any = {"exchange": "binance", "symbol": "BTCUSDT", "timestamp": NOW, "interval": "1m"}
    prices: Any = dict.fromkeys(("open", "high", "low", "close", "volume"), number)
    return Ohlc(**where, **prices, quote_volume=None, trades_count=None, is_closed=False)


def gap(reason: str) -> Gap:
    return Gap(exchange="binance", symbol="BTCUSDT", timestamp=NOW, start=NOW, end=NOW, reason=reason, repaired=False)


class Source:
    """A feed without a present."""

    def __init__(self) -> None:
        self.broadcast: Broadcast[Said] = Broadcast()

    received_at: None = None

    def subscribe(self, topic: Topic, capacity: int) -> Reader[Said]:
        return self.broadcast.subscribe(capacity)

    def current(self, topic: Topic) -> Event | None:
        return None


class Heard:
    """Stands for an outbox; `writes` counts how often it was given something."""

    def __init__(self) -> None:
        self.frames: list[Any] = []
        self.writes = 0

    def send(self, frames: bytes) -> None:
        self.writes += 1
        self.frames += map(msgspec.json.decode, payloads_of(frames))

    def close(self, code: int, reason: str = "") -> None:
        raise AssertionError(reason)


def over(least: float) -> Callable[[Any], bool]:
    return lambda event: bool(event.value >= least)


def told(fanout: Fanout, seq: int, limit: int = 1000) -> list[Any] | None:
    """What a client that had `seq` is told when it comes back: numbers of events, reasons of gaps; None: too late."""
    cursor = fanout.resume(Position(fanout.epoch, seq))
    if cursor is None:
        return None
    frames: list[Any] = []
    while True:
        said, cursor = fanout.read(cursor, limit)
        if not said:
            return frames
        for number, text in said:
            frame = msgspec.json.decode(text)
            assert number == frame.get("seq", number)
            frames.append(frame.get("seq") or frame["reason"])


async def test_a_burst_is_one_write_per_client_and_a_lone_event_is_sent_at_once(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    source = Source()
    trunk = Trunk(source, TOPIC, Room(Memory()))
    nursery.start_soon(trunk.run)
    everything = trunk.grow(name="all of it", epoch="e")
    filters = [trunk.grow(name=f"over {least}", epoch="e", accepts=over(least)) for least in range(50)]
    plain, heard = Heard(), Heard()
    everything.join(Client(cast(Outbox, plain)))
    for fanout in (everything, *filters):
        fanout.remember()
        fanout.join(Client(cast(Outbox, heard), numbered=True))
    await trio.testing.wait_all_tasks_blocked()
    for value in range(40):
        source.broadcast.publish(liquidation(value))
    await trio.testing.wait_all_tasks_blocked()
    assert (plain.writes, heard.writes) == (1, 2), "of the topic itself, and of all its filters"
    assert [frame["value"] for frame in plain.frames] == list(range(40))
    by_topic: dict[str, list[Any]] = {}
    for frame in heard.frames:
        by_topic.setdefault(frame["topic"], []).append(frame)
    for least in range(40):
        frames = by_topic[f"over {least}"]
        assert [(frame["seq"], frame["value"]) for frame in frames] == [
            (number + 1, value) for number, value in enumerate(range(least, 40))
        ]
    source.broadcast.publish(liquidation(99))
    await trio.testing.wait_all_tasks_blocked()
    assert (plain.writes, heard.writes) == (2, 4)
    with turns.step():
        for value in range(40):
            source.broadcast.publish(liquidation(value))
        assert (plain.writes, heard.writes) == (2, 4)
    assert (plain.writes, heard.writes) == (3, 6), "at the end of what came together, without a turn of its own"
    nursery.cancel_scope.cancel()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.floats(0, 10)),
        st.tuples(st.sampled_from(["note", "join", "leave", "turn", "wait"]), st.floats(0, 10)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_whoever_comes_whenever_is_told_by_a_burst_what_one_by_one_would_have_told(
    steps: list[tuple[str, float]],
) -> None:
    """The slow twin lets everything settle behind each step: there are no bursts, and its task has every turn."""

    async def run(is_slow: bool) -> list[list[Any]]:
        source = Source()
        present: list[tuple[Fanout, Client]] = []
        heard: list[Heard] = []
        async with trio.open_nursery() as nursery:
            trunk = Trunk(source, TOPIC, Room(Memory()))
            nursery.start_soon(trunk.run)
            topics = [trunk.grow(name=f"over {least}", epoch="e", accepts=over(least)) for least in (2, 5)]
            topics.append(trunk.grow(name="everything", epoch="e"))
            for fanout in topics:
                fanout.remember()
            for action, value in steps:
                if action == "say":
                    with turns.step() if value > 5 and not is_slow else nullcontext():
                        for _ in range(1 + int(value) % 3):
                            source.broadcast.publish(liquidation(value))
                elif action == "note":
                    source.broadcast.publish(gap(str(value)))
                elif action == "join":
                    heard.append(Heard())
                    kind = int(value) % 3
                    fanout = topics[int(value * 7) % 3]
                    client = Client(cast(Outbox, heard[-1]), wants_status=kind == 1, numbered=kind == 2)
                    fanout.join(client)
                    present.append((fanout, client))
                elif action == "leave" and present:
                    await trio.testing.wait_all_tasks_blocked()  # what was said is told before it leaves
                    fanout, client = present.pop(0)
                    fanout.leave(client)
                elif action == "turn":
                    await trio.testing.wait_all_tasks_blocked()
                if is_slow:
                    await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked()
            again = [told(fanout, seq, 3) for fanout in topics for seq in range(fanout.seq + 1)]
            nursery.cancel_scope.cancel()
        return [*(one.frames for one in heard), again]

    def told_by(is_slow: bool) -> list[list[Any]]:
        return trio.run(run, is_slow, clock=trio.testing.MockClock())

    assert told_by(False) == told_by(True)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.floats(0, 10), st.just("note"), st.just("wait")), max_size=80),
    st.sampled_from([3, 10, 1000]),
)
def test_a_filter_is_resumed_without_a_hole_or_says_that_it_cannot(steps: list[Any], frames: int) -> None:
    """Against a list of all that was said: nothing lost, nothing twice, and gaps are passed over by nobody."""

    async def run() -> None:
        source = Source()
        async with trio.open_nursery() as nursery:
            trunk = Trunk(source, TOPIC, Room(Memory(frames=frames, seconds=10.0)))
            nursery.start_soon(trunk.run)
            fanouts = [trunk.grow(name="some", epoch="e", accepts=over(5)), trunk.grow(name="everything", epoch="e")]
            for fanout in fanouts:
                fanout.remember()
            truth: list[list[Any]] = [[], []]
            for number, step in enumerate(steps):
                if step == "wait":
                    await trio.sleep(4)
                    continue
                source.broadcast.publish(gap(str(number)) if step == "note" else liquidation(step))
                for said, least in zip(truth, (5, 0), strict=True):
                    if step == "note":
                        said.append(str(number))
                    elif step >= least:
                        said.append(1 + sum(isinstance(one, int) for one in said))
                await trio.testing.wait_all_tasks_blocked()
            for fanout, said in zip(fanouts, truth, strict=True):
                for seq in range(fanout.seq + 1):
                    heard = told(fanout, seq, 2)
                    begin = said.index(seq) + 1 if seq else 0
                    assert heard is None or heard == said[begin:], (seq, said)
                assert told(fanout, fanout.seq) is not None or said.count("note") > frames or len(steps) > frames
            nursery.cancel_scope.cancel()

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_a_quiet_filter_of_a_busy_topic_remembers_for_its_time(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    source = Source()
    trunk = Trunk(source, TOPIC, Room(Memory(frames=100, seconds=100.0)))
    nursery.start_soon(trunk.run)
    rare = trunk.grow(name="rare", epoch="e", accepts=over(1000))
    rare.remember()
    await trio.testing.wait_all_tasks_blocked()

    async def chatter() -> None:
        for _ in range(60):
            for _ in range(10):
                source.broadcast.publish(liquidation(1))
            await trio.sleep(1)

    source.broadcast.publish(liquidation(1001))
    source.broadcast.publish(gap("lost"))
    await chatter()
    source.broadcast.publish(liquidation(1002))
    await chatter()  # the first one is older than what is remembered, the one behind it is not
    assert told(rare, 0) is None
    assert told(rare, 1) == ["lost", 2]
    assert told(rare, 2) == []
    nursery.cancel_scope.cancel()


async def test_a_rate_tells_numbers_and_remembers_only_what_it_lets_through(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    source = Source()
    trunk = Trunk(source, TOPIC, Room(Memory()))
    nursery.start_soon(trunk.run)
    paced = [trunk.grow(name=f"{rate}", epoch="e", conflater=Conflater(rate)) for rate in (0.5, 1.0, 2.0)]
    heard = [Heard() for _ in paced]
    for fanout, one in zip(paced, heard, strict=True):
        fanout.remember()
        fanout.join(Client(cast(Outbox, one), numbered=True))
    for number in range(40):
        source.broadcast.publish(bar(number))
        await trio.sleep(0.1)
    await trio.sleep(10)  # the last update comes by itself
    for fanout, one, most in zip(paced, heard, (4, 6, 10), strict=True):
        assert one.frames[-1]["close"] == 39
        assert [frame["seq"] for frame in one.frames] == list(range(1, fanout.seq + 1))
        assert len(one.frames) <= most
        assert told(fanout, 0) == list(range(1, fanout.seq + 1))
    nursery.cancel_scope.cancel()


async def test_what_many_topics_remember_is_counted_once(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    source, room = Source(), Room(Memory())
    trunk = Trunk(source, TOPIC, room)
    nursery.start_soon(trunk.run)
    topics = [trunk.grow(name=f"over {least}", accepts=over(least / 1000)) for least in range(500)]
    topics += [trunk.grow(name=f"{rate}", conflater=Conflater(rate)) for rate in range(1, 101)]
    for fanout in topics:
        fanout.remember()
    for _ in range(1000):
        source.broadcast.publish(liquidation(1))
    await trio.testing.wait_all_tasks_blocked()
    assert 1000 * 400 < room.used < 1000 * (700 + 100 * 10)
    for fanout in topics:
        trunk.cut(fanout)
    assert room.used == 0
    nursery.cancel_scope.cancel()


async def test_a_log_that_had_to_forget_says_so(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    source = Source()
    trunk = Trunk(source, TOPIC, Room(Memory()))
    nursery.start_soon(trunk.run)
    fanout = trunk.grow(epoch="e", accepts=over(0))
    fanout.remember()
    cursor = fanout.resume(Position("e", 0))
    assert cursor is not None
    for value in range(10):
        source.broadcast.publish(liquidation(value))
    await trio.testing.wait_all_tasks_blocked()
    trunk.log.forget_half()
    with pytest.raises(Forgotten):
        fanout.read(cursor, 10)
    assert told(fanout, 4) is None
    assert told(fanout, 5) == [6, 7, 8, 9, 10]
    nursery.cancel_scope.cancel()
