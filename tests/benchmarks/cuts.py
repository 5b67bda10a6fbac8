"""Connections cut again and again around the ends of bars, and what readers were told all the while.

The daemon runs as a process of its own against every simulated exchange on one fast market. Each exchange's
connections are reset at a random moment around each end of a minute. One client stays on `/ws`, another vanishes and
comes back with `since` all the time. In the end what they were told is compared with what happened, and with each
other: closed bars missing or twice, trades and liquidations neither told nor announced as lost, holes and repetitions.
Linux only.

    python -m tests.benchmarks.cuts --cuts 100
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import msgspec
import trio
import trio_websocket

from actors.events import from_ms
from actors.exchanges.exchange import load_exchanges
from actors.simulation.assets import ASSETS
from actors.simulation.market import Clock, Market
from actors.simulation.server import Simulator
from tests.benchmarks.processes import choose_cores, machine, started, wait_for_address
from tests.benchmarks.truth import Truth, bars_of, is_covered, time_of

BARS = ("1m", "5m")
SYMBOLS = {"binance": "BTCUSDT", "bybit": "BTCUSDT", "hyperliquid": "BTC", "okx": "BTC-USDT-SWAP"}
FORCED = ("bybit", "hyperliquid")  # those whose liquidations are known one by one: the others tell some of each second
SETTLE = 12.0  # seconds after the last cut, in which everything must have been repaired
MINUTE = 60_000

Json = dict[str, Any]


class Report(msgspec.Struct):
    """Every count but the first five is to be zero."""

    cuts: dict[str, int]
    returns: int  # of the client that vanished
    bars_closed: int
    trades_told: int
    losses_announced: int  # trades and liquidations in ranges that were said to be lost
    bars_missing: int = 0
    bars_twice: int = 0
    bars_wrong: int = 0
    trades_twice: int = 0
    losses_unannounced: int = 0
    returned_differently: int = 0  # events that the two clients were not told alike
    resumes_refused: int = 0
    notes: list[str] = []

    @property
    def is_clean(self) -> bool:
        return not any(
            (
                *(self.bars_missing, self.bars_twice, self.bars_wrong, self.trades_twice),
                *(self.losses_unannounced, self.returned_differently, self.resumes_refused),
            )
        )


class Told:
    """All that one client was told, by topic."""

    def __init__(self) -> None:
        self.events: defaultdict[str, list[Json]] = defaultdict(list)  # those that came live, numbered
        self.gaps: defaultdict[str, list[Json]] = defaultdict(list)
        self.begun: dict[str, int] = {}  # the number of the present that it was told first
        self.positions: dict[str, Json] = {}
        self.refused = 0

    def take(self, frame: Json) -> None:
        topic: str = frame.get("topic", "")
        if frame["type"] == "gap":
            self.gaps[topic].append(frame)
            self.refused += frame["reason"] == "resume_too_old"
        elif "seq" in frame:
            if topic in self.begun:
                self.events[topic].append(frame)
            else:
                self.begun[topic] = frame["seq"]
                # Topics of moments begin with their first event, the others with their present.
                if frame["type"] in ("trade", "liquidation"):
                    self.begun[topic] -= 1
                    self.events[topic].append(frame)
            self.positions[topic] = {"epoch": frame["epoch"], "seq": frame["seq"]}


def topics() -> list[str]:
    names = [f"{exchange}:{symbol}:ohlc:{bar}" for exchange, symbol in SYMBOLS.items() for bar in BARS]
    names += [f"{exchange}:{symbol}:trades" for exchange, symbol in SYMBOLS.items()]
    return [*names, *(f"{exchange}:{SYMBOLS[exchange]}:liquidations" for exchange in FORCED)]


async def follow(url: str, told: Told, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Subscribe, from where the client was where it was there before, and take what comes."""
    async with trio_websocket.open_websocket_url(f"{url}/ws", message_queue_size=10_000) as socket:
        command = {"op": "subscribe", "topics": topics(), "since": told.positions}
        await socket.send_message(msgspec.json.encode(command).decode())
        while True:
            frame = msgspec.json.decode(await socket.get_message())
            if frame["type"] == "ack":
                task_status.started()
            told.take(frame)


async def come_and_go(url: str, told: Told, rng: random.Random, returns: list[int]) -> None:
    """Vanish without a word and come back, for ever."""
    while True:
        with trio.move_on_after(rng.uniform(0.2, 3.0)):
            await follow(url, told)
        returns[0] += 1
        await trio.sleep(rng.uniform(0.0, 1.5))


async def cut(sim: Simulator, count: int, rate: float, rng: random.Random, done: dict[str, int], name: str) -> None:
    """Reset the exchange's connections once around each end of a minute."""
    clock = sim.market.clock
    for _ in range(count):
        now = clock.now()
        at = now - now % MINUTE + MINUTE + rng.randrange(-4_000, 6_000)
        await trio.sleep(max(0.0, (at - now) / 1000 / rate))
        sim.drop()
        done[name] += 1
        now = clock.now()
        await trio.sleep((MINUTE // 2 - (now - at)) / 1000 / rate if now - at < MINUTE // 2 else 0)


# --- what is to be compared


def compare_bars(told: Told, topic: str, rows: list[Json], report: Report) -> None:
    """`rows`: the exchange's own bars, from before the first told one until after the last."""
    closed = [event for event in told.events[topic] if event["is_closed"]]
    times = Counter(event["timestamp"] for event in closed)
    report.bars_closed += len(times)
    report.bars_twice += sum(count - 1 for count in times.values())
    if not closed:
        report.bars_missing += 1
        report.notes.append(f"{topic}: no bar was closed at all")
        return
    first, last = closed[0]["timestamp"], closed[-1]["timestamp"]
    by_time = {row["timestamp"]: row for row in rows}
    for at in by_time:
        if first <= at <= last and at not in times and not is_covered(time_of({"timestamp": at}), told.gaps[topic]):
            report.bars_missing += 1
            report.notes.append(f"{topic}: the bar of {at} was never closed")
    for event in closed:
        row = by_time.get(event["timestamp"])
        if row is None or any(event[key] != value for key, value in row.items()):
            report.bars_wrong += 1
            report.notes.append(f"{topic}: {event} is {row} at the exchange")
    if [event["timestamp"] for event in closed] != sorted(times):
        report.notes.append(f"{topic}: bars closed out of order")
        report.bars_wrong += 1


def compare_trades(told: Told, topic: str, truth: dict[Any, int], report: Report) -> None:
    events = told.events[topic]
    ids = Counter(event["trade_id"] for event in events)
    report.trades_told += len(ids)
    report.trades_twice += sum(count - 1 for count in ids.values())
    first, last = time_of(events[0]), time_of(events[-1])
    for id, at in truth.items():
        if first < at < last and id not in ids:
            if is_covered(at, told.gaps[topic]):
                report.losses_announced += 1
            else:
                report.losses_unannounced += 1
                report.notes.append(f"{topic}: trade {id} of {from_ms(at)} is missing")


def compare_liquidations(told: Told, topic: str, truth: list[int], until: int, report: Report) -> None:
    events = told.events[topic]
    heard = Counter(map(time_of, events))
    for at, count in Counter(truth).items():
        if events and time_of(events[0]) < at < until and heard[at] != count:
            if is_covered(at, told.gaps[topic]):
                report.losses_announced += 1
            else:
                report.losses_unannounced += 1
                report.notes.append(f"{topic}: {heard[at]} of {count} liquidations of {from_ms(at)} were told")


def compare_clients(stayed: Told, returned: Told, report: Report) -> None:
    """Whoever came back was told what whoever stayed was told, and nothing twice."""
    for topic, events in returned.events.items():
        numbers = [event["seq"] for event in events]
        if numbers != list(range(returned.begun[topic] + 1, returned.begun[topic] + 1 + len(numbers))):
            report.returned_differently += 1
            report.notes.append(f"{topic}: the numbers have holes or repeat")
        known = {event["seq"]: event for event in stayed.events[topic]}
        differing = [event for event in events if event["seq"] in known and known[event["seq"]] != event]
        report.returned_differently += len(differing)
        report.notes += [f"{topic}: {event} is not what the other was told" for event in differing[:3]]
        if events and stayed.events[topic] and events[-1]["seq"] < stayed.events[topic][-1]["seq"] - 50:
            report.returned_differently += 1
            report.notes.append(f"{topic}: the client that came back is behind")


# --- the run


async def run(cuts: int, rate: float, seed: int, cores: tuple[list[int], list[int]]) -> Report:
    """`rate`: market seconds per second. `cores`: the daemon's, and everybody else's."""
    rng = random.Random(seed)
    report = Report(dict.fromkeys(SYMBOLS, 0), 0, 0, 0, 0)
    exchanges = load_exchanges()
    assets = tuple(asset for asset in ASSETS if asset.name == "BTC")
    with tempfile.TemporaryDirectory() as folder:
        async with trio.open_nursery() as nursery:
            market = Market(seed=seed, assets=assets, clock=Clock(rate=rate))
            truths = {name: Truth(name, market.tapes["BTC"]) for name in SYMBOLS}
            sims = {}
            for name in SYMBOLS:
                sims[name] = await nursery.start(
                    partial(import_module(f"actors.exchanges.{name}.simulator").serve, market)
                )
            for truth in truths.values():
                nursery.start_soon(truth.collect)
            config, log = Path(folder) / "config.toml", Path(folder) / "marketd.log"
            config.write_text(configuration(sims))
            command = [sys.executable, "-m", "daemon", "--config", str(config), "--port", "0"]
            with started(command, log, cores[0]) as daemon:
                address = await trio.to_thread.run_sync(wait_for_address, daemon, log)
                await until_live(f"http://{address}")
                stayed, returned, returns = Told(), Told(), [0]
                url = f"ws://{address}"
                await nursery.start(follow, url, stayed)
                await trio.sleep(1)  # both begin while nothing is amiss
                async with trio.open_nursery() as coming:
                    coming.start_soon(come_and_go, url, returned, random.Random(rng.random()), returns)
                    async with trio.open_nursery() as cutting:
                        for name, sim in sims.items():
                            own = random.Random(rng.random())
                            cutting.start_soon(cut, sim, cuts, rate, own, report.cuts, name)
                    await trio.sleep(SETTLE)
                    coming.cancel_scope.cancel()
                with trio.move_on_after(2.0):
                    await follow(url, returned)  # once more, to hear the rest
                report.returns = returns[0]
                until = market.now - 5_000
                for name, symbol in SYMBOLS.items():
                    rows = await bars_of(exchanges[name], sims[name], symbol, market, BARS)
                    for bar in BARS:
                        compare_bars(stayed, f"{name}:{symbol}:ohlc:{bar}", rows[bar], report)
                    compare_trades(stayed, f"{name}:{symbol}:trades", truths[name].trades, report)
                for name in FORCED:
                    topic = f"{name}:{SYMBOLS[name]}:liquidations"
                    compare_liquidations(stayed, topic, truths[name].liquidations, until, report)
                compare_clients(stayed, returned, report)
                report.resumes_refused = returned.refused + stayed.refused
            nursery.cancel_scope.cancel()
    return report


def configuration(sims: dict[str, Simulator]) -> str:
    lines = ["[streams]", f"intervals = {list(BARS)}", "[oi_vol]", 'timeframes = ["5m"]', 'symbols = ["none"]']
    lines += ["[archive]", "enabled = false"]
    lines += ["[supervision]", "reconnect_delay = 0.2", "max_reconnect_delay = 1.0"]
    for name, sim in sims.items():
        lines += [f"[exchanges.{name}]", f'symbols = ["{SYMBOLS[name]}"]']
        lines += [f'rest_url = "{sim.rest_url}"', f'ws_url = "{sim.ws_url}"']
    return "\n".join(lines) + "\n"


async def until_live(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as http:
        with trio.fail_after(30):
            while True:
                feeds = (await http.get("/health")).json()["feeds"]
                if feeds and all(feed["state"] == "live" for feed in feeds):
                    return
                await trio.sleep(0.2)


def write(report: Report, took: float) -> None:
    said = msgspec.to_builtins(report) | {"seconds": round(took)}
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(said), indent=2).decode() + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cuts", type=int, default=100, help="of each exchange's connections, one per minute of market time"
    )
    parser.add_argument("--rate", type=float, default=20.0, help="market seconds per second")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> int:
    options = arguments()
    cores = choose_cores()
    os.sched_setaffinity(0, cores.others)
    sys.stdout.write(machine(cores) + "\n")
    began = time.monotonic()
    server = [cores.server] if cores.server is not None else cores.others
    report = trio.run(run, options.cuts, options.rate, options.seed, (server, cores.others))
    write(report, time.monotonic() - began)
    return 0 if report.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
