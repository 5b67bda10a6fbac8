"""Opens a WebSocket to an exchange, with one deadline over name lookup, proxy, TCP and TLS, and one over handshake.

trio-websocket's own connect hides TLS errors behind time-outs and does not bound a server that stays silent, so the
stream is dialled here and only wrapped there. Closing is bounded too: an exchange may take 10 s to answer a close.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn, cast
from urllib.parse import urlsplit

import trio
import trio_websocket
from trio_websocket import CloseReason
from trio_websocket import ConnectionClosed as ConnectionClosed

from actors import clock
from actors.errors import LineLost
from actors.upstream.inbound import Heard, InboundStream
from actors.upstream.pauses import FORBIDDEN_PAUSE, RETRY_AFTER_MAX, http_date, retry_after
from actors.upstream.tcp import Tcp
from actors.upstream.way import DIRECT, USER_AGENT, NoWay, Way, in_words

CONNECT_WITHIN = 10.0  # seconds
CLOSE_WITHIN = 1.0  # seconds
MAX_MESSAGE = 16 << 20  # bytes; an all-market array passes 1 MiB, the library's default
RECEIVE = 64 << 10  # bytes read at once
SETTLE = 0.1  # seconds
QUEUE = 1024  # messages; with the default of 1 the library stops answering pings while we are busy


class Socket:
    """One WebSocket to an exchange. Every method raises ConnectionClosed once it is closed."""

    def __init__(self, websocket: trio_websocket.WebSocketConnection, inbound: InboundStream) -> None:
        self._websocket = websocket
        self._inbound = inbound
        self._closed = ConnectionClosed(None)
        self._ended = trio.Event()

    async def listen(self, heard: Heard) -> NoReturn:
        """Have `heard` called with all that comes, until the connection ends. To be begun at once: nothing is lost
        before, but all of it is kept. What `heard` raises comes out of `open_socket`, in a group.
        """
        self._inbound.listen(heard)
        await self._ended.wait()
        raise self._closed

    async def send_message(self, message: str) -> None:
        await self._websocket.send_message(message)

    async def ping(self) -> None:
        """Returns when the pong has come."""
        await self._websocket.ping()

    async def aclose(self) -> None:
        await self._websocket.aclose()

    async def collect(self) -> None:
        """Tell, beside what the stream takes, what the library receives; and the end of the connection."""
        try:
            while True:
                self._inbound.tell([await self._websocket.get_message()])
        except ConnectionClosed as closed:
            self._closed = closed
            self._ended.set()


@asynccontextmanager
async def open_socket(url: str, tls: ssl.SSLContext | None, way: Way = DIRECT) -> AsyncIterator[Socket]:
    """A connected WebSocket for as long as the block lasts. Raises LineLost where it cannot be had."""
    try:
        async with trio.open_nursery() as nursery:
            stream = await _connect(url, tls, way)
            try:
                socket = await _shake_hands(nursery, stream, url)
                yield socket
                with trio.move_on_after(CLOSE_WITHIN):
                    await socket.aclose()
            finally:
                # Closed before it is cancelled: a Cancelled out of the close would replace, and so hide, the LineLost.
                await trio.aclose_forcefully(stream)
                nursery.cancel_scope.cancel()
    except* trio_websocket.ConnectionRejected as group:  # raised by trio-websocket's own task in the nursery
        raise _refused(group.exceptions[0]) from None
    except* trio_websocket.HandshakeError as group:
        raise LineLost(f"the WebSocket handshake failed: {group.exceptions[0]!r}") from group


def _refused(error: BaseException) -> LineLost:
    """Who says when to come back is left alone until then, and who does not serve our location for long."""
    if not isinstance(error, trio_websocket.ConnectionRejected):
        return LineLost("the exchange refused the WebSocket", how="refused")
    headers = {name.lower(): value.decode("latin-1") for name, value in error.headers}
    wait = retry_after(headers.get(b"retry-after"), http_date(headers.get(b"date", "")) or clock.now())
    if wait is None and error.status_code == 451:
        wait = FORBIDDEN_PAUSE
    wait = wait and min(wait, RETRY_AFTER_MAX)
    return LineLost(f"the exchange refused the WebSocket: HTTP {error.status_code}", how="refused", retry_after=wait)


async def _connect(url: str, tls: ssl.SSLContext | None, way: Way) -> trio.abc.Stream:
    """Name lookup, TCP and TLS within one deadline."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        with trio.fail_after(CONNECT_WITHIN):
            way.trust(tls)
            tcp = await way.open_tcp(host, parts.port or (443 if parts.scheme == "wss" else 80))
            if isinstance(tcp, trio.SocketStream):
                tcp = Tcp(tcp)
            if tls is None or parts.scheme != "wss":
                return tcp
            stream = trio.SSLStream(tcp, tls, server_hostname=host, https_compatible=True)
            try:
                await stream.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(tcp)
                raise
            return stream
    except trio.TooSlowError:
        raise LineLost(f"no connection within {CONNECT_WITHIN:g} s", how="timeout") from None
    except NoWay as error:
        raise LineLost(str(error)) from None
    except (OSError, trio.BrokenResourceError) as error:  # ssl.SSLError is an OSError
        if isinstance(error.__cause__, BaseExceptionGroup):
            raise LineLost(f"cannot connect: {in_words(error)}") from error
        cause = error.__cause__ or error
        raise LineLost(f"cannot connect: {type(cause).__name__}: {cause}") from error


async def _shake_hands(nursery: trio.Nursery, stream: trio.abc.Stream, url: str) -> Socket:
    parts = urlsplit(url)
    inbound = InboundStream(stream, MAX_MESSAGE)
    websocket: trio_websocket.WebSocketConnection | None = None
    with trio.move_on_after(CONNECT_WITHIN) as patience:
        async with trio.open_nursery() as attempt:

            async def give_up() -> None:
                await inbound.ended.wait()
                await trio.sleep(SETTLE)  # an answer that came just before the end is still being read
                attempt.cancel_scope.cancel()

            attempt.start_soon(give_up)
            websocket = await trio_websocket.wrap_client_stream(
                nursery,
                cast(trio.SocketStream, inbound),
                parts.netloc.rpartition("@")[2],
                (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
                extra_headers=[(b"User-Agent", USER_AGENT.encode())],
                message_queue_size=QUEUE,
                max_message_size=MAX_MESSAGE,
                receive_buffer_size=RECEIVE,
            )
            attempt.cancel_scope.cancel()
    if websocket is not None:
        socket = Socket(websocket, inbound)
        nursery.start_soon(socket.collect)
        return socket
    if patience.cancelled_caught:
        raise LineLost(f"no connection within {CONNECT_WITHIN:g} s", how="timeout")
    raise LineLost("the exchange hung up during the handshake", how="closed")


def closed(code: int | None, reason: str) -> ConnectionClosed:
    """The end of a connection, with a close code or (None) without any."""
    return ConnectionClosed(None if code is None else CloseReason(code, reason))


def closing(error: ConnectionClosed) -> str:
    """Why a connection was closed, for a log line."""
    reason = error.reason
    if reason is None:
        return "without a close frame"
    return f"code {reason.code}" + (f": {reason.reason[:100]}" if reason.reason else "")
