"""Which of a feed's topics are silent for longer than is usual for them. No I/O, no clock: times are seconds, given.

Topics that share a subscription are judged together, by whichever of them speaks: a dated contract's ticker has no
funding, and is heard all the same.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping

from actors.events import Event, Kind, Ohlc, Topic
from actors.feeds.pulse import Pulse


class _Judged:
    """One subscription, and the topic that stands for it: the one that spoke last."""

    __slots__ = ("pulse", "topic")

    def __init__(self, topic: Topic, slow: float) -> None:
        self.pulse = Pulse(slow)
        self.topic = topic


class Silence:
    """Of what a line carries and what speaks whenever the market does."""

    def __init__(self, subscription_of: Callable[[Topic], Hashable], slow: Mapping[Kind, float]) -> None:
        self._subscription_of, self._slow = subscription_of, slow
        self._all: dict[Hashable, _Judged] = {}  # by subscription
        self._by_name: dict[str, tuple[_Judged, Topic]] = {}

    def expect(self, topics: Iterable[Topic], now: float | None) -> None:
        """From now on (None: once there is a connection) these topics' silence counts."""
        for topic in topics:
            judged = self._all.setdefault(self._subscription_of(topic), _Judged(topic, self._slow.get(topic.kind, 0.0)))
            self._by_name[topic.interval or topic.kind] = judged, topic
            if now is not None and judged.pulse.last is None:
                judged.pulse.expect(now)

    def heard(self, event: Event, now: float) -> None:
        found = self._by_name.get(event.interval if isinstance(event, Ohlc) else event.kind)
        if found is not None:
            judged, topic = found
            judged.topic = topic
            judged.pulse.heard(now)

    def pause(self) -> None:
        """The connection is gone: silence means nothing."""
        for judged in self._all.values():
            judged.pulse.pause()

    def excuse(self, now: float, topic: Topic | None = None) -> None:
        """A topic's (None: every one's) silence so far is nothing unusual."""
        for judged in self._all.values():
            if topic is None or judged is self._judged(topic):
                judged.pulse.excuse(now)

    def last(self, name: str) -> float | None:
        """When the bars of an interval, or a kind, spoke last, or were asked to; None where nothing is expected."""
        found = self._by_name.get(name)
        return found[0].pulse.last if found else None

    def overdue(self, now: float) -> Topic | None:
        """A topic whose silence is unusual, if there is one."""
        return next((judged.topic for judged in self._all.values() if judged.pulse.is_overdue(now)), None)

    def is_overdue(self, topic: Topic, now: float) -> bool:
        judged = self._judged(topic)
        return judged is not None and judged.pulse.is_overdue(now)

    def _judged(self, topic: Topic) -> _Judged | None:
        return self._all.get(self._subscription_of(topic))
