"""Which symbols of one exchange are collected, and since when: the feeds that are configured, and those on demand.

A feed is made, started when the exchange lists its symbol, put on a line, and ended when it is no longer listed or,
where it came on demand, when nobody has read it for a while.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from typing import NamedTuple

import structlog
import trio

from actors.archive.archive import Archive
from actors.counts import Counts
from actors.errors import UnknownSymbol, UpstreamLimited
from actors.events import Instrument, Said, Topic
from actors.exchanges.catalogue import Catalogue
from actors.exchanges.exchange import Exchange, Rest, Supervise
from actors.feeds.derivation import BASE, DERIVABLE
from actors.feeds.everything import Everything
from actors.feeds.feed import Feed
from actors.feeds.interest import Turns
from actors.feeds.repair import AskLiquidations, AskMissed
from actors.lines.pool import Lines
from actors.upstream.budget import SLOTS

NO_READER = "no reader"  # why an on-demand feed failed that was ended
LINGER = 60.0  # seconds that an on-demand feed outlives its last reader

log = structlog.get_logger()


class Reach(NamedTuple):
    """How feeds reach the exchange, for as long as it is run."""

    nursery: trio.Nursery
    lines: Lines
    repair: Rest
    background: Rest
    missed_trades: AskMissed | None
    missed_liquidations: AskLiquidations | None


class Collection:
    def __init__(
        self,
        exchange: Exchange,
        catalogue: Catalogue,
        *,
        symbols: Sequence[str],
        on_demand: bool,
        intervals: Sequence[str],
        large_trade_threshold_usd: float,
        supervise: Supervise,
        everything: Everything,
        archive: Archive | None,
        linger: float,
        now: Callable[[], datetime],
        on_silence: Callable[[], None],
        counts: Counts,
        announced: Callable[[], str | None] = lambda: None,
        also: Callable[[Topic, Said], None] | None = None,
        always_wanted: Callable[[Topic], bool] = lambda topic: False,
    ) -> None:
        self.exchange = exchange
        self._catalogue = catalogue
        self.symbols = tuple(symbols)
        self.on_demand = on_demand
        self._intervals = self._known_of(intervals)
        self._threshold = large_trade_threshold_usd
        self._supervise = supervise
        self._everything = everything
        self._archive = archive
        self._linger = linger
        self._now = now  # the exchange's clock
        self._counts = counts
        self._announced = announced  # maintenance that is on just now
        self._also = also  # told all that feeds say
        self._always_wanted = always_wanted  # topics that are of use whoever reads
        self._on_silence = on_silence  # a topic that should speak does not
        self.feeds: dict[str, Feed] = {}
        self._turns = Turns(exchange.budget["weight"], now, lambda: len(self.feeds))
        self._loads = trio.CapacityLimiter(SLOTS["background"])
        self._taken_out: set[str] = set()  # symbols that were configured: nobody waits for their readers to come back
        self._ending: set[Feed] = set()  # for each a task waits to end it
        self._reach: Reach
        self._is_open = False

    @contextmanager
    def open(self, reach: Reach) -> Iterator[None]:
        """Have the configured feeds, which start when the catalogue lists them, for as long as the exchange is run."""
        self._reach, self._is_open = reach, True
        for symbol in self.symbols:
            self.feeds[symbol] = self._new_feed(symbol)
        try:
            yield
        finally:
            self._is_open = False

    def adopt(self) -> None:
        """There is a catalogue: start the feeds that it lists, end those that it no longer does."""
        for feed in list(self.feeds.values()):
            problem = self._catalogue.problem_of(feed.symbol)
            if problem:
                self._stop(feed, problem)
            elif feed.symbol not in self._reach.lines:
                self._start(feed)

    def _known_of(self, intervals: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in intervals if name in self.exchange.intervals)

    # --- other settings, while it runs ---

    def change(
        self,
        *,
        symbols: Sequence[str] | None = None,
        on_demand: bool | None = None,
        intervals: Sequence[str] | None = None,
        large_trade_threshold_usd: float | None = None,
    ) -> None:
        """Collect by other settings from now on, those that are given; what stays is not touched.

        A new symbol starts at once. One that is taken out ends at once, or as an on-demand feed does once its readers
        have left. A new interval is added to every configured feed; one that is taken out stays where it is kept.
        """
        if on_demand is not None:
            self.on_demand = on_demand
        if large_trade_threshold_usd is not None:
            self._threshold = large_trade_threshold_usd
            for feed in self.feeds.values():
                feed.tell_large_trades(large_trade_threshold_usd)
        if intervals is not None:
            self._change_intervals(self._known_of(intervals))
        if symbols is not None:
            self._change_symbols(tuple(symbols))

    @property
    def intervals(self) -> tuple[str, ...]:
        """Those of bars that are collected of every configured symbol."""
        return self._intervals

    def _change_intervals(self, intervals: tuple[str, ...]) -> None:
        self._intervals = intervals
        for feed in self.feeds.values():
            for interval in intervals if feed.symbol in self.symbols else ():
                needed = feed.topic("ohlc", BASE if interval in feed.derived else interval)
                if interval in feed.intervals:
                    continue
                if problem := self._no_room_for([needed]):
                    log.warning("feed.no_room", exchange=feed.exchange.name, symbol=feed.symbol, reason=problem)
                    continue
                self._add_interval(feed, interval)

    def _change_symbols(self, symbols: tuple[str, ...]) -> None:
        gone = set(self.symbols) - set(symbols)
        self.symbols = symbols
        self._taken_out = (self._taken_out | gone) - set(symbols)
        for symbol in gone:
            self.end_if_unread(symbol)
        for symbol in symbols:
            if symbol not in self.feeds:
                self.feeds[symbol] = self._new_feed(symbol)
        if self._catalogue.instruments:
            self.adopt()

    def followed(self) -> list[tuple[Instrument, tuple[str, ...]]]:
        """What is collected, and the intervals of its bars."""
        known = self._catalogue.instruments
        return [(known[symbol], feed.intervals) for symbol, feed in self.feeds.items() if symbol in known]

    # --- a feed's life ---

    def _new_feed(self, symbol: str) -> Feed:
        return Feed(
            self.exchange,
            symbol,
            self._intervals,
            large_trade_threshold_usd=self._threshold,
            supervise=self._supervise,
            repair=self._reach.repair,
            background=self._reach.background,
            turns=self._turns,
            everything=self._everything,
            loads=self._loads,
            derived=self._derived(),
            missed_trades=self._reach.missed_trades,
            missed_liquidations=self._reach.missed_liquidations,
            on_silence=self._on_silence,
            counts=self._counts,
            announced=self._announced,
            also=self._also,
            always_wanted=self._always_wanted,
            is_configured=lambda: symbol in self.symbols,
        )

    def _derived(self) -> frozenset[str]:
        """Intervals that a new feed makes of minutes: all that can be, where the exchange allows too few subscriptions.

        The exchange's own bars are preferred: it may know of trades that minutes do not add up to.
        """
        limit = self.exchange.limits.subscriptions
        if limit is None:
            return frozenset()
        topics = [Topic(self.exchange.name, "", "ohlc", interval) for interval in self._intervals]
        topics += [Topic(self.exchange.name, "", kind) for kind in self.exchange.pushed - {"ohlc"}]
        each = len({self.exchange.subscription_of(topic) for topic in topics})
        return DERIVABLE if each * max(len(self.symbols), len(self.feeds) + 1) > limit else frozenset()

    def _start(self, feed: Feed) -> None:
        feed.scope = trio.CancelScope()
        topics = feed.upstream_topics()
        if problem := self._no_room_for(topics):
            feed.health.fail(problem)
            return
        feed.health.revive()
        self._reach.nursery.start_soon(self._run_feed, feed)
        self._reach.lines.carry(feed, topics)

    async def _run_feed(self, feed: Feed) -> None:
        following = self._archive.following(feed, self._now) if self._archive else nullcontext()
        where = {"exchange": self.exchange.name, "symbol": feed.symbol}
        with feed.scope, following:
            await self._supervise("feed", feed.run, on_change=feed.changed, **where)

    def _stop(self, feed: Feed, reason: str) -> None:
        feed.scope.cancel()
        feed.expect_nothing()
        feed.health.fail(reason)
        self._reach.lines.drop(feed)

    def _no_room_for(self, topics: list[Topic]) -> str | None:
        """Why topics cannot be subscribed to beside all others; None where they can."""
        lines = self._reach.lines
        carried = [topic for feed in self.feeds.values() if feed.symbol in lines for topic in feed.upstream_topics()]
        return lines.no_room_for(topics, carried)

    # --- readers ---

    @contextmanager
    def reading(self, topic: Topic) -> Iterator[Feed]:
        """The feed that serves `topic`, started on demand, kept for as long as the block lasts and a while after.

        Raises UnknownSymbol, UnknownInterval, Unsupported or UpstreamLimited.
        """
        feed = self._feed_for(topic)
        feed.holds += 1
        try:
            with feed.wanting(topic.kind):
                yield feed
        finally:
            feed.holds -= 1
            if feed.holds == 0:
                self._let_go(feed)

    def end_if_unread(self, symbol: str) -> None:
        """End an on-demand feed at once, unless somebody holds it."""
        feed = self.feeds.get(symbol)
        if feed is not None and feed.holds == 0 and symbol not in self.symbols:
            self._stop(feed, NO_READER)
            self._counts.duplicates.update(feed.duplicates())
            del self.feeds[symbol]

    def _feed_for(self, topic: Topic) -> Feed:
        self.exchange.check_interval(topic.interval)
        # A configured symbol's feed exists before the catalogue does: its clients may wait for both.
        symbol = topic.symbol if topic.symbol in self.feeds else self._catalogue.resolve(topic.symbol).symbol
        feed = self.feeds.get(symbol)
        if feed is None or feed.health.state == "failed":
            self._catalogue.check_trading(symbol)
        if feed is None:
            if not self.on_demand:
                name = self.exchange.name
                raise UnknownSymbol(f"{symbol} is not collected here and on_demand is off for {name}")
            feed = self._new_feed(symbol)
            if problem := self._no_room_for(feed.upstream_topics()):
                raise UpstreamLimited(f"{symbol} cannot be collected: {problem}")
            self.feeds[symbol] = feed
            self._start(feed)
        if feed.health.state == "failed":
            raise UnknownSymbol(f"{symbol} cannot be collected: {feed.health.reason}")
        if topic.interval is not None and topic.interval not in feed.intervals:
            needed = BASE if topic.interval in feed.derived else topic.interval
            if problem := self._no_room_for([feed.topic("ohlc", needed)]):
                if feed.holds == 0:
                    self._let_go(feed)  # nobody else will
                raise UpstreamLimited(problem)
            self._add_interval(feed, topic.interval)
        return feed

    def _add_interval(self, feed: Feed, interval: str) -> None:
        topics = feed.add_interval(interval)
        if topics and feed.symbol in self._reach.lines:
            self._reach.lines.carry(feed, topics)

    def _let_go(self, feed: Feed) -> None:
        """Nobody holds the feed any more: end it, in a while, unless it is configured."""
        if not self._is_open:  # it ended with its exchange
            return
        if feed.symbol in self._taken_out:
            self._taken_out.discard(feed.symbol)
            self.end_if_unread(feed.symbol)
        elif feed.symbol not in self.symbols:
            feed.left_at = trio.current_time()
            if feed not in self._ending:  # one task, however often it is taken and left
                self._ending.add(feed)
                self._reach.nursery.start_soon(self._end_when_idle, feed)

    async def _end_when_idle(self, feed: Feed) -> None:
        """End an on-demand feed once nobody has held it for the lingering time."""
        while feed.holds == 0 and (wait := feed.left_at + self._linger - trio.current_time()) > 0:  # noqa: ASYNC110 (time ends it)
            await trio.sleep(wait)
        self._ending.discard(feed)
        if self.feeds.get(feed.symbol) is feed:
            self.end_if_unread(feed.symbol)
