"""A feed: the actor for one exchange and one symbol. It orders what its line delivers, keeps last values, publishes.

State changes happen in plain functions; what needs I/O (history, repairs, polling) is left to tasks of `run`. Requests
are answered from memory or not at all (None): asking the exchange instead is the connector's business.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime

import structlog
import trio

from actors.broadcast import Broadcast, Reader
from actors.errors import LineLost
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
from actors.everything import KINDS, Everything
from actors.exchange import Change, Exchange, Rest, Supervise, Update
from actors.health import FeedReport, Health
from actors.history import History

INBOX = 10_000  # updates; more than that unread means the feed is stuck
KEPT = 5_000  # liquidations and large trades held for REST
RECENT = 4_000  # ids and liquidations remembered to drop duplicates by
BURST = 256  # updates handled before other tasks get their turn

log = structlog.get_logger()


Delivery = tuple[Update, datetime]
"""An update and when it was received."""


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
    ) -> None:
        self.exchange, self.symbol = exchange, symbol
        self.derived = derived  # intervals that are made of minutes instead of being subscribed to
        self._threshold = large_trade_threshold_usd
        self._supervise = supervise
        self._background = background
        self._poll_every = poll_every
        self._everything = everything
        self._log = log.bind(exchange=exchange.name, symbol=symbol)
        self._broadcasts: dict[Topic, Broadcast[Said]] = {}
        self.scope = trio.CancelScope()  # cancelled when the feed is no longer wanted
        self.holds = 0  # clients that hold the feed
        self.left_at = float("-inf")  # when the last of them left
        self.health = Health(self._on_health)
        self.duplicates = 0  # trades and liquidations delivered more than once
        self._history = History(
            exchange, symbol, rest=rest, background=background, publish=self._publish_bar, derived=derived
        )
        self._last_trade: Trade | None = None
        self._liquidated: dict[Liquidation, datetime] = {}  # recent ones, in order, and when they were pushed
        self._was_cut_off = False  # since the last trade
        self._trade_ids: dict[int | str, None] = {}  # recent ones, in order, where ids do not count up
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
        self._funding: FundingRate | None = None
        self._open_interest: OpenInterest | None = None

    # --- topics and readers ---

    def topic(self, kind: Kind, interval: str | None = None) -> Topic:
        return Topic(self.exchange.name, self.symbol, kind, interval)

    def upstream_topics(self) -> list[Topic]:
        """What the line must carry for this feed. Large trades are picked from the trades."""
        pushed = self.exchange.pushed
        topics = [self.topic("ohlc", interval) for interval in self._history.subscribed if "ohlc" in pushed]
        return [*topics, *(self.topic(kind) for kind in sorted(pushed - {"ohlc"}))]

    @property
    def intervals(self) -> tuple[str, ...]:
        return self._history.intervals

    def add_interval(self, interval: str) -> list[Topic]:
        """Keep bars of one more interval from now on; returns what the line must carry for it."""
        return [self.topic("ohlc", subscribed) for subscribed in self._history.add(interval)]

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

    def _publish(self, topic: Topic, said: Said) -> None:
        if broadcast := self._broadcasts.get(topic):
            broadcast.publish(said)
        self._everything.publish(topic.kind, said)

    def _publish_bar(self, interval: str, said: Ohlc | Gap) -> None:
        self._publish(self.topic("ohlc", interval), said)

    # --- what the line says (see line.Sink) ---

    def deliver(self, update: Update, received_at: datetime) -> None:
        try:
            self._inbox_in.send_nowait((update, received_at))
        except trio.WouldBlock:
            self._overflowed = True  # a gap: the run ends and the next one starts from the exchange's own history

    def line_up(self) -> None:
        self.health.connected()

    def line_down(self, reason: str, delay: float | None) -> None:
        self._history.interrupt()
        self._was_cut_off = True
        for kind in self.exchange.pushed:
            self.health.trouble(kind, None)  # the connection's trouble is now the whole reason
        self.health.lost(reason, delay)

    def topic_silent(self, topic: Topic, reason: str) -> None:
        self.health.trouble(topic.kind, reason)

    def topic_heard(self, topic: Topic) -> None:
        self.health.trouble(topic.kind, None)

    def topic_rejected(self, topic: Topic, reason: str) -> None:
        self.health.trouble(str(topic), reason)

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
        for topic in {*self._broadcasts, *map(self.topic, KINDS)}:
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

    def _handle(self, update: Update, received_at: datetime) -> None:
        event, pushed_at = update.event, update.pushed_at
        match event:
            case Trade():
                self._on_trade(event)
            case Ohlc():
                self._history.apply(event, pushed_at)
            case FundingRate():
                self._on_funding(event)
            case Liquidation():
                self._on_liquidation(event, pushed_at)
            case OpenInterest():
                self._on_open_interest(event)
        self._history.notice(pushed_at)
        self.health.heard(received_at)

    def _on_trade(self, trade: Trade) -> None:
        last, self._last_trade = self._last_trade, trade
        if not self.exchange.contiguous_trade_ids:
            if trade.trade_id in self._trade_ids:
                self.duplicates += 1
                return
            self._trade_ids[trade.trade_id] = None
            if len(self._trade_ids) > RECENT:
                del self._trade_ids[next(iter(self._trade_ids))]
            if last and self._was_cut_off:
                self._announce_lost_trades(last, trade, "the connection was lost: trades may be missing")
            self._was_cut_off = False
        elif last:
            new_id, last_id = int(trade.trade_id), int(last.trade_id)
            if new_id <= last_id:
                self._last_trade = last
                self.duplicates += 1
                return
            if new_id > last_id + 1:
                self._announce_lost_trades(last, trade, f"{new_id - last_id - 1} trades were not received")
        self._publish(self.topic("trades"), trade)
        if trade.value >= self._threshold:
            large = LargeTrade(**{name: getattr(trade, name) for name in trade.__struct_fields__})
            self.large_trades.append(large)
            self._publish(self.topic("large_trades"), large)

    def _announce_lost_trades(self, last: Trade, trade: Trade, reason: str) -> None:
        gap = Gap(
            exchange=self.exchange.name,
            symbol=self.symbol,
            timestamp=trade.timestamp,
            start=last.timestamp,
            end=trade.timestamp,
            reason=reason,
            repaired=False,
        )
        self._publish(self.topic("trades"), gap)
        self._publish(self.topic("large_trades"), gap)

    def _on_liquidation(self, liquidation: Liquidation, pushed_at: datetime) -> None:
        """Liquidations have no id. Equal ones of one frame happened; those of a later frame are told again."""
        if self._liquidated.get(liquidation, pushed_at) != pushed_at:
            self.duplicates += 1
            return
        self._liquidated[liquidation] = pushed_at
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
        if last is not None and interest.timestamp <= last.timestamp:
            return  # the exchange repeats itself between its own updates
        self._open_interest = interest
        if last is None or interest.open_interest != last.open_interest:
            self._publish(self.topic("oi"), interest)

    # --- tasks that ask the exchange ---

    async def _poll_open_interest(self) -> None:
        while True:
            self._on_open_interest(await self._background.open_interest(self.symbol))
            self.health.trouble("open interest", None)
            await trio.sleep(self._poll_every())

    async def _load_history(self) -> None:
        while True:
            await self._history.load()
            self.health.trouble("history", None)
            await self._history.wait_for_holes()

    # --- answers from memory; None means: ask the exchange ---

    def funding(self) -> FundingRate | None:
        return self._funding if self.health.is_current else None

    def open_interest(self) -> OpenInterest | None:
        """The present one: what the line pushed, or the last poll's answer while polling works."""
        if "oi" in self.exchange.pushed and not self.health.is_current:
            return None
        return None if self.health.has_trouble("open interest") else self._open_interest

    def ohlc(self, interval: str, *, limit: int, start: datetime | None, end: datetime | None) -> list[Ohlc] | None:
        """Up to `limit` bars as the public contract orders them: the first after `start`, else the newest."""
        return self._history.ohlc(interval, limit=limit, start=start, end=end) if self.health.is_current else None
