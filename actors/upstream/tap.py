"""A listener beside the lines: it is shown every message that any of an exchange's connections brings, as it comes, and
every answer of its REST host.
"""

import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NoReturn, Protocol

from actors.upstream import rest
from actors.upstream.inbound import Heard
from actors.upstream.rest import Answer, Question
from actors.upstream.seam import Socket, Upstream


class Ear(Protocol):
    """Listens to one connection. Must not wait, and costs every message what it costs."""

    def heard(self, messages: Sequence[bytes | str]) -> None:
        """Called before the line reads the messages."""
        ...

    def closed(self) -> None:
        """The connection is gone, for whatever reason."""
        ...


class Listener(Protocol):
    def opened(self) -> Ear: ...

    def answered(self, question: Question, answer: Answer) -> None:
        """Called before whoever asked is told. Must not wait."""
        ...


class _TappedSocket:
    def __init__(self, socket: Socket, heard: Callable[[Sequence[bytes | str]], None]) -> None:
        self._socket, self._heard = socket, heard
        self.send_message, self.ping = socket.send_message, socket.ping

    async def listen(self, heard: Heard) -> NoReturn:
        def tell(messages: Sequence[bytes | str], taken_at: datetime) -> None:
            self._heard(messages)
            heard(messages, taken_at)

        await self._socket.listen(tell)


class _TappedHttp:
    def __init__(self, http: rest.Http, listener: Listener) -> None:
        self._http, self._listener = http, listener

    async def ask(self, question: Question) -> Answer:
        answer = await self._http.ask(question)
        self._listener.answered(question, answer)
        return answer


class Tapped:
    """`upstream`, with a listener."""

    def __init__(self, upstream: Upstream, listener: Listener) -> None:
        self._upstream, self._listener = upstream, listener

    @asynccontextmanager
    async def open_http(self, exchange: str, url: str, tls: ssl.SSLContext | None) -> AsyncIterator[rest.Http]:
        async with self._upstream.open_http(exchange, url, tls) as http:
            yield _TappedHttp(http, self._listener)

    @asynccontextmanager
    async def open_socket(
        self, exchange: str, line: int, topics: Sequence[str], url: str, tls: ssl.SSLContext | None
    ) -> AsyncIterator[Socket]:
        async with self._upstream.open_socket(exchange, line, topics, url, tls) as socket:
            ear = self._listener.opened()
            try:
                yield _TappedSocket(socket, ear.heard)
            finally:
                ear.closed()
