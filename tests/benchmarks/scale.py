"""Whole markets: N symbols on every simulated exchange at once, with the daemon as a process of its own.

Says when every feed was live, what the exchanges counted (connections, subscriptions, refused requests), and the
daemon's CPU and memory once it runs steadily. The simulators run in this process and enforce the exchanges' limits: a
client that breaks one is cut off or refused. `--load`: also when every bar of history was there, and what was waited
for. `--turn`: an hour ends so many seconds after the start, and a histogram tells how long the daemon's tasks made each
other wait meanwhile (watched.py). Linux only.

    python -m tests.benchmarks.scale --symbols 300 --seconds 60
    python -m tests.benchmarks.scale --symbols 300 --seconds 60 --load --patience 1500 --turn 1600 \\
        --exchanges binance bybit okx --intervals 1m 3m 5m 15m 30m 1h
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import trio

from actors.exchanges.exchange import Exchange, load_exchanges
from actors.simulation.assets import synthetic
from actors.simulation.history import HOUR
from actors.simulation.market import Clock, Market
from actors.simulation.server import Simulator
from actors.upstream.budget import Budget
from actors.upstream.rest import RestClient, open_http
from tests.benchmarks.processes import (
    choose_cores,
    hear,
    machine,
    read_cpu,
    read_memory,
    say,
    started,
    wait_for_address,
)
from tests.benchmarks.watched import LIMITS, Watched

INTERVALS = ["1m", "5m", "15m"]
AROUND = 5.0  # seconds before and after the end of the hour
ASK_WITHIN = 60.0  # seconds


Watch = Callable[[], Awaitable[Watched]]


class Question(msgspec.Struct, frozen=True):
    """Of the daemon: see watched.py."""


async def main() -> None:
    options = arguments()
    cores = choose_cores()
    os.sched_setaffinity(0, cores.others)
    sys.stdout.write(machine(cores) + "\n")
    exchanges = {name: exchange for name, exchange in load_exchanges().items() if name in (options.exchanges or [name])}
    with tempfile.TemporaryDirectory() as folder:
        async with trio.open_nursery() as nursery:
            market = Market(seed=1, assets=synthetic(options.symbols), clock=clock_before(options.turn))
            simulators: dict[str, Simulator] = {}
            for name in exchanges:
                simulators[name] = await nursery.start(
                    partial(import_module(f"actors.exchanges.{name}.simulator").serve, market)
                )
            config, log = Path(folder) / "config.toml", Path(folder) / "marketd.log"
            archive = f'[archive]\npath = "{folder}/marketd.db"\n'
            config.write_text(archive + await configuration(exchanges, simulators, options.intervals))
            command = [sys.executable, "-m", f"{__package__}.watched", "--config", str(config), "--port", "0"]
            server = [core for core in [cores.server] if core is not None] or cores.others
            with started(command, log, server, stdin=subprocess.PIPE) as daemon:
                url = "http://" + await trio.to_thread.run_sync(wait_for_address, daemon, log)
                began = time.monotonic()
                watch = partial(trio.to_thread.run_sync, ask, daemon, log)
                await start(url, simulators, options.patience)
                if options.load:
                    await load(url, watch, daemon.pid, began, options.patience)
                await run(daemon.pid, cores.server, simulators, options.seconds)
                if options.turn is not None:
                    await turn(watch, market)
                warnings = Counter(
                    row["event"]
                    for row in map(msgspec.json.decode, log.read_bytes().splitlines())
                    if row["level"] != "info"
                )
                sys.stdout.write(f"warnings in the log: {dict(warnings)}\n")
            nursery.cancel_scope.cancel()


def clock_before(turn: float | None) -> Clock:
    """The market's: an hour ends after `turn` seconds."""
    now = time.time_ns() // 1_000_000
    return Clock(now if turn is None else now - now % HOUR - round(1000 * turn))


def ask(daemon: subprocess.Popen[bytes], log: Path) -> Watched:
    say(daemon, Question())
    return hear(daemon, log, Watched, ASK_WITHIN)


async def configuration(
    exchanges: dict[str, Exchange], simulators: dict[str, Simulator], intervals: Sequence[str]
) -> str:
    """Every symbol that each simulated exchange lists as trading, as it spells them."""
    lines = ["[streams]", f"intervals = {list(intervals)}", "[oi_vol]", 'timeframes = ["5m"]', 'symbols = ["none"]']
    for name in load_exchanges():
        lines.append(f"[exchanges.{name}]")
        if name not in simulators:
            lines.append("enabled = false")
            continue
        simulator = simulators[name]
        symbols = await listed(exchanges[name], simulator.rest_url)
        lines += [
            f"symbols = {msgspec.json.encode(symbols).decode()}",
            f'rest_url = "{simulator.rest_url}"',
            f'ws_url = "{simulator.ws_url}"',
        ]
    return "\n".join(lines) + "\n"


async def listed(exchange: Exchange, rest_url: str) -> list[str]:
    async with open_http(rest_url) as http:
        budget = Budget(exchange.budget)
        client = RestClient(http, budget, exchange.explain, caller="background", used_header=exchange.used_header)
        rest = exchange.open_rest(client, lambda: datetime.now(UTC))
        return [row.symbol for row in await rest.instruments() if row.is_trading]


async def start(url: str, simulators: dict[str, Simulator], patience: float) -> None:
    began = time.monotonic()
    states: Counter[tuple[str, str]] = Counter()
    while time.monotonic() - began < patience:
        await trio.sleep(1)
        states = Counter((feed["exchange"], feed["state"]) for feed in (await health(url))["feeds"])
        if states and all(state == "live" for _, state in states):
            break
    said = ", ".join(f"{name} {count} {state}" for (name, state), count in states.items())
    sys.stdout.write(f"after {time.monotonic() - began:.0f} s: {said}\n")
    for name, simulator in simulators.items():
        refused = Counter(served.status for served in simulator.requests if served.status >= 400)
        subscriptions = sorted({len(connection.streams) for connection in simulator.connections})
        sys.stdout.write(
            f"{name}: {simulator.connections_total} connections, at most {subscriptions[-1] if subscriptions else 0} "
            f"subscriptions on one, {len(simulator.requests)} requests, refused {dict(refused)}\n"
        )


async def load(url: str, watch: Watch, pid: int, began: float, patience: float) -> None:
    """Wait until all history is held. What it waits for is the fullest budget of an exchange, or else the daemon."""
    before = read_cpu(pid, None)
    while True:
        watched = await watch()
        took = time.monotonic() - began
        cpu = read_cpu(pid, None)
        if watched.loaded == watched.series or took > patience:
            break
        budgets = ", ".join(
            f"{name} {bucket['by']['background']} of {bucket['limit']} {bucket['name']}"
            for name, budget in (await health(url))["budgets"].items()
            for bucket in budget["buckets"]
            if bucket["by"]["background"]
        )
        sys.stderr.write(f"{took:.0f} s: {watched.loaded} of {watched.series} series loaded, spent on it: {budgets}\n")
        await trio.sleep(10)
    used = cpu.user + cpu.system - before.user - before.system
    resident = read_memory(pid)
    sys.stdout.write(
        f"{watched.loaded} of {watched.series} series with {watched.bars} bars loaded after {took:.0f} s, {used:.0f} s "
        f"of CPU; {watched.packed_bytes / max(watched.packed, 1):.1f} bytes per packed bar, "
        f"{watched.bars - watched.packed} not packed, memory {resident / 1e6:.0f} MB\n"
    )


async def turn(watch: Watch, market: Market) -> None:
    """The passes of the daemon's scheduler around the end of an hour."""
    await trio.sleep(max(0.0, (HOUR - market.clock.now() % HOUR) / 1000 - AROUND))
    await watch()
    await trio.sleep(2 * AROUND)
    watched = await watch()
    sys.stdout.write(
        f"the end of an hour, passes of the scheduler by CPU: {histogram(watched.passes)}, the longest "
        f"{watched.longest:.1f} ms ({watched.longest_of}), the longest turn of one task {watched.longest_turn:.1f} ms "
        f"({watched.longest_turn_of})\n"
        f"the same on the wall: {histogram(watched.passes_by_wall)}, the longest {watched.longest_by_wall:.1f} ms\n"
    )


def histogram(passes: Sequence[int]) -> str:
    classes = [*(f"to {limit} ms" for limit in LIMITS), f"over {LIMITS[-1]} ms"]
    return ", ".join(f"{count} {name}" for count, name in zip(passes, classes, strict=True) if count)


async def run(pid: int, core: int | None, simulators: dict[str, Simulator], seconds: float) -> None:
    for simulator in simulators.values():
        simulator.sent.clear()
    before, at = read_cpu(pid, core), time.monotonic()
    frames = 0
    while time.monotonic() - at < seconds:
        await trio.sleep(1)
        for simulator in simulators.values():  # a bounded log: count it before it is full
            frames += len(simulator.sent)
            simulator.sent.clear()
    after, took = read_cpu(pid, core), time.monotonic() - at
    cpu = after.user + after.system - before.user - before.system
    sys.stdout.write(
        f"steady: {frames / took:.0f} frames/s, CPU {100 * cpu / took:.1f} % of a core, "
        f"{1e6 * cpu / max(frames, 1):.0f} us per frame, memory {read_memory(pid) / 1e6:.0f} MB\n"
    )


async def health(url: str) -> Any:
    def ask() -> bytes:
        with urllib.request.urlopen(f"{url}/health", timeout=20) as answer:
            return bytes(answer.read())

    return msgspec.json.decode(await trio.to_thread.run_sync(ask))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, default=300, help="on each exchange")
    parser.add_argument("--seconds", type=float, default=60, help="of the steady measurement")
    parser.add_argument("--patience", type=float, default=150, help="seconds until all should be live")
    parser.add_argument("--exchanges", nargs="*", help="default: all")
    parser.add_argument("--intervals", nargs="+", default=INTERVALS, help=f"(default {' '.join(INTERVALS)})")
    parser.add_argument("--load", action="store_true", help="wait for all history")
    parser.add_argument("--turn", type=float, metavar="SECONDS", help="from the start to the end of an hour")
    return parser.parse_args()


if __name__ == "__main__":
    trio.run(main)
