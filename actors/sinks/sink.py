"""One sink: what feeds say, kept within a bound until another system has it.

Feeds call `take` (or, of several nodes, the one that leads a lane calls `take_said`), which never waits. A task hands
rows over and hears what became of them. What is refused is offered again, in its order; what does not fit any more, the
oldest first, is dropped, counted, and announced by a gap in the topic itself before anything newer. At least once: a
row whose answer was lost is written again.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog
import trio

from actors import clock
from actors.engine.words import EPOCH, STATUS, Entry
from actors.events import Event, Gap, Said, Status, Topic
from actors.relay.takeover import new_epoch, topic_named
from actors.relayed import Relayed
from actors.sinks.patterns import Pattern, matching
from actors.sinks.report import SinkReport, State
from actors.sinks.rows import Channel, Failed, Lost, Row, Writing, WritingOver, encode, times_of

QUEUE = 100_000  # events that may wait here
BATCH = 500  # rows that are handed over in one turn
PACE = 0.05  # seconds between turns: rows that come together are written together
LOOK = 1.0  # seconds between looks at a connection that nothing is written to
PATIENCE = 5.0  # seconds without an answer before the other system is called failing
RETRY = 1.0  # seconds before rows that were refused are offered again
LAST_WRITE = 2.0  # seconds at the end for what waits

log = structlog.get_logger()


class SinkSettings(NamedTuple):
    """`into`: what rows are written to, with `{exchange}` and `{kind}` in it. `least`: a value in quote units."""

    name: str
    kind: str
    patterns: Sequence[Pattern]
    into: str
    least: float = 0.0


_Waiting = tuple[Channel, str, str, int | None, "Event | Gap | bytes"]
"""Channel, type, epoch, number (None: a gap), and what was said, or its JSON. A plain tuple: there are many."""


class Sink:
    """`connect`: a connection, made without waiting for anybody. `bound`: events that may wait."""

    def __init__(self, settings: SinkSettings, connect: Callable[[], Writing], *, bound: int = QUEUE) -> None:
        self._settings = settings
        self._connect = connect
        self._bound = bound
        self._epoch = new_epoch()
        self._channels: dict[Topic, Channel | None] = {}  # None: not wanted here
        self._named: dict[str, Channel | None] = {}  # the same, of what was said to an engine
        self._queue: deque[_Waiting] = deque()
        self._again: deque[Row] = deque()  # to be handed over before all others
        self._lost: dict[Channel, None] = {}  # of these a gap is to be written before anything else
        self._news = trio.Event()
        self._in_flight = 0
        self._failed: list[Failed] = []  # offered again as soon as nothing is in flight
        self._retry_at = float("-inf")
        self._heard_at = 0.0  # when it last was so that nothing was to be heard, or something was
        self._is_dropping = False
        self._state: State = "starting"
        self._since = clock.now()
        self._reason: str | None = None
        self.written = 0
        self.dropped = 0
        self._log = log.bind(sink=settings.name)

    @property
    def name(self) -> str:
        return self._settings.name

    @property
    def is_failing(self) -> bool:
        return self._state == "failing"

    @property
    def pending(self) -> int:
        return len(self._queue) + len(self._again) + len(self._failed) + self._in_flight

    def report(self) -> SinkReport:
        return SinkReport(
            name=self.name,
            kind=self._settings.kind,
            state=self._state,
            since=self._since,
            reason=self._reason,
            written=self.written,
            pending=self.pending,
            dropped=self.dropped,
        )

    # --- what is to be written ---

    def take(self, topic: Topic, said: Said) -> None:
        """A feed tells its readers; never waits."""
        try:
            channel = self._channels[topic]
        except KeyError:
            channel = self._channels[topic] = self._channel_of(topic)
        if channel is None or isinstance(said, Status):
            return
        if isinstance(said, Gap):
            self._put((channel, said.type, "", None, said))
            return
        channel.seq += 1
        if channel.is_wanted(said):
            self._put((channel, said.type, channel.epoch, channel.seq, said))

    def take_said(self, epoch: str, entries: Sequence[Entry]) -> None:
        """This node said these to the engine, in a lane's memory of this name; never waits."""
        for name, type, seq, text in entries:
            if type in (STATUS, EPOCH):
                continue
            try:
                channel = self._named[name]
            except KeyError:
                channel = self._named[name] = self._channel_of(topic_named(name))
            if channel is None:
                continue
            if seq is None or not channel.least or channel.is_wanted(Relayed(type, seq, text)):
                self._put((channel, type, epoch, seq, text))

    def wants(self, topic: Topic) -> bool:
        return matching(self._settings.patterns, topic)

    def _channel_of(self, topic: Topic) -> Channel | None:
        if not self.wants(topic):
            return None
        into = self._settings.into.replace("{exchange}", topic.exchange).replace("{kind}", topic.kind)
        return Channel(topic, into=into, least=self._settings.least, epoch=self._epoch)

    def _put(self, waiting: _Waiting) -> None:
        if len(self._queue) >= self._bound:
            channel, *_, said = self._queue.popleft()
            self._lose(channel, said)
            if not self._is_dropping:
                self._is_dropping = True
                self._log.error("sink.dropping", reason=self._reason or "it takes less than comes")
        self._queue.append(waiting)
        self._news.set()

    def _lose(self, channel: Channel, said: Event | Gap | bytes) -> None:
        self.dropped += 1
        times = times_of(said)
        if channel.lost is None:
            channel.lost = Lost(*times)
            self._lost[channel] = None
        else:
            channel.lost.add(*times)

    # --- writing it ---

    async def run(self) -> None:
        """Write until cancelled, and then what waits, as far as it is taken within LAST_WRITE."""
        try:
            while True:
                writing = self._connect()
                self._heard_at = trio.current_time()
                try:
                    await self._write(writing)
                except WritingOver as error:
                    self._fail(str(error))
                except trio.Cancelled:
                    with trio.move_on_after(LAST_WRITE, shield=True):
                        await self._write_rest(writing)
                    raise
                finally:
                    self._offer_again(*writing.close())
                await trio.sleep(RETRY)
        except trio.Cancelled:
            if self.pending:
                self.dropped += self.pending
                self._log.error("sink.not_ended", reason=self._reason, pending=self.pending)
            raise

    async def _write(self, writing: Writing) -> None:
        while True:
            if not (self._queue or self._again):
                self._news = trio.Event()
                with trio.move_on_after(PACE if self.pending else LOOK):
                    await self._news.wait()
            is_full_turn = self._turn(writing)
            await trio.sleep(0 if is_full_turn else PACE)

    async def _write_rest(self, writing: Writing) -> None:
        while self.pending or self._lost:
            self._turn(writing)
            await trio.sleep(PACE)

    def _turn(self, writing: Writing) -> bool:
        """Hand over, and hear what became of what was; whether there may be more for another turn."""
        now = trio.current_time()
        if not self._in_flight:
            self._heard_at = now
        is_full_turn = not self._failed and now >= self._retry_at and self._hand_over(writing)
        written, failed = writing.look()
        self.written += written
        self._in_flight -= written
        if written:
            self._heard_at = now
        self._note_failed(failed)
        if self._failed:
            self._fail(self._failed[-1].reason)
        if self._failed and not self._in_flight:
            self._again.extendleft(failure.row for failure in reversed(self._failed))
            self._failed.clear()
            self._retry_at = now + RETRY
        self._judge(writing, written, now)
        return is_full_turn

    def _hand_over(self, writing: Writing) -> bool:
        for _ in range(BATCH):
            row = self._next()
            if row is None:
                return False
            if not writing.send(row):
                self._again.appendleft(row)
                return False
            self._in_flight += 1
        return True

    def _next(self) -> Row | None:
        if self._again:
            return self._again.popleft()
        if self._lost:
            channel = next(iter(self._lost))
            del self._lost[channel]
            lost, channel.lost = channel.lost, None
            assert lost is not None
            return channel.gap_row(encode(lost.gap(channel.topic)))
        if not self._queue:
            return None
        channel, type, epoch, seq, said = self._queue.popleft()
        text = said if isinstance(said, bytes) else encode(said)
        return channel.gap_row(text) if seq is None else channel.row(type, epoch, seq, text)

    def _note_failed(self, failed: Sequence[Failed]) -> None:
        self._in_flight -= len(failed)
        for failure in failed:
            if failure.is_final:
                name = failure.row.key.decode()
                channel = self._named.get(name) or self._channels.get(topic_named(name))
                if channel is not None:
                    self._lose(channel, failure.row.value)
                if not self._is_dropping:
                    self._is_dropping = True
                    self._log.error("sink.refused", topic=name, reason=failure.reason)
            else:
                self._failed.append(failure)

    def _offer_again(self, written: int, failed: Sequence[Failed]) -> None:
        """The connection is closed: what was on its way is to be written by the next one."""
        self.written += written
        self._note_failed(failed)
        self._again.extendleft(failure.row for failure in reversed(self._failed))
        self._failed.clear()
        self._in_flight = 0

    # --- how it goes ---

    def _judge(self, writing: Writing, written: int, now: float) -> None:
        if self._failed or now < self._retry_at:
            return  # that is said
        if written:
            self._succeed()
        elif self._in_flight and now - self._heard_at > PATIENCE:
            self._fail(writing.problem or f"no answer for {PATIENCE:g} s")
        elif writing.problem and not writing.is_up:
            self._fail(writing.problem)
        elif writing.is_up and not self.pending:
            self._succeed()

    def _fail(self, reason: str) -> None:
        if (self._state, self._reason) == ("failing", reason):
            return
        if self._state != "failing":
            self._since = clock.now()
            self._log.error("sink.failing", reason=reason, pending=self.pending)
        self._state, self._reason = "failing", reason

    def _succeed(self) -> None:
        if self._state == "ok" and not (self._is_dropping and len(self._queue) < self._bound / 2):
            return
        is_first = self._state == "starting" and not self._is_dropping
        event = "sink.ready" if is_first else "sink.recovered"
        self._log.info(event, written=self.written, dropped=self.dropped)
        if self._state != "ok":
            self._since = clock.now()
        self._state, self._reason, self._is_dropping = "ok", None, False
