"""Who reads one feed's topics, and how good the data is that they are told. A reader is never waited for."""

from collections.abc import Callable
from datetime import datetime, timedelta

from actors import clock
from actors.broadcast import Broadcast, Reader
from actors.counts import Counts, Histogram
from actors.events import Gap, Kind, Ohlc, Said, Status, Topic
from actors.feeds.everything import KINDS, Everything
from actors.feeds.quality import Lags, Quality, TopicReport


class _Told:
    """One topic: who reads it, and how good it is."""

    __slots__ = ("broadcast", "is_everywhere", "kind", "quality", "topic")

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.kind = topic.kind
        self.is_everywhere = topic.kind in KINDS
        self.broadcast: Broadcast[Said] | None = None  # once somebody read it
        self.quality: Quality | None = None  # once anything was said


class Readers:
    """Topics go by a kind, or by the interval of bars, wherever events are told: there are many of them."""

    def __init__(
        self,
        exchange: str,
        symbol: str,
        everything: Everything,
        counts: Counts | None = None,
        also: Callable[[Topic, Said], None] | None = None,
    ) -> None:
        self._exchange, self._symbol = exchange, symbol
        self._everything = everything
        self._also = also  # told all that any reader could be told, once
        self._counts = counts or Counts()
        self._told: dict[str, _Told] = {}  # by kind or interval
        self._lags: dict[Kind, tuple[Lags, Histogram]] = {}
        self.received_at = clock.now()  # of what is being told

    def topic(self, kind: Kind, interval: str | None = None) -> Topic:
        return Topic(self._exchange, self._symbol, kind, interval)

    def _of(self, topic: Topic) -> _Told:
        return self._told.setdefault(topic.interval or topic.kind, _Told(topic))

    def subscribe(self, topic: Topic, capacity: int) -> Reader[Said]:
        """A reader of one topic that holds up to `capacity` unread items."""
        told = self._of(topic)
        if told.broadcast is None:
            told.broadcast = Broadcast()
        return told.broadcast.subscribe(capacity)

    def publish(self, kind: Kind, said: Said) -> None:
        """Of any kind but bars."""
        self._publish(self._told.get(kind) or self._of(self.topic(kind)), said)

    def publish_bar(self, interval: str, said: Ohlc | Gap) -> None:
        self._publish(self._told.get(interval) or self._of(self.topic("ohlc", interval)), said)

    def _publish(self, told: _Told, said: Said) -> None:
        if not isinstance(said, Status):
            if self._also is not None:
                self._also(told.topic, said)
            if told.quality is None:
                told.quality = Quality()
            if isinstance(said, Gap):
                told.quality.noticed(said)
                self._counts.lost(told.kind, said)
            else:
                told.quality.heard(self.received_at)
                self._counts.events[told.kind] += 1
        if told.broadcast is not None:
            told.broadcast.publish(said)
        if told.is_everywhere:
            self._everything.publish(told.kind, said, self.received_at)

    def lagged(self, kind: Kind, pushed_at: datetime) -> None:
        """What the exchange pushed at this time, by its clock, was received just now."""
        lags, histogram = self._lags.get(kind) or self._lags.setdefault(kind, (Lags(), self._counts.lag[kind]))
        seconds = (self.received_at - pushed_at).total_seconds()
        lags.add(seconds)
        lag = seconds + self._counts.skew  # which is known to a few milliseconds
        histogram.observe(lag if lag > 0.0 else 0.0)

    def last_heard(self) -> dict[Kind, datetime]:
        """When the youngest event of each kind was received."""
        found: dict[Kind, datetime] = {}
        for told in self._told.values():
            if told.quality is not None and (at := told.quality.last_event) is not None:
                found[told.kind] = max(at, found.get(told.kind, at))
        return found

    def publish_status(self, status: Status) -> None:
        """To the readers of every topic."""
        if self._also is not None:
            self._also(self.topic("trades"), status)
        for kind in KINDS:
            self._of(self.topic(kind))
        for told in list(self._told.values()):
            self._publish(told, status)

    def report(
        self, now: datetime, skew: timedelta, down_since: datetime | None, duplicates: Callable[[Topic], int]
    ) -> list[TopicReport]:
        """One report per topic that said anything; `skew` is the exchange's clock minus ours, times are by ours."""
        reports = {kind: lags.report(skew) for kind, (lags, _) in self._lags.items()}
        return [
            told.quality.report(
                str(told.topic),
                now,
                duplicates=duplicates(told.topic),
                lag=reports.get("trades" if told.kind == "large_trades" else told.kind),
                down_since=down_since,
            )
            for told in sorted(self._told.values(), key=lambda told: str(told.topic))
            if told.quality is not None
        ]
