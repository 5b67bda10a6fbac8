"""What one node heard of a lane, whoever leads it: all that it needs to go on for another. No I/O."""

from collections import deque
from math import inf

import trio
from msgspec import Struct

from actors.collection import NO_READER
from actors.engine.words import REACH
from actors.events import Event, Gap, Said, Status, Topic
from actors.relay.takeover import REMEMBERED, name_of

LATER = 0.5  # seconds by which another node may tell a thing after it was heard here


class Heard(Struct, frozen=True, gc=False):  # it refers to nothing that could refer back
    at: float
    topic: Topic
    said: Said


class Hearing:
    """`topics`: those that spoke here, by name. `recent`: what happens once, and gaps. By symbol: `states`, and `since`
    when all that happened was heard. `forgot_at`: by topic, when the last of it was heard that is no longer remembered.
    Times are Trio's.
    """

    def __init__(self) -> None:
        self.topics: dict[str, Topic] = {}
        self.recent: deque[Heard] = deque()
        self.states: dict[str, Status] = {}
        self.since: dict[str, float] = {}
        self.forgot_at: dict[str, float] = {}
        self._live_since: dict[str, float] = {}  # by symbol: since when its feed delivers
        self._down_since: dict[str, float] = {}  # by symbol: since when it does not
        self._told_until = -inf  # what was heard before that was told, by whoever led

    # --- what feeds say ---

    def take(self, name: str, topic: Topic, said: Event | Gap) -> None:
        """`name`: the topic's."""
        now = trio.current_time()
        if name not in self.topics:
            self.topics[name] = topic
        if topic.symbol not in self.since and isinstance(said, Event):
            self.since[topic.symbol] = now
        if topic.kind in REMEMBERED:
            self.recent.append(Heard(now, topic, said))
            if self.recent[0].at < now - REACH:
                self._forget_until(now - REACH)

    def take_status(self, status: Status, *, is_leading: bool) -> None:
        self.states[status.symbol] = status
        now = trio.current_time()
        if status.state == "down":
            self._down_since.setdefault(status.symbol, now)
        else:
            self._down_since.pop(status.symbol, None)
        if status.state in ("live", "stale"):
            self.since.setdefault(status.symbol, now)
            self._live_since.setdefault(status.symbol, now)
        else:
            self._live_since.pop(status.symbol, None)
        if status.state == "failed":  # what happens from now on is not heard
            self.since.pop(status.symbol, None)
            self.recent = deque(one for one in self.recent if one.topic.symbol != status.symbol)
            if status.reason == NO_READER and not is_leading:  # somebody else collects it
                del self.states[status.symbol]
            self.topics = {name: topic for name, topic in self.topics.items() if topic.symbol != status.symbol}

    # --- what is remembered ---

    def forget_old(self, begun_at: float) -> None:
        """`begun_at`: when a memory began. What readers of the one before were told is not told again in it."""
        self._forget_until(max(trio.current_time() - REACH, min(self._told_until, begun_at)))

    def _forget_until(self, at: float) -> None:
        while self.recent and self.recent[0].at < at:
            old = self.recent.popleft()
            self.forgot_at[name_of(old.topic)] = old.at

    def was_told(self, until: float) -> None:
        """What was heard before `until` was told."""
        self._told_until = max(self._told_until, until)

    def told_elsewhere(self) -> None:
        """Another node leads and is well, though it may hear later than we do."""
        self.was_told(trio.current_time() - LATER)

    def was_asleep(self) -> None:
        """The process stood still: what the feeds deliver is yet to be what happens now."""
        self._live_since = dict.fromkeys(self._live_since, trio.current_time())

    # --- how well it hears ---

    def is_whole(self, symbol: str, seconds: float) -> bool:
        """Whether a symbol's feed delivers, and did so for so long: what happened since then is remembered."""
        return self._live_since.get(symbol, inf) <= trio.current_time() - seconds

    def is_deaf(self, symbol: str, seconds: float) -> bool:
        """Whether a symbol's feed has been cut off for so long."""
        return self._down_since.get(symbol, inf) <= trio.current_time() - seconds
