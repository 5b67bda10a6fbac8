"""One writer, many bounded readers, nobody waits.

`publish` never blocks: a reader whose channel is full is ended there and then, told so by `Lagged`, and counted.
"""

from typing import Generic, TypeVar

import trio

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Lagged(Exception):
    """The reader fell too far behind its writer and was ended."""


class Reader(Generic[T_co]):
    """One consumer's bounded memory channel, to be closed by `with`. Raises Lagged once it was ended for lag."""

    def __init__(self, broadcast: "Broadcast[T_co]", channel: trio.MemoryReceiveChannel[T_co]) -> None:
        self._broadcast = broadcast
        self._channel = channel
        self.lagged = False
        self.given = 0  # items published to this reader so far, received or not

    def __enter__(self) -> "Reader[T_co]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()  # first: whoever waits on it is told that it is closed, not that it lagged
        self._broadcast.forget(self)

    async def receive(self) -> T_co:
        """The next item, in the order of publishing."""
        try:
            return await self._channel.receive()
        except trio.EndOfChannel:
            raise Lagged from None

    def receive_nowait(self) -> T_co:
        """The next item already published; trio.WouldBlock if there is none."""
        try:
            return self._channel.receive_nowait()
        except trio.EndOfChannel:
            raise Lagged from None


class Broadcast(Generic[T]):
    """Hands every published item to every reader that is open at that moment, in order."""

    def __init__(self) -> None:
        self._readers: dict[Reader[T], trio.MemorySendChannel[T]] = {}
        self.lagged = 0  # readers ended for lag since the start

    def __len__(self) -> int:
        return len(self._readers)

    def subscribe(self, capacity: int) -> Reader[T]:
        """A reader that holds up to `capacity` unread items."""
        send, receive = trio.open_memory_channel[T](capacity)
        reader = Reader(self, receive)
        self._readers[reader] = send
        return reader

    def forget(self, reader: Reader[T]) -> None:
        channel = self._readers.pop(reader, None)
        if channel is not None:
            channel.close()

    def publish(self, item: T) -> None:
        full: list[Reader[T]] = []
        for reader, channel in self._readers.items():
            try:
                channel.send_nowait(item)
                reader.given += 1
            except trio.WouldBlock:
                full.append(reader)
        for reader in full:
            self.lagged += 1
            reader.lagged = True
            self.forget(reader)
