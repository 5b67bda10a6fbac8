"""A connector: the actor that runs one exchange. It owns the catalogue, the REST host's budget, the lines, the feeds.

Clients' requests enter here: answered by a feed's memory where it is current, else by one upstream call that all
identical requests in flight share.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog
import trio

from actors import clock
from actors.archive.archive import Archive
from actors.archive.recall import KeptRest, Recall, fetch_of
from actors.archive.refill import Refill, Wanted
from actors.archive.seen import Seen, sampled, with_sampled_interest
from actors.archive.series import Series
from actors.errors import (
    BadMessage,
    MarketError,
    UnknownInterval,
    UnknownSymbol,
    Unsupported,
    UpstreamLimited,
)
from actors.events import (
    FundingRate,
    Instrument,
    LargeTrade,
    Liquidation,
    Ohlc,
    OpenInterest,
    PredictedFunding,
    Topic,
)
from actors.exchanges.catalogue import Catalogue
from actors.exchanges.exchange import Change, Exchange, Rest, Supervise
from actors.feeds.derivation import BASE, DERIVABLE
from actors.feeds.everything import Everything
from actors.feeds.feed import Feed
from actors.lines.pool import Lines
from actors.upstream.budget import Budget
from actors.upstream.flights import Flights
from actors.upstream.rest import Http, RestClient, tls_for
from actors.upstream.seam import LIVE, Upstream

CATALOGUE_EVERY = 3600.0  # seconds between looks for listings and delistings
LINGER = 60.0  # seconds that an on-demand feed outlives its last reader
POLL_SHARE = 0.25  # of a minute's request weight that open-interest polling may use
POLL_MIN = 10.0  # seconds between polls of one symbol
CLOCK_STEP = timedelta(seconds=0.5)  # between two looks, beside the time that passed
LOOK_EVERY = 2.0  # seconds between looks for topics that are silent for longer than is usual for them
PROBE_AFTER = 5.0  # seconds between the two bars that tell whether anything happens at the exchange

log = structlog.get_logger()


class Connector:
    def __init__(
        self,
        exchange: Exchange,
        *,
        symbols: Sequence[str],
        on_demand: bool,
        rest_url: str,
        ws_url: str,
        intervals: Sequence[str],
        large_trade_threshold_usd: float,
        supervise: Supervise,
        everything: Everything | None = None,
        archive: Archive | None = None,
        linger: float = LINGER,
        upstream: Upstream = LIVE,
    ) -> None:
        self.exchange = with_sampled_interest(exchange, archive)
        self._samples_interest = self.exchange is not exchange
        self.archive = archive
        self._recall = Recall(archive, exchange, self.now) if archive else None
        self.name = exchange.name
        self.symbols = tuple(symbols)
        self.on_demand = on_demand
        self._rest_url, self._ws_url = rest_url.rstrip("/"), ws_url.rstrip("/")
        self._intervals = tuple(name for name in intervals if name in exchange.intervals)
        self._threshold = large_trade_threshold_usd
        self._supervise = supervise
        self._everything = everything or Everything()
        self._linger = linger
        self._upstream = upstream
        self.listed = trio.Event()  # the catalogue has arrived
        self.budget = Budget(exchange.budget)
        self.catalogue = Catalogue(exchange.name, exchange.aliases)
        self.feeds: dict[str, Feed] = {}
        self._clock_offset = timedelta(0)  # the exchange's clock minus ours
        self._clock_check: tuple[datetime, float] | None = (
            None  # our clock, and the one that nobody sets, when last read
        )

    async def run(self) -> None:
        """Run the exchange until cancelled."""
        self._tls = tls_for(self._rest_url, self._ws_url)
        async with (
            self._upstream.open_http(self.name, self._rest_url, self._tls) as http,
            trio.open_nursery() as nursery,
        ):
            self._nursery = nursery
            self._flights = Flights(nursery)
            self._lines = Lines(
                self.exchange,
                self._ws_url,
                self._tls,
                self.catalogue.instruments,
                nursery,
                self._supervise,
                self._exchange_time,
                self._upstream,
            )
            self._client = self._rest_client(http, background=False)
            self._rest = self._open_rest(self._client)
            self._background = self._open_rest(self._rest_client(http, background=True))
            # Of its own, so that the last answer is the one that said the time.
            self._clock_client = self._rest_client(http, background=True)
            self._clock = self.exchange.open_rest(self._clock_client, self.now)
            missed = self.exchange.missed_trades
            self._missed_trades = None if missed is None else partial(missed, self._client)
            for symbol in self.symbols:
                self.feeds[symbol] = self._new_feed(symbol)
            for name, task in (("watch", self._watch), ("rotation", self._lines.replace_the_old)):
                nursery.start_soon(partial(self._supervise, name, task, exchange=self.name))
            if self._recall is not None:
                nursery.start_soon(self._refill, self._recall)
            await self._supervise("catalogue", self._keep_catalogue, on_change=self._no_catalogue, exchange=self.name)
            for feed in self.feeds.values():  # only reached where the supervisor gives up
                feed.health.fail(self.catalogue.problem or "the catalogue is no longer read")
            await trio.sleep_forever()

    def _rest_client(self, http: Http, *, background: bool) -> RestClient:
        exchange = self.exchange
        return RestClient(http, self.budget, exchange.explain, background=background, used_header=exchange.used_header)

    def _open_rest(self, client: RestClient) -> Rest:
        rest = self.exchange.open_rest(client, self.now)
        return KeptRest(rest, self._recall) if self._recall else rest

    async def _refill(self, recall: Recall) -> None:
        await self.listed.wait()
        refill = Refill(recall, self._background, self.now, self._followed)
        await self._supervise("archive_refill", refill.run, exchange=self.name)

    def _followed(self) -> list[Wanted]:
        known = self.catalogue.instruments
        return [(known[symbol], feed.intervals) for symbol, feed in self.feeds.items() if symbol in known]

    def now(self) -> datetime:
        """The exchange's clock, as far as it is known."""
        return self._exchange_time(clock.now())

    def _exchange_time(self, ours: datetime) -> datetime:
        """What the exchange's clock showed at a moment of ours, which is now or was a moment ago."""
        now, since = clock.now(), trio.current_time()
        if self._clock_check is not None:
            before, at = self._clock_check
            step = now - before - timedelta(seconds=since - at)
            if abs(step) > CLOCK_STEP:  # somebody set our clock: the exchange's has not moved
                self._clock_offset -= step
                ours = now
                log.warning("clock.stepped", exchange=self.name, seconds=step.total_seconds())
        self._clock_check = now, since
        return ours + self._clock_offset

    # --- catalogue ---

    async def _keep_catalogue(self) -> None:
        while True:
            await self._read_clock()
            instruments = await self._background.instruments()
            if not instruments:
                raise BadMessage("the exchange's catalogue is empty")
            self._adopt(instruments)
            await trio.sleep(CATALOGUE_EVERY)

    async def _read_clock(self) -> None:
        before = clock.now()
        try:
            server_time = await self._clock.server_time()
        except MarketError as error:  # our own clock will do: it only decides which bar is the open one
            log.warning("exchange.clock_unknown", exchange=self.name, reason=str(error))
            return
        answer = self._clock_client.last_answer
        if answer is not None:  # without the wait for the budget's room
            before, after = answer.asked_at, answer.answered_at
        else:
            after = clock.now()
        self._clock_offset = server_time - (before + (after - before) / 2)

    def _no_catalogue(self, change: Change) -> None:
        if not self.catalogue.instruments:
            self.catalogue.problem = f"no catalogue: {change.reason}"
            for feed in self.feeds.values():
                feed.line_down(self.catalogue.problem, change.delay)

    def _adopt(self, instruments: Sequence[Instrument]) -> None:
        """Take a catalogue: start the feeds that it lists, end those that it no longer does."""
        self.catalogue.adopt(instruments)
        self.listed.set()
        for feed in list(self.feeds.values()):
            problem = self.catalogue.problem_of(feed.symbol)
            if problem:
                self._stop(feed, problem)
            elif feed.symbol not in self._lines:
                self._start(feed)

    # --- feeds and lines ---

    def _new_feed(self, symbol: str) -> Feed:
        return Feed(
            self.exchange,
            symbol,
            self._intervals,
            large_trade_threshold_usd=self._threshold,
            supervise=self._supervise,
            rest=self._rest,
            background=self._background,
            poll_every=self._poll_every,
            everything=self._everything,
            derived=self._derived(),
            missed_trades=self._missed_trades,
        )

    def _derived(self) -> frozenset[str]:
        """Intervals that a new feed makes of minutes: all that can be, where the exchange allows too few subscriptions.

        The exchange's own bars are preferred: it may know of trades that minutes do not add up to.
        """
        limit = self.exchange.limits.subscriptions
        if limit is None:
            return frozenset()
        topics = [Topic(self.name, "", "ohlc", interval) for interval in self._intervals]
        topics += [Topic(self.name, "", kind) for kind in self.exchange.pushed - {"ohlc"}]
        each = len({self.exchange.subscription_of(topic) for topic in topics})
        return DERIVABLE if each * max(len(self.symbols), len(self.feeds) + 1) > limit else frozenset()

    def _poll_every(self) -> float:
        window = self.exchange.budget["weight"]
        polls_per_second = window.limit * POLL_SHARE / window.seconds
        return max(POLL_MIN, len(self.feeds) / polls_per_second)

    def _start(self, feed: Feed) -> None:
        feed.scope = trio.CancelScope()
        topics = feed.upstream_topics()
        if problem := self._no_room_for(topics):
            feed.health.fail(problem)
            return
        feed.health.revive()
        self._nursery.start_soon(self._run_feed, feed)
        self._lines.carry(feed, topics)

    async def _run_feed(self, feed: Feed) -> None:
        following = self.archive.following(feed, self.now) if self.archive else nullcontext()
        with feed.scope, following:
            await self._supervise("feed", feed.run, on_change=feed.changed, exchange=self.name, symbol=feed.symbol)

    def _stop(self, feed: Feed, reason: str) -> None:
        feed.scope.cancel()
        feed.health.fail(reason)
        self._lines.drop(feed)

    def _no_room_for(self, topics: list[Topic]) -> str | None:
        """Why topics cannot be subscribed to beside all others; None where they can."""
        carried = [
            topic for feed in self.feeds.values() if feed.symbol in self._lines for topic in feed.upstream_topics()
        ]
        return self._lines.no_room_for(topics, carried)

    # --- topics that fell silent ---

    async def _watch(self) -> None:
        probed: set[str] = set()  # symbols, one of whose topics is being looked into

        async def look_into(feed: Feed, topic: Topic) -> None:
            await self._probe(feed, topic)
            probed.discard(feed.symbol)

        async with trio.open_nursery() as probes:
            while True:
                await trio.sleep(LOOK_EVERY)
                now = trio.current_time()
                for feed in self.feeds.values():
                    if feed.symbol not in probed and (topic := feed.overdue(now)):
                        probed.add(feed.symbol)
                        probes.start_soon(look_into, feed, topic)

    async def _probe(self, feed: Feed, topic: Topic) -> None:
        """Ask the exchange whether anything happens that a silent topic should tell; a quiet market is left alone."""
        try:
            before = await self._background.ohlc(feed.symbol, BASE, limit=1)
            await trio.sleep(PROBE_AFTER)
            after = await self._background.ohlc(feed.symbol, BASE, limit=1)
        except MarketError as error:
            log.info("topic.not_probed", topic=str(topic), reason=str(error))
            feed.excuse(topic)  # nothing is known: ask again after another while
        else:
            if _has_traded(before, after) and feed.is_overdue(topic):
                log.warning("topic.silent", topic=str(topic))
                self._lines.doubt(topic, f"no {topic.kind} data, though the exchange has some")
            feed.excuse(topic)

    @contextmanager
    def reading(self, topic: Topic) -> Iterator[Feed]:
        """The feed that serves `topic`, started on demand, kept for as long as the block lasts and a while after.

        Raises UnknownSymbol, UnknownInterval, Unsupported or UpstreamLimited.
        """
        feed = self._feed_for(topic)
        feed.holds += 1
        try:
            yield feed
        finally:
            feed.holds -= 1
            if feed.holds == 0 and feed.symbol not in self.symbols:
                self._nursery.start_soon(self._end_when_idle, feed)

    def _feed_for(self, topic: Topic) -> Feed:
        self.check_interval(topic.interval)
        # A configured symbol's feed exists before the catalogue does: its clients may wait for both.
        symbol = topic.symbol if topic.symbol in self.feeds else self.catalogue.resolve(topic.symbol).symbol
        feed = self.feeds.get(symbol)
        if feed is None:
            if problem := self.catalogue.problem_of(symbol):
                raise UnknownSymbol(problem)
            if not self.on_demand:
                raise UnknownSymbol(f"{symbol} is not collected here and on_demand is off for {self.name}")
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
                if feed.holds == 0 and symbol not in self.symbols:
                    self._nursery.start_soon(self._end_when_idle, feed)  # nobody else will
                raise UpstreamLimited(problem)
            topics = feed.add_interval(topic.interval)
            if symbol in self._lines:
                self._lines.carry(feed, topics)
        return feed

    async def _end_when_idle(self, feed: Feed) -> None:
        """End an on-demand feed once nobody has held it for the lingering time."""
        feed.left_at = left_at = trio.current_time()
        await trio.sleep(self._linger)
        if feed.holds == 0 and feed.left_at == left_at and self.feeds.get(feed.symbol) is feed:
            self._stop(feed, "no reader")
            del self.feeds[feed.symbol]

    @property
    def is_live(self) -> bool:
        """At least one feed delivers."""
        return any(feed.health.state in ("live", "stale") for feed in self.feeds.values())

    def not_ready_reason(self) -> str | None:
        """Why the exchange cannot serve live data at the moment; None when it can."""
        if not self.catalogue.instruments:
            return self.catalogue.problem
        if self.is_live or not self.feeds:
            return None
        return next((reason for feed in self.feeds.values() if (reason := feed.health.reason)), "no feed is live yet")

    # --- requests ---

    def _caller(self, background: bool) -> Rest:
        return self._background if background else self._rest

    def check_interval(self, interval: str | None) -> None:
        if interval is not None and interval not in self.exchange.intervals:
            raise UnknownInterval(f"{self.name} has no interval {interval!r}: {', '.join(self.exchange.intervals)}")

    def check_capability(self, capability: str) -> None:
        if not self.exchange.capabilities.get(capability):
            raise Unsupported(f"{self.name} has no {capability.replace('_', ' ')}")

    async def ohlc(
        self,
        symbol: str,
        interval: str,
        *,
        limit: int,
        start: datetime | None,
        end: datetime | None,
        background: bool = False,
    ) -> list[Ohlc]:
        """Up to `limit` bars of `[start, end)`: from memory where it is current, else from the exchange."""
        rows = self.held_ohlc(symbol, interval, limit=limit, start=start, end=end)
        if rows is not None:
            return rows
        series = Series("ohlc", self.name, self.catalogue.resolve(symbol).symbol, interval)
        return await self._past(series, limit=limit, start=start, end=end, background=background)

    async def _past(
        self, series: Series, *, limit: int, start: datetime | None, end: datetime | None, background: bool = False
    ) -> list[Any]:
        """What an exchange tells again: from the archive where that has it; identical requests share the calls."""
        fetch = fetch_of(self._caller(background), series, self.catalogue.instruments[series.symbol])
        kept = self.exchange.open_interest_kept if series.kind == "open_interest_history" else None

        async def answer() -> list[Any]:
            if self._recall is None:
                return await fetch(start, end, limit)
            return await self._recall.answer(series, fetch, limit=limit, start=start, end=end, kept=kept)

        return await self._flights.share((series, limit, start, end, background), answer)

    def held_ohlc(
        self, symbol: str, interval: str, *, limit: int, start: datetime | None, end: datetime | None
    ) -> list[Ohlc] | None:
        """The same from memory alone; None where the exchange must be asked."""
        feed = self.feeds.get(self.catalogue.resolve(symbol).symbol)
        self.check_interval(interval)
        return feed.ohlc(interval, limit=limit, start=start, end=end) if feed else None

    async def open_interest(self, symbol: str) -> OpenInterest:
        interest = self.held_open_interest(symbol)
        if interest is not None:
            return interest
        symbol = self.catalogue.resolve(symbol).symbol
        return await self._flights.share(("oi", symbol), lambda: self._rest.open_interest(symbol))

    def held_open_interest(self, symbol: str) -> OpenInterest | None:
        """The same from memory alone; None where the exchange must be asked."""
        self.check_capability("open_interest")
        feed = self.feeds.get(self.catalogue.resolve(symbol).symbol)
        return feed.open_interest() if feed else None

    async def open_interest_history(
        self,
        symbol: str,
        period: str,
        *,
        limit: int,
        start: datetime | None,
        end: datetime | None,
        background: bool = False,
    ) -> list[OpenInterest]:
        self.check_capability("open_interest_history")
        symbol = self.catalogue.resolve(symbol).symbol
        if self.archive is not None and self._samples_interest:
            series = Series("open_interest", self.name, symbol)
            return await sampled(self.archive, series, period, limit=limit, start=start, end=end, now=self.now())
        series = Series("open_interest_history", self.name, symbol, period)
        return await self._past(series, limit=limit, start=start, end=end, background=background)

    async def funding(self, symbol: str) -> FundingRate:
        funding = self.held_funding(symbol)
        if funding is not None:
            return funding
        instrument = self.catalogue.resolve(symbol)
        return await self._flights.share(("funding", instrument.symbol), lambda: self._rest.funding(instrument))

    def held_funding(self, symbol: str) -> FundingRate | None:
        """The same from memory alone; None where the exchange must be asked."""
        self.check_capability("funding_rate")
        feed = self.feeds.get(self.catalogue.resolve(symbol).symbol)
        return feed.funding() if feed else None

    async def funding_history(
        self, symbol: str, *, limit: int, start: datetime | None, end: datetime | None
    ) -> list[FundingRate]:
        self.check_capability("funding_rate_history")
        instrument = self.catalogue.resolve(symbol)
        series = Series("funding_history", self.name, instrument.symbol)
        return await self._past(series, limit=limit, start=start, end=end)

    async def predicted_funding(self) -> list[PredictedFunding]:
        self.check_capability("predicted_funding")
        predict = self.exchange.predicted_funding
        if predict is None:
            raise Unsupported(f"{self.name} predicts no funding")
        return await self._flights.share("predicted_funding", lambda: predict(self._client))

    @property
    def clock_skew(self) -> timedelta:
        """The exchange's clock minus ours, as measured last."""
        return self._clock_offset

    def liquidations(self, symbol: str) -> Seen[Liquidation]:
        """What this daemon saw; nothing for a symbol that it never collected."""
        self.check_capability("liquidations")
        symbol = self.catalogue.resolve(symbol).symbol
        feed = self.feeds.get(symbol)
        return Seen(self.archive, Series("liquidations", self.name, symbol), feed.liquidations if feed else ())

    def large_trades(self, symbol: str) -> Seen[LargeTrade]:
        """What this daemon saw; nothing for a symbol that it never collected."""
        self.check_capability("large_trades")
        symbol = self.catalogue.resolve(symbol).symbol
        feed = self.feeds.get(symbol)
        return Seen(self.archive, Series("large_trades", self.name, symbol), feed.large_trades if feed else ())


def _has_traded(before: list[Ohlc], after: list[Ohlc]) -> bool:
    """Whether the newest bar moved between two looks: a new one without volume says nothing."""
    if not after:
        return False
    if before and before[-1].timestamp == after[-1].timestamp:
        return after[-1].volume != before[-1].volume
    return after[-1].volume > 0
