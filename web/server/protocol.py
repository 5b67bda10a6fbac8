"""Hypercorn's HTTP/1.1 and WebSocket state machines, guarded.

Law: subclasses only, nothing of Hypercorn is patched. Here is decided what a client may say and with
which answer it is refused; `web.server.connections` owns the socket and `web.server.outbox` the way out. Each override
says which fault of the stock method it is there for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

import h11
import structlog
import trio
import wsproto.events as ws
from wsproto.connection import ConnectionState as WebSocketState

from web.server.outbox import GOING_AWAY, Outbox
from web.server.pinned import (
    STREAM_ID,
    AppWrapper,
    ASGIReceiveEvent,
    ASGISendEvent,
    Closed,
    Config,
    ConnectionEvent,
    Data,
    Event,
    H11Protocol,
    H11WSConnection,
    Handshake,
    Logger,
    RawData,
    Request,
    Scope,
    StreamClosed,
    TaskGroup,
    Updated,
    WebsocketAcceptEvent,
    WorkerContext,
    WSStream,
)

OUTBOX = "marketd.outbox"
"""The key of a WebSocket connection's `Outbox` in its scope's `extensions`."""

SEAT = "marketd.seat"
"""The key of a connection's `Seat` in its scopes' `extensions`, where there is one."""

Early = Callable[[bytes, Any, str], tuple[bytes, bytes] | None]
"""What may answer a request without the app: (its bytes, the connection's Seat or None, whose address it is) -> (status
line and headers, body), None where it may not."""


class Seat(Protocol):
    """A connection's place among those of its client. What else it is, is the app's and `Early`'s matter."""

    def leave(self) -> None:
        """The connection is over."""


Admit = Callable[[str], Seat | None]
"""Whether one more connection from an address may be had: called at accept; None: it may not."""

POLICY_VIOLATION, MESSAGE_TOO_BIG = 1008, 1009
CLOSE_MAX = 131  # bytes of a client's close frame
_MAX_FRAGMENTS = 1024  # frames of one message; empty ones never reach the limit on bytes
_APP_PATIENCE = 1.0  # seconds a message may wait for the app to take it

log = structlog.get_logger()


class StructuredLog(Logger):
    """Hypercorn's log, which writes client text unescaped: only the app's crashes, as events."""

    async def access(self, *_: object) -> None:
        pass

    async def exception(self, message: str, *_: object, **__: object) -> None:
        log.exception("web.app_crashed", detail=message)


class AppTasks(TaskGroup):
    """Runs the app in the connection's nursery.

    Stock: an app that does not read its messages blocks the connection's reader for ever, which then
    does not even notice that the client is gone.
    """

    def __init__(self, nursery: trio.Nursery, outbox: Outbox, seat: Seat | None) -> None:
        super().__init__()
        self._nursery = nursery
        self._outbox = outbox
        self._seat = seat

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        # ASGI's extensions are dicts by convention; these are objects of ours.
        extensions = cast(dict[str, Any], scope.get("extensions", {}))
        extensions[SEAT] = self._seat
        if scope["type"] == "websocket":
            extensions[OUTBOX] = self._outbox
        put = await super().spawn_app(app, config, scope, send)

        async def put_in_time(event: ASGIReceiveEvent) -> None:
            with trio.move_on_after(_APP_PATIENCE) as patience:
                await put(event)
            if patience.cancelled_caught:
                self._outbox.close(POLICY_VIOLATION, "more messages than are read")

        return put_in_time


class GuardedH11(H11Protocol):
    """HTTP/1.1 and nothing else; requests that would crash or outsize the stock one are refused."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        tasks: AppTasks,
        tls: bool,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
        send: Callable[[Any], Awaitable[None]],
        *,
        outbox: Outbox,
        refused: Callable[[int], None],
        early: Early | None,
        seat: Seat | None,
    ) -> None:
        state: Any = {}
        super().__init__(app, config, context, tasks, state, tls, client, server, send)
        self._outbox = outbox
        self._refused = refused
        self._early = early
        self._seat = seat

    async def handle(self, event: ConnectionEvent) -> None:
        if not (isinstance(event, RawData) and await self._answer_early(event.data)):
            await super().handle(event)

    async def _answer_early(self, data: bytes) -> bool:
        """Answer a request that arrived whole and alone, between requests, if that can be done without the app.

        Its bytes are kept from h11, for which nothing has happened then.
        """
        if (
            self._early is None
            or self.connection.our_state is not h11.IDLE
            or self.connection.trailing_data[0]
            or len(data) > self.config.h11_max_incomplete_size
            or self.context.terminated.is_set()
        ):
            return False
        answer = self._early(data, self._seat, self.client[0] if self.client else "")
        if answer is None:
            return False
        head, body = answer
        own = b"".join(b"%b: %b\r\n" % header for header in self.config.response_headers("h11"))
        await self.send(RawData(b"%b%b\r\n%b" % (head, own, body)))
        await self.send(Updated(idle=True))
        return True

    async def _check_protocol(self, event: h11.Request) -> None:
        """Stock switches to HTTP/2 here, on its word; neither h2c nor prior knowledge for us."""

    async def _send_error_response(self, status_code: int) -> None:
        self._refused(status_code)
        await super()._send_error_response(status_code)

    async def _create_stream(self, request: h11.Request) -> None:
        # As lenient as stock: what it would take for an upgrade must not reach it.
        upgrade = request.method.upper() == b"GET" and any(
            name == b"upgrade" and value.decode("latin1").strip().lower() == "websocket"
            for name, value in request.headers
        )
        status = self._refusal(request, upgrade)
        if status is not None:
            await self._send_error_response(status)
            await self.send(Closed())
        elif upgrade:
            await self._upgrade(request)
        else:
            await super()._create_stream(request)

    def _refusal(self, request: h11.Request, upgrade: bool) -> int | None:
        """The status to refuse this request with, None if it is fine."""
        if request.http_version not in (b"1.0", b"1.1"):
            return 505
        # Stock bounds a head only while it is incomplete: one packet carries 64 KiB past it.
        size = len(request.target) + sum(len(name) + len(value) for name, value in request.headers)
        if size > self.config.h11_max_incomplete_size:
            return 431
        if not request.target.startswith(b"/"):
            return 400
        if upgrade and not self._is_handshake(request):
            return 400
        return None

    def _is_handshake(self, request: h11.Request) -> bool:
        for name, value in request.headers:
            if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
                return False
        try:
            handshake = Handshake(list(request.headers), request.http_version.decode())
        except UnicodeDecodeError:  # stock: kills the process
            return False
        return bool(handshake.is_valid())

    async def _upgrade(self, request: h11.Request) -> None:
        self.stream = GuardedWebSocket(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
            outbox=self._outbox,
            refused=self._refused,
        )
        self.connection = H11WSConnection(cast(h11.Connection, self.connection))
        # Stock negotiates permessage-deflate with whoever offers it, and inflates without a bound.
        headers = [item for item in request.headers if item[0] != b"sec-websocket-extensions"]
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=headers,
                http_version=request.http_version.decode(),
                method="GET",
                raw_path=request.target,
                state=self.connection_state,
            )
        )


class GuardedWebSocket(WSStream):
    """One WebSocket; every close, whoever starts it, leaves through `Outbox.close`."""

    def __init__(self, *stock: Any, outbox: Outbox, refused: Callable[[int], None]) -> None:
        super().__init__(*stock)
        self._outbox = outbox
        self._refused = refused
        self._message_bytes = 0
        self._fragments = 0

    async def handle(self, event: Event) -> None:
        if isinstance(event, Data) and not self.closed and not self.handshake.accepted:
            await self._refuse_early_data()
        else:
            await super().handle(event)

    async def _refuse_early_data(self) -> None:
        """Stock answers 400 and lets the app answer too, which kills the process."""
        self.closed = True  # before anything is awaited: the app is answering right now
        self._refused(400)
        await self._send_error_response(400)
        if self.app_put is not None:
            await self.app_put({"type": "websocket.disconnect", "code": 1006})
        await self.send(StreamClosed(stream_id=self.stream_id))

    async def _accept(self, message: WebsocketAcceptEvent) -> None:
        # Before the answer, not after: the client may close on its heels, and is owed a close frame.
        # Nothing can come in between, since there is no checkpoint before the answer is written.
        self._outbox.open()
        await super()._accept(message)
        if self.context.terminated.is_set():
            self._outbox.close(GOING_AWAY, "server is stopping")

    async def _send_wsproto_event(self, event: ws.Event) -> None:
        if isinstance(event, ws.CloseConnection):
            self._outbox.close(event.code, event.reason or "")
        else:
            await super()._send_wsproto_event(event)

    async def _handle_events(self) -> None:
        """Stock stores a message before it measures it, and on a protocol error just hangs up."""
        for event in self.connection.events():
            if self._outbox.finished:
                return
            match event:
                case ws.TextMessage() | ws.BytesMessage():
                    await self._take(event)
                case ws.Ping():
                    await self._send_wsproto_event(event.response())
                case ws.Pong():  # ten thousand fit into one packet: let others run in between
                    await trio.lowlevel.checkpoint()
                case ws.CloseConnection():
                    answers = self.connection.state is WebSocketState.REMOTE_CLOSING
                    await self._end(event.code, "" if answers else event.reason or "")
                    if answers:
                        self._outbox.answered()

    async def _take(self, event: ws.TextMessage | ws.BytesMessage) -> None:
        data = event.data.encode() if isinstance(event, ws.TextMessage) else event.data
        self._message_bytes += len(data)
        self._fragments += event.frame_finished
        limit = self.config.websocket_max_message_size
        if self._message_bytes > limit or self._fragments > _MAX_FRAGMENTS:
            self.buffer.clear()
            await self._end(MESSAGE_TOO_BIG, "message too big")
            return
        self.buffer.extend(event)
        if event.message_finished:
            message = self.buffer.to_message()
            self.buffer.clear()
            self._message_bytes = self._fragments = 0
            if self.app_put is not None:
                await self.app_put(message)

    async def _end(self, code: int, reason: str) -> None:
        self._outbox.close(code, reason)
        await self.send(StreamClosed(stream_id=self.stream_id))


def ends_with_close(data: bytes) -> bool:
    """Whether what a client sent ends with its close frame, after which it says nothing.

    What is in front of it need not make sense: it may be the very thing that its connection is closed for.
    """
    return any(data[-6 - size : -4 - size] == bytes((0x88, 0x80 | size)) for size in range(CLOSE_MAX - 5))
