"""The other end of OKX's wire: two of its sockets, and REST in `rest`.

Law: strict where the real exchange breaks clients. Candles are refused on one socket and all else on the other, each
argument of a request is answered by itself, requests are counted, and whoever is told nothing for 30 seconds is cut.
"""

from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import trio

from actors.decoding import UNREADABLE
from actors.exchanges.okx.simulator.rest import Limits, Rest
from actors.exchanges.okx.simulator.rows import listing
from actors.exchanges.okx.simulator.streams import TIERS, Change, Push, Stream, open_stream
from actors.simulation import server
from actors.simulation.market import Market
from actors.simulation.server import Connection, Faults, Reply, Request, Simulator
from actors.simulation.subscribers import Subscribers

PATH = "/ws/v5"

_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Options:
    """The exchange's rules; a test may tighten or loosen them. Times in real seconds."""

    limits: Limits = field(default_factory=Limits)
    maintenance: list[dict[str, str]] = field(default_factory=list)  # rows of /system/status; a test may add some
    args_bytes: int = 64 << 10  # of one request
    requests_an_hour: int = 480  # of one connection
    idle: float = 30.0  # without a subscription or without anything sent, a connection is cut
    streamless: frozenset[str] = frozenset()  # symbols that REST lists and no stream knows, as around a delisting


async def serve(
    market: Market,
    *,
    faults: Faults | None = None,
    options: Options | None = None,
    task_status: trio.TaskStatus[Simulator] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a simulated OKX until cancelled. `Simulator.ws_url` ends in /ws/v5, as the real one in a config."""
    options = options or Options()
    await server.serve(
        market, faults or Faults(), lambda sim: _Okx(sim, options), ws_path=PATH, task_status=task_status
    )


_TRADES = b'{"arg":{"channel":"trades","instId":"BTC-USDT-SWAP"},"data":[%s]}'
_CANDLES = b'{"arg":{"channel":"candle1m","instId":"BTC-USDT-SWAP"},"data":[%s]}'
_INTEREST = b'{"arg":{"channel":"open-interest","instId":"BTC-USDT-SWAP"},"data":[%s]}'
_TRADE = b'{"instId":"BTC-USDT-SWAP","tradeId":"7","px":"%s","sz":"%s","side":"%s","ts":"%s"}'

# Frames that a client must survive, by what is wrong with them.
BAD_FRAMES: dict[str, bytes] = {
    "not json": b"<html>502</html>",
    "truncated": b'{"arg":{"channel":"trades","instId":"BTC-USDT-SWAP"},"data":[{"instId":"BTC-',
    "unknown channel": b'{"arg":{"channel":"galaxy","instId":"BTC-USDT-SWAP"},"data":[{}]}',
    "unknown event": b'{"event":"applause","msg":""}',
    "empty object": b"{}",
    "not an object": b"[1,2,3]",
    "no data": b'{"arg":{"channel":"trades","instId":"BTC-USDT-SWAP"}}',
    "data of another kind": b'{"arg":{"channel":"trades","instId":"BTC-USDT-SWAP"},"data":{"px":"1"}}',
    "no channel": b'{"arg":{"instId":"BTC-USDT-SWAP"},"data":[]}',
    "null price": _TRADES % b'{"instId":"BTC-USDT-SWAP","tradeId":"7","px":null,"sz":"1","side":"buy","ts":"1"}',
    "nan price": _TRADES % (_TRADE % (b"NaN", b"1", b"buy", b"1")),
    "huge price": _TRADES % (_TRADE % (b"1e1000000", b"1", b"buy", b"1")),
    "negative quantity": _TRADES % (_TRADE % (b"1", b"-1", b"buy", b"1")),
    "unknown side": _TRADES % (_TRADE % (b"1", b"1", b"both", b"1")),
    "no time": _TRADES % (_TRADE % (b"1", b"1", b"buy", b"soon")),
    "short candle": _CANDLES % b'["1774964340000","66898.7","66902.1"]',
    "unknown confirm": _CANDLES % b'["1774964340000","1","1","1","1","1","1","1","2"]',
    "unknown bar": b'{"arg":{"channel":"candle7m","instId":"BTC-USDT-SWAP"},"data":[]}',
    "nan interest": _INTEREST % b'{"instId":"BTC-USDT-SWAP","oi":"1","oiCcy":"NaN","ts":"1790165111452"}',
    "deep": b"[" * 20_000 + b"]" * 20_000,
    "not utf-8": b'{"event":"\xff\xfe"}',
    "oversized": b'{"event":"' + b"x" * (5 << 20) + b'"}',
}


class _Refused(Exception):
    """Raised with a code and what `msg` says."""


class _Okx:
    """The venue: REST answers, and for each stream who wants it."""

    def __init__(self, sim: Simulator, options: Options) -> None:
        self._sim = sim
        self._options = options
        self._rest = Rest(sim.market, options.limits, options.maintenance)
        listed = listing(sim.market).items()
        self._symbols = {symbol: tape for symbol, tape in listed if symbol not in options.streamless}
        self._streams: Subscribers[Stream] = Subscribers()
        self._args: dict[str, bytes] = {}  # of each stream, as a push says it
        self._active_at: dict[Connection, float] = {}
        self._requests: dict[Connection, deque[float]] = {}

    def answer(self, request: Request) -> Reply:
        return self._rest.answer(request)

    # -- connections --------------------------------------------------------------------------

    def opened(self, connection: Connection) -> int | None:
        if connection.path.partition("?")[0] not in (f"{PATH}/public", f"{PATH}/business"):
            return 404
        self._active_at[connection] = connection.opened_at
        self._requests[connection] = deque()
        return None

    def closed(self, connection: Connection) -> None:
        for name in connection.streams:
            self._streams.leave(connection, name)
        del self._active_at[connection], self._requests[connection]

    def counted(self, connection: Connection) -> None:
        pass  # requests alone are

    def received(self, connection: Connection, message: str | bytes) -> None:
        if message in ("ping", b"ping"):
            self._say(connection, b"pong")
            return
        number: dict[str, object] = {}
        try:
            order = _order(message)
            if "id" in order:
                number["id"] = order["id"]
            self._count(connection)
            args = _args(order, self._options.args_bytes)
            match order.get("op"):
                case "subscribe":
                    for arg in args:
                        self._subscribe(connection, arg, number)
                case "unsubscribe":
                    for arg in args:
                        self._unsubscribe(connection, arg, number)
                case _:
                    raise _Refused("60012", f"Invalid request: {message!r}"[:200])
        except _Refused as refusal:
            self._refuse(connection, number, refusal)

    def _count(self, connection: Connection) -> None:
        now, recent = trio.current_time(), self._requests[connection]
        while recent and recent[0] <= now - 3600:
            recent.popleft()
        if len(recent) >= self._options.requests_an_hour:
            raise _Refused("60014", "Requests too frequent")
        recent.append(now)

    def _refuse(self, connection: Connection, number: dict[str, object], refusal: _Refused) -> None:
        code, message = refusal.args
        told = {**number, "event": "error", "code": code, "msg": message, "connId": f"{connection.number:08x}"}
        self._say(connection, _encode(told))

    def _say(self, connection: Connection, frame: bytes) -> None:
        self._active_at[connection] = trio.current_time()
        connection.send(frame)

    # -- subscriptions ------------------------------------------------------------------------

    def _subscribe(self, connection: Connection, arg: dict[str, str], number: dict[str, object]) -> None:
        """Known ones are acknowledged again. One that cannot be had is refused by itself."""
        channel, symbol = arg.get("channel", ""), arg.get("instId", "")
        name = f"{channel}:{symbol or arg.get('instType', '')}"
        tier = connection.path.partition("?")[0].rpartition("/")[2]
        make = partial(open_stream, channel, symbol, self._symbols, self._sim.market.now)
        fits = TIERS.get(channel) == tier and (channel != "liquidation-orders" or arg.get("instType") == "SWAP")
        stream = self._streams.join(connection, name, make) if fits else None
        if stream is None:
            where = f"channel:{channel},instId:{symbol}" if symbol else f"channel:{channel}"
            text = f"Wrong URL or {where} doesn't exist. Please use the correct URL, channel and parameters."
            self._refuse(connection, number, _Refused("60018", text))
            return
        self._args[name] = _encode(arg)
        is_new = name not in connection.streams
        connection.streams[name] = None
        self._say(
            connection, _encode({**number, "event": "subscribe", "arg": arg, "connId": f"{connection.number:08x}"})
        )
        if is_new:
            self._tell(connection, name, self._frames(name, stream.opening(self._sim.market.now)))

    def _unsubscribe(self, connection: Connection, arg: dict[str, str], number: dict[str, object]) -> None:
        name = f"{arg.get('channel', '')}:{arg.get('instId', '') or arg.get('instType', '')}"
        if name in connection.streams:
            del connection.streams[name]
            self._streams.leave(connection, name)
        self._say(
            connection, _encode({**number, "event": "unsubscribe", "arg": arg, "connId": f"{connection.number:08x}"})
        )

    def _frames(self, name: str, pushes: list[Push]) -> list[bytes]:
        return [_push(self._args[name], push) for push in pushes]

    def _tell(self, connection: Connection, name: str, frames: list[bytes]) -> None:
        for frame in frames:
            self._active_at[connection] = trio.current_time()
            self._sim.send(connection, name, frame)

    def tick(self, now: int) -> None:
        for name, stream, subscribers in self._streams:
            frames = self._frames(name, stream.due(now))
            for connection in subscribers:
                self._tell(connection, name, frames)
        real = trio.current_time()
        for connection, active_at in list(self._active_at.items()):
            if real - active_at >= self._options.idle:
                connection.close(4004, "no data received in 30s")


def _push(arg: bytes, push: Push) -> bytes:
    action, rows = (b',"action":' + _encode(push.action), push.rows) if isinstance(push, Change) else (b"", push)
    return b'{"arg":' + arg + action + b',"data":' + _encode(rows) + b"}"


def _order(message: str | bytes) -> dict[str, Any]:
    try:
        order = msgspec.json.decode(message)
    except UNREADABLE:
        order = None
    if not isinstance(order, dict):
        raise _Refused("60012", f"Illegal request: {message[:100]!r}")
    return order


def _args(order: dict[str, Any], most: int) -> list[dict[str, str]]:
    args = order.get("args")
    if not isinstance(args, list) or len(_encode(args)) > most:
        raise _Refused("60013", "Invalid args")
    if not all(isinstance(arg, dict) and "channel" in arg for arg in args):
        raise _Refused("60013", "Invalid args")
    return args
