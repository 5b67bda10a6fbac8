"""A connector: the actor that runs one exchange. It owns the catalogue, the REST host's budget, the lines, and the
collection of feeds.

Clients' requests enter here: answered by a feed's memory where it is current, else by one upstream call that all
identical requests in flight share.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog
import trio

from actors.archive.archive import Archive
from actors.archive.kept import KeptRest
from actors.archive.recall import Recall, fetch_of
from actors.archive.refill import Refill
from actors.archive.seen import Seen, sampled, with_sampled_interest
from actors.archive.series import Series
from actors.collection import LINGER, Collection, Reach
from actors.counts import Counts
from actors.errors import MarketError, Unsupported
from actors.events import (
    INTERVALS,
    FundingRate,
    Instrument,
    Kind,
    LargeTrade,
    Liquidation,
    Ohlc,
    OpenInterest,
    PredictedFunding,
    Said,
    Topic,
)
from actors.exchanges.catalogue import Catalogue
from actors.exchanges.exchange import Change, Exchange, Rest, Supervise
from actors.exchanges.listings import Listings
from actors.exchanges.notices import Notices
from actors.feeds.everything import Everything
from actors.feeds.feed import Feed
from actors.lines.pool import Lines
from actors.lines.probes import Probes
from actors.upstream.bucket import Caller
from actors.upstream.budget import UPSTREAM_SHARE, Budget
from actors.upstream.caller import ANSWER_BY
from actors.upstream.counted import CountedHttp
from actors.upstream.flights import Flights
from actors.upstream.rest import ANSWER_WITHIN, Http, RestClient, tls_for
from actors.upstream.seam import LIVE, Socket, Upstream
from actors.upstream.skew import Skew
from actors.upstream.tap import Listener, Tapped

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
        also: Callable[[Topic, Said], None] | None = None,
        always_wanted: Callable[[Topic], bool] = lambda topic: False,
        archive: Archive | None = None,
        linger: float = LINGER,
        upstream_share: float = UPSTREAM_SHARE,
        upstream: Upstream = LIVE,
    ) -> None:
        self.exchange = with_sampled_interest(exchange, archive.keep if archive is not None else ())
        self._samples_interest = self.exchange is not exchange
        self.archive = archive
        self.name = exchange.name
        self._rest_url, self._ws_url = rest_url.rstrip("/"), ws_url.rstrip("/")
        self._supervise = supervise
        self._upstream = upstream
        self.counts = Counts()
        self._skew = Skew(exchange.name)
        self.now = self._skew.now
        self._recall = Recall(archive, exchange, self.now) if archive else None
        self.listed = trio.Event()  # the catalogue has arrived
        self.budget = Budget(exchange.budget, upstream_share=upstream_share, share=exchange.share)
        self._notices = Notices(exchange.name, self.now)
        self._listings = Listings(exchange.name, self._adopt, self._skew, self._is_waiting)
        self.catalogue = Catalogue(exchange.name, exchange.aliases, self._listings.doubt)
        self._collection = Collection(
            self.exchange,
            self.catalogue,
            symbols=symbols,
            on_demand=on_demand,
            intervals=intervals,
            large_trade_threshold_usd=large_trade_threshold_usd,
            supervise=supervise,
            everything=everything or Everything(),
            archive=archive,
            linger=linger,
            now=self.now,
            counts=self.counts,
            on_silence=self._listings.doubt,
            announced=self._notices.present,
            also=also,
            always_wanted=always_wanted,
        )
        self.feeds = self._collection.feeds
        self.check_capability, self.check_interval = self.exchange.check_capability, self.exchange.check_interval
        self._lines: Lines | None = None  # while it runs

    async def run(self) -> None:
        """Run the exchange until cancelled."""
        self._tls = tls_for(self._rest_url, self._ws_url)
        async with (
            self._upstream.open_http(self.name, self._rest_url, self._tls) as host,
            trio.open_nursery() as nursery,
        ):
            http = CountedHttp(host, self.counts)
            self._flights = Flights(nursery)
            lines = self._lines = Lines(
                self.exchange,
                self._ws_url,
                self._tls,
                self.catalogue.instruments,
                nursery,
                self._supervise,
                self._skew.at,
                self._upstream,
                self.counts,
            )
            self._client = self._rest_client(http, "client")
            self._rest = self._open_rest(self._client)
            self._background = self._open_rest(self._rest_client(http, "background"))
            repairer = self._rest_client(http, "repair")
            self._repair = self._open_rest(repairer)
            # Of its own, so that the last answer is the one that said the time.
            clock_client = self._rest_client(http, "repair")
            timed = self.exchange.open_rest(clock_client, self.now)
            trades, forced = self.exchange.missed_trades, self.exchange.missed_liquidations
            missed = trades and partial(trades, repairer), forced and partial(forced, repairer)
            with self._collection.open(Reach(nursery, lines, self._repair, self._background, *missed)):
                probes = Probes(self.feeds, lines, self._repair, self.now, self._listings.doubt)
                for name, task in (("watch", probes.run), ("rotation", lines.replace_the_old)):
                    nursery.start_soon(partial(self._supervise, name, task, exchange=self.name))
                if self._recall is not None:
                    nursery.start_soon(self._refill, self._recall)
                if self.exchange.notices is not None:
                    ask = partial(self.exchange.notices, self._rest_client(http, "background"))
                    nursery.start_soon(
                        partial(self._supervise, "notices", partial(self._notices.run, ask), exchange=self.name)
                    )
                keep = partial(self._listings.run, self._repair, timed, clock_client)
                await self._supervise("catalogue", keep, on_change=self._no_catalogue, exchange=self.name)
                for feed in self.feeds.values():  # only reached where the supervisor gives up
                    feed.health.fail(self.catalogue.problem or "the catalogue is no longer read")
                await trio.sleep_forever()

    @asynccontextmanager
    async def open_client(self) -> AsyncIterator[RestClient]:
        """One more client of the exchange's REST host, within the same budget, with connections of its own."""
        tls = tls_for(self._rest_url)
        async with self._upstream.open_http(self.name, self._rest_url, tls) as http:
            yield self._rest_client(http, "client")

    def tap(self, listener: Listener) -> None:
        """Show `listener` what the connections bring that are made from now on, and what the REST host answers."""
        self._upstream = Tapped(self._upstream, listener)

    @property
    def ws_url(self) -> str:
        return self._ws_url

    def open_socket(self, url: str, number: int, names: Sequence[str]) -> AbstractAsyncContextManager[Socket]:
        """One more connection to the exchange, beside the lines. Raises LineLost where it cannot be had."""
        return self._upstream.open_socket(self.name, number, names, url, tls_for(url))

    def _rest_client(self, http: Http, caller: Caller) -> RestClient:
        exchange = self.exchange
        return RestClient(http, self.budget, exchange.explain, caller=caller, used_header=exchange.used_header)

    def _open_rest(self, client: RestClient) -> Rest:
        rest = self.exchange.open_rest(client, self.now)
        return KeptRest(rest, self._recall) if self._recall else rest

    async def _refill(self, recall: Recall) -> None:
        await self.listed.wait()
        refill = Refill(recall, self._background, self.now, self._collection.followed)
        await self._supervise("archive_refill", refill.run, exchange=self.name)

    # --- catalogue ---

    def _no_catalogue(self, change: Change) -> None:
        if not self.catalogue.instruments:
            self.catalogue.problem = f"no catalogue: {change.reason}"
            for feed in self.feeds.values():
                feed.line_down(self.catalogue.problem, change.delay)

    def _adopt(self, instruments: Sequence[Instrument]) -> None:
        self.counts.skew = self._skew.offset.total_seconds()
        self.catalogue.adopt(instruments)
        self.listed.set()
        self._collection.adopt()

    def _is_waiting(self) -> bool:
        return any(self.catalogue.problem_of(symbol) for symbol in self.symbols)

    # --- feeds ---

    @property
    def symbols(self) -> tuple[str, ...]:
        """Those that are configured."""
        return self._collection.symbols

    @property
    def on_demand(self) -> bool:
        """A client may have any other listed symbol collected, too."""
        return self._collection.on_demand

    def change(
        self,
        *,
        symbols: Sequence[str] | None = None,
        on_demand: bool | None = None,
        intervals: Sequence[str] | None = None,
        large_trade_threshold_usd: float | None = None,
        upstream_share: float | None = None,
    ) -> None:
        """Collect by other settings from now on, those that are given: see Collection.change."""
        self._collection.change(
            symbols=symbols,
            on_demand=on_demand,
            intervals=intervals,
            large_trade_threshold_usd=large_trade_threshold_usd,
        )
        if upstream_share is not None:
            self.budget.upstream_share = upstream_share

    def reading(self, topic: Topic) -> AbstractContextManager[Feed]:
        """The feed that serves `topic`: see Collection.reading."""
        return self._collection.reading(topic)

    def end_if_unread(self, symbol: str) -> None:
        """End an on-demand feed at once, unless somebody holds it."""
        self._collection.end_if_unread(symbol)

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

    @property
    def lines_connected(self) -> int:
        return self._lines.connected if self._lines else 0

    def duplicates(self) -> Counter[Kind]:
        """Deliveries that were dropped since the start, as told already or too late."""
        return sum((feed.duplicates() for feed in self.feeds.values()), self.counts.duplicates.copy())

    # --- requests ---
    # All raise a MarketError: UnknownSymbol or NotReady by the catalogue, Unsupported where the exchange has no such
    # thing, and what its REST host said or did not say where it was asked.

    def _caller(self, background: bool) -> Rest:
        return self._background if background else self._rest

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
        """Up to `limit` bars of `[start, end)`: from memory where it is current, what came before that from the archive
        or the exchange."""
        symbol = self.catalogue.resolve(symbol).symbol
        self.check_interval(interval)
        feed = self.feeds.get(symbol)
        if feed is not None:
            if (opened := _unheard(feed, interval, limit, start, end)) is not None:
                await self._ask_begun(feed, interval, opened, background=background)
            rows = feed.ohlc(interval, limit=limit, start=start, end=end)
            if rows is not None:
                return rows
        series = Series("ohlc", self.name, symbol, interval)
        since = feed.held_since(interval) if feed else None
        if feed is not None and since is not None and (end is None or since < end):
            newer = feed.ohlc(interval, limit=limit, start=since, end=end) or []
            missing = limit if start is not None else limit - len(newer)
            older = await self._past(series, limit=missing, start=start, end=since, background=background)
            return [*older, *newer][:limit]
        return await self._past(series, limit=limit, start=start, end=end, background=background)

    async def _ask_begun(self, feed: Feed, interval: str, opened: datetime, *, background: bool) -> None:
        """Ask for the open bar of a market that is quiet, once for all who want it until the stream speaks of it."""

        async def ask() -> None:
            feed.begun(interval, await self._caller(background).ohlc(feed.symbol, interval, limit=2, start=opened))

        try:
            await self._flights.share(("begun", feed.symbol, interval, opened), ask)
        except MarketError as error:  # what is held is true all the same
            log.debug("connector.open_bar_unknown", exchange=self.name, symbol=feed.symbol, reason=str(error))

    async def _past(
        self, series: Series, *, limit: int, start: datetime | None, end: datetime | None, background: bool = False
    ) -> list[Any]:
        """What an exchange tells again: from the archive where that has it; identical requests share the calls."""
        fetch = fetch_of(self._caller(background), series, self.catalogue.instruments[series.symbol])
        kept = self.exchange.open_interest_kept if series.kind == "open_interest_history" else None

        async def answer() -> list[Any]:
            if not background:
                ANSWER_BY.set(trio.current_time() + ANSWER_WITHIN)
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
        if feed is None or _unheard(feed, interval, limit, start, end) is not None:
            return None
        return feed.ohlc(interval, limit=limit, start=start, end=end)

    def known_ohlc(
        self, symbol: str, interval: str, *, limit: int, end: datetime | None, patience: timedelta
    ) -> list[Ohlc] | None:
        """The last `limit` bars before `end` from memory, through a cut too: see Feed.known_ohlc. None: not known."""
        feed = self.feeds.get(symbol)
        return feed.known_ohlc(interval, limit=limit, end=end, patience=patience) if feed else None

    def is_configured(self, symbol: str, interval: str) -> bool:
        """Bars of it are collected whoever asks."""
        return symbol in self.symbols and interval in self._collection.intervals

    async def open_interest(self, symbol: str) -> OpenInterest:
        """Open interest of this moment, in base units: from memory where it is current, else from the exchange."""
        interest = self.held_open_interest(symbol)
        if interest is not None:
            return interest
        symbol = self.catalogue.resolve(symbol).symbol

        async def ask() -> OpenInterest:
            answer = await self._rest.open_interest(symbol)
            if (feed := self.feeds.get(symbol)) is not None:
                feed.asked_open_interest(answer)
            return answer

        return await self._flights.share(("oi", symbol), ask)

    def held_open_interest(self, symbol: str) -> OpenInterest | None:
        """The same from memory alone; None where the exchange must be asked."""
        self.check_capability("open_interest")
        feed = self.feeds.get(self.catalogue.resolve(symbol).symbol)
        interest = feed.open_interest() if feed else None
        if feed is not None and interest is not None:
            feed.asked_open_interest()
        return interest

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
        """Up to `limit` of `[start, end)`, ascending, one for each period: from the archive or the exchange; where an
        exchange keeps none, what was sampled here."""
        self.check_capability("open_interest_history")
        symbol = self.catalogue.resolve(symbol).symbol
        if self.archive is not None and self._samples_interest:
            series = Series("open_interest", self.name, symbol)
            return await sampled(self.archive, series, period, limit=limit, start=start, end=end, now=self.now())
        series = Series("open_interest_history", self.name, symbol, period)
        return await self._past(series, limit=limit, start=start, end=end, background=background)

    async def funding(self, symbol: str) -> FundingRate:
        """The rate of the running period, a fraction of the position's value: from memory where it is current."""
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
        """Up to `limit` settled rates of `[start, end)`, ascending: from the archive where it has them, too."""
        self.check_capability("funding_rate_history")
        instrument = self.catalogue.resolve(symbol)
        series = Series("funding_history", self.name, instrument.symbol)
        return await self._past(series, limit=limit, start=start, end=end)

    async def predicted_funding(self) -> list[PredictedFunding]:
        """The coming funding on the venues that the exchange predicts it for; always asked of it."""
        self.check_capability("predicted_funding")
        predict = self.exchange.predicted_funding
        if predict is None:
            raise Unsupported(f"{self.name} predicts no funding")
        return await self._flights.share("predicted_funding", lambda: predict(self._client))

    @property
    def clock_skew(self) -> timedelta:
        """The exchange's clock minus ours, as measured last."""
        return self._skew.offset

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


def _unheard(feed: Feed, interval: str, limit: int, start: datetime | None, end: datetime | None) -> datetime | None:
    """When the open bar opened, if it is asked for and nothing was heard of it."""
    opened = feed.unheard(interval)
    if opened is None or (end is not None and end <= opened):
        return None
    return opened if start is None or start + limit * INTERVALS[interval] > opened else None
