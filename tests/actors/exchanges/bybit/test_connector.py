"""The real connector against the simulated Bybit, over real sockets: what goes in at one end comes out at the other.

Market time stands still unless a test advances it, so the frames that went out are all there is to compare with.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from actors.connector import Connector
from actors.events import (
    FundingRate,
    Gap,
    Kind,
    LargeTrade,
    Liquidation,
    Ohlc,
    OpenInterest,
    Said,
    Status,
    Topic,
    Trade,
    from_ms,
    ms,
)
from actors.exchanges.bybit import EXCHANGE
from actors.exchanges.bybit.simulator import BAD_FRAMES, Options, serve
from actors.exchanges.bybit.simulator.streams import Tickers
from actors.exchanges.exchange import Exchange
from actors.feeds import pulse
from actors.feeds.feed import Feed
from actors.lines import patience, probes
from actors.simulation.assets import ASSETS
from actors.simulation.history import MINUTE
from actors.simulation.market import Clock, Market, Tape
from actors.simulation.server import Connection, Simulator
from daemon.policy import with_policy
from daemon.settings import Supervision
from tests.patience import WITHIN, virtual_time

pytestmark = virtual_time

START = 1_794_999_977_000  # 17 s into a minute
SMALL = [asset for asset in ASSETS if asset.name in ("BTC", "ETH", "BTC-quarter")]
KINDS: tuple[Kind, ...] = ("trades", "large_trades", "liquidations", "funding", "oi")


async def eventually(condition: Callable[[], object]) -> None:
    with trio.fail_after(WITHIN):
        while not condition():  # noqa: ASYNC110 - nothing that is waited for has an event
            await trio.sleep(0.01)


@dataclass
class World:
    sim: Simulator
    connector: Connector
    nursery: trio.Nursery

    def advance(self, milliseconds: int, step: int = 500) -> None:
        """Let the market live, with frames as often as the exchange sends them."""
        for _ in range(0, milliseconds, step):
            self.sim.market.clock.advance(step)
            self.sim.tick()

    def feed(self, symbol: str = "BTCUSDT") -> Feed:
        return self.connector.feeds[symbol]

    def state(self, symbol: str = "BTCUSDT") -> str:
        return self.feed(symbol).health.state

    def collect(self, kind: Kind, interval: str | None = None, symbol: str = "BTCUSDT") -> list[Any]:
        """What a reader of the topic is told from now on."""
        told: list[Said] = []
        reader = self.feed(symbol).subscribe(Topic("bybit", symbol, kind, interval), 50_000)

        async def read() -> None:
            while True:
                told.append(await reader.receive())

        self.nursery.start_soon(read)
        return told

    def sent(self, stream: str) -> list[Any]:
        return [json.loads(sent.frame) for sent in self.sim.sent if sent.stream == stream]

    def rows(self, stream: str) -> list[Any]:
        return [row for frame in self.sent(stream) for row in frame["data"]]


@asynccontextmanager
async def running(
    exchange: Exchange = EXCHANGE, options: Options | None = None, symbols: tuple[str, ...] = ("BTCUSDT",)
) -> AsyncIterator[World]:
    supervise = with_policy(Supervision(reconnect_delay=0.02, max_reconnect_delay=0.1))
    market = Market(seed=7, clock=Clock(START, rate=0), assets=SMALL)
    async with trio.open_nursery() as nursery:
        sim = await nursery.start(partial(serve, market, options=options))
        connector = Connector(
            replace(exchange, limits=replace(exchange.limits, connect_spacing=0.01)),
            symbols=symbols,
            on_demand=True,
            rest_url=sim.rest_url,
            ws_url=sim.ws_url,
            intervals=("1m", "5m"),
            large_trade_threshold_usd=100_000,
            supervise=supervise,
        )
        nursery.start_soon(connector.run)
        yield World(sim, connector, nursery)
        nursery.cancel_scope.cancel()


async def live(world: World, symbol: str = "BTCUSDT") -> None:
    await eventually(lambda: symbol in world.connector.feeds and world.state(symbol) == "live")
    # Whatever was pushed while it came up has been handled, and all topics are subscribed.
    wanted = {f"publicTrade.{symbol}", f"allLiquidation.{symbol}", f"tickers.{symbol}", f"kline.5.{symbol}"}
    await eventually(lambda: any(wanted <= set(connection.streams) for connection in world.sim.connections))
    await eventually(lambda: world.feed(symbol).open_interest())
    await eventually(lambda: world.feed(symbol).ohlc("5m", limit=1500, start=None, end=None))


async def test_everything_that_is_sent_arrives() -> None:
    async with running() as world:
        await live(world)
        told = {kind: world.collect(kind) for kind in KINDS}
        bars = world.collect("ohlc", "1m")
        before = len(world.sent("tickers.BTCUSDT"))
        world.sim.market.liquidate("BTC", side="sell", price="83000.00", quantity="2.000")
        world.advance(200_000)

        rows = world.rows("publicTrade.BTCUSDT")
        assert len(rows) > 500
        await eventually(lambda: len(told["trades"]) == len(rows))
        for trade, row in zip(told["trades"], rows, strict=True):
            assert isinstance(trade, Trade)
            assert (trade.trade_id, ms(trade.timestamp)) == (row["i"], row["T"])
            assert (trade.price, trade.quantity) == (float(row["p"]), float(row["v"]))
            assert trade.value == float(Decimal(row["p"]) * Decimal(row["v"]))
            assert (trade.side, trade.is_buyer_maker) == (row["S"].lower(), row["S"] == "Sell")
        tape = world.sim.market.tapes["BTC"]
        assert [round(trade.price * 10) for trade in told["trades"]] == [t.price for t in tape.trades[-len(rows) :]]

        large = [trade for trade in told["trades"] if trade.value >= 100_000]
        assert large
        assert all(isinstance(trade, LargeTrade) for trade in told["large_trades"])
        assert [trade.trade_id for trade in told["large_trades"]] == [trade.trade_id for trade in large]

        forced = world.rows("allLiquidation.BTCUSDT")
        await eventually(lambda: len(told["liquidations"]) == len(forced))
        for liquidation, row in zip(told["liquidations"], forced, strict=True):
            assert isinstance(liquidation, Liquidation)
            assert liquidation.side == {"Buy": "sell", "Sell": "buy"}[row["S"]]
            assert (liquidation.price, liquidation.quantity) == (float(row["p"]), float(row["v"]))
        assert [each.side for each in told["liquidations"]] == [o.side for o in tape.liquidations[-len(forced) :]]

        tickers = world.sent("tickers.BTCUSDT")[before:]
        interests = [frame["data"]["singleOpenInterest"] for frame in tickers if "singleOpenInterest" in frame["data"]]
        await eventually(lambda: len(told["oi"]) == len(interests))
        assert all(isinstance(interest, OpenInterest) for interest in told["oi"])
        assert [interest.open_interest for interest in told["oi"]] == list(map(float, interests))
        rates = [frame["data"]["fundingRate"] for frame in tickers if "fundingRate" in frame["data"]]
        assert len(rates) > 1
        assert all(isinstance(rate, FundingRate) for rate in told["funding"])
        assert [rate.funding_rate for rate in told["funding"]] == list(map(float, rates))
        assert {rate.funding_interval_hours for rate in told["funding"]} == {8.0}

        closed = [bar for bar in bars if isinstance(bar, Ohlc) and bar.is_closed]
        truth = tape.bars("1m", world.sim.market.now, start=world.sim.market.genesis, limit=10)[:-1]
        assert [(ms(bar.timestamp), bar.close) for bar in closed] == [(bar.open_time, bar.close / 10) for bar in truth]
        assert [bar.volume for bar in closed] == [bar.volume / 1000 for bar in truth]
        assert not [said for said in bars if isinstance(said, Gap)]


async def test_memory_and_rest_agree() -> None:
    async with running() as world:
        await live(world)
        world.advance(70_000)
        connector, rest = world.connector, world.connector._rest
        now = from_ms(world.sim.market.now)
        await eventually(lambda: (interest := world.feed().open_interest()) and interest.timestamp == now)
        for interval in ("1m", "5m"):
            remembered = await connector.ohlc("btcusdt", interval, limit=1500, start=None, end=None)
            asked = await rest.ohlc("BTCUSDT", interval, limit=1500)
            assert remembered[:-1] == asked[:-1]
            assert remembered[-1].timestamp == asked[-1].timestamp
        # A ticker of REST is as old as its request, one of the stream as the last push: here they are the same.
        assert await connector.open_interest("BTCUSDT") == await rest.open_interest("BTCUSDT")
        funding = await connector.funding("BTCUSDT")
        assert funding == await rest.funding(connector.catalogue.resolve("BTCUSDT"))


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_lost_connection_is_replaced_and_its_bars_repaired(how: str) -> None:
    async with running() as world:
        await live(world)
        bars, interests = world.collect("ohlc", "1m"), world.collect("oi")
        world.advance(10_000)
        world.sim.faults.ws_accept = "reset"
        if how == "reset":
            world.sim.drop()
        else:
            world.sim.close(1012, "service restart")
        await eventually(lambda: world.state() == "down")
        world.advance(3 * MINUTE)
        interests.clear()
        world.sim.faults.ws_accept = "accept"
        await eventually(lambda: world.state() == "live")
        await eventually(lambda: any(isinstance(said, Gap) and said.repaired for said in bars))
        await eventually(lambda: interests)
        world.advance(MINUTE)
        tape = world.sim.market.tapes["BTC"]
        truth = tape.bars("1m", world.sim.market.now, start=world.sim.market.genesis, limit=10)[:-1]
        expected = [(bar.open_time, bar.close / 10, bar.volume / 1000) for bar in truth]

        def closed() -> list[tuple[int, float, float]]:
            return [(ms(b.timestamp), b.close, b.volume) for b in bars if isinstance(b, Ohlc) and b.is_closed]

        await eventually(lambda: len(closed()) >= len(expected))
        assert closed() == expected
        states = [said.state for said in bars if isinstance(said, Status)]
        assert states == ["down", "live"]
        assert world.sim.connections_total == 2


@pytest.mark.parametrize("how", ["a row that is no trade", "half of it"])
async def test_trades_of_a_push_that_cannot_be_read_are_fetched(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as world:
        await live(world)
        trades = world.collect("trades")
        world.advance(3_000)
        send, spoilt = Connection.send, list[bytes]()

        def spoil(self: Connection, frame: str | bytes) -> bool:
            if isinstance(frame, bytes) and b'"publicTrade.BTCUSDT"' in frame and not spoilt:
                spoilt.append(frame)
                frame = frame[: len(frame) // 2] if how == "half of it" else frame.replace(b'"p":"', b'"p":"-', 1)
            return send(self, frame)

        monkeypatch.setattr(Connection, "send", spoil)
        world.advance(5_000)
        await eventually(lambda: spoilt)
        ids = [trade["i"] for trade in world.rows("publicTrade.BTCUSDT")]
        await eventually(lambda: {said.trade_id for said in trades if isinstance(said, Trade)} == set(ids))
        assert [said.trade_id for said in trades if isinstance(said, Trade)] == ids
        assert [said.repaired for said in trades if isinstance(said, Gap)] == [True]
        assert world.sim.connections_total == 1


async def test_a_symbol_that_streams_refuse_costs_no_other() -> None:
    options = Options(streamless=frozenset({"ETHUSDT"}))
    async with running(options=options, symbols=("ETHUSDT", "BTCUSDT")) as world:
        await live(world)
        await eventually(lambda: world.state("ETHUSDT") == "failed")
        assert "handler not found" in (world.feed("ETHUSDT").health.reason or "")
        assert world.feed("ETHUSDT").overdue(trio.current_time() + 3600) is None, "nobody asks what became of it"
        assert world.feed("BTCUSDT").overdue(trio.current_time() + 3600) is not None
        trades = world.collect("trades")
        world.advance(5_000)
        await eventually(lambda: trades)
        assert world.sim.connections_total == 1


IMPATIENT = replace(EXCHANGE, limits=replace(EXCHANGE.limits, silence=1.5))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic's rate is known, and doubted, within a second."""
    for module, changes in {
        pulse: {"SOONEST": 0.6, "UNKNOWN": 0.6, "LEARNED": 5},
        probes: {"LOOK_EVERY": 0.1, "PROBE_AFTER": 0.4},
        patience: {"OPENING": 0.3},
    }.items():
        for name, value in changes.items():
            monkeypatch.setattr(module, name, value)


@pytest.fixture
def halted(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Symbols whose market stands still: nothing trades, and tickers only answer who subscribes."""
    halted: set[str] = set()
    advance, due = Tape.advance, Tickers.due
    monkeypatch.setattr(
        Tape, "advance", lambda tape, now: None if f"{tape.asset.name}USDT" in halted else advance(tape, now)
    )
    monkeypatch.setattr(Tickers, "due", lambda stream, now: [] if stream._symbol in halted else due(stream, now))
    return halted


async def keep_ticking(world: World) -> None:
    """The exchange says something all the time."""
    while True:
        world.advance(300, step=100)
        await trio.sleep(0.05)


async def test_a_process_that_stood_still_accuses_nobody() -> None:
    """A machine that sleeps or is too busy: what came meanwhile has not been read when it is looked for."""
    async with running() as world:
        world.nursery.start_soon(keep_ticking, world)
        await live(world)
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, MockClock)
        trades = world.collect("trades")
        for _ in range(3):
            clock.jump(2 * EXCHANGE.limits.silence)
            before = len(trades)
            await eventually(lambda: len(trades) > before)  # noqa: B023 - awaited here
            await trio.sleep(3.0)
        assert (world.state(), world.sim.connections_total) == ("live", 1)


async def test_a_dated_contract_is_live_without_funding() -> None:
    symbol = "BTCUSDT-25DEC26"
    async with running(IMPATIENT, symbols=(symbol,)) as world:
        world.nursery.start_soon(keep_ticking, world)
        await live(world, symbol)
        interests = world.collect("oi", symbol=symbol)
        await trio.sleep(IMPATIENT.limits.silence + 1.2)  # the watchdog has looked
        assert world.state(symbol) == "live"
        assert world.feed(symbol).funding() is None
        assert [said for said in interests if isinstance(said, OpenInterest)]
        assert not [said for said in interests if isinstance(said, Status)]


@pytest.mark.usefixtures("impatient")
async def test_a_silent_ticker_is_asked_for_again() -> None:
    async with running(IMPATIENT) as world:
        world.nursery.start_soon(keep_ticking, world)
        await live(world)
        world.sim.faults.mute.add("tickers.BTCUSDT")
        await eventually(lambda: world.state() == "stale")
        (connection,) = world.sim.connections

        def asked(operation: str) -> int:
            frames = [json.loads(frame) for frame in connection.received]
            return sum(f["op"] == operation and f.get("args") == ["tickers.BTCUSDT"] for f in frames)

        await eventually(lambda: asked("unsubscribe"))
        world.sim.faults.mute.clear()  # the snapshot that comes with the subscription is heard, then
        await eventually(lambda: asked("subscribe"))
        await eventually(lambda: world.state() == "live")
        assert world.sim.connections_total == 1


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("still", [{"ETHUSDT"}, {"ETHUSDT", "BTCUSDT"}], ids=["one symbol", "all of them"])
async def test_a_market_that_stands_still_is_quiet_and_not_stale(halted: set[str], still: set[str]) -> None:
    halted |= still
    async with running(IMPATIENT, symbols=("BTCUSDT", "ETHUSDT")) as world:
        world.nursery.start_soon(keep_ticking, world)
        await eventually(lambda: "ETHUSDT" in world.connector.feeds and world.state("ETHUSDT") == "live")
        await eventually(lambda: all(len(each.streams) == 10 for each in world.sim.connections))
        [connection] = world.sim.connections
        asked, told = len(connection.received), world.collect("oi", symbol="ETHUSDT")
        await trio.sleep(3 * IMPATIENT.limits.silence + 1)
        assert [said for said in told if isinstance(said, Status)] == []
        assert (world.state("ETHUSDT"), world.sim.connections_total) == ("live", 1)
        assert not [frame for frame in connection.received[asked:] if "subscribe" in str(frame)]


@pytest.mark.usefixtures("impatient")
async def test_a_quiet_connection_that_is_dead_is_replaced(halted: set[str]) -> None:
    halted |= {"BTCUSDT"}
    async with running(IMPATIENT) as world:
        world.nursery.start_soon(keep_ticking, world)
        await eventually(lambda: "BTCUSDT" in world.connector.feeds and world.state() == "live")
        [connection] = world.sim.connections
        connection.stalled = True
        await eventually(lambda: world.sim.connections_total == 2)


@pytest.mark.usefixtures("impatient")
async def test_a_ticker_that_stays_silent_costs_the_connection_once() -> None:
    async with running(IMPATIENT) as world:
        world.nursery.start_soon(keep_ticking, world)
        await live(world)
        world.sim.faults.mute.add("tickers.BTCUSDT")
        await eventually(lambda: world.sim.connections_total == 2)
        await eventually(lambda: world.state() == "stale")
        await trio.sleep(2 * IMPATIENT.limits.silence + 1.2)  # asked for again in vain, but the others are left alone
        assert (world.state(), world.sim.connections_total) == ("stale", 2)


async def test_bad_frames_and_heartbeats_disturb_nothing() -> None:
    limits = replace(EXCHANGE.limits, heartbeat_every=0.02)
    async with running(replace(EXCHANGE, limits=limits)) as world:
        await live(world)
        for frame in (frame for kind, frame in BAD_FRAMES.items() if kind not in ("oversized", "not utf-8")):
            world.sim.push(frame)
        (connection,) = world.sim.connections
        await eventually(lambda: connection.received.count(EXCHANGE.heartbeat or "") > 3)
        trades = world.collect("trades")
        world.advance(5_000)
        await eventually(lambda: len(trades) == len(world.rows("publicTrade.BTCUSDT")))
        assert (world.state(), world.sim.connections_total) == ("live", 1)
