"""What feeds say: the normalised events, the same for every exchange.

Only data lives here: no I/O, no state. Times are aware datetimes in UTC (`ms` and `from_ms` convert at the wires),
prices and rates are floats that print as the exchange wrote them, quantities are in base units, values in quote units.
`type` names an event in WebSocket frames; it is not a field, because REST answers do not carry it.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal, DecimalException
from functools import lru_cache
from math import inf, isfinite
from typing import ClassVar, Literal, NamedTuple

from msgspec import Struct, field

from actors.errors import BadMessage

Side = Literal["buy", "sell"]
Kind = Literal["ohlc", "trades", "large_trades", "liquidations", "funding", "oi", "oi-vol"]
FeedState = Literal["starting", "live", "stale", "down", "failed"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_EXACT_MS = 1000 << 32  # until 2106 seconds as a float are exact to a quarter of a microsecond
_ROUND = 1.5 * 2**52  # added to a float below 2^51 and taken away again, it leaves a whole number

# Fixed-length bars only; `1M` varies and is handled where a bar's end is computed.
INTERVALS: dict[str, timedelta] = {
    "1m": timedelta(minutes=1),
    "3m": timedelta(minutes=3),
    "5m": timedelta(minutes=5),
    "15m": timedelta(minutes=15),
    "30m": timedelta(minutes=30),
    "1h": timedelta(hours=1),
    "2h": timedelta(hours=2),
    "4h": timedelta(hours=4),
    "6h": timedelta(hours=6),
    "8h": timedelta(hours=8),
    "12h": timedelta(hours=12),
    "1d": timedelta(days=1),
    "3d": timedelta(days=3),
    "1w": timedelta(weeks=1),
    "1M": timedelta(days=31),
}


FINAL = timedelta(days=1)  # bars that an exchange lacks for so long do not come any more


class Topic(NamedTuple):
    """One stream, e.g. `binance:BTCUSDT:ohlc:1m`. `interval` belongs to bars, and to the spikes of one symbol.

    Streams over many feeds leave the symbol, or both, empty: `all:liquidations`, `oi-vol`.
    """

    exchange: str
    symbol: str
    kind: Kind
    interval: str | None = None

    def __str__(self) -> str:
        return ":".join(filter(None, self))


class Event(Struct, frozen=True, kw_only=True, gc=False):
    """What every event says: where, of what, and when at the exchange.

    No event refers to another object that could refer back, so the garbage collector need not look at millions of them.
    """

    type: ClassVar[str]
    kind: ClassVar[Kind]  # of the topic that carries it
    exchange: str
    symbol: str
    timestamp: datetime


class Ohlc(Event, frozen=True, kw_only=True):
    """One bar. `timestamp` is its open; volumes are base and quote; `is_closed` once it can no longer change."""

    type: ClassVar[str] = "ohlc"
    kind: ClassVar[Kind] = "ohlc"
    interval: str
    open: float
    high: float
    low: float
    close: float
    volume: float
    quote_volume: float | None
    trades_count: int | None
    is_closed: bool


class Trade(Event, frozen=True, kw_only=True):
    """One trade as the exchange aggregates it. `side` is the aggressor's; `trade_id` is the exchange's own."""

    type: ClassVar[str] = "trade"
    kind: ClassVar[Kind] = "trades"
    side: Side
    price: float
    quantity: float
    value: float
    is_buyer_maker: bool
    trade_id: int | str


class LargeTrade(Trade, frozen=True, kw_only=True):
    """A trade whose `value` reached the configured threshold."""

    type: ClassVar[str] = "large_trade"
    kind: ClassVar[Kind] = "large_trades"


class Liquidation(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A forced order. `side` "sell": a long was liquidated, "buy": a short.

    `method`, where it is known: "market", filled by the book, or "backstop", taken over by the exchange's own vault.
    `partial`: inferred from public trades, which show some liquidations only. Both are left out elsewhere.
    """

    type: ClassVar[str] = "liquidation"
    kind: ClassVar[Kind] = "liquidations"
    side: Side
    price: float
    quantity: float
    value: float
    method: Literal["market", "backstop"] | None = None
    partial: bool = False


class FundingRate(Event, frozen=True, kw_only=True):
    """Funding as a decimal per interval, applying at `funding_time`."""

    type: ClassVar[str] = "funding_rate"
    kind: ClassVar[Kind] = "funding"
    funding_rate: float
    funding_time: datetime
    funding_interval_hours: float | None
    mark_price: float | None


class OpenInterest(Event, frozen=True, kw_only=True):
    """Open interest in base units, one side; `open_interest_value` in quote where the exchange says it."""

    type: ClassVar[str] = "open_interest"
    kind: ClassVar[Kind] = "oi"
    open_interest: float
    open_interest_value: float | None


class OiSpike(Event, frozen=True, kw_only=True):
    """Open interest changed unusually over the bar that opened at `timestamp`; `confirmed`: its volume was unusual too.

    `z_oi`, `z_vol`: how many standard deviations from what is usual.
    """

    type: ClassVar[str] = "oi_spike"
    kind: ClassVar[Kind] = "oi-vol"
    timeframe: str
    z_oi: float
    z_vol: float
    confirmed: bool


class Status(Struct, frozen=True, kw_only=True):
    """A change of a feed's state, for streams that asked for it."""

    type: ClassVar[str] = "status"
    exchange: str
    symbol: str
    timestamp: datetime
    state: FeedState
    reason: str | None
    next_retry: datetime | None


class Gap(Struct, frozen=True, kw_only=True):
    """Upstream lost `[start, end)` of one topic. Repaired: the range is delivered before anything newer."""

    type: ClassVar[str] = "gap"
    exchange: str
    symbol: str
    timestamp: datetime
    start: datetime = field(name="from")
    end: datetime = field(name="to")
    reason: str
    repaired: bool


Said = Event | Status | Gap
"""All that a topic carries: its events, and what a reader may want to know about them."""


class Instrument(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One row of an exchange's catalogue, in the exchange's own spelling.

    `contract_size`: base units in one contract, where the exchange counts in contracts; left out elsewhere.
    """

    exchange: str
    symbol: str
    base: str
    quote: str
    settle: str
    status: str
    tick_size: float | None
    step_size: float | None
    funding_interval_hours: float | None
    contract_size: float | None = None

    @property
    def is_trading(self) -> bool:
        return self.status == "TRADING"


class VenuePrediction(Struct, frozen=True, kw_only=True):
    """What one venue's funding is going to be, as a decimal per its own interval."""

    venue: str
    funding_rate: float
    next_funding_time: datetime | None
    funding_interval_hours: float | None


class PredictedFunding(Struct, frozen=True, kw_only=True):
    """The coming funding of one coin on several venues."""

    coin: str
    venues: list[VenuePrediction]


def ms(time: datetime) -> int:
    """Unix milliseconds."""
    return (time - EPOCH) // _MILLISECOND


def ceil_ms(time: datetime) -> int:
    """The first of the Unix milliseconds that is not before `time`."""
    return -((EPOCH - time) // _MILLISECOND)


def optional_ms(start: datetime | None) -> int | None:
    """The first millisecond of a range: exchanges' ranges include theirs, so one before `start` would be too many."""
    return None if start is None else ceil_ms(start)


def last_ms(end: datetime | None) -> int | None:
    """The last millisecond before `end`: our ranges end before it, most exchanges' include theirs."""
    return None if end is None else ceil_ms(end) - 1


def at_ms(milliseconds: int) -> datetime:
    """The UTC time of Unix milliseconds; BadMessage outside the years 1970 to 9999."""
    if 0 <= milliseconds < _EXACT_MS:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    if milliseconds < 0:
        raise BadMessage(f"time {milliseconds} ms is before 1970")
    try:
        return EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        raise BadMessage(f"time {milliseconds} ms is out of range") from None


from_ms = lru_cache(maxsize=1 << 14)(at_ms)
"""The same; bars open at the same moments on every symbol: one datetime of 48 bytes serves them all."""


def bar_end(open_time: datetime, interval: str) -> datetime:
    """The time at which the bar that opened at `open_time` ends, which is the next one's open."""
    if interval != "1M":
        return open_time + INTERVALS[interval]
    return (open_time.replace(day=1) + timedelta(days=32)).replace(day=1)


def number(text: str) -> float:
    """An exchange's decimal string as a float; NaN, infinities and non-numbers are BadMessage.

    `float` reads "nan" and "inf", and a price of either would poison every sum downstream.
    """
    try:
        value = float(text)
    except ValueError:
        raise BadMessage(f"not a number: {text[:40]!r}") from None
    if not text.isascii() or "_" in text or text[0] <= " " or text[-1] <= " ":  # Python's own liberties
        raise BadMessage(f"not a number: {text[:40]!r}")
    if not isfinite(value):
        raise BadMessage(f"not a finite number: {text[:40]!r}")
    return value


def amount(text: str) -> float:
    """A price or a quantity: a finite number that is not negative."""
    try:  # what `number` does, in one step: there are more of these than of anything else
        value = float(text)
    except ValueError:
        value = -1.0
    if 0 <= value < inf and text.isascii() and "_" not in text and text.strip() == text:
        return value
    number(text)
    raise BadMessage(f"negative: {text[:40]!r}")


def valued(price: str, quantity: str) -> tuple[float, float, float]:
    """(price, quantity, what `product` makes of them), in half the time.

    A float that is some whole number / 10^n was read from that very decimal, if from no more than 15 digits. Products
    of whole numbers below 2^53 are exact, and one division rounds as it should. What does not fit goes the long way.
    """
    one, many = amount(price), amount(quantity)
    if one > 10:
        scale, other, both = 1e3, 1e5, 1e8
    elif many > 10:
        scale, other, both = 1e7, 1e1, 1e8
    else:
        scale, other, both = 1e8, 1e4, 1e12
    whole, count = (one * scale + _ROUND) - _ROUND, (many * other + _ROUND) - _ROUND
    found = whole * count
    if 0 < found < 1e15 and whole / scale == one and count / other == many and len(price) < 16 > len(quantity):
        return one, many, found / both
    return one, many, product(price, quantity)


def product(price: str, quantity: str, *more: str) -> float:
    """price x quantity, multiplied as decimals: the float nearest to the true product, with no binary noise."""
    try:
        exact = Decimal(price) * Decimal(quantity)
        if more:
            for text in more:
                exact *= Decimal(text)
        value = float(exact)
    except (DecimalException, OverflowError):
        raise BadMessage(f"not numbers: {' x '.join(text[:40] for text in (price, quantity, *more))}") from None
    if not -inf < value < inf:
        raise BadMessage(f"out of range: {' x '.join(text[:40] for text in (price, quantity, *more))}")
    return value
