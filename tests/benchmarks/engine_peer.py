"""One end of an engine in a process of its own: a mirror that tells nobody, or a relay of events made here.

The mirror reads one topic itself: its trades carry the moment at which they were said, so it knows how long they took.
Talks to its parent in lines of JSON: `Ready` first; each line that it is told it answers with `Heard`.
"""

import argparse
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import cycle
from types import MappingProxyType
from typing import Any

import msgspec
import structlog
import trio

from actors.engine.remote import open_engine
from actors.engine.words import Engine, Kept, Member
from actors.events import Topic, Trade, from_ms
from actors.exchanges.exchange import load_exchanges
from actors.mirror.everywhere import Everywhere
from actors.mirror.mirror import Mirror
from actors.relay.closes import Knows
from actors.relay.members import Members
from actors.relay.relay import Relay
from actors.relay.saying import Saying
from actors.relayed import Relayed

from .feeder import SYMBOL, age_of, now_us, symbols

LANES, LEASE = 8, 3.0
CAPACITY = 100_000
TICK = 0.001  # seconds between looks whether something is due
EXCHANGE = load_exchanges()["binance"]


class Ready(msgspec.Struct, frozen=True):
    ready: bool = True


class Heard(msgspec.Struct, frozen=True):
    """Since the last answer: events said or told, and microseconds that the trades of one topic took, ascending."""

    events: int
    ages: list[int]


async def supervise(name: str, run: Callable[[], Awaitable[None]], **context: object) -> None:
    """Nothing may fail here."""
    await run()


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 (state of tasks that tell nobody)
        await trio.sleep(0.05)


async def mirror(engine: Engine, nursery: trio.Nursery) -> Callable[[], Heard]:
    everywhere = Everywhere(engine, supervise=supervise)
    one = Mirror(EXCHANGE, engine, lanes=LANES, seconds=LEASE, everywhere=everywhere, supervise=supervise)
    topic = Topic("binance", SYMBOL, "trades")
    reader = one.feed(SYMBOL).subscribe(topic, CAPACITY)
    ages: list[int] = []
    before = 0

    async def read() -> None:
        while True:
            said = await reader.receive()
            if isinstance(said, Relayed):
                ages.append(age_of(said.price, now_us()))

    def heard() -> Heard:
        nonlocal before
        now = sum(seq for lane in one.lanes for seq in lane.seqs.values())
        found, before = Heard(now - before, sorted(ages)), now
        ages.clear()
        return found

    nursery.start_soon(one.run)
    nursery.start_soon(read)
    await until(lambda: not one.is_away and all(lane.epoch for lane in one.lanes))
    heard()
    return heard


class NoFeeds:
    """A connector, as far as a relay asks it."""

    feeds: Mapping[str, Knows] = MappingProxyType({})


async def relay(engine: Engine, nursery: trio.Nursery, rate: float, flush: float) -> Callable[[], Heard]:
    """Trades of a hundred symbols in turn; the price of each is the moment at which it is said."""
    members = Members(engine, Member(name="bench", role="both", address=""), seconds=LEASE)
    saying = Saying(engine, seconds=LEASE, flush=flush)
    about: Any = {"lanes": LANES, "copies": 2, "seconds": LEASE, "saying": saying, "supervise": supervise}
    one = Relay("binance", engine, members=members, **about)
    topics = [Topic("binance", symbol, "trades") for symbol in symbols(100)]
    said = 0

    async def say() -> None:
        nonlocal said
        due = time.monotonic()
        for number, topic in enumerate(cycle(topics)):
            if due > time.monotonic():
                await trio.sleep(TICK)
            due += 1 / rate
            said += 1
            price = now_us() % 10**9 / 1000
            one.take(
                topic,
                Trade(
                    exchange="binance",
                    symbol=topic.symbol,
                    timestamp=from_ms(time.time_ns() // 1_000_000),
                    side="buy",
                    price=price,
                    quantity=0.016,
                    value=961.9744,
                    is_buyer_maker=False,
                    trade_id=number,
                ),
            )

    def heard() -> Heard:
        nonlocal said
        found, said = Heard(said, []), 0
        return found

    nursery.start_soon(members.run)
    nursery.start_soon(saying.run)
    nursery.start_soon(one.run, NoFeeds())
    await until(lambda: all(lane.lease for lane in one.lanes))
    nursery.start_soon(say)
    return heard


async def run(options: argparse.Namespace) -> None:
    async with open_engine(options.url, "marketd", Kept()) as engine, trio.open_nursery() as nursery:
        if options.role == "mirror":
            heard = await mirror(engine, nursery)
        else:
            heard = await relay(engine, nursery, options.rate, options.flush / 1000)
        tell(Ready())
        while await trio.to_thread.run_sync(sys.stdin.buffer.readline):
            tell(heard())
        nursery.cancel_scope.cancel()


def tell(message: msgspec.Struct) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--role", choices=("mirror", "relay"), required=True)
    parser.add_argument("--url", required=True, help="of the server")
    parser.add_argument("--rate", type=float, default=2000.0, help="events a second that a relay makes")
    parser.add_argument("--flush", type=float, default=5.0, help="milliseconds that an event may wait for others")
    parser.add_argument("--limit", type=int, required=True, help="seconds after which the process ends, whatever is on")
    options = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is the parent's
    signal.alarm(options.limit)
    trio.run(run, options)
