"""The connection that writes to the archive's file: each call is one transaction, in a thread. See `store.py`."""

import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from actors.archive import store
from actors.archive.series import ArchiveKind, Range, Row, Series, Write, merged
from actors.archive.store import COLUMNS, Connection, log_size, number_of

_INSERT = {
    kind: f"INSERT OR REPLACE INTO {kind} (series, {', '.join(columns)}) VALUES (?{', ?' * len(columns)})"
    for kind, columns in COLUMNS.items()
}


class Writer:
    """The connection that writes, and the series that it knows the numbers of."""

    def __init__(self, path: Path) -> None:
        was_written_to = log_size(path) > 0  # by whoever did not close it
        self._connection = store.open_writer(path)
        self._path, self._file = path, path.stat()
        self._ids: dict[Series, int] = {}
        self.was_ended = not was_written_to and self._is_as_it_ended()

    def _is_as_it_ended(self) -> bool:
        """Nobody has touched the file since it was closed in order, or nothing was ever written."""
        if not self._connection.execute("SELECT EXISTS (SELECT 1 FROM series)").fetchone()[0]:
            return True
        return self._connection.execute("SELECT time FROM ended").fetchall() == [(self._file.st_mtime_ns,)]

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._connection.close()

    def end(self) -> None:
        """Close in order: the next to open the file finds its time to be the one that it says itself."""
        at = time.time_ns()
        with suppress(sqlite3.Error, OSError):
            self._connection.execute("INSERT OR REPLACE INTO ended VALUES (1, ?)", (at,))
            self._connection.close()
            if os.path.samestat(self._path.stat(), self._file) and not log_size(self._path):
                os.utime(self._path, ns=(at, at))
        self.close()

    def write(self, writes: Sequence[Write]) -> None:
        """One transaction: all of it is on disk when this returns, none of it when it raises."""
        if not os.path.samestat(self._path.stat(), self._file):
            raise OSError(f"{self._path} was replaced")  # SQLite would go on writing to what nobody can open any more
        connection, new = self._connection, dict[Series, int]()
        rows: dict[ArchiveKind, list[Row]] = {}
        covered: dict[int, list[Range]] = {}
        connection.execute("BEGIN IMMEDIATE")
        try:
            for series, some, ranges in writes:
                number = self._ids.get(series) or new.get(series)
                if number is None:
                    number = new[series] = _new_number(connection, series)
                rows.setdefault(series.kind, []).extend((number, *row) for row in some)
                if ranges:
                    covered.setdefault(number, []).extend(ranges)
            for kind, many in rows.items():
                connection.executemany(_INSERT[kind], many)
            for number, found in covered.items():
                for whole in merged(found):
                    _cover(connection, number, whole)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        self._ids |= new

    def prune(self, kind: ArchiveKind, before: int, limit: int) -> int:
        """Delete about `limit` rows of a kind that are older than a time; returns how many: fewer if no more are."""
        connection, deleted = self._connection, 0
        older = f"{kind} WHERE series = ? AND time < ?"
        connection.execute("BEGIN IMMEDIATE")
        try:
            some = f"SELECT 1 FROM {kind} WHERE series = id AND time < ?"
            found = connection.execute(
                f"SELECT id FROM series WHERE kind = ? AND EXISTS ({some})", (kind, before)
            ).fetchall()
            for (number,) in found:
                beyond = connection.execute(
                    f"SELECT time FROM {older} ORDER BY time LIMIT 1 OFFSET ?", (number, before, limit - deleted - 1)
                ).fetchone()
                until = beyond[0] + 1 if beyond else before
                _uncover(connection, number, until)
                deleted += connection.execute(f"DELETE FROM {older}", (number, until)).rowcount
                if deleted >= limit:
                    break
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        return deleted


def _new_number(connection: Connection, series: Series) -> int:
    connection.execute("INSERT OR IGNORE INTO series (kind, exchange, symbol, interval) VALUES (?, ?, ?, ?)", series)
    number = number_of(connection, series)
    assert number is not None
    return number


def _cover(connection: Connection, number: int, new: Range) -> None:
    touching = connection.execute(
        "SELECT start, end FROM coverage WHERE series = ? AND start <= ? AND end >= ?", (number, new.end, new.start)
    ).fetchall()
    (whole,) = merged([new, *(Range(*row) for row in touching)])
    for start, _ in touching:
        connection.execute("DELETE FROM coverage WHERE series = ? AND start = ?", (number, start))
    connection.execute("INSERT INTO coverage VALUES (?, ?, ?)", (number, *whole))


def _uncover(connection: Connection, number: int, before: int) -> None:
    """What is older than a time is no longer held."""
    last = connection.execute(
        "SELECT end FROM coverage WHERE series = ? AND start < ? ORDER BY start DESC LIMIT 1", (number, before)
    ).fetchone()
    connection.execute("DELETE FROM coverage WHERE series = ? AND start < ?", (number, before))
    if last and last[0] > before:
        connection.execute("INSERT INTO coverage VALUES (?, ?, ?)", (number, before, last[0]))
