"""Hyperliquid's session: what each documented or observed frame means, and which frames are sent. No event loop."""

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from math import ceil
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import BadMessage, UnknownMessage
from actors.events import FundingRate, Ohlc, OpenInterest, Topic, Trade, from_ms
from actors.exchanges.exchange import Backlog, Rejected, Update
from actors.exchanges.hyperliquid import EXCHANGE
from actors.exchanges.hyperliquid.session import LIQUIDATORS, HyperliquidSession, subscription_of
from actors.exchanges.hyperliquid.simulator import BAD_FRAMES
from tests.actors.exchanges.fixtures import upstream_topics

NOW = datetime(2026, 9, 24, 6, 36, 5, tzinfo=UTC)

# As captured, identities shortened.
TRADE = {
    "coin": "BTC",
    "side": "A",
    "px": "84143.0",
    "sz": "0.00036",
    "time": 1790232216193,
    "hash": "0x7ab656ce",
    "tid": 1045359869404765,
    "users": ["0x9aa558af", "0x82691970"],
}
TRADES = json.dumps({"channel": "trades", "data": [TRADE]})
CONTEXT = (
    '{"channel":"activeAssetCtx","data":{"coin":"BTC","ctx":{"funding":"0.0000018952","openInterest":"36585.31848",'
    '"prevDayPx":"86627.0","dayNtlVlm":"4161029539.6949653625","premium":"-0.0006413454","oraclePx":"84198.0",'
    '"markPx":"84148.0","midPx":"84143.5","impactPxs":["84143.0","84144.0"],"dayBaseVlm":"49116.08533"}}}'
)
CANDLE = (
    '{"channel":"candle","data":{"t":1790358600000,"T":1790358659999,"s":"BTC","i":"1m","o":"83765.0","c":"83765.0",'
    '"h":"83770.0","l":"83756.0","v":"0.3317","n":36}}'
)
PONG = '{"channel":"pong"}'
PUSHES = (TRADES, CONTEXT, CANDLE)


def topic(kind: Any, interval: str | None = None, symbol: str = "BTC") -> Topic:
    return Topic("hyperliquid", symbol, kind, interval)


ALL = [topic("ohlc", "1m"), topic("ohlc", "1h"), topic("funding"), topic("oi"), topic("trades")]


def session(*topics: Topic) -> HyperliquidSession:
    made = HyperliquidSession({})
    made.subscribe(topics)
    return made


def said(frame: str | bytes, to: HyperliquidSession | None = None) -> Sequence[Update | Backlog | Rejected]:
    return (to or HyperliquidSession({})).receive(frame, NOW)


def events(frame: str | bytes, to: HyperliquidSession | None = None) -> list[Any]:
    return [item.event for item in said(frame, to) if isinstance(item, Update)]


def ack(kind: str, coin: str, method: str = "subscribe", **rest: Any) -> str:
    subscription = {"type": kind, "coin": coin, **rest}
    data = {"method": method, "subscription": subscription}
    return json.dumps({"channel": "subscriptionResponse", "data": data})


def error(text: str) -> str:
    return json.dumps({"channel": "error", "data": text})


# -- frames that say something ----------------------------------------------------------------


def test_a_trade() -> None:
    [update] = said(TRADES)
    assert isinstance(update, Update)
    assert update.pushed_at == from_ms(1790232216193)
    assert update.event == Trade(
        exchange="hyperliquid",
        symbol="BTC",
        timestamp=from_ms(1790232216193),
        side="sell",
        price=84143.0,
        quantity=0.00036,
        value=30.29148,
        is_buyer_maker=True,
        trade_id=1045359869404765,
    )
    [bought] = events(TRADES.replace('"A"', '"B"'))
    assert (bought.side, bought.is_buyer_maker) == ("buy", False)


def test_trades_of_one_frame_come_in_their_order_of_time() -> None:
    rows = [{**TRADE, "time": at, "tid": at} for at in (3000, 1000, 2000)]
    assert [trade.trade_id for trade in events(json.dumps({"channel": "trades", "data": rows}))] == [1000, 2000, 3000]


def test_a_candle_is_never_said_to_be_final() -> None:
    bar = Ohlc(
        exchange="hyperliquid",
        symbol="BTC",
        timestamp=from_ms(1790358600000),
        interval="1m",
        open=83765.0,
        high=83770.0,
        low=83756.0,
        close=83765.0,
        volume=0.3317,
        quote_volume=None,
        trades_count=36,
        is_closed=False,
    )
    assert said(CANDLE) == [Update(bar, NOW)]
    documented = json.loads(CANDLE)
    documented["data"] = [documented["data"]]
    assert events(json.dumps(documented)) == [bar], "an array, as the documentation has it"


def test_funding_and_open_interest_come_together() -> None:
    funding = FundingRate(
        exchange="hyperliquid",
        symbol="BTC",
        timestamp=NOW,
        funding_rate=0.0000018952,
        funding_time=datetime(2026, 9, 24, 7, tzinfo=UTC),
        funding_interval_hours=1.0,
        mark_price=84148.0,
    )
    interest = OpenInterest(
        exchange="hyperliquid", symbol="BTC", timestamp=NOW, open_interest=36585.31848, open_interest_value=None
    )
    assert said(CONTEXT) == [Update(funding, NOW), Update(interest, NOW)]


def test_nothing_of_a_delisted_name_whose_numbers_are_null() -> None:
    frame = '{"channel":"activeAssetCtx","data":{"coin":"MATIC","ctx":{"funding":null,"openInterest":null}}}'
    assert said(frame) == []
    [funding, _] = events(CONTEXT.replace('"84148.0"', "null"))
    assert funding.mark_price is None


def test_builders_names_are_left_as_they_are() -> None:
    [trade] = events(TRADES.replace('"BTC"', '"xyz:AAPL"'))
    assert trade.symbol == "xyz:AAPL"


@pytest.mark.parametrize(
    "frame",
    [
        PONG,
        "Websocket connection established.",
        ack("trades", "BTC"),
        ack("candle", "BTC", interval="1m"),
        ack("l2Book", "BTC", nSigFigs=None, mantissa=None, fast=True),
        ack("trades", "BTC", method="unsubscribe"),
        ack("allMids", "", dex=None),
        error('Already subscribed: {"type":"trades","coin":"BTC"}'),
        error('Already unsubscribed: {"type":"trades","coin":"BTC"}'),
        '{"channel":"trades","data":[]}',
    ],
)
def test_frames_that_say_nothing(frame: str) -> None:
    assert said(frame) == []


# -- what is asked for ------------------------------------------------------------------------


def test_one_subscription_per_frame_and_one_for_what_shares_it() -> None:
    frames = [json.loads(frame) for frame in HyperliquidSession({}).subscribe(ALL)]
    assert frames == [
        {"method": "subscribe", "subscription": subscription}
        for subscription in (
            {"type": "candle", "coin": "BTC", "interval": "1m"},
            {"type": "candle", "coin": "BTC", "interval": "1h"},
            {"type": "activeAssetCtx", "coin": "BTC"},
            {"type": "trades", "coin": "BTC"},
        )
    ]
    assert subscription_of(topic("funding")) == subscription_of(topic("oi"))
    assert subscription_of(topic("liquidations")) == subscription_of(topic("trades"))
    with pytest.raises(ValueError, match="pushes no large_trades"):
        subscription_of(topic("large_trades"))


def test_a_shared_subscription_ends_with_the_last_of_its_topics() -> None:
    made = session(*ALL)
    assert made.unsubscribe([topic("funding")]) == []
    assert made.unsubscribe([topic("funding")]) == []
    [frame] = made.unsubscribe([topic("oi")])
    assert json.loads(frame) == {"method": "unsubscribe", "subscription": {"type": "activeAssetCtx", "coin": "BTC"}}
    assert len(made.subscribe([topic("oi")])) == 1, "and may begin again"


# -- liquidations -----------------------------------------------------------------------------

VAULT = sorted(LIQUIDATORS)[0]
OTHER_VAULT = sorted(LIQUIDATORS)[1]
SOMEBODY = "0x82691970aa558af082691970aa558af082691970"


def traded(side: str, *users: str, **changes: Any) -> str:
    return json.dumps({"channel": "trades", "data": [TRADE | {"side": side, "users": users} | changes]})


@pytest.mark.parametrize(
    ("side", "users", "expected"),
    [
        ("A", (VAULT, SOMEBODY), ("sell", "backstop")),
        ("B", (SOMEBODY, OTHER_VAULT), ("buy", "backstop")),
        ("B", (VAULT, SOMEBODY), ("sell", None)),
        ("A", (SOMEBODY, VAULT), ("buy", None)),
    ],
)
def test_a_liquidator_vaults_trade_is_a_liquidation(side: str, users: tuple[str, str], expected: Any) -> None:
    """Where the vault was the aggressor it may be trading away what it took over: the method is not said."""
    made = session(topic("liquidations"), topic("trades"))
    told, forced = events(traded(side, *users), made)
    assert told == events(TRADES.replace('"side": "A"', f'"side": "{side}"'))[0]
    assert (forced.side, forced.method) == expected
    assert (forced.price, forced.quantity, forced.value) == (84143.0, 0.00036, 30.29148)
    assert forced.timestamp == told.timestamp
    told_as = json.loads(msgspec.json.encode(forced))
    assert told_as["partial"] is True
    assert told_as.get("method") == expected[1]


@pytest.mark.parametrize("users", [(), (VAULT,), (SOMEBODY, SOMEBODY), (VAULT, OTHER_VAULT), (VAULT, VAULT)])
def test_any_other_trade_is_none(users: tuple[str, ...]) -> None:
    made = session(topic("liquidations"), topic("trades"))
    [told] = events(traded("A", *users), made)
    assert isinstance(told, Trade)
    assert len(events(traded("A", VAULT, SOMEBODY, sz="0.0"), made)) == 1, "nothing was taken over"


def test_liquidations_are_told_to_who_asked_for_them() -> None:
    made = session(topic("trades"))
    assert len(events(traded("A", VAULT, SOMEBODY), made)) == 1
    assert made.subscribe([topic("liquidations")]) == [], "they ride on the trades"
    assert len(events(traded("A", VAULT, SOMEBODY), made)) == 2
    assert made.unsubscribe([topic("liquidations")]) == []
    assert len(events(traded("A", VAULT, SOMEBODY), made)) == 1


def test_liquidations_of_the_backlog_are_told_too() -> None:
    """What was missed by a short cut; what was told before is known again by its equality."""
    made = session(topic("liquidations"), topic("trades"))
    made.receive(ack("trades", "BTC"), NOW)
    backlog, forced = made.receive(traded("A", VAULT, SOMEBODY), NOW)
    assert isinstance(backlog, Backlog)
    assert isinstance(forced, Update)
    assert (forced.event.type, forced.pushed_at) == ("liquidation", NOW)


def test_a_coin_that_is_refused_has_no_liquidations() -> None:
    made = session(topic("liquidations"), topic("trades"))
    text = 'Invalid subscription {"type":"trades","coin":"BTC"}'
    [rejected] = said(error(text), made)
    assert isinstance(rejected, Rejected)
    assert rejected.topics == (topic("liquidations"), topic("trades"))


# -- what is asked for ------------------------------------------------------------------------


def test_what_is_not_acknowledged_is_known_in_order() -> None:
    made = session(*ALL)
    assert made.unacknowledged() == ALL
    said(ack("candle", "BTC", interval="1h", fast=None), made)
    assert made.unacknowledged() == [ALL[0], *ALL[2:]]
    said(ack("activeAssetCtx", "BTC"), made)
    assert made.unacknowledged() == [topic("ohlc", "1m"), topic("trades")]
    said(error('Already subscribed: {"type":"trades","coin":"BTC"}'), made)
    assert made.unacknowledged() == [topic("ohlc", "1m")], "it is subscribed, which is what was asked for"
    made.unsubscribe([topic("ohlc", "1m")])
    assert made.unacknowledged() == []


def test_the_first_trades_after_an_acknowledgement_are_the_past() -> None:
    made = session(topic("trades"))
    assert len(events(TRADES, made)) == 1, "of an earlier subscription, still under way"
    said(ack("trades", "BTC"), made)
    assert events(TRADES.replace('"BTC"', '"ETH"'), made), "another coin's"
    assert events(TRADES, made) == []
    assert len(events(TRADES, made)) == 1
    made.unsubscribe([topic("trades")])
    made.subscribe([topic("trades")])
    said(ack("trades", "BTC"), made)
    assert events(TRADES, made) == [], "again, after every subscription"


@pytest.mark.parametrize(
    "text",
    [
        'Invalid subscription {"type":"activeAssetCtx","coin":"BTC","dex":null}',
        "Error parsing JSON into valid websocket request: "
        '{"method":"subscribe","subscription":{"type":"activeAssetCtx","coin":"BTC"}}',
    ],
)
def test_a_refusal_names_the_topics_by_what_it_quotes(text: str) -> None:
    made = session(*ALL)
    [rejected] = said(error(text), made)
    assert isinstance(rejected, Rejected)
    assert rejected.topics == (topic("funding"), topic("oi"))
    assert text in rejected.reason
    assert not set(rejected.topics) & set(made.unacknowledged())
    assert said(error(text), made) == [], "once"


@pytest.mark.parametrize("text", ["Cannot track more than 15 total users.", "too many pending post requests id=7", "{"])
def test_an_error_about_nothing_we_know_is_counted(text: str) -> None:
    with pytest.raises(UnknownMessage):
        said(error(text))


# -- whatever arrives -------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_bad_frames(name: str) -> None:
    frame = BAD_FRAMES[name]
    if name == "greeting":
        assert said(frame.decode()) == []
    else:
        with pytest.raises(BadMessage):
            said(frame)


def test_a_new_channel_is_not_garbage() -> None:
    with pytest.raises(UnknownMessage):
        said('{"channel":"activeSpotAssetCtx","data":{"coin":"@107","ctx":{}}}')


@given(st.one_of(st.binary(), st.text()))
def test_anything_may_arrive(frame: bytes | str) -> None:
    with suppress(BadMessage):
        said(frame)


Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(
    frame=st.sampled_from((*PUSHES, ack("trades", "BTC"), error('Invalid subscription {"type":"x"}'))), data=st.data()
)
def test_a_frame_with_one_value_changed(frame: str, data: st.DataObject) -> None:
    whole = json.loads(frame)
    place = whole
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        place[key] = data.draw(Json | st.sampled_from(["NaN", "inf", "-1", "1e999", "", "9" * 400]))
        break
    with suppress(BadMessage):
        said(json.dumps(whole), session(*ALL))


@given(frame=st.sampled_from(PUSHES), data=st.data())
def test_a_frame_with_one_byte_changed(frame: str, data: st.DataObject) -> None:
    raw = bytearray(frame.encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BadMessage):
        said(bytes(raw))


def test_the_exchange_says_what_the_session_can() -> None:
    assert EXCHANGE.pushed == {"ohlc", "trades", "liquidations", "funding", "oi"}
    assert EXCHANGE.heartbeat == '{"method":"ping"}'
    assert EXCHANGE.limits.heartbeat_every <= 30
    assert EXCHANGE.limits.topics_per_frame == 1
    assert not EXCHANGE.closes_bars
    assert "6h" not in EXCHANGE.intervals


def test_the_connections_that_carry_all_that_is_allowed_send_no_more_than_is_allowed() -> None:
    """2000 messages a minute of all connections together; 356 subscriptions on one were seen to work."""
    limits = EXCHANGE.limits
    feed = upstream_topics(EXCHANGE, ["BTC"], ["1m"])
    each = len({subscription_of(topic) for topic in feed})
    on_one = limits.topics // len(feed)
    assert on_one * each <= 356
    assert limits.subscriptions is not None
    lines = ceil(limits.subscriptions // each / on_one)
    assert lines * 60 * (limits.frames_per_second + 1 / limits.heartbeat_every) <= 2000
    assert lines <= 10


# -- zeros that are none ----------------------------------------------------------------------


@pytest.mark.parametrize("nothing", [None, "", "0.0"])
def test_a_mark_price_of_nothing_is_null(nothing: str | None) -> None:
    context = {"coin": "BTC", "ctx": {"funding": "0.0001", "openInterest": "0.0", "markPx": nothing}}
    rate, interest = events(json.dumps({"channel": "activeAssetCtx", "data": context}))
    assert rate.mark_price is None
    assert interest.open_interest == 0, "a delisted coin really has none"


def test_a_bar_without_a_price_is_none() -> None:
    candle = {**json.loads(CANDLE)["data"], "o": "0.0", "h": "0.0", "l": "0.0", "c": "0.0", "v": "0.0", "n": 0}
    assert events(json.dumps({"channel": "candle", "data": candle})) == []


def test_trades_that_nobody_counted_are_not_none() -> None:
    [bar] = events(json.dumps({"channel": "candle", "data": {**json.loads(CANDLE)["data"], "n": 0}}))
    assert bar.trades_count is None


def test_nothing_happened_in_1970() -> None:
    with pytest.raises(BadMessage):
        events(json.dumps({"channel": "trades", "data": [{**TRADE, "time": 0}]}))
