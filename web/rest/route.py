"""A REST route: what it takes and answers, for the app that serves it and OpenAPI; and whom a request is about."""

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any, NamedTuple

from msgspec import Struct

from actors.archive.archive import Archive
from actors.errors import UnknownExchange
from web.connectors import AnyConnector, Connectors


class Answer(NamedTuple):
    """A body with a status of its own."""

    body: Struct
    status: int


Handler = Callable[..., Awaitable[Any] | Any]
"""(connectors, query, **path parameters) -> what is encoded as the answer, or an Answer.

A plain function where memory has the answer always.
"""

Held = Callable[..., Any]
"""The same from memory alone, without waiting: None where only the handler can tell."""


class Route(NamedTuple):
    path: str
    handler: Handler
    query: type[Struct]
    answer: Any
    tag: str
    summary: str
    held: Held | None = None  # of a handler that may wait


def held_of(route: Route) -> Held | None:
    """What answers a route from memory alone; None where nothing does."""
    return route.held or (None if iscoroutinefunction(route.handler) else route.handler)


def connector_of(connectors: Connectors, exchange: str) -> AnyConnector:
    try:
        return connectors[exchange.lower()]
    except KeyError:
        known = ", ".join(connectors)
        raise UnknownExchange(f"there is no exchange {exchange[:60]!r} here; known: {known}") from None


def archive_of(connectors: Connectors) -> Archive | None:
    """The archive that all of them share; None where it is switched off."""
    return next((connector.archive for connector in connectors.values()), None)
