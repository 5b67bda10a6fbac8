"""Many rows from an exchange that gives few at once, in as few questions as the answer justifies. No I/O of its own.

An error in the middle says what was told until then (`told_before`): who keeps it is asked for less the next time.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TypeVar

from actors.errors import MarketError, Told, UpstreamError
from actors.events import Event, Ohlc

FEW = 9  # windows that may be read beside those that `limit` rows fill
WIDEST = 8  # pages' worth of time; settlements that come every hour came every 8 hours
DAY, MILLISECOND = timedelta(days=1), timedelta(milliseconds=1)

E = TypeVar("E", bound=Event)


@contextmanager
def telling(so_far: Callable[[], Told]) -> Iterator[None]:
    """An error that ends the block carries what was told before it; where that is nothing, what an inner block said."""
    try:
        yield
    except MarketError as error:
        told = so_far()
        if told.rows or error.told is None:
            error.told = told
        raise


@contextmanager
def retelling(change: Callable[[Told], Told]) -> Iterator[None]:
    """What was told before an error that ends the block becomes what the answer would have said."""
    try:
        yield
    except MarketError as error:
        error.told = error.told and change(error.told)
        raise


def told_before(error: MarketError) -> Told | None:
    """What came before an error; it is handed out once, since errors may be remembered for long."""
    told, error.told = error.told, None
    return told


async def newest(
    read: Callable[[datetime | None, datetime | None, int], Awaitable[list[E]]],
    page_size: int,
    limit: int,
    end: datetime | None,
) -> list[E]:
    """The last `limit` rows before `end`, page by page backwards. `read`: (start, end, size) -> rows, ascending."""
    rows: list[E] = []
    before = end
    with telling(lambda: Told(rows, None, end)):
        while len(rows) < limit:
            size = min(limit - len(rows), page_size)
            page = await read(None, before, size)
            rows = page + rows
            if len(page) < size:
                break
            before = page[0].timestamp
    return rows


async def oldest(
    read: Callable[[datetime, datetime | None, int], Awaitable[list[E]]],
    page_size: int,
    limit: int,
    start: datetime,
    end: datetime | None,
) -> list[E]:
    """The first `limit` rows of `[start, end)`, where the exchange gives the first ones of a range."""
    rows: list[E] = []
    at = start
    with telling(lambda: Told(rows, start, at)):
        while len(rows) < limit:
            size = min(limit - len(rows), page_size)
            page = await read(at, end, size)
            rows += page
            if len(page) < size or _is_open(page[-1]):
                break
            at = page[-1].timestamp + MILLISECOND
    return rows


def _is_open(row: Event) -> bool:
    """Whatever follows a bar that was open when it was read, it is the last of which all is known."""
    return isinstance(row, Ohlc) and not row.is_closed


async def first(
    read: Callable[[datetime, datetime, int], Awaitable[list[E]]],
    page_size: int,
    limit: int,
    start: datetime,
    end: datetime | None,
    *,
    step: timedelta,
    now: datetime,
    least: timedelta | None = None,
    begin: Callable[[], Awaitable[datetime]] | None = None,
) -> list[E]:
    """The first `limit` rows of `[start, end)`, where the exchange gives the last ones of a range: window by window.

    A window is to hold no more than a page. How wide it is depends on how far apart rows are: `step` at first, then as
    far as they were, and never less than `least`, `step` if None. `begin` says before when there are no rows, and is
    asked once where the first window has none. Raises UpstreamError where so many windows as are justified by `limit`
    do not show all that was asked for.
    """
    if start > now + DAY:  # our idea of the exchange's clock may be off, but not by that much
        return []
    least = least or step
    sparse = page_size - 2  # rows to expect of a window with room for more: a full page may be a cut one
    wide = max(step * sparse, least * page_size)
    rows: list[E] = []
    at, width, widest = start, max(step * min(sparse, limit), least * min(page_size, limit)), wide * WIDEST
    with telling(lambda: Told(rows, start, at)):
        for _ in range(FEW + -(-limit // page_size)):
            until = at + width if end is None else min(at + width, end)
            if until <= at:
                return rows
            page = await read(at, until, page_size)
            if len(page) == page_size and until - at > least * page_size:
                width = widest = (until - at) / 2  # of these the first are missing
                continue
            rows += page
            at = until
            if len(rows) >= limit or at >= now:
                return rows[:limit]
            if not rows and begin is not None:
                at, begin, width = max(at, await begin()), None, wide
            elif not page:
                width = min(max(width * 2, wide), widest)
            else:
                missing = limit - len(rows)
                width = max(width * min(sparse, missing) / len(page), least * min(page_size, missing))
                width = min(width, widest)
        if at < (now if end is None else min(end, now)) and await read(at, end or now, 1):
            raise UpstreamError(f"the exchange has too few rows before {at:%Y-%m-%d %H:%M} UTC: ask from there on")
    return rows
