"""Half a minute of the real exchange, replayed into the running daemon: what comes out is what was recorded.

The other end is not the simulator but a server of this file: WebSockets by trio-websocket, HTTP/1.1 by hand.
"""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
import trio_websocket

from daemon.settings import Config, ExchangeSettings, Server, Streams
from tests import recordings
from tests.daemon.fixtures import Json, Stream, eventually, fast, iso, serving

RECORDINGS = recordings.RECORDINGS / "cryptofeed"
SYMBOLS = ("SUSHIUSDT", "AKROUSDT", "KEEPUSDT", "CTKUSDT")

pytestmark = pytest.mark.skipif(not RECORDINGS.is_dir(), reason=f"the recordings are not at {RECORDINGS}")


class Recorded:
    """The recorded exchange: its catalogue, its frames in order, and who listens."""

    def __init__(self) -> None:
        text = (RECORDINGS / "BINANCE_FUTURES.ws.1.0").read_text()
        self.frames = re.findall(r"^[0-9.]+: (\{.*\})$", text, re.MULTILINE)
        rest = (RECORDINGS / "BINANCE_FUTURES.0").read_text()
        (self.catalogue,) = re.findall(r"exchangeInfo -> [0-9.]+: (\{.*\})$", rest, re.MULTILINE)
        self.sockets: list[trio_websocket.WebSocketConnection] = []
        self.asked: set[str] = set()  # streams
        self.rest_url = self.ws_url = ""

    def said(self, event: str, symbol: str) -> list[Json]:
        pushes = [msgspec.json.decode(frame)["data"] for frame in self.frames]
        return [push for push in pushes if push.get("e") == event and push["s"] == symbol]

    async def replay(self) -> None:
        for frame in self.frames:
            for socket in self.sockets:
                await socket.send_message(frame)

    async def serve_socket(self, request: trio_websocket.WebSocketRequest) -> None:
        socket = await request.accept()
        self.sockets.append(socket)
        try:
            while True:
                order = msgspec.json.decode(await socket.get_message())
                self.asked.update(order["params"])
                await socket.send_message(msgspec.json.encode({"result": None, "id": order["id"]}).decode())
        except trio_websocket.ConnectionClosed:
            self.sockets.remove(socket)

    async def serve_rest(self, stream: trio.SocketStream) -> None:
        """One request per connection."""
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some()
        path = head.split(b" ", 2)[1].split(b"?")[0]
        body = {b"/fapi/v1/exchangeInfo": self.catalogue.encode(), b"/fapi/v1/klines": b"[]"}.get(path)
        status = b"404 Not Found" if body is None else b"200 OK"
        body = body or b'{"code":-5000,"msg":"Path is invalid"}'
        await stream.send_all(
            b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
            % (status, len(body), body)
        )
        await stream.aclose()


@asynccontextmanager
async def recorded_exchange() -> AsyncIterator[Recorded]:
    recorded = Recorded()
    async with trio.open_nursery() as nursery:
        sockets = await nursery.start(trio_websocket.serve_websocket, recorded.serve_socket, "127.0.0.1", 0, None)
        rest = await nursery.start(trio.serve_tcp, recorded.serve_rest, 0)
        recorded.ws_url = f"ws://127.0.0.1:{sockets.port}"
        recorded.rest_url = f"http://127.0.0.1:{rest[0].socket.getsockname()[1]}"
        yield recorded
        nursery.cancel_scope.cancel()


def trade(push: Json) -> Json:
    price, quantity = float(push["p"]), float(push["q"])
    return {
        "type": "trade",
        "exchange": "binance",
        "symbol": push["s"],
        "timestamp": iso(push["T"]),
        "side": "sell" if push["m"] else "buy",
        "price": price,
        "quantity": quantity,
        "value": pytest.approx(price * quantity, rel=1e-12),
        "is_buyer_maker": push["m"],
        "trade_id": push["a"],
    }


def bar(push: Json) -> Json:
    k: dict[str, Any] = push["k"]
    return {
        "type": "ohlc",
        "exchange": "binance",
        "symbol": push["s"],
        "timestamp": iso(k["t"]),
        "interval": "1m",
        "open": float(k["o"]),
        "high": float(k["h"]),
        "low": float(k["l"]),
        "close": float(k["c"]),
        "volume": float(k["v"]),
        "quote_volume": float(k["q"]),
        "trades_count": k["n"],
        "is_closed": k["x"],
    }


async def test_the_capture_comes_out_as_it_went_in() -> None:
    async with recorded_exchange() as recorded, AsyncExitStack() as stack:
        settings = ExchangeSettings(symbols=SYMBOLS, rest_url=recorded.rest_url, ws_url=recorded.ws_url)
        config = Config(server=Server(port=0), streams=Streams(intervals=("1m",)), exchanges={"binance": settings})
        served = await stack.enter_async_context(serving(config, fast()))
        heard: dict[tuple[str, str], Stream] = {}
        for symbol in SYMBOLS:
            for name in ("trades", "ohlc"):
                path = f"/ws/binance/{symbol}/{name}"
                heard[symbol, name] = await stack.enter_async_context(served.stream(path))
        wanted = {f"{symbol.lower()}@{name}" for symbol in SYMBOLS for name in ("aggTrade", "kline_1m")}
        await eventually(lambda: wanted <= recorded.asked, what="subscriptions")

        await recorded.replay()

        def total(name: str) -> int:
            return sum(len(heard[symbol, name].frames) for symbol in SYMBOLS)

        await eventually(lambda: total("trades") >= 91 and total("ohlc") >= 67, what="91 trades and 67 bar updates")
        for symbol in SYMBOLS:
            assert heard[symbol, "trades"].frames == [trade(push) for push in recorded.said("aggTrade", symbol)]
            assert heard[symbol, "ohlc"].frames == [bar(push) for push in recorded.said("kline", symbol)]
        assert (total("trades"), total("ohlc")) == (91, 67)
        closed = [frame for symbol in SYMBOLS for frame in heard[symbol, "ohlc"].frames if frame["is_closed"]]
        assert sorted(frame["symbol"] for frame in closed) == sorted(SYMBOLS)
        health = await served.get("/health")
        assert {feed["restarts"] for feed in health["feeds"]} == {0}
        assert served.logged("line.down") == served.logged("line.garbage_frame") == []
