"""One symbol of a mirror, as topics are read from it."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from actors import clock
from actors.broadcast import Broadcast, Reader
from actors.events import Event, FeedState, Kind, Ohlc, Topic, bar_end, from_ms
from actors.exchanges.exchange import Exchange
from actors.feeds.health import FeedReport
from actors.feeds.quality import TopicReport
from actors.mirror.lane import TYPES, Lane
from actors.relayed import Numbering, Recalled, Relayed, Told

AWAY, SILENT = "the engine is away", "who collects it is silent"

Recall = Callable[[str, Topic, int], Awaitable[list[Recalled] | None]]
"""(lane, topic) -> what the engine remembers, see NumberedSource."""


class MirrorFeed:
    def __init__(self, exchange: Exchange, symbol: str, lane: Lane, recall: Recall) -> None:
        self.exchange, self.symbol = exchange, symbol
        self.broadcasts: dict[Topic, Broadcast[Told]] = {}
        self._lane, self._recall = lane, recall
        self._made_at = clock.now()

    @property
    def received_at(self) -> datetime | None:
        """When what is told at the moment came from the engine."""
        return self._lane.received_at

    def subscribe(self, topic: Topic, capacity: int) -> Reader[Told]:
        return self.broadcasts.setdefault(topic, Broadcast()).subscribe(capacity)

    def numbering(self, topic: Topic) -> Numbering:
        return Numbering(self._lane.epoch, self._lane.seqs.get(str(topic), 0))

    def current(self, topic: Topic) -> Event | None:
        text = self._lane.now.get(str(topic))
        return None if text is None else Relayed(TYPES[topic.kind], 0, text).event

    def closed_bars(self, interval: str, count: int) -> tuple[datetime, list[Ohlc], bool] | None:
        """Where live updates go on; the bars before it are the exchange's history, and not held here."""
        topic = Topic(self.exchange.name, self.symbol, "ohlc", interval)
        current, closed = self.current(topic), self._lane.closed.get(str(topic))
        if isinstance(current, Ohlc):
            return bar_end(current.timestamp, interval) if current.is_closed else current.timestamp, [], False
        return None if closed is None else (bar_end(from_ms(closed), interval), [], False)

    async def recall(self, topic: Topic, behind: int) -> list[Recalled] | None:
        return await self._recall(self._lane.name, topic, behind)

    # --- its state ---

    @property
    def health(self) -> FeedReport:
        return self.report()

    def report(self) -> FeedReport:
        """As who collects it told it last, unless that one is silent. Restarts are its own matter."""
        told = self._lane.states.get(self.symbol)
        state: FeedState = told.state if told is not None else "starting"
        reason = told.reason if told is not None else None
        if self._lane.is_away:
            state, reason = "down", AWAY
        elif self._lane.is_silent and state == "live":
            state, reason = "stale", SILENT
        return FeedReport(
            exchange=self.exchange.name,
            symbol=self.symbol,
            state=state,
            since=told.timestamp if told is not None else self._made_at,
            restarts=0,
            last_event=self._lane.heard.get(self.symbol),
            reason=reason,
            next_retry=told.next_retry if told is not None else None,
        )

    @property
    def leader(self) -> str | None:
        """The name of the node that tells it; None: nobody does."""
        return None if self._lane.holder is None else self._lane.holder.rsplit("|", 2)[0]

    @property
    def is_current(self) -> bool:
        """What is held here of its present is the present."""
        return self.report().state in ("live", "stale") and not self._lane.is_silent

    def last_heard(self) -> dict[Kind, datetime]:
        """Nothing of single kinds."""
        return {}

    def quality(self, now: datetime, skew: timedelta) -> list[TopicReport]:
        """Nothing: who collects it knows."""
        return []
