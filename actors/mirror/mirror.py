"""The mirror of one exchange: what its lanes' writers say, told to this node's readers under the writers' numbers.

It keeps nothing but the last number and value of each topic; what was said before is the engine's to remember. Where a
lane's log does not go on, or its memory is another one, every topic of the lane is told that it begins anew.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
import trio

from actors import clock
from actors.engine.words import STATUS, Engine, EngineAway
from actors.engine.words import Told as Logged
from actors.events import FeedState, Status, Topic
from actors.exchanges.exchange import Exchange, Supervise
from actors.mirror.everywhere import Everywhere
from actors.mirror.feed import MirrorFeed
from actors.mirror.lane import AWAY, NOBODY, SILENT, Lane, said
from actors.mirror.logs import Logs
from actors.mirror.wants import Wants
from actors.relay.takeover import lane_of, topic_named
from actors.relayed import Relayed, Renumbered


class Mirror:
    """`seconds`: of a lease. `everywhere`: told of states that belong into streams over all exchanges.

    `is_full`: the engine takes nothing, though it answers, which is as if it were away.
    """

    def __init__(
        self,
        exchange: Exchange,
        engine: Engine,
        *,
        lanes: int,
        seconds: float,
        everywhere: Everywhere,
        supervise: Supervise,
        is_full: Callable[[], bool] = lambda: False,
        on_failure: Callable[[EngineAway], None] = lambda error: None,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        self.exchange = exchange
        self._is_full = is_full
        self.is_away = True  # nothing comes from the engine
        self._failed, self._answered = on_failure, on_answer
        self._engine = engine
        self._seconds = seconds
        self._everywhere = everywhere
        self._supervise = supervise
        self.lanes = [Lane(f"{exchange.name}.{number}") for number in range(lanes)]
        self._logs = Logs(engine, self.lanes, take=self._take, begin_anew=self._begin_anew, note=self._note)
        self._wants = Wants(engine, exchange.name, self._tell_refusal)

    @property
    def holes(self) -> int:
        """How often a lane began anew."""
        return self._logs.holes

    # --- sources of topics ---

    def feed(self, symbol: str) -> MirrorFeed:
        lane = self.lanes[lane_of(symbol, len(self.lanes))]
        if symbol not in lane.feeds:
            lane.feeds[symbol] = MirrorFeed(
                *(self.exchange, symbol, lane, self._engine, self._logs.recall), lambda topic: self._refusal(topic)
            )
        return lane.feeds[symbol]

    @contextmanager
    def reading(self, topic: Topic) -> Iterator[MirrorFeed]:
        """What tells a topic, which is collected by somebody for as long as the block lasts and a while after.

        Raises UpstreamLimited where it is known that nobody can.
        """
        feed = self.feed(topic.symbol)
        feed.is_collected(topic)
        with self._wants.wanting(str(topic)):
            yield feed

    def _refusal(self, topic: Topic) -> str | None:
        return None if self.is_away else self._wants.refused.get(str(topic))

    # --- reading ---

    async def run(self) -> None:
        """Read until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(self._supervise, "refusals", self._wants.look, exchange=self.exchange.name))
            for name, task in (("mirror", self._logs.follow), ("wants", self._wants.say), ("holders", self._watch)):
                nursery.start_soon(partial(self._supervise, name, task, exchange=self.exchange.name))

    def _begin_anew(self, lane: Lane) -> None:
        for feed in lane.feeds.values():
            feed.bars.clear()
            for topic, broadcast in feed.broadcasts.items():
                broadcast.publish(Renumbered(feed.numbering(topic)))

    def _take(self, lane: Lane, told: Logged) -> None:
        for entry in told.entries:
            if entry.type == STATUS:
                status = msgspec.json.decode(entry.text, type=Status)
                lane.now[entry.topic], lane.states[status.symbol] = entry.text, status
                self._tell_status(lane, status)
                continue
            topic, event = topic_named(entry.topic), said(entry)
            if isinstance(event, Relayed):
                lane.note(topic, entry.topic, event)
            if (feed := lane.feeds.get(topic.symbol)) is None:
                continue
            if topic.interval is not None:
                feed.take_bar(topic.interval, event)
            if (broadcast := feed.broadcasts.get(topic)) is not None:
                broadcast.publish(event)

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
                self._note_trouble(lane, ("down", AWAY) if self.is_away else None)

    def _note_trouble(self, lane: Lane, trouble: tuple[FeedState, str] | None) -> None:
        """Trouble between the feeds and here; None: there is none, and the feed's own state counts."""
        if trouble == lane.trouble:
            return
        lane.trouble, now = trouble, clock.now()
        for feed in lane.feeds.values():
            if trouble is not None:
                where: Any = {"exchange": self.exchange.name, "symbol": feed.symbol, "timestamp": now}
                state, reason = trouble
                self._tell_status(lane, Status(**where, state=state, reason=reason, next_retry=None))
            elif feed.symbol in lane.states:
                self._tell_status(lane, msgspec.structs.replace(lane.states[feed.symbol], timestamp=now))

    def _tell_status(self, lane: Lane, status: Status) -> None:
        """To the readers of every topic of a feed."""
        feed = lane.feeds.get(status.symbol)
        for broadcast in feed.broadcasts.values() if feed is not None else ():
            broadcast.publish(status)
        self._everywhere.tell_status(status)

    def _tell_refusal(self, name: str, reason: str) -> None:
        """To those who read a topic already: whoever leads its lane now has no room for it."""
        topic = topic_named(name)
        where: Any = {"exchange": topic.exchange, "symbol": topic.symbol, "timestamp": clock.now()}
        if (broadcast := self.feed(topic.symbol).broadcasts.get(topic)) is not None:
            broadcast.publish(Status(**where, state="failed", reason=reason, next_retry=None))

    async def _watch(self) -> None:
        """Look who leads each lane. One that did not prolong its lease for half of it is silent, and down what nobody
        leads for two of them."""
        while True:
            await trio.sleep(self._seconds / 4)
            try:
                holders = await self._engine.holders([lane.name for lane in self.lanes])
            except EngineAway:
                continue  # the reading tells
            for lane in self.lanes:
                token, left = holders.get(lane.name, (None, 0.0))
                lane.holder = token
                now = trio.current_time()
                lane.free_since = None if token is not None else now if lane.free_since is None else lane.free_since
                if not lane.epoch or self.is_away:
                    continue
                if self._is_full():
                    self._note_trouble(lane, ("down", AWAY))
                elif lane.free_since is not None and now >= lane.free_since + 2 * self._seconds:
                    self._note_trouble(lane, ("down", NOBODY))
                else:
                    self._note_trouble(lane, ("stale", SILENT) if left < self._seconds / 2 else None)
