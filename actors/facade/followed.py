"""Streams that the feeds follow themselves: the façade's clients are told what the feeds' own connections bring, and
what the feeds ask for where those were lost, in order and once. Nothing is subscribed to a second time.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import structlog
import trio

from actors import clock
from actors.connector import Connector
from actors.errors import MarketError
from actors.events import Topic
from actors.exchanges.dialect import Dialect, Follow
from actors.upstream.rest import Answer, Question

WAITS = 12.0  # seconds that newer frames wait for missed ones: a little longer than the feeds try to get them
CHECKED_EVERY = 1.0  # seconds

Listener = Callable[[str, bytes], None]
"""(stream, frame): what a follower is told. Must not wait."""

log = structlog.get_logger()


class _Stream:
    def __init__(self, name: str, follow: Follow) -> None:
        self.name, self.follow = name, follow
        self.sieve = follow.sieve()
        self.listeners: dict[Listener, None] = {}
        self.feed = ExitStack()  # holds the feed while anybody listens
        self.waits_since: float | None = None

    def tell(self, frames: Sequence[bytes]) -> None:
        for frame in frames:
            shaped = frame if self.follow.shape is None else self.follow.shape(frame)
            if shaped is not None:
                for listener in list(self.listeners):
                    listener(self.name, shaped)


class Ear:
    """One connection's."""

    def __init__(self, followed: "Followed", heard: Callable[[str, bytes], None]) -> None:
        self._followed, self._heard = followed, heard
        self._sources: set[str] = set()

    def heard(self, messages: Sequence[bytes | str]) -> None:
        followed = self._followed
        if not followed.is_needed:
            return
        for message in messages:
            read = followed.dialect.read(message.encode() if isinstance(message, str) else message)
            if read is not None:
                if followed.take(*read, self._sources):
                    self._sources.add(read[0])
                self._heard(*read)

    def closed(self) -> None:
        self._followed.lost(self._sources)


class Followed:
    """One exchange's. `is_needed`: whether anybody may want to know what the connections bring."""

    def __init__(self, dialect: Dialect, connector: Connector) -> None:
        self.dialect = dialect
        self._connector = connector
        self._streams: dict[str, _Stream] = {}
        self._by_source: dict[str, list[_Stream]] = {}
        self._carriers: Counter[str] = Counter()  # connections that brought a source's frames
        self.is_needed = bool(dialect.kept)

    async def run(self) -> None:
        """Until cancelled: what is missing is not waited for for ever."""
        while True:
            await clock.tick(CHECKED_EVERY)
            now = trio.current_time()
            for stream in list(self._streams.values()):
                if not stream.sieve.waits:
                    stream.waits_since = None
                elif stream.waits_since is None:
                    stream.waits_since = now
                elif now - stream.waits_since > WAITS:
                    log.warning("facade.not_repaired", exchange=self._connector.name, stream=stream.name)
                    stream.tell(stream.sieve.give_up())

    # --- who listens ---

    def follow(self, name: str) -> Follow | None:
        """How a stream is had from a feed; None for one that no feed has."""
        follow = self.dialect.follow(name)
        if follow is None or follow.kind not in self._connector.exchange.pushed:
            return None
        if follow.interval is not None and follow.interval not in self._connector.exchange.intervals:
            return None
        feed = self._connector.feeds.get(follow.symbol)
        return None if feed is not None and follow.interval in feed.derived else follow

    def join(self, name: str, listener: Listener) -> Sequence[bytes] | None:
        """Tell `listener` what comes; returns what it is told at once; None where no feed has such a stream."""
        follow = self.follow(name)
        if follow is None:
            return None
        stream = self._streams.get(name) or self._add(name, follow)
        if not stream.listeners:
            topic = Topic(self._connector.name, follow.symbol, follow.kind, follow.interval)
            try:
                feed = stream.feed.enter_context(self._connector.reading(topic))
            except MarketError as error:
                log.warning("facade.not_followed", exchange=self._connector.name, stream=name, reason=str(error))
                self._drop(stream)
                return ()
            if follow.interval in feed.derived:
                self._drop(stream)
                return None
        stream.listeners[listener] = None
        return [shaped for frame in stream.sieve.greeting() if (shaped := _shaped(follow, frame)) is not None]

    def leave(self, name: str, listener: Listener) -> bool:
        """Whether it listened."""
        stream = self._streams.get(name)
        if stream is None or stream.listeners.pop(listener, 0) is not None:
            return False
        if not stream.listeners:
            stream.feed.close()
            if not stream.follow.is_kept:
                self._drop(stream)
        return True

    def _add(self, name: str, follow: Follow) -> _Stream:
        stream = self._streams[name] = _Stream(name, follow)
        self._by_source.setdefault(follow.source, []).append(stream)
        self.is_needed = True
        return stream

    def _drop(self, stream: _Stream) -> None:
        stream.feed.close()
        del self._streams[stream.name]
        sharing = self._by_source[stream.follow.source]
        sharing.remove(stream)
        if not sharing:
            del self._by_source[stream.follow.source]

    # --- what comes ---

    def keeps(self, source: str) -> bool:
        """A stream that says its whole state only once is listened to from its beginning."""
        follow = self.follow(source)
        if follow is None or not follow.is_kept:
            return False
        self._add(source, follow)
        return True

    def take(self, source: str, frame: bytes, known: set[str]) -> bool:
        """A frame of a connection that brought the `known` sources before; whether anybody cares."""
        streams = self._by_source.get(source)
        if streams is None:
            if not source.startswith(self.dialect.kept) or not self.keeps(source):
                return False
            streams = self._by_source[source]
        if source not in known:
            self._carriers[source] += 1
        for stream in streams:
            stream.tell(stream.sieve.take(frame))
        return True

    def lost(self, sources: set[str]) -> None:
        """A connection that brought them is gone; where another one does, nothing is missed."""
        for source in sources:
            self._carriers[source] -= 1
            if self._carriers[source] <= 0:
                del self._carriers[source]
                for stream in list(self._by_source.get(source, ())):
                    stream.sieve.interrupt()
                    if not stream.listeners:
                        self._drop(stream)

    def answered(self, question: Question, answer: Answer) -> None:
        """What the feeds are told when they ask for what they missed."""
        if answer.status != 200 or not any(stream.sieve.waits for stream in self._streams.values()):
            return
        for source, found in self.dialect.missed(question, answer.body):
            for stream in self._by_source.get(source, ()):
                stream.tell(stream.sieve.learn(found))


def _shaped(follow: Follow, frame: bytes) -> bytes | None:
    return frame if follow.shape is None else follow.shape(frame)
