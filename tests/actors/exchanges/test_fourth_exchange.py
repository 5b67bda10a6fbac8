"""A fourth exchange is one new folder and a config stanza: nothing else in the program is told of it.

The folder is written here, for an exchange whose wire is as simple as one can be: JSON objects, and no open interest,
no funding and no liquidations at all. The other end of it is the `ToyVenue` below.
"""

import importlib
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

from actors import exchanges
from actors.events import Topic
from actors.exchanges.exchange import Exchange, load_exchanges
from actors.simulation import server
from actors.simulation.assets import Asset
from actors.simulation.history import floor_open
from actors.simulation.market import Clock, Market
from actors.simulation.server import Connection, Faults, Reply, Request, Simulator
from daemon import config as configuration
from daemon import main
from daemon.collecting import exchange_defaults
from tests.actors.exchanges.fixtures import EXCHANGES, running
from tests.daemon.fixtures import START, Json, Served, eventually, iso
from tests.patience import WITHIN

FOLDER = {
    "__init__.py": '''
"""Toy: perpetuals of whatever children trade."""

from actors.upstream.budget import Window
from actors.exchanges.exchange import Exchange, LineLimits
from actors.exchanges.toy.rest import ToyRest, explain
from actors.exchanges.toy.session import ToySession

EXCHANGE = Exchange(
    name="toy",
    rest_url="https://toy.invalid",
    ws_url="wss://toy.invalid",
    ws_path="/live",
    symbols=("marble-coin",),
    intervals=("1m", "5m"),
    open_interest_periods=(),
    capabilities={
        "ohlc": True,
        "trades": True,
        "large_trades": True,
        "liquidations": False,
        "funding_rate": False,
        "funding_rate_history": False,
        "open_interest": False,
        "open_interest_history": False,
        "predicted_funding": False,
    },
    pushed=frozenset({"ohlc", "trades"}),
    prompt=frozenset(),
    contiguous_trade_ids=True,
    closes_bars=True,
    has_empty_bars=True,
    history=50,
    limits=LineLimits(topics=10, topics_per_frame=5, frames_per_second=100.0, connect_spacing=0.02),
    budget={"weight": Window(1000, 60.0)},
    used_header=None,
    explain=explain,
    new_session=ToySession,
    open_rest=ToyRest,
)
''',
    "session.py": '''
"""One connection: an array of names asks for streams, and pushes are objects with a `kind`."""

import msgspec

from actors.errors import BadMessage, UnknownMessage
from actors.events import Ohlc, Trade, from_ms
from actors.exchanges.exchange import Update


def name_of(topic):
    return f"{topic.symbol}/{topic.interval or topic.kind}"


class ToySession:
    def __init__(self, instruments):
        pass

    def subscribe(self, topics):
        return [msgspec.json.encode({"ask": [*map(name_of, topics)]}).decode()]

    def unsubscribe(self, topics):
        return [msgspec.json.encode({"end": [*map(name_of, topics)]}).decode()]

    def unacknowledged(self):
        return ()

    def receive(self, frame, received_at):
        try:
            push = msgspec.json.decode(frame)
            kind, now = push.pop("kind"), from_ms(push.pop("now"))
            match kind:
                case "trade":
                    event = Trade(**times(push), value=push["price"] * push["quantity"])
                case "bar":
                    event = bar(push)
                case _:
                    raise UnknownMessage(f"unknown kind {kind}")
        except (msgspec.MsgspecError, KeyError, TypeError) as error:
            raise BadMessage(str(error)) from None
        return [Update(event, now)]


def times(row):
    return {**row, "exchange": "toy", "timestamp": from_ms(row["timestamp"])}


def bar(row):
    return Ohlc(**times(row), quote_volume=None, trades_count=None)
''',
    "rest.py": '''
"""Two questions: what there is, and its bars."""

from datetime import UTC, datetime

import msgspec

from actors.errors import Unsupported
from actors.events import Instrument, from_ms, ms
from actors.exchanges.toy.session import bar


def explain(status, body):
    return None


class ToyRest:
    def __init__(self, client, now):
        self._client = client

    async def _ask(self, path, **query):
        return msgspec.json.decode(await self._client.get(path, query, bucket="weight", weight=1))

    async def server_time(self):
        return from_ms(await self._ask("/time"))

    async def instruments(self):
        return [Instrument(exchange="toy", **row) for row in await self._ask("/list")]

    async def ohlc(self, symbol, interval, *, limit, start=None, end=None):
        query = {"start": start and ms(start), "end": end and ms(end) - 1, "limit": limit}
        return [bar(row) for row in await self._ask("/bars", symbol=symbol, interval=interval, **query)]

    async def open_interest(self, symbol):
        raise Unsupported("there is none")

    async def open_interest_history(self, symbol, period, *, limit, start, end):
        raise Unsupported("there is none")

    async def funding(self, instrument):
        raise Unsupported("there is none")

    async def funding_history(self, instrument, *, limit, start, end):
        raise Unsupported("there is none")
''',
}

MARBLE = Asset("marble", "8.00", "0.01", "1", 5.0)
SYMBOL = "marble-coin"


class ToyVenue:
    """The other end: bars and trades of one asset of the simulated market."""

    def __init__(self, sim: Simulator) -> None:
        self.sim = sim
        self.tape = sim.market.tapes["marble"]
        self.told = self.tape.next_id
        self.opening = {interval: floor_open(interval, sim.market.now) for interval in ("1m", "5m")}

    def answer(self, request: Request) -> Reply:
        self.sim.market.advance()
        now, query = self.sim.market.now, request.query
        match request.path:
            case "/time":
                return Reply(body=str(now).encode())
            case "/list":
                row = {"symbol": SYMBOL, "base": "marble", "quote": "coin", "settle": "coin", "status": "TRADING"}
                numbers = {"tick_size": 0.01, "step_size": 1.0, "funding_interval_hours": None}
                return Reply(body=msgspec.json.encode([row | numbers]))
            case "/bars":
                start, end = (int(query[key]) if key in query else None for key in ("start", "end"))
                bars = self.tape.bars(query["interval"], now, start=start, end=end, limit=int(query["limit"]))
                rows = [self.bar(query["interval"], bar.open_time) for bar in bars]
                return Reply(body=msgspec.json.encode(rows))
        return Reply(404)

    def bar(self, interval: str, opening: int) -> Json:
        bar = self.tape.bar(interval, opening)
        return {
            "symbol": SYMBOL,
            "interval": interval,
            "timestamp": opening,
            **{key: getattr(bar, key) / 100 for key in ("open", "high", "low", "close")},
            "volume": float(bar.volume),
            "is_closed": opening < floor_open(interval, self.sim.market.now),
        }

    def opened(self, connection: Connection) -> int | None:
        return None if connection.path == "/live" else 404

    def counted(self, connection: Connection) -> None: ...

    def received(self, connection: Connection, message: str | bytes) -> None:
        order = msgspec.json.decode(message)
        connection.streams |= dict.fromkeys(order.get("ask", ()))
        for name in order.get("end", ()):
            del connection.streams[name]

    def closed(self, connection: Connection) -> None: ...

    def tick(self, now: int) -> None:
        fresh = self.tape.trades[len(self.tape.trades) - (self.tape.next_id - self.told) :]
        self.told = self.tape.next_id
        for trade in fresh:
            row = {"symbol": SYMBOL, "timestamp": trade.time, "side": trade.side, "trade_id": trade.id}
            numbers = {"price": trade.price / 100, "quantity": float(trade.quantity)}
            self.push("trades", {"kind": "trade", **row, **numbers, "is_buyer_maker": trade.side == "sell"})
        for interval, opening in self.opening.items():
            if (newest := floor_open(interval, now)) > opening:
                self.push(interval, {"kind": "bar", **self.bar(interval, opening)})
                self.opening[interval] = newest
            if fresh:
                self.push(interval, {"kind": "bar", **self.bar(interval, newest)})

    def push(self, stream: str, row: Json) -> None:
        name = f"{SYMBOL}/{stream}"
        for connection in self.sim.connections:
            if name in connection.streams:
                self.sim.send(connection, name, msgspec.json.encode(row | {"now": self.sim.market.now}))


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Exchange]:
    """The folder exists and is found; afterwards it never was."""
    folder = tmp_path / "toy"
    folder.mkdir()
    for name, source in FOLDER.items():
        (folder / name).write_text(source)
    monkeypatch.setattr(exchanges, "__path__", [*exchanges.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    before = set(sys.modules)
    yield load_exchanges()["toy"]
    for name in set(sys.modules) - before:
        if name.split(".")[:3] == ["actors", "exchanges", "toy"]:
            del sys.modules[name]
    if hasattr(exchanges, "toy"):
        del exchanges.toy


@dataclass(kw_only=True)
class Toyland(Served):
    sim: Simulator

    async def pass_time(self, milliseconds: int) -> None:
        for _ in range(milliseconds // 250):
            self.sim.market.clock.advance(250)
            self.sim.tick()
            await trio.lowlevel.checkpoint()


@asynccontextmanager
async def toyland(folder: Path) -> AsyncIterator[Toyland]:
    """The daemon as it starts from a file that configures the toy and switches all others off."""
    async with trio.open_nursery() as nursery:
        market = Market(assets=[MARBLE], clock=Clock(START, rate=0))
        sim = await nursery.start(partial(server.serve, market, Faults(), ToyVenue))
        stanzas = [f"[exchanges.{name}]\nenabled = false\n" for name in EXCHANGES]
        stanzas.append(f'[exchanges.toy]\nrest_url = "{sim.rest_url}"\nws_url = "{sim.ws_url}"\n')
        file = folder / "config.toml"
        file.write_text('[server]\nport = 0\n[streams]\nintervals = ["1m", "5m", "1h"]\n' + "\n".join(stanzas))
        exchanges = load_exchanges()
        config = configuration.load(file, {}, defaults=exchange_defaults(exchanges))
        async with running(partial(main.run, config, exchanges)) as served:
            w = Toyland(sim=sim, **{part.name: getattr(served, part.name) for part in fields(served)})
            await eventually(lambda: sum(len(c.streams) for c in sim.connections) == 3, WITHIN, "subscriptions")
            await w.pass_time(2000)
            yield w
        nursery.cancel_scope.cancel()


def test_nothing_else_mentions_it(toy: Exchange) -> None:
    assert load_exchanges().keys() == EXCHANGES.keys() | {"toy"}
    assert toy.new_session({}).subscribe([Topic("toy", "a", "trades")]) == ['{"ask":["a/trades"]}']
    root = Path(main.__file__).parents[1]
    for layer in ("daemon", "actors", "web"):
        for file in (root / layer).rglob("*.py"):
            assert "toy" not in file.read_text().lower().split(), file


async def test_it_is_served_like_the_others(toy: Exchange, tmp_path: Path) -> None:
    async with toyland(tmp_path) as w:
        assert (await w.get("/"))["exchanges"] == ["toy"]
        [told] = (await w.get("/exchanges"))["exchanges"]
        assert (told["name"], told["symbols"], told["intervals"]) == ("toy", [SYMBOL], ["1m", "5m"])
        assert told["capabilities"] == toy.capabilities
        [row] = await w.get("/symbols", exchange="toy")
        assert (row["symbol"], row["base"], row["status"]) == (SYMBOL, "marble", "TRADING")
        assert "/ws/toy/marble-coin/" in (await w.ask("/ws-catalog")).text

        tape = w.sim.market.tapes["marble"]
        rows = await w.get(f"/toy/ohlc/{SYMBOL}/1m", limit=5)
        assert [bar["timestamp"] for bar in rows] == [
            iso(floor_open("1m", START) - n * 60_000) for n in (4, 3, 2, 1, 0)
        ]
        for bar in rows[:-1]:
            truth = tape.bar("1m", floor_open("1m", START) - (4 - rows.index(bar)) * 60_000)
            prices = [price / 100 for price in (truth.open, truth.high, truth.low, truth.close)]
            assert [bar[key] for key in ("open", "high", "low", "close")] == prices
            assert (bar["exchange"], bar["volume"], bar["is_closed"]) == ("toy", truth.volume, True)
        assert rows[-1]["is_closed"] is False
        by_base = await w.get("/multi/ohlc/marble/1m", limit=4, end_time=rows[-1]["timestamp"])
        assert by_base == {"toy": rows[:-1]}
        for path in ("oi", "funding", "oi-hist", "funding-hist", "liquidations"):
            await w.problem(f"/toy/{path}/{SYMBOL}", 404, "unsupported")
        await w.problem(f"/toy/ohlc/{SYMBOL}/1h", 404, "unknown_interval")
        await w.problem("/toy/ohlc/nothing/1m", 404, "unknown_symbol")
        frame, code, _ = await w.refused(f"/ws/toy/{SYMBOL}/oi")
        assert (frame["code"], code) == ("unsupported", 1008)

        async with (
            w.stream(f"/ws/toy/{SYMBOL}/trades") as trades,
            w.stream("/ws/toy/MARBLE-COIN/ohlc?interval=1m") as bars,
            w.stream("/ws/all/large_trades") as large,
        ):
            first, begun = tape.next_id, len(bars.frames)
            w.sim.market.trade("marble", side="sell", price="8.00", quantity="20000")
            await w.pass_time(60_000)
            happened = [trade for trade in tape.trades if trade.id >= first]
            await eventually(lambda: len(trades.frames) >= len(happened), WITHIN, "trades")
            assert [trade["trade_id"] for trade in trades.frames] == [trade.id for trade in happened]
            assert [trade["price"] for trade in trades.frames] == [trade.price / 100 for trade in happened]
            assert {(trade["exchange"], trade["symbol"]) for trade in trades.frames} == {("toy", SYMBOL)}
            assert begun <= 1
            await eventually(lambda: any(bar["is_closed"] for bar in bars.frames), WITHIN, "the end of a bar")
            [closed] = [bar for bar in bars.frames if bar["is_closed"]]
            truth = tape.bar("1m", floor_open("1m", START))
            assert (closed["timestamp"], closed["volume"]) == (iso(truth.open_time), truth.volume)
            assert 160_000.0 in [trade["value"] for trade in large.frames]


async def test_it_is_healthy_although_it_lacks_what_others_have(toy: Exchange, tmp_path: Path) -> None:
    """Open interest that an exchange does not have at all is no trouble."""
    async with toyland(tmp_path) as w:
        await w.health(lambda health: bool(health["exchanges"] == {"toy": True}), WITHIN)
        assert (await w.ask("/health/ready")).status_code == 200
        await w.pass_time(5000)
        health = await w.get("/health")
        assert (health["status"], health["exchanges"]) == ("healthy", {"toy": True}), health["feeds"]
        assert [entry for entry in w.logs if entry["log_level"] in ("warning", "error")] == []


async def test_afterwards_it_never_was() -> None:
    assert load_exchanges().keys() == EXCHANGES.keys()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("actors.exchanges.toy")
