"""What is known of one stream, for as long as anybody follows it. No I/O."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

NEWS_KEPT = 500  # frames since a snapshot


class Memory(Protocol):
    def take(self, frame: bytes) -> bytes | None:
        """What a frame tells those who follow already; None: nothing new."""
        ...

    def greeting(self) -> Sequence[bytes]:
        """What a newcomer is told at once."""
        ...


class Nothing:
    """Of a stream that begins with what comes next."""

    def take(self, frame: bytes) -> bytes | None:
        return frame

    def greeting(self) -> Sequence[bytes]:
        return ()


class Latest:
    """Of a stream whose newest frame is its whole state."""

    def __init__(self) -> None:
        self._frame: bytes | None = None

    def take(self, frame: bytes) -> bytes | None:
        self._frame = frame
        return frame

    def greeting(self) -> Sequence[bytes]:
        return () if self._frame is None else (self._frame,)


class Replayed:
    """Of a stream that begins with a snapshot, and whose news say what came since: a newcomer is told both again."""

    def __init__(self, is_snapshot: Callable[[bytes], bool]) -> None:
        self._is_snapshot = is_snapshot
        self._snapshot: bytes | None = None
        self._news: deque[bytes] = deque(maxlen=NEWS_KEPT)

    def take(self, frame: bytes) -> bytes | None:
        if self._is_snapshot(frame):
            self._snapshot = frame
            self._news.clear()
        else:
            self._news.append(frame)
        return frame

    def greeting(self) -> Sequence[bytes]:
        return () if self._snapshot is None else (self._snapshot, *self._news)
