"""An exchange for several daemons at once: Binance's wire, many symbols, at a rate that the parent sets per daemon.

Each daemon has an address of its own here. Its lines are sent trades and minute bars, two trades to one update of a
bar, a packet per line and millisecond; what it asks over REST is answered by `feeder.Feeder`. Talks to its parent in
lines of JSON: `Addresses` first; then it is told `Rates`, and answers each with what it sent before. Runs for a bounded
time.
"""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from http import HTTPStatus
from itertools import islice

import msgspec
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from .feeder import MINUTE, QUANTITY, Command, Feeder, now_us, price_of, symbols
from .frames import TRADES_PER_BAR, Frames, now_ms, text_frame

TICK = 0.001  # seconds
BARS = 1500  # of history
OTHERS = 20  # trades a second of each symbol that is followed besides
MOST_BEHIND = 1.0  # seconds that a busy machine may cost before the rate is given up


class Addresses(msgspec.Struct, frozen=True):
    addresses: list[str]  # host and port


class Rates(msgspec.Struct, frozen=True):
    """Events a second, by daemon."""

    rates: list[float]


class Sent(msgspec.Struct, frozen=True):
    """Events since the last answer, by daemon."""

    events: list[int]


class Stamped(Frames):
    """The price of a trade is the moment of its sending."""

    def trade(self, symbol: str, at: int) -> str:
        number = self._next_id
        return (
            f'{{"stream":"{symbol.lower()}@aggTrade","data":{{"e":"aggTrade","E":{at},"a":{number},"s":"{symbol}",'
            f'"p":"{price_of(now_us())}","q":"{QUANTITY}","nq":"{QUANTITY}","f":{number},"l":{number},'
            f'"T":{at},"m":false,"st":1}}}}'
        )

    def __iter__(self) -> Iterator[str]:
        """Each frame as it is when it is asked for."""
        opened = dict.fromkeys(self._symbols, now_ms() // MINUTE * MINUTE)
        while True:
            for _ in range(TRADES_PER_BAR):
                for symbol in self._symbols:
                    yield self.trade(symbol, now_ms())
                self.next_round()
            for symbol in self._symbols:
                at = now_ms()
                if (minute := at // MINUTE * MINUTE) > opened[symbol]:
                    yield self.kline(symbol, opened[symbol], at, True)
                    opened[symbol] = minute
                yield self.kline(symbol, minute, at, False)

    def marks(self) -> list[str]:
        return [self.mark(symbol, now_ms()) for symbol in self._symbols]


def further(count: int, number: int) -> str:
    """A symbol that is listed, beside the first `count`."""
    return symbols(count + number + 1)[-1]


class Market:
    """What one daemon hears."""

    def __init__(self, names: list[str]) -> None:
        self._feeder = Feeder(1, BARS)
        self._frames = Stamped(names)
        self._next = iter(self._frames)
        self._known = {f"{name.lower()}@{kind}" for name in names for kind in ("aggTrade", "markPrice@1s")}
        self._others: dict[str, Stamped] = {}  # by symbol, of those that somebody follows besides
        self._sockets: dict[ServerConnection, set[str]] = {}
        self.rate = 0.0
        self.sent = 0
        self._due = 0.0  # events

    async def handle(self, socket: ServerConnection) -> None:
        streams = self._sockets[socket] = set()
        try:
            async for text in socket:
                command = msgspec.json.decode(text, type=Command)
                (streams.update if command.method == "SUBSCRIBE" else streams.difference_update)(command.params)
                await socket.send(f'{{"result":null,"id":{command.id}}}')
        except ConnectionClosed:
            pass
        finally:
            del self._sockets[socket]

    def tick(self, seconds: float, *, with_marks: bool) -> None:
        """Send what has come due; funding, which comes every second, is not counted: it changes nothing."""
        self._due += self.rate * seconds
        count, self._due = int(self._due), self._due % 1
        self.sent += count
        parts: dict[ServerConnection, list[bytes]] = {}
        for frame in [*islice(self._next, count), *(self._frames.marks() if with_marks else ())]:
            stream = frame[11 : frame.index('"', 11)]
            for socket, streams in self._sockets.items():
                if stream in streams:
                    parts.setdefault(socket, []).append(text_frame(frame))
        for socket, frames in parts.items():
            socket.transport.write(b"".join(frames))  # the frames of one packet, past the library's own framing

    def tell_others(self) -> None:
        """A trade of each symbol that is followed besides, and its funding."""
        for stream in set().union(*self._sockets.values()) - self._known:
            symbol, _, kind = stream.upper().partition("@")
            frames = self._others.setdefault(symbol, Stamped([symbol]))
            if kind == "AGGTRADE":
                frames.next_round()
                frame = frames.trade(symbol, now_ms())
            elif kind == "MARKPRICE@1S":
                frame = frames.mark(symbol, now_ms())
            else:
                continue
            for socket, streams in self._sockets.items():
                if stream in streams:
                    socket.transport.write(text_frame(frame))

    def answer(self, socket: ServerConnection, request: Request) -> Response | None:
        if request.path.partition("?")[0].rstrip("/").endswith("stream"):
            return None
        status, body = self._feeder.body(request.path)
        return socket.respond(HTTPStatus(status), body.decode())


async def send(markets: list[Market]) -> None:
    last = time.monotonic()
    while True:
        await asyncio.sleep(TICK)
        now = time.monotonic()
        if now - last > MOST_BEHIND:
            raise RuntimeError("the machine is too busy to send")
        for market in markets:
            market.tick(now - last, with_marks=int(now) > int(last))
            if int(now * OTHERS) > int(last * OTHERS):
                market.tell_others()
        last = now


async def run(daemons: int, count: int) -> None:
    markets = [Market(symbols(count)) for _ in range(daemons)]
    servers = [
        await serve(market.handle, "127.0.0.1", 0, process_request=market.answer, compression=None)
        for market in markets
    ]
    ports = [next(iter(server.sockets)).getsockname()[1] for server in servers]
    tell(Addresses([f"127.0.0.1:{port}" for port in ports]))
    sending = asyncio.create_task(send(markets))
    heard = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(heard), sys.stdin)
    while line := await heard.readline():
        if sending.done():
            await sending
        for market, rate in zip(markets, msgspec.json.decode(line, type=Rates).rates, strict=True):
            market.rate = rate
        tell(Sent([market.sent for market in markets]))
        for market in markets:
            market.sent = 0


def tell(message: msgspec.Struct) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--daemons", type=int, required=True)
    parser.add_argument("--symbols", type=int, required=True)
    parser.add_argument("--limit", type=int, required=True, help="seconds after which the process ends, whatever is on")
    options = parser.parse_args()
    signal.alarm(options.limit)
    asyncio.run(run(options.daemons, options.symbols))
