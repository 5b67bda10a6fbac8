"""The other end of Hyperliquid's wire: one subscription per frame, acks, streams; REST is in `rest`.

Law: strict where the real exchange breaks clients: asked for a name that it does not know, it cuts the whole
connection without a word; its errors have no ids; it ends a connection on which it had nothing to say for a minute.

A stream is one generator, made for its first subscriber and fed the time at every tick; what it yields goes to all of
its subscribers, encoded once. What nobody subscribed to costs nothing.
"""

import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio

from actors.decoding import UNREADABLE
from actors.exchanges.hyperliquid.simulator.rest import Limits, Rest
from actors.exchanges.hyperliquid.simulator.rows import Coin, listing
from actors.exchanges.hyperliquid.simulator.streams import (
    Source,
    book_frame,
    books,
    candle_frame,
    candles,
    contexts,
    envelope,
    mids,
    mids_frame,
    of_users,
    trades,
    trades_frame,
)
from actors.simulation import server
from actors.simulation.history import INTERVALS, floor_open
from actors.simulation.market import Market
from actors.simulation.server import Connection, Faults, Reply, Request, Simulator
from actors.simulation.subscribers import Subscribers

CUT_AFTER = 0.12  # seconds from a bad name to the end
BACKLOG = 30
TYPES = ("trades", "candle", "activeAssetCtx", "l2Book", "bbo")
OF_USERS = ("userFills", "orderUpdates")
USER = re.compile("0x[0-9a-fA-F]{40}")


@dataclass(frozen=True, slots=True)
class Options:
    """The exchange's rules; a test may tighten or loosen them. Times in real seconds."""

    limits: Limits = field(default_factory=Limits)
    connections: int = 10
    connections_per_minute: int = 30
    subscriptions: int = 1000  # of all connections together
    messages_per_minute: int = 2000  # likewise
    idle: float = 60.0  # without a word from the server
    empty_candles: bool = False  # whether candleSnapshot has bars for times without trades: nobody says
    vanished: set[str] = field(default_factory=set)  # names that meta still lists and the socket no longer knows


async def serve(
    market: Market,
    *,
    faults: Faults | None = None,
    options: Options | None = None,
    task_status: trio.TaskStatus[Simulator] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a simulated Hyperliquid until cancelled. `Simulator.ws_url` ends in /ws, as the real one in a config."""
    options = options or Options()
    await server.serve(
        market,
        faults or Faults(),
        lambda sim: _Hyperliquid(sim, options),
        ws_path="/ws",
        task_status=task_status,
    )


# Frames that a client must survive, by what is wrong with them.
BAD_FRAMES: dict[str, bytes] = {
    "greeting": b"Websocket connection established.",
    "not json": b"<html>502</html>",
    "truncated": b'{"channel":"trades","data":[{"coin":"BTC","si',
    "unknown channel": b'{"channel":"galaxy","data":{}}',
    "empty object": b"{}",
    "not an object": b"[1,2,3]",
    "null data": b'{"channel":"candle","data":null}',
    "wrong type": b'{"channel":"trades","data":[{"coin":"BTC","side":"A","px":1,"sz":[],"time":"soon","tid":"x"}]}',
    "unknown side": b'{"channel":"trades","data":[{"coin":"BTC","side":"C","px":"1","sz":"1","time":1,"tid":1}]}',
    "nan price": b'{"channel":"trades","data":[{"coin":"BTC","side":"A","px":"NaN","sz":"1","time":1,"tid":1}]}',
    "huge price": b'{"channel":"trades","data":[{"coin":"BTC","side":"A","px":"1e1000000","sz":"1","time":1,"tid":1}]}',
    "negative size": b'{"channel":"trades","data":[{"coin":"BTC","side":"A","px":"1","sz":"-1","time":1,"tid":1}]}',
    "negative time": b'{"channel":"trades","data":[{"coin":"BTC","side":"A","px":"1","sz":"1","time":-1,"tid":1}]}',
    "an error about nothing": b'{"channel":"error","data":"out of cheese"}',
    "deep": b"[" * 20_000 + b"]" * 20_000,
    "not utf-8": b'{"channel":"trades","data":"\xff\xfe"}',
    "oversized": b'{"channel":"trades","data":"' + b"x" * (5 << 20) + b'"}',
}


@dataclass(slots=True)
class _Client:
    spoken_at: float  # the last word to it
    doomed_at: float | None = None  # when it is going to be cut


class _Hyperliquid:
    """The venue: REST answers, and for each client what it subscribed to."""

    def __init__(self, sim: Simulator, options: Options) -> None:
        self._sim = sim
        self._options = options
        self._rest = Rest(sim.market, options.limits, empty_candles=options.empty_candles)
        self._coins = listing(sim.market)
        self._clients: dict[Connection, _Client] = {}
        self._sources: Subscribers[Source] = Subscribers()
        self._opened: deque[float] = deque()
        self._messages: deque[float] = deque()

    def answer(self, request: Request) -> Reply:
        return self._rest.answer(request)

    # -- connections --------------------------------------------------------------------------

    def opened(self, connection: Connection) -> int | None:
        now = trio.current_time()
        if connection.path != "/ws":
            return 404
        # What is beyond these limits is not documented; a refusal is the least that can happen.
        if len(self._clients) >= self._options.connections:
            return 429
        if _count(self._opened, now) > self._options.connections_per_minute:
            return 429
        self._clients[connection] = _Client(now)
        return None

    def closed(self, connection: Connection) -> None:
        for name in connection.streams:
            self._sources.leave(connection, name)
        del self._clients[connection]

    def counted(self, connection: Connection) -> None:
        if _count(self._messages, trio.current_time()) > self._options.messages_per_minute:
            connection.reset()

    def received(self, connection: Connection, message: str | bytes) -> None:
        if self._clients[connection].doomed_at is not None:
            return
        try:
            order = msgspec.json.decode(message)
            if order == {"method": "ping"}:
                self._say(connection, b'{"channel":"pong"}')
                return
            method, subscription = order["method"], order["subscription"]
            kind, interval = subscription["type"], subscription.get("interval")
            known = method in ("subscribe", "unsubscribe")
            if kind == "allMids":
                coin = subscription.get("dex") or ""
            elif kind in OF_USERS:
                coin = subscription["user"]
                known = known and USER.fullmatch(coin) is not None
            else:
                coin = subscription["coin"]
                known = known and kind in TYPES
            known = known and isinstance(coin, str)
        except (*UNREADABLE, TypeError, KeyError, AttributeError):
            known = False
        if not known or (kind == "candle" and (interval not in INTERVALS or interval == "6h")):
            text = message if isinstance(message, str) else message.decode(errors="replace")
            self._say(connection, _error(f"Error parsing JSON into valid websocket request: {text}"))
            return
        name = ":".join([kind, coin, *([interval] if kind == "candle" else [])])
        if method == "subscribe":
            self._subscribe(connection, name, kind, coin, interval, subscription)
        elif name not in connection.streams:
            self._say(connection, _error(f"Already unsubscribed: {_json(subscription)}"))
        else:
            del connection.streams[name]
            self._sources.leave(connection, name)
            self._say(connection, _ack("unsubscribe", subscription))

    def _say(self, connection: Connection, frame: bytes) -> None:
        """Answers are not market frames: they are not muted or logged."""
        if connection.send(frame):
            self._clients[connection].spoken_at = trio.current_time()

    # -- streams ------------------------------------------------------------------------------

    def _subscribe(
        self, connection: Connection, name: str, kind: str, coin: str, interval: str, subscription: dict[str, Any]
    ) -> None:
        is_of_coin = kind in TYPES
        if is_of_coin and (coin not in self._coins or coin in self._options.vanished):
            self._clients[connection].doomed_at = trio.current_time() + CUT_AFTER
            return
        if name in connection.streams:
            self._say(connection, _error(f"Already subscribed: {_json(subscription)}"))
            return
        if sum(len(client.streams) for client in self._clients) >= self._options.subscriptions:
            self._say(connection, _error("Cannot track more than so many total subscriptions."))
            return
        self._say(connection, _ack("subscribe", subscription))
        connection.streams[name] = None
        now = self._sim.market.now
        if not is_of_coin:
            self._begin(connection, name, kind, coin, now)
            return
        listed = self._coins[coin]
        if listed.is_delisted:
            return  # acknowledged, and silent for ever
        self._sources.join(connection, name, lambda: _source(kind, listed, interval, now))
        if kind == "trades":
            # Newest first, as in recentTrades; nothing tells it from news.
            self._send(connection, name, trades_frame(listed, listed.tape.trades[: -BACKLOG - 1 : -1]))
        if kind in ("l2Book", "bbo"):
            self._send(connection, name, book_frame(listed, now, kind))
        if kind == "candle":
            bar = listed.tape.bar(interval, floor_open(interval, now))
            if bar.trades:
                self._send(connection, name, candle_frame(listed, interval, bar))

    def _begin(self, connection: Connection, name: str, kind: str, of: str, now: int) -> None:
        """What is of no coin: prices of a dex (`of`), or what a user (`of`) does."""
        if kind == "allMids":
            coins = [coin for coin in self._coins.values() if coin.dex == of]
            self._sources.join(connection, name, lambda: _begun(mids(coins, now)))
            self._send(connection, name, mids_frame(coins, now))
            return
        self._sources.join(connection, name, lambda: _begun(of_users(now)))
        if kind == "userFills":
            self._send(connection, name, envelope(kind, {"isSnapshot": True, "user": of.lower(), "fills": []}))

    def _send(self, connection: Connection, name: str, frame: bytes) -> None:
        self._sim.send(connection, name, frame)
        self._clients[connection].spoken_at = trio.current_time()

    def tick(self, now: int) -> None:
        for name, source, subscribers in self._sources:
            for frame in source.send(now):
                for connection in subscribers:
                    self._send(connection, name, frame)
        real = trio.current_time()
        for connection, client in list(self._clients.items()):
            doomed = client.doomed_at is not None and real >= client.doomed_at
            if doomed or real - client.spoken_at >= self._options.idle:
                connection.reset()


def _source(kind: str, listed: Coin, interval: str, now: int) -> Source:
    match kind:
        case "trades":
            source = trades(listed, now)
        case "candle":
            source = candles(listed, interval, now)
        case "l2Book" | "bbo":
            source = books(listed, now, kind)
        case _:
            source = contexts(listed, now)
    return _begun(source)


def _begun(source: Source) -> Source:
    next(source)
    return source


def _count(times: deque[float], now: float) -> int:
    """How many within the last minute, this one included."""
    times.append(now)
    while times[0] <= now - 60:
        times.popleft()
    return len(times)


def _json(subscription: dict[str, Any]) -> str:
    return msgspec.json.encode(subscription).decode()


def _ack(method: str, subscription: dict[str, Any]) -> bytes:
    """The echo has defaults filled in."""
    return envelope("subscriptionResponse", {"method": method, "subscription": {**subscription, "fast": None}})


def _error(text: str) -> bytes:
    return envelope("error", text)
