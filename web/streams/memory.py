"""What was said of a topic, remembered for clients that may come back. Nothing here knows clients or sources.

Events are numbered: `seq` counts up by one within an `epoch`, which is one run of a topic's memory. Gaps and changes of
state are remembered in their places, but have no number.
"""

from bisect import bisect_right
from collections import deque
from datetime import datetime
from itertools import count
from typing import NamedTuple

import msgspec
import trio

from actors import clock

_numbers = count()


class Memory(NamedTuple):
    """How much of each topic is remembered for clients that come back."""

    frames: int = 5_000
    seconds: float = 300.0


class Position(msgspec.Struct, frozen=True):
    """The last numbered event that a client had of a topic."""

    epoch: str
    seq: int


class Remembered(NamedTuple):
    """What was said, as numbered JSON. `place` orders it: (seq, 0) for an event, (seq of the one before, 1) else."""

    place: tuple[int, int]
    at: float
    text: bytes


class Forgotten(Exception):
    """What a client would have to be told next is no longer remembered."""


class Ring:
    """The recent things said, each at its cursor: they count up by one from the first one that was kept."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._said: deque[Remembered] = deque()
        self._first = 0  # the cursor of the first entry
        self._forgot = (0, 0)  # the place of the last one that fell out
        self.bytes = 0  # of what is remembered

    @property
    def cursor(self) -> int:
        """Where what is said next will be."""
        return self._first + len(self._said)

    def keep(self, place: tuple[int, int], text: bytes) -> None:
        self._said.append(Remembered(place, trio.current_time(), text))
        self.bytes += len(text)
        if len(self._said) > self._memory.frames or self._said[0].at < self._said[-1].at - self._memory.seconds:
            self._forget()

    def after(self, seq: int) -> int | None:
        """The cursor of what came after an event; None where that is not all remembered."""
        self._forget()
        if (seq, 0) < self._forgot:
            return None
        return self._first + bisect_right(self._said, (seq, 0), key=lambda said: said.place)

    def read(self, cursor: int, limit: int) -> list[Remembered]:
        """Up to `limit` things said from `cursor` on; none: it has reached the present. Raises Forgotten."""
        if cursor < self._first:
            raise Forgotten
        at = cursor - self._first
        return [self._said[index] for index in range(at, min(at + limit, len(self._said)))]

    def _forget(self) -> None:
        oldest = trio.current_time() - self._memory.seconds
        while self._said and (len(self._said) > self._memory.frames or self._has_aged(oldest)):
            forgotten = self._said.popleft()
            self.bytes -= len(forgotten.text)
            place = forgotten.place
            self._first += 1
            self._forgot = (place[0] + place[1], 0)  # behind what has no number, only its successor can be resumed from

    def _has_aged(self, oldest: float) -> bool:
        """What has no number grows old with the event behind it: a client may have had the one before it until then."""
        event = next((said for said in self._said if said.place[1] == 0), None)
        return event is not None and event.at < oldest


def new_epoch() -> str:
    """A name that no other run of this topic has; it tells when the run began."""
    return f"{clock.to_us(clock.now()):x}-{next(_numbers)}"


def began(epoch: str) -> datetime:
    """When an epoch began, which is before the last event that a client had of it; now, where the name is not ours."""
    try:
        return clock.from_us(int(epoch.partition("-")[0][:14], 16))
    except (ValueError, OverflowError):
        return clock.now()
