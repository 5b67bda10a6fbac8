"""The archive: the actor that keeps what the feeds say, and what was fetched, on the user's own disk.

Rows wait in memory, within a bound, until one thread has committed them; only then do they count as written. Whatever
the disk does, nobody else waits for it: while it is full, locked or not there, rows are held and the write is tried
again; beyond the bound the oldest are dropped and counted. SQL lives in `store.py` and `queries.py`.
"""

import os
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import structlog
import trio
import trio.to_thread
from msgspec import Struct

from actors import clock
from actors.archive import store
from actors.archive.follower import Follower
from actors.archive.reads import Reads
from actors.archive.series import ArchiveKind, Row, Series, Write, us
from actors.counts import Histogram
from actors.feeds.feed import Feed

BATCH_EVERY = 0.5  # seconds between writes
BATCH = 10_000  # rows of one transaction
PENDING = 200_000  # rows that may wait in memory
RETRY = 2.0  # seconds between tries while the disk does not take them
LAST_WRITE = 1.5  # seconds at the end: SQLite waits for a lock for one, and a disk that hangs must not hold us
ASKED_AGAIN = 3  # times at most, where a write came in between
PATIENCE = 3.0  # seconds that a reader waits for what is pending
EXPORTS = 2  # at a time
PRUNE_EVERY = 3600.0  # seconds

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
        self._days = {kind: some for kind, some in (days or {}).items() if some > 0}  # retention
        self._bound = pending
        self._state: Literal["starting", "ok", "failing"] = "starting"
        self._since = clock.now()
        self._reason: str | None = None
        self.written = 0  # rows on disk
        self.rows: Counter[ArchiveKind] = Counter()  # the same by kind
        self.commits = Histogram()  # how long a batch took
        self.dropped = 0  # rows lost to the bound
        self._lagged = 0  # of followers that are gone
        self._pending: deque[Write] = deque()
        self._rows_pending = 0
        self._away: list[Write] = []  # what a thread is writing
        self._rows_away = 0  # those of the pending that are in it
        self._writes = 0  # begun so far
        self._is_dropping = False
        self._followers: dict[Follower, None] = {}
        self._wanted = trio.Event()  # a write now instead of in a while
        self._waiting: list[trio.Event] = []  # set after the next write
        self._writer: store.Writer | None = None
        self._opened = trio.Event()
        self._damage: str | None = None
        self._replaced = 0  # files that were put aside
        self._prune_at = float("-inf")
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
            pending=self._rows_pending,
            dropped=self.dropped,
            lagged=self._lagged + sum(follower.lagged for follower in self._followers),
        )

    def change(self, *, keep: Sequence[ArchiveKind], days: Mapping[ArchiveKind, float]) -> None:
        """Keep these kinds from now on, each for so many days, 0 = for ever."""
        self.keep = frozenset(keep)
        self._days = {kind: limit for kind, limit in days.items() if limit}
        self._prune_at = float("-inf")
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
                self._pending.append(write)
                self._rows_pending += _size(write)
        self._keep_bound()

    def _keep_bound(self) -> None:
        # What a thread has at the moment is older than all that waits, and is dropped first if it comes back.
        while self._rows_pending - self._rows_away > self._bound:
            oldest = self._pending.popleft()
            self._rows_pending -= _size(oldest)
            self.dropped += len(oldest.rows)
            if not self._is_dropping:
                self._is_dropping = True
                log.error("archive.dropping", reason=self._reason or "the disk is too slow", pending=self._rows_pending)

    def pending_rows(self, series: Series) -> list[Row]:
        """What waits to be written, or is just being written."""
        waiting = (*self._away, *self._pending)
        return [row for write in waiting if write.series == series for row in write.rows]

    async def ask(self, series: Series, query: Callable[[store.Connection], T]) -> tuple[T, list[Row]]:
        """What `query` finds on disk, and the rows that it cannot have found. Raises Unreadable."""
        for _ in range(ASKED_AGAIN):  # a write at the same time may be in the one, or both, or neither
            writes, was_writing = self._writes, bool(self._away)
            waiting = self.pending_rows(series)
            found = await self.reads.ask(query)
            if not waiting or (writes == self._writes and not was_writing):
                break
        return found, waiting

    async def flush(self) -> None:
        """Return once everything that was said so far is on disk, or cannot be written at present."""
        if self.is_failing:
            self._collect()
            return
        done = trio.Event()
        self._waiting.append(done)
        self._wanted.set()
        with trio.move_on_after(PATIENCE):
            await done.wait()

    def _collect(self) -> None:
        for follower in self._followers:
            self.put(follower.collect())

    # --- the writing task

    async def run(self) -> None:
        """Write until cancelled; what is pending then is written if the disk takes it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._collect_often)
            nursery.start_soon(self._verify)
            await self._write_often()

    async def _collect_often(self) -> None:
        """Apart from writing, which may wait for the disk while readers fill up."""
        while True:
            self._collect()
            await trio.sleep(BATCH_EVERY / 2)

    async def _write_often(self) -> None:
        try:
            while True:
                await self._write()
                with trio.move_on_after(RETRY if self.is_failing else BATCH_EVERY):
                    await self._wanted.wait()
                self._wanted = trio.Event()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_WRITE) as scope:
                await self._write()
                await self._close_writer()
            if scope.cancelled_caught:
                log.error("archive.not_ended", path=str(self.path), pending=self._rows_pending)
            self.reads.close()

    async def _write(self) -> None:
        """Everything that is pending, as far as the disk takes it."""
        waiting, self._waiting = self._waiting, []
        self._collect()
        try:
            if self._damage is not None:
                await self._replace(self._damage)
            if self._writer is None:
                self._writer = await self._open_writer()
                self._opened.set()
            while self._pending:
                await self._write_batch(self._writer)
            await self._prune(self._writer)
        except (sqlite3.Error, OSError, store.NotOurs) as error:
            await self._close_writer()
            if not store.is_outside(error):
                raise  # a fault of ours
            self._fail(error)
        else:
            self._succeed()
        finally:
            for done in waiting:
                done.set()

    async def _open_writer(self) -> store.Writer:
        is_wanted = True

        def work() -> store.Writer:
            writer = store.Writer(self.path)
            if not is_wanted:
                writer.close()
            return writer

        try:
            return await self._in_thread(work)
        except trio.Cancelled:
            is_wanted = False
            raise

    async def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await self._in_thread(writer.close)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """One after the other: what was abandoned has to end before anything else begins."""
        return await trio.to_thread.run_sync(work, limiter=self._write_limit, abandon_on_cancel=True)

    async def _write_batch(self, writer: store.Writer) -> None:
        batch: list[Write] = []
        rows = 0
        while self._pending and (rows < BATCH or not batch):
            batch.append(self._pending.popleft())
            rows += _size(batch[-1])
        self._away, self._rows_away = batch, rows
        self._writes += 1
        began = trio.current_time()
        try:
            await self._in_thread(partial(writer.write, batch))
        except BaseException as error:
            self._away, self._rows_away = [], 0
            if store.is_outside(error) or isinstance(error, trio.Cancelled):
                self._pending.extendleft(reversed(batch))  # while they were away they counted as pending
                self._keep_bound()
            else:
                self._rows_pending -= rows
                self.dropped += sum(len(write.rows) for write in batch)
            raise
        self._away, self._rows_away = [], 0
        self._rows_pending -= rows
        for write in batch:
            self.rows[write.series.kind] += len(write.rows)
        self.written += sum(len(write.rows) for write in batch)
        self.commits.observe(trio.current_time() - began)

    async def _prune(self, writer: store.Writer) -> None:
        """One step of deleting what is older than it should be; more of them while there is more."""
        if not self._days or trio.current_time() < self._prune_at:
            return
        deleted = 0
        for kind, days in self._days.items():
            before = us(clock.now() - timedelta(days=days))
            deleted += await self._in_thread(partial(writer.prune, kind, before))
        if not deleted:
            self._prune_at = trio.current_time() + PRUNE_EVERY

    # --- what may be wrong

    def _fail(self, error: Exception) -> None:
        reason = str(error)
        if store.is_corrupt(error):
            self._damaged(reason)
        if (self._state, self._reason) != ("failing", reason):
            if self._state != "failing":
                self._since = clock.now()
            self._state, self._reason = "failing", reason
            log.error("archive.failing", path=str(self.path), reason=reason, pending=self._rows_pending)

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
        self._replaced += 1
        aside = await self._in_thread(self._move_aside)
        self.reads.close()  # whoever has asked since has the old file
        self._damage = None
        log.error("archive.corrupt", path=str(self.path), reason=damage, moved_to=str(aside))

    def _move_aside(self) -> Path | None:
        with suppress(FileNotFoundError):  # somebody has done it already
            return store.move_aside(self.path, clock.now())
        return None

    async def _verify(self) -> None:
        """Read the whole file once, beside everything else: damage shows before it is met."""
        await self._opened.wait()
        replaced = self._replaced
        connection: list[store.Connection] = []

        def work() -> str | None:
            connection.append(store.open_reader(self.path))
            try:
                return store.check(connection[0])
            except sqlite3.DatabaseError as error:
                if store.is_corrupt(error):
                    return str(error)
                return None  # interrupted, or locked: whoever meets damage later says so
            finally:
                connection[0].close()

        try:
            damage = await trio.to_thread.run_sync(work, abandon_on_cancel=True)
        except (sqlite3.Error, OSError, store.NotOurs):
            return  # it cannot even be opened, which is the writing task's to say
        finally:
            with suppress(sqlite3.Error):
                for open_one in connection:
                    open_one.interrupt()
        if damage is not None and replaced == self._replaced:
            self._damaged(damage)


def _size(write: Write) -> int:
    """What a write counts for in the bound: coverage alone takes room too."""
    return len(write.rows) + len(write.covered)


def _size_of(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
