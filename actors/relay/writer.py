"""One lane: what is said of it, in which order and under which numbers, by the node that leads it. No I/O.

Every node hears everything. One that does not lead remembers the last half minute of what happens once, and says at its
takeover what the log lacks; of bars it asks its feeds, which know every close; of rates and interest the latest counts.
Spikes are told once per bar: nodes may disagree on how unusual it was, and the first that is said counts.
What no memory here reaches is announced as a gap, once.
"""

from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from math import inf
from typing import Protocol

import msgspec
import trio
from msgspec import Struct, structs

from actors import clock
from actors.collection import NO_READER
from actors.engine.words import REACH, STATUS, Burst, Entry, Present
from actors.engine.words import Told as Logged
from actors.events import (
    Event,
    FundingRate,
    Gap,
    Liquidation,
    Ohlc,
    OiSpike,
    OpenInterest,
    Said,
    Status,
    Topic,
    Trade,
    bar_end,
    from_ms,
    ms,
)
from actors.relay.takeover import MOMENTS, REMEMBERED, Tail, name_of, topic_named

BURST = 250  # entries of one burst at most: the engine does nothing else while it takes those of all lanes
LATER = 0.5  # seconds by which another node may tell a thing after it was heard here
HISTORY = 1500  # closed bars that are looked through for those the log lacks
BARS_WITHIN = 10.0  # seconds that a topic's bars wait for closes that its feed has yet to fetch
UNHEARD = "nobody listened to the exchange"

_encode = msgspec.json.Encoder().encode


class Knows(Protocol):
    """A feed, as far as a lane asks it."""

    def current(self, topic: Topic) -> Event | None: ...
    def closed_bars(self, interval: str, count: int) -> tuple[datetime, list[Ohlc], bool] | None: ...


class _Heard(Struct, frozen=True, gc=False):  # it refers to nothing that could refer back
    at: float
    topic: Topic
    said: Said


class Writer:
    """`feed_of`: the feed of a symbol, None where there is none just now. `on_news`: something is to be said."""

    def __init__(self, feed_of: Callable[[str], Knows | None], on_news: Callable[[], None] = lambda: None) -> None:
        self.is_leading = False
        self._on_news = on_news
        self.gaps = 0  # told for want of anybody who had listened
        self._feed_of = feed_of
        self._topics: dict[str, Topic] = {}  # that spoke here
        self._recent: deque[_Heard] = deque()  # what happens once, and gaps
        self._forgot_at: dict[str, float] = {}  # by topic: when the last of it was heard that is no longer remembered
        self._since: dict[str, float] = {}  # by symbol: all that happened since then was heard here
        self._live_since: dict[str, float] = {}  # by symbol: since when its feed delivers
        self._told_until = -inf  # what was heard before that was told, by whoever led
        self._down_since: dict[str, float] = {}  # by symbol: since when it does not
        self._states: dict[str, Status] = {}  # by symbol
        self._forget()

    def _forget(self) -> None:
        """Begin, or stop, to lead: nothing of a term is of use to the next."""
        self._n = 0
        self._seqs: dict[str, int] = {}
        self._expected: dict[str, datetime] = {}  # by topic: the open of the first bar whose close is yet to be told
        self._told: dict[str, object] = {}  # the last value of topics of which only changes are said
        self._pending: deque[tuple[Entry, int | None]] = deque()  # with the open time of a bar that it closes
        self._burst: Burst | None = None  # under way
        self._collected_at = -inf  # it ends what was heard before that
        self._tail: Tail | None = None
        self._led_at = trio.current_time()
        self._owed: dict[str, datetime] = {}  # by topic: since when nobody listened
        self._unheard: dict[str, tuple[datetime, datetime]] = {}  # by symbol: what was announced of other topics
        self._is_cold: set[str] = set()  # symbols that were not heard at the log's end
        self._is_caught_up: set[str] = set()  # topics of bars that are told up to the present
        self._waiting: dict[str, list[Ohlc | Gap]] = {}  # of those that are not
        self.torn: set[str] = set()  # topics of which a gap was told in this term

    # --- what feeds say ---

    def take(self, topic: Topic, said: Event | Gap) -> None:
        now, name = trio.current_time(), name_of(topic)
        if name not in self._topics:
            self._topics[name] = topic
        if topic.symbol not in self._since and isinstance(said, Event):
            self._since[topic.symbol] = now
        if topic.kind in REMEMBERED:
            self._recent.append(_Heard(now, topic, said))
            if self._recent[0].at < now - REACH:
                self._forget_until(now - REACH)
        if self.is_leading:
            self._tell(name, topic, said)

    def _forget_until(self, at: float) -> None:
        while self._recent and self._recent[0].at < at:
            old = self._recent.popleft()
            self._forgot_at[name_of(old.topic)] = old.at

    def take_status(self, status: Status) -> None:
        self._states[status.symbol] = status
        now = trio.current_time()
        if status.state == "down":
            self._down_since.setdefault(status.symbol, now)
        else:
            self._down_since.pop(status.symbol, None)
        if status.state in ("live", "stale"):
            self._since.setdefault(status.symbol, now)
            self._live_since.setdefault(status.symbol, now)
        else:
            self._live_since.pop(status.symbol, None)
        if status.state == "failed":  # what happens from now on is not heard
            self._since.pop(status.symbol, None)
            self._recent = deque(one for one in self._recent if one.topic.symbol != status.symbol)
            if status.reason == NO_READER and not self.is_leading:  # somebody else collects it
                del self._states[status.symbol]
            self._topics = {name: topic for name, topic in self._topics.items() if topic.symbol != status.symbol}
            self._waiting = {name: waits for name, waits in self._waiting.items() if name in self._topics}
        if self.is_leading:
            self._tell_status(status)

    @property
    def bars(self) -> dict[str, Topic]:
        """The topics of bars that spoke here, by name."""
        return {name: topic for name, topic in self._topics.items() if topic.kind == "ohlc"}

    def has_heard(self, symbol: str, seconds: float) -> bool:
        """Whether a symbol's feed delivers, and did so for so long: what happened since then is remembered."""
        return self._live_since.get(symbol, inf) <= trio.current_time() - seconds

    def is_deaf(self, symbol: str, seconds: float) -> bool:
        """Whether a symbol's feed has been cut off for so long."""
        return self._down_since.get(symbol, inf) <= trio.current_time() - seconds

    def was_asleep(self) -> None:
        """The process stood still: what the feeds deliver is yet to be what happens now."""
        self._live_since = dict.fromkeys(self._live_since, trio.current_time())

    # --- leading ---

    def lead(self, present: Present, tail: Sequence[Logged], asked_at: float) -> None:
        """Go on where the log ends: what it lacks of what is remembered is said first.

        `asked_at`: when the present was asked for, by Trio's clock.
        """
        self._forget()
        self.is_leading = True
        self._n, self._seqs = present.n, dict(present.seqs)
        self._expected = _expected(present)
        self._tail = Tail(present, tail)
        # What readers of a memory that is no more were told is not told again in another one, which begins.
        self._forget_until(trio.current_time() - REACH if present.n else self._told_until)
        for name, text in present.now.items():
            self._told[name] = text
        for status in self._states.values():
            self._tell_status(status)
        if present.n:
            self._note_unheard(asked_at - self._tail.age, present)
        for heard in list(self._recent):
            self._tell(name_of(heard.topic), heard.topic, heard.said)
        for name, topic in self._topics.items():
            feed = self._feed_of(topic.symbol)
            current = feed.current(topic) if feed is not None else None
            if topic.kind == "ohlc":
                self._catch_up(name, topic)
            if current is not None:
                self._tell(name, topic, current)

    def stop(self) -> None:
        """Somebody else leads, or nobody."""
        self._forget()
        self.is_leading = False

    def burst(self) -> Burst | None:
        """What is to be said next: the same until it is `acknowledged`; None: nothing."""
        if self._burst is None:
            if self._waiting or self._tail is not None:
                self._look()
            if not self._pending:
                return None
            said = [self._pending.popleft() for _ in range(min(BURST, len(self._pending)))]
            closed: dict[str, list[int]] = {}
            for entry, open_ms in said:
                if open_ms is not None:
                    closed.setdefault(entry.topic, []).append(open_ms)
            self._burst = Burst(self._n + 1, [entry for entry, _ in said], closed)
            if not self._pending:
                self._collected_at = trio.current_time()
        return self._burst

    @property
    def under_way(self) -> Burst | None:
        """The burst that waits to be acknowledged."""
        return self._burst

    def is_saying(self, burst: Burst) -> bool:
        """It is the one that waits to be acknowledged."""
        return self._burst is burst

    def acknowledged(self) -> None:
        """The engine has the burst."""
        assert self._burst is not None
        self._n, self._burst = self._burst.n, None
        self._told_until = max(self._told_until, self._collected_at)

    def told_elsewhere(self) -> None:
        """Another node leads and is well, though it may hear later than we do."""
        self._told_until = max(self._told_until, trio.current_time() - LATER)

    def _look(self) -> None:
        """What only time brings."""
        now = trio.current_time()
        if self._tail is not None and now > self._led_at + REACH:
            self._tail = None  # nobody brings again what was told before
        for name in list(self._waiting):
            self._catch_up(name, self._topics[name])

    # --- what is said ---

    def _tell(self, name: str, topic: Topic, said: Said) -> None:
        if self._owed and topic.kind in MOMENTS and isinstance(said, Event):  # a bar's time is its open
            self._announce(topic, said.timestamp)
        match said:  # what is most comes first
            case Trade() | Liquidation():
                text = _encode(said)
                if self._tail is None or not self._tail.has(name, said, text):
                    if self._unheard and name not in self._seqs and topic.symbol in self._unheard:
                        # Of this topic nothing was ever told in this memory: it was not known that there is one.
                        self._add_unheard(name, topic, *self._unheard[topic.symbol])
                    self._add(name, said.type, text)
            case Ohlc() | Gap() if topic.kind == "ohlc":
                if name in self._is_caught_up:
                    self._tell_of_bars(name, topic, said)
                else:
                    self._waiting.setdefault(name, []).append(said)
                    self._catch_up(name, topic)
            case Gap():
                self._tell_gap(name, said)
            case FundingRate() | OpenInterest():
                self._tell_value(name, said)
            case OiSpike():
                self._tell_spike(name, said)

    def _add(self, name: str, type: str, text: bytes, closes: int | None = None, *, numbered: bool = True) -> None:
        seq = None
        if numbered:
            seq = self._seqs[name] = self._seqs.get(name, 0) + 1
        if not self._pending:
            self._on_news()
        if type == Gap.type:
            self.torn.add(name)
        self._pending.append((Entry(name, type, seq, text), closes))

    def _tell_status(self, status: Status) -> None:
        name, told = f"{status.exchange}:{status.symbol}", None
        if isinstance(text := self._told.get(name), bytes):
            told = msgspec.json.decode(text, type=Status)
        self._told[name] = text = _encode(status)
        if told is None or (told.state, told.reason) != (status.state, status.reason):
            self._add(name, STATUS, text, numbered=False)

    def _tell_value(self, name: str, said: FundingRate | OpenInterest) -> None:
        """Where it differs from what was told last."""
        told = self._told.get(name)
        if isinstance(told, bytes):  # by somebody else
            told = _value(msgspec.json.decode(told, type=type(said)))
        if told != _value(said):
            self._add(name, said.type, _encode(said))
        self._told[name] = _value(said)

    def _tell_spike(self, name: str, said: OiSpike) -> None:
        """Where its bar is a later one than that of the last spike."""
        told = self._told.get(name)
        if isinstance(told, bytes):
            told = msgspec.json.decode(told, type=OiSpike).timestamp
        if not isinstance(told, datetime) or said.timestamp > told:
            self._add(name, said.type, _encode(said))
            told = said.timestamp
        self._told[name] = told

    def _tell_gap(self, name: str, gap: Gap) -> None:
        """What was lost here, as far as it was not told by who led before."""
        if self._tail is not None and self._tail.at is not None and gap.start < self._tail.at:
            if gap.end <= self._tail.at:
                return
            gap = structs.replace(gap, start=self._tail.at)
        self._add(name, gap.type, _encode(gap), numbered=False)

    # --- what nobody heard ---

    def _note_unheard(self, tail_at: float, present: Present) -> None:
        """Of which topics this node cannot tell all since the log's end (`tail_at`, by our own clock)."""
        assert self._tail is not None
        if self._tail.at is None:
            return
        apart = self._apart(tail_at)
        for name in present.seqs:
            topic = topic_named(name)
            is_cold = self._since.get(topic.symbol, inf) > tail_at or self._forgot_at.get(name, tail_at) > tail_at
            if is_cold or topic.symbol in apart:
                self._is_cold.add(topic.symbol)
                if topic.kind in MOMENTS:
                    newest = self._tail.newest(topic.symbol) if topic.symbol in apart else None
                    self._owed[name] = min(newest or self._tail.at, self._tail.at)
        for heard in self._recent if self._owed else ():
            if heard.topic.kind in MOMENTS and isinstance(heard.said, Event):
                self._announce(heard.topic, heard.said.timestamp)

    def _apart(self, tail_at: float) -> set[str]:
        """Symbols of which nothing that was heard here is in the log, though it was before the log's end.

        What was said last may have happened long before: it was said by one that had much to catch up with, or knew
        nothing of this symbol yet. Nothing but what both know shows that there is no hole between.
        """
        assert self._tail is not None
        before, common = set(), set()
        for heard in self._recent:
            symbol = heard.topic.symbol
            if symbol in common or heard.topic.kind not in MOMENTS or not isinstance(heard.said, Event):
                continue
            if self._tail.tells(name_of(heard.topic), heard.said):
                common.add(symbol)
            elif heard.at < tail_at - LATER:
                before.add(symbol)
        return before - common

    def _announce(self, heard: Topic, until: datetime) -> None:
        """Until the first thing that was heard of a symbol, nobody had listened; to its trades, until the first trade.

        An exchange is asked for one topic after the other, and of the others nothing may happen for hours.
        """
        for name, since in list(self._owed.items()):
            topic = topic_named(name)
            if topic.symbol == heard.symbol and (topic.kind != "trades" or heard.kind == "trades"):
                del self._owed[name]
                self._unheard[heard.symbol] = since, max(since, until)
                self._add_unheard(name, topic, since, max(since, until))

    def _add_unheard(self, name: str, topic: Topic, since: datetime, until: datetime) -> None:
        self.gaps += 1
        self._add(name, Gap.type, _encode(_gap(topic, since, until, False)), numbered=False)

    # --- bars ---

    def _catch_up(self, name: str, topic: Topic) -> None:
        """Tell the closes that the log lacks, and what waited for them; later, where the feed has yet to fetch them."""
        if name in self._is_caught_up:
            return
        expected, missed = self._expected.get(name), self._missed_bars(name, topic)
        if missed is None:
            if trio.current_time() < self._led_at + BARS_WITHIN:
                self._waiting.setdefault(name, [])
                return
            missed = []
        waiting = self._waiting.pop(name, [])
        self._is_caught_up.add(name)
        if expected is not None and not self._is_known_since(expected, topic):
            following = [*missed, *(said for said in waiting if isinstance(said, Ohlc))]
            if following and following[0].timestamp > expected:
                self.gaps += 1
                gap = _gap(topic, expected, following[0].timestamp, False)
                self._add(name, gap.type, _encode(gap), numbered=False)
        if missed and topic.interval and topic.symbol in self._is_cold:
            gap = _gap(topic, missed[0].timestamp, bar_end(missed[-1].timestamp, topic.interval), True)
            self._add(name, gap.type, _encode(gap), numbered=False)
        for said in [*missed, *waiting]:
            self._tell_of_bars(name, topic, said)

    def _missed_bars(self, name: str, topic: Topic) -> list[Ohlc] | None:
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

    def _tell_of_bars(self, name: str, topic: Topic, said: Ohlc | Gap) -> None:
        expected = self._expected.get(name)
        if isinstance(said, Gap):
            if expected is None or said.end > expected:
                self._add(name, said.type, _encode(said), numbered=False)
            return
        text = _encode(said)
        if (expected is not None and said.timestamp < expected) or self._told.get(name) == text:
            return
        self._told[name] = text
        self._expected[name] = bar_end(said.timestamp, said.interval) if said.is_closed else said.timestamp
        self._add(name, said.type, text, ms(said.timestamp) if said.is_closed else None)


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


def _value(said: FundingRate | OpenInterest) -> object:
    """What makes it another one than the last."""
    if isinstance(said, OpenInterest):
        return said.open_interest
    return said.funding_rate, said.funding_time, said.funding_interval_hours


def _gap(topic: Topic, start: datetime, end: datetime, repaired: bool) -> Gap:
    return Gap(
        exchange=topic.exchange,
        symbol=topic.symbol,
        timestamp=clock.now(),
        start=start,
        end=max(end, start + timedelta(milliseconds=1)),
        reason=UNHEARD,
        repaired=repaired,
    )
