"""How many messages a second a server delivers before its p99 passes a quarter of a second: the daemon, and FastAPI.

    python -m tests.benchmarks.saturation [--clients 100] [--seconds 4] [--most 40000]

Linux only. The rate of trades is doubled until a server does not keep up (p99 over the limit, or under nine tenths of
what was sent arrives, twice), then what lies between is halved three times. Each measurement starts everything anew,
the servers in turns. Nothing else is the limit: the exchange writes what is due at once, and the clients' one process
counts bytes and reads the frames of four clients only. A server has one core, the rest share the others.
"""

import argparse
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from math import inf, sqrt
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from .clients import HANDSHAKE, Joined, Window, decode_trade
from .fanout import PATH, SETTLE, Server, server_command
from .feeder import age_of, now_us
from .processes import (
    START_WITHIN,
    STOP_WITHIN,
    Cores,
    Ended,
    choose_cores,
    cpu_seconds,
    hear,
    machine,
    say,
    sleep_until,
    started,
    wait_for_address,
    write_report,
)

LIMIT_MS = 250.0
ARRIVES = 0.9  # of what is sent, at least
PROBES = 4  # clients whose frames are read
HALVINGS = 3
TRIES = 2  # of a rate that is not kept up with
FIRST_RATE = 250.0
SERVERS: tuple[Server, ...] = ("marketd", "fastapi")


class Taken(msgspec.Struct, frozen=True):
    """What all clients got in a window; latencies in microseconds, of those that are read."""

    bytes: int
    frame_bytes: float  # of one, with its head
    trades: int  # that were sent, by their ids
    p50: float
    p99: float
    lost: int  # connections
    busy: float  # share of a core that the clients used


class Run(msgspec.Struct, frozen=True):
    server: Server
    rate: float  # trades a second
    per_second: float  # deliveries
    p99_ms: float
    cpu: float  # microseconds of the server per delivery
    busy: float  # the clients' share of a core
    keeps_up: bool
    is_fed: bool = True  # the exchange sent as many as it was meant to


class Gauge:
    """Many clients of one stream."""

    def __init__(self, url: str, clients: int) -> None:
        parts = urlsplit(url)
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._probes: dict[int, bytearray] = {}  # what came, but is not yet a whole frame
        self._ages: list[int] = []  # of what the four got, in microseconds
        self._ids: set[int] = set()
        self._measured = 0  # bytes of it
        self.lost = 0
        for number in range(clients):
            connection = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=10)
            connection.sendall(HANDSHAKE.format(parts.path, parts.netloc).encode())
            head = b""
            while not head.endswith(b"\r\n\r\n"):  # byte by byte: frames may follow at once
                head += connection.recv(1)
            connection.setblocking(False)
            self._sockets[connection.fileno()] = connection
            if number % max(1, clients // PROBES) == 0:
                self._probes[connection.fileno()] = bytearray()
            self._poll.register(connection, select.EPOLLIN)
        self._room = bytearray(1 << 20)

    def take(self, timeout: float) -> int:
        """How many bytes came."""
        taken = 0
        for number, _ in self._poll.poll(timeout):
            try:
                size = self._sockets[number].recv_into(self._room)
            except (BlockingIOError, ConnectionResetError):
                size = 0
            if not size:
                self._poll.unregister(number)
                self._sockets.pop(number).close()
                self.lost += 1
                continue
            taken += size
            if (rest := self._probes.get(number)) is not None:
                rest += memoryview(self._room)[:size]
                now, at = now_us(), 0
                while len(rest) - at >= 4:
                    length, begin = rest[at + 1], at + 2
                    if length == 126:
                        length, begin = int.from_bytes(rest[at + 2 : at + 4], "big"), at + 4
                    if len(rest) < begin + length:
                        break
                    if rest[at] == 0x81:
                        trade = decode_trade(rest[begin : begin + length])
                        self._ages.append(age_of(trade.price, now))
                        self._ids.add(trade.trade_id)
                        self._measured += begin + length - at
                    at = begin + length
                del rest[:at]
        return taken

    def measure(self, window: Window) -> Taken:
        while (left := window.start - now_us()) > 0:
            self.take(left / 1e6)
        taken, self._measured = 0, 0
        self._ages.clear()
        self._ids.clear()
        before = time.process_time()
        while (left := window.end - now_us()) > 0:
            taken += self.take(left / 1e6)
        busy = (time.process_time() - before) / ((window.end - window.start) / 1e6)
        ages, ids = sorted(self._ages), self._ids
        if not ages:
            return Taken(taken, 0.0, 0, inf, inf, self.lost, busy)
        trades = max(ids) - min(ids) + 1
        p50, p99 = ages[len(ages) // 2], ages[len(ages) * 99 // 100]
        return Taken(taken, self._measured / len(ages), trades, p50, p99, self.lost, round(busy, 3))


def gauge(url: str, clients: int) -> None:
    """The clients' process: told a window, answers what came in it."""
    running = Gauge(url, clients)
    sys.stdout.buffer.write(msgspec.json.encode(Joined(clients)) + b"\n")
    sys.stdout.buffer.flush()
    while not select.select([sys.stdin], [], [], 0)[0]:
        running.take(0.05)
    taken = running.measure(msgspec.json.decode(sys.stdin.buffer.readline(), type=Window))
    sys.stdout.buffer.write(msgspec.json.encode(taken) + b"\n")
    sys.stdout.buffer.flush()


def measure(server: Server, rate: float, options: argparse.Namespace, cores: Cores) -> Run:
    python, until = [sys.executable, "-m"], ["--limit", str(round(options.seconds + 4 * START_WITHIN))]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="saturation-")))
        feeder_log, server_log, clients_log = (folder / f"{name}.log" for name in ("feeder", server, "clients"))
        command = [*python, f"{__package__}.feeder", "--rate", str(rate), *until]
        feeder = stack.enter_context(started(command, feeder_log, cores.others))
        command = server_command(server, wait_for_address(feeder, feeder_log), folder, int(until[1]))
        process = stack.enter_context(
            started(command, server_log, cores.others if cores.server is None else [cores.server])
        )
        url = f"ws://{wait_for_address(process, server_log)}{PATH}"
        command = [*python, f"{__package__}.saturation", "--clients", str(options.clients), "--gauge", url, *until]
        crowd = stack.enter_context(started(command, clients_log, cores.others, stdin=subprocess.PIPE))
        hear(crowd, clients_log, Joined, START_WITHIN)
        begin = now_us() + round(SETTLE * 1e6)
        window = Window(begin, begin + round(options.seconds * 1e6))
        say(crowd, window)
        sleep_until(window.start)
        before = cpu_seconds(process.pid)
        sleep_until(window.end)
        cpu = cpu_seconds(process.pid) - before
        taken = hear(crowd, clients_log, Taken, STOP_WITHIN)
    delivered = taken.bytes / max(1.0, taken.frame_bytes)
    has_all = delivered >= ARRIVES * taken.trades * options.clients
    return Run(
        server=server,
        rate=taken.trades / options.seconds,
        per_second=delivered / options.seconds,
        p99_ms=taken.p99 / 1000,
        cpu=cpu * 1e6 / max(1.0, delivered),
        busy=taken.busy,
        keeps_up=taken.p99 / 1000 <= LIMIT_MS and not taken.lost and has_all,
        is_fed=taken.trades >= ARRIVES * rate * options.seconds,
    )


class Search:
    """The highest rate that a server keeps up with."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._failed = 0  # times in a row: other programs may have had the core
        self._most_kept, self._least_lost = 0.0, inf
        self._left = HALVINGS
        self._rate: float | None = None  # the last one

    def next_rate(self) -> float | None:
        """None: it is found, or lies above what is tried."""
        if self._failed:
            return self._rate
        self._rate = self._next()
        return self._rate

    def _next(self) -> float | None:
        if self._least_lost == inf:
            rate = 2 * self._most_kept or FIRST_RATE
            return rate if rate <= self._most else None
        if not self._left:
            return None
        self._left -= 1
        return sqrt(self._most_kept * self._least_lost) or self._least_lost / 2

    def learn(self, rate: float, run: Run) -> None:
        self._failed = 0 if run.keeps_up else self._failed + 1
        if run.keeps_up:
            self._most_kept = max(self._most_kept, rate)
            if not run.is_fed:
                self._least_lost, self._left = rate, 0
        elif self._failed == TRIES:
            self._failed, self._least_lost = 0, min(self._least_lost, rate)


def find(options: argparse.Namespace, cores: Cores) -> list[Run]:
    """The measurements of all servers, in turns."""
    runs: list[Run] = []
    searches = {server: Search(options.most) for server in SERVERS}
    while searches:
        for server, search in list(searches.items()):
            rate = search.next_rate()
            if rate is None:
                del searches[server]
                continue
            try:
                runs.append(measure(server, rate, options, cores))
            except Ended:  # or its clients: it has no time for their handshakes
                runs.append(Run(server, rate, 0.0, inf, 0.0, 0.0, keeps_up=False))
            search.learn(rate, runs[-1])
            sys.stderr.write(line(runs[-1]))
    return runs


def line(run: Run) -> str:
    keeps_up = ("" if run.is_fed else "  no more is sent") if run.keeps_up else "  does not keep up"
    return (
        f"{run.server:<8} {run.rate:>8.0f} trades/s {run.per_second:>10.0f} deliveries/s p99 {run.p99_ms:>7.1f} ms"
        f" {run.cpu:>6.2f} us each, clients {run.busy:>4.0%}{keeps_up}\n"
    )


def summary(runs: Sequence[Run]) -> str:
    kept = {server: [run for run in runs if run.server == server and run.keeps_up] for server in SERVERS}
    best = {server: max(mine, default=None, key=_rate) for server, mine in kept.items()}
    rows = [f"{'':<8} {'trades/s':>8} {'deliveries/s':>12} {'p99 ms':>7} {'us each':>8}\n"]
    for server, run in best.items():
        told = "none" if run is None else f"{run.rate:>8.0f} {run.per_second:>12.0f} {run.p99_ms:>7.1f} {run.cpu:>8.2f}"
        rows.append(f"{server:<8} {told}\n")
    ours, theirs = best["marketd"], best["fastapi"]
    if ours is not None and theirs is not None:
        rows.append(f"marketd delivers {ours.per_second / theirs.per_second:.1f} times as many\n")
    return "".join(rows)


def _rate(run: Run) -> float:
    return run.rate


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each window (default 4)")
    parser.add_argument("--most", type=float, default=40_000.0, help="trades a second that are tried")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    parser.add_argument("--gauge", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.gauge:
        signal.alarm(options.limit)
        gauge(options.gauge, options.clients)
        return 0
    cores = choose_cores()
    if cores.server is not None:
        os.sched_setaffinity(0, cores.others)
    sys.stdout.write(f"{machine(cores)}\n")
    sys.stdout.flush()
    runs = find(options, cores)
    sys.stdout.write(summary(runs))
    if options.json is not None:
        write_report(options.json, cores, runs=runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
