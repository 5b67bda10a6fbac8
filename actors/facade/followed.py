"""Streams that the feeds follow themselves: the façade's clients are told what the feeds' own connections bring, and
what the feeds ask for where those were lost, in order and once. Nothing is subscribed to a second time.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import structlog
import trio

from actors import clock
from actors.connector import Connector
from actors.decoding import UNREADABLE
from actors.errors import BadMessage, MarketError
from actors.events import Topic, ms
from actors.exchanges.dialect import Dialect, Follow
from actors.upstream.rest import Answer, Question

WAITS = 12.0  # seconds that newer frames wait for missed ones: a little longer than the feeds try to get them
CHECKED_EVERY = 1.0  # seconds
UNREAD_MAX = 100  # frames of a stream that are put aside, where each may matter

REPORTED_MAX = 20  # kinds of complaints about frames that are logged
UNTELLABLE = (*UNREADABLE, BadMessage, LookupError, ValueError, TypeError)  # a frame that is not what is documented

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
    """One connection's. While nobody listens its frames are not read: of streams whose state is kept the last ones are
    put aside as they are.
    """

    def __init__(self, followed: "Followed", heard: Callable[[str, bytes], None]) -> None:
        self._followed, self._heard = followed, heard
        self._sources: set[str] = set()
        self._unread: dict[bytes, deque[bytes]] = {}

    def heard(self, messages: Sequence[bytes | str]) -> None:
        if self._followed.is_needed:
            for message in messages:
                self._read(message.encode() if isinstance(message, str) else message)
        elif (glance := self._followed.dialect.glance) is not None:
            for message in messages:
                frame = message.encode() if isinstance(message, str) else message
                if (kept := glance(frame)) is not None:
                    self._put_aside(frame, *kept)

    def _read(self, frame: bytes) -> None:
        try:
            self._read_whole(frame)
        except UNTELLABLE as error:  # which must not cost the feeds their connection
            self._followed.complain(error, frame)

    def _read_whole(self, frame: bytes) -> None:
        followed = self._followed
        told = followed.dialect.read(frame)
        if told is not None:
            if followed.take(*told, self._sources):
                self._sources.add(told[0])
            self._heard(*told)

    def _put_aside(self, frame: bytes, stream: bytes, depth: int | None, begins: bool) -> None:
        unread = self._unread.get(stream)
        if unread is None:
            unread = self._unread[stream] = deque(maxlen=depth)
        if begins:
            unread.clear()
        unread.append(frame)
        if depth is None and len(unread) > UNREAD_MAX:
            self._catch_up(unread)

    def _catch_up(self, unread: deque[bytes]) -> None:
        while unread:
            self._read(unread.popleft())

    def catch_up(self) -> None:
        """Read what was put aside."""
        for unread in self._unread.values():
            self._catch_up(unread)
        self._unread.clear()

    def closed(self) -> None:
        self._followed.lost(self, self._sources)


class Followed:
    """One exchange's. `is_needed`: whether anybody wants to know what the connections bring."""

    def __init__(self, dialect: Dialect, connector: Connector) -> None:
        self.dialect = dialect
        self._connector = connector
        self._streams: dict[str, _Stream] = {}
        self._by_source: dict[str, list[_Stream]] = {}
        self._carriers: Counter[str] = Counter()  # connections that brought a source's frames
        self._ears: dict[Ear, None] = {}
        self.is_needed = False
        self._needed_until = 0.0
        self._reported: set[str] = set()

    def opened(self, heard: Callable[[str, bytes], None]) -> Ear:
        """One more connection. `heard`: told all that is read."""
        ear = Ear(self, heard)
        self._ears[ear] = None
        return ear

    def need(self, seconds: float = 0.0) -> None:
        """Read what the connections bring, for so long at least."""
        self._needed_until = max(self._needed_until, trio.current_time() + seconds)
        if not self.is_needed:
            self.is_needed = True
            for ear in self._ears:
                ear.catch_up()

    async def run(self) -> None:
        """Until cancelled: what is missing is not waited for for ever, and nothing read that nobody wants."""
        while True:
            await clock.tick(CHECKED_EVERY)
            now = trio.current_time()
            self.is_needed = now < self._needed_until or any(stream.listeners for stream in self._streams.values())
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
        self.need()
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
        return stream

    def _drop(self, stream: _Stream) -> None:
        stream.feed.close()
        del self._streams[stream.name]
        sharing = self._by_source[stream.follow.source]
        sharing.remove(stream)
        if not sharing:
            del self._by_source[stream.follow.source]

    # --- what comes ---

    def complain(self, error: Exception, frame: bytes) -> None:
        """Log each kind of complaint once: a flood of bad frames must not flood the log."""
        text = f"{type(error).__name__}: {error}"[:200]
        if text not in self._reported and len(self._reported) < REPORTED_MAX:
            self._reported.add(text)
            log.warning("facade.garbage_frame", exchange=self._connector.name, reason=text, sample=repr(frame[:200]))

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
            if self.dialect.glance is None or not self.keeps(source):
                return False
            streams = self._by_source[source]
        if source not in known:
            self._carriers[source] += 1
        for stream in streams:
            stream.tell(stream.sieve.take(frame))
        return True

    def lost(self, ear: Ear, sources: set[str]) -> None:
        """A connection is gone that brought these; where another one does, nothing is missed."""
        del self._ears[ear]
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
        if answer.status != 200 or not any(stream.sieve.heeds for stream in self._streams.values()):
            return
        now = ms(self._connector.now())
        for source, found in self.dialect.missed(question, answer.body):
            if streams := self._by_source.get(source):
                rows = [*found]
                for stream in streams:
                    stream.tell(stream.sieve.learn(rows, now))


def _shaped(follow: Follow, frame: bytes) -> bytes | None:
    return frame if follow.shape is None else follow.shape(frame)
