"""One symbol of a mirror, as topics are read from it."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from math import inf

import msgspec
import trio

from actors import clock
from actors.broadcast import Broadcast, Reader
from actors.engine.words import CLOSED_BAR, Engine
from actors.errors import UpstreamLimited
from actors.events import Event, FeedState, Gap, Kind, Ohlc, Topic, bar_end, from_ms
from actors.exchanges.exchange import Exchange
from actors.feeds.health import FeedReport
from actors.feeds.quality import TopicReport
from actors.mirror.bars import MirrorBars
from actors.mirror.lane import TYPES, Lane
from actors.relayed import Numbering, Recalled, Relayed, Told

MENDED_WITHIN = 60.0  # seconds that whoever leads may take to write bars again after a gap

_decode = msgspec.json.Decoder(Ohlc).decode

LOOK = 0.05  # seconds between looks whether a topic is collected

Recall = Callable[[str, Topic, int], Awaitable[list[Recalled] | None]]
"""(lane, topic) -> what the engine remembers, see NumberedSource."""


Refusal = Callable[[Topic], str | None]
"""Why a topic cannot be collected; None: nothing is known of that."""


class MirrorFeed:
    def __init__(
        self, exchange: Exchange, symbol: str, lane: Lane, engine: Engine, recall: Recall, refusal: Refusal
    ) -> None:
        self.exchange, self.symbol = exchange, symbol
        self.broadcasts: dict[Topic, Broadcast[Told]] = {}
        self.bars: dict[str, MirrorBars] = {}  # by interval
        self._torn_at: dict[str, float] = {}  # by interval: when a gap was told
        self._lane, self._engine, self._recall = lane, engine, recall
        self._refusal = refusal
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

    def told_ago(self, topic: Topic) -> float:
        """Seconds since its present was told; inf where that was before this node listened."""
        return trio.current_time() - self._lane.told.get(str(topic), -inf)

    def is_collected(self, topic: Topic) -> bool:
        """Whether a topic is told; else it may yet be. Raises UpstreamLimited where it is known that it cannot be."""
        if (refusal := self._refusal(topic)) is not None:
            raise UpstreamLimited(refusal)
        if str(topic) in self._lane.seqs:
            return True
        told = self._lane.states.get(self.symbol)
        return topic.kind != "ohlc" and told is not None and told.state in ("live", "stale")

    async def collected(self, topic: Topic) -> None:
        """Wait until a topic is told. Raises UpstreamLimited."""
        while not self.is_collected(topic):  # noqa: ASYNC110 (plain state)
            await trio.sleep(LOOK)

    # --- bars ---

    def _begins(self, topic: Topic) -> tuple[datetime | None, Ohlc | None]:
        """Where live updates go on: the open of the first bar whose close is yet to be told; and that bar, as it is."""
        current = self.current(topic)
        if isinstance(current, Ohlc) and not current.is_closed:
            return current.timestamp, current
        closed = self._lane.closed.get(str(topic))
        return None if closed is None else bar_end(from_ms(closed), topic.interval or ""), None

    def closed_bars(self, interval: str, count: int) -> tuple[datetime, list[Ohlc], bool] | None:
        """History up to where live updates go on, see Bars.history_before_live, as far as it is held here."""
        begins, _ = self._begins(self._bar_topic(interval))
        if begins is None:
            return None
        bars = self.bars.get(interval)
        return begins, bars.before_live(count, begins) if bars is not None else [], False

    def ohlc(self, interval: str, *, limit: int, start: datetime | None, end: datetime | None) -> list[Ohlc] | None:
        """See Feed.ohlc."""
        bars = self.bars.get(interval)
        begins, current = self._begins(self._bar_topic(interval))
        if bars is None or begins is None or not self.is_current:
            return None
        if start is None:
            return bars.newest(limit, end, begins, current)
        return bars.between(start, end, limit, begins, current)

    async def load(self, interval: str) -> bool:
        """Hold what the engine keeps of an interval's bars. False: nothing is told of it, or a gap was just now.

        Raises EngineAway.
        """
        topic, lane = self._bar_topic(interval), self._lane
        bars, epoch = MirrorBars(self.exchange, topic, self.exchange.history), lane.epoch
        is_torn = trio.current_time() < self._torn_at.get(interval, -inf) + MENDED_WITHIN
        if is_torn or self._begins(topic)[0] is None:
            return False
        self.bars[interval] = bars  # from now on it is told of closes
        try:
            texts = await self._engine.bars(lane.name, str(topic))
        finally:
            bars.read.set()
        begins, _ = self._begins(topic)
        if self.bars.get(interval) is bars and lane.epoch == epoch and begins is not None:
            bars.fill([_decode(text) for text in texts], begins)
        return True

    def take_bar(self, interval: str, said: Relayed | Gap) -> None:
        """Something is told of bars."""
        bars = self.bars.get(interval)
        if isinstance(said, Gap):
            self._torn_at[interval] = trio.current_time()
            self.bars.pop(interval, None)
        elif bars is not None and said.text.endswith(CLOSED_BAR):
            closed = said.event
            if isinstance(closed, Ohlc) and not bars.close(closed):
                del self.bars[interval]

    def _bar_topic(self, interval: str) -> Topic:
        return Topic(self.exchange.name, self.symbol, "ohlc", interval)

    async def recall(self, topic: Topic, behind: int) -> list[Recalled] | None:
        return await self._recall(self._lane.name, topic, behind)

    # --- its state ---

    @property
    def health(self) -> FeedReport:
        return self.report()

    def report(self) -> FeedReport:
        """As who collects it told it last, unless there is trouble between that one and here.

        Restarts are its own matter.
        """
        told = self._lane.states.get(self.symbol)
        state: FeedState = told.state if told is not None else "starting"
        reason = told.reason if told is not None else None
        trouble = self._lane.trouble
        if trouble is not None and (trouble[0] == "down" or state == "live"):
            state, reason = trouble
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
        return self._lane.trouble is None and self.report().state in ("live", "stale")

    def last_heard(self) -> dict[Kind, datetime]:
        """Nothing of single kinds."""
        return {}

    def quality(self, now: datetime, skew: timedelta) -> list[TopicReport]:
        """Nothing: who collects it knows."""
        return []
