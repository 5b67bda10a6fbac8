"""Which bars a chart is told: all of `[start, end)`, and at least so many before `end`. No I/O of its own."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from msgspec import UNSET, Struct, UnsetType

from actors.events import EPOCH, INTERVALS, Ohlc, ms

MOST = 5000  # bars in one answer; the latest
PAGE = 1500  # bars that a connector gives at once

Before = Callable[[datetime, int], Awaitable[list[Ohlc]]]
"""(time, count) -> the last `count` bars that opened before the time, ascending; fewer only where there are no more."""


class History(Struct, frozen=True, kw_only=True):
    """Columns, strictly ascending by time (Unix seconds of a bar's open); `v` in base units.

    No columns: nothing opened within the range. Then `nextTime` is the latest bar before it; without that there is
    nothing before its end at all, and the chart never asks again.
    """

    s: str = "ok"
    t: list[int] | UnsetType = UNSET
    o: list[float] | UnsetType = UNSET
    h: list[float] | UnsetType = UNSET
    l: list[float] | UnsetType = UNSET  # noqa: E741 - the protocol's name
    c: list[float] | UnsetType = UNSET
    v: list[float] | UnsetType = UNSET
    nextTime: int | UnsetType = UNSET


async def history(
    before: Before, interval: str, *, start: datetime, end: datetime, countback: int, now: datetime
) -> History:
    rows = await _collected(before, INTERVALS[interval], start, end, countback, now)
    within = sum(row.timestamp >= start for row in rows)
    told = rows[max(0, len(rows) - min(MOST, max(within, countback))) :]
    if told:
        return columns(told)
    was_asked = _opens(start, min(end, now + INTERVALS[interval]), INTERVALS[interval]) > 0
    older = rows[-1:] if was_asked else await before(end, 1)
    return History(s="no_data", nextTime=seconds(older[-1].timestamp) if older else UNSET)


async def _collected(
    before: Before, step: timedelta, start: datetime, end: datetime, countback: int, now: datetime
) -> list[Ohlc]:
    """As many of the last bars before `end` as may be asked for, from pages."""
    rows: list[Ohlc] = []
    while len(rows) < MOST:
        reached = rows[0].timestamp if rows else end
        missing = max(_opens(start, min(reached, now + step), step), min(countback, MOST) - len(rows))
        if missing <= 0:
            break
        page = await before(reached, min(missing, PAGE, MOST - len(rows)))
        page = [row for row in page if row.timestamp < reached]
        if not page:
            break
        rows = page + rows
    return rows


def _opens(start: datetime, end: datetime, step: timedelta) -> int:
    """How many bars can open within `[start, end)`. Longer bars than a day are not aligned to 1970: one more."""
    if end <= start:
        return 0
    if step > timedelta(days=1):
        return (end - start) // step + 1
    return -(-(end - EPOCH) // step) - -(-(start - EPOCH) // step)


def columns(rows: list[Ohlc]) -> History:
    return History(
        t=[seconds(row.timestamp) for row in rows],
        o=[row.open for row in rows],
        h=[row.high for row in rows],
        l=[row.low for row in rows],
        c=[row.close for row in rows],
        v=[row.volume for row in rows],
    )


def seconds(time: datetime) -> int:
    return ms(time) // 1000
