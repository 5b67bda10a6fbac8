"""The exchange's clock does not move when ours is set."""

from datetime import UTC, datetime, timedelta

import pytest
import trio.testing

from actors import clock
from actors.upstream.skew import Skew

THERE = datetime(2026, 11, 30, 12, tzinfo=UTC)  # at the exchange, whose clock does not move in these tests
HOUR = timedelta(hours=1)


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """Our clock, to be set."""
    shown = [THERE]
    monkeypatch.setattr(clock, "now", lambda: shown[0])
    return shown


def learn(skew: Skew) -> None:
    skew.learn(THERE, clock.now(), clock.now())


async def test_a_step_of_our_clock_is_none_of_the_exchanges(
    ours: list[datetime], autojump_clock: trio.testing.MockClock
) -> None:
    skew = Skew("binance")
    learn(skew)
    for step in (HOUR, -2 * HOUR, 400 * 24 * HOUR):
        ours[0] += step
        assert skew.now() == THERE


async def test_a_step_before_the_exchange_told_its_time_is_in_what_it_told(
    ours: list[datetime], autojump_clock: trio.testing.MockClock
) -> None:
    skew = Skew("binance")
    assert skew.now() == THERE
    ours[0] += HOUR
    learn(skew)
    assert skew.now() == THERE
    assert skew.offset == -HOUR
