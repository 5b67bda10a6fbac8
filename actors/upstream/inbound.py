"""Takes whole text messages off a WebSocket's bytes before trio-websocket sees them; all else goes on to it.

Nearly all that an exchange sends is unfragmented text, and parsing it in wsproto's generality costs more than all the
rest of its way through this program. The handshake, control frames, fragments and anything unusual are left to the
library, byte for byte. `Splitter` does no I/O; `InboundStream` is the stream that trio-websocket is given.

Whoever listens is told in a plain call, by the library's own task that reads the stream: another task would cost each
frame that comes alone two more turns of the scheduler.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

import trio

from actors import clock, turns

TEXT = 0x81  # a final text frame without reserved bits
HEAD_MAX = 64 << 10  # bytes of a handshake's answer
FRAME = 300  # bytes, about

Heard = Callable[[Sequence[bytes | str], datetime], None]
"""(messages that came together, at least one; when they were taken by this machine's clock): what a listener is told.

Must not wait. Text is UTF-8 not yet judged, or what the library made of fragments and binary frames."""


class Splitter:
    """The bytes of one connection, from the handshake's answer on."""

    def __init__(self, message_max: int) -> None:
        self._message_max = message_max
        self._buffer = bytearray()
        self._in_frames = False  # the answer to the handshake has passed
        self._passes_all = False  # nothing is taken any more: the library will know what to say

    def feed(self, data: bytes | bytearray) -> tuple[list[bytes], bytes]:
        """(whole text messages, bytes for the library) of what has arrived so far."""
        buffer = self._buffer
        buffer += data
        at = 0
        passed = bytearray()
        if not self._in_frames and not self._passes_all:
            end = buffer.find(b"\r\n\r\n") + 4
            if end < 4 and len(buffer) <= HEAD_MAX:
                return [], b""
            self._in_frames = end >= 4 and buffer[:12].endswith(b" 101")
            self._passes_all = not self._in_frames
            at = max(end, 0) if self._in_frames else 0
            passed += buffer[:at]
        texts: list[bytes] = []
        while not self._passes_all:
            frame = self._measure(at)
            if frame is None:
                break
            begin, end = frame
            if buffer[at] == TEXT and not buffer[at + 1] & 0x80:
                texts.append(bytes(buffer[begin:end]))
            else:
                passed += buffer[at:end]
            at = end
        if self._passes_all:
            passed += buffer[at:]
            at = len(buffer)
        del buffer[:at]
        return texts, bytes(passed)

    def _measure(self, at: int) -> tuple[int, int] | None:
        """Where the payload of the frame at `at` begins and ends; None while it is not all there."""
        buffer = self._buffer
        if len(buffer) - at < 2:
            return None
        length = buffer[at + 1] & 0x7F
        begin = at + 2
        if length >= 126:
            begin += 2 if length == 126 else 8
            if len(buffer) < begin:
                return None
            length = int.from_bytes(buffer[at + 2 : begin], "big")
        if buffer[at + 1] & 0x80:  # masked, which a server may not: its key belongs to the header
            begin += 4
        if length > self._message_max:
            self._passes_all = True
            return None
        return (begin, begin + length) if len(buffer) >= begin + length else None


class InboundStream(trio.abc.Stream):
    """A stream without its text messages, which whoever listens is told, those of one read together.

    What the listener raises comes out of `receive_some`, and so ends the connection and the nursery of its tasks.
    `ended` is set when nothing more can come.

    trio-websocket goes on waiting for a handshake that can no longer come: whoever waits with it watches `ended`.
    """

    def __init__(self, stream: trio.abc.Stream, message_max: int) -> None:
        self._stream = stream
        self._splitter = Splitter(message_max)
        self._early: list[tuple[Sequence[bytes | str], datetime]] = []  # what came before somebody listened
        self._heard: Heard = lambda *told: self._early.append(told)
        self.ended = trio.Event()

    def listen(self, heard: Heard) -> None:
        """Tell what has come already, and from now on what comes."""
        self._heard = heard
        early, self._early = self._early, []
        for told in early:
            heard(*told)

    def tell(self, messages: Sequence[bytes | str]) -> None:
        """Of messages that the library made."""
        self._heard(messages, clock.now())

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            try:
                data = await self._stream.receive_some(max_bytes)
            except trio.BrokenResourceError:
                self.ended.set()
                raise
            if not data:
                self.ended.set()
                return b""
            await turns.room(1 + len(data) // FRAME)  # not before: all sockets may have something to read at once
            texts, passed = self._splitter.feed(data)
            if texts:
                self._heard(texts, clock.now())
            if passed:
                return passed

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            self.ended.set()
            raise

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
