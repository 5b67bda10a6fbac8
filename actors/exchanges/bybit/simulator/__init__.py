"""The other end of Bybit's linear wire: control frames and topics; REST is in `rest`.

Law: strict where the real exchange breaks clients. One unknown topic refuses its whole subscribe frame and only the
first is named, there is one ack per frame, and the names of a connection may not take more than so many characters.
Order books and other topics that the program does not read have no handler here.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import trio

from actors.decoding import UNREADABLE
from actors.exchanges.bybit.simulator.rest import Limits, Rest
from actors.exchanges.bybit.simulator.rows import listing
from actors.exchanges.bybit.simulator.streams import Stream, open_stream
from actors.simulation import server
from actors.simulation.market import Market
from actors.simulation.server import Connection, Faults, Reply, Request, Simulator
from actors.simulation.subscribers import Subscribers

PATH = "/v5/public/linear"

_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Options:
    """The exchange's rules; a test may tighten or loosen them. Times in real seconds."""

    limits: Limits = field(default_factory=Limits)
    args_characters: int = 21_000  # of a connection's topics, written as one JSON array
    idle: float = 600.0  # without a ping and without stream data, a connection is cut
    streamless: frozenset[str] = frozenset()  # symbols that REST lists and no stream knows, as around a delisting


async def serve(
    market: Market,
    *,
    faults: Faults | None = None,
    options: Options | None = None,
    task_status: trio.TaskStatus[Simulator] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a simulated Bybit until cancelled. `Simulator.ws_url` has the path of the linear stream, as in a config."""
    options = options or Options()
    await server.serve(
        market, faults or Faults(), lambda sim: _Bybit(sim, options), ws_path=PATH, task_status=task_status
    )


# Frames that a client must survive, by what is wrong with them.
BAD_FRAMES: dict[str, bytes] = {
    "not json": b"<html>502</html>",
    "truncated": b'{"topic":"publicTrade.BTCUSDT","type":"snapshot","ts":1781415763023,"data":[{"T":17814',
    "unknown topic": b'{"topic":"galaxy.BTCUSDT","type":"snapshot","ts":1781415763023,"data":{}}',
    "empty object": b"{}",
    "not an object": b"[1,2,3]",
    "no data": b'{"topic":"publicTrade.BTCUSDT","type":"snapshot","ts":1781415763023}',
    "no time": b'{"topic":"publicTrade.BTCUSDT","type":"snapshot","data":[]}',
    "wrong type": b'{"topic":"publicTrade.BTCUSDT","ts":"soon","data":[{"T":"x","S":"Up","v":1,"p":[],"i":7}]}',
    "null price": b'{"topic":"publicTrade.BTCUSDT","ts":1,"data":[{"T":1,"S":"Buy","v":"1","p":null,"i":"a"}]}',
    "nan price": b'{"topic":"publicTrade.BTCUSDT","ts":1,"data":[{"T":1,"S":"Buy","v":"1","p":"NaN","i":"a"}]}',
    "huge price": b'{"topic":"publicTrade.BTCUSDT","ts":1,"data":[{"T":1,"S":"Buy","v":"1","p":"1e1000000","i":"a"}]}',
    "negative quantity": b'{"topic":"publicTrade.BTCUSDT","ts":1,"data":[{"T":1,"S":"Buy","v":"-1","p":"1","i":"a"}]}',
    "unknown interval": b'{"topic":"kline.7.BTCUSDT","type":"snapshot","ts":1,"data":[]}',
    "nan interest": b'{"topic":"tickers.BTCUSDT","type":"delta","ts":1,"data":{"singleOpenInterest":"NaN"}}',
    "unknown kind of ticker": b'{"topic":"tickers.BTCUSDT","type":"whole","ts":1,"data":{"openInterest":"1"}}',
    "deep": b"[" * 20_000 + b"]" * 20_000,
    "not utf-8": b'{"topic":"\xff\xfe"}',
    "oversized": b'{"topic":"' + b"x" * (5 << 20) + b'"}',
}


class _Refused(Exception):
    """Raised with what `ret_msg` says."""


class _Bybit:
    """The venue: REST answers, and for each topic who wants it."""

    def __init__(self, sim: Simulator, options: Options) -> None:
        self._sim = sim
        self._options = options
        self._rest = Rest(sim.market, options.limits)
        listed = listing(sim.market).items()
        self._symbols = {symbol: tape for symbol, tape in listed if symbol not in options.streamless}
        self._streams: Subscribers[Stream] = Subscribers()
        self._active_at: dict[Connection, float] = {}

    def answer(self, request: Request) -> Reply:
        return self._rest.answer(request)

    # -- connections --------------------------------------------------------------------------

    def opened(self, connection: Connection) -> int | None:
        if connection.path.partition("?")[0] != PATH:
            return 404
        self._active_at[connection] = connection.opened_at
        return None

    def closed(self, connection: Connection) -> None:
        for name in connection.streams:
            self._streams.leave(connection, name)
        del self._active_at[connection]

    def counted(self, connection: Connection) -> None:
        pass  # no limit on what a client sends is known

    def received(self, connection: Connection, message: str | bytes) -> None:
        reply: dict[str, Any] = {"success": True, "ret_msg": "", "conn_id": f"sim-{connection.number}", "req_id": ""}
        told: list[str] = []
        operation = ""
        try:
            order = self._order(message)
            reply["req_id"] = order.get("req_id", "")
            operation = str(order.get("op", ""))
            match operation:
                case "ping":
                    self._active_at[connection] = trio.current_time()
                    reply["ret_msg"] = "pong"
                case "subscribe":
                    told = self._subscribe(connection, _names(order))
                case "unsubscribe":
                    for name in _names(order):
                        if name in connection.streams:
                            del connection.streams[name]
                            self._streams.leave(connection, name)
                case _:
                    raise _Refused("error:invalid op")
        except _Refused as refusal:
            reply |= {"success": False, "ret_msg": str(refusal)}
        connection.send(_encode(reply | {"op": operation}))
        for name in told:
            if stream := self._streams.get(name):
                self._tell(connection, name, stream.opening(self._sim.market.now))

    def _order(self, message: str | bytes) -> dict[str, Any]:
        try:
            order = msgspec.json.decode(message)
        except UNREADABLE:
            order = None
        if not isinstance(order, dict):
            found = str(message[:1])
            raise _Refused(f"Failed to decode incoming data:readObjectStart: expect {{ or n, but found {found}")
        return order

    # -- topics -------------------------------------------------------------------------------

    def _subscribe(self, connection: Connection, names: list[str]) -> list[str]:
        """All of them or none."""
        fresh: dict[str, Stream] = {}
        now = self._sim.market.now
        for name in names:
            if name in connection.streams or name in fresh:
                raise _Refused(f"error:already subscribed,topic:{name}")
            stream = self._streams.get(name) or open_stream(name, self._symbols, now)
            if stream is None:
                raise _Refused(f"error:handler not found,topic:{name}")
            fresh[name] = stream
        written = _encode([*connection.streams, *fresh]).decode()
        if len(written) > self._options.args_characters:
            raise _Refused(f"args length >{self._options.args_characters}")
        for name, stream in fresh.items():
            connection.streams[name] = None
            self._streams.join(connection, name, partial(_itself, stream))
        return list(fresh)

    def _tell(self, connection: Connection, name: str, frames: list[bytes]) -> None:
        for frame in frames:
            self._active_at[connection] = trio.current_time()
            self._sim.send(connection, name, frame)

    def tick(self, now: int) -> None:
        for name, stream, subscribers in self._streams:
            frames = stream.due(now)
            for connection in subscribers:
                self._tell(connection, name, frames)
        real = trio.current_time()
        for connection, active_at in list(self._active_at.items()):
            if real - active_at >= self._options.idle:
                connection.close(1000, "idle")


def _itself(stream: Stream) -> Stream:
    return stream


def _names(order: dict[str, Any]) -> list[str]:
    args = order.get("args", [])
    if not isinstance(args, list) or not all(isinstance(name, str) for name in args):
        raise _Refused("error:invalid args")
    return args
