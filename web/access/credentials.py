"""Keys on their way in: taken out of a request before any other code sees it, and nowhere looked at.

Law: what comes out of here holds no key: not the headers, not the query, not the bytes of a head.
"""

import re
from collections.abc import MutableMapping
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from web.problems import BadParameter, InvalidParameters

PROTOCOL, KEY_PROTOCOL = "marketd", "marketd.key."
"""Subprotocols of a WebSocket: what is selected, and what a key stands behind."""
TOKEN = "token"
_KEY_LINE = re.compile(rb"\n(?:(authorization)|x-api-key):([^\n]*)", re.IGNORECASE)

Scope = MutableMapping[str, Any]


class Given(NamedTuple):
    """`keys`: the different ones, as they came. `subprotocol`: to be selected."""

    keys: tuple[str, ...]
    subprotocol: str | None = None
    is_misplaced: bool = False  # a token is in the query of something that takes none


def take_credentials(scope: Scope, *, token_in_query: bool) -> Given:
    """Take the keys out of an ASGI scope. `token_in_query`: whether `?token=` of a stream is one; elsewhere it is none,
    and gone all the same."""
    keys: dict[str, None] = {}
    headers, subprotocol = [], None
    for header in scope["headers"]:
        name, value = header
        if name == b"authorization":
            if (key := _bearer(value)) is not None:
                keys[key] = None
        elif name == b"x-api-key":
            keys[value.strip().decode("latin1")] = None
        elif name == b"sec-websocket-protocol" and scope["type"] == "websocket":
            offered = [part.strip() for part in value.decode("latin1").split(",")]
            keys |= dict.fromkeys(part[len(KEY_PROTOCOL) :] for part in offered if part.startswith(KEY_PROTOCOL))
            others = [part for part in offered if not part.startswith(KEY_PROTOCOL)]
            subprotocol = PROTOCOL if PROTOCOL in others else subprotocol
            headers.append((name, ", ".join(others).encode("latin1")))
        else:
            headers.append(header)
    scope["headers"] = headers
    if "subprotocols" in scope:
        scope["subprotocols"] = [part for part in scope["subprotocols"] if not part.startswith(KEY_PROTOCOL)]
    query = scope["query_string"]
    tokens: list[bytes] = []
    if b"token" in query or b"%" in query:
        pairs = query.split(b"&")
        tokens = [pair for pair in pairs if _names_token(pair)]
        scope["query_string"] = b"&".join(pair for pair in pairs if pair not in tokens)
    if not (token_in_query and is_stream(scope["path"])):
        return Given(tuple(keys), subprotocol, is_misplaced=bool(tokens))
    keys |= {unquote_plus(pair.partition(b"=")[2].decode("latin1")): None for pair in tokens}
    return Given(tuple(keys), subprotocol)


def misplaced() -> InvalidParameters:
    """What is told of a token where none is taken: a proxy may have logged it."""
    return InvalidParameters([BadParameter(TOKEN, "a key is not taken from this query; give it as a header")])


def is_stream(path: str) -> bool:
    return path == "/sse" or path == "/ws" or path.startswith("/ws/")


def take_from_head(data: bytes) -> tuple[bytes, tuple[str, ...]] | None:
    """A request's head, which ends with a line's end, without its keys; and these.

    None: it is spelled in a way that is not worth understanding.
    """
    found = _KEY_LINE.search(data)
    if found is None:
        return data, ()
    if b"\n " in data or b"\n\t" in data:  # a header that goes on in the next line
        return None
    keys: dict[str, None] = {}
    while found is not None:
        is_bearer, value = found.groups()
        key = _bearer(value) if is_bearer else value.strip().decode("latin1")
        if key is not None:
            keys[key] = None
        data = data[: found.start()] + data[found.end() :]
        found = _KEY_LINE.search(data, found.start())
    return data, tuple(keys)


def _bearer(value: bytes) -> str | None:
    """The key of an Authorization header; None where it speaks of something else, such as a proxy's own password."""
    scheme, space, rest = value.strip().decode("latin1").partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    return None if space else scheme


def _names_token(pair: bytes) -> bool:
    return unquote_plus(pair.partition(b"=")[0].decode("latin1")) == TOKEN
