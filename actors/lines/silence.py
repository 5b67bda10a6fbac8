"""Which topics of a connection are silent though they should speak, and when that costs the connection. No I/O.

Watched are topics that speak within seconds whatever the market does, and others that their feed is sure about. Who is
silent is asked for again; where that is in vain the connection is given up, for one topic's sake not too often. Times
are seconds, given.
"""

from collections import Counter
from collections.abc import Mapping

from actors.errors import LineLost
from actors.events import Topic

REPLACE_EVERY = 600.0  # seconds: one silent topic may cost the others their connection no more often
ANSWER = 5.0  # seconds after it was asked for in which a topic's word may be nothing but the answer
RARELY = 16  # times the limit: a topic that speaks only when asked, or never, is asked for no less often
NEVER = float("-inf")


class Silence:
    def __init__(self, limit: float) -> None:
        self._limit = limit  # seconds
        self._asked_at: dict[Topic, float] = {}
        self._heard_at: dict[Topic, float] = {}
        self._doubted: set[Topic] = set()  # asked for again, and not heard since
        self._in_vain: Counter[Topic] = Counter()  # silences since the topic last spoke without being asked
        self._replaced_at: dict[Topic, float] = {}  # when a connection was given up for a topic's sake

    def restart(self) -> None:
        """A new connection: nothing was asked for on it."""
        self._asked_at.clear()
        self._heard_at.clear()
        self._doubted.clear()

    def asked(self, topic: Topic, now: float) -> None:
        self._asked_at[topic] = now

    def forget(self, topic: Topic) -> None:
        self._asked_at.pop(topic, None)
        self._heard_at.pop(topic, None)
        self._doubted.discard(topic)

    @property
    def has_doubts(self) -> bool:
        return bool(self._doubted)

    def doubt(self, topic: Topic, now: float) -> bool:
        """The topic is asked for again because its feed is sure that it should have spoken; False: it is already."""
        if topic in self._doubted:
            return False
        self._doubted.add(topic)
        self._asked_at[topic] = now
        return True

    def heard(self, topic: Topic, now: float, *, is_prompt: bool) -> bool:
        """Whether this is its first word, or one after a silence."""
        was_doubted = topic in self._doubted
        if was_doubted:
            self.forget(topic)
        if not is_prompt:
            return was_doubted
        self._asked_at.setdefault(topic, now)
        heard_at = self._heard_at.get(topic)
        self._heard_at[topic] = now
        if self._in_vain and now - self._asked_at[topic] > ANSWER:
            del self._in_vain[topic]
        return heard_at is None or now - heard_at > self._limit

    def is_heard_like(self, other: "Silence", topics: Mapping[Topic, object]) -> bool:
        """Every one of `topics` that the other one has heard has been heard here too."""
        return other._heard_at.keys() & topics.keys() <= self._heard_at.keys()

    def look(self, now: float) -> list[Topic]:
        """Topics to be asked for again. Raises LineLost where one was, in vain."""
        silent = []
        for topic, asked_at in self._asked_at.items():
            limit = self._limit * _growth(self._in_vain[topic])
            if now - max(asked_at, self._heard_at.get(topic, NEVER)) > limit:
                if topic in self._doubted and now - self._replaced_at.get(topic, NEVER) > REPLACE_EVERY:
                    self._replaced_at[topic] = now
                    raise LineLost(
                        f"silence: no {topic.kind} data of {topic.symbol}, though asked for again", how="silence"
                    )
                silent.append(topic)
                self._in_vain[topic] += 1
        self._doubted.update(silent)
        self._asked_at.update(dict.fromkeys(silent, now))
        return silent


def _growth(in_vain: int) -> int:
    """1 for the first two silences: one may be a chance, and the second one costs the connection."""
    return min(RARELY, 1 << min(in_vain - 1, 10)) if in_vain > 1 else 1
