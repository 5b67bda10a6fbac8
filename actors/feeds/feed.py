"""A feed: the actor for one exchange and one symbol. Its line delivers into its inbox; what comes of it is `Known`'s.

State changes happen in plain functions; what needs I/O (history, repairs, polling) is left to tasks of `run`. Requests
are answered from memory or not at all (None): asking the exchange instead is the connector's business.
"""

from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from functools import partial

import structlog
import trio

from actors import clock, turns
from actors.broadcast import Reader
from actors.counts import Counts
from actors.errors import LineLost
from actors.events import (
    EPOCH,
    Event,
    FundingRate,
    Kind,
    LargeTrade,
    Liquidation,
    Ohlc,
    OpenInterest,
    Said,
    Status,
    Topic,
)
from actors.exchanges.exchange import Backlog, Change, Exchange, Rest, Supervise, Update
from actors.feeds.everything import Everything
from actors.feeds.health import FeedReport, Health
from actors.feeds.history import History
from actors.feeds.interest import Interest, Turns
from actors.feeds.known import Known
from actors.feeds.quality import TopicReport
from actors.feeds.readers import Readers
from actors.feeds.repair import AskLiquidations, AskMissed, LiquidationRepair, TradeRepair
from actors.feeds.silence import Silence
from actors.feeds.trades import Trades
from actors.inbox import Inbox

INBOX = 10_000  # updates; more than that unread means the feed is stuck
BURST = 256  # updates handled before other tasks get their turn

log = structlog.get_logger()

Delivery = tuple[Update | Backlog | Topic | None, datetime]
"""What the line says, in its order, and when it was received; a topic: here it was silent; nothing: here the connection
was lost."""


class Feed:
    def __init__(
        self,
        exchange: Exchange,
        symbol: str,
        intervals: tuple[str, ...],
        *,
        large_trade_threshold_usd: float,
        supervise: Supervise,
        repair: Rest,
        background: Rest,
        turns: Turns,
        everything: Everything,
        loads: trio.CapacityLimiter,
        derived: frozenset[str] = frozenset(),
        missed_trades: AskMissed | None = None,
        missed_liquidations: AskLiquidations | None = None,
        on_silence: Callable[[], None] = lambda: None,
        counts: Counts | None = None,
        announced: Callable[[], str | None] = lambda: None,
        also: Callable[[Topic, Said], None] | None = None,
        always_wanted: Callable[[Topic], bool] = lambda topic: False,
        is_configured: Callable[[], bool] = lambda: True,
    ) -> None:
        self.exchange, self.symbol = exchange, symbol
        self._is_configured = is_configured
        self.derived = derived  # intervals that are made of minutes instead of being subscribed to
        self._supervise = supervise
        self._log = log.bind(exchange=exchange.name, symbol=symbol)
        self.scope = trio.CancelScope()  # cancelled when the feed is no longer wanted
        self.holds = 0  # clients that hold the feed
        self.left_at = float("-inf")  # when the last of them left
        self.health = Health(self._on_health, announced)
        self._silence = Silence(exchange.subscription_of, exchange.slow)
        self._on_silence = on_silence  # a topic that should speak does not: the symbol may have ended
        self._trades_heard, self._made_at = 0, trio.current_time()
        self.readers = Readers(exchange.name, symbol, everything, counts, also)
        self._history = History(
            exchange,
            symbol,
            repair=repair,
            background=background,
            publish=self.readers.publish_bar,
            derived=derived,
            urgency=self._urgency,
            loads=loads,
        )
        self._known = Known(
            exchange,
            symbol,
            history=self._history,
            readers=self.readers,
            large_trade_threshold_usd=large_trade_threshold_usd,
            heard=self._hear,
            can_ask_liquidations=missed_liquidations is not None,
        )
        self._interest: Interest | None = None  # where it is polled
        if exchange.capabilities.get("open_interest") and "oi" not in exchange.pushed:
            self._interest = Interest(
                turns,
                ask=lambda: background.open_interest(symbol),
                tell=self._on_open_interest,
                forget=self._known.forget_open_interest,
                always=always_wanted(self.topic("oi")),
            )
        self._repairs: list[TradeRepair | LiquidationRepair] = []
        if missed_trades is not None:
            tell = self._known.tell_trades
            self._repairs.append(TradeRepair(symbol, self.trades, missed_trades, tell, self._log, self._urgency))
        if missed_liquidations is not None:
            known = self._known.liquidations
            self._repairs.append(LiquidationRepair(symbol, known, missed_liquidations, self._log, self._urgency))
        self._paths_up: set[str] = set()  # of sockets that are connected
        self._refused: set[str] = set()  # topics that the next connection may have
        self._inbox = Inbox[Delivery](INBOX)
        self._overflowed = False
        for interval in intervals:
            self.add_interval(interval)

    # --- topics and readers ---

    def topic(self, kind: Kind, interval: str | None = None) -> Topic:
        return self.readers.topic(kind, interval)

    def upstream_topics(self) -> list[Topic]:
        """What the line must carry for this feed. Large trades are picked from the trades."""
        pushed = self.exchange.pushed
        # Liquidations first: their loss ends when they are subscribed to, and is said when anything else is heard.
        # Where they ride on another kind it is said when that is heard, and bars come first: what is heard closes them.
        others = sorted(pushed - {"ohlc"}, key=lambda kind: (kind != "liquidations", kind))
        bars = [self.topic("ohlc", interval) for interval in self._history.subscribed if "ohlc" in pushed]
        kinds = [self.topic(kind) for kind in others]
        are_first = "liquidations" in pushed and not self.exchange.with_liquidations
        return [*kinds[:1], *bars, *kinds[1:]] if are_first else [*bars, *kinds]

    @property
    def intervals(self) -> tuple[str, ...]:
        return self._history.intervals

    def add_interval(self, interval: str) -> list[Topic]:
        """Keep bars of one more interval from now on; returns what the line must carry for it."""
        added = self._history.add(interval)
        self._expect_data()
        return [self.topic("ohlc", subscribed) for subscribed in added]

    def subscribe(self, topic: Topic, capacity: int) -> Reader[Said]:
        """A reader of one topic that holds up to `capacity` unread items."""
        return self.readers.subscribe(topic, capacity)

    def wanting(self, kind: Kind) -> AbstractContextManager[None]:
        """Somebody reads topics of a kind for as long as the block lasts."""
        return self._interest.wanted() if kind == "oi" and self._interest is not None else nullcontext()

    def asked_open_interest(self, answer: OpenInterest | None = None) -> None:
        """Somebody was answered; `answer`: by the exchange, just now."""
        if self._interest is not None:
            if answer is not None:
                self._interest.take(answer)
            self._interest.asked()

    @property
    def received_at(self) -> datetime:
        """When what is told at the moment was received."""
        return self.readers.received_at

    def current(self, topic: Topic) -> Event | None:
        """What a new reader of `topic` is told at once: the bar, rate or interest of this moment."""
        return self._known.current(topic)

    def last_heard(self) -> dict[Kind, datetime]:
        """When the youngest event of each kind was received."""
        return self.readers.last_heard()

    def _urgency(self) -> float:
        """Trades a second: of many symbols to be repaired the busiest go first."""
        return self._trades_heard / max(1.0, trio.current_time() - self._made_at)

    def tell_large_trades(self, threshold_usd: float) -> None:
        """From now on those of at least so much."""
        self._known.threshold = threshold_usd

    # --- silence ---

    def quiet_since(self) -> float | None:
        """When the last trade was heard, by a clock that nobody sets; None where trades are not followed just now."""
        return self._silence.last("trades") if self.health.is_current else None

    def _expect_data(self) -> None:
        """Silence counts from now on, where a connection is there."""
        # Of liquidations nothing can be expected; the line itself watches what is prompt.
        judged = [t for t in self.upstream_topics() if t.kind not in self.exchange.prompt | {"liquidations"}]
        self._silence.expect(judged, trio.current_time() if self.health.is_connected else None)

    def expect_nothing(self) -> None:
        """The feed ended: its silence means nothing until it begins anew."""
        self._silence.pause()

    def _hear(self, event: Event) -> None:
        if event.kind == "trades":
            self._trades_heard += 1
        self._silence.heard(event, trio.current_time())

    def overdue(self, now: float) -> Topic | None:
        """A topic that is silent for longer than is usual for it, if there is one; of a failed feed nothing is due."""
        return None if self.health.state == "failed" else self._silence.overdue(now)

    def is_overdue(self, topic: Topic) -> bool:
        return self._silence.is_overdue(topic, trio.current_time())

    def excuse(self, topic: Topic | None = None) -> None:
        """A topic's (None: every one's) silence so far is nothing unusual."""
        self._silence.excuse(trio.current_time(), topic)

    # --- what the line says (see line.Sink) ---

    def deliver(self, said: Update | Backlog | Topic | None, received_at: datetime) -> None:
        try:
            self._inbox.put((said, received_at))
        except trio.WouldBlock:
            self._overflowed = True  # a gap: the run ends and the next one starts from the exchange's own history

    def line_up(self, path: str) -> None:
        self._paths_up.add(path)
        if self._paths_up >= self._paths():
            self.health.connected()
        while self._refused:  # they are asked for again
            self.health.trouble(self._refused.pop(), None)
        self._expect_data()

    def line_down(self, reason: str, delay: float | None, path: str | None = None) -> None:
        """`path`: of the sockets that carry some kinds; None: there is no connection at all."""
        if path is None or self._paths() <= {path}:
            self._paths_up.clear()
            self.deliver(None, clock.now())  # behind what the connection still brought
        else:
            self._paths_up.discard(path)
            for topic in self.upstream_topics():
                if self.exchange.path_of(topic.kind) == path:
                    self.deliver(topic, clock.now())
        self._silence.pause()
        self.health.lost(reason, delay)
        for kind in self.exchange.pushed:
            self.health.trouble(kind, None)  # the connection's trouble is now the whole reason

    def _paths(self) -> set[str]:
        """Of all the sockets that are needed."""
        return {self.exchange.path_of(topic.kind) for topic in self.upstream_topics()}

    def topic_silent(self, topic: Topic, reason: str) -> None:
        self.deliver(topic, clock.now())
        self.health.trouble(topic.kind, reason)
        self._on_silence()

    def topic_heard(self, topic: Topic) -> None:
        self.deliver(topic, clock.now())  # before what was heard; it was asked for anew since it fell silent
        self.health.trouble(topic.kind, None)
        self._refused.discard(str(topic))
        self.health.trouble(str(topic), None)

    def topic_rejected(self, topic: Topic, reason: str, *, final: bool) -> None:
        self.health.trouble(str(topic), reason)
        if not final:
            self._refused.add(str(topic))

    def line_refused(self, reason: str) -> None:
        """Every topic of this symbol was refused."""
        self.health.fail(reason)

    def _on_health(self) -> None:
        """A change of state: one log line, and a word to the readers who want to know.

        Clients begin and end the feeds that nobody configured: of these there would be as many lines as a client likes.
        """
        health = self.health
        if not self._is_configured():
            tell = self._log.debug
        else:
            tell = self._log.info if health.state in ("starting", "live") else self._log.warning
        tell(f"feed.{health.state}", reason=health.reason)
        status = Status(
            exchange=self.exchange.name,
            symbol=self.symbol,
            timestamp=health.since,
            state=health.state,
            reason=health.reason,
            next_retry=health.next_retry,
        )
        self.readers.publish_status(status)

    def report(self) -> FeedReport:
        health = self.health
        return FeedReport(
            exchange=self.exchange.name,
            symbol=self.symbol,
            state=health.state,
            since=health.since,
            restarts=health.restarts,
            last_event=health.last_event,
            reason=health.reason,
            next_retry=health.next_retry,
        )

    # --- the actor ---

    async def run(self) -> None:
        """Handle the inbox until cancelled; a fault in here restarts this symbol and nothing else."""
        self._inbox = Inbox[Delivery](INBOX)
        self._overflowed = False
        self._known.restart()
        self.health.trouble("feed", None)
        async with trio.open_nursery() as nursery:
            self._start_helper(nursery, "history", self._load_history)
            if self._interest is not None:
                self._start_helper(nursery, "open interest", partial(self._interest.poll, self._on_poll))
            nursery.start_soon(self._history.repair)
            for repair in self._repairs:
                nursery.start_soon(repair.run)
            while True:
                await self._inbox.wait(self._take)
                await turns.room()
                self._take()
                if self._overflowed:
                    raise LineLost("the inbox overflowed")

    def _start_helper(self, nursery: trio.Nursery, name: str, run: Callable[[], Awaitable[None]]) -> None:
        async def supervised() -> None:
            await self._supervise(
                name.replace(" ", "_"), run, on_change=changed, exchange=self.exchange.name, symbol=self.symbol
            )

        def changed(change: Change) -> None:
            self.health.trouble(name, change.reason)

        nursery.start_soon(supervised)

    def changed(self, change: Change) -> None:
        """The supervisor's word that this feed's own run ended."""
        self.health.restarts += 1
        if change.delay is None:
            self.health.fail(change.reason)
        else:
            self.health.trouble("feed", change.reason)

    def _take(self) -> bool:
        """What the line delivered, by `run` or in its place; False: `run` is to end."""
        for _ in range(min(BURST, self._inbox.given - self._inbox.taken)):
            self._handle(*self._inbox.take())
        return not self._overflowed

    def _handle(self, said: Update | Backlog | Topic | None, received_at: datetime) -> None:
        self._known.take(said, received_at)
        for repair in self._repairs:
            repair.notice()
        if isinstance(said, Update):
            self.health.heard(received_at)

    def _on_open_interest(self, interest: OpenInterest) -> None:
        self.readers.received_at = clock.now()
        self._known.on_open_interest(interest)

    def _on_poll(self) -> None:
        self.health.trouble("open interest", None)

    async def _load_history(self) -> None:
        while True:
            await self._history.load()
            self.health.trouble("history", None)
            await self._history.wait_for_holes()

    # --- answers from memory; None means: ask the exchange ---

    @property
    def _is_current(self) -> bool:
        """Data comes, and this run of the feed takes it."""
        return self.health.is_current and not self.health.has_trouble("feed")

    def funding(self) -> FundingRate | None:
        return self._known.funding if self._is_current else None

    def open_interest(self) -> OpenInterest | None:
        """The present one: what the line pushed, or the exchange answered a short while ago, while polling works."""
        is_old = self._interest is not None and not self._interest.is_fresh
        return None if is_old else self.last_open_interest()

    def last_open_interest(self) -> OpenInterest | None:
        """The same, however long ago: at the end of a minute, when bars close, that is some seconds."""
        if self._interest is None:
            return self._known.open_interest if self._is_current else None
        has_trouble = self.health.has_trouble("open interest") or self.health.has_trouble("feed")
        return None if has_trouble else self._known.open_interest

    def ohlc(self, interval: str, *, limit: int, start: datetime | None, end: datetime | None) -> list[Ohlc] | None:
        """Up to `limit` bars as the public contract orders them: the first after `start`, else the newest."""
        return self._history.ohlc(interval, limit=limit, start=start, end=end) if self._is_current else None

    def unheard(self, interval: str) -> datetime | None:
        """When the present bar opened, where nothing was heard of it and the exchange can be asked; see `begun`."""
        return self._history.unheard(interval) if self._is_current else None

    def begun(self, interval: str, rows: list[Ohlc]) -> None:
        """What the exchange said of bars that nothing was heard of, ascending: `ohlc` has them from now on."""
        self._history.begun(interval, rows)

    def held_since(self, interval: str) -> datetime | None:
        """The open from which on `ohlc` has every bar."""
        return self._history.held_since(interval) if self._is_current else None

    def known_ohlc(self, interval: str, *, limit: int, end: datetime | None, patience: timedelta) -> list[Ohlc] | None:
        """The last `limit` bars before `end`, through a cut as they were known before it, for as long as `patience`."""
        if not self._is_current and clock.now() - (self.health.last_event or EPOCH) > patience:
            return None
        return self._history.known_ohlc(interval, limit=limit, end=end)

    def closed_bars(self, interval: str, count: int) -> tuple[datetime, list[Ohlc], bool] | None:
        """History up to where live updates go on: see `Bars.history_before_live`. None before the first bar."""
        return self._history.closed_bars(interval, count)

    def duplicates(self) -> Counter[Kind]:
        """Deliveries that were dropped since the feed began, as told already or too late."""
        return self._known.duplicates()

    @property
    def trades(self) -> Trades:
        return self._known.trades

    @property
    def liquidations(self) -> deque[Liquidation]:
        """The recent ones, ascending."""
        return self._known.liquidations.told

    @property
    def large_trades(self) -> deque[LargeTrade]:
        """The recent ones, ascending."""
        return self._known.large_trades

    def quality(self, now: datetime, skew: timedelta) -> list[TopicReport]:
        """One report per topic that said anything; `skew` is the exchange's clock minus ours, `now` is by ours."""
        return self._known.quality(now, skew, is_connected=self.health.is_connected)
