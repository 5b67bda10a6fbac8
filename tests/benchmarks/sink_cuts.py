"""Two nodes that are killed and stopped under load, each with a sink, and what a consumer then reads there.

    python -m tests.benchmarks.sink_cuts [--cuts 10] [--role both|ingest] [--rate 5] [--seed 1]

Linux only. A Valkey, a Kafka-compatible broker, simulators of two exchanges and daemons as processes; with role ingest
an edge serves the client. Each cut is a `kill -9` or a SIGTERM of one of the two in turns, which is then started again.
In the end everything that clients were told must be in Kafka, the same in each field, in order for whoever leaves out
what is not above the last number, and without a hole. Exit code 1 where it is not.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import trio
import trio_websocket

from actors.exchanges.binance import simulator as binance
from actors.exchanges.bybit import simulator as bybit
from actors.exchanges.exchange import load_exchanges
from actors.simulation.market import Clock, Market
from tests.actors.engine import servers
from tests.actors.sinks import brokers
from tests.daemon.fixtures import TWO, Stream

from .nodes import Node, configuration

SYMBOLS = {"binance": ["BTCUSDT", "ETHUSDT"], "bybit": ["BTCUSDT", "ETHUSDT"]}
KINDS = ("trades", "ohlc:1m", "liquidations")
NAMES = [f"{name}:{symbol}:{kind}" for name, symbols in SYMBOLS.items() for symbol in symbols for kind in KINDS]
INTO = ("marketd-trades", "marketd-ohlc", "marketd-liquidations")

AGAIN = 0.1  # seconds
SETTLED = 4.0  # seconds after the last cut

Identity = tuple[str, str, int]


class Clients:
    """One client per node that serves, which comes back whenever its node does; what all of them were told."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []

    async def follow(self, node: Node) -> None:
        while True:
            stream = Stream()
            self.streams.append(stream)
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(stream.run, f"{node.url}/ws", {}, ())
                    await stream.say({"op": "subscribe", "topics": NAMES})
                    while stream.closed is None:  # noqa: ASYNC110 (no event)
                        await trio.sleep(AGAIN)
                    nursery.cancel_scope.cancel()
            except* (OSError, trio_websocket.HandshakeError, trio_websocket.ConnectionClosed):
                await trio.sleep(AGAIN)  # it is not there just now

    @property
    def told(self) -> dict[Identity, Any]:
        found: dict[Identity, Any] = {}
        for stream in self.streams:
            for frame in stream.frames:
                if "seq" in frame:
                    assert found.setdefault(identity(frame), frame) == frame, "one number is two events"
        return found


def identity(row: Any) -> Identity:
    return row["topic"], row["epoch"], row["seq"]


def compare(told: Mapping[Identity, Any], rows: Sequence[Any]) -> bool:
    """Say how what clients were told and what is in Kafka differ; whether that is nothing."""
    written: dict[Identity, Any] = {}
    last: dict[tuple[str, str], int] = {}
    repeated = different = holes = 0
    for row in rows:
        if "seq" not in row:
            sys.stdout.write(f"gap of {row['topic']} from {row['from']} to {row['to']}: {row['reason']}\n")
            continue
        before = written.setdefault(identity(row), row)
        repeated += before is not row
        different += before != row
        topic = row["topic"], row["epoch"]
        if row["seq"] > last.get(topic, 0):
            holes += row["seq"] != last.get(topic, row["seq"] - 1) + 1
            last[topic] = row["seq"]
    missing = [one for one in told if one not in written]
    different += sum(written[one] != frame for one, frame in told.items() if one in written)
    sys.stdout.write(
        f"told {len(told)}, rows {len(rows)} of which {repeated} repeat another: "
        f"missing {len(missing)}, different {different}, holes {holes}\n"
    )
    return bool(told) and not (missing or different or holes)


async def measure(options: argparse.Namespace) -> bool:
    rng, clients = random.Random(options.seed), Clients()
    with (
        tempfile.TemporaryDirectory(prefix="sink-cuts-") as folder,
        servers.running("valkey", "--appendonly", "yes") as server,
        brokers.running() as broker,
    ):
        async with trio.open_nursery() as nursery, httpx.AsyncClient() as http:
            market = Market(assets=TWO, clock=Clock(int(time.time() * 1000), rate=options.rate))
            sims = [await nursery.start(partial(module.serve, market)) for module in (binance, bybit)]
            urls = {name: (sim.rest_url, sim.ws_url) for name, sim in zip(SYMBOLS, sims, strict=True)}
            nodes = []
            for name, role in (("a", options.role), ("b", options.role), *([("e", "edge")] * (options.role != "both"))):
                engine = {"url": server.url, "role": role, "name": name, "lease_seconds": 1.0, "lanes": 2}
                text = configuration(urls, SYMBOLS, ["1m"], engine, list(load_exchanges()))
                topics = '["*:*:trades", "*:*:ohlc:1m", "all:liquidations"]'
                text += f'[[sink]]\nkind = "kafka"\nurl = "{broker.url}"\ntopics = {topics}\n'
                nodes.append(Node(name, role, Path(folder), text))
            try:
                for node in nodes:
                    node.start()
                for node in nodes:
                    await node.healthy(http)
                    if node.role != "ingest":
                        nursery.start_soon(clients.follow, node)
                for number in range(options.cuts):
                    await trio.sleep(rng.uniform(2, 4))
                    await cut(nodes[number % 2], rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
                    await trio.sleep(rng.uniform(1.5, 3))
                    nodes[number % 2].start()
                    await nodes[number % 2].healthy(http)
                await trio.sleep(SETTLED)
                for node in nodes:
                    await cut(node, signal.SIGTERM)
            finally:
                for node in nodes:
                    node.kill()
            nursery.cancel_scope.cancel()
        rows = []
        for name in INTO:
            for key, value in await trio.to_thread.run_sync(brokers.consumed, broker.address, name):
                rows.append(msgspec.json.decode(value))
                assert rows[-1]["topic"] == key.decode()
        return compare(clients.told, rows)


async def cut(node: Node, number: signal.Signals) -> None:
    sys.stderr.write(f"{number.name} to {node.name}\n")
    node.send(number)
    while node.ended() is None:  # noqa: ASYNC110 (no event)
        await trio.sleep(AGAIN)
    node.kill()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.sink_cuts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cuts", type=int, default=10, help="how many (default 10)")
    parser.add_argument("--role", choices=["both", "ingest"], default="both", help="of the two (default both)")
    parser.add_argument("--rate", type=float, default=5.0, help="seconds of the market in one second (default 5)")
    parser.add_argument("--seed", type=int, default=1, help="of the cuts (default 1)")
    return 0 if trio.run(measure, parser.parse_args()) else 1


if __name__ == "__main__":
    sys.exit(main())
