"""What a lane's writer says: at a takeover what the log lacks and nothing else, and while it leads each thing once."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
import trio
from msgspec import structs
from trio.testing import MockClock

from actors.engine.memory import START_MS
from actors.engine.words import EPOCH, STATUS, Burst, Entry, Present
from actors.engine.words import Told as Logged
from actors.events import Event, Gap, LargeTrade, Liquidation, Ohlc, OiSpike, OpenInterest, Status, Topic, from_ms, ms
from actors.relay.takeover import SLOWER_MS, lane_of, topic_named
from actors.relay.writer import Writer
from tests.actors.relay.fixtures import FakeFeed, bar, now, state, trade

TRADES, BARS = Topic("binance", "BTCUSDT", "trades"), Topic("binance", "BTCUSDT", "ohlc", "1m")
LIQUIDATIONS, INTEREST = Topic("binance", "BTCUSDT", "liquidations"), Topic("binance", "BTCUSDT", "oi")
SPIKES = Topic("binance", "BTCUSDT", "oi-vol", "1m")
LARGE = Topic("binance", "BTCUSDT", "large_trades")
MINUTE = 60_000
SLOWER = timedelta(milliseconds=SLOWER_MS)


def encoded(said: Any) -> bytes:
    return msgspec.json.encode(said)


class Engine:
    """A log, and a present, as a leader left them."""

    def __init__(self) -> None:
        self.tail: list[Logged] = []
        self.seqs: dict[str, int] = {}
        self.now: dict[str, bytes] = {}
        self.closed: dict[str, int] = {}

    def say(self, topic: Topic, *said: Event) -> None:
        entries = []
        for one in said:
            self.seqs[str(topic)] = self.seqs.get(str(topic), 0) + 1
            entries.append(Entry(str(topic), one.type, self.seqs[str(topic)], encoded(one)))
            if topic.kind in ("ohlc", "oi", "oi-vol"):
                self.now[str(topic)] = encoded(one)
            if isinstance(one, Ohlc) and one.is_closed:
                self.closed[str(topic)] = ms(one.timestamp)
        self._add(*entries)

    def announce(self, topic: Topic, gap: Gap) -> None:
        self._add(Entry(str(topic), gap.type, None, encoded(gap)))

    def tell(self, status: Status) -> None:
        name = f"{status.exchange}:{status.symbol}"
        self.now[name] = encoded(status)
        self._add(Entry(name, STATUS, None, encoded(status)))

    def _add(self, *entries: Entry) -> None:
        self.tail.append(Logged(f"{ms(now())}-{len(self.tail) + 1}", entries))

    def begin_anew(self) -> None:
        self._add(Entry("", EPOCH, None, b'"2-b"'))

    def give(self, writer: Writer) -> None:
        place, n = (self.tail[-1].place, len(self.tail)) if self.tail else ("0-0", 0)
        at_ms = START_MS + int(trio.current_time() * 1000)
        present = Present("1-a", place, n, at_ms, "a|1|1-a", self.seqs, self.now, self.closed)
        writer.lead(present, self.tail, trio.current_time())


def said(writer: Writer) -> Iterator[tuple[str, int | None, Any]]:
    """Everything that it has to say now: topic, number, event."""
    while (burst := writer.burst()) is not None:
        for entry in burst.entries:
            yield entry.topic, entry.seq, msgspec.json.decode(entry.text)
        writer.acknowledged()


def ids(writer: Writer) -> list[tuple[int | None, Any]]:
    return [(seq, one["trade_id"]) for topic, seq, one in said(writer) if topic == str(TRADES)]


def writer_of(feed: FakeFeed | None = None) -> Writer:
    return Writer(lambda symbol: feed)


def loss(start: datetime, end: datetime) -> Gap:
    where: Any = {"exchange": "binance", "symbol": "BTCUSDT", "timestamp": now()}
    return Gap(**where, start=start, end=end, reason="cut", repaired=False)


def interest(value: float) -> OpenInterest:
    where: Any = {"exchange": "binance", "symbol": "BTCUSDT", "timestamp": now()}
    return OpenInterest(**where, open_interest=value, open_interest_value=None)


def liquidation(value: float) -> Liquidation:
    where: Any = {"exchange": "binance", "symbol": "BTCUSDT", "timestamp": from_ms(START_MS)}
    return Liquidation(**where, side="buy", price=1.0, quantity=value, value=value)


async def test_a_memory_that_begins_is_not_told_what_readers_of_the_last_one_were(autojump_clock: MockClock) -> None:
    writer, engine = writer_of(), Engine()
    engine.give(writer)
    for number in range(1, 4):
        writer.take(TRADES, trade("BTCUSDT", number))
        await trio.sleep(0.1)
    assert ids(writer) == [(1, 1), (2, 2), (3, 3)]
    writer.take(TRADES, trade("BTCUSDT", 4))
    assert writer.burst() is not None  # whose answer is lost, with the engine's memory
    await trio.sleep(0.1)
    writer.take(TRADES, trade("BTCUSDT", 5))
    writer.stop()
    writer.take(TRADES, trade("BTCUSDT", 6))
    engine.give(writer)
    assert ids(writer) == [(1, 4), (2, 5), (3, 6)]


@pytest.mark.parametrize("is_led_on", [True, False])
async def test_what_an_older_engine_lacks_is_not_told_again_in_the_memory_that_begins(
    is_led_on: bool, autojump_clock: MockClock
) -> None:
    """Readers of the one before were told it, or are told that all begins anew."""
    writer, engine = writer_of(), Engine()
    for number in range(1, 6):
        writer.take(TRADES, trade("BTCUSDT", number))
        if number < 3:
            engine.say(TRADES, trade("BTCUSDT", number))
        await trio.sleep(1)
    writer.hearing.was_told(trio.current_time())
    engine.begin_anew()
    await trio.sleep(1)
    writer.take(TRADES, trade("BTCUSDT", 6))
    if not is_led_on:
        engine.say(TRADES, trade("BTCUSDT", 6))
        await trio.sleep(1)
        writer.take(TRADES, trade("BTCUSDT", 7))
    engine.give(writer)
    [(_, seq, told)] = said(writer)
    assert (seq, told["trade_id"]) == ((3, 6) if is_led_on else (4, 7))


async def test_what_nobody_heard_since_a_memory_began_is_announced(autojump_clock: MockClock) -> None:
    writer, engine = writer_of(), Engine()
    last = trade("BTCUSDT", 1)
    engine.say(TRADES, last)
    await trio.sleep(1)
    engine.begin_anew()
    await trio.sleep(5)
    writer.take(TRADES, trade("BTCUSDT", 9))
    engine.give(writer)
    gap, one = [one for _, _, one in said(writer)]
    assert (gap["from"], gap["to"]) == (msgspec.to_builtins(last.timestamp), one["timestamp"])


async def test_who_stood_by_tells_a_memory_that_begins_what_it_heard_last(autojump_clock: MockClock) -> None:
    writer, engine = writer_of(), Engine()
    for number in range(1, 11):
        writer.take(TRADES, trade("BTCUSDT", number))
        await trio.sleep(0.1)
    writer.hearing.told_elsewhere()
    writer.take(TRADES, trade("BTCUSDT", 11))
    engine.give(writer)
    assert [id for _, id in ids(writer)] == [6, 7, 8, 9, 10, 11]


async def test_a_successor_says_what_the_log_lacks_under_the_next_numbers(autojump_clock: MockClock) -> None:
    writer, engine = writer_of(), Engine()
    for number in range(1, 6):
        one = trade("BTCUSDT", number)
        if number != 3:
            writer.take(TRADES, one)
        if number < 4:
            engine.say(TRADES, one)
        await trio.sleep(0.1)
    await trio.sleep(3)
    engine.give(writer)
    assert ids(writer) == [(4, 4), (5, 5)]
    writer.take(TRADES, trade("BTCUSDT", 3))  # this node's connection is slow to bring what was told before
    writer.take(TRADES, trade("BTCUSDT", 6))
    assert ids(writer) == [(6, 6)]


async def test_what_was_heard_before_anything_was_told_is_not_told_late(autojump_clock: MockClock) -> None:
    writer, engine = writer_of(), Engine()
    writer.take(TRADES, trade("BTCUSDT", 1))  # another node came to lead first, and heard less
    await trio.sleep(1)
    engine.say(TRADES, trade("BTCUSDT", 2))
    for number in (2, 3):
        writer.take(TRADES, trade("BTCUSDT", number))
    engine.give(writer)
    assert ids(writer) == [(2, 3)]


async def test_equal_liquidations_are_as_many_as_happened(autojump_clock: MockClock) -> None:
    writer, engine = writer_of(), Engine()
    for one in (liquidation(1), liquidation(1), liquidation(2)):
        writer.take(LIQUIDATIONS, one)
    engine.say(LIQUIDATIONS, liquidation(1))
    engine.give(writer)
    assert [(seq, one["value"]) for _, seq, one in said(writer)] == [(2, 1.0), (3, 2.0)]


async def test_a_spike_is_told_once_per_bar_whatever_nodes_think_of_it(autojump_clock: MockClock) -> None:
    def spike(minute: int, z: float) -> OiSpike:
        where: Any = {"exchange": "binance", "symbol": "BTCUSDT", "timestamp": from_ms(START_MS + minute * MINUTE)}
        return OiSpike(**where, timeframe="1m", z_oi=z, z_vol=z, confirmed=True)

    writer, engine = writer_of(), Engine()
    engine.say(SPIKES, spike(1, 4.0))
    await trio.sleep(60)  # the log forgets, the present does not
    del engine.tail[:]
    for minute in (1, 2):  # this node polls open interest at moments of its own
        writer.take(SPIKES, spike(minute, 4.1))
    engine.give(writer)
    writer.take(SPIKES, spike(2, 4.2))
    writer.take(SPIKES, spike(3, 4.3))
    assert [(topic, seq, one["z_oi"]) for topic, seq, one in said(writer)] == [
        (str(SPIKES), 2, 4.1),
        (str(SPIKES), 3, 4.3),
    ]


async def test_what_was_cut_off_the_log_is_not_told_again(autojump_clock: MockClock) -> None:
    writer, engine = writer_of(), Engine()
    writer.take(TRADES, trade("BTCUSDT", 0))  # it listens all the while
    old = [trade("BTCUSDT", number) for number in (1, 2)]
    await trio.sleep(50)
    engine.say(TRADES, *old)
    new = [trade("BTCUSDT", 3)]
    engine.say(TRADES, new[0])
    await trio.sleep(1)
    new.append(trade("BTCUSDT", 4))
    del engine.tail[0]
    for one in (*old, *new):  # a repair brings all of it at once
        writer.take(TRADES, one)
    engine.give(writer)
    assert ids(writer) == [(4, 4)]


async def test_bars_go_on_after_the_last_one_that_the_engine_has_closed(autojump_clock: MockClock) -> None:
    opens = [from_ms(START_MS + minute * MINUTE) for minute in range(5)]
    feed = FakeFeed([bar("BTCUSDT", at, 1.0, is_closed=True) for at in opens[:4]])
    feed.open = bar("BTCUSDT", opens[4], 2.0, is_closed=False)
    writer, engine = writer_of(feed), Engine()
    writer.take(BARS, feed.open)
    await trio.sleep(1)
    engine.say(BARS, bar("BTCUSDT", opens[1], 1.0, is_closed=True))
    engine.give(writer)
    told = [(seq, one["timestamp"], one["is_closed"]) for _, seq, one in said(writer)]
    texts = [msgspec.to_builtins(at) for at in opens]
    assert told == [(2, texts[2], True), (3, texts[3], True), (4, texts[4], False)]
    writer.take(BARS, bar("BTCUSDT", opens[3], 1.0, is_closed=True))  # late: it is closed
    writer.take(BARS, feed.open)  # told already
    assert list(said(writer)) == []
    closed = bar("BTCUSDT", opens[4], 3.0, is_closed=True)
    writer.take(BARS, closed)
    burst = writer.burst()
    assert burst is not None
    # The last closed bar is part of the burst: noted before it, a kill between the two would lose the bar.
    assert burst.closed == {str(BARS): [ms(opens[4])]}


async def test_bars_wait_for_closes_that_the_feed_is_about_to_fetch(autojump_clock: MockClock) -> None:
    opens = [from_ms(START_MS + minute * MINUTE) for minute in range(5)]
    feed = FakeFeed([])
    feed.open = bar("BTCUSDT", opens[4], 2.0, is_closed=False)
    writer, engine = writer_of(feed), Engine()
    engine.say(BARS, bar("BTCUSDT", opens[1], 1.0, is_closed=True))
    engine.give(writer)
    writer.take(BARS, feed.open)
    assert list(said(writer)) == []
    feed.closed = [bar("BTCUSDT", at, 1.0, is_closed=True) for at in opens[1:4]]
    told = list(said(writer))
    assert [(one["from"], one["repaired"]) for _, _, one in told if "from" in one] == [("2023-11-14T22:15:20Z", True)]
    assert [one["is_closed"] for _, _, one in told if "is_closed" in one] == [True, True, False]


async def test_closes_that_nobody_can_fetch_are_announced(autojump_clock: MockClock) -> None:
    opens = [from_ms(START_MS + minute * MINUTE) for minute in range(5)]
    feed = FakeFeed([])
    feed.open = bar("BTCUSDT", opens[4], 2.0, is_closed=False)
    writer, engine = writer_of(feed), Engine()
    engine.say(BARS, bar("BTCUSDT", opens[1], 1.0, is_closed=True))
    engine.give(writer)
    writer.take(BARS, feed.open)
    await trio.sleep(11)
    lost, present = [one for _, _, one in said(writer)]
    assert (lost["from"], lost["to"]) == (msgspec.to_builtins(opens[2]), msgspec.to_builtins(opens[4]))
    assert not lost["repaired"]
    assert not present["is_closed"]


async def test_a_cold_start_announces_from_the_logs_end_to_the_first_thing_heard(
    autojump_clock: MockClock,
) -> None:
    writer, engine = writer_of(), Engine()
    engine.say(TRADES, trade("BTCUSDT", 1))
    last = now()
    await trio.sleep(20)
    engine.give(writer)
    first = trade("BTCUSDT", 9)
    for one in (first, trade("BTCUSDT", 10)):
        writer.take(TRADES, one)
    gap, *told = [one for _, _, one in said(writer)]
    assert (gap["from"], gap["to"]) == (msgspec.to_builtins(last), msgspec.to_builtins(first.timestamp))
    assert gap["repaired"] is False
    assert [one["trade_id"] for one in told] == [9, 10]


async def test_nobody_listened_to_trades_until_the_first_trade(autojump_clock: MockClock) -> None:
    writer, engine = writer_of(), Engine()
    engine.say(TRADES, trade("BTCUSDT", 1))
    engine.say(LIQUIDATIONS, liquidation(1.0))
    await trio.sleep(5)
    engine.give(writer)
    writer.take(LIQUIDATIONS, liquidation(2.0))  # whose topic was asked for first
    await trio.sleep(1)
    first = trade("BTCUSDT", 9)
    writer.take(TRADES, first)
    gaps = {topic: one for topic, seq, one in said(writer) if seq is None}
    assert set(gaps) == {str(TRADES), str(LIQUIDATIONS)}
    assert gaps[str(TRADES)]["to"] == msgspec.to_builtins(first.timestamp)


async def test_who_heard_nothing_of_what_was_told_announces_though_it_listened_before_the_logs_end(
    autojump_clock: MockClock,
) -> None:
    """The leader had much to catch up with: the last that it said happened before this node began to listen."""
    engine = Engine()
    happened = [trade("BTCUSDT", number) for number in range(1, 4)]
    await trio.sleep(5)
    writer = writer_of()
    for number in (7, 8):
        writer.take(TRADES, trade("BTCUSDT", number))
        await trio.sleep(1)
    engine.say(TRADES, *happened)
    await trio.sleep(1)
    engine.give(writer)
    gap, *told = [one for _, _, one in said(writer)]
    assert gap["from"] == msgspec.to_builtins(happened[-1].timestamp)
    assert gap["to"] == told[0]["timestamp"]
    assert [one["trade_id"] for one in told] == [7, 8]


async def test_what_a_leader_that_was_behind_had_yet_to_say_is_announced_by_a_cold_successor(
    autojump_clock: MockClock,
) -> None:
    """It said last what happened two seconds before: of what came after that nobody told anything."""
    writer, engine = writer_of(), Engine()
    last = trade("BTCUSDT", 1)
    await trio.sleep(2)
    engine.say(TRADES, last)
    await trio.sleep(5)
    engine.give(writer)
    writer.take(TRADES, trade("BTCUSDT", 9))
    gap, _ = [one for _, _, one in said(writer)]
    assert gap["from"] == msgspec.to_builtins(last.timestamp)


async def test_large_trades_were_told_as_far_as_trades_and_liquidations_perhaps_less(
    autojump_clock: MockClock,
) -> None:
    writer, engine = writer_of(), Engine()
    large = LargeTrade(**structs.asdict(trade("BTCUSDT", 1)))
    engine.say(TRADES, trade("BTCUSDT", 1))
    engine.say(LARGE, large)
    engine.say(LIQUIDATIONS, liquidation(1))
    await trio.sleep(20)
    last = now()
    engine.say(TRADES, trade("BTCUSDT", 2))
    await trio.sleep(5)
    engine.give(writer)
    writer.take(TRADES, trade("BTCUSDT", 9))
    gaps = {topic: one["from"] for topic, _, one in said(writer) if "from" in one}
    at = msgspec.to_builtins(last)
    assert gaps == {str(TRADES): at, str(LARGE): at, str(LIQUIDATIONS): msgspec.to_builtins(last - SLOWER)}


async def test_who_began_to_listen_right_before_the_logs_end_announces_what_the_leader_had_yet_to_say(
    autojump_clock: MockClock,
) -> None:
    writer, engine = writer_of(), Engine()
    last = trade("BTCUSDT", 1)
    await trio.sleep(2)
    writer.take(TRADES, trade("BTCUSDT", 5))
    await trio.sleep(0.2)
    engine.say(TRADES, last)
    engine.give(writer)
    gap, *told = [one for _, _, one in said(writer)]
    assert (gap["from"], gap["to"]) == (msgspec.to_builtins(last.timestamp), told[0]["timestamp"])
    assert [one["trade_id"] for one in told] == [5]


async def test_who_began_to_listen_behind_what_was_told_last_announces_though_all_was_quiet_then(
    autojump_clock: MockClock,
) -> None:
    """The leader is two seconds behind: what it had yet to say may be from before this node listened."""
    writer, engine = writer_of(), Engine()
    last = trade("BTCUSDT", 1)
    await trio.sleep(1)
    writer.take_status(state("BTCUSDT", "live"))
    await trio.sleep(1)
    engine.say(TRADES, last)
    await trio.sleep(1)
    writer.take(TRADES, trade("BTCUSDT", 5))
    engine.give(writer)
    gap, *told = [one for topic, _, one in said(writer) if topic == str(TRADES)]
    assert (gap["from"], gap["to"]) == (msgspec.to_builtins(last.timestamp), told[0]["timestamp"])


@pytest.mark.parametrize("is_connected_again", [False, True])
async def test_what_a_leader_that_was_cut_off_from_the_exchange_did_not_hear_is_announced(
    is_connected_again: bool, autojump_clock: MockClock
) -> None:
    """It told that it hears nothing, and had yet to tell what it missed; its successor began to listen meanwhile."""
    writer, engine = writer_of(), Engine()
    last = trade("BTCUSDT", 1)
    engine.say(TRADES, last)
    await trio.sleep(1)
    engine.tell(state("BTCUSDT", "down"))
    writer.take_status(state("BTCUSDT", "live"))
    await trio.sleep(2)
    if is_connected_again:
        engine.tell(state("BTCUSDT", "live"))
    engine.say(INTEREST, interest(1.0))  # it polls that
    await trio.sleep(1)
    engine.give(writer)
    writer.take(TRADES, trade("BTCUSDT", 5))
    gap, one = [one for topic, _, one in said(writer) if topic == str(TRADES)]
    assert (gap["from"], gap["to"]) == (msgspec.to_builtins(last.timestamp), one["timestamp"])


async def test_what_was_told_already_does_not_end_what_nobody_heard(autojump_clock: MockClock) -> None:
    """It comes late from a connection that was left, and what came between that and the next one is not known."""
    writer, engine = writer_of(), Engine()
    known = trade("BTCUSDT", 1)
    engine.say(TRADES, known)
    await trio.sleep(5)
    engine.give(writer)
    writer.take(TRADES, known)
    first = trade("BTCUSDT", 9)
    writer.take(TRADES, first)
    gap, one = [one for _, _, one in said(writer)]
    assert gap["to"] == one["timestamp"] == msgspec.to_builtins(first.timestamp)


async def test_a_loss_of_the_successors_own_counts_from_the_last_that_the_leader_told(
    autojump_clock: MockClock,
) -> None:
    writer, engine = writer_of(), Engine()
    both = trade("BTCUSDT", 1)
    writer.take(TRADES, both)
    await trio.sleep(1)
    start = now()
    await trio.sleep(1)
    writer.take(TRADES, loss(start, now()))
    await trio.sleep(1)
    engine.say(TRADES, both)  # it is behind, and dies
    engine.give(writer)
    assert [(one["from"], one["reason"]) for _, _, one in said(writer)] == [(msgspec.to_builtins(start), "cut")]


async def test_what_was_announced_as_lost_is_not_told_behind_what_is_newer(autojump_clock: MockClock) -> None:
    """A newcomer led for a moment, and lost the lease to a node that had heard all the while."""
    writer, engine = writer_of(), Engine()
    happened = []
    for number in range(1, 9):
        happened.append(trade("BTCUSDT", number))
        writer.take(TRADES, happened[-1])
        await trio.sleep(1)
    engine.say(TRADES, *happened[:3])
    engine.announce(TRADES, loss(happened[2].timestamp, happened[5].timestamp))
    engine.say(TRADES, happened[5])
    engine.give(writer)
    assert [id for _, id in ids(writer)] == [7, 8]
    writer.take(TRADES, happened[4])  # nor where a repair brings it later
    assert list(said(writer)) == []


async def test_what_happened_out_of_turn_in_the_log_is_not_thought_told(autojump_clock: MockClock) -> None:
    """One that began late told the newest; another one began with what was before, and died."""
    writer, engine = writer_of(), Engine()
    happened = []
    for number in range(1, 11):
        happened.append(trade("BTCUSDT", number))
        writer.take(TRADES, happened[-1])
        await trio.sleep(1)
    engine.say(TRADES, *happened[7:])
    engine.say(TRADES, *happened[:3])
    engine.give(writer)
    assert [id for _, id in ids(writer)] == [4, 5, 6, 7]


async def test_a_topic_of_which_nothing_was_told_yet_is_announced_as_lost_with_its_first_event(
    autojump_clock: MockClock,
) -> None:
    writer, engine = writer_of(), Engine()
    engine.say(TRADES, trade("BTCUSDT", 1))
    last = now()
    await trio.sleep(20)
    engine.give(writer)
    first = trade("BTCUSDT", 9)
    writer.take(TRADES, first)
    for value in (1, 2):
        writer.take(LIQUIDATIONS, liquidation(value))
    told = [one for topic, _, one in said(writer) if topic == str(LIQUIDATIONS)]
    gap = told.pop(0)
    assert (gap["from"], gap["to"]) == (msgspec.to_builtins(last), msgspec.to_builtins(first.timestamp))
    assert [one["value"] for one in told] == [1, 2]


async def test_trades_of_which_none_was_told_yet_are_announced_as_lost_with_the_first(
    autojump_clock: MockClock,
) -> None:
    """Whoever began this memory told that it hears the symbol, and died."""
    writer, engine = writer_of(), Engine()
    engine.tell(state("BTCUSDT", "live"))
    await trio.sleep(20)
    engine.give(writer)
    first = trade("BTCUSDT", 9)
    writer.take(TRADES, first)
    gap, one = [one for _, _, one in said(writer)]
    assert (gap["to"], gap["repaired"], one["trade_id"]) == (msgspec.to_builtins(first.timestamp), False, 9)


async def test_what_starts_and_is_handed_over_before_anything_happened_lost_nothing(autojump_clock: MockClock) -> None:
    writer, engine = writer_of(), Engine()
    engine.tell(state("BTCUSDT", "starting"))
    engine.tell(state("BTCUSDT", "live"))
    writer.take_status(state("BTCUSDT", "live"))
    await trio.sleep(4)
    engine.say(INTEREST, interest(1.0))
    engine.give(writer)
    writer.take(TRADES, trade("BTCUSDT", 1))
    assert [one["trade_id"] for topic, _, one in said(writer) if topic == str(TRADES)] == [1]


async def test_what_no_longer_fits_into_memory_is_announced(autojump_clock: MockClock) -> None:
    writer, engine = writer_of(), Engine()
    first = trade("BTCUSDT", 1)
    writer.take(TRADES, first)
    engine.say(TRADES, first)
    last = now()
    for number in range(2, 62):  # a minute without the engine
        await trio.sleep(1)
        writer.take(TRADES, trade("BTCUSDT", number))
    engine.give(writer)
    gap, *told = [one for _, _, one in said(writer)]
    assert gap["from"] == msgspec.to_builtins(last)
    assert gap["to"] == told[0]["timestamp"]
    assert [one["trade_id"] for one in told] == list(range(told[0]["trade_id"], 62))
    assert 25 < len(told) <= 31


async def test_losses_that_the_leader_before_did_not_have_are_not_told(autojump_clock: MockClock) -> None:
    def gap(start: int, end: int) -> Gap:
        return loss(from_ms(START_MS + start), from_ms(START_MS + end))

    writer, engine = writer_of(), Engine()
    writer.take(TRADES, trade("BTCUSDT", 1))
    writer.take(TRADES, gap(0, 4_000))
    await trio.sleep(5)
    engine.say(TRADES, trade("BTCUSDT", 1))
    writer.take(TRADES, gap(4_500, 6_000))
    engine.give(writer)
    [told] = [one for _, _, one in said(writer)]
    assert told["from"] == msgspec.to_builtins(from_ms(START_MS + 5_000))


async def test_values_and_states_are_said_where_they_differ(autojump_clock: MockClock) -> None:
    def status(state: Any) -> Status:
        where: Any = {"exchange": "binance", "symbol": "BTCUSDT", "timestamp": now()}
        return Status(**where, state=state, reason=None, next_retry=None)

    writer, engine = writer_of(), Engine()
    engine.say(INTEREST, interest(1.0))
    engine.now["binance:BTCUSDT"] = encoded(status("live"))
    await trio.sleep(1)
    writer.take_status(status("live"))
    engine.give(writer)
    writer.take(INTEREST, interest(1.0))
    assert list(said(writer)) == []
    writer.take(INTEREST, interest(2.0))
    writer.take_status(status("down"))
    assert [(topic, seq) for topic, seq, _ in said(writer)] == [(str(INTEREST), 2), ("binance:BTCUSDT", None)]


async def test_a_successor_does_not_say_what_it_polled_before_what_was_told(autojump_clock: MockClock) -> None:
    writer, engine = writer_of(), Engine()
    before = interest(1.0)
    await trio.sleep(50)
    engine.say(INTEREST, interest(2.0))
    engine.give(writer)
    writer.take(INTEREST, before)
    assert list(said(writer)) == []
    writer.take(INTEREST, interest(1.0))
    assert [seq for _, seq, _ in said(writer)] == [2]


async def test_a_burst_stays_what_it_is_until_the_engine_has_it(autojump_clock: MockClock) -> None:
    writer = writer_of()
    Engine().give(writer)
    writer.take(TRADES, trade("BTCUSDT", 1))
    burst = writer.burst()
    assert isinstance(burst, Burst)
    writer.take(TRADES, trade("BTCUSDT", 2))
    assert writer.burst() is burst
    writer.acknowledged()
    following = writer.burst()
    assert following is not None
    assert (following.n, [entry.seq for entry in following.entries]) == (2, [2])


@pytest.mark.parametrize(
    "topic",
    [
        *(TRADES, BARS, SPIKES, Topic("hyperliquid", "xyz:TSLA", "oi-vol", "15m")),
        *(Topic("hyperliquid", "xyz:TSLA", "ohlc", "1h"), Topic("hyperliquid", "xyz:TSLA", "liquidations")),
    ],
)
def test_a_topics_name_names_it(topic: Topic) -> None:
    assert topic_named(str(topic)) == topic


def test_lanes_are_the_same_on_every_node() -> None:
    assert [lane_of(symbol, 8) for symbol in ("BTCUSDT", "ETHUSDT", "BTC")] == [3, 4, 6]
