"""What is older than it should be goes: rounds of small steps, with long rests between them.

For one thread at a time; a change of the limits is another `Retention`.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from actors.archive.series import ArchiveKind, us
from actors.archive.writer import Writer

EVERY = 3600.0  # seconds from the beginning of one round to that of the next
STEP = 5_000  # rows, about


class Retention:
    """`days`: of each kind that is not kept for ever."""

    def __init__(self, days: Mapping[ArchiveKind, float]) -> None:
        self._days = {kind: limit for kind, limit in days.items() if limit > 0}
        self._begun = float("-inf")
        self._left: list[tuple[ArchiveKind, int]] = []  # of this round: kinds, and up to when

    def is_due(self, seconds: float, now: datetime) -> bool:
        """Whether there is a step to take; `seconds` only ever grow."""
        if not self._left and seconds >= self._begun + EVERY:
            self._begun = seconds
            self._left = [(kind, us(now - timedelta(days=limit))) for kind, limit in self._days.items()]
        return bool(self._left)

    def step(self, writer: Writer) -> None:
        """Something always passes its age meanwhile: a round ends with what was too old when it began."""
        room = STEP
        while self._left and room > 0:
            deleted = writer.prune(*self._left[-1], room)
            if deleted < room:
                self._left.pop()
            room -= deleted
