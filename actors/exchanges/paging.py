"""Many rows from an exchange that gives few at once. No I/O of its own."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

from actors.events import Event

E = TypeVar("E", bound=Event)


async def newest(
    read: Callable[[datetime | None, datetime | None, int], Awaitable[list[E]]],
    page_size: int,
    limit: int,
    end: datetime | None,
) -> list[E]:
    """The last `limit` rows before `end`, page by page backwards. `read`: (start, end, size) -> rows, ascending."""
    rows: list[E] = []
    while len(rows) < limit:
        size = min(limit - len(rows), page_size)
        page = await read(None, end, size)
        rows = page + rows
        if len(page) < size:
            break
        end = page[0].timestamp
    return rows
