"""Bybit's session: what each documented or observed frame means, and which frames are sent. No event loop."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from actors.errors import BadMessage, UnknownMessage
from actors.events import Event, FundingRate, Instrument, Liquidation, Ohlc, OpenInterest, Topic, Trade, from_ms
from actors.exchanges.bybit import EXCHANGE
from actors.exchanges.bybit.session import BybitSession, stream_name
from actors.exchanges.bybit.simulator import BAD_FRAMES
from actors.exchanges.exchange import Rejected, Update
from tests import recordings

RECORDINGS = recordings.RECORDINGS / "bybit-docs"
NOW = datetime(2026, 10, 9, tzinfo=UTC)
BTC = Instrument(
    exchange="bybit",
    symbol="BTCUSDT",
    base="BTC",
    quote="USDT",
    settle="USDT",
    status="TRADING",
    tick_size=0.1,
    step_size=0.001,
    funding_interval_hours=8.0,
)

KLINE = (
    '{"topic":"kline.1.BTCUSDT","type":"snapshot","ts":1790409768441,"data":[{"start":1790409720000,'
    '"end":1790409779999,"interval":"1","open":"84045","close":"84017.8","high":"84045","low":"84017.8",'
    '"volume":"7.316","turnover":"614833.7084","confirm":false,"timestamp":1790409768441}]}'
)
TRADE = (
    '{"topic":"publicTrade.BTCUSDT","type":"snapshot","ts":1781415763023,"data":[{"T":1781415763021,"s":"BTCUSDT",'
    '"S":"Sell","v":"0.001","p":"64345.20","L":"MinusTick","i":"35319862-77a2-5ebe-851b-3836573c4fe9","BT":false,'
    '"RPI":false,"seq":598180439295}]}'
)
LIQUIDATIONS = (
    '{"topic":"allLiquidation.BTCUSDT","type":"snapshot","ts":1791565601482,"data":[{"T":1791565600992,"s":"BTCUSDT",'
    '"S":"Buy","v":"0.006","p":"82396.90"},{"T":1791565601058,"s":"BTCUSDT","S":"Buy","v":"0.038","p":"82394.30"}]}'
)
TICKER = (
    '{"topic":"tickers.BTCUSDT","type":"snapshot","data":{"symbol":"BTCUSDT","markPrice":"66666.60",'
    '"openInterest":"492373.72","openInterestValue":"32824881841.75","fundingIntervalHour":"8",'
    '"nextFundingTime":"1760342400000","fundingRate":"-0.005"},"cs":9532239429,"ts":1760325052630}'
)
PONG = (
    '{"success":true,"ret_msg":"pong","conn_id":"d9tc7k421nl91l9k6obg-s09y","req_id":"p1","op":"ping"}',
    '{"op":"pong","args":["1672916271846"]}',
    '{"req_id":"test","op":"pong","args":["1675418560633"],"conn_id":"x"}',
)
PUSHES = (KLINE, TRADE, LIQUIDATIONS, TICKER)


def session() -> BybitSession:
    return BybitSession({"BTCUSDT": BTC})


def events(frame: str | bytes, using: BybitSession | None = None) -> list[Event]:
    said = (using or session()).receive(frame, NOW)
    return [item.event for item in said if isinstance(item, Update)]


def recorded(name: str) -> Any:
    file = RECORDINGS / name
    if not file.exists():
        pytest.skip(f"no recordings at {RECORDINGS}")
    return json.loads(file.read_text())


def topic(kind: Any, symbol: str = "BTCUSDT", interval: str | None = None) -> Topic:
    return Topic("bybit", symbol, kind, interval)


def delta(**changes: str) -> str:
    return json.dumps({"topic": "tickers.BTCUSDT", "type": "delta", "ts": 1760325053000, "data": changes})


# -- what frames mean -------------------------------------------------------------------------


def test_a_bar() -> None:
    (update,) = session().receive(KLINE, NOW)
    assert isinstance(update, Update)
    assert update.pushed_at == from_ms(1790409768441)
    assert update.event == Ohlc(
        exchange="bybit",
        symbol="BTCUSDT",
        timestamp=from_ms(1790409720000),
        interval="1m",
        open=84045.0,
        high=84045.0,
        low=84017.8,
        close=84017.8,
        volume=7.316,
        quote_volume=614833.7084,
        trades_count=None,
        is_closed=False,
    )


def test_every_element_of_a_bar_frame_counts() -> None:
    frame = json.loads(KLINE)
    begun = {**frame["data"][0], "start": 1790409780000}
    frame["data"] = [{**frame["data"][0], "confirm": True}, begun]
    bars = events(json.dumps(frame))
    assert [(bar.timestamp, bar.is_closed) for bar in bars if isinstance(bar, Ohlc)] == [
        (from_ms(1790409720000), True),
        (from_ms(1790409780000), False),
    ]


@pytest.mark.parametrize("interval", EXCHANGE.intervals)
def test_intervals_survive_the_way_there_and_back(interval: str) -> None:
    name = stream_name(topic("ohlc", interval=interval))
    (bar,) = events(KLINE.replace("kline.1.BTCUSDT", name))
    assert isinstance(bar, Ohlc)
    assert bar.interval == interval


def test_trades() -> None:
    frame = json.loads(TRADE)
    frame["data"].append({**frame["data"][0], "i": "another", "S": "Buy"})
    first, second = events(json.dumps(frame))
    assert first == Trade(
        exchange="bybit",
        symbol="BTCUSDT",
        timestamp=from_ms(1781415763021),
        side="sell",
        price=64345.2,
        quantity=0.001,
        value=64.3452,
        is_buyer_maker=True,
        trade_id="35319862-77a2-5ebe-851b-3836573c4fe9",
    )
    assert isinstance(second, Trade)
    assert (second.side, second.is_buyer_maker, second.trade_id) == ("buy", False, "another")


def test_a_liquidated_long_is_a_forced_sale() -> None:
    first, second = events(LIQUIDATIONS)
    assert first == Liquidation(
        exchange="bybit",
        symbol="BTCUSDT",
        timestamp=from_ms(1791565600992),
        side="sell",
        price=82396.9,
        quantity=0.006,
        value=494.3814,
    )
    assert second.timestamp == from_ms(1791565601058)
    (short,) = events(json.dumps(recorded("ws_all_liquidation.json")))
    assert isinstance(short, Liquidation)
    assert (short.symbol, short.side, short.value) == ("ROSEUSDT", "buy", 899.8)


def test_documented_samples() -> None:
    (bar,) = events(json.dumps(recorded("ws_kline.json")))
    assert isinstance(bar, Ohlc)
    assert (bar.interval, bar.close, bar.volume, bar.is_closed) == ("5m", 16677.0, 2.081, False)
    (trade,) = events(json.dumps(recorded("ws_trade.json")))
    assert isinstance(trade, Trade)
    assert (trade.side, trade.value) == ("buy", 16.5785)
    funding, interest = events(json.dumps(recorded("ws_ticker_linear_perpetual.json")))
    assert funding == FundingRate(
        exchange="bybit",
        symbol="BTCUSDT",
        timestamp=from_ms(1760325052630),
        funding_rate=-0.005,
        funding_time=from_ms(1760342400000),
        funding_interval_hours=8.0,
        mark_price=66666.6,
    )
    assert interest == OpenInterest(
        exchange="bybit",
        symbol="BTCUSDT",
        timestamp=from_ms(1760325052630),
        open_interest=246186.86,
        open_interest_value=16412440920.875,
    )


def test_documented_control_frames_say_nothing() -> None:
    for frame in recorded("ws_connect_frames.json"):
        if "success" in frame or frame["op"] == "pong":
            assert session().receive(json.dumps(frame), NOW) == []


@pytest.mark.parametrize("frame", PONG)
def test_pongs_say_nothing(frame: str) -> None:
    assert session().receive(frame, NOW) == []


# -- tickers ----------------------------------------------------------------------------------


def test_deltas_are_merged_and_every_frame_speaks() -> None:
    one = session()
    assert events(delta(openInterest="1"), one) == [], "no state yet: the snapshot is on the way"
    assert len(events(TICKER, one)) == 2
    funding, interest = events(delta(lastPrice="1"), one)
    assert isinstance(funding, FundingRate)
    assert isinstance(interest, OpenInterest)
    assert (funding.funding_rate, interest.open_interest) == (-0.005, 246186.86)
    assert interest.timestamp == from_ms(1760325053000)
    funding, interest = events(delta(fundingRate="0.0001", fundingIntervalHour="4", openInterest="3"), one)
    assert isinstance(funding, FundingRate)
    assert isinstance(interest, OpenInterest)
    assert (funding.funding_rate, funding.funding_interval_hours, funding.mark_price) == (0.0001, 4.0, 66666.6)
    assert (interest.open_interest, interest.open_interest_value) == (1.5, 16412440920.875)


def test_the_single_sided_interest_is_preferred() -> None:
    one = session()
    events(TICKER, one)
    _, interest = events(delta(singleOpenInterest="26336.672", singleOpenInterestValue="5.25"), one)
    assert isinstance(interest, OpenInterest)
    assert (interest.open_interest, interest.open_interest_value) == (26336.672, 5.25)
    for changes, told in (
        ({"openInterest": "8"}, (4.0, 5.25)),  # the sum is younger than the side's word
        ({"openInterestValue": "9"}, (4.0, 4.5)),
        ({"singleOpenInterest": "5"}, (5.0, 4.5)),
    ):
        _, interest = events(delta(**changes), one)
        assert isinstance(interest, OpenInterest)
        assert (interest.open_interest, interest.open_interest_value) == told


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["markPrice", "openInterest", "fundingRate", "singleOpenInterest", "nextFundingTime"]),
            st.sampled_from(["", "0", "5", "2.5", "1789862400000"]),
        )
    )
)
def test_a_delta_with_nothing_of_ours_says_what_is_known_once_more(changes: list[dict[str, str]]) -> None:
    """The same as one that repeats a value: that one is read and merged in full."""
    short, full = session(), session()
    for one in (short, full):
        events(TICKER, one)
        for change in changes:
            with suppress(BadMessage):
                events(delta(**change), one)
    known = short._tickers["BTCUSDT"].ticker.mark_price
    assert known is not None
    assert short.receive(delta(bid1Price="1"), NOW) == full.receive(delta(markPrice=known), NOW)


def test_it_says_it_with_what_the_catalogue_has_come_to_say() -> None:
    listed = {"BTCUSDT": BTC}
    one = BybitSession(listed)
    frame = json.loads(TICKER)
    frame["data"].pop("fundingIntervalHour", None)
    events(json.dumps(frame), one)
    listed["BTCUSDT"] = structs.replace(BTC, funding_interval_hours=1.0)
    funding, _ = events(delta(bid1Price="1"), one)
    assert isinstance(funding, FundingRate)
    assert funding.funding_interval_hours == 1.0


def test_a_bad_delta_changes_nothing() -> None:
    one = session()
    events(TICKER, one)
    for bad in (delta(fundingRate="0.5", openInterest="NaN"), delta(fundingRate="0.5", nextFundingTime="soon")):
        with pytest.raises(BadMessage):
            one.receive(bad, NOW)
    funding, interest = events(delta(), one)
    assert isinstance(funding, FundingRate)
    assert isinstance(interest, OpenInterest)
    assert (funding.funding_rate, interest.open_interest) == (-0.005, 246186.86)


def test_a_dated_contract_has_no_funding() -> None:
    frame = json.loads(TICKER)
    frame["data"] |= {"fundingRate": "", "nextFundingTime": "", "deliveryTime": "2025-12-26T08:00:00Z"}
    (interest,) = events(json.dumps(frame))
    assert isinstance(interest, OpenInterest)


def test_the_interval_comes_from_the_catalogue_where_the_ticker_is_silent() -> None:
    frame = json.loads(TICKER)
    del frame["data"]["fundingIntervalHour"]
    funding, _ = events(json.dumps(frame))
    assert isinstance(funding, FundingRate)
    assert funding.funding_interval_hours == 8.0
    funding, _ = events(json.dumps(frame), BybitSession({}))
    assert isinstance(funding, FundingRate)
    assert funding.funding_interval_hours is None


def test_a_snapshot_replaces_everything() -> None:
    one = session()
    events(TICKER, one)
    assert events('{"topic":"tickers.BTCUSDT","type":"snapshot","ts":1,"data":{"markPrice":"1"}}', one) == []


# -- subscriptions ----------------------------------------------------------------------------


def sent(frames: list[str]) -> list[tuple[str, list[str]]]:
    return [(frame["op"], frame["args"]) for frame in map(json.loads, frames)]


def refusal(frame: str, message: str) -> str:
    return json.dumps({"success": False, "ret_msg": message, "conn_id": "x", "op": "subscribe"} | request_id(frame))


def request_id(frame: str) -> dict[str, str]:
    return {"req_id": json.loads(frame)["req_id"]}


def ack(frame: str) -> str:
    return json.dumps({"success": True, "ret_msg": "", "conn_id": "x", "op": "subscribe"} | request_id(frame))


def test_one_frame_asks_for_each_stream_once() -> None:
    one = session()
    topics = [topic("ohlc", interval="1h"), topic("trades"), topic("liquidations"), topic("funding"), topic("oi")]
    names = ["kline.60.BTCUSDT", "publicTrade.BTCUSDT", "allLiquidation.BTCUSDT", "tickers.BTCUSDT"]
    (frame,) = one.subscribe(topics)
    assert sent([frame]) == [("subscribe", names)]
    assert one.receive(ack(frame), NOW) == []
    assert one.unacknowledged() == ()
    assert one.subscribe(topics) == []
    assert one.unsubscribe([topic("funding")]) == [], "open interest still rides on the ticker"
    assert sent(one.unsubscribe(topics)) == [("unsubscribe", names)]
    assert one.unsubscribe(topics) == []


def test_the_end_of_a_ticker_ends_its_state() -> None:
    one = session()
    one.subscribe([topic("oi")])
    events(TICKER, one)
    one.unsubscribe([topic("oi")])
    assert events(delta(openInterest="1"), one) == []


def test_a_silent_shared_stream_is_asked_for_anew() -> None:
    one = session()
    one.subscribe([topic("funding"), topic("oi")])
    events(TICKER, one)
    assert one.unsubscribe([topic("oi")]) == []
    renewal = one.subscribe([topic("oi")])
    assert sent(renewal) == [("unsubscribe", ["tickers.BTCUSDT"]), ("subscribe", ["tickers.BTCUSDT"])]
    assert len({json.loads(frame)["req_id"] for frame in renewal}) == 2
    assert events(delta(openInterest="1"), one) == [], "the old state is gone"
    assert one.subscribe([topic("oi")]) == []
    assert sent(one.unsubscribe([topic("oi"), topic("funding")])) == [("unsubscribe", ["tickers.BTCUSDT"])]


def test_one_bad_topic_does_not_cost_the_others() -> None:
    one = session()
    bad = [topic("funding", "NOPE"), topic("oi", "NOPE")]
    (frame,) = one.subscribe([topic("trades"), *bad, topic("funding"), topic("oi")])
    message = "error:handler not found,topic:tickers.NOPE"
    (rejected,) = one.receive(refusal(frame, message), NOW)
    assert isinstance(rejected, Rejected)
    assert rejected.topics == tuple(bad)
    assert "handler not found" in rejected.reason
    assert rejected.again == (topic("trades"), topic("funding"), topic("oi"))
    assert rejected.final
    assert sent(one.subscribe(rejected.again)) == [("subscribe", ["publicTrade.BTCUSDT", "tickers.BTCUSDT"])]


def test_already_subscribed_is_success() -> None:
    one = session()
    (frame,) = one.subscribe([topic("trades")])
    message = "error:already subscribed,topic:publicTrade.BTCUSDT"
    assert one.receive(refusal(frame, message), NOW) == []
    (frame,) = one.subscribe([topic("trades"), topic("oi"), topic("liquidations")])
    (rejected,) = one.receive(refusal(frame, "error:already subscribed,topic:tickers.BTCUSDT"), NOW)
    assert isinstance(rejected, Rejected)
    assert (rejected.topics, rejected.again) == ((), (topic("liquidations"),))
    assert sent(one.subscribe([topic("oi"), *rejected.again])) == [("subscribe", ["allLiquidation.BTCUSDT"])]


def test_what_was_dropped_meanwhile_is_not_asked_for_again() -> None:
    one = session()
    (frame,) = one.subscribe([topic("trades"), topic("oi", "NOPE")])
    one.unsubscribe([topic("trades")])
    (rejected,) = one.receive(refusal(frame, "error:handler not found,topic:tickers.NOPE"), NOW)
    assert isinstance(rejected, Rejected)
    assert (rejected.topics, rejected.again) == ((topic("oi", "NOPE"),), ())


@pytest.mark.parametrize("message", ["args size >10", "error:handler not found,topic:elsewhere", "error:invalid op"])
def test_a_refusal_without_an_offender_refuses_the_frame_for_now(message: str) -> None:
    one = session()
    (frame,) = one.subscribe([topic("trades"), topic("liquidations")])
    (rejected,) = one.receive(refusal(frame, message), NOW)
    assert isinstance(rejected, Rejected)
    assert rejected.topics == (topic("trades"), topic("liquidations"))
    assert not rejected.final
    assert one.receive(refusal(frame, message), NOW) == [rejected._replace(topics=())]


def test_other_refusals() -> None:
    one = session()
    one.subscribe([topic("trades")])
    (end,) = one.unsubscribe([topic("trades")])
    refused = json.loads(refusal(end, "error:handler not found,topic:x")) | {"op": "unsubscribe"}
    assert one.receive(json.dumps(refused), NOW) == []
    (rejected,) = one.receive('{"code":"-10009","desc":"Invalid period!"}', NOW)
    assert isinstance(rejected, Rejected)
    assert (rejected.topics, rejected.final) == ((), False)
    assert "Invalid period!" in rejected.reason


def test_all_names_of_a_line_fit() -> None:
    """The largest growth: as many symbols as a line takes with no intervals, then every interval on demand."""
    symbols = [f"{1_000_000 + number}BABYDOGEUSDT"[:20].ljust(20, "T") for number in range(EXCHANGE.limits.topics // 4)]
    one = session()
    names: list[str] = []
    for symbol in symbols:
        kinds = [topic(kind, symbol) for kind in ("trades", "liquidations", "funding", "oi")]
        kinds += [topic("ohlc", symbol, interval) for interval in EXCHANGE.intervals]
        for frame in one.subscribe(kinds):
            names += json.loads(frame)["args"]
    assert len(set(names)) == len(symbols) * (len(EXCHANGE.intervals) + 3)
    assert len(json.dumps(names, separators=(",", ":"))) <= 21_000


# -- nonsense ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BAD_FRAMES)
def test_bad_frames(kind: str) -> None:
    one = session()
    events(TICKER, one)
    with pytest.raises(BadMessage):
        one.receive(BAD_FRAMES[kind], NOW)


def test_an_unknown_topic_is_no_garbage() -> None:
    with pytest.raises(UnknownMessage):
        session().receive(BAD_FRAMES["unknown topic"], NOW)


def survives(one: BybitSession, frame: str | bytes) -> None:
    with suppress(BadMessage):
        one.receive(frame, NOW)


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_arbitrary_frames(frame: str | bytes) -> None:
    survives(session(), frame)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["", "-1", "1e999999", "NaN", "Infinity", "9" * 30, "BTCUSDT", "Buy"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@given(st.data())
def test_frames_with_one_field_broken(data: st.DataObject) -> None:
    frame = json.loads(data.draw(st.sampled_from([*PUSHES, *PONG])))
    holders = [frame]
    inner = frame.get("data")
    holders += inner if isinstance(inner, list) else [inner] if isinstance(inner, dict) else []
    holder = data.draw(st.sampled_from(holders))
    name = data.draw(st.sampled_from(sorted(holder)))
    if data.draw(st.booleans()):
        del holder[name]
    else:
        holder[name] = data.draw(values)
    one = session()
    one.subscribe([topic("oi")])
    events(TICKER, one)
    survives(one, json.dumps(frame))


@given(st.data())
def test_mutated_bytes(data: st.DataObject) -> None:
    frame = bytearray(data.draw(st.sampled_from([*PUSHES, *PONG])).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    survives(session(), bytes(frame))


# -- zeros that are none ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        {"nextFundingTime": "0", "fundingRate": "0"},
        {"nextFundingTime": "", "fundingRate": "0.0001"},
        {"nextFundingTime": "0", "fundingRate": ""},
    ],
    ids=repr,
)
def test_before_a_listing_there_is_no_funding(said: dict[str, str]) -> None:
    """Never funding in 1970."""
    frame = {"topic": "tickers.BTCUSDT", "type": "snapshot", "ts": 1760325053000, "data": said}
    assert events(json.dumps(frame), session()) == []


@pytest.mark.parametrize("nothing", ["", "0"])
def test_what_a_ticker_spells_as_nothing_is_null(nothing: str) -> None:
    ticker = {
        **{"fundingRate": "0.0001", "nextFundingTime": "1760342400000", "markPrice": nothing},
        **{"openInterest": "8", "openInterestValue": nothing, "singleOpenInterest": nothing},
        **{"fundingIntervalHour": nothing, "singleOpenInterestValue": nothing},
    }
    frame = {"topic": "tickers.BTCUSDT", "type": "snapshot", "ts": 1760325053000, "data": ticker}
    rate, interest = events(json.dumps(frame), session())
    assert isinstance(rate, FundingRate)
    assert isinstance(interest, OpenInterest)
    assert (rate.mark_price, rate.funding_interval_hours) == (None, 8.0), "the catalogue's"
    assert (interest.open_interest, interest.open_interest_value) == (4.0, None)


def test_a_liquidation_of_nothing_is_none_and_takes_no_other_with_it() -> None:
    row = {"T": 1791565600992, "s": "BTCUSDT", "S": "Buy", "v": "0.006", "p": "82396.90"}
    rows = [{**row, "v": "0"}, row, {**row, "p": "0.0"}]
    frame = {"topic": "allLiquidation.BTCUSDT", "type": "snapshot", "ts": 1791565601482, "data": rows}
    [found] = events(json.dumps(frame), session())
    assert isinstance(found, Liquidation)
    assert (found.price, found.quantity) == (82396.9, 0.006)
