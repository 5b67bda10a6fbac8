"""What of a stream's frames goes on to those who follow it: each thing once, in order, and what was missed before what
is newer. Frames stay as the exchange spelled them. No I/O; whose spelling it is each exchange says by functions.

Newer frames wait for missed ones, which the feeds ask for in any case; whoever owns a sieve says when to wait no more.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from actors.exchanges.memory import Memory

HELD_MAX = 20_000  # frames that may wait for missing ones
IDS_KEPT = 4_000  # ids remembered to know a trade again
FRAMES_KEPT = 100  # frames remembered, where two connections may bring the same one
LATE = 4_000  # ms after a bar's end in which its closing frame may yet come: Binance's took up to 2 s


class Found(NamedTuple):
    """Something that a stream may have missed, from a REST answer. `key`: a trade's id, or when a bar opens, in ms."""

    key: int | str
    end: int  # of a bar; a trade's time; ms
    frame: bytes  # as the stream would have told it


class Sieve(Protocol):
    @property
    def waits(self) -> bool:
        """Something is missing, and newer frames are held back."""
        ...

    @property
    def heeds(self) -> bool:
        """An answer about the past may say what is missing."""
        ...

    def take(self, frame: bytes) -> Sequence[bytes]:
        """What those who follow are told now."""
        ...

    def interrupt(self) -> None:
        """The connection was lost that brought the frames."""
        ...

    def learn(self, found: Sequence[Found], now: int) -> Sequence[bytes]:
        """The same, where the exchange was asked what it has; ascending. `now`: by its clock, ms."""
        ...

    def give_up(self) -> Sequence[bytes]:
        """The same, without what is missing."""
        ...

    def greeting(self) -> Sequence[bytes]:
        """What a newcomer is told at once."""
        ...


class Remembered:
    """Of a stream of states: nothing of it can be missed, the next frame says it all."""

    waits = heeds = False

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.greeting = memory.greeting

    def take(self, frame: bytes) -> Sequence[bytes]:
        news = self._memory.take(frame)
        return () if news is None else (news,)

    def interrupt(self) -> None:
        pass

    def learn(self, found: Sequence[Found], now: int) -> Sequence[bytes]:
        return ()

    def give_up(self) -> Sequence[bytes]:
        return ()


class Distinct:
    """Each frame once, though two connections bring it: one takes the other's place."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque(maxlen=FRAMES_KEPT)

    def take(self, frame: bytes) -> bytes | None:
        if frame in self._frames:
            return None
        self._frames.append(frame)
        return frame

    def greeting(self) -> Sequence[bytes]:
        return ()


class Numbered:
    """Trades whose numbers count up by one. `read`: a frame's number, and the trade's time."""

    def __init__(self, read: Callable[[bytes], tuple[int, int]]) -> None:
        self._read = read
        self._last: tuple[int, int] | None = None
        self._held: dict[int, tuple[int, bytes]] = {}

    @property
    def waits(self) -> bool:
        return bool(self._held)

    heeds = waits

    def take(self, frame: bytes) -> Sequence[bytes]:
        number, time = self._read(frame)
        counts_anew = self._last is not None and number <= self._last[0] and time > self._last[1]
        if self._last is None or counts_anew:
            self._last = number, time
            return (frame,)
        if number <= self._last[0]:
            return ()
        self._held[number] = time, frame
        return self.give_up() if len(self._held) >= HELD_MAX else self._release()

    def interrupt(self) -> None:
        pass  # the next number tells

    def learn(self, found: Sequence[Found], now: int) -> Sequence[bytes]:
        if self._last is None or not self._held:
            return ()
        for one in found:
            if isinstance(one.key, int) and self._last[0] < one.key < max(self._held):
                self._held.setdefault(one.key, (one.end, one.frame))
        return self._release()

    def _release(self) -> Sequence[bytes]:
        told = []
        while self._last is not None and (held := self._held.pop(self._last[0] + 1, None)) is not None:
            self._last = self._last[0] + 1, held[0]
            told.append(held[1])
        return told

    def give_up(self) -> Sequence[bytes]:
        numbers = sorted(self._held)
        told = [self._held[number][1] for number in numbers]
        if numbers:
            self._last = numbers[-1], self._held[numbers[-1]][0]
        self._held = {}
        return told

    def greeting(self) -> Sequence[bytes]:
        return ()


class Identified:
    """Trades with ids that say nothing of their order. `read`: the (id, time) of each trade of a frame; `without`: the
    frame less the trades with these ids.
    """

    def __init__(
        self,
        read: Callable[[bytes], Sequence[tuple[str, int]]],
        without: Callable[[bytes, frozenset[str]], bytes],
    ) -> None:
        self._read, self._without = read, without
        self._told: dict[str, None] = {}
        self._told_until = 0
        self._was_cut = False
        self._held: list[bytes] = []

    @property
    def waits(self) -> bool:
        return bool(self._held)

    heeds = waits

    def take(self, frame: bytes) -> Sequence[bytes]:
        if self._held or (self._was_cut and self._told):
            self._read(frame)  # one that cannot be read must not wait, to be found out later
            self._held.append(frame)
            return self.give_up() if len(self._held) >= HELD_MAX else ()
        return self._tell(frame)

    def interrupt(self) -> None:
        self._was_cut = True

    def learn(self, found: Sequence[Found], now: int) -> Sequence[bytes]:
        """What is found counts once it reaches the trades that wait: before, the answer is older than they are."""
        pushed = {number for frame in self._held for number, _ in self._read(frame)}
        if not any(one.key in pushed for one in found):
            return ()
        missed = [one.frame for one in found if one.key not in pushed and one.end >= self._told_until]
        told = [news for frame in missed for news in self._tell(frame)]
        return [*told, *self.give_up()]

    def give_up(self) -> Sequence[bytes]:
        held, self._held, self._was_cut = self._held, [], False
        return [news for frame in held for news in self._tell(frame)]

    def _tell(self, frame: bytes) -> Sequence[bytes]:
        rows = self._read(frame)
        known = frozenset(number for number, _ in rows if number in self._told)
        for number, time in rows:
            self._told[number] = None
            self._told_until = max(self._told_until, time)
        while len(self._told) > IDS_KEPT:
            del self._told[next(iter(self._told))]
        if len(known) == len(rows):
            return ()
        return (self._without(frame, known),) if known else (frame,)

    def greeting(self) -> Sequence[bytes]:
        return ()


class Bar(NamedTuple):
    """What a frame says of a bar, times in ms. Of several bars of one frame it is the last."""

    opens: int
    ends: int
    is_closed: bool
    pushed: int  # 0 where the exchange does not say
    first: int  # when the first one of the frame opens; all but the last are closed


class Bars:
    """Bars of one interval: each closed once, and those whose closing frame did not come before what is newer.

    `has_holes`: a time without trades has no bar, and no frame says that one is over, so only a cut can lose any.
    `greets`: a newcomer is told the present one.
    """

    def __init__(self, read: Callable[[bytes], Bar], *, has_holes: bool = False, greets: bool = False) -> None:
        self._read, self._has_holes, self._greets = read, has_holes, greets
        self._last: Bar | None = None
        self._frame = b""
        self._was_cut = False
        self._held: list[tuple[Bar, bytes]] = []
        self._found: Sequence[Found] = ()  # over, by REST, and not told yet: their closing frames may still come

    @property
    def waits(self) -> bool:
        return bool(self._held)

    @property
    def heeds(self) -> bool:
        return self._last is not None and (self._was_cut or not self._has_holes)

    def take(self, frame: bytes) -> Sequence[bytes]:
        bar = self._read(frame)
        if self._held:
            if self._is_late(bar, self._held[0][0]):
                return [*self._tell(bar, frame), *self.give_up()]
            self._held.append((bar, frame))
            return self.give_up() if len(self._held) >= HELD_MAX else ()
        if self._last is not None and self._leaves_out(bar, self._last):
            self._held.append((bar, frame))
            return self._fill(self._found, has_holes=False)
        return self._tell(bar, frame)

    def _leaves_out(self, bar: Bar, last: Bar) -> bool:
        """The close of the last bar told did not come, or none of the bars between it and this one."""
        if bar.opens <= last.opens or not self.heeds:
            return False
        return bar.first > last.ends or (bar.first == last.ends and not last.is_closed)

    def _is_late(self, bar: Bar, waiting: Bar) -> bool:
        """The close that is waited for, and nothing else is: it came after the next bar had begun."""
        is_last = self._last is not None and bar.opens == self._last.opens
        return is_last and bar.is_closed and bar.ends == waiting.first

    def interrupt(self) -> None:
        self._was_cut = True

    def learn(self, found: Sequence[Found], now: int) -> Sequence[bytes]:
        """What is found counts where it leads from the last bar told to the first that waits: the stream has gone on
        from there, so they are over. Before the stream goes on, so are those that another follows; they are told once
        their closing frames are overdue, since a quiet market sends nothing else for long.
        """
        if self._held:
            return self._fill(found, has_holes=self._has_holes)
        if self._last is None or not self.heeds:
            return ()
        since = self._last.opens
        self._found = [one for one in found[:-1] if isinstance(one.key, int) and one.key >= since]
        return () if self._has_holes else self._overdue(self._found, now)

    def _overdue(self, found: Sequence[Found], now: int) -> Sequence[bytes]:
        told: list[bytes] = []
        for one in found:
            bar, last = _closed(one), self._last
            expected = bar.opens if last is None else last.ends if last.is_closed else last.opens
            if bar.opens > expected or bar.ends + LATE > now:
                break
            told += self._tell(bar, one.frame)  # which is nothing for one that was told as closed
        return told

    def _fill(self, found: Sequence[Found], *, has_holes: bool) -> Sequence[bytes]:
        if self._last is None or not self._held:
            return ()
        last, first = self._last, self._held[0][0]
        missed = [one for one in found if isinstance(one.key, int) and last.opens <= one.key < first.opens]
        is_whole = missed and missed[0].key in (last.opens, last.ends) and missed[-1].end == first.opens
        if not is_whole and not (has_holes and missed):
            return ()
        told = [news for one in missed for news in self._tell(_closed(one), one.frame)]
        return [*told, *self.give_up()]

    def give_up(self) -> Sequence[bytes]:
        held, self._held, self._was_cut = self._held, [], False
        return [news for bar, frame in held for news in self._tell(bar, frame)]

    def _tell(self, bar: Bar, frame: bytes) -> Sequence[bytes]:
        last = self._last
        if last is not None and bar.opens <= last.opens:
            is_older = bar.opens < last.opens or last.is_closed or bar.pushed < last.pushed
            if is_older or frame == self._frame:
                return ()
        self._last, self._frame, self._was_cut, self._found = bar, frame, False, ()
        return (frame,)

    def greeting(self) -> Sequence[bytes]:
        return (self._frame,) if self._greets and self._frame else ()


def _closed(found: Found) -> Bar:
    opens = int(found.key)
    return Bar(opens, found.end, True, found.end, opens)
