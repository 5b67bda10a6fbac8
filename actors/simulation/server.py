"""The server under every simulated exchange: HTTP and WebSocket on loopback, with faults to switch on.

Law: this file knows HTTP and WebSocket and how they break; what the answers and frames are is the exchange folder's
business (the `Venue` it passes in). Requests are served on one port and WebSockets on another, so that either can
fail alone. Everything a test wants to count is kept on `Simulator`.

Each connection has one reader and one writer task. Sending is plain and never waits: frames pile up in the connection's
buffer, which the writer flushes; a client that lets more than 16 MiB pile up is cut off.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple, Protocol
from urllib.parse import unquote

import trio
import wsproto
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    TextMessage,
)
from wsproto.events import Request as Handshake

from actors.simulation.http import Reply as Reply
from actors.simulation.http import Request as Request
from actors.simulation.http import RestFault as RestFault
from actors.simulation.http import admitted, reset, serve_connection
from actors.simulation.market import Market

_TICK = 0.1  # seconds between looks at the market
_PENDING_LIMIT = 16 << 20
_OPEN = wsproto.connection.ConnectionState.OPEN


@dataclass(slots=True)
class Faults:
    """The switchboard. Change it at any time; it acts from the next event on."""

    rest: list[RestFault] = field(default_factory=list)  # the first one that matches acts
    # What becomes of a new connection: "reset" = RST at once, "silent" = taken and never answered.
    rest_accept: Literal["accept", "reset", "silent"] = "accept"
    ws_accept: Literal["accept", "reset", "silent"] | int = "accept"  # int: the handshake is refused with this status
    stall: bool = False  # WebSockets go half-open: nothing is read or sent, frames are lost, sockets stay open
    mute: set[str] = field(default_factory=set)  # streams whose frames are lost, "*" = all; acks and pongs go on


class Served(NamedTuple):
    """One REST request and what became of it."""

    time: int  # market time, ms
    method: str
    path: str
    query: dict[str, str]
    body: bytes
    status: int  # 0: hung up
    weight: int


class Sent(NamedTuple):
    """One market frame that went out, as the client sees it."""

    time: int  # market time, ms
    connection: int
    stream: str
    frame: bytes


class Connection:
    """One WebSocket client. `streams` is ordered and belongs to the exchange."""

    def __init__(self, number: int, stream: trio.SocketStream, faults: Faults) -> None:
        self.number = number
        self.opened_at = trio.current_time()
        self.path = ""  # with the query, percent-encoding undone
        self.streams: dict[str, None] = {}
        self.received: list[str | bytes] = []
        self.pings = 0
        self.pongs = 0
        self.stalled = False  # like Faults.stall, this connection only
        self._faults = faults
        self._stream = stream
        self._ws = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        self._pending = bytearray()
        self._wake = trio.Event()
        self._ending = False
        self._over = trio.Event()

    def send(self, frame: str | bytes) -> bool:
        """Send a text frame; never waits. False where it is lost: closing, or stalled."""
        payload = frame.encode() if isinstance(frame, str) else frame
        return self.send_raw(text_frame(payload))

    def send_binary(self, payload: bytes) -> None:
        self.send_raw(b"\x82" + text_frame(payload)[1:])

    def ping(self) -> None:
        self.send_raw(b"\x89\x00")

    def send_raw(self, data: bytes) -> bool:
        """Put bytes on the wire as they are: broken frames included."""
        if self._ending or self.stalled or self._faults.stall:
            return False
        self._pending += data
        self._wake.set()
        if len(self._pending) > _PENDING_LIMIT:
            self.reset()
        return True

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame; the connection ends when the client has answered it, or after a second."""
        if self._ws.state is _OPEN:
            self.send_raw(self._ws.send(CloseConnection(code, reason)))
        self._end()

    def reset(self) -> None:
        """End it with a TCP reset."""
        self._end()
        reset(self._stream)

    def _end(self) -> None:
        self._ending = True
        self._wake.set()


def text_frame(payload: bytes) -> bytes:
    """A whole, unmasked WebSocket text frame. The server's own framing is this simple, and it is the hot path."""
    size = len(payload)
    if size < 126:
        return b"\x81" + bytes((size,)) + payload
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2) + payload
    return b"\x81\x7f" + size.to_bytes(8) + payload


class Venue(Protocol):
    """What an exchange folder supplies. None of it waits."""

    def answer(self, request: Request) -> Reply: ...

    def opened(self, connection: Connection) -> int | None:
        """Look at `connection.path`; an HTTP status refuses the handshake."""

    def received(self, connection: Connection, message: str | bytes) -> None: ...

    def counted(self, connection: Connection) -> None:
        """A message, ping or pong has arrived (before `received`)."""

    def closed(self, connection: Connection) -> None:
        """Follows every `opened` that was not refused."""

    def tick(self, now: int) -> None:
        """Send what has happened up to `now` with `Simulator.send`."""


class Simulator:
    """A running simulated exchange. Every method is plain and acts at once."""

    def __init__(self, market: Market, faults: Faults, rest_url: str, ws_url: str) -> None:
        self.market = market
        self.faults = faults
        self.rest_url = rest_url
        self.ws_url = ws_url
        self.requests: deque[Served] = deque(maxlen=20_000)
        self.connections: list[Connection] = []  # the open ones
        self.connections_total = 0  # handshakes accepted so far
        self.attempts = 0  # TCP connections to the WebSocket port, refused ones included
        self.sent: deque[Sent] = deque(maxlen=50_000)
        self.venue: Venue

    def tick(self) -> None:
        """Bring the market up to its clock and send what is due; runs by itself ten times a second."""
        self.market.advance()
        self.venue.tick(self.market.now)

    def send(self, connection: Connection, stream: str, frame: bytes) -> None:
        """Send a market frame, subject to faults; what goes out is logged in `sent`."""
        mute = self.faults.mute
        if "*" not in mute and stream not in mute and connection.send(frame):
            self.sent.append(Sent(self.market.now, connection.number, stream, frame))

    def push(self, frame: str | bytes, *, binary: bool = False) -> None:
        """Send any frame, good or bad, to every client, whatever it subscribed."""
        for connection in list(self.connections):
            if binary:
                connection.send_binary(frame.encode() if isinstance(frame, str) else frame)
            else:
                connection.send(frame)

    def close(self, code: int, reason: str = "") -> None:
        """Close every WebSocket with a code."""
        for connection in list(self.connections):
            connection.close(code, reason)

    def drop(self) -> None:
        """Reset every WebSocket."""
        for connection in list(self.connections):
            connection.reset()

    def count(self, path: str = "") -> int:
        """How many REST requests came for paths that begin so."""
        return sum(served.path.startswith(path) for served in self.requests)


async def serve(
    market: Market,
    faults: Faults,
    venue: Callable[[Simulator], Venue],
    *,
    ws_path: str = "",
    task_status: trio.TaskStatus[Simulator],
) -> None:
    """Serve until cancelled, on two loopback ports of the system's choice."""
    rest = await trio.open_tcp_listeners(0, host="127.0.0.1")
    ws = await trio.open_tcp_listeners(0, host="127.0.0.1")
    ports = [listeners[0].socket.getsockname()[1] for listeners in (rest, ws)]
    sim = Simulator(market, faults, f"http://127.0.0.1:{ports[0]}", f"ws://127.0.0.1:{ports[1]}{ws_path}")
    sim.venue = venue(sim)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, partial(_serve_rest, sim), rest)
        nursery.start_soon(trio.serve_listeners, partial(_serve_socket, sim), ws)
        task_status.started(sim)
        while True:
            await trio.sleep(_TICK)
            sim.tick()


async def _serve_rest(sim: Simulator, stream: trio.SocketStream) -> None:
    def served(request: Request, reply: Reply) -> None:
        sim.requests.append(Served(sim.market.now, *request, reply.status, reply.weight))

    faults = sim.faults
    await serve_connection(stream, faults.rest_accept, faults.rest, sim.venue.answer, served)


async def _serve_socket(sim: Simulator, stream: trio.SocketStream) -> None:
    """One WebSocket connection."""
    async with stream:
        sim.attempts += 1
        connection = Connection(sim.attempts, stream, sim.faults)
        try:
            if not await admitted(sim.faults.ws_accept, stream):
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_write, connection, nursery.cancel_scope)
                await _read(sim, connection)
                connection._over.set()
                connection._end()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # gone, by its own doing or by `reset`
        finally:
            if connection in sim.connections:
                sim.connections.remove(connection)
                sim.venue.closed(connection)


async def _read(sim: Simulator, connection: Connection) -> None:
    parts: list[str | bytes] = []
    while data := await connection._stream.receive_some():
        while sim.faults.stall or connection.stalled:  # noqa: ASYNC110 (plain attributes are the switchboard)
            await trio.sleep(_TICK / 2)
        try:
            connection._ws.receive_data(data)
        except wsproto.utilities.RemoteProtocolError:
            return
        for event in connection._ws.events():
            match event:
                case Handshake():
                    connection.path = unquote(event.target)
                    status = sim.faults.ws_accept
                    if not isinstance(status, int):
                        status = sim.venue.opened(connection) or 101
                    if status != 101:
                        connection.send_raw(connection._ws.send(RejectConnection(status_code=status)))
                        return
                    connection.send_raw(connection._ws.send(AcceptConnection()))
                    sim.connections.append(connection)
                    sim.connections_total += 1
                case TextMessage() | BytesMessage():
                    parts.append(event.data if isinstance(event.data, str) else bytes(event.data))
                    if event.message_finished:
                        message = _joined(parts)
                        parts = []
                        connection.received.append(message)
                        sim.venue.counted(connection)
                        sim.venue.received(connection, message)
                case Ping():
                    connection.pings += 1
                    sim.venue.counted(connection)
                    connection.send_raw(connection._ws.send(event.response()))
                case Pong():
                    connection.pongs += 1
                    sim.venue.counted(connection)
                case CloseConnection():
                    if connection._ws.state is not wsproto.connection.ConnectionState.CLOSED:
                        connection.send_raw(connection._ws.send(event.response()))
                    return


def _joined(parts: list[str | bytes]) -> str | bytes:
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if texts else b"".join(p for p in parts if isinstance(p, bytes))


async def _write(connection: Connection, whole: trio.CancelScope) -> None:
    while not connection._ending or connection._pending:
        if not connection._pending:
            connection._wake = trio.Event()
            await connection._wake.wait()
        data, connection._pending = connection._pending, bytearray()
        await connection._stream.send_all(data)
    with trio.move_on_after(1):
        await connection._over.wait()
    whole.cancel()
