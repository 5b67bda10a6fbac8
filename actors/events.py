"""What feeds say: the normalised events, the same for every exchange.

Only data lives here: no I/O, no state. Times are aware datetimes in UTC (`ms` and `from_ms` convert at the wires),
prices and rates are floats that print as the exchange wrote them, quantities are in base units, values in quote units.
`type` names an event in WebSocket frames; it is not a field, because REST answers do not carry it.
"""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple

from msgspec import Struct, field

from actors.errors import BadMessage

Side = Literal["buy", "sell"]
Kind = Literal["ohlc", "trades", "large_trades", "liquidations", "funding", "oi", "oi-vol"]
FeedState = Literal["starting", "live", "stale", "down", "failed"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

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


@lru_cache(maxsize=1 << 14)
def from_ms(milliseconds: int) -> datetime:
    """The UTC time of Unix milliseconds; BadMessage outside the years 1970 to 9999.

    Bars open at the same moments on every symbol: one datetime of 48 bytes serves them all.
    """
    if milliseconds < 0:
        raise BadMessage(f"time {milliseconds} ms is before 1970")
    try:
        return EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        raise BadMessage(f"time {milliseconds} ms is out of range") from None


def bar_end(open_time: datetime, interval: str) -> datetime:
    """The time at which the bar that opened at `open_time` ends, which is the next one's open."""
    if interval != "1M":
        return open_time + INTERVALS[interval]
    return (open_time.replace(day=1) + timedelta(days=32)).replace(day=1)
