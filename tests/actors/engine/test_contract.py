"""What every engine promises, held by the one in memory and by real servers alike."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from itertools import count

import pytest
import trio

from actors.engine.memory import MemoryEngine
from actors.engine.remote import open_engine
from actors.engine.words import ALL, Burst, Engine, Entry, Fenced, Kept, Lease, Mark, Member, RolledBack, Share
from tests.actors.engine.saying import say
from tests.actors.engine.servers import Server, programs, running
from tests.patience import WITHIN

LANE, TOPIC, BARS = "binance.3", "binance:BTCUSDT:trades", "binance:BTCUSDT:ohlc:1m"
LONG, SHORT = 60.0, 0.15  # seconds of a lease: none of these tests outlasts the one, each outlasts the other
KEPT = Kept(seconds=300.0, bursts=5_000, bars=3)

_prefixes = count()


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(running(name)) for name in programs()}


@pytest.fixture(params=["memory", "valkey", "redis"])
async def engine(request: pytest.FixtureRequest, servers: dict[str, Server]) -> AsyncIterator[Engine]:
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            yield MemoryEngine(KEPT)
        elif request.param not in servers:
            pytest.skip(f"there is no {request.param}-server here")
        else:
            opening = open_engine(servers[request.param].url, f"test{next(_prefixes)}", KEPT, patience=30.0)
            yield await stack.enter_async_context(opening)


async def led(engine: Engine, name: str = "a", seconds: float = LONG, epoch: str = "1-a") -> Lease:
    with trio.fail_after(WITHIN):
        while (lease := await engine.take(LANE, name, seconds, epoch)) is None:  # noqa: ASYNC110 (time ends it)
            await trio.sleep(SHORT / 5)
    return lease


def trade(seq: int, text: bytes = b"{}") -> Entry:
    return Entry(TOPIC, "trade", seq, text)


def bar(seq: int, *, closed: bool) -> Entry:
    return Entry(BARS, "ohlc", seq, b'{"close":%d,"is_closed":%b}' % (seq, b"true" if closed else b"false"))


async def test_one_leads_and_a_returning_node_is_another_term(engine: Engine) -> None:
    first = await led(engine)
    assert await engine.take(LANE, "b", LONG, "2-b") is None
    await engine.hold(first, SHORT)
    again = await led(engine)  # the lease ran out: the same node, and not the same leader
    assert again.token != first.token
    assert (await engine.present(LANE)).holder == again.token
    with pytest.raises(Fenced):
        await engine.hold(first, LONG)
    with pytest.raises(Fenced):
        await say(engine, first, Burst(1, [trade(1)], {}))
    await engine.release(first)  # not its own any more
    await engine.hold(again, LONG)
    await say(engine, again, Burst(1, [trade(1)], {}))
    await engine.release(again)
    assert (await engine.present(LANE)).holder is None
    with pytest.raises(Fenced):
        await say(engine, again, Burst(2, [trade(2)], {}))
    assert (await led(engine, "b", epoch="2-b")).token.endswith("|1-a")  # the memory stays what it is


async def test_who_leads_what_and_for_how_long(engine: Engine) -> None:
    assert await engine.holders([LANE, "binance.4"]) == {}
    lease = await led(engine)
    holders = await engine.holders(["binance.4", LANE])
    assert set(holders) == {LANE}
    token, left = holders[LANE]
    assert token == lease.token
    assert LONG / 2 < left <= LONG


async def test_a_lease_that_is_held_does_not_run_out(engine: Engine) -> None:
    lease = await led(engine, seconds=LONG / 2)
    await engine.hold(lease, LONG)
    assert LONG / 2 < (await engine.holders([LANE]))[LANE][1] <= LONG
    await say(engine, lease, Burst(1, [trade(1)], {}))


async def test_several_lanes_say_at_once_and_each_is_refused_by_itself(engine: Engine) -> None:
    lanes = [f"binance.{number}" for number in range(3)]
    leases = [await engine.take(lane, "a", LONG, "1-a") for lane in lanes]
    first, fenced, third = (lease for lease in leases if lease is not None)
    await say(engine, third, Burst(1, [trade(1)], {}))
    await engine.release(fenced)
    bursts = {
        first: Burst(1, [trade(1), bar(1, closed=True), bar(2, closed=True)], {BARS: [60_000, 120_000]}),
        fenced: Burst(1, [bar(1, closed=True), trade(1)], {BARS: [60_000]}),
        third: Burst(3, [trade(3)], {}),
    }
    refused = await engine.say(bursts)
    assert {lease: type(error) for lease, error in refused.items()} == {fenced: Fenced, third: RolledBack}
    assert [(await engine.present(lane)).n for lane in lanes] == [1, 0, 1]
    refused = await engine.say(bursts | {third: Burst(2, [trade(2), bar(4, closed=False)], {})})  # said again, and more
    assert set(refused) == {fenced}
    first_log, _, third_log = [await engine.tail(lane) for lane in lanes]
    assert [told.n for told in first_log] == [1]
    assert [told.n for told in third_log] == [1, 2]
    assert len(await engine.bars(lanes[0], BARS)) == 2
    assert set((await engine.present(lanes[2])).now) == {BARS}


async def test_a_burst_is_said_once_however_often_it_is_repeated(engine: Engine) -> None:
    lease = await led(engine)
    burst = Burst(1, [trade(1, b'{"id":1}'), bar(1, closed=False), trade(2, b'{"id":2}')], {})
    for _ in range(3):
        await say(engine, lease, burst)
    await say(engine, lease, Burst(2, [trade(3)], {}))
    await say(engine, lease, burst)
    tail = await engine.tail(LANE)
    assert [told.n for told in tail] == [1, 2]
    assert sorted(tail[0].entries) == sorted(burst.entries)
    assert [entry.seq for told in tail for entry in told.entries if entry.topic == TOPIC] == [1, 2, 3]
    _, memory = await engine.recall(LANE, TOPIC)
    assert [entry for told in memory for entry in told.entries] == [
        trade(1, b'{"id":1}'),
        trade(2, b'{"id":2}'),
        trade(3),
    ]
    assert [told.place for told in memory] == [told.place for told in tail]


async def test_an_engine_that_lacks_what_it_acknowledged_is_found_out(engine: Engine) -> None:
    lease = await led(engine)
    await say(engine, lease, Burst(1, [trade(1)], {}))
    with pytest.raises(RolledBack):
        await say(engine, lease, Burst(3, [trade(3)], {}))
    assert (await engine.present(LANE)).n == 1


async def test_the_present_is_one_moment(engine: Engine) -> None:
    empty = await engine.present(LANE)
    assert (empty.epoch, empty.place, empty.n, empty.holder) == ("", "0-0", 0, None)
    lease = await led(engine)
    status = Entry("binance:BTCUSDT", "status", None, b'{"state":"live"}')
    await say(engine, lease, Burst(1, [bar(1, closed=True), bar(2, closed=False), trade(7), status], {BARS: [60_000]}))
    present = await engine.present(LANE)
    assert present.epoch == "1-a"
    assert present.place == (await engine.tail(LANE))[-1].place
    assert (present.n, present.seqs, present.closed) == (1, {BARS: 2, TOPIC: 7}, {BARS: 60_000})
    assert present.now == {BARS: bar(2, closed=False).text, "binance:BTCUSDT": b'{"state":"live"}'}
    assert 0 <= present.at_ms - int(present.place.split("-")[0]) < 60_000


async def test_closed_bars_are_kept_ascending_each_once(engine: Engine) -> None:
    lease = await led(engine)
    await engine.write_bars(lease, BARS, {minute: b"old %d" % minute for minute in range(5)})
    assert list(await engine.bars(LANE, BARS)) == [b"old 2", b"old 3", b"old 4"]
    assert await engine.bars_since(LANE, [TOPIC, BARS]) == {BARS: 2}
    one, two = bar(1, closed=True), bar(2, closed=True)
    await say(engine, lease, Burst(1, [one, two, bar(3, closed=False)], {BARS: [60_000, 120_000]}))
    await say(engine, lease, Burst(2, [bar(4, closed=True)], {BARS: [120_000]}))  # a bar closes once
    assert list(await engine.bars(LANE, BARS)) == [b"old 4", one.text, two.text]
    assert (await engine.present(LANE)).closed == {BARS: 120_000}
    rows = {60_000: one.text, 120_000: two.text, 180_000: b"ahead of what is said"}
    await engine.write_bars(lease, BARS, rows)
    await say(engine, lease, Burst(3, [bar(5, closed=True)], {BARS: [180_000]}))
    assert list(await engine.bars(LANE, BARS)) == list(rows.values())
    assert (await engine.present(LANE)).closed == {BARS: 180_000}
    await engine.write_bars(lease, BARS, {30_000: b"older", 60_000: b"another"})  # what was said meanwhile stays
    kept = [b"older", b"another", two.text, rows[180_000]]
    assert list(await engine.bars(LANE, BARS)) == kept[-3:]
    assert (await engine.bars_since(LANE, [BARS]))[BARS] <= 60_000
    await engine.release(lease)
    with pytest.raises(Fenced):
        await engine.write_bars(lease, BARS, {})
    assert len(await engine.bars(LANE, BARS)) == 3


async def test_reading_goes_on_at_a_place_and_waits_for_news(engine: Engine) -> None:
    lease, other = await led(engine), "binance.4"
    await say(engine, lease, Burst(1, [trade(1)], {}))
    start = await engine.present(LANE)
    assert await engine.read({LANE: start.place, other: "0-0"}, 0.01) == {}
    news = []

    async def follow() -> None:
        found = await engine.read({LANE: start.place, other: "0-0"}, 60)
        news.extend([(lane, told.n) for lane, burst in found.items() for told in burst])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.sleep(0.05)
        await say(engine, lease, Burst(2, [trade(2)], {}))
    assert news == [(LANE, 2)]
    with trio.move_on_after(0.05):  # to be cancelled while it waits harms nothing
        await engine.read({LANE: (await engine.present(LANE)).place}, 60)
    assert [told.n for told in (await engine.read({LANE: "0-0"}, 1))[LANE]] == [1, 2]


async def test_another_memory_is_begun_once_and_told_in_the_log(engine: Engine) -> None:
    lease = await led(engine)
    await say(engine, lease, Burst(1, [trade(1)], {}))
    await engine.renew(LANE, "1-a", "2-b")
    await engine.renew(LANE, "1-a", "3-c")  # somebody else noticed, too
    present = await engine.present(LANE)
    assert (present.epoch, present.n) == ("2-b", 2)
    assert list((await engine.tail(LANE))[-1].entries) == [Entry("", "epoch", None, b'"2-b"')]
    with pytest.raises(RolledBack):  # who leads did not know of it: this was not said
        await say(engine, lease, Burst(2, [trade(2)], {}))
    await say(engine, lease, Burst(1, [trade(1)], {}))  # this was
    await say(engine, lease, Burst(3, [trade(2)], {}))


LIQUIDATIONS, LARGE = "all:liquidations", "all:large_trades"
UNKNOWN = Mark("", 0)


def share(n: int, text: bytes, topic: str = LIQUIDATIONS, *, lane: str = LANE, epoch: str = "1-a") -> Share:
    return Share(lane, epoch, n, Entry(topic, "liquidation", 7, text))


async def hold(engine: Engine, lane: str = LANE, epoch: str = "1-a") -> None:
    """A lane that has said ten bursts."""
    lease = await engine.take(lane, "a", LONG, epoch)
    assert lease is not None
    for n in range(1, 11):
        await say(engine, lease, Burst(n, [trade(n)], {}))


async def shared(engine: Engine) -> list[tuple[str, int | None, bytes]]:
    """All that stands in the log of ALL."""
    return [(e.topic, e.seq, e.text) for told in await engine.tail(ALL) for e in told.entries if e.topic]


async def test_many_writers_share_and_the_engine_numbers(engine: Engine) -> None:
    for lane, epoch in ((LANE, "1-a"), ("okx.0", "1-b"), ("okx.1", "1-b")):
        await hold(engine, lane, epoch)
    assert await engine.share([share(4, b"1"), share(4, b"2", LARGE)], UNKNOWN) == Mark("", 1)
    note = Share("okx.0", "1-b", 9, Entry(LIQUIDATIONS, "gap", None, b"3"))
    others = [share(2, b"4", lane="okx.0", epoch="1-b"), note, share(1, b"5", lane="okx.1", epoch="1-b")]
    assert await engine.share(others, UNKNOWN) == Mark("", 2)
    told = [
        *((LIQUIDATIONS, 1, b"1"), (LARGE, 1, b"2")),
        *((LIQUIDATIONS, 2, b"4"), (LIQUIDATIONS, None, b"3"), (LIQUIDATIONS, 3, b"5")),
    ]
    assert await shared(engine) == told
    present = await engine.present(ALL)
    assert (present.n, present.seqs, present.holder) == (2, {LIQUIDATIONS: 3, LARGE: 1}, None)
    assert present.place == (await engine.tail(ALL))[-1].place
    _, memory = await engine.recall(ALL, LIQUIDATIONS)
    assert [(entry.seq, entry.text) for bursts in memory for entry in bursts.entries] == [
        *((1, b"1"), (2, b"4"), (None, b"3"), (3, b"5")),
    ]
    assert [burst.n for burst in (await engine.read({ALL: "0-0"}, 1))[ALL]] == [1, 2]


async def test_what_a_lane_said_is_shared_once_however_often_and_by_whomever(engine: Engine) -> None:
    await hold(engine)
    first = [share(4, b"1"), share(6, b"2"), share(6, b"3")]
    for _ in range(3):
        mark = await engine.share(first, UNKNOWN)
    assert mark == Mark("", 1)
    # The lane's next leader shares all that the log has, and on; the one before comes late.
    await engine.share([*first, share(7, b"4")], UNKNOWN)
    assert await engine.share([share(7, b"4")], UNKNOWN) == Mark("", 2)
    assert [(seq, text) for _, seq, text in await shared(engine)] == [(n, b"%d" % n) for n in range(1, 5)]


async def test_what_a_lane_does_not_hold_is_not_shared(engine: Engine) -> None:
    """It came back older, or its memory is another one: whoever leads it says that again."""
    await hold(engine)
    await engine.share([share(9, b"1"), share(11, b"ahead of the lane"), share(10, b"2")], UNKNOWN)
    await engine.share([share(1, b"of no lane", lane="okx.0")], UNKNOWN)
    await engine.renew(LANE, "1-a", "2-b")
    await engine.share([share(10, b"late"), share(11, b"3", epoch="2-b")], UNKNOWN)
    await engine.share([share(11, b"3", epoch="2-b")], UNKNOWN)
    assert [(seq, text) for _, seq, text in await shared(engine)] == [(1, b"1"), (2, b"2"), (3, b"3")]


async def test_many_things_are_shared_at_once(engine: Engine) -> None:
    await hold(engine)
    for n in range(2):
        await engine.share([share(n + 1, b"x" * 300) for _ in range(700)], UNKNOWN)
    assert [seq for _, seq, _ in await shared(engine)] == list(range(1, 1401))


async def test_where_the_engine_lacks_what_was_shared_another_memory_is_begun(engine: Engine) -> None:
    await hold(engine)
    await engine.renew(ALL, "", "1-x")
    mark = await engine.share([share(1, b"1")], Mark("1-x", 1))
    assert mark == Mark("1-x", 2)
    with pytest.raises(RolledBack):
        await engine.share([share(2, b"2")], Mark("1-x", 3))
    await engine.renew(ALL, "1-x", "2-y")
    await engine.renew(ALL, "", "3-z")  # it was begun
    with pytest.raises(RolledBack):
        await engine.share([share(2, b"2")], mark)
    assert await engine.share([share(2, b"2")], Mark("2-y", 3)) == Mark("2-y", 4)
    assert [(seq, text) for _, seq, text in await shared(engine)] == [(1, b"1"), (2, b"2")]


async def test_with_a_lane_begins_anew_what_is_shared(engine: Engine) -> None:
    """What the lane had yet to share is in no memory any more: who reads all of them is to know."""
    await hold(engine)
    await engine.renew(ALL, "", "1-x")
    await engine.renew("okx.0", "", "2-b")  # nothing was shared yet
    mark = await engine.share([share(1, b"1")], UNKNOWN)
    assert mark == Mark("1-x", 2)
    await engine.renew(LANE, "1-a", "3-c")
    assert (await engine.present(ALL)).epoch == "3-c"
    await engine.renew(LANE, "1-a", "4-d")  # neither does
    await engine.renew("okx.1", "", "5-e")  # as one, where many lanes do
    assert (await engine.present(ALL)).epoch == "3-c"
    with pytest.raises(RolledBack):
        await engine.share([share(2, b"2")], mark)
    assert list((await engine.tail(ALL))[-1].entries) == [Entry("", "epoch", None, b'"3-c"')]


async def test_the_number_of_lanes_is_decided_once(engine: Engine) -> None:
    assert await engine.check(8) == 8
    assert await engine.check(16) == 8


async def test_topics_are_wanted_for_a_while(engine: Engine) -> None:
    await engine.want("binance", [TOPIC], SHORT)
    await engine.want("binance", [BARS], LONG)
    await engine.want("bybit", ["bybit:X:trades"], LONG)
    with trio.fail_after(WITHIN):
        while sorted(await engine.wanted("binance")) != [BARS]:  # noqa: ASYNC110 (time ends it)
            await trio.sleep(SHORT / 5)
    await engine.want("binance", [TOPIC, BARS], LONG)
    assert sorted(await engine.wanted("binance")) == [BARS, TOPIC]


async def test_a_catalogue_is_what_was_written_last(engine: Engine) -> None:
    assert await engine.catalogue("binance") is None
    await engine.write_catalogue("binance", b"[]")
    await engine.write_catalogue("binance", b"[1]")
    assert await engine.catalogue("binance") == b"[1]"
    assert await engine.catalogue("bybit") is None


async def test_a_node_is_there_until_its_time_is_over_or_it_says_otherwise(engine: Engine) -> None:
    def node(name: str, *ready: str) -> Member:
        return Member(name=name, role="both", address=f"http://{name}:8000", ready=ready)

    assert list(await engine.members()) == []
    await engine.withdraw("nobody")
    await engine.announce(node("b"), LONG)
    await engine.announce(node("a"), SHORT)
    await engine.announce(node("c"), LONG)
    await engine.announce(node("b", LANE), LONG)  # it replaces what it said before
    await engine.withdraw("c")
    with trio.fail_after(WITHIN):
        while list(await engine.members()) != [node("b", LANE)]:
            assert [member.name for member in await engine.members()] in (["a", "b"], ["b"])
            await trio.sleep(SHORT / 5)
    await engine.announce(node("a"), LONG)
    assert [member.name for member in await engine.members()] == ["a", "b"]


async def test_topics_are_refused_for_a_while(engine: Engine) -> None:
    assert await engine.refused("binance") == {}
    await engine.refuse("binance", BARS, "no room: 1000 | 1000", LONG)
    await engine.refuse("binance", TOPIC, "no room", SHORT)
    await engine.refuse("bybit", "bybit:X:trades", "no room", LONG)
    with trio.fail_after(WITHIN):
        while await engine.refused("binance") != {BARS: "no room: 1000 | 1000"}:  # noqa: ASYNC110 (time ends it)
            await trio.sleep(SHORT / 5)
    await engine.refuse("binance", BARS, "another reason", LONG)
    assert await engine.refused("binance") == {BARS: "another reason"}
