"""Who listens to which stream of a simulated exchange; a stream lives from its first subscriber to its last."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from actors.simulation.server import Connection

S = TypeVar("S")


class Subscribers(Generic[S]):
    def __init__(self) -> None:
        self._streams: dict[str, tuple[S, dict[Connection, None]]] = {}

    def get(self, name: str) -> S | None:
        """A stream that somebody listens to."""
        found = self._streams.get(name)
        return found[0] if found else None

    def join(self, connection: Connection, name: str, make: Callable[[], S | None]) -> S | None:
        """The stream of that name, made where nobody listens to it yet; None where `make` knows none."""
        if name not in self._streams:
            stream = make()
            if stream is None:
                return None
            self._streams[name] = stream, {}
        stream, subscribers = self._streams[name]
        subscribers[connection] = None
        return stream

    def leave(self, connection: Connection, name: str) -> None:
        if name in self._streams:
            _, subscribers = self._streams[name]
            subscribers.pop(connection, None)
            if not subscribers:
                del self._streams[name]

    def __iter__(self) -> Iterator[tuple[str, S, list[Connection]]]:
        """Every stream and its subscribers as they are now."""
        for name, (stream, subscribers) in list(self._streams.items()):
            yield name, stream, list(subscribers)
