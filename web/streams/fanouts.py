"""The fan-outs of all topics that have clients, or had some that may come back: who is held, left, ended.

Together they remember within a room: where that is full, the topic that nobody has read for longest forgets first.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

import trio

from actors import clock
from actors.errors import MarketError, Overloaded
from actors.events import Kind, Topic
from actors.exchanges.exchange import Supervise
from web.access.account import Account
from web.counts import WebCounts
from web.pressure import Pressure
from web.streams.fanout import Fanout
from web.streams.memory import Memory, Room, new_epoch
from web.streams.topics import Source, Sources, Wanted, acceptance, conflater, name_of, source_of
from web.streams.trunk import Trunk

LOOK_EVERY = 1.0  # seconds between looks for fan-outs that nobody came back to
IDLE_MAX = 10_000  # fan-outs kept for clients that may come back; the longest left go first


class Fanouts:
    """The fan-outs by the names of their topics."""

    def __init__(
        self,
        nursery: trio.Nursery,
        supervise: Supervise,
        sources: Sources,
        memory: Memory | None = None,
        pressure: Pressure | None = None,
        counts: WebCounts | None = None,
    ) -> None:
        self.sources = sources
        self.counts = counts or WebCounts()
        self.memory = memory or Memory()
        self.room = Room(self.memory)
        self.stopping = trio.Event()  # what has no end of its own is to end
        self.nursery = nursery
        self._supervise = supervise
        self._pressure = pressure
        self._trunks: dict[Topic, Trunk] = {}
        self._holds: dict[Trunk, ExitStack] = {}  # what each trunk holds of its source
        self._fanouts: dict[str, Fanout] = {}
        self._holders: dict[Fanout, int] = {}
        self.followed_by: WeakKeyDictionary[Fanout, Account | None] = WeakKeyDictionary()  # None: by several clients
        self._left_at: dict[Fanout, float] = {}  # those without holders, in the order in which they were left
        nursery.start_soon(self._end_the_idle)

    def stop(self) -> None:
        """The server stops: end what would go on for ever."""
        self.stopping.set()
        for fanout in self._fanouts.values():
            fanout.wake()

    @contextmanager
    def holding(self, wanted: Wanted, *, remember: bool = False) -> Iterator[Fanout]:
        """The fan-out of a topic, for as long as the block lasts; with `remember`, one that numbers and keeps events.

        Raises InvalidParameters or MarketError where the topic cannot be had.
        """
        accepts = acceptance(wanted.query, self.sources.spikes)
        self._check_pressure(wanted)
        with source_of(wanted.topic, self.sources) as (source, topic):
            name = name_of(topic, wanted.query)
            fanout = self._fanouts.get(name)
            if fanout is None or fanout.is_over:
                self._make_room()
                trunk = self._trunk_of(source, topic)
                fanout = trunk.grow(name=name, accepts=accepts, conflater=conflater(wanted.query), epoch=new_epoch())
                self._fanouts[name] = fanout
        if remember:
            fanout.remember()
        self._left_at.pop(fanout, None)
        self._holders[fanout] = self._holders.get(fanout, 0) + 1
        try:
            yield fanout
        finally:
            self._holders[fanout] -= 1
            if not self._holders[fanout]:
                if fanout.may_be_resumed and not self.stopping.is_set():
                    self._left_at[fanout] = trio.current_time()
                else:
                    self._end(fanout)

    def change(self, memory: Memory) -> None:
        """Remember so much from the next look on."""
        self.memory = memory

    def subscriptions(self) -> Counter[Kind]:
        """Topics that are followed, once per client."""
        followed: Counter[Kind] = Counter()
        for fanout in self._fanouts.values():
            followed[fanout.topic.kind] += fanout.followers
        return followed

    @property
    def remembered_bytes(self) -> int:
        """What remembered events take, of all topics together."""
        return self.room.used

    def states(self) -> dict[str, int]:
        """How many topics are followed, are left by all who may come back, have a filter of their own."""
        idle = len(self._left_at)
        filtered = sum("?" in name for name in self._fanouts)
        return {"followed": len(self._fanouts) - idle, "idle": idle, "filtered": filtered}

    def end_if_left(self, fanout: Fanout) -> None:
        """Do not wait for whoever may come back to it."""
        if fanout in self._left_at:
            self._end(fanout)

    @property
    def is_short_of_memory(self) -> bool:
        """Nothing is to be begun that takes more of it."""
        return self._pressure is not None and self._pressure.is_high

    def _check_pressure(self, wanted: Wanted) -> None:
        """Raises Overloaded where memory is short and this would take more of it."""
        if not self.is_short_of_memory:
            return
        topic, name = wanted.topic, name_of(wanted.topic, wanted.query)
        if "?" in name and name not in self._fanouts:
            raise Overloaded("the daemon is short of memory: no new filters for now")
        if topic.symbol and not _is_collected(topic, self.sources):
            raise Overloaded("the daemon is short of memory: no further symbols for now")

    def _trunk_of(self, source: Source, topic: Topic) -> Trunk:
        trunk = self._trunks.get(topic)
        if trunk is None or trunk.is_over:
            trunk = self._trunks[topic] = Trunk(source, topic, self.room, self.counts)
            hold = self._holds[trunk] = ExitStack()
            hold.enter_context(source_of(topic, self.sources))
            self.nursery.start_soon(self._run, trunk)
        return trunk

    def _make_room(self) -> None:
        """Bounds what clients can have left behind."""
        while len(self._left_at) >= IDLE_MAX:
            self._end(next((left for left in self._left_at if "?" in left.name), next(iter(self._left_at))))

    def _make_fit(self) -> None:
        """Let topics forget until all fits: first those that were left longest ago, then those read longest ago."""
        while self.room.is_full:
            logs = [
                (self._is_followed(trunk), log.read_at, number, log)
                for trunk in self._holds
                for number, log in enumerate(trunk.logs)
                if log.end > log.first
            ]
            if not logs:
                return
            min(logs, key=lambda entry: entry[:3])[3].forget_half()

    def _is_followed(self, trunk: Trunk) -> bool:
        return any(self._holders[fanout] for fanout in trunk.fanouts)

    async def _run(self, trunk: Trunk) -> None:
        with trunk.scope:
            await self._supervise("fanout", trunk.run, topic=str(trunk.topic))

    async def _end_the_idle(self) -> None:
        while True:
            await clock.tick(LOOK_EVERY)
            self.room.memory = self.memory.halved() if self.is_short_of_memory else self.memory
            self._make_fit()
            oldest = trio.current_time() - self.memory.seconds
            for fanout, left_at in list(self._left_at.items()):
                if left_at > oldest:
                    break
                self._end(fanout)

    def _end(self, fanout: Fanout) -> None:
        self._left_at.pop(fanout, None)
        self._holders.pop(fanout, None)
        if self._fanouts.get(fanout.name) is fanout:
            del self._fanouts[fanout.name]
        trunk = fanout.trunk
        trunk.cut(fanout)
        if not trunk.fanouts:
            if self._trunks.get(trunk.topic) is trunk:
                del self._trunks[trunk.topic]
            self._holds.pop(trunk).close()


def _is_collected(topic: Topic, sources: Sources) -> bool:
    """Whether a topic's symbol needs no further feed, or cannot have one, as will be said."""
    connector = sources.connectors[topic.exchange]
    try:
        return topic.symbol in connector.feeds or connector.catalogue.resolve(topic.symbol).symbol in connector.feeds
    except MarketError:
        return True
