"""Spikes: the score against known statistics, the detector on made-up bars; no clock, no network."""

from datetime import UTC, datetime, timedelta
from statistics import fmean, stdev

import pytest

from actors.events import Ohlc, OiSpike, OpenInterest
from actors.spikes import SAMPLES_MIN, Detector, Score

START = datetime(2026, 1, 15, tzinfo=UTC)
STEP = timedelta(minutes=5)


def bar(index: int, volume: float, *, closed: bool = True) -> Ohlc:
    return Ohlc(
        exchange="binance",
        symbol="BTCUSDT",
        timestamp=START + index * STEP,
        interval="5m",
        open=1.0,
        high=1.0,
        low=1.0,
        close=1.0,
        volume=volume,
        quote_volume=None,
        trades_count=None,
        is_closed=closed,
    )


def interest(index: int, amount: float) -> OpenInterest:
    return OpenInterest(
        exchange="binance",
        symbol="BTCUSDT",
        timestamp=START + index * STEP,
        open_interest=amount,
        open_interest_value=None,
    )


def test_a_score_is_the_distance_from_the_mean_in_standard_deviations() -> None:
    score = Score(window=30)
    samples = [float(n % 7) for n in range(30)]
    judged = [score.judge(sample) for sample in samples]
    assert judged[:SAMPLES_MIN] == [None] * SAMPLES_MIN
    assert score.judge(20.0) == pytest.approx((20 - fmean(samples)) / stdev(samples))


def test_a_score_forgets_what_left_the_window() -> None:
    score = Score(window=SAMPLES_MIN)
    for n in range(100):
        score.judge(1e6 if n == 0 else float(n % 2))
    last = [float(n % 2) for n in range(100 - SAMPLES_MIN, 100)]
    assert score.judge(5.0) == pytest.approx((5 - fmean(last)) / stdev(last))


def test_samples_that_never_vary_say_nothing() -> None:
    score = Score(window=30)
    assert [score.judge(1.0) for _ in range(50)] == [None] * 50


def taught(volumes: list[float], interests: list[float], *, threshold: float = 3.0) -> Detector:
    detector = Detector("5m", window=96, threshold=threshold)
    detector.learn(
        [bar(n, volume) for n, volume in enumerate(volumes)], [interest(n, oi) for n, oi in enumerate(interests)]
    )
    return detector


QUIET_VOLUME = [100.0 + n % 5 for n in range(40)]
QUIET_INTEREST = [1000.0 + n % 3 for n in range(40)]


def test_both_unusual_is_confirmed() -> None:
    spike = taught(QUIET_VOLUME, QUIET_INTEREST).on_close(bar(40, 500.0), interest(40, 1100.0))
    assert isinstance(spike, OiSpike)
    assert (spike.timeframe, spike.confirmed, spike.timestamp) == ("5m", True, START + 40 * STEP)
    assert spike.z_oi > 3
    assert spike.z_vol > 3


def test_open_interest_alone_is_not_confirmed() -> None:
    spike = taught(QUIET_VOLUME, QUIET_INTEREST).on_close(bar(40, 101.0), interest(40, 900.0))
    assert spike is not None
    assert not spike.confirmed
    assert spike.z_oi < -3


def test_usual_open_interest_is_no_spike_whatever_the_volume() -> None:
    assert taught(QUIET_VOLUME, QUIET_INTEREST).on_close(bar(40, 9000.0), interest(40, 1001.0)) is None


def test_open_interest_that_was_not_updated_is_no_sample() -> None:
    detector = taught(QUIET_VOLUME, QUIET_INTEREST)
    assert detector.on_close(bar(40, 500.0), interest(39, 5000.0)) is None
    assert detector.on_close(bar(41, 500.0), None) is None
    spike = detector.on_close(bar(42, 900.0), interest(42, 1100.0))
    assert spike is not None


def test_a_bar_counts_once() -> None:
    detector = taught(QUIET_VOLUME, QUIET_INTEREST)
    assert detector.on_close(bar(40, 500.0), interest(40, 1100.0)) is not None
    assert detector.on_close(bar(40, 500.0), interest(41, 1900.0)) is None


def test_without_history_it_waits_until_it_knows_what_is_usual() -> None:
    detector = Detector("5m", window=96, threshold=3.0)
    spikes = [
        detector.on_close(bar(n, 500.0 + n % 5), interest(n, 1000.0 + (n % 3) + (500 if n == 5 else 0)))
        for n in range(SAMPLES_MIN)
    ]
    assert spikes == [None] * SAMPLES_MIN


def test_the_open_bar_of_a_history_is_not_learnt() -> None:
    detector = Detector("5m", window=96, threshold=3.0)
    detector.learn([*(bar(n, 100.0 + n % 5) for n in range(40)), bar(40, 5.0, closed=False)], [])
    assert detector.on_close(bar(40, 500.0), None) is None  # judged and kept, for want of open interest silent
