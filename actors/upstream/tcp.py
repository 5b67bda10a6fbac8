"""A TCP stream that is read when there is something to read.

Trio's own asks the kernel first and waits when it is told that there is nothing, which is so behind every frame that
comes alone: an exception, a call of the kernel and, where there was something, a pass of the scheduler more.
"""

import os

import trio

RECEIVE = 64 << 10  # bytes


class Tcp(trio.abc.Stream):
    """`stream`, for one task that reads. Raises what it raises."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._socket = stream.socket

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while (number := self._socket.fileno()) >= 0:
            await trio.lowlevel.wait_readable(number)  # which raises where the socket is closed meanwhile
            if self._socket.fileno() != number:  # closed after that: the number may be another file's
                break
            try:
                return os.read(number, max_bytes or RECEIVE)
            except BlockingIOError:
                continue  # it was a false alarm
            except OSError as error:
                raise trio.BrokenResourceError(f"socket connection broken: {error}") from error
        raise trio.ClosedResourceError("this stream was closed")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
