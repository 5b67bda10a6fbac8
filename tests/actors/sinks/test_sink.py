"""A sink over a connection that does as the test says, in exact time: what it hands over, in which order, what it loses
and how it says so."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import msgspec
import structlog.testing
import trio
from trio.testing import MockClock

from actors.engine.words import STATUS, Entry
from actors.events import EPOCH, Event, Gap, Liquidation, Status, Topic, Trade
from actors.sinks.patterns import parsed
from actors.sinks.rows import Failed, Row, WritingOver
from actors.sinks.sink import LAST_WRITE, PATIENCE, RETRY, Sink, SinkSettings

TRADES = Topic("binance", "BTCUSDT", "trades")
FORCED = Topic("binance", "ETHUSDT", "liquidations")
Json = Any


def trade(number: int, value: float = 100.0) -> Trade:
    return Trade(
        exchange="binance",
        symbol="BTCUSDT",
        timestamp=EPOCH + timedelta(seconds=number),
        side="buy",
        price=value,
        quantity=1.0,
        value=value,
        is_buyer_maker=False,
        trade_id=number,
    )


def forced(number: int, value: float) -> Liquidation:
    about: Any = {"exchange": "binance", "symbol": "ETHUSDT", "timestamp": EPOCH + timedelta(seconds=number)}
    return Liquidation(**about, side="sell", price=1.0, quantity=value, value=value)


class Broker:
    """The other system, over all connections to it."""

    def __init__(self, room: int = 1000) -> None:
        self.room = room  # rows that a connection may have
        self.is_up, self.problem = True, None if room else "it is away"
        self.answers = True  # rows are written
        self.refuses: dict[int, bool] = {}  # by trade id: whether it is so for good
        self.is_over: str | None = None
        self.has: list[Row] = []
        self.connections: list[Connection] = []

    def connect(self) -> "Connection":
        self.connections.append(Connection(self))
        return self.connections[-1]

    def ids(self) -> list[int]:
        return [row["trade_id"] for row in self.rows() if row["type"] == "trade"]

    def rows(self) -> list[Json]:
        return [msgspec.json.decode(row.value) for row in self.has]


class Connection:
    def __init__(self, broker: Broker) -> None:
        self._broker, self._on_its_way = broker, list[Row]()
        self.problem: str | None = None
        self.is_closed = False

    @property
    def is_up(self) -> bool:
        self.problem = self._broker.problem
        return self._broker.is_up

    def send(self, row: Row) -> bool:
        if len(self._on_its_way) >= self._broker.room:
            return False
        self._on_its_way.append(row)
        return True

    def look(self) -> tuple[int, list[Failed]]:
        broker = self._broker
        if broker.is_over is not None:
            reason, broker.is_over = broker.is_over, None
            raise WritingOver(reason)
        if not broker.answers:
            return 0, []
        rows, self._on_its_way = self._on_its_way, []
        failed = []
        for row in rows:
            number = msgspec.json.decode(row.value).get("trade_id")
            if number in broker.refuses:
                failed.append(Failed(row, "not taken", broker.refuses[number]))
            else:
                broker.has.append(row)
        return len(rows) - len(failed), failed

    def close(self) -> tuple[int, list[Failed]]:
        assert not self.is_closed
        self.is_closed = True
        return 0, [Failed(row, "closed", False) for row in self._on_its_way]


@asynccontextmanager
async def running(broker: Broker, *, bound: int = 1000, least: float = 0.0) -> AsyncIterator[Sink]:
    patterns = [parsed("binance:BTCUSDT:trades"), parsed("all:liquidations")]
    sink = Sink(SinkSettings("k", "kafka", patterns, "md-{exchange}-{kind}", least), broker.connect, bound=bound)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run)
        yield sink
        nursery.cancel_scope.cancel()
    assert all(connection.is_closed for connection in broker.connections)


def tell(sink: Sink, numbers: Sequence[int]) -> None:
    for number in numbers:
        sink.take(TRADES, trade(number))


async def test_rows_are_what_a_client_of_ws_is_told(autojump_clock: MockClock) -> None:
    broker = Broker()
    gap = Gap(
        exchange="binance",
        symbol="BTCUSDT",
        timestamp=EPOCH,
        start=EPOCH,
        end=EPOCH + timedelta(seconds=1),
        reason="the connection was lost",
        repaired=True,
    )
    status = Status(exchange="binance", symbol="BTCUSDT", timestamp=EPOCH, state="live", reason=None, next_retry=None)
    async with running(broker) as sink:
        for said in (trade(1), gap, status, trade(2)):
            sink.take(TRADES, said)
        sink.take(Topic("binance", "BTCUSDT", "ohlc", "1m"), trade(3))
        sink.take(Topic("binance", "ETHUSDT", "trades"), trade(4))
        sink.take(FORCED, forced(1, 5.0))
        await trio.sleep(1)
        one, hole, two, liquidation = broker.rows()
        about = {"topic": "binance:BTCUSDT:trades", "epoch": one["epoch"]}
        assert one == {"type": "trade", **about, "seq": 1, **plain(trade(1))}
        assert two == {"type": "trade", **about, "seq": 2, **plain(trade(2))}
        assert hole == {"type": "gap", "topic": "binance:BTCUSDT:trades", **plain(gap)}
        assert (liquidation["type"], liquidation["seq"]) == ("liquidation", 1)
        assert [row.into for row in broker.has] == ["md-binance-trades"] * 3 + ["md-binance-liquidations"]
        assert {row.key for row in broker.has} == {b"binance:BTCUSDT:trades", b"binance:ETHUSDT:liquidations"}
        report = sink.report()
        assert (report.state, report.written, report.pending, report.dropped) == ("ok", 4, 0, 0)


def plain(said: Event | Gap) -> Json:
    return msgspec.json.decode(msgspec.json.encode(said))


async def test_small_ones_are_left_out_and_counted_all_the_same(autojump_clock: MockClock) -> None:
    broker = Broker()
    async with running(broker, least=50.0) as sink:
        for number, value in enumerate((49.0, 50.0, 51.0), start=1):
            sink.take(TRADES, trade(number, value))
            sink.take_said("e", [said(number, value)])
        await trio.sleep(1)
        assert [(row["trade_id"], row["seq"]) for row in broker.rows()] == [(2, 2), (2, 2), (3, 3), (3, 3)]


def said(number: int, value: float = 100.0) -> Entry:
    return Entry(str(TRADES), "trade", number, msgspec.json.encode(trade(number, value)))


async def test_what_is_said_to_an_engine_keeps_its_numbers(autojump_clock: MockClock) -> None:
    broker = Broker()
    async with running(broker) as sink:
        status = Entry("binance:BTCUSDT", STATUS, None, b"{}")
        gap = Entry(str(TRADES), "gap", None, b'{"exchange":"binance"}')
        sink.take_said("old", [status, said(7)])
        sink.take_said("new", [gap, Entry("binance:BTCUSDT:oi", "open_interest", 9, b"{}"), said(1)])
        await trio.sleep(1)
        assert [(row.get("epoch"), row.get("seq")) for row in broker.rows()] == [("old", 7), (None, None), ("new", 1)]
        assert broker.has[0].value == b"".join(
            (
                b'{"type":"trade","topic":"binance:BTCUSDT:trades","epoch":"old","seq":7,',
                msgspec.json.encode(trade(7))[1:],
            )
        )


async def test_a_system_that_is_away_is_a_state_and_nothing_is_lost_below_the_bound(autojump_clock: MockClock) -> None:
    broker = Broker(room=0)
    broker.is_up = False
    with structlog.testing.capture_logs() as logs:
        async with running(broker) as sink:
            tell(sink, range(500))
            await trio.sleep(100)
            report = sink.report()
            assert (report.state, report.reason, report.pending) == ("failing", "it is away", 500)
            broker.room, broker.is_up = 7, True
            tell(sink, range(500, 600))
            await trio.sleep(10)
            assert broker.ids() == list(range(600))
            assert (sink.report().state, sink.dropped) == ("ok", 0)
    assert [entry["event"] for entry in logs] == ["sink.failing", "sink.recovered"]


async def test_what_does_not_fit_is_counted_and_announced_before_anything_newer(autojump_clock: MockClock) -> None:
    broker = Broker(room=5)
    broker.answers = False
    with structlog.testing.capture_logs() as logs:
        async with running(broker, bound=10) as sink:
            tell(sink, range(5))  # these are on their way
            await trio.sleep(1)
            sink.take(FORCED, forced(3, 1.0))
            tell(sink, range(5, 35))
            broker.answers = True
            await trio.sleep(5)
            tell(sink, [35])
            await trio.sleep(1)
            assert sink.dropped == 21
            assert sink.report().state == "ok"
    rows = broker.rows()
    of_trades = [row for row in rows if row["symbol"] == "BTCUSDT"]
    assert [row.get("trade_id") for row in of_trades] == [*range(5), None, *range(25, 36)]
    gap = of_trades[5]
    assert (gap["type"], gap["from"], gap["to"]) == ("gap", "1970-01-01T00:00:05Z", "1970-01-01T00:00:24.001000Z")
    assert (gap["repaired"], gap["reason"]) == (False, "more was to be written than the sink takes")
    # A hole in the numbers says the same.
    assert [row["seq"] for row in of_trades if "seq" in row] == [*range(1, 6), *range(26, 37)]
    (other,) = [row for row in rows if row["symbol"] == "ETHUSDT"]
    assert (other["type"], other["from"]) == ("gap", "1970-01-01T00:00:03Z")
    events = [entry["event"] for entry in logs]
    assert events.count("sink.dropping") == 1
    assert events[-1] == "sink.recovered"


async def test_a_gap_that_is_lost_is_part_of_the_one_that_is_said(autojump_clock: MockClock) -> None:
    hole = Gap(
        exchange="binance",
        symbol="BTCUSDT",
        timestamp=EPOCH + timedelta(seconds=9),
        start=EPOCH + timedelta(seconds=1),
        end=EPOCH + timedelta(seconds=8),
        reason="the connection was lost",
        repaired=False,
    )
    broker = Broker(room=0)
    async with running(broker, bound=2) as sink:
        sink.take(TRADES, trade(0))
        await trio.sleep(1)  # it is about to be sent
        sink.take(TRADES, hole)
        sink.take_said("e", [Entry(str(TRADES), "gap", None, msgspec.json.encode(hole))])
        tell(sink, [8, 9])
        broker.room = 10
        await trio.sleep(1)
        assert [row.get("trade_id") for row in broker.rows()] == [0, None, None, 8, 9]
        # Two channels stand for the topic here, which is told by a feed and by an engine at once.
        assert {(row["from"], row["to"]) for row in broker.rows() if row["type"] == "gap"} == {
            ("1970-01-01T00:00:01Z", "1970-01-01T00:00:08Z")
        }


async def test_what_is_refused_is_offered_again_in_its_order(autojump_clock: MockClock) -> None:
    broker = Broker(room=4)
    broker.refuses = dict.fromkeys(range(2, 100), False)
    async with running(broker) as sink:
        tell(sink, range(10))
        await trio.sleep(RETRY * 5)
        assert (sink.report().state, sink.report().reason) == ("failing", "not taken")
        assert broker.ids() == [0, 1]
        broker.refuses = {}
        await trio.sleep(RETRY * 3)
        assert broker.ids() == list(range(10))
        assert (sink.report().state, sink.dropped, sink.pending) == ("ok", 0, 0)


async def test_what_is_refused_for_good_is_lost_alone_and_said(autojump_clock: MockClock) -> None:
    broker = Broker()
    broker.refuses = {3: True}
    with structlog.testing.capture_logs() as logs:
        async with running(broker) as sink:
            tell(sink, range(6))
            await trio.sleep(3)
            assert broker.ids() == [0, 1, 2, 4, 5]
            tell(sink, [6])
            await trio.sleep(1)
            assert [row["type"] for row in broker.rows()][5:] == ["gap", "trade"]
            assert (sink.report().state, sink.dropped) == ("ok", 1)
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["sink.refused"]


async def test_one_that_does_not_answer_is_failing_after_a_while(autojump_clock: MockClock) -> None:
    broker = Broker()
    broker.answers = False
    async with running(broker) as sink:
        tell(sink, [1])
        await trio.sleep(PATIENCE - 1)
        assert sink.report().state == "starting"
        await trio.sleep(2)
        assert (sink.report().state, sink.report().reason) == ("failing", "no answer for 5 s")
        broker.answers = True
        await trio.sleep(1)
        assert sink.report().state == "ok"


async def test_a_connection_that_is_over_is_made_anew_and_what_it_had_is_written(autojump_clock: MockClock) -> None:
    broker = Broker(room=3)
    broker.answers = False
    async with running(broker) as sink:
        tell(sink, range(5))
        await trio.sleep(1)
        broker.is_over = "fenced"
        await trio.sleep(RETRY / 2)
        assert (sink.report().state, sink.report().reason, sink.pending) == ("failing", "fenced", 5)
        broker.answers = True
        await trio.sleep(RETRY * 2)
        assert (len(broker.connections), broker.ids(), sink.report().state) == (2, list(range(5)), "ok")


async def test_a_stop_writes_what_waits_within_its_time(autojump_clock: MockClock) -> None:
    broker = Broker()
    async with running(broker, bound=5000) as sink:
        tell(sink, range(2000))
    assert broker.ids() == list(range(2000))
    broker = Broker()
    broker.answers = False
    began = trio.current_time()
    with structlog.testing.capture_logs() as logs:
        async with running(broker) as sink:
            tell(sink, range(10))
            await trio.sleep(0.5)
    assert trio.current_time() - began <= 0.5 + LAST_WRITE + 0.1
    assert (sink.dropped, logs[-1]["event"], logs[-1]["pending"]) == (10, "sink.not_ended", 10)


async def test_one_that_nothing_is_written_to_says_whether_somebody_is_there(autojump_clock: MockClock) -> None:
    broker = Broker()
    async with running(broker) as sink:
        await trio.sleep(3)
        assert sink.report().state == "ok"
        broker.is_up, broker.problem = False, "gone"
        await trio.sleep(3)
        assert (sink.report().state, sink.report().reason) == ("failing", "gone")
        broker.is_up = True
        await trio.sleep(3)
        assert sink.report().state == "ok"
