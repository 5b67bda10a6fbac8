"""In front of everything that is served over HTTP: whose a request is, whether it may be made, and what its answer says
of that.

Law: keys go no further. A refusal costs little: no framework sees the request. For an exempt client without a key an
answer passes untouched.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec
import trio

from actors.errors import RateLimited
from actors.exchanges.facade import Reply
from web.access.account import Account
from web.access.auth import Auth, scope_of, visiting
from web.access.clients import Seat
from web.access.credentials import misplaced, take_credentials
from web.access.origins import Origins
from web.counts import OTHER, WebCounts
from web.problems import Denied, InvalidParameters, problem_of
from web.rest.headers import variant_headers
from web.server.protocol import SEAT

PROBES = {"/health/live", "/health/ready"}  # never refused: whoever restarts us may share its address with a client

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]
Headers = dict[str, str]
Dialect = Callable[[Scope, Denied | RateLimited | InvalidParameters], Reply | None]
"""(scope, error) -> the answer as who asks there understands it; None where it is the ordinary one."""

_encode = msgspec.json.Encoder().encode


class Gate:
    def __init__(
        self,
        app: App,
        auth: Auth,
        *,
        origins: Origins,
        dialect: Dialect,
        counts: WebCounts | None = None,
    ) -> None:
        self._app = app
        self._dialect = dialect
        self._auth = auth
        self._counts = counts or WebCounts()
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        auth, path = self._auth, scope["path"]
        given = take_credentials(scope, token_in_query=auth.token_in_query)
        # A browser's question before the request has no key: it only asks what it may send.
        needed = None if scope["method"] == "OPTIONS" else scope_of(path)
        address, seat = address_of(scope), seat_of(scope)
        account = auth.clients.of_address(address)
        try:
            visit = auth.visit(given.keys if needed else (), address)
            account = visit.account
            if seat is not None:
                seat.take(account)
            if path in PROBES:
                account.spend()
            else:
                account.request()
            if given.is_misplaced:
                raise misplaced()
            auth.check(visit, needed)
        except (Denied, RateLimited, InvalidParameters) as error:
            origin = next((value.decode("latin1") for name, value in scope["headers"] if name == b"origin"), None)
            told = refusal(error, account, origin, self._origins.allowed)
            if (reply := self._dialect(scope, error)) is not None:
                kept = {"Content-Type": reply.content_type, "Content-Length": str(len(reply.body))}
                told = reply.status, told[1] | kept | dict(reply.headers), reply.body
            self._counts.requests[OTHER, f"{told[0] // 100}xx"] += 1
            await _tell(send, *told)
        else:
            with visiting(visit):
                await self._app(scope, receive, send if account.is_exempt else _counted(send, account))
        finally:
            if seat is not None:
                seat.answered()


def address_of(scope: Scope) -> str:
    """Of the client; empty where it has none: a peer on this machine."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def seat_of(scope: Scope) -> Seat | None:
    """The connection's place among its client's, where they are counted."""
    seat: Seat | None = scope.get("extensions", {}).get(SEAT)
    return seat


def refusal(
    error: Denied | RateLimited | InvalidParameters, account: Account, origin: str | None, origins: list[str] | str
) -> tuple[int, Headers, bytes]:
    """(status, headers, body) of the answer to a request that is not made."""
    told = problem_of(error)
    body = _encode(told)
    headers = {"Content-Type": "application/problem+json", "Content-Length": str(len(body))}
    if isinstance(told.retry_after, int):
        headers["Retry-After"] = str(told.retry_after)
    if isinstance(error, Denied):
        headers["WWW-Authenticate"] = error.challenge
    return (
        told.status,
        headers | variant_headers(None, origin, origins, compressible=False) | account.headers(),
        body,
    )


async def _tell(send: Send, status: int, headers: Headers, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": _encoded(headers)})
    await send({"type": "http.response.body", "body": body})


def _encoded(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin1")) for name, value in headers.items()]


def _counted(send: Send, account: Account) -> Send:
    """`send` of an answer that says what is left of the allowance, and whose bytes count. One without end is paced."""

    async def counted(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_encoded(account.headers())]
        elif message["type"] == "http.response.body":
            if message.get("more_body") and (wait := account.egress_wait()):
                await trio.sleep(wait)
            account.sent(len(message.get("body", b"")))
        await send(message)

    return counted
