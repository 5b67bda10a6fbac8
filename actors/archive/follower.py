"""From one feed to rows: an ordinary reader of its topics. No I/O and no waiting: `collect` takes what was published.

Of bars only closed ones are kept, with the range that they and their predecessors cover without a gap. Open interest
and funding are thinned to the last of each minute: some exchanges tell them many times a second.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta

import structlog
import trio

from actors.archive.series import ArchiveKind, Range, Series, Write, row_of, us
from actors.broadcast import Lagged, Reader
from actors.events import EPOCH, Event, FundingRate, Gap, Liquidation, Ohlc, OpenInterest, Said, Topic, bar_end
from actors.feeds.feed import Feed

CAPACITY = 2_000  # events of one topic that are not collected yet
SAMPLE = timedelta(minutes=1)
LATE = timedelta(seconds=2)  # a sample may come so long after its minute
RECENT = 4_000  # liquidations that are told apart from equal ones

TOPICS: dict[ArchiveKind, str] = {
    "open_interest": "oi",
    "funding": "funding",
    "liquidations": "liquidations",
    "large_trades": "large_trades",
}

log = structlog.get_logger()


class Follower:
    def __init__(self, feed: Feed, keep: frozenset[ArchiveKind], now: Callable[[], datetime]) -> None:
        self._feed, self._keep, self._now = feed, keep, now
        self._name = feed.exchange.name
        self._readers: dict[Topic, Reader[Said]] = {}
        self._taken: dict[Topic, int] = {}
        self._covered_to: dict[str, datetime] = {}  # by interval: the end of the last bar, where nothing was missed
        # The last of a minute that is not over, and when it is.
        self._samples: dict[ArchiveKind, tuple[OpenInterest | FundingRate, datetime]] = {}
        self._equal: dict[Liquidation, int] = {}  # recent ones, in order, and how often each happened
        self.lagged = 0  # times that events were lost because they were collected too late
        self._subscribe()

    def follow(self, keep: frozenset[ArchiveKind]) -> None:
        """Take these kinds from now on."""
        if keep != self._keep:
            self._keep = keep
            self._subscribe()

    def _subscribe(self) -> None:
        topics = [
            self._feed.topic(topic, None)  # type: ignore[arg-type]
            for kind, topic in TOPICS.items()
            if kind in self._keep
        ]
        self._intervals = self._feed.intervals
        if "ohlc" in self._keep:
            topics += [self._feed.topic("ohlc", interval) for interval in self._intervals]
        for topic in topics:
            if topic not in self._readers:
                self._readers[topic] = self._feed.subscribe(topic, CAPACITY)
                self._taken[topic] = 0

    def close(self) -> list[Write]:
        """Follow no longer; returns what has not been collected."""
        rest = self.collect()
        rest += [self._single(kind, sample) for kind, (sample, _) in self._samples.items()]
        for reader in self._readers.values():
            reader.close()
        return rest

    def collect(self) -> list[Write]:
        """What the feed said since the last time."""
        if self._feed.intervals != self._intervals:
            self._subscribe()  # an interval was added
        found: list[Write] = []
        for topic, reader in list(self._readers.items()):
            if reader.given == self._taken[topic] and not reader.lagged:
                continue
            for said in self._unread(topic, reader):
                found += self._write_of(said, topic)
        return found + self._ripe()

    def _unread(self, topic: Topic, reader: Reader[Said]) -> Iterator[Said]:
        try:
            with suppress(trio.WouldBlock):
                while True:
                    yield reader.receive_nowait()
            self._taken[topic] = reader.given
        except Lagged:
            self.lagged += 1
            log.warning("archive.lagged", topic=str(topic), reason="events came faster than they were collected")
            self._covered_to.pop(topic.interval or "", None)
            reader.close()
            del self._readers[topic]
            self._subscribe()

    def _write_of(self, said: Said, topic: Topic) -> list[Write]:
        match said:
            case Ohlc(is_closed=True):
                return [self._bar(said)]
            case Gap(repaired=False) if topic.kind == "ohlc":
                self._covered_to.pop(topic.interval or "", None)
            case OpenInterest():
                return self._thinned("open_interest", said)
            case FundingRate():
                return self._thinned("funding", said)
            case Liquidation():
                return [self._liquidation(said)]
            case Event() if topic.kind == "large_trades":
                return [self._single("large_trades", said)]
        return []

    def _single(self, kind: ArchiveKind, event: Event) -> Write:
        return Write(Series(kind, self._name, event.symbol), [row_of(kind, event)])

    def _bar(self, bar: Ohlc) -> Write:
        start, end = bar.timestamp, bar_end(bar.timestamp, bar.interval)
        since = self._covered_to.get(bar.interval)
        # A bar that nobody traded in is not made by some exchanges; anything that was lost would have been a Gap.
        if since is not None and since < start and not self._feed.exchange.has_empty_bars:
            start = since
        self._covered_to[bar.interval] = end
        series = Series("ohlc", self._name, bar.symbol, bar.interval)
        return Write(series, [row_of("ohlc", bar)], [Range(us(start), us(end))])

    def _thinned(self, kind: ArchiveKind, event: OpenInterest | FundingRate) -> list[Write]:
        ripe_at = event.timestamp - (event.timestamp - EPOCH) % SAMPLE + SAMPLE + LATE
        before = self._samples.get(kind)
        self._samples[kind] = event, ripe_at
        return [self._single(kind, before[0])] if before and before[1] != ripe_at else []

    def _ripe(self) -> list[Write]:
        """Samples whose minute is over."""
        if not self._samples:
            return []
        now = self._now()
        ripe = [kind for kind, (_, ripe_at) in self._samples.items() if now >= ripe_at]
        return [self._single(kind, self._samples.pop(kind)[0]) for kind in ripe]

    def _liquidation(self, event: Liquidation) -> Write:
        """They have no id: equal ones are numbered, so that each is a row and writing one twice is not."""
        number = self._equal[event] = self._equal.get(event, -1) + 1
        if len(self._equal) > RECENT:
            del self._equal[next(iter(self._equal))]
        row = (*row_of("liquidations", event), number)
        return Write(Series("liquidations", self._name, event.symbol), [row])
