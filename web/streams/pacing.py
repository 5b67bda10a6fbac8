"""Less for clients that cannot use everything: fewer updates of a bar, or many events in one frame. No sockets here."""

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import trio

from actors.events import Ohlc
from web.server.outbox import Outbox, payloads_of, text_frame
from web.streams.memory import Encoded

CAPACITY = 1 << 20  # bytes that may wait to be joined; more are sent before their time


class Conflater:
    """Of the updates of a bar, the latest per period of time; whatever closes a bar, and all else, at once."""

    def __init__(self, max_rate: float) -> None:
        self._period = 1 / max_rate  # seconds
        self._told_at = -inf
        self._waiting: Encoded | None = None

    @property
    def due(self) -> float:
        """When what waits is to be told."""
        return inf if self._waiting is None else self._told_at + self._period

    def take(self, update: Encoded, now: float) -> list[Encoded]:
        """What is to be told now."""
        said: Any = update.said
        if said.type != Ohlc.type:
            return [*self.flush(now), update]
        if now < self._told_at + self._period and not said.is_closed:
            self._waiting = update
            return []
        self._waiting = None  # an older update of this bar, if any: every update carries the whole bar
        self._told_at = now
        return [update]

    def drop(self) -> None:
        """What waits belongs to a past that is not continued."""
        self._waiting = None

    def flush(self, now: float) -> list[Encoded]:
        """What waits, before its time."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return []
        self._told_at = now
        return [waiting]


class Batcher:
    """An outbox whose frames are joined: what comes within `seconds` of the first leaves as one JSON array."""

    def __init__(self, outbox: Outbox, seconds: float, start_soon: Callable[..., object]) -> None:
        self._outbox = outbox
        self._seconds = seconds
        self._start_soon = start_soon
        self._texts: list[bytes] = []
        self._size = 0

    def send(self, frames: bytes) -> None:
        """As Outbox.send, later."""
        for text in payloads_of(frames):
            if self._outbox.closed:
                return
            if not self._texts:
                self._start_soon(self._flush_later)
            self._texts.append(text)
            self._size += len(text)
            if self._size > CAPACITY:
                self._flush()

    async def write_texts(self, texts: Sequence[bytes]) -> None:
        """As Outbox.write_texts: what waits leaves first, and these as one array."""
        self._flush()
        await self._outbox.write_texts([_array(texts)])

    def close(self, code: int, reason: str = "") -> None:
        self._flush()
        self._outbox.close(code, reason)

    async def _flush_later(self) -> None:
        await trio.sleep(self._seconds)
        self._flush()

    def _flush(self) -> None:
        texts, self._texts, self._size = self._texts, [], 0
        if texts:
            self._outbox.send(text_frame(_array(texts)))


def _array(texts: Sequence[bytes]) -> bytes:
    return b"[%b]" % b",".join(texts)
