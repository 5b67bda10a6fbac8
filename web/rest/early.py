"""Requests that memory answers, answered before Quart sees them: the same answers at a small part of the cost.

Law: nothing is answered here that Quart would answer otherwise. The routes are matched by Quart's own map, queries are
parsed and answers encoded by the same functions; whatever is unusual is left to Quart: errors, bodies, other methods,
what an exchange must be asked for. Whose a request is and whether it may be made is looked at each time, as
`web.rest.gate` does. Two things are remembered, within bounds: what the head of a request asks for, by its very bytes
without its keys (programs repeat themselves), and an answer's encoding, for as long as the answer equals that one.
Events are immutable and shared, so comparing them is comparing addresses; nothing is answered because it is recent.
"""

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import msgspec
from quart_trio import QuartTrio
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import HTTPException

from actors.errors import MarketError, RateLimited
from actors.sinks.sinks import Sinks
from web.access.account import Account
from web.access.auth import ADMIN, READ, Auth, scope_of
from web.access.clients import Seat
from web.access.credentials import take_from_head
from web.access.hosts import Hosts
from web.access.origins import Origins
from web.connectors import Connectors
from web.counts import WebCounts
from web.parameters import TableQuery, parse
from web.problems import InvalidParameters
from web.rest.gate import PROBES, refusal
from web.rest.headers import Encoding, choose_encoding, compress, is_compressible, prefers_html, variant_headers
from web.rest.heads import parse_head
from web.rest.route import Answer, held_of
from web.rest.routes import routes_below
from web.rest.state import Engine

HEADS_MAX, BODIES_MAX = 1024, 32 << 20  # heads, and as many bodies, and bytes of these; past it, they are forgotten
CONTENT_TYPE = "application/json"

# The headers that an answer may depend on.
_HEEDED = {b"host", b"origin", b"accept", b"accept-encoding"}

_encode = msgspec.json.Encoder().encode


class Body:
    """One answer's encoding, made anew whenever the answer is another."""

    __slots__ = ("_answer", "_ask", "_encoding", "_head", "_head_for", "data", "route", "size")

    def __init__(self, ask: Callable[[], Any], route: str, encoding: Encoding | None) -> None:
        self._ask = ask
        self.route = route
        self._encoding: Encoding | None = encoding
        self._answer: Any = None
        self.data = b""
        self.size = 0  # before compression
        self._head, self._head_for = b"", tuple[Any, ...]()

    def update(self) -> bool:
        """Make `data` what is to be answered now; False where memory does not have it."""
        try:
            answer = self._ask()
        except MarketError:
            return False
        if answer is None or isinstance(answer, Answer):
            return False
        if answer != self._answer or not self.data:
            data = _encode(answer)
            self.size = len(data)
            if self._encoding is not None and is_compressible(CONTENT_TYPE, self.size):
                data = compress(data, self._encoding)
            self._answer, self.data, self._head_for = answer, data, ()
        return True

    def head(self, origin: str | None, allowed: list[str] | str) -> bytes:
        """Status line and headers of the answer to a page of `origin`. `allowed`: origins."""
        if self._head_for != (origin, allowed):
            headers = {"content-type": CONTENT_TYPE, "content-length": str(len(self.data))}
            compressible = is_compressible(CONTENT_TYPE, self.size)
            headers |= variant_headers(self._encoding, origin, allowed, compressible=compressible)
            if self.route == "/":
                headers["Vary"] = ", ".join(filter(None, [headers.get("Vary"), "Accept"]))
            self._head, self._head_for = _head(200, headers), (origin, allowed)
        return self._head


class Asked(NamedTuple):
    """What the head of a request asks for."""

    target: str
    body: Body
    encoding: Encoding | None
    origin: str | None
    is_open: bool  # to everybody
    is_probe: bool


class Early:
    def __init__(
        self,
        app: QuartTrio,
        connectors: Connectors,
        auth: Auth,
        *,
        origins: Origins,
        hosts: Hosts | None = None,
        root_path: str = "",
        engine: Engine | None = None,
        sinks: Sinks | None = None,
        counts: WebCounts | None = None,
    ) -> None:
        self._auth = auth
        self._counts = counts or WebCounts()
        self._hosts = hosts or Hosts()
        self._urls = app.url_map.bind("")
        self._connectors = connectors
        self._origins = origins
        self._root_path = root_path
        self._routes = {
            route.path: (held, route.query)
            for route in routes_below(root_path, engine, sinks)
            if (held := held_of(route)) is not None
        }
        self._asked: dict[bytes, Asked] = {}
        self._bodies: dict[tuple[str, Encoding | None], Body] = {}
        self._size = 0  # of all bodies

    def answer(self, data: bytes, seat: Seat | None = None, address: str = "") -> tuple[bytes, bytes] | None:
        """(status line and headers, body) for a request of which `data` is all; None: ask Quart.

        `seat`, `address`: of the connection and of who asks. The headers are not ended: the server adds its own and the
        empty line.
        """
        began = perf_counter()
        keys: tuple[str, ...] = ()
        asked = self._asked.get(data)
        is_new = False
        if asked is None:  # what is remembered has no key in it
            taken = take_from_head(data) if data.endswith(b"\n") else None
            if taken is None:
                return None
            data, keys = taken
            asked = self._asked.get(data) if keys else None
            if asked is None:
                asked, is_new = self._understand(data), True
                if asked is None:
                    return None
        account = self._account(asked, keys, seat, address)
        if account is None:
            return None
        body = asked.body
        before = len(body.data)
        if not body.update():
            return None
        grown = len(body.data) - before
        if grown or is_new:
            self._remember(data, asked, grown, is_new=is_new)
        limited = b""
        if keys or not account.is_exempt:  # only now: what Quart answers is charged by the gate
            try:
                if keys and seat is not None and not seat.is_proxy:
                    seat.take(account)
                if asked.is_probe:
                    account.spend()
                else:
                    account.request()
            except RateLimited as error:
                status, refused, told = refusal(error, account, asked.origin, self._origins.allowed)
                self._counts.answered(body.route, status, perf_counter() - began)
                return _head(status, refused), told
            if not account.is_exempt:
                account.sent(len(body.data))
                limited = _lines(account.headers())
        self._counts.answered(body.route, 200, perf_counter() - began)
        return body.head(asked.origin, self._origins.allowed) + limited, body.data

    def _remember(self, data: bytes, asked: Asked, grown: int, *, is_new: bool) -> None:
        """Only what can be answered is remembered: anybody can ask for what cannot."""
        self._size += grown
        if self._size > BODIES_MAX or (is_new and len(self._bodies) >= HEADS_MAX):
            self.forget()
        elif is_new:
            if len(self._asked) >= HEADS_MAX:  # heads that never repeat must not cost the answers
                self._asked.clear()
            self._asked[data] = asked
            self._bodies[asked.target, asked.encoding] = asked.body

    def forget(self) -> None:
        """Remember nothing: what may be answered is not what it was, such as which hosts are allowed."""
        self._asked, self._bodies, self._size = {}, {}, 0

    def _account(self, asked: Asked, keys: Sequence[str], seat: Seat | None, address: str) -> Account | None:
        """Whose a request is that may be made; None: let the gate look at it, which says why it may not."""
        auth = self._auth
        if keys and not asked.is_open:
            visit = auth.find(keys[0], address) if len(keys) == 1 else None
            return visit.account if visit is not None and (READ in visit.scopes or ADMIN in visit.scopes) else None
        if not asked.is_open and READ not in auth.anonymous:
            return None
        if seat is None or seat.is_proxy or seat.home.is_stale:
            return auth.clients.of_address(address)
        return seat.home

    def _understand(self, data: bytes) -> Asked | None:
        request = parse_head(data)
        if request is None or b"%" in request.target or b"+" in request.target:
            return None
        target = request.target.decode("ascii")
        path, _, query = target.partition("?")
        headers = {name: value.decode("latin1") for name, value in request.headers.items() if name in _HEEDED}
        if self._hosts.refusal(headers.get(b"host")) is not None:
            return None
        if path == "/" and prefers_html(headers.get(b"accept", "")):
            return None  # a page, where there is one
        encoding = choose_encoding(headers.get(b"accept-encoding", ""))
        body = self._bodies.get((target, encoding))
        if body is None:
            found = self._find(path, query)
            if found is None:
                return None
            body = Body(*found, encoding)
        path = path.removeprefix(self._root_path)
        return Asked(target, body, encoding, headers.get(b"origin"), scope_of(path) is None, path in PROBES)

    def _find(self, path: str, query: str) -> tuple[Callable[[], Any], str] | None:
        """What asks memory for an answer, and its route; None where no route does, or not with this query."""
        try:
            rule, where = self._urls.match(path, method="GET", websocket=False)
            held, kind = self._routes[rule]
            parsed = parse(MultiDict(parse_qsl(query, keep_blank_values=True)), kind)
        except (HTTPException, KeyError, InvalidParameters):
            return None
        if isinstance(parsed, TableQuery) and parsed.format != "json":
            return None
        return partial(held, self._connectors, parsed, **where), rule


def _head(status: int, headers: dict[str, str]) -> bytes:
    return f"HTTP/1.1 {status} \r\n".encode() + _lines(headers)


def _lines(headers: dict[str, str]) -> bytes:
    return "".join(f"{name.lower()}: {value}\r\n" for name, value in headers.items()).encode("latin1")
