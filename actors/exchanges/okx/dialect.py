"""OKX's stream protocol, spoken to clients. No I/O.

A stream is called by its channel and what it is about: `trades:BTC-USDT-SWAP`, `liquidation-orders:SWAP`. Each argument
of a request is answered by itself. Order books tell their state only to a subscriber, and changes after that: they are
kept merged, so that whoever joins begins with a whole one.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from actors.decoding import UNREADABLE
from actors.errors import BadMessage
from actors.events import Kind, bar_end, from_ms, ms
from actors.exchanges.dialect import Dialect, Follow, Heard, Talk
from actors.exchanges.facade import Asked, Reply, Row, Series, View
from actors.exchanges.memory import Latest, Memory, Nothing
from actors.exchanges.okx import wire
from actors.exchanges.okx.facade import WORDS, parse
from actors.exchanges.okx.normalise import OUR_INTERVALS, THEIR_INTERVALS
from actors.exchanges.sieves import Bar, Bars, Found, Identified, Remembered
from actors.upstream.rest import Question

BASE = "/ws/v5/"
TIERS = ("public", "business")
BOOKS = ("books", "books-rpi")  # of which only a subscriber is told the whole
STATES = ("tickers", "funding-rate", "open-interest", "mark-price", "price-limit", "books5", "bbo-tbt")
BY_TYPE = ("liquidation-orders", "instruments", "adl-warning")
FOLLOWED: Mapping[str, Kind] = {"funding-rate": "funding", "mark-price": "funding", "open-interest": "oi"}
OTHER_BARS = ("1s", "2D", "3D", "5D", "3M", "6H", "12H", "1D", "1W", "1M")  # of the exchange's, that no feed has
ARGS_BYTES = 64 << 10  # of one request
PER_FRAME = 60  # arguments, of ours

_encode = msgspec.json.encode
_decode = msgspec.json.decode


class _Refused(Exception):
    """Raised with a code and what `msg` says."""


def name_of(arg: Mapping[str, Any]) -> str:
    return f"{arg.get('channel', '')}:{arg.get('instId') or arg.get('instType') or ''}"


def arg_of(name: str) -> dict[str, str]:
    channel, _, about = name.partition(":")
    return {"channel": channel, "instType" if channel in BY_TYPE else "instId": about}


def tier_of(channel: str) -> str:
    is_business = channel.startswith("candle") or channel == "trades-all"
    return "business" if is_business else "public"


class OkxTalk:
    def __init__(self, view: View, tier: str) -> None:
        self._view, self._tier = view, tier
        self._names: dict[str, None] = {}
        self._id = f"{id(self) & 0xFFFFFFFF:08x}"

    def begin(self) -> Heard:
        return Heard()

    def receive(self, message: str | bytes) -> Heard:
        if message in ("ping", b"ping"):
            return Heard((b"pong",))
        number: dict[str, Any] = {}
        try:
            order = _order(message)
            if "id" in order:
                number["id"] = order["id"]
            operation = order.get("op")
            if operation == "login":
                raise _Refused("60009", f"Login failed: {WORDS}")
            if operation not in ("subscribe", "unsubscribe"):
                raise _Refused("60012", f"Invalid request: {str(order)[:200]}")
            args = _args(order)
        except _Refused as refusal:
            return Heard((self._error(number, *refusal.args),))
        replies, changed = list[bytes](), list[str]()
        for arg in args:
            name, connection = name_of(arg), {"connId": self._id}
            if operation == "subscribe" and not self._exists(arg, name):
                about = f",instId:{arg['instId']}" if "instId" in arg else ""
                text = (
                    f"Wrong URL or channel:{arg['channel']}{about} doesn't exist. Please use the correct URL, channel"
                )
                replies.append(self._error(number, "60018", f"{text} and parameters referring to API document."[:500]))
                continue
            replies.append(_encode({**number, "event": operation, "arg": arg, **connection}))
            if (name in self._names) == (operation == "unsubscribe"):
                changed.append(name)
                if operation == "subscribe":
                    self._names[name] = None
                else:
                    del self._names[name]
        is_joining = operation == "subscribe"
        return Heard(replies, joined=changed if is_joining else (), left=() if is_joining else changed)

    def _error(self, number: Mapping[str, Any], code: str, message: str) -> bytes:
        return _encode({**number, "event": "error", "code": code, "msg": message, "connId": self._id})

    def _exists(self, arg: Mapping[str, Any], name: str) -> bool:
        channel, _, about = name.partition(":")
        if tier_of(channel) != self._tier or not self._view.streams(name):
            return False
        if channel in BY_TYPE:
            return about == "SWAP"
        bar = channel.removeprefix("candle")
        is_known = channel in (*BOOKS, *STATES, "trades", "trades-all")
        is_bar = channel.startswith("candle") and (bar in OUR_INTERVALS or bar.removesuffix("utc") in OTHER_BARS)
        return (is_known or is_bar) and self._view.lists(about)

    def answered(self, asked: Asked, reply: Reply) -> bytes:
        raise NotImplementedError  # questions are none of this protocol's

    def wrap(self, name: str, frame: bytes) -> bytes:
        return frame


def _order(message: str | bytes) -> dict[str, Any]:
    try:
        order = _decode(message)
    except UNREADABLE:
        order = None
    if not isinstance(order, dict):
        text = message if isinstance(message, str) else message.decode(errors="replace")
        raise _Refused("60012", f"Illegal request: {text[:200]}")
    return order


def _args(order: Mapping[str, Any]) -> list[dict[str, str]]:
    try:
        args = msgspec.convert(order.get("args"), list[dict[str, str]])
    except msgspec.ValidationError:
        args = []
    if not args or len(_encode(args)) > ARGS_BYTES or not all("channel" in arg for arg in args):
        raise _Refused("60013", "Invalid args")
    return args


class Levels:
    """A book: its levels by price, of which a size of 0 takes one away."""

    def __init__(self) -> None:
        self._frame: dict[str, Any] | None = None
        self._sides: dict[str, dict[str, list[str]]] = {}

    def take(self, frame: bytes) -> bytes | None:
        told = _decode(frame)
        if told.get("action") == "snapshot":
            self._sides = {"bids": {}, "asks": {}}
        elif self._frame is None:
            return None
        self._frame = told
        for row in told["data"]:
            for side, levels in self._sides.items():
                for level in row.get(side, ()):
                    levels[level[0]] = level
                    if float(level[1]) == 0:
                        del levels[level[0]]
        return frame

    def greeting(self) -> Sequence[bytes]:
        if self._frame is None:
            return ()
        bids = sorted(self._sides["bids"].values(), key=lambda level: -float(level[0]))
        asks = sorted(self._sides["asks"].values(), key=lambda level: float(level[0]))
        whole = {**self._frame["data"][-1], "bids": bids, "asks": asks}
        if "prevSeqId" in whole:
            whole["prevSeqId"] = -1
        return (_encode({**self._frame, "action": "snapshot", "data": [whole]}),)


def talk(path: str, query: str, view: View) -> Talk | Reply:
    tier = path.removeprefix(BASE)
    if path.startswith(BASE) and tier in TIERS:
        return OkxTalk(view, tier)
    return Reply(401, WORDS.encode(), "text/plain") if path == f"{BASE}private" else Reply(404, b"")


def line_of(url: str, name: str) -> str | None:
    return f"{url}/{tier_of(name.partition(':')[0])}"


def ask(subscribe: bool, names: Sequence[str], number: int) -> Sequence[str]:
    """A connection may send 480 requests an hour: many arguments a request. What does not exist was refused here."""
    operation = "subscribe" if subscribe else "unsubscribe"
    parts = [names[at : at + PER_FRAME] for at in range(0, len(names), PER_FRAME)]
    return [_encode({"op": operation, "args": [arg_of(name) for name in part]}).decode() for part in parts]


class _Push(msgspec.Struct):
    arg: wire.Arg
    data: msgspec.Raw
    event: str = ""


_push = msgspec.json.Decoder(_Push).decode


def read(frame: bytes) -> tuple[str, bytes] | None:
    try:
        push = _push(frame)
    except UNREADABLE:
        return None  # a pong, or an answer to a request
    return None if push.event else (f"{push.arg.channel}:{push.arg.symbol or push.arg.instrument_type}", frame)


def memory(name: str) -> Memory:
    channel = name.partition(":")[0]
    if channel in BOOKS:
        return Levels()
    return Latest() if channel in STATES or channel.startswith("candle") else Nothing()


# --- bars ---


class _Bars(msgspec.Struct):
    arg: wire.Arg
    data: list[msgspec.Raw]


_bars = msgspec.json.Decoder(_Bars).decode
_candle = msgspec.json.Decoder(wire.CandleRow).decode


def bars_name(series: Series) -> str:
    return f"candle{THEIR_INTERVALS[series.interval]}:{series.symbol}"


def bars(body: bytes) -> Sequence[tuple[Row, bool]]:
    try:
        told = _bars(body)
        interval = OUR_INTERVALS[told.arg.channel.removeprefix("candle")]
        found = []
        for raw in told.data:
            row = _candle(raw)
            opening = int(row[0])
            found.append((Row(opening, ms(bar_end(from_ms(opening), interval)), bytes(raw)), row[8] == "1"))
    except (*UNREADABLE, BadMessage, KeyError, ValueError):
        return ()
    return found


def _bar(frame: bytes) -> Bar:
    """The last one of a frame: a second one before it is the closed one that it follows."""
    told = bars(frame)
    row, is_closed = told[-1]
    return Bar(row.time, row.end, is_closed, 0, told[0][0].time)


# --- streams that feeds follow ---


def follow(name: str) -> Follow | None:
    channel, _, symbol = name.partition(":")
    if channel == "trades":
        return Follow(symbol, "trades", None, name, lambda: Identified(_fills, _without))
    if channel in FOLLOWED:
        return Follow(symbol, FOLLOWED[channel], None, name, lambda: Remembered(Latest()))
    interval = OUR_INTERVALS.get(channel.removeprefix("candle")) if channel.startswith("candle") else None
    return None if interval is None else Follow(symbol, "ohlc", interval, name, lambda: Bars(_bar, greets=True))


class _Trades(msgspec.Struct):
    data: list[wire.Trade]


_trades = msgspec.json.Decoder(_Trades).decode


def _ids(row: wire.Trade) -> range:
    """Of the fills that a row tells: REST tells each by itself."""
    return range(int(row.id) - max(1, int(row.count or 1)) + 1, int(row.id) + 1)


def _fills(frame: bytes) -> Sequence[tuple[str, int]]:
    return [(str(number), int(row.time)) for row in _trades(frame).data for number in _ids(row)]


def _without(frame: bytes, known: frozenset[str]) -> bytes:
    told = _decode(frame)
    return _encode({**told, "data": [row for row in told["data"] if row["tradeId"] not in known]})


def missed(question: Question, body: bytes) -> Sequence[tuple[str, Iterable[Found]]]:
    """Trades, each fill by itself as REST tells them, and bars."""
    symbol = question.query.get("instId", "")
    try:
        match question.path.rpartition("/")[2]:
            case "trades" | "history-trades":
                rows = wire.decode_raws(wire.decode_answer(body).data)
                return ((f"trades:{symbol}", [_missed_trade(raw, symbol) for raw in reversed(rows)]),)
            case "candles" | "history-candles":
                bar = question.query.get("bar", "")
                found = parse(Series(symbol, OUR_INTERVALS[bar]), body)
                return ((f"candle{bar}:{symbol}", [_missed_bar(row, symbol, bar) for row in found]),)
    except (*UNREADABLE, BadMessage, KeyError, ValueError):
        pass  # whoever asked says so
    return ()


def _missed_trade(raw: msgspec.Raw, symbol: str) -> Found:
    row = _decode(raw)
    frame = {"arg": {"channel": "trades", "instId": symbol}, "data": [{**row, "count": "1"}]}
    return Found(row["tradeId"], int(row["ts"]), _encode(frame))


def _missed_bar(row: Row, symbol: str, bar: str) -> Found:
    values = [*_decode(row.text)[:8], "1"]
    frame = {"arg": {"channel": f"candle{bar}", "instId": symbol}, "data": [values]}
    return Found(row.time, row.end, _encode(frame))


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
    heartbeat="ping",
    messages=(480, 1.0),  # the exchange's count is 480 an hour, pings apart
    idle=30.0,
)
