"""The simulated Hyperliquid on real loopback sockets: its answers and frames, and the rules that break clients.

The market's clock stands still unless a test advances it, so that every frame is known.
"""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from itertools import pairwise
from typing import Any

import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, open_websocket_url

from actors.exchanges.hyperliquid.simulator import Options, serve
from actors.exchanges.hyperliquid.simulator.rest import Limits
from actors.exchanges.hyperliquid.simulator.rows import listing
from actors.simulation.assets import ASSETS
from actors.simulation.history import HOUR, MINUTE
from actors.simulation.market import Clock, Market
from actors.simulation.server import Simulator
from tests.patience import WITHIN, virtual_time

pytestmark = virtual_time

START = 1_795_000_037_000
SMALL = [asset for asset in ASSETS if asset.name in ("BTC", "ETH", "BLZ", "OCEAN", "1000PEPE", "LINK")]

Json = Any


async def start(nursery: trio.Nursery, options: Options | None = None) -> Simulator:
    made = Market(seed=7, clock=Clock(START, rate=0), assets=SMALL)
    running: Simulator = await nursery.start(partial(serve, made, options=options))
    return running


@pytest.fixture
async def sim(nursery: trio.Nursery) -> Simulator:
    return await start(nursery)


def advance(sim: Simulator, milliseconds: int) -> None:
    sim.market.clock.advance(milliseconds)
    sim.tick()


async def post(sim: Simulator, question: Json) -> httpx.Response:
    with trio.fail_after(WITHIN):
        async with httpx.AsyncClient(base_url=sim.rest_url, timeout=WITHIN) as client:
            if isinstance(question, bytes):
                return await client.post("/info", content=question)
            return await client.post("/info", json=question)


async def info(sim: Simulator, kind: str, **rest: Json) -> Json:
    return (await post(sim, {"type": kind, **rest})).raise_for_status().json()


class Client:
    """A WebSocket client that knows when it has everything: a pong comes after all that was said before."""

    def __init__(self, ws: WebSocketConnection) -> None:
        self.ws = ws

    async def order(self, method: str, kind: str, coin: str, **rest: Json) -> None:
        await self.send({"method": method, "subscription": {"type": kind, "coin": coin, **rest}})

    async def subscribe(self, kind: str, coin: str, **rest: Json) -> None:
        await self.order("subscribe", kind, coin, **rest)

    async def send(self, message: Json) -> None:
        await self.ws.send_message(json.dumps(message))

    async def everything(self) -> list[Json]:
        await self.send({"method": "ping"})
        frames = []
        while (frame := json.loads(await self.ws.get_message()))["channel"] != "pong":
            frames.append(frame)
        return frames


@asynccontextmanager
async def connected(sim: Simulator) -> AsyncIterator[Client]:
    with trio.fail_after(WITHIN):
        async with open_websocket_url(sim.ws_url, disconnect_timeout=1) as ws:
            yield Client(ws)


def channels(frames: list[Json]) -> list[str]:
    return [frame["channel"] for frame in frames]


# -- REST -------------------------------------------------------------------------------------


async def test_the_catalogue(sim: Simulator) -> None:
    first, *builders = await info(sim, "allPerpMetas")
    assert [row["name"] for row in first["universe"]] == ["BTC", "ETH", "kPEPE", "LINK", "BLZ", "OCEAN"]
    assert [row["name"] for row in first["universe"] if row.get("isDelisted")] == ["OCEAN"]
    assert [[row["name"] for row in meta["universe"]] for meta in builders] == [["xyz:AAPL"], ["hyna:BTC", "hyna:ETH"]]
    assert await info(sim, "meta") == await info(sim, "meta", dex="") == first
    assert await info(sim, "meta", dex="xyz") == builders[0]
    dexes = await info(sim, "perpDexs")
    assert [dex and dex["name"] for dex in dexes] == [None, "xyz", "hyna"]
    meta, contexts = await info(sim, "metaAndAssetCtxs")
    assert meta == first
    assert [context["midPx"] is None for context in contexts] == [False] * 5 + [True], "an empty book has nulls"


async def test_refusals(sim: Simulator) -> None:
    async def ask(question: Json) -> tuple[int, str]:
        reply = await post(sim, question)
        return reply.status_code, reply.text

    untyped = (422, "Failed to deserialize the JSON body into the target type")
    snapshot = {"coin": "BTC", "interval": "1m", "startTime": 0}
    assert await ask({"type": "nonsense"}) == untyped
    assert await ask({}) == untyped
    assert await ask({"type": "candleSnapshot", **snapshot}) == untyped, "without `req`"
    for wrong in ({"startTime": -1}, {"startTime": "0"}, {"startTime": None}, {"interval": "6h"}, {"coin": 7}):
        assert await ask({"type": "candleSnapshot", "req": {**snapshot, **wrong}}) == untyped
    assert await ask({"type": "fundingHistory", "coin": "BTC"}) == untyped
    assert await ask(b"{") == (400, "Failed to parse the request body as JSON")
    assert await ask({"type": "fundingHistory", "coin": "btc", "startTime": 0}) == (500, "null")
    assert await ask({"type": "metaAndAssetCtxs", "dex": "XYZ"}) == (500, "null")
    with trio.fail_after(WITHIN):
        async with httpx.AsyncClient(base_url=sim.rest_url, timeout=WITHIN) as client:
            assert (await client.get("/info")).status_code == 405
            assert (await client.post("/other")).status_code == 404


async def test_candles(sim: Simulator) -> None:
    rows = await info(
        sim,
        "candleSnapshot",
        req={"coin": "BTC", "interval": "1m", "startTime": START - 5 * MINUTE, "endTime": START},
    )
    opening = START - START % MINUTE
    assert [row["t"] for row in rows] == [opening + i * MINUTE for i in range(-5, 1)], "both bounds, and the open one"
    assert rows[0]["T"] == rows[0]["t"] + MINUTE - 1
    many = await info(sim, "candleSnapshot", req={"coin": "BTC", "interval": "1m", "startTime": 0})
    assert len(many) == 5000
    assert many[-6:] == rows
    quiet = await info(sim, "candleSnapshot", req={"coin": "BLZ", "interval": "1m", "startTime": START - HOUR})
    assert 5 < len(quiet) < 60
    assert all(row["n"] for row in quiet)


async def test_prices_are_as_the_exchange_allows(sim: Simulator) -> None:
    """Five significant figures, six decimals less those of the size; integers always. The same world nevertheless."""
    advance(sim, 60_000)
    for coin in listing(sim.market).values():
        for trade in coin.tape.trades:
            price = coin.price(trade.price)
            assert re.fullmatch(r"\d+\.(0|\d*[1-9])", price)
            figures = price.replace(".", "").strip("0") if price.endswith(".0") else price.replace(".", "").lstrip("0")
            assert len(figures) <= 5 or price.endswith(".0")
            assert len(price.partition(".")[2]) <= max(1, 6 - coin.size_decimals)
            true = Decimal(trade.price * coin.tape.tick_units).scaleb(-coin.tape.price_decimals)
            assert abs(Decimal(price) / true - 1) < Decimal("0.0002")
            assert Decimal(coin.size(trade.quantity)) == Decimal(trade.quantity) * Decimal(coin.tape.asset.step)


async def test_funding_history_comes_in_pages(sim: Simulator) -> None:
    rows = await info(sim, "fundingHistory", coin="BTC", startTime=START - 1000 * HOUR)
    assert len(rows) == 500
    assert all(1 <= row["time"] % HOUR <= 118 for row in rows)
    assert [b["time"] // HOUR - a["time"] // HOUR for a, b in pairwise(rows)] == [1] * 499
    first = rows[0]["time"]
    assert (await info(sim, "fundingHistory", coin="BTC", startTime=first, endTime=first)) == rows[:1]
    assert (await info(sim, "fundingHistory", coin="BTC", startTime=first + 1))[0] == rows[1]


async def test_predictions_are_of_the_hour_that_is_over(sim: Simulator) -> None:
    found = dict(await info(sim, "predictedFundings"))
    assert "OCEAN" not in found
    venues = dict(found["BTC"])
    assert venues["HlPerp"]["nextFundingTime"] == START - START % HOUR
    assert venues["BinPerp"]["nextFundingTime"] > START
    assert dict(found["BLZ"])["BybitPerp"] is None


async def test_recent_trades(sim: Simulator) -> None:
    advance(sim, 10_000)
    rows = await info(sim, "recentTrades", coin="BTC", startTime=0)
    assert len(rows) == 10
    assert [row["time"] for row in rows] == sorted((row["time"] for row in rows), reverse=True)


async def test_the_weight_of_a_minute(nursery: trio.Nursery) -> None:
    sim = await start(nursery, Options(limits=Limits(weight=120)))
    await info(sim, "candleSnapshot", req={"coin": "BTC", "interval": "1m", "startTime": 0})
    await info(sim, "meta")
    reply = await post(sim, {"type": "meta"})
    assert reply.status_code == 429
    assert "retry-after" not in reply.headers
    assert [served.weight for served in sim.requests] == [103, 20, 0]
    advance(sim, MINUTE)
    await info(sim, "meta")


# -- the socket -------------------------------------------------------------------------------


async def test_an_acknowledgement_comes_first_and_then_the_past(sim: Simulator) -> None:
    advance(sim, 10_000)
    async with connected(sim) as client:
        await client.subscribe("trades", "BTC")
        ack, backlog = await client.everything()
        assert ack["channel"] == "subscriptionResponse"
        assert ack["data"]["method"] == "subscribe"
        assert {"type": "trades", "coin": "BTC"}.items() <= ack["data"]["subscription"].items()
        assert len(ack["data"]["subscription"]) > 2, "defaults are filled in"
        assert len(backlog["data"]) == 30
        advance(sim, 2000)
        [news] = await client.everything()
        tids = {row["tid"] for row in news["data"]}
        assert tids
        assert not tids & {row["tid"] for row in backlog["data"]}
        assert {row["tid"] for row in await info(sim, "recentTrades", coin="BTC")} <= tids | {
            row["tid"] for row in backlog["data"]
        }
        assert all(0 < tid < 2**50 for tid in tids)


async def test_the_candle_of_the_moment_comes_at_once_and_its_last_after_its_end(sim: Simulator) -> None:
    async with connected(sim) as client:
        await client.subscribe("candle", "BTC", interval="1m")
        _, first = await client.everything()
        assert first["data"]["t"] == START - START % MINUTE
        assert set(first["data"]) == {"t", "T", "s", "i", "o", "c", "h", "l", "v", "n"}, (
            "nothing says that it is closed"
        )
        advance(sim, first["data"]["T"] - 50 - START)
        await client.everything()
        sim.market.trade("BTC", side="buy", price="90000.00", quantity="1")
        advance(sim, 51)
        assert await client.everything() == [], "not so soon after the last push"
        for _ in range(10):
            advance(sim, 500)
        frames = await client.everything()
        assert [frame["data"]["t"] - first["data"]["t"] for frame in frames[:2]] == [0, MINUTE]
        opening = first["data"]["t"]
        request = {"coin": "BTC", "interval": "1m", "startTime": opening, "endTime": opening}
        assert await info(sim, "candleSnapshot", req=request) == [frames[0]["data"]]
        assert frames[0]["data"]["h"] == "90000.0"


async def test_a_minute_without_trades_says_nothing(sim: Simulator) -> None:
    async with connected(sim) as client:
        await client.subscribe("candle", "BLZ", interval="1m")
        await client.everything()
        seen = set()
        for _ in range(20 * 60):
            advance(sim, 1000)
        for frame in await client.everything():
            assert frame["data"]["n"]
            seen.add(frame["data"]["t"])
        tape = sim.market.tapes["BLZ"]
        traded = {trade.time - trade.time % MINUTE for trade in tape.trades if trade.time > START}
        assert traded <= seen | {tape.trades[-1].time // MINUTE * MINUTE}
        assert len(seen) < 20


async def test_contexts_come_every_second_changed_or_not(sim: Simulator) -> None:
    async with connected(sim) as client:
        await client.subscribe("activeAssetCtx", "hyna:BTC")
        assert channels(await client.everything()) == ["subscriptionResponse"]
        for _ in range(30):
            advance(sim, 100)
        frames = await client.everything()
        assert channels(frames) == ["activeAssetCtx"] * 3
        assert {frame["data"]["coin"] for frame in frames} == {"hyna:BTC"}
        assert {type(value) for frame in frames for value in frame["data"]["ctx"].values()} == {str, list}


async def test_errors_keep_the_socket(sim: Simulator) -> None:
    async with connected(sim) as client:
        await client.subscribe("trades", "ETH")
        await client.subscribe("trades", "ETH")
        await client.order("unsubscribe", "trades", "BTC")
        await client.send({"method": "subscribe", "subscription": {"type": "trades", "coin": ["BTC", "ETH"]}})
        await client.send({"method": "subscribe", "subscription": {"type": "galaxy", "coin": "BTC"}})
        await client.send({"method": "subscribe"})
        await client.ws.send_message("nonsense")
        await client.order("unsubscribe", "trades", "ETH")
        frames = await client.everything()
        texts = [frame["data"].partition(":")[0] for frame in frames if frame["channel"] == "error"]
        parsing = "Error parsing JSON into valid websocket request"
        assert texts == ["Already subscribed", "Already unsubscribed", *[parsing] * 4]
        assert frames[-1]["data"]["method"] == "unsubscribe"
        advance(sim, 5000)
        assert await client.everything() == []


@pytest.mark.parametrize("coin", ["NOPE", "btc", "XYZ:AAPL", "AAPL"])
async def test_an_unknown_coin_kills_the_socket_without_a_word(sim: Simulator, coin: str) -> None:
    async with connected(sim) as client, connected(sim) as other:
        await client.subscribe("trades", "BTC")
        await client.everything()
        began = trio.current_time()
        await client.subscribe("trades", coin)
        with pytest.raises(ConnectionClosed) as closed:
            await client.ws.get_message()
        assert closed.value.reason is not None
        assert closed.value.reason.code == 1006
        assert 0.09 < trio.current_time() - began < 1
        await other.subscribe("trades", "BTC")
        assert len(await other.everything()) == 2, "nobody else's"


async def test_a_delisted_coin_is_acknowledged_and_silent(sim: Simulator) -> None:
    async with connected(sim) as client:
        await client.subscribe("trades", "OCEAN")
        await client.subscribe("activeAssetCtx", "OCEAN")
        for _ in range(20):
            advance(sim, 1000)
        assert channels(await client.everything()) == ["subscriptionResponse"] * 2


async def test_silence_ends_the_connection_and_a_ping_prevents_it(nursery: trio.Nursery) -> None:
    sim = await start(nursery, Options(idle=0.5))
    async with connected(sim) as client:
        for _ in range(8):
            await trio.sleep(0.1)
            assert await client.everything() == []
        with pytest.raises(ConnectionClosed):
            await client.ws.get_message()


async def test_limits(nursery: trio.Nursery) -> None:
    sim = await start(nursery, Options(connections=2, subscriptions=3, messages_per_minute=12))
    async with connected(sim) as one, connected(sim) as two:
        with pytest.raises(ConnectionRejected):
            async with connected(sim):
                pass
        for interval in ("1m", "5m"):
            await one.subscribe("candle", "BTC", interval=interval)
            await two.subscribe("candle", "BTC", interval=interval)
        frames = [*await one.everything(), *await two.everything()]
        assert channels(frames).count("error") == 1, "of all connections together"
        for _ in range(6):
            await one.everything()
        with pytest.raises(ConnectionClosed):
            await two.everything()
