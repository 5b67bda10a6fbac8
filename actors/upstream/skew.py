"""An exchange's clock, told from ours: the difference as measured last, whatever is done to our clock since."""

from datetime import datetime, timedelta

import structlog
import trio

from actors import clock

CLOCK_STEP = 0.5  # seconds between two looks, beside the time that passed

log = structlog.get_logger()


class Skew:
    def __init__(self, exchange: str) -> None:
        self._exchange = exchange
        self.offset = timedelta(0)  # the exchange's clock minus ours
        self._check: tuple[datetime, float] | None = None  # our clock, and the one that nobody sets, when last read

    def now(self) -> datetime:
        """The exchange's clock, as far as it is known."""
        return self.at(clock.now())

    def at(self, ours: datetime) -> datetime:
        """What the exchange's clock showed at a moment of ours, which is now or was a moment ago."""
        now, since = clock.now(), trio.current_time()
        if self._check is not None:
            before, at = self._check
            step = (now - before).total_seconds() - (since - at)
            if abs(step) > CLOCK_STEP:  # somebody set our clock: the exchange's has not moved
                self.offset -= timedelta(seconds=round(step, 6))
                ours = now
                log.warning("clock.stepped", exchange=self._exchange, seconds=round(step, 6))
        self._check = now, since
        return ours + self.offset

    def learn(self, server_time: datetime, asked_at: datetime, answered_at: datetime) -> None:
        """The exchange said its time in between. What was done to our clock before is in it."""
        self.offset = server_time - (asked_at + (answered_at - asked_at) / 2)
        self._check = clock.now(), trio.current_time()
