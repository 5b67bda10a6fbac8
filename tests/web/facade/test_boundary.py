"""The end of a minute, when every bot asks at once: no bar is left out, and none is given as closed that is not."""

from typing import Any

import msgspec
import pytest
import trio

from tests.daemon.fixtures import START, eventually
from tests.web.facade.fixtures import venue
from tests.web.facade.test_rest import MINUTE, klines

SYMBOLS = {"binance": ("BTCUSDT",), "bybit": ("BTCUSDT",), "hyperliquid": ("BTC",)}
END = START - START % MINUTE + MINUTE


def bars_of(name: str, body: bytes) -> dict[int, Any]:
    """Rows by their opening, in whatever order they come."""
    told = msgspec.json.decode(body)
    if name == "bybit":
        return {int(row[0]): row for row in told["result"]["list"]}
    return {row["t"] if name == "hyperliquid" else row[0]: row for row in told}


@pytest.mark.parametrize("name", ["binance", "bybit", "hyperliquid"])
async def test_ten_clients_at_a_minutes_end_cost_three_calls_and_see_no_stale_bar(name: str) -> None:
    request = klines(name, start=END - 5 * MINUTE) if name == "hyperliquid" else klines(name, limit=5)
    async with venue(name, rate=1.0, start=END - 6000, symbols=SYMBOLS[name]) as world:
        path = {"binance": "/fapi/v1/klines", "bybit": "/v5/market/kline", "hyperliquid": "/info"}[name]
        await eventually(lambda: any(c.streams for c in world.sim.connections), what="the feed")
        await world.ours(**request)  # the past is known
        answers: list[tuple[int, dict[int, Any]]] = []
        market = world.sim.market
        await eventually(lambda: market.now >= END - 1000, 15)
        mark = len(world.sim.requests)

        async def poll() -> None:
            while market.now < END + 3000:
                asked_at = market.now
                answers.append((asked_at, bars_of(name, (await world.ours(**request)).content)))
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
        for asked_at, bars in answers:
            for opening, bar in bars.items():
                assert opening + MINUTE > asked_at - 50 or bar == final[opening], (asked_at - END, bar, final[opening])
            if asked_at > END + 50 and name != "hyperliquid":  # there, a minute has a bar from its first trade on
                assert END in bars, asked_at - END
            assert END - MINUTE in bars
        assert len(calls) <= 3, [served.time - END for served in calls]
