"""The end of a minute, when every bot asks at once: no bar is left out, and none is given as closed that is not."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from tests.daemon.fixtures import START, eventually
from tests.web.facade.fixtures import SYMBOLS, Venue, venue
from tests.web.facade.test_rest import MINUTE, klines

PATHS = {
    **{"binance": "/fapi/v1/klines", "bybit": "/v5/market/kline", "hyperliquid": "/info"},
    "okx": "/api/v5/market/candles",
}
END = START - START % MINUTE + MINUTE
BEGINS = (1800, 6000, 20_000)  # ms before the minute's end that a daemon is begun, until it is up in time
AROUND = (1000, 2000)  # ms before and after it that clients ask; the closing frame comes within one second


def bars_of(name: str, body: bytes) -> dict[int, Any]:
    """Rows by their opening, in whatever order they come."""
    told = msgspec.json.decode(body)
    if name in ("bybit", "okx"):
        return {int(row[0]): row for row in (told["result"]["list"] if name == "bybit" else told["data"])}
    return {row["t"] if name == "hyperliquid" else row[0]: row for row in told}


@asynccontextmanager
async def shortly_before_the_end(name: str) -> AsyncIterator[Venue]:
    """A daemon that follows the symbol, a second before the minute's end."""
    for begins in BEGINS:
        async with venue(name, rate=1.0, start=END - begins, symbols=SYMBOLS[name]) as world:
            await eventually(lambda: any(c.streams for c in world.sim.connections), what="the feed")
            if world.sim.market.now <= END - AROUND[0]:
                await eventually(lambda: world.sim.market.now >= END - AROUND[0])
                yield world
                return
    raise AssertionError("the daemon does not begin in time")


@pytest.mark.parametrize("name", ["binance", "bybit", "hyperliquid", "okx"])
async def test_ten_clients_at_a_minutes_end_cost_three_calls_and_see_no_stale_bar(name: str) -> None:
    request = klines(name, start=END - 5 * MINUTE) if name == "hyperliquid" else klines(name, limit=5)
    async with shortly_before_the_end(name) as world:
        path = PATHS[name]
        await world.ours(**request)  # the past is known
        answers: list[tuple[int, int, dict[int, Any]]] = []
        market = world.sim.market
        mark = len(world.sim.requests)

        async def poll() -> None:
            while market.now < END + AROUND[1]:
                asked_at = market.now
                bars = bars_of(name, (await world.ours(**request)).content)
                answers.append((asked_at, market.now, bars))
                await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(poll)
        calls = [
            served
            for served in list(world.sim.requests)[mark:]
            if served.path == path and (name != "hyperliquid" or b"candleSnapshot" in served.body)
        ]
        whole = request if name == "hyperliquid" else klines(name, limit=10)
        final = bars_of(name, (await world.both(**whole))[1].content)
        for asked_at, _, bars in answers:
            for opening, bar in bars.items():
                assert opening + MINUTE > asked_at - 50 or bar == final[opening], (asked_at - END, bar, final[opening])
            assert END - MINUTE in bars
        # The new bar is there, and from then on it stays. (On Hyperliquid a minute has a bar from its first trade on.)
        told_at = min((answered_at for _, answered_at, bars in answers if END in bars), default=END + 3000)
        assert told_at < END + 3000 or name == "hyperliquid"
        assert all(END in bars for asked_at, _, bars in answers if asked_at > told_at)
        assert len(calls) <= 3, [served.time - END for served in calls]
