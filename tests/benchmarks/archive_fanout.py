"""What the archive costs the streams: the fan-out benchmark without it, with it, and during an export.

    python -m tests.benchmarks.archive_fanout [--clients 100] [--seconds 10] [--repeats 3] [--rows 1000000]

The three alternate. The archive is a file of so many 1m bars, and the export asks for all of them again and again, as
Parquet where pyarrow is there, from before the window to after it. The process that makes it is on the daemon's own
core: at its lower priority it gets what is left. Columns are those of `fanout`.
"""

import argparse
import resource
import signal
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from web.rest.formats import missing

from .archive import write
from .fanout import HEAD, Options, Run, _leave, line, measure, summarise
from .processes import START_WITHIN, choose_cores, machine


@contextmanager
def exporting(address: str, rows: list[int]) -> Iterator[None]:
    """Download exports one after another, and throw them away."""
    format = "csv" if missing("parquet") else "parquet"
    over = threading.Event()

    def download() -> None:
        while not over.is_set():
            url = f"http://{address}/export/ohlc?interval=1m&format={format}"
            with urllib.request.urlopen(url, timeout=120) as answer:
                while not over.is_set() and (piece := answer.read(1 << 16)):
                    rows[0] += len(piece)

    thread = threading.Thread(target=download)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1_000_000)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _leave)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    cores = choose_cores()
    options = Options(
        clients=[given.clients],
        rate=given.rate,
        seconds=given.seconds,
        repeats=given.repeats,
        deaf=0,
        servers=["marketd"],
        profile=None,
        limit=round(given.seconds + 4 * START_WITHIN),
    )
    sys.stdout.write(f"{machine(cores)}\n")
    exported = [0]
    with tempfile.TemporaryDirectory(prefix="marketd-archive-") as folder:
        path = Path(folder) / "marketd.db"
        write(path, given.rows)
        runs: dict[str, list[Run]] = {"without": [], "with": [], "export": []}
        for number in range(given.repeats):
            run = partial(measure, "marketd", given.clients, number, options, cores)
            runs["without"].append(run())
            runs["with"].append(run(archive=path))
            runs["export"].append(run(archive=path, beside=partial(exporting, rows=exported)))
    sys.stdout.write(HEAD)
    for name, some in runs.items():
        for row in summarise(some):
            sys.stdout.write(line(row).replace("marketd ", f"{name:8}"))
    sys.stdout.write(f"exported {exported[0] / 1e6:.0f} MB meanwhile\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
