"""Daemons of a benchmark: one alone, a pair that leads and stands by, an edge; and what they cost for each event."""

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
from websockets.sync.client import connect

from actors.engine.memory import MemoryEngine
from actors.engine.words import Member
from actors.relay.members import Members
from tests.actors.engine.servers import Server, running

from .engine_market import Addresses, Rates, Sent, further
from .engine_peer import LANES, Heard, Ready
from .feeder import daemon_config
from .processes import START_WITHIN, Ended, choose_cores, cpu_seconds, hear, say, started, wait_for_address

RATES = (2000.0, 10_000.0)
IDLE = 100.0  # events a second of whoever is not measured: no feed of theirs falls silent
SYMBOLS = 100
HISTORY = 100  # bars
SETTLE = 1.0  # seconds between a change of rates and a window
READY_WITHIN = 120.0
ENOUGH = 0.95  # of the events of a window
TRIES = 5  # of a window
CATCH_UP = 2.0  # seconds that those who were halted have to hear the rest
MEASURED = {"pair": ("alone", "leader", "warm"), "edges": ("edge", "mirror", "server")}
"""What is measured at the same time."""

Told = Callable[[str], None]
Found = Iterator[tuple[str, float]]


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
    name: str,
    role: str,
    folder: Path,
    market: str,
    engine: Server | None,
    options: argparse.Namespace,
    symbols: int = SYMBOLS,
) -> Iterator[tuple[int, str]]:
    """Its process, and its host and port, once all its feeds are live."""
    config, log = folder / f"{name}.toml", folder / f"{name}.log"
    text = daemon_config(market, count=symbols).replace("[streams]\n", f"[streams]\nhistory = {HISTORY}\n")
    if engine is not None:
        text += f'[engine]\nurl = "{engine.url}"\nname = "{name}"\nrole = "{role}"\nflush_ms = {options.flush}\n'
    config.write_text(text)
    profile = ("-m", "cProfile", "-o", str(options.profile / f"{name}.prof")) if options.profile else ()
    python = [sys.executable, *profile, "-m"]
    with started([*python, "daemon", "--config", str(config)], log, choose_all()) as process:
        address = wait_for_address(process, log)
        wait_until(lambda: is_ready(address, symbols, has_engine=engine is not None), f"{name} is ready")
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


def is_ready(address: str, symbols: int, *, has_engine: bool) -> bool:
    with urllib.request.urlopen(f"http://{address}/health", timeout=20) as answer:
        health = msgspec.json.decode(answer.read())
    if any(feed["state"] != "live" for feed in health["feeds"]) or len(health["feeds"]) < symbols:
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


def daemons(options: argparse.Namespace, told: Told) -> Found:
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
            took = first_trade(edge, further(SYMBOLS, number))
            told(f"{number + 1}/{options.rounds} on demand: {took:.2f} s")
            yield "on demand at an edge: seconds to a trade", took


def first_trade(address: str, symbol: str) -> float:
    """Seconds from a client's coming for a symbol that nobody follows to its first trade."""
    began = time.monotonic()
    with connect(f"ws://{address}/ws/binance/{symbol}/trades", compression=None) as socket:
        while b'"trade"' not in (said := socket.recv(timeout=START_WITHIN, decode=False)):
            if b'"type"' not in said:
                raise Ended(f"{symbol} is not followed: {said!r}")
    return time.monotonic() - began


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
