"""The interval of settled funding, read from the spacing of the rates."""

from datetime import datetime, timedelta
from functools import partial

import pytest

from actors.errors import UpstreamError
from actors.events import FundingRate, from_ms
from actors.exchanges.paging import retelling
from actors.exchanges.settled import HOUR, interval_between, last_rates, of_range, told_of_range

BEGIN = from_ms(1_790_352_000_000)


def rate(hours: float) -> FundingRate:
    at = BEGIN + hours * HOUR + timedelta(milliseconds=7)
    return FundingRate(
        exchange="x",
        symbol="Y",
        timestamp=at,
        funding_rate=0.0001,
        funding_time=at,
        funding_interval_hours=None,
        mark_price=None,
    )


@pytest.mark.parametrize(
    ("hours", "interval"), [(1, 1), (2, 2), (4, 4), (8, 8), (8.001, 8), (0.5, None), (1.5, None), (12, None), (0, None)]
)
def test_the_time_between_two_settlements(hours: float, interval: float | None) -> None:
    assert interval_between(BEGIN, BEGIN + hours * HOUR) == interval


def test_the_first_rate_of_all_has_no_known_interval() -> None:
    rates = [rate(hours) for hours in (0, 8, 12, 13, 40)]
    assert [one.funding_interval_hours for one in of_range(rates, None, 9)] == [None, 8, 4, 1, None]
    assert [one.funding_interval_hours for one in of_range(rates, BEGIN + 8 * HOUR, 2)] == [8, 4]
    assert [one.funding_interval_hours for one in of_range(rates, None, 2)] == [1, None]
    assert of_range([], None, 5) == []


@pytest.mark.parametrize("believed", [1.0, 4.0, 8.0])
@pytest.mark.parametrize("limit", [1, 3, 50, 500])
async def test_the_last_rates_before_a_time(limit: int, believed: float) -> None:
    """However long the interval was, and whether the contract was listed all the time."""
    history = [rate(hours) for hours in [*range(0, 80, 8), *range(4000, 4300, 8), *range(4300, 4400)]]
    asked = 0

    async def read(start: datetime, end: datetime) -> list[FundingRate]:
        nonlocal asked
        asked += 1
        return [one for one in history if start <= one.timestamp < end]

    end = BEGIN + 4390 * HOUR
    wanted = [one for one in history if one.timestamp < end]
    found = await last_rates(read, limit, end, believed)
    assert found[-limit:] == wanted[-limit:]
    assert asked <= 5


async def test_an_error_says_which_last_rates_were_told_before_it() -> None:
    history = [rate(hours) for hours in range(0, 800, 8)]
    asked = 0

    async def read(start: datetime, end: datetime) -> list[FundingRate]:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise UpstreamError("it broke")
        return [one for one in history if start <= one.timestamp < end]

    end = BEGIN + 800 * HOUR
    with pytest.raises(UpstreamError) as caught, retelling(partial(told_of_range, start=None)):
        await last_rates(read, 50, end, 1.0)
    told = caught.value.told
    assert told is not None
    assert [one.timestamp for one in told.rows] == [one.timestamp for one in history[-5:]]
    assert {one.funding_interval_hours for one in told.rows} == {8.0}, "the first of six has none"
    assert (told.start, told.end) == (None, end)
