"""What is collected changes while the daemon runs: listings and their ends, readers on demand, other settings."""

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import inf
from typing import Any

import pytest
import trio
from msgspec import structs

from actors.connector import Connector
from actors.errors import UnknownSymbol
from actors.events import Instrument, Topic, from_ms
from actors.exchanges import listings
from actors.exchanges.binance.rest import BinanceRest
from actors.exchanges.exchange import Backlog, Update
from actors.feeds import interest, pulse
from actors.feeds.known import Known
from actors.lines import probes
from actors.simulation.http import Reply, RestFault
from actors.upstream.caller import ANSWER_BY
from actors.upstream.rest import ANSWER_WITHIN, Question, RestClient
from daemon import collecting
from tests.daemon.fixtures import TWO, World, eventually, world

ETH = Topic("binance", "ETHUSDT", "trades")


@dataclass
class Exchange:
    """What the exchange lists, and how often it was asked."""

    unlisted: set[str] = field(default_factory=set)
    status: dict[str, str] = field(default_factory=dict)  # of symbols, where it changed
    hours: float | None = None  # of every funding interval, where it changed
    asked: int = 0
    made: list[Connector] = field(default_factory=list)

    @property
    def connector(self) -> Connector:
        return self.made[0]


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> Exchange:
    said = Exchange()
    ask = BinanceRest.instruments

    async def instruments(self: BinanceRest) -> list[Instrument]:
        said.asked += 1
        rows = [row for row in await ask(self) if row.symbol not in said.unlisted]
        rows = [structs.replace(row, status=said.status.get(row.symbol, row.status)) for row in rows]
        if said.hours is None:
            return rows
        return [structs.replace(row, funding_interval_hours=said.hours) for row in rows]

    def connect(*args: Any, **settings: Any) -> Connector:
        said.made.append(Connector(*args, **settings, linger=0.3))
        return said.made[-1]

    monkeypatch.setattr(BinanceRest, "instruments", instruments)
    monkeypatch.setattr(collecting, "Connector", connect)
    monkeypatch.setattr(listings, "SOONEST", 0.5)
    return said


async def test_a_new_listing_is_served_soon_after_it_is_asked_for(exchange: Exchange) -> None:
    exchange.unlisted.add("ETHUSDT")
    async with world() as w:
        assert (await w.client.get("/binance/funding/NOSUCHUSDT")).status_code == 404
        exchange.unlisted.clear()
        exchange.hours = 4.0
        await w.client.get("/binance/oi/ETHUSDT")
        await eventually(lambda: "ETHUSDT" in exchange.connector.catalogue.instruments)
        assert (await w.client.get("/binance/oi/ETHUSDT")).status_code == 200
        # What else changed came with it.
        (row,) = (row for row in await w.get("/symbols") if row["symbol"] == "BTCUSDT")
        assert row["funding_interval_hours"] == 4.0


async def test_the_catalogue_is_asked_no_more_often_whatever_names_clients_invent(exchange: Exchange) -> None:
    async with world() as w:
        began = trio.current_time()
        asked = exchange.asked
        for number in range(40):
            await w.client.get(f"/binance/oi/NO{number}USDT")
            await trio.sleep(0.03)
        await eventually(lambda: exchange.asked > asked)
        assert exchange.asked - asked <= 2 + (trio.current_time() - began) / 0.5


async def test_clients_are_told_of_a_symbol_that_ended(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SOONEST": 0.6, "UNKNOWN": 0.6, "LEARNED": 5}.items():
        monkeypatch.setattr(pulse, name, value)
    monkeypatch.setattr(probes, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(probes, "PROBE_AFTER", 0.2)
    async with world(rate=20.0) as w, w.stream("/ws/binance/BTCUSDT/trades?status=1") as stream:
        await stream.at_least(20)
        tape = w.sim.market.tapes["BTC"]
        monkeypatch.setattr(type(tape), "advance", lambda self, now: None)  # nothing is traded any more
        exchange.status["BTCUSDT"] = "SETTLING"

        def ended() -> bool:
            return any(said["state"] == "failed" and "SETTLING" in said["reason"] for said in stream.of("status"))

        await eventually(ended)
        feed = await w.feed()
        assert feed["state"] == "failed"
        assert exchange.connector.feeds["BTCUSDT"].overdue(1e12) is None, "nobody asks after it any more"


async def test_a_symbol_that_begins_to_trade_is_served_soon_after_it_is_asked_for(exchange: Exchange) -> None:
    exchange.status["ETHUSDT"] = "PENDING_TRADING"
    async with world():
        with pytest.raises(UnknownSymbol, match="PENDING_TRADING"), exchange.connector.reading(ETH):
            pass
        exchange.status.clear()
        with pytest.raises(UnknownSymbol), exchange.connector.reading(ETH):
            pass
        await eventually(lambda: exchange.connector.catalogue.problem_of("ETHUSDT") is None)
        with exchange.connector.reading(ETH) as feed:
            assert feed.health.state == "starting"


async def test_a_configured_symbol_that_does_not_trade_yet_is_waited_for(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "WAITING_EVERY", 0.2)
    exchange.status["BTCUSDT"] = "PENDING_TRADING"
    async with world(live=False, rate=10.0) as w:
        await eventually(lambda: w.logged("feed.failed"))
        exchange.status.clear()
        await w.is_live()


async def test_who_holds_a_feed_longer_than_its_exchange_is_run_leaves_in_peace(exchange: Exchange) -> None:
    async with world():
        hold = exchange.connector.reading(ETH)
        hold.__enter__()
    hold.__exit__(None, None, None)


async def test_feeds_that_clients_begin_and_end_write_no_lines(exchange: Exchange) -> None:
    async with world(rate=10.0) as w:
        for _ in range(2):
            with exchange.connector.reading(ETH):
                pass
            exchange.connector._collection.end_if_unread("ETHUSDT")
        with exchange.connector.reading(ETH) as feed:
            await eventually(lambda: feed.health.state == "live")
        lines = [line for line in w.logs if line["event"].startswith("feed.")]
    levels = {(line["symbol"], line["event"], line["log_level"]) for line in lines}
    assert levels == {
        ("BTCUSDT", "feed.live", "info"),
        ("ETHUSDT", "feed.live", "debug"),
        ("ETHUSDT", "feed.failed", "debug"),
    }


async def test_one_task_waits_to_end_a_feed_however_often_it_is_taken_and_left(exchange: Exchange) -> None:
    async with world():
        running = exchange.connector
        nursery = running._collection._reach.nursery
        with running.reading(ETH):
            tasks = len(nursery.child_tasks)
        for _ in range(100):
            with running.reading(ETH):
                pass
        assert len(nursery.child_tasks) <= tasks + 1
        await eventually(lambda: "ETHUSDT" not in running.feeds)
        await eventually(lambda: len(nursery.child_tasks) < tasks)
        # The one that comes after it ends for itself, also where the task of one before still waits.
        for _ in range(2):
            with running.reading(ETH):
                pass
            running.end_if_unread("ETHUSDT")
        with running.reading(ETH):
            pass
        await eventually(lambda: "ETHUSDT" not in running.feeds)


async def test_all_questions_of_an_answer_have_one_deadline(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    ask = RestClient._ask_patiently

    async def ask_and_note(client: RestClient, question: Question, *arguments: Any) -> bytes:
        if question.path == "/fapi/v1/klines" and question.query["interval"] == "4h":
            asked.append(ANSWER_BY.get())
        return await ask(client, question, *arguments)

    async with world() as w:
        monkeypatch.setattr(RestClient, "_ask_patiently", ask_and_note)
        before = trio.current_time()
        await exchange.connector.ohlc("BTCUSDT", "4h", limit=3500, start=None, end=from_ms(w.now))
        after = trio.current_time()
        assert len(asked) == 3
        assert len(set(asked)) == 1
        assert before + ANSWER_WITHIN <= asked[0] <= after + ANSWER_WITHIN
        assert ANSWER_BY.get() == inf
        await exchange.connector.ohlc("BTCUSDT", "4h", limit=3, start=None, end=from_ms(w.now), background=True)
        assert asked[-1] == inf, "who is in no hurry waits"


@asynccontextmanager
async def undisturbed(w: World) -> AsyncIterator[None]:
    """Whatever happens in the block, clients of BTCUSDT notice nothing and no connection is made anew."""
    async with w.stream("/ws/binance/BTCUSDT/trades?status=1") as stream:
        await w.pass_time(500)
        await stream.at_least(1)
        yield
        count = len(stream.frames)
        await w.pass_time(1000)
        await stream.at_least(count + 1)
        ids = [trade["trade_id"] for trade in stream.of("trade")]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        assert (stream.of("gap"), stream.of("status")) == ([], [])
        assert w.sim.connections_total == 1


async def test_other_symbols_while_it_runs(exchange: Exchange) -> None:
    async with world() as w:
        running = exchange.connector
        async with undisturbed(w):
            running.change(symbols=["BTCUSDT", "ETHUSDT", "NOSUCHUSDT"])
            await w.subscribed("ethusdt@aggTrade")
            await w.pass_time(1000)
            await w.is_live("ETHUSDT")
            assert "lists no NOSUCHUSDT" in (running.feeds["NOSUCHUSDT"].health.reason or "")
            running.change(symbols=["BTCUSDT"])  # nobody reads them: at once
            assert list(running.feeds) == ["BTCUSDT"]
        async with w.stream("/ws/binance/BTCUSDT/trades") as reader:
            running.change(symbols=["ETHUSDT"])  # its reader keeps it
            await w.pass_time(1000)
            await reader.at_least(1)
            assert set(running.feeds) == {"BTCUSDT", "ETHUSDT"}
        with running.reading(Topic("binance", "BTCUSDT", "trades")):
            await trio.sleep(0.5)
            assert "BTCUSDT" in running.feeds


async def test_other_intervals_thresholds_and_rights_while_it_runs(exchange: Exchange) -> None:
    async with world() as w:
        running = exchange.connector
        async with undisturbed(w):
            running.change(intervals=["1m", "15m"], large_trade_threshold_usd=0.0, on_demand=False)
            await w.subscribed("btcusdt@kline_15m")
            assert "15m" in running.feeds["BTCUSDT"].intervals
            before = len(running.feeds["BTCUSDT"].large_trades)
            await w.pass_time(1000)
            await eventually(lambda: len(running.feeds["BTCUSDT"].large_trades) > before)
            async with w.stream("/ws/binance/ETHUSDT/trades") as refused:
                await eventually(lambda: refused.of("error"))
            assert "on_demand is off" in refused.of("error")[0]["detail"]
        running.change(upstream_share=0.1)
        assert running.budget.upstream_share == 0.1


async def test_a_fault_in_a_feed_that_is_called_by_the_line_restarts_that_feed_and_nothing_else(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, called_by = Known.take, set[str]()

    def faulty(self: Known, said: Update | Backlog | Topic | None, received_at: datetime) -> None:
        if self._symbol == "ETHUSDT" and isinstance(said, Update) and not called_by:
            called_by.update(frame.function for frame in inspect.stack(context=0))
            raise RuntimeError("a fault of ours")
        take(self, said, received_at)

    async with world() as w:
        running = exchange.connector
        with running.reading(ETH) as feed:
            await w.subscribed("ethusdt@aggTrade")
            await w.pass_time(1000)
            await w.is_live("ETHUSDT")
            async with undisturbed(w):
                monkeypatch.setattr(Known, "take", faulty)
                await w.pass_time(500)
                await eventually(lambda: feed.health.restarts == 1)
                await w.pass_time(500)
                await eventually(lambda: feed.health.state == "live")
            assert {"_take", "call"} <= called_by, "in the place of its task"
            assert running.feeds["BTCUSDT"].health.restarts == 0


async def test_open_interest_is_polled_often_only_while_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What memory has is too old for whoever asks first; what the exchange says then is held, and kept up to date."""
    monkeypatch.setattr(interest, "POLL_MIN", 0.2)
    monkeypatch.setattr(interest, "ASKED", 0.5)
    path = "/fapi/v1/openInterest"
    async with world() as w:
        asked = w.sim.count(path)
        await trio.sleep(0.3)
        assert (await w.client.get("/binance/oi/BTCUSDT")).status_code == 200
        assert w.sim.count(path) > asked, "it was too old"
        await eventually(lambda: w.sim.count(path) > asked + 2, what="polls")
        async with w.stream("/ws/binance/BTCUSDT/oi") as client:
            await eventually(lambda: client.of("open_interest"), what="the value of the moment")
            asked = w.sim.count(path)
            await eventually(lambda: w.sim.count(path) > asked + 4, what="polls")


async def test_the_open_bar_of_a_quiet_market_is_asked_for_once() -> None:
    """Its stream says nothing of a bar before its first trade, and that it is over when it ended."""
    bitcoin, ether = TWO
    path = "/binance/ohlc/ETHUSDT/1m"
    async with world(symbols=("BTCUSDT", "ETHUSDT"), market=(bitcoin, replace(ether, trades=0.0)), live=False) as w:
        await w.subscribed("ethusdt@kline_1m", "ethusdt@markPrice@1s")
        await w.pass_time(130_000, step=1000)
        expected = await w.bars("ETHUSDT", limit=3)
        assert [bar["is_closed"] for bar in expected] == [True, True, False]
        await w.until(path, lambda found: bool(found == expected), limit=3)
        asked = len(w.sim.requests)
        assert await w.get(path, limit=2) == expected[-2:], "it is remembered"
        await w.pass_time(60_000, step=1000)
        expected = await w.bars("ETHUSDT", limit=3)
        begin = expected[0]["timestamp"]
        assert await w.get(path, limit=2, start_time=begin) == expected[:2], "the open one is not among them"
        assert await w.get(path, limit=9, start_time=begin) == expected
        assert await w.get(path, limit=3) == expected
        klines = [served for served in list(w.sim.requests)[asked:] if "klines" in served.path]
        assert len(klines) == 2, "ours was one of them"
        w.sim.faults.rest.append(RestFault("/fapi/v1/klines", reply=Reply(503)))
        await w.pass_time(60_000, step=1000)
        told = await w.until(path, lambda found: bool(found[-1]["timestamp"] == expected[-1]["timestamp"]), limit=1)
        assert [bar["is_closed"] for bar in told] == [True], "no answer is no reason to say nothing"
