"""Reads the file for damage after it was not closed in order: first what a crash can have touched, then all else.

In pieces, each a question of its own like any other: none of them holds a snapshot for long, so the log of writes is
folded into the file as always, and damage is seen to as when anybody meets it.
"""

from functools import partial

import trio

from actors.archive import queries, store
from actors.archive.reads import Reads
from actors.archive.series import FAR, KINDS, Series

NEWEST = 2_000  # rows of each series that are read first
PIECE = 20_000  # rows
PAUSE = 0.01  # seconds between pieces: there is no hurry


async def read_over(reads: Reads) -> None:
    """Read everything once. Unreadable where the file cannot be read, or is damaged: whoever meets that says so."""
    await reads.ask(store.check_index)
    found: list[Series] = []
    for kind in KINDS:
        found += await reads.ask(partial(queries.find_series, kind=kind))
    for series in found:
        await reads.ask(partial(queries.read_newest, series=series, count=NEWEST))
    for series in found:
        start: int | None = 0
        while start is not None and start < FAR:
            start = await reads.ask(partial(queries.read_over, series=series, start=start, count=PIECE))
            await trio.sleep(PAUSE)
