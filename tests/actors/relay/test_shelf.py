"""What whoever leads puts at the engine for nodes without lines, and when."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

import msgspec
import trio
from trio.testing import MockClock

from actors.engine.memory import START_MS, MemoryEngine
from actors.engine.words import Lease
from actors.events import Event, Ohlc, Topic, from_ms, ms
from actors.relay.lane import Lane
from actors.relay.relay import Relay
from actors.relay.shelf import LOOK, Shelf
from actors.relay.writer import Writer
from tests.actors.relay.fixtures import bar

MINUTE = 60_000
TOPICS = [Topic("binance", "BTCUSDT", "ohlc", "1m"), Topic("binance", "ETHUSDT", "ohlc", "1m")]
LANE = "binance.0"


class Engine(MemoryEngine):
    """It notes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    async def write_bars(self, lease: Lease, topic: str, bars: Mapping[int, bytes]) -> None:
        await super().write_bars(lease, topic, bars)
        self.written.append(topic)

    async def write_catalogue(self, exchange: str, text: bytes) -> None:
        await super().write_catalogue(exchange, text)
        self.written.append(exchange)

    def news(self) -> list[str]:
        found, self.written = self.written, []
        return found


@dataclass
class Feed:
    """With so many closed bars before the moment at which the engine began; not loaded yet where that is None."""

    symbol: str
    count: int | None = None

    def opened(self, number: int) -> datetime:
        return from_ms(START_MS // MINUTE * MINUTE - number * MINUTE)

    def held_since(self, interval: str) -> datetime | None:
        return None if self.count is None else self.opened(self.count)

    def closed_bars(self, interval: str, count: int) -> tuple[datetime, list[Ohlc], bool] | None:
        closed = [
            bar(self.symbol, self.opened(number), float(number), is_closed=True)
            for number in range(self.count or 0, 0, -1)
        ]
        return self.opened(0), closed[-count:], False

    def current(self, topic: Topic) -> Event | None:
        return None


@dataclass
class Connector:
    name: str = "binance"
    feeds: dict[str, Feed] = field(default_factory=lambda: {topic.symbol: Feed(topic.symbol) for topic in TOPICS})
    instruments: dict[str, Any] = field(default_factory=dict)

    @property
    def catalogue(self) -> "Connector":
        return self


class Shelved:
    def __init__(self) -> None:
        self.engine, self.connector = Engine(), Connector()
        self.lane = Lane(LANE, Writer(lambda symbol: None))
        for topic in TOPICS:
            self.lane.writer.take(topic, bar(topic.symbol, from_ms(START_MS), 1.0, is_closed=False))

    async def lead(self, name: str) -> None:
        if self.lane.lease is not None:
            await self.engine.release(self.lane.lease)
        self.lane.lease = await self.engine.take(LANE, name, 1e6, "1-a")

    async def news(self) -> list[str]:
        """What is written in a while."""
        await trio.sleep(3 * LOOK)
        return self.engine.news()


@asynccontextmanager
async def shelved() -> AsyncIterator[Shelved]:
    async with trio.open_nursery() as nursery:
        one = Shelved()
        relay = cast(Relay, type("Relay", (), {"lanes": [one.lane]}))
        nursery.start_soon(Shelf(one.engine, relay, one.connector).run)
        yield one
        nursery.cancel_scope.cancel()


async def test_bars_are_written_by_whoever_leads_once_they_are_loaded_and_only_where_they_lack(
    autojump_clock: MockClock,
) -> None:
    first, second = map(str, TOPICS)
    async with shelved() as one:
        one.connector.feeds["BTCUSDT"].count = 20
        assert await one.news() == []  # nothing is led
        await one.lead("a")
        assert await one.news() == [first]
        kept = await one.engine.bars(LANE, first)
        assert [msgspec.json.decode(text, type=Ohlc).close for text in kept] == [float(n) for n in range(20, 0, -1)]
        one.connector.feeds["ETHUSDT"].count = 20
        assert await one.news() == [second]
        await one.lead("b")
        assert await one.news() == []  # the engine has them
        one.connector.feeds["BTCUSDT"].count = 30
        await one.lead("c")
        assert await one.news() == [first]
        assert (await one.engine.bars_since(LANE, [first]))[first] == ms(one.connector.feeds["BTCUSDT"].opened(30))


async def test_bars_are_written_again_where_a_gap_was_told(autojump_clock: MockClock) -> None:
    async with shelved() as one:
        for feed in one.connector.feeds.values():
            feed.count = 20
        await one.lead("a")
        assert await one.news() == [*map(str, TOPICS)]
        one.lane.writer.torn |= {str(TOPICS[1]), "binance:ETHUSDT:trades"}
        one.connector.feeds["ETHUSDT"].count = None  # what was missed is yet to be loaded
        assert await one.news() == []
        one.connector.feeds["ETHUSDT"].count = 20
        assert await one.news() == [str(TOPICS[1])]
        assert await one.news() == []


async def test_the_catalogue_is_written_where_it_is_another_one_and_in_each_term(autojump_clock: MockClock) -> None:
    async with shelved() as one:
        await one.lead("a")
        assert await one.news() == []  # there is none
        one.connector.instruments["BTCUSDT"] = {"symbol": "BTCUSDT"}
        assert await one.news() == ["binance"]
        assert await one.engine.catalogue("binance") == b'[{"symbol":"BTCUSDT"}]'
        assert await one.news() == []
        await one.lead("b")
        assert await one.news() == ["binance"]
