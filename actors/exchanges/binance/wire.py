"""Binance USD-M frames and REST bodies as msgspec structs, spelled as Binance spells them; decoders built once.

Only shapes live here. Prices and quantities stay strings until `actors.decimals` has judged them. Keys that differ only
by case (`e`/`E`, `t`/`T`, `q`/`Q`, `v`/`V`) are distinct on the wire, so every field is named.
"""

from typing import Annotated, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct, field

N = TypeVar("N", str, float)  # a number: as it is written, or already judged
Interval = Literal["1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M"]

# https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams


class AggTrade(Struct, frozen=True, gc=False, tag_field="e", tag="aggTrade"):
    """{"e":"aggTrade","E":1791391082024,"a":3478018549,"s":"BTCUSDT","p":"83434.40","q":"0.016","nq":"0.016",
    "f":8154045700,"l":8154045704,"T":1791391081874,"m":true,"st":1}"""

    pushed: int = field(name="E")
    id: int = field(name="a")
    symbol: str = field(name="s")
    price: str = field(name="p")
    quantity: str = field(name="q")  # includes retail-price-improvement fills
    time: int = field(name="T")
    is_buyer_maker: bool = field(name="m")
    market: int = field(name="st", default=1)  # 1 USD-M, 2 COIN-M; absent before 2026-06-30


class Bar(Struct, Generic[N], frozen=True, gc=False):
    """The `k` of a kline frame, in the order of the wire, in which fields are found at once."""

    open_time: int = field(name="t")
    interval: Interval = field(name="i")
    open: N = field(name="o")
    close: N = field(name="c")
    high: N = field(name="h")
    low: N = field(name="l")
    volume: N = field(name="v")
    trades_count: Annotated[int, Meta(ge=0)] = field(name="n")
    is_closed: bool = field(name="x")
    quote_volume: N = field(name="q")


class Kline(Struct, Generic[N], frozen=True, gc=False, tag_field="e", tag="kline"):
    """{"e":"kline","E":1786173360960,"s":"BTCUSDT","k":{"t":1786173300000, "T":1786173359999, "s":"BTCUSDT",
    "i":"1m", "f":7960920076, "L":7960920277, "o":"64970.80", "c":"64969.40", "h":"64970.90", "l":"64969.40",
    "v":"9.090", "n":194, "x":true, "q":"590577.96880", "V":"3.460", "Q":"224795.09440", "B":"0"}}"""

    pushed: int = field(name="E")
    symbol: str = field(name="s")
    bar: Bar[N] = field(name="k")
    market: int = field(name="st", default=1)


class Order(Struct, frozen=True):
    """The `o` of a forceOrder frame."""

    symbol: str = field(name="s")
    side: Literal["BUY", "SELL"] = field(name="S")
    average_price: str = field(name="ap")
    filled: str = field(name="z")
    time: int = field(name="T")
    market: int = field(name="st", default=1)


class ForceOrder(Struct, frozen=True, tag_field="e", tag="forceOrder"):
    """{"e":"forceOrder","E":1791565603055,"o":{"s":"BTCUSDT","S":"SELL","o":"LIMIT","f":"IOC","q":"0.190",
    "p":"82338.30","ap":"82651.90","X":"FILLED","l":"0.155","z":"0.190","T":1791565602120,"ps":"BTCUSDT","st":1}}

    The documentation shows `st` beside `o`, the wire has it inside: both are read."""

    pushed: int = field(name="E")
    order: Order = field(name="o")
    market: int = field(name="st", default=1)


class MarkPrice(Struct, frozen=True, tag_field="e", tag="markPriceUpdate"):
    """{"e":"markPriceUpdate","E":1785048483000,"s":"BTCUSDT","p":"64346.70000000","ap":"64346.70000000",
    "P":"64335.31235580","i":"64399.61608696","r":"0.00005301","T":1785052800000,"st":1}

    A dated contract has no funding: `r` is "" and `T` 0."""

    pushed: int = field(name="E")
    symbol: str = field(name="s")
    mark_price: str = field(name="p")
    funding_rate: str = field(name="r")
    next_funding_time: int = field(name="T")
    market: int = field(name="st", default=1)


Push = AggTrade | Kline[str] | ForceOrder | MarkPrice


class Frame(Struct, frozen=True, gc=False):
    """A frame of a combined stream: {"stream":"btcusdt@aggTrade","data":{...}}. What it is about, `data` says too."""

    data: Push


class KlineFrame(Struct, frozen=True, gc=False):
    """One of a known shape: see actors.exchanges.shapes. With one kind alone msgspec would do without the tag."""

    data: Kline[float] | MarkPrice


class AnyFrame(Struct, frozen=True):
    """Just enough of a frame that is not a known push in the combined envelope to say what it is.

    A reply to a request: {"result":null,"id":1}, {"code":2,"msg":"...","id":1} or {"error":{"code":..},"id":1};
    a push outside the envelope has an `e` of its own."""

    data: Raw = Raw()
    event: str | None = field(name="e", default=None)
    id: int | str | None = None
    result: Raw = Raw()
    code: int | None = None
    msg: str | None = None
    error: Raw = Raw()


decode_frame = msgspec.json.Decoder(Frame).decode
decode_kline = msgspec.json.Decoder(KlineFrame, strict=False).decode
decode_push = msgspec.json.Decoder(Push).decode
decode_pushes = msgspec.json.Decoder(list[Push]).decode
decode_any_frame = msgspec.json.Decoder(AnyFrame).decode
decode_any_frames = msgspec.json.Decoder(list[AnyFrame]).decode

# https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api

KlineRow = tuple[int, str, str, str, str, str, int, str, int, str, str, str]
"""[open time, open, high, low, close, volume, close time, quote volume, trades, taker base, taker quote, ignore]"""


class ErrorBody(Struct, frozen=True):
    """{"code":-1121,"msg":"Invalid symbol."}; a regional block has no code."""

    code: int | None = None
    msg: str = ""


class ServerTime(Struct, frozen=True):
    server_time: int = field(name="serverTime")


class Filter(Struct, frozen=True):
    type: str = field(name="filterType")
    tick_size: str | None = field(name="tickSize", default=None)
    step_size: str | None = field(name="stepSize", default=None)


class Contract(Struct, frozen=True):
    """One of exchangeInfo's `symbols`. `pricePrecision` is documented as not being the tick size."""

    symbol: str
    status: str
    base: str = field(name="baseAsset")
    quote: str = field(name="quoteAsset")
    settle: str = field(name="marginAsset")
    filters: list[Filter]
    contract_type: str = field(name="contractType", default="")


class ExchangeInfo(Struct, frozen=True):
    """`serverTime` in here is cached for hours and is not a clock, so it is not read."""

    symbols: list[Contract]


class FundingInfo(Struct, frozen=True):
    """Only symbols whose funding was adjusted are listed; the others settle every 8 hours."""

    symbol: str
    interval_hours: int = field(name="fundingIntervalHours")


class OpenInterestBody(Struct, frozen=True):
    open_interest: str = field(name="openInterest")
    symbol: str
    time: int


class OpenInterestRow(Struct, frozen=True):
    """`timestamp` was a string in older documentation and is a number in newer."""

    symbol: str
    open_interest: str = field(name="sumOpenInterest")
    open_interest_value: str = field(name="sumOpenInterestValue")
    timestamp: int | str


class PremiumIndex(Struct, frozen=True):
    """`lastFundingRate` is the rate that applies at `nextFundingTime`, despite its name."""

    symbol: str
    mark_price: str = field(name="markPrice")
    funding_rate: str = field(name="lastFundingRate")
    next_funding_time: int = field(name="nextFundingTime")
    time: int


class FundingRow(Struct, frozen=True):
    """`markPrice` may be "" on old rows."""

    symbol: str
    funding_rate: str = field(name="fundingRate")
    funding_time: int = field(name="fundingTime")
    mark_price: str = field(name="markPrice", default="")


class AggTradeRow(Struct, frozen=True):
    """{"a":26129,"p":"0.01633102","q":"4.70443515","nq":"100","f":27781,"l":27781,"T":1498793709153,"m":true}"""

    id: int = field(name="a")
    price: str = field(name="p")
    quantity: str = field(name="q")
    time: int = field(name="T")
    is_buyer_maker: bool = field(name="m")


decode_agg_trades = msgspec.json.Decoder(list[AggTradeRow]).decode
decode_error = msgspec.json.Decoder(ErrorBody).decode
decode_server_time = msgspec.json.Decoder(ServerTime).decode
decode_exchange_info = msgspec.json.Decoder(ExchangeInfo).decode
decode_funding_info = msgspec.json.Decoder(list[FundingInfo]).decode
decode_klines = msgspec.json.Decoder(list[KlineRow]).decode
decode_open_interest = msgspec.json.Decoder(OpenInterestBody).decode
decode_open_interest_rows = msgspec.json.Decoder(list[OpenInterestRow]).decode
decode_premium_index = msgspec.json.Decoder(PremiumIndex).decode
decode_funding_rows = msgspec.json.Decoder(list[FundingRow]).decode
