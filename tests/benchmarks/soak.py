"""A day of many symbols in a minute or two: does the daemon's memory grow?

    python -m tests.benchmarks.soak [--symbols 30] [--hours 24] [--json FILE]

Linux only. Frames (frames.py) carry a clock of their own that runs from now on as fast as the daemon takes them: every
two simulated seconds two trades of each symbol, all of them large ones so that what is kept of those fills up, and one
update of its minute bar, which is closed when the minute is over. One WebSocket client reads all large trades, and each
simulated hour 500 bars of every symbol are asked for, which proves that the daemon has caught up. Then its resident
memory is read. The verdict compares the last hour with the end of the warm-up, the third.

Bars that are asked for stay unpacked (actors/feeds/rows.py) up to a bound that would take three such days and 40 MB to
reach: here it is an eighth of that, which the first hours fill.
"""

import argparse
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import msgspec

from .feeder import MINUTE, daemon_config, symbols
from .frames import Exchange, Frames, now_ms
from .processes import Ended, choose_cores, machine, read_cpu, read_memory, reading, started, wait_for_address

STEP = 2_000  # simulated milliseconds between two bursts
HOUR = 3_600_000
WARM_UP = 3  # hours
CATCH_UP_WITHIN = 60.0  # seconds
DAEMON = """
import sys
from functools import lru_cache
from actors.feeds import rows
from daemon.__main__ import main
rows._unpacked = lru_cache(maxsize=rows.UNPACKED // 8)(rows._unpacked.__wrapped__)
sys.exit(main(sys.argv[1:]))
"""


class Bar(msgspec.Struct, frozen=True):
    timestamp: datetime


class Hour(msgspec.Struct, frozen=True):
    """At the end of a simulated hour: seconds since the start, frames sent in it, resident bytes."""

    hour: int
    seconds: float
    frames: int
    memory: int


def ask(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


def catch_up(address: str, names: Sequence[str], now: int) -> None:
    """Wait until every symbol's open bar is that of the simulated moment, asking for 500 bars of each."""
    opened = now // MINUTE * MINUTE / 1000
    deadline = time.monotonic() + CATCH_UP_WITHIN
    for name in names:
        while True:
            bars = msgspec.json.decode(ask(f"http://{address}/binance/ohlc/{name}/1m?limit=500"), type=list[Bar])
            if len(bars) == 500 and bars[-1].timestamp.timestamp() == opened:
                break
            if time.monotonic() > deadline:
                raise Ended(f"{name} is at {bars[-1].timestamp} and not where it was sent to")
            time.sleep(0.1)


def run(options: argparse.Namespace) -> list[Hour]:
    cores, names = choose_cores(), symbols(options.symbols)
    at = now_ms() // STEP * STEP
    exchange = Exchange(Frames(names, lambda: at, whole_coins=2, marks=True))
    limit = ["--limit", "3600"]
    hours: list[Hour] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        feeder_log, log, config = folder / "feeder.log", folder / "marketd.log", folder / "config.toml"
        feed = [sys.executable, "-m", f"{__package__}.feeder", "--rate", "1", "--bars", "1500", *limit]
        feeder = stack.enter_context(started(feed, feeder_log, cores.others))
        address = wait_for_address(feeder, feeder_log)
        config.write_text(daemon_config(address, count=options.symbols, stream=exchange.address))
        command = [sys.executable, "-c", DAEMON, "--config", str(config)]
        core = cores.others if cores.server is None else [cores.server]
        daemon = stack.enter_context(started(command, log, core))
        exchange.accept(within=20)
        address = wait_for_address(daemon, log)
        reader = stack.enter_context(reading(f"ws://{address}/ws/all/large_trades", cores.others))
        began = time.monotonic()
        exchange.send_burst()
        catch_up(address, names, at)
        for hour in range(1, options.hours + 1):
            frames = 0
            for _ in range(HOUR // STEP):
                at += STEP
                frames += exchange.send_burst()
            catch_up(address, names, at)
            hours.append(Hour(hour, time.monotonic() - began, frames, read_memory(daemon.pid)))
            sys.stderr.write(f"hour {hour}: {hours[-1].memory / 1e6:.1f} MB after {hours[-1].seconds:.0f} s\n")
        if reader.poll() is not None:
            raise Ended("the reader lost its connection")
        cpu = read_cpu(daemon.pid, cores.server)
        warnings = [line for line in log.read_text().splitlines() if '"level":"info"' not in line.replace(" ", "")]
        exchange.close()
    frames = sum(hour.frames for hour in hours)
    sys.stdout.write(f"{frames} frames, {1e6 * (cpu.user + cpu.system) / frames:.1f} us of CPU each, with the start\n")
    sys.stdout.write(f"{len(warnings)} lines in the log above info{': ' if warnings else ''}{' '.join(warnings[:3])}\n")
    return hours


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--symbols", type=int, default=30, help="(default 30)")
    parser.add_argument("--hours", type=int, default=24, help="simulated (default 24)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    options = parser.parse_args()
    if not (1 <= options.symbols <= 45 and WARM_UP < options.hours <= 240):
        parser.error(f"--symbols 1 to 45 (one connection's worth), --hours {WARM_UP + 1} to 240")
    cores = choose_cores()
    if cores.server is not None:
        os.sched_setaffinity(0, cores.others)
    sys.stdout.write(f"{machine(cores)}\n")
    try:
        hours = run(options)
    except Ended as error:
        sys.stderr.write(f"{error}\n")
        return 1
    warm, last = hours[WARM_UP - 1].memory, hours[-1].memory
    most = max(hour.memory for hour in hours)
    sys.stdout.write(
        f"resident: {warm / 1e6:.1f} MB after {WARM_UP} hours, at most {most / 1e6:.1f} MB, "
        f"{last / 1e6:.1f} MB after {options.hours}: {100 * (last / warm - 1):+.1f} %\n"
    )
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(hours), indent=2) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
