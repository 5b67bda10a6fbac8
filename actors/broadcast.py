"""One writer, many bounded readers, nobody waits.

`publish` never blocks: a reader whose channel is full is ended there and then, told so by `Lagged`, and counted.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

import trio

from actors.inbox import Inbox

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Lagged(Exception):
    """The reader fell too far behind its writer and was ended."""


class Reader(Generic[T_co]):
    """One consumer's bounded memory channel, to be closed by `with`. Raises Lagged once it was ended for lag."""

    def __init__(self, broadcast: "Broadcast[T_co]", inbox: Inbox[T_co]) -> None:
        self._broadcast = broadcast
        self._inbox = inbox
        self.lagged = False

    def __enter__(self) -> "Reader[T_co]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def given(self) -> int:
        """Items published to this reader so far, received or not."""
        return self._inbox.given

    def __len__(self) -> int:
        """Items that wait."""
        return self._inbox.given - self._inbox.taken

    def close(self) -> None:
        self._inbox.close()  # first: whoever waits on it is told that it is closed, not that it lagged
        self._broadcast.forget(self)

    async def wait(self, take: Callable[[], bool]) -> None:
        """As `Inbox.wait`. Raises Lagged once all is taken that was published before."""
        try:
            await self._inbox.wait(take)
        except trio.EndOfChannel:
            raise Lagged from None

    async def receive(self) -> T_co:
        """The next item, in the order of publishing."""
        await self.wait(_leave)
        return self.receive_nowait()

    def receive_nowait(self) -> T_co:
        """The next item already published; trio.WouldBlock if there is none."""
        try:
            return self._inbox.take()
        except trio.EndOfChannel:
            raise Lagged from None


def _leave() -> bool:
    """The owner takes it."""
    return False


class Broadcast(Generic[T]):
    """Hands every published item to every reader that is open at that moment, in order."""

    def __init__(self) -> None:
        self._readers: dict[Reader[T], Inbox[T]] = {}
        self.lagged = 0  # readers ended for lag since the start

    def __len__(self) -> int:
        return len(self._readers)

    def subscribe(self, capacity: int) -> Reader[T]:
        """A reader that holds up to `capacity` unread items."""
        inbox = Inbox[T](capacity)
        reader = Reader(self, inbox)
        self._readers[reader] = inbox
        return reader

    def forget(self, reader: Reader[T]) -> None:
        inbox = self._readers.pop(reader, None)
        if inbox is not None:
            inbox.end()

    def publish(self, item: T) -> None:
        full: list[Reader[T]] = []
        for reader, inbox in self._readers.items():
            try:
                inbox.put(item)
            except trio.WouldBlock:
                full.append(reader)
        for reader in full:
            self.lagged += 1
            reader.lagged = True
            self.forget(reader)
