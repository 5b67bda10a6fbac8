"""The REST baseline: the same bars and funding as a careful engineer serves them on FastAPI and uvicorn.

One upstream connection keeps them in memory; an answer is encoded once and kept for a second, so it may be as stale as
that. It does less than the daemon: no gap check, no reconnect, no limit but that of bars.
"""

import argparse
import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated

import httpx
import msgspec
from fastapi import FastAPI, Query, Response
from websockets.asyncio.client import connect

from .fastapi_fanout import serve
from .feeder import BARS, MARKS, SYMBOL

FRESH = 1.0  # seconds


class Ohlc(msgspec.Struct, frozen=True):
    exchange: str
    symbol: str
    timestamp: datetime
    interval: str
    open: float
    high: float
    low: float
    close: float
    volume: float
    quote_volume: float
    trades_count: int
    is_closed: bool


class FundingRate(msgspec.Struct, frozen=True):
    exchange: str
    symbol: str
    timestamp: datetime
    funding_rate: float
    funding_time: datetime
    funding_interval_hours: float
    mark_price: float


encode = msgspec.json.Encoder().encode


def at(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def ohlc(opened: int, prices: list[str], count: int, is_closed: bool) -> Ohlc:
    open_, high, low, close, volume, quote = map(float, prices)
    return Ohlc("binance", SYMBOL, at(opened), "1m", open_, high, low, close, volume, quote, count, is_closed)


class Memory:
    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.bars: deque[Ohlc] = deque(maxlen=1500)
        self.funding: FundingRate | None = None
        self._kept: dict[object, tuple[float, bytes]] = {}

    async def collect(self) -> None:
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://{self._upstream}/fapi/v1/klines", params={"limit": 1500})
            rows = answer.json()
        self.bars.extend(ohlc(row[0], [*row[1:6], row[7]], row[8], True) for row in rows[:-1])
        async with connect(f"ws://{self._upstream}/stream", compression=None) as exchange:
            await exchange.send(f'{{"method":"SUBSCRIBE","params":["{BARS}","{MARKS}"],"id":1}}')
            async for frame in exchange:
                push = msgspec.json.decode(frame)
                if push.get("stream") == BARS:
                    self._keep(push["data"]["k"])
                elif push.get("stream") == MARKS:
                    data = push["data"]
                    rate, price = float(data["r"]), float(data["p"])
                    self.funding = FundingRate("binance", SYMBOL, at(data["E"]), rate, at(data["T"]), 8.0, price)

    def _keep(self, bar: dict[str, object]) -> None:
        new = ohlc(bar["t"], [bar[key] for key in "ohlcvq"], bar["n"], bar["x"])  # type: ignore[arg-type, misc]
        if self.bars and self.bars[-1].timestamp == new.timestamp:
            self.bars[-1] = new
        else:
            self.bars.append(new)

    def answer(self, key: object, make: Callable[[], object]) -> Response:
        until, body = self._kept.get(key, (0.0, b""))
        now = time.monotonic()
        if now >= until:
            body = encode(make())
            self._kept[key] = now + FRESH, body
        return Response(body, media_type="application/json")


def create_app(upstream: str) -> FastAPI:
    memory = Memory(upstream)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        collecting = asyncio.create_task(memory.collect())
        yield
        collecting.cancel()

    app = FastAPI(lifespan=lifespan)

    async def bars(symbol: str, interval: str, limit: Annotated[int, Query(ge=1, le=1500)] = 500) -> Response:
        return memory.answer(("ohlc", symbol, interval, limit), lambda: [*memory.bars][-limit:])

    async def funding(symbol: str) -> Response:
        return memory.answer(("funding", symbol), lambda: memory.funding)

    # No decorators: mypy calls them untyped where FastAPI is not installed.
    app.add_api_route("/binance/ohlc/{symbol}/{interval}", bars)
    app.add_api_route("/binance/funding/{symbol}", funding)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--upstream", required=True, help="host:port of the exchange")
    parser.add_argument("--limit", type=int, required=True, help="seconds after which the process ends, whatever is on")
    options = parser.parse_args()
    serve(create_app(options.upstream), options.limit)


if __name__ == "__main__":
    main()
