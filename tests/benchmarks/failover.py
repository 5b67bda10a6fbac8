"""Daemons that stand in for each other, killed and frozen at random moments, and their server too: what clients heard.

Two daemons of role both follow the simulated exchanges, a real server is between them; or two of role ingest, and two
edges serve clients. A client stays on each node that serves and comes back with `since` when it is cut off; one hops
between them every 0.7 s. After each fault all must be well again
before the next. In the end what clients were told is compared with what happened, and with each other. As silence of
a fault the longest of any lane counts, at clients of nodes that went on: until its lease ended, until somebody led it
again, and until the client heard of it. Linux only.

    python -m tests.benchmarks.failover --faults 50 --server valkey --lease 1
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from importlib import import_module
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import msgspec
import trio
from coredis import Redis

from actors.engine.remote import open_engine
from actors.engine.words import LOG_SECONDS, Kept
from actors.exchanges.exchange import load_exchanges
from actors.simulation.assets import ASSETS
from actors.simulation.market import Clock, Market
from tests.actors.engine.servers import programs
from tests.benchmarks.heard import Heard, Ledger, follow
from tests.benchmarks.nodes import KeptServer, Leaders, Node, configuration
from tests.benchmarks.truth import Truth, bars_of

SUFFIX = {"binance": "USDT", "bybit": "USDT", "hyperliquid": "", "okx": "-USDT-SWAP"}
FORCED = ("bybit", "hyperliquid")  # those whose liquidations are known one by one
BARS = ("1m", "5m")
MINUTE = 60_000
OVER_ALL = ["all:large_trades", "all:liquidations"]
HOP = 0.7  # seconds between hops
SETTLED = 12.0  # seconds that the end waits for repairs
KINDS = {
    "leader killed": 5,
    "leader killed at a bar's end": 5,
    "leader frozen": 4,
    "warm node killed": 2,
    "warm node frozen": 2,
    "server frozen": 3,
    "server killed, AOF": 3,
    "server killed, nothing kept": 1,
    "server full": 1,
    "edge killed": 2,
    "edge frozen": 1,
    "leader frozen for longer than the log": 0,
    "warm node frozen for longer than the log": 0,
}
"""Faults by how often they are chosen, where there is such a node; 0: only where they are asked for."""
ROLES = {
    "pair": {"left": "both", "right": "both"},
    "edges": {"left": "ingest", "right": "ingest", "here": "edge", "there": "edge"},
}
NOWHERE = "http://127.0.0.1:9"  # where an edge would find its exchange, if it looked for it
FULL = 6.0  # seconds


class Fault(msgspec.Struct):
    """Seconds. `silence`: the longest of a lane. `freed`, `led`: of that lane, since the fault."""

    kind: str
    node: str
    silence: float
    lane: str
    freed: float | None
    led: float | None
    healthy: float  # until all was well again
    frames: dict[str, int]  # that the clients who stay were told meanwhile


class Trial:
    """`clients`: those that stay, by the node that serves them."""

    def __init__(
        self, nodes: list[Node], server: KeptServer, leaders: Leaders, lease: float, rng: random.Random
    ) -> None:
        self.nodes, self.server, self.leaders, self.lease, self.rng = nodes, server, leaders, lease, rng
        self.clients: dict[str, Heard] = {}
        self.faults: list[Fault] = []

    def leader(self) -> Node:
        return max(self.leading, key=lambda node: len(self.leaders.of(node.name)))

    def warm(self) -> Node:
        return next(node for node in self.leading if node is not self.leader())

    @property
    def leading(self) -> list[Node]:
        return [node for node in self.nodes if node.role != "edge"]

    @property
    def serving(self) -> list[Node]:
        return [node for node in self.nodes if node.role != "ingest"]

    async def kill(self, node: Node) -> None:
        node.kill()
        await trio.sleep(self.lease * self.rng.uniform(1.6, 2.5))
        node.start()

    async def freeze(self, node: Node, seconds: float) -> None:
        node.send(signal.SIGSTOP)
        await trio.sleep(seconds)
        node.send(signal.SIGCONT)

    async def freeze_server(self) -> None:
        self.server.send(signal.SIGSTOP)
        await trio.sleep(self.lease * self.rng.uniform(1.2, 3.0))
        self.server.send(signal.SIGCONT)

    async def kill_server(self, *, forget: bool) -> None:
        self.server.kill()
        if forget:
            self.server.forget()
        await trio.sleep(self.rng.uniform(0.0, 2.0))
        await trio.to_thread.run_sync(self.server.start)

    async def fill_server(self) -> None:
        async with Redis.from_url(self.server.url) as redis:
            await redis.config_set({"maxmemory": "1mb"})
            await trio.sleep(FULL)
            await redis.config_set({"maxmemory": "0"})

    async def provoke(self, kind: str, market: Market, http: httpx.AsyncClient) -> None:
        """One fault, until all is well again."""
        if "bar's end" in kind:
            now = market.clock.now()
            wait = (MINUTE - now % MINUTE) / 1000 / market.clock.rate + self.rng.uniform(-0.3, 0.3)
            await trio.sleep(max(0.0, wait))
        else:
            await trio.sleep(self.rng.uniform(0.0, 2.0))
        node: Node | None = None
        if kind.startswith("leader"):
            node = self.leader()
        elif kind.startswith("warm"):
            node = self.warm()
        elif kind.startswith("edge"):
            node = self.rng.choice(self.serving)
        acts: dict[str, Callable[[], Awaitable[None]]] = {
            "server frozen": self.freeze_server,
            "server full": self.fill_server,
            "server killed, AOF": partial(self.kill_server, forget=False),
            "server killed, nothing kept": partial(self.kill_server, forget=True),
        }
        began = trio.current_time()
        before = {name: heard.frames for name, heard in self.clients.items()}
        if node is not None:
            frozen = LOG_SECONDS + 5 if "log" in kind else self.lease * self.rng.uniform(1.4, 3.0)
            await (self.kill(node) if "killed" in kind else self.freeze(node, frozen))
        else:
            await acts[kind]()
        await self.settled(http)
        healthy = trio.current_time() - began
        hearing = [self.clients[one.name] for one in self.serving if one is not node]
        silence = max(
            (heard.silence(began, trio.current_time()) for heard in hearing), key=lambda one: one.ended - one.began
        )
        freed, led = self.leaders.course(silence.lane, began)
        self.leaders.changes.clear()
        name = node.name if node is not None else "server"
        frames = {name: heard.frames - before[name] for name, heard in self.clients.items()}
        self.faults.append(
            Fault(kind, name, round(silence.ended - silence.began, 2), silence.lane, freed, led, healthy, frames)
        )
        say(f"{len(self.faults)}. {msgspec.json.encode(self.faults[-1]).decode()}")

    async def settled(self, http: httpx.AsyncClient) -> None:
        """All nodes are well, every lane is led, every client is told something, and who does not lead has heard all
        of a lease."""
        for node in self.nodes:
            await node.healthy(http)
        with trio.fail_after(30):
            while not all(lane in self.leaders.tokens for lane in self.leaders.lanes):  # noqa: ASYNC110 (polled)
                await trio.sleep(0.05)
        before = {heard: heard.frames for heard in self.clients.values()}
        with trio.fail_after(30):
            while any(heard.frames == frames for heard, frames in before.items()):  # noqa: ASYNC110 (polled)
                await trio.sleep(0.05)
        await trio.sleep(self.lease + 0.5)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def draw(count: int, only: str, topology: str, rng: random.Random) -> list[str]:
    """So many kinds, each as often as its share, in random order."""
    kinds = {
        kind: share for kind, share in KINDS.items() if only in kind and ("edge" not in kind or topology == "edges")
    }
    deck = [kind for kind, share in kinds.items() for _ in range(share if any(kinds.values()) else 1)]
    found: list[str] = []
    while len(found) < count:
        found += rng.sample(deck, len(deck))
    return found[:count]


async def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    rng = random.Random(options.seed)
    names = options.exchanges.split(",")
    coins = options.coins.split(",")
    symbols = {name: [f"{coin}{SUFFIX[name]}" for coin in coins] for name in names}
    topics = [
        f"{name}:{symbol}:{kind}"
        for name in names
        for symbol in symbols[name]
        for kind in ("trades", "large_trades", *(f"ohlc:{bar}" for bar in BARS), "liquidations", "funding", "oi")
        if kind != "liquidations" or name in FORCED
    ]
    topics += OVER_ALL
    exchanges = load_exchanges()
    report: dict[str, Any] = {}
    async with trio.open_nursery() as nursery:
        assets = tuple(asset for asset in ASSETS if asset.name in coins)
        market = Market(seed=options.seed, assets=assets, clock=Clock(rate=options.rate))
        sims = {}
        for name in names:
            sims[name] = await nursery.start(partial(import_module(f"actors.exchanges.{name}.simulator").serve, market))
        truths = {(name, coin): Truth(name, market.tapes[coin]) for name in names for coin in coins}
        for truth in truths.values():
            nursery.start_soon(truth.collect)
        (folder / "server").mkdir()
        server = KeptServer(options.server, folder / "server")
        await trio.to_thread.run_sync(server.start)
        nodes = []
        for name, role in ROLES[options.topology].items():
            engine = {"url": server.url, "role": role, "name": name}
            engine |= {"lease_seconds": options.lease, "lanes": options.lanes}
            urls = {one: (sim.rest_url, sim.ws_url) for one, sim in sims.items()}
            if role == "edge":
                urls = {one: (NOWHERE, NOWHERE.replace("http", "ws")) for one in sims}
            nodes.append(Node(name, role, folder, configuration(urls, symbols, BARS, engine, list(exchanges))))
        try:
            for node in nodes:
                node.start()
            lanes = [f"{name}.{number}" for name in names for number in range(options.lanes)]
            async with (
                open_engine(server.url, "marketd", Kept(), patience=0.5) as engine_client,
                httpx.AsyncClient(timeout=2.0, trust_env=False) as http,
            ):
                leaders = Leaders(engine_client, lanes)
                trial = Trial(nodes, server, leaders, options.lease, rng)
                async with trio.open_nursery() as clients:
                    clients.start_soon(leaders.watch)
                    await trial.settled(http)
                    ledger = Ledger()
                    trial.clients = {node.name: Heard(node.name, ledger, options.lanes) for node in trial.serving}
                    for node in trial.serving:
                        clients.start_soon(follow, lambda url=node.url: url, topics, trial.clients[node.name])
                    hopper, hops = Heard("hopper", ledger, options.lanes), cycle(trial.serving)
                    clients.start_soon(follow, lambda: next(hops).url, topics, hopper, HOP)
                    await trio.sleep(3)
                    began = time.monotonic()
                    for kind in draw(options.faults, options.only, options.topology, rng):
                        await trial.provoke(kind, market, http)
                    await trio.sleep(SETTLED)
                    clients.cancel_scope.cancel()
                for truth in truths.values():
                    truth.look()
                everybody = [*trial.clients.values(), hopper]
                for name in names:
                    for coin, symbol in zip(coins, symbols[name], strict=True):
                        bars = await bars_of(exchanges[name], sims[name], symbol, market, BARS)
                        for topic in topics:
                            if topic.startswith(f"{name}:{symbol}:"):
                                for heard in everybody:
                                    heard.compare(topic, truths[name, coin], bars)
                for heard in everybody:
                    heard.compare_all("all:large_trades")
                report = summary(trial.faults, everybody, ledger, time.monotonic() - began, options)
        finally:
            for node in nodes:
                node.kill()
            server.kill()
        nursery.cancel_scope.cancel()
    return report


def summary(
    faults: list[Fault], everybody: list[Heard], ledger: Ledger, seconds: float, options: argparse.Namespace
) -> dict[str, Any]:
    kinds: dict[str, Any] = {}
    for kind in KINDS:
        found = sorted((fault for fault in faults if fault.kind == kind), key=lambda fault: fault.silence)
        if found:
            silences = [fault.silence for fault in found]
            late = sum(silence > 1.25 * options.lease for silence in silences)
            worst = msgspec.to_builtins(found[-1])
            kinds[kind] = {"count": len(found), "median": median(silences), "longest": worst, "over_1.25_leases": late}
    totals: Counter[str] = Counter()
    for heard in everybody:
        totals.update(heard.faults)
    return {
        "topology": options.topology,
        "server": options.server,
        "lease": options.lease,
        "faults": len(faults),
        "seconds": round(seconds),
        "events": ledger.numbers,
        "events_per_second": round(ledger.numbers / seconds),
        "frames": {heard.name: heard.frames for heard in everybody},
        "bars_closed": {heard.name: sum(map(len, heard.closed.values())) for heard in everybody},
        "hung": {heard.name: heard.hung for heard in everybody},
        "began_anew": {heard.name: heard.began_anew for heard in everybody},
        "gaps": {heard.name: sum(map(len, heard.gaps.values())) for heard in everybody},
        "states": {heard.name: dict(heard.states.most_common(6)) for heard in everybody},
        "silence": kinds,
        "wrong": {heard.name: dict(heard.faults) for heard in everybody},
        "is_clean": not any(count for kind, count in totals.items() if not kind.endswith("_announced")),
        "notes": [note for heard in everybody for note in heard.notes],
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--topology", choices=sorted(ROLES), default="pair")
    parser.add_argument("--server", choices=sorted(programs()), default="valkey")
    parser.add_argument("--lease", type=float, default=1.0, help="seconds")
    parser.add_argument("--lanes", type=int, default=4, help="of each exchange")
    parser.add_argument("--exchanges", default="binance,bybit,hyperliquid")
    parser.add_argument("--coins", default="BTC,ETH,SOL")
    parser.add_argument("--rate", type=float, default=10.0, help="market seconds per second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="kinds of faults whose name holds this")
    parser.add_argument("--keep", type=Path, help="a folder for what the daemons log")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    for number in (signal.SIGINT, signal.SIGTERM):  # nothing that was started may be left behind
        signal.signal(number, signal.default_int_handler)
    say(f"load of the machine {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="marketd-failover-") as folder:
        report = trio.run(run, options, options.keep or Path(folder))
    say(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    return 0 if report["is_clean"] else 1


if __name__ == "__main__":
    sys.exit(main())
