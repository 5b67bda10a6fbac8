"""Binance's stream protocol, spoken to clients. No I/O.

Whatever is asked for is acknowledged, as the exchange does it; only what can exist is asked for upstream. A socket of
one tier is silent about the streams of the other; the retired paths carry both here.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec

from actors.decoding import UNREADABLE
from actors.exchanges.binance import wire
from actors.exchanges.binance.facade import WORDS, refuse
from actors.exchanges.dialect import Dialect, Follow, Heard, Talk
from actors.exchanges.facade import Asked, Refusal, Reply, Row, Series, View
from actors.exchanges.memory import Memory, Nothing
from actors.exchanges.sieves import Bar, Bars, Distinct, Found, Numbered, Remembered, Sieve
from actors.upstream.rest import Question

PATH = re.compile(r"(?:/(market|public))?/(ws|stream)(?:/(.*))?")
LISTEN_KEY = re.compile(r"\w{32,}")  # an account's stream; ccxt's own names such as `0` are short
METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
STREAMS_MAX = 1024  # of one socket
PUBLIC = re.compile(r"(trade|bookTicker|depth(5|10|20)?(@\d+ms)?|rpiDepth@500ms)")
ALL = frozenset(
    (
        *("!ticker@arr", "!miniTicker@arr", "!markPrice@arr", "!markPrice@arr@1s", "!forceOrder@arr"),
        *("!contractInfo", "!assetIndex@arr", "!bookTicker"),
    )
)

_encode = msgspec.json.encode
_decode = msgspec.json.decode


def tier_of(name: str) -> str:
    kind = name.partition("@")[2]
    return "public" if name == "!bookTicker" or PUBLIC.fullmatch(kind) else "market"


class BinanceTalk:
    def __init__(self, tier: str | None, names: Sequence[str], view: View, *, combined: bool) -> None:
        self._tier = tier
        self._view = view
        self._combined = combined
        self._first = names
        self._names: dict[str, None] = {}

    def begin(self) -> Heard:
        return self._join(self._first, ())

    def receive(self, message: str | bytes) -> Heard:
        """A control frame; its reply is never wrapped in an envelope."""
        try:
            order = _decode(message)
        except UNREADABLE:
            return _told({"code": 3, "msg": "Invalid JSON: expected value at line 1 column 1"})
        end = f"at line 1 column {len(message)}"
        if not isinstance(order, dict) or "method" not in order:
            return _told({"code": 2, "msg": f"Invalid request: missing field `method` {end}"})
        method, params, number = order["method"], order.get("params", []), order.get("id")
        if method not in METHODS:
            known = ", ".join(f"`{name}`" for name in METHODS)
            text = f"Invalid request: unknown variant `{str(method)[:100]}`, expected one of {known} {end}"
            return _told({"code": 2, "msg": text})
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            return _told({"code": 2, "msg": "Invalid request: request ID must be an unsigned integer"})
        if not isinstance(params, list):
            return _told({"code": 2, "msg": f"Invalid request: invalid type, expected a sequence {end}"})
        names = [name for name in params if isinstance(name, str)]
        done = _encode({"result": None, "id": number})
        match method:
            case "SUBSCRIBE":
                return self._join(names, (done,))
            case "UNSUBSCRIBE":
                left = [name for name in names if name in self._names]
                for name in left:
                    self._names.pop(name, None)
                return Heard((done,), left=left)
            case "LIST_SUBSCRIPTIONS":
                return _told({"result": list(self._names), "id": number})
            case _:
                return self._property(method == "SET_PROPERTY", params, number)

    def _join(self, names: Sequence[str], replies: Sequence[bytes]) -> Heard:
        fresh = [name for name in dict.fromkeys(names) if name not in self._names]
        self._names |= dict.fromkeys(fresh)
        if len(self._names) > STREAMS_MAX:
            return Heard(replies, closed=(1008, "Too many streams"))
        return Heard(replies, joined=[name for name in fresh if self._flows(name)])

    def _flows(self, name: str) -> bool:
        """Whether a stream can exist, and on this socket."""
        lower, _, kind = name.partition("@")
        symbol = lower.partition("_perpetual")[0] if kind.startswith("continuousKline_") else lower
        exists = name in ALL or bool(kind and symbol == symbol.lower() and self._view.lists(symbol.upper()))
        return exists and self._tier in (None, tier_of(name)) and self._view.streams(name)

    def _property(self, setting: bool, params: list[Any], number: int) -> Heard:
        if not params or not isinstance(params[0], str):
            return _told({"code": 2, "msg": "Invalid request: property name must be a string"})
        if len(params) > 1 + setting:
            return _told({"code": 2, "msg": "Invalid request: too many parameters"})
        if params[0] != "combined":
            return _told({"code": 0, "msg": "Unknown property", "id": number})
        if not setting:
            return _told({"result": self._combined, "id": number})
        if len(params) < 2 or not isinstance(params[1], bool):
            return _told({"code": 1, "msg": "Invalid value type: expected Boolean"})
        self._combined = params[1]
        return _told({"result": None, "id": number})

    def answered(self, asked: Asked, reply: Reply) -> bytes:
        raise NotImplementedError  # questions are none of this protocol's

    def wrap(self, name: str, frame: bytes) -> bytes:
        return b'{"stream":"%b","data":%b}' % (name.encode(), frame) if self._combined else frame


def _told(reply: dict[str, Any]) -> Heard:
    return Heard((_encode(reply),))


def talk(path: str, query: str, view: View) -> Talk | Reply:
    match = PATH.fullmatch(path)
    names = match[3] if match else None
    if match and match[2] == "stream":
        names = unquote(query).removeprefix("streams=")
    if path.startswith("/private") or any(LISTEN_KEY.fullmatch(name) for name in (names or "").split("/")):
        return refuse(Refusal("private", WORDS), view.now())
    if match is None:
        return refuse(Refusal("not_served", "", asked=Asked("GET", path, {})), view.now())
    tier, kind, _ = match.groups()
    if names and "," in names:
        return Reply(400, b"")
    return BinanceTalk(tier, [name for name in (names or "").split("/") if name], view, combined=kind == "stream")


def line_of(url: str, name: str) -> str | None:
    """The public tier is beside the market tier; where the URL has no tier nothing is known of another."""
    if tier_of(name) == "market":
        return f"{url}/stream"
    return f"{url.removesuffix('/market')}/public/stream" if url.endswith("/market") else None


def ask(subscribe: bool, names: Sequence[str], number: int) -> Sequence[str]:
    method = "SUBSCRIBE" if subscribe else "UNSUBSCRIBE"
    parts = [names[at : at + 50] for at in range(0, len(names), 50)]
    return [_encode({"method": method, "params": part, "id": number + at}).decode() for at, part in enumerate(parts)]


def read(frame: bytes) -> tuple[str, bytes] | None:
    """Frames come in the combined envelope; what is inside is passed on byte for byte."""
    if frame.startswith(b'{"stream":"'):
        name, quote, rest = frame[11:].partition(b'"')
        if quote and rest.startswith(b',"data":'):
            return name.decode("utf-8", "replace"), rest[8:-1]
    try:
        push = _combined(frame)  # it may be spelled with spaces, or the other way round
    except UNREADABLE:
        return None  # an answer to a request
    return push.stream, bytes(push.data)


class _Combined(msgspec.Struct):
    stream: str
    data: msgspec.Raw


_combined = msgspec.json.Decoder(_Combined).decode


def memory(name: str) -> Memory:
    return Nothing()


class _Bar(msgspec.Struct):
    """The `k` of a kline frame carries all twelve columns of REST."""

    opens: int = msgspec.field(name="t")
    closes: int = msgspec.field(name="T")
    open: str = msgspec.field(name="o")
    high: str = msgspec.field(name="h")
    low: str = msgspec.field(name="l")
    close: str = msgspec.field(name="c")
    volume: str = msgspec.field(name="v")
    quote: str = msgspec.field(name="q")
    trades: int = msgspec.field(name="n")
    taker: str = msgspec.field(name="V")
    taker_quote: str = msgspec.field(name="Q")
    ignored: str = msgspec.field(name="B")
    is_closed: bool = msgspec.field(name="x")


class _Kline(msgspec.Struct):
    bar: _Bar = msgspec.field(name="k")


_kline = msgspec.json.Decoder(_Kline).decode


def bars_name(series: Series) -> str:
    return f"{series.symbol.lower()}@kline_{series.interval}"


def bars(body: bytes) -> Sequence[tuple[Row, bool]]:
    try:
        bar = _kline(body).bar
    except UNREADABLE:
        return ()
    row = (
        *(bar.opens, bar.open, bar.high, bar.low, bar.close, bar.volume, bar.closes),
        *(bar.quote, bar.trades, bar.taker, bar.taker_quote, bar.ignored),
    )
    return ((Row(bar.opens, bar.closes + 1, _encode(row)), bar.is_closed),)


# --- streams that feeds follow ---

FOLLOWED = re.compile(r"([^@]+)@(?:(aggTrade)|(forceOrder)|(markPrice(?:@1s)?)|(kline|continuousKline)_(\w+))")
PERPETUAL = "_perpetual"


def follow(name: str) -> Follow | None:
    match = FOLLOWED.fullmatch(name)
    if match is None:
        return None
    lower, trades, orders, marks, bars, interval = match.groups()
    if trades:
        return Follow(lower.upper(), "trades", None, name, lambda: Numbered(_numbered))
    if orders:
        return Follow(lower.upper(), "liquidations", None, name, _distinct)
    if marks:
        every_third = None if marks.endswith("@1s") else _every_third_second
        return Follow(lower.upper(), "funding", None, f"{lower}@markPrice@1s", _distinct, every_third)
    if bars == "kline":
        return Follow(lower.upper(), "ohlc", interval, name, lambda: Bars(_bar))
    if not lower.endswith(PERPETUAL):
        return None
    pair = lower.removesuffix(PERPETUAL)
    return Follow(pair.upper(), "ohlc", interval, f"{pair}@kline_{interval}", lambda: Bars(_bar), _as_continuous)


class _Number(msgspec.Struct):
    number: int = msgspec.field(name="a")
    time: int = msgspec.field(name="T")


class _Pushed(msgspec.Struct):
    at: int = msgspec.field(name="E")


class _PushedBar(msgspec.Struct):
    at: int = msgspec.field(name="E")
    bar: _Bar = msgspec.field(name="k")


class _Whole(msgspec.Struct):
    at: int = msgspec.field(name="E")
    symbol: str = msgspec.field(name="s")
    bar: dict[str, msgspec.Raw] = msgspec.field(name="k")


_number = msgspec.json.Decoder(_Number).decode
_pushed = msgspec.json.Decoder(_Pushed).decode
_pushed_bar = msgspec.json.Decoder(_PushedBar).decode
_whole = msgspec.json.Decoder(_Whole).decode
_raw_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode


def _distinct() -> Sieve:
    return Remembered(Distinct())


def _numbered(frame: bytes) -> tuple[int, int]:
    trade = _number(frame)
    return trade.number, trade.time


def _bar(frame: bytes) -> Bar:
    push = _pushed_bar(frame)
    return Bar(push.bar.opens, push.bar.closes + 1, push.bar.is_closed, push.at, push.bar.opens)


def _every_third_second(frame: bytes) -> bytes | None:
    return frame if _pushed(frame).at // 1000 % 3 == 0 else None


def _as_continuous(frame: bytes) -> bytes:
    whole = _whole(frame)
    bar = {name: value for name, value in whole.bar.items() if name != "s"}
    told = {"e": "continuous_kline", "E": whole.at, "ps": whole.symbol, "ct": "PERPETUAL", "k": bar}
    return _encode(told)


def missed(question: Question, body: bytes) -> Sequence[tuple[str, Iterable[Found]]]:
    """Trades, and bars, without the numbers of their first and last trade, which REST does not tell."""
    symbol = question.query.get("symbol", "")
    try:
        match question.path:
            case "/fapi/v1/aggTrades":
                return ((f"{symbol.lower()}@aggTrade", [_missed_trade(bytes(row), symbol) for row in _raw_rows(body)]),)
            case "/fapi/v1/klines":
                interval = question.query.get("interval", "")
                rows = wire.decode_klines(body)
                return ((f"{symbol.lower()}@kline_{interval}", (_missed_bar(row, symbol, interval) for row in rows)),)
    except UNREADABLE:
        pass  # whoever asked says so
    return ()


def _missed_trade(row: bytes, symbol: str) -> Found:
    trade = _number(row)
    frame = b'{"e":"aggTrade","E":%d,"s":"%b",%b,"st":1}' % (trade.time, symbol.encode(), row.strip()[1:-1])
    return Found(trade.number, trade.time, frame)


def _missed_bar(row: wire.KlineRow, symbol: str, interval: str) -> Found:
    opens, first, high, low, last, volume, closes, quote, trades, taker, taker_quote, ignored = row
    bar = {
        **{"t": opens, "T": closes, "s": symbol, "i": interval, "f": -1, "L": -1},
        **{"o": first, "c": last, "h": high, "l": low, "v": volume, "n": trades, "x": True},
        **{"q": quote, "V": taker, "Q": taker_quote, "B": ignored},
    }
    return Found(opens, closes + 1, _encode({"e": "kline", "E": closes + 1, "s": symbol, "k": bar, "st": 1}))


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
    messages=(10, 10.0),
    ping_every=180.0,
)
