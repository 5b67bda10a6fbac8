"""The real connector against the simulated OKX, over real sockets: two tiers, each of which may be lost alone.

Market time stands still unless a test advances it, so the frames that went out are all there is to compare with.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import trio

from actors import clock
from actors.connector import Connector
from actors.events import Gap, Kind, Liquidation, Ohlc, Said, Topic, Trade, from_ms, ms
from actors.exchanges.okx import EXCHANGE
from actors.exchanges.okx.simulator import serve
from actors.exchanges.okx.simulator.rows import told_orders
from actors.feeds.feed import Feed
from actors.simulation.assets import ASSETS
from actors.simulation.history import MINUTE
from actors.simulation.market import Clock, Market, Tape
from actors.simulation.server import Reply, RestFault, Simulator
from daemon.policy import with_policy
from daemon.settings import Supervision
from tests.daemon.fixtures import eventually
from tests.patience import WITHIN, virtual_time

pytestmark = virtual_time

START = 1_794_999_977_000  # 17 s into a minute
BTC, DOGE = "BTC-USDT-SWAP", "DOGE-USDT-SWAP"  # contracts of 0.01 and of 1000
SMALL = [asset for asset in ASSETS if asset.name in ("BTC", "DOGE")]


@dataclass
class World:
    sim: Simulator
    connector: Connector
    nursery: trio.Nursery

    async def advance(self, milliseconds: int, step: int = 500) -> None:
        for _ in range(0, milliseconds, step):
            self.sim.market.clock.advance(step)
            self.sim.tick()
            await trio.lowlevel.checkpoint()

    def feed(self, symbol: str = BTC) -> Feed:
        return self.connector.feeds[symbol]

    def tape(self, name: str = "BTC") -> Tape:
        return self.sim.market.tapes[name]

    def collect(self, kind: Kind, interval: str | None = None, symbol: str = BTC) -> list[Any]:
        """What a reader of the topic is told from now on."""
        told: list[Said] = []
        reader = self.feed(symbol).subscribe(Topic("okx", symbol, kind, interval), 50_000)

        async def read() -> None:
            while True:
                told.append(await reader.receive())

        self.nursery.start_soon(read)
        return told

    async def lose(self, tier: str) -> None:
        """The connections of one tier, and those that would replace them; market time passes meanwhile."""
        self.sim.faults.ws_accept = "reset"
        for connection in list(self.sim.connections):
            if connection.path.endswith(tier):
                connection.reset()
        await eventually(lambda: self.feed().health.state == "down", WITHIN)

    async def regain(self) -> None:
        now = clock.now()  # the market's clock is moved by hand: the exchange's time is what it is now
        self.connector._skew.learn(from_ms(self.sim.market.now), now, now)
        self.sim.faults.ws_accept = "accept"
        await eventually(lambda: len(self.sim.connections) == 2, WITHIN)
        await eventually(lambda: sum(len(c.streams) for c in self.sim.connections) == 13, WITHIN)


@asynccontextmanager
async def running() -> AsyncIterator[World]:
    supervise = with_policy(Supervision(reconnect_delay=0.02, max_reconnect_delay=0.1))
    market = Market(seed=7, clock=Clock(START, rate=0), assets=SMALL)
    async with trio.open_nursery() as nursery:
        sim = await nursery.start(partial(serve, market))
        connector = Connector(
            replace(EXCHANGE, history=120, limits=replace(EXCHANGE.limits, connect_spacing=0.01)),
            symbols=(BTC, DOGE),
            on_demand=True,
            rest_url=sim.rest_url,
            ws_url=sim.ws_url,
            intervals=("1m", "5m"),
            large_trade_threshold_usd=100_000,
            supervise=supervise,
        )
        nursery.start_soon(connector.run)
        world = World(sim, connector, nursery)
        await world.regain()
        await world.advance(3500)
        await eventually(lambda: {feed.health.state for feed in connector.feeds.values()} == {"live"}, WITHIN)
        await eventually(lambda: world.feed().ohlc("5m", limit=100, start=None, end=None), WITHIN)
        yield world
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("name", "symbol"), [("BTC", BTC), ("DOGE", DOGE)])
async def test_trades_of_any_contract_size_are_told_in_base_units_exactly(name: str, symbol: str) -> None:
    async with running() as w:
        trades, tape = w.collect("trades", symbol=symbol), w.tape(name)
        first, last = tape.next_id, tape.last_fill
        await w.advance(MINUTE)
        happened = [trade for trade in tape.trades if trade.id >= first]
        assert len(happened) > 20

        def told() -> list[float]:
            return [trade.quantity for trade in trades if trade.trade_id > last]

        await eventually(lambda: len(told()) >= len(happened), WITHIN)
        decimals, step = tape.step_decimals, float(tape.asset.step)
        assert told() == [round(t.quantity * step, decimals) for t in happened]


async def test_the_trades_of_a_cut_are_told_once_though_rest_tells_each_fill() -> None:
    async with running() as w:
        trades, bars = w.collect("trades"), w.collect("ohlc", "1m")
        first, last = w.tape().next_id, w.tape().last_fill
        await w.advance(10_000)
        await w.lose("/public")
        await w.advance(20_000)
        await w.regain()
        await w.advance(MINUTE)
        happened = [trade for trade in w.tape().trades if trade.id >= first]
        total = sum(trade.quantity for trade in happened)

        def told() -> int:
            found = [trade for trade in trades if isinstance(trade, Trade) and int(trade.trade_id) > last]
            return round(sum(trade.quantity for trade in found) * 1000)

        await eventually(lambda: told() >= total, WITHIN)
        assert told() == total
        gaps = [said for said in trades if isinstance(said, Gap)]
        assert [gap.repaired for gap in gaps] == [True]
        ids = [trade.trade_id for trade in trades if isinstance(trade, Trade)]
        assert ids == sorted(set(ids))
        assert w.feed().health.state == "live"
        assert [bar for bar in bars if isinstance(bar, Ohlc) and bar.is_closed]


def orders_of(told: list[Any]) -> list[tuple[int, str]]:
    return [(ms(said.timestamp), said.side) for said in told if isinstance(said, Liquidation)]


def gaps_of(told: list[Any]) -> list[Gap]:
    return [said for said in told if isinstance(said, Gap)]


async def test_liquidations_of_a_cut_are_had_from_rest_and_come_before_newer_ones() -> None:
    async with running() as w:
        forced = w.collect("liquidations")
        begun = w.sim.market.now
        await w.advance(20_000)
        await w.lose("/business")
        await w.advance(20_000)
        await w.regain()
        await w.advance(5000)
        await eventually(lambda: w.feed().health.state == "live", WITHIN)
        assert len(orders_of(forced)) > 3
        assert gaps_of(forced) == [], "candles alone were lost"
        await w.lose("/public")
        cut_at = w.sim.market.now
        await w.advance(20_000)
        assert gaps_of(forced) == [], "not before the end of it is known"
        await w.regain()
        await w.advance(20_000)
        await eventually(lambda: gaps_of(forced), WITHIN, "an answer")
        [gap] = gaps_of(forced)
        assert (gap.repaired, gap.reason) == (True, "the connection was lost")
        assert ms(gap.start) <= cut_at < ms(gap.end)
        happened = [(order.time, order.side) for order in told_orders(w.tape()) if order.time > begun]
        await eventually(lambda: len(orders_of(forced)) >= len(happened), WITHIN, "all of them")
        assert orders_of(forced) == happened
        assert [at for at, _ in happened if cut_at < at < ms(gap.end)], "some were lost"
        at = forced.index(gap)
        assert all(ms(said.timestamp) >= ms(gap.start) for said in forced[at + 1 :])


async def test_liquidations_that_okx_does_not_tell_afterwards_are_said_to_be_missing() -> None:
    async with running() as w:
        forced = w.collect("liquidations")
        await w.advance(10_000)
        fault = RestFault(path="/api/v5/public/liquidation-orders", reply=Reply(404, b'{"code":"404","msg":"gone"}'))
        w.sim.faults.rest.append(fault)
        await w.lose("/public")
        await w.advance(20_000)
        await w.regain()
        before = len(orders_of(forced))
        await w.advance(20_000)
        await eventually(lambda: gaps_of(forced), WITHIN, "the word")
        [gap] = gaps_of(forced)
        assert not gap.repaired
        assert "gone" in gap.reason
        await eventually(lambda: len(orders_of(forced)) > before, WITHIN, "what waited")
        assert len(set(orders_of(forced))) == len(orders_of(forced))


async def test_a_push_of_trades_that_did_not_come_is_noticed_and_had_from_rest() -> None:
    async with running() as w:
        trades, tape = w.collect("trades"), w.tape()
        first, last = tape.next_id, tape.last_fill
        await w.advance(10_000)
        w.sim.faults.mute.add(f"trades:{BTC}")
        await w.advance(5_000)
        w.sim.faults.mute.clear()
        await w.advance(20_000)
        total = sum(trade.quantity for trade in tape.trades if trade.id >= first)

        def told() -> int:
            return round(sum(t.quantity for t in trades if isinstance(t, Trade) and int(t.trade_id) > last) * 1000)

        await eventually(lambda: told() >= total, WITHIN)
        assert told() == total
        assert [gap.repaired for gap in gaps_of(trades)] == [True]
        ids = [trade.trade_id for trade in trades if isinstance(trade, Trade)]
        assert ids == sorted(set(ids))


async def test_bars_of_a_cut_are_repaired_while_trades_go_on() -> None:
    async with running() as w:
        bars, trades = w.collect("ohlc", "1m"), w.collect("trades")
        await w.advance(10_000)
        await w.lose("/business")
        heard = len(trades)
        await w.advance(3 * MINUTE)
        await eventually(lambda: len(trades) > heard + 100, WITHIN)
        assert w.feed().health.state == "down"
        await w.regain()
        await w.advance(MINUTE)
        tape, now = w.tape(), w.sim.market.now
        truth = tape.bars("1m", now, start=w.sim.market.genesis, limit=10)[:-1]
        expected = [(bar.open_time, bar.close / 10, bar.volume / 1000) for bar in truth]

        def closed() -> list[tuple[int, float, float]]:
            return [(ms(b.timestamp), b.close, b.volume) for b in bars if isinstance(b, Ohlc) and b.is_closed]

        await eventually(lambda: len(closed()) >= len(expected), WITHIN)
        assert closed() == expected
        assert [said for said in trades if isinstance(said, Gap)] == [], "of the other tier nothing was lost"
