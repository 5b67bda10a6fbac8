"""A recording in place of the exchanges: the same frames and answers, in the recorded order, at the recorded moments.

Law: the recording leads and the actors follow. A line that connects waits for the recorded connection of its number; a
question waits for the recorded answer to it. The clock (see actors.clock) moves on only when all that followed from one
record is done, so the same recording makes the same events in the same order, whatever the speed.
"""

import re
import ssl
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NamedTuple, NoReturn
from urllib.parse import urlencode

import structlog
import trio

from actors.clock import RecordedClock, from_us
from actors.errors import LineLost, UpstreamError, UpstreamTimeout
from actors.recording import format as recording
from actors.recording.format import Answered, AnyRecord, Asked, Failed
from actors.upstream.dial import ConnectionClosed, closed
from actors.upstream.inbound import Heard
from actors.upstream.rest import FAILURES, Answer, Http, Question
from actors.upstream.seam import Socket

# Seconds that a question and its answer may be apart, either of them first. Ours come a little sooner than the recorded
# ones did, or later, because the waits before a retry are partly chance.
PATIENCE = 15.0
IMPATIENCE = 0.01  # the same where the recording is known to lack answers
UNREAD_MAX = 10_000  # messages that wait for a line, and
ATTEMPTS_MAX = 100  # connections that wait for it: what nobody follows here is not kept
TIMES = re.compile(rb"\d{13}")  # Unix milliseconds: where a question says when it is asked, ours says something else

log = structlog.get_logger()

Message = tuple[bytes | str, datetime] | LineLost | ConnectionClosed


class _Connection:
    """One recorded connection of a line: what of it is not read yet, and its end."""

    def __init__(self) -> None:
        self._put, self._get = trio.open_memory_channel[Message](UNREAD_MAX)
        self.is_over = False
        self.is_unread = False  # messages were dropped, because no line of ours took them

    def put(self, message: Message) -> None:
        try:
            self._put.send_nowait(message)
        except trio.WouldBlock:
            self.is_unread = True

    async def listen(self, heard: Heard) -> NoReturn:
        while True:
            message = await self._get.receive()
            if isinstance(message, Exception):
                self.is_over = True
                raise message
            data, taken_at = message
            heard([data], taken_at)

    async def send_message(self, message: str) -> None:
        await trio.lowlevel.checkpoint()

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()


class _Line:
    """What the recording has of one line: its attempts to connect, in order."""

    def __init__(self) -> None:
        self._put, self.attempts = trio.open_memory_channel[_Connection | LineLost](ATTEMPTS_MAX)
        self.open: _Connection | None = None  # the connection that was open at this point of the recording
        self.left: _Connection | None = None  # by our line, before its recorded end

    def attempt(self, how: _Connection | LineLost) -> None:
        try:
            self._put.send_nowait(how)
        except trio.WouldBlock:
            self.attempts.receive_nowait()
            self._put.send_nowait(how)


class _Waiting:
    """A question of ours, and its answer once there is one."""

    def __init__(self, key: "_Key") -> None:
        self.key = key
        self.answered = trio.Event()
        self.answer: Answered | Failed | None = None


class _Key(NamedTuple):
    """What a question asks, in the bytes that a recording has of it."""

    exchange: str
    method: str
    path: str
    query: str
    body: bytes

    def at_any_time(self) -> "_Key":
        query = TIMES.sub(b"T", self.query.encode()).decode()
        return self._replace(query=query, body=TIMES.sub(b"T", self.body))


class Replay:
    """An upstream for `Connector`. `play` delivers; nothing comes before it is called."""

    def __init__(self, clock: RecordedClock, *, is_complete: bool) -> None:
        self._clock = clock
        self._patience = PATIENCE if is_complete else IMPATIENCE
        self._lines: dict[tuple[str, int], _Line] = {}
        self._waiting: list[_Waiting] = []  # the oldest first
        self._unclaimed: deque[tuple[float, _Key, Answered | Failed]] = deque()  # (when, ...), the oldest first

    async def play(self, records: Iterable[AnyRecord]) -> None:
        """Deliver every record at its moment; returns when all that follows from the last one is done."""
        at = trio.current_time()
        for record in records:
            # Each moment is its own, so that the clock waits for what follows from the one before; and a machine's
            # clock may have been set back.
            at = max(at + 1e-6, self._clock.at(record.at))
            await trio.sleep_until(at)
            self._deliver(record)
        await trio.sleep_until(at + 1e-6)

    def _deliver(self, record: AnyRecord) -> None:
        match record:
            case recording.Frame():
                line = self._line(record.exchange, record.line)
                if line.open is not None:
                    data = record.data.decode(errors="replace") if record.is_str else record.data
                    was_unread = line.open.is_unread
                    line.open.put((data, from_us(record.at)))
                    if line.open.is_unread and not was_unread:
                        log.warning("replay.line_not_followed", exchange=record.exchange, line=record.line)
            case recording.Up():
                line = self._line(record.exchange, record.line)
                line.open = _Connection()
                line.attempt(line.open)
            case recording.Closed(code=code, reason=reason):
                self._end(record.exchange, record.line, closed(code, reason))
            case recording.Down(was_up=True, reason=reason):
                # Where the line was only not wanted any more, ours is not either.
                self._end(record.exchange, record.line, None if reason is None else LineLost(reason))
            case recording.Down(reason=str(reason)):
                self._line(record.exchange, record.line).attempt(LineLost(reason))
            case Answered() | Failed():
                self._answer(record)
            case recording.Lost(records=count):
                log.warning("replay.hole", at=from_us(record.at).isoformat(), records=count)

    def _line(self, exchange: str, number: int) -> _Line:
        return self._lines.setdefault((exchange, number), _Line())

    def _end(self, exchange: str, number: int, how: Message | None) -> None:
        line = self._line(exchange, number)
        if line.open is not None and how is not None:
            line.open.put(how)
        line.open = None

    @asynccontextmanager
    async def open_socket(
        self, exchange: str, line: int, topics: Sequence[str], url: str, tls: ssl.SSLContext | None
    ) -> AsyncIterator[Socket]:
        recorded = self._line(exchange, line)
        connection, recorded.left = recorded.left, None
        if connection is None or connection is not recorded.open:
            attempt = await recorded.attempts.receive()
            if isinstance(attempt, LineLost):
                raise attempt
            connection = attempt
        try:
            yield connection
        finally:
            if not connection.is_over:
                # Ours judged a little sooner than the recorded line that it is silent: the rest may still be wanted.
                recorded.left = connection

    # --- REST

    @asynccontextmanager
    async def open_http(self, exchange: str, url: str, tls: ssl.SSLContext | None) -> AsyncIterator[Http]:
        yield _Host(self, exchange)

    def _answer(self, record: Answered | Failed) -> None:
        """Give an answer to the question that was the first to ask for it, or keep it for one that may come."""
        key = _key_of(record)
        found = _best(key, [waiting.key for waiting in self._waiting])
        if found is None:
            self._unclaimed.append((trio.current_time(), key, record))
            return
        waiting = self._waiting.pop(found)
        waiting.answer = record
        waiting.answered.set()

    async def ask(self, exchange: str, question: Question) -> Answered | Failed:
        """The recorded answer. Raises UpstreamTimeout where there is none."""
        key = _Key(exchange, question.method, question.path, urlencode(question.query), question.body)
        while self._unclaimed and self._unclaimed[0][0] < trio.current_time() - PATIENCE:
            self._unclaimed.popleft()
        found = _best(key, [unclaimed[1] for unclaimed in self._unclaimed])
        if found is not None:
            record = self._unclaimed[found][2]
            del self._unclaimed[found]
            await trio.lowlevel.checkpoint()
            return record
        waiting = _Waiting(key)
        self._waiting.append(waiting)
        try:
            with trio.move_on_after(self._patience):
                await waiting.answered.wait()
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
        if waiting.answer is None:
            raise UpstreamTimeout(f"{question.path}: the recording has no answer to this")
        return waiting.answer


class _Host:
    """A REST host of a recording."""

    def __init__(self, replay: Replay, exchange: str) -> None:
        self._replay = replay
        self._exchange = exchange

    async def ask(self, question: Question) -> Answer:
        record = await self._replay.ask(self._exchange, question)
        if isinstance(record, Failed):
            raise FAILURES.get(record.error, UpstreamError)(record.text)
        times = from_us(record.asked_at), from_us(record.at)
        return Answer(record.status, record.headers, record.body, *times)


def _key_of(record: Asked) -> _Key:
    return _Key(record.exchange, record.method, record.path, record.query, record.question)


def _best(key: _Key, among: Sequence[_Key]) -> int | None:
    """Where the same question is first, or else one that differs in times alone; None where neither is."""
    if key in among:
        return among.index(key)
    loose = key.at_any_time()
    return next((place for place, other in enumerate(among) if other.at_any_time() == loose), None)
