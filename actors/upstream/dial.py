"""Opens a WebSocket to an exchange, with one deadline over name lookup, proxy, TCP and TLS, and one over handshake.

trio-websocket's own connect hides TLS errors behind time-outs and does not bound a server that stays silent, so the
stream is dialled here and only wrapped there. Closing is bounded too: an exchange may take 10 s to answer a close.
"""

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import cast
from urllib.parse import urlsplit

import trio
import trio_websocket
from trio_websocket import CloseReason
from trio_websocket import ConnectionClosed as ConnectionClosed

from actors import clock
from actors.errors import LineLost
from actors.upstream.inbound import InboundStream
from actors.upstream.way import DIRECT, NoWay, Way

CONNECT_WITHIN = 10.0  # seconds
CLOSE_WITHIN = 1.0  # seconds
MAX_MESSAGE = 16 << 20  # bytes; an all-market array passes 1 MiB, the library's default
RECEIVE = 64 << 10  # bytes read at once
SETTLE = 0.1  # seconds
QUEUE = 1024  # messages; with the default of 1 the library stops answering pings while we are busy
READS = 64  # reads' worth of messages that may wait for the line


class Socket:
    """One WebSocket to an exchange. Every method raises ConnectionClosed once it is closed."""

    def __init__(
        self, websocket: trio_websocket.WebSocketConnection, messages: trio.MemoryReceiveChannel[Sequence[bytes | str]]
    ) -> None:
        self._websocket = websocket
        self._messages = messages
        self._closed: ConnectionClosed | None = None

    async def get_messages(self) -> tuple[Sequence[bytes | str], datetime]:
        """The next messages that arrived together, at least one, and when they were taken, by this machine's clock.

        Text in UTF-8 not yet judged, or what the library made of fragments and binary frames. A task switch costs more
        than all that is done for a message, hence the many.
        """
        try:
            return await self._messages.receive(), clock.now()
        except trio.EndOfChannel:
            raise self._closed or ConnectionClosed(None) from None

    async def send_message(self, message: str) -> None:
        await self._websocket.send_message(message)

    async def ping(self) -> None:
        """Returns when the pong has come."""
        await self._websocket.ping()

    async def aclose(self) -> None:
        await self._websocket.aclose()

    async def collect(self, messages: trio.MemorySendChannel[Sequence[bytes | str]]) -> None:
        """Put what the library receives behind what the stream took; end the channel when the connection ends."""
        with messages:
            try:
                while True:
                    await messages.send([await self._websocket.get_message()])
            except ConnectionClosed as closed:
                self._closed = closed


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
        status = getattr(group.exceptions[0], "status_code", "?")
        raise LineLost(f"the exchange refused the WebSocket: HTTP {status}", how="refused") from None
    except* trio_websocket.HandshakeError as group:
        raise LineLost(f"the WebSocket handshake failed: {group.exceptions[0]!r}") from group


async def _connect(url: str, tls: ssl.SSLContext | None, way: Way) -> trio.abc.Stream:
    """Name lookup, TCP and TLS within one deadline."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        with trio.fail_after(CONNECT_WITHIN):
            way.trust(tls)
            tcp = await way.open_tcp(host, parts.port or (443 if parts.scheme == "wss" else 80))
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
        cause = error.__cause__ or error
        raise LineLost(f"cannot connect: {type(cause).__name__}: {cause}") from error


async def _shake_hands(nursery: trio.Nursery, stream: trio.abc.Stream, url: str) -> Socket:
    parts = urlsplit(url)
    messages_in, messages = trio.open_memory_channel[Sequence[bytes | str]](READS)
    inbound = InboundStream(stream, messages_in, MAX_MESSAGE)
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
                message_queue_size=QUEUE,
                max_message_size=MAX_MESSAGE,
                receive_buffer_size=RECEIVE,
            )
            attempt.cancel_scope.cancel()
    if websocket is not None:
        socket = Socket(websocket, messages)
        nursery.start_soon(socket.collect, messages_in)
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
