"""Who may open a WebSocket: from which page, with which key, within which limits.

A client is accepted first and told what is wrong in a frame: a browser cannot read a refused handshake. Only pages of
other sites and clients that knock too often are refused before; that costs less.
"""

from collections.abc import Awaitable, Callable
from typing import cast
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET

from actors.errors import NotReady, RateLimited
from web.access.account import Account
from web.access.auth import READ, Auth, Visit, visiting
from web.access.clients import Seat
from web.access.credentials import Given, misplaced
from web.access.origins import Origins
from web.problems import Denied, InvalidParameters, Problem, problem, problem_of
from web.rest.gate import address_of, refusal, seat_of
from web.server.connections import OUTBOX
from web.server.outbox import Outbox
from web.server.websocket import POLICY_VIOLATION
from web.streams.shares import TOO_MUCH, error_frame
from web.streams.socket import websocket

NO_KEY, NO_SCOPE = 4401, 4403
RETRY = 5.0  # seconds until a client may ask again who serves streams

Serve = Callable[[Outbox, Account], Awaitable[None]]
Enter = Callable[[Serve], Awaitable[None]]
"""`enter` for the current WebSocket."""
Elsewhere = Callable[[], str]
"""Says where streams are told that are not told here."""


async def enter(
    auth: Auth, origins: Origins, given: Given, serve: Serve, *, elsewhere: Elsewhere | None = None
) -> None:
    """Let the client of the current WebSocket in, or say why not; then `serve` it, until its key is good no more.

    `given`: the keys that were taken out of its scope. `elsewhere`: nobody is served here.
    """
    scope = websocket.scope
    origin = websocket.headers.get("Origin")
    if not is_allowed_origin(origin, websocket.host, origins.allowed):
        detail = "pages of this origin may not connect: see server.cors_origins"
        await _refuse(problem("forbidden_origin", detail))
        return
    address, seat = address_of(scope), seat_of(scope)
    account = auth.clients.of_address(address)
    denied: Denied | InvalidParameters | None = misplaced() if given.is_misplaced else None
    try:
        visit = auth.visit(given.keys, address)
        account = visit.account
        account.request()
        if denied is None:
            auth.check(visit, READ)
    except RateLimited as error:
        await websocket.refuse(*refusal(error, account, None, []))
        return
    except Denied as error:
        denied = error
    if denied is None and elsewhere is not None:
        await _refuse(problem_of(NotReady(elsewhere(), retry_after=RETRY)))
        return
    await websocket.accept(given.subprotocol)
    outbox = outbox_of_client()
    if denied is not None:
        tell_denied(outbox, denied)
        return
    try:
        await _stay(auth, visit, seat, outbox, serve)
    finally:
        if seat is not None:
            seat.answered()


async def _refuse(told: Problem) -> None:
    headers = {"Content-Type": "application/problem+json"}
    if told.retry_after is not UNSET:
        headers["Retry-After"] = str(told.retry_after)
    await websocket.refuse(told.status, headers, msgspec.json.encode(told))


async def _stay(auth: Auth, visit: Visit, seat: Seat | None, outbox: Outbox, serve: Serve) -> None:
    try:
        if seat is not None:
            seat.take(visit.account)
    except RateLimited as error:
        outbox.send(error_frame(error))
        outbox.close(TOO_MUCH, error.code)
        return
    with visiting(visit), auth.staying(visit, READ, lambda denied: tell_denied(outbox, denied)):
        await serve(outbox, visit.account)


def tell_denied(outbox: Outbox, denied: Denied | InvalidParameters) -> None:
    """In one frame, and close."""
    outbox.send(error_frame(denied))
    if isinstance(denied, InvalidParameters):
        outbox.close(POLICY_VIOLATION, "invalid_parameter")
    else:
        outbox.close(NO_KEY if denied.code == "unauthorized" else NO_SCOPE, denied.code)


def outbox_of_client() -> Outbox:
    """The way out of the WebSocket that is being handled; `web.server.connections` put it there."""
    return cast(Outbox, websocket.scope["extensions"][OUTBOX])


def is_allowed_origin(origin: str | None, host: str, allowed: list[str] | str) -> bool:
    """A page of another site may not read streams through its visitor's browser unless the configuration allows it.

    Programs send no Origin; a page of this daemon sends its own address.
    """
    if origin is None or allowed == "*":
        return True
    try:
        return origin in allowed or urlsplit(origin).netloc == host
    except ValueError:  # not an origin at all
        return False
