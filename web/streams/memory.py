"""What was said, remembered for clients that may come back. Nothing here knows clients, sources or names of topics.

A log keeps each event once, encoded, however many topics tell it: a filter's memory is a selection of its topic's log.
Gaps and changes of state are kept beside the events, each with the number of events before it.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import count, islice
from math import inf
from typing import Any, NamedTuple, Protocol

import msgspec
import trio

from actors import clock
from actors.events import Gap, Said, Status
from actors.relayed import Relayed

# Bytes that a remembered event takes beside its text: itself, and the objects that hold it; and one more log's place.
OVERHEAD, PLACE = 400, 9
SELECTED_FRAMES = 10  # times as many events are kept where filters select from them: theirs are some of these
SLACK = 256  # events beyond the limit before the oldest of a log with filters are forgotten, all at once
SLACK_SECONDS = 5.0

_encode = msgspec.json.Encoder().encode
_numbers = count()


class Memory(NamedTuple):
    """How much is remembered for clients that come back: of each topic, and in bytes of all together."""

    frames: int = 5_000
    seconds: float = 300.0
    bytes: int = 256 << 20

    def halved(self) -> "Memory":
        return Memory(max(1, self.frames // 2), self.seconds / 2, self.bytes // 2)


class Room:
    """What all logs may take together, and do take."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.used = 0

    @property
    def is_full(self) -> bool:
        return self.used > self.memory.bytes


class Position(msgspec.Struct, frozen=True):
    """The last numbered event that a client had of a topic."""

    epoch: str
    seq: int


class Cursor(NamedTuple):
    """A place between two things said: the topic's number of the last event before, the next event, the next note."""

    seq: int
    event: int
    note: int


class Encoded(msgspec.Struct, gc=False):
    """Something said, encoded once for all. `text` is its JSON without the opening brace."""

    said: Said | Relayed
    text: bytes
    at: float
    is_event: bool = True  # else a note
    logs: int = 0  # that keep it


def encoded(said: Said, at: float) -> Encoded:
    return Encoded(said, _encode(said)[1:], at, not isinstance(said, Status | Gap))


class Remembered(NamedTuple):
    """An event with its number, or a note with that of the event before it."""

    seq: int
    told: Encoded


class Forgotten(Exception):
    """What a client would have to be told next is no longer remembered."""


class Selection(Protocol):
    """A topic that tells some of a log's events, counted by itself."""

    def forget(self, first: int, events: Sequence[Encoded]) -> None:
        """These, of which the first has index `first`, are no longer kept."""


class Log:
    """The recent events and notes of one topic. Events are told apart by their index, which counts up by one."""

    def __init__(self, room: Room) -> None:
        self.first = 0  # the index of the oldest event that is kept
        self.selections: set[Selection] = set()
        self.read_at = trio.current_time()
        self._room = room
        self._events: deque[Encoded] = deque()
        self._notes: deque[tuple[int, Encoded]] = deque()  # with the index of the event behind it
        self._first_note = 0
        self._forgot_note = -inf  # the index of the event behind the last note that was forgotten

    @property
    def end(self) -> int:
        """The index of the next event."""
        return self.first + len(self._events)

    @property
    def end_note(self) -> int:
        return self._first_note + len(self._notes)

    def keep(self, told: Encoded) -> None:
        if not told.is_event:
            self._notes.append((self.end, told))
            if len(self._notes) > self._room.memory.frames:
                self._forget_note()
            return
        if not told.logs:
            self._room.used += len(told.text) + OVERHEAD
        told.logs += 1
        self._room.used += PLACE
        self._events.append(told)
        frames, seconds = self._limits()
        if self.selections:
            frames, seconds = frames + SLACK, seconds + SLACK_SECONDS
        if len(self._events) > frames or self._events[0].at < told.at - seconds:
            self._forget()

    def from_event(self, seq: int, event: int) -> Cursor | None:
        """The place right behind the event before `event`, whose number is `seq`; None where not all since is kept."""
        if self._forgot_note >= event:
            return None
        notes = bisect_left(self._notes, event, key=lambda note: note[0])
        return Cursor(seq, event, self._first_note + notes)

    def refresh(self) -> None:
        """Somebody is about to read: forget what is too old."""
        self.read_at = trio.current_time()
        self._forget()

    def backwards(self, down_to: int) -> "list[Encoded]":
        """The events that are kept from index `down_to` on, the newest first."""
        return list(islice(reversed(self._events), max(0, self.end - max(down_to, self.first))))

    def read(
        self, cursor: Cursor, limit: int, accepts: Callable[[Any], bool] | None, forgotten: int
    ) -> tuple[list[Remembered], Cursor]:
        """About `limit` things from `cursor` on, and where to go on; none: the present is reached.

        `forgotten`: the index of the last event that is no longer kept and would have been told. Raises Forgotten.
        """
        seq, event, note = cursor
        if event <= forgotten or note < self._first_note:
            raise Forgotten
        found: list[Remembered] = []
        event = max(event, self.first)
        for told in islice(self._events, event - self.first, None):
            note = self._read_notes(found, seq, event, note)
            if len(found) >= limit:
                return found, Cursor(seq, event, note)
            event += 1
            if accepts is None or accepts(told.said):
                seq += 1
                found.append(Remembered(seq, told))
        note = self._read_notes(found, seq, event, note)
        return found, Cursor(seq, event, note)

    def _read_notes(self, found: list[Remembered], seq: int, event: int, note: int) -> int:
        """Add the notes in front of an event; the index of the next one."""
        while note < self.end_note and self._notes[note - self._first_note][0] <= event:
            found.append(Remembered(seq, self._notes[note - self._first_note][1]))
            note += 1
        return note

    def put_before(self, older: Sequence[Encoded]) -> None:
        """What was said right before all that is kept, as far as it fits: indices go down from the first one."""
        if self._notes and self._notes[0][0] < self.first:
            return  # of a filter: what lies between is forgotten
        frames, seconds = self._limits()
        oldest = trio.current_time() - seconds
        known = {told.text for index, told in self._notes if index == self.first}
        for told in reversed(older):
            if told.at < oldest or len(self._events) >= frames or len(self._notes) >= frames:
                return
            if told.is_event:
                self.first -= 1
                told.logs += 1
                self._room.used += PLACE + len(told.text) + OVERHEAD
                self._events.appendleft(told)
            elif told.text not in known:
                self._first_note -= 1
                self._notes.appendleft((self.first, told))

    def break_off(self) -> None:
        """What was kept is not continued: every cursor until now leads to Forgotten."""
        self._drop(len(self._events))
        while self._notes:
            self._forget_note()
        self.first += 1

    def forget_half(self) -> None:
        """Make room for others."""
        self._drop((len(self._events) + 1) // 2)

    def close(self) -> None:
        self._drop(len(self._events))

    def _limits(self) -> tuple[int, float]:
        frames, seconds, _ = self._room.memory
        return frames * SELECTED_FRAMES if self.selections else frames, seconds

    def _forget(self) -> None:
        frames, seconds = self._limits()
        oldest = trio.current_time() - seconds
        aged = 0
        for told in self._events:
            if told.at >= oldest:
                break
            aged += 1
        self._drop(max(aged, len(self._events) - frames))

    def _drop(self, number: int) -> None:
        if number <= 0:
            return
        dropped = [self._events.popleft() for _ in range(number)]
        for told in dropped:
            told.logs -= 1
            self._room.used -= PLACE if told.logs else PLACE + len(told.text) + OVERHEAD
        for selection in self.selections:
            selection.forget(self.first, dropped)
        self.first += number
        # A filter may go on from an event that is no longer kept.
        while not self.selections and self._notes and self._notes[0][0] < self.first:
            self._forget_note()

    def _forget_note(self) -> None:
        self._forgot_note = self._notes.popleft()[0]
        self._first_note += 1


def new_epoch() -> str:
    """A name that no other run of this topic has; it tells when the run began."""
    return f"{clock.to_us(clock.now()):x}-{next(_numbers)}"


def began(epoch: str) -> datetime:
    """When an epoch began, which is before the last event that a client had of it; now, where the name is not ours."""
    try:
        return clock.from_us(int(epoch.partition("-")[0][:14], 16))
    except (ValueError, OverflowError):
        return clock.now()
