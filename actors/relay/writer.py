"""One lane: what is said of it, in which order and under which numbers, by the node that leads it. No I/O.

Every node hears everything. One that does not lead remembers the last half minute of what happens once (`hearing.py`),
and says at its takeover what the log lacks; of bars it asks its feeds, which know every close (`closes.py`); of rates
and interest the latest counts. Spikes are told once per bar: nodes may disagree on how unusual it was, and the first
that is said counts.
What no memory here reaches is announced as a gap, once.
"""

from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from math import inf

import msgspec
import trio
from msgspec import structs

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
)
from actors.relay.closes import Closes, FeedOf
from actors.relay.hearing import LATER, Hearing
from actors.relay.takeover import MOMENTS, UNHEARD, Tail, encode, name_of, topic_named, unheard

BURST = 250  # entries of one burst at most: the engine does nothing else while it takes those of all lanes


class Writer:
    """`feed_of`: the feed of a symbol, None where there is none just now. `on_news`: something is to be said."""

    def __init__(self, feed_of: FeedOf, on_news: Callable[[], None] = lambda: None) -> None:
        self.hearing = Hearing()
        self.gaps = 0  # told for want of anybody who had listened
        self._feed_of, self._on_news = feed_of, on_news
        self._forget()

    def _forget(self) -> None:
        """Begin, or stop, to lead: nothing of a term is of use to the next."""
        self._n = 0
        self._seqs: dict[str, int] = {}
        self._told: dict[str, object] = {}  # the last value of topics of which only changes are said
        self._pending: deque[tuple[Entry, int | None]] = deque()  # with the open time of a bar that it closes
        self._burst: Burst | None = None  # under way
        self._collected_at = -inf  # it ends what was heard before that
        self._tail: Tail | None = None
        self._led_at = trio.current_time()
        self._owed: dict[str, datetime] = {}  # by topic: since when nobody listened
        self._unheard: dict[str, tuple[datetime, datetime]] = {}  # by symbol: what was announced of other topics
        self._is_cold: set[str] = set()  # symbols that were not heard at the log's end
        self._closes: Closes | None = None  # while it leads
        self.torn: set[str] = set()  # topics of which a gap was told in this term

    @property
    def is_leading(self) -> bool:
        return self._closes is not None

    # --- what feeds say ---

    def take(self, topic: Topic, said: Event | Gap) -> None:
        name = name_of(topic)
        self.hearing.take(name, topic, said)
        if self.is_leading:
            self._tell(name, topic, said)

    def take_status(self, status: Status) -> None:
        self.hearing.take_status(status, is_leading=self.is_leading)
        if self._closes is not None and status.state == "failed":
            self._closes.forget(status.symbol)
        if self.is_leading:
            self._tell_status(status)

    @property
    def bars(self) -> dict[str, Topic]:
        """The topics of bars that spoke here, by name."""
        return {name: topic for name, topic in self.hearing.topics.items() if topic.kind == "ohlc"}

    # --- leading ---

    def lead(self, present: Present, tail: Sequence[Logged], asked_at: float) -> None:
        """Go on where the log ends: what it lacks of what is remembered is said first.

        `asked_at`: when the present was asked for, by Trio's clock.
        """
        self._forget()
        self._closes = Closes(present, self._feed_of, self._is_cold, self._add_of_bars)
        self._n, self._seqs = present.n, dict(present.seqs)
        self._tail = Tail(present, tail)
        self.hearing.forget_old(asked_at - self._tail.begun)
        for name, text in present.now.items():
            self._told[name] = text
        for status in self.hearing.states.values():
            self._tell_status(status)
        if present.n:
            self._note_unheard(asked_at - self._tail.age, present)
        for heard in list(self.hearing.recent):
            self._tell(name_of(heard.topic), heard.topic, heard.said)
        for name, topic in self.hearing.topics.items():
            feed = self._feed_of(topic.symbol)
            current = feed.current(topic) if feed is not None else None
            if topic.kind == "ohlc":
                self._closes.catch_up(name, topic)
            if current is not None:
                self._tell(name, topic, current)

    def stop(self) -> None:
        """Somebody else leads, or nobody."""
        self._forget()

    def burst(self) -> Burst | None:
        """What is to be said next: the same until it is `acknowledged`; None: nothing."""
        if self._burst is None:
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

    def acknowledged(self) -> None:
        """The engine has the burst."""
        assert self._burst is not None
        self._n, self._burst = self._burst.n, None
        self.hearing.was_told(self._collected_at)

    def _look(self) -> None:
        """What only time brings."""
        if self._tail is not None and trio.current_time() > self._led_at + REACH:
            self._tail = None  # nobody brings again what was told before
        if self._closes is not None and self._closes.is_waiting:
            self._closes.look()

    # --- what is said ---

    def _tell(self, name: str, topic: Topic, said: Said) -> None:
        if self._owed:
            self._end_unheard(name, topic, said)
        match said:  # what is most comes first
            case Trade() | Liquidation():
                text = encode(said)
                if self._tail is None or not self._tail.has(name, said, text):
                    if self._unheard and name not in self._seqs and topic.symbol in self._unheard:
                        # Of this topic nothing was ever told in this memory: it was not known that there is one.
                        self._add_unheard(name, topic, *self._unheard[topic.symbol])
                    self._add(name, said.type, text)
            case Ohlc() | Gap() if topic.kind == "ohlc":
                if self._closes is not None:
                    self._closes.take(name, topic, said)
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

    def _add_of_bars(self, name: str, said: Ohlc | Gap, text: bytes, closes: int | None = None) -> None:
        if isinstance(said, Gap) and said.reason == UNHEARD and not said.repaired:
            self.gaps += 1
        self._add(name, said.type, text, closes, numbered=isinstance(said, Ohlc))

    def _tell_status(self, status: Status) -> None:
        name, told = f"{status.exchange}:{status.symbol}", None
        if isinstance(text := self._told.get(name), bytes):
            told = msgspec.json.decode(text, type=Status)
        self._told[name] = text = encode(status)
        if told is None or (told.state, told.reason) != (status.state, status.reason):
            self._add(name, STATUS, text, numbered=False)

    def _tell_value(self, name: str, said: FundingRate | OpenInterest) -> None:
        """Where it differs from what was told last."""
        told = self._told.get(name)
        if isinstance(told, bytes):  # by somebody else
            before = msgspec.json.decode(told, type=type(said))
            if before.timestamp > said.timestamp:
                return  # ours was polled before
            told = _value(before)
        if told != _value(said):
            self._add(name, said.type, encode(said))
        self._told[name] = _value(said)

    def _tell_spike(self, name: str, said: OiSpike) -> None:
        """Where its bar is a later one than that of the last spike."""
        told = self._told.get(name)
        if isinstance(told, bytes):
            told = msgspec.json.decode(told, type=OiSpike).timestamp
        if not isinstance(told, datetime) or said.timestamp > told:
            self._add(name, said.type, encode(said))
            told = said.timestamp
        self._told[name] = told

    def _tell_gap(self, name: str, gap: Gap) -> None:
        """What was lost here, as far as it was not told by who led before."""
        if self._tail is not None and self._tail.at is not None:
            start = max(gap.start, self._tail.told_until(name))
            if gap.end <= start or self._tail.announces(name, start, gap.end):
                return
            gap = structs.replace(gap, start=start)
        self._add(name, gap.type, encode(gap), numbered=False)

    # --- what nobody heard ---

    def _note_unheard(self, tail_at: float, present: Present) -> None:
        """Of which topics this node cannot tell all since the log's end (`tail_at`, by our own clock).

        Where all begins anew there, readers are told so, and what was before that does not matter.
        """
        assert self._tail is not None
        if self._tail.at is None:
            return
        hearing, is_empty = self.hearing, self._tail.is_empty
        apart = set() if is_empty else self._apart(tail_at)
        topics = {topic_named(name) for name in present.seqs}
        feeds = {(topic.exchange, topic.symbol) for topic in topics} | {_feed_named(name) for name in self._tail.feeds}
        for topic in topics | {Topic(*feed, "trades") for feed in feeds}:  # of which perhaps none was told yet
            name = name_of(topic)
            told_until = tail_at if is_empty else tail_at - self._tail.silence(topic)
            heard_all_since = max(hearing.since.get(topic.symbol, inf), hearing.forgot_at.get(name, -inf))
            if heard_all_since > told_until or topic.symbol in apart:
                self._is_cold.add(topic.symbol)
                if topic.kind in MOMENTS:
                    self._owed[name] = self._tail.told_until(name)
        for heard in self.hearing.recent if self._owed else ():
            self._end_unheard(name_of(heard.topic), heard.topic, heard.said)

    def _apart(self, tail_at: float) -> set[str]:
        """Symbols of which nothing that was heard here is in the log, though it was before the log's end, or one began
        to listen only after what was said last had happened.

        That may have been long before: it was said by one that had much to catch up with, or knew nothing of this
        symbol yet. Nothing but what both know shows that there is no hole between.
        """
        assert self._tail is not None
        reached = tail_at - self._tail.behind - LATER
        before = {symbol for symbol, since in self.hearing.since.items() if since > reached}
        common = set()
        for heard in self.hearing.recent:
            symbol = heard.topic.symbol
            if symbol in common or heard.topic.kind not in MOMENTS or not isinstance(heard.said, Event):
                continue
            if self._tail.tells(name_of(heard.topic), heard.said):
                common.add(symbol)
            elif heard.at < tail_at - LATER:
                before.add(symbol)
        return before - common

    def _end_unheard(self, heard_name: str, heard: Topic, said: Said) -> None:
        """Until the first thing that was heard of a symbol, nobody had listened; to its trades, until the first trade.

        An exchange is asked for one topic after the other, and of the others nothing may happen for hours. A bar's time
        is its open, and what was told already ends nothing: there may be a hole behind it.
        """
        if heard.kind not in MOMENTS or not isinstance(said, Event):
            return
        if self._tail is not None and self._tail.tells(heard_name, said):
            return
        for name, since in list(self._owed.items()):
            topic = topic_named(name)
            if topic.symbol == heard.symbol and (topic.kind != "trades" or heard.kind == "trades"):
                del self._owed[name]
                self._seqs.setdefault(name, 0)  # it is announced, whether or not any was ever told
                self._unheard[heard.symbol] = since, max(since, said.timestamp)
                self._add_unheard(name, topic, *self._unheard[heard.symbol])

    def _add_unheard(self, name: str, topic: Topic, since: datetime, until: datetime) -> None:
        self.gaps += 1
        self._add(name, Gap.type, encode(unheard(topic, since, until)), numbered=False)


def _feed_named(name: str) -> tuple[str, str]:
    exchange, _, symbol = name.partition(":")
    return exchange, symbol


def _value(said: FundingRate | OpenInterest) -> object:
    """What makes it another one than the last."""
    if isinstance(said, OpenInterest):
        return said.open_interest
    return said.funding_rate, said.funding_time, said.funding_interval_hours
