"""One reader per topic for all its clients: each event is encoded once, framed once, written to every client.

No client is waited for: an Outbox takes the bytes or ends its client. For clients that may come back, events are
numbered and the recent ones remembered: `seq` counts up by one within an `epoch`, and a client that names the last one
it had is told what it missed. Gaps and changes of state are remembered in their places, but have no number.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from itertools import count
from math import inf
from typing import Any, NamedTuple, Protocol

import msgspec
import trio

from actors import clock
from actors.broadcast import Lagged
from actors.errors import NotReady
from actors.events import EPOCH, Event, Gap, Said, Status, Topic, bar_end
from actors.exchanges.exchange import Supervise
from web.parameters import OhlcStreamQuery, StreamQuery
from web.server.outbox import TRY_AGAIN_LATER, text_frame
from web.streams.pacing import Conflater
from web.streams.topics import Source, Sources, Wanted, acceptance, name_of, source_of

# Events that may wait for the fan-out; it never waits, so more means the program is overloaded. Trades of a repair and
# what waited for them are published at one moment: tens of thousands.
CAPACITY = 100_000
BURST = 256  # events sent before other tasks get their turn
LOOK_EVERY = 1.0  # seconds between looks for fan-outs that nobody came back to
IDLE_MAX = 2_000  # fan-outs kept for clients that may come back; the longest left go first
FILTERED_MAX = 2_000  # fan-outs with a filter: each encodes and remembers for itself, and filters are any numbers

_encoder = msgspec.json.Encoder()
_numbers = count()


class Memory(NamedTuple):
    """How much of each topic is remembered for clients that come back."""

    frames: int = 5_000
    seconds: float = 300.0


class Position(msgspec.Struct, frozen=True):
    """The last numbered event that a client had of a topic."""

    epoch: str
    seq: int


class Remembered(NamedTuple):
    """What was said, as numbered JSON. `place` orders it: (seq, 0) for an event, (seq of the one before, 1) else."""

    place: tuple[int, int]
    at: float
    text: bytes


class Forgotten(Exception):
    """What a client would have to be told next is no longer remembered."""


class Opening(NamedTuple):
    """A moment of a topic: its present value, the number of the event that made it, and where what follows begins."""

    current: Event | None
    seq: int
    cursor: int


class Outlet(Protocol):
    """One client's way out: an Outbox, or what joins frames before one."""

    def send(self, frame: bytes) -> None: ...
    def close(self, code: int, reason: str = "") -> None: ...
    async def write_texts(self, texts: Sequence[bytes]) -> None: ...


class Client:
    """One WebSocket client of a topic: a per-path stream, or (`numbered`) one of the topics of a `/ws`."""

    __slots__ = ("numbered", "outbox", "wants_status")

    def __init__(self, outbox: Outlet, *, wants_status: bool = False, numbered: bool = False) -> None:
        self.outbox = outbox
        self.wants_status = wants_status or numbered
        self.numbered = numbered


class Fanout:
    """The web layer's reader of one topic, and its memory of what was said of it."""

    def __init__(
        self,
        source: Source,
        topic: Topic,
        *,
        name: str | None = None,
        accepts: Callable[[Any], bool] | None = None,
        conflater: Conflater | None = None,
        memory: Memory | None = None,
        epoch: str = "",
    ) -> None:
        self.source, self.topic = source, topic
        self.name = name or str(topic)
        self.epoch = epoch
        self.seq = 0  # of the last event
        self.scope = trio.CancelScope()
        self.is_over = False  # it lagged: its clients were told to come back
        self.wakers: dict[object, Callable[[], object]] = {}  # of those who read by themselves: called when it is said
        self._accepts = accepts
        self._conflater = conflater
        self._memory = memory or Memory()
        self._remembers = False
        self._reader = source.subscribe(topic, CAPACITY)
        self._received = 0  # of what was given to the reader
        self._plain: dict[Client, Callable[[bytes], None]] = {}
        self._numbered: dict[Client, Callable[[bytes], None]] = {}
        self._settling: dict[object, tuple[int, Callable[[], None]]] = {}  # see when_settled
        self._ring: deque[Remembered] = deque()
        self._first = 0  # the cursor of the ring's first entry
        self._forgot = (0, 0)  # the place of the last one that fell out of it
        self._heads: dict[str, bytes] = {}  # the beginning of a frame, by the type of what it says
        self._numbered_heads: dict[str, bytes] = {}

    # --- clients ---

    def join(self, client: Client) -> None:
        """Send the present value and everything after it, nothing twice: what is on its way goes to the others."""
        current = self._current()

        def admit() -> None:
            if client.numbered:
                if current is not None:
                    client.outbox.send(text_frame(self.numbered(current, self.seq)))
                self.admit(client)
            else:
                self._plain[client] = client.outbox.send

        if current is not None and not client.numbered:
            client.outbox.send(text_frame(self._plain_text(current)))
        self.when_settled(client, admit)

    def admit(self, client: Client) -> None:
        """From the next event on, `client` is sent numbered frames: it has been told all until now."""
        self._numbered[client] = client.outbox.send

    def leave(self, client: object) -> None:
        self._settling.pop(client, None)
        self.wakers.pop(client, None)
        if isinstance(client, Client):
            self._plain.pop(client, None)
            self._numbered.pop(client, None)

    def when_settled(self, key: object, then: Callable[[], None]) -> None:
        """Call `then` as soon as all that is published by now has been sent: at once, or right behind it.

        The source's present value already reflects what is still on its way to us; whoever was told the one must not
        be sent the other. `leave(key)` calls it off.
        """
        if self._received == self._reader.given:
            self._flush()
            then()
        else:
            self._settling[key] = self._reader.given, then

    async def open(self, key: object) -> Opening:
        """The present, with nothing of what leads to it still on its way."""
        current = self._current()
        settled = trio.Event()
        found: list[Opening] = []

        def note() -> None:
            found.append(Opening(current, self.seq, self.cursor))
            settled.set()

        self.when_settled(key, note)
        await settled.wait()
        return found[0]

    def _current(self) -> Event | None:
        current = self.source.current(self.topic)
        return current if current is not None and (self._accepts is None or self._accepts(current)) else None

    # --- what is remembered ---

    def remember(self) -> None:
        """Number events and keep them, from now on: there is a client that may come back."""
        self._remembers = True

    @property
    def may_be_resumed(self) -> bool:
        return self._remembers and not self.is_over

    @property
    def cursor(self) -> int:
        """Where what is said next will be remembered."""
        return self._first + len(self._ring)

    def resume(self, since: Position) -> int | None:
        """The cursor of what came after an event; None where that is not all remembered."""
        self._forget()
        if since.epoch != self.epoch or since.seq > self.seq or (since.seq, 0) < self._forgot:
            return None
        return self._first + bisect_right(self._ring, (since.seq, 0), key=lambda said: said.place)

    def read(self, cursor: int, limit: int) -> list[Remembered]:
        """Up to `limit` things said from `cursor` on; none: it has reached the present. Raises Forgotten."""
        if cursor < self._first:
            raise Forgotten
        at = cursor - self._first
        return [self._ring[index] for index in range(at, min(at + limit, len(self._ring)))]

    def too_old(self, since: Position | None) -> bytes:
        """The gap to tell a client that cannot be resumed: from when it may have left until now."""
        now = clock.now()
        start = min(_began(since.epoch) if since else now, now)
        if self.topic.interval:
            start -= bar_end(EPOCH, self.topic.interval) - EPOCH  # a bar is named by its open
        gap = Gap(
            exchange=self.topic.exchange,
            symbol=self.topic.symbol,
            timestamp=now,
            start=start,
            end=now,
            reason="resume_too_old",
            repaired=False,
        )
        return self.numbered(gap, self.seq)

    def _keep(self, place: tuple[int, int], text: bytes) -> None:
        self._ring.append(Remembered(place, trio.current_time(), text))
        if len(self._ring) > self._memory.frames or self._ring[0].at < self._ring[-1].at - self._memory.seconds:
            self._forget()

    def _forget(self) -> None:
        oldest = trio.current_time() - self._memory.seconds
        while self._ring and (len(self._ring) > self._memory.frames or self._has_aged(oldest)):
            place = self._ring.popleft().place
            self._first += 1
            self._forgot = (place[0] + place[1], 0)  # behind what has no number, only its successor can be resumed from

    def _has_aged(self, oldest: float) -> bool:
        """What has no number grows old with the event behind it: a client may have had the one before it until then."""
        event = next((said for said in self._ring if said.place[1] == 0), None)
        return event is not None and event.at < oldest

    # --- what the source says ---

    def close(self) -> None:
        self.scope.cancel()
        self._reader.close()

    async def run(self) -> None:
        try:
            while True:
                with trio.CancelScope(deadline=self._conflater.due if self._conflater else inf) as waiting:
                    self._send(await self._reader.receive())
                if waiting.cancelled_caught:
                    self._flush()
                with suppress(trio.WouldBlock):
                    for _ in range(BURST):
                        self._send(self._reader.receive_nowait())
        except Lagged:
            self.is_over = True
            for client in (*self._plain, *self._numbered, *self._settling):
                if isinstance(client, Client):
                    client.outbox.close(TRY_AGAIN_LATER, "the daemon is overloaded")
            # Whoever waits to settle or reads by themselves sees that it is over.
            for _, then in list(self._settling.values()):
                then()
            for wake in list(self.wakers.values()):
                wake()
        except trio.ClosedResourceError:
            return  # nobody came back

    def _send(self, said: Said) -> None:
        self._received += 1
        if isinstance(said, Status | Gap) or self._accepts is None or self._accepts(said):
            if self._conflater is None:
                self._distribute(said)
            else:
                for item in self._conflater.take(said, trio.current_time()):
                    self._distribute(item)
        if self._settling:
            self._settle()

    def _flush(self) -> None:
        """Tell what is held back, before its time: whoever comes now is told the present."""
        if self._conflater is not None:
            for item in self._conflater.flush(trio.current_time()):
                self._distribute(item)

    def _distribute(self, said: Said) -> None:
        is_event = not isinstance(said, Status | Gap)
        if self._plain:
            frame = text_frame(self._plain_text(said))
            if is_event:
                for send in self._plain.values():
                    send(frame)
            else:
                for client, send in self._plain.items():
                    if client.wants_status:
                        send(frame)
        if self._remembers:
            self.seq += is_event
            text = self.numbered(said, self.seq)
            self._keep((self.seq, 0 if is_event else 1), text)
            if self._numbered:
                frame = text_frame(text)
                for send in self._numbered.values():
                    send(frame)
            for wake in self.wakers.values():
                wake()

    def _settle(self) -> None:
        for key, (given, then) in list(self._settling.items()):
            if self._received >= given:
                del self._settling[key]
                self._flush()
                then()

    # --- frames ---

    def _plain_text(self, said: Said) -> bytes:
        """As per-path streams tell it."""
        head = self._heads.get(said.type)
        if head is None:
            about = {"type": said.type} | ({"topic": self.name} if isinstance(said, Status | Gap) else {})
            head = self._heads[said.type] = _encoder.encode(about)[:-1] + b","
        return head + _encoder.encode(said)[1:]

    def numbered(self, said: Said, seq: int) -> bytes:
        """As `/ws` and `/sse` tell it: with its topic, and an event with its number."""
        if isinstance(said, Status | Gap):
            return self._plain_text(said)
        head = self._numbered_heads.get(said.type)
        if head is None:
            about = {"type": said.type, "topic": self.name, "epoch": self.epoch}
            head = self._numbered_heads[said.type] = _encoder.encode(about)[:-1] + b',"seq":'
        return b"%b%d,%b" % (head, seq, _encoder.encode(said)[1:])


class Fanouts:
    """The fan-outs of all topics that have clients, or had some that may come back."""

    def __init__(
        self, nursery: trio.Nursery, supervise: Supervise, sources: Sources, memory: Memory | None = None
    ) -> None:
        self.sources = sources
        self.memory = memory or Memory()
        self.stopping = trio.Event()  # what has no end of its own is to end
        self._nursery = nursery
        self._supervise = supervise
        self._fanouts: dict[str, Fanout] = {}
        self._holds: dict[Fanout, ExitStack] = {}  # what each fan-out holds of its source
        self._holders: dict[Fanout, int] = {}
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


def conflater(query: StreamQuery) -> Conflater | None:
    """What keeps the rate of a topic's updates down, where that is asked for."""
    match query:
        case OhlcStreamQuery(max_rate=rate) if rate > 0:
            return Conflater(rate)
    return None


def new_epoch() -> str:
    """A name that no other run of this topic has; it tells when the run began."""
    return f"{clock.to_us(clock.now()):x}-{next(_numbers)}"


def _began(epoch: str) -> datetime:
    """When an epoch began, which is before the last event that a client had of it; now, where the name is not ours."""
    try:
        return clock.from_us(int(epoch.partition("-")[0][:14], 16))
    except (ValueError, OverflowError):
        return clock.now()
