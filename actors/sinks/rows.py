"""What a sink writes: a row for each event and each gap, the same JSON as a client of `/ws` is told. No I/O.

An event's identity is its topic, epoch and number: whoever finds it a second time has it already. With an engine the
epoch and the numbers are those of every node's clients; alone they are this process's own, and dense.
"""

from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

import msgspec

from actors import clock
from actors.events import Event, Gap, Kind, Topic
from actors.relayed import Relayed

VALUED: frozenset[Kind] = frozenset({"trades", "large_trades", "liquidations"})
"""Kinds whose events have a value."""
FULL = "more was to be written than the sink takes"

encode = msgspec.json.Encoder().encode


class Row(NamedTuple):
    """`into`: the name of what it is written to, a topic of the other system. Rows of one `key` stay in order."""

    into: str
    key: bytes
    value: bytes


class _Where(msgspec.Struct):
    """Of the JSON of an event or a gap."""

    timestamp: datetime
    start: datetime | None = msgspec.field(default=None, name="from")
    end: datetime | None = msgspec.field(default=None, name="to")


class Failed(NamedTuple):
    """A row that was not taken. `is_final`: nor will it be."""

    row: Row
    reason: str
    is_final: bool


class Writing(Protocol):
    """A connection to another system. Nothing here waits."""

    @property
    def is_up(self) -> bool:
        """Somebody is there who takes rows."""

    @property
    def problem(self) -> str | None:
        """What was heard last of why that is not so."""

    def send(self, row: Row) -> bool:
        """Take a row over; False: not now: there are too many, or it is refused for a `problem`."""

    def look(self) -> tuple[int, list[Failed]]:
        """What became of rows since the last time: how many were written, and which were not, in their order.

        Raises WritingOver: the connection is of no use any more; what it had is among those that failed by then.
        """

    def close(self) -> tuple[int, list[Failed]]:
        """Take nothing more; the same as `look`, and what is on its way has failed."""


class WritingOver(Exception):
    """A connection that has to be made anew."""


class Channel:
    """One topic, as it is written."""

    __slots__ = ("_head", "_of", "epoch", "into", "key", "least", "lost", "seq", "topic")

    def __init__(self, topic: Topic, *, into: str, least: float, epoch: str) -> None:
        self.topic = topic
        self.key, self.into = str(topic).encode(), into
        self.least = least if topic.kind in VALUED else 0.0  # quote units: events of a smaller value are left out
        self.epoch, self.seq = epoch, 0  # of the last event that was said
        self.lost: Lost | None = None
        self._of: tuple[str, str] | None = None  # the type and epoch that the head is for
        self._head = b""

    def row(self, type: str, epoch: str, seq: int, text: bytes) -> Row:
        """Of an event, whose JSON is given."""
        if self._of != (type, epoch):
            about = {"type": type, "topic": str(self.topic), "epoch": epoch}
            self._of, self._head = (type, epoch), encode(about)[:-1] + b',"seq":'
        return Row(self.into, self.key, b"%b%d,%b" % (self._head, seq, text[1:]))

    def gap_row(self, text: bytes) -> Row:
        return Row(self.into, self.key, encode({"type": Gap.type, "topic": str(self.topic)})[:-1] + b"," + text[1:])

    def is_wanted(self, said: Event | Relayed) -> bool:
        return self.least == 0.0 or said.value >= self.least  # type: ignore[union-attr]


class Lost:
    """Which times of a topic were not written, by the exchange's clock."""

    def __init__(self, start: datetime, end: datetime) -> None:
        self.start, self.end = start, end

    def add(self, start: datetime, end: datetime) -> None:
        self.start, self.end = min(self.start, start), max(self.end, end)

    def gap(self, topic: Topic) -> Gap:
        return Gap(
            exchange=topic.exchange,
            symbol=topic.symbol,
            timestamp=clock.now(),
            start=self.start,
            end=self.end,
            reason=FULL,
            repaired=False,
        )


def times_of(said: bytes | Event | Gap) -> tuple[datetime, datetime]:
    """What is lost with a gap, or with an event: from its time on, until just behind it. `bytes`: its JSON."""
    if isinstance(said, bytes):
        where = msgspec.json.decode(said, type=_Where)
        if where.start is not None and where.end is not None:
            return where.start, where.end
        at = where.timestamp
    elif isinstance(said, Gap):
        return said.start, said.end
    else:
        at = said.timestamp
    return at, at + timedelta(milliseconds=1)
