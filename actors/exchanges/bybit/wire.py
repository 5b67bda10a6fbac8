"""Bybit v5 linear frames and REST bodies as msgspec structs, spelled as Bybit spells them; decoders built once.

Only shapes live here. Prices, quantities and rates stay strings until `actors.decimals` has judged them; "" means "not
applicable". What a push carries is told by its topic's first word, so `data` is decoded in a second step.
"""

from typing import Generic, Literal, TypeVar

import msgspec
from msgspec import Raw, Struct, field

N = TypeVar("N", str, float)  # a number: as it is written, or already judged

# https://bybit-exchange.github.io/docs/v5/ws/connect


class Frame(Struct, frozen=True):
    """A push, or the answer to a request.

    {"topic":"kline.1.BTCUSDT","type":"snapshot","ts":1790409768441,"data":[...]}
    {"success":true,"ret_msg":"","conn_id":"da7tou12ob6fpjtusqi0-8f1rr","req_id":"probe-pp","op":"subscribe"}
    {"success":true,"ret_msg":"pong","conn_id":"d9tc7k421nl91l9k6obg-s09y","req_id":"p1","op":"ping"}

    There is one answer per request frame, and only `req_id` says which."""

    topic: str | None = None
    type: str = ""
    pushed: int | None = field(name="ts", default=None)
    data: Raw = field(default_factory=Raw)
    success: bool | None = None
    message: str = field(name="ret_msg", default="")
    request_id: str = field(name="req_id", default="")
    operation: str = field(name="op", default="")
    description: str = field(name="desc", default="")  # {"code":"-10009","desc":"Invalid period!"}, an old form


Direction = Literal["Buy", "Sell"]


class Bar(Struct, Generic[N], frozen=True, gc=False):
    """{"start":1790409720000,"end":1790409779999,"interval":"1","open":"84045","close":"84017.8","high":"84045",
    "low":"84017.8","volume":"7.316","turnover":"614833.7084","confirm":false,"timestamp":1790409768441}

    `timestamp` is that of the last matched order, not the bar's."""

    start: int
    open: N
    close: N
    high: N
    low: N
    volume: N  # base
    turnover: N  # quote
    is_closed: bool = field(name="confirm")


class BarFrame(Struct, frozen=True):
    """One of a known shape: see actors.exchanges.shapes."""

    topic: str
    pushed: int = field(name="ts")
    data: list[Bar[float]]


class Trade(Struct, frozen=True, gc=False):
    """{"T":1781415763021,"s":"BTCUSDT","S":"Sell","v":"0.001","p":"64345.20","L":"MinusTick",
    "i":"35319862-77a2-5ebe-851b-3836573c4fe9","BT":false,"RPI":false,"seq":598180439295}

    `seq` is the engine's, shared by the fills of one order: no trade can be missed by it. The ids are random."""

    time: int = field(name="T")
    side: Direction = field(name="S")  # the taker's
    quantity: str = field(name="v")
    price: str = field(name="p")
    id: str = field(name="i")


class TradeFrame(Struct, frozen=True):
    """A push of trades: those whose frame begins as all of them do are read in one step."""

    topic: str
    pushed: int = field(name="ts")
    data: list[Trade]


class Liquidation(Struct, frozen=True):
    """{"T":1791565600992,"s":"BTCUSDT","S":"Buy","v":"0.006","p":"82396.90"}"""

    time: int = field(name="T")
    position: Direction = field(name="S")  # the liquidated POSITION's side, not the order's: "Buy" was a long
    quantity: str = field(name="v")
    price: str = field(name="p")  # the bankruptcy price, not the fill's


class Ticker(Struct, frozen=True):
    """A contract's present state; in a delta, what has changed of it. Open interest counts both sides.

    REST has the same fields. `fundingIntervalHour` came in 2025, the single-sided interest in 2026; a dated contract
    has "" for its funding."""

    mark_price: str | None = field(name="markPrice", default=None)
    funding_rate: str | None = field(name="fundingRate", default=None)
    next_funding_time: str | None = field(name="nextFundingTime", default=None)  # ms
    funding_hours: str | None = field(name="fundingIntervalHour", default=None)
    open_interest: str | None = field(name="openInterest", default=None)
    open_interest_value: str | None = field(name="openInterestValue", default=None)
    single_open_interest: str | None = field(name="singleOpenInterest", default=None)
    single_open_interest_value: str | None = field(name="singleOpenInterestValue", default=None)


decode_frame = msgspec.json.Decoder(Frame).decode
decode_bars = msgspec.json.Decoder(list[Bar[str]]).decode
decode_bar_frame = msgspec.json.Decoder(BarFrame, strict=False).decode
decode_trade_frame = msgspec.json.Decoder(TradeFrame).decode
decode_trades = msgspec.json.Decoder(list[Trade]).decode
decode_liquidations = msgspec.json.Decoder(list[Liquidation]).decode
decode_ticker = msgspec.json.Decoder(Ticker).decode

# https://bybit-exchange.github.io/docs/v5/market/kline and its neighbours


class Answer(Struct, frozen=True, kw_only=True):
    """Every body. `retMsg` may be "OK", "success", "" or the problem: only the code tells."""

    code: int = field(name="retCode")
    message: str = field(name="retMsg", default="")
    result: Raw = field(default_factory=Raw)
    time: int  # ms, when it was given: the exchange's clock


class Refusal(Struct, frozen=True):
    """What an answer with an error status says, if it is Bybit's at all."""

    code: int = field(name="retCode", default=0)
    message: str = field(name="retMsg", default="")


class PriceFilter(Struct, frozen=True):
    tick_size: str = field(name="tickSize", default="")


class LotSizeFilter(Struct, frozen=True):
    step_size: str = field(name="qtyStep", default="")


class Contract(Struct, frozen=True):
    """One instrument. `fundingInterval` is in minutes and means nothing for a dated contract."""

    symbol: str
    contract_type: str = field(name="contractType")
    status: str
    base: str = field(name="baseCoin")
    quote: str = field(name="quoteCoin")
    settle: str = field(name="settleCoin")
    price: PriceFilter = field(name="priceFilter")
    lot: LotSizeFilter = field(name="lotSizeFilter")
    funding_minutes: int = field(name="fundingInterval", default=0)


class Contracts(Struct, frozen=True):
    """`nextPageCursor` is "" on the last page and percent-encoded on the others: first%3DBIOUSDT%26last%3DBIOUSDT"""

    rows: list[Contract] = field(name="list")
    next_cursor: str = field(name="nextPageCursor", default="")


KlineRow = tuple[str, str, str, str, str, str, str]
"""[open time, open, high, low, close, volume (base), turnover (quote)]; nothing says whether the bar is closed."""


class Klines(Struct, frozen=True):
    rows: list[KlineRow] = field(name="list")  # newest first


class OpenInterestRow(Struct, frozen=True):
    """{"openInterest":"52664.64200000","singleOpenInterest":"26332.321","timestamp":"1789458600000"}"""

    timestamp: str
    open_interest: str | None = field(name="openInterest", default=None)
    single_open_interest: str | None = field(name="singleOpenInterest", default=None)


class OpenInterestRows(Struct, frozen=True):
    rows: list[OpenInterestRow] = field(name="list")  # newest first


class FundingRow(Struct, frozen=True):
    """{"symbol":"ETHPERP","fundingRate":"0.0001","fundingRateTimestamp":"1672041600000"}"""

    funding_rate: str = field(name="fundingRate")
    time: str = field(name="fundingRateTimestamp")


class FundingRows(Struct, frozen=True):
    rows: list[FundingRow] = field(name="list")  # newest first


class Tickers(Struct, frozen=True):
    """Rows have no time of their own: the answer's is theirs."""

    rows: list[Ticker] = field(name="list")


class RecentTrade(Struct, frozen=True):
    """{"execId":"9afd1288-...","price":"51444.40","size":"0.972","side":"Buy","time":"1707905515968","seq":"123456"}

    `execId` is the stream's `i`."""

    id: str = field(name="execId")
    price: str
    quantity: str = field(name="size")
    side: Direction  # the taker's
    time: str


class RecentTrades(Struct, frozen=True):
    rows: list[RecentTrade] = field(name="list")  # newest first, as far as is known


decode_recent_trades = msgspec.json.Decoder(RecentTrades).decode
decode_answer = msgspec.json.Decoder(Answer).decode
decode_refusal = msgspec.json.Decoder(Refusal).decode
decode_contracts = msgspec.json.Decoder(Contracts).decode
decode_klines = msgspec.json.Decoder(Klines).decode
decode_open_interest_rows = msgspec.json.Decoder(OpenInterestRows).decode
decode_funding_rows = msgspec.json.Decoder(FundingRows).decode
decode_tickers = msgspec.json.Decoder(Tickers).decode
