"""A topic's pulse: silence is measured against the topic's own, and forgotten with time."""

import pytest

from actors.feeds.pulse import HALF_LIFE, LEARNED, PATIENCE, SOONEST, UNKNOWN, Pulse


def beating(every: float, count: int = LEARNED, start: float = 1000.0) -> tuple[Pulse, float]:
    """A pulse that was heard so often, and when it was heard last."""
    pulse = Pulse()
    pulse.limit(start)
    pulse.expect(start)
    for number in range(1, count + 1):
        pulse.heard(start + number * every)
    return pulse, start + count * every


def test_nothing_is_overdue_before_it_is_expected() -> None:
    pulse = Pulse()
    assert not pulse.is_overdue(1e9)
    pulse.expect(100.0)
    assert not pulse.is_overdue(100.0 + UNKNOWN)
    assert pulse.is_overdue(100.1 + UNKNOWN)


def test_a_busy_topic_is_missed_soon() -> None:
    pulse, last = beating(0.5)
    assert not pulse.is_overdue(last + SOONEST)
    assert pulse.is_overdue(last + SOONEST + 0.1)


def test_a_topic_of_which_little_is_known_is_given_longer() -> None:
    pulse, last = beating(0.5, LEARNED - 1)
    assert not pulse.is_overdue(last + UNKNOWN)
    assert pulse.is_overdue(last + UNKNOWN + 0.1)


def test_a_quiet_topic_is_left_alone() -> None:
    pulse, last = beating(40.0, LEARNED)
    assert not pulse.is_overdue(last + 2 * 40.0)
    assert pulse.is_overdue(last + PATIENCE * 40.0 + 0.1)


def test_without_a_connection_silence_means_nothing() -> None:
    pulse, last = beating(0.5)
    pulse.pause()
    assert not pulse.is_overdue(last + 10_000)
    pulse.heard(last + 10_000)  # what the lost connection still brought
    pulse.pause()
    pulse.expect(last + 20_000)
    assert not pulse.is_overdue(last + 20_000 + SOONEST)
    assert pulse.is_overdue(last + 20_000 + SOONEST + 0.1)  # the outage did not become usual


def test_an_excused_silence_is_usual_from_then_on() -> None:
    pulse, last = beating(0.5)
    now = last + 30.0
    assert pulse.is_overdue(now)
    pulse.excuse(now)
    assert not pulse.is_overdue(now)
    assert pulse.is_overdue(last + PATIENCE * 30.0 + 1.0)


@pytest.mark.parametrize(("after", "usual"), [(0.0, 1.0), (HALF_LIFE, 0.5), (3 * HALF_LIFE, 0.125)])
def test_a_long_silence_is_forgotten_by_halves(after: float, usual: float) -> None:
    pulse, last = beating(1000.0)
    assert pulse.limit(last + after) == pytest.approx(max(SOONEST, PATIENCE * 1000.0 * usual))


def test_a_topic_that_may_be_slow_is_given_its_time_though_it_was_quick() -> None:
    pulse = Pulse(slow=90.0)
    pulse.expect(1000.0)
    assert not pulse.is_overdue(1000.0 + 2 * 90.0)
    for number in range(LEARNED):
        pulse.heard(1000.0 + number)
    last = 1000.0 + LEARNED - 1
    assert not pulse.is_overdue(last + 2 * 90.0)
    assert pulse.is_overdue(last + 2 * 90.0 + 0.1)
