"""The HTTP server: Hypercorn's protocols on connections of our own.

Law: one connection's fault ends that connection and nothing else, no client can make the server wait
without a limit, and no byte leaves but through the connection's `Outbox`. Sockets, deadlines and
shutdown are here; what may be said on a connection is in `web.server.protocol`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf

import structlog
import trio

from web.server.accepting import Listener, Refused, Stream, accept_all, refusal
from web.server.forwarded import Proxies
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
    OUTBOX,
    SEAT,
    Address,
    Admit,
    AppTasks,
    Early,
    GuardedH11,
    Seat,
)
from web.server.quiet import Quiet
from web.server.settings import Limits, ServerStatistics, hypercorn_config
from web.server.websocket import CLOSE_MAX, ends_with_close

__all__ = ["OUTBOX", "SEAT", "Limits", "ServerStatistics", "serve"]

TLS_HANDSHAKE_DEADLINE = 5.0
_RECEIVE_BYTES = 64 << 10
_UNANSWERED_BYTES = 1 << 20  # read in search of the answer to a close frame; who sends more is not listened to
_FULL = refusal("503 Service Unavailable", 5)
_TOO_MANY = refusal("429 Too Many Requests", 1)

log = structlog.get_logger()


async def serve(
    app: ASGIFramework,
    listeners: Sequence[Listener],
    *,
    stop: trio.Event,
    early: Early | None = None,
    admit: Admit | None = None,
    too_many: bytes = _TOO_MANY,
    proxies: Proxies | None = None,
    quiet: Quiet | None = None,
    limits: Limits | None = None,
    statistics: ServerStatistics | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop` is set, then end within `Limits.grace` whatever clients do.

    At `stop` the listeners are closed, WebSocket clients get 1001, HTTP responses in progress may end.
    `early` may answer requests in the app's place, with what the app would answer. `admit` says of each connection, by
    its peer's address, whether it may be had; None: all may. `too_many` is the whole answer to one that may not.
    Of the peers among `proxies` it is believed whom they speak for. `quiet` bounds the lines that clients cause.
    A TLS listener's context is the caller's; it may offer http/1.1 only. No ASGI lifespan is run.

    Raises RuntimeError, before anything is accepted, where Hypercorn is not the expected one.
    """
    check_hypercorn()
    limits = limits or Limits()
    server = _Server(
        app=wrap_app(app, 0, "asgi"),
        early=early,
        admit=admit,
        config=hypercorn_config(limits),
        context=WorkerContext(None),
        too_many=too_many,
        proxies=proxies or Proxies(),
        quiet=quiet or Quiet(),
        limits=limits,
        statistics=statistics or ServerStatistics(),
    )
    server.statistics.outboxes = server.outboxes
    for listener in listeners:
        _notice_dead_peers(listener)
    async with trio.open_nursery() as helping:
        helping.start_soon(server.quiet.run)
        helping.start_soon(server.turned_away.run)
        async with trio.open_nursery() as connections:
            async with AsyncExitStack() as stack, trio.open_nursery() as accepting:
                for listener in listeners:
                    await stack.enter_async_context(listener)
                    await accepting.start(accept_all, listener, partial(server.begin, nursery=connections))
                task_status.started()
                await stop.wait()
                accepting.cancel_scope.cancel()
            connections.cancel_scope.deadline = trio.current_time() + limits.grace
            await server.context.terminated.set()
            for connection in list(server.connections):
                connection.stop()
        helping.cancel_scope.cancel()


def _notice_dead_peers(listener: Listener) -> None:
    """A peer that vanished without a word is found out in a minute; accepted sockets inherit it."""
    plain = getattr(listener, "transport_listener", listener)
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
    too_many: bytes
    proxies: Proxies
    quiet: Quiet
    config: Config
    context: WorkerContext
    limits: Limits
    statistics: ServerStatistics
    connections: set[_Connection] = field(default_factory=set)
    turned_away: Refused = field(default_factory=Refused)

    def begin(self, stream: Stream, *, nursery: trio.Nursery) -> None:
        """What was accepted just now: serve it in a task of its own, or refuse it without one."""
        self.statistics.accepted += 1
        if len(self.connections) >= self.limits.connections:
            self._turn_away(stream, _FULL, "as many connections are open as may be")
            return
        sock = (stream.transport_stream if isinstance(stream, trio.SSLStream) else stream).socket
        try:
            peer = parse_socket_addr(sock.family, sock.getpeername())
            address = parse_socket_addr(sock.family, sock.getsockname())
        except OSError:  # gone already
            sock.close()
            return
        seat = None
        if self.admit is not None:
            seat = self.admit(peer[0] if peer else "")
            if seat is None:
                self._turn_away(stream, self.too_many, "its client has as many connections as it may", peer)
                return
        connection = _Connection(self, stream, seat, peer, address)
        self.connections.add(connection)
        self.statistics.open += 1
        nursery.start_soon(connection.run)

    def outboxes(self) -> Iterator[Outbox]:
        """Of the connections that there are now."""
        return (connection.outbox for connection in self.connections if connection.outbox is not None)

    def _turn_away(self, stream: Stream, answer: bytes, reason: str, peer: Address | None = None) -> None:
        self.statistics.refused += 1
        self.statistics.refusals["full" if peer is None else "client_limit"] += 1
        if self.quiet.allows("web.connection_refused"):
            log.warning("web.connection_refused", client=peer, reason=reason)
        self.turned_away.tell(stream, answer)


class _Connection:
    """One client's connection, from accept to close."""

    _outbox: Outbox
    _protocol: GuardedH11

    def __init__(
        self, server: _Server, stream: Stream, seat: Seat | None, peer: Address | None, address: Address | None
    ) -> None:
        self._server = server
        self._stream = stream
        self._seat = seat
        self._peer, self._address = peer, address
        self._idle = True  # between requests
        self._idle_until = inf
        self._reading = trio.CancelScope()

    @property
    def outbox(self) -> Outbox | None:
        """None: its task has not begun yet."""
        return getattr(self, "_outbox", None)

    def stop(self) -> None:
        """End it if it is a WebSocket or idle; else it ends after its response."""
        if not self._outbox.closed:
            self._outbox.close(GOING_AWAY, "server is stopping")
        elif self._idle:
            self._outbox.finish()

    async def run(self) -> None:
        server = self._server
        try:
            async with trio.open_nursery() as nursery:
                self._outbox = Outbox(
                    self._stream,
                    nursery,
                    write_deadline=server.limits.write_deadline,
                    capacity=server.limits.outbox_bytes,
                )
                try:
                    await self._converse(nursery)
                finally:
                    self._outbox.end()  # before the nursery closes: the flusher runs in it
        except* Exception as crash:
            # The boundary; stock ends the process here. A fault is this connection's alone.
            server.statistics.crashes += 1
            cause = _first_cause(crash)
            if server.quiet.allows("web.connection_crashed"):
                what = type(cause).__name__
                log.warning("web.connection_crashed", client=self._peer, error=what, detail=str(cause)[:200])
        finally:
            self._ended()
            await trio.aclose_forcefully(self._stream)

    def _ended(self) -> None:
        server = self._server
        server.connections.discard(self)
        server.statistics.open -= 1
        if self._seat is not None:
            self._seat.leave()
        if self._outbox.cut:
            server.statistics.cut += 1
            server.statistics.cuts[self._outbox.cut] += 1
            if server.quiet.allows("web.client_cut"):
                log.info("web.client_cut", client=self._peer, reason=self._outbox.cut)

    async def _converse(self, nursery: trio.Nursery) -> None:
        tls = isinstance(self._stream, trio.SSLStream)
        if isinstance(self._stream, trio.SSLStream) and not await _shake_hands(self._stream):
            return
        self._protocol = GuardedH11(
            self._server.app,
            self._server.config,
            self._server.context,
            AppTasks(nursery, self._outbox, self._seat),
            tls,
            self._peer,
            self._address,
            self._protocol_send,
            outbox=self._outbox,
            refused=self._refused,
            early=self._server.early,
            seat=self._seat,
            proxies=self._server.proxies,
        )
        self._idle_until = trio.current_time() + self._server.limits.head
        await self._read()
        self._outbox.end()
        await self._protocol.handle(Closed())  # tells the app

    async def _read(self) -> None:
        end, unanswered = b"", 0
        while True:
            with trio.CancelScope(deadline=self._idle_until) as self._reading:
                try:
                    data = await self._stream.receive_some(_RECEIVE_BYTES)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
            if self._reading.cancelled_caught or not data:
                return
            if self._idle:  # a head has begun
                self._idle_until = min(self._idle_until, trio.current_time() + self._server.limits.head)
            if not self._outbox.finished:  # else it is read only to be discarded
                await self._protocol.handle(RawData(bytes(data)))
            if self._outbox.unanswered:
                unanswered += len(data)
                if unanswered > _UNANSWERED_BYTES:
                    await trio.sleep_forever()  # until the wait is over
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
        self._server.statistics.refusals["bad_request"] += 1
        if self._server.quiet.allows("web.request_refused"):
            log.warning("web.request_refused", client=self._peer, status=status)


async def _shake_hands(stream: trio.SSLStream[trio.SocketStream]) -> bool:
    with trio.move_on_after(TLS_HANDSHAKE_DEADLINE):
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError:
            return False
        return bool(stream.selected_alpn_protocol() != "h2")
    return False


def _first_cause(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
