"""One connection to Bybit's linear stream: which frames to send, what received frames say. No I/O.

Several of our topics may ride on one of theirs (`tickers` carries funding and open interest): it is asked for with the
first and ended with the last. One bad topic makes Bybit refuse its whole frame, naming only the first offender: the
others are asked for again.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from sys import intern
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from actors.decoding import decode, moment, priced
from actors.errors import BadMessage, UnknownMessage
from actors.events import Event, Instrument, Kind, Ohlc, Topic
from actors.exchanges.bybit import wire
from actors.exchanges.bybit.normalise import (
    NAME,
    OUR_INTERVALS,
    THEIR_INTERVALS,
    funding,
    judged,
    liquidation,
    merged,
    ohlc,
    open_interest,
    trade,
)
from actors.exchanges.exchange import BadPush, Rejected, Update
from actors.exchanges.shapes import DIGITS, UNLIKE, Shapes

TRADES, BARS = b'{"topic":"publicTrade.', b'{"topic":"kline.'  # how their frames begin
TRADES_SYMBOL = len("publicTrade.")
TOLD_ONCE: dict[bytes, Kind] = {b"publicTrade": "trades", b"allLiquidation": "liquidations"}  # no later push says it
OF_TOLD_ONCE = re.compile(rb'"topic"\s*:\s*"(publicTrade|allLiquidation)\.([A-Z0-9-]{1,40})"')
NOTHING_NEW = wire.Ticker()  # of what is ours: most deltas are about the book's best prices
OFFENDER = re.compile(r"^error:(.*),topic:(\S+)$")


def stream_name(topic: Topic) -> str:
    """Bybit's topic that carries ours."""
    match topic.kind:
        case "ohlc":
            return f"kline.{THEIR_INTERVALS[topic.interval or '']}.{topic.symbol}"
        case "trades":
            return f"publicTrade.{topic.symbol}"
        case "liquidations":
            return f"allLiquidation.{topic.symbol}"
        case "funding" | "oi":
            return f"tickers.{topic.symbol}"
        case _:
            raise ValueError(f"Bybit pushes no {topic.kind}")


@lru_cache(maxsize=1 << 12)
def bars_of(topic: str) -> tuple[str, str]:
    """The symbol and the interval of `kline.1.BTCUSDT`."""
    kind, _, rest = topic.partition(".")
    theirs, _, symbol = rest.partition(".")
    interval = OUR_INTERVALS.get(theirs)
    if kind != "kline" or interval is None:
        raise BadMessage(f"unknown kline interval {theirs[:10]!r}")
    return intern(symbol), interval


class _Known(NamedTuple):
    """Of a symbol's ticker: the deltas so far, merged, and what they say."""

    ticker: wire.Ticker
    instrument: Instrument | None
    events: list[Event]


class BybitSession:
    def __init__(self, instruments: Mapping[str, Instrument]) -> None:
        self._instruments = instruments
        self._carried: dict[str, dict[Topic, None]] = {}  # their topic -> those of ours that ride on it
        self._doubted: set[str] = set()  # shared ones that a rider left: asked for again, they are to be renewed
        self._asked: dict[str, list[str]] = {}  # request id -> their topics
        self._tickers: dict[str, _Known] = {}  # by symbol
        self._requests = 0
        self._shapes = Shapes()

    def subscribe(self, topics: Sequence[Topic]) -> list[str]:
        names: dict[str, None] = {}
        renewed: dict[str, None] = {}
        for topic in topics:
            name = stream_name(topic)
            if name not in self._carried:
                names[name] = None
            elif name in self._doubted:
                self._doubted.discard(name)
                names[name] = renewed[name] = None
            self._carried.setdefault(name, {})[topic] = None
        frames = [self._unsubscribe(list(renewed))] if renewed else []
        if names:
            self._requests += 1
            self._asked[str(self._requests)] = list(names)
            frames.append(_request("subscribe", self._requests, list(names)))
        return frames

    def unsubscribe(self, topics: Sequence[Topic]) -> list[str]:
        ended = []
        for topic in topics:
            name = stream_name(topic)
            riders = self._carried.get(name, {})
            if topic not in riders:
                continue
            del riders[topic]
            if riders:
                self._doubted.add(name)
            else:
                self._forget(name)
                ended.append(name)
        return [self._unsubscribe(ended)] if ended else []

    def _unsubscribe(self, names: list[str]) -> str:
        for name in names:
            self._tickers.pop(name.removeprefix("tickers."), None)
        self._requests += 1
        return _request("unsubscribe", self._requests, names)

    def _forget(self, name: str) -> tuple[Topic, ...]:
        """Their topic is not subscribed any more; returns those of ours that rode on it."""
        self._doubted.discard(name)
        return tuple(self._carried.pop(name, ()))

    def unacknowledged(self) -> Sequence[Topic]:
        return ()  # Bybit says what it refuses: a connection that ends between request and ack accuses no topic

    def receive(self, frame: str | bytes, received_at: datetime) -> Sequence[Update | Rejected]:
        if isinstance(frame, bytes) and (said := self._read_at_once(frame)) is not None:
            return said
        try:
            return self._read(frame)
        except UnknownMessage:
            raise
        except BadMessage as error:
            if found := OF_TOLD_ONCE.search(frame if isinstance(frame, bytes) else frame.encode()):
                raise BadPush(Topic(NAME, found[2].decode(), TOLD_ONCE[found[1]]), str(error)) from None
            raise

    def _read(self, frame: str | bytes) -> Sequence[Update | Rejected]:
        outer = decode(wire.decode_frame, frame, "Bybit's frame")
        if outer.topic is None:
            return self._replied(outer)
        if outer.pushed is None:
            raise BadMessage("a push without `ts`")
        pushed_at = moment(outer.pushed)
        events = self._events(outer, outer.topic, pushed_at)
        if events and isinstance(events[0], Ohlc):
            self._shapes.learn(frame)
        return [Update(event, pushed_at) for event in events]

    def _read_at_once(self, frame: bytes) -> list[Update] | None:
        """Trades, and bars of a shape that is known; None: it takes two steps."""
        try:
            if frame.startswith(TRADES):
                trades = wire.decode_trade_frame(frame)
                symbol, pushed_at = intern(trades.topic[TRADES_SYMBOL:]), moment(trades.pushed)
                return [Update(trade(row, symbol), pushed_at) for row in trades.data]
            if frame.startswith(BARS) and frame.translate(None, DIGITS) in self._shapes.known:
                bars = wire.decode_bar_frame(frame)
                (symbol, interval), pushed_at = bars_of(bars.topic), moment(bars.pushed)
                events = priced(ohlc(bar, symbol, interval) for bar in bars.data)
                return [Update(event, pushed_at) for event in events]
        except UNLIKE:
            pass  # what is wrong with it is found in those steps
        return None

    def _events(self, push: wire.Frame, topic: str, pushed_at: datetime) -> Sequence[Event]:
        kind, _, symbol = topic.partition(".")
        symbol = intern(symbol)  # kept for long, and the same few each time
        match kind:
            case "kline":
                symbol, interval = bars_of(topic)
                bars = decode(wire.decode_bars, push.data, "Bybit's kline")
                return list[Event](priced(ohlc(judged(bar), symbol, interval) for bar in bars))
            case "publicTrade":
                return [trade(row, symbol) for row in decode(wire.decode_trades, push.data, "Bybit's publicTrade")]
            case "allLiquidation":
                rows = decode(wire.decode_liquidations, push.data, "Bybit's allLiquidation")
                return [found for row in rows if (found := liquidation(row, symbol)) is not None]
            case "tickers":
                return self._ticker(push, symbol, pushed_at)
            case _:
                raise UnknownMessage(f"unknown topic {kind[:40]!r}")

    def _ticker(self, push: wire.Frame, symbol: str, pushed_at: datetime) -> Sequence[Event]:
        """A snapshot begins a symbol's state; a delta says only what has changed. Bad frames change nothing."""
        ticker = decode(wire.decode_ticker, push.data, "Bybit's tickers")
        instrument = self._instruments.get(symbol)
        if push.type == "delta":
            known = self._tickers.get(symbol)
            if known is None:
                return []  # its snapshot is on the way
            if ticker == NOTHING_NEW and known.instrument is instrument:
                return [replace(event, timestamp=pushed_at) for event in known.events]
            ticker = merged(known.ticker, ticker)
        elif push.type != "snapshot":
            raise BadMessage(f"a ticker that is neither snapshot nor delta: {push.type[:20]!r}")
        found: list[Event | None] = [
            funding(ticker, symbol, pushed_at, instrument),
            open_interest(ticker, symbol, pushed_at),
        ]
        events = [event for event in found if event is not None]
        self._tickers[symbol] = _Known(ticker, instrument, events)
        return events

    def _replied(self, reply: wire.Frame) -> list[Rejected]:
        if reply.description:
            return [Rejected((), f"Bybit: {reply.description}", final=False)]
        if reply.success is None:
            if reply.operation == "pong":
                return []
            raise BadMessage("neither a push nor a reply")
        names = self._asked.pop(reply.request_id, [])
        if reply.success or reply.operation == "unsubscribe":
            return []
        reason = f"Bybit refused the subscription: {reply.message}"
        match = OFFENDER.match(reply.message)
        if match is None or match[2] not in names:
            refused = tuple(topic for name in names for topic in self._forget(name))
            return [Rejected(refused, reason, final=False)]
        problem, offender = match.groups()
        topics = () if problem == "already subscribed" else self._forget(offender)
        again = tuple(topic for name in names if name != offender for topic in self._forget(name))
        return [Rejected(topics, reason, again)] if topics or again else []


def _request(operation: str, number: int, names: list[str]) -> str:
    return msgspec.json.encode({"req_id": str(number), "op": operation, "args": names}).decode()
