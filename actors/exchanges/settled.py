"""Settled funding: the last rates of an exchange that answers by range, and the interval that each was settled at.

What a contract's interval is today says nothing of the past: exchanges shorten it in stress. The rates' own spacing
does, so whoever asks for rates asks for the one before the first of them too.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from msgspec.structs import replace

from actors.errors import Told
from actors.events import EPOCH, FundingRate
from actors.exchanges.paging import telling

HOUR = timedelta(hours=1)
SHORTEST, LONGEST = HOUR, 8 * HOUR  # between two settlements of any contract
BOOKED_WITHIN = timedelta(minutes=1)  # of its full hour
BEFORE = 9  # rates that there may be within LONGEST before a time


def with_intervals(rates: Sequence[FundingRate]) -> list[FundingRate]:
    """Ascending rates that follow each other, but the first: each with the interval that it was settled at.

    Null where the time since the one before is no interval there can be: a rate is missing in between.
    """
    return [
        replace(rate, funding_interval_hours=interval_between(before.timestamp, rate.timestamp))
        for before, rate in pairwise(rates)
    ]


def interval_between(before: datetime, settled: datetime) -> float | None:
    """The hours between two settlements in a row; None where there must have been another."""
    hours = round((settled - before) / HOUR)
    is_whole = abs(settled - before - hours * HOUR) <= BOOKED_WITHIN
    return float(hours) if is_whole and 0 < hours <= LONGEST / HOUR else None


def of_range(rates: Sequence[FundingRate], start: datetime | None, limit: int) -> list[FundingRate]:
    """The first `limit` rates from `start` on, or (None) the last, out of some that begin before them if any do."""
    unknown = [replace(rate, funding_interval_hours=None) for rate in rates[:1]]  # the contract's first, perhaps
    found = unknown + with_intervals(rates)
    if start is None:
        return found[-limit:]
    return [rate for rate in found if rate.timestamp >= start][:limit]


def told_of_range(told: Told, start: datetime | None) -> Told:
    """What was told before an error, as `of_range` makes it. Whose interval is not known for sure is not told."""
    if start is not None:
        return told._replace(rows=of_range(told.rows, start, len(told.rows)), start=start)
    rates = with_intervals(told.rows)
    begin = rates[0].timestamp if rates and told.start is not None else told.start
    return Told(rates, begin, told.end)


async def last_rates(
    read: Callable[[datetime, datetime], Awaitable[list[FundingRate]]], limit: int, end: datetime, hours: float
) -> list[FundingRate]:
    """The last `limit` or more rates before `end`, where `read` gives all of a range. `hours`: the present interval.

    There are fewer only where the exchange said that it has none before them.
    """
    rates: list[FundingRate] = []
    width, before = limit * hours * HOUR, end
    with telling(lambda: Told(rates, None, end)):
        while len(rates) < limit and before > EPOCH:
            start = max(EPOCH, before - width)
            found = await read(start, before)
            rates = found + rates
            # A width in which all that are missing would be, had the contract been listed all the time, was in vain.
            width = before - EPOCH if not found and width >= LONGEST else (limit - len(rates) + 1) * LONGEST
            before = start
    return rates
