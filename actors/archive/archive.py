"""The archive: the actor that keeps what the feeds say, and what was fetched, on the user's own disk.

Rows wait in memory (`waiting`) until one thread has committed them; only then do they count as written. Whatever the
disk does, nobody else waits for it: while it is full, locked or not there, rows are held and the write is tried again;
beyond a bound they are dropped and counted. SQL lives in `store.py` and `queries.py`.
"""

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import structlog
import trio
import trio.to_thread
from msgspec import Struct

from actors import clock
from actors.archive import check, store
from actors.archive.follower import Follower
from actors.archive.reads import Reads, Unreadable
from actors.archive.retention import Retention
from actors.archive.series import ArchiveKind, Row, Series, Write
from actors.archive.waiting import Waiting
from actors.archive.writer import Writer
from actors.counts import Histogram
from actors.feeds.feed import Feed

BATCH_EVERY = 0.5  # seconds between writes
BATCH = 10_000  # rows of one transaction
PENDING = 200_000  # rows that may wait in memory
RETRY = 2.0  # seconds between tries while the disk does not take them
LAST_WRITE = 1.5  # seconds at the end: SQLite waits for a lock for one, and a disk that hangs must not hold us
AT_ONCE = 10  # feeds that are collected from in one turn
PATIENCE = 3.0  # seconds that a reader waits for what is pending
EXPORTS = 2  # at a time

T = TypeVar("T")
log = structlog.get_logger()


class ArchiveReport(Struct, frozen=True, kw_only=True):
    """The archive's health, as `/health` shows it. Counts are of rows, since the daemon started."""

    state: Literal["starting", "ok", "failing"]
    since: datetime
    reason: str | None
    written: int
    pending: int
    dropped: int
    lagged: int


class Sizes(NamedTuple):
    database: int
    wal: int
    free: int


class Archive:
    def __init__(
        self,
        path: Path,
        *,
        keep: Sequence[ArchiveKind],
        days: Mapping[ArchiveKind, float] | None = None,
        pending: int = PENDING,
    ) -> None:
        self.path = path
        self.keep = frozenset(keep)
        self._retention = Retention(days or {})
        self._state: Literal["starting", "ok", "failing"] = "starting"
        self._since = clock.now()
        self._reason: str | None = None
        self.written = 0  # rows on disk
        self.rows: Counter[ArchiveKind] = Counter()  # the same by kind
        self.commits = Histogram()  # how long a batch took
        self.dropped = 0  # rows lost to the bound
        self._lagged = 0  # of followers that are gone
        self._rows = Waiting(pending)
        self._is_dropping = False
        self._followers: dict[Follower, None] = {}
        self._wanted = trio.Event()  # a write now instead of in a while
        self._flushed: list[trio.Event] = []  # set after the next write
        self._writer: Writer | None = None
        self._opened = trio.Event()
        self._may_be_damaged = False  # when it was opened first
        self._damage: str | None = None
        self.reads = Reads(path, on_damage=self._damaged)
        self.exports = trio.CapacityLimiter(EXPORTS)
        self._write_limit = trio.CapacityLimiter(1)

    @property
    def is_failing(self) -> bool:
        return self._state == "failing"

    def report(self) -> ArchiveReport:
        return ArchiveReport(
            state=self._state,
            since=self._since,
            reason=self._reason,
            written=self.written,
            pending=self._rows.size,
            dropped=self.dropped,
            lagged=self._lagged + sum(follower.lagged for follower in self._followers),
        )

    def change(self, *, keep: Sequence[ArchiveKind], days: Mapping[ArchiveKind, float]) -> None:
        """Keep these kinds from now on, each for so many days, 0 = for ever."""
        self.keep = frozenset(keep)
        self._retention = Retention(days)
        for follower in self._followers:
            follower.follow(self.keep)

    def sizes(self) -> Sizes:
        """Of the files, and of the room beside them, in bytes; 0 where nothing is there."""
        free = 0
        with suppress(OSError):
            room = os.statvfs(self.path.parent)
            free = room.f_bavail * room.f_frsize
        return Sizes(_size_of(self.path), _size_of(self.path.with_name(self.path.name + "-wal")), free)

    # --- what is to be kept

    @contextmanager
    def following(self, feed: Feed, now: Callable[[], datetime]) -> Iterator[None]:
        """Keep what a feed says for as long as the block lasts; `now` is its exchange's clock."""
        follower = Follower(feed, self.keep, now)
        self._followers[follower] = None
        try:
            yield
        finally:
            del self._followers[follower]
            self._lagged += follower.lagged
            self.put(follower.close())

    def put(self, writes: Sequence[Write]) -> None:
        """Rows to be written soon."""
        for write in writes:
            if write.series.kind in self.keep:
                self._rows.add(write)
        self._keep_bound()

    def _keep_bound(self) -> None:
        dropped = self._rows.trim()
        self.dropped += dropped
        if dropped and not self._is_dropping:
            self._is_dropping = True
            log.error("archive.dropping", reason=self._reason or "the disk is too slow", pending=self._rows.size)

    def pending_rows(self, series: Series) -> list[Row]:
        """What waits to be written, or is just being written: the file may have these already."""
        return self._rows.rows(series)

    async def flush(self) -> None:
        """Return once everything that was said so far is on disk, or cannot be written at present."""
        if self.is_failing:
            await self._collect()
            return
        done = trio.Event()
        self._flushed.append(done)
        self._wanted.set()
        with trio.move_on_after(PATIENCE):
            await done.wait()

    async def _collect(self) -> None:
        """Take from all followers; others have their turn in between, since of a whole market there are a thousand."""
        for number, follower in enumerate(list(self._followers), 1):
            if follower in self._followers:
                self.put(follower.collect())
            if number % AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    # --- the writing task

    async def run(self) -> None:
        """Write until cancelled; what is pending then is written if the disk takes it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._collect_often)
            nursery.start_soon(self._check)
            await self._write_often()

    async def _collect_often(self) -> None:
        """Apart from writing, which may wait for the disk while readers fill up."""
        while True:
            await self._collect()
            await clock.tick(BATCH_EVERY / 2)

    async def _write_often(self) -> None:
        try:
            while True:
                await self._write()
                with trio.move_on_at(clock.next_tick(RETRY if self.is_failing else BATCH_EVERY)):
                    await self._wanted.wait()
                self._wanted = trio.Event()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_WRITE) as scope:
                await self._write()
                self.reads.close()  # who closes last folds the log into the file
                await self._close_writer(is_end=True)
            if scope.cancelled_caught:
                log.error("archive.not_ended", path=str(self.path), pending=self._rows.size)
            self.reads.close()

    async def _write(self) -> None:
        """Everything that is pending, as far as the disk takes it."""
        flushed, self._flushed = self._flushed, []
        try:
            await self._collect()
            if self._damage is not None:
                await self._replace(self._damage)
            if self._writer is None:
                self._writer = await self._open_writer()
                if not self._opened.is_set():
                    self._may_be_damaged = not self._writer.was_ended
                    self._opened.set()
            while self._rows:
                await self._write_batch(self._writer)
            if self._retention.is_due(trio.current_time(), clock.now()):
                await self._in_thread(partial(self._retention.step, self._writer))
        except (sqlite3.Error, OSError, store.NotOurs) as error:
            await self._close_writer()
            if not store.is_outside(error):
                raise  # a fault of ours
            self._fail(error)
        else:
            self._succeed()
        finally:
            for done in flushed:
                done.set()

    async def _open_writer(self) -> Writer:
        is_wanted = True

        def work() -> Writer:
            writer = Writer(self.path)
            if not is_wanted:
                writer.close()
            return writer

        try:
            return await self._in_thread(work)
        except trio.Cancelled:
            is_wanted = False
            raise

    async def _close_writer(self, *, is_end: bool = False) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await self._in_thread(writer.end if is_end else writer.close)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """One after the other: what was abandoned has to end before anything else begins."""
        return await trio.to_thread.run_sync(work, limiter=self._write_limit, abandon_on_cancel=True)

    async def _write_batch(self, writer: Writer) -> None:
        batch = self._rows.take(BATCH)
        began = trio.current_time()
        try:
            await self._in_thread(partial(writer.write, batch))
        except BaseException as error:
            if store.is_outside(error) or isinstance(error, trio.Cancelled):
                self._rows.give_back()
                self._keep_bound()
            else:
                self.dropped += self._rows.done()
            raise
        for write in batch:
            self.rows[write.series.kind] += len(write.rows)
        self.written += self._rows.done()
        self.commits.observe(trio.current_time() - began)

    # --- what may be wrong

    async def _check(self) -> None:
        """Damage shows before it is met, where there may be any."""
        await self._opened.wait()
        if self._may_be_damaged:
            began = trio.current_time()
            with suppress(Unreadable):  # which has been seen to
                await check.read_over(self.reads)
                log.info("archive.checked", path=str(self.path), seconds=round(trio.current_time() - began, 1))

    def _fail(self, error: Exception) -> None:
        reason = str(error)
        if store.is_corrupt(error):
            self._damaged(reason)
        if (self._state, self._reason) != ("failing", reason):
            if self._state != "failing":
                self._since = clock.now()
            self._state, self._reason = "failing", reason
            log.error("archive.failing", path=str(self.path), reason=reason, pending=self._rows.size)

    def _damaged(self, reason: str) -> None:
        self._damage = reason  # the next write begins with a new file
        self._wanted.set()

    def _succeed(self) -> None:
        if self._state == "ok":
            return
        event = "archive.ready" if self._state == "starting" else "archive.recovered"
        log.info(event, path=str(self.path), written=self.written, dropped=self.dropped)
        self._state, self._reason, self._since, self._is_dropping = "ok", None, clock.now(), False
        self.reads.close()  # they may have a file that was removed since, or one that nobody wrote to then

    async def _replace(self, damage: str) -> None:
        """Put a damaged file aside; a new one takes its place."""
        await self._close_writer()
        self.reads.close()
        aside = await self._in_thread(self._move_aside)
        self.reads.close()  # whoever has asked since has the old file
        self._damage = None
        log.error("archive.corrupt", path=str(self.path), reason=damage, moved_to=str(aside))

    def _move_aside(self) -> Path | None:
        with suppress(FileNotFoundError):  # somebody has done it already
            return store.move_aside(self.path, clock.now())
        return None


def _size_of(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
