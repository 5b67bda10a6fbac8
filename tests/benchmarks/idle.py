"""What an idle WebSocket client costs, and what connecting thousands of them does to those that are being served.

    python -m pip install -e '.[dev,bench]'
    python -m tests.benchmarks.idle [--idle 5000] [--pace 500] [--repeats 3] [--json FILE]

Linux only; two file descriptors per idle client are needed. Each run starts everything anew on loopback: a feeder
(feeder.py, trades at 50/s), one server on a core of its own, and 100 clients of every trade (clients.py). Then as many
clients as asked for connect, so many a second, to a stream on which nothing happens. Medians over the repeats:

    KiB/idle  resident memory of the server per idle client, once all are connected
    us/conn   CPU of the server per connection, from accept to the end of the handshake, without the trades' share
    conn/s    as fast as the server took them: at most what was asked for
    p50, p99  of the 100 clients' trades before and while the others connect, from the feeder's send to the receive
    lost      trades that did not arrive, plus connections lost
"""

import argparse
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import msgspec

from .clients import DRAIN, HANDSHAKE, Joined, Result, Window
from .fanout import PATH, Server, server_command
from .feeder import SYMBOL, now_us
from .processes import (
    START_WITHIN,
    STOP_WITHIN,
    Cores,
    Ended,
    choose_cores,
    hear,
    machine,
    read_cpu,
    read_memory,
    say,
    sleep_until,
    started,
    wait_for_address,
    write_report,
)

IDLE_PATH = f"/ws/binance/{SYMBOL}/liquidations"
SERVERS: tuple[Server, ...] = ("marketd", "fastapi")
LISTENERS = 100
BASE_SECONDS = 4.0  # of trades before anybody else connects
BATCH = 20  # handshakes under way at a time
SETTLE = 1.0


class Run(msgspec.Struct, frozen=True):
    """One measurement: bytes, microseconds, milliseconds."""

    server: Server
    memory_per_client: float
    cpu_per_connect: float
    connects_per_second: float
    p50_before: float
    p99_before: float
    p50_while: float
    p99_while: float
    lost: int


def connect(address: str, count: int, pace: float) -> list[socket.socket]:
    """So many clients, their handshakes done, `pace` a second and a few at a time."""
    host, _, port = address.partition(":")
    request = HANDSHAKE.format(IDLE_PATH, address).encode()
    clients: list[socket.socket] = []
    start = time.monotonic()
    for begin in range(0, count, BATCH):
        time.sleep(max(0.0, start + begin / pace - time.monotonic()))
        batch = [socket.create_connection((host, int(port)), timeout=20) for _ in range(min(BATCH, count - begin))]
        for client in batch:
            client.sendall(request)
        for client in batch:
            if not client.recv(4096).startswith(b"HTTP/1.1 101 "):
                raise Ended("the server refused a client")
        clients += batch
    return clients


def listen(
    stack: ExitStack, address: str, folder: Path, name: str, limit: int, cores: Cores
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"{__package__}.clients", "--url", f"ws://{address}{PATH}"]
    command += ["--clients", str(LISTENERS), "--limit", str(limit)]
    log = folder / f"{name}.log"
    crowd = stack.enter_context(started(command, log, cores.others, stdin=subprocess.PIPE))
    hear(crowd, log, Joined, START_WITHIN)
    say(crowd, Joined(1))
    hear(crowd, log, Joined, START_WITHIN)
    return crowd


def measure(server: Server, options: argparse.Namespace, cores: Cores) -> Run:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="idle-")))
        feeder_log, log = folder / "feeder.log", folder / f"{server}.log"
        feed = [sys.executable, "-m", f"{__package__}.feeder", "--rate", "50", "--limit", str(options.limit)]
        feeder = stack.enter_context(started(feed, feeder_log, cores.others))
        command = server_command(server, wait_for_address(feeder, feeder_log), folder, options.limit)
        process = stack.enter_context(started(command, log, cores.others if cores.server is None else [cores.server]))
        address = wait_for_address(process, log)

        before = listen(stack, address, folder, "before", options.limit, cores)
        begin = now_us() + round(SETTLE * 1e6)
        window = Window(begin, begin + round(BASE_SECONDS * 1e6))
        say(before, window)
        sleep_until(window.start)
        first = read_cpu(process.pid, cores.server)
        sleep_until(window.end)
        last = read_cpu(process.pid, cores.server)
        share = (last.user + last.system - first.user - first.system) / BASE_SECONDS
        base = hear(before, folder / "before.log", Result, DRAIN / 1e6 + STOP_WITHIN)

        crowd = listen(stack, address, folder, "while", options.limit, cores)
        for client in connect(address, 50, options.pace):  # a warm-up: what is made once is made now
            client.close()
        time.sleep(SETTLE)
        memory = read_memory(process.pid)
        begin = now_us() + 200_000
        say(crowd, Window(begin, begin + round(options.idle / options.pace * 1e6)))
        sleep_until(begin)
        first, start = read_cpu(process.pid, cores.server), time.monotonic()
        clients = connect(address, options.idle, options.pace)
        last, took = read_cpu(process.pid, cores.server), time.monotonic() - start
        time.sleep(SETTLE)
        grown = read_memory(process.pid) - memory
        result = hear(crowd, folder / "while.log", Result, DRAIN / 1e6 + STOP_WITHIN)
        for client in clients:
            client.close()
    cpu = last.user + last.system - first.user - first.system - share * took
    return Run(
        server=server,
        memory_per_client=grown / options.idle,
        cpu_per_connect=cpu * 1e6 / options.idle,
        connects_per_second=options.idle / took,
        p50_before=base.p50 / 1000,
        p99_before=base.p99 / 1000,
        p50_while=result.p50 / 1000,
        p99_while=result.p99 / 1000,
        lost=max(0, result.expected - result.delivered) + result.closed,
    )


class Row(msgspec.Struct, frozen=True):
    """Medians over the repeats of one server."""

    server: Server
    memory_per_client_kib: float
    cpu_per_connect: float
    connects_per_second: float
    p50_before: float
    p99_before: float
    p50_while: float
    p99_while: float
    lost: int


def summarise(runs: Sequence[Run]) -> list[Row]:
    groups: dict[Server, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.server, []).append(run)
    return [
        Row(
            server=server,
            memory_per_client_kib=median(run.memory_per_client for run in group) / 1024,
            cpu_per_connect=median(run.cpu_per_connect for run in group),
            connects_per_second=median(run.connects_per_second for run in group),
            p50_before=median(run.p50_before for run in group),
            p99_before=median(run.p99_before for run in group),
            p50_while=median(run.p50_while for run in group),
            p99_while=median(run.p99_while for run in group),
            lost=sum(run.lost for run in group),
        )
        for server, group in groups.items()
    ]


HEAD = (
    f"{'server':<8} {'KiB/idle':>8} {'us/conn':>8} {'conn/s':>7} {'p50, p99 ms before':>19} {'while':>12} {'lost':>5}\n"
)


def line(row: Row) -> str:
    before, meanwhile = f"{row.p50_before:.2f} {row.p99_before:.2f}", f"{row.p50_while:.2f} {row.p99_while:.2f}"
    return (
        f"{row.server:<8} {row.memory_per_client_kib:>8.1f} {row.cpu_per_connect:>8.0f} {row.connects_per_second:>7.0f}"
        f" {before:>19} {meanwhile:>12} {row.lost:>5}\n"
    )


def main() -> int:
    options = parse(sys.argv[1:])
    cores = choose_cores()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # of the server, too
    if cores.server is not None:
        os.sched_setaffinity(0, cores.others)
    sys.stdout.write(f"{machine(cores)}\n")
    runs: list[Run] = []
    for number in range(options.repeats):
        for server in options.servers:
            try:
                run = measure(server, options, cores)
            except Ended as error:
                sys.stderr.write(f"{error}\n")
                return 1
            runs.append(run)
            kib = run.memory_per_client / 1024
            sys.stderr.write(f"{number + 1}/{options.repeats} {server}: {kib:.1f} KiB per idle client\n")
    rows = summarise(runs)
    sys.stdout.write(HEAD + "".join(map(line, rows)))
    if options.json is not None:
        write_report(options.json, cores, options=vars(options), rows=rows, runs=runs)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.idle",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--idle", type=int, default=5000, help="clients that nothing is sent to (default 5000)")
    parser.add_argument("--pace", type=float, default=500.0, help="of them per second (default 500)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each server (default 3)")
    parser.add_argument("--server", choices=SERVERS, help="only this one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    options = parser.parse_args(arguments)
    if not (100 <= options.idle <= 9000 and 10 <= options.pace <= 10_000 and 1 <= options.repeats <= 20):
        parser.error("--idle 100 to 9000, --pace 10 to 10000, --repeats 1 to 20")
    options.servers = [options.server] if options.server else [*SERVERS]
    options.limit = round(options.idle / options.pace * 3 + 120)
    return options


if __name__ == "__main__":
    sys.exit(main())
