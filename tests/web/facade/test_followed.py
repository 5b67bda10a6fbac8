"""Streams that feeds follow: not subscribed to a second time, and whole after an outage."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import msgspec
import pytest
import trio

from tests.daemon.fixtures import START, eventually
from tests.patience import WITHIN
from tests.web.facade.fixtures import SYMBOLS, Venue, venue
from tests.web.facade.test_streams import NAMES, STREAM, TRADES, Socket, connected, trade_ids

MINUTE = 60_000
END = START - START % MINUTE + MINUTE
BARS: dict[str, Any] = {
    "binance": {"method": "SUBSCRIBE", "params": ["btcusdt@kline_1m"], "id": 2},
    "bybit": {"op": "subscribe", "args": ["kline.1.BTCUSDT"]},
    "hyperliquid": {"method": "subscribe", "subscription": {"type": "candle", "coin": "BTC", "interval": "1m"}},
    "okx": {"op": "subscribe", "args": [{"channel": "candle1m", "instId": "BTC-USDT-SWAP"}]},
}
BARS_PATH = {"okx": "/ws/v5/business"}  # where bars have a socket of their own


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
        case "okx":
            is_bar = frame.get("arg", {}).get("channel") == "candle1m" and "data" in frame
            # A frame may have the closed bar and the one that follows: the closed one is what is looked for.
            return (int(frame["data"][0][0]), frame["data"][0][8] == "1") if is_bar else None
        case _:
            return (frame["data"]["t"], False) if frame["channel"] == "candle" else None


@pytest.mark.parametrize("name", NAMES)
async def test_a_feeds_streams_are_not_subscribed_to_again(name: str) -> None:
    async with venue(name, rate=10.0, symbols=SYMBOLS[name]) as world:
        await eventually(lambda: any(STREAM[name] in c.streams for c in world.sim.connections), what="the feed")
        connections = 2 if name == "okx" else 1  # there, bars have a socket of their own
        await eventually(lambda: world.sim.connections_total == connections, what="the feed's connections")
        for _ in range(3):
            async with connected(world) as socket, connected(world, BARS_PATH.get(name, "")) as of_bars:
                await socket.say(TRADES[name])
                await until(socket, lambda frame: bool(trade_ids(name, frame)))
                await of_bars.say(BARS[name])
                await until(of_bars, lambda frame: bar_of(name, frame) is not None)
        assert world.sim.connections_total == connections
        trades = STREAM[name].split(":")[0]
        assert len([m for c in world.sim.connections for m in c.received if trades in str(m)]) == 1


@pytest.mark.parametrize("name", NAMES)
async def test_over_an_outage_at_a_minutes_end_trades_and_bars_are_whole(name: str) -> None:
    async with (
        venue(name, rate=8.0, start=END - 50_000, symbols=SYMBOLS[name]) as world,
        connected(world) as socket,
        connected(world, BARS_PATH.get(name, "")) as of_bars,
        trio.open_nursery() as nursery,
    ):
        sim, clock = world.sim, world.sim.market.clock
        trades: list[Any] = []
        bars: list[tuple[int, bool]] = []

        async def listen(to: Socket) -> None:
            while True:
                frame = await to.hear(within=60)
                if (bar := bar_of(name, frame)) is None:
                    trades.extend(trade_ids(name, frame))
                else:
                    bars.append(bar)

        await socket.say(TRADES[name])
        await of_bars.say(BARS[name])
        nursery.start_soon(listen, socket)
        nursery.start_soon(listen, of_bars)
        await eventually(lambda: trades and bars, WITHIN, "trades and bars")
        sim.faults.ws_accept = 503
        sim.drop()
        await eventually(lambda: not sim.connections, WITHIN, "the outage")
        before, told = sim.connections_total, len(trades)
        clock.advance(END + 2000 - clock.now())
        await eventually(lambda: sim.attempts > before + 1, WITHIN, "an attempt that fails")
        sim.faults.ws_accept = "accept"
        await eventually(
            lambda: any(opening > END - MINUTE for opening, _ in bars) and len(trades) > told + 100, WITHIN, "the rest"
        )
        assert len(set(trades)) == len(trades)
        assert [opening for opening, _ in bars] == sorted(opening for opening, _ in bars)
        if name == "binance":
            assert trades == list(range(trades[0], trades[0] + len(trades)))
        if name != "hyperliquid":
            assert [opening for opening, is_closed in bars if is_closed] == [END - MINUTE]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["bybit", "hyperliquid"])
async def test_the_first_client_is_told_the_state_that_nobody_asked_for_until_then(name: str) -> None:
    stream = {"bybit": "tickers.BTCUSDT", "hyperliquid": STREAM["hyperliquid"]}[name]
    order = {"bybit": {"op": "subscribe", "args": [stream]}, "hyperliquid": TRADES["hyperliquid"]}[name]
    async with venue(name, rate=20.0, symbols=SYMBOLS[name]) as world:

        def sent() -> list[bytes]:
            return [sent.frame for sent in world.sim.sent if sent.stream == stream]

        await eventually(lambda: len(sent()) > 15, what="some frames that nobody listens to")
        connections = world.sim.connections_total
        async with connected(world) as socket:
            await socket.ask(order)
            first = await socket.hear()
        assert world.sim.connections_total == connections
        if name == "bybit":
            assert first["type"] == "snapshot"
            assert first["data"].keys() == msgspec.json.decode(sent()[0])["data"].keys()
        else:
            ids = trade_ids(name, first)
            assert len(ids) == 30
            assert set(ids) <= {one for frame in sent() for one in trade_ids(name, msgspec.json.decode(frame))}


@asynccontextmanager
async def passing(world: Venue) -> AsyncIterator[None]:
    """The market lives for as long as the block lasts, a quarter of a second after the other: none is passed over."""

    async def live() -> None:
        while True:
            world.sim.market.clock.advance(250)
            world.sim.tick()
            await trio.sleep(0.02)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(live)
        yield
        nursery.cancel_scope.cancel()


async def test_other_names_of_the_same_stream() -> None:
    """python-binance follows `continuousKline` where others follow `kline`; marks come every second or every third."""
    async with venue("binance", symbols=("BTCUSDT",)) as world, passing(world):
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
