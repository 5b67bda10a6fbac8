"""Hyperliquid's frames and answers as msgspec structs, spelled as Hyperliquid spells them; decoders built once.

Only shapes live here. Prices, sizes and rates stay strings until `actors.decimals` has judged them. `t`/`T` differ only
by case, so those fields are named.
"""

from typing import Annotated, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, field

N = TypeVar("N", str, float)  # a number: as it is written, or already judged
Interval = Literal["1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "8h", "12h", "1d", "3d", "1w", "1M"]

# https://hyperliquid.gitbook.io/hyperliquid-docs/for-developers/api/websocket/subscriptions


class Subscription(Struct, frozen=True, omit_defaults=True):
    """What is asked for, and how an acknowledgement names it: {"type":"candle","coin":"BTC","interval":"1m"}.

    The exchange's echo carries more keys than were sent (defaults filled in); keys that are not ours are not read.
    """

    type: str
    coin: str = ""
    interval: str | None = None


class Order(Struct, frozen=True):
    """What a client sends: {"method":"subscribe","subscription":{...}}, one subscription per frame."""

    method: Literal["subscribe", "unsubscribe"]
    subscription: Subscription


class TradeRow(Struct, frozen=True):
    """{"coin":"BTC","side":"A","px":"84143.0","sz":"0.00036","time":1790232216193,"hash":"0x7a...",
    "tid":1045359869404765,"users":["0x9a...","0x82..."]}

    `hash` is all zeros even for some ordinary trades and is no identity. `users` are the buyer and the seller."""

    coin: str
    side: Literal["A", "B"]  # what the aggressor did: "A" sold, "B" bought
    price: str = field(name="px")
    size: str = field(name="sz")
    time: int  # of the block
    id: int = field(name="tid")
    users: tuple[str, ...] = ()


class Trades(Struct, frozen=True, tag_field="channel", tag="trades"):
    data: list[TradeRow]


class Context(Struct, frozen=True):
    """{"funding":"0.0000018952","openInterest":"36585.31848","prevDayPx":"86627.0","dayNtlVlm":"4161029539.69",
    "premium":"-0.0006413454","oraclePx":"84198.0","markPx":"84148.0","midPx":"84143.5","impactPxs":[...], ...}

    Delisted names have nulls."""

    funding: str | None = None
    open_interest: str | None = field(name="openInterest", default=None)
    mark_price: str | None = field(name="markPx", default=None)


class CoinContext(Struct, frozen=True):
    coin: str
    context: Context = field(name="ctx")


class ActiveAssetContext(Struct, frozen=True, tag_field="channel", tag="activeAssetCtx"):
    """About once a second per coin, without a time."""

    data: CoinContext


class Candle(Struct, Generic[N], frozen=True, gc=False):
    """{"t":1790358600000,"T":1790358659999,"s":"BTC","i":"1m","o":"83765.0","c":"83765.0","h":"83770.0",
    "l":"83756.0","v":"0.3317","n":36}, the same on the socket and in candleSnapshot."""

    open_time: int = field(name="t")
    close_time: int = field(name="T")
    coin: str = field(name="s")
    interval: Interval = field(name="i")
    open: N = field(name="o")
    close: N = field(name="c")
    high: N = field(name="h")
    low: N = field(name="l")
    volume: N = field(name="v")
    trades_count: int = field(name="n")


class Candles(Struct, Generic[N], frozen=True, tag_field="channel", tag="candle"):
    """`data` is one bar on the wire and an array in the documentation."""

    data: Candle[N] | list[Candle[N]]


class Acknowledged(Struct, frozen=True, tag_field="channel", tag="subscriptionResponse"):
    data: Order


class Failure(Struct, frozen=True, tag_field="channel", tag="error"):
    """Never with an id; some texts quote what they are about."""

    data: str


class Pong(Struct, frozen=True, tag_field="channel", tag="pong"):
    """The answer to {"method":"ping"}."""


Frame = Trades | ActiveAssetContext | Candles[str] | Acknowledged | Failure | Pong


class AnyFrame(Struct, frozen=True):
    """Just enough of a frame that is none of the above to say what it is."""

    channel: str


decode_frame = msgspec.json.Decoder(Frame).decode
decode_candle_frame = msgspec.json.Decoder(Candles[float], strict=False).decode  # of a known shape
decode_any_frame = msgspec.json.Decoder(AnyFrame).decode
decode_order = msgspec.json.Decoder(Order).decode
decode_subscription = msgspec.json.Decoder(Subscription).decode

# https://hyperliquid.gitbook.io/hyperliquid-docs/for-developers/api/info-endpoint


class Asset(Struct, frozen=True):
    """{"szDecimals":1,"name":"MATIC","maxLeverage":20,"marginTableId":20,"isDelisted":true}; HIP-3: "xyz:TSLA"."""

    name: str
    size_decimals: Annotated[int, Meta(ge=0, le=20)] = field(name="szDecimals")
    is_delisted: bool = field(name="isDelisted", default=False)


class Listing(Struct, frozen=True):
    """The `meta` of one dex. A delisted asset keeps its place, so contexts join by index."""

    universe: list[Asset]
    collateral_token: int = field(name="collateralToken", default=0)


class FundingRow(Struct, frozen=True):
    """{"coin":"BTC","fundingRate":"0.0000125","premium":"-0.0001875303","time":1790352000015}"""

    funding_rate: str = field(name="fundingRate")
    time: int


class Prediction(Struct, frozen=True):
    """`fundingIntervalHours` is on the wire and not in the documentation."""

    funding_rate: str = field(name="fundingRate")
    next_funding_time: int = field(name="nextFundingTime")
    interval_hours: float | None = field(name="fundingIntervalHours", default=None)


class ExchangeStatus(Struct, frozen=True):
    time: int


decode_exchange_status = msgspec.json.Decoder(ExchangeStatus).decode
decode_listing = msgspec.json.Decoder(Listing).decode
decode_listings = msgspec.json.Decoder(list[Listing]).decode
decode_listing_and_contexts = msgspec.json.Decoder(tuple[Listing, list[Context]]).decode
decode_candles = msgspec.json.Decoder(list[Candle[str]] | None).decode
decode_funding_rows = msgspec.json.Decoder(list[FundingRow] | None).decode
decode_predictions = msgspec.json.Decoder(list[tuple[str, list[tuple[str, Prediction | None]]]]).decode
