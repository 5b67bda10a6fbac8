"""How exchanges are reached: the one seam between the actors and the outer world.

`LIVE` is the world itself; `actors.recording.recorder` writes down what passes, and `actors.recording.replay` stands in
for it.
"""

import ssl
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NoReturn, Protocol

from actors.upstream import dial, rest
from actors.upstream.inbound import Heard
from actors.upstream.way import DIRECT, Way


class Socket(Protocol):
    """One WebSocket to an exchange. Every method raises dial.ConnectionClosed once it is closed."""

    async def listen(self, heard: Heard) -> NoReturn:
        """Have `heard` called with all that comes, until the connection ends; what it raises ends it, too."""
        ...

    async def send_message(self, message: str) -> None: ...

    async def ping(self) -> None:
        """Returns when the pong has come."""
        ...


class Upstream(Protocol):
    def open_http(
        self, exchange: str, url: str, tls: ssl.SSLContext | None
    ) -> AbstractAsyncContextManager[rest.Http]: ...

    def open_socket(
        self, exchange: str, line: int, topics: Sequence[str], url: str, tls: ssl.SSLContext | None
    ) -> AbstractAsyncContextManager[Socket]:
        """The connection of one line, which carries `topics`. Raises LineLost where it cannot be had."""
        ...


class Live:
    def __init__(self, ways: Mapping[str, Way] | None = None) -> None:
        self._ways = ways or {}  # by exchange; straight to all others

    def open_http(self, exchange: str, url: str, tls: ssl.SSLContext | None) -> AbstractAsyncContextManager[rest.Http]:
        return rest.open_http(url, tls, self._ways.get(exchange, DIRECT))

    def open_socket(
        self, exchange: str, line: int, topics: Sequence[str], url: str, tls: ssl.SSLContext | None
    ) -> AbstractAsyncContextManager[Socket]:
        return dial.open_socket(url, tls, self._ways.get(exchange, DIRECT))


LIVE = Live()
