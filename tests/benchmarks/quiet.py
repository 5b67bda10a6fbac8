"""What the daemon costs while nothing happens: its default exchanges and symbols, simulated, and not one trade.

    python -m tests.benchmarks.quiet [--market mute|still] [--clients 500] [--seconds 30] [--repeats 5]

`mute`: the exchanges acknowledge, answer pings and heartbeats, and send nothing else. `still`: they also send what
they send of a market that stands still (mark prices and the like each second). Percent of a core, user and system,
after a warm-up in which history is fetched; `clients` WebSocket clients of topics on which nothing comes are connected,
in turn with none. `--passes` counts passes of the scheduler and says whose turns they were. Linux only.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import NamedTuple

import trio

from actors.exchanges.exchange import load_exchanges
from actors.simulation.assets import ASSETS
from actors.simulation.market import Market

from . import passes
from .idle import connect
from .processes import Cores, choose_cores, cpu_seconds, machine, started, wait_for_address, write_report

NEVER = 1e9  # seconds
WARM_UP = 25.0  # seconds


class Run(NamedTuple):
    clients: int
    percent: float  # of a core


async def simulate(
    market: str, exchanges: Sequence[str], found: dict[str, tuple[str, str]], go: threading.Event
) -> None:
    """For ever; `found`: the addresses for REST and WebSocket of each exchange."""
    assets = [replace(a, trades=1 / NEVER, large_every=NEVER, liquidation_every=NEVER) for a in ASSETS[:3]]
    world = Market(seed=1, assets=tuple(assets))
    async with trio.open_nursery() as nursery:
        for name in exchanges:
            module = import_module(f"actors.exchanges.{name}.simulator")
            simulator = await nursery.start(partial(module.serve, world))
            if market == "mute":
                simulator.faults.mute.add("*")
            found[name] = simulator.rest_url, simulator.ws_url
        go.set()
        await trio.sleep_forever()


@contextmanager
def simulated(market: str, exchanges: Sequence[str]) -> Iterator[dict[str, tuple[str, str]]]:
    """In a thread of this process until it ends."""
    found: dict[str, tuple[str, str]] = {}
    go = threading.Event()
    threading.Thread(target=trio.run, args=(simulate, market, exchanges, found, go), daemon=True).start()
    if not go.wait(30):
        raise SystemExit("the simulators do not start")
    yield found


def configuration(urls: dict[str, tuple[str, str]], folder: Path) -> str:
    lines = ["[server]", "port = 0", "[log]", 'format = "json"', "[archive]", f'path = "{folder}/marketd.db"']
    for name in load_exchanges():
        lines += [f"[exchanges.{name}]"]
        if name in urls:
            lines += [f'rest_url = "{urls[name][0]}"', f'ws_url = "{urls[name][1]}"']
        else:
            lines += ["enabled = false"]
    return "\n".join(lines) + "\n"


def measure(options: argparse.Namespace, urls: dict[str, tuple[str, str]], clients: int, cores: Cores) -> Run:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quiet-")))
        config, log, counted = folder / "config.toml", folder / "marketd.log", folder / "passes.json"
        config.write_text(configuration(urls, folder))
        program = [f"{__package__}.passes", str(counted)] if options.passes else ["daemon"]
        command = [sys.executable, "-m", *program, "--config", str(config)]
        core = cores.others if cores.server is None else [cores.server]
        daemon = stack.enter_context(started(command, log, core))
        address = wait_for_address(daemon, log)
        time.sleep(WARM_UP)
        connected = connect(address, clients, 500.0) if clients else []
        time.sleep(2.0)
        if options.passes:
            before = passes.read(counted)
        first, begin = cpu_seconds(daemon.pid), time.monotonic()
        time.sleep(options.seconds)
        last, took = cpu_seconds(daemon.pid), time.monotonic() - begin
        if options.passes:
            told = passes.read(counted).since(before)
            sys.stdout.write(f"{told.passes / took:.1f} passes a second; turns a second:\n")
            for name, count in list(told.steps.items())[:25]:
                sys.stdout.write(f"    {count / took:8.2f}  {name}\n")
        for client in connected:
            client.close()
    return Run(clients, 100 * (last - first) / took)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--market", choices=["mute", "still"], default="mute")
    parser.add_argument("--exchanges", nargs="*", default=[*load_exchanges()], help="default: all")
    parser.add_argument("--clients", type=int, default=0, help="idle clients, in turn with none (default 0)")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--passes", action="store_true", help="say what runs; CPU is then too high")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    options = parser.parse_args()
    cores = choose_cores()
    if cores.server is not None:
        os.sched_setaffinity(0, cores.others)
    sys.stdout.write(f"{machine(cores)}\n")
    runs: list[Run] = []
    with simulated(options.market, options.exchanges) as urls:
        for number in range(options.repeats):
            for clients in [0, options.clients] if options.clients else [0]:
                runs.append(measure(options, urls, clients, cores))
                sys.stderr.write(f"{number + 1}/{options.repeats} {clients} clients: {runs[-1].percent:.2f} %\n")
    for clients in dict.fromkeys(run.clients for run in runs):
        shares = [run.percent for run in runs if run.clients == clients]
        low, middle, high = min(shares), median(shares), max(shares)
        sys.stdout.write(f"{options.market}, {clients} clients: {low:.2f} {middle:.2f} {high:.2f} % of a core\n")
    if options.json is not None:
        write_report(options.json, cores, runs=runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
