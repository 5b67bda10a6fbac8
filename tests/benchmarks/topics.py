"""One client that follows the trades of many symbols on one socket: the daemon's `/ws`, beside FastAPI.

400 trades a second over 100 symbols, from one simulated exchange. The peer is the application of `fastapi_fanout`: its
one socket is sent every trade that it is sent itself, and it checks no ids, numbers nothing and remembers nothing. CPU
is the server process's own. Linux only.

    python -m tests.benchmarks.topics --symbols 100 --rate 400

To see where the time goes: `--profile DIR` runs the servers under cProfile.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.client import ClientConnection, connect

from .feeder import Command, Feeder, daemon_config, symbols
from .frames import Frames, now_ms
from .processes import Cores, choose_cores, machine, read_cpu, started, wait_for_address, write_report

WARM_UP = 3.0  # seconds
SERVERS = ("marketd", "marketd, batch_ms=50", "fastapi")


class Run(NamedTuple):
    server: str
    cpu: float  # microseconds per update
    updates: int
    frames: int


class Exchange:
    """Sends the next symbol's trade at an even pace, to whoever subscribed to it, or to `/everything`."""

    def __init__(self, names: list[str], rate: float) -> None:
        self._names, self._rate = names, rate
        self._frames = Frames(names)
        self._rest = Feeder(1.0, 1500)
        self._clients: dict[ServerConnection, set[str]] = {}
        self.address = ""

    async def handle(self, socket: ServerConnection) -> None:
        request = socket.request
        assert request is not None
        everything = request.path.startswith("/everything")
        streams = self._clients[socket] = {f"{name.lower()}@aggTrade" for name in self._names} if everything else set()
        try:
            async for text in socket:
                command = msgspec.json.decode(text, type=Command)
                if not everything:
                    streams |= set(command.params)
                await socket.send(f'{{"result":null,"id":{command.id}}}')
        except ConnectionClosed:
            pass
        finally:
            del self._clients[socket]

    def answer(self, socket: ServerConnection, request: Request) -> Response | None:
        return None if request.path.startswith("/everything") else self._rest.answer(socket, request)

    async def send(self) -> None:
        due, number = time.monotonic(), 0
        while True:
            due += 1 / self._rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            name = self._names[number % len(self._names)]
            number += 1
            if number % len(self._names) == 0:
                self._frames.next_round()
            frame, stream = self._frames.trade(name, now_ms()), f"{name.lower()}@aggTrade"
            for socket, streams in list(self._clients.items()):
                if stream in streams:
                    try:
                        await socket.send(frame)
                    except ConnectionClosed:
                        continue

    async def run(self, ready: threading.Event) -> None:
        async with serve(self.handle, "127.0.0.1", 0, process_request=self.answer, compression=None) as server:
            self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            ready.set()
            await self.send()


@contextmanager
def exchange(names: list[str], rate: float) -> Iterator[str]:
    """The address of an exchange that runs in a thread of this process until it ends."""
    running, ready = Exchange(names, rate), threading.Event()
    threading.Thread(target=lambda: asyncio.run(running.run(ready)), daemon=True).start()
    assert ready.wait(5)
    yield running.address


def measure(server: str, options: argparse.Namespace, cores: Cores, address: str) -> Run:
    names = symbols(options.symbols)
    core = cores.others if cores.server is None else [cores.server]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="topics-")))
        log = folder / "server.log"
        profile = options.profile and ["-m", "cProfile", "-o", str(options.profile / f"{server.split(',')[0]}.prof")]
        python = [sys.executable, *(profile or ()), "-m"]
        if server == "fastapi":
            upstream = f"ws://{address}/everything/stream"
            command = [*python, f"{__package__}.fastapi_fanout", "--upstream", upstream, "--limit", "120"]
            path = "/ws/binance/BTCUSDT/trades"
        else:
            config = folder / "config.toml"
            config.write_text(daemon_config(address, count=options.symbols))
            command = [*python, "daemon", "--config", str(config)]
            path = "/ws?batch_ms=50" if "batch" in server else "/ws"
        process = stack.enter_context(started(command, log, core))
        url = f"ws://{wait_for_address(process, log)}{path}"
        if server != "fastapi":
            time.sleep(6)  # connections are opened one a second
        client = stack.enter_context(connect(url, compression=None, max_queue=None, proxy=None))
        if server != "fastapi":
            topics = [f"binance:{name}:trades" for name in names]
            client.send(msgspec.json.encode({"op": "subscribe", "topics": topics}).decode())
        count(client, WARM_UP)
        before = read_cpu(process.pid, cores.server)
        updates, frames = count(client, options.seconds)
        after = read_cpu(process.pid, cores.server)
    if updates < 0.95 * options.rate * options.seconds:
        raise SystemExit(f"{server}: only {updates} updates came")
    cpu = after.user - before.user + after.system - before.system
    return Run(server, cpu * 1e6 / updates, updates, frames)


def count(client: ClientConnection, seconds: float) -> tuple[int, int]:
    """(updates, frames) that came within so many seconds."""
    updates = frames = 0
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            text = client.recv(timeout=left, decode=False)
        except TimeoutError:
            break
        frames += 1
        updates += text.count(b'"trade_id":')
    return updates, frames


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, default=100)
    parser.add_argument("--rate", type=float, default=400.0, help="updates per second, over all symbols")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each window")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", type=Path, metavar="DIR", help="run the servers under cProfile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    options = parser.parse_args()
    cores = choose_cores()
    if cores.server is not None:
        os.sched_setaffinity(0, cores.others)
    sys.stdout.write(f"{machine(cores)}\n")
    runs: list[Run] = []
    with exchange(symbols(options.symbols), options.rate) as address:
        for number in range(options.repeats):
            for server in SERVERS:
                runs.append(measure(server, options, cores, address))
                sys.stderr.write(f"{number + 1}/{options.repeats} {server}: {runs[-1].cpu:.1f} us\n")
    for server in SERVERS:
        mine = [run for run in runs if run.server == server]
        cpu, frames = median(run.cpu for run in mine), sum(run.frames for run in mine)
        updates = sum(run.updates for run in mine)
        sys.stdout.write(f"{server:<22} {cpu:>8.1f} us per update {frames / updates:>6.2f} frames per update\n")
    if options.json is not None:
        write_report(options.json, cores, runs=runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
