"""What a received frame costs: normalising alone against ccxt and cryptofeed, and the whole way in, from the socket on.

    python -m pip install -e '.[dev,bench]'
    python -m tests.benchmarks.ingest [--symbols 30] [--seconds 5] [--repeats 3] [--json FILE]

Linux only. Frames are Binance's trades and minute bars (frames.py), two trades of a symbol to one update of its bar.
`--recording FILE` takes those of a capture instead for normalising: lines of `time: frame`, other lines are skipped.

    normalise  every normaliser of normalisers.py that is installed on the same frames in this process, in turns, after
               a warm-up: from the frame's text to the library's own object. Microseconds of CPU per frame, by kind.
               Frames are 3 ms apart, as those of a busy market: no two tell of the same time
    line       one line of the daemon in a process of its own, on a core of its own, whose feeds only count: from the
               socket to a normalised event, with frames sent as fast as they are taken
    daemon     the whole daemon likewise: bars and trades kept, published, and read by nobody
    reader     the same with one WebSocket client of every trade of one symbol
    paced      the whole daemon with 3000 frames a second, each in a packet of its own: mostly the price of waking up

Where the time goes: `--profile DIR` runs those processes under cProfile (several times too slow; read with
`python -m pstats`). Without that distortion, during `--seconds 60 --only daemon`:
`py-spy record --native --rate 500 --duration 30 --pid PID -o ingest.svg`.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, count
from pathlib import Path
from statistics import median

import msgspec

from .feeder import SYMBOL, daemon_config, symbols
from .frames import Exchange, Frames, now_ms
from .normalisers import NORMALISERS, TAKE_BYTES
from .processes import (
    Cores,
    Ended,
    choose_cores,
    hear,
    machine,
    read_cpu,
    reading,
    started,
    wait_for_address,
    write_report,
)

WARM_UP = 2.0  # seconds
ONLY = ("normalise", "line", "daemon", "reader", "paced")


class Run(msgspec.Struct, frozen=True):
    """One measurement. CPU in microseconds per frame; `frames` were counted in `seconds` of wall time."""

    what: str
    cpu: float
    cpu_system: float
    frames: int
    seconds: float


class Row(msgspec.Struct, frozen=True):
    """Medians over the repeats."""

    what: str
    cpu: float
    cpu_lowest: float
    cpu_highest: float
    cpu_system: float
    frames_per_core_second: float


class Events(msgspec.Struct, frozen=True):
    """What `ingest_line` counted."""

    trades: int
    ohlc: int


def normalise(frames: Sequence[str], names: Sequence[str], seconds: float) -> Iterator[Run]:
    """Every normaliser in turns on each kind of frame; the first pass over the frames is the warm-up."""
    ready = {name: make(names) for name, make in NORMALISERS.items()}
    kinds = {kind: [frame for frame in frames if f'"e":"{kind}"' in frame] for kind in ("aggTrade", "kline")}
    for kind, mine in kinds.items():
        for name, take in ready.items():
            given = [frame.encode() for frame in mine] if name in TAKE_BYTES else mine
            passes, began, cpu = 0, time.monotonic(), 0.0
            while time.monotonic() - began < seconds / 4 or passes < 2:
                before = time.process_time()
                for frame in given:
                    take(frame)
                if passes:
                    cpu += time.process_time() - before
                passes += 1
            count = len(mine) * (passes - 1)
            yield Run(f"{name} {kind}", cpu * 1e6 / count, 0.0, count, time.monotonic() - began)


def recorded(path: Path) -> tuple[list[str], list[str]]:
    """(frames of a capture, the symbols they are about)."""
    frames = [
        frame for line in path.read_text().splitlines() if (frame := line.partition(": ")[2]).startswith('{"stre')
    ]
    wanted = [frame for frame in frames if '"e":"aggTrade"' in frame or '"e":"kline"' in frame]
    return wanted, sorted({found[1] for frame in wanted if (found := re.search(r'"s":"(\w+)"', frame))})


def measure(what: str, number: int, options: argparse.Namespace, cores: Cores) -> Run:
    """Start everything, warm up, count over one window, stop everything."""
    profile = options.profile / f"{what}-{number}.prof" if options.profile else None
    python = [sys.executable, *(("-m", "cProfile", "-o", str(profile)) if profile else ()), "-m"]
    names = symbols(options.symbols)
    exchange = Exchange(Frames(names))
    core = cores.others if cores.server is None else [cores.server]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ingest-")))
        log = folder / f"{what}.log"
        if what == "line":
            argv = ["--url", f"ws://{exchange.address}", "--symbols", str(options.symbols)]
            command = [*python, f"{__package__}.ingest_line", *argv, "--limit", str(options.limit)]
        else:
            feeder_log, config = folder / "feeder.log", folder / "config.toml"
            feed = [sys.executable, "-m", f"{__package__}.feeder", "--rate", "1", "--bars", "1500"]
            feeder = stack.enter_context(started([*feed, "--limit", str(options.limit)], feeder_log, cores.others))
            address = wait_for_address(feeder, feeder_log)
            config.write_text(daemon_config(address, count=options.symbols, stream=exchange.address))
            command = [*python, "daemon", "--config", str(config)]
        process = stack.enter_context(started(command, log, core))
        exchange.accept(within=20)
        reader = None
        if what == "reader":
            reader = stack.enter_context(
                reading(f"ws://{wait_for_address(process, log)}/ws/binance/{SYMBOL}/trades", cores.others)
            )
        paced = what == "paced"
        exchange.send_until(time.monotonic() + WARM_UP, paced=paced)
        before, began = read_cpu(process.pid, cores.server), time.monotonic()
        count = exchange.send_until(began + options.seconds, paced=paced)
        after, took = read_cpu(process.pid, cores.server), time.monotonic() - began
        exchange.close()
        if what == "line":
            events = hear(process, log, Events, 30)
            if events.trades + events.ohlc < count:
                raise Ended(f"{count} frames were sent, and {events} arrived")
        elif b"gap" in (told := log.read_bytes()) or b"overflow" in told:
            raise Ended(f"the daemon did not keep up: {told[-1000:]!r}")
        if reader is not None and reader.poll() is not None:
            raise Ended("the reader lost its connection")
    system = after.system - before.system
    cpu = after.user - before.user + system
    return Run(what, cpu * 1e6 / count, system * 1e6 / count, count, took)


def summarise(runs: Sequence[Run]) -> list[Row]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.what, []).append(run)
    return [
        Row(
            what=what,
            cpu=(cpu := median(run.cpu for run in group)),
            cpu_lowest=min(run.cpu for run in group),
            cpu_highest=max(run.cpu for run in group),
            cpu_system=median(run.cpu_system for run in group),
            frames_per_core_second=1e6 / cpu,
        )
        for what, group in groups.items()
    ]


HEAD = f"{'what':<20} {'us/frame':>8} {'spread':>13} {'system':>7} {'frames/s of one core':>21}\n"


def line(row: Row) -> str:
    spread = f"{row.cpu_lowest:.2f}..{row.cpu_highest:.2f}"
    return f"{row.what:<20} {row.cpu:>8.2f} {spread:>13} {row.cpu_system:>7.2f} {row.frames_per_core_second:>21,.0f}\n"


def ratios(rows: Sequence[Row]) -> str:
    """How many times the daemon's cost each peer's is, by kind of frame."""
    cpu = {row.what: row.cpu for row in rows}
    told = Counter({what: cpu[what] / cpu[f"marketd {what.split()[1]}"] for what in cpu if " " in what})
    return "".join(f"{what}: {ratio:.1f} times marketd's\n" for what, ratio in told.items() if ratio != 1)


def main() -> int:
    options = parse(sys.argv[1:])
    cores = choose_cores()
    if cores.server is not None:
        os.sched_setaffinity(0, cores.others)
    if options.profile is not None:
        options.profile.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"{machine(cores)}\n")
    if options.recording is not None:
        frames, names = recorded(options.recording)
    else:
        names = symbols(options.symbols)
        made = Frames(names, count(now_ms(), step=3).__next__)
        frames = list(chain.from_iterable(made.burst() for _ in range(5000 // len(names))))
    runs: list[Run] = []
    for number in range(options.repeats):
        for what in options.only:
            try:
                found = (
                    [*normalise(frames, names, options.seconds)]
                    if what == "normalise"
                    else [measure(what, number, options, cores)]
                )
            except Ended as error:
                sys.stderr.write(f"{error}\n")
                return 1
            runs += found
            said = ", ".join(f"{run.what} {run.cpu:.2f}" for run in found)
            sys.stderr.write(f"{number + 1}/{options.repeats} {said} us/frame\n")
    rows = summarise(runs)
    sys.stdout.write(HEAD + "".join(map(line, rows)) + ratios(rows))
    if options.json is not None:
        write_report(options.json, cores, options=vars(options), rows=rows, runs=runs)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.ingest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--symbols", type=int, default=30, help="that frames are about (default 30)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each window (default 5)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of everything (default 3)")
    parser.add_argument("--only", choices=ONLY, help="only this measurement")
    parser.add_argument("--recording", type=Path, metavar="FILE", help="a capture whose frames are normalised")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="run the processes under cProfile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    options = parser.parse_args(arguments)
    if not (1 <= options.symbols <= 45 and 0 < options.seconds <= 300 and 1 <= options.repeats <= 20):
        parser.error("--symbols 1 to 45 (one connection's worth), --seconds up to 300, --repeats 1 to 20")
    options.only = [options.only] if options.only else [*ONLY]
    options.limit = round(options.seconds + 90)
    return options


if __name__ == "__main__":
    sys.exit(main())
