"""The whole daemon in the test's own process: port 0, real sockets, real clock, a simulated Binance on loopback.

Market time stands still unless a test gives it a `rate` or moves it with `World.pass_time`, so what a test compares
does not change under it. Everything that a test waits for is polled by `eventually`, within a limit.
"""

import math
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import httpx
import msgspec
import structlog
import structlog.testing
import trio
import trio_websocket

from actors.events import EPOCH
from actors.exchanges.binance import EXCHANGE
from actors.exchanges.binance import simulator as binance
from actors.exchanges.exchange import Exchange
from actors.simulation.assets import ASSETS, Asset
from actors.simulation.market import Clock, Market
from actors.simulation.server import Faults, Simulator
from daemon import main
from daemon.reload import Reloader
from daemon.settings import Archive, Config, ExchangeSettings, Server, Streams, Supervision
from tests.patience import WITHIN

MINUTE = 60_000
START = 1_789_999_200_000 + 18_000  # market time, ms: 18 s into an hour, 40 s before anything closes
LOOK = 0.005  # seconds between two looks at what has no event to wait for

Json = Any  # what came over the wire; the tests are there to say what it is
T = TypeVar("T")


def assets(*names: str) -> tuple[Asset, ...]:
    """Some of the simulated market's assets: the fewer there are, the sooner a test begins."""
    return tuple(asset for asset in ASSETS if asset.name in names)


TWO = assets("BTC", "ETH")


async def eventually(condition: Callable[[], T], within: float = WITHIN, what: str = "") -> T:
    """The condition's first true result; the test fails where it does not come in time (seconds)."""
    deadline = trio.current_time() + within
    while not (result := condition()):
        if trio.current_time() > deadline:
            raise AssertionError(f"did not happen within {within:g} s: {what or 'see the caller'}; seen: {result!r}")
        await trio.sleep(LOOK)
    return result


def iso(milliseconds: int) -> str:
    """A time as the API writes it."""
    return (EPOCH + timedelta(milliseconds=milliseconds)).isoformat().replace("+00:00", "Z")


def bar_of_row(row: Sequence[Any], symbol: str, interval: str, now: int) -> Json:
    """A row of the exchange's klines, as the API should tell it at the market time `now`."""
    return {
        "exchange": "binance",
        "symbol": symbol,
        "timestamp": iso(row[0]),
        "interval": interval,
        **dict(zip(("open", "high", "low", "close", "volume"), map(float, row[1:6]), strict=True)),
        "quote_volume": float(row[7]),
        "trades_count": row[8],
        "is_closed": row[6] < now,
    }


class Stream:
    """A client of one WebSocket: what it was sent, and how it ended. It always reads."""

    def __init__(self) -> None:
        self.frames: list[Json] = []
        self.texts: list[str | bytes] = []  # the same as they came
        self.closed: tuple[int, str | None] | None = None  # code and reason
        self._leaving, self._left = trio.Event(), trio.Event()
        self.subprotocol: str | None = None  # that the server selected
        self._socket: trio_websocket.WebSocketConnection | None = None

    async def say(self, command: Json) -> None:
        """Send a command, as JSON."""
        assert self._socket is not None
        await self._socket.send_message(msgspec.json.encode(command).decode())

    def of(self, *types: str) -> list[Json]:
        return [frame for frame in self.frames if frame["type"] in types]

    async def at_least(self, count: int, within: float = WITHIN) -> list[Json]:
        """Everything so far, once it is `count` frames or more."""
        await eventually(lambda: len(self.frames) >= count, within, f"{count} frames, {len(self.frames)} so far")
        return self.frames

    async def end(self, within: float = WITHIN) -> tuple[int, str | None]:
        """How it was closed."""
        await eventually(lambda: self.closed, within, "the end of the stream")
        assert self.closed is not None
        return self.closed

    async def leave(self) -> None:
        """Close it as a polite client does."""
        self._leaving.set()
        with trio.move_on_after(WITHIN):
            await self._left.wait()

    async def run(
        self,
        url: str,
        headers: Mapping[str, str],
        subprotocols: Sequence[str],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        extra = [(name.encode(), value.encode()) for name, value in headers.items()]
        opening = trio_websocket.open_websocket_url(url, extra_headers=extra, subprotocols=subprotocols)
        async with opening as socket, trio.open_nursery() as nursery:
            self._socket, self.subprotocol = socket, socket.subprotocol
            nursery.start_soon(self._read, socket)
            task_status.started()
            await self._leaving.wait()
            nursery.cancel_scope.cancel()
        self._left.set()

    async def _read(self, socket: trio_websocket.WebSocketConnection) -> None:
        while True:
            try:
                text = await socket.get_message()
                self.frames.append(msgspec.json.decode(text))
                self.texts.append(text)
            except trio_websocket.ConnectionClosed as error:
                self.closed = (error.reason.code, error.reason.reason) if error.reason else (1006, None)
                return


@dataclass(kw_only=True)
class Served:
    """A running daemon, as its clients and its operator see it."""

    url: str
    client: httpx.AsyncClient
    nursery: trio.Nursery  # for the test's own tasks; cancelled at the end
    stop: trio.Event
    stopped: trio.Event  # the daemon's run has returned
    logs: list[MutableMapping[str, Any]] = field(default_factory=list)

    def logged(self, event: str) -> list[MutableMapping[str, Any]]:
        return [entry for entry in self.logs if entry["event"] == event]

    # --- REST ---

    async def ask(self, path: str, method: str = "GET", **query: Any) -> httpx.Response:
        """Any answer at all; JSON of the right kind where there is a body."""
        response = await self.client.request(method, path, params={k: v for k, v in query.items() if v is not None})
        if response.content:
            problem = response.status_code >= 400 and (path, response.status_code) != ("/health/ready", 503)
            assert response.headers["content-type"] == f"application/{'problem+json' if problem else 'json'}", path
        return response

    async def get(self, path: str, **query: Any) -> Json:
        """A good answer's body."""
        response = await self.ask(path, **query)
        assert response.status_code == 200, response.text
        return response.json()

    async def problem(self, path: str, status: int, code: str, method: str = "GET", **query: Any) -> Json:
        """A refusal's body, which has all that the contract promises."""
        response = await self.ask(path, method, **query)
        body = response.json()
        assert (response.status_code, body["status"], body["code"]) == (status, status, code), (path, query, body)
        assert {"type", "title", "detail"} <= body.keys()
        assert body["detail"]
        return body

    async def feed(self, symbol: str = "BTCUSDT") -> Json:
        """A feed's part of /health."""
        feeds = (await self.get("/health"))["feeds"]
        return next(feed for feed in feeds if feed["symbol"] == symbol)

    async def until(self, path: str, wanted: Callable[[Json], bool], within: float = WITHIN, **query: Any) -> Json:
        """A good answer's body, once it is as wanted."""
        deadline = trio.current_time() + within
        while not wanted(found := await self.get(path, **query)):
            if trio.current_time() > deadline:
                raise AssertionError(f"{path} did not become as wanted within {within:g} s: {found}")
            await trio.sleep(LOOK)
        return found

    async def health(self, wanted: Callable[[Json], bool], within: float = WITHIN) -> Json:
        return await self.until("/health", wanted, within)

    async def is_live(self, symbol: str = "BTCUSDT", within: float = WITHIN) -> Json:
        def live(health: Json) -> bool:
            return any(feed["symbol"] == symbol and feed["state"] == "live" for feed in health["feeds"])

        return await self.health(live, within)

    # --- streams ---

    @asynccontextmanager
    async def stream(
        self, path: str, headers: Mapping[str, str] | None = None, subprotocols: Sequence[str] = ()
    ) -> AsyncIterator[Stream]:
        stream = Stream()
        url = self.url.replace("http", "ws", 1) + path
        await self.nursery.start(stream.run, url, headers or {}, subprotocols)
        # The handshake is answered a moment before the stream is joined; a request made now is answered after it.
        await self.client.get("/health/live")
        try:
            yield stream
        finally:
            await stream.leave()

    async def refused(
        self, path: str, headers: Mapping[str, str] | None = None, subprotocols: Sequence[str] = ()
    ) -> tuple[Json, int, str | None]:
        """The only frame of a stream that may not be had, and how it was closed."""
        async with self.stream(path, headers, subprotocols) as stream:
            code, reason = await stream.end()
            assert len(stream.frames) == 1, (path, stream.frames)
            return stream.frames[0], code, reason


@dataclass(kw_only=True)
class World(Served):
    """A running daemon and the simulated exchange behind it."""

    sim: Simulator

    async def upstream(self, path: str, **query: Any) -> Json:
        """What the exchange itself answers."""
        async with httpx.AsyncClient(base_url=self.sim.rest_url, timeout=WITHIN, verify=False) as client:
            response = await client.get(path, params=query)
        assert response.status_code == 200, response.text
        return msgspec.json.decode(response.content)

    async def bars(self, symbol: str = "BTCUSDT", interval: str = "1m", **query: Any) -> list[Json]:
        """The exchange's own bars (query: its own parameters), as the API should tell them."""
        rows = await self.upstream("/fapi/v1/klines", symbol=symbol, interval=interval, **query)
        return [bar_of_row(row, symbol, interval, self.now) for row in rows]

    async def settled(self, symbol: str = "BTCUSDT", interval: str = "1m") -> None:
        """Wait until the daemon's open bar is the exchange's."""
        expected = await self.bars(symbol, interval, limit=1)
        await self.until(f"/binance/ohlc/{symbol}/{interval}", lambda found: bool(found == expected), limit=1)

    @property
    def now(self) -> int:
        """Market time, ms."""
        return self.sim.market.now

    async def pass_time(self, milliseconds: int, step: int = 250) -> None:
        """Let the market live for so long, and send all that it has to say."""
        for _ in range(math.ceil(milliseconds / step)):
            self.sim.market.clock.advance(step)
            self.sim.tick()
            await trio.lowlevel.checkpoint()

    async def subscribed(self, *streams: str) -> None:
        """Wait until the exchange has been asked for these streams."""

        def carried() -> bool:
            names = {name for connection in self.sim.connections for name in connection.streams}
            return names.issuperset(streams)

        await eventually(carried, what=f"subscription of {streams}")

    def frames(self, stream: str, start: int = 0) -> list[Json]:
        """What the exchange sent on one stream, without the envelope; `start` counts all frames of all streams."""
        sent = list(self.sim.sent)[start:]
        return [msgspec.json.decode(item.frame)["data"] for item in sent if item.stream == stream]


def fast(**limits: Any) -> Exchange:
    """Binance with little history and short waits between connections; `limits` replace those of its lines."""
    patient = replace(EXCHANGE.limits, connect_spacing=0.02, frames_per_second=50.0)
    return replace(EXCHANGE, history=120, limits=replace(patient, **limits))


SUPERVISION = Supervision(reconnect_delay=0.1, max_reconnect_delay=0.4)


def configuration(sim: Any, symbols: Sequence[str], **changes: Any) -> Config:
    """A daemon on a port of the system's choice, with `sim` for an exchange."""
    on_demand = changes.pop("on_demand", True)
    settings = ExchangeSettings(symbols=tuple(symbols), on_demand=on_demand, rest_url=sim.rest_url, ws_url=sim.ws_url)
    defaults: dict[str, Any] = {
        "server": Server(port=0),
        "streams": Streams(intervals=("1m", "5m")),
        "supervision": SUPERVISION,
        "archive": Archive(enabled=False),
        "exchanges": {"binance": settings},
    }
    return Config(**defaults | changes)


@contextmanager
def captured_logs() -> Iterator[list[MutableMapping[str, Any]]]:
    structlog.reset_defaults()  # another test may have set a level
    with structlog.testing.capture_logs() as logs:
        yield logs


@asynccontextmanager
async def serving(config: Config, exchange: Exchange, reloader: Reloader | None = None) -> AsyncIterator[Served]:
    """Run the daemon for as long as the block lasts. One that does not end by itself fails the test."""
    with captured_logs() as logs:
        async with trio.open_nursery() as nursery:
            stop, stopped = trio.Event(), trio.Event()

            async def daemon(task_status: trio.TaskStatus[str]) -> None:
                await main.run(config, {exchange.name: exchange}, stop=stop, reloader=reloader, task_status=task_status)
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
            with trio.move_on_after(WITHIN):
                await stopped.wait()
            assert stopped.is_set(), "the daemon did not stop"
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def world(
    *,
    symbols: Sequence[str] = ("BTCUSDT",),
    market: Iterable[Asset] = TWO,
    rate: float = 0.0,
    start: int = START,
    exchange: Exchange | None = None,
    faults: Faults | None = None,
    options: binance.Options | None = None,
    live: bool = True,
    **changes: Any,
) -> AsyncIterator[World]:
    """The daemon and a simulated exchange; with `live`, the configured feeds deliver when the block begins.

    `changes` replace parts of the configuration.
    """
    async with trio.open_nursery() as nursery:
        made = Market(assets=tuple(market), clock=Clock(start, rate=rate))
        sim = await nursery.start(partial(binance.serve, made, faults=faults, options=options))
        config = configuration(sim, symbols, **changes)
        async with serving(config, exchange or fast()) as served:
            parts = {field.name: getattr(served, field.name) for field in fields(served)}
            running = World(sim=sim, **parts)
            if live:
                await _begin(running, symbols, config.streams.intervals)
            yield running
        nursery.cancel_scope.cancel()


async def _begin(running: World, symbols: Sequence[str], intervals: Sequence[str]) -> None:
    await running.subscribed(*(f"{symbol.lower()}@aggTrade" for symbol in symbols))
    await running.pass_time(1000)
    for symbol in symbols:
        await running.is_live(symbol)
    # Live is said at the first frame; history and open interest follow.
    sim, count = running.sim, len(symbols)
    await eventually(lambda: sim.count("/fapi/v1/klines") >= count * len(intervals), what="history")
    await eventually(lambda: sim.count("/fapi/v1/openInterest") >= count, what="open interest")
    await running.health(lambda health: bool(health["status"] == "healthy"))
