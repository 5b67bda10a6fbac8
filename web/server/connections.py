"""The HTTP server: Hypercorn's protocols on connections of our own.

Law: one connection's fault ends that connection and nothing else, no client can make the server wait
without a limit, and no byte leaves but through the connection's `Outbox`. Sockets, deadlines and
shutdown are here; what may be said on a connection is in `web.server.protocol`.
"""

from __future__ import annotations

import resource
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf

import structlog
import trio

from web.server.outbox import GOING_AWAY, Outbox
from web.server.pinned import (
    AppWrapper,
    ASGIFramework,
    Closed,
    Config,
    ConnectionEvent,
    RawData,
    Updated,
    WorkerContext,
    check_hypercorn,
    parse_socket_addr,
    wrap_app,
)
from web.server.protocol import (
    CLOSE_MAX,
    OUTBOX,
    SEAT,
    Admit,
    AppTasks,
    Early,
    GuardedH11,
    Seat,
    StructuredLog,
    ends_with_close,
)

__all__ = ["OUTBOX", "SEAT", "Limits", "ServerStatistics", "serve"]

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

TLS_HANDSHAKE_DEADLINE = 5.0
_RECEIVE_BYTES = 64 << 10
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_FULL_ANSWERS = 32  # connections over the limit that are told so at a time; the rest is just closed

log = structlog.get_logger()


def _most_connections() -> int:
    """As many as the process has file descriptors, less what the rest of it needs."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 10_000 if soft == resource.RLIM_INFINITY else min(10_000, max(soft - 128, soft // 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client, and all of them together, may take. Times in seconds."""

    write_deadline: float = 5.0  # without a byte accepted by the peer: it is cut off
    outbox_bytes: int = 1 << 20  # pending for one client: over it, it is closed with 1013
    message_bytes: int = 256 << 10  # of one WebSocket message: over it, 1009; resuming 1000 topics takes 100 KiB
    header_bytes: int = 16 << 10  # of one request's target and headers: over it, 431
    connections: int = field(default_factory=_most_connections)  # over it: 503
    keep_alive: float = 5.0  # without a whole request head on a connection that has none running
    grace: float = 5.0  # from stop to the end of the last connection


@dataclass(slots=True, kw_only=True)
class ServerStatistics:
    """Counts since the start, but for `open`."""

    open: int = 0  # connections there are now
    accepted: int = 0  # connections
    refused: int = 0  # connections over the limit, and requests answered without asking the app
    crashes: int = 0  # connections ended by a fault of the server
    cut: int = 0  # connections of clients that did not read


async def serve(
    app: ASGIFramework,
    listeners: Sequence[trio.SocketListener | trio.SSLListener[trio.SocketStream]],
    *,
    stop: trio.Event,
    early: Early | None = None,
    admit: Admit | None = None,
    limits: Limits | None = None,
    statistics: ServerStatistics | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop` is set, then end within `Limits.grace` whatever clients do.

    At `stop` the listeners are closed, WebSocket clients get 1001, HTTP responses in progress may end.
    `early` may answer requests in the app's place, with what the app would answer. `admit` says of each connection, by
    its peer's address, whether it may be had; None: all may.
    A TLS listener's context is the caller's; it may offer http/1.1 only. No ASGI lifespan is run.

    Raises RuntimeError, before anything is accepted, where Hypercorn is not the expected one.
    """
    check_hypercorn()
    limits = limits or Limits()
    server = _Server(
        app=wrap_app(app, 0, "asgi"),
        early=early,
        admit=admit,
        config=_config(limits),
        context=WorkerContext(None),
        limits=limits,
        statistics=statistics or ServerStatistics(),
    )
    for listener in listeners:
        _notice_dead_peers(listener)
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            await accepting.start(
                partial(
                    trio.serve_listeners,
                    server.handle,
                    list(listeners),
                    handler_nursery=connections,
                )
            )
            task_status.started()
            await stop.wait()
            accepting.cancel_scope.cancel()
        connections.cancel_scope.deadline = trio.current_time() + limits.grace
        await server.context.terminated.set()
        for connection in list(server.connections):
            connection.stop()


def _config(limits: Limits) -> Config:
    config = Config()
    config.accesslog = config.errorlog = None
    config.logger_class = StructuredLog
    config.include_server_header = False
    config.keep_alive_max_requests = sys.maxsize  # a brake for HTTP/2; here it would only make clients reconnect
    config.h11_max_incomplete_size = limits.header_bytes
    config.websocket_max_message_size = limits.message_bytes
    config.websocket_ping_interval = None  # its pings ignore missing pongs and outlive connections
    return config


def _notice_dead_peers(
    listener: trio.SocketListener | trio.SSLListener[trio.SocketStream],
) -> None:
    """A peer that vanished without a word is found out in a minute; accepted sockets inherit it."""
    plain = listener.transport_listener if isinstance(listener, trio.SSLListener) else listener
    if not isinstance(plain, trio.SocketListener):
        return
    with suppress(OSError):  # not a TCP socket
        plain.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            plain.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
            plain.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
            plain.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


@dataclass(slots=True, kw_only=True)
class _Server:
    """What the connections share."""

    app: AppWrapper
    early: Early | None
    admit: Admit | None
    config: Config
    context: WorkerContext
    limits: Limits
    statistics: ServerStatistics
    connections: set[_Connection] = field(default_factory=set)

    async def handle(self, stream: Stream) -> None:
        self.statistics.accepted += 1
        over = len(self.connections) - self.limits.connections
        if self.context.terminated.is_set() or over >= _FULL_ANSWERS:
            self.statistics.refused += 1
            return  # trio closes the stream
        seat = None
        if self.admit is not None:
            seat = self.admit(_peer_address(stream))
            if seat is None:
                self.statistics.refused += 1
                return
        self.statistics.open += 1
        try:
            await _Connection(self, stream, seat).run(full=over >= 0)
        finally:
            self.statistics.open -= 1
            if seat is not None:
                seat.leave()


class _Connection:
    """One client's connection, from accept to close."""

    _outbox: Outbox
    _protocol: GuardedH11

    def __init__(self, server: _Server, stream: Stream, seat: Seat | None) -> None:
        self._server = server
        self._stream = stream
        self._seat = seat
        self._client: tuple[str, int] | None = None
        self._idle = True  # between requests
        self._idle_until = inf
        self._reading = trio.CancelScope()

    def stop(self) -> None:
        """End it if it is a WebSocket or idle; else it ends after its response."""
        if not self._outbox.closed:
            self._outbox.close(GOING_AWAY, "server is stopping")
        elif self._idle:
            self._outbox.finish()

    async def run(self, *, full: bool) -> None:
        server = self._server
        try:
            async with trio.open_nursery() as nursery:
                self._outbox = Outbox(
                    self._stream,
                    nursery,
                    write_deadline=server.limits.write_deadline,
                    capacity=server.limits.outbox_bytes,
                )
                server.connections.add(self)
                try:
                    await self._converse(nursery, full)
                finally:
                    self._outbox.end()  # before the nursery closes: the flusher runs in it
        except* Exception as crash:
            # The boundary; stock ends the process here. A fault is this connection's alone.
            server.statistics.crashes += 1
            cause = _first_cause(crash)
            log.warning(
                "web.connection_crashed",
                client=self._client,
                error=type(cause).__name__,
                detail=str(cause)[:200],
            )
        finally:
            server.connections.discard(self)
            await trio.aclose_forcefully(self._stream)
        if self._outbox.cut:
            server.statistics.cut += 1
            log.info("web.client_cut", client=self._client, reason=self._outbox.cut)

    async def _converse(self, nursery: trio.Nursery, full: bool) -> None:
        if isinstance(self._stream, trio.SSLStream):
            if not await _shake_hands(self._stream):
                return
            tls, transport = True, self._stream.transport_stream
        else:
            tls, transport = False, self._stream
        try:
            family = transport.socket.family
            self._client = parse_socket_addr(family, transport.socket.getpeername())
            address = parse_socket_addr(family, transport.socket.getsockname())
        except OSError:
            return  # gone already
        if full:
            self._refused(503)
            await self._outbox.write(_FULL)
            self._outbox.finish()
        self._protocol = GuardedH11(
            self._server.app,
            self._server.config,
            self._server.context,
            AppTasks(nursery, self._outbox, self._seat),
            tls,
            self._client,
            address,
            self._protocol_send,
            outbox=self._outbox,
            refused=self._refused,
            early=self._server.early,
            seat=self._seat,
        )
        self._now_idle(True)
        await self._read()
        self._outbox.end()
        await self._protocol.handle(Closed())  # tells the app

    async def _read(self) -> None:
        end = b""
        while True:
            with trio.CancelScope(deadline=self._idle_until) as self._reading:
                try:
                    data = await self._stream.receive_some(_RECEIVE_BYTES)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
            if self._reading.cancelled_caught or not data:
                return
            if not self._outbox.finished:  # else it is read only to be discarded
                await self._protocol.handle(RawData(bytes(data)))
            if self._outbox.unanswered:
                end = (end + data)[-CLOSE_MAX:]
                if ends_with_close(end):
                    self._outbox.answered()

    async def _protocol_send(self, event: ConnectionEvent) -> None:
        """What Hypercorn's protocol does to the connection.

        Everything before the first await is done even where the app's task is being cancelled, which
        Quart does as soon as it is told of a disconnect: stock then never closes the connection.
        """
        if isinstance(event, RawData):
            await self._outbox.write(event.data)
        elif isinstance(event, Closed):
            self._outbox.finish()
            await self._protocol.handle(Closed())
        elif isinstance(event, Updated):
            self._now_idle(event.idle)

    def _now_idle(self, idle: bool) -> None:
        self._idle = idle
        keep_alive = self._server.limits.keep_alive
        self._idle_until = trio.current_time() + keep_alive if idle else inf
        self._reading.deadline = self._idle_until

    def _refused(self, status: int) -> None:
        self._server.statistics.refused += 1
        log.warning("web.request_refused", client=self._client, status=status)


async def _shake_hands(stream: trio.SSLStream[trio.SocketStream]) -> bool:
    with trio.move_on_after(TLS_HANDSHAKE_DEADLINE):
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError:
            return False
        return bool(stream.selected_alpn_protocol() != "h2")
    return False


def _peer_address(stream: Stream) -> str:
    """Empty where the peer has none: one on this machine, or one that is gone already."""
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    with suppress(OSError):
        peer = transport.socket.getpeername()
        return str(peer[0]) if isinstance(peer, tuple) else ""
    return ""


def _first_cause(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
