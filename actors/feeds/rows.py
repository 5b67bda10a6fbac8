"""The run of bars that is held of one symbol and interval: the newest as events, older ones packed. No I/O.

Bars that are asked for again are the same objects as before, for as long as they are in use: who compares one answer
with the next (`web.rest.early`) finds equal bars at equal addresses.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import lru_cache
from operator import attrgetter

from actors.events import Ohlc
from actors.feeds.packing import Packed, Plain, Where, pack

BLOCK = 32  # bars packed together; with more of them each takes less, but more wait as events until there are so many
NEWEST = 2  # bars that may still change, and are never packed
UNPACKED = 4096  # blocks in use, of all symbols together: up to 40 MB

_opened = attrgetter("timestamp")


class Rows:
    """Up to `most` bars, ascending; where one more comes, the oldest goes.

    Those that it begins with are packed block by block when `pack` is called: all at once would take milliseconds.
    """

    def __init__(self, where: Where, most: int, bars: Iterable[Ohlc] = ()) -> None:
        self._where, self._most = where, most
        self._blocks: list[Packed | Plain] = []  # of BLOCK bars each
        self._gone = 0  # bars of the first block that are no longer held
        self._packed = 0  # bars in blocks, without those
        self._events = [*bars][-most:]  # what comes behind the blocks

    def __len__(self) -> int:
        return self._packed + len(self._events)

    def __iter__(self) -> Iterator[Ohlc]:
        """All of them; unlike what `part` gives, these do not stay unpacked."""
        gone = self._gone
        for block in self._blocks:
            yield from block.bars()[gone:]
            gone = 0
        yield from self._events

    # --- what changes ---

    def append(self, bar: Ohlc) -> None:
        """One more bar, newer than all; of the others only the newest may change from now on."""
        self._events.append(bar)
        self.pack()
        if len(self) > self._most:
            self._drop_oldest()

    def pack(self) -> bool:
        """Pack one block of what may be; whether there was one."""
        if len(self._events) < BLOCK + NEWEST:
            return False
        self._blocks.append(pack(self._where, self._events[:BLOCK]))
        self._packed += BLOCK
        del self._events[:BLOCK]
        return True

    def _drop_oldest(self) -> None:
        if not self._blocks:
            del self._events[0]
            return
        self._gone += 1
        self._packed -= 1
        if self._gone == BLOCK:
            del self._blocks[0]
            self._gone = 0

    def replace(self, bar: Ohlc, *, before_last: bool = False) -> None:
        """A bar in place of the last one, or of the one before it."""
        self._events[-2 if before_last else -1] = bar

    def clear(self) -> None:
        self._blocks, self._gone, self._packed, self._events = [], 0, 0, []

    # --- what is held ---

    @property
    def first_open(self) -> datetime | None:
        """When the oldest bar opened."""
        if self._blocks:
            return self._blocks[0].opened(self._gone)
        return self._events[0].timestamp if self._events else None

    @property
    def last(self) -> Ohlc | None:
        return self._events[-1] if self._events else None

    @property
    def before_last(self) -> Ohlc | None:
        return self._events[-2] if len(self._events) > 1 else None

    def count_before(self, time: datetime) -> int:
        """How many bars opened before a time."""
        if not self._events or self._events[0].timestamp < time or not self._blocks:
            return self._packed + bisect_left(self._events, time, key=_opened)
        number = bisect_left(self._blocks, time, key=_first_open) - 1
        if number < 0:
            return 0
        inside = bisect_left(range(BLOCK), time, key=self._blocks[number].opened)
        return max(0, number * BLOCK + inside - self._gone)

    def part(self, start: int, stop: int) -> list[Ohlc]:
        """The bars at `[start, stop)`, counted from the oldest, of those that are held."""
        found: list[Ohlc] = []
        begin, end = max(0, start) + self._gone, stop + self._gone  # counted from the first block's first
        for number in range(begin // BLOCK, min(len(self._blocks), -(-end // BLOCK))):
            found += _unpacked(self._blocks[number])[max(0, begin - number * BLOCK) : end - number * BLOCK]
        behind = len(self._blocks) * BLOCK
        found += self._events[max(0, begin - behind) : max(0, end - behind)]
        return found


def _first_open(block: Packed | Plain) -> datetime:
    return block.opened(0)


@lru_cache(maxsize=UNPACKED)
def _unpacked(block: Packed | Plain) -> tuple[Ohlc, ...]:
    return block.bars()
