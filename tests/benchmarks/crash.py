"""`kill -9` at random moments under load: nothing that was acknowledged may be missing, nothing may be there twice.

    python -m tests.benchmarks.crash [--rounds 100] [--seed 1]

A child process runs the archive on a feed that never stops talking, and says up to which event all is on disk. It is
killed at a random moment and started again a little before where it was, so that some events are written twice. After
each kill the file must open, pass `PRAGMA integrity_check`, and hold every acknowledged event once.
"""

import argparse
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import trio

from actors.archive import queries, store
from actors.archive.archive import Archive
from actors.archive.series import FAR, KINDS, Series
from daemon import log
from tests.actors.archive.fixtures import TellingFeed, bar, large_trade, liquidation, now

AGAIN = 300  # events before the acknowledged one that the next child says again
BURST = 250


class Result(NamedTuple):
    kills: int
    acknowledged: int
    written: int  # rows in the end
    lost: int
    twice: int
    damaged: int


async def child(path: Path, number: int) -> None:
    feed: Any = TellingFeed()
    archive = Archive(path, keep=KINDS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(archive.run)
        with archive.following(feed, now):
            while True:
                for _ in range(BURST):
                    feed.say(large_trade(number * 0.01, number))
                    feed.say(liquidation(number * 0.01, value=1000.0 + number))
                    if number % 10 == 0:
                        feed.say(bar(number // 10))
                    number += 1
                await archive.flush()
                while archive.report().pending:  # noqa: ASYNC110  (a flush does not wait for a slow disk for ever)
                    await trio.sleep(0.01)
                report = archive.report()
                assert (report.state, report.lagged) == ("ok", 0), report
                sys.stdout.write(f"{number}\n")
                sys.stdout.flush()


def check(path: Path, acknowledged: int) -> tuple[int, int, int, int]:
    """(rows, lost, twice, damaged) after a kill."""
    with sqlite3.connect(path) as connection:
        damaged = int(connection.execute("PRAGMA integrity_check").fetchone()[0] != "ok")
    connection = store.open_reader(path)
    trades = queries.read(connection, Series("large_trades", "binance", "BTCUSDT"), 0, FAR, 1 << 30)
    forced = queries.read(connection, Series("liquidations", "binance", "BTCUSDT"), 0, FAR, 1 << 30)
    bars = queries.read(connection, Series("ohlc", "binance", "BTCUSDT", "1m"), 0, FAR, 1 << 30)
    connection.close()
    found = [[row[-1] for row in trades], [round(row[4] - 1000.0) for row in forced]]
    lost = sum(len(set(range(acknowledged)) - set(ids)) for ids in found) + max(0, -(-acknowledged // 10) - len(bars))
    twice = sum(len(ids) - len(set(ids)) for ids in found)
    return len(trades) + len(forced) + len(bars), lost, twice, damaged


def run(folder: Path, rounds: int, seed: int) -> Result:
    rng = random.Random(seed)
    path = folder / "crash.db"
    acknowledged = rows = lost = twice = damaged = 0
    for _ in range(rounds):
        begin = max(0, acknowledged - AGAIN)
        command = [sys.executable, "-m", "tests.benchmarks.crash", "--child", str(path), "--begin", str(begin)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert process.stdout is not None
        try:
            while acknowledged >= (told := int(process.stdout.readline())):
                pass  # what is written again
            time.sleep(rng.uniform(0.0, 0.4))
        finally:
            process.kill()
        acknowledged = max([told, *map(int, process.stdout.read().split(b"\n")[:-1])])
        process.wait()
        process.stdout.close()
        rows, missing, more, bad = check(path, acknowledged)
        lost, twice, damaged = lost + missing, twice + more, damaged + bad
    return Result(rounds, acknowledged, rows, lost, twice, damaged)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--begin", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        log.configure("ERROR", "json")
        trio.run(child, options.child, options.begin)
    with tempfile.TemporaryDirectory(prefix="marketd-crash-") as folder:
        began = time.monotonic()
        result = run(Path(folder), options.rounds, options.seed)
    sys.stdout.write(f"{result} in {time.monotonic() - began:.0f} s\n")
    return 1 if result.lost or result.twice or result.damaged else 0


if __name__ == "__main__":
    sys.exit(main())
