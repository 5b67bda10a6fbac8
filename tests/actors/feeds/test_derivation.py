"""Longer bars made of minutes: equal to the sum of their parts, closed once, silent where the beginning is unknown."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from actors.events import Ohlc
from actors.feeds.derivation import Derivation

START = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def minute(index: int, price: float, volume: str, *, closed: bool = True) -> Ohlc:
    return Ohlc(
        exchange="hyperliquid",
        symbol="BTC",
        timestamp=START + index * MINUTE,
        interval="1m",
        open=price,
        high=price + 2,
        low=price - 2,
        close=price + 1,
        volume=float(volume),
        quote_volume=None,
        trades_count=3,
        is_closed=closed,
    )


def test_five_minutes_make_one_bar() -> None:
    derivation = Derivation("5m", has_empty_bars=True)
    bars = [derivation.apply(minute(n, 100.0 + n, "0.1")) for n in range(5)]
    assert [bar and bar.is_closed for bar in bars] == [False, False, False, False, True]
    last = bars[-1]
    assert last is not None
    assert (last.open, last.high, last.low, last.close) == (100.0, 106.0, 98.0, 105.0)
    assert (last.volume, last.trades_count, last.quote_volume) == (0.5, 15, None)
    assert (last.timestamp, last.interval) == (START, "5m")


def test_an_open_minute_counts_once_however_often_it_is_updated() -> None:
    derivation = Derivation("5m", has_empty_bars=True)
    derivation.apply(minute(0, 100.0, "1"))
    for volume in ("0.1", "0.2", "0.3"):
        bar = derivation.apply(minute(1, 101.0, volume, closed=False))
        assert bar is not None
        assert bar.volume == 1 + float(volume)


def test_a_beginning_that_was_missed_makes_no_bar() -> None:
    derivation = Derivation("5m", has_empty_bars=True)
    assert [derivation.apply(minute(n, 100.0, "1")) for n in (2, 3, 4)] == [None, None, None]
    assert derivation.apply(minute(5, 100.0, "1")) is not None


def test_a_hole_makes_no_bar_until_the_next_begins() -> None:
    derivation = Derivation("5m", has_empty_bars=True)
    assert derivation.apply(minute(0, 100.0, "1")) is not None
    assert derivation.apply(minute(2, 100.0, "1")) is None
    assert derivation.apply(minute(3, 100.0, "1")) is None
    assert derivation.apply(minute(5, 100.0, "1")) is not None


def test_a_minute_that_never_closed_is_a_hole_too() -> None:
    derivation = Derivation("5m", has_empty_bars=True)
    assert derivation.apply(minute(0, 100.0, "1", closed=False)) is not None
    assert derivation.apply(minute(1, 100.0, "1")) is None


def test_restart_takes_the_beginning_from_what_is_held() -> None:
    derivation = Derivation("1h", has_empty_bars=True)
    derivation.restart([*(minute(n, 100.0, "1") for n in range(-30, 30)), minute(30, 100.0, "0.5", closed=False)])
    bar = derivation.apply(minute(30, 100.0, "2", closed=False))
    assert bar is not None
    assert (bar.timestamp, bar.volume) == (START, 32.0)


def test_where_a_quiet_minute_has_no_bar_its_absence_is_no_hole() -> None:
    derivation = Derivation("5m", has_empty_bars=False)
    made = [derivation.apply(minute(n, 100.0, "1")) for n in (0, 3, 6, 7)]
    assert [bar and (bar.timestamp, bar.volume) for bar in made] == [
        (START, 1.0),
        (START, 2.0),
        (START + 5 * MINUTE, 1.0),
        (START + 5 * MINUTE, 2.0),
    ]


def test_what_was_lost_is_a_hole_there_too() -> None:
    derivation = Derivation("5m", has_empty_bars=False)
    derivation.apply(minute(0, 100.0, "1"))
    derivation.interrupt()
    assert derivation.apply(minute(3, 100.0, "1")) is None
    assert derivation.apply(minute(5, 100.0, "1")) is not None


@given(st.lists(st.decimals("0", "99999", places=5), min_size=15, max_size=15))
def test_volumes_add_up_without_noise(volumes: list[Decimal]) -> None:
    derivation = Derivation("15m", has_empty_bars=True)
    bars = [derivation.apply(minute(n, 100.0, str(volume))) for n, volume in enumerate(volumes)]
    last = bars[-1]
    assert last is not None
    assert last.volume == float(sum(volumes))


@given(st.booleans(), st.integers(-20, 20), st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=40))
def test_what_a_restart_leaves_out_makes_no_difference(
    has_empty_bars: bool, first: int, steps: list[tuple[int, bool]]
) -> None:
    """A restart against all minutes, told one by one; some are missing, some never closed."""
    told, at = [], first
    for step, is_closed in steps:
        at += step if step > 2 else 1
        told.append(minute(at, 100.0 + at, "0.1", closed=is_closed))
    restarted, slow = (Derivation("5m", has_empty_bars=has_empty_bars) for _ in range(2))
    restarted.restart(told)
    for one in told:
        slow.apply(one)
    for later in range(at, at + 7):
        one = minute(later, 50.0, "0.2")
        assert restarted.apply(one) == slow.apply(one)
