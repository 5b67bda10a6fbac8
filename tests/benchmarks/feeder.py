"""The exchange that the benchmarks feed from: Binance's wire, one symbol, trades with contiguous ids at a fixed rate.

Nothing here is market data: `p` of a trade is the moment of its sending (see `price_of`), so that whoever receives the
trade, however it was normalised on the way, knows how long it took. Runs as a process of its own, for a bounded time.
"""

import argparse
import asyncio
import signal
import sys
import time
from http import HTTPStatus

import msgspec
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

SYMBOL = "BTCUSDT"
TRADES, MARKS = f"{SYMBOL.lower()}@aggTrade", f"{SYMBOL.lower()}@markPrice@1s"
QUANTITY = "0.001"  # small: no stamp, read as a price, makes a large trade of it
_WRAP = 10**9  # microseconds in a stamp: 1000 s, longer than any run
_FIRST_ID = 3_478_018_549

_FILTERS = [{"filterType": "PRICE_FILTER", "tickSize": "0.001"}, {"filterType": "LOT_SIZE", "stepSize": "0.001"}]
_CONTRACT = {
    "symbol": SYMBOL,
    "status": "TRADING",
    "contractType": "PERPETUAL",
    "baseAsset": "BTC",
    "quoteAsset": "USDT",
    "marginAsset": "USDT",
    "filters": _FILTERS,
}


class Command(msgspec.Struct, frozen=True):
    """{"method":"SUBSCRIBE","params":["btcusdt@aggTrade"],"id":1}"""

    method: str
    params: list[str]
    id: int


def now_us() -> int:
    """Microseconds of the clock that all processes of one machine share."""
    return time.monotonic_ns() // 1000


def price_of(stamp: int) -> str:
    """A stamp of `now_us` as a price with three decimals, 0 to 999999.999."""
    return f"{stamp % _WRAP // 1000}.{stamp % 1000:03}"


def age_of(price: float, now: int) -> int:
    """Microseconds since the stamp that a price carries."""
    return (now - round(price * 1000)) % _WRAP


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000


class Feeder:
    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._next_id = _FIRST_ID

    async def handle(self, socket: ServerConnection) -> None:
        streams: set[str] = set()
        try:
            async with asyncio.TaskGroup() as tasks:
                trades = tasks.create_task(self._send_trades(socket, streams))
                marks = tasks.create_task(self._send_marks(socket, streams))
                async for text in socket:
                    command = msgspec.json.decode(text, type=Command)
                    if command.method == "SUBSCRIBE":
                        streams.update(command.params)
                    else:
                        streams.difference_update(command.params)
                    await socket.send(f'{{"result":null,"id":{command.id}}}')
                trades.cancel()
                marks.cancel()
        except* ConnectionClosed:
            pass

    async def _send_trades(self, socket: ServerConnection, streams: set[str]) -> None:
        due = time.monotonic()
        while True:
            due += 1 / self._rate
            await asyncio.sleep(due - time.monotonic())
            if TRADES in streams:
                await socket.send(self._trade())

    def _trade(self) -> str:
        number, at = self._next_id, _milliseconds()
        self._next_id += 1
        maker = "true" if number % 2 else "false"
        return (
            f'{{"stream":"{TRADES}","data":{{"e":"aggTrade","E":{at},"a":{number},"s":"{SYMBOL}",'
            f'"p":"{price_of(now_us())}","q":"{QUANTITY}","nq":"{QUANTITY}","f":{number},"l":{number},'
            f'"T":{at},"m":{maker},"st":1}}}}'
        )

    async def _send_marks(self, socket: ServerConnection, streams: set[str]) -> None:
        while True:
            await asyncio.sleep(1)
            if MARKS in streams:
                at = _milliseconds() // 1000 * 1000
                await socket.send(
                    f'{{"stream":"{MARKS}","data":{{"e":"markPriceUpdate","E":{at},"s":"{SYMBOL}","p":"64346.7",'
                    f'"ap":"64346.7","P":"64335.3","i":"64399.6","r":"0.00005301","T":{at + 3_600_000},"st":1}}}}'
                )


def answer(socket: ServerConnection, request: Request) -> Response | None:
    """REST, as far as a daemon asks at its start; None for the streams."""
    path = request.path.partition("?")[0]
    if path == "/stream":
        return None
    bodies: dict[str, object] = {
        "/fapi/v1/time": {"serverTime": _milliseconds()},
        "/fapi/v1/exchangeInfo": {"symbols": [_CONTRACT]},
        "/fapi/v1/fundingInfo": [],
        "/fapi/v1/klines": [],
        "/fapi/v1/openInterest": {"openInterest": "10659.509", "symbol": SYMBOL, "time": _milliseconds()},
    }
    if path not in bodies:
        return socket.respond(HTTPStatus.NOT_FOUND, "{}")
    return socket.respond(HTTPStatus.OK, msgspec.json.encode(bodies[path]).decode())


async def run(rate: float) -> None:
    feeder = Feeder(rate)
    async with serve(feeder.handle, "127.0.0.1", 0, process_request=answer, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        sys.stderr.write(f'{{"event":"web.listening","url":"http://127.0.0.1:{port}"}}\n')
        sys.stderr.flush()
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, required=True, help="trades per second")
    parser.add_argument("--limit", type=int, required=True, help="seconds after which the process ends, whatever is on")
    options = parser.parse_args()
    signal.alarm(options.limit)
    asyncio.run(run(options.rate))
