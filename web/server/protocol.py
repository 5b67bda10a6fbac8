"""Hypercorn's HTTP/1.1 and WebSocket state machines, guarded.

Law: subclasses only, nothing of Hypercorn is patched. Here is decided what a client may say and with
which answer it is refused; `web.server.connections` owns the socket and `web.server.outbox` the way out. Each override
says which fault of the stock method it is there for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Protocol, cast

import h11
import structlog
import trio

from web.server.forwarded import Proxies
from web.server.outbox import Outbox
from web.server.pinned import (
    STREAM_ID,
    AppWrapper,
    ASGIReceiveEvent,
    ASGISendEvent,
    Closed,
    Config,
    ConnectionEvent,
    Event,
    H11Protocol,
    H11WSConnection,
    Handshake,
    Logger,
    RawData,
    Request,
    Response,
    Scope,
    TaskGroup,
    Updated,
    WorkerContext,
)
from web.server.websocket import POLICY_VIOLATION, GuardedWebSocket

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


Address = tuple[str, int]
"""An IP address and a port; where a proxy spoke, 0: it does not say it."""

Admit = Callable[[str], Seat | None]
"""Whether one more connection from an address may be had: called at accept; None: it may not."""

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
        client: Address | None,
        server: Address | None,
        send: Callable[[Any], Awaitable[None]],
        *,
        outbox: Outbox,
        refused: Callable[[int], None],
        early: Early | None,
        seat: Seat | None,
        proxies: Proxies,
    ) -> None:
        state: Any = {}
        super().__init__(app, config, context, tasks, state, tls, client, server, send)
        self._outbox = outbox
        self._refused = refused
        self._early = early
        self._seat = seat
        self._proxies = proxies
        self._peer, self._tls = client, tls
        self._address = client[0] if client else ""
        self._is_new = True  # nothing was received yet

    async def handle(self, event: ConnectionEvent) -> None:
        if self._is_new and isinstance(event, RawData):
            self._is_new = False
            self._proxies.notice(self._address, event.data)
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
        answer = self._early(data, self._seat, self._proxies.client_of_head(self._address, data))
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

    async def stream_send(self, event: Event) -> None:
        # Stock closes the connection behind an answer to a request that is still on its way, and does not say so.
        if isinstance(event, Response) and self.connection.their_state is h11.SEND_BODY:
            event = replace(event, headers=[*event.headers, (b"connection", b"close")])
        await super().stream_send(event)

    async def _create_stream(self, request: h11.Request) -> None:
        # As lenient as stock: what it would take for an upgrade must not reach it.
        upgrade = request.method.upper() == b"GET" and any(
            name == b"upgrade" and value.decode("latin1").strip().lower() == "websocket"
            for name, value in request.headers
        )
        self._see_through_proxy(request)
        status = self._refusal(request, upgrade)
        if status is not None:
            await self._send_error_response(status)
            await self.send(Closed())
        elif upgrade:
            await self._upgrade(request)
        else:
            await super()._create_stream(request)

    def _see_through_proxy(self, request: h11.Request) -> None:
        """What the app is told of who asks, and how: the peer's own, or what a trusted proxy says of it."""
        self.client, self.ssl = self._peer, self._tls
        if not self._proxies.trusts(self._address):
            return
        told: dict[bytes, str] = {}
        for name, value in request.headers:
            if name in (b"x-forwarded-for", b"x-forwarded-proto"):
                told[name] = f"{told[name]},{value.decode('latin1')}" if name in told else value.decode("latin1")
        address = self._proxies.client_of(self._address, told.get(b"x-forwarded-for", ""))
        if address != self._address:
            self.client = address, 0
        scheme = told.get(b"x-forwarded-proto", "").rpartition(",")[2].strip().lower()
        if scheme in ("http", "https", "ws", "wss"):
            self.ssl = scheme in ("https", "wss")

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
