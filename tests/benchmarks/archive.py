"""The archive with many rows: what writing costs, how long questions take, and what an export needs.

    python -m tests.benchmarks.archive [--rows 10000000] [--folder DIR]

A file of 1m bars of many symbols is made in a folder of its own, which is removed afterwards. Reported:

    write     rows per second and CPU per row, through the store, in batches of 10,000
    event     CPU per event that a follower collects and the archive writes (large trades, the whole actor)
    range     1000 rows from a random time of a random series: median and 99th percentile, in ms, as the daemon asks
    export    1,000,000 rows to each format in a process of its own: seconds, MB per second, peak memory;
              the same of 100,000 rows: memory must not grow with them
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import msgspec
import trio

from actors.archive import check, queries
from actors.archive.archive import Archive
from actors.archive.reads import Reads
from actors.archive.series import FAR, KINDS, Range, Row, Series, Write, event_of, us
from actors.archive.writer import Writer
from daemon import log
from tests.actors.archive.fixtures import T0, TellingFeed, large_trade, now
from web.rest.dump import Job
from web.rest.formats import FORMATS, missing

MINUTE = 60_000_000
PER_SERIES = 500_000  # about a year of minutes
BATCH = 10_000
QUESTIONS = 400
EVENTS = 40_000


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def series_of(number: int) -> Series:
    return Series("ohlc", "binance", f"S{number:03d}USDT", "1m")


def rows_of(first: int, count: int) -> list[Row]:
    begin = us(T0)
    return [
        (begin + n * MINUTE, 100.0 + n % 97, 101.5 + n % 97, 99.3, 100.25, n % 1013 + 0.125, 12345.678, n % 700)
        for n in range(first, first + count)
    ]


def write(path: Path, rows: int) -> None:
    writer = Writer(path)
    wall, cpu = time.perf_counter(), time.process_time()
    spent = 0.0  # making rows is not writing them
    for first in range(0, rows, BATCH):
        number, offset = divmod(first, PER_SERIES)
        making = time.process_time()
        batch = rows_of(offset, min(BATCH, rows - first))
        spent += time.process_time() - making
        writer.write([Write(series_of(number), batch, [Range(batch[0][0], batch[-1][0] + MINUTE)])])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu - spent
    writer.close()
    size = path.stat().st_size
    say(f"write     {rows / wall:,.0f} rows/s, {cpu / rows * 1e6:.1f} us CPU per row, {size / rows:.0f} bytes per row")


async def events(path: Path) -> None:
    feed: Any = TellingFeed()
    archive = Archive(path, keep=KINDS)
    said = [large_trade(n * 0.01, n) for n in range(EVENTS)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(archive.run)
        await archive.flush()
        with archive.following(feed, now):
            cpu = time.process_time()
            for first in range(0, EVENTS, 500):
                feed.say(*said[first : first + 500])
                await archive.flush()
            cpu = time.process_time() - cpu
        assert archive.written == EVENTS
        nursery.cancel_scope.cancel()
    say(f"event     {cpu / EVENTS * 1e6:.1f} us CPU per event, {EVENTS // 500} transactions of 500")


async def questions(path: Path, rows: int, seed: int) -> None:
    rng = random.Random(seed)
    archive = Archive(path, keep=KINDS)
    took: list[float] = []
    for _ in range(QUESTIONS):
        series = series_of(rng.randrange(max(1, rows // PER_SERIES)))
        start = us(T0) + rng.randrange(max(1, min(rows, PER_SERIES) - 1000)) * MINUTE
        began = time.perf_counter()
        found = await archive.reads.ask(
            lambda connection, series=series, start=start: queries.read(connection, series, start, FAR, 1000)  # type: ignore[misc]
        )
        bars = [event_of(series, row) for row in found]
        took.append((time.perf_counter() - began) * 1000)
        assert len(bars) == 1000
    archive.reads.close()
    say(f"range     p50 {median(took):.1f} ms, p99 {quantiles(took, n=100)[98]:.1f} ms for 1000 rows of {rows:,}")


async def check_all(path: Path) -> None:
    began, cpu = time.perf_counter(), time.process_time()
    damage: list[str] = []
    reads = Reads(path, on_damage=damage.append)
    await check.read_over(reads)
    reads.close()
    assert not damage
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    say(f"check     {wall:.1f} s to read the whole file for damage beside everything else, {cpu:.1f} s of CPU")


def export(path: Path, rows: int, format: str) -> None:
    job = Job(path=str(path), kind="ohlc", format=format, interval="1m", end=us(T0) + rows // 2 * MINUTE)
    command = [sys.executable, "-c", MEASURE, msgspec.json.encode(job).decode()]
    began = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parents[2])
    count, size, peak = map(int, done.stdout.split())
    wall = time.perf_counter() - began
    say(
        f"export    {format:8}{count:>10,} rows in {wall:5.1f} s, {size / 1e6:6.1f} MB, "
        f"peak memory {peak / 1024:.0f} MB"
    )


MEASURE = """
import resource, sys, msgspec
from web.rest.dump import Job, dump
size = 0
def write(data):
    global size
    size += len(data)
rows = dump(msgspec.json.decode(sys.argv[1], type=Job), write)
print(rows, size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    log.configure("ERROR", "json")
    with tempfile.TemporaryDirectory(prefix="marketd-archive-", dir=options.folder) as folder:
        path = Path(folder) / "bench.db"
        write(path, options.rows)
        trio.run(events, Path(folder) / "events.db")
        trio.run(questions, path, options.rows, options.seed)
        trio.run(check_all, path)
        # Half a range of two series or more: as many rows as are asked for, whatever the file holds.
        several = max(1, options.rows // PER_SERIES)
        for format in FORMATS:
            if missing(format):
                say(f"export    {format}: {missing(format)}")
                continue
            for rows in (100_000, 1_000_000):
                export(path, 2 * rows // several, format)
    say(f"process   peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
