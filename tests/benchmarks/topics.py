"""One client that follows the trades of many symbols on one socket: the daemon's `/ws`, beside FastAPI.

400 trades a second over 100 symbols, from one simulated exchange. The peer is the application of `fastapi_fanout`: its
one socket is sent every trade that it is sent itself, and it checks no ids, numbers nothing and remembers nothing, nor
does it follow the marks and closed bars that the daemon is sent beside them, or poll open interest. CPU is the server
process's own; passes of the scheduler are counted in a further run, since counting costs CPU. Linux only.

    python -m tests.benchmarks.topics --symbols 100 --rate 400

To see where the time goes: `--profile DIR` runs the servers under cProfile, `--turns` says whose turns they were.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from . import passes
from .feeder import MINUTE, Command, Feeder, daemon_config, symbols
from .frames import Frames, now_ms
from .processes import Cores, choose_cores, cpu_seconds, machine, started, wait_for_address, write_report

WARM_UP = 3.0  # seconds
MARKS_EVERY = 10.0  # seconds for each symbol: often enough for a daemon that misses what should speak
SERVERS = ("marketd", "marketd, batch_ms=50", "fastapi")


class Run(NamedTuple):
    server: str
    cpu: float  # microseconds per update
    updates: int
    frames: int
    passes: int | None = None  # of the scheduler, where they were counted


class Exchange:
    """Sends the next symbol's trade at an even pace, to whoever subscribed to it, or to `/everything`."""

    def __init__(self, names: list[str], rate: float) -> None:
        self._names, self._rate = names, rate
        self._frames, self._in_turn = Frames(names), cycle(names)
        self._rest = Feeder(1.0, 1500)
        self._clients: dict[ServerConnection, set[str]] = {}
        self.address = self.rest_address = ""

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

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """REST, on connections that stay."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                status, body = self._rest.body(head.split(b" ", 2)[1].decode())
                writer.write(b"HTTP/1.1 %d .\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body)
        writer.close()

    async def send(self) -> None:
        """Trades, and what keeps a daemon from asking what is wrong: marks now and then, and closed bars."""
        due, number, opened = time.monotonic(), 0, now_ms() // MINUTE * MINUTE
        marked = due
        while True:
            due += 1 / self._rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            name = self._names[number % len(self._names)]
            number += 1
            if number % len(self._names) == 0:
                self._frames.next_round()
            at = now_ms()
            await self._tell(f"{name.lower()}@aggTrade", self._frames.trade(name, at))
            if due - marked > MARKS_EVERY / len(self._names):
                marked = due
                other = next(self._in_turn)
                await self._tell(f"{other.lower()}@markPrice@1s", self._frames.mark(other, at))
            if at // MINUTE * MINUTE > opened:
                for other in self._names:
                    await self._tell(f"{other.lower()}@kline_1m", self._frames.kline(other, opened, at, True))
                opened = at // MINUTE * MINUTE

    async def _tell(self, stream: str, frame: str) -> None:
        for socket, streams in list(self._clients.items()):
            if stream in streams:
                with suppress(ConnectionClosed):
                    await socket.send(frame)

    async def run(self, ready: threading.Event) -> None:
        rest = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        self.rest_address = f"127.0.0.1:{rest.sockets[0].getsockname()[1]}"
        async with serve(self.handle, "127.0.0.1", 0, compression=None) as server:
            self.address = f"127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            ready.set()
            await self.send()


@contextmanager
def exchange(names: list[str], rate: float) -> Iterator[Exchange]:
    """One that runs in a thread of this process until it ends."""
    running, ready = Exchange(names, rate), threading.Event()
    threading.Thread(target=lambda: asyncio.run(running.run(ready)), daemon=True).start()
    assert ready.wait(5)
    yield running


def measure(
    server: str, options: argparse.Namespace, cores: Cores, upstream: Exchange, *, counted: bool = False
) -> Run:
    names = symbols(options.symbols)
    core = cores.others if cores.server is None else [cores.server]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="topics-")))
        log = folder / "server.log"
        profile = options.profile and ["-m", "cProfile", "-o", str(options.profile / f"{server.split(',')[0]}.prof")]
        python = [sys.executable, *(profile or ()), "-m"]
        told = folder / "passes.json"
        if server == "fastapi":
            command = [*python, f"{__package__}.fastapi_fanout", "--limit", "120"]
            command += ["--upstream", f"ws://{upstream.address}/everything/stream"]
            path = "/ws/binance/BTCUSDT/trades"
        else:
            config = folder / "config.toml"
            config.write_text(daemon_config(upstream.rest_address, stream=upstream.address, count=options.symbols))
            program = [f"{__package__}.passes", str(told)] if counted else ["daemon"]
            command = [*python, *program, "--config", str(config)]
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
        first = passes.read(told) if counted else None
        before = cpu_seconds(process.pid)
        updates, frames = count(client, options.seconds)
        cpu = cpu_seconds(process.pid) - before
        if first is not None:
            since = passes.read(told).since(first)
            if options.turns:
                for name, turns in list(since.steps.items())[:12]:
                    sys.stdout.write(f"    {turns / updates:8.3f}  {name}\n")
    if updates < 0.95 * options.rate * options.seconds:
        raise SystemExit(f"{server}: only {updates} updates came")
    return Run(server, cpu * 1e6 / updates, updates, frames, since.passes if first is not None else None)


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
    parser.add_argument("--turns", action="store_true", help="turns of tasks per update, by the coroutine they run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    options = parser.parse_args()
    cores = choose_cores()
    if cores.server is not None:
        os.sched_setaffinity(0, cores.others)
    sys.stdout.write(f"{machine(cores)}\n")
    runs: list[Run] = []
    with exchange(symbols(options.symbols), options.rate) as upstream:
        for number in range(options.repeats):
            for server in SERVERS:
                runs.append(measure(server, options, cores, upstream))
                sys.stderr.write(f"{number + 1}/{options.repeats} {server}: {runs[-1].cpu:.1f} us\n")
        counted = {server: measure(server, options, cores, upstream, counted=True) for server in SERVERS[:2]}
    sys.stdout.write(f"{'':<22} us per update: least, median, most   per update: frames, passes of the scheduler\n")
    for server in SERVERS:
        mine = [run for run in runs if run.server == server]
        cpu, updates = [run.cpu for run in mine], sum(run.updates for run in mine)
        row = f"{server:<22} {min(cpu):>18.1f} {median(cpu):>7.1f} {max(cpu):>7.1f}"
        row += f" {sum(run.frames for run in mine) / updates:>18.2f}"
        if (run := counted.get(server)) is not None and run.passes is not None:
            row += f" {run.passes / run.updates:>7.2f}"
        sys.stdout.write(f"{row}\n")
    if options.json is not None:
        write_report(options.json, cores, runs=runs, counted=[*counted.values()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
