"""One connection to Binance's market tier: which frames to send, what received frames say. No I/O.

An ack proves nothing here (a nonexistent stream is acked like any other), so acks are read only for their errors;
that a topic works is proved by its first frame, which the line watches for.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from sys import intern

import msgspec

from actors.decimals import amount, number, product, valued
from actors.decoding import UNREADABLE, counted, moment, opening, optional_amount, optional_moment
from actors.errors import BadMessage, UnknownMessage
from actors.events import Event, FundingRate, Instrument, Liquidation, Ohlc, Topic, Trade
from actors.exchanges.binance import wire
from actors.exchanges.exchange import Leaving, Rejected, Update
from actors.exchanges.shapes import DIGITS, UNLIKE, Shapes

NAME = "binance"
LONGEST_TRADE = 250  # bytes of a frame, about: all bars are longer, so that trades need not be looked up
USD_MARGINED = 1  # `st`; all-market arrays also carry COIN-M (2) since 2026-06-30
DEFAULT_FUNDING_HOURS = 8.0
KNOWN_EVENTS = {"aggTrade", "kline", "forceOrder", "markPriceUpdate"}
SHUTDOWN = "serverShutdown"  # {"e":"serverShutdown","E":1770123456789}: this server is about to end its connections


def stream_name(topic: Topic) -> str:
    """The stream that carries a topic; symbols are lower case in stream names, upper case in payloads."""
    symbol = topic.symbol.lower()
    match topic.kind:
        case "ohlc":
            return f"{symbol}@kline_{topic.interval}"
        case "trades":
            return f"{symbol}@aggTrade"
        case "liquidations":
            return f"{symbol}@forceOrder"
        case "funding":
            return f"{symbol}@markPrice@1s"
        case _:
            raise ValueError(f"Binance pushes no {topic.kind}")


class BinanceSession:
    def __init__(self, instruments: Mapping[str, Instrument]) -> None:
        self._instruments = instruments
        self._asked: dict[int, tuple[Topic, ...]] = {}  # request id -> what it asked for
        self._next_id = 1
        self._shapes = Shapes()

    def subscribe(self, topics: Sequence[Topic]) -> list[str]:
        return [self._request("SUBSCRIBE", topics)]

    def unsubscribe(self, topics: Sequence[Topic]) -> list[str]:
        return [self._request("UNSUBSCRIBE", topics)]

    def _request(self, method: str, topics: Sequence[Topic]) -> str:
        request = {"method": method, "params": [*map(stream_name, topics)], "id": self._next_id}
        self._asked[self._next_id] = tuple(topics) if method == "SUBSCRIBE" else ()
        self._next_id += 1
        return msgspec.json.encode(request).decode()

    def unacknowledged(self) -> Sequence[Topic]:
        return ()  # an ack would prove nothing

    def receive(self, frame: str | bytes, received_at: datetime) -> Sequence[Update | Rejected | Leaving]:
        may_be_bar = len(frame) > LONGEST_TRADE
        if may_be_bar and isinstance(frame, bytes) and frame.translate(None, DIGITS) in self._shapes.known:
            try:
                bar = wire.decode_kline(frame).data
                if isinstance(bar, wire.Kline):
                    return bar_updates(bar, bar.bar)
            except UNLIKE:
                pass  # the careful reading says what is wrong with it
        try:
            push = wire.decode_frame(frame).data
        except UNREADABLE:
            return self._receive_other(frame)
        if isinstance(push, wire.AggTrade) and push.market == USD_MARGINED:  # most frames are: one call less
            return [Update(trade(push, push.symbol), moment(push.pushed))]
        updates = self._updates(push)
        if may_be_bar and updates and isinstance(push, wire.Kline):
            self._shapes.learn(frame)
        return updates

    def _updates(self, push: wire.Push) -> list[Update]:
        if push.market != USD_MARGINED:
            return []
        if isinstance(push, wire.Kline):
            return bar_updates(push, judged(push.bar))
        event: Event | None
        if isinstance(push, wire.AggTrade):
            event = trade(push, push.symbol)
        elif isinstance(push, wire.MarkPrice):
            event = self._funding(push)
        else:
            event = liquidation(push)
        return [] if event is None else [Update(event, moment(push.pushed))]

    def _receive_other(self, frame: str | bytes) -> Sequence[Update | Rejected | Leaving]:
        """Whatever is not a known push in the combined envelope: replies, bare pushes, arrays, surprises."""
        try:
            outer = wire.decode_any_frame(frame)
        except UNREADABLE:
            return self._receive_array(frame)
        if outer.data:
            return self._receive_bare(bytes(outer.data))
        if outer.event is not None:
            return self._receive_bare(frame)
        if outer.code is None and not outer.error:
            if outer.result or outer.id is not None:
                return []
            raise BadMessage("neither a push nor a reply")
        asked = self._asked.pop(outer.id, ()) if isinstance(outer.id, int) else ()
        reason = bytes(outer.error).decode("utf-8", "replace") if outer.error else outer.msg
        return [Rejected(asked, f"Binance refused the subscription: {reason}", final=False)]

    def _receive_bare(self, body: str | bytes) -> Sequence[Update | Leaving]:
        """One push without its envelope, or an all-market array of them."""
        try:
            return self._updates(wire.decode_push(body))
        except UNREADABLE as error:
            try:
                event = wire.decode_any_frame(body).event
            except UNREADABLE:
                return self._receive_array(body)
            if event == SHUTDOWN:
                return [Leaving("the exchange shuts this server down")]
            raise complaint(event, error) from None

    def _receive_array(self, body: str | bytes) -> list[Update]:
        try:
            pushes = wire.decode_pushes(body)
        except UNREADABLE as error:
            try:
                event = next((row.event for row in wire.decode_any_frames(body)), None)
            except UNREADABLE:
                event = None
            raise complaint(event, error) from None
        return [update for push in pushes for update in self._updates(push)]

    def _funding(self, push: wire.MarkPrice) -> FundingRate | None:
        at = optional_moment(push.next_funding_time)
        if push.funding_rate == "" or at is None:  # a dated contract, or one whose funding has not begun
            return None
        instrument = self._instruments.get(push.symbol)
        return FundingRate(
            exchange=NAME,
            symbol=push.symbol,
            timestamp=moment(push.pushed),
            funding_rate=number(push.funding_rate),
            funding_time=at,
            funding_interval_hours=instrument.funding_interval_hours if instrument else None,
            mark_price=optional_amount(push.mark_price),
        )


def complaint(event: str | None, error: Exception) -> BadMessage:
    if event is not None and event not in KNOWN_EVENTS:
        return UnknownMessage(f"unknown event {event[:40]!r}")
    return BadMessage(f"undecodable {event or 'frame'}: {error}")


def trade(row: wire.AggTrade | wire.AggTradeRow, symbol: str) -> Trade:
    price, quantity, value = valued(row.price, row.quantity)
    is_buyer_maker = row.is_buyer_maker
    return Trade(
        exchange=NAME,
        symbol=intern(symbol),  # kept for long, and the same few each time
        timestamp=moment(row.time),
        side="sell" if is_buyer_maker else "buy",
        price=price,
        quantity=quantity,
        value=value,
        is_buyer_maker=is_buyer_maker,
        trade_id=row.id,
    )


def judged(bar: wire.Bar[str]) -> wire.Bar[float]:
    return wire.Bar(
        open_time=bar.open_time,
        interval=bar.interval,
        open=amount(bar.open),
        close=amount(bar.close),
        high=amount(bar.high),
        low=amount(bar.low),
        volume=amount(bar.volume),
        trades_count=bar.trades_count,
        is_closed=bar.is_closed,
        quote_volume=amount(bar.quote_volume),
    )


def bar_updates(push: wire.Kline[str] | wire.Kline[float], bar: wire.Bar[float]) -> list[Update]:
    """Nothing before there is a price."""
    if push.market != USD_MARGINED or not bar.low:
        return []
    event = Ohlc(
        exchange=NAME,
        symbol=intern(push.symbol),  # kept for long, and the same few each time
        timestamp=opening(bar.open_time),
        interval=bar.interval,
        open=bar.open,
        high=bar.high,
        low=bar.low,
        close=bar.close,
        volume=bar.volume,
        quote_volume=bar.quote_volume,
        trades_count=bar.trades_count or counted(0, bar.volume),
        is_closed=bar.is_closed,
    )
    return [Update(event, moment(push.pushed))]


def liquidation(push: wire.ForceOrder) -> Liquidation | None:
    """Average price and cumulative filled quantity: `l` alone undercounts an order that filled in several parts.

    None where nothing was filled: the order of a liquidation that did not come about.
    """
    order = push.order
    value = product(order.average_price, order.filled)
    if order.market != USD_MARGINED or not value:
        return None
    return Liquidation(
        exchange=NAME,
        symbol=intern(order.symbol),
        timestamp=moment(order.time),
        side="sell" if order.side == "SELL" else "buy",  # SELL closes a long
        price=amount(order.average_price),
        quantity=amount(order.filled),
        value=value,
    )
