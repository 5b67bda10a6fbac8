"""One export from the archive's file to bytes: the work itself, for the command line, and for a process of its own.

`main` is that process: it takes a Job and writes to stdout. The daemon exports so because encoding a million rows keeps
an interpreter busy for seconds, and every stream of the daemon would wait for its turn in between.
"""

import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from actors.archive import queries
from actors.archive.series import FAR, ArchiveKind
from actors.archive.store import NotOurs, open_reader
from web.rest.formats import FORMATS

NICE = 10  # the feeds and the clients go first


class Job(Struct, frozen=True, kw_only=True):
    """What to export. Times are microseconds since 1970; None: no bound."""

    path: str
    kind: ArchiveKind
    format: str
    exchange: str | None = None
    symbol: str | None = None
    interval: str | None = None
    start: int = 0
    end: int = FAR
    limit: int = 0  # only so many rows of each series, the newest; 0: all


Progress = Callable[[int, float], None]
"""(rows so far, share of the whole that is done, 0 to 1)."""


def dump(job: Job, write: Callable[[bytes], object], progress: Progress = lambda rows, share: None) -> int:
    """Write the file; returns how many rows it has. Memory does not grow with them. sqlite3.Error, NotOurs, OSError."""
    form = FORMATS[job.format]
    encoder = form.encoder(job.kind)
    count = 0
    connection = open_reader(Path(job.path))
    try:
        found = queries.find_series(
            connection, job.kind, exchange=job.exchange, symbol=job.symbol, interval=job.interval
        )
        write(encoder.begin())
        for number, series in enumerate(found):
            extent = queries.extent(connection, series)
            if extent is None:
                continue
            start, end = max(job.start, extent.start), min(job.end, extent.end)
            if job.limit:
                start = queries.newest_from(connection, series, start, end, job.limit)
            for rows in queries.chunks(connection, series, start, end, form.chunk):
                write(encoder.rows(series, rows))
                count += len(rows)
                progress(count, (number + (rows[-1][0] + 1 - start) / (end - start)) / len(found))
        write(encoder.end())
    finally:
        connection.close()
    return count


def main() -> int:
    os.nice(NICE)
    out = sys.stdout.buffer
    try:
        dump(msgspec.json.decode(sys.argv[1], type=Job), out.write)
        out.flush()
    except BrokenPipeError:
        os._exit(1)  # nobody reads any more; leave without another try to write
    except (sqlite3.Error, NotOurs, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
