"""What stands in for a connector on a node that has no lines: an exchange as its mirror and the engine tell it.

It never reaches the exchange. What is not held here, nodes with lines have.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import NoReturn, TypeVar
from urllib.parse import quote, urlencode

import msgspec
import trio

from actors import clock
from actors.archive.seen import Seen
from actors.collection import NO_READER
from actors.counts import Counts
from actors.engine.words import Engine, EngineAway
from actors.errors import NotReady, UnknownSymbol
from actors.events import (
    Event,
    FundingRate,
    Instrument,
    Kind,
    LargeTrade,
    Liquidation,
    Ohlc,
    OpenInterest,
    PredictedFunding,
    Topic,
)
from actors.exchanges.catalogue import Catalogue
from actors.exchanges.exchange import Exchange, Supervise
from actors.feeds.interest import POLL_MIN
from actors.mirror.feed import MirrorFeed
from actors.mirror.ingests import Ingests
from actors.mirror.lane import NOBODY
from actors.mirror.mirror import Mirror
from actors.upstream.budget import Budget

FIRST, AGAIN, SOONEST = 0.2, 60.0, 1.0
"""Seconds between looks for a catalogue: one that is not there yet, a newer one, one that a client's word asks for."""

SERIES_MAX = 2_000  # topics whose bars are held: some 40 kB each
READ_AGAIN = 10.0  # seconds until bars that do not reach as far as they are asked for are read again

T = TypeVar("T")

_decode = msgspec.json.Decoder(list[Instrument]).decode


class MirrorConnector:
    """`symbols`: those that the configuration names, on this node as on those that collect."""

    archive = None
    lines_connected = 0
    clock_skew = timedelta(0)

    def __init__(
        self,
        exchange: Exchange,
        mirror: Mirror,
        engine: Engine,
        ingests: Ingests,
        *,
        symbols: Sequence[str],
        supervise: Supervise,
    ) -> None:
        self.exchange, self.name = exchange, exchange.name
        self.symbols = tuple(symbols)
        self.budget = Budget(exchange.budget)  # nothing is ever spent of it
        self.counts = Counts()
        self.now = clock.now
        self._doubt = trio.Event()
        self.catalogue = Catalogue(exchange.name, exchange.aliases, self._doubt_it)
        self._mirror, self._engine, self._ingests = mirror, engine, ingests
        self._loaded: dict[tuple[MirrorFeed, str], None] = {}  # whose bars are held, the first that were first
        self._supervise = supervise
        self.check_capability, self.check_interval = exchange.check_capability, exchange.check_interval

    async def run(self) -> None:
        """Keep the catalogue, until cancelled."""
        await self._supervise("catalogue", self._keep_catalogue, exchange=self.name)

    # --- catalogue ---

    def _doubt_it(self) -> None:
        self._doubt.set()

    async def _keep_catalogue(self) -> None:
        known = None
        while True:
            try:
                text = await self._engine.catalogue(self.name)
            except EngineAway:
                text = None  # the mirror tells
            if text is not None and text != known:
                self.catalogue.adopt(_decode(text))
                known = text
            if known is None:
                await trio.sleep(FIRST)
                continue
            asked_at, self._doubt = trio.current_time(), trio.Event()
            with trio.move_on_after(AGAIN):
                await self._doubt.wait()
            await trio.sleep_until(asked_at + SOONEST)

    # --- feeds ---

    @property
    def feeds(self) -> Mapping[str, MirrorFeed]:
        """Of every symbol that is collected somewhere, as far as was told."""
        return {
            symbol: self._mirror.feed(symbol)
            for lane in self._mirror.lanes
            for symbol, told in list(lane.states.items())
            if (told.state, told.reason) != ("failed", NO_READER)
        }

    @property
    def is_live(self) -> bool:
        return any(feed.health.state in ("live", "stale") for feed in self.feeds.values())

    def not_ready_reason(self) -> str | None:
        """Why live data cannot be served at the moment; None when it can."""
        if not self.catalogue.instruments:
            return self.catalogue.problem
        if self.is_live:
            return None
        feeds = self.feeds
        if not feeds:
            return None if all(lane.holder for lane in self._mirror.lanes) else NOBODY
        return next((reason for feed in feeds.values() if (reason := feed.health.reason)), "no feed is live yet")

    def duplicates(self) -> Counter[Kind]:
        return Counter()

    @contextmanager
    def reading(self, topic: Topic) -> Iterator[MirrorFeed]:
        """The feed that serves `topic`, which whoever collects is asked to collect for as long as the block lasts.

        Raises UnknownSymbol, UnknownInterval or NotReady.
        """
        self.check_interval(topic.interval)
        told = self.feeds.get(topic.symbol)
        if told is None:
            topic = topic._replace(symbol=self.catalogue.resolve(topic.symbol).symbol)
            if problem := self.catalogue.problem_of(topic.symbol):
                raise UnknownSymbol(problem)
        elif told.health.state == "failed":
            raise UnknownSymbol(f"{topic.symbol} cannot be collected: {told.health.reason}")
        with self._mirror.reading(topic) as feed:
            yield feed

    def leader_of(self, symbol: str) -> str | None:
        """The node that leads the lane of a symbol; None: nobody does, or it is none."""
        known = self.catalogue.instruments
        name = symbol if symbol in known else symbol.upper()
        return self._mirror.feed(name).leader if name in known else None

    def end_if_unread(self, symbol: str) -> None:
        """Whoever collects it ends it once nobody wants it any more."""

    def is_configured(self, symbol: str, interval: str) -> bool:
        return symbol in self.symbols

    # --- requests: what is held ---

    def _present(self, symbol: str, kind: Kind) -> Event | None:
        feed = self._mirror.feed(self.catalogue.resolve(symbol).symbol)
        return feed.current(Topic(self.name, feed.symbol, kind)) if feed.is_current else None

    def held_open_interest(self, symbol: str) -> OpenInterest | None:
        """What is polled is known to whoever polls: where nothing new was told of late, that one is asked."""
        self.check_capability("open_interest")
        held = self._present(symbol, "oi")
        if not isinstance(held, OpenInterest):
            return None
        if "oi" not in self.exchange.pushed:
            told_ago = self._mirror.feed(held.symbol).told_ago(Topic(self.name, held.symbol, "oi"))
            # Who leads a lane since then may have told what it polled a while before.
            if max(told_ago, (clock.now() - held.timestamp).total_seconds()) >= POLL_MIN:
                return None
        return held

    def held_funding(self, symbol: str) -> FundingRate | None:
        """Its mark price is that of the moment at which the rate changed."""
        self.check_capability("funding_rate")
        held = self._present(symbol, "funding")
        return held if isinstance(held, FundingRate) else None

    def held_ohlc(
        self, symbol: str, interval: str, *, limit: int, start: datetime | None, end: datetime | None
    ) -> list[Ohlc] | None:
        symbol = self.catalogue.resolve(symbol).symbol
        self.check_interval(interval)
        return self._mirror.feed(symbol).ohlc(interval, limit=limit, start=start, end=end)

    async def _load(self, symbol: str, interval: str) -> None:
        """Have the bars of a topic that is told, read from the engine where that was not done of late."""
        feed = self._mirror.feed(self.catalogue.resolve(symbol).symbol)
        if not feed.is_current:  # what is held would be no answer
            return
        bars = feed.bars.get(interval)
        if bars is not None and trio.current_time() < bars.filled_at + READ_AGAIN:
            await bars.read.wait()
            return
        try:
            if await feed.load(interval):
                self._loaded[feed, interval] = None
        except EngineAway:
            return  # the mirror tells
        while len(self._loaded) > SERIES_MAX:
            oldest, name = next(iter(self._loaded))
            del self._loaded[oldest, name]
            oldest.bars.pop(name, None)

    # --- requests: what is not, asked of nodes with lines ---

    def known_ohlc(
        self, symbol: str, interval: str, *, limit: int, end: datetime | None, patience: timedelta
    ) -> list[Ohlc] | None:
        return None

    async def ohlc(
        self, symbol: str, interval: str, *, limit: int, start: datetime | None, end: datetime | None
    ) -> list[Ohlc]:
        """Raises MarketError, as who was asked says."""
        for is_read in (False, True):
            rows = self.held_ohlc(symbol, interval, limit=limit, start=start, end=end)
            if rows is not None:
                return rows
            if not is_read:
                await self._load(symbol, interval)
        times = {"start_time": start, "end_time": end}
        query = {"limit": limit, **{name: time.isoformat() for name, time in times.items() if time is not None}}
        return await self._ask(f"ohlc/{quote(symbol)}/{interval}?{urlencode(query)}", list[Ohlc])

    async def open_interest(self, symbol: str) -> OpenInterest:
        held = self.held_open_interest(symbol)
        return held if held is not None else await self._ask(f"oi/{quote(symbol)}", OpenInterest)

    async def funding(self, symbol: str) -> FundingRate:
        held = self.held_funding(symbol)
        return held if held is not None else await self._ask(f"funding/{quote(symbol)}", FundingRate)

    async def _ask(self, target: str, kind: type[T]) -> T:
        return await self._ingests.get(f"/{self.name}/{target}", kind)

    # --- requests that are passed on before they come here (web.rest.passing) ---

    async def open_interest_history(
        self, symbol: str, period: str, *, limit: int, start: datetime | None, end: datetime | None
    ) -> list[OpenInterest]:
        self._refuse()

    async def funding_history(
        self, symbol: str, *, limit: int, start: datetime | None, end: datetime | None
    ) -> list[FundingRate]:
        self._refuse()

    async def predicted_funding(self) -> list[PredictedFunding]:
        self._refuse()

    def liquidations(self, symbol: str) -> Seen[Liquidation]:
        self._refuse()

    def large_trades(self, symbol: str) -> Seen[LargeTrade]:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise NotReady(f"an edge does not hold that of {self.name}: a node that collects does")


def leader_for(connectors: Mapping[str, MirrorConnector], target: str) -> str | None:
    """Who leads the symbol that a path and query name, where they name one."""
    words = re.split("[/?&=]", target)
    connector = next((connectors[word] for word in words if word in connectors), None)
    if connector is None:
        return None
    return next((leader for word in words if (leader := connector.leader_of(word)) is not None), None)
