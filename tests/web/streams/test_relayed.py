"""Topics that somebody else numbers: one numbering and the same bytes, whoever tells them and since when."""

from datetime import datetime
from typing import Any, cast

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from actors.broadcast import Broadcast, Reader
from actors.events import Event, Gap, Liquidation, Ohlc, Topic, from_ms
from actors.relayed import Numbering, Recalled, Relayed, Renumbered, Told
from web.server.outbox import Outbox, payloads_of
from web.streams.fanout import Client, Fanout
from web.streams.memory import Encoded, Forgotten, Memory, Position, Room
from web.streams.pacing import Conflater
from web.streams.topics import NumberedSource
from web.streams.trunk import Trunk

TOPIC = Topic("binance", "BTCUSDT", "liquidations")


def liquidation(value: float) -> Liquidation:
    return Liquidation(
        exchange="binance",
        symbol="BTCUSDT",
        timestamp=from_ms(int(value)),
        side="buy",
        price=1.0,
        quantity=value,
        value=value,
    )


def gap(reason: str) -> Gap:
    now = from_ms(1)
    return Gap(exchange="binance", symbol="BTCUSDT", timestamp=now, start=now, end=now, reason=reason, repaired=False)


def text_of(number: int) -> bytes:
    """Not as it would be encoded here: what is told must be these bytes."""
    return msgspec.json.encode(liquidation(float(number)))[:-1] + b',"note":"as its writer said it"}'


class Elsewhere:
    """The writer of one topic, and the memory beyond this process."""

    def __init__(self, epoch: str = "1-a") -> None:
        self.epoch = epoch
        self.said: list[Relayed | Gap] = []
        self.seq = 0
        self.edges: list[Edge] = []

    def say(self) -> None:
        self.seq += 1
        self.tell(Relayed("liquidation", self.seq, text_of(self.seq)))

    def tell(self, said: Relayed | Gap) -> None:
        self.said.append(said)
        for edge in self.edges:
            edge.broadcast.publish(said)

    def lose(self, epoch: str, seq: int = 0) -> None:
        self.epoch, self.seq = epoch, seq
        self.said = []
        for edge in self.edges:
            edge.broadcast.publish(Renumbered(Numbering(epoch, seq)))


class Edge:
    """A source of one topic that is told by somebody else."""

    def __init__(self, elsewhere: Elsewhere) -> None:
        self.broadcast: Broadcast[Told] = Broadcast()
        self.elsewhere = elsewhere
        elsewhere.edges.append(self)
        self.recalled = 0
        self.answers = trio.Event()
        self.answers.set()

    @property
    def received_at(self) -> datetime | None:
        return None

    def subscribe(self, topic: Topic, capacity: int) -> Reader[Told]:
        return self.broadcast.subscribe(capacity)

    def current(self, topic: Topic) -> Event | None:
        return None

    def numbering(self, topic: Topic) -> Numbering:
        return Numbering(self.elsewhere.epoch, self.elsewhere.seq)

    async def recall(self, topic: Topic, behind: int) -> list[Recalled]:
        self.recalled += 1
        await self.answers.wait()
        return [Recalled(said, 1.0) for said in self.elsewhere.said]


class Received:
    """Stands for an outbox and keeps what it is given."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []

    def send(self, frames: bytes) -> None:
        self.texts += map(bytes, payloads_of(frames))

    def close(self, code: int, reason: str = "") -> None:
        raise AssertionError(reason)

    @property
    def frames(self) -> list[Any]:
        return list(map(msgspec.json.decode, self.texts))


def grown(source: Edge, nursery: trio.Nursery, **options: Any) -> Fanout:
    """A topic that remembers, of a trunk that runs."""
    trunk = Trunk(source, TOPIC, Room(Memory(frames=1000)))
    nursery.start_soon(trunk.run)
    fanout = trunk.grow(epoch="own-1", **options)
    fanout.remember()
    return fanout


def admit(fanout: Fanout) -> Received:
    received = Received()
    fanout.admit(Client(cast(Outbox, received), numbered=True))
    return received


def expected(number: int, epoch: str = "1-a") -> bytes:
    head = b'{"type":"liquidation","topic":"binance:BTCUSDT:liquidations","epoch":"%b","seq":%d,'
    return head % (epoch.encode(), number) + text_of(number)[1:]


async def test_numbers_and_bytes_are_the_writers(nursery: trio.Nursery) -> None:
    elsewhere = Elsewhere()
    for _ in range(4):
        elsewhere.say()
    edge = Edge(elsewhere)
    assert isinstance(edge, NumberedSource)
    fanout = grown(edge, nursery)
    received = admit(fanout)
    elsewhere.say()
    elsewhere.say()
    await trio.testing.wait_all_tasks_blocked()
    assert received.texts == [expected(5), expected(6)]
    fanout.trunk.cut(fanout)


async def test_a_topic_that_begins_to_remember_late_goes_on_at_the_writers_number(nursery: trio.Nursery) -> None:
    elsewhere = Elsewhere()
    edge = Edge(elsewhere)
    trunk = Trunk(edge, TOPIC, Room(Memory()))
    nursery.start_soon(trunk.run)
    fanout = trunk.grow()
    for _ in range(3):
        elsewhere.say()
    await trio.testing.wait_all_tasks_blocked()
    fanout.remember()
    received = admit(fanout)
    elsewhere.say()
    await trio.testing.wait_all_tasks_blocked()
    assert received.texts == [expected(4)]
    trunk.cut(fanout)


async def test_what_was_told_before_the_topic_was_made_is_recalled_once(nursery: trio.Nursery) -> None:
    elsewhere = Elsewhere()
    for _ in range(5):
        elsewhere.say()
    elsewhere.tell(gap("between"))
    elsewhere.say()
    edge = Edge(elsewhere)
    fanout = grown(edge, nursery)
    elsewhere.say()
    await trio.testing.wait_all_tasks_blocked()
    since = Position("1-a", 3)
    edge.answers = trio.Event()
    async with trio.open_nursery() as clients:
        for _ in range(3):  # all at one moment, while events go on
            clients.start_soon(fanout.recall, since)
        await trio.testing.wait_all_tasks_blocked()
        elsewhere.say()
        edge.answers.set()
    await trio.testing.wait_all_tasks_blocked()
    assert edge.recalled == 1
    cursor = fanout.resume(since)
    assert cursor is not None
    said, cursor = fanout.read(cursor, 100)
    assert [msgspec.json.decode(text).get("seq") for _, text in said] == [4, 5, None, 6, 7, 8]
    assert [text for _, text in said if b'"seq"' in text] == [expected(number) for number in (4, 5, 6, 7, 8)]
    await fanout.recall(Position("1-a", 2))  # what is held needs nobody else
    assert fanout.resume(Position("1-a", 0)) is not None
    assert edge.recalled == 1
    fanout.trunk.cut(fanout)


class PagedEdge(Edge):
    """One whose memory is asked for as far as it is needed; a page may begin with what stands before an event."""

    async def recall(self, topic: Topic, behind: int) -> list[Recalled]:
        self.recalled += 1
        said = self.elsewhere.said
        begins = [place for place, one in enumerate(said) if isinstance(one, Relayed) and one.seq <= behind]
        return [Recalled(one, 1.0) for one in said[max(0, begins[-1] - 1) if begins else 0 :]]


async def test_older_events_are_recalled_when_they_are_needed_and_notes_among_them_once(nursery: trio.Nursery) -> None:
    elsewhere = Elsewhere()
    elsewhere.seq = 1  # of what was before nothing is remembered
    for number in range(2, 10):
        elsewhere.tell(gap(f"before {number}"))
        elsewhere.say()
    edge = PagedEdge(elsewhere)
    fanout = grown(edge, nursery)
    for since in (6, 7, 3, 5, 1, 2, 1):
        await fanout.recall(Position("1-a", since))
        cursor = fanout.resume(Position("1-a", since))
        assert cursor is not None
        frames = [msgspec.json.decode(text) for _, text in fanout.read(cursor, 100)[0]]
        told = [frame.get("seq") or frame["reason"] for frame in frames]
        assert told == [one for number in range(since + 1, 10) for one in (f"before {number}", number)]
    assert edge.recalled == 3
    fanout.trunk.cut(fanout)


async def test_a_recall_that_does_not_reach_what_is_held_tells_nothing(nursery: trio.Nursery) -> None:
    elsewhere = Elsewhere()
    for _ in range(5):
        elsewhere.say()
    del elsewhere.said[-1]
    fanout = grown(Edge(elsewhere), nursery)
    since = Position("1-a", 2)
    await fanout.recall(since)
    assert fanout.resume(since) is None
    fanout.trunk.cut(fanout)


async def test_another_memory_is_told_as_one_that_came_too_late(nursery: trio.Nursery) -> None:
    elsewhere = Elsewhere()
    fanout = grown(Edge(elsewhere), nursery)
    received = admit(fanout)
    elsewhere.say()
    await trio.testing.wait_all_tasks_blocked()
    behind = fanout.resume(Position("1-a", 1))
    assert behind is not None
    elsewhere.lose("2-b", 7)
    elsewhere.say()
    await trio.testing.wait_all_tasks_blocked()
    first, told, after = received.frames
    assert first["seq"] == 1
    assert (told["type"], told["reason"], told["repaired"]) == ("gap", "resume_too_old", False)
    assert (after["epoch"], after["seq"]) == ("2-b", 8)
    assert received.texts[2] == expected(8, "2-b")
    with pytest.raises(Forgotten):  # whoever reads by themselves was at the present, and must not go on from there
        fanout.read(behind, 10)
    assert fanout.resume(Position("1-a", 1)) is None
    assert fanout.resume(Position("2-b", 7)) is not None
    fanout.trunk.cut(fanout)


async def test_a_client_that_is_earlier_than_the_numbers_resumes_when_they_are_there(nursery: trio.Nursery) -> None:
    elsewhere = Elsewhere(epoch="")
    fanout = grown(Edge(elsewhere), nursery)
    received = admit(fanout)
    since = Position("1-a", 1)
    cursors = []

    async def resume() -> None:
        await fanout.recall(since)
        cursors.append(fanout.resume(since))

    nursery.start_soon(resume)
    await trio.testing.wait_all_tasks_blocked()
    elsewhere.lose("1-a", 2)
    elsewhere.said = [Relayed("liquidation", 1, text_of(1)), Relayed("liquidation", 2, text_of(2))]
    elsewhere.say()
    await trio.testing.wait_all_tasks_blocked()
    assert cursors[0] is not None
    assert [seq for seq, _ in fanout.read(cursors[0], 10)[0]] == [2, 3]
    assert received.texts == [expected(3)]  # and no gap: nothing was told before
    fanout.trunk.cut(fanout)


async def test_a_client_that_knows_more_than_we_do_is_told_what_follows_once_we_are_there(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    elsewhere = Elsewhere()
    fanout = grown(Edge(elsewhere), nursery)
    elsewhere.say()
    cursors = []

    async def resume(since: Position) -> None:
        await fanout.recall(since)
        cursors.append((since.seq, fanout.resume(since)))

    nursery.start_soon(resume, Position("1-a", 3))  # it was told three of another edge
    nursery.start_soon(resume, Position("1-a", 9))  # that never come
    await trio.sleep(1)
    assert cursors == []
    for _ in range(3):
        elsewhere.say()
    await trio.sleep(1)
    [(seq, cursor)] = cursors
    assert seq == 3
    assert cursor is not None
    assert [seq for seq, _ in fanout.read(cursor, 10)[0]] == [4]
    await trio.sleep(60)
    assert cursors[1] == (9, None)
    fanout.trunk.cut(fanout)


async def test_a_filter_and_a_rate_count_by_themselves(nursery: trio.Nursery) -> None:
    elsewhere = Elsewhere()
    elsewhere.say()
    fanout = grown(Edge(elsewhere), nursery, name="large", accepts=lambda event: event.value >= 3)
    received = admit(fanout)
    for _ in range(3):
        elsewhere.say()
    await trio.testing.wait_all_tasks_blocked()
    assert [(frame["epoch"], frame["seq"], frame["value"]) for frame in received.frames] == [
        ("own-1", 1, 3.0),
        ("own-1", 2, 4.0),
    ]
    fanout.trunk.cut(fanout)


def test_a_bar_that_came_encoded_is_conflated_like_any_other() -> None:
    where: Any = {"exchange": "binance", "symbol": "BTCUSDT", "timestamp": from_ms(0), "interval": "1m"}
    prices: Any = dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0)

    def update(*, is_closed: bool) -> Relayed:
        bar = Ohlc(**where, **prices, quote_volume=None, trades_count=None, is_closed=is_closed)
        return Relayed("ohlc", 1, msgspec.json.encode(bar))

    conflater = Conflater(1.0)
    told = [Encoded(update(is_closed=closed), b"", 0.0) for closed in (False, False, True)]
    assert [len(conflater.take(one, 10.0)) for one in told] == [1, 0, 1]


@given(st.lists(st.sampled_from(["say", "gap", "edge", "yield"]), max_size=40))
def test_a_number_is_the_same_bytes_on_every_edge(steps: list[str]) -> None:
    async def run() -> None:
        elsewhere = Elsewhere()
        edges: list[Fanout] = []
        async with trio.open_nursery() as nursery:
            for step in [*steps, "edge"]:
                match step:
                    case "say":
                        elsewhere.say()
                    case "gap":
                        elsewhere.tell(gap(f"loss {len(elsewhere.said)}"))
                    case "edge":
                        edges.append(grown(Edge(elsewhere), nursery))
                    case _:
                        await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked()
            for fanout in edges:
                await fanout.recall(Position("1-a", 0))
                cursor = fanout.resume(Position("1-a", 0))
                assert cursor is not None
                texts = [text for _, text in fanout.read(cursor, 1000)[0]]
                numbered = [text for text in texts if b'"seq"' in text]
                assert numbered == [expected(number) for number in range(1, elsewhere.seq + 1)]
                assert len(texts) - len(numbered) == sum(isinstance(said, Gap) for said in elsewhere.said)
            for fanout in edges:
                fanout.trunk.cut(fanout)

    trio.run(run)
