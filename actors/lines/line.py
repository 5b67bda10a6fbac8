"""A line: the actor that owns one socket to one exchange and carries the topics of many feeds on it.

`run` is one connection's life; it ends by raising, and whoever supervises it starts the next. The line decodes and
delivers, and watches that data really comes; it keeps no market state and never waits for a feed.
"""

import ssl
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Protocol

import structlog
import trio

from actors import clock, turns
from actors.counts import Counts, Lost
from actors.errors import BadMessage, LineLost, UnknownMessage
from actors.events import Event, Instrument, Topic
from actors.exchanges.exchange import Backlog, BadPush, Change, Exchange, Item, Rejected, Session, Update
from actors.lines import pings
from actors.lines.asking import Asking, send_frame
from actors.lines.patience import Patience
from actors.lines.silence import Silence
from actors.lines.suspects import Suspects
from actors.upstream.dial import ConnectionClosed, closing
from actors.upstream.seam import LIVE, Socket, Upstream

WATCH_EVERY = 1.0  # seconds
GARBAGE = (100, 60.0)  # so many undecodable frames within so many seconds end the connection
CUT = 1006  # what the library calls an end without a close frame
REPORTED_MAX = 50  # distinct complaints that are logged per line

log = structlog.get_logger()


class Sink(Protocol):
    """What a line tells a feed."""

    def deliver(self, said: Update | Backlog | Topic, received_at: datetime) -> None: ...
    def line_up(self, path: str) -> None: ...
    def line_down(self, reason: str, delay: float | None, path: str) -> None: ...
    def topic_silent(self, topic: Topic, reason: str) -> None: ...
    def topic_heard(self, topic: Topic) -> None: ...
    def topic_rejected(self, topic: Topic, reason: str, *, final: bool) -> None: ...
    def line_refused(self, reason: str) -> None: ...


class Line:
    def __init__(
        self,
        exchange: Exchange,
        url: str,
        tls: ssl.SSLContext | None,
        instruments: Mapping[str, Instrument],
        ready_to_connect: Callable[[], Awaitable[None]],
        number: int,
        exchange_time: Callable[[datetime], datetime] = lambda at: at,
        upstream: Upstream = LIVE,
        *,
        path: str | None = None,
        counts: Counts | None = None,
        stands_in: bool = False,
    ) -> None:
        self._exchange = exchange
        self._limits = exchange.limits
        self.path = exchange.ws_path if path is None else path  # of the kinds that it may carry
        self._url = url
        self._prompt = frozenset(kind for kind in exchange.prompt if exchange.path_of(kind) == self.path)
        self._tls = tls
        self._instruments = instruments
        self._ready_to_connect = ready_to_connect
        self.number = number
        self._exchange_time = exchange_time  # of a moment by our clock: a session may have no other
        self._upstream = upstream
        self.scope = trio.CancelScope()  # cancelled when the line is no longer needed
        self._topics: dict[Topic, Sink] = {}
        self._feeds: dict[str, Sink] = {}  # by symbol
        self._is_up = False
        self._up_at = 0.0
        self._stands_in = stands_in  # for another that still delivers: feeds are told of data, and of nothing else
        self._asking = Asking(self._limits, self._expect)
        self._silence = Silence(self._limits.silence)
        self._patience = Patience(self._limits.silence)
        self.is_leaving = False  # the exchange said that it will end the present connection
        self._suspects = Suspects()
        self.counts: Counter[str] = Counter()  # frames, garbage, unknown, unlisted
        self._totals = counts or Counts()  # of all lines
        self._reported: set[str] = set()

    @property
    def stands_in(self) -> bool:
        return self._stands_in

    def __len__(self) -> int:
        return len(self._topics)

    def add(self, feed: Sink, topics: Iterable[Topic]) -> None:
        """Carry `topics` for `feed` from now on; the open connection is not disturbed."""
        for topic in topics:
            self._topics[topic] = feed
            self._feeds[topic.symbol] = feed
            if self._is_up:
                self._asking.ask(topic, subscribe=True)
        if self._is_up and not self._stands_in:
            feed.line_up(self.path)

    def remove(self, topics: Iterable[Topic]) -> None:
        for topic in list(topics):
            if self._topics.pop(topic, None) is not None and self._is_up:
                self._silence.forget(topic)
                self._asking.ask(topic, subscribe=False)
        carried = {topic.symbol for topic in self._topics}
        self._feeds = {symbol: feed for symbol, feed in self._feeds.items() if symbol in carried}

    @property
    def is_up(self) -> bool:
        """Connected."""
        return self._is_up

    @property
    def age(self) -> float:
        """Seconds since the present connection was made; 0 while there is none."""
        return trio.current_time() - self._up_at if self._is_up else 0.0

    def _carried(self) -> Iterator[tuple[Sink, list[Topic]]]:
        """Every feed and its topics."""
        for symbol, feed in list(self._feeds.items()):
            yield feed, [topic for topic in self._topics if topic.symbol == symbol]

    def follow(self, other: "Line") -> None:
        """Carry what the other one carries, and nothing else."""
        self.remove([topic for topic in self._topics if topic not in other._topics])
        for feed, topics in other._carried():
            self.add(feed, [topic for topic in topics if topic not in self._topics])

    def delivers_like(self, other: "Line") -> bool:
        """Every topic that proves the other one's connection has been heard here too."""
        return self._is_up and self._has_spoken and self._silence.is_heard_like(other._silence, other._topics)

    @property
    def _has_spoken(self) -> bool:
        """Data came on the present connection."""
        return self._last_heard > self._up_at

    def takes_over(self) -> None:
        """From now on the feeds' data comes from here."""
        self._stands_in = False
        for feed in list(self._feeds.values()):
            feed.line_up(self.path)

    def doubt(self, topic: Topic, reason: str) -> None:
        """The feed is sure that a topic should have spoken: ask for it again, and if that is in vain, reconnect."""
        feed = self._topics.get(topic)
        if feed is not None and self._is_up and self._silence.doubt(topic, trio.current_time()):
            feed.topic_silent(topic, reason)
            self._ask_anew([topic])

    def changed(self, change: Change) -> None:
        """The supervisor's word that this line's run ended."""
        if not self._stands_in:
            for feed in list(self._feeds.values()):
                feed.line_down(change.reason, change.delay, self.path)

    def _expect(self, topic: Topic) -> None:
        """A topic is being asked for: from now on it must speak, if it is one that does."""
        self._patience.asked(trio.current_time())
        if topic in self._topics and topic.kind in self._prompt:
            self._silence.asked(topic, trio.current_time())

    async def run(self) -> None:
        """Connect, subscribe, deliver until the connection fails or falls silent. Raises LineLost."""
        try:
            await self._connected_life()
        except (LineLost, ExceptionGroup) as error:
            self._totals.disconnects[_how(error)] += 1
            raise

    async def _connected_life(self) -> None:
        await self._ready_to_connect()
        url, carried = self._url + self.path, [*map(str, self._topics)]
        async with self._upstream.open_socket(self._exchange.name, self.number, carried, url, self._tls) as socket:
            session = self._exchange.new_session(self._instruments)
            self._asking.restart()
            self._silence.restart()
            self._patience.restart(trio.current_time())
            self.is_leaving = False
            self._suspects.restart()
            self._is_up = True
            self._totals.connects += 1
            self._up_at = self._last_heard = trio.current_time()
            try:
                log.info("line.up", exchange=self._exchange.name, line=self.number, topics=len(self._topics))
                for topic in self._topics:
                    if topic.symbol not in self._suspects:
                        self._asking.ask(topic, subscribe=True)
                if not self._stands_in:
                    for feed in list(self._feeds.values()):
                        feed.line_up(self.path)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._asking.run, socket, session)
                    nursery.start_soon(self._watch, socket)
                    nursery.start_soon(pings.ping, socket, self._limits, lambda: self._last_heard)
                    if self._suspects:
                        nursery.start_soon(self._try_suspects, socket, session)
                    if self._exchange.heartbeat is not None:
                        nursery.start_soon(pings.beat, socket, self._limits, self._exchange.heartbeat)
                    await self._receive(socket, session)
            finally:
                self._is_up = False

    async def _receive(self, socket: Socket, session: Session) -> None:
        try:
            await socket.listen(partial(self._take, session, deque(maxlen=GARBAGE[0])))
        except ConnectionClosed as error:
            if error.reason is None or error.reason.code == CUT:
                self._blame(session.unacknowledged())
            raise LineLost(f"closed by the exchange, {closing(error)}", how="closed") from None

    def _take(
        self, session: Session, garbage: deque[float], frames: Sequence[bytes | str], received_at: datetime
    ) -> None:
        """What came together, in the task that reads the socket. `garbage`: when frames could not be decoded."""
        self.counts["frames"] += len(frames)
        self._totals.frames += len(frames)
        self._totals.bytes += sum(map(len, frames))
        exchange_time = self._exchange_time(received_at)
        with turns.step():
            for frame in frames:
                try:
                    said = session.receive(frame, exchange_time)
                except UnknownMessage as error:
                    self._complain("unknown", error, frame)
                except BadMessage as error:
                    self._complain("garbage", error, frame)
                    if isinstance(error, BadPush):
                        self._pass_on(error.topic, received_at)
                    garbage.append(trio.current_time())
                    if len(garbage) == garbage.maxlen and garbage[-1] - garbage[0] < GARBAGE[1]:
                        raise LineLost(f"{GARBAGE[0]} undecodable frames in {GARBAGE[1]:g} s") from None
                else:
                    for item in said:
                        self._pass_on(item, received_at)

    def _pass_on(self, item: Item, received_at: datetime) -> None:
        event = None
        if isinstance(item, Update):  # first: most are
            event = item.event
            symbol = event.symbol
        elif isinstance(item, Backlog | Topic):
            symbol = item.symbol
        elif isinstance(item, Rejected):
            self._reject(item)
            return
        else:
            log.info("line.leaving", exchange=self._exchange.name, line=self.number, reason=item.reason)
            self.is_leaving = True
            return
        feed = self._feeds.get(symbol)
        if feed is None:
            self.counts["unlisted"] += 1
            return
        self._last_heard = trio.current_time()
        if event is not None and (event.kind in self._prompt or self._silence.has_doubts):
            self._prove(event, feed)
        feed.deliver(item, received_at)

    def _complain(self, kind: str, error: BadMessage, frame: str | bytes) -> None:
        """Count every bad frame, log each kind of complaint once: a flood of them must not flood the log."""
        self.counts[kind] += 1
        self._totals.bad_frames += 1
        text = str(error)
        if text not in self._reported and len(self._reported) < REPORTED_MAX:
            self._reported.add(text)
            log.warning(
                f"line.{kind}_frame",
                exchange=self._exchange.name,
                line=self.number,
                reason=text[:200],
                sample=repr(frame[:200]),
            )

    def _reject(self, rejected: Rejected) -> None:
        log.warning(
            "line.subscription_rejected",
            exchange=self._exchange.name,
            line=self.number,
            topics=[*map(str, rejected.topics)],
            reason=rejected.reason,
        )
        for topic in rejected.topics:
            if feed := self._topics.get(topic):
                feed.topic_rejected(topic, rejected.reason, final=rejected.final)
                if rejected.final:
                    self._drop(topic, feed, rejected.reason)
        for topic in rejected.again:
            if topic in self._topics:
                self._asking.ask(topic, subscribe=True)

    def _drop(self, topic: Topic, feed: Sink, reason: str) -> None:
        """Never ask for a topic again; a feed that has none left cannot be served."""
        del self._topics[topic]
        self._silence.forget(topic)
        if not any(other.symbol == topic.symbol for other in self._topics):
            self._feeds.pop(topic.symbol, None)
            feed.line_refused(reason)

    def _blame(self, unacknowledged: Sequence[Topic]) -> None:
        """The exchange cut the connection before it had confirmed these."""
        guilty = self._suspects.blame({topic.symbol for topic in unacknowledged if topic in self._topics})
        if guilty is not None:
            topics = tuple(topic for topic in self._topics if topic.symbol == guilty)
            self._reject(Rejected(topics, f"the exchange cuts the connection when asked for {guilty}"))

    async def _try_suspects(self, socket: Socket, session: Session) -> None:
        heard = self.counts["frames"]
        if self._exchange.heartbeat is not None:
            await send_frame(socket, self._exchange.heartbeat)

        def ask(symbol: str) -> None:
            for topic in self._topics:
                if topic.symbol == symbol:
                    self._asking.ask(topic, subscribe=True)

        await self._suspects.try_each(
            ask, session.unacknowledged, lambda: self._asking.is_pending, lambda: self.counts["frames"] > heard
        )

    def _prove(self, event: Event, feed: Sink) -> None:
        topic = Topic(event.exchange, event.symbol, event.kind, getattr(event, "interval", None))
        if self._silence.heard(topic, trio.current_time(), is_prompt=event.kind in self._prompt):
            feed.topic_heard(topic)

    async def _watch(self, socket: Socket) -> None:
        """An ack proves nothing and an open socket proves nothing: only data does, where a market has some."""
        limit = self._limits.silence
        while True:
            await clock.tick_for_silence(WATCH_EVERY)
            now = trio.current_time()
            match self._patience.look(now, self._last_heard, has_spoken=self._has_spoken):
                case "ask" if not self._prompt:
                    await pings.check(socket)
                    self._patience.alive(trio.current_time())
                case "ask" | "lost" if self._topics:
                    self._patience.was_in_vain()
                    silent_for = now - self._last_heard
                    raise LineLost(f"silence: no market data for {silent_for:.0f} s", how="silence")
            silent = self._silence.look(now)
            for topic in silent:
                self._topics[topic].topic_silent(topic, f"no {topic.kind} data for {limit:g} s")
            self._ask_anew(silent)

    def _ask_anew(self, topics: Sequence[Topic]) -> None:
        """End their subscriptions, each with the last of the topics that share it, and begin them again."""
        if not topics:
            return
        subscriptions = {*map(self._exchange.subscription_of, topics)}
        sharing = [topic for topic in self._topics if self._exchange.subscription_of(topic) in subscriptions]
        for subscribe in (False, True):
            for topic in sharing:
                self._asking.ask(topic, subscribe=subscribe)


def _how(error: BaseException) -> Lost:
    """Why a connection was lost: what the first of its tasks to end found."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error.how if isinstance(error, LineLost) else "error"
