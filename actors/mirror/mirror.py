"""The mirror of one exchange: what its lanes' writers say, told to this node's readers under the writers' numbers.

It tails the engine's logs and keeps nothing but the last number and value of each topic; what was said before is the
engine's to remember. A short loss of the engine needs nothing: reading goes on at its place. Where the log does not go
on there, or its memory is another one, every topic of the lane is told that it begins anew.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
import structlog
import trio

from actors import clock
from actors.engine.words import STATUS, Engine, EngineAway
from actors.engine.words import Told as Logged
from actors.events import FeedState, Status, Topic
from actors.exchanges.exchange import Exchange, Supervise
from actors.feeds.everything import KINDS, Everything
from actors.mirror.feed import AWAY, SILENT, MirrorFeed
from actors.mirror.lane import Lane, said
from actors.relay.takeover import lane_of, new_epoch, topic_named
from actors.relayed import Recalled, Relayed, Renumbered

WAIT = 5.0  # seconds that a reading waits for news
RECALLS = 4  # that are asked for at once; clients come back with many topics
RECALLED_WITHIN = 10.0  # seconds that whoever comes back waits for an engine that does not answer
PAUSE = 0.2  # seconds before an engine that did not answer is asked again
WANTED = 30.0  # seconds that a topic is collected after the last word that somebody wants it

log = structlog.get_logger()


class Mirror:
    """`seconds`: of a lease. `everything`: told of what belongs into streams over all exchanges."""

    def __init__(
        self,
        exchange: Exchange,
        engine: Engine,
        *,
        lanes: int,
        seconds: float,
        everything: Everything,
        supervise: Supervise,
        on_failure: Callable[[EngineAway], None] = lambda error: None,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        self.exchange = exchange
        self.is_away = True  # nothing comes from the engine
        self._failed, self._answered = on_failure, on_answer
        self.holes = 0  # times that a lane began anew
        self._engine = engine
        self._seconds = seconds
        self._everything = everything
        self._supervise = supervise
        self.lanes = [Lane(f"{exchange.name}.{number}") for number in range(lanes)]
        self._by_name = {lane.name: lane for lane in self.lanes}
        self._wanted: Counter[str] = Counter()
        self._asks = trio.Event()
        self._recalls = trio.Semaphore(RECALLS)

    # --- sources of topics ---

    def feed(self, symbol: str) -> MirrorFeed:
        lane = self.lanes[lane_of(symbol, len(self.lanes))]
        if symbol not in lane.feeds:
            lane.feeds[symbol] = MirrorFeed(self.exchange, symbol, lane, self.recall)
        return lane.feeds[symbol]

    @contextmanager
    def reading(self, topic: Topic) -> Iterator[MirrorFeed]:
        """What tells a topic, which is collected by somebody for as long as the block lasts and a while after."""
        name = str(topic)
        self._wanted[name] += 1
        if self._wanted[name] == 1:
            self._asks.set()
        try:
            yield self.feed(topic.symbol)
        finally:
            self._wanted[name] -= 1
            if not self._wanted[name]:
                del self._wanted[name]

    async def recall(self, lane: str, topic: Topic) -> list[Recalled] | None:
        """What the engine remembers of a topic, the oldest first; None: it does not answer.

        A client that comes back waits for an engine that is away: without memory it would be told that it lost all.
        """
        until = trio.current_time() + RECALLED_WITHIN
        async with self._recalls:
            while True:
                try:
                    at_ms, memory = await self._engine.recall(lane, str(topic))
                    break
                except EngineAway:
                    if trio.current_time() + PAUSE >= until:
                        return None
                    await trio.sleep(PAUSE)
        return [Recalled(said(entry), (at_ms - told.at_ms) / 1000) for told in memory for entry in told.entries]

    # --- reading ---

    async def run(self) -> None:
        """Read until cancelled."""
        async with trio.open_nursery() as nursery:
            for name, task in (("mirror", self._follow), ("wants", self._want), ("holders", self._watch)):
                nursery.start_soon(partial(self._supervise, name, task, exchange=self.exchange.name))

    async def _follow(self) -> None:
        while True:
            try:
                for lane in self.lanes:
                    await self._join(lane)
                self._note(None)
                while True:
                    await self._read()
            except EngineAway as error:
                self._note(error)
                await trio.sleep(PAUSE)

    async def _read(self) -> None:
        news = await self._engine.read({lane.name: lane.place for lane in self.lanes}, WAIT)
        received_at = clock.now()
        for name, bursts in news.items():
            lane = self._by_name[name]
            lane.received_at = received_at
            for told in bursts:
                if not lane.is_continued_by(told):
                    await self._join(lane, anew=True)
                    break
                self._take(lane, told)
            lane.received_at = None

    async def _join(self, lane: Lane, *, anew: bool = False) -> None:
        """Go on where reading stands; or, `anew` or where that cannot be, at the present, and say so."""
        present = await self._engine.present(lane.name)
        if present.epoch in lane.past or (lane.epoch and present.epoch == lane.epoch and present.n < lane.n):
            # It came back older: numbers that were read here would be given to other events.
            log.error("lane.rolled_back", lane=lane.name, had=lane.n, has=present.n)
            await self._engine.renew(lane.name, present.epoch, new_epoch())
            present = await self._engine.present(lane.name)
        if not present.epoch or (present.epoch == lane.epoch and not anew):
            return
        if lane.epoch:
            self.holes += 1
            log.warning("lane.begins_anew", lane=lane.name, n=present.n, had=lane.n)
        lane.adopt(present)
        for feed in lane.feeds.values():
            for topic, broadcast in feed.broadcasts.items():
                broadcast.publish(Renumbered(feed.numbering(topic)))

    def _take(self, lane: Lane, told: Logged) -> None:
        lane.place, lane.n = told.place, told.n
        for entry in told.entries:
            if entry.type == STATUS:
                status = msgspec.json.decode(entry.text, type=Status)
                lane.now[entry.topic], lane.states[status.symbol] = entry.text, status
                self._tell_status(lane, status)
                continue
            topic, event = topic_named(entry.topic), said(entry)
            if isinstance(event, Relayed):
                lane.note(topic, entry.topic, event)
            feed = lane.feeds.get(topic.symbol)
            if feed is not None and (broadcast := feed.broadcasts.get(topic)) is not None:
                broadcast.publish(event)
            self._everything.publish(topic.kind, event, lane.received_at)

    # --- states ---

    def _note(self, failure: EngineAway | None) -> None:
        """The engine answers, or does not; readers are told what changed."""
        if failure is None:
            self._answered()
        else:
            self._failed(failure)
        if (failure is not None) != self.is_away:
            self.is_away = failure is not None
            for lane in self.lanes:
                lane.is_away = self.is_away
                for feed in lane.feeds.values():
                    self._tell_state(lane, feed, ("down", AWAY) if self.is_away else None)

    def _tell_state(self, lane: Lane, feed: MirrorFeed, trouble: tuple[FeedState, str] | None) -> None:
        """Trouble between the feed and here; None: it is over, and the feed's own state counts again."""
        now = clock.now()
        where: Any = {"exchange": self.exchange.name, "symbol": feed.symbol, "timestamp": now}
        if trouble is not None:
            state, reason = trouble
            status = Status(**where, state=state, reason=reason, next_retry=None)
        elif feed.symbol in lane.states:
            status = msgspec.structs.replace(lane.states[feed.symbol], timestamp=now)
        else:
            return
        self._tell_status(lane, status)

    def _tell_status(self, lane: Lane, status: Status) -> None:
        """To the readers of every topic of a feed."""
        feed = lane.feeds.get(status.symbol)
        for broadcast in feed.broadcasts.values() if feed is not None else ():
            broadcast.publish(status)
        for kind in KINDS:
            self._everything.publish(kind, status, None)

    async def _watch(self) -> None:
        """Look who leads each lane. A leader that did not prolong its lease for half of it is silent."""
        while True:
            await trio.sleep(self._seconds / 4)
            try:
                holders = await self._engine.holders([lane.name for lane in self.lanes])
            except EngineAway:
                continue  # the reading tells
            for lane in self.lanes:
                token, left = holders.get(lane.name, (None, 0.0))
                lane.holder = token
                is_silent = bool(lane.epoch) and left < self._seconds / 2
                if is_silent != lane.is_silent:
                    lane.is_silent = is_silent
                    for feed in lane.feeds.values():
                        self._tell_state(lane, feed, ("stale", SILENT) if is_silent else None)

    async def _want(self) -> None:
        """Say again and again what this node's clients want."""
        while True:
            self._asks = trio.Event()
            if self._wanted:
                try:
                    await self._engine.want(self.exchange.name, list(self._wanted), WANTED)
                except EngineAway:
                    await trio.sleep(PAUSE)
                    continue
            with trio.move_on_after(WANTED / 3):
                await self._asks.wait()
