"""One exchange's façade over REST: a request in its dialect in, an answer in its dialect out, whatever happens.

Rows come from what is held, and only what is missing of them is asked for; all else is passed on and shared.
"""

from collections import Counter
from typing import NamedTuple

import structlog
import trio

from actors.connector import Connector
from actors.errors import (
    BadMessage,
    MarketError,
    Overloaded,
    RateLimited,
    UpstreamGeoBlocked,
    UpstreamLimited,
    UpstreamTimeout,
)
from actors.events import ms
from actors.exchanges.exchange import Supervise
from actors.exchanges.facade import Asked, Facade, Pass, Refusal, Reply, Row, Rows, Series
from actors.facade.followed import Ear, Followed
from actors.facade.passing import Passed, Passing, Share
from actors.facade.relay import Relay
from actors.facade.rows import MINUTE, Missing, RowStore
from actors.upstream.rest import Answer, Question

BEGUN_WITHIN = 3.0  # seconds that a request waits for the exchange's host to be ready
WANTED_FOR = 600.0  # seconds since bars were asked for that streams are looked through for more of them
UNREAD = 0.1  # seconds that an answer is shared on: until whoever asked has taken its rows out of it
TRIES = 3  # times that missing rows are asked for until the request is passed on as it is

log = structlog.get_logger()


class Told(NamedTuple):
    """An answer, and how it came about: "rows", "pass", "cache" or "own"; `age` in seconds."""

    reply: Reply
    way: str
    age: float = 0.0


class Settings(NamedTuple):
    passthrough: bool = True  # False: what is not held here is not served
    relay: bool = True  # False: no streams but those that feeds follow
    rows_mb: int = 64
    share: float = 0.5  # of each bucket


class Desk:
    """Runs as a task of its own; answers as soon as it does."""

    def __init__(self, facade: Facade, connector: Connector, settings: Settings, supervise: Supervise) -> None:
        self.facade = facade
        self.dialect = dialect = connector.exchange.dialect
        self._followed = Followed(dialect, connector) if dialect is not None else None
        self.relay: Relay | None = None
        if dialect is not None and self._followed is not None:
            self.relay = Relay(dialect, connector, supervise, self._followed)
        self._connector = connector
        self._settings = settings
        self._rows = RowStore(settings.rows_mb << 20)
        self._passing: Passing | None = None
        self._ready = trio.Event()
        self._wanted: dict[str, tuple[Series, float]] = {}  # streams of bars that rows are made of, when last asked for
        if dialect is not None:
            connector.tap(self)
        self.counts: Counter[str] = Counter()  # by way
        self._saved = 0  # weight that rows spared

    @property
    def saved(self) -> int:
        """Weight that rows, sharing and remembering spared."""
        return self._saved + (self._passing.saved if self._passing else 0)

    async def run(self) -> None:
        """Until cancelled. It has connections of its own: pass-through takes none from the feeds' repairs."""
        async with self._connector.open_client() as client, trio.open_nursery() as nursery:
            share = Share(self._connector.exchange.budget, self._settings.share)
            self._passing = Passing(self.facade, client, share, nursery)
            self._ready.set()
            if self.relay is not None and self._followed is not None:
                nursery.start_soon(self.relay.run)
                nursery.start_soon(self._followed.run)
            await trio.sleep_forever()

    # --- what a façade may know of the present ---

    def now(self) -> int:
        return ms(self._connector.now())

    def lists(self, symbol: str) -> bool:
        return symbol in self._connector.catalogue.instruments

    def streams(self, name: str) -> bool:
        follow = self._followed.follow(name) if self._followed is not None else None
        if follow is None:
            return self._settings.relay and self.relay is not None and self.relay.has_room(name)
        return self._connector.on_demand or follow.symbol in self._connector.feeds

    # --- requests ---

    async def answer(self, asked: Asked) -> Told:
        try:
            told = await self._answer(asked)
        except MarketError as error:
            told = Told(self.refused(error, asked), "own")
        self.counts[told.way] += 1
        return told

    def refused(self, error: MarketError, asked: Asked | None = None) -> Reply:
        """An error as the exchange would put it."""
        return self.facade.refuse(_refusal(error, asked), self.now())

    def denied(self, text: str) -> Reply:
        """To a client that has no key of ours, or one that is not good for this."""
        return self.facade.refuse(Refusal("private", text), self.now())

    def not_served(self, asked: Asked) -> Reply:
        return self.facade.refuse(Refusal("not_served", "", asked=asked), self.now())

    def used(self, path: str) -> tuple[str, str] | None:
        """A header with the weight that this address has used, where the exchange sends one."""
        if self.facade.used_weight is None:
            return None
        prefix, header, bucket = self.facade.used_weight
        return (header, str(self._connector.budget.buckets[bucket].used())) if path.startswith(prefix) else None

    async def _answer(self, asked: Asked) -> Told:
        way = self.facade.route(asked, self)
        match way:
            case Reply():
                return Told(way, "own")
            case Rows():
                return await self._cut(way, asked)
            case Pass():
                return await self._forward(way, asked)

    async def _forward(self, way: Pass, asked: Asked, epoch: int = 0) -> Told:
        passed = await self._ask(way, asked, epoch)
        if isinstance(passed, Reply):
            return Told(passed, "own")
        answer = passed.answer
        if passed.error is not None:
            refusal = _refusal(passed.error, asked)._replace(body=answer.body)
            if refusal.why == "limited":  # for as long as whoever asks next is refused
                refusal = refusal._replace(retry_after=self._connector.budget.closed_for() or refusal.retry_after)
            return Told(self.facade.refuse(refusal, self.now()), "own")
        reply = Reply(answer.status, answer.body, answer.headers.get("content-type", "application/json"))
        return Told(reply, "cache" if passed.cached else "pass", max(0.0, trio.current_time() - passed.at))

    async def _ask(self, way: Pass, asked: Asked, epoch: int) -> Passed | Reply:
        if not self._settings.passthrough:
            return self.not_served(asked)
        with trio.move_on_after(BEGUN_WITHIN):
            await self._ready.wait()
        if self._passing is None:
            raise UpstreamTimeout("the daemon has only begun")
        return await self._passing.ask(way, epoch)

    # --- rows ---

    def opened(self) -> Ear:
        """One more connection of the exchange's."""
        assert self._followed is not None  # nobody taps without a dialect
        return self._followed.opened(self._hear_bars)

    def answered(self, question: Question, answer: Answer) -> None:
        if self._followed is not None:
            self._followed.answered(question, answer)

    def _hear_bars(self, name: str, body: bytes) -> None:
        """Take bars out of what the lines bring, where somebody asks for them: they are the newest there are."""
        if self.dialect is None or (wanted := self._wanted.get(name)) is None:
            return
        at = trio.current_time()
        if at - wanted[1] > WANTED_FOR:
            del self._wanted[name]
            return
        for row, is_closed in self.dialect.bars(body):
            self._rows.push(wanted[0], row, is_closed=is_closed, at=at)

    def _want(self, series: Series) -> None:
        if self.dialect is not None and series.interval and series.symbol in self._connector.feeds:
            self._wanted[self.dialect.bars_name(series)] = series, trio.current_time()
            if self._followed is not None:
                self._followed.need(WANTED_FOR)

    async def _cut(self, rows: Rows, asked: Asked) -> Told:
        self._want(rows.series)
        for number in range(TRIES):
            now, at = self.now(), trio.current_time()
            cut = self._rows.cut(rows, now, at, self._quiet_since(rows))
            if cut.texts is not None:
                self._saved += 0 if number else rows.asked.weight
                return Told(self.facade.render(rows, cut.texts, now), "rows")
            part = self._part(rows, cut.missing) if cut.missing is not None else rows.wider
            if part is None or not await self._fetch(part, asked):
                break
        # A request that begins in a minute may not get an answer of the minute before: a bar may have ended between.
        minute = self.now() // MINUTE
        told = await self._forward(rows.asked._replace(seconds=UNREAD), asked, minute)
        if told.reply.status == 200 and told.way != "own":
            self._learn(rows, told)
        return told

    def _part(self, rows: Rows, missing: Missing) -> Rows | None:
        """What to ask for; None where the request had better be passed on as it is."""
        if missing.start is None and self.facade.has_holes:
            return None
        limit = missing.limit or self.facade.tail
        way = self.facade.fetch(rows.series, missing.start, missing.end, limit)
        newest = missing.start is None or self.facade.backwards
        return rows._replace(start=missing.start, end=missing.end, limit=limit, newest=newest, asked=way)

    async def _fetch(self, rows: Rows, asked: Asked) -> bool:
        """Ask for rows; whether they are known now."""
        told = await self._forward(rows.asked._replace(seconds=UNREAD), asked, self.now() // MINUTE)
        return told.way != "own" and told.reply.status == 200 and self._learn(rows, told)

    def _learn(self, rows: Rows, told: Told) -> bool:
        try:
            found: list[Row] = self.facade.parse(rows.series, told.reply.body)
        except BadMessage as error:
            log.info("facade.rows_unread", exchange=self._connector.name, reason=str(error)[:200])
            return False
        at = trio.current_time() - told.age
        asked_at = self.now() - int(told.age * 1000)
        facade = self.facade
        self._rows.put(rows, found, asked_at=asked_at, at=at, settle=facade.settle, has_holes=facade.has_holes)
        return True

    def _quiet_since(self, rows: Rows) -> float | None:
        """When the last trade of a followed market came; None where it is not followed."""
        feed = self._connector.feeds.get(rows.series.symbol) if rows.series.interval else None
        return feed.quiet_since() if feed else None


def _refusal(error: MarketError, asked: Asked | None) -> Refusal:
    match error:
        case UpstreamLimited() | RateLimited() | Overloaded():
            return Refusal("limited", str(error), error.retry_after, asked)
        case UpstreamTimeout():
            return Refusal("timed_out", str(error), None, asked)
        case UpstreamGeoBlocked():
            return Refusal("blocked", str(error), None, asked, error.said)
        case _ if error.retry_after is not None and error.code == "upstream_error":
            return Refusal("limited", str(error), error.retry_after, asked)  # a firewall that turns us away for a while
        case _:
            return Refusal("broke", str(error), None, asked)
