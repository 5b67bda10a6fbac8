"""Exports as files that can be read in part: each is written once, and served for as long as somebody comes back.

Law: what one reader reads is one file, whatever is written to the archive meanwhile. Files have no names on the disk,
so nothing is left behind. Only the making counts against the exports that may run at once.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO

import msgspec
import structlog
import trio

from actors import clock
from actors.errors import MarketError, NotReady, Overloaded
from web.rest.dump import Job

PIECE = 256 << 10  # bytes handed on at a time
KEPT = 60.0  # seconds after its last use
FRESH = 2.0  # seconds in which who asks for a whole file is given the last one
TURN = 10.0  # seconds that a making waits for its turn
LOOK_EVERY = 5.0  # seconds between looks for files that nobody came back to
ENDS_WITHIN = 2.0  # seconds, once a process was killed

# `-m` would look in the working directory first, where anything may be called `web`.
CHILD = (
    f"import sys; sys.path.append({str(Path(__file__).parents[2])!r}); from web.rest.dump import main; sys.exit(main())"
)

log = structlog.get_logger()


class BrokenExport(Exception):
    """The work ended before its end."""


class Spooled:
    """One file, being written or whole."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.size = 0  # of what is written
        self.tag = ""  # once it is whole: a digest of it
        self.begun = trio.Event()  # the work runs, or never will
        self.whole = trio.Event()  # nothing more will be written
        self.problem: MarketError | None = None  # why the work was not begun
        self.failure: str | None = None  # why it was not ended
        self.made_at = self.used_at = trio.current_time()
        self.readers = 0
        self.is_dropped = False  # nobody else will be given it
        self.scope = trio.CancelScope()
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the last of those who use it
        self._grown = trio.Event()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep it for as long as the block lasts. Work that nobody waits for any more is ended."""
        self.readers += 1
        try:
            yield
        finally:
            self.readers -= 1
            self.used_at = trio.current_time()
            if not self.readers and not self.whole.is_set():
                self.scope.cancel()
            elif not self.readers and self.is_dropped:
                self.close()

    async def pieces(self, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        """The bytes of `[start, end)`, as they come; None: to the end. Raises BrokenExport."""
        while end is None or start < end:
            there = self.size if end is None else min(end, self.size)
            if start < there:
                count = min(PIECE, there - start)
                piece = await trio.to_thread.run_sync(os.pread, self._file.fileno(), count, start)
                start += len(piece)
                yield piece
            elif not self.whole.is_set():
                await self._grown.wait()
            elif self.failure is not None:
                # The headers are gone: only a connection that ends too early can tell the client.
                raise BrokenExport(self.failure)
            else:
                return

    async def add(self, piece: bytes) -> None:
        await trio.to_thread.run_sync(self._file.write, piece)
        self._file.flush()
        self.size += len(piece)
        self._grow()

    def end(self, *, tag: str = "", failure: str | None = None) -> None:
        self.tag, self.failure = tag, failure
        self.begun.set()
        self.whole.set()
        self._grow()

    def _grow(self) -> None:
        self._grown.set()
        self._grown = trio.Event()

    def close(self) -> None:
        self._file.close()


class Spool:
    def __init__(self, nursery: trio.Nursery, *, megabytes: int, files: int) -> None:
        self._nursery = nursery
        self._room = megabytes << 20
        self._most = files
        self._kept: dict[Job, Spooled] = {}
        self._all: set[Spooled] = set()  # those too that are for one reader alone
        nursery.start_soon(self._forget_often)

    def get(self, job: Job, slot: Callable[[], ExitStack], limit: trio.CapacityLimiter, *, is_part: bool) -> Spooled:
        """The file of a job, which is begun where there is none.

        `slot`: takes what the making counts against, `limit` how many may run. `is_part`: its reader will come back for
        more of the same file; others want what there is now. Raises Overloaded, and what `slot` does.
        """
        now = trio.current_time()
        kept = self._kept.get(job)
        if kept is not None and (kept.failure is not None or kept.problem is not None or kept.scope.cancel_called):
            kept = None  # it will never be whole
        if kept is not None:
            is_new = not kept.whole.is_set() or now - kept.made_at < FRESH
            if is_part or is_new:
                return kept
        self._make_room(1)
        taken = slot()
        spooled = Spooled(job)
        if kept is None:
            self._kept[job] = spooled  # else that goes on being read in parts, and this is for one reader
        self._all.add(spooled)
        self._nursery.start_soon(self._make, spooled, limit, taken)
        return spooled

    # --- making

    async def _make(self, spooled: Spooled, limit: trio.CapacityLimiter, taken: ExitStack) -> None:
        with taken, spooled.scope:
            with trio.move_on_after(TURN):
                await limit.acquire_on_behalf_of(spooled)
                taken.callback(limit.release_on_behalf_of, spooled)
                spooled.begun.set()
            if spooled.begun.is_set():
                await self._write(spooled)
            else:
                detail = f"{limit.total_tokens} exports are running already"
                spooled.problem = NotReady(detail, retry_after=TURN)
        if not spooled.whole.is_set():
            spooled.end(failure="nobody waited for it")
        if spooled.failure is not None:
            self._drop(spooled)

    async def _write(self, spooled: Spooled) -> None:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-P", "-c", CHILD, msgspec.json.encode(spooled.job).decode()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        digest = sha256()
        try:
            while piece := bytes(await process.stdout.receive_some(PIECE)):
                self._make_room(0, len(piece))
                digest.update(piece)
                await spooled.add(piece)
            if await process.wait():
                reason = bytes(await process.stderr.receive_some(2000)).decode("utf-8", "replace").strip()
                raise BrokenExport(reason[-500:])
            spooled.end(tag=digest.hexdigest()[:32])
        except (BrokenExport, Overloaded, OSError) as error:
            if isinstance(error, Overloaded):
                spooled.problem = error
            log.error("web.export_failed", kind=spooled.job.kind, reason=str(error))
            spooled.end(failure=str(error))
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(ENDS_WITHIN):
                process.kill()
                await process.wait()
                await process.stdout.aclose()
                await process.stderr.aclose()

    # --- room

    def _make_room(self, files: int, size: int = 0) -> None:
        """Drop those unused for longest until so much more fits. Raises Overloaded where it cannot."""
        while len(self._all) + files > self._most or sum(one.size for one in self._all) + size > self._room:
            unused = [one for one in self._all if not one.readers and one.whole.is_set()]
            if not unused:
                raise Overloaded("the spool of exports is full: see [export] in the configuration")
            self._drop(min(unused, key=lambda one: one.used_at))

    def _drop(self, spooled: Spooled) -> None:
        self._all.discard(spooled)
        if self._kept.get(spooled.job) is spooled:
            del self._kept[spooled.job]
        spooled.is_dropped = True
        if not spooled.readers:  # else with the last of them
            spooled.close()

    async def _forget_often(self) -> None:
        while True:
            await clock.tick(LOOK_EVERY)
            oldest = trio.current_time() - KEPT
            for spooled in list(self._all):
                is_private = self._kept.get(spooled.job) is not spooled
                if spooled.whole.is_set() and not spooled.readers and (is_private or spooled.used_at < oldest):
                    self._drop(spooled)
