"""A daemon that serves clients and holds no line, beside those that collect, over a real server."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from tests.actors.engine.servers import Server, running
from tests.daemon.fixtures import eventually
from tests.daemon.test_several import exchange, healthy, node, numbered, subscribe, trades


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("valkey", "--appendonly", "yes") as server:
        yield server


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


async def test_edges_tell_the_same_and_the_present_is_answered_from_memory(server: Server) -> None:
    async with exchange() as sim, trap() as caught, node(sim, server.url, "in", "edges") as ingest:
        await healthy(ingest)
        async with (
            node(caught, server.url, "left", "edges", role="edge") as left,
            node(caught, server.url, "right", "edges", role="edge") as right,
        ):
            health = await healthy(left)
            await healthy(right)
            assert health["exchanges"] == {"binance": True}
            assert [(feed["symbol"], feed["state"]) for feed in health["feeds"]] == [("BTCUSDT", "live")]
            engine = health["engine"]
            assert (engine["state"], engine["role"], engine["name"]) == ("live", "edge", "left")
            assert {lane["leader"] for lane in engine["lanes"]} == {"in"}
            assert (await left.ask("/health/ready")).status_code == 200
            async with left.stream("/ws") as here, right.stream("/ws") as there:
                await subscribe(here)
                await subscribe(there)
                await eventually(lambda: len(trades(here)) > 4 and len(trades(there)) > 4, within=30)
            same = numbered(here).keys() & numbered(there).keys()
            assert len(same) > 4
            assert all(numbered(here)[number] == numbered(there)[number] for number in same if "trades" in number[0])
            assert await left.get("/symbols") == await ingest.get("/symbols")
            assert (await left.get("/binance/oi/BTCUSDT"))["open_interest"] > 0
            assert (await left.get("/binance/funding/BTCUSDT"))["funding_interval_hours"] == 8
            exchanges = (await left.get("/exchanges"))["exchanges"]
            assert [(one["name"], one["symbols"]) for one in exchanges] == [("binance", ["BTCUSDT"])]
        assert caught.callers == 0
        async with node(caught, server.url, "both", "others"):  # whoever collects would have been noticed
            await eventually(lambda: caught.callers > 0, within=30)
