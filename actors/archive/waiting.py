"""Rows that wait for the disk, within a bound. No I/O.

What no exchange tells again is written first and dropped last; among its like the oldest goes first. A batch that is
being written is `away`: it counts as waiting until it is on disk, and comes back to its old place if it is not.
"""

from collections import deque

from actors.archive.series import FETCHABLE, Row, Series, Write


class Waiting:
    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._queues: tuple[deque[Write], deque[Write]] = (deque(), deque())  # what is seen once, what can be had again
        self._of: dict[Series, deque[Write]] = {}  # the same, by series
        self._away: list[Write] = []
        self._away_of: dict[Series, deque[Write]] = {}
        self.size = 0  # of all, away or not
        self._size_away = 0

    def __bool__(self) -> bool:
        """Whether there is a batch to take."""
        return any(self._queues)

    @property
    def is_away(self) -> bool:
        return bool(self._away)

    def add(self, write: Write) -> None:
        self._queues[write.series.kind in FETCHABLE].append(write)
        self._of.setdefault(write.series, deque()).append(write)
        self.size += size_of(write)

    def rows(self, series: Series) -> list[Row]:
        """The rows of a series that are not known to be on disk, in the order they came."""
        writes = (*self._away_of.get(series, ()), *self._of.get(series, ()))
        return [row for write in writes for row in write.rows]

    def trim(self) -> int:
        """Drop what is beyond the bound; returns the number of rows. What is away is dropped if it comes back."""
        dropped = 0
        while self.size - self._size_away > self._bound:
            seen, again = self._queues
            write = (again or seen).popleft()
            self._forget(write)
            self.size -= size_of(write)
            dropped += len(write.rows)
        return dropped

    def take(self, size: int) -> list[Write]:
        """A batch of about so many rows, which is away from now on."""
        batch: list[Write] = []
        if self.size <= size:  # all of it, as nearly always
            batch = [write for queue in self._queues for write in queue]
            self._away_of, self._of, self._size_away = self._of, {}, self.size
            self._queues = (deque(), deque())
        for queue in self._queues:
            while queue and (self._size_away < size or not batch):
                write = queue.popleft()
                self._forget(write)
                batch.append(write)
                self._away_of.setdefault(write.series, deque()).append(write)
                self._size_away += size_of(write)
        self._away = batch
        return batch

    def done(self) -> int:
        """What was away need not wait any longer; returns how many rows that was."""
        rows = sum(len(write.rows) for write in self._away)
        self.size -= self._size_away
        self._no_longer_away()
        return rows

    def give_back(self) -> None:
        """What was away waits again."""
        for write in reversed(self._away):
            self._queues[write.series.kind in FETCHABLE].appendleft(write)
            self._of.setdefault(write.series, deque()).appendleft(write)
        self._no_longer_away()

    def _no_longer_away(self) -> None:
        self._away, self._away_of, self._size_away = [], {}, 0

    def _forget(self, write: Write) -> None:
        """The first of its series: both orders are the same within one."""
        of_series = self._of[write.series]
        of_series.popleft()
        if not of_series:
            del self._of[write.series]


def size_of(write: Write) -> int:
    """What a write counts for: coverage alone takes room too."""
    return len(write.rows) + len(write.covered)
