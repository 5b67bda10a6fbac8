"""A daemon that serves clients and holds no line, beside those that collect, over a real server."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import httpx
import msgspec
import pytest
import trio
import trio_websocket

from actors.engine.remote import open_engine
from actors.engine.words import Kept
from actors.feeds import interest
from actors.relay.takeover import lane_of
from actors.simulation.server import Simulator
from tests.actors.engine.servers import Server, running
from tests.daemon import test_several
from tests.daemon.fixtures import Json, Served, Stream, eventually
from tests.daemon.test_several import exchange, healthy, subscribe, trades
from tests.patience import WITHIN


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("valkey", "--appendonly", "yes") as server:
        yield server


node = partial(test_several.node, lease_seconds=4.0)  # nobody is to be lost for want of a processor


async def serves(edge: Served) -> Json:
    """Its health, once it is told of a feed."""
    return await edge.health(lambda health: health["status"] == "healthy" and health["exchanges"]["binance"], 30)


def texts(stream: Stream) -> dict[tuple[str, str, int], str | bytes]:
    """What was told under a number, as it came."""
    told = zip(stream.frames, stream.texts, strict=False)
    return {(frame["topic"], frame["epoch"], frame["seq"]): text for frame, text in told if frame["type"] == "trade"}


@dataclass
class Trap:
    """In an exchange's place: whoever connects is counted, and sent away."""

    port: int
    callers: int = 0

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"


@asynccontextmanager
async def trap() -> AsyncIterator[Trap]:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        trap = Trap(listener.socket.getsockname()[1])

        async def meet(stream: trio.SocketStream) -> None:
            trap.callers += 1
            await stream.aclose()

        nursery.start_soon(trio.serve_listeners, meet, [listener])
        yield trap
        nursery.cancel_scope.cancel()


async def test_edges_tell_the_same_and_the_present_is_answered_from_memory(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interest, "POLL_MIN", 0.2)
    async with exchange() as sim, trap() as caught, node(sim, server.url, "in", "edges") as ingest:
        await healthy(ingest)
        async with (
            node(caught, server.url, "left", "edges", role="edge") as left,
            node(caught, server.url, "right", "edges", role="edge") as right,
        ):
            health = await serves(left)
            await serves(right)
            assert [(feed["symbol"], feed["state"]) for feed in health["feeds"]] == [("BTCUSDT", "live")]
            engine = health["engine"]
            assert (engine["state"], engine["role"], engine["name"]) == ("live", "edge", "left")
            await left.health(lambda health: {lane["leader"] for lane in health["engine"]["lanes"]} == {"in"}, 30)
            assert (await left.ask("/health/ready")).status_code == 200
            async with left.stream("/ws") as here, right.stream("/ws") as there:
                await subscribe(here)
                await subscribe(there)
                await eventually(lambda: len(trades(here)) > 4 and len(trades(there)) > 4)
            same = texts(here).keys() & texts(there).keys()
            assert len(same) > 4
            assert all(texts(here)[number] == texts(there)[number] for number in same)
            left_at = trades(here)[-1]  # a client of the one comes to the other
            since = {left_at["topic"]: {"epoch": left_at["epoch"], "seq": left_at["seq"]}}
            async with right.stream("/ws") as again:
                await again.say({"op": "subscribe", "topics": [left_at["topic"]], "since": since})
                await eventually(lambda: len(trades(again)) > 4)
                seqs = [trade["seq"] for trade in trades(again)]
                assert seqs == list(range(left_at["seq"] + 1, left_at["seq"] + 1 + len(seqs)))
            assert await left.get("/symbols") == await ingest.get("/symbols")
            async with left.stream("/ws/binance/BTCUSDT/oi") as client:
                await eventually(lambda: client.of("open_interest"), within=30)
                polls = sim.count("/fapi/v1/openInterest")  # of what nobody wants there is one a minute
                await eventually(lambda: sim.count("/fapi/v1/openInterest") > polls + 10, within=30)
            assert (await left.get("/binance/oi/BTCUSDT"))["open_interest"] > 0
            assert (await left.get("/binance/funding/BTCUSDT"))["funding_interval_hours"] == 8
            exchanges = (await left.get("/exchanges"))["exchanges"]
            assert [(one["name"], one["symbols"]) for one in exchanges] == [("binance", ["BTCUSDT"])]
        assert caught.callers == 0
        async with node(caught, server.url, "both", "others"):  # whoever collects would have been noticed
            await eventually(lambda: caught.callers > 0)


HELD = [
    "/binance/ohlc/BTCUSDT/1m?limit=100",
    "/binance/ohlc/btcusdt/5m?limit=3",
    "/binance/ohlc/BTCUSDT/1m?limit=3&format=csv",
    "/binance/funding/BTCUSDT",
    "/binance/ohlc/NONE/1m",
    "/binance/ohlc/BTCUSDT/7m",
    "/binance/ohlc/BTCUSDT/1m?limit=0",
    "/symbols?q=BTC",
    "/nothing",
]
PASSED = [
    "/binance/ohlc/BTCUSDT/1m?limit=1000",
    "/binance/ohlc/BTCUSDT/3m?limit=5&end_time=2026-09-20T00:00:00Z",
    "/binance/ohlc/BTCUSDT/1m?format=csv&limit=3&end_time=2026-09-20T00:00:00Z",
    "/binance/oi/BTCUSDT",
    "/binance/oi/ETHUSDT",
    "/binance/oi-hist/BTCUSDT?limit=3",
    "/binance/funding-hist/BTCUSDT?limit=3",
    "/binance/liquidations/BTCUSDT",
    "/binance/liquidations/BTCUSDT/bars?interval=1h",
    "/binance/large_trades/BTCUSDT?limit=1",
    "/multi/ohlc/BTC/1m?limit=2&end_time=2026-09-20T00:00:00Z",
    "/udf/config",
    "/udf/search?query=BTC",
    "/udf/nothing",
    "/as/binance/fapi/v1/klines?symbol=BTCUSDT&interval=1m&limit=2&endTime=1789862400000",
    "/as/binance/fapi/v1/nothing",
    "/as/nobody/fapi/v1/klines",
    "/export/ohlc?exchange=binance&symbol=BTCUSDT&interval=1m",
    "/quality/binance/ETHUSDT",
    "/bybit/oi-hist/BTCUSDT",
    "/binance/oi-hist/BTCUSDT?limit=x",
    "/binance/oi-hist/NONE",
    "/hyperliquid/predicted-funding",
]
OF_THE_NODE = {"date", "server", "age", "x-mbx-used-weight-1m", "x-marketd"}


@asynccontextmanager
async def time_passes(sim: Simulator) -> AsyncIterator[None]:
    """The market lives for as long as the block lasts, and stands still after it: answers are to be compared."""

    async def live() -> None:
        while True:
            sim.market.clock.advance(100)
            sim.tick()
            await trio.sleep(0.05)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(live)
        yield
        nursery.cancel_scope.cancel()


async def test_what_an_edge_holds_is_answered_as_by_the_node_that_collects_which_is_asked_nothing(
    server: Server,
) -> None:
    async with (
        exchange(0.0) as sim,
        trap() as caught,
        node(sim, server.url, "in", "held") as ingest,
        node(caught, server.url, "edge", "held", role="edge") as edge,
        open_engine(server.url, "held", Kept(), patience=30.0) as engine,
    ):
        async with time_passes(sim):
            await healthy(ingest)
            await serves(edge)
            topics = ["binance:BTCUSDT:ohlc:1m", "binance:BTCUSDT:ohlc:5m"]
            lane = f"binance.{lane_of('BTCUSDT', 2)}"
            with trio.fail_after(WITHIN):
                while set(await engine.bars_since(lane, topics)) != set(topics):  # noqa: ASYNC110 (no event)
                    await trio.sleep(0.05)
        with trio.fail_after(60):
            while True:  # on a busy machine a feed may seem silent for a moment, and somebody else is asked
                before = await questions(edge, "text/plain")
                for path in HELD:
                    direct, held = await ingest.client.get(path), await edge.client.get(path)
                    assert (held.status_code, held.text) == (direct.status_code, direct.text), path
                    assert told(held) == told(direct), path
                async with edge.stream("/ws") as stream:
                    await stream.say({"op": "subscribe", "topics": ["binance:BTCUSDT:ohlc:1m"], "backfill": 50})
                    await eventually(lambda: stream.of("live"))
                    await eventually(lambda: len(stream.of("ohlc")) == 51)
                bars = [
                    {key: bar[key] for key in bar.keys() - {"type", "topic", "epoch", "seq"}}
                    for bar in stream.of("ohlc")
                ]
                assert bars == await ingest.get("/binance/ohlc/BTCUSDT/1m", limit=51)
                if await questions(edge, "application/openmetrics-text") == before:
                    break
                await trio.sleep(1.0)


async def questions(edge: Served, accept: str) -> float:
    """So many were asked of nodes that collect. A page of metrics is kept for a second, for each format."""
    lines = (await edge.client.get("/metrics", headers={"Accept": accept})).text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("marketd_ingest_answered_total{"))


async def test_what_an_edge_does_not_hold_is_answered_as_by_the_node_that_collects(server: Server) -> None:
    async with (
        exchange(0.0) as sim,
        trap() as caught,
        node(sim, server.url, "in", "passed") as ingest,
        node(caught, server.url, "edge", "passed", role="edge") as edge,
    ):
        async with time_passes(sim):
            await healthy(ingest)
            await serves(edge)
        for path in PASSED:
            for method in ("GET", "HEAD"):
                asked = {"Accept-Encoding": "gzip", "Origin": "https://page.example"}
                direct = await ingest.client.request(method, path, headers=asked)
                through = await edge.client.request(method, path, headers=asked)
                assert (through.status_code, through.text) == (direct.status_code, direct.text), path
                assert told(through) == told(direct), path
        assert "marketd_ingest_answered_total{" in (await edge.client.get("/metrics")).text
        with pytest.raises(trio_websocket.ConnectionRejected) as caught_at:
            async with trio_websocket.open_websocket_url(f"{edge.url.replace('http', 'ws')}/as/binance/ws"):
                pass
        told_there = msgspec.json.decode(caught_at.value.body or b"")
        assert (caught_at.value.status_code, told_there["code"]) == (503, "not_ready")
        assert ingest.url in told_there["detail"]
        assert caught.callers == 0


def told(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name not in OF_THE_NODE}
