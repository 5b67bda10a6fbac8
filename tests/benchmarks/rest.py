"""What a REST answer costs: the daemon, FastAPI and uvicorn that keep encoded answers for a second, and the floor.

    python -m pip install -e '.[dev,bench]'
    python -m tests.benchmarks.rest [--connections 8] [--seconds 5] [--repeats 3] [--json FILE]

Linux only. Each run starts everything anew on loopback: a feeder that speaks Binance's wire (feeder.py: 1500 minute
bars and four updates a second of the open one), one server on a core of its own, and here the clients on another:
connections that are kept alive, each with one request on its way. The servers alternate, so that the machine's moods
meet all.

    bars      500 bars from memory, 110 kB         bars.gz   the same for a client that takes gzip (the daemon alone)
    funding   one small object                     health    the state of every feed (the daemon alone)
    fresh     500 bars, no two requests alike: whatever is kept of a request's head helps nobody

Reported per server and route, as medians over the repeats, after a warm-up:

    us/req    CPU time of the server process, user and system, per answered request
    spread    the lowest and the highest us/req of the repeats
    system    the kernel's part of us/req
    p50, p99  from the request's send to the answer's last byte
    req/s     answered, with as many connections as there are

Where the time goes: `--profile DIR` runs the servers under cProfile (several times too slow; read with
`python -m pstats`). Without that distortion: `--seconds 60 --server marketd --route bars` and meanwhile
`py-spy record --native --rate 500 --duration 30 --pid PID -o rest.svg`.
"""

import argparse
import os
import select
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import msgspec

from .feeder import SYMBOL, daemon_config
from .processes import Cores, Ended, choose_cores, machine, read_cpu, started, wait_for_address, write_report

WARM_UP = 1.0  # seconds
READY_WITHIN = 20.0
BARS = f"/binance/ohlc/{SYMBOL}/1m?limit=500"
SERVERS = ("marketd", "fastapi", "floor")


class Route(msgspec.Struct, frozen=True):
    target: str
    headers: str = ""
    servers: tuple[str, ...] = SERVERS
    is_fresh: bool = False


ROUTES = {
    "bars": Route(BARS),
    "bars.gz": Route(BARS, "accept-encoding: gzip\r\n", ("marketd",)),
    "funding": Route(f"/binance/funding/{SYMBOL}"),
    "health": Route("/health", "", ("marketd",)),
    "fresh": Route(BARS, "x-request: {}\r\n", ("marketd", "fastapi"), is_fresh=True),
}


class Run(msgspec.Struct, frozen=True):
    """One measurement. Microseconds."""

    server: str
    route: str
    cpu: float
    cpu_system: float
    p50: float
    p99: float
    per_second: float
    bytes: int  # of one answer, head and body


class Row(msgspec.Struct, frozen=True):
    """Medians over the repeats of one server and route."""

    server: str
    route: str
    cpu: float
    cpu_lowest: float
    cpu_highest: float
    cpu_system: float
    p50_us: float
    p99_us: float
    per_second: float
    bytes: int


class Connection:
    """One kept-alive connection with at most one request on its way."""

    def __init__(self, address: str) -> None:
        host, _, port = address.partition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = 0.0
        self._left = -1  # bytes of the answer that have not come; -1 before its head
        self._size = 0

    def ask(self, request: bytes) -> None:
        self.sent = time.perf_counter()
        self.socket.send(request)

    def read(self) -> int:
        """The size of the answer if it is whole now, else 0. Raises ConnectionError for any but a 200."""
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the server hung up")
        if self._left < 0:
            if not data.startswith(b"HTTP/1.1 200"):
                raise ConnectionError(f"refused: {data[:300]!r}")
            end = data.index(b"\r\n\r\n") + 4
            length = data.lower().index(b"content-length:", 0, end) + 15
            self._size = end + int(data[length : data.index(b"\r", length)])
            self._left = self._size
        self._left -= len(data)
        if self._left:
            return 0
        self._left = -1
        return self._size


def ask_until(connections: Sequence[Connection], request: Callable[[], bytes], end: float) -> tuple[list[float], int]:
    """Keep every connection busy until `end`, then wait for the answers on their way; (latencies, bytes of one)."""
    poll = select.epoll()
    by_number = {connection.socket.fileno(): connection for connection in connections}
    latencies: list[float] = []
    size = waiting = 0
    for number, connection in by_number.items():
        poll.register(number, select.EPOLLIN)
        connection.ask(request())
        waiting += 1
    while waiting:
        ready = poll.poll(10)
        if not ready:
            raise ConnectionError("no answer within 10 s")
        for number, _ in ready:
            connection = by_number[number]
            if whole := connection.read():
                now = time.perf_counter()
                latencies.append(now - connection.sent)
                size = whole
                if now < end:
                    connection.ask(request())
                else:
                    waiting -= 1
    poll.close()
    return latencies, size


def requests(route: Route) -> Callable[[], bytes]:
    head = f"GET {route.target} HTTP/1.1\r\nhost: localhost\r\naccept: */*\r\n{route.headers}\r\n"
    if not route.is_fresh:
        request = head.encode()
        return lambda: request
    numbers = iter(range(10**9))
    return lambda: head.format(next(numbers)).encode()


def command(server: str, feeder: str, folder: Path, sizes: dict[str, int], options: argparse.Namespace) -> list[str]:
    profile = options.profile / f"{server}-{time.time_ns()}.prof" if options.profile else None
    python = [sys.executable, *(("-m", "cProfile", "-o", str(profile)) if profile else ()), "-m"]
    limit = ["--limit", str(options.limit)]
    if server == "marketd":
        config = folder / "config.toml"
        config.write_text(daemon_config(feeder))
        return [*python, "daemon", "--config", str(config)]
    if server == "fastapi":
        return [*python, f"{__package__}.fastapi_rest", "--upstream", feeder, *limit]
    answers = [f"--answer={ROUTES[name].target}={size}" for name, size in sizes.items()]
    return [*python, f"{__package__}.floor", *answers, *limit]


def wait_until_ready(address: str) -> None:
    """Until every route is answered with what it will be asked for: bars and funding take a moment to arrive."""
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        try:
            sizes = [ask_until([Connection(address)], requests(ROUTES[name]), 0.0)[1] for name in ("bars", "funding")]
        except ConnectionError:
            sizes = [0]
        if min(sizes) > 200 and max(sizes) > 50_000:
            return
        time.sleep(0.2)
    raise Ended("the server has no bars or no funding")


def measure(server: str, sizes: dict[str, int], options: argparse.Namespace, cores: Cores) -> list[Run]:
    """Start everything, warm up, count over one window per route, stop everything."""
    runs = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rest-")))
        feeder_log, log = folder / "feeder.log", folder / f"{server}.log"
        feed = [sys.executable, "-m", f"{__package__}.feeder", "--rate", "1", "--bars", "1500"]
        feeder = stack.enter_context(started([*feed, "--limit", str(options.limit)], feeder_log, cores.others))
        argv = command(server, wait_for_address(feeder, feeder_log), folder, sizes, options)
        process = stack.enter_context(started(argv, log, cores.others if cores.server is None else [cores.server]))
        address = wait_for_address(process, log)
        if server != "floor":
            wait_until_ready(address)
        for name in options.routes:
            route = ROUTES[name]
            if server not in route.servers:
                continue
            connections = [Connection(address) for _ in range(options.connections)]
            request = requests(route)
            ask_until(connections, request, time.perf_counter() + WARM_UP)
            # Servers may close a connection after so many requests: fresh ones for the window.
            connections = [Connection(address) for _ in range(options.connections)]
            before, began = read_cpu(process.pid, cores.server), time.perf_counter()
            latencies, size = ask_until(connections, request, began + options.seconds)
            after, took = read_cpu(process.pid, cores.server), time.perf_counter() - began
            for connection in connections:
                connection.socket.close()
            system = after.system - before.system
            count = len(latencies)
            latencies.sort()
            runs.append(
                Run(
                    server=server,
                    route=name,
                    cpu=(after.user - before.user + system) * 1e6 / count,
                    cpu_system=system * 1e6 / count,
                    p50=latencies[count // 2] * 1e6,
                    p99=latencies[count * 99 // 100] * 1e6,
                    per_second=count / took,
                    bytes=size,
                )
            )
            if server == "marketd":
                sizes[name] = size
    return runs


def summarise(runs: Sequence[Run]) -> list[Row]:
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.route, run.server), []).append(run)
    return [
        Row(
            server=server,
            route=route,
            cpu=median(run.cpu for run in group),
            cpu_lowest=min(run.cpu for run in group),
            cpu_highest=max(run.cpu for run in group),
            cpu_system=median(run.cpu_system for run in group),
            p50_us=median(run.p50 for run in group),
            p99_us=median(run.p99 for run in group),
            per_second=median(run.per_second for run in group),
            bytes=group[-1].bytes,
        )
        for (route, server), group in groups.items()
    ]


HEAD = (
    f"{'route':<8} {'server':<8} {'us/req':>8} {'spread':>15} {'system':>7}"
    f" {'p50 us':>7} {'p99 us':>7} {'req/s':>7} {'bytes':>7}\n"
)


def line(row: Row) -> str:
    spread = f"{row.cpu_lowest:.0f}..{row.cpu_highest:.0f}"
    return (
        f"{row.route:<8} {row.server:<8} {row.cpu:>8.0f} {spread:>15} {row.cpu_system:>7.0f}"
        f" {row.p50_us:>7.0f} {row.p99_us:>7.0f} {row.per_second:>7.0f} {row.bytes:>7}\n"
    )


def main() -> int:
    options = parse(sys.argv[1:])
    cores = choose_cores()
    if cores.server is not None:
        os.sched_setaffinity(0, cores.others)
    if options.profile is not None:
        options.profile.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"{machine(cores)}\n")
    runs: list[Run] = []
    sizes: dict[str, int] = {}
    for number in range(options.repeats):
        for server in options.servers:
            try:
                found = measure(server, sizes, options, cores)
            except Ended as error:
                sys.stderr.write(f"{error}\n")
                return 1
            runs += found
            said = ", ".join(f"{run.route} {run.cpu:.0f}" for run in found)
            sys.stderr.write(f"{number + 1}/{options.repeats} {server}: {said} us/req\n")
    rows = sorted(summarise(runs), key=lambda row: ([*ROUTES].index(row.route), SERVERS.index(row.server)))
    sys.stdout.write(HEAD + "".join(map(line, rows)))
    if options.json is not None:
        write_report(options.json, cores, options=vars(options), rows=rows, runs=runs)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.rest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--connections", type=int, default=8, help="kept alive, each with one request (default 8)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each window (default 5)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each server (default 3)")
    parser.add_argument("--server", choices=SERVERS, help="only this one")
    parser.add_argument("--route", choices=[*ROUTES], help="only this one")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="run the servers under cProfile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    options = parser.parse_args(arguments)
    if not (1 <= options.connections <= 200 and 0 < options.seconds <= 300 and 1 <= options.repeats <= 20):
        parser.error("--connections 1 to 200, --seconds up to 300, --repeats 1 to 20")
    options.servers = [options.server] if options.server else [*SERVERS]
    options.routes = [options.route] if options.route else [*ROUTES]
    options.limit = round(READY_WITHIN + len(options.routes) * (options.seconds + WARM_UP) + 90)
    return options


if __name__ == "__main__":
    sys.exit(main())
