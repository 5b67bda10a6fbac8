"""Which of a feed's topics are silent for longer than is usual for them. No I/O, no clock: times are seconds, given."""

from collections.abc import Iterable

from actors.events import Topic
from actors.feeds.pulse import Pulse


class Silence:
    """Of bars by interval, and of trades: what a line carries and what speaks whenever the market does."""

    def __init__(self) -> None:
        self._pulses: dict[str, Pulse] = {}

    def expect(self, topics: Iterable[Topic], now: float | None) -> None:
        """From now on (None: once there is a connection) these topics' silence counts."""
        for topic in topics:
            pulse = self._pulses.setdefault(_name(topic), Pulse())
            if now is not None and pulse.last is None:
                pulse.expect(now)

    def heard(self, name: str, now: float) -> None:
        """An interval's bar, or of "trades" one."""
        if pulse := self._pulses.get(name):
            pulse.heard(now)

    def pause(self) -> None:
        """The connection is gone: silence means nothing."""
        for pulse in self._pulses.values():
            pulse.pause()

    def excuse(self, topic: Topic, now: float) -> None:
        """A topic's silence so far is nothing unusual."""
        if pulse := self._pulses.get(_name(topic)):
            pulse.excuse(now)

    def last(self, name: str) -> float | None:
        """When a topic spoke last, or was asked to; None where nothing is to be expected of it."""
        pulse = self._pulses.get(name)
        return pulse.last if pulse else None

    def is_unusual(self, topic: Topic, now: float) -> bool:
        pulse = self._pulses.get(_name(topic))
        return pulse is not None and pulse.is_overdue(now)


def _name(topic: Topic) -> str:
    return topic.interval or topic.kind
