"""Hyperliquid end to end: the real connector against the simulator on loopback, with real time and real sockets."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import pytest
import trio

from actors.connector import Connector
from actors.errors import UnknownSymbol, Unsupported, UpstreamLimited
from actors.events import FundingRate, Gap, Liquidation, Ohlc, OpenInterest, Status, Topic, Trade, ms
from actors.exchanges.exchange import Exchange
from actors.exchanges.hyperliquid import EXCHANGE
from actors.exchanges.hyperliquid.simulator import Options, serve
from actors.feeds import unanswered
from actors.simulation.assets import ASSETS, synthetic
from actors.simulation.market import Clock, Market
from actors.simulation.server import Simulator
from daemon.collecting import as_configured
from daemon.policy import with_policy
from daemon.settings import ExchangeSettings, Supervision
from tests.patience import WITHIN, virtual_time

pytestmark = virtual_time

SMALL = [asset for asset in ASSETS if asset.name in ("BTC", "ETH", "SOL", "BLZ", "OCEAN", "LINK")]
QUICK = Supervision(reconnect_delay=0.05, max_reconnect_delay=0.1)
START = 1_795_000_037_000

T = TypeVar("T")


def hurried(**limits: Any) -> Exchange:
    """The exchange as it is, but for the patience that its limits ask for."""
    return replace(
        EXCHANGE, limits=replace(EXCHANGE.limits, **{"frames_per_second": 500.0, "connect_spacing": 0.0, **limits})
    )


async def eventually(condition: Callable[[], T], within: float = WITHIN) -> T:
    deadline = trio.current_time() + within
    while not (result := condition()):
        assert trio.current_time() < deadline, "did not happen in time"
        await trio.sleep(0.01)
    return result


async def start(
    nursery: trio.Nursery,
    *symbols: str,
    market: Market | None = None,
    options: Options | None = None,
    exchange: Exchange | None = None,
    intervals: tuple[str, ...] = ("1m", "5m"),
) -> tuple[Simulator, Connector]:
    market = market or Market(seed=7, assets=SMALL)
    sim: Simulator = await nursery.start(partial(serve, market, options=options))
    connector = Connector(
        exchange or hurried(),
        symbols=symbols,
        on_demand=True,
        rest_url=sim.rest_url,
        ws_url=sim.ws_url,
        intervals=intervals,
        large_trade_threshold_usd=100_000,
        supervise=with_policy(QUICK),
        linger=0.1,
    )
    nursery.start_soon(connector.run)
    return sim, connector


def states(connector: Connector) -> dict[str, str]:
    return {symbol: feed.health.state for symbol, feed in connector.feeds.items()}


def all_live(connector: Connector) -> bool:
    return set(states(connector).values()) == {"live"}


def frames(sim: Simulator, stream: str) -> list[Any]:
    return [json.loads(sent.frame)["data"] for sent in sim.sent if sent.stream == stream]


async def test_what_the_exchange_sends_is_what_readers_get(nursery: trio.Nursery) -> None:
    market = Market(seed=7, assets=SMALL, clock=Clock(START, rate=0))
    sim, connector = await start(nursery, "BTC", "hyna:ETH", market=market)
    await eventually(lambda: all_live(connector) and len(sim.connections) == 1)
    await eventually(lambda: len(sim.connections[0].streams) == 8)
    feed = connector.feeds["BTC"]
    trades = feed.subscribe(feed.topic("trades"), 10_000)
    bars = feed.subscribe(feed.topic("ohlc", "1m"), 10_000)
    rates = feed.subscribe(feed.topic("funding"), 1000)
    interests = feed.subscribe(feed.topic("oi"), 1000)
    skipped = {row["tid"] for row in frames(sim, "trades:BTC")[0]}
    for _ in range(70):
        market.clock.advance(1000)
        sim.tick()
    sent = [row for rows in frames(sim, "trades:BTC") for row in rows if row["tid"] not in skipped]
    got: list[Any] = []
    with trio.fail_after(WITHIN):
        while len(got) < len(sent):
            got.append(await trades.receive())
    assert all(isinstance(trade, Trade) for trade in got)
    assert [(t.trade_id, t.price, t.quantity, ms(t.timestamp)) for t in got] == [
        (row["tid"], float(row["px"]), float(row["sz"]), row["time"]) for row in sent
    ]
    assert {row["side"] for row in sent} == {"A", "B"}
    assert len(sent) == len({row["tid"] for row in sent})

    told: list[Any] = []
    with suppress(trio.WouldBlock):
        while True:
            told.append(bars.receive_nowait())
    assert all(isinstance(bar, Ohlc) for bar in told), "no gap"
    [closed] = [bar for bar in told if bar.is_closed]
    [row] = [row for row in frames(sim, "candle:BTC:1m") if row["t"] == ms(closed.timestamp)][-1:]
    assert [closed.open, closed.high, closed.low, closed.close, closed.volume, closed.trades_count] == [
        *(float(row[key]) for key in "ohlcv"),
        row["n"],
    ]
    contexts = [row["ctx"] for row in frames(sim, "activeAssetCtx:BTC")]
    funding, interest = feed.funding(), feed.open_interest()
    assert isinstance(funding, FundingRate)
    assert isinstance(interest, OpenInterest)
    assert (funding.funding_rate, funding.mark_price) == (float(contexts[-1]["funding"]), float(contexts[-1]["markPx"]))
    assert interest.open_interest == float(contexts[-1]["openInterest"])
    assert interest.open_interest_value is None
    changes = [rates.receive_nowait() for _ in range(len({context["funding"] for context in contexts}))]
    assert [rate.funding_rate for rate in changes if isinstance(rate, FundingRate)][-1] == funding.funding_rate
    assert isinstance(interests.receive_nowait(), OpenInterest)
    assert feed.trades.duplicates == 0
    assert feed.large_trades
    assert connector.feeds["hyna:ETH"].funding() is not None


async def test_answers(nursery: trio.Nursery) -> None:
    sim, connector = await start(nursery, "BTC", market=Market(seed=7, assets=SMALL, clock=Clock(START, rate=0)))
    await eventually(lambda: all_live(connector))
    feed = connector.feeds["BTC"]
    await eventually(lambda: feed.ohlc("1m", limit=500, start=None, end=None))
    asked = len(sim.requests)
    rows = await connector.ohlc("btcusdt", "1m", limit=500, start=None, end=None)
    assert len(sim.requests) == asked, "from memory"
    assert [row.is_closed for row in rows] == [True] * 499 + [False]
    assert rows[:-1] == (await connector.ohlc("BTC", "1m", limit=1500, start=None, end=None))[-500:-1]
    assert (await connector.open_interest("hyna:BTC")).symbol == "hyna:BTC"
    assert (await connector.funding("BTCUSDC")).funding_interval_hours == 1
    assert len(await connector.funding_history("BTC", limit=30, start=None, end=None)) == 30
    assert (await connector.predicted_funding())[0].coin == "BTC"
    with pytest.raises(Unsupported):
        await connector.open_interest_history("BTC", "5m", limit=1, start=None, end=None)
    with pytest.raises(UnknownSymbol), connector.reading(Topic("hyperliquid", "OCEAN", "trades")):
        pass
    assert not any(b"OCEAN" in str(message).encode() for c in sim.connections for message in c.received)


async def test_a_builders_coin_on_demand(nursery: trio.Nursery) -> None:
    _, connector = await start(nursery, "BTC")
    await eventually(lambda: all_live(connector))
    with connector.reading(Topic("hyperliquid", "xyz:aapl", "ohlc", "1h")) as feed:
        assert feed.symbol == "xyz:AAPL"
        await eventually(lambda: feed.health.state == "live")
        assert "1h" in feed.intervals


async def test_a_lost_connection_is_replaced_and_nothing_is_told_twice(nursery: trio.Nursery) -> None:
    sim, connector = await start(nursery, "BTC", "ETH")
    await eventually(lambda: all_live(connector))
    feed = connector.feeds["BTC"]
    trades = feed.subscribe(feed.topic("trades"), 10_000)
    await trio.sleep(0.5)
    sim.drop()
    await eventually(lambda: sim.connections_total == 2 and all_live(connector))
    await trio.sleep(0.5)
    got: list[Any] = []
    with suppress(trio.WouldBlock):
        while True:
            got.append(trades.receive_nowait())
    ids = [said.trade_id for said in got if isinstance(said, Trade)]
    assert len(ids) == len(set(ids))
    assert {feed.health.restarts for feed in connector.feeds.values()} == {1}


@pytest.mark.parametrize("gone", [("ETH",), ("BTC", "hyna:ETH")])
async def test_a_coin_that_vanished_fails_alone(nursery: trio.Nursery, gone: tuple[str, ...]) -> None:
    """The socket dies of it without a word; the line finds out which it was."""
    options = Options(vanished=set(gone))
    symbols = ("BTC", "ETH", "SOL", "hyna:ETH")
    sim, connector = await start(nursery, *symbols, options=options)
    expected = {symbol: "failed" if symbol in gone else "live" for symbol in symbols}
    streams = 4 * (len(symbols) - len(gone))

    def settled() -> bool:
        return states(connector) == expected and [len(c.streams) for c in sim.connections] == [streams]

    await eventually(settled)
    await trio.sleep(0.3)  # a connection that was just cut may still look as if it were the last
    await eventually(settled)
    for symbol in gone:
        assert f"asked for {symbol}" in (connector.feeds[symbol].health.reason or "")
    attempts = sim.attempts
    assert attempts <= 1 + 3 * len(gone), "each is met once and tried twice"
    await trio.sleep(0.6)
    assert (sim.attempts, states(connector)) == (attempts, expected), "and it stays so"


async def test_the_only_coin_vanished(nursery: trio.Nursery) -> None:
    sim, connector = await start(nursery, "BTC", options=Options(vanished={"BTC"}))
    await eventually(lambda: states(connector) == {"BTC": "failed"})
    assert sim.attempts <= 4


async def test_a_coin_that_vanishes_while_others_are_live(nursery: trio.Nursery) -> None:
    options = Options()
    sim, connector = await start(nursery, "BTC", "ETH", options=options)
    await eventually(lambda: all_live(connector))
    options.vanished.add("SOL")
    with connector.reading(Topic("hyperliquid", "SOL", "trades")):
        await eventually(
            lambda: states(connector) == {"BTC": "live", "ETH": "live", "SOL": "failed"} and len(sim.connections) == 1,
            within=15,
        )


async def test_connections_that_are_cut_for_other_reasons_accuse_nobody(nursery: trio.Nursery) -> None:
    sim, connector = await start(nursery, "BTC", exchange=hurried(frames_per_second=20.0))
    for _ in range(6):  # each before everything is confirmed
        await eventually(lambda: sim.connections and sim.connections[0].streams)
        sim.drop()
        await eventually(lambda: not sim.connections)
    await eventually(lambda: all_live(connector))


async def test_more_than_the_exchange_allows(nursery: trio.Nursery) -> None:
    """Longer bars are made of minutes, which leaves three subscriptions of each feed; then the last ones fail."""
    market = Market(seed=1, assets=synthetic(5))
    exchange = hurried(subscriptions=6, topics=8)
    symbols = [f"S00{i}" for i in range(4)]
    sim, connector = await start(nursery, *symbols, market=market, exchange=exchange)
    expected = dict(zip(symbols, ["live", "live", "failed", "failed"], strict=True))
    await eventually(lambda: states(connector) == expected)
    assert "6 subscriptions" in (connector.feeds["S003"].health.reason or "")
    await eventually(lambda: sum(len(connection.streams) for connection in sim.connections) == 6)
    with pytest.raises(UpstreamLimited, match="6 subs"), connector.reading(Topic("hyperliquid", "S004", "trades")):
        pass
    assert "S004" not in connector.feeds
    with connector.reading(Topic("hyperliquid", "S000", "ohlc", "1h")) as feed:
        assert "1h" in feed.intervals, "nothing more to subscribe to"
    assert sum(len(connection.streams) for connection in sim.connections) == 6


async def test_an_interval_more_than_the_exchange_allows(nursery: trio.Nursery) -> None:
    _, connector = await start(nursery, "BTC", exchange=hurried(subscriptions=4))
    await eventually(lambda: all_live(connector))
    wanted = Topic("hyperliquid", "BTC", "ohlc", "1h")
    with pytest.raises(UpstreamLimited, match="4 subscriptions"), connector.reading(wanted):
        pass
    assert "1h" not in connector.feeds["BTC"].intervals


async def test_a_silent_subscription_is_asked_for_again(nursery: trio.Nursery) -> None:
    """Funding and open interest share one: it must end with both before it can begin again."""
    sim, connector = await start(nursery, "BTC", exchange=hurried(silence=1.5))
    await eventually(lambda: all_live(connector))
    sim.faults.mute.add("activeAssetCtx:BTC")
    [connection] = sim.connections

    def orders() -> list[str]:
        decoded = [json.loads(message) for message in connection.received]
        return [o["method"] for o in decoded if o.get("subscription", {}).get("type") == "activeAssetCtx"]

    await eventually(lambda: orders()[:3] == ["subscribe", "unsubscribe", "subscribe"])
    assert states(connector) == {"BTC": "stale"}
    sim.faults.mute.clear()
    await eventually(lambda: all_live(connector))
    assert sim.connections_total == 1


# -- liquidations -----------------------------------------------------------------------------


async def test_a_bar_whose_updates_end_before_it_does_is_fetched(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unanswered, "SAME", timedelta(0))
    monkeypatch.setattr(unanswered, "WITHIN", timedelta(0))
    market = Market(seed=7, assets=SMALL, clock=Clock(START, rate=0))
    sim, connector = await start(nursery, "BTC", market=market, intervals=("1m",))
    await eventually(lambda: all_live(connector) and len(sim.connections) == 1)
    await eventually(lambda: len(sim.connections[0].streams) == 3)
    feed = connector.feeds["BTC"]
    bars = feed.subscribe(feed.topic("ohlc", "1m"), 10_000)
    for second in range(70):
        if second == 35:  # 8 s before the end of the bar
            sim.faults.mute.add("candle:BTC:1m")
        if second == 50:
            sim.faults.mute.clear()
        market.clock.advance(1000)
        sim.tick()
        await trio.sleep(0.002)
    [whole] = market.tapes["BTC"].bars("1m", market.now, start=market.genesis, limit=10)[:-1]
    with trio.fail_after(8):
        while not (isinstance(said := await bars.receive(), Ohlc) and said.is_closed):
            pass
    assert (ms(said.timestamp), said.trades_count) == (whole.open_time, whole.trades)


async def test_what_the_vault_took_over_is_told_and_what_a_cut_took_is_said(nursery: trio.Nursery) -> None:
    market = Market(seed=7, assets=SMALL, clock=Clock(START, rate=0))
    sim, connector = await start(nursery, "BTC", market=market)
    await eventually(lambda: all_live(connector) and len(sim.connections[0].streams) == 4)
    feed = connector.feeds["BTC"]
    # A trade that comes before the last push of a minute would close it by the clock: bars are asked for first.
    assert [topic.kind for topic in feed.upstream_topics()] == [
        "ohlc",
        "ohlc",
        "liquidations",
        "funding",
        "oi",
        "trades",
    ]
    told = feed.subscribe(feed.topic("liquidations"), 1000)
    market.liquidate("BTC", side="sell", price="83000.00", quantity="2.500")
    sim.tick()
    with trio.fail_after(WITHIN):
        said = await told.receive()
    assert isinstance(said, Liquidation)
    assert (said.side, said.price, said.quantity, said.value) == ("sell", 83000.0, 2.5, 207500.0)
    assert (said.method, said.partial) == ("backstop", True)
    assert connector.exchange.capabilities["liquidations"] == "partial"
    assert list(await connector.liquidations("BTC").events(limit=9, start=None, end=None, least=0)) == [said]

    sim.drop()
    await eventually(lambda: sim.connections_total == 2 and len(sim.connections[0].streams) == 4)
    market.clock.advance(2000)
    sim.tick()
    with trio.fail_after(WITHIN):
        while isinstance(lost := await told.receive(), Status):
            pass
    assert isinstance(lost, Gap)
    assert (lost.repaired, "liquidations may be missing" in lost.reason) == (False, True)
    with suppress(trio.WouldBlock):
        while True:
            assert told.receive_nowait() != said, "the new subscription's backlog has it once more"
    assert feed.duplicates()["liquidations"] == 1


async def test_a_silent_subscription_ends_though_another_topic_shares_it(nursery: trio.Nursery) -> None:
    """Liquidations ride on the trades: that they are wanted still must not keep the silent subscription alive."""
    sim, connector = await start(nursery, "BTC")
    await eventually(lambda: all_live(connector))
    lines, [connection] = connector._lines, sim.connections
    assert lines is not None
    lines.doubt(Topic("hyperliquid", "BTC", "trades"), "nothing for long")

    def orders() -> list[str]:
        decoded = [json.loads(message) for message in connection.received]
        return [o["method"] for o in decoded if o.get("subscription", {}).get("type") == "trades"]

    await eventually(lambda: orders() == ["subscribe", "unsubscribe", "subscribe"])
    await eventually(lambda: all_live(connector))


async def test_liquidations_can_be_switched_off(nursery: trio.Nursery) -> None:
    settings = ExchangeSettings(symbols=(), rest_url="http://h", ws_url="ws://h", liquidations=False)
    exchange = as_configured(hurried(), settings, 500)
    assert exchange.capabilities == {**EXCHANGE.capabilities, "liquidations": False}
    market = Market(seed=7, assets=SMALL, clock=Clock(START, rate=0))
    sim, connector = await start(nursery, "BTC", market=market, exchange=exchange)
    await eventually(lambda: all_live(connector) and len(sim.connections[0].streams) == 4)
    feed = connector.feeds["BTC"]
    forced, trades = (feed.subscribe(feed.topic(kind), 1000) for kind in ("liquidations", "trades"))
    market.liquidate("BTC", side="sell", price="83000.00", quantity="2.500")
    sim.tick()
    with trio.fail_after(WITHIN):
        assert (await trades.receive()).quantity == 2.5  # type: ignore[union-attr]
    with pytest.raises(trio.WouldBlock):
        forced.receive_nowait()
    with pytest.raises(Unsupported):
        connector.liquidations("BTC")
