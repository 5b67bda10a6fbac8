"""Streams that feeds follow: not subscribed to a second time, and whole after an outage."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from tests.daemon.fixtures import START, eventually
from tests.web.facade.fixtures import SYMBOLS, venue
from tests.web.facade.test_streams import NAMES, STREAM, TRADES, Socket, connected, trade_ids

MINUTE = 60_000
END = START - START % MINUTE + MINUTE
BARS: dict[str, Any] = {
    "binance": {"method": "SUBSCRIBE", "params": ["btcusdt@kline_1m"], "id": 2},
    "bybit": {"op": "subscribe", "args": ["kline.1.BTCUSDT"]},
    "hyperliquid": {"method": "subscribe", "subscription": {"type": "candle", "coin": "BTC", "interval": "1m"}},
}


async def until(socket: Socket, is_it: Callable[[Any], bool]) -> Any:
    while not is_it(told := await socket.hear()):
        pass
    return told


def bar_of(name: str, frame: Any) -> tuple[int, bool] | None:
    """When a frame's bar opens, and whether it is the last word on it."""
    match name:
        case "binance":
            return (frame["k"]["t"], frame["k"]["x"]) if frame.get("e") == "kline" else None
        case "bybit":
            is_bar = str(frame.get("topic")).startswith("kline.")
            return (frame["data"][0]["start"], frame["data"][0]["confirm"]) if is_bar else None
        case _:
            return (frame["data"]["t"], False) if frame["channel"] == "candle" else None


@pytest.mark.parametrize("name", NAMES)
async def test_a_feeds_streams_are_not_subscribed_to_again(name: str) -> None:
    async with venue(name, rate=10.0, symbols=SYMBOLS[name]) as world:
        await eventually(lambda: any(STREAM[name] in c.streams for c in world.sim.connections), what="the feed")
        connections = world.sim.connections_total
        for _ in range(3):
            async with connected(world) as socket:
                await socket.say(TRADES[name])
                await until(socket, lambda frame: bool(trade_ids(name, frame)))
                await socket.say(BARS[name])
                await until(socket, lambda frame: bar_of(name, frame) is not None)
        assert world.sim.connections_total == connections
        trades = STREAM[name].split(":")[0]
        assert len([m for c in world.sim.connections for m in c.received if trades in str(m)]) == 1


@pytest.mark.parametrize("name", NAMES)
async def test_over_an_outage_at_a_minutes_end_trades_and_bars_are_whole(name: str) -> None:
    async with venue(name, rate=8.0, start=END - 50_000, symbols=SYMBOLS[name]) as world, connected(world) as socket:
        sim, clock = world.sim, world.sim.market.clock
        await socket.say(TRADES[name])
        await socket.say(BARS[name])
        trades: list[Any] = []
        bars: list[tuple[int, bool]] = []

        async def hear(is_enough: Callable[[], bool]) -> None:
            while not is_enough():
                frame = await socket.hear()
                if (bar := bar_of(name, frame)) is None:
                    trades.extend(trade_ids(name, frame))
                else:
                    bars.append(bar)

        await hear(lambda: bool(trades and bars))
        sim.faults.ws_accept = 503
        sim.drop()
        await eventually(lambda: not sim.connections, what="the outage")
        before, told = sim.connections_total, len(trades)
        clock.advance(END + 2000 - clock.now())
        await eventually(lambda: sim.attempts > before + 1, what="an attempt that fails")
        sim.faults.ws_accept = "accept"
        await hear(lambda: any(opening > END - MINUTE for opening, _ in bars) and len(trades) > told + 100)
        assert len(set(trades)) == len(trades)
        assert [opening for opening, _ in bars] == sorted(opening for opening, _ in bars)
        if name == "binance":
            assert trades == list(range(trades[0], trades[0] + len(trades)))
        if name != "hyperliquid":
            assert [opening for opening, is_closed in bars if is_closed] == [END - MINUTE]


async def test_other_names_of_the_same_stream() -> None:
    """python-binance follows `continuousKline` where others follow `kline`; marks come every second or every third."""
    async with venue("binance", rate=10.0, symbols=("BTCUSDT",)) as world:
        async with connected(world, "/market/ws/btcusdt_perpetual@continuousKline_1m") as socket:
            frame = await socket.hear()
        assert (frame["e"], frame["ps"], frame["ct"], frame["k"]["i"]) == (
            "continuous_kline",
            "BTCUSDT",
            "PERPETUAL",
            "1m",
        )
        assert "s" not in frame["k"]
        async with connected(world, "/market/ws/btcusdt@markPrice") as socket:
            marks = [await socket.hear() for _ in range(3)]
        assert [later["E"] // 1000 - earlier["E"] // 1000 for earlier, later in pairwise(marks)] == [3, 3]
        assert len(world.sim.connections) == 1
        assert msgspec.json.encode(frame)
