"""On an edge: requests for what is not held here, passed to a node that collects, and its answer passed on.

Law: what goes through is not looked into. The client's keys stay here, where they were taken out of the request; what
is said of limits and origins is said by us. A client that leaves ends the question; an answer that breaks off ends the
client's connection before its time, which is the only way to tell.
"""

from collections.abc import Callable
from contextlib import aclosing
from time import perf_counter
from typing import Any

import msgspec
import structlog
import trio

from actors.errors import MarketError
from actors.mirror.ingests import BrokenOff, Ingests, Passage, Question
from web.access.origins import Origins
from web.counts import WebCounts
from web.problems import Problem, problem, problem_of
from web.rest.gate import App, Scope, Send
from web.rest.headers import variant_headers

BODY_MAX = 64 << 10  # bytes
ASKED = {
    *(b"accept", b"accept-encoding", b"content-type", b"range", b"if-range"),
    *(b"if-none-match", b"if-modified-since", b"user-agent"),
}
"""What is passed of a request's headers."""

OURS = {
    *(b"connection", b"keep-alive", b"transfer-encoding", b"te", b"trailer", b"upgrade", b"proxy-authenticate"),
    *(b"date", b"server", b"ratelimit", b"ratelimit-policy", b"access-control-allow-origin"),
}
"""What is not passed of an answer's."""

LEFT, BROKEN = 499, 502  # how it is counted that a client left, that an answer broke off

log = structlog.get_logger()

_encode = msgspec.json.Encoder().encode

Passed = Callable[[str, str], str | None]
"""(method, path) -> the route of what is passed on; None: it is answered here."""


Worded = Callable[[str, Problem], object]
"""(path, problem) -> what is said of it to who asks there."""


class Passing:
    """In front of an application that answers what is held here."""

    def __init__(
        self, app: App, ingests: Ingests, *, passed: Passed, worded: Worded, origins: Origins, counts: WebCounts
    ) -> None:
        self._app = app
        self._ingests = ingests
        self._passed, self._worded = passed, worded
        self._origins = origins
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        route = self._passed(scope["method"], scope["path"])
        if route is None:
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        body = await _body(receive)
        if body is None:
            return  # it left
        if len(body) > BODY_MAX:
            told = problem("bad_request", f"a body of more than {BODY_MAX} bytes is not taken here")
            status = await self._refuse(scope, send, told)
        else:
            status = LEFT
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_left, receive, nursery.cancel_scope)
                status = await self._pass(scope, send, body)
                nursery.cancel_scope.cancel()
        self._counts.answered(route, status, perf_counter() - began)

    async def _pass(self, scope: Scope, send: Send, body: bytes) -> int:
        """The answer's status."""
        query = scope["query_string"]
        headers = {name.decode(): value.decode("latin1") for name, value in scope["headers"] if name in ASKED}
        target = scope["raw_path"] + (b"?" + query if query else b"")
        try:
            async with self._ingests.asked(Question(scope["method"], target, headers, body)) as passage:
                await self._tell(scope, send, passage)
                return passage.status
        except BrokenOff as error:
            log.warning("passing.broken_off", path=scope["path"], reason=str(error))
            return BROKEN
        except MarketError as error:
            return await self._refuse(scope, send, problem_of(error))

    async def _tell(self, scope: Scope, send: Send, passage: Passage) -> None:
        kept = [(name, value) for name, value in passage.headers if name not in OURS]
        varies = b",".join(value for name, value in kept if name == b"vary").lower()
        own = [line for line in self._headers(scope) if line[0] != b"vary" or line[1].lower() not in varies]
        await send({"type": "http.response.start", "status": passage.status, "headers": [*kept, *own]})
        async with aclosing(passage.pieces) as pieces:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _refuse(self, scope: Scope, send: Send, told: Problem) -> int:
        body = _encode(self._worded(scope["path"], told))
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % len(body)),
            *self._headers(scope),
        ]
        if isinstance(told.retry_after, int):
            headers.append((b"retry-after", b"%d" % told.retry_after))
        await send({"type": "http.response.start", "status": told.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return told.status

    def _headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """What we say ourselves, whatever is answered."""
        origin = next((value.decode("latin1") for name, value in scope["headers"] if name == b"origin"), None)
        said = variant_headers(None, origin, self._origins.allowed, compressible=False)
        return [(name.lower().encode(), value.encode("latin1")) for name, value in said.items()]


async def _body(receive: Any) -> bytes | None:
    """Of a request, or a little more than BODY_MAX of it; None: the client left."""
    body = b""
    while len(body) <= BODY_MAX:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return body


async def _until_left(receive: Any, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
