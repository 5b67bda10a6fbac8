"""Bybit's stream protocol, spoken to clients. No I/O.

Tickers and order books tell their state only to a subscriber, and changes after that: both are kept merged, so that
whoever joins begins with a whole snapshot.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from actors.decoding import UNREADABLE
from actors.errors import BadMessage
from actors.exchanges.bybit import wire
from actors.exchanges.bybit.facade import WORDS, parse
from actors.exchanges.bybit.normalise import OUR_INTERVALS, THEIR_INTERVALS
from actors.exchanges.dialect import Dialect, Follow, Heard, Talk
from actors.exchanges.facade import Asked, Reply, Row, Series, View
from actors.exchanges.memory import Memory, Nothing
from actors.exchanges.sieves import Bar, Bars, Distinct, Found, Identified, Remembered
from actors.upstream.rest import Question

PATH, PRIVATE = "/v5/public/linear", "/v5/private"
ARGS_MAX = 21_000  # characters of a connection's topics, written as one JSON array
DEPTHS = ("1", "50", "200", "1000")

_encode = msgspec.json.encode
_decode = msgspec.json.decode


class _Refused(Exception):
    """Raised with what `ret_msg` says."""


class BybitTalk:
    """`is_private`: of the path of accounts, where a client is told that nothing is served."""

    def __init__(self, view: View, *, is_private: bool = False) -> None:
        self._view = view
        self._is_private = is_private
        self._names: dict[str, None] = {}
        self._id = f"marketd-{id(self):x}"

    def begin(self) -> Heard:
        return Heard()

    def receive(self, message: str | bytes) -> Heard:
        reply: dict[str, Any] = {"success": True, "ret_msg": "", "conn_id": self._id, "req_id": ""}
        operation, joined, left = "", [], []
        try:
            order = _order(message)
            number = order.get("req_id", "")
            reply["req_id"] = number if isinstance(number, str) else str(number)
            operation = str(order.get("op", ""))[:100]
            match operation:
                case "ping":
                    reply["ret_msg"] = "pong"
                case "auth":
                    raise _Refused(WORDS)
                case "subscribe" if self._is_private:
                    raise _Refused(WORDS)
                case "subscribe":
                    joined = self._join(_args(order))
                case "unsubscribe":
                    left = [name for name in _args(order) if name in self._names]
                    for name in left:
                        self._names.pop(name, None)
                case _:
                    raise _Refused("error:invalid op")
        except _Refused as refusal:
            reply |= {"success": False, "ret_msg": str(refusal)}
        return Heard((_encode(reply | {"op": operation}),), joined=joined, left=left)

    def _join(self, names: list[str]) -> list[str]:
        """All of them or none."""
        fresh: dict[str, None] = {}
        for name in names:
            if name in self._names or name in fresh:
                raise _Refused(f"error:already subscribed,topic:{name[:200]}")
            if not (self._exists(name) and self._view.streams(name)):
                raise _Refused(f"error:handler not found,topic:{name[:200]}")
            fresh[name] = None
        if len(_encode([*self._names, *fresh])) > ARGS_MAX:
            raise _Refused(f"args length >{ARGS_MAX}")
        self._names |= fresh
        return list(fresh)

    def _exists(self, name: str) -> bool:
        match name.split("."):
            case ["kline", interval, symbol]:
                return interval in OUR_INTERVALS and self._view.lists(symbol)
            case ["orderbook", depth, symbol]:
                return depth in DEPTHS and self._view.lists(symbol)
            case ["publicTrade" | "tickers" | "allLiquidation" | "priceLimit", symbol]:
                return self._view.lists(symbol)
            case ["adlAlert" | "insurance", coin]:
                return coin in ("USDT", "USDC", "inverse")
        return False

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
        found = message[:1] if isinstance(message, str) else message[:1].decode("latin1")
        raise _Refused(f"Failed to decode incoming data:readObjectStart: expect {{ or n, but found {found}")
    return order


def _args(order: dict[str, Any]) -> list[str]:
    args = order.get("args", [])
    if not isinstance(args, list) or not all(isinstance(name, str) for name in args):
        raise _Refused("error:invalid args")
    return args


class Merged:
    """A ticker: its snapshot with all changes since."""

    def __init__(self) -> None:
        self._frame: dict[str, Any] | None = None

    def take(self, frame: bytes) -> bytes | None:
        told = _decode(frame)
        if told.get("type") == "snapshot" or self._frame is None:
            self._frame = told if told.get("type") == "snapshot" else None
        else:
            self._frame = {**told, "type": "snapshot", "data": {**self._frame["data"], **told["data"]}}
        return frame if self._frame is not None else None

    def greeting(self) -> Sequence[bytes]:
        return () if self._frame is None else (_encode(self._frame),)


class Levels:
    """A book: its levels by price, of which a size of 0 takes one away."""

    def __init__(self) -> None:
        self._frame: dict[str, Any] | None = None
        self._sides: dict[str, dict[str, str]] = {"b": {}, "a": {}}

    def take(self, frame: bytes) -> bytes | None:
        told = _decode(frame)
        if told.get("type") == "snapshot":
            self._sides = {"b": {}, "a": {}}
        elif self._frame is None:
            return None
        self._frame = told
        for side, levels in self._sides.items():
            for price, size in told["data"].get(side, ()):
                levels[price] = size
                if float(size) == 0:
                    del levels[price]
        return frame

    def greeting(self) -> Sequence[bytes]:
        if self._frame is None:
            return ()
        bids = sorted(self._sides["b"].items(), key=lambda level: -float(level[0]))
        asks = sorted(self._sides["a"].items(), key=lambda level: float(level[0]))
        data = {**self._frame["data"], "b": bids, "a": asks}
        return (_encode({**self._frame, "type": "snapshot", "data": data}),)


def talk(path: str, query: str, view: View) -> Talk | Reply:
    if path not in (PATH, PRIVATE):
        return Reply(404, b"")
    return BybitTalk(view, is_private=path == PRIVATE)


def line_of(url: str, name: str) -> str | None:
    return url


def ask(subscribe: bool, names: Sequence[str], number: int) -> Sequence[str]:
    """One topic a frame: one that is refused would take the others with it."""
    operation = "subscribe" if subscribe else "unsubscribe"
    orders = [{"req_id": str(number + at), "op": operation, "args": [name]} for at, name in enumerate(names)]
    return [_encode(order).decode() for order in orders]


class _Push(msgspec.Struct):
    topic: str
    type: str = ""


_topic = msgspec.json.Decoder(_Push).decode


def read(frame: bytes) -> tuple[str, bytes] | None:
    try:
        return _topic(frame).topic, frame
    except UNREADABLE:
        return None  # an answer to a request


PUSH, TICKERS = b'{"topic":"', b'{"topic":"tickers.'  # how frames begin, as they are usually spelled


def glance(frame: bytes) -> tuple[bytes, int | None, bool] | None:
    """Changes of a ticker count from its snapshot on."""
    if frame.startswith(TICKERS):
        end = frame.find(b'"', len(TICKERS))
        if frame.startswith(b',"type":"', end + 1):
            return frame[len(TICKERS) : end], None, frame.startswith(b'snapshot"', end + 9)
    elif frame.startswith(PUSH):
        return None
    try:
        push = _topic(frame)  # the order of its keys varies
    except UNREADABLE:
        return None
    kind, _, symbol = push.topic.partition(".")
    return (symbol.encode(), None, push.type == "snapshot") if kind == "tickers" else None


def memory(name: str) -> Memory:
    if name.startswith("tickers."):
        return Merged()
    return Levels() if name.startswith("orderbook.") else Nothing()


class _Bar(msgspec.Struct):
    start: int
    end: int
    open: str
    high: str
    low: str
    close: str
    volume: str
    turnover: str
    confirm: bool


class _Klines(msgspec.Struct):
    data: list[_Bar]


_klines = msgspec.json.Decoder(_Klines).decode


def bars_name(series: Series) -> str:
    return f"kline.{THEIR_INTERVALS[series.interval]}.{series.symbol}"


def bars(body: bytes) -> Sequence[tuple[Row, bool]]:
    try:
        told = _klines(body).data
    except UNREADABLE:
        return ()
    found = []
    for bar in told:
        row = (str(bar.start), bar.open, bar.high, bar.low, bar.close, bar.volume, bar.turnover)
        found.append((Row(bar.start, bar.end + 1, _encode(row)), bar.confirm))
    return found


# --- streams that feeds follow ---


def follow(name: str) -> Follow | None:
    match name.split("."):
        case ["publicTrade", symbol]:
            return Follow(symbol, "trades", None, name, lambda: Identified(_identified, _without))
        case ["kline", interval, symbol] if interval in OUR_INTERVALS:
            return Follow(symbol, "ohlc", OUR_INTERVALS[interval], name, lambda: Bars(_bar))
        case ["tickers", symbol]:
            return Follow(symbol, "oi", None, name, lambda: Remembered(Merged()), is_kept=True)
        case ["allLiquidation", symbol]:
            return Follow(symbol, "liquidations", None, name, lambda: Remembered(Distinct()))
    return None


class _Trade(msgspec.Struct):
    number: str = msgspec.field(name="i")
    time: int = msgspec.field(name="T")


class _Trades(msgspec.Struct):
    data: list[_Trade]


class _Pushed(msgspec.Struct):
    ts: int
    data: list[_Bar]


class _Missed(msgspec.Struct):
    """{"execId":"9afd1288-...","symbol":"BTCUSDT","price":"51444.40","size":"0.972","side":"Buy","time":"1707905515968",
    "isBlockTrade":false,"isRPITrade":false,"seq":"123456"}"""

    id: str = msgspec.field(name="execId")
    price: str
    size: str
    side: str
    time: str
    is_block: bool = msgspec.field(name="isBlockTrade", default=False)
    is_rpi: bool = msgspec.field(name="isRPITrade", default=False)
    seq: str = ""


class _MissedTrades(msgspec.Struct):
    rows: list[_Missed] = msgspec.field(name="list")  # newest first


_trades = msgspec.json.Decoder(_Trades).decode
_pushed = msgspec.json.Decoder(_Pushed).decode
_missed_trades = msgspec.json.Decoder(_MissedTrades).decode


def _identified(frame: bytes) -> Sequence[tuple[str, int]]:
    return [(trade.number, trade.time) for trade in _trades(frame).data]


def _without(frame: bytes, known: frozenset[str]) -> bytes:
    told = _decode(frame)
    return _encode({**told, "data": [row for row in told["data"] if row["i"] not in known]})


def _bar(frame: bytes) -> Bar:
    push = _pushed(frame)
    bar = push.data[-1]
    return Bar(bar.start, bar.end + 1, bar.confirm, push.ts, push.data[0].start)


def missed(question: Question, body: bytes) -> Sequence[tuple[str, Iterable[Found]]]:
    """Trades, without the direction of their tick, which REST does not tell; and bars."""
    symbol = question.query.get("symbol", "")
    try:
        match question.path:
            case "/v5/market/recent-trade":
                rows = _missed_trades(wire.decode_answer(body).result).rows
                return ((f"publicTrade.{symbol}", [_missed_trade(row, symbol) for row in reversed(rows)]),)
            case "/v5/market/kline":
                interval = question.query.get("interval", "")
                found = parse(Series(symbol, OUR_INTERVALS[interval]), body)
                return ((f"kline.{interval}.{symbol}", [_missed_bar(row, symbol, interval) for row in found]),)
    except (*UNREADABLE, BadMessage, KeyError):
        pass  # whoever asked says so
    return ()


def _missed_trade(row: _Missed, symbol: str) -> Found:
    at = int(row.time)
    trade = {"T": at, "s": symbol, "S": row.side, "v": row.size, "p": row.price, "i": row.id}
    trade |= {"BT": row.is_block, "RPI": row.is_rpi, **({"seq": int(row.seq)} if row.seq else {})}
    frame = {"topic": f"publicTrade.{symbol}", "type": "snapshot", "ts": at, "data": [trade]}
    return Found(row.id, at, _encode(frame))


def _missed_bar(row: Row, symbol: str, interval: str) -> Found:
    _, first, high, low, last, volume, turnover = _decode(row.text)
    bar = {"start": row.time, "end": row.end - 1, "interval": interval, "open": first, "close": last, "high": high}
    bar |= {"low": low, "volume": volume, "turnover": turnover, "confirm": True, "timestamp": row.end}
    frame = {"topic": f"kline.{interval}.{symbol}", "data": [bar], "ts": row.end, "type": "snapshot"}
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
    glance=glance,
    heartbeat='{"op":"ping"}',
)
