"""The WebSocket that is being handled, straight on ASGI. Quart's own costs each client two tasks and 15 kB more.

`websocket` stands for it, as Quart's does, in the task that `serving` runs in. Of the handshake's headers nothing is
kept once it is accepted: thousands of clients do nothing but wait.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

from werkzeug.datastructures import Headers, MultiDict
from werkzeug.local import LocalProxy
from werkzeug.sansio.request import Request

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ClientLeft(Exception):
    """The client is gone: nothing more will be received, and nothing that is sent arrives."""


class WebSocket:
    __slots__ = ("_receive", "_send", "scope")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send

    def _request(self) -> Request:
        scope = self.scope
        headers = Headers([(name.decode("latin1"), value.decode("latin1")) for name, value in scope["headers"]])
        about = scope["scheme"], scope["server"], scope["root_path"], scope["path"], scope["query_string"]
        return Request("GET", *about, headers, None)

    @property
    def path(self) -> str:
        return str(self.scope["path"])

    @property
    def args(self) -> MultiDict[str, str]:
        """The query."""
        return self._request().args

    @property
    def headers(self) -> Headers:
        """Of the handshake; none once it was accepted."""
        return self._request().headers

    @property
    def host(self) -> str:
        """Host and port by which the client names this server; before it is accepted."""
        return self._request().host

    async def accept(self, subprotocol: str | None = None) -> None:
        """`subprotocol`: one of those that the client offers; None: none is selected."""
        await self._send({"type": "websocket.accept", "headers": [], "subprotocol": subprotocol})
        self.scope["headers"] = ()

    async def receive(self) -> str | bytes:
        """The next message. Raises ClientLeft."""
        while True:
            message = await self._receive()
            if message["type"] == "websocket.receive":
                return cast(str | bytes, message.get("bytes") or message.get("text") or "")
            if message["type"] == "websocket.disconnect":
                raise ClientLeft

    async def refuse(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Answer the handshake with an ordinary response."""
        headers = {**headers, "Content-Length": str(len(body))}
        encoded = [(name.lower().encode(), value.encode("latin1")) for name, value in headers.items()]
        await self._send({"type": "websocket.http.response.start", "status": status, "headers": encoded})
        await self._send({"type": "websocket.http.response.body", "body": body})


_current: ContextVar[WebSocket] = ContextVar("websocket")
websocket = cast(WebSocket, LocalProxy(_current))


@contextmanager
def serving(socket: WebSocket) -> Iterator[None]:
    """`websocket` stands for `socket` within the block."""
    token = _current.set(socket)
    try:
        yield
    finally:
        _current.reset(token)
