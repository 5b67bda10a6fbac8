"""How much may be asked of an exchange's REST host, kept before the exchange has to say so.

One Budget per exchange. A bucket is a sliding window of weights; the gate closes the whole host after a 429 or a ban.
Background work (history, polling) may use only part of a bucket, so a person's request always finds room.
"""

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import trio
from msgspec import Struct

from actors.errors import UpstreamLimited

BACKGROUND_SHARE = 0.6  # of a bucket's limit; the rest is left to interactive requests
INTERACTIVE_SHARE = 0.95  # the exchange counts with its own clock: never plan to the last unit
PATIENCE = 3.0  # seconds an interactive request may wait for room before the client is told to come back


class Window(NamedTuple):
    """At most `limit` units of weight within any `seconds`."""

    limit: int
    seconds: float


class BucketReport(Struct, frozen=True, kw_only=True):
    """Weight spent within the window that ends now, our own and what the exchange counted beside it."""

    name: str
    used: int
    limit: int
    window_seconds: float


class BudgetReport(Struct, frozen=True, kw_only=True):
    """`closed_for`: seconds until requests may leave again, after a rate limit or a ban; null where they may."""

    buckets: list[BucketReport]
    waiting: int
    closed_for: float | None
    closed_reason: str | None


class Bucket:
    def __init__(self, window: Window) -> None:
        self.window = window
        self._spent: deque[tuple[float, int]] = deque()
        self._sum = 0

    def used(self) -> int:
        """Weight spent within the window that ends now."""
        horizon = trio.current_time() - self.window.seconds
        while self._spent and self._spent[0][0] <= horizon:
            self._sum -= self._spent.popleft()[1]
        return self._sum

    def spend(self, weight: int) -> None:
        self._spent.append((trio.current_time(), weight))
        self._sum += weight

    def wait_for(self, weight: int, share: float) -> float:
        """Seconds until `weight` more fits under `share` of the limit; 0 when it does now."""
        room = self.window.limit * share - self.used() - weight
        if room >= 0 or not self._spent:
            return 0.0
        for time, spent in self._spent:
            room += spent
            if room >= 0:
                return max(0.0, time + self.window.seconds - trio.current_time())
        return self.window.seconds


class Budget:
    """The request budget of one exchange host: buckets by name, and a gate over all of them."""

    def __init__(self, windows: Mapping[str, Window]) -> None:
        self.buckets = {name: Bucket(window) for name, window in windows.items()}
        self._queues = {name: trio.StrictFIFOLock() for name in windows}  # of background requests: one at a time
        self._closed_until = float("-inf")
        self._closed_reason = ""

    def close(self, seconds: float, reason: str) -> None:
        """No request leaves for `seconds`: the exchange said stop. An earlier, longer closure stays in force."""
        until = trio.current_time() + seconds
        if until > self._closed_until:
            self._closed_until, self._closed_reason = until, reason

    def closed_for(self) -> float:
        """Seconds until the gate opens; 0 when it is open."""
        return max(0.0, self._closed_until - trio.current_time())

    def report(self) -> BudgetReport:
        closed = self.closed_for()
        return BudgetReport(
            buckets=[
                BucketReport(
                    name=name, used=bucket.used(), limit=bucket.window.limit, window_seconds=bucket.window.seconds
                )
                for name, bucket in self.buckets.items()
            ],
            waiting=sum(queue.statistics().tasks_waiting for queue in self._queues.values()),
            closed_for=round(closed, 3) if closed else None,
            closed_reason=self._closed_reason if closed else None,
        )

    def observe(self, bucket: str, used: int) -> None:
        """The exchange's own count, where it is higher: other programs share this address."""
        unseen = used - self.buckets[bucket].used()
        if unseen > 0:
            self.buckets[bucket].spend(unseen)

    async def spend(self, bucket: str, weight: int, *, background: bool) -> None:
        """Take `weight` from `bucket`. Background callers wait for room; others get UpstreamLimited past PATIENCE."""
        if background:
            async with self._queues[bucket]:
                # Time alone makes room, so there is no event to wait for.
                while wait := max(self.closed_for(), self.buckets[bucket].wait_for(weight, BACKGROUND_SHARE)):  # noqa: ASYNC110
                    await trio.sleep(wait)
                self.buckets[bucket].spend(weight)
            return
        while True:
            if closed := self.closed_for():  # also while waiting
                raise UpstreamLimited(self._closed_reason, retry_after=closed)
            wait = self.buckets[bucket].wait_for(weight, INTERACTIVE_SHARE)
            if not wait:
                break
            if wait > PATIENCE:
                raise UpstreamLimited("this daemon's own request budget is used up", retry_after=wait)
            await trio.sleep(wait)
        self.buckets[bucket].spend(weight)
