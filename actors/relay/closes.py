"""The bars of a lane in one term: a successor tells each close that the log lacks, before anything newer. No I/O.

Feeds know every close, though they may have yet to fetch some: what comes meanwhile waits for these.
"""

from collections.abc import Callable, Container
from datetime import datetime
from typing import Protocol

import msgspec
import trio

from actors.engine.words import Present
from actors.events import Event, Gap, Ohlc, Topic, bar_end, from_ms, ms
from actors.relay.takeover import encode, topic_named, unheard

HISTORY = 1500  # closed bars that are looked through for those the log lacks
WITHIN = 10.0  # seconds that a topic's bars wait for closes that its feed has yet to fetch


class Knows(Protocol):
    """A feed, as far as a lane asks it."""

    def current(self, topic: Topic) -> Event | None: ...
    def closed_bars(self, interval: str, count: int) -> tuple[datetime, list[Ohlc], bool] | None: ...


FeedOf = Callable[[str], Knows | None]
"""(symbol) -> its feed; None where there is none just now."""


class Add(Protocol):
    def __call__(self, name: str, said: Ohlc | Gap, text: bytes, closes: int | None = None) -> None:
        """Say it. `text`: its JSON. `closes`: the open time of the bar that it closes, in Unix milliseconds."""


class Closes:
    """`is_cold`: whether a symbol was not heard at the log's end."""

    def __init__(self, present: Present, feed_of: FeedOf, is_cold: Container[str], add: Add) -> None:
        self._feed_of, self._is_cold, self._add = feed_of, is_cold, add
        self._expected = _expected(present)  # by topic: the open of the first bar whose close is yet to be told
        self._told: dict[str, bytes] = dict(present.now)  # the last of each topic
        self._is_caught_up: set[str] = set()  # topics that are told up to the present
        self._waiting: dict[str, tuple[Topic, list[Ohlc | Gap]]] = {}  # of those that are not
        self._began_at = trio.current_time()

    @property
    def is_waiting(self) -> bool:
        """Time may bring what it waits for: see `look`."""
        return bool(self._waiting)

    def take(self, name: str, topic: Topic, said: Ohlc | Gap) -> None:
        if name in self._is_caught_up:
            self._tell(name, said)
        else:
            self._waiting.setdefault(name, (topic, []))[1].append(said)
            self.catch_up(name, topic)

    def look(self) -> None:
        """Whether there is now what is waited for."""
        for name, (topic, _) in list(self._waiting.items()):
            self.catch_up(name, topic)

    def forget(self, symbol: str) -> None:
        """It is no longer heard."""
        self._waiting = {name: waits for name, waits in self._waiting.items() if waits[0].symbol != symbol}

    def catch_up(self, name: str, topic: Topic) -> None:
        """Tell the closes that the log lacks, and what waited for them; later, where the feed has yet to fetch them."""
        if name in self._is_caught_up:
            return
        expected, missed = self._expected.get(name), self._missed(name, topic)
        if missed is None:
            if trio.current_time() < self._began_at + WITHIN:
                self._waiting.setdefault(name, (topic, []))
                return
            missed = []
        _, waiting = self._waiting.pop(name, (topic, []))
        self._is_caught_up.add(name)
        if expected is not None and not self._is_known_since(expected, topic):
            following = [*missed, *(said for said in waiting if isinstance(said, Ohlc))]
            if following and following[0].timestamp > expected:
                self._tell_gap(name, unheard(topic, expected, following[0].timestamp))
        if missed and topic.interval and topic.symbol in self._is_cold:
            until = bar_end(missed[-1].timestamp, topic.interval)
            self._tell_gap(name, unheard(topic, missed[0].timestamp, until, repaired=True))
        for said in [*missed, *waiting]:
            self._tell(name, said)

    def _missed(self, name: str, topic: Topic) -> list[Ohlc] | None:
        """The closes since the last one that was told; None where the feed may yet get them."""
        expected, feed = self._expected.get(name), self._feed_of(topic.symbol)
        if expected is None:
            return []  # nobody was told anything
        if feed is None or topic.interval is None or (known := feed.closed_bars(topic.interval, HISTORY)) is None:
            return None
        begins, bars, _ = known
        if begins > expected and not bars:
            return None
        return [bar for bar in bars if bar.timestamp >= expected]

    def _is_known_since(self, expected: datetime, topic: Topic) -> bool:
        """The feed's bars reach back to the first one whose close was not told: what is missing there is not."""
        feed = self._feed_of(topic.symbol)
        known = feed.closed_bars(topic.interval or "", HISTORY) if feed is not None else None
        return known is not None and bool(known[1]) and known[1][0].timestamp <= expected

    def _tell(self, name: str, said: Ohlc | Gap) -> None:
        expected = self._expected.get(name)
        if isinstance(said, Gap):
            if expected is None or said.end > expected:
                self._tell_gap(name, said)
            return
        text = encode(said)
        if (expected is not None and said.timestamp < expected) or self._told.get(name) == text:
            return
        self._told[name] = text
        self._expected[name] = bar_end(said.timestamp, said.interval) if said.is_closed else said.timestamp
        self._add(name, said, text, ms(said.timestamp) if said.is_closed else None)

    def _tell_gap(self, name: str, gap: Gap) -> None:
        self._add(name, gap, encode(gap))


def _expected(present: Present) -> dict[str, datetime]:
    """By topic of bars the open of the first one whose close was not told."""
    found = {}
    for name, open_ms in present.closed.items():
        found[name] = bar_end(from_ms(open_ms), topic_named(name).interval or "")
    for name, text in present.now.items():
        if name not in found and ":ohlc:" in name:
            bar = msgspec.json.decode(text, type=Ohlc)  # none of this topic was ever closed
            found[name] = bar.timestamp
    return found
