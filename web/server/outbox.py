"""One client's bounded way out: every byte that leaves a connection goes through here.

Law: `send`, `close` and `finish` are plain functions that never block and never raise. While nothing
is pending they write straight to the socket; what the socket does not take waits in a bounded buffer
that one task flushes, and that task exists only while something is pending. A peer that accepts no
byte for `write_deadline`, or lets more than `capacity` bytes pile up, is cut off. Nothing here knows
HTTP, and of WebSocket only how a server's text and close frames are spelled.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from math import inf

import trio

LINGER = 1.0
"""Seconds that a finished connection is still read (and the bytes discarded): closing a socket that
holds unread bytes resets it, and the reset would overtake the close frame on its way to the peer.
So long at most the peer's own close frame is waited for, too (RFC 6455 7.1.1): one whose connection
ends before it has answered tells its program 1006 instead of the code that it was sent."""

_CHUNK = 64 << 10  # bytes handed to TLS at once; each such piece has its own deadline
_WRITEV_FRAMES = 512  # below Linux's IOV_MAX of 1024

GOING_AWAY, NO_CODE, TRY_AGAIN_LATER = 1001, 1005, 1013
_LOCAL_CODES = {NO_CODE, 1006, 1015}  # never sent; RFC 6455 7.4.1


def text_frame(payload: bytes) -> bytes:
    """One unmasked final WebSocket text frame, server to client; `payload` is UTF-8."""
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", 0x81, size) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", 0x81, 126, size) + payload
    return struct.pack("!BBQ", 0x81, 127, size) + payload


def joined_frame(first: bytes, second: bytes, third: bytes) -> bytes:
    """`text_frame` of three parts in a row, copied once."""
    size = len(first) + len(second) + len(third)
    if 126 <= size < 1 << 16:
        return b"".join((b"\x81\x7e", size.to_bytes(2, "big"), first, second, third))
    return text_frame(first + second + third)


def payloads_of(frames: bytes) -> Iterator[bytes]:
    """What `text_frame` framed, once or several times in a row."""
    at = 0
    while at < len(frames):
        size, begin = frames[at + 1], at + 2
        if size >= 126:
            begin += 2 if size == 126 else 8
            size = int.from_bytes(frames[at + 2 : begin], "big")
        at = begin + size
        yield frames[begin:at]


def close_frame(code: int, reason: str = "") -> bytes:
    """A WebSocket close frame; empty for codes that may not be sent, the reason cut to 123 bytes."""
    if code in _LOCAL_CODES:
        return b"\x88\x00"
    text = reason.encode(errors="replace")[:123].decode(errors="ignore").encode()  # no half character at the cut
    return struct.pack("!BBH", 0x88, 2 + len(text), code) + text


class Outbox:
    """The way out of one connection, plain or TLS.

    `nursery` is the connection's own: the flusher runs in it, and its cancel scope is how the
    connection is made to end. It must stay open until `end` has been called.
    """

    __slots__ = (
        "_capacity",
        "_direct",
        "_flush_by",
        "_flushing",
        "_nursery",
        "_partial",
        "_pending",
        "_progress",
        "_queued",
        "_size",
        "_socket",
        "_tls",
        "_write",
        "_write_deadline",
        "closed",
        "cut",
        "finished",
        "unanswered",
    )

    def __init__(
        self,
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream],
        nursery: trio.Nursery,
        *,
        write_deadline: float = 5.0,
        capacity: int = 1 << 20,
    ) -> None:
        self.closed = True  # no frames are accepted: not before `open`, and not after the end
        self.finished = False  # no bytes at all are accepted any more
        self.unanswered = False  # a close frame was sent, and the peer's is still to come
        self.cut = ""  # why this client was cut off; empty while it was not
        self._tls = stream if isinstance(stream, trio.SSLStream) else None
        transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        self._socket = transport.socket
        # The plain socket's own, which Trio's does not have. Once the socket is closed it fails: a descriptor's number
        # may be another file's by then.
        self._write: Callable[[bytes], int] = self._socket._sock.send  # type: ignore[attr-defined]
        self._nursery = nursery
        self._write_deadline = write_deadline
        self._capacity = capacity
        self._pending: deque[bytes | memoryview] = deque()
        self._partial = False  # the first pending item is the rest of a frame already begun
        self._size = 0  # bytes pending
        self._queued = 0  # bytes ever pending; the difference is what has left
        self._progress = trio.lowlevel.ParkingLot()
        self._flushing = False
        self._direct = self._tls is None  # a frame may go straight to the socket
        self._flush_by = inf  # when the last byte must have left, once finished

    @property
    def pending(self) -> int:
        """Bytes accepted here that the socket has not taken yet."""
        return self._size

    def open(self) -> None:
        """The WebSocket handshake is written: frames may follow."""
        self.closed = self.finished

    def send(self, frames: bytes) -> None:
        """Send one or several whole WebSocket frames; does nothing once closed."""
        if self.closed:
            return
        if self._direct:  # here and not in a function of its own: this is what a delivery costs
            try:
                sent = self._write(frames)
            except BlockingIOError:
                sent = 0
            except OSError:  # the peer is gone; the reader finds out too and tells the app
                self.end()
                return
            if sent < len(frames):
                self._queue_from(frames, sent)
        elif self._size and self._size + len(frames) > self._capacity:
            self._overflow()
        else:
            self._queue(frames)

    def close(self, code: int, reason: str = "") -> None:
        """Queue a close frame after what is pending; the connection ends once it is `answered`, or soon without.

        On a connection that is not an open WebSocket there is no frame to send; it just ends.
        """
        if not self.closed:
            self.unanswered = True
            self._put(close_frame(code, reason))
        self.finish()

    def answered(self) -> None:
        """The peer's close frame came: once everything pending has left, it sees the end."""
        if self.unanswered:
            self.unanswered = False
            if not self._flushing:
                self._shut_down()

    async def write(self, data: bytes) -> None:
        """Send bytes of the HTTP server; returns when the socket has taken them or never will.

        Never raises but for cancellation, after which the bytes still leave in order.
        """
        if not self.finished:
            self._put(data)
            mark = self._queued
            while self._queued - self._size < mark:
                await self._progress.park()
        await trio.lowlevel.checkpoint()

    async def write_texts(self, texts: Sequence[bytes]) -> None:
        """Send one text frame each, as `write` does: waits for a client that reads slowly."""
        if not self.closed:
            await self.write(b"".join(map(text_frame, texts)))

    def finish(self) -> None:
        """Accept nothing more; once everything pending has left, the peer sees the end."""
        if self.finished:
            return
        self.closed = self.finished = True
        self._flush_by = trio.current_time() + self._write_deadline
        if not self._flushing:
            self._shut_down()

    def end(self) -> None:
        """The connection is over: forget what is pending, and let its tasks end within `LINGER`."""
        self.closed = self.finished = True
        self._forget_pending()
        self._progress.unpark_all()
        self._end_within(LINGER)

    def abort(self, reason: str) -> None:
        """Cut the client off now, with a reset: the kernel must not keep its unread bytes either."""
        self.cut = self.cut or reason
        with suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.end()
        self._nursery.cancel_scope.cancel()

    def _put(self, data: bytes) -> None:
        if not self._direct:
            self._queue(data)
            return
        try:
            sent = self._write(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.end()
            return
        self._queue_from(data, sent)

    def _queue_from(self, data: bytes, sent: int) -> None:
        """What the socket did not take of it."""
        if sent < len(data):
            self._partial = sent > 0
            self._queue(memoryview(data)[sent:] if sent else data)

    def _queue(self, data: bytes | memoryview) -> None:
        if not data:
            return
        self._pending.append(data)
        self._size += len(data)
        self._queued += len(data)
        if not self._flushing:
            self._flushing = True
            self._direct = False
            self._nursery.start_soon(self._flush)

    def _overflow(self) -> None:
        """Keep only the rest of a frame already begun, so that the close frame can be read."""
        self.cut = "fell behind"
        begun = self._pending[0] if self._partial else None
        self._forget_pending()
        if begun is not None:
            self._partial = True
            self._queue(begun)
        self.close(TRY_AGAIN_LATER, "too slow")

    async def _flush(self) -> None:
        deadline = trio.current_time() + self._write_deadline
        try:
            while self._pending:
                with trio.CancelScope(deadline=min(deadline, self._flush_by)) as scope:
                    if await self._write_some():
                        deadline = trio.current_time() + self._write_deadline
                if scope.cancelled_caught:
                    self.abort("accepts no bytes")
                self._progress.unpark_all()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            self.end()
        finally:
            self._flushing = False
            self._direct = self._tls is None
        if self.finished:
            self._shut_down()

    async def _write_some(self) -> int:
        """Wait until the peer takes some bytes; returns how many it took."""
        if self._tls is not None:
            chunk = self._take_chunk()
            await self._tls.send_all(chunk)
            return len(chunk)
        await trio.lowlevel.wait_writable(self._socket)
        try:
            sent = os.writev(self._socket.fileno(), list(islice(self._pending, _WRITEV_FRAMES)))
        except BlockingIOError:
            return 0
        self._drop_sent(sent)
        return sent

    def _take_chunk(self) -> bytearray:
        # Taken before it is sent: a TLS record cannot be unsent, so `_overflow` may not drop it.
        chunk = bytearray()
        for item in self._pending:
            chunk += item[: _CHUNK - len(chunk)]
            if len(chunk) == _CHUNK:
                break
        self._drop_sent(len(chunk))
        return chunk

    def _drop_sent(self, sent: int) -> None:
        self._size -= sent
        while sent:
            head = self._pending[0]
            if sent < len(head):
                self._pending[0] = memoryview(head)[sent:]
                self._partial = True
                return
            sent -= len(head)
            self._pending.popleft()
            self._partial = False

    def _forget_pending(self) -> None:
        self._pending.clear()
        self._partial = False
        self._size = 0

    def _shut_down(self) -> None:
        if not self.unanswered:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
        self._end_within(LINGER)

    def _end_within(self, seconds: float) -> None:
        scope = self._nursery.cancel_scope
        scope.deadline = min(scope.deadline, trio.current_time() + seconds)
