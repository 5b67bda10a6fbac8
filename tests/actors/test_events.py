"""The normalised events: what they look like outside, and the small functions that make their times and bars."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import BadMessage
from actors.events import (
    EPOCH,
    INTERVALS,
    Event,
    FundingRate,
    Gap,
    Instrument,
    LargeTrade,
    Liquidation,
    Ohlc,
    OpenInterest,
    Status,
    Topic,
    Trade,
    bar_end,
    ceil_ms,
    from_ms,
    last_ms,
    ms,
    optional_ms,
)

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("topic", "text"),
    [
        (Topic("binance", "BTCUSDT", "ohlc", "1m"), "binance:BTCUSDT:ohlc:1m"),
        (Topic("hyperliquid", "BTC", "large_trades"), "hyperliquid:BTC:large_trades"),
        (Topic("binance", "币安人生USDT", "oi"), "binance:币安人生USDT:oi"),
    ],
)
def test_topics_are_spelled_with_colons(topic: Topic, text: str) -> None:
    assert str(topic) == text


def test_a_bar_as_the_contract_has_it() -> None:
    bar = Ohlc(
        exchange="binance",
        symbol="BTCUSDT",
        timestamp=NOON,
        interval="1m",
        open=126343.7,
        high=126343.7,
        low=0.1,
        close=1e-8,
        volume=0.0,
        quote_volume=None,
        trades_count=None,
        is_closed=False,
    )
    assert msgspec.json.decode(msgspec.json.encode(bar)) == {
        "exchange": "binance",
        "symbol": "BTCUSDT",
        "timestamp": "2026-11-24T12:00:00Z",
        "interval": "1m",
        "open": 126343.7,
        "high": 126343.7,
        "low": 0.1,
        "close": 1e-8,
        "volume": 0.0,
        "quote_volume": None,
        "trades_count": None,
        "is_closed": False,
    }
    assert b"126343.7," in msgspec.json.encode(bar)


@pytest.mark.parametrize(
    ("event", "type_", "kind", "fields"),
    [
        (Trade, "trade", "trades", "side price quantity value is_buyer_maker trade_id"),
        (LargeTrade, "large_trade", "large_trades", "side price quantity value is_buyer_maker trade_id"),
        (Liquidation, "liquidation", "liquidations", "side price quantity value method partial"),
        (FundingRate, "funding_rate", "funding", "funding_rate funding_time funding_interval_hours mark_price"),
        (OpenInterest, "open_interest", "oi", "open_interest open_interest_value"),
    ],
)
def test_events_have_the_contract_s_fields(event: type[Event], type_: str, kind: str, fields: str) -> None:
    assert (event.type, event.kind) == (type_, kind)
    assert [*event.__struct_encode_fields__] == ["exchange", "symbol", "timestamp", *fields.split()]


def test_a_gap_says_from_and_to() -> None:
    gap = Gap(
        exchange="binance",
        symbol="BTCUSDT",
        timestamp=NOON,
        start=NOON,
        end=NOON + timedelta(minutes=1),
        reason="lost",
        repaired=True,
    )
    said = msgspec.json.decode(msgspec.json.encode(gap))
    assert (said["from"], said["to"]) == ("2026-11-24T12:00:00Z", "2026-11-24T12:01:00Z")
    assert (Gap.type, Status.type) == ("gap", "status")


def test_an_instrument_trades_or_does_not() -> None:
    some = Instrument(
        exchange="binance",
        symbol="BTCUSDT",
        base="BTC",
        quote="USDT",
        settle="USDT",
        status="TRADING",
        tick_size=0.1,
        step_size=0.001,
        funding_interval_hours=8.0,
    )
    assert some.is_trading
    assert not msgspec.structs.replace(some, status="SETTLING").is_trading


@given(st.integers(0, 253402300799999))
def test_milliseconds_survive_the_way_there_and_back(milliseconds: int) -> None:
    time = from_ms(milliseconds)
    assert ms(time) == milliseconds
    assert time.tzinfo is UTC


def test_milliseconds_at_the_ends() -> None:
    assert from_ms(0) == EPOCH
    assert ms(datetime(1970, 1, 1, 0, 0, 0, 999, tzinfo=UTC)) == 0
    for outside in (-1, 253402300800000, 10**30):
        with pytest.raises(BadMessage):
            from_ms(outside)


@pytest.mark.parametrize("interval", [name for name in INTERVALS if name != "1M"])
def test_a_bar_ends_where_the_next_begins(interval: str) -> None:
    assert bar_end(NOON, interval) - NOON == INTERVALS[interval]


@pytest.mark.parametrize(
    ("year", "month", "days"), [(2026, 1, 31), (2026, 2, 28), (2028, 2, 29), (2026, 4, 30), (2026, 12, 31)]
)
def test_a_month_ends_with_its_last_day(year: int, month: int, days: int) -> None:
    first = datetime(year, month, 1, tzinfo=UTC)
    assert bar_end(first, "1M") - first == timedelta(days=days)


@pytest.mark.parametrize("microseconds", [0, 1, 999])
def test_ranges_within_a_millisecond(microseconds: int) -> None:
    time = NOON + timedelta(microseconds=microseconds)
    first = optional_ms(time)
    assert first is not None
    assert from_ms(first) >= time > from_ms(first - 1)
    assert last_ms(time) == first - 1  # ranges that meet there share nothing and miss nothing
    assert ceil_ms(time) == first
    assert optional_ms(None) is last_ms(None) is None
