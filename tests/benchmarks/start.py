"""How soon the daemon listens when its archive is large, after an orderly end and after a crash.

    python -m tests.benchmarks.start [--rows 10000000] [--folder DIR]

A file of 1m bars of a hundred symbols is made by SQL in a folder of its own, which is removed afterwards (750 MB for
ten million rows). No exchange can be reached. Reported for each start, in seconds from the process's first moment:

    listening  until it accepts connections, and the CPU that took
    ready      until the archive takes rows
    checked    until the whole file was read for damage, and the slowest of the answers of /health/live meanwhile
"""

import argparse
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import msgspec

from actors.archive.series import us
from actors.archive.writer import Writer
from actors.exchanges.exchange import load_exchanges
from tests.actors.archive.fixtures import T0
from tests.benchmarks.processes import ROOT, START_WITHIN, read_cpu

SERIES = 100
CHECKED_WITHIN = 120.0
CONFIG = """
[server]
port = 0
[log]
format = "json"
[archive]
path = "bench.db"
"""
NOWHERE = """
[exchanges.{name}]
rest_url = "http://127.0.0.1:9"
ws_url = "ws://127.0.0.1:9"
"""
MAKE = """
PRAGMA synchronous = OFF;
BEGIN;
CREATE TEMP TABLE minute AS WITH RECURSIVE n(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM n LIMIT :rows) SELECT x FROM n;
INSERT INTO series SELECT x + 1, 'ohlc', 'binance', printf('S%03dUSDT', x), '1m' FROM minute LIMIT :series;
INSERT INTO coverage SELECT id, :begin, :begin + :rows * 60000000 FROM series;
INSERT INTO ohlc SELECT id, :begin + x * 60000000, 100.0 + x % 97, 101.5 + x % 97, 99.3, 100.25, x % 1013 + 0.125,
    12345.678, x % 700 FROM series CROSS JOIN minute;
COMMIT;
"""


def make(path: Path, rows: int) -> None:
    Writer(path).end()
    values = {"rows": rows // SERIES, "series": SERIES, "begin": us(T0)}
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in filter(str.strip, MAKE.split(";")):
        connection.execute(statement, {name: value for name, value in values.items() if f":{name}" in statement})
    connection.close()


class Start:
    """One start of the daemon in a folder."""

    def __init__(self, folder: Path) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("MARKETD_", "PORT"))}
        self.began = time.monotonic()
        self._log = folder / "log.json"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "daemon"],
                cwd=folder,
                env=environment | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def event(self, name: str) -> dict[str, Any] | None:
        lines = self._log.read_bytes().split(b"\n")[:-1]
        return next((entry for line in lines if (entry := msgspec.json.decode(line))["event"] == name), None)

    def wait(self, name: str, within: float = START_WITHIN) -> tuple[float, dict[str, Any]]:
        """Seconds from the start until something was logged."""
        while (entry := self.event(name)) is None:
            spent = time.monotonic() - self.began
            if self.process.poll() is not None or spent > within:
                raise SystemExit(f"no {name} after {spent:.1f} s:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.01)
        return time.monotonic() - self.began, entry

    def slowest_until(self, name: str, url: str) -> float:
        """The longest that an answer takes until something is logged."""
        slowest = 0.0
        while self.event(name) is None and time.monotonic() - self.began < CHECKED_WITHIN:
            asked = time.monotonic()
            urllib.request.urlopen(f"{url}/health/live", timeout=10).read()
            slowest = max(slowest, time.monotonic() - asked)
            time.sleep(0.02)
        return slowest


def measure(folder: Path, what: str, *, is_checked: bool, end: signal.Signals) -> None:
    start = Start(folder)
    try:
        listening, entry = start.wait("web.listening")
        cpu = read_cpu(start.process.pid, None)
        ready, _ = start.wait("archive.ready")
        text = f"{what:<28} listening {listening:.2f} s ({cpu.user + cpu.system:.2f} of CPU), ready {ready:.2f} s"
        if is_checked:
            slowest = start.slowest_until("archive.checked", entry["url"])
            checked, _ = start.wait("archive.checked", CHECKED_WITHIN)
            text += f", checked {checked:.1f} s (slowest answer {slowest * 1000:.0f} ms)"
        elif start.event("archive.checked"):
            raise SystemExit("a file that was closed in order was read over")
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
        start.process.send_signal(end)
        start.process.wait(20)
    finally:
        start.process.kill()
        start.process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="marketd-start-", dir=options.folder) as made:
        folder = Path(made)
        folder.joinpath("config.toml").write_text(
            CONFIG + "".join(NOWHERE.format(name=name) for name in load_exchanges())
        )
        measure(folder, "no file yet", is_checked=False, end=signal.SIGTERM)
        for file in folder.glob("*.db*"):
            file.unlink()
        began = time.monotonic()
        make(folder / "bench.db", options.rows)
        size = folder.joinpath("bench.db").stat().st_size
        sys.stdout.write(f"{options.rows:,} rows, {size / 1e6:.0f} MB, made in {time.monotonic() - began:.0f} s\n")
        measure(folder, "touched by another program", is_checked=True, end=signal.SIGKILL)
        measure(folder, "after a crash", is_checked=True, end=signal.SIGTERM)
        measure(folder, "after an orderly end", is_checked=False, end=signal.SIGTERM)
    return 0


if __name__ == "__main__":
    sys.exit(main())
