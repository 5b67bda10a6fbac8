"""Connections that grow old, and topics that fall silent while their market goes on: replaced without a loss, or found
out by asking the exchange; and restarts of many feeds at once, which stay within the exchange's limits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio

from actors.connector import Connector
from actors.exchanges.exchange import Exchange
from actors.feeds import pulse
from actors.lines import pool as lines
from actors.lines import probes
from actors.simulation.assets import synthetic
from actors.simulation.market import Clock, Market
from daemon.policy import with_policy
from tests.actors.exchanges.fixtures import EXCHANGES, quick, simulator_of
from tests.benchmarks.scale import listed
from tests.daemon.fixtures import MINUTE, START, SUPERVISION, World, eventually, fast, world


@asynccontextmanager
async def impatient(monkeypatch: pytest.MonkeyPatch, rate: float = 20.0, **limits: Any) -> AsyncIterator[World]:
    """A market that runs by itself, and a daemon that knows a topic's rate, and doubts it, within a second."""
    for module, changes in {
        pulse: {"SOONEST": 0.6, "UNKNOWN": 0.6, "LEARNED": 5},
        probes: {"LOOK_EVERY": 0.1, "PROBE_AFTER": 0.4},
        lines: {"LOOK_EVERY": 0.05, "LOOK": 0.05},
    }.items():
        for name, value in changes.items():
            monkeypatch.setattr(module, name, value)
    async with world(rate=rate, exchange=fast(**{"silence": 1.5} | limits)) as w:
        yield w


async def state(w: World) -> str:
    found: str = (await w.feed())["state"]
    return found


async def test_a_silent_topic_of_a_busy_market_is_asked_for_again_and_then_costs_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with impatient(monkeypatch) as w, w.stream("/ws/binance/BTCUSDT/trades") as stream:
        await stream.at_least(20)
        w.sim.faults.mute.add("btcusdt@aggTrade")
        health = await w.health(lambda health: health["feeds"][0]["state"] == "stale")
        assert "no trades data" in health["feeds"][0]["reason"]
        received = w.sim.connections[0].received
        await eventually(lambda: any("UNSUBSCRIBE" in str(frame) and "aggTrade" in str(frame) for frame in received))
        await eventually(lambda: w.sim.connections_total == 2)
        w.sim.faults.mute.clear()
        await w.is_live()
        assert [entry["reason"] for entry in w.logged("line.down")] == [
            "silence: no trades data of BTCUSDT, though asked for again"
        ]
        # Nothing of it was lost: the ids tell what was missed.
        count = len(stream.frames)
        await stream.at_least(count + 20)
        ids = [trade["trade_id"] for trade in stream.frames]
        assert ids == list(range(ids[0], ids[0] + len(ids)))


async def test_a_topic_is_not_doubted_while_nothing_is_traded(monkeypatch: pytest.MonkeyPatch) -> None:
    looking: list[Any] = []
    probe = probes.Probes._probe

    async def noted(self: Any, feed: Any, topic: Any) -> None:
        looking.append(topic)
        await probe(self, feed, topic)
        looking.remove(topic)

    monkeypatch.setattr(probes.Probes, "_probe", noted)
    async with impatient(monkeypatch) as w, w.stream("/ws/binance/BTCUSDT/trades") as stream:
        await stream.at_least(20)
        tape = w.sim.market.tapes["BTC"]
        # The exchange goes on, and has no trade of this symbol: not in the streams, and not when it is asked. Who looks
        # just then would see the last of them.
        await eventually(lambda: not looking)
        monkeypatch.setattr(type(tape), "advance", lambda self, now: self._roll(now))
        asked = w.sim.count("/fapi/v1/klines")
        await eventually(lambda: w.sim.count("/fapi/v1/klines") >= asked + 4)
        assert (w.sim.connections_total, w.logged("topic.silent")) == (1, [])
        assert (await w.feed())["reason"] is None


async def test_an_old_connection_is_handed_over_without_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        impatient(monkeypatch, lifetime=1.0, silence=15.0) as w,
        w.stream("/ws/binance/BTCUSDT/trades?status=1") as trades,
        w.stream("/ws/binance/BTCUSDT/liquidations?status=1") as liquidations,
        w.stream("/ws/binance/BTCUSDT/ohlc?status=1") as bars,
    ):
        for _ in range(6):
            w.sim.market.liquidate("BTC", side="buy", price="84001.10", quantity="0.250")
            await trio.sleep(0.5)
        await eventually(lambda: len(w.logged("line.replaced")) >= 3)
        await eventually(lambda: len(liquidations.of("liquidation")) >= 6)
        ids = [trade["trade_id"] for trade in trades.of("trade")]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        for stream in (trades, liquidations, bars):
            assert (stream.of("gap"), stream.of("status")) == ([], [])
        told = [(event["timestamp"], event["price"], event["quantity"]) for event in liquidations.of("liquidation")]
        assert len(told) == len(set(told))
        closed = [bar["timestamp"] for bar in bars.of("ohlc") if bar["is_closed"]]
        assert closed == sorted(set(closed))
        assert await state(w) == "live"
        await eventually(lambda: len(w.sim.connections) == 1)


async def test_a_server_that_shuts_down_is_left_without_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "YOUNGEST", 0.0)
    async with impatient(monkeypatch, silence=15.0) as w, w.stream("/ws/binance/BTCUSDT/trades?status=1") as trades:
        await trades.at_least(20)
        w.sim.push('{"e":"serverShutdown","E":1770123456789}')
        await eventually(lambda: len(w.logged("line.replaced")) == 1)
        await eventually(lambda: len(w.sim.connections) == 1)
        await trades.at_least(len(trades.frames) + 20)
        ids = [trade["trade_id"] for trade in trades.of("trade")]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        assert (trades.of("gap"), trades.of("status")) == ([], [])
        assert w.logged("line.unknown_frame") == []


@pytest.mark.parametrize("name", EXCHANGES)
async def test_many_feeds_restarted_at_once_stay_within_the_exchanges_weight(name: str) -> None:
    """Twenty symbols and three intervals; the exchange itself counts, and would refuse."""
    exchange: Exchange = replace(quick(EXCHANGES[name]), history=EXCHANGES[name].history)
    assets = synthetic(20)
    async with trio.open_nursery() as nursery:
        market = Market(assets=assets, clock=Clock(START, rate=0))
        sim = await nursery.start(partial(simulator_of(name).serve, market))
        symbols = await listed(exchange, sim.rest_url)
        running = Connector(
            exchange,
            symbols=symbols[:20],
            on_demand=True,
            rest_url=sim.rest_url,
            ws_url=sim.ws_url,
            intervals=("1m", "5m", "15m"),
            large_trade_threshold_usd=100_000,
            supervise=with_policy(SUPERVISION),
        )
        nursery.start_soon(running.run)

        async def tick() -> None:
            while True:
                market.clock.advance(500)
                sim.tick()
                await trio.sleep(0.05)

        nursery.start_soon(tick)
        await eventually(lambda: running.feeds and all(f.health.state == "live" for f in running.feeds.values()), 30)
        for feed in running.feeds.values():
            feed._overflowed = True  # as when its inbox was full: the run ends with the next update
        await eventually(lambda: all(feed.health.restarts for feed in running.feeds.values()), 15)
        market.clock.advance(2 * MINUTE)  # bars closed while they were away
        await trio.sleep(2.0)
        refused = [served for served in sim.requests if served.status in (403, 418, 429)]
        assert refused == []
        spent = sum(served.weight for served in sim.requests)
        buckets = running.budget.buckets.values()
        assert all(bucket.used() <= bucket.window.limit for bucket in buckets)
        if len(buckets) == 1:
            assert spent <= running.budget.buckets["weight"].window.limit
        nursery.cancel_scope.cancel()
