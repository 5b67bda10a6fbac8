"""A listener beside the lines: it is shown every message that any of an exchange's connections brings, as it comes."""

import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime

from actors.upstream import rest
from actors.upstream.seam import Socket, Upstream

Listener = Callable[[Sequence[bytes | str]], None]
"""Called before the line reads the messages. Must not wait, and costs every message what it costs."""


class _TappedSocket:
    def __init__(self, socket: Socket, listener: Listener) -> None:
        self._socket, self._listener = socket, listener
        self.send_message, self.ping = socket.send_message, socket.ping

    async def get_messages(self) -> tuple[Sequence[bytes | str], datetime]:
        told = await self._socket.get_messages()
        self._listener(told[0])
        return told


class Tapped:
    """`upstream`, with a listener."""

    def __init__(self, upstream: Upstream, listener: Listener) -> None:
        self._upstream, self._listener = upstream, listener

    def open_http(self, exchange: str, url: str, tls: ssl.SSLContext | None) -> AbstractAsyncContextManager[rest.Http]:
        return self._upstream.open_http(exchange, url, tls)

    @asynccontextmanager
    async def open_socket(
        self, exchange: str, line: int, topics: Sequence[str], url: str, tls: ssl.SSLContext | None
    ) -> AsyncIterator[Socket]:
        async with self._upstream.open_socket(exchange, line, topics, url, tls) as socket:
            yield _TappedSocket(socket, self._listener)
