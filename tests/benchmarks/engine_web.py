"""Clients of an edge beside those of a daemon by itself: what a delivered message costs, and how old it is."""

import argparse
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.actors.engine.servers import running

from .clients import DRAIN, Joined, Result, Window
from .engine_daemons import Found, Told, choose_all, daemon
from .feeder import SYMBOL, now_us
from .processes import START_WITHIN, STOP_WITHIN, cpu_seconds, hear, say, sleep_until, started, wait_for_address

CLIENTS = 100
RATE = 50.0  # trades a second
SETTLE = 2.0  # seconds between the last client's arrival and the window


def clients(options: argparse.Namespace, told: Told) -> Found:
    limit = str(round(options.rounds * 2 * (options.seconds + 20) + 120))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="engine-")))
        server = stack.enter_context(running("valkey"))
        markets = []
        for name in ("first", "second"):
            log = folder / f"{name}.log"
            command = [sys.executable, "-m", f"{__package__}.feeder", "--rate", f"{RATE:g}", "--limit", limit]
            feeder = stack.enter_context(started(command, log, choose_all()))
            markets.append(wait_for_address(feeder, log))
        daemons = {"alone": stack.enter_context(daemon("alone", "both", folder, markets[0], None, options, 1))}
        for name, role in (("leader", options.role), ("edge", "edge")):
            daemons[name] = stack.enter_context(daemon(name, role, folder, markets[1], server, options, 1))
        for number in range(options.rounds):
            for name in ("alone", "edge"):
                pid, address = daemons[name]
                cpu, result = deliver(pid, address, folder, options.seconds, limit)
                told(f"{number + 1}/{options.rounds} {name}: {cpu:.1f} us, p50 {result.p50} us, p99 {result.p99} us")
                yield f"{name}, per message to {CLIENTS} clients", cpu
                yield f"{name}, p50 in ms from the exchange", result.p50 / 1000
                yield f"{name}, p99 in ms from the exchange", result.p99 / 1000


def deliver(pid: int, address: str, folder: Path, seconds: float, limit: str) -> tuple[float, Result]:
    """CPU in microseconds per message that reached a client, over one window."""
    log = folder / "clients.log"
    url = f"ws://{address}/ws/binance/{SYMBOL}/trades"
    command = [sys.executable, "-m", f"{__package__}.clients", "--url", url, "--clients", str(CLIENTS)]
    with started([*command, "--limit", limit], log, choose_all(), stdin=subprocess.PIPE) as crowd:
        hear(crowd, log, Joined, START_WITHIN)
        say(crowd, Joined(1))
        hear(crowd, log, Joined, START_WITHIN)
        begin = now_us() + round(SETTLE * 1e6)
        window = Window(begin, begin + round(seconds * 1e6))
        say(crowd, window)
        sleep_until(window.start)
        before = cpu_seconds(pid)
        sleep_until(window.end)
        used = cpu_seconds(pid) - before
        result = hear(crowd, log, Result, DRAIN / 1e6 + STOP_WITHIN)
    return used * 1e6 / result.delivered, result
