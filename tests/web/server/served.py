"""What the server tests share: one small app, the guarded and the stock server, a raw client."""

from __future__ import annotations

import os
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

import hypercorn.trio
import pytest
import quart
import structlog
import trio
import trustme
import wsproto.events as ws
from hypercorn.config import Config
from quart_trio import QuartTrio
from structlog.testing import LogCapture
from wsproto.connection import Connection, ConnectionType

from tests.patience import WITHIN
from web.server.connections import OUTBOX, Limits, ServerStatistics, serve
from web.server.outbox import Outbox, text_frame
from web.server.tls import Certificates

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]  # the server's and the client's
TICK = 0.01  # seconds between two looks at something that has no event to wait for
HANDSHAKE = (
    b"GET %s HTTP/1.1\r\nhost: test\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n"
)

# Newer ones take messages off the connection whether the app reads or not.
reads_for_the_app = pytest.mark.skipif(
    version("quart").split(".")[:2] >= ["0", "23"], reason="Quart from 0.23 on reads messages for the app"
)


def create_app() -> QuartTrio:
    app = QuartTrio("tests.web.server.served")
    app.config["MAX_CONTENT_LENGTH"] = 1000

    @app.get("/json")
    async def json() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/large")
    async def large() -> bytes:
        return bytes(32 << 20)

    @app.get("/slow")
    async def slow() -> quart.Response:
        async def body() -> AsyncGenerator[bytes, None]:
            for part in (b"one ", b"two ", b"three"):
                yield part
                await trio.sleep(0.15)

        return quart.Response(body(), content_type="text/plain")

    @app.post("/echo")
    async def echo() -> str:
        return str(await quart.request.get_data(as_text=True))

    @app.websocket("/ws/echo")
    async def ws_echo() -> None:
        await quart.websocket.accept()
        while True:
            message = await quart.websocket.receive()
            # Quart hands over None where an empty binary message came.
            await quart.websocket.send(b"" if message is None else message)

    @app.websocket("/ws/send")
    async def ws_send() -> None:
        """Awaits a send of its own for ever, and reads nothing."""
        await quart.websocket.accept()
        while True:
            await quart.websocket.send(bytes(64 << 10))

    @app.websocket("/ws/push")
    async def ws_push() -> None:
        """Pushes through its outbox, however fast the client is, and drains what it sends."""
        await quart.websocket.accept()
        extensions: dict[str, Any] = quart.websocket.scope["extensions"]
        outbox: Outbox = extensions[OUTBOX]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_drain)
            number = 0
            while not outbox.closed:
                outbox.send(text_frame(b"%d" % number + b"." * 1000))
                number += 1
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    @app.websocket("/ws/drain")
    async def ws_drain() -> None:
        await quart.websocket.accept()
        await _drain()

    @app.websocket("/ws/deaf")
    async def ws_deaf() -> None:
        """Never reads: against the rule, and not a reason to lose a connection for ever."""
        await quart.websocket.accept()
        await trio.sleep_forever()

    @app.websocket("/ws/late")
    async def ws_late() -> None:
        await trio.sleep(0.1)
        await quart.websocket.accept()
        await _drain()

    @app.websocket("/ws/crash")
    async def ws_crash() -> None:
        await quart.websocket.accept()
        raise LookupError("on purpose")

    @app.errorhandler(LookupError)
    async def fault_of_ours(error: LookupError) -> tuple[str, int]:
        if quart.has_websocket_context():
            await quart.websocket.close(1011)
        return "", 500

    return app


async def _drain() -> None:
    while True:
        await quart.websocket.receive()


@dataclass
class Served:
    port: int
    stop: trio.Event
    statistics: ServerStatistics = field(default_factory=ServerStatistics)
    ended: trio.Event = field(default_factory=trio.Event)
    died: BaseException | None = None  # of the stock server only; the guarded one fails the test


@asynccontextmanager
async def guarded(
    app: Any = None,
    *,
    limits: Limits | None = None,
    tls: ssl.SSLContext | None = None,
    certificates: Certificates | None = None,
    **more: Any,
) -> AsyncIterator[Served]:
    listeners: Any = await trio.open_tcp_listeners(0, host="127.0.0.1")
    served = Served(listeners[0].socket.getsockname()[1], trio.Event())
    if tls is not None:
        listeners = [trio.SSLListener(listeners[0], tls, https_compatible=True)]
    if certificates is not None:
        listeners = [certificates.over(listeners[0])]

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        await serve(
            app or create_app(),
            listeners,
            stop=served.stop,
            limits=limits,
            statistics=served.statistics,
            task_status=task_status,
            **more,
        )
        served.ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        yield served
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def stock(app: Any = None, **settings: Any) -> AsyncIterator[Served]:
    """The same app on Hypercorn as it comes: what the guard is there for must show here."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = Config.from_mapping(bind=f"fd://{listener.fileno()}", errorlog=None, graceful_timeout=0.2, **settings)
    served = Served(listener.getsockname()[1], trio.Event())

    async def run(*, task_status: trio.TaskStatus[list[str]]) -> None:
        try:
            await hypercorn.trio.serve(
                app or create_app(),
                config,
                shutdown_trigger=served.stop.wait,
                task_status=task_status,
                mode="asgi",
            )
        except* Exception as error:
            served.died = error
        finally:
            served.ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        try:
            yield served
        finally:
            nursery.cancel_scope.cancel()
    with suppress(OSError):  # Hypercorn closed the descriptor
        listener.close()


def captured_log(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the server logs from now on."""
    capture = LogCapture()
    logger = structlog.wrap_logger(None, processors=[capture])
    for module in ("accepting", "connections", "forwarded", "protocol", "quiet"):
        monkeypatch.setattr(f"web.server.{module}.log", logger)
    return capture.entries


def tls_contexts() -> Contexts:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    return server, client_side


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what has no event of its own; TooSlowError where it never comes."""
    with trio.fail_after(WITHIN):
        while not condition():  # noqa: ASYNC110  (there is no event to wait for)
            await trio.sleep(TICK)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def exchange(port: int, *chunks: bytes) -> bytes:
    """Everything one connection answers until the server ends it."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        for chunk in chunks:
            await stream.send_all(chunk)
        return await read_to_end(stream)


async def read_to_end(stream: trio.abc.ReceiveStream) -> bytes:
    received = bytearray()
    with suppress(trio.BrokenResourceError):
        while chunk := await stream.receive_some():
            received += chunk
    return bytes(received)


async def never_reading(port: int, request: bytes) -> trio.SocketStream:
    """A client that asks and then does not read, with little room in its kernel."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await sock.connect(("127.0.0.1", port))
    stream = trio.SocketStream(sock)
    await stream.send_all(request)
    return stream


def reset(stream: trio.SocketStream) -> None:
    """Close with an RST."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


def frame(opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    """A client's frame; the mask is zero, which masks nothing and is allowed."""
    first = opcode | (0x80 if final else 0)
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    return head + bytes(4) + payload


TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9


class Client:
    """A WebSocket client that can also misbehave."""

    def __init__(self, stream: trio.abc.Stream, head: bytes, rest: bytes) -> None:
        self.stream = stream
        self.head = head
        self._protocol = Connection(ConnectionType.CLIENT)
        self._protocol.receive_data(rest)
        self._events: list[ws.Event] = list(self._protocol.events())

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def event(self) -> ws.Event:
        while not self._events:
            data = await self.stream.receive_some()
            if not data:
                raise EOFError
            self._protocol.receive_data(bytes(data))
            self._events.extend(self._protocol.events())
        return self._events.pop(0)

    async def message(self) -> str | bytes:
        parts: list[Any] = []
        while True:
            event = await self.event()
            assert isinstance(event, ws.TextMessage | ws.BytesMessage), event
            parts.append(event.data)
            if event.message_finished:
                empty: Any = parts[0][:0]
                joined: str | bytes = empty.join(parts)
                return joined

    async def close_code(self, *, answered: bool = True) -> int:
        """The code of the close frame that ends what the server has to say; it is answered, as the protocol wants."""
        while True:
            event = await self.event()
            if isinstance(event, ws.CloseConnection):
                if answered:
                    with suppress(trio.BrokenResourceError):  # the answer to ours, and the server is gone
                        await self.stream.send_all(frame(CLOSE, struct.pack("!H", 1000)))
                return int(event.code)

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self.stream)


async def handshake(stream: trio.abc.Stream, path: bytes, headers: bytes = b"") -> Client:
    await stream.send_all(HANDSHAKE % (path, headers))
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = await stream.receive_some()
        assert chunk, received
        received += chunk
    head, _, rest = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101"), head
    return Client(stream, head, rest)


@asynccontextmanager
async def client(port: int, path: bytes, headers: bytes = b"") -> AsyncIterator[Client]:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    try:
        yield await handshake(stream, path, headers)
    finally:
        await trio.aclose_forcefully(stream)


async def still_served(port: int, other: Client) -> None:
    """Neither a new client nor one that was there before notices anything."""
    with trio.fail_after(WITHIN):
        await other.send(frame(TEXT, b"still there?"))
        assert await other.message() == "still there?"
        answer = await exchange(port, b"GET /json HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
        assert b'{"ok":true}' in answer


async def tcp_pair(receive_buffer: int = 0) -> tuple[trio.SocketStream, trio.SocketStream]:
    """A server's and a client's end of one connection."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        sock = trio.socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(sock.connect, listener.socket.getsockname()))
            accepted = await listener.accept()
        return accepted, trio.SocketStream(sock)
