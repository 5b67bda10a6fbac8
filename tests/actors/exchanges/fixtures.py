"""The daemon with any number of exchanges and their simulators, all of them on one market; see daemon_fixtures."""

import importlib
import math
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import httpx
import trio

from actors import clock
from actors.events import Instrument, Topic
from actors.exchanges.exchange import Exchange, load_exchanges
from actors.simulation.assets import Asset
from actors.simulation.market import Clock, Market
from actors.simulation.server import Faults, Simulator
from actors.upstream.budget import Budget
from actors.upstream.rest import RestClient, open_http
from daemon import main
from daemon.settings import Archive, Config, ExchangeSettings, OiVol, Server, Streams
from tests.daemon.fixtures import START, SUPERVISION, TWO, Json, Served, captured_logs, eventually
from tests.patience import WITHIN

EXCHANGES = load_exchanges()
INTERVALS = ("1m", "5m")


def simulator_of(name: str) -> Any:
    return importlib.import_module(f"actors.exchanges.{name}.simulator")


def quick(exchange: Exchange, **limits: Any) -> Exchange:
    """The exchange with little history, and without the patience that its limits ask for."""
    patience: dict[str, Any] = {"connect_spacing": 0.02, "frames_per_second": 200.0}
    return replace(exchange, history=120, limits=replace(exchange.limits, **patience | limits))


def upstream_topics(exchange: Exchange, symbols: Sequence[str], intervals: Sequence[str]) -> list[Topic]:
    """What lines must carry."""
    topics = []
    for symbol in symbols:
        topics += [Topic(exchange.name, symbol, "ohlc", interval) for interval in intervals]
        topics += [Topic(exchange.name, symbol, kind) for kind in sorted(exchange.pushed - {"ohlc"})]
    return topics


def subscriptions(exchange: Exchange, topics: Sequence[Topic]) -> int:
    """How many the exchange counts for these topics: those that need a frame of their own."""
    session = exchange.new_session({})
    return sum(bool(session.subscribe([topic])) for topic in topics)


def paths(exchange: Exchange) -> set[str]:
    """Of the connections that a feed needs."""
    return {exchange.path_of(kind) for kind in exchange.pushed}


async def catalogue(exchange: Exchange, rest_url: str) -> list[Instrument]:
    async with open_http(rest_url) as http:
        client = RestClient(http, Budget(exchange.budget), exchange.explain, caller="repair", used_header=None)
        return await exchange.open_rest(client, clock.now).instruments()


def carried(sim: Simulator) -> int:
    """How many subscriptions the exchange counts."""
    return sum(len(connection.streams) for connection in sim.connections)


@asynccontextmanager
async def running(run: Callable[..., Any]) -> AsyncIterator[Served]:
    """Run `run` (a daemon that takes `stop` and reports its URL) for as long as the block lasts."""
    with captured_logs() as logs:
        async with trio.open_nursery() as nursery:
            stop, stopped = trio.Event(), trio.Event()

            async def daemon(task_status: trio.TaskStatus[str]) -> None:
                await run(stop=stop, task_status=task_status)
                stopped.set()

            url = await nursery.start(daemon)
            async with (
                httpx.AsyncClient(base_url=url, timeout=WITHIN, verify=False) as client,
                trio.open_nursery() as own,
            ):
                try:
                    yield Served(url=url, client=client, nursery=own, stop=stop, stopped=stopped, logs=logs)
                except BaseException:
                    sys.stdout.writelines(f"{entry}\n" for entry in logs)  # pytest shows it
                    raise
                own.cancel_scope.cancel()
            stop.set()
            with trio.move_on_after(10):
                await stopped.wait()
            assert stopped.is_set(), "the daemon did not stop within 10 s"
            nursery.cancel_scope.cancel()


@dataclass(kw_only=True)
class Venues(Served):
    """A running daemon and the simulated exchanges behind it."""

    market: Market
    sims: dict[str, Simulator]

    @property
    def now(self) -> int:
        """Market time, ms."""
        return self.market.now

    async def pass_time(self, milliseconds: int, step: int = 250) -> None:
        """Let the market live for so long, and send all that every exchange has to say."""
        for _ in range(math.ceil(milliseconds / step)):
            self.market.clock.advance(step)
            for sim in self.sims.values():
                sim.tick()
            await trio.lowlevel.checkpoint()

    def attempts(self) -> dict[str, int]:
        """How often each exchange was connected to."""
        return {name: sim.attempts for name, sim in self.sims.items()}


@asynccontextmanager
async def venues(
    exchanges: Iterable[Exchange],
    *,
    symbols: Mapping[str, Sequence[str]] | None = None,
    served: Mapping[str, Sequence[str]] | None = None,
    market: Sequence[Asset] = TWO,
    start: int = START,
    intervals: Sequence[str] = INTERVALS,
    faults: Mapping[str, Faults] | None = None,
    proxy: str | None = None,
    **changes: Any,
) -> AsyncIterator[Venues]:
    """The daemon and a simulator of each exchange; when the block begins, the `served` symbols are live.

    `symbols`: the first two of each exchange where nothing is said, and all that are configured are served. `changes`
    replace parts of the configuration. `proxy`: the exchanges have names that it alone knows. Market time stands still.
    """
    chosen = {exchange.name: exchange for exchange in exchanges}
    symbols = {name: exchange.symbols[:2] for name, exchange in chosen.items()} | dict(symbols or {})
    served = symbols if served is None else served
    async with trio.open_nursery() as nursery:
        made = Market(assets=market, clock=Clock(start, rate=0))
        sims, settings = {}, {}
        for name in chosen:
            serve = partial(simulator_of(name).serve, made, faults=(faults or {}).get(name))
            sims[name] = await nursery.start(serve)
            urls = {"rest_url": sims[name].rest_url, "ws_url": sims[name].ws_url}
            if proxy is not None:
                urls = {key: url.replace("127.0.0.1", f"{name}.invalid") for key, url in urls.items()}
            settings[name] = ExchangeSettings(symbols=tuple(symbols[name]), proxy=proxy, **urls)
        defaults: dict[str, Any] = {
            "server": Server(port=0),
            "streams": Streams(intervals=tuple(intervals)),
            "oi_vol": OiVol(symbols=("none",)),  # it would subscribe to more
            "supervision": SUPERVISION,
            "archive": Archive(enabled=False),
        }
        config = Config(exchanges=settings, **defaults | changes)
        async with running(partial(main.run, config, chosen)) as daemon:
            parts = {part.name: getattr(daemon, part.name) for part in fields(daemon)}
            w = Venues(market=made, sims=sims, **parts)
            for name, some in served.items():
                wanted = subscriptions(chosen[name], upstream_topics(chosen[name], some, intervals))
                await subscribed(sims[name], wanted)
            await w.pass_time(1500)
            wanted_live = {(name, symbol) for name, some in served.items() for symbol in some}

            def live(health: Json) -> bool:
                return wanted_live <= {(f["exchange"], f["symbol"]) for f in health["feeds"] if f["state"] == "live"}

            await w.health(live, WITHIN)
            yield w
        nursery.cancel_scope.cancel()


async def subscribed(sim: Simulator, wanted: int) -> None:
    await eventually(lambda: carried(sim) >= wanted, WITHIN, f"{wanted} subscriptions, {carried(sim)} so far")
