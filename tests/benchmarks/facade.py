"""What ten bots cost: ccxt clients that poll klines, through the façade and straight at the exchange.

    python -m pip install -e '.[dev,clients]'
    python -m tests.benchmarks.facade [--clients 10] [--symbols 20] [--seconds 20] [--followed]

Linux only. The exchange is the simulator of Binance, in a process of its own; the daemon is in another one, which
follows none of the symbols of its own accord, or with `--followed` their minute bars; the clients are here, each asks
for the last 99 minute bars of every symbol once a second, or as fast as it can. First through the façade, once its
feeds have loaded their past, then straight at the exchange: the other way round the daemon would heed what the exchange
says that this address has used. Reported: answers, refusals, p50 and p99 of an answer, calls that the exchange saw, the
daemon's CPU.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import trio

from actors.exchanges.binance import simulator
from actors.exchanges.binance.simulator.limits import Limits
from actors.simulation.assets import ASSETS, Asset
from actors.simulation.market import Market

from .processes import Cpu, read_cpu, wait_for_address

CONFIG = """
[archive]
enabled = false
[oi_vol]
timeframes = []
[server]
port = 0
[log]
format = "json"
[streams]
intervals = ["1m"]
[exchanges.bybit]
enabled = false
[exchanges.hyperliquid]
enabled = false
[exchanges.binance]
symbols = {symbols}
rest_url = "{rest}"
ws_url = "{ws}"
"""


BEGINS = 3.0  # seconds that the daemon's own beginning takes


class Run(NamedTuple):
    answers: int
    refused: int
    millis: list[float]
    calls: int
    cpu: float


async def exchange(symbols: int) -> None:
    """The other process: says where it listens, and then, for every line that it reads, how often it was asked."""
    limits = Limits(weight=1_000_000)  # straight, ten bots would be banned within the minute
    async with trio.open_nursery() as nursery:
        serve = partial(simulator.serve, Market(assets=assets(symbols)), options=simulator.Options(limits=limits))
        sim = await nursery.start(serve)
        _say({"rest": sim.rest_url, "ws": sim.ws_url})
        while await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            _say({"calls": sim.count("/fapi/v1/klines")})
        nursery.cancel_scope.cancel()


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(msgspec.json.encode(what).decode() + "\n")
    sys.stdout.flush()


class Exchange:
    def __init__(self, symbols: int) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.facade", "--exchange", "--symbols", str(symbols)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        where = self._hear()
        self.rest, self.ws = where["rest"], where["ws"]

    def _hear(self) -> Any:
        assert self.process.stdout is not None
        return msgspec.json.decode(self.process.stdout.readline())

    def calls(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        return int(self._hear()["calls"])


def new_client(base: str) -> Any:
    import ccxt.async_support as ccxt

    api = {"fapiPublic": base + "/fapi/v1", "fapiPublicV2": base + "/fapi/v2", "fapiPublicV3": base + "/fapi/v3"}
    return ccxt.binanceusdm(
        {
            "options": {"fetchMarkets": {"types": ["linear"]}},
            "enableRateLimit": False,
            "urls": {"api": {**api, "fapiData": base + "/futures/data"}},
        }
    )


async def begin(client: Any) -> None:
    """The feeds may have used up the minute's allowance: they come first."""
    import ccxt

    for _ in range(20):
        try:
            await client.load_markets()
            return
        except ccxt.DDoSProtection:
            await asyncio.sleep(5)
    await client.load_markets()


async def poll(base: str, clients: int, symbols: int, seconds: float) -> tuple[int, list[float]]:
    import ccxt

    made = [new_client(base) for _ in range(clients)]
    refused, millis = 0, []

    async def ask(client: Any, symbol: str) -> None:
        nonlocal refused
        began = time.perf_counter()
        try:
            await client.fetch_ohlcv(symbol, "1m", limit=99)
            millis.append((time.perf_counter() - began) * 1000)
        except ccxt.NetworkError:
            refused += 1

    async def run(client: Any) -> None:
        names = [name for name in client.symbols if name.endswith(":USDT")][:symbols]
        until = time.monotonic() + seconds
        while (at := time.monotonic()) < until:
            await asyncio.gather(*(ask(client, name) for name in names))
            await asyncio.sleep(max(0.0, at + 1 - time.monotonic()))

    try:
        for client in made:
            await begin(client)
        await asyncio.gather(*map(run, made))
    finally:
        for client in made:
            await client.close()
    return refused, millis


def followed(options: argparse.Namespace) -> list[str]:
    return [f"{asset.name}USDT" for asset in assets(options.symbols)] if options.followed else []


def assets(count: int) -> list[Asset]:
    """Alike, so that the exchange's own work is small."""
    return [replace(ASSETS[1], name=f"ALIKE{number}", shape="alike") for number in range(count)]


def measure(base: str, exchange: Exchange, pid: int | None, options: argparse.Namespace) -> Run:
    before, used = exchange.calls(), _used(pid)
    refused, millis = asyncio.run(poll(base, options.clients, options.symbols, options.seconds))
    return Run(len(millis), refused, sorted(millis), exchange.calls() - before, _used(pid) - used)


def _used(pid: int | None) -> float:
    cpu = Cpu(0, 0, 0) if pid is None else read_cpu(pid, None)
    return cpu.user + cpu.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--symbols", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--followed", action="store_true", help="the daemon's feeds follow these symbols")
    parser.add_argument("--exchange", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.exchange:
        trio.run(exchange, options.symbols)
        return
    with tempfile.TemporaryDirectory() as folder:
        venue = Exchange(options.symbols)
        config, log = Path(folder) / "config.toml", Path(folder) / "log"
        config.write_text(CONFIG.format(rest=venue.rest, ws=venue.ws, symbols=json.dumps(followed(options))))
        with log.open("wb") as said:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "daemon", "--config", str(config)], stdout=said, stderr=said
            )
        try:
            url = f"http://{wait_for_address(daemon, log)}"
            time.sleep(BEGINS)
            runs = {
                "façade": measure(f"{url}/as/binance", venue, daemon.pid, options),
                "straight": measure(venue.rest, venue, None, options),
            }
        finally:
            for process in (daemon, venue.process):
                process.terminate()
                process.wait(15)
    sys.stdout.write("           answers  refused   p50 ms   p99 ms  calls upstream  daemon's CPU s\n")
    for name, run in runs.items():
        p50, p99 = (run.millis[int(len(run.millis) * part)] for part in (0.5, 0.99))
        row = f"{run.answers:8} {run.refused:8} {p50:8.1f} {p99:8.1f} {run.calls:15} {run.cpu:15.2f}"
        sys.stdout.write(f"{name:9} {row}\n")


if __name__ == "__main__":
    main()
