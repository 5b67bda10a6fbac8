"""One topic as its clients know it: a name, numbers, whom it is told to. A trunk gives it what is said, encoded once.

No client is waited for: an Outbox takes the bytes or ends its client. `seq` counts up by one within an `epoch`, and a
client that names the last event it had is told what it missed. Gaps and changes of state are remembered in their
places, but have no number.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec
import trio

from actors import clock
from actors.events import EPOCH, Event, Gap, Said, Status, Topic, bar_end
from actors.relayed import Relayed
from web.server.outbox import TRY_AGAIN_LATER, joined_frame, text_frame
from web.streams.memory import Cursor, Encoded, Log, Position, began, encoded, new_epoch
from web.streams.pacing import Conflater
from web.streams.topics import Source

if TYPE_CHECKING:
    from web.streams.trunk import Trunk

_encode = msgspec.json.Encoder().encode


class Opening(NamedTuple):
    """A moment of a topic: its present value, the number of the event that made it, and where what follows begins."""

    current: Event | None
    seq: int
    cursor: Cursor


class Numbered(NamedTuple):
    """What is told again: the number of the event, or of the one before it, and its JSON."""

    seq: int
    text: bytes


class Outlet(Protocol):
    """One client's way out: an Outbox, or what joins frames before one."""

    def send(self, frames: bytes) -> None: ...
    def close(self, code: int, reason: str = "") -> None: ...
    async def write_texts(self, texts: Sequence[bytes]) -> None: ...


class Client:
    """One WebSocket client of a topic: a per-path stream, or (`numbered`) one of the topics of a `/ws`."""

    __slots__ = ("numbered", "outbox", "wants_status")

    def __init__(self, outbox: Outlet, *, wants_status: bool = False, numbered: bool = False) -> None:
        self.outbox = outbox
        self.wants_status = wants_status or numbered
        self.numbered = numbered


class Audience:
    """Those who are told the same bytes, by their way out, and the frames that they are to be told next."""

    __slots__ = ("frames", "sends")

    def __init__(self) -> None:
        self.sends: dict[object, Callable[[bytes], None]] = {}
        self.frames: list[bytes] = []


class Fanout:
    """One topic of a trunk: all that is said there, what a filter accepts, or no more than a rate allows."""

    # Filters are thousands, and each is looked at for every event: what that takes must fit into the processor's cache.
    __slots__ = (
        "__weakref__",
        "_accepts",
        "_begins_at",
        "_clients",
        "_forgotten",
        "_heads",
        "_numbered",
        "_numbered_head",
        "_plain",
        "_remembers",
        "_status",
        "conflater",
        "epoch",
        "log",
        "name",
        "noted_due",
        "seq",
        "trunk",
        "wakers",
    )

    def __init__(
        self,
        trunk: "Trunk",
        *,
        name: str,
        accepts: Callable[[Any], bool] | None = None,
        conflater: Conflater | None = None,
        epoch: str = "",
    ) -> None:
        self.trunk = trunk
        self.name = name
        self.epoch = epoch
        self.seq = 0  # of the last event
        self.wakers: dict[object, Callable[[], object]] = {}  # of those who read by themselves: called when it is said
        self.conflater = conflater
        self._clients: dict[Client, Audience] = {}
        self._plain: Audience | None = None  # each None while there are none
        self._status: Audience | None = None  # as plain, and notes
        self._numbered: tuple[Audience, ...] = ()
        self.noted_due = 0.0  # when the trunk means to tell what the conflater holds back
        self._accepts = accepts
        # What a filter lets through is part of the trunk's log; what a rate lets through is known to nobody else.
        self.log = trunk.log if conflater is None else Log(trunk.room)
        self._remembers = False
        self._forgotten = -1  # the index of the last event that was told and is no longer kept
        self._begins_at = 0  # the index of the first event that has a number
        self._heads: dict[str, bytes] = {}  # the beginning of a frame, by the type of what it says
        self._numbered_head = b""  # the same of a numbered event: a topic has one type of them

    @property
    def source(self) -> Source:
        return self.trunk.source

    @property
    def topic(self) -> Topic:
        return self.trunk.topic

    @property
    def is_over(self) -> bool:
        """It lagged: its clients were told to come back."""
        return self.trunk.is_over

    # --- clients ---

    @property
    def followers(self) -> int:
        """How many clients follow it, those too that read by themselves."""
        return len(self.wakers) + len(self._clients)

    def join(self, client: Client) -> None:
        """Send the present value and everything after it, nothing twice: what is on its way goes to the others."""
        current = self._current()

        def admit() -> None:
            if client.numbered:
                if current is not None:
                    client.outbox.send(text_frame(self.numbered_text(current, self.seq)))
                self.admit(client)
            else:
                if client.wants_status:
                    audience = self._status = self._status or Audience()
                else:
                    audience = self._plain = self._plain or Audience()
                audience.sends[client] = client.outbox.send
                self._clients[client] = audience

        if current is not None and not client.numbered:
            client.outbox.send(text_frame(self._head(current) + _encode(current)[1:]))
        self.trunk.when_settled(client, self, admit)

    def admit(self, client: Client) -> None:
        """From the next event on, `client` is sent numbered frames: it has been told all until now."""
        if self._accepts is None:
            audience = self._numbered[0] if self._numbered else Audience()
            audience.sends[client] = client.outbox.send
            self._numbered = (audience,)
        else:  # a client may follow any number of filters
            audience = self.trunk.lane_of(client.outbox)
            self._numbered += (audience,)
        self._clients[client] = audience

    def leave(self, client: object) -> None:
        self.trunk.forget(client)
        self.wakers.pop(client, None)
        if not isinstance(client, Client) or (audience := self._clients.pop(client, None)) is None:
            return
        if audience in self._numbered and self._accepts is not None:
            self._numbered = tuple(one for one in self._numbered if one is not audience)
            self.trunk.leave_lane(client.outbox)
            return
        del audience.sends[client]
        if not audience.sends:
            if audience is self._plain:
                self._plain = None
            elif audience is self._status:
                self._status = None
            else:
                self._numbered = ()

    async def open(self, key: object) -> Opening:
        """The present, with nothing of what leads to it still on its way."""
        current = self._current()
        settled = trio.Event()
        found: list[Opening] = []

        def note() -> None:
            found.append(Opening(current, self.seq, Cursor(self.seq, self.log.end, self.log.end_note)))
            settled.set()

        self.trunk.when_settled(key, self, note)
        await settled.wait()
        return found[0]

    def end(self) -> None:
        """The topic is over: its clients are told to come back."""
        for client in self._clients:
            client.outbox.close(TRY_AGAIN_LATER, "the daemon is overloaded")
        self.wake()

    def wake(self) -> None:
        """Whoever reads by themselves looks again."""
        for wake in list(self.wakers.values()):
            wake()

    def close(self) -> None:
        """Nobody comes back."""
        self.conflater = None
        self.log.selections.discard(self)
        if self.log is not self.trunk.log:
            self.log.close()

    def _current(self) -> Event | None:
        current = self.source.current(self.topic)
        return current if current is not None and (self._accepts is None or self._accepts(current)) else None

    # --- what is remembered ---

    def remember(self) -> None:
        """Number events and keep them, from now on: there is a client that may come back."""
        if self._remembers:
            return
        self._remembers = True
        self._begins_at = self.log.end
        self._forgotten = self._begins_at - 1
        if self._is_numbered_elsewhere:
            self.seq = self.trunk.seq
        if self.log is self.trunk.log:
            self.trunk.remembers = True
        if self._accepts is not None:
            self.log.selections.add(self)

    @property
    def may_be_resumed(self) -> bool:
        return self._remembers and not self.is_over

    @property
    def _is_numbered_elsewhere(self) -> bool:
        """The source numbers it: all that is told there, and nothing of it is left out."""
        return bool(self.trunk.epoch) and self._accepts is None and self.conflater is None

    async def recall(self, since: Position) -> None:
        """Before a client resumes: remember what it missed, where its numbers are older than this topic is here."""
        await self.trunk.begun()
        if self._is_numbered_elsewhere and since.epoch == self.epoch:
            await self.trunk.reached(since.seq)
        held = self.log.end - self.log.first
        # Also for what is behind the very event before those: notes may be there.
        if self._is_numbered_elsewhere and since.epoch == self.epoch and self.seq - since.seq >= held:
            await self.trunk.recall(since.seq)

    def begin_anew(self, *, is_told: bool) -> None:
        """What was told is not continued: clients are told so, as if they had come back too late."""
        gap = text_frame(self.too_old(Position(self.epoch, self.seq)))
        follows = self.conflater is None and self._accepts is None
        self.epoch, self.seq = (self.trunk.epoch, self.trunk.seq) if follows else (new_epoch(), 0)
        self._numbered_head = b""
        if self.conflater is not None:
            self.conflater.drop()
            self.log.break_off()
        self._begins_at = self.log.first
        self._forgotten = self._begins_at - 1
        listening = self._numbered if self._status is None else (*self._numbered, self._status)
        for audience in listening if is_told else ():
            self.trunk.add(audience, gap, False)
        if self.wakers:
            self.trunk.woken[self] = None

    def resume(self, since: Position) -> Cursor | None:
        """The cursor of what came after an event; None where that is not all remembered."""
        if since.epoch != self.epoch or not 0 <= since.seq <= self.seq:
            return None
        self.log.refresh()
        event = self._place_behind(since.seq)
        return None if event is None else self.log.from_event(since.seq, event)

    def _place_behind(self, seq: int) -> int | None:
        """The index of what followed the event of a number; None where what was told since is not all kept."""
        newer = self.seq - seq
        if self._accepts is None:
            event = self.log.end - newer
            return event if event >= self.log.first else None
        end = self.log.end
        for back, told in enumerate(self.log.backwards(self._begins_at)):
            if self._accepts(told.said):
                if not newer:
                    return end - back
                newer -= 1
        return None if newer else self._forgotten + 1

    def read(self, cursor: Cursor, limit: int) -> tuple[list[Numbered], Cursor]:
        """About `limit` things said from `cursor` on, and where to go on; none: the present is reached.

        Raises Forgotten.
        """
        forgotten = self.log.first - 1 if self._accepts is None else self._forgotten
        found, cursor = self.log.read(cursor, limit, self._accepts, forgotten)
        return [Numbered(seq, self._numbered_text(told, seq)) for seq, told in found], cursor

    def forget(self, first: int, events: Sequence[Encoded]) -> None:
        """As a selection of the log."""
        assert self._accepts is not None
        for index in range(len(events) - 1, -1, -1):
            if first + index < self._begins_at:
                return
            if self._accepts(events[index].said):
                self._forgotten = first + index
                return

    def too_old(self, since: Position | None) -> bytes:
        """The gap to tell a client that cannot be resumed: from when it may have left until now."""
        now = clock.now()
        start = min(began(since.epoch) if since else now, now)
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
        return self.numbered_text(gap, self.seq)

    # --- what the trunk says ---

    def take(self, told: Encoded) -> None:
        """Something is said; frames of it wait until the trunk writes."""
        if self._accepts is not None and told.is_event and not self._accepts(told.said):
            return
        if self.conflater is None:
            self._tell(told)
        else:
            for item in self.conflater.take(told, trio.current_time()):
                self._tell(item)

    def flush(self) -> None:
        """Tell what is held back, before its time: whoever comes now is told the present."""
        if self.conflater is not None:
            for item in self.conflater.flush(trio.current_time()):
                self._tell(item)

    def _tell(self, told: Encoded) -> None:
        if self._plain is not None or self._status is not None:
            frame = text_frame(self._head(told.said) + told.text)
            if self._status is not None:
                self.trunk.add(self._status, frame, told.is_event)
            if self._plain is not None and told.is_event:
                self.trunk.add(self._plain, frame, True)
        if self._remembers:
            if told.is_event:
                self.seq += 1
            if self.conflater is not None:
                self.log.keep(told)
            if self._numbered:
                if told.is_event and self._numbered_head:
                    frame = joined_frame(self._numbered_head, b"%d," % self.seq, told.text)
                else:
                    frame = text_frame(self._numbered_text(told, self.seq))
                for audience in self._numbered:
                    if audience.frames and told.is_event:  # most of the time; `add` would do
                        audience.frames.append(frame)
                        self.trunk.deliveries += len(audience.sends)
                    else:
                        self.trunk.add(audience, frame, told.is_event)
        if self.wakers:
            self.trunk.woken[self] = None

    # --- frames ---

    def _head(self, said: Said | Relayed) -> bytes:
        """The beginning of what per-path streams tell."""
        head = self._heads.get(said.type)
        if head is None:
            about = {"type": said.type} | ({"topic": self.name} if isinstance(said, Status | Gap) else {})
            head = self._heads[said.type] = _encode(about)[:-1] + b","
        return head

    def _numbered_text(self, told: Encoded, seq: int) -> bytes:
        """As `/ws` and `/sse` tell it: with its topic, and an event with its number."""
        said = told.said
        if not told.is_event:
            return self._head(said) + told.text
        if not self._numbered_head:
            about = {"type": said.type, "topic": self.name, "epoch": self.epoch}
            self._numbered_head = _encode(about)[:-1] + b',"seq":'
        return b"%b%d,%b" % (self._numbered_head, seq, told.text)

    def numbered_text(self, said: Said, seq: int) -> bytes:
        """The same of what was not said to all."""
        return self._numbered_text(encoded(said, 0.0), seq)
