"""A daemon with one exchange's simulator behind it, and what both of them answer to one request."""

from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import trio

from actors.simulation.market import Clock, Market
from actors.simulation.server import Served as Request
from actors.simulation.server import Simulator
from daemon import main
from daemon.settings import Archive, Config, ExchangeSettings, Facade, Server, Streams
from tests.actors.exchanges.fixtures import EXCHANGES, quick, running, simulator_of
from tests.daemon.fixtures import LOOK, START, SUPERVISION, TWO
from tests.patience import WITHIN
from web.access.limits import Limits

SYMBOLS = {"binance": ("BTCUSDT",), "bybit": ("BTCUSDT",), "hyperliquid": ("BTC",), "okx": ("BTC-USDT-SWAP",)}


FACADE, LIMITS = Facade(), Limits()
Both = tuple[httpx.Response, httpx.Response]


@dataclass(kw_only=True)
class Venue:
    name: str
    url: str  # of the façade
    client: httpx.AsyncClient  # of the daemon
    sim: Simulator
    logs: list[MutableMapping[str, Any]]
    direct: httpx.AsyncClient  # of the exchange
    mark: int = 0  # requests that the exchange had before the test began

    def asked(self) -> list[Request]:
        """What the exchange was asked by the daemon, as far as it was not the daemon's own affair."""
        return [served for served in list(self.sim.requests)[self.mark :] if served not in self.seen]

    def __post_init__(self) -> None:
        self.seen: list[Request] = []
        self.mark = len(self.sim.requests)

    async def ours(self, path: str = "/info", method: str | None = None, **request: Any) -> httpx.Response:
        verb = method or ("POST" if "json" in request or "content" in request else "GET")
        return await self.client.request(verb, f"/as/{self.name}{path}", **request)

    async def both(
        self, path: str = "/info", method: str | None = None, **request: Any
    ) -> tuple[httpx.Response, httpx.Response]:
        """Our answer and the exchange's."""
        ours = await self.ours(path, method, **request)
        verb = method or ("POST" if "json" in request or "content" in request else "GET")
        before = len(self.sim.requests)
        theirs = await self.direct.request(verb, path, **request)
        self.seen += list(self.sim.requests)[before:]
        return ours, theirs


@asynccontextmanager
async def venue(
    name: str,
    *,
    rate: float = 0.0,
    start: int = START,
    symbols: tuple[str, ...] = (),
    facade: Facade = FACADE,
    limits: Limits = LIMITS,
    on_demand: bool = True,
    **changes: Any,
) -> AsyncIterator[Venue]:
    """The market stands still unless it has a `rate`. Without `symbols` the daemon follows none of its own accord."""
    market = Market(assets=TWO, clock=Clock(start, rate=rate))
    exchange = quick(EXCHANGES[name])
    async with trio.open_nursery() as nursery:
        sim = await nursery.start(partial(simulator_of(name).serve, market, **changes))
        config = Config(
            server=Server(port=0),
            streams=Streams(intervals=("1m", "5m")),
            supervision=SUPERVISION,
            archive=Archive(enabled=False),
            facade=facade,
            limits=limits,
            exchanges={
                name: ExchangeSettings(symbols=symbols, on_demand=on_demand, rest_url=sim.rest_url, ws_url=sim.ws_url)
            },
        )
        async with running(partial(main.run, config, {name: exchange})) as served:
            # The catalogue is the last that the daemon asks for of its own accord.
            while (await served.client.get("/symbols", params={"exchange": name})).status_code != 200:  # noqa: ASYNC110
                await trio.sleep(LOOK)
            async with httpx.AsyncClient(base_url=sim.rest_url, timeout=WITHIN, verify=False) as direct:
                yield Venue(
                    name=name,
                    url=f"{served.url}/as/{name}",
                    client=served.client,
                    sim=sim,
                    logs=served.logs,
                    direct=direct,
                )
        nursery.cancel_scope.cancel()
