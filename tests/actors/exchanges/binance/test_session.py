"""Binance's frames, real and broken: what they become, and that nothing but BadMessage ever comes of a bad one."""

import json
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from datetime import UTC, datetime
from decimal import Decimal
from math import isfinite
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actors.decimals import amount, number, product
from actors.errors import BadMessage, UnknownMessage
from actors.events import Event, FundingRate, Instrument, Kind, Liquidation, Ohlc, Topic, Trade, from_ms, ms
from actors.exchanges.binance import EXCHANGE
from actors.exchanges.binance.session import BinanceSession, stream_name
from actors.exchanges.exchange import Leaving, Rejected, Update
from tests.recordings import RECORDINGS

NOW = datetime(2026, 11, 24, tzinfo=UTC)

# Frames as they were seen on the wire or documented, spacing included.
KLINE = (
    '{"stream":"btcusdt@kline_1m","data":{"e":"kline","E":1786173360960,"s":"BTCUSDT","k":{"t":1786173300000, '
    '"T":1786173359999, "s":"BTCUSDT", "i":"1m", "f":7960920076, "L":7960920277, "o":"64970.80", "c":"64969.40", '
    '"h":"64970.90", "l":"64969.40", "v":"9.090", "n":194, "x":true, "q":"590577.96880", "V":"3.460", '
    '"Q":"224795.09440", "B":"0"}}}'
)
AGG_TRADE = (
    '{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":1791391082024,"a":3478018549,"s":"BTCUSDT",'
    '"p":"83434.40","q":"0.016","nq":"0.016","f":8154045700,"l":8154045704,"T":1791391081874,"m":true,"st":1}}'
)
FORCE_ORDER = (
    '{"stream":"!forceOrder@arr","data":{"e":"forceOrder","E":1791565603055,"o":{"s":"BTCUSDT","S":"SELL",'
    '"o":"LIMIT","f":"IOC","q":"0.190","p":"82338.30","ap":"82651.90","X":"FILLED","l":"0.155","z":"0.190",'
    '"T":1791565602120,"ps":"BTCUSDT","st":1}}}'
)
MARK_PRICE = (
    '{"stream":"btcusdt@markPrice@1s","data":{"e":"markPriceUpdate","E":1785048483000,"s":"BTCUSDT",'
    '"p":"64346.70000000","ap":"64346.70000000","P":"64335.31235580","i":"64399.61608696","r":"0.00005301",'
    '"T":1785052800000,"st":1}}'
)
REAL = {"kline": KLINE, "aggTrade": AGG_TRADE, "forceOrder": FORCE_ORDER, "markPriceUpdate": MARK_PRICE}

UNREAD = [
    '{"e":"trade","E":1789893896920,"T":1789893896920,"s":"BTCUSDT","t":8097313955,"p":"80227.00","q":"0.010",'
    '"X":"MARKET","m":true,"st":1}',
    '{"e":"contractInfo","E":1669356423908,"s":"IOTAUSDT","ct":"PERPETUAL","dt":4133404800000,"ot":1569398400000,'
    '"cs":"TRADING","bks":[]}',
    '{"stream":"sushiusdt@bookTicker","data":{"e":"bookTicker","u":600859600576,"s":"SUSHIUSDT","b":"7.6110",'
    '"B":"2","a":"7.6120","A":"297","T":1626992741012,"E":1626992741017}}',
]


def instrument(symbol: str, hours: float | None) -> Instrument:
    return Instrument(
        exchange="binance",
        symbol=symbol,
        base=symbol[:3],
        quote="USDT",
        settle="USDT",
        status="TRADING",
        tick_size=0.1,
        step_size=0.001,
        funding_interval_hours=hours,
    )


def receive(frame: str | bytes | dict[str, Any] | list[Any]) -> Sequence[Update | Rejected | Leaving]:
    """What a new session makes of a frame."""
    sent = frame if isinstance(frame, str | bytes) else json.dumps(frame, ensure_ascii=False)
    return BinanceSession({}).receive(sent, NOW)


def one(frame: str | bytes | dict[str, Any] | list[Any]) -> Event:
    (said,) = receive(frame)
    assert isinstance(said, Update)
    return said.event


def changed(frame: str, **changes: object) -> dict[str, Any]:
    """A real frame with other values; a key may belong to the push or to what it carries."""
    new: dict[str, Any] = json.loads(frame)
    data = new["data"]
    inner = data.get("k") or data.get("o") or data
    for key, value in changes.items():
        (inner if key in inner else data)[key] = value
    return new


def prints_as(value: float | None, text: str) -> bool:
    """The number goes out exactly as the exchange wrote it, zeros at its end aside."""
    return value is not None and Decimal(msgspec.json.encode(value).decode()) == Decimal(text)


# --- frames that are read ---


def test_a_kline_frame() -> None:
    wanted = Ohlc(
        exchange="binance",
        symbol="BTCUSDT",
        timestamp=from_ms(1786173300000),
        interval="1m",
        open=64970.8,
        high=64970.9,
        low=64969.4,
        close=64969.4,
        volume=9.09,
        quote_volume=590577.9688,
        trades_count=194,
        is_closed=True,
    )
    assert receive(KLINE) == [Update(wanted, from_ms(1786173360960))]
    assert b'"quote_volume":590577.9688,' in msgspec.json.encode(wanted)


def test_an_aggregate_trade_frame() -> None:
    wanted = Trade(
        exchange="binance",
        symbol="BTCUSDT",
        timestamp=from_ms(1791391081874),
        side="sell",  # the buyer was the maker
        price=83434.4,
        quantity=0.016,
        value=1334.9504,
        is_buyer_maker=True,
        trade_id=3478018549,
    )
    assert receive(AGG_TRADE) == [Update(wanted, from_ms(1791391082024))]
    bought = one(changed(AGG_TRADE, m=False))
    assert isinstance(bought, Trade)
    assert (bought.side, bought.is_buyer_maker) == ("buy", False)


def test_a_forced_order_frame() -> None:
    wanted = Liquidation(
        exchange="binance",
        symbol="BTCUSDT",
        timestamp=from_ms(1791565602120),
        side="sell",  # a long was liquidated
        price=82651.9,  # the average, not the limit
        quantity=0.19,  # all that was filled, not the last part
        value=15703.861,
    )
    assert receive(FORCE_ORDER) == [Update(wanted, from_ms(1791565603055))]
    short = one(changed(FORCE_ORDER, S="BUY", z="1861", l="38", q="1900"))
    assert isinstance(short, Liquidation)
    assert (short.side, short.quantity, short.value) == ("buy", 1861.0, 153815185.9)


@pytest.mark.parametrize(("hours", "wanted"), [(4.0, 4.0), (8.0, 8.0)])
def test_a_mark_price_frame(hours: float, wanted: float) -> None:
    session = BinanceSession({"BTCUSDT": instrument("BTCUSDT", hours)})
    funding = FundingRate(
        exchange="binance",
        symbol="BTCUSDT",
        timestamp=from_ms(1785048483000),
        funding_rate=0.00005301,
        funding_time=from_ms(1785052800000),
        funding_interval_hours=wanted,
        mark_price=64346.7,
    )
    assert session.receive(MARK_PRICE, NOW) == [Update(funding, from_ms(1785048483000))]


def test_a_funding_interval_that_could_not_be_had_is_not_made_up() -> None:
    """The catalogue says None where the list of adjusted intervals failed to arrive; so must the rate."""
    session = BinanceSession({"BTCUSDT": instrument("BTCUSDT", None)})
    (said,) = session.receive(MARK_PRICE, NOW)
    assert isinstance(said, Update)
    assert isinstance(said.event, FundingRate)
    assert said.event.funding_interval_hours is None


def test_a_negative_funding_rate_is_a_rate() -> None:
    funding = one(changed(MARK_PRICE, r="-0.03750000"))
    assert isinstance(funding, FundingRate)
    assert funding.funding_rate == -0.0375


def test_a_dated_contract_has_no_funding() -> None:
    assert receive(changed(MARK_PRICE, s="BTCUSDT_210924", r="", T=0)) == []


@pytest.mark.parametrize("frame", REAL.values(), ids=REAL)
def test_text_bytes_bare_pushes_and_arrays_say_the_same(frame: str) -> None:
    said = receive(frame)
    bare = json.dumps(json.loads(frame)["data"])
    assert receive(frame.encode()) == said
    assert receive(bare) == said
    assert receive(f"[{bare},{bare}]") == [*said, *said]
    assert receive(f'{{"stream":"!all@arr","data":[{bare}]}}') == said
    assert receive(f' {{"data" : {bare}, "more": [1], "stream":"x"}}\n') == said


@pytest.mark.parametrize("symbol", ["币安人生USDT", "牛来USDT", "1000PEPEUSDT", "BTCUSDT_210924"])
@pytest.mark.parametrize("frame", [KLINE, AGG_TRADE, MARK_PRICE], ids=["kline", "aggTrade", "markPriceUpdate"])
def test_symbols_are_the_exchange_s_own(frame: str, symbol: str) -> None:
    new = json.loads(frame)
    new["data"]["s"] = symbol
    assert one(json.dumps(new, ensure_ascii=False)).symbol == symbol
    assert one(json.dumps(new, ensure_ascii=False).encode()).symbol == symbol
    assert one(json.dumps(new)).symbol == symbol


# --- frames that are not read ---


@pytest.mark.parametrize("frame", UNREAD)
def test_unread_events_are_unknown_not_garbage(frame: str) -> None:
    for text in (frame, f'{{"stream":"x","data":{frame}}}'):
        if "stream" not in frame or text is frame:
            with pytest.raises(UnknownMessage, match="unknown event"):
                receive(text)


def test_coin_margined_contracts_are_left_out_wherever_the_mark_stands() -> None:
    assert receive(changed(AGG_TRADE, st=2)) == []
    assert receive(changed(MARK_PRICE, st=2)) == []
    assert receive(changed(FORCE_ORDER, st=2)) == []  # inside `o`, as on the wire
    outside = json.loads(FORCE_ORDER)
    del outside["data"]["o"]["st"]
    assert len(receive(outside)) == 1
    outside["data"]["st"] = 2  # beside `o`, as documented
    assert receive(outside) == []
    ours, theirs = json.loads(MARK_PRICE)["data"], changed(MARK_PRICE, s="BTCUSD_PERP", st=2)["data"]
    for frame in ([theirs, ours, theirs], {"stream": "!markPrice@arr@1s", "data": [theirs, ours]}):
        assert one(frame).symbol == "BTCUSDT"


def test_samples_of_the_exchange_s_own_kit() -> None:
    path = RECORDINGS / "binance-sdk" / "ws_streams_market.json"
    if not path.exists():
        pytest.skip(f"no recordings at {path}")
    read: dict[str, type[Event]] = {
        "aggregate_trade_streams": Trade,
        "all_market_liquidation_order_streams": Liquidation,
        "liquidation_order_streams": Liquidation,
        "kline_candlestick_streams": Ohlc,
        "mark_price_stream": FundingRate,
        "mark_price_stream_for_all_market": FundingRate,
    }
    samples: dict[str, Any] = json.loads(path.read_text())
    assert read.keys() <= samples.keys()
    garbage = []
    for name, sample in samples.items():
        for frame in (sample, {"stream": "some@stream", "data": sample}):
            if name in read:
                assert type(one(frame)) is read[name]
                continue
            try:
                assert receive(frame) == []
            except UnknownMessage:
                pass
            except BadMessage:
                garbage.append(name)
    assert garbage == []  # well-formed frames of other streams must not count towards ending the connection


def test_a_capture_of_half_a_minute() -> None:
    path = RECORDINGS / "cryptofeed" / "BINANCE_FUTURES.ws.1.0"
    if not path.exists():
        pytest.skip(f"no recordings at {path}")
    session = BinanceSession({})
    counts: Counter[str] = Counter()
    for line in path.read_text().splitlines():
        stamp, found, text = line.partition(": ")
        if not (found and stamp.replace(".", "").isdigit()):
            continue
        data: dict[str, Any] = json.loads(text)["data"]
        counts["frames"] += 1
        try:
            (said,) = session.receive(text, NOW)
        except UnknownMessage:
            counts["unknown " + data["e"]] += 1
            continue
        assert isinstance(said, Update)
        assert said.pushed_at == from_ms(data["E"])
        match said.event:
            case Trade() as trade:
                counts["trades"] += 1
                check_trade(trade, data)
            case Ohlc() as bar:
                counts["bars"] += 1
                counts["closed"] += bar.is_closed
                check_bar(bar, data["k"])
    assert counts == {
        "frames": 1535,
        "trades": 91,
        "bars": 67,
        "closed": 4,
        "unknown depthUpdate": 764,
        "unknown bookTicker": 613,
    }


def check_trade(trade: Trade, data: dict[str, Any]) -> None:
    assert (trade.exchange, trade.symbol, trade.trade_id) == ("binance", data["s"], data["a"])
    assert ms(trade.timestamp) == data["T"]
    assert trade.side == ("sell" if data["m"] else "buy")
    assert prints_as(trade.price, data["p"])
    assert prints_as(trade.quantity, data["q"])
    assert prints_as(trade.value, str(Decimal(data["p"]) * Decimal(data["q"])))


def check_bar(bar: Ohlc, k: dict[str, Any]) -> None:
    assert (bar.symbol, bar.interval, bar.is_closed, bar.trades_count) == (k["s"], k["i"], k["x"], k["n"])
    assert ms(bar.timestamp) == k["t"]
    numbers = (bar.open, bar.high, bar.low, bar.close, bar.volume, bar.quote_volume)
    for value, key in zip(numbers, "ohlcvq", strict=True):
        assert prints_as(value, k[key])


# --- requests and replies ---


TOPICS = [
    Topic("binance", "BTCUSDT", "ohlc", "1m"),
    Topic("binance", "BTCUSDT", "ohlc", "1M"),
    Topic("binance", "BTCUSDT", "trades"),
    Topic("binance", "1000PEPEUSDT", "liquidations"),
    Topic("binance", "币安人生USDT", "funding"),
]
STREAMS = [
    "btcusdt@kline_1m",
    "btcusdt@kline_1M",
    "btcusdt@aggTrade",
    "1000pepeusdt@forceOrder",
    "币安人生usdt@markPrice@1s",
]


@pytest.mark.parametrize(("topic", "stream"), [*zip(TOPICS, STREAMS, strict=True)], ids=[*map(str, TOPICS)])
def test_stream_names(topic: Topic, stream: str) -> None:
    assert stream_name(topic) == stream


@pytest.mark.parametrize("kind", ["oi", "large_trades"])
def test_what_binance_does_not_push_has_no_stream(kind: Kind) -> None:
    with pytest.raises(ValueError, match=kind):
        stream_name(Topic("binance", "BTCUSDT", kind))


def test_requests_are_numbered_and_name_streams() -> None:
    session = BinanceSession({})
    frames = [*session.subscribe(TOPICS), *session.unsubscribe(TOPICS[:1])]
    assert [json.loads(frame) for frame in frames] == [
        {"method": "SUBSCRIBE", "params": STREAMS, "id": 1},
        {"method": "UNSUBSCRIBE", "params": STREAMS[:1], "id": 2},
    ]


@pytest.mark.parametrize("reply", ['{"result":null,"id":1}', '{"result":["btcusdt@aggTrade"],"id":3}'])
def test_an_ack_says_nothing(reply: str) -> None:
    session = BinanceSession({})
    session.subscribe(TOPICS)
    assert session.receive(reply, NOW) == []
    assert list(session.unacknowledged()) == []  # it proves nothing, so nothing waits for it


@pytest.mark.parametrize(
    "reply",
    [
        '{"code":2,"msg":"Invalid request: too many parameters","id":2}',
        '{"error":{"code":2,"msg":"Invalid request: too many parameters"},"id":2}',
        '{"id":2,"result":null,"error":{"code":2,"msg":"Invalid request: too many parameters"}}',
    ],
)
def test_a_refusal_names_what_was_asked_for(reply: str) -> None:
    session = BinanceSession({})
    for topic in TOPICS[:3]:
        session.subscribe([topic])
    (rejected,) = session.receive(reply.encode(), NOW)
    assert isinstance(rejected, Rejected)
    assert rejected.topics == (TOPICS[1],)
    assert "too many parameters" in rejected.reason
    (again,) = session.receive(reply, NOW)
    assert isinstance(again, Rejected)
    assert again.topics == ()  # one request is refused once


def test_a_refused_end_of_a_subscription_rejects_no_topic() -> None:
    session = BinanceSession({})
    session.unsubscribe(TOPICS)
    (rejected,) = session.receive('{"code":2,"msg":"no","id":1}', NOW)
    assert isinstance(rejected, Rejected)
    assert rejected.topics == ()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ('{"code":1,"msg":"Invalid value type: expected Boolean"}', "expected Boolean"),
        ('{"code":2,"msg":"Invalid request: missing field `method` at line 1 column 73"}', "missing field"),
        ('{"code":3,"msg":"Invalid JSON: expected value at line 1 column 1"}', "Invalid JSON"),
        ('{"error":{"code":3,"msg":"Invalid JSON"},"id":null}', "Invalid JSON"),
    ],
)
def test_a_refusal_without_a_number_still_says_why(reply: str, reason: str) -> None:
    (rejected,) = receive(reply)
    assert isinstance(rejected, Rejected)
    assert rejected.topics == ()
    assert reason in rejected.reason


# --- garbage ---

NUMBERS = {
    "kline": ("o", "h", "l", "c", "v", "q"),
    "aggTrade": ("p", "q"),
    "forceOrder": ("ap", "z"),
    "markPriceUpdate": ("p",),
}
TIMES = {"kline": ("E", "t"), "aggTrade": ("E", "T"), "forceOrder": ("E", "T"), "markPriceUpdate": ("E", "T")}
NOT_NUMBERS = ["", "nan", "-nan", "inf", "-Infinity", "1e999", "1E+1000000", "0x10", "1,5", "-1", "-0.001", "9" * 400]
NOT_STRINGS: list[object] = [None, 5, 1.5, True, [], {}, ["1"]]
NOT_TIMES: list[object] = [None, -1, 10**15, 10**30, "1786173360960", 1.5, True, [], {}]


@pytest.mark.parametrize("value", [*NOT_NUMBERS, *NOT_STRINGS], ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize(("event", "key"), [(event, key) for event, keys in NUMBERS.items() for key in keys])
def test_numbers_that_are_none(event: str, key: str, value: object) -> None:
    if (event, value) == ("markPriceUpdate", ""):
        return  # an optional one: see below
    with pytest.raises(BadMessage):
        receive(changed(REAL[event], **{key: value}))


@pytest.mark.parametrize(
    "frame",
    [
        '{"e":"serverShutdown","E":1770123456789}',
        '{"stream":"","data":{"e":"serverShutdown","E":1770123456789}}',
    ],
)
def test_a_server_that_shuts_down_is_left(frame: str) -> None:
    [leaving] = receive(frame)
    assert isinstance(leaving, Leaving)


@pytest.mark.parametrize("change", [{"ap": "0"}, {"z": "0"}, {"ap": "0.00000", "z": "0.000"}], ids=repr)
def test_an_order_that_liquidated_nothing_is_no_liquidation(change: dict[str, object]) -> None:
    assert receive(changed(REAL["forceOrder"], **change)) == []


@pytest.mark.parametrize(
    ("event", "change"),
    [
        ("markPriceUpdate", {"T": 0}),  # a contract whose funding has not begun
        ("markPriceUpdate", {"r": "", "T": 0}),  # a dated one
        ("kline", {"o": "0", "h": "0", "l": "0", "c": "0", "v": "0", "q": "0", "n": 0}),
    ],
    ids=repr,
)
def test_what_has_not_begun_says_nothing(event: str, change: dict[str, object]) -> None:
    assert receive(changed(REAL[event], **change)) == []


@pytest.mark.parametrize("nothing", ["0", "0.00000000", ""])
def test_a_mark_price_of_nothing_is_null(nothing: str) -> None:
    [update] = receive(changed(REAL["markPriceUpdate"], p=nothing))
    assert isinstance(update, Update)
    assert isinstance(update.event, FundingRate)
    assert update.event.mark_price is None


@pytest.mark.parametrize(
    ("event", "key"), [(event, key) for event, keys in TIMES.items() for key in keys if event != "markPriceUpdate"]
)
def test_nothing_happened_in_1970(event: str, key: str) -> None:
    with pytest.raises(BadMessage):
        receive(changed(REAL[event], **{key: 0}))


@pytest.mark.parametrize("value", NOT_TIMES, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize(("event", "key"), [(event, key) for event, keys in TIMES.items() for key in keys])
def test_times_that_are_none(event: str, key: str, value: object) -> None:
    with pytest.raises(BadMessage):
        receive(changed(REAL[event], **{key: value}))


@pytest.mark.parametrize("value", ["nan", "inf", "abc", "1e999", None, 5])
def test_funding_rates_that_are_none(value: object) -> None:
    with pytest.raises(BadMessage):
        receive(changed(MARK_PRICE, r=value))


@pytest.mark.parametrize(
    ("event", "key", "value"),
    [
        ("kline", "n", -1),
        ("kline", "n", "194"),
        ("kline", "x", 1),
        ("kline", "x", None),
        ("kline", "i", 1),
        ("kline", "s", None),
        ("aggTrade", "a", None),
        ("aggTrade", "a", "3478018549"),
        ("aggTrade", "m", "true"),
        ("aggTrade", "st", "1"),
        ("forceOrder", "S", "HOLD"),
        ("forceOrder", "S", None),
    ],
)
def test_other_fields_of_the_wrong_kind(event: str, key: str, value: object) -> None:
    frame = changed(REAL[event], **{key: value})
    if (event, key) == ("kline", "s"):
        frame["data"]["s"] = value
    with pytest.raises(BadMessage):
        receive(frame)


def test_fields_that_are_not_read_may_be_anything() -> None:
    for event, key in (("aggTrade", "nq"), ("kline", "B"), ("forceOrder", "p"), ("markPriceUpdate", "i")):
        frame = changed(REAL[event], **{key: [None, "nan"]})
        assert receive(frame) == receive(REAL[event])


@pytest.mark.parametrize("event", REAL)
def test_a_field_that_is_missing(event: str) -> None:
    needed = {
        "kline": {"E", "s", "k"},
        "aggTrade": {"E", "a", "s", "p", "q", "T", "m"},
        "forceOrder": {"E", "o"},
        "markPriceUpdate": {"E", "s", "p", "r", "T"},
    }[event]
    for key in needed:
        frame = json.loads(REAL[event])
        del frame["data"][key]
        with pytest.raises(BadMessage):
            receive(frame)


@pytest.mark.parametrize(
    "frame",
    [
        "",
        " ",
        "null",
        "true",
        "5",
        '"text"',
        "[]x",
        "[null]",
        "[[]]",
        "{}",
        '{"e":5}',
        '{"e":null}',
        '{"stream":"btcusdt@kline_1m"}',
        '{"stream":"btcusdt@kline_1m","data":null}',
        '{"stream":"btcusdt@kline_1m","data":5}',
        '{"stream":"btcusdt@kline_1m","data":{}}',
        '{"stream":"x","data":{"e":"kline"}}',
        '{"e":"kline","k":NaN}',
        '{"id":[1]}',
        '{"id":{},"result":null}',
        '{"s":"\\ud800"}',
        "<html><body>502 Bad Gateway</body></html>",
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"data":' * 20_000,
        '{"stream":"x","data":' + '{"e":"kline","k":' * 20_000 + "1" + "}" * 20_000 + "}",
        '{"id":1,"error":' + "[" * 50_000 + "]" * 50_000 + "}",
        b"\x00\x01\x02",
        b"\xff\xfe",
        b"\x1f\x8b\x08\x00",
        b'{"e":"kline\xff"}',
        b'{"e":"\xff"}',
        b'{"id":"\xff"}',
        b'{"id":1,"code":2,"msg":"\xff"}',
        b'{"stream":"x","data":{"e":"aggTrade","s":"\xff"}}',
    ],
    ids=lambda frame: repr(frame[:24]),
)
def test_garbage_is_a_bad_message(frame: str | bytes) -> None:
    with pytest.raises(BadMessage):
        receive(frame)


def test_a_truncated_frame_is_a_bad_message() -> None:
    for frame in REAL.values():
        for length in range(len(frame)):
            with pytest.raises(BadMessage):
                receive(frame[:length])
            with pytest.raises(BadMessage):
                receive(frame[:length].encode())


def check_only_good_events(frame: str | bytes) -> None:
    """Whatever the frame: events with usable numbers and times, or BadMessage."""
    session = BinanceSession({})
    session.subscribe(TOPICS)
    try:
        said = session.receive(frame, NOW)
    except BadMessage:
        return
    for item in said:
        if not isinstance(item, Update):
            continue
        assert item.event.symbol is not None
        fields = {name: getattr(item.event, name) for name in item.event.__struct_fields__}
        for name, value in fields.items():
            if isinstance(value, float):
                assert isfinite(value)
                assert value >= 0 or name == "funding_rate"
            if isinstance(value, datetime):
                assert value.tzinfo is UTC
        msgspec.json.encode(item.event)


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([*NOT_NUMBERS, "1", "0", "1e308", "2.5e-320", "kline", "aggTrade", "forceOrder", "١٢"]),
    st.sampled_from([0, 1, 2, -1, 2**31, 2**63, 2**64, 10**400, 253402300799999, 253402300800000]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@st.composite
def mutated_frames(draw: st.DrawFn) -> str | bytes:
    """A real frame with some of its parts replaced, removed, doubled or cut."""
    frame = deepcopy(json.loads(draw(st.sampled_from(sorted(REAL.values())))))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from([frame, frame.get("data"), (frame.get("data") or {}).get("k"), frame]))
        if not isinstance(place, dict) or not place:
            break
        key = draw(st.sampled_from([*place, "e", "id", "code", "error", "data"]))
        match draw(st.integers(0, 3)):
            case 0:
                place.pop(key, None)
            case 1:
                place[key] = [place.get(key)]
            case _:
                place[key] = draw(LEAVES)
        if not isinstance(frame.get("data"), dict):
            break
    text = json.dumps(frame, ensure_ascii=draw(st.booleans()))
    data = bytearray(text.encode())
    for _ in range(draw(st.integers(0, 2))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data) if draw(st.booleans()) else text


@settings(max_examples=700, deadline=None, derandomize=True)
@given(mutated_frames())
def test_any_mutation_of_a_real_frame(frame: str | bytes) -> None:
    check_only_good_events(frame)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60)))
@example(b'{"id":"\xff"}')
@example(b'{"id":1,"error":"\xff"}')
def test_any_bytes_and_any_text(frame: str | bytes) -> None:
    check_only_good_events(frame)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)))
def test_any_json(value: object) -> None:
    check_only_good_events(json.dumps(value))


# --- numbers ---


@pytest.mark.parametrize(
    ("price", "quantity", "text"),
    [
        ("126343.7", "1", b"126343.7"),
        ("0.1", "3", b"0.3"),
        ("1.1", "1.1", b"1.21"),
        ("83434.40", "0.016", b"1334.9504"),
        ("0.00001234", "1000000", b"12.34"),
        ("0.0", "5", b"0.0"),
    ],
)
def test_a_product_has_no_binary_noise(price: str, quantity: str, text: bytes) -> None:
    assert msgspec.json.encode(product(price, quantity)) == text


@settings(deadline=None, derandomize=True)
@given(
    st.decimals(0, 10**7, places=4, allow_nan=False, allow_infinity=False),
    st.decimals(0, 10**4, places=3, allow_nan=False, allow_infinity=False),
)
def test_a_product_prints_as_the_true_one(price: Decimal, quantity: Decimal) -> None:
    true = price * quantity
    said = Decimal(msgspec.json.encode(product(str(price), str(quantity))).decode())
    assert said == true or len(true.normalize().as_tuple().digits) > 15


@pytest.mark.parametrize(
    ("price", "quantity"),
    [("nan", "1"), ("1", "sNaN"), ("inf", "0"), ("1e308", "10"), ("1E+999999", "1E+999999"), ("x", "1"), ("", "1")],
)
def test_a_product_that_is_no_number(price: str, quantity: str) -> None:
    with pytest.raises(BadMessage):
        product(price, quantity)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "", " ", "abc", "0x1", "1_000", " 1", "1\n", "١٢"])
def test_what_is_no_number(text: str) -> None:
    """Python reads more than JSON's numbers: underscores, spaces, other scripts' digits. An exchange writes none."""
    with pytest.raises(BadMessage):
        number(text)


@pytest.mark.parametrize(("text", "value"), [("64346.70000000", 64346.7), ("0", 0.0), ("1e-8", 1e-8)])
def test_what_is_a_number(text: str, value: float) -> None:
    assert number(text) == amount(text) == value


def test_the_session_is_the_exchange_s() -> None:
    assert isinstance(EXCHANGE.new_session({}), BinanceSession)
    for topic in TOPICS:
        assert topic.kind in EXCHANGE.pushed
