"""One reader per topic for all WebSocket clients: each event is encoded once, framed once, written to every client.

No client is waited for: an Outbox takes the bytes or ends its client.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import msgspec
import trio

from actors.broadcast import Lagged, Reader
from actors.events import Event, Gap, Said, Status, Topic
from actors.exchange import Supervise
from web.outbox import Outbox, text_frame

CAPACITY = 4096  # events that may wait for the fan-out; it never waits, so more means the program is overloaded
BURST = 256  # events sent before other tasks get their turn
TRY_AGAIN_LATER = 1013

_encoder = msgspec.json.Encoder()


class Source(Protocol):
    """What topics are read from: a feed, or a stream over many."""

    def subscribe(self, topic: Topic, capacity: int) -> Reader[Said]: ...
    def current(self, topic: Topic) -> Event | None: ...


class Client:
    """One WebSocket client of a topic, and what of it the client wants (None: every event)."""

    __slots__ = ("accepts", "outbox", "wants_status")

    def __init__(
        self, outbox: Outbox, *, accepts: Callable[[Any], bool] | None = None, wants_status: bool = False
    ) -> None:
        self.outbox = outbox
        self.accepts = accepts
        self.wants_status = wants_status


class Fanout:
    """The web layer's reader of one topic."""

    def __init__(self, source: Source, topic: Topic) -> None:
        self.topic = topic
        self.scope = trio.CancelScope()
        self._reader = source.subscribe(topic, CAPACITY)
        self.is_over = False  # it lagged: its clients were told to come back
        self._received = 0  # of what was given to the reader
        self._clients: dict[Client, Callable[[bytes], None]] = {}
        self._joining: dict[Client, int] = {}  # how much was given when they came: they must not get that
        self._heads: dict[str, bytes] = {}  # the beginning of a frame, by the type of what it says

    def __len__(self) -> int:
        return len(self._clients) + len(self._joining)

    def join(self, client: Client, current: Event | None) -> None:
        """Send the present value and everything after it, nothing twice: what is on its way goes to the others."""
        if current is not None and (client.accepts is None or client.accepts(current)):
            client.outbox.send(self._frame(current))
        self._joining[client] = self._reader.given

    def leave(self, client: Client) -> None:
        self._clients.pop(client, None)
        self._joining.pop(client, None)

    def close(self) -> None:
        self.scope.cancel()
        self._reader.close()

    async def run(self) -> None:
        try:
            while True:
                self._send(await self._reader.receive())
                with suppress(trio.WouldBlock):
                    for _ in range(BURST):
                        self._send(self._reader.receive_nowait())
        except Lagged:
            self.is_over = True
            for client in (*self._clients, *self._joining):
                client.outbox.close(TRY_AGAIN_LATER, "the daemon is overloaded")
        except trio.ClosedResourceError:
            return  # the last client left

    def _send(self, said: Said) -> None:
        self._received += 1
        if self._joining:
            self._admit()
        frame = self._frame(said)
        if isinstance(said, Status | Gap):
            for client in self._clients:
                if client.wants_status:
                    client.outbox.send(frame)
            return
        for client, send in self._clients.items():
            if client.accepts is None or client.accepts(said):
                send(frame)

    def _admit(self) -> None:
        """Let those in for whom this event is news."""
        for client, given in list(self._joining.items()):
            if self._received > given:
                del self._joining[client]
                self._clients[client] = client.outbox.send

    def _frame(self, said: Said) -> bytes:
        head = self._heads.get(said.type)
        if head is None:
            about = {"type": said.type} | ({"topic": str(self.topic)} if isinstance(said, Status | Gap) else {})
            head = self._heads[said.type] = _encoder.encode(about)[:-1] + b","
        return text_frame(head + _encoder.encode(said)[1:])


class Fanouts:
    """The fan-outs of all topics that have clients."""

    def __init__(self, nursery: trio.Nursery, supervise: Supervise) -> None:
        self._nursery = nursery
        self._supervise = supervise
        self._fanouts: dict[Topic, Fanout] = {}

    @contextmanager
    def joined(self, source: Source, topic: Topic, client: Client) -> Iterator[None]:
        """`client` receives `topic` of `source` for as long as the block lasts."""
        fanout = self._fanouts.get(topic)
        if fanout is None or fanout.is_over:
            fanout = self._fanouts[topic] = Fanout(source, topic)
            self._nursery.start_soon(self._run, fanout)
        fanout.join(client, source.current(topic))
        try:
            yield
        finally:
            fanout.leave(client)
            if len(fanout) == 0 and self._fanouts.get(topic) is fanout:
                del self._fanouts[topic]
                fanout.close()

    async def _run(self, fanout: Fanout) -> None:
        with fanout.scope:
            await self._supervise("fanout", fanout.run, topic=str(fanout.topic))
