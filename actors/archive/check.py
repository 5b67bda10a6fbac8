"""Reads the file for damage after it was not closed in order: first what a crash can have touched, then all else.

In pieces, each a question of its own like any other: none of them holds a snapshot for long, so the log of writes is
folded into the file as always, and damage is seen to as when anybody meets it.
"""

import trio

from actors.archive import queries, store
from actors.archive.reads import Reads, Unreadable
from actors.archive.series import FAR, KINDS

NEWEST = 2_000  # rows of each series that are read first
PIECE = 20_000  # rows
PAUSE = 0.01  # seconds between pieces: there is no hurry


async def read_over(reads: Reads) -> None:
    """Read everything once. Returns where the file cannot be read: whoever meets that says so."""
    try:
        await reads.ask(store.check_index)
        found = [
            series
            for kind in KINDS
            for series in await reads.ask(lambda connection, kind=kind: queries.find_series(connection, kind))  # type: ignore[misc]
        ]
        for series in found:
            await reads.ask(lambda connection, one=series: queries.read_newest(connection, one, NEWEST))  # type: ignore[misc]
        for series in found:
            start: int | None = 0
            while start is not None and start < FAR:
                start = await reads.ask(
                    lambda connection, one=series, start=start: queries.read_over(connection, one, start, PIECE)  # type: ignore[misc]
                )
                await trio.sleep(PAUSE)
    except Unreadable:
        return
