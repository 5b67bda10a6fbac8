"""The baseline: the same stream as a careful engineer writes it on FastAPI and uvicorn.

One upstream connection for all clients, each trade decoded, normalised and encoded once, a bounded queue per client.
It does less than the daemon: no gap check, no reconnect, no reading of what clients send.
"""

import argparse
import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Literal

import msgspec
import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from websockets.asyncio.client import connect

from .feeder import SYMBOL, TRADES

CAPACITY = 4096  # trades that may wait for one client


class AggTrade(msgspec.Struct, frozen=True):
    id: int = msgspec.field(name="a")
    symbol: str = msgspec.field(name="s")
    price: str = msgspec.field(name="p")
    quantity: str = msgspec.field(name="q")
    time: int = msgspec.field(name="T")
    is_buyer_maker: bool = msgspec.field(name="m")


class Frame(msgspec.Struct, frozen=True):
    data: AggTrade


class Trade(msgspec.Struct, frozen=True, tag_field="type", tag="trade"):
    exchange: str
    symbol: str
    timestamp: datetime
    side: Literal["buy", "sell"]
    price: float
    quantity: float
    value: float
    is_buyer_maker: bool
    trade_id: int


decode = msgspec.json.Decoder(Frame).decode
encode = msgspec.json.Encoder().encode


def normalised(push: AggTrade) -> Trade:
    price, quantity = float(push.price), float(push.quantity)
    return Trade(
        exchange="binance",
        symbol=push.symbol,
        timestamp=datetime.fromtimestamp(push.time / 1000, UTC),
        side="sell" if push.is_buyer_maker else "buy",
        price=price,
        quantity=quantity,
        value=round(price * quantity, 8),
        is_buyer_maker=push.is_buyer_maker,
        trade_id=push.id,
    )


class Fanout:
    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._queues: set[asyncio.Queue[str]] = set()

    async def collect(self) -> None:
        async with connect(self._upstream, compression=None) as exchange:
            await exchange.send(f'{{"method":"SUBSCRIBE","params":["{TRADES}"],"id":1}}')
            async for frame in exchange:
                if isinstance(frame, str) and frame.startswith('{"result"'):
                    continue  # the acknowledgement
                text = encode(normalised(decode(frame).data)).decode()
                for queue in self._queues:
                    if not queue.full():
                        queue.put_nowait(text)

    async def serve(self, client: WebSocket) -> None:
        await client.accept()
        queue: asyncio.Queue[str] = asyncio.Queue(CAPACITY)
        self._queues.add(queue)
        try:
            while True:
                await client.send_text(await queue.get())
        except WebSocketDisconnect:
            pass
        finally:
            self._queues.discard(queue)


def create_app(upstream: str) -> FastAPI:
    fanout = Fanout(upstream)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        collecting = asyncio.create_task(fanout.collect())
        yield
        collecting.cancel()

    app = FastAPI(lifespan=lifespan)
    app.add_api_websocket_route(f"/ws/binance/{SYMBOL}/trades", fanout.serve)
    app.add_api_websocket_route(f"/ws/binance/{SYMBOL}/liquidations", Fanout(upstream).serve)  # there are none
    return app


def serve(app: FastAPI, limit: int) -> None:
    """Serve on a free port of loopback, and say which, until SIGTERM or for `limit` seconds."""
    signal.alarm(limit)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it once more when it is done

    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    sys.stderr.write(f'{{"event":"web.listening","url":"{url}"}}\n')
    sys.stderr.flush()
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="auto",  # what uvicorn[standard] chooses
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[listener])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--upstream", required=True, help="ws://host:port/stream of the exchange")
    parser.add_argument("--limit", type=int, required=True, help="seconds after which the process ends, whatever is on")
    options = parser.parse_args()
    serve(create_app(options.upstream), options.limit)


if __name__ == "__main__":
    main()
