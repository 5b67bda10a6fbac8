"""One lane as it is known here: where reading stands in its log, and the present of its topics. No I/O."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
import trio

from actors.engine.words import CLOSED_BAR, EPOCH, Entry, Present, Told
from actors.events import FeedState, Gap, Status, Topic, ms
from actors.relayed import Relayed

if TYPE_CHECKING:
    from actors.mirror.feed import MirrorFeed

AWAY, SILENT, NOBODY = "the engine is away", "who collects it is silent", "no node collects it"

TYPES = {"ohlc": "ohlc", "funding": "funding_rate", "oi": "open_interest"}
"""Of topics that have a present."""


class _State(msgspec.Struct):
    """As much of a present's JSON as tells a feed's state from events."""

    symbol: str
    state: FeedState | None = None


_decode_state = msgspec.json.Decoder(_State).decode
_decode_status = msgspec.json.Decoder(Status).decode


class Lane:
    """By topics' names: `seqs`, `now`, `closed` as in Present, and when open interest was `told`, by Trio's clock. By
    symbols: `states`, and when something was `heard`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.epoch = ""  # never joined
        self.past: set[str] = set()  # epochs that were left: one that comes back is an engine that is older
        self.place, self.n = "0-0", 0
        self.seqs: dict[str, int] = {}
        self.now: dict[str, bytes] = {}
        self.closed: dict[str, int] = {}
        self.told: dict[str, float] = {}
        self.states: dict[str, Status] = {}
        self.heard: dict[str, datetime] = {}
        self.received_at: datetime | None = None  # when what is told at the moment came from the engine
        self.holder: str | None = None
        self.trouble: tuple[FeedState, str] | None = "down", AWAY  # between the feeds and here
        self.free_since: float | None = None  # by Trio's clock: nobody leads it; None: somebody does, or nobody looked
        self.feeds: dict[str, MirrorFeed] = {}

    def is_continued_by(self, told: Told) -> bool:
        """A burst is the next one, of the same memory. Numbers are looked at too: a server that took over for another
        may have a clock that is behind, and hide the first of what was said since."""
        if not self.epoch or told.n != self.n + 1 or told.entries[0].type == EPOCH:
            return False
        seqs: dict[str, int] = {}
        for entry in told.entries:
            if entry.seq is not None:
                if entry.seq != seqs.get(entry.topic, self.seqs.get(entry.topic, 0)) + 1:
                    return False
                seqs[entry.topic] = entry.seq
        return True

    def adopt(self, present: Present) -> None:
        """Go on from a moment of the engine's."""
        if self.epoch not in ("", present.epoch):
            self.past.add(self.epoch)
        self.epoch, self.place, self.n = present.epoch, present.place, present.n
        self.seqs, self.now, self.closed = dict(present.seqs), dict(present.now), dict(present.closed)
        self.states, self.holder = _states(present.now), present.holder
        self.told.clear()

    def note(self, topic: Topic, name: str, event: Relayed) -> None:
        """An event is told. `name`: the topic's."""
        self.seqs[name] = event.seq
        if self.received_at is not None:
            self.heard[topic.symbol] = self.received_at
        if topic.kind in TYPES:
            self.now[name] = event.text
            if topic.kind == "oi":
                self.told[name] = trio.current_time()
            if event.text.endswith(CLOSED_BAR):
                self.closed[name] = ms(event.event.timestamp)


def _states(now: Mapping[str, bytes]) -> dict[str, Status]:
    found = {}
    for name, text in now.items():
        state = _decode_state(text)
        if state.state is not None and name.endswith(f":{state.symbol}"):
            found[state.symbol] = _decode_status(text)
    return found


def said(entry: Entry) -> Relayed | Gap:
    """What an entry tells the readers of its topic."""
    if entry.seq is None:
        return msgspec.json.decode(entry.text, type=Gap)
    return Relayed(entry.type, entry.seq, entry.text)
