"""What one feed knows: it puts in order what its line delivered, keeps last values, tells its readers. No I/O.

What has to be asked for (history, missed trades, polled values) comes from the feed's tasks.
"""

from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime, timedelta

from msgspec import structs

from actors.events import (
    Event,
    FundingRate,
    Gap,
    Kind,
    LargeTrade,
    Liquidation,
    Ohlc,
    OpenInterest,
    Topic,
    Trade,
)
from actors.exchanges.exchange import Backlog, Exchange, Update
from actors.feeds.history import History
from actors.feeds.liquidations import Liquidations
from actors.feeds.quality import TopicReport
from actors.feeds.readers import Readers
from actors.feeds.trades import Told, Trades
from actors.feeds.unanswered import Unanswered

KEPT = 5_000  # large trades held for REST


class Known:
    def __init__(
        self,
        exchange: Exchange,
        symbol: str,
        *,
        history: History,
        readers: Readers,
        large_trade_threshold_usd: float,
        heard: Callable[[Event], None],
        can_ask_liquidations: bool = False,
    ) -> None:
        self._exchange, self._symbol = exchange, symbol
        self._history = history
        self._readers = readers
        self.threshold = large_trade_threshold_usd
        self._heard = heard  # told of every update
        self.trades = Trades(exchange, symbol)
        self._unanswered = None if exchange.closes_bars else Unanswered()
        self.liquidations = Liquidations(exchange, symbol, readers, can_ask=can_ask_liquidations)
        self.large_trades: deque[LargeTrade] = deque(maxlen=KEPT)
        path, riding = exchange.path_of("liquidations"), exchange.with_liquidations
        # Topics whose silence is that of the liquidations, too.
        self._bring_liquidations = {readers.topic(kind) for kind in (*riding, "liquidations")}
        # What the same sockets carry (or the same subscription, where it has others): heard of these, and of nothing
        # else, says that liquidations would be heard, too.
        self._with_liquidations = (
            riding | {"liquidations"}
            if riding
            else frozenset(kind for kind in exchange.pushed if exchange.path_of(kind) == path)
        )
        self.heard_until: datetime | None = None  # the exchange's time of the last update of these
        self._cut_at: datetime | None = None  # since then nothing came, for want of a connection
        self.funding: FundingRate | None = None
        self.open_interest: OpenInterest | None = None
        self.restart()

    def restart(self) -> None:
        """The start of a run: forget what can be had again; keep what readers were told and what cannot be had."""
        self._history.restart()
        self.trades.restart()
        self._cut_at = self.liquidations.restart() or self._cut_at or self.heard_until  # what waited unread is lost
        self.funding = None
        self.open_interest = None

    def take(self, said: Update | Backlog | Topic | None, received_at: datetime) -> None:
        """What the line says, in its order; a topic: here some of it is missing; nothing: of all."""
        self._readers.received_at = received_at
        match said:
            case Update():
                self._take_update(said.event, said.pushed_at)
            case Backlog(trades=trades):
                self.tell_trades(self.trades.backlog(trades))
            case Topic(kind="ohlc", interval=str() as interval):
                self._history.interrupt(interval)
            case Topic(kind=kind):  # of the other kinds the present is all that matters
                if kind == "trades":
                    self.trades.interrupt()
                if said in self._bring_liquidations:
                    self._cut_at = self._cut_at or self.heard_until
            case None:
                self._history.interrupt()
                self.trades.interrupt()
                self._cut_at = self._cut_at or self.heard_until

    def _take_update(self, event: Event, pushed_at: datetime) -> None:
        if event.kind in self._with_liquidations:
            if self._cut_at is not None:
                self.liquidations.cut(self._cut_at, pushed_at)
                self._cut_at = None
            self.heard_until = pushed_at
        self._heard(event)
        if self._unanswered is not None:
            self._look_for_lost_updates(self._unanswered, event)
        match event:
            case Trade():
                self.tell_trades(self.trades.apply(event))
            case Ohlc():
                self._history.apply(event, pushed_at)
            case FundingRate():
                self._on_funding(event)
            case Liquidation():
                self.liquidations.apply(event, (pushed_at, self._readers.received_at))
            case OpenInterest():
                self.on_open_interest(event)
        if event.kind not in self._exchange.unstamped:
            self._readers.lagged(event.kind, pushed_at)
        self._history.notice(pushed_at)

    def _look_for_lost_updates(self, unanswered: Unanswered, event: Event) -> None:
        received_at = self._readers.received_at
        for interval in unanswered.overdue(received_at):
            self._history.interrupt(interval)
        match event:
            case Trade():
                unanswered.traded(self._history.subscribed, received_at)
            case Ohlc():
                unanswered.updated(event.interval, received_at)

    def tell_trades(self, told: Told) -> None:
        readers = self._readers
        for said in told:
            if isinstance(said, Trade) and not said.value:
                continue  # an id that stands for nothing: it leaves no gap, and nothing was traded
            readers.publish("trades", said)
            if isinstance(said, Gap):
                readers.publish("large_trades", said)
            elif said.value >= self.threshold:
                large = LargeTrade(**structs.asdict(said))
                self.large_trades.append(large)
                readers.publish("large_trades", large)

    def _on_funding(self, funding: FundingRate) -> None:
        last = self.funding
        if last is not None and funding.timestamp < last.timestamp:
            return
        self.funding = funding
        if last is None or (last.funding_rate, last.funding_time, last.funding_interval_hours) != (
            funding.funding_rate,
            funding.funding_time,
            funding.funding_interval_hours,
        ):
            self._readers.publish("funding", funding)

    def on_open_interest(self, interest: OpenInterest) -> None:
        last = self.open_interest
        if last is not None and interest.timestamp < last.timestamp:
            return
        self.open_interest = interest
        if last is None or interest.open_interest != last.open_interest:
            self._readers.publish("oi", interest)

    def forget_open_interest(self) -> None:
        """It is too old for the present; the next one is told, whatever it is."""
        self.open_interest = None

    def current(self, topic: Topic) -> Event | None:
        """What a new reader of `topic` is told at once: the bar, rate or interest of this moment."""
        match topic.kind:
            case "ohlc":
                return self._history.current(topic.interval or "")
            case "funding":
                return self.funding
            case "oi":
                return self.open_interest
            case _:
                return None

    def quality(self, now: datetime, skew: timedelta, *, is_connected: bool) -> list[TopicReport]:
        """One report per topic that said anything; `skew` is the exchange's clock minus ours, `now` is by ours."""
        down_since = None if is_connected else self.heard_until and self.heard_until - skew
        return self._readers.report(now, skew, down_since, self._duplicates)

    def duplicates(self) -> Counter[Kind]:
        """Deliveries that were dropped since the feed began, as told already or too late."""
        bars = sum(self._history.late(interval) for interval in self._history.intervals)
        return Counter({"trades": self.trades.duplicates, "liquidations": self.liquidations.repeated, "ohlc": bars})

    def _duplicates(self, topic: Topic) -> int:
        match topic.kind:
            case "trades":
                return self.trades.duplicates
            case "liquidations":
                return self.liquidations.repeated
            case "ohlc":
                return self._history.late(topic.interval or "")
            case _:
                return 0
