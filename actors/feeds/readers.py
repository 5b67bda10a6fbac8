"""Who reads one feed's topics, and how good the data is that they are told. A reader is never waited for."""

from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta

from actors import clock
from actors.broadcast import Broadcast, Reader
from actors.counts import Counts
from actors.events import Gap, Kind, Ohlc, Said, Status, Topic
from actors.feeds.everything import KINDS, Everything
from actors.feeds.quality import Lags, Quality, TopicReport


class Readers:
    def __init__(self, exchange: str, symbol: str, everything: Everything, counts: Counts | None = None) -> None:
        self._exchange, self._symbol = exchange, symbol
        self._everything = everything
        self._counts = counts or Counts()
        self._broadcasts: dict[Topic, Broadcast[Said]] = {}
        self._quality: defaultdict[Topic, Quality] = defaultdict(Quality)
        self.lags: defaultdict[Kind, Lags] = defaultdict(Lags)
        self.received_at = clock.now()  # of what is being told

    def topic(self, kind: Kind, interval: str | None = None) -> Topic:
        return Topic(self._exchange, self._symbol, kind, interval)

    def subscribe(self, topic: Topic, capacity: int) -> Reader[Said]:
        """A reader of one topic that holds up to `capacity` unread items."""
        return self._broadcasts.setdefault(topic, Broadcast()).subscribe(capacity)

    def publish(self, topic: Topic, said: Said) -> None:
        if isinstance(said, Gap):
            self._quality[topic].noticed(said)
            self._counts.lost(topic.kind, said)
        elif not isinstance(said, Status):
            self._quality[topic].heard(self.received_at)
            self._counts.events[topic.kind] += 1
        if broadcast := self._broadcasts.get(topic):
            broadcast.publish(said)
        self._everything.publish(topic.kind, said, self.received_at)

    def lagged(self, kind: Kind, pushed_at: datetime) -> None:
        """What the exchange pushed at this time, by its clock, was received just now."""
        seconds = (self.received_at - pushed_at).total_seconds()
        self.lags[kind].add(seconds)
        self._counts.lag[kind].observe(max(0.0, seconds + self._counts.skew))  # the skew is known to a few milliseconds

    def last_heard(self) -> dict[Kind, datetime]:
        """When the youngest event of each kind was received."""
        found: dict[Kind, datetime] = {}
        for topic, quality in self._quality.items():
            if quality.last_event is not None:
                found[topic.kind] = max(quality.last_event, found.get(topic.kind, quality.last_event))
        return found

    def publish_bar(self, interval: str, said: Ohlc | Gap) -> None:
        self.publish(self.topic("ohlc", interval), said)

    def publish_status(self, status: Status) -> None:
        """To the readers of every topic."""
        for topic in dict.fromkeys((*self._broadcasts, *map(self.topic, KINDS))):  # in an order that does not change
            self.publish(topic, status)

    def report(
        self, now: datetime, skew: timedelta, down_since: datetime | None, duplicates: Callable[[Topic], int]
    ) -> list[TopicReport]:
        """One report per topic that said anything; `skew` is the exchange's clock minus ours, times are by ours."""
        reports = {kind: lags.report(skew) for kind, lags in self.lags.items()}
        return [
            quality.report(
                str(topic),
                now,
                duplicates=duplicates(topic),
                lag=reports.get("trades" if topic.kind == "large_trades" else topic.kind),
                down_since=down_since,
            )
            for topic, quality in sorted(self._quality.items(), key=lambda item: str(item[0]))
        ]
