"""One reader of a source's topic for all topics that clients make of it, filters included.

What waits is taken at once: each event is encoded once, each topic's frames are joined once per kind of client, and a
client is written to once, however many events came and however many of the topics it follows. One that comes alone is
sent at once.
"""

from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Any

import trio

from actors import clock
from actors.broadcast import Lagged
from actors.events import Topic
from actors.relayed import Numbering, Relayed, Renumbered, Told
from web.counts import WebCounts
from web.server.outbox import TRY_AGAIN_LATER
from web.streams.fanout import Audience, Client, Fanout, Outlet
from web.streams.memory import Encoded, Log, Room, encoded
from web.streams.pacing import Conflater
from web.streams.topics import NumberedSource, SharedSource, Source

# Events that may wait for the trunk; it never waits, so more means the program is overloaded. Trades of a repair and
# what waited for them are published at one moment: tens of thousands.
CAPACITY = 100_000
BEGUN_WITHIN = 10.0  # seconds that clients of a source which numbers wait for its first numbers
COLLECTED_WITHIN = 3.0  # seconds that clients wait to be told whether somebody has room to collect what they want
REACHED_WITHIN = 10.0  # seconds that a client waits for what it was told elsewhere
BURST = 256  # events taken before other tasks get their turn

_numbers = count()


class Trunk:
    """The web layer's reader of one topic of a source."""

    def __init__(self, source: Source, topic: Topic, room: Room, counts: WebCounts | None = None) -> None:
        self.source, self.topic = source, topic
        self.room = room
        self.log = Log(room)
        self.remembers = False  # the log is kept
        self.fanouts: dict[Fanout, None] = {}  # in the order in which they were made
        self._lanes: dict[Outlet, Audience] = {}
        self._followed: Counter[Outlet] = Counter()  # the filters that each lane is for
        self.news: list[Audience] = []  # those that have frames to be written
        self.woken: dict[Fanout, None] = {}  # those whose readers are to look again
        self.deliveries = 0  # of events, since something was written
        self.scope = trio.CancelScope()
        self.is_over = False  # it lagged
        self._counts = counts or WebCounts()
        self._reader = source.subscribe(topic, CAPACITY)
        self._numbers = source if isinstance(source, NumberedSource) else None
        # Of the last event that was told: the name of the memory that it belongs to ("": who tells it names one), and
        # its number. Nothing waits to be told yet.
        self.epoch, self.seq = self._numbers.numbering(topic) if self._numbers else ("", 0)
        self._begun = trio.Event()  # a source that numbers knows its numbers
        if self.epoch or self._numbers is None:
            self._begun.set()
        self._ahead: list[tuple[int, trio.Event]] = []  # numbers that clients had elsewhere before they came here
        self._recalling = trio.Lock()
        self._recalled: int | None = None  # the number behind which all that is remembered elsewhere is in the log
        self._received = 0  # of what was given to the reader
        self._settling: dict[object, tuple[int, Fanout, Callable[[], None]]] = {}  # see when_settled
        self._due: list[tuple[float, int, Fanout]] = []  # when conflated topics may tell what they hold back

    @property
    def logs(self) -> list[Log]:
        """Everything that is remembered here."""
        return [self.log, *(fanout.log for fanout in self.fanouts if fanout.log is not self.log)]

    def grow(
        self,
        *,
        name: str | None = None,
        accepts: Callable[[Any], bool] | None = None,
        conflater: Conflater | None = None,
        epoch: str = "",
    ) -> Fanout:
        """A new topic. `epoch`: of its numbers, where the source gives none."""
        if self.epoch and accepts is None and conflater is None:
            epoch = self.epoch
        fanout = Fanout(self, name=name or str(self.topic), accepts=accepts, conflater=conflater, epoch=epoch)
        self.fanouts[fanout] = None
        return fanout

    def cut(self, fanout: Fanout) -> None:
        """A topic ends."""
        del self.fanouts[fanout]
        fanout.close()
        if not self.fanouts:
            self.scope.cancel()
            self._reader.close()
            self.log.close()

    def lane_of(self, outlet: Outlet) -> Audience:
        """Of one client alone, for all filters that it follows here: what they tell at one moment is one piece."""
        lane = self._lanes.get(outlet)
        if lane is None:
            lane = self._lanes[outlet] = Audience()
            lane.sends[outlet] = outlet.send
        self._followed[outlet] += 1
        return lane

    def leave_lane(self, outlet: Outlet) -> None:
        self._followed[outlet] -= 1
        if not self._followed[outlet]:
            del self._followed[outlet], self._lanes[outlet]

    def add(self, audience: Audience, frame: bytes, is_event: bool) -> None:
        """A frame that is to be sent by the next write."""
        if not audience.frames:
            self.news.append(audience)
        audience.frames.append(frame)
        if is_event:
            self.deliveries += len(audience.sends)

    def when_settled(self, key: object, fanout: Fanout, then: Callable[[], None]) -> None:
        """Call `then` as soon as all that is published by now has been sent: at once, or right behind it.

        The source's present value already reflects what is still on its way to us; whoever was told the one must not
        be sent the other. `forget(key)` calls it off.
        """
        if self._received == self._reader.given or self.is_over:
            fanout.flush()
            self._write()
            then()
        else:
            self._settling[key] = self._reader.given, fanout, then

    def forget(self, key: object) -> None:
        self._settling.pop(key, None)

    async def run(self) -> None:
        try:
            while True:
                if self._due:
                    with trio.CancelScope(deadline=self._due[0][0]) as waiting:
                        await self._reader.wait(self._take)
                    if waiting.cancelled_caught:
                        self._flush_the_due()
                        continue
                else:  # a scope costs a tenth of all that is done here for an event that comes alone
                    await self._reader.wait(self._take)
                self._take()
        except Lagged:
            self.is_over = True
            for fanout in self.fanouts:
                fanout.end()
            # Whoever waits to settle sees that it is over.
            for key, (_, _, then) in list(self._settling.items()):
                if isinstance(key, Client):
                    key.outbox.close(TRY_AGAIN_LATER, "the daemon is overloaded")
                then()
        except trio.ClosedResourceError:
            return  # nobody came back

    def _take(self) -> bool:
        """Tell what waits, by `run` or in its place; False: `run` is to look at the clock anew."""
        due = self._due[0][0] if self._due else inf
        if waiting := len(self._reader):
            self._tell([self._reader.receive_nowait() for _ in range(min(BURST, waiting))])
        return (self._due[0][0] if self._due else inf) == due

    def _tell(self, batch: list[Told]) -> None:
        now = trio.current_time()
        for said in batch:
            self._received += 1
            if isinstance(said, Renumbered):
                self._begin_anew(said.numbering)
                continue
            if isinstance(said, Relayed):
                self.seq = said.seq
                told = Encoded(said, said.text[1:], now)
            else:
                told = encoded(said, now)
            if self.remembers:
                self.log.keep(told)
            for fanout in self.fanouts:
                fanout.take(told)
                if fanout.conflater is not None:
                    self._note_due(fanout, fanout.conflater.due)
            if self._settling:
                self._settle()
        self._write()
        if self._ahead:
            for ahead in self._ahead:
                if ahead[0] <= self.seq:
                    ahead[1].set()
            self._ahead = [ahead for ahead in self._ahead if not ahead[1].is_set()]

    # --- a source that others collect ---

    def is_collected(self) -> bool:
        """Whether the topic is told, or may be waited for as it is. Raises UpstreamLimited."""
        return not isinstance(self.source, SharedSource) or self.source.is_collected(self.topic)

    async def collected(self) -> None:
        """Wait, within a limit, until it is known that the topic is told. Raises UpstreamLimited."""
        if isinstance(self.source, SharedSource):
            with trio.move_on_after(COLLECTED_WITHIN):
                await self.source.collected(self.topic)

    # --- a source that numbers ---

    async def begun(self) -> None:
        """Wait, within a limit, until the source knows its numbers: before that nobody can be told where to go on."""
        if not self._begun.is_set():
            with trio.move_on_after(BEGUN_WITHIN):
                await self._begun.wait()

    async def reached(self, seq: int) -> None:
        """Wait, within a limit, until an event is told that a client had elsewhere: we may be a little behind."""
        if seq > self.seq:
            event = trio.Event()
            self._ahead.append((seq, event))
            with trio.move_on_after(REACHED_WITHIN):
                await event.wait()
            if not event.is_set():
                self._ahead.remove((seq, event))

    async def recall(self, behind: int) -> None:
        """Remember what was told behind the event of a number, before this was made, as far as the source does."""
        async with self._recalling:
            if self._numbers is None or (self._recalled is not None and self._recalled <= behind):
                return
            epoch = self.epoch
            said = await self._numbers.recall(self.topic, behind)
            if said is None or self.epoch != epoch:
                return
            # What stands before the first event, unless memory begins there, comes when older ones are recalled.
            begin = next((place for place, (one, _) in enumerate(said) if isinstance(one, Relayed)), 0)
            is_reached = any(isinstance(one, Relayed) and one.seq <= behind for one, _ in said)
            said, self._recalled = (said[begin:], behind) if is_reached else (said, 0)
            first = self.seq - (self.log.end - self.log.first) + 1  # the number of the oldest event that is kept
            now = trio.current_time()
            older: list[Encoded] = []
            last = first - 1
            for one, age in said:
                if isinstance(one, Relayed):
                    if one.seq >= first:
                        break
                    last = one.seq
                    older.append(Encoded(one, one.text[1:], now - age))
                else:
                    older.append(encoded(one, now - age))
            if last == first - 1:
                self.log.put_before(older)

    def _begin_anew(self, numbering: Numbering) -> None:
        """What was told until now is not continued; before the first numbers that is nothing."""
        is_first = not self.epoch
        self.epoch, self.seq = numbering
        self._recalled = None
        self.log.break_off()
        for fanout in self.fanouts:
            fanout.begin_anew(is_told=not is_first)
        self._begun.set()

    def _note_due(self, fanout: Fanout, due: float) -> None:
        if due < inf and due != fanout.noted_due:
            fanout.noted_due = due
            heappush(self._due, (due, next(_numbers), fanout))

    def _flush_the_due(self) -> None:
        now = trio.current_time()
        while self._due and self._due[0][0] <= now:
            _, _, fanout = heappop(self._due)
            if fanout.conflater is not None and fanout.conflater.due <= now:
                fanout.flush()
        self._write()

    def _settle(self) -> None:
        for key, (given, fanout, then) in list(self._settling.items()):
            if self._received >= given and self._settling.pop(key, None) is not None:  # nobody called it off
                fanout.flush()
                self._write()
                then()

    def _write(self) -> None:
        """Send what waits: one piece to each client."""
        news, self.news = self.news, []
        size = 0
        for audience in news:
            frames, audience.frames = audience.frames, []
            piece = frames[0] if len(frames) == 1 else b"".join(frames)
            for send in audience.sends.values():
                send(piece)
            size += len(piece) * len(audience.sends)
        woken, self.woken = self.woken, {}
        for fanout in woken:
            fanout.wake()
        deliveries, self.deliveries = self.deliveries, 0
        if deliveries:
            self._counts.written(self.topic.kind, deliveries, size)
            if received_at := self.source.received_at:
                self._counts.delivery.observe((clock.now() - received_at).total_seconds())
