"""Packed bars: what comes out is what went in, to the last bit and of the same types, and in little memory."""

from collections.abc import Sequence
from datetime import timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import structs

from actors.events import EPOCH, Ohlc, from_ms
from actors.feeds.packing import Packed, Plain, pack

WHERE = ("binance", "BTCUSDT", "1m")
MINUTE = 60_000
START = 1_790_000_040_000


def bar(index: int = 0, **fields: Any) -> Ohlc:
    ordinary = Ohlc(
        exchange="binance",
        symbol="BTCUSDT",
        timestamp=from_ms(START + index * MINUTE),
        interval="1m",
        open=64_000.1 + index,
        high=64_010.5,
        low=63_990.0,
        close=64_001.1,
        volume=120.125 + index,
        quote_volume=7_688_000.12345,
        trades_count=1_500 - index,
        is_closed=True,
    )
    return structs.replace(ordinary, **fields)


def exactly(bars: Sequence[Ohlc]) -> list[tuple[str, ...]]:
    """Tells -0.0 from 0.0, 1 from 1.0, and one time zone from another."""
    return [tuple(map(repr, structs.astuple(bar))) for bar in bars]


wild = st.one_of(st.floats(), st.sampled_from([-0.0, 0.0, 5e-324, 2.0**53, 2.0**53 + 2, 1e300]))


def columns(rows: int) -> st.SearchStrategy[list[float]]:
    """Decimals of one tick size, or any floats."""
    decimals = st.tuples(st.integers(0, 17), st.lists(st.integers(-(10**3), 10**17), min_size=rows, max_size=rows)).map(
        lambda drawn: [float(f"{whole}e-{drawn[0]}") for whole in drawn[1]]
    )
    return decimals | st.lists(wild, min_size=rows, max_size=rows)


@st.composite
def some_bars(draw: st.DrawFn) -> list[Ohlc]:
    rows = draw(st.integers(1, 6))
    even = [START + index * MINUTE for index in range(rows)]
    holes = st.sets(st.integers(0, 10**13), min_size=rows, max_size=rows).map(sorted)
    times = draw(st.just(even) | holes)
    prices = [draw(columns(rows)) for _ in range(5)]
    quote = draw(st.just([None] * rows) | columns(rows))
    counts = draw(st.just([None] * rows) | st.lists(st.integers(-(2**70), 2**70), min_size=rows, max_size=rows))
    return [
        bar(
            timestamp=from_ms(time),
            open=first,
            high=high,
            low=low,
            close=last,
            volume=volume,
            quote_volume=quote_volume,
            trades_count=count,
        )
        for time, first, high, low, last, volume, quote_volume, count in zip(times, *prices, quote, counts, strict=True)
    ]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(some_bars())
@example([bar(0, open=0.1 + 0.2), bar(1, open=0.3)])
@example([bar(0, volume=-0.0), bar(1, volume=0.0)])
@example([bar(0, quote_volume=None), bar(1)])
def test_what_comes_out_is_what_went_in(bars: list[Ohlc]) -> None:
    packed = pack(WHERE, bars)
    assert exactly(packed.bars()) == exactly(bars)
    assert [packed.opened(index) for index in range(len(bars))] == [bar.timestamp for bar in bars]


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param({"is_closed": False}, id="open"),
        pytest.param({"symbol": "ETHUSDT"}, id="of another symbol"),
        pytest.param({"volume": 3}, id="a whole number for a float"),
        pytest.param({"trades_count": True}, id="a truth for a count"),
        pytest.param({"trades_count": None}, id="some without a count"),
        pytest.param({"trades_count": 2**80}, id="a count beyond all"),
        pytest.param({"timestamp": EPOCH + timedelta(microseconds=1)}, id="a part of a millisecond"),
        pytest.param({"timestamp": EPOCH.astimezone(timezone(timedelta(hours=1)))}, id="in another time zone"),
    ],
)
def test_odd_bars_are_kept_as_they_are(odd: dict[str, Any]) -> None:
    bars = [bar(0, **odd), bar(1)]
    packed = pack(WHERE, bars)
    assert isinstance(packed, Plain)
    assert exactly(packed.bars()) == exactly(bars)


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        pytest.param({}, 28, id="all fields"),
        pytest.param({"quote_volume": None, "trades_count": None}, 20, id="without what some exchanges do not tell"),
        pytest.param({"quote_volume": 123_456_789_012.123_45}, 32, id="a sum with noise"),
    ],
)
def test_ordinary_bars_take_a_tenth(fields: dict[str, Any], most: int) -> None:
    packed = pack(WHERE, [bar(index, **fields) for index in range(32)])
    assert isinstance(packed, Packed)
    assert len(packed.data) / 32 <= most
