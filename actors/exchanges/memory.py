"""What is known of one stream, for as long as anybody follows it. No I/O."""

from collections.abc import Sequence
from typing import Protocol


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
