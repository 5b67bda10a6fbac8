"""What one delivered WebSocket message costs: the daemon, the same stream on FastAPI and uvicorn, and the floor.

    python -m pip install -e '.[dev,bench]'
    python -m tests.benchmarks.fanout [--clients 1,100,500] [--rate 50] [--seconds 10] [--repeats 3] [--json FILE]
    python -m tests.benchmarks.fanout --clients 500 --deaf 1      one of them, and one more that never reads
    python -m tests.benchmarks.fanout --clients 500 --rate 400    more than some can deliver: see `per second`

Linux only. Each run starts everything anew on loopback: a feeder that speaks Binance's wire (feeder.py), one server,
the clients in one process (clients.py). The server has one core to itself as far as this program is concerned, the rest
share the others. Runs of the servers alternate, so that the machine's moods meet all. The floor (floor.py) is a loop of
plain system calls that sends the same bytes and knows nothing. Reported per server and
number of clients, as medians over the repeats:

    us/msg    CPU time of the server process, user and system, per message that reached a client, everything included
    marginal  the same without what one client costs already: decoding, bookkeeping, timers
    spread    the lowest and the highest us/msg of the repeats
    system    the kernel's part of us/msg: what the bare write costs
    p50, p99  from the feeder's send to the client's receive
    msg/s     that reached a client: well below clients x rate, the server is overloaded
    lost      messages of the window that did not arrive within a second of its end, plus connections lost
    order     trades, from the start on, that did not follow the one before at the same client; ids are contiguous
    KiB/cl    resident memory per client beyond the first
    others    share of the server's core that went to somebody else: above a few percent, repeat the measurement
    client    share of a core that the client process used: near 100 % it measures itself

Where the time goes: `--profile DIR` runs the servers under cProfile and leaves one file per run there (the numbers are
then several times too high; read with `python -m pstats`). Without that distortion, while a long run is on (one with
`--seconds 60 --clients 500`): `py-spy record --native --rate 500 --duration 30 --pid PID -o fanout.svg`.
"""

import argparse
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from statistics import median
from typing import Literal, NoReturn
from urllib.parse import urlsplit

import msgspec

from .clients import DRAIN, HANDSHAKE, Joined, Result, Window
from .feeder import SYMBOL, daemon_config, now_us
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

PATH = f"/ws/binance/{SYMBOL}/trades"
MOST_CLIENTS, MOST_SECONDS = 2000, 600
SETTLE = 3.0  # seconds between the last client's arrival and the window

Server = Literal["marketd", "fastapi", "floor"]
SERVERS: tuple[Server, ...] = ("marketd", "fastapi", "floor")


class Options(msgspec.Struct, frozen=True):
    clients: list[int]
    rate: float
    seconds: float
    repeats: int
    deaf: int
    servers: list[Server]
    profile: Path | None
    limit: int  # seconds after which every helper process ends by itself


class Run(msgspec.Struct, frozen=True):
    """One measurement. CPU in microseconds per delivered message, memory in bytes, shares of one core."""

    server: Server
    clients: int
    cpu: float
    cpu_system: float
    memory_per_client: float | None  # None for one client
    others: float
    per_second: float
    result: Result


class Row(msgspec.Struct, frozen=True):
    """Medians over the repeats of one server and number of clients."""

    server: Server
    clients: int
    cpu: float
    cpu_marginal: float | None
    cpu_lowest: float
    cpu_highest: float
    cpu_system: float
    p50_ms: float
    p99_ms: float
    per_second: float
    delivered: int
    lost: int
    out_of_order: int
    memory_per_client_kib: float | None
    others: float
    client_busy: float


def server_command(
    server: Server, feeder: str, folder: Path, limit: int, profile: Path | None = None, archive: Path | None = None
) -> list[str]:
    python = [sys.executable, *(("-m", "cProfile", "-o", str(profile)) if profile else ()), "-m"]
    until = ["--limit", str(limit)]
    if server == "floor":
        return [*python, f"{__package__}.floor", "--upstream", feeder, *until]
    if server == "fastapi":
        return [*python, f"{__package__}.fastapi_fanout", "--upstream", f"ws://{feeder}/stream", *until]
    config = folder / "config.toml"
    config.write_text(daemon_config(feeder, archive=archive))
    return [*python, "daemon", "--config", str(config)]


def measure(
    server: Server,
    clients: int,
    number: int,
    options: Options,
    cores: Cores,
    *,
    archive: Path | None = None,
    beside: Callable[[str], AbstractContextManager[object]] = lambda address: nullcontext(),
) -> Run:
    """Start everything, let it settle, count over one window, stop everything.

    `beside` is what else goes on, from before the window to after it; it is given the server's host and port.
    """
    helper = [sys.executable, "-m"]
    limit = ["--limit", str(options.limit)]
    profile = options.profile / f"{server}-{clients}-{number}.prof" if options.profile else None
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fanout-")))
        feeder_log, server_log, clients_log = (folder / f"{name}.log" for name in ("feeder", server, "clients"))
        command = [*helper, f"{__package__}.feeder", "--rate", str(options.rate), *limit]
        feeder = stack.enter_context(started(command, feeder_log, cores.others))
        address = wait_for_address(feeder, feeder_log)
        command = server_command(server, address, folder, options.limit, profile, archive)
        served_by = stack.enter_context(
            started(command, server_log, cores.others if cores.server is None else [cores.server])
        )
        address = wait_for_address(served_by, server_log)
        url = f"ws://{address}{PATH}"
        command = [*helper, f"{__package__}.clients", "--url", url, "--clients", str(clients), *limit]
        crowd = stack.enter_context(started(command, clients_log, cores.others, stdin=subprocess.PIPE))

        hear(crowd, clients_log, Joined, START_WITHIN)
        before = read_memory(served_by.pid)
        stack.enter_context(beside(address))
        say(crowd, Joined(1))
        hear(crowd, clients_log, Joined, START_WITHIN)
        for _ in range(options.deaf):
            stack.enter_context(never_reading(url))
        begin = now_us() + round(SETTLE * 1e6)
        window = Window(begin, begin + round(options.seconds * 1e6))
        say(crowd, window)
        sleep_until(window.start)
        first = read_cpu(served_by.pid, cores.server)
        sleep_until(window.end)
        last = read_cpu(served_by.pid, cores.server)
        memory = read_memory(served_by.pid)
        result = hear(crowd, clients_log, Result, DRAIN / 1e6 + STOP_WITHIN)
    system = last.system - first.system
    cpu = last.user - first.user + system
    return Run(
        server=server,
        clients=clients,
        cpu=cpu * 1e6 / result.delivered,
        cpu_system=system * 1e6 / result.delivered,
        memory_per_client=(memory - before) / (clients - 1) if clients > 1 else None,
        others=max(0.0, last.core - first.core - cpu) / options.seconds,
        per_second=result.delivered / options.seconds,
        result=result,
    )


def never_reading(url: str) -> socket.socket:
    """A client that has little room in its kernel and never reads."""
    parts = urlsplit(url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((parts.hostname, parts.port))
    client.sendall(HANDSHAKE.format(parts.path, parts.netloc).encode())
    return client


def summarise(runs: Sequence[Run]) -> list[Row]:
    groups: dict[tuple[int, Server], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.clients, run.server), []).append(run)
    return [_row(group, groups.get((1, server))) for (_, server), group in sorted(groups.items())]


def _row(group: Sequence[Run], of_one: Sequence[Run] | None) -> Row:
    cpu, results = [run.cpu for run in group], [run.result for run in group]
    clients = group[0].clients
    memory = [run.memory_per_client for run in group if run.memory_per_client is not None]
    marginal = None
    if of_one and clients > 1:  # with one client, a message and a trade are the same
        marginal = (median(cpu) * clients - median(run.cpu for run in of_one)) / (clients - 1)
    return Row(
        server=group[0].server,
        clients=clients,
        cpu=median(cpu),
        cpu_marginal=marginal,
        cpu_lowest=min(cpu),
        cpu_highest=max(cpu),
        cpu_system=median(run.cpu_system for run in group),
        p50_ms=median(result.p50 for result in results) / 1000,
        p99_ms=median(result.p99 for result in results) / 1000,
        per_second=median(run.per_second for run in group),
        delivered=sum(result.delivered for result in results),
        lost=sum(max(0, result.expected - result.delivered) + result.closed for result in results),
        out_of_order=sum(result.out_of_order for result in results),
        memory_per_client_kib=median(memory) / 1024 if memory else None,
        others=max(run.others for run in group),
        client_busy=max(result.busy for result in results),
    )


HEAD = (
    f"{'clients':>7} {'server':<8} {'us/msg':>8} {'marginal':>8} {'spread':>15} {'system':>7}"
    f" {'p50 ms':>7} {'p99 ms':>7} {'msg/s':>7} {'delivered':>10}"
    f" {'lost':>5} {'order':>5} {'KiB/cl':>7} {'others':>6} {'client':>6}\n"
)


def line(row: Row) -> str:
    spread = f"{row.cpu_lowest:.1f}..{row.cpu_highest:.1f}"
    marginal = "-" if row.cpu_marginal is None else f"{row.cpu_marginal:.1f}"
    memory = "-" if row.memory_per_client_kib is None else f"{row.memory_per_client_kib:.0f}"
    return (
        f"{row.clients:>7} {row.server:<8} {row.cpu:>8.1f} {marginal:>8} {spread:>15} {row.cpu_system:>7.1f}"
        f" {row.p50_ms:>7.2f} {row.p99_ms:>7.2f} {row.per_second:>7.0f} {row.delivered:>10}"
        f" {row.lost:>5} {row.out_of_order:>5} {memory:>7} {row.others:>6.0%} {row.client_busy:>6.0%}\n"
    )


def main() -> int:
    file, options = parse(sys.argv[1:])
    cores = choose_cores()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, MOST_CLIENTS * 2 + 1000), most))
    signal.signal(signal.SIGTERM, _leave)  # so that what was started is stopped
    if cores.server is not None:
        os.sched_setaffinity(0, cores.others)
    if options.profile is not None:
        options.profile.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"{machine(cores)}\n")
    sys.stdout.flush()
    runs: list[Run] = []
    for number in range(options.repeats):
        for clients in options.clients:
            for server in options.servers:
                try:
                    run = measure(server, clients, number, options, cores)
                except Ended as error:
                    sys.stderr.write(f"{error}\n")
                    return 1
                runs.append(run)
                sys.stderr.write(f"{number + 1}/{options.repeats} {server} {clients}: {run.cpu:.1f} us/msg\n")
    rows = summarise(runs)
    sys.stdout.write(HEAD + "".join(map(line, rows)))
    if file is not None:
        write_report(file, cores, options=options, rows=rows, runs=runs)
    return 0


def _leave(*_: object) -> NoReturn:
    raise SystemExit(1)


def parse(arguments: Sequence[str]) -> tuple[Path | None, Options]:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.fanout",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--clients", default="1,100,500", help="numbers of clients, comma-separated (default 1,100,500)"
    )
    parser.add_argument("--rate", type=float, default=50.0, help="trades per second (default 50)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each window (default 10)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each combination (default 3)")
    parser.add_argument("--deaf", type=int, default=0, help="more clients, which never read (default 0)")
    parser.add_argument("--server", choices=SERVERS, help="only this one")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="run the servers under cProfile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    given = parser.parse_args(arguments)
    try:
        clients = sorted({int(text) for text in given.clients.split(",")})
    except ValueError:
        parser.error("--clients: numbers, separated by commas")
    if not 1 <= clients[0] <= clients[-1] <= MOST_CLIENTS:
        parser.error(f"--clients: from 1 to {MOST_CLIENTS}")
    if not (0 < given.seconds <= MOST_SECONDS and 1 <= given.repeats <= 20 and 1 <= given.rate <= 10_000):
        parser.error(f"--seconds up to {MOST_SECONDS}, --repeats 1 to 20, --rate 1 to 10000")
    return given.json, Options(
        clients=clients,
        rate=given.rate,
        seconds=given.seconds,
        repeats=given.repeats,
        deaf=given.deaf,
        servers=[given.server] if given.server else [*SERVERS],
        profile=given.profile,
        limit=round(given.seconds + 4 * START_WITHIN),
    )


if __name__ == "__main__":
    sys.exit(main())
