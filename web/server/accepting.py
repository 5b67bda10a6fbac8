"""Which connections are begun at all. No task is made for one that is refused, and a lack of descriptors is survived.

One that is refused is told so where that costs nothing: what it asked is thrown away unread, and the socket is closed a
moment later, since closing it at once would reset it and the reset might overtake the answer.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf

import structlog
import trio

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
Listener = trio.abc.Listener[trio.SocketStream] | trio.abc.Listener[trio.SSLStream[trio.SocketStream]]

LINGER = 1.0  # seconds that one that was refused has to read why
LINGERING = 16  # of them at a time: beyond, the oldest is closed
PAUSE = 0.1  # seconds before it is tried again where the system lacks something
REMIND = 60.0  # seconds between two lines about it

_RECEIVE_BYTES = 64 << 10
_LACKING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}

log = structlog.get_logger()


def refusal(status: str, retry_after: int, kind: str = "", body: bytes = b"") -> bytes:
    """A whole answer, to be said before anything was asked."""
    about = f"content-type: {kind}\r\n" if kind else ""
    head = f"HTTP/1.1 {status}\r\nretry-after: {retry_after}\r\n{about}content-length: {len(body)}\r\n"
    return f"{head}connection: close\r\n\r\n".encode() + body


class Refused:
    """Connections that were told why they are not served, until they are closed."""

    def __init__(self) -> None:
        self._told: deque[tuple[float, trio.socket.SocketType]] = deque()
        self._woken = trio.Event()

    def tell(self, stream: Stream, answer: bytes) -> None:
        """Answer at once and close soon. Whoever expects TLS could not read it, and is only closed."""
        if isinstance(stream, trio.SSLStream):
            stream.transport_stream.socket.close()
            return
        sock = stream.socket
        with suppress(OSError):
            _discard(sock)
            os.write(sock.fileno(), answer)
            sock.shutdown(socket.SHUT_WR)
        self._told.append((trio.current_time() + LINGER, sock))
        if len(self._told) > LINGERING:
            self._close_oldest()
        self._woken.set()

    async def run(self) -> None:
        """Close them in time, until it is cancelled; then all."""
        try:
            while True:
                await self._woken.wait()
                self._woken = trio.Event()
                while self._told:
                    await trio.sleep_until(self._told[0][0])
                    while self._told and self._told[0][0] <= trio.current_time():
                        self._close_oldest()
        finally:
            while self._told:
                self._close_oldest()

    def _close_oldest(self) -> None:
        _, sock = self._told.popleft()
        with suppress(OSError):
            _discard(sock)
        sock.close()


def _discard(sock: trio.socket.SocketType) -> None:
    """What was sent already; unread, it would make closing a reset. Raises OSError where the peer is gone."""
    with suppress(BlockingIOError):
        os.read(sock.fileno(), _RECEIVE_BYTES)


async def accept_all(
    listener: Listener,
    begin: Callable[[Stream], None],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Hand every connection to `begin`, a plain function that never raises. Raises OSError where the listener fails."""
    spare = _Spare()
    task_status.started()
    quiet_until = -inf
    try:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _LACKING:
                    raise
                now = trio.current_time()
                if now >= quiet_until:
                    quiet_until = now + REMIND
                    log.error("web.accept_failed", reason=error.strerror, detail="new clients are turned away")
                turned_up = await spare.turn_away(listener)
                if turned_up is not None:
                    begin(turned_up)
            else:
                begin(stream)
    finally:
        spare.close()


class _Spare:
    """A descriptor kept for the time when there are none: with it, those who knock can be turned away.

    Otherwise they would hang in the kernel's queue, and the listener, always readable, would take a whole core.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._open()

    async def turn_away(self, listener: Listener) -> Stream | None:
        """Accept one connection and close it, unless there are descriptors again."""
        if self._fd < 0:
            await trio.sleep(PAUSE)
        self.close()
        with trio.move_on_after(PAUSE), suppress(OSError):
            stream = await listener.accept()
            self._open()
            if self._fd >= 0:
                return stream
            await trio.aclose_forcefully(stream)
        self._open()
        return None

    def _open(self) -> None:
        with suppress(OSError):
            self._fd = os.open(os.devnull, os.O_RDONLY)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
