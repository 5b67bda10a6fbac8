"""What a lane's log says already, and from when on a successor knows the rest. No I/O.

Two nodes hear the same events and say them in their own order; what tells them apart is what they are: trades have ids,
liquidations are their own values, and may come twice.
"""

import random
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from math import inf
from zlib import crc32

import msgspec

from actors import clock
from actors.engine.words import EPOCH, STATUS, Present
from actors.engine.words import Told as Logged
from actors.events import Gap, Kind, Said, Status, Topic, Trade, from_ms, ms
from actors.feeds.everything import ALL, KINDS

MOMENTS: frozenset[Kind] = frozenset({"trades", "large_trades", "liquidations"})
"""Kinds of events that happen once: each is said, whoever says it. Of the others the latest is what matters."""
REMEMBERED = MOMENTS | {"oi-vol"}
"""Kinds of which a successor may have to say what it heard before."""


UNHEARD = "nobody listened to the exchange"
MOMENT = timedelta(milliseconds=1)
SLOWER_MS = (
    1_500  # by which an exchange may tell of one kind of event later than of another: liquidations once a second
)
CACHED = 1 << 16  # topics whose names are known: more than a node hears of


class _Identity(msgspec.Struct):
    """As much of an event's JSON as tells it from others."""

    timestamp: datetime
    trade_id: int | str | None = None


_decode = msgspec.json.Decoder(_Identity).decode
_decode_gap = msgspec.json.Decoder(Gap).decode
encode = msgspec.json.Encoder().encode


@lru_cache(maxsize=CACHED)
def topic_named(name: str) -> Topic:
    """The topic of a name; symbols may hold colons."""
    exchange, *symbol, last = name.split(":")
    if symbol and symbol[-1] in ("ohlc", "oi-vol"):
        return Topic(exchange, ":".join(symbol[:-1]), msgspec.convert(symbol[-1], Kind), last)
    return Topic(exchange, ":".join(symbol), msgspec.convert(last, Kind))


@lru_cache(maxsize=CACHED)
def name_of(topic: Topic) -> str:
    """Its name, for whoever asks with each event."""
    return str(topic)


def over_everything(topic: Topic) -> str | None:
    """The name of the stream over everything into which a topic goes, too; None: there is none."""
    if topic.kind == "oi-vol":
        return topic.kind
    return str(Topic(ALL, "", topic.kind)) if topic.kind in KINDS else None


def lane_of(symbol: str, lanes: int) -> int:
    """The lane of a symbol among those of its exchange."""
    return crc32(symbol.encode()) % lanes


def holder_of(token: str) -> tuple[str, int]:
    """The node that leads by a lease, and in which term."""
    name, term, _ = token.rsplit("|", 2)
    return name, int(term)


def new_epoch() -> str:
    """A name that no other memory has, on whichever node it began; it tells when that was."""
    return f"{clock.to_us(clock.now()):x}-{random.getrandbits(48):x}"


def unheard(topic: Topic, start: datetime, end: datetime, *, repaired: bool = False) -> Gap:
    """That nobody listened, for a moment at least. `repaired`: what happened then is told behind it."""
    return Gap(
        exchange=topic.exchange,
        symbol=topic.symbol,
        timestamp=clock.now(),
        start=start,
        end=max(end, start + MOMENT),
        reason=UNHEARD,
        repaired=repaired,
    )


def _is_connected(status: bytes) -> bool:
    return msgspec.json.decode(status, type=Status).state in ("live", "stale")


class Tail:
    """What a log's last half minute says of events that happen once."""

    def __init__(self, present: Present, tail: Sequence[Logged]) -> None:
        # By the engine's clock, which is the exchange's but for the way from there: when something was said last, be it
        # that all begins anew.
        self.at: datetime | None = from_ms(tail[-1].at_ms) if tail else None
        self.age = (present.at_ms - tail[-1].at_ms) / 1000 if tail else 0.0  # seconds
        self.is_empty = not present.n or (bool(tail) and tail[-1].entries[0].type == EPOCH)  # of this memory
        self.begun = 0.0 if not present.n else inf  # seconds since this memory began; inf: before all of this
        self._told: Counter[tuple[str, object]] = Counter()
        self._oldest: dict[str, int] = {}  # by topic: until then all was told, or was before anything was
        self._newest: dict[str, int] = {}  # by topic, and by symbol: the time of its last event
        self.behind = 0.0  # seconds from when the last event of all happened until that was said
        newest = 0
        self._lost: dict[str, list[Gap]] = {}  # by topic, what was announced as lost
        self._now = present.now
        self.feeds: set[str] = set()  # names of those whose states are told there
        self._cut_off: dict[str, int] = {}  # by feed: when it was told last that it hears nothing
        self._is_whole = is_whole = not tail or tail[0].n == 1
        for logged in tail:
            for entry in logged.entries:
                if entry.type == EPOCH:
                    self.begun = (present.at_ms - logged.at_ms) / 1000
                    self._oldest, is_whole = {}, True
                if entry.type == Gap.type and not (gap := _decode_gap(entry.text)).repaired:
                    self._lost.setdefault(entry.topic, []).append(gap)
                elif entry.type == STATUS:
                    self.feeds.add(entry.topic)
                    if not _is_connected(entry.text):
                        self._cut_off[entry.topic] = logged.at_ms
                if entry.seq is None or (topic := topic_named(entry.topic)).kind not in MOMENTS:
                    continue
                found = _decode(entry.text)
                self._told[entry.topic, found.trade_id if found.trade_id is not None else entry.text] += 1
                # Of the very first moment some may have been cut off, where anything was.
                at = ms(found.timestamp)
                self._oldest[entry.topic] = min(self._oldest.get(entry.topic, at), at - is_whole)
                if at > newest:
                    newest, self.behind = at, max(0, logged.at_ms - at) / 1000
                for name in (entry.topic, topic.symbol):
                    self._newest[name] = max(self._newest.get(name, at), at)

    def tells(self, name: str, said: Said) -> bool:
        """Whether an event is among what is told there."""
        return self._told[name, said.trade_id if isinstance(said, Trade) else encode(said)] > 0

    def silence(self, topic: Topic) -> float:
        """How many seconds before the end the last event of a symbol happened, where whoever led was cut off from the
        exchange since, as far as it knew; inf: before all of this. Else 0: what it did not say did not happen.

        Of one that was connected again it is not known what it missed before it told the next event, or a loss. Where
        nothing was told of a symbol in all of this memory, nothing is missed.
        """
        if self._is_whole and topic.symbol not in self._newest:
            return 0.0
        name = f"{topic.exchange}:{topic.symbol}"
        newest, now = self._newest.get(topic.symbol, -inf), self._now.get(name)
        cut_off = self._cut_off.get(name, -inf) if now is None or _is_connected(now) else inf
        if self.at is None or newest > cut_off or cut_off == -inf:
            return 0.0
        return max(0.0, (ms(self.at) - newest) / 1000)

    def told_until(self, name: str) -> datetime:
        """Until when all that happened in a topic was told, by the exchange's clock.

        Whoever said it may have been behind, so what counts is when the last of it happened, not when that was said. Of
        rare events others of the symbol tell how far it was. There has to be an end (`at`).
        """
        assert self.at is not None
        topic = topic_named(name)
        reached = min(self._newest.get(topic.symbol, inf), ms(self.at)) - SLOWER_MS
        # Large trades are told with the trade.
        names = {name, name_of(topic._replace(kind="trades"))} if topic.kind == "large_trades" else {name}
        return from_ms(int(max(reached, *(self._newest.get(one, -inf) for one in names))))

    def has(self, name: str, said: Said, text: bytes) -> bool:
        """Whether an event is told there, in one way or the other: what was announced as lost is not told afterwards,
        behind what is newer. Each that is told answers for one that is asked about."""
        identity = name, said.trade_id if isinstance(said, Trade) else text
        if self._told[identity] > 0:
            self._told[identity] -= 1
            return True
        # From before the log begins: it was told, was announced as lost, or nobody was told anything yet.
        at = said.timestamp
        return ms(at) <= self._oldest.get(name, -1) or self.announces(name, at, at)

    def announces(self, name: str, start: datetime, end: datetime) -> bool:
        """Whether one loss that is announced there is all of that time."""
        return any(lost.start <= start and end <= lost.end for lost in self._lost.get(name, ()))
