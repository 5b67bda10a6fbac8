"""Opens a WebSocket to an exchange, with one deadline over name lookup, TCP, TLS and handshake.

trio-websocket's own connect hides TLS errors behind time-outs and does not bound a server that stays silent, so the
stream is dialled here and only wrapped there. Closing is bounded too: an exchange may take 10 s to answer a close.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import trio
import trio_websocket

from actors.errors import LineLost

CONNECT_WITHIN = 10.0  # seconds
CLOSE_WITHIN = 1.0  # seconds
MAX_MESSAGE = 16 << 20  # bytes; an all-market array passes 1 MiB, the library's default
QUEUE = 1024  # messages; with the default of 1 the library stops answering pings while we are busy


@asynccontextmanager
async def open_socket(url: str, tls: ssl.SSLContext) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    """A connected WebSocket for as long as the block lasts. Raises LineLost where it cannot be had."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    secure = parts.scheme == "wss"
    port = parts.port or (443 if secure else 80)
    async with trio.open_nursery() as nursery:
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] | None = None
        try:
            try:
                with trio.fail_after(CONNECT_WITHIN):
                    tcp = stream = await trio.open_tcp_stream(host, port)
                    if secure:
                        stream = trio.SSLStream(tcp, tls, server_hostname=host, https_compatible=True)
                        await stream.do_handshake()
                    socket = await trio_websocket.wrap_client_stream(
                        nursery,
                        stream,
                        parts.netloc.rpartition("@")[2],
                        (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
                        message_queue_size=QUEUE,
                        max_message_size=MAX_MESSAGE,
                        receive_buffer_size=65_536,
                    )
            except trio.TooSlowError:
                raise LineLost(f"no connection within {CONNECT_WITHIN:g} s") from None
            except trio_websocket.ConnectionRejected as error:
                raise LineLost(f"the exchange refused the WebSocket: HTTP {error.status_code}") from None
            except (OSError, ssl.SSLError, trio.BrokenResourceError, trio_websocket.HandshakeError) as error:
                cause = error.__cause__ or error
                raise LineLost(f"cannot connect: {type(cause).__name__}: {cause}") from error
            except trio_websocket.ConnectionClosed as error:
                raise LineLost(f"closed during the handshake: {closing(error)}") from None
            yield socket
            with trio.move_on_after(CLOSE_WITHIN):
                await socket.aclose()
        finally:
            nursery.cancel_scope.cancel()
            if stream is not None:
                await trio.aclose_forcefully(stream)


def closing(error: trio_websocket.ConnectionClosed) -> str:
    """Why a connection was closed, for a log line."""
    reason = error.reason
    if reason is None:
        return "without a close frame"
    return f"code {reason.code}" + (f": {reason.reason[:100]}" if reason.reason else "")
