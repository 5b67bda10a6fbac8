"""Trades that no update of a bar followed. Where no frame says that a bar is final, they alone tell that what was heard
of it last is not. No I/O, no clock: times are of receiving.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

SAME = timedelta(seconds=1)  # an update that came so shortly before a trade may know of it
WITHIN = timedelta(seconds=3)  # updates of a busy bar come about every second


class Unanswered:
    def __init__(self) -> None:
        self._heard: dict[str, datetime] = {}  # by interval, the last update
        self._since: dict[str, datetime] = {}  # by interval, the first trade that it does not know of

    def traded(self, intervals: Iterable[str], at: datetime) -> None:
        for interval in intervals:
            if interval not in self._since and not (interval in self._heard and at - self._heard[interval] < SAME):
                self._since[interval] = at

    def updated(self, interval: str, at: datetime) -> None:
        self._heard[interval] = at
        self._since.pop(interval, None)

    def overdue(self, now: datetime) -> list[str]:
        """Intervals whose bar has gone on unheard; each is told once for so many trades."""
        found = [interval for interval, since in self._since.items() if now - since > WITHIN]
        for interval in found:
            del self._since[interval]
        return found
