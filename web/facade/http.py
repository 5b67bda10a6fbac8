"""The façade over HTTP, straight on ASGI: bots poll it many times a second.

Of a client's request only method, path, query and body are looked at; its headers go nowhere.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from actors.errors import MarketError, UnknownExchange
from actors.exchanges.facade import Asked, Reply
from actors.facade.desk import Desk, Told
from web.access.origins import Origins
from web.problems import Denied, problem_of
from web.rest.headers import choose_encoding, compress, is_compressible, variant_headers

PREFIX = "/as/"
BODY_MAX = 64 << 10  # bytes

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

Desks = Mapping[str, Desk]


def place_of(path: str) -> tuple[str, str] | None:
    """The exchange and its own path; None for a path that is not the façade's."""
    if not path.startswith(PREFIX):
        return None
    exchange, slash, rest = path.removeprefix(PREFIX).partition("/")
    return exchange, slash + rest


class FacadeHttp:
    """Answers what is below `/as/`, and leaves the rest to `app`."""

    def __init__(self, app: App, desks: Desks, *, origins: Origins) -> None:
        self._app = app
        self._desks = desks
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        place = place_of(scope["path"])
        if place is None:
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin1") for name, value in scope["headers"]}
        exchange, path = place
        desk = self._desks.get(exchange)
        if scope["method"] == "OPTIONS":
            told = Told(_preflight(headers), "own")
        elif desk is None:
            told = Told(unknown(exchange, self._desks), "own")
        else:
            told = await self._ask(desk, scope, path, receive)
        await self._send(send, told, headers, desk.used(path) if desk else None, is_head=scope["method"] == "HEAD")

    async def _ask(self, desk: Desk, scope: Scope, path: str, receive: Receive) -> Told:
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                break  # it left: whatever is answered goes nowhere
            body += message.get("body", b"")
            if len(body) > BODY_MAX:
                return Told(Reply(413, b"", "text/plain"), "own")
            if not message.get("more_body"):
                break
        pairs = parse_qsl(scope["query_string"].decode("latin1"), keep_blank_values=False)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        content_type = dict(scope["headers"]).get(b"content-type", b"").decode("latin1")
        return await desk.answer(Asked(method, path, dict(pairs), body, content_type))

    async def _send(
        self, send: Send, told: Told, asked: Mapping[bytes, str], used: tuple[str, str] | None, *, is_head: bool
    ) -> None:
        reply = told.reply
        body, encoding = reply.body, choose_encoding(asked.get(b"accept-encoding", ""))
        compressible = is_compressible(reply.content_type, len(body))
        if compressible and encoding is not None:
            body = _compressed(body, encoding)
        headers = {"Content-Type": reply.content_type, "Content-Length": str(len(body)), **dict(reply.headers)}
        headers |= variant_headers(encoding, asked.get(b"origin"), self._origins.allowed, compressible=compressible)
        headers |= {"X-Marketd": told.way, "Age": str(int(told.age))}
        if used is not None:
            headers[used[0]] = used[1]
        lines = [(name.lower().encode(), value.encode("latin1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": lines})
        await send({"type": "http.response.body", "body": b"" if is_head else body})


def unknown(exchange: str, desks: Desks) -> Reply:
    """There is no exchange to imitate: the answer is marketd's own."""
    known = ", ".join(desks) or "none"
    told = problem_of(UnknownExchange(f"there is no façade of {exchange[:60]!r}, only of: {known}"))
    return Reply(told.status, msgspec.json.encode(told), "application/problem+json")


def refusal_below(desks: Desks, path: str, error: Exception) -> Reply | None:
    """What a client of the façade is told that is refused before it is asked what it wants; None for other clients."""
    place = place_of(path)
    desk = desks.get(place[0]) if place else None
    if desk is None:
        return None
    if isinstance(error, Denied):
        return desk.denied(str(error))
    return desk.refused(error) if isinstance(error, MarketError) else None


def _preflight(headers: Mapping[bytes, str]) -> Reply:
    allowed = headers.get(b"access-control-request-headers", "*")
    lines = (("Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS"), ("Access-Control-Allow-Headers", allowed))
    return Reply(204, b"", "text/plain", lines)


# Large answers are remembered for a minute and asked for by everybody.
_compressed = lru_cache(maxsize=16)(compress)
