"""What can be said of a topic's data: how much of it came, what was lost, how late it was. No I/O."""

from collections import deque
from datetime import datetime, timedelta

from msgspec import Struct

from actors.events import Gap

GAPS_KEPT = 100  # per topic; older ones are only counted
LAGS_KEPT = 512  # recent events whose lag is remembered


class Lag(Struct, frozen=True, kw_only=True):
    """Milliseconds from the exchange's time of pushing to our receiving, over the recent events, by both clocks as
    they are once the known skew is taken off."""

    median_ms: float
    p99_ms: float


class TopicReport(Struct, frozen=True, kw_only=True):
    """One topic's data since the feed began: `covered` is the share of the time without unrepaired loss, 0 to 1."""

    topic: str
    since: datetime | None
    events: int
    covered: float | None
    gaps_repaired: int
    gaps_unrepaired: int
    gaps: list[Gap]
    duplicates: int
    last_event: datetime | None
    last_event_age: float | None
    lag: Lag | None


class Quality:
    """One topic's record."""

    __slots__ = ("_gaps", "_lost", "events", "last_event", "repaired", "since", "unrepaired")

    def __init__(self) -> None:
        self.events = 0
        self.since: datetime | None = None  # when the first event was received
        self.last_event: datetime | None = None  # when the newest one was
        self.repaired = 0
        self.unrepaired = 0
        self._gaps: deque[Gap] = deque(maxlen=GAPS_KEPT)
        self._lost = timedelta(0)

    def heard(self, received_at: datetime) -> None:
        self.events += 1
        self.last_event = received_at
        if self.since is None:
            self.since = received_at

    def noticed(self, gap: Gap) -> None:
        self._gaps.append(gap)
        if gap.repaired:
            self.repaired += 1
        else:
            self.unrepaired += 1
            self._lost += max(timedelta(0), gap.end - gap.start)

    def report(
        self,
        topic: str,
        now: datetime,
        *,
        duplicates: int,
        lag: Lag | None,
        down_since: datetime | None,
    ) -> TopicReport:
        """`down_since`: nothing comes since then, and what is lost by it is not known yet."""
        lost = self._lost + (now - down_since if down_since else timedelta(0))
        covered = None
        if self.since is not None and now > self.since:
            covered = round(max(0.0, 1 - lost / (now - self.since)), 6)
        return TopicReport(
            topic=topic,
            since=self.since,
            events=self.events,
            covered=covered,
            gaps_repaired=self.repaired,
            gaps_unrepaired=self.unrepaired,
            gaps=list(self._gaps),
            duplicates=duplicates,
            last_event=self.last_event,
            last_event_age=round((now - self.last_event).total_seconds(), 3) if self.last_event else None,
            lag=lag,
        )


class Lags:
    """How late the recent events of one kind were."""

    __slots__ = ("_recent",)

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=LAGS_KEPT)

    def add(self, seconds: float) -> None:
        self._recent.append(seconds)

    def report(self, skew: timedelta) -> Lag | None:
        """`skew`: the exchange's clock minus ours."""
        if not self._recent:
            return None
        ordered = sorted(self._recent)
        skewed = skew.total_seconds()
        return Lag(
            median_ms=round((ordered[len(ordered) // 2] + skewed) * 1000, 3),
            p99_ms=round((ordered[len(ordered) * 99 // 100] + skewed) * 1000, 3),
        )
