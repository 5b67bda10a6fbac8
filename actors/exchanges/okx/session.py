"""One connection to OKX: which frames subscribe, what received frames say. No I/O.

OKX acknowledges each argument by a frame of its own, and names what it refuses in the text of an error alone. Frames
of candles and of liquidations do not say when they were pushed.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from sys import intern

import msgspec
from msgspec.structs import replace

from actors.decimals import amount
from actors.decoding import decode, integer, moment, priced
from actors.errors import BadMessage, UnknownMessage
from actors.events import FundingRate, Instrument, Topic
from actors.exchanges.exchange import Item, Leaving, Rejected, Update
from actors.exchanges.okx import wire
from actors.exchanges.okx.normalise import (
    NAME,
    OUR_INTERVALS,
    THEIR_INTERVALS,
    candle,
    funding,
    liquidation,
    ohlc,
    open_interest,
    trade,
)
from actors.exchanges.okx.wire import Arg
from actors.exchanges.shapes import DIGITS, UNLIKE, Shapes

TRADES, BARS = b'{"arg":{"channel":"trades",', b'{"arg":{"channel":"candle'  # how their frames begin
OFFENDER = re.compile(r"channel:([^,\s]+)(?:,instId:([^,\s]+))?")
SERVICE_UPGRADE, TOO_FREQUENT = "64008", "60014"
BELIEVED = 3, 0.05  # jumps of a contract's ids, and parts of its trades: where there are more, ids say nothing
LIQUIDATIONS = Arg("liquidation-orders", instrument_type="SWAP")  # of all contracts, or of none


def args_of(topic: Topic) -> tuple[Arg, ...]:
    """What of OKX's carries a topic of ours."""
    match topic.kind:
        case "ohlc":
            return (Arg(f"candle{THEIR_INTERVALS[topic.interval or '']}", topic.symbol),)
        case "trades":
            return (Arg("trades", topic.symbol),)
        case "liquidations":
            return (LIQUIDATIONS,)
        case "funding":  # the rate's frames have no mark price
            return Arg("funding-rate", topic.symbol), Arg("mark-price", topic.symbol)
        case "oi":
            return (Arg("open-interest", topic.symbol),)
        case _:
            raise ValueError(f"OKX pushes no {topic.kind}")


_written = lru_cache(maxsize=1 << 10)(repr)  # of contract sizes, of which there are a handful


def interval_of(channel: str) -> str:
    """What `candle1m` carries."""
    interval = OUR_INTERVALS.get(channel.removeprefix("candle"))
    if interval is None:
        raise BadMessage(f"unknown channel {channel[:20]!r}")
    return interval


class Fills:
    """The ids of one contract's trades: each is the last of `count` fills', and fills are counted by one."""

    __slots__ = ("_jumps", "_last", "_trades")

    def __init__(self) -> None:
        self._last: int | None = None
        self._trades = self._jumps = 0

    def jump(self, last: int, count: int) -> bool:
        """Whether fills are missing between the trades before and this one."""
        before, self._trades = self._last, self._trades + 1
        if before is not None and last <= before:
            return False  # it is late
        self._last = last
        if before is None or last - count <= before:
            return False
        self._jumps += 1
        most, part = BELIEVED
        return self._jumps <= max(most, part * self._trades)


class OkxSession:
    def __init__(self, instruments: Mapping[str, Instrument]) -> None:
        self._instruments = instruments
        self._carried: dict[Arg, dict[Topic, None]] = {}  # those of our topics that ride on it
        self._asked: dict[str, dict[Arg, None]] = {}  # request id -> what is not acknowledged yet
        self._rates: dict[str, FundingRate] = {}
        self._marks: dict[str, float] = {}
        self._fills: dict[str, Fills] = {}
        self._requests = 0
        self._shapes = Shapes()

    def subscribe(self, topics: Sequence[Topic]) -> list[str]:
        fresh: dict[Arg, None] = {}
        for topic in topics:
            for arg in args_of(topic):
                if arg not in self._carried:
                    fresh[arg] = None
                self._carried.setdefault(arg, {})[topic] = None
        return [self._request("subscribe", fresh)] if fresh else []

    def unsubscribe(self, topics: Sequence[Topic]) -> list[str]:
        ended: dict[Arg, None] = {}
        for topic in topics:
            for arg in args_of(topic):
                riders = self._carried.get(arg, {})
                if riders.pop(topic, arg) is None and not riders:
                    del self._carried[arg]
                    ended[arg] = None
                    if arg.channel == "funding-rate":
                        self._rates.pop(arg.symbol, None)
                        self._marks.pop(arg.symbol, None)
                    if arg.channel == "trades":
                        self._fills.pop(arg.symbol, None)
        return [self._request("unsubscribe", ended)] if ended else []

    def _request(self, operation: str, args: dict[Arg, None]) -> str:
        self._requests += 1
        number = str(self._requests)
        if operation == "subscribe":
            self._asked[number] = args
        return msgspec.json.encode({"id": number, "op": operation, "args": list(args)}).decode()

    def unacknowledged(self) -> Sequence[Topic]:
        return ()  # OKX says what it refuses: a connection that ends between request and ack accuses no topic

    def receive(self, frame: str | bytes, received_at: datetime) -> Sequence[Item]:
        if frame in (b"pong", "pong"):
            return []
        if isinstance(frame, bytes) and (said := self._read_at_once(frame, received_at)) is not None:
            return said
        outer = decode(wire.decode_frame, frame, "OKX's frame")
        if outer.event:
            return self._replied(outer)
        if outer.arg is None:
            raise BadMessage("neither a push nor a reply")
        said = self._pushed(outer.arg, outer.data, received_at)
        if said and outer.arg.channel.startswith("candle"):
            self._shapes.learn(frame)
        return said

    def _read_at_once(self, frame: bytes, received_at: datetime) -> list[Item] | None:
        """Trades, and bars of a shape that is known; None: it takes two steps."""
        try:
            if frame.startswith(TRADES):
                trades = wire.decode_trade_frame(frame)
                return self._on_trades(trades.data, intern(trades.arg.symbol))
            if frame.startswith(BARS) and frame.translate(None, DIGITS) in self._shapes.known:
                bars = wire.decode_candle_frame(frame)
                symbol, interval = intern(bars.arg.symbol), interval_of(bars.arg.channel)
                events = priced(ohlc(row, symbol, interval) for row in bars.data)
                return [Update(event, received_at) for event in events]
        except UNLIKE:
            pass  # what is wrong with it is found in those steps
        return None

    def _pushed(self, arg: Arg, data: msgspec.Raw, received_at: datetime) -> list[Item]:
        symbol = intern(arg.symbol)  # kept for long, and the same few each time
        match arg.channel:
            case "trades":
                return self._on_trades(decode(wire.decode_trades, data, "OKX's trades"), symbol)
            case "mark-price":
                return self._on_marks(decode(wire.decode_mark_prices, data, "OKX's mark-price"), symbol)
            case "open-interest":
                interests = decode(wire.decode_open_interests, data, "OKX's open-interest")
                return [Update(open_interest(row, symbol), moment(integer(row.time))) for row in interests]
            case "funding-rate":
                fundings = decode(wire.decode_fundings, data, "OKX's funding-rate")
                return self._on_fundings(fundings, symbol, received_at)
            case "liquidation-orders":
                found = decode(wire.decode_liquidations, data, "OKX's liquidation-orders")
                return self._on_liquidations(found, received_at)
            case channel if channel.startswith("candle"):
                interval = interval_of(channel)
                rows = decode(wire.decode_candles, data, "OKX's candles")
                return [Update(bar, received_at) for bar in priced(candle(row, symbol, interval) for row in rows)]
            case _:
                raise UnknownMessage(f"unknown channel {arg.channel[:40]!r}")

    def _size(self, symbol: str) -> str:
        listed = self._instruments.get(symbol)
        if listed is None or listed.contract_size is None:
            raise BadMessage(f"of {symbol[:40]!r} it is not known how much one contract is")
        return _written(listed.contract_size)

    def _on_trades(self, rows: Sequence[wire.Trade], symbol: str) -> list[Item]:
        """In the order of their ids; where these jump, a word that some are missing."""
        size = self._size(symbol)
        trades = [(trade(row, symbol, size), integer(row.count or "1")) for row in rows]
        if len(trades) > 1:
            trades.sort(key=lambda told: int(told[0].trade_id))
        fills = self._fills.setdefault(symbol, Fills())
        said: list[Item] = []
        for event, count in trades:
            if fills.jump(int(event.trade_id), count):
                said.append(Topic(NAME, symbol, "trades"))
            said.append(Update(event, event.timestamp))
        return said

    def _on_liquidations(self, rows: Sequence[wire.Liquidations], received_at: datetime) -> list[Item]:
        """Those of contracts that are listed: all that OKX has are told, the inverse ones too."""
        events = [
            liquidation(detail, intern(row.symbol), self._size(row.symbol))
            for row in rows
            if row.symbol in self._instruments
            for detail in row.details
        ]
        return [Update(event, received_at) for event in events if event is not None]

    def _on_fundings(self, rows: Sequence[wire.Funding], symbol: str, received_at: datetime) -> list[Item]:
        said: list[Item] = []
        for row in rows:
            rate = funding(row, symbol, received_at, self._marks.get(symbol))
            if rate is not None:
                self._rates[symbol] = rate
                said.append(Update(rate, rate.timestamp))
        return said

    def _on_marks(self, rows: Sequence[wire.MarkPrice], symbol: str) -> list[Item]:
        """The running rate, with a newer mark price."""
        said: list[Item] = []
        for row in rows:
            time, mark = moment(integer(row.time)), amount(row.price)
            self._marks[symbol] = mark
            rate = self._rates.get(symbol)
            if rate is not None and mark:
                rate = self._rates[symbol] = replace(rate, mark_price=mark, timestamp=max(time, rate.timestamp))
                said.append(Update(rate, time))
        return said

    # --- what OKX says of our requests ---

    def _replied(self, reply: wire.Frame) -> list[Item]:
        match reply.event:
            case "subscribe" if reply.arg is not None:
                for args in self._asked.values():
                    args.pop(reply.arg, None)
                self._asked = {number: args for number, args in self._asked.items() if args}
                return []
            case "unsubscribe" | "channel-conn-count":
                return []
            case "notice":
                return [Leaving(f"OKX: {reply.message[:200]} ({reply.code})")] if reply.code == SERVICE_UPGRADE else []
            case "error":
                return self._refused(reply)
            case _:
                raise BadMessage(f"an event of an unknown kind: {reply.event[:40]!r}")

    def _refused(self, reply: wire.Frame) -> list[Item]:
        """Whether one bad argument fails the whole request is not documented: the others are asked for once more."""
        reason = f"OKX refused the subscription: {reply.message[:200]} ({reply.code})"
        match = OFFENDER.search(reply.message)
        offender = next(
            (arg for arg in self._carried if match and (arg.channel, arg.symbol) == (match[1], match[2] or "")), None
        )
        number = reply.request_id
        if number not in self._asked:
            number = next((n for n, args in self._asked.items() if offender is None or offender in args), "")
        asked = self._asked.pop(number, {})
        if offender is None:
            said: list[Item] = [Rejected(self._forget(asked), reason, final=False)]
            return [*said, Leaving(reason)] if reply.code == TOO_FREQUENT else said
        topics = self._forget([offender])
        again = self._forget([arg for arg in asked if arg != offender])
        return [Rejected(topics, reason, tuple(topic for topic in again if topic not in topics))]

    def _forget(self, args: Sequence[Arg] | Mapping[Arg, None]) -> tuple[Topic, ...]:
        """These are not subscribed any more; returns our topics that rode on them."""
        return tuple(dict.fromkeys(topic for arg in args for topic in self._carried.pop(arg, ())))
