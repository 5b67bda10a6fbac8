"""A feed: the actor for one exchange and one symbol. It orders what its line delivers, keeps last values, publishes.

State changes happen in plain functions; what needs I/O (history, repairs, polling) is left to tasks of `run`. Requests
are answered from memory or not at all (None): asking the exchange instead is the connector's business.
"""

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta

import structlog
import trio
from msgspec import structs

from actors import clock
from actors.broadcast import Broadcast, Reader
from actors.errors import LineLost, MarketError
from actors.events import (
    Event,
    FundingRate,
    Gap,
    Kind,
    LargeTrade,
    Liquidation,
    Ohlc,
    OpenInterest,
    Said,
    Status,
    Topic,
    Trade,
)
from actors.exchanges.exchange import Backlog, Change, Exchange, Rest, Supervise, Update
from actors.feeds.everything import KINDS, Everything
from actors.feeds.health import FeedReport, Health
from actors.feeds.history import REPAIR_WITHIN, History
from actors.feeds.pulse import Pulse
from actors.feeds.quality import Lags, Quality, TopicReport
from actors.feeds.trades import Missing, Told, Trades

INBOX = 10_000  # updates; more than that unread means the feed is stuck
KEPT = 5_000  # liquidations and large trades held for REST
RECENT = 4_000  # liquidations remembered to drop duplicates by
BURST = 256  # updates handled before other tasks get their turn
ASKED = 3  # answers that hardly help, until missed trades are given up: REST may lag a little behind the stream
ASK_AGAIN = 0.5  # seconds in between
HELPFUL = 100  # trades
PUSHED_WITHIN = timedelta(seconds=1)  # of a liquidation's time: Binance tells the largest of every second at its end

log = structlog.get_logger()


AskMissed = Callable[[str, Trade, Trade], Awaitable[list[Trade]]]
"""(symbol, last, first) -> trades between the two that the exchange still has; see Exchange.missed_trades."""

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
        rest: Rest,
        background: Rest,
        poll_every: Callable[[], float],
        everything: Everything,
        derived: frozenset[str] = frozenset(),
        missed_trades: AskMissed | None = None,
    ) -> None:
        self.exchange, self.symbol = exchange, symbol
        self.derived = derived  # intervals that are made of minutes instead of being subscribed to
        self._threshold = large_trade_threshold_usd
        self._supervise = supervise
        self._background = background
        self._poll_every = poll_every
        self._everything = everything
        self._missed_trades = missed_trades
        self._log = log.bind(exchange=exchange.name, symbol=symbol)
        self._broadcasts: dict[Topic, Broadcast[Said]] = {}
        self.scope = trio.CancelScope()  # cancelled when the feed is no longer wanted
        self.holds = 0  # clients that hold the feed
        self.left_at = float("-inf")  # when the last of them left
        self.health = Health(self._on_health)
        self.trades = Trades(exchange, symbol)
        self.repeated_liquidations = 0  # delivered more than once
        self.pulses: dict[str, Pulse] = {}  # of bars by interval, and of trades, as far as the line carries them
        self._quality: defaultdict[Topic, Quality] = defaultdict(Quality)
        self._lags: defaultdict[Kind, Lags] = defaultdict(Lags)
        self._history = History(
            exchange, symbol, rest=rest, background=background, publish=self._publish_bar, derived=derived
        )
        # Recent ones, in order, and when the frame was pushed and received that told them.
        self._liquidated: dict[Liquidation, tuple[datetime, datetime]] = {}
        self._heard_until: datetime | None = None  # the exchange's time of the last update
        self._received_at = clock.now()  # of what is being handled
        self._refused: set[str] = set()  # topics that the next connection may have
        self._cut_at: datetime | None = None  # since then nothing came, for want of a connection
        self.liquidations: deque[Liquidation] = deque(maxlen=KEPT)
        self.large_trades: deque[LargeTrade] = deque(maxlen=KEPT)
        self._reset()
        for interval in intervals:
            self.add_interval(interval)

    def _reset(self) -> None:
        """The start of a run: forget what can be had again; keep what readers were told and what cannot be had."""
        self._inbox_in, self._inbox = trio.open_memory_channel[Delivery](INBOX)
        self._overflowed = False
        self._history.restart()
        self.trades.restart()
        self._trades_work = trio.Event()
        self._cut_at = self._cut_at or self._heard_until  # what waited unread is lost
        self._funding: FundingRate | None = None
        self._open_interest: OpenInterest | None = None

    # --- topics and readers ---

    def topic(self, kind: Kind, interval: str | None = None) -> Topic:
        return Topic(self.exchange.name, self.symbol, kind, interval)

    def upstream_topics(self) -> list[Topic]:
        """What the line must carry for this feed. Large trades are picked from the trades."""
        pushed = self.exchange.pushed
        # Liquidations first: their loss ends when they are subscribed to, and is said when anything else is heard.
        others = sorted(pushed - {"ohlc"}, key=lambda kind: (kind != "liquidations", kind))
        bars = [self.topic("ohlc", interval) for interval in self._history.subscribed if "ohlc" in pushed]
        kinds = [self.topic(kind) for kind in others]
        return [*kinds[:1], *bars, *kinds[1:]] if "liquidations" in pushed else [*bars, *kinds]

    @property
    def intervals(self) -> tuple[str, ...]:
        return self._history.intervals

    def add_interval(self, interval: str) -> list[Topic]:
        """Keep bars of one more interval from now on; returns what the line must carry for it."""
        added = self._history.add(interval)
        self._expect_pulses()
        return [self.topic("ohlc", subscribed) for subscribed in added]

    def _expect_pulses(self) -> None:
        """Silence counts from now on, where a connection is there."""
        for topic in self.upstream_topics():
            if topic.kind in ("ohlc", "trades") and topic.kind not in self.exchange.prompt:
                pulse = self.pulses.setdefault(topic.interval or topic.kind, Pulse())
                if self.health.is_connected and pulse.last is None:
                    pulse.expect(trio.current_time())

    def subscribe(self, topic: Topic, capacity: int) -> Reader[Said]:
        """A reader of one topic that holds up to `capacity` unread items."""
        return self._broadcasts.setdefault(topic, Broadcast()).subscribe(capacity)

    def current(self, topic: Topic) -> Event | None:
        """What a new reader of `topic` is told at once: the bar, rate or interest of this moment."""
        match topic.kind:
            case "ohlc":
                return self._history.current(topic.interval or "")
            case "funding":
                return self._funding
            case "oi":
                return self._open_interest
            case _:
                return None

    def overdue(self, now: float) -> Topic | None:
        """A topic that is silent for longer than is usual for it, if there is one."""
        return next((topic for topic in self.upstream_topics() if self.is_overdue(topic, now)), None)

    def is_overdue(self, topic: Topic, now: float | None = None) -> bool:
        pulse = self.pulses.get(topic.interval or topic.kind)
        return pulse is not None and pulse.is_overdue(trio.current_time() if now is None else now)

    def excuse(self, topic: Topic) -> None:
        """A topic's silence so far is nothing unusual."""
        if pulse := self.pulses.get(topic.interval or topic.kind):
            pulse.excuse(trio.current_time())

    def _publish(self, topic: Topic, said: Said) -> None:
        if isinstance(said, Gap):
            self._quality[topic].noticed(said)
        elif not isinstance(said, Status):
            self._quality[topic].heard(self._received_at)
        if broadcast := self._broadcasts.get(topic):
            broadcast.publish(said)
        self._everything.publish(topic.kind, said)

    def _publish_bar(self, interval: str, said: Ohlc | Gap) -> None:
        self._publish(self.topic("ohlc", interval), said)

    # --- what the line says (see line.Sink) ---

    def deliver(self, said: Update | Backlog | Topic | None, received_at: datetime) -> None:
        try:
            self._inbox_in.send_nowait((said, received_at))
        except trio.WouldBlock:
            self._overflowed = True  # a gap: the run ends and the next one starts from the exchange's own history

    def line_up(self) -> None:
        self.health.connected()
        while self._refused:  # they are asked for again
            self.health.trouble(self._refused.pop(), None)
        self._expect_pulses()

    def line_down(self, reason: str, delay: float | None) -> None:
        self.deliver(None, clock.now())  # behind what the connection still brought
        for pulse in self.pulses.values():
            pulse.pause()
        self.health.lost(reason, delay)
        for kind in self.exchange.pushed:
            self.health.trouble(kind, None)  # the connection's trouble is now the whole reason

    def topic_silent(self, topic: Topic, reason: str) -> None:
        self.deliver(topic, clock.now())
        self.health.trouble(topic.kind, reason)

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
        """A change of state: one log line, and a word to the readers who want to know."""
        health = self.health
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
        for topic in dict.fromkeys((*self._broadcasts, *map(self.topic, KINDS))):  # in an order that does not change
            self._publish(topic, status)

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
        self._reset()
        self.health.trouble("feed", None)
        async with trio.open_nursery() as nursery:
            self._start_helper(nursery, "history", self._load_history)
            if self.exchange.capabilities.get("open_interest") and "oi" not in self.exchange.pushed:
                self._start_helper(nursery, "open interest", self._poll_open_interest)
            nursery.start_soon(self._history.repair)
            if self._missed_trades is not None:
                nursery.start_soon(self._repair_trades, self._missed_trades)
            while True:
                delivery = await self._inbox.receive()
                self._handle(*delivery)
                with suppress(trio.WouldBlock):
                    for _ in range(BURST):
                        self._handle(*self._inbox.receive_nowait())
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

    def _handle(self, said: Update | Backlog | Topic | None, received_at: datetime) -> None:
        self._received_at = received_at
        match said:
            case Update():
                self._handle_update(said.event, said.pushed_at)
                self.health.heard(received_at)
            case Backlog(trades=trades):
                self._tell_trades(self.trades.backlog(trades))
            case Topic(kind="ohlc", interval=str() as interval):
                self._history.interrupt(interval)
            case Topic(kind="trades"):
                self.trades.interrupt()
            case Topic():
                pass  # the present is all that matters of the other kinds that are watched
            case None:
                self._history.interrupt()
                self.trades.interrupt()
                self._cut_at = self._cut_at or self._heard_until

    def _handle_update(self, event: Event, pushed_at: datetime) -> None:
        if self._cut_at is not None:
            self._announce_cut(self._cut_at, pushed_at)
            self._cut_at = None
        self._heard_until = pushed_at
        match event:
            case Trade():
                self._hear("trades")
                self._tell_trades(self.trades.apply(event))
                if self.trades.missing is not None:
                    self._trades_work.set()
            case Ohlc():
                self._hear(event.interval)
                self._history.apply(event, pushed_at)
            case FundingRate():
                self._on_funding(event)
            case Liquidation():
                self._on_liquidation(event, pushed_at)
            case OpenInterest():
                self._on_open_interest(event)
        if event.kind not in self.exchange.unstamped:
            self._lags[event.kind].add(self._received_at - pushed_at)
        self._history.notice(pushed_at)

    def _hear(self, pulse: str) -> None:
        if known := self.pulses.get(pulse):
            known.heard(trio.current_time())

    def _announce_cut(self, start: datetime, end: datetime) -> None:
        """Liquidations cannot be asked for: those of an outage are lost. The other kinds know their own losses."""
        if "liquidations" in self.exchange.pushed:
            gap = Gap(
                exchange=self.exchange.name,
                symbol=self.symbol,
                timestamp=end,
                start=start - PUSHED_WITHIN,
                end=max(start, end),
                reason="the connection was lost: liquidations may be missing",
                repaired=False,
            )
            self._publish(self.topic("liquidations"), gap)

    def _tell_trades(self, told: Told) -> None:
        for said in told:
            self._publish(self.topic("trades"), said)
            if isinstance(said, Gap):
                self._publish(self.topic("large_trades"), said)
            elif said.value >= self._threshold:
                large = LargeTrade(**structs.asdict(said))
                self.large_trades.append(large)
                self._publish(self.topic("large_trades"), large)

    def _on_liquidation(self, liquidation: Liquidation, pushed_at: datetime) -> None:
        """Liquidations have no id. Equal ones of one frame happened; those of a later frame are told again.

        What tells frames apart is when they were pushed and when received: two connections may bring the same one.
        """
        frame = pushed_at, self._received_at
        if self._liquidated.get(liquidation, frame) != frame:
            self.repeated_liquidations += 1
            return
        self._liquidated[liquidation] = frame
        if len(self._liquidated) > RECENT:
            del self._liquidated[next(iter(self._liquidated))]
        self.liquidations.append(liquidation)
        self._publish(self.topic("liquidations"), liquidation)

    def _on_funding(self, funding: FundingRate) -> None:
        last = self._funding
        if last is not None and funding.timestamp < last.timestamp:
            return
        self._funding = funding
        if last is None or (last.funding_rate, last.funding_time, last.funding_interval_hours) != (
            funding.funding_rate,
            funding.funding_time,
            funding.funding_interval_hours,
        ):
            self._publish(self.topic("funding"), funding)

    def _on_open_interest(self, interest: OpenInterest) -> None:
        last = self._open_interest
        if last is not None and interest.timestamp < last.timestamp:
            return
        self._open_interest = interest
        if last is None or interest.open_interest != last.open_interest:
            self._publish(self.topic("oi"), interest)

    # --- tasks that ask the exchange ---

    async def _poll_open_interest(self) -> None:
        while True:
            interest = await self._background.open_interest(self.symbol)
            self._received_at = clock.now()
            self._on_open_interest(interest)
            self.health.trouble("open interest", None)
            await trio.sleep(self._poll_every())

    async def _repair_trades(self, ask: AskMissed) -> None:
        """Ask for trades that the stream did not deliver, for ever; newer ones wait for them, within a limit."""
        while True:
            await self._trades_work.wait()
            self._trades_work = trio.Event()
            while (missing := self.trades.missing) is not None:
                problem = await self._ask_missed(ask)
                told = self.trades.conclude(problem)
                tell = self._log.info if problem is None else self._log.warning
                tell("trades.repaired" if problem is None else "trades.lost", reason=problem, since=_since(missing))
                self._tell_trades(told)

    async def _ask_missed(self, ask: AskMissed) -> str | None:
        """Learn what the exchange still has of the missing trades; why not all of them, if so."""
        in_vain = 0
        with trio.move_on_after(REPAIR_WITHIN):
            try:
                while (missing := self.trades.missing) is not None:
                    rows = await ask(self.symbol, *missing)
                    if self.trades.learn(rows):
                        return None
                    if self.trades.missing == missing or len(rows) < HELPFUL:
                        in_vain += 1
                        if in_vain == ASKED:
                            return "the exchange does not have them"
                        await trio.sleep(ASK_AGAIN)
            except MarketError as error:
                return str(error)
            return None  # they came late, by the stream
        return f"no whole answer within {REPAIR_WITHIN:g} s"

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
        return self._funding if self._is_current else None

    def open_interest(self) -> OpenInterest | None:
        """The present one: what the line pushed, or the last poll's answer while polling works."""
        if "oi" in self.exchange.pushed and not self._is_current:
            return None
        has_trouble = self.health.has_trouble("open interest") or self.health.has_trouble("feed")
        return None if has_trouble else self._open_interest

    def ohlc(self, interval: str, *, limit: int, start: datetime | None, end: datetime | None) -> list[Ohlc] | None:
        """Up to `limit` bars as the public contract orders them: the first after `start`, else the newest."""
        return self._history.ohlc(interval, limit=limit, start=start, end=end) if self._is_current else None

    def closed_bars(self, interval: str, count: int) -> tuple[datetime, list[Ohlc], bool] | None:
        """History up to where live updates go on: see `Bars.history_before_live`. None before the first bar."""
        return self._history.closed_bars(interval, count)

    # --- what is known of the data ---

    def quality(self, now: datetime, skew: timedelta) -> list[TopicReport]:
        """One report per topic that said anything; `skew` is the exchange's clock minus ours, `now` is by ours."""
        down_since = None if self.health.is_connected else self._heard_until and self._heard_until - skew
        lags = {kind: lags.report(skew) for kind, lags in self._lags.items()}
        return [
            quality.report(
                str(topic),
                now,
                duplicates=self._duplicates(topic),
                lag=lags.get("trades" if topic.kind == "large_trades" else topic.kind),
                down_since=down_since,
            )
            for topic, quality in sorted(self._quality.items(), key=lambda item: str(item[0]))
        ]

    def _duplicates(self, topic: Topic) -> int:
        match topic.kind:
            case "trades":
                return self.trades.duplicates
            case "liquidations":
                return self.repeated_liquidations
            case "ohlc":
                return self._history.late(topic.interval or "")
            case _:
                return 0


def _since(missing: Missing) -> str:
    return missing.last.timestamp.isoformat()
