"""OKX v5 frames and REST bodies as msgspec structs, spelled as OKX spells them; decoders built once.

Only shapes live here. Every number is a string, "" is none, and `sz`, `vol` and `oi` count contracts.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw, Struct, field

Direction = Literal["buy", "sell"]

# https://www.okx.com/docs-v5/en/#overview-websocket


class Arg(Struct, frozen=True, omit_defaults=True):
    """What is subscribed to: {"channel":"trades","instId":"BTC-USDT-SWAP"}"""

    channel: str
    symbol: str = field(name="instId", default="")
    instrument_type: str = field(name="instType", default="")


class Frame(Struct, frozen=True):
    """A push, or the answer to a request.

    {"arg":{"channel":"trades","instId":"BTC-USDT"},"data":[...]}
    {"id":"1512","event":"subscribe","arg":{"channel":"trades","instId":"BTC-USDT"},"connId":"c7f0ba8e"}
    {"event":"error","code":"60018","msg":"Wrong URL or channel:candle1m,instId:X doesn't exist","connId":"a4d3ae55"}
    {"event":"notice","code":"64008","msg":"The connection will soon be closed for a service upgrade. ...","connId":"a"}

    Each argument of a request is acknowledged by a frame of its own."""

    arg: Arg | None = None
    data: Raw = field(default_factory=Raw)
    event: str = ""
    code: str = ""
    message: str = field(name="msg", default="")
    request_id: str = field(name="id", default="")


class Trade(Struct, frozen=True):
    """{"instId":"BTC-USDT-SWAP","tradeId":"2805987683","px":"64472.1","sz":"0.02","side":"buy","ts":"1785060302444",
    "count":"3","source":"0","seqId":80559459948}

    On the stream one row is `count` fills of one order at one price, and `tradeId` the last one's; REST tells each
    fill. `source` "1" is an order with retail price improvement, and a row of its own."""

    symbol: str = field(name="instId")
    id: str = field(name="tradeId")
    price: str = field(name="px")
    contracts: str = field(name="sz")
    side: Direction  # the taker's
    time: str = field(name="ts")
    count: str = "1"


class TradeFrame(Struct, frozen=True):
    """A push of trades: those whose frame begins as all of them do are read in one step."""

    arg: Arg
    data: list[Trade]
    event: Literal[""] = ""


class LiquidationDetail(Struct, frozen=True):
    """{"bkLoss":"0","bkPx":"0.072682","ccy":"","posSide":"long","side":"sell","sz":"2","ts":"1791435480289"}

    `bkPx` is the price of the transaction with the system's liquidation account, not the market's fill."""

    side: Direction  # the order's: "sell" was a long
    price: str = field(name="bkPx")
    contracts: str = field(name="sz")
    time: str = field(name="ts")


class Liquidations(Struct, frozen=True):
    """Those of one contract: of any of the type that was subscribed to."""

    symbol: str = field(name="instId")
    details: list[LiquidationDetail]


class OpenInterest(Struct, frozen=True):
    """{"instId":"BTC-USDT-SWAP","instType":"SWAP","oi":"3124363.54","oiCcy":"31243.6354","oiUsd":"2119568225.54",
    "ts":"1728728314766"}"""

    symbol: str = field(name="instId")
    base: str = field(name="oiCcy")
    time: str = field(name="ts")
    value: str = field(name="oiUsd", default="")  # younger than the rest


class Funding(Struct, frozen=True):
    """{"fundingRate":"0.0001","fundingTime":"1789833600000","nextFundingTime":"1789862400000",
    "prevFundingTime":"1789804800000","instId":"BTC-USDT-SWAP","method":"current_period","ts":"1789824243998",...}

    `fundingTime` is the coming settlement, at which `fundingRate` as it then stands is paid."""

    symbol: str = field(name="instId")
    rate: str = field(name="fundingRate")
    time: str = field(name="fundingTime")
    given: str = field(name="ts", default="")
    next_time: str = field(name="nextFundingTime", default="")
    previous_time: str = field(name="prevFundingTime", default="")


class MarkPrice(Struct, frozen=True):
    """{"instType":"SWAP","instId":"BTC-USDT-SWAP","markPx":"84660.1","ts":"1744590349506"}"""

    symbol: str = field(name="instId")
    price: str = field(name="markPx")
    time: str = field(name="ts")


CandleRow = tuple[str, str, str, str, str, str, str, str, str]
"""[open time, open, high, low, close, volume in contracts, in base, in quote, confirm]; confirm "1" is a closed one."""

JudgedRow = tuple[Annotated[int, Meta(lt=10**16)], float, float, float, float, str, float, float, Literal["0", "1"]]


class CandleFrame(Struct, frozen=True):
    """One of a known shape: see actors.exchanges.shapes."""

    arg: Arg
    data: list[JudgedRow]
    event: Literal[""] = ""


decode_frame = msgspec.json.Decoder(Frame).decode
decode_candles = msgspec.json.Decoder(list[CandleRow]).decode
decode_candle_frame = msgspec.json.Decoder(CandleFrame, strict=False).decode
decode_trade_frame = msgspec.json.Decoder(TradeFrame).decode
decode_trades = msgspec.json.Decoder(list[Trade]).decode
decode_liquidations = msgspec.json.Decoder(list[Liquidations]).decode
decode_open_interests = msgspec.json.Decoder(list[OpenInterest]).decode
decode_fundings = msgspec.json.Decoder(list[Funding]).decode
decode_mark_prices = msgspec.json.Decoder(list[MarkPrice]).decode

# https://www.okx.com/docs-v5/en/#public-data-rest-api


class Answer(Struct, frozen=True):
    """Every body. Lists are newest first; a refusal has a code and often comes with a 200."""

    code: str
    message: str = field(name="msg", default="")
    data: Raw = field(default_factory=Raw)


class Contract(Struct, frozen=True):
    """{"ctMult":"1","ctType":"linear","ctVal":"0.01","ctValCcy":"BTC","instFamily":"BTC-USDT","instId":"BTC-USDT-SWAP",
    "instType":"SWAP","lotSz":"0.01","settleCcy":"USDT","state":"live","tickSz":"0.1","uly":"BTC-USDT",...}

    `baseCcy` and `quoteCcy` are "" for a swap; `lotSz` counts contracts; `expTime` is when one will be delisted."""

    symbol: str = field(name="instId")
    contract_type: str = field(name="ctType")
    value: str = field(name="ctVal")
    multiplier: str = field(name="ctMult")
    base: str = field(name="ctValCcy")
    settle: str = field(name="settleCcy")
    state: str
    lot: str = field(name="lotSz", default="")
    tick: str = field(name="tickSz", default="")
    ends: str = field(name="expTime", default="")


class SettledFunding(Struct, frozen=True):
    """{"instId":"BTC-USDT-SWAP","fundingRate":"0.0001515032","realizedRate":"0.00015","fundingTime":"1704067200000"}

    `realizedRate` was paid, `fundingRate` was expected."""

    expected: str = field(name="fundingRate")
    time: str = field(name="fundingTime")
    rate: str = field(name="realizedRate", default="")


class Maintenance(Struct, frozen=True):
    """{"title":"Trading account system upgrade","state":"scheduled","begin":"1672823400000","end":"1672823520000",
    "href":"","serviceType":"8","env":"1",...}

    `state`: scheduled, ongoing, pre_open, completed or canceled. `env` "2" is the demo's."""

    title: str
    state: str
    begin: str
    end: str = ""
    environment: str = field(name="env", default="")


class Time(Struct, frozen=True):
    time: str = field(name="ts")


InterestRow = tuple[str, str, str, str]
"""[time, contracts, base, dollars]"""

decode_raws = msgspec.json.Decoder(list[Raw]).decode
decode_answer = msgspec.json.Decoder(Answer).decode
decode_contracts = msgspec.json.Decoder(list[Contract]).decode
decode_settled = msgspec.json.Decoder(list[SettledFunding]).decode
decode_interest_rows = msgspec.json.Decoder(list[InterestRow]).decode
decode_maintenance = msgspec.json.Decoder(list[Maintenance]).decode
decode_times = msgspec.json.Decoder(list[Time]).decode
