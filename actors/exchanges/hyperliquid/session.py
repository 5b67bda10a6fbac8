"""One connection to Hyperliquid: which frames to send, what received frames say. No I/O.

Funding and open interest come in one upstream subscription. Each subscription is confirmed, and what is not confirmed
matters: asked for a name that it does not know, the exchange cuts the connection without a word.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from sys import intern
from typing import TypeVar

import msgspec

from actors.decimals import amount, number, product, valued
from actors.decoding import UNREADABLE, counted, moment, opening, optional_amount, priced
from actors.errors import BadMessage, UnknownMessage
from actors.events import FundingRate, Instrument, Liquidation, Ohlc, OpenInterest, Topic, Trade
from actors.exchanges.exchange import Backlog, Rejected, Update
from actors.exchanges.hyperliquid import wire
from actors.exchanges.hyperliquid.wire import Subscription
from actors.exchanges.shapes import DIGITS, UNLIKE, Shapes

NAME = "hyperliquid"
BARS = b'{"channel":"candle"'  # how their frames begin
FUNDING_HOURS = 1.0  # an eighth of the 8-hour formula is paid every hour, on every dex
GREETING = "Websocket connection established."  # plain text, sent by older servers
HOUR = timedelta(hours=1)
# The liquidators among the children of the exchange's own vault HLP, which take over what the book did not.
LIQUIDATORS = frozenset(
    {
        "0x2e3d94f0562703b25c83308a05046ddaf9a8dd14",
        "0xb0a55f13d22f66e6d495ac98113841b2326e9540",
        "0x5e177e5e39c0f4e421f5865a6d8beed8d921cb70",
    }
)

T = TypeVar("T")


def subscription_of(topic: Topic) -> Subscription:
    """What is subscribed to for a topic; funding and open interest share one, liquidations are found in the trades."""
    match topic.kind:
        case "ohlc":
            return Subscription("candle", topic.symbol, topic.interval)
        case "trades" | "liquidations":
            return Subscription("trades", topic.symbol)
        case "funding" | "oi":
            return Subscription("activeAssetCtx", topic.symbol)
        case _:
            raise ValueError(f"Hyperliquid pushes no {topic.kind}")


class HyperliquidSession:
    def __init__(self, instruments: Mapping[str, Instrument]) -> None:
        self._topics: dict[Subscription, list[Topic]] = {}  # what was asked for, and for whom
        self._unacknowledged: dict[Subscription, None] = {}  # in the order of asking
        self._backlogs: set[str] = set()  # coins whose next trades frame tells the past
        self._liquidations: set[str] = set()  # coins whose trades are looked through for them
        self._shapes = Shapes()

    def subscribe(self, topics: Sequence[Topic]) -> list[str]:
        frames = []
        for topic in topics:
            subscription = subscription_of(topic)
            sharers = self._topics.setdefault(subscription, [])
            if not sharers:
                self._unacknowledged[subscription] = None
                frames.append(_frame("subscribe", subscription))
            if topic not in sharers:
                sharers.append(topic)
            if topic.kind == "liquidations":
                self._liquidations.add(topic.symbol)
        return frames

    def unsubscribe(self, topics: Sequence[Topic]) -> list[str]:
        frames = []
        for topic in topics:
            subscription = subscription_of(topic)
            sharers = self._topics.get(subscription, [])
            if topic.kind == "liquidations":
                self._liquidations.discard(topic.symbol)
            if topic in sharers:
                sharers.remove(topic)
                if not sharers:
                    self._forget(subscription)
                    frames.append(_frame("unsubscribe", subscription))
        return frames

    def _forget(self, subscription: Subscription) -> list[Topic]:
        self._unacknowledged.pop(subscription, None)
        if subscription.type == "trades":
            self._backlogs.discard(subscription.coin)
            self._liquidations.discard(subscription.coin)
        return self._topics.pop(subscription, [])

    def unacknowledged(self) -> Sequence[Topic]:
        return [topic for subscription in self._unacknowledged for topic in self._topics[subscription]]

    def receive(self, frame: str | bytes, received_at: datetime) -> Sequence[Update | Backlog | Rejected]:
        if isinstance(frame, bytes) and frame.startswith(BARS) and frame.translate(None, DIGITS) in self._shapes.known:
            try:
                return _bars(wire.decode_candle_frame(frame), received_at)
            except UNLIKE:
                pass  # the careful reading says what is wrong with it
        try:
            push = wire.decode_frame(frame)
        except UNREADABLE as error:
            return _other(frame, error)
        match push:
            case wire.Trades(data=rows):
                return self._trades(rows, received_at)
            case wire.Candles(data=candles):
                bars = _bars(wire.Candles([*map(judged, _listed(candles))]), received_at)
                if bars:
                    self._shapes.learn(frame)
                return bars
            case wire.ActiveAssetContext(data=data):
                return context_updates(data, received_at)
            case wire.Failure(data=text):
                return self._failure(text)
            case wire.Acknowledged(data=order):
                self._acknowledge(order)
            case wire.Pong():
                pass
        return []

    def _trades(self, rows: list[wire.TradeRow], received_at: datetime) -> list[Update | Backlog]:
        """The first frame of a subscription is a backlog: up to 20 s and 30 trades of the past."""
        if len(rows) > 1:
            rows.sort(key=attrgetter("time"))  # their order within a frame is not documented
        if not self._backlogs and not self._liquidations:
            return [Update(event := trade(row), event.timestamp) for row in rows]
        past = {row.coin for row in rows} & self._backlogs
        self._backlogs -= past
        said: list[Update | Backlog] = [
            Backlog(coin, tuple(trade(row) for row in rows if row.coin == coin)) for coin in sorted(past)
        ]
        said += [Update(trade(row), moment(row.time)) for row in rows if row.coin not in past]
        forced = [liquidation(row) for row in rows if row.coin in self._liquidations]
        return said + [Update(event, received_at) for event in forced if event is not None]

    def _acknowledge(self, order: wire.Order) -> None:
        subscription = order.subscription
        if order.method == "subscribe" and subscription in self._topics:
            self._unacknowledged.pop(subscription, None)
            if subscription.type == "trades":
                self._backlogs.add(subscription.coin)  # not before: frames of an earlier subscription may be under way

    def _failure(self, text: str) -> list[Update | Rejected]:
        """An error has no id: what it is about is what it quotes."""
        order = _quoted(text)
        if order is None:
            raise UnknownMessage(f"error: {text[:100]}")
        if text.startswith("Already subscribed"):
            self._unacknowledged.pop(order.subscription, None)  # so it is, and it goes on
            return []
        if order.method == "unsubscribe" or text.startswith("Already unsubscribed"):
            return []
        topics = self._forget(order.subscription)
        return [Rejected(tuple(topics), f"Hyperliquid refused the subscription: {text[:200]}")] if topics else []


def _frame(method: str, subscription: Subscription) -> str:
    return msgspec.json.encode({"method": method, "subscription": subscription}).decode()


def _quoted(text: str) -> wire.Order | None:
    """The order, or the subscription alone, at the end of an error text."""
    _, brace, rest = text.partition("{")
    try:
        return wire.decode_order(brace + rest)
    except UNREADABLE:
        pass
    try:
        return wire.Order("subscribe", wire.decode_subscription(brace + rest))
    except UNREADABLE:
        return None


def _other(frame: str | bytes, error: Exception) -> list[Update | Rejected]:
    """What could not be read as any known frame: the greeting, another channel, or nonsense."""
    if frame in (GREETING, GREETING.encode()):
        return []
    try:
        channel = wire.decode_any_frame(frame).channel
    except UNREADABLE:
        raise BadMessage(f"undecodable frame: {error}") from None
    if channel not in KNOWN_CHANNELS:
        raise UnknownMessage(f"unknown channel {channel[:40]!r}")
    raise BadMessage(f"undecodable {channel}: {error}")


KNOWN_CHANNELS = {"trades", "activeAssetCtx", "candle", "subscriptionResponse", "error", "pong"}


def trade(row: wire.TradeRow) -> Trade:
    price, quantity, value = valued(row.price, row.size)
    return Trade(
        exchange=NAME,
        symbol=intern(row.coin),  # kept for long, and the same few each time
        timestamp=moment(row.time),
        side="buy" if row.side == "B" else "sell",
        price=price,
        quantity=quantity,
        value=value,
        is_buyer_maker=row.side == "A",
        trade_id=row.id,
    )


def liquidation(row: wire.TradeRow) -> Liquidation | None:
    """What a trade says of a liquidation; None where no liquidator vault is a side of it, or both sides are.

    A vault that buys takes over a long. Where the vault was the aggressor it may as well be trading away what it took
    over before: no method is said then. What the book liquidates cannot be told from any other trade.
    """
    if LIQUIDATORS.isdisjoint(row.users) or len(row.users) != 2 or LIQUIDATORS.issuperset(row.users):
        return None
    value = product(row.price, row.size)
    if not value:
        return None
    vault_buys = row.users[0] in LIQUIDATORS
    is_aggressor = vault_buys == (row.side == "B")
    return Liquidation(
        exchange=NAME,
        symbol=intern(row.coin),
        timestamp=moment(row.time),
        side="sell" if vault_buys else "buy",
        price=amount(row.price),
        quantity=amount(row.size),
        value=value,
        method=None if is_aggressor else "backstop",
        partial=True,
    )


def _listed(candles: T | list[T]) -> list[T]:
    return candles if isinstance(candles, list) else [candles]


def _bars(push: wire.Candles[float], received_at: datetime) -> list[Update]:
    return [Update(bar, received_at) for bar in priced(map(ohlc, _listed(push.data)))]


def judged(candle: wire.Candle[str]) -> wire.Candle[float]:
    return wire.Candle(
        open_time=candle.open_time,
        close_time=candle.close_time,
        coin=candle.coin,
        interval=candle.interval,
        open=amount(candle.open),
        close=amount(candle.close),
        high=amount(candle.high),
        low=amount(candle.low),
        volume=amount(candle.volume),
        trades_count=candle.trades_count,
    )


def ohlc(candle: wire.Candle[float], *, is_closed: bool = False) -> Ohlc:
    """A bar as pushed is never said to be final."""
    return Ohlc(
        exchange=NAME,
        symbol=intern(candle.coin),
        timestamp=opening(candle.open_time),
        interval=candle.interval,
        open=candle.open,
        high=candle.high,
        low=candle.low,
        close=candle.close,
        volume=candle.volume,
        quote_volume=None,
        trades_count=counted(candle.trades_count, candle.volume),
        is_closed=is_closed,
    )


def context_updates(data: wire.CoinContext, now: datetime) -> list[Update]:
    """Funding and open interest of one moment; nothing for what is null, as for a delisted name."""
    found = funding(data.coin, data.context, now), open_interest(data.coin, data.context, now)
    return [Update(event, now) for event in found if event is not None]


def funding(coin: str, context: wire.Context, now: datetime) -> FundingRate | None:
    """The running estimate of the rate that is paid at the next full hour."""
    if context.funding is None:
        return None
    return FundingRate(
        exchange=NAME,
        symbol=coin,
        timestamp=now,
        funding_rate=number(context.funding),
        funding_time=next_hour(now),
        funding_interval_hours=FUNDING_HOURS,
        mark_price=optional_amount(context.mark_price),
    )


def open_interest(coin: str, context: wire.Context, now: datetime) -> OpenInterest | None:
    """Base units. The exchange values it nowhere, so neither do we."""
    if context.open_interest is None:
        return None
    return OpenInterest(
        exchange=NAME,
        symbol=coin,
        timestamp=now,
        open_interest=amount(context.open_interest),
        open_interest_value=None,
    )


def next_hour(now: datetime) -> datetime:
    return now.replace(minute=0, second=0, microsecond=0) + HOUR
