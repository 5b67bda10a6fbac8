"""One reader per topic for all its clients: each event is encoded once, framed once, written to every client.

No client is waited for: an Outbox takes the bytes or ends its client. For clients that may come back, events are
numbered and the recent ones remembered: `seq` counts up by one within an `epoch`, and a client that names the last one
it had is told what it missed. Gaps and changes of state are remembered in their places, but have no number.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from typing import Any, NamedTuple, Protocol

import msgspec
import trio

from actors import clock
from actors.broadcast import Lagged
from actors.events import EPOCH, Event, Gap, Said, Status, Topic, bar_end
from web.counts import WebCounts
from web.server.outbox import TRY_AGAIN_LATER, text_frame
from web.streams.memory import Memory, Position, Remembered, Ring, began
from web.streams.pacing import Conflater
from web.streams.topics import Source

# Events that may wait for the fan-out; it never waits, so more means the program is overloaded. Trades of a repair and
# what waited for them are published at one moment: tens of thousands.
CAPACITY = 100_000
BURST = 256  # events sent before other tasks get their turn

_encoder = msgspec.json.Encoder()


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
        counts: WebCounts | None = None,
    ) -> None:
        self.source, self.topic = source, topic
        self._counts = counts or WebCounts()
        self.name = name or str(topic)
        self.epoch = epoch
        self.seq = 0  # of the last event
        self.scope = trio.CancelScope()
        self.is_over = False  # it lagged: its clients were told to come back
        self.wakers: dict[object, Callable[[], object]] = {}  # of those who read by themselves: called when it is said
        self._accepts = accepts
        self._conflater = conflater
        self._ring = Ring(memory or Memory())
        self._remembers = False
        self._reader = source.subscribe(topic, CAPACITY)
        self._received = 0  # of what was given to the reader
        self._plain: dict[Client, Callable[[bytes], None]] = {}
        self._numbered: dict[Client, Callable[[bytes], None]] = {}
        self._settling: dict[object, tuple[int, Callable[[], None]]] = {}  # see when_settled
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

    @property
    def remembered_bytes(self) -> int:
        """Of the events that are remembered."""
        return self._ring.bytes

    @property
    def clients(self) -> int:
        """How many follow it, those too that read by themselves."""
        return len(self._plain) + len(self._numbered) + len(self.wakers)

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
        return self._ring.cursor

    def resume(self, since: Position) -> int | None:
        """The cursor of what came after an event; None where that is not all remembered."""
        if since.epoch != self.epoch or since.seq > self.seq:
            return None
        return self._ring.after(since.seq)

    def read(self, cursor: int, limit: int) -> list[Remembered]:
        """Up to `limit` things said from `cursor` on; none: it has reached the present. Raises Forgotten."""
        return self._ring.read(cursor, limit)

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
        return self.numbered(gap, self.seq)

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
                self._written(len(self._plain), frame)
            else:
                for client, send in self._plain.items():
                    if client.wants_status:
                        send(frame)
        if self._remembers:
            self.seq += is_event
            text = self.numbered(said, self.seq)
            self._ring.keep((self.seq, 0 if is_event else 1), text)
            if self._numbered:
                frame = text_frame(text)
                for send in self._numbered.values():
                    send(frame)
                if is_event:
                    self._written(len(self._numbered), frame)
            for wake in self.wakers.values():
                wake()

    def _written(self, count: int, frame: bytes) -> None:
        """An event has been written to so many clients."""
        self._counts.written(self.topic.kind, count, len(frame))
        if received_at := self.source.received_at:
            self._counts.delivery.observe((clock.now() - received_at).total_seconds())

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
