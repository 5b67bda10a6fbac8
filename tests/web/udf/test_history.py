"""What a chart is told is what the rules say of a list of bars, whatever holes it has and however it is asked."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import trio
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from actors.events import EPOCH, Ohlc
from web.udf import history as h
from web.udf.history import History, history, seconds

STEP = timedelta(minutes=1)
FIRST = EPOCH + timedelta(days=400)


def bar(number: int) -> Ohlc:
    return Ohlc(
        exchange="binance",
        symbol="BTCUSDT",
        timestamp=FIRST + number * STEP,
        interval="1m",
        open=number + 0.1,
        high=number + 0.4,
        low=float(number),
        close=number + 0.2,
        volume=1.5,
        quote_volume=None,
        trades_count=None,
        is_closed=True,
    )


def asked(
    bars: Sequence[Ohlc], start: datetime, end: datetime, countback: int, now: datetime
) -> tuple[History, list[int]]:
    """The answer, and how many bars were asked for each time."""
    counts: list[int] = []

    async def before(time: datetime, count: int) -> list[Ohlc]:
        assert 0 < count <= h.PAGE
        counts.append(count)
        return [bar for bar in bars if bar.timestamp < time][-count:]

    async def run() -> History:
        return await history(before, "1m", start=start, end=end, countback=countback, now=now)

    return trio.run(run), counts


numbers = st.sets(st.integers(0, 200), max_size=60).map(sorted)


@given(
    opened=numbers,
    start=st.integers(-30 * 60, 230 * 60),
    length=st.integers(0, 260 * 60),
    countback=st.integers(0, 80),
    after_last=st.integers(0, 5),
)
def test_the_answer_is_what_the_rules_say(
    opened: list[int], start: int, length: int, countback: int, after_last: int
) -> None:
    bars = [bar(number) for number in opened]
    begin = FIRST + timedelta(seconds=start)
    end = begin + timedelta(seconds=length)
    now = FIRST + ((opened[-1] if opened else 0) + after_last) * STEP + timedelta(seconds=30)
    answer, counts = asked(bars, begin, end, countback, now)

    earlier = [bar for bar in bars if bar.timestamp < end]
    within = [bar for bar in earlier if bar.timestamp >= begin]
    expected = earlier[-max(len(within), countback) :] if max(len(within), countback) else []
    if expected:
        assert answer.s == "ok"
        assert answer.t == [seconds(bar.timestamp) for bar in expected]
        assert answer.o == [bar.open for bar in expected]
        assert answer.h == [bar.high for bar in expected]
        assert answer.l == [bar.low for bar in expected]
        assert answer.c == [bar.close for bar in expected]
        assert answer.v == [bar.volume for bar in expected]
    else:
        assert answer.s == "no_data"
        assert answer.t is UNSET
        assert answer.nextTime == (seconds(earlier[-1].timestamp) if earlier else UNSET)
    assert len(counts) <= 3 + len(expected), "a page that brings nothing is the last one"


def test_at_most_five_thousand_the_latest_and_from_pages() -> None:
    bars = [bar(number) for number in range(6000)]
    now = FIRST + 6000 * STEP
    answer, counts = asked(bars, EPOCH, now, 0, now)
    assert answer.t == [seconds(bar.timestamp) for bar in bars[-5000:]]
    assert counts == [1500, 1500, 1500, 500]
    answer, _ = asked(bars, now - STEP, now, 100_000, now)
    assert answer.t == [seconds(bar.timestamp) for bar in bars[-5000:]]


def test_the_last_bars_are_asked_for_once() -> None:
    bars = [bar(number) for number in range(100)]
    now = FIRST + 99 * STEP + timedelta(seconds=20)
    answer, counts = asked(bars, now - 10 * STEP, now + STEP, 2, now)
    assert answer.t == [seconds(bar.timestamp) for bar in bars[-10:]]
    assert len(counts) == 1
