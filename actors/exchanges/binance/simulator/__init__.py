"""The other end of Binance USD-M futures' wire: paths and tiers, control frames, streams; REST is in `rest`.

Law: strict where the real exchange breaks clients, and no lie it does not tell: every subscription is acknowledged,
wrong tier, wrong case and nonsense included, and stays silent; the retired paths deliver book data only.

A stream is one generator, made for its first subscriber and fed the time at every tick; what it yields goes to all of
its subscribers, encoded once. What nobody subscribed to costs nothing.
"""

import re
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import msgspec
import trio

from actors.decoding import UNREADABLE
from actors.exchanges.binance.simulator.books import day_ticker, day_tickers, depth_changes, partial_depth, single_trade
from actors.exchanges.binance.simulator.limits import Limits
from actors.exchanges.binance.simulator.rest import Rest
from actors.exchanges.binance.simulator.rows import listing
from actors.exchanges.binance.simulator.streams import (
    ForcedOrders,
    Source,
    agg_trades,
    book_ticker,
    forced,
    klines,
    mark_price,
    mark_prices,
)
from actors.simulation import server
from actors.simulation.history import INTERVALS
from actors.simulation.market import Market
from actors.simulation.server import Connection, Faults, Reply, Request, Simulator
from actors.simulation.subscribers import Subscribers

_encode = msgspec.json.encode
_PATH = re.compile(r"(?:/(market|public))?/(ws|stream)(?:/(.*))?")
_PUBLIC = re.compile(r"@(bookTicker|trade|depth\w*)(@\d+ms)?$")
_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")


@dataclass(frozen=True, slots=True)
class Options:
    """The exchange's rules; a test may tighten or loosen them. Times in real seconds."""

    limits: Limits = field(default_factory=Limits)
    messages_per_second: int = 10  # from one client; pings and pongs count
    streams_per_connection: int = 1024
    lifetime: float = 86_400.0
    ping_interval: float = 180.0
    pong_timeout: float = 600.0
    forced_order: Literal["largest", "latest"] = "largest"  # of a second; the documents disagree


async def serve(
    market: Market,
    *,
    faults: Faults | None = None,
    options: Options | None = None,
    task_status: trio.TaskStatus[Simulator] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a simulated Binance until cancelled. `Simulator.ws_url` ends in /market, as the real one in a config."""
    options = options or Options()
    await server.serve(
        market,
        faults or Faults(),
        lambda sim: _Binance(sim, options),
        ws_path="/market",
        task_status=task_status,
    )


# Frames that a client must survive, by what is wrong with them.
BAD_FRAMES: dict[str, bytes] = {
    "not json": b"<html>502</html>",
    "truncated": b'{"e":"aggTrade","E":1791391082024,"a":34780',
    "unknown event": b'{"e":"galaxyUpdate","E":1791391082024,"s":"BTCUSDT"}',
    "empty object": b"{}",
    "not an object": b"[1,2,3]",
    "wrong type": b'{"e":"aggTrade","E":"soon","a":"x","s":"BTCUSDT","p":1,"q":[],"f":1,"l":1,"T":1,"m":"no"}',
    "null price": b'{"e":"aggTrade","E":1,"a":1,"s":"BTCUSDT","p":null,"q":"1","f":1,"l":1,"T":1,"m":true,"st":1}',
    "nan price": b'{"e":"aggTrade","E":1,"a":1,"s":"BTCUSDT","p":"NaN","q":"1","f":1,"l":1,"T":1,"m":true,"st":1}',
    "huge price": b'{"e":"aggTrade","E":1,"a":1,"s":"BTCUSDT","p":"1e1000000","q":"1","f":1,"l":1,"T":1,"m":true}',
    "negative quantity": b'{"e":"aggTrade","E":1,"a":1,"s":"BTCUSDT","p":"1","q":"-1","f":1,"l":1,"T":1,"m":true}',
    "deep": b"[" * 20_000 + b"]" * 20_000,
    "not utf-8": b'{"e":"aggTrade","s":"\xff\xfe"}',
    "oversized": b'{"e":"aggTrade","s":"' + b"x" * (5 << 20) + b'"}',
}


@dataclass(slots=True)
class _Client:
    tier: str
    combined: bool
    arrivals: deque[float] = field(default_factory=deque)
    next_ping: float = 0.0
    awaited: tuple[float, int] | None = None  # a ping: when, and how many pongs there were


class _Binance:
    """The venue: REST answers, and for each client what it subscribed to."""

    def __init__(self, sim: Simulator, options: Options) -> None:
        self._sim = sim
        self._options = options
        self._rest = Rest(sim.market, options.limits)
        self._symbols = listing(sim.market)
        self._names = {symbol.lower(): symbol for symbol in self._symbols}
        self._clients: dict[Connection, _Client] = {}
        self._sources: Subscribers[Source] = Subscribers()
        self._forced = ForcedOrders(self._symbols, options.forced_order)

    def answer(self, request: Request) -> Reply:
        return self._rest.answer(request)

    # -- connections --------------------------------------------------------------------------

    def opened(self, connection: Connection) -> int | None:
        path, _, query = connection.path.partition("?")
        match = _PATH.fullmatch(path)
        if match is None:
            return 404
        tier, kind, names = match.groups()
        if kind == "stream":
            names = query.removeprefix("streams=")
        if names and "," in names:
            return 400
        client = _Client(tier or "legacy", kind == "stream")
        client.next_ping = connection.opened_at + self._options.ping_interval
        self._clients[connection] = client
        self._subscribe(connection, [name for name in (names or "").split("/") if name])
        return None

    def closed(self, connection: Connection) -> None:
        for name in connection.streams:
            self._sources.leave(connection, name)
        del self._clients[connection]

    def counted(self, connection: Connection) -> None:
        now, arrivals = trio.current_time(), self._clients[connection].arrivals
        arrivals.append(now)
        while arrivals[0] <= now - 1:
            arrivals.popleft()
        if len(arrivals) > self._options.messages_per_second:
            connection.close(1008, "Too many requests")

    def received(self, connection: Connection, message: str | bytes) -> None:
        reply = self._controlled(connection, message)
        connection.send(_encode(reply))

    def _controlled(self, connection: Connection, message: str | bytes) -> dict[str, Any]:
        """The reply to a control frame; it is never wrapped in an envelope."""
        try:
            order = msgspec.json.decode(message)
        except UNREADABLE:
            return {"code": 3, "msg": "Invalid JSON: expected value at line 1 column 1"}
        end = f"at line 1 column {len(message)}"
        if not isinstance(order, dict) or "method" not in order:
            return {"code": 2, "msg": f"Invalid request: missing field `method` {end}"}
        method, params, number = order["method"], order.get("params", []), order.get("id")
        if method not in _METHODS:
            known = ", ".join(f"`{name}`" for name in _METHODS)
            return {"code": 2, "msg": f"Invalid request: unknown variant `{method}`, expected one of {known} {end}"}
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            return {"code": 2, "msg": "Invalid request: request ID must be an unsigned integer"}
        if not isinstance(params, list):
            return {"code": 2, "msg": f"Invalid request: invalid type, expected a sequence {end}"}
        match method:
            case "SUBSCRIBE":
                self._subscribe(connection, [name for name in params if isinstance(name, str)])
            case "UNSUBSCRIBE":
                for name in params:
                    if isinstance(name, str) and name in connection.streams:
                        del connection.streams[name]
                        self._sources.leave(connection, name)
            case "LIST_SUBSCRIPTIONS":
                return {"result": list(connection.streams), "id": number}
            case _:
                return self._property(self._clients[connection], method, params, number)
        return {"result": None, "id": number}

    def _property(self, client: _Client, method: str, params: list[Any], number: int) -> dict[str, Any]:
        setting = method == "SET_PROPERTY"
        if not params or not isinstance(params[0], str):
            return {"code": 2, "msg": "Invalid request: property name must be a string"}
        if len(params) > 1 + setting:
            return {"code": 2, "msg": "Invalid request: too many parameters"}
        if params[0] != "combined":
            return {"code": 0, "msg": "Unknown property", "id": number}
        if not setting:
            return {"result": client.combined, "id": number}
        if len(params) < 2 or not isinstance(params[1], bool):
            return {"code": 1, "msg": "Invalid value type: expected Boolean"}
        client.combined = params[1]
        return {"result": None, "id": number}

    # -- streams ------------------------------------------------------------------------------

    def _subscribe(self, connection: Connection, names: list[str]) -> None:
        tier = self._clients[connection].tier
        for name in names:
            connection.streams[name] = None
            if (tier == "market") == bool(_PUBLIC.search(name)):
                continue  # another tier's: acknowledged, and silent for ever
            self._sources.join(connection, name, partial(self._started, name))
        if len(connection.streams) > self._options.streams_per_connection:
            connection.close(1008, "Too many streams")

    def _started(self, name: str) -> Source | None:
        source = self._source(name)
        if source is not None:
            next(source)
        return source

    def _source(self, name: str) -> Source | None:
        """Nothing for names that do not exist, upper case symbols included, and for what no longer trades."""
        now = self._sim.market.now
        match name.split("@"):
            case ["!forceOrder", "arr"]:
                return forced(self._forced.due, "")
            case ["!markPrice", "arr", *rest] if rest in ([], ["1s"]):
                return mark_prices(self._symbols, 1000 if rest else 3000, now)
            case ["!ticker" | "!miniTicker" as kind, "arr"]:
                return day_tickers(self._symbols, now, mini=kind == "!miniTicker")
            case [lower, kind, *rest] if lower in self._names:
                symbol = self._names[lower]
                tape = self._symbols[symbol]
                if tape.ended is not None:
                    return None
                match kind, rest:
                    case "aggTrade", []:
                        return agg_trades(symbol, tape, now)
                    case "forceOrder", []:
                        return forced(self._forced.due, symbol)
                    case "markPrice", [] | ["1s"]:
                        return mark_price(symbol, tape, 1000 if rest else 3000, now)
                    case "bookTicker", []:
                        return book_ticker(symbol, tape, now)
                    case "trade", []:
                        return single_trade(symbol, tape, now)
                    case "ticker" | "miniTicker", []:
                        return day_ticker(symbol, tape, now, mini=kind == "miniTicker")
                    case _, [] | ["100ms" | "500ms"] if kind == "depth":
                        return depth_changes(symbol, tape, now, int(rest[0][:-2]) if rest else 250)
                    case "depth5" | "depth10" | "depth20", [] | ["100ms" | "500ms"]:
                        return partial_depth(symbol, tape, now, int(kind[5:]), int(rest[0][:-2]) if rest else 250)
                    case _, [] if kind.startswith("kline_") and kind[6:] in INTERVALS:
                        return klines(symbol, tape, kind[6:], now)
        return None

    def tick(self, now: int) -> None:
        self._forced.advance(now)
        for name, source, subscribers in self._sources:
            for frame in source.send(now):
                envelope = b'{"stream":"%b","data":%b}' % (name.encode(), frame)
                for connection in subscribers:
                    wrapped = self._clients[connection].combined
                    self._sim.send(connection, name, envelope if wrapped else frame)
        real = trio.current_time()
        for connection, client in list(self._clients.items()):
            self._keep(connection, client, real)

    def _keep(self, connection: Connection, client: _Client, real: float) -> None:
        """Pings, and the end of those that do not answer them or have lived too long."""
        options = self._options
        if real - connection.opened_at >= options.lifetime:
            connection.close(1001, "24 hours")
        if client.awaited is not None:
            since, pongs = client.awaited
            if connection.pongs > pongs:
                client.awaited = None
            elif real - since >= options.pong_timeout:
                connection.close(1008, "Pong timeout")
        if real >= client.next_ping:
            client.next_ping += options.ping_interval
            client.awaited = client.awaited or (real, connection.pongs)
            connection.ping()
