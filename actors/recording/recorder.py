"""Writes down what passes between this program and the exchanges, in the format of `actors.recording.format`.

What is written here costs the ingest an encoding and a copy; compressing and writing happen in a thread, once a second.
A disk that does not take it costs the recording and nothing else: what cannot be written is counted and dropped, said
once, and tried again with the next batch.
"""

import ssl
import threading
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, NoReturn
from urllib.parse import urlencode

import structlog
import trio
import trio.to_thread

from actors import clock
from actors.recording import format as recording
from actors.recording.format import GZIP, AnyRecord, encoded
from actors.upstream.dial import ConnectionClosed
from actors.upstream.inbound import Heard
from actors.upstream.rest import FAILURES, Answer, Http, Question
from actors.upstream.seam import Socket, Upstream

WRITE_EVERY = 1.0  # seconds; what a crash of the machine or a kill may cost
WRITE_WITHIN = 3.0  # seconds for the last batch, when the program ends
PENDING_MAX = 64 << 20  # bytes that may wait for a disk that is slow
LEVEL = 3  # of gzip: 1 costs a quarter less and takes a sixth more room, 6 costs 2.5 times as much and saves an eighth
HEADERS = ("content-type", "date", "retry-after")  # that matter beside those that begin with x-

log = structlog.get_logger()


class Recorder:
    """One recording in `folder`: put records in, at any time; `run` writes them. `config`: see recording.Begin.

    A part that has reached `part_bytes` is followed by the next one.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], *, part_bytes: int) -> None:
        self.run_name = f"{clock.now():%Y%m%dT%H%M%S.%f}Z"
        self.lost = 0  # records that could not be written, so far
        self.is_failing = False
        self._parts = _Parts(folder, self.run_name, dict(config), part_bytes)
        self._pending = bytearray()
        self._count = 0  # of records pending
        self._unsaid = 0  # records of earlier batches that are lost, which the file does not say yet
        self._overflown = 0  # records that came when no more could be pending

    def put(self, record: AnyRecord) -> None:
        if len(self._pending) > PENDING_MAX:
            self._overflown += 1
            self.lost += 1
            return
        self._pending += encoded(record)
        self._count += 1

    async def run(self) -> None:
        """Write until cancelled, and then what is left."""
        try:
            while True:
                await self.write()
                await trio.sleep(WRITE_EVERY)
        finally:
            with trio.move_on_after(WRITE_WITHIN, shield=True):
                await self.write()
                await trio.to_thread.run_sync(self._parts.finish, abandon_on_cancel=True)

    async def write(self) -> None:
        """Write what is pending."""
        batch, count, overflown = self._pending, self._count, self._overflown
        self._pending, self._count, self._overflown = bytearray(), 0, 0
        if self._unsaid:
            batch[:0] = encoded(recording.Lost(_now(), self._unsaid))
        if overflown:
            batch += encoded(recording.Lost(_now(), overflown))
        # A disk may hang: it must not hold up the end of the program.
        problem = await trio.to_thread.run_sync(self._parts.write, batch, abandon_on_cancel=True)
        if problem is None:
            self._unsaid = 0
            if self.is_failing:
                self.is_failing = False
                log.info("record.resumed", run=self.run_name, lost=self.lost)
            return
        self.lost += count
        self._unsaid += count + overflown
        if not self.is_failing:
            self.is_failing = True
            log.error("record.failing", run=self.run_name, reason=problem)


class _Parts:
    """The files of one recording. Called in threads."""

    def __init__(self, folder: Path, run: str, config: dict[str, Any], part_bytes: int) -> None:
        self._folder = folder
        self._run = run
        self._config = config
        self._part_bytes = part_bytes
        self._number = 0
        self._file: BinaryIO | None = None
        self._size = 0  # of what is known to be whole
        self._deflate: Any = None  # the compressor, as of `_size`
        self._began_at = _now()  # before the first record, which may be older than the first file
        self._lock = threading.Lock()  # an abandoned thread may still be writing

    def write(self, batch: bytes | bytearray) -> str | None:
        """Append records; why it could not be done, after which the file is as before. None where it was."""
        try:
            with self._lock:
                if self._file is None or self._size >= self._part_bytes:
                    self._open_next()
                if batch:
                    self._append(batch)
        except OSError as error:
            return f"{error.filename or self._folder}: {error.strerror or error}"
        return None

    def _open_next(self) -> None:
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._run}-{self._number + 1:04}.marketd.gz"
        self._file = path.open("wb", buffering=0)
        self._size, self._deflate = 0, zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP)
        at = _now() if self._number else self._began_at
        begin = recording.Begin(at, recording.VERSION, self._run, self._number + 1, self._config)
        try:
            self._append(encoded(begin))
        except OSError:
            self.close()
            with suppress(OSError):
                path.unlink()
            raise
        self._number += 1

    def _append(self, batch: bytes | bytearray) -> None:
        if self._file is None:
            raise RuntimeError("no file is open")
        deflate = self._deflate.copy()
        data = memoryview(deflate.compress(batch) + deflate.flush(zlib.Z_SYNC_FLUSH))
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            self._take_back()
            raise
        self._deflate = deflate
        self._size = self._file.tell()

    def _take_back(self) -> None:
        """Leave no half of a batch: what is written later must be readable."""
        if self._file is None:
            return
        try:
            self._file.truncate(self._size)
            self._file.seek(self._size)
        except OSError:
            self.close()  # the next batch goes to a new part; this one is read up to here

    def finish(self) -> None:
        """Close, once nobody writes; for a thread."""
        with self._lock:
            self.close()

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                if self._deflate is not None:
                    self._file.write(self._deflate.flush())
            with suppress(OSError):
                self._file.close()
        self._file = None


class Recorded:
    """An upstream of which everything is recorded."""

    def __init__(self, upstream: Upstream, recorder: Recorder) -> None:
        self._upstream = upstream
        self._recorder = recorder

    @asynccontextmanager
    async def open_http(self, exchange: str, url: str, tls: ssl.SSLContext | None) -> AsyncIterator[Http]:
        async with self._upstream.open_http(exchange, url, tls) as http:
            yield _RecordedHttp(http, exchange, self._recorder)

    @asynccontextmanager
    async def open_socket(
        self, exchange: str, line: int, topics: Sequence[str], url: str, tls: ssl.SSLContext | None
    ) -> AsyncIterator[Socket]:
        put, is_up = self._recorder.put, False
        try:
            async with self._upstream.open_socket(exchange, line, topics, url, tls) as socket:
                put(recording.Up(_now(), exchange, line, list(topics)))
                is_up = True
                yield _RecordedSocket(socket, exchange, line, self._recorder)
        except BaseException as error:
            put(recording.Down(_now(), exchange, line, is_up, _reason(error)))
            raise


class _RecordedSocket:
    def __init__(self, socket: Socket, exchange: str, line: int, recorder: Recorder) -> None:
        self._socket = socket
        self._exchange, self._line = exchange, line
        self._put = recorder.put

    async def listen(self, heard: Heard) -> NoReturn:
        def put(messages: Sequence[bytes | str], taken_at: datetime) -> None:
            at = clock.to_us(taken_at)
            for message in messages:
                is_str = isinstance(message, str)
                data = message.encode() if isinstance(message, str) else message
                self._put(recording.Frame(at, self._exchange, self._line, data, is_str))
            heard(messages, taken_at)

        try:
            await self._socket.listen(put)
        except ConnectionClosed as error:
            code, reason = (None, "") if error.reason is None else (error.reason.code, error.reason.reason or "")
            self._put(recording.Closed(_now(), self._exchange, self._line, code, reason))
            raise

    async def send_message(self, message: str) -> None:
        await self._socket.send_message(message)
        self._put(recording.Sent(_now(), self._exchange, self._line, message))

    async def ping(self) -> None:
        await self._socket.ping()


class _RecordedHttp:
    def __init__(self, http: Http, exchange: str, recorder: Recorder) -> None:
        self._http = http
        self._exchange = exchange
        self._put = recorder.put

    async def ask(self, question: Question) -> Answer:
        asked_at = _now()
        method, path, query, body = question.method, question.path, urlencode(question.query), question.body
        try:
            answer = await self._http.ask(question)
        except tuple(FAILURES.values()) as error:
            kind = next(name for name, kind in FAILURES.items() if isinstance(error, kind))
            self._put(recording.Failed(_now(), self._exchange, asked_at, method, path, query, body, kind, str(error)))
            raise
        headers = {name: value for name, value in answer.headers.items() if name in HEADERS or name.startswith("x-")}
        asked_at, at = clock.to_us(answer.asked_at), clock.to_us(answer.answered_at)
        said = recording.Answered(
            at, self._exchange, asked_at, method, path, query, body, answer.status, headers, answer.body
        )
        self._put(said)
        return answer


def _now() -> int:
    return clock.to_us(clock.now())


def _reason(error: BaseException) -> str | None:
    """Why a line was lost; None where it was only given up."""
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_reason, error.exceptions)), None)
    return str(error) or type(error).__name__ if isinstance(error, Exception) else None
