"""The exchange that the benchmarks feed from: Binance's wire, one symbol, trades with contiguous ids at a fixed rate
and, where asked for, minute bars: a history of them over REST and four updates a second of the open one.

Nothing here is market data: `p` of a trade is the moment of its sending (see `price_of`), so that whoever receives the
trade, however it was normalised on the way, knows how long it took. Runs as a process of its own, for a bounded time.
"""

import argparse
import asyncio
import signal
import sys
import time
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import msgspec
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from actors.exchanges.exchange import load_exchanges

SYMBOL = "BTCUSDT"
TRADES, MARKS = f"{SYMBOL.lower()}@aggTrade", f"{SYMBOL.lower()}@markPrice@1s"
BARS = f"{SYMBOL.lower()}@kline_1m"
MINUTE = 60_000  # milliseconds
QUANTITY = "0.001"  # small: no stamp, read as a price, makes a large trade of it
_WRAP = 10**9  # microseconds in a stamp: 1000 s, longer than any run
_FIRST_ID = 3_478_018_549

_FILTERS = [{"filterType": "PRICE_FILTER", "tickSize": "0.001"}, {"filterType": "LOT_SIZE", "stepSize": "0.001"}]
_MOST_SYMBOLS = 400


def symbols(count: int) -> list[str]:
    """The first `count` symbols that the feeder lists."""
    return [SYMBOL, *(f"A{number:03}USDT" for number in range(1, count))]


def contract(symbol: str) -> dict[str, object]:
    """One of exchangeInfo's rows."""
    return {
        "symbol": symbol,
        "status": "TRADING",
        "contractType": "PERPETUAL",
        "baseAsset": symbol.removesuffix("USDT"),
        "quoteAsset": "USDT",
        "marginAsset": "USDT",
        "filters": _FILTERS,
    }


def daemon_config(feeder: str, *, count: int = 1, stream: str | None = None, archive: Path | None = None) -> str:
    """A daemon that has the feeder at `feeder`, host and port, for its only exchange, with `count` symbols.

    `stream` is the address of another program that sends the frames in its place. Without a file for it the archive is
    off.
    """
    off = "".join(f"[exchanges.{name}]\nenabled = false\n" for name in load_exchanges() if name != "binance")
    return (
        f'[server]\nport = 0\n[log]\nformat = "json"\n[streams]\nintervals = ["1m"]\n'
        f'[oi_vol]\nsymbols = ["none"]\n{off}[exchanges.binance]\nsymbols = {symbols(count)}\n'
        f'rest_url = "http://{feeder}"\nws_url = "ws://{stream or feeder}"\n[archive]\n'
        + (f'path = "{archive}"\n' if archive else "enabled = false\n")
    )


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


def _framed(text: bytes) -> bytes:
    """A server's text frame of 126 to 65535 bytes."""
    return b"\x81\x7e" + len(text).to_bytes(2, "big") + text


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000


def bar(open_time: int, at: int) -> dict[str, object]:
    """The bar that opened at `open_time`, as it is at `at` (milliseconds both); the same whoever asks."""
    seconds = min(MINUTE, at - open_time) // 250 / 4
    base = 60_000 + open_time // MINUTE % 997
    return {
        "t": open_time,
        "T": open_time + MINUTE - 1,
        "i": "1m",
        "o": f"{base}.10",
        "h": f"{base + 40}.90",
        "l": f"{base - 35}.30",
        "c": f"{base + seconds:.2f}",
        "v": f"{seconds * 3:.3f}",
        "q": f"{seconds * 3 * base:.5f}",
        "n": int(seconds * 5) + 1,
        "x": at >= open_time + MINUTE,
    }


def history(count: int) -> list[list[object]]:
    """REST's rows of the last bars, the open one last."""
    at = _milliseconds()
    opened = at // MINUTE * MINUTE
    rows = [bar(opened - back * MINUTE, at) for back in range(count - 1, -1, -1)]
    return [[row[key] for key in "tohlcvTqn"] + ["0", "0", "0"] for row in rows]


class Feeder:
    def __init__(self, rate: float, bars: int) -> None:
        self._rate = rate
        self._bars = bars  # of the history; 0: none are pushed either
        self._next_id = _FIRST_ID

    async def handle(self, socket: ServerConnection) -> None:
        streams: set[str] = set()
        try:
            async with asyncio.TaskGroup() as tasks:
                trades = tasks.create_task(self._send_trades(socket, streams))
                marks = tasks.create_task(self._send_marks(socket, streams))
                bars = tasks.create_task(self._send_bars(socket, streams))
                async for text in socket:
                    command = msgspec.json.decode(text, type=Command)
                    if command.method == "SUBSCRIBE":
                        streams.update(command.params)
                    else:
                        streams.difference_update(command.params)
                    await socket.send(f'{{"result":null,"id":{command.id}}}')
                trades.cancel()
                marks.cancel()
                bars.cancel()
        except* ConnectionClosed:
            pass

    async def _send_trades(self, socket: ServerConnection, streams: set[str]) -> None:
        due = time.monotonic()
        while True:
            due += 1 / self._rate
            await asyncio.sleep(due - time.monotonic())
            if TRADES not in streams:
                continue
            if time.monotonic() < due + 1 / self._rate:
                await socket.send(self._trade())
                continue
            # More are due than are sent one by one: what is late leaves in one write, so that this is not the limit.
            late = int((time.monotonic() - due) * self._rate) + 1
            due += (late - 1) / self._rate
            socket.transport.write(b"".join(_framed(self._trade().encode()) for _ in range(late)))

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

    async def _send_bars(self, socket: ServerConnection, streams: set[str]) -> None:
        last = _milliseconds()
        while True:
            await asyncio.sleep(0.25)
            at = _milliseconds()
            opened = at // MINUTE * MINUTE
            if BARS in streams and self._bars:
                for open_time in sorted({last // MINUTE * MINUTE, opened}):
                    body = {"e": "kline", "E": at, "s": SYMBOL, "k": bar(open_time, at), "st": 1}
                    await socket.send(msgspec.json.encode({"stream": BARS, "data": body}).decode())
            last = at

    def answer(self, socket: ServerConnection, request: Request) -> Response | None:
        """REST, one question per connection; None for the streams."""
        if request.path.partition("?")[0] == "/stream":
            return None
        status, body = self.body(request.path)
        return socket.respond(HTTPStatus(status), body.decode())

    def body(self, target: str) -> tuple[int, bytes]:
        """(status, body) of what a daemon asks at its start."""
        path = target.partition("?")[0]
        if path == "/fapi/v1/klines":
            limit = int(parse_qs(urlsplit(target).query)["limit"][0])
            return 200, msgspec.json.encode(history(min(limit, self._bars)))
        bodies: dict[str, object] = {
            "/fapi/v1/time": {"serverTime": _milliseconds()},
            "/fapi/v1/exchangeInfo": {"symbols": [contract(symbol) for symbol in symbols(_MOST_SYMBOLS)]},
            "/fapi/v1/fundingInfo": [],
            "/fapi/v1/openInterest": {"openInterest": "10659.509", "symbol": SYMBOL, "time": _milliseconds()},
        }
        if path not in bodies:
            return 404, b"{}"
        return 200, msgspec.json.encode(bodies[path])


async def run(rate: float, bars: int) -> None:
    feeder = Feeder(rate, bars)
    async with serve(feeder.handle, "127.0.0.1", 0, process_request=feeder.answer, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        sys.stderr.write(f'{{"event":"web.listening","url":"http://127.0.0.1:{port}"}}\n')
        sys.stderr.flush()
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, required=True, help="trades per second")
    parser.add_argument("--limit", type=int, required=True, help="seconds after which the process ends, whatever is on")
    parser.add_argument("--bars", type=int, default=0, help="minute bars of history; none is pushed either at 0")
    options = parser.parse_args()
    signal.alarm(options.limit)
    asyncio.run(run(options.rate, options.bars))
