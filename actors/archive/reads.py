"""Questions to the archive's file, each in a worker thread on a connection of its own. Nobody waits for the writer."""

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import trio
import trio.to_thread

from actors.archive import store

AT_ONCE = 4  # questions; more of them wait
STEPS = 100_000  # of SQLite's machine (milliseconds) between two looks whether anybody still waits

T = TypeVar("T")


class Unreadable(Exception):
    """The archive cannot be read at the moment; the text says why."""


class Reads:
    def __init__(self, path: Path, *, on_damage: Callable[[str], None]) -> None:
        self._path = path
        self._on_damage = on_damage  # is told what is wrong with the file
        self._idle: list[store.Connection] = []
        self._generation = 0  # of the file: a damaged one is replaced
        self._limit = trio.CapacityLimiter(AT_ONCE)
        self._threads = trio.CapacityLimiter(AT_ONCE)  # those too that nobody waits for any more

    async def ask(self, query: Callable[[store.Connection], T]) -> T:
        """What `query` finds. Raises Unreadable."""
        async with self._limit:
            generation = self._generation
            idle = [self._idle.pop() if self._idle else None]  # whoever takes it out sees to it
            is_wanted = True

            def work() -> tuple[store.Connection, T]:
                connection = idle.pop() or store.open_reader(self._path)
                try:
                    # `interrupt` would be lost on a connection that is about to begin.
                    connection.set_progress_handler(lambda: not is_wanted, STEPS)
                    found = query(connection)
                    connection.set_progress_handler(None, 0)
                except BaseException:
                    connection.close()
                    raise
                if not is_wanted:
                    connection.close()
                return connection, found

            try:
                connection, found = await trio.to_thread.run_sync(work, limiter=self._threads, abandon_on_cancel=True)
            except trio.Cancelled:
                is_wanted = False
                with suppress(IndexError):
                    if (unused := idle.pop()) is not None:
                        unused.close()
                raise  # the thread ends soon, and closes what it took
            except (sqlite3.Error, OSError, store.NotOurs) as error:
                if not store.is_outside(error):
                    raise
                if store.is_corrupt(error) and generation == self._generation:
                    self._on_damage(str(error))
                raise Unreadable(f"the archive cannot be read: {error}") from error
            if generation == self._generation:
                self._idle.append(connection)
            else:
                connection.close()
            return found

    def close(self) -> None:
        """Let go of the file; it may be asked again, and is opened anew then."""
        self._generation += 1
        for connection in self._idle:
            connection.close()
        self._idle = []
