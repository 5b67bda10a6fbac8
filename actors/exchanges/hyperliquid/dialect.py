"""Hyperliquid's stream protocol, spoken to clients. No I/O.

Asked for a name that it does not know, the exchange cuts the whole connection: here one client is told so, and the line
that others share is left alone.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import msgspec

from actors.decoding import UNREADABLE
from actors.exchanges.dialect import Dialect, Follow, Heard, Talk
from actors.exchanges.facade import Asked, Reply, Row, Series, View
from actors.exchanges.hyperliquid.facade import TEXT, WORDS
from actors.exchanges.hyperliquid.subscriptions import CHANNELS, EVENTS, OF_USERS, end_of, name_of, subscription_of
from actors.exchanges.memory import Latest, Memory, Nothing, Replayed
from actors.exchanges.sieves import Bar, Bars, Found, Remembered
from actors.upstream.rest import Question

BACKLOG = 30  # trades that a newcomer is told
FILLED = {"l2Book": {"nSigFigs": None, "mantissa": None}}  # what an acknowledgement adds to what was sent

_encode = msgspec.json.encode
_decode = msgspec.json.decode


class HyperliquidTalk:
    def __init__(self, view: View) -> None:
        self._view = view
        self._names: dict[str, None] = {}

    def begin(self) -> Heard:
        return Heard()

    def receive(self, message: str | bytes) -> Heard:
        try:
            order = _decode(message)
            method = order["method"]
            if method == "ping":
                return Heard((b'{"channel":"pong"}',))
            if method == "post":
                return self._post(order["id"], order["request"])
            subscription = order["subscription"]
            name = name_of(subscription)
        except (*UNREADABLE, TypeError, KeyError, AttributeError):
            name = method = None
        if name is None or method not in ("subscribe", "unsubscribe"):
            text = message if isinstance(message, str) else message.decode(errors="replace")
            return _failed(f"Error parsing JSON into valid websocket request: {text[:1000]}")
        told = _encode(subscription).decode()
        coin = subscription.get("coin")
        if (coin is not None and not self._view.lists(coin)) or not self._view.streams(name):
            return _failed(f"Invalid subscription {told[:1000]}")
        if method == "subscribe":
            if name in self._names:
                return _failed(f"Already subscribed: {told}")
            self._names[name] = None
            return Heard((_acknowledged(method, subscription),), joined=(name,))
        if name not in self._names:
            return _failed(f"Already unsubscribed: {told}")
        del self._names[name]
        return Heard((_acknowledged(method, subscription),), left=(name,))

    def _post(self, number: Any, request: dict[str, Any]) -> Heard:
        """An info question over the socket; what is signed is refused."""
        if not isinstance(number, int) or isinstance(number, bool):
            raise KeyError("id")
        if request["type"] != "info":
            return Heard((_posted(number, {"type": "error", "payload": WORDS}),))
        asked = Asked("POST", "/info", {"id": str(number)}, _encode(request["payload"]))
        return Heard(question=asked)

    def answered(self, asked: Asked, reply: Reply) -> bytes:
        number = int(asked.query["id"])
        if reply.status != 200:
            text = reply.body.decode("utf-8", "replace")
            return _posted(number, {"type": "error", "payload": f"{reply.status}: {text}"})
        payload = {"type": _decode(asked.body)["type"], "data": msgspec.Raw(reply.body)}
        return _posted(number, {"type": "info", "payload": payload})

    def wrap(self, name: str, frame: bytes) -> bytes:
        return frame


def _acknowledged(method: str, subscription: dict[str, Any]) -> bytes:
    filled = FILLED.get(subscription["type"], {}) | subscription
    return _encode({"channel": "subscriptionResponse", "data": {"method": method, "subscription": filled}})


def _failed(text: str) -> Heard:
    return Heard((_encode({"channel": "error", "data": text}),))


def _posted(number: int, response: dict[str, Any]) -> bytes:
    return _encode({"channel": "post", "data": {"id": number, "response": response}})


class Trades:
    """Each trade once: a subscription begins with a backlog, the line's own after every reconnect too."""

    def __init__(self) -> None:
        self._rows: deque[msgspec.Raw] = deque(maxlen=BACKLOG)
        self._told: dict[tuple[int, int], None] = {}

    def take(self, frame: bytes) -> bytes | None:
        rows = [row for row in _trades(frame).data if self._is_new(row)]
        self._rows.extend(rows)
        return _encode({"channel": "trades", "data": rows}) if rows else None

    def _is_new(self, row: msgspec.Raw) -> bool:
        trade = _trade(row)
        key = trade.time, trade.tid
        if key in self._told:
            return False
        self._told[key] = None
        if len(self._told) > 5000:
            del self._told[next(iter(self._told))]
        return True

    def greeting(self) -> Sequence[bytes]:
        return (_encode({"channel": "trades", "data": list(self._rows)}),) if self._rows else ()


class _Trades(msgspec.Struct):
    data: list[msgspec.Raw]


class _Trade(msgspec.Struct):
    time: int
    tid: int


class _Of(msgspec.Struct):
    coin: str | None = None
    s: str | None = None
    i: str | None = None


class _Push(msgspec.Struct):
    channel: str
    data: msgspec.Raw = msgspec.Raw()


class _Snapshot(msgspec.Struct):
    is_snapshot: bool = msgspec.field(name="isSnapshot", default=False)


_snapshot = msgspec.json.Decoder(_Snapshot).decode
_trades = msgspec.json.Decoder(_Trades).decode
_trade = msgspec.json.Decoder(_Trade).decode
_push = msgspec.json.Decoder(_Push).decode
_of = msgspec.json.Decoder(_Of).decode
_ofs = msgspec.json.Decoder(list[_Of]).decode


def read(frame: bytes) -> tuple[str, bytes] | None:
    try:
        push = _push(frame)
        match push.channel:
            case "allMids":
                return "allMids", frame
            case "trades":
                rows = _ofs(push.data)
                return (f"trades {rows[0].coin}", frame) if rows else None
            case "candle":
                bar = _of(push.data)
                return f"candle {bar.s} {bar.i}", frame
            case "activeAssetCtx" | "l2Book" | "bbo" | "activeAssetData":
                return f"{push.channel} {_of(push.data).coin}", frame
            case channel if (kind := CHANNELS.get(channel, channel)) in OF_USERS:
                return kind, frame
    except UNREADABLE:
        pass
    return None


# How frames begin, as they are usually spelled.
PUSH, TRADES = b'{"channel":"', b'{"channel":"trades","data":[{"coin":"'
CANDLE = b'{"channel":"candle","data":{"t":'  # 1790358600000,"T":1790358659999,"s":"BTC","i":"1m","o":
OF_CANDLE = b',"s":"'
CONTEXT = b'{"channel":"activeAssetCtx","data":{"coin":"'


def glance(frame: bytes) -> tuple[bytes, int | None, bool] | None:
    """Of trades the last thirty, one a frame at least; all else is said by the last frame alone."""
    if frame.startswith(TRADES):
        return frame[len(TRADES) : frame.find(b'"', len(TRADES))], BACKLOG, False
    if frame.startswith(CANDLE) and frame.startswith(OF_CANDLE, 63):
        return frame[69 : frame.find(b',"o"', 69)], 1, False
    if frame.startswith(CONTEXT):
        return frame[12 : frame.find(b'"', len(CONTEXT))], 1, False
    if frame.startswith(PUSH) and not frame.startswith((b"trades", b"candle", b"active"), len(PUSH)):
        return None
    told = read(frame)
    kind = told[0].partition(" ")[0] if told is not None else ""
    if told is None or kind not in ("trades", "candle", "activeAssetCtx"):
        return None
    return told[0].encode(), BACKLOG if kind == "trades" else 1, False


def talk(path: str, query: str, view: View) -> Talk | Reply:
    return HyperliquidTalk(view) if path == "/ws" else Reply(404, b"", TEXT)


def line_of(url: str, name: str) -> str | None:
    end = end_of(name)
    return f"{url}#{end}" if end else url


def ask(subscribe: bool, names: Sequence[str], number: int) -> Sequence[str]:
    method = "subscribe" if subscribe else "unsubscribe"
    return [_encode({"method": method, "subscription": subscription_of(name)}).decode() for name in names]


def memory(name: str) -> Memory:
    kind = name.partition(" ")[0]
    if kind in EVENTS:
        return Nothing()
    if kind in OF_USERS and kind.startswith("user"):
        return Replayed(_begins)
    return Trades() if kind == "trades" else Latest()


def _begins(frame: bytes) -> bool:
    try:
        return _snapshot(_push(frame).data).is_snapshot
    except UNREADABLE:
        return False


class _Span(msgspec.Struct):
    t: int
    T: int


_span = msgspec.json.Decoder(_Span).decode


def bars_name(series: Series) -> str:
    return f"candle {series.symbol} {series.interval}"


def bars(body: bytes) -> Sequence[tuple[Row, bool]]:
    """A frame's `data` is REST's row; none is said to be the last of its bar."""
    try:
        raw = _push(body).data
        span = _span(raw)
    except UNREADABLE:
        return ()
    return ((Row(span.t, span.T + 1, bytes(raw)), False),)


# --- streams that feeds follow ---


def follow(name: str) -> Follow | None:
    match name.split(" "):
        case ["trades", coin]:
            return Follow(coin, "trades", None, name, lambda: Remembered(Trades()), is_kept=True)
        case ["activeAssetCtx", coin]:
            return Follow(coin, "funding", None, name, lambda: Remembered(Latest()), is_kept=True)
        case ["candle", coin, interval]:
            bars = partial(Bars, _bar, has_holes=True, greets=True)
            return Follow(coin, "ohlc", interval, name, bars, is_kept=True)
    return None


class _Candle(msgspec.Struct):
    data: _Span


class _Wanted(msgspec.Struct):
    coin: str
    interval: str


class _Asked(msgspec.Struct):
    type: str
    req: _Wanted | None = None


_candle = msgspec.json.Decoder(_Candle).decode
_asked = msgspec.json.Decoder(_Asked).decode
_raw_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode


def _bar(frame: bytes) -> Bar:
    span = _candle(frame).data
    return Bar(span.t, span.T + 1, False, 0, span.t)


def missed(question: Question, body: bytes) -> Sequence[tuple[str, Iterable[Found]]]:
    """Bars. Trades come again with the subscription."""
    try:
        asked = _asked(question.body)
        if asked.type == "candleSnapshot" and asked.req is not None:
            rows = [(_span(raw), bytes(raw)) for raw in _raw_rows(body)]
            found = [Found(span.t, span.T + 1, b'{"channel":"candle","data":%b}' % raw) for span, raw in rows]
            return ((f"candle {asked.req.coin} {asked.req.interval}", found),)
    except UNREADABLE:
        pass  # whoever asked says so, or it is no question about bars
    return ()


DIALECT = Dialect(
    talk=talk,
    line_of=line_of,
    ask=ask,
    read=read,
    memory=memory,
    bars_name=bars_name,
    bars=bars,
    follow=follow,
    missed=missed,
    glance=glance,
    heartbeat='{"method":"ping"}',
    idle=60.0,
)
