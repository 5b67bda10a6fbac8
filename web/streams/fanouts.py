"""The fan-outs of all topics that have clients, or had some that may come back: who is held, left, ended."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

import trio

from actors.errors import NotReady
from actors.events import Kind
from actors.exchanges.exchange import Supervise
from web.account import Account
from web.counts import WebCounts
from web.streams.fanout import Fanout
from web.streams.memory import Memory, new_epoch
from web.streams.topics import Sources, Wanted, acceptance, conflater, name_of, source_of

LOOK_EVERY = 1.0  # seconds between looks for fan-outs that nobody came back to
IDLE_MAX = 2_000  # fan-outs kept for clients that may come back; the longest left go first
FILTERED_MAX = 2_000  # fan-outs with a filter: each encodes and remembers for itself, and filters are any numbers


class Fanouts:
    """The fan-outs by the names of their topics."""

    def __init__(
        self,
        nursery: trio.Nursery,
        supervise: Supervise,
        sources: Sources,
        memory: Memory | None = None,
        counts: WebCounts | None = None,
    ) -> None:
        self.sources = sources
        self.counts = counts or WebCounts()
        self.memory = memory or Memory()
        self.stopping = trio.Event()  # what has no end of its own is to end
        self._nursery = nursery
        self._supervise = supervise
        self._fanouts: dict[str, Fanout] = {}
        self._holds: dict[Fanout, ExitStack] = {}  # what each fan-out holds of its source
        self._holders: dict[Fanout, int] = {}
        self.followed_by: WeakKeyDictionary[Fanout, Account | None] = WeakKeyDictionary()  # None: by several clients
        self._left_at: dict[Fanout, float] = {}  # those without holders, in the order in which they were left
        nursery.start_soon(self._end_the_idle)

    def stop(self) -> None:
        """The server stops: end what would go on for ever."""
        self.stopping.set()
        for fanout in self._fanouts.values():
            for wake in list(fanout.wakers.values()):
                wake()

    @contextmanager
    def holding(self, wanted: Wanted, *, remember: bool = False) -> Iterator[Fanout]:
        """The fan-out of a topic, for as long as the block lasts; with `remember`, one that numbers and keeps events.

        Raises InvalidParameters or MarketError where the topic cannot be had.
        """
        accepts = acceptance(wanted.query, self.sources.spikes)
        with source_of(wanted.topic, self.sources) as (source, topic):
            name = name_of(topic, wanted.query)
            fanout = self._fanouts.get(name)
            if fanout is None or fanout.is_over:
                self._make_room(name)
                fanout = Fanout(
                    source,
                    topic,
                    name=name,
                    accepts=accepts,
                    conflater=conflater(wanted.query),
                    memory=self.memory,
                    epoch=new_epoch(),
                    counts=self.counts,
                )
                self._fanouts[name] = fanout
                hold = self._holds[fanout] = ExitStack()
                hold.enter_context(source_of(topic, self.sources))
                self._nursery.start_soon(self._run, fanout)
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

    def subscriptions(self) -> Counter[Kind]:
        """Topics that are followed, once per client."""
        followed: Counter[Kind] = Counter()
        for fanout in self._fanouts.values():
            followed[fanout.topic.kind] += fanout.clients
        return followed

    @property
    def remembered_bytes(self) -> int:
        """Of the events that are remembered."""
        return sum(fanout.remembered_bytes for fanout in self._fanouts.values())

    def states(self) -> dict[str, int]:
        """How many topics are followed, are left by all who may come back, have a filter of their own."""
        idle = len(self._left_at)
        filtered = sum("?" in name for name in self._fanouts)
        return {"followed": len(self._fanouts) - idle, "idle": idle, "filtered": filtered}

    def end_if_left(self, fanout: Fanout) -> None:
        """Do not wait for whoever may come back to it."""
        if fanout in self._left_at:
            self._end(fanout)

    def _make_room(self, name: str) -> None:
        """Bounds what clients can have made. Raises NotReady where there are as many filters as there may be."""
        while len(self._left_at) >= IDLE_MAX:
            self._end(next((left for left in self._left_at if "?" in left.name), next(iter(self._left_at))))
        if "?" not in name or sum("?" in other for other in self._fanouts) < FILTERED_MAX:
            return
        idle = next((left for left in self._left_at if "?" in left.name), None)
        if idle is None:
            raise NotReady("too many different filters are in use", retry_after=LOOK_EVERY)
        self._end(idle)

    async def _run(self, fanout: Fanout) -> None:
        with fanout.scope:
            await self._supervise("fanout", fanout.run, topic=fanout.name)

    async def _end_the_idle(self) -> None:
        while True:
            await trio.sleep(LOOK_EVERY)
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
        fanout.close()
        self._holds.pop(fanout).close()
