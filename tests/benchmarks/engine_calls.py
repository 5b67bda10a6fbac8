"""What single calls to an engine cost: bursts of events said, an empty look at the logs, memory per event.

The servers are real ones, on loopback; CPU is this process's own and the server's, in microseconds per event.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import msgspec

from actors.engine.remote import RemoteEngine, open_engine
from actors.engine.words import Burst, Entry, Kept, Lease
from actors.events import Trade, from_ms
from actors.relay.takeover import new_epoch
from tests.actors.engine.servers import Server, programs, running

from .processes import cpu_seconds, read_memory

BURSTS = (1, 10, 100)
LANES = (8, 32)
TOPICS = 100
SAID = {1: 1500, 10: 600, 100: 300}  # bursts of one round, by their size
LOOKS = 1000  # of one round
REMEMBERED = 100_000  # events whose memory is measured
FOREVER = 600.0  # seconds of a lease: nobody prolongs it here


class Cost(msgspec.Struct, frozen=True):
    """Microseconds of CPU per event, or per call: here, and in the server."""

    what: str
    here: float
    server: float


def entries(size: int, first: int) -> list[Entry]:
    """Trades of some 200 bytes, of one topic after the other."""
    found = []
    for number in range(first, first + size):
        symbol = f"A{number % TOPICS:03}USDT"
        trade = Trade(
            exchange="binance",
            symbol=symbol,
            timestamp=from_ms(1_700_000_000_000 + number),
            side="buy",
            price=60_123.4,
            quantity=0.016,
            value=961.9744,
            is_buyer_maker=False,
            trade_id=3_478_018_549 + number,
        )
        found.append(Entry(f"binance:{symbol}:trades", "trade", number // TOPICS + 1, msgspec.json.encode(trade)))
    return found


@asynccontextmanager
async def opened(program: str) -> AsyncIterator[tuple[RemoteEngine, Server]]:
    """A server of its own, and an engine on it."""
    with running(program) as server:
        async with open_engine(server.url, "marketd", Kept()) as engine:
            yield engine, server


async def spent(what: str, server: Server, units: int, calls: Callable[[], Awaitable[None]]) -> Cost:
    here, there = time.process_time(), cpu_seconds(server.pid)
    await calls()
    there, here = cpu_seconds(server.pid) - there, time.process_time() - here
    return Cost(what, here * 1e6 / units, there * 1e6 / units)


class Sayer:
    """One lane, and what was said in it."""

    def __init__(self, engine: RemoteEngine, lease: Lease) -> None:
        self._engine, self._lease = engine, lease
        self._n = self._said = 0

    async def say(self, bursts: list[list[Entry]]) -> None:
        for burst in bursts:
            self._n += 1
            await self._engine.say({self._lease: Burst(self._n, burst, {})})

    def bursts(self, count: int, size: int) -> list[list[Entry]]:
        """The next so many of so many events each, made before they are measured."""
        made = [entries(size, self._said + size * number) for number in range(count)]
        self._said += count * size
        return made


async def say_and_read(repeats: int, told: Callable[[str], None]) -> list[tuple[str, Cost]]:
    """All costs of all servers in turns: the server's name, and what one round found."""
    found: list[tuple[str, Cost]] = []
    for _ in range(repeats):
        for program in programs():
            async with opened(program) as (engine, server):
                lease = await engine.take("binance.0", "bench", FOREVER, new_epoch())
                assert lease is not None
                sayer = Sayer(engine, lease)
                await sayer.say(sayer.bursts(100, 10))  # the way is open, and the script is known
                for size in BURSTS:
                    bursts = sayer.bursts(SAID[size], size)
                    say = partial(sayer.say, bursts)
                    cost = await spent(f"say, {size} at once", server, SAID[size] * size, say)
                    found.append((program, cost))
                for lanes in LANES:
                    places = {f"binance.{number}": "0-0" for number in range(1, lanes)} | {"binance.0": "0-0"}
                    place = (await engine.present("binance.0")).place
                    found.append((program, await look(engine, server, sayer, places | {"binance.0": place})))
            told(program)
    return found


async def look(engine: RemoteEngine, server: Server, sayer: Sayer, places: dict[str, str]) -> Cost:
    """Reading bursts of one event each, from one of many lanes; what saying them costs is taken off."""
    bursts = sayer.bursts(LOOKS, 1)

    async def say_only() -> None:
        await sayer.say(bursts[: LOOKS // 2])

    async def say_and_look() -> None:
        for burst in bursts[LOOKS // 2 :]:
            await sayer.say([burst])
            (told,) = (await engine.read(places, 1.0)).values()
            places["binance.0"] = told[-1].place

    alone = await spent("", server, LOOKS // 2, say_only)
    places["binance.0"] = (await engine.present("binance.0")).place
    both = await spent("", server, LOOKS // 2, say_and_look)
    return Cost(f"read, {len(places)} lanes", both.here - alone.here, both.server - alone.server)


async def memory() -> list[tuple[str, float]]:
    """Bytes of each server per event and copy of it: one in the log, one in its topic's memory."""
    found = []
    for program in programs():
        async with opened(program) as (engine, server):
            lease = await engine.take("binance.0", "bench", FOREVER, new_epoch())
            assert lease is not None
            sayer = Sayer(engine, lease)
            await sayer.say(sayer.bursts(50, 100))
            before = read_memory(server.pid)
            for _ in range(REMEMBERED // 5000):
                await sayer.say(sayer.bursts(50, 100))
            found.append((program, (read_memory(server.pid) - before) / REMEMBERED / 2))
    return found
