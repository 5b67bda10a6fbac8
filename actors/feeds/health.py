"""A feed's state and the reasons for it. No I/O: it is told what happened, and says what that means.

Data comes or it does not (`down`), never will (`failed`), has not yet (`starting`), or comes with something wrong
beside it (`stale`): a trouble, kept by its source until that source is well again.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from msgspec import Struct

from actors import clock
from actors.events import FeedState


class FeedReport(Struct, frozen=True, kw_only=True):
    """One feed's health, as `/health` shows it."""

    exchange: str
    symbol: str
    state: FeedState
    since: datetime
    restarts: int
    last_event: datetime | None
    reason: str | None
    next_retry: datetime | None


class Health:
    def __init__(self, on_change: Callable[[], None], announced: Callable[[], str | None] = lambda: None) -> None:
        self._on_change = on_change
        self._announced = announced  # what the exchange says of itself: no trouble, but it may explain one
        self.state: FeedState = "starting"
        self.since = clock.now()
        self.restarts = 0
        self.last_event: datetime | None = None
        self.next_retry: datetime | None = None
        self.is_connected = False
        self._down: str | None = None
        self._failed: str | None = None
        self._troubles: dict[str, str] = {}

    @property
    def reason(self) -> str | None:
        """Why the state is not `live`."""
        reason = self._failed or self._down or next(iter(self._troubles.values()), None)
        if reason is None or self._failed or (announced := self._announced()) is None:
            return reason
        return f"{reason}; the exchange announces {announced}"

    @property
    def is_current(self) -> bool:
        """A connection delivers, so what is held in memory is up to date."""
        return self.is_connected and not self._down and not self._failed and self.last_event is not None

    def connected(self) -> None:
        """There is a connection; only data will make the feed live."""
        self.is_connected = True
        self.next_retry = None

    def lost(self, reason: str, delay: float | None) -> None:
        """Nothing can come; the next try is in `delay` seconds, None = there will be none."""
        self.is_connected = False
        self.restarts += 1
        self._down = reason
        if delay is None:
            self._failed = f"gave up: {reason}"
        self.next_retry = None if delay is None else clock.now() + timedelta(seconds=delay)
        self._update()

    def heard(self, received_at: datetime) -> None:
        """Data came."""
        self.last_event = received_at
        if self.is_connected and (self._down is not None or self.state == "starting"):
            self._down = None
            self._update()

    def fail(self, reason: str) -> None:
        """Nothing will come: the symbol is misspelt, delisted, or was given up."""
        self._failed = reason
        self.next_retry = None
        self._update()

    def revive(self) -> None:
        """The feed is run (again): a listing can come back."""
        if self._failed:
            self._failed = None
            self.last_event = None
            self._update()

    def trouble(self, source: str, reason: str | None) -> None:
        """Something beside the data itself is wrong (or, with None, well again)."""
        if reason is not None:
            self._troubles[source] = f"{source}: {reason}"
        elif self._troubles.pop(source, None) is None:
            return
        self._update()

    def has_trouble(self, source: str) -> bool:
        return source in self._troubles

    def _update(self) -> None:
        state: FeedState = "live"
        if self._failed:
            state = "failed"
        elif self._down:
            state = "down"
        elif self.last_event is None:
            state = "starting"
        elif self._troubles:
            state = "stale"
        if state != self.state:
            self.state = state
            self.since = clock.now()
            self._on_change()
