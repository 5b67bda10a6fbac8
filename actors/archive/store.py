"""The archive's file. SQL is spoken here, in `writer.py` and in `queries.py` alone, as plain functions for threads.

Embedded SQLite in WAL mode: readers never wait for the writer. `synchronous=NORMAL` means that a commit survives the
death of the process at any moment, but the last ones may not survive the machine's losing power. Primary keys make
writing twice harmless. A server database would replace these three modules and nothing else.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from actors.archive.series import FIELDS, KINDS, ArchiveKind, Series

Connection = sqlite3.Connection
APPLICATION_ID = 0x6D6B7464  # "mktd", in the file's header
BUSY = 1.0  # seconds to wait for another program's lock
CACHE = 8 << 20  # bytes, of each connection
LOG_PAGES = 2_000  # of the WAL before it is folded into the file
LOG_SIZE = 8 << 20  # bytes that it keeps for itself afterwards

MIGRATIONS = (
    """
    CREATE TABLE series (
        id INTEGER PRIMARY KEY, kind TEXT NOT NULL, exchange TEXT NOT NULL, symbol TEXT NOT NULL,
        interval TEXT NOT NULL, UNIQUE (kind, exchange, symbol, interval)
    );
    CREATE TABLE coverage (
        series INTEGER NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL, PRIMARY KEY (series, start)
    ) WITHOUT ROWID;
    CREATE TABLE ohlc (
        series INTEGER NOT NULL, time INTEGER NOT NULL, open REAL NOT NULL, high REAL NOT NULL, low REAL NOT NULL,
        close REAL NOT NULL, volume REAL NOT NULL, quote_volume REAL, trades_count INTEGER, PRIMARY KEY (series, time)
    ) WITHOUT ROWID;
    CREATE TABLE open_interest (
        series INTEGER NOT NULL, time INTEGER NOT NULL, open_interest REAL NOT NULL, open_interest_value REAL,
        PRIMARY KEY (series, time)
    ) WITHOUT ROWID;
    CREATE TABLE open_interest_history (
        series INTEGER NOT NULL, time INTEGER NOT NULL, open_interest REAL NOT NULL, open_interest_value REAL,
        PRIMARY KEY (series, time)
    ) WITHOUT ROWID;
    CREATE TABLE funding (
        series INTEGER NOT NULL, time INTEGER NOT NULL, funding_rate REAL NOT NULL, funding_time INTEGER NOT NULL,
        funding_interval_hours REAL, mark_price REAL, PRIMARY KEY (series, time)
    ) WITHOUT ROWID;
    CREATE TABLE funding_history (
        series INTEGER NOT NULL, time INTEGER NOT NULL, funding_rate REAL NOT NULL, funding_time INTEGER NOT NULL,
        funding_interval_hours REAL, mark_price REAL, PRIMARY KEY (series, time)
    ) WITHOUT ROWID;
    CREATE TABLE liquidations (
        series INTEGER NOT NULL, time INTEGER NOT NULL, side TEXT NOT NULL, price REAL NOT NULL, quantity REAL NOT NULL,
        number INTEGER NOT NULL, value REAL NOT NULL, PRIMARY KEY (series, time, side, price, quantity, number)
    ) WITHOUT ROWID;
    CREATE TABLE large_trades (
        series INTEGER NOT NULL, time INTEGER NOT NULL, trade_id, side TEXT NOT NULL, price REAL NOT NULL,
        quantity REAL NOT NULL, value REAL NOT NULL, is_buyer_maker INTEGER NOT NULL,
        PRIMARY KEY (series, time, trade_id)
    ) WITHOUT ROWID;
    """,
    "CREATE TABLE ended (id INTEGER PRIMARY KEY CHECK (id = 1), time INTEGER NOT NULL);",
    "ALTER TABLE liquidations ADD COLUMN method TEXT; "
    "ALTER TABLE liquidations ADD COLUMN partial INTEGER NOT NULL DEFAULT 0;",
)
"""Each brings the schema from its index to the next version (`PRAGMA user_version`). Never change a released one.

Key columns come first: SQLite 3.40 finds missing values in healthy tables WITHOUT ROWID where they do not.
"""

KEYS: dict[ArchiveKind, tuple[str, ...]] = {kind: ("time",) for kind in KINDS} | {
    "liquidations": ("time", "side", "price", "quantity", "number"),
    "large_trades": ("time", "trade_id"),
}
COLUMNS: dict[ArchiveKind, tuple[str, ...]] = {
    kind: ("time", *FIELDS[kind], *(("number",) if kind == "liquidations" else ())) for kind in KINDS
}


class NotOurs(Exception):
    """The file is a healthy database that this program must not touch; the text says whose."""


# --- the file


def open_writer(path: Path) -> Connection:
    """The file, made and brought up to date where needed. One thread at a time may use it. sqlite3.Error, NotOurs."""
    connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
    try:
        _refuse_others(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {LOG_SIZE}")
        connection.execute(f"PRAGMA cache_size = -{CACHE >> 10}")
        _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> Connection:
    """The file, for reading alone; the writer's process may run or not. sqlite3.Error, NotOurs."""
    address = path.absolute().as_uri()
    connection = _connect(f"{address}?mode=ro")
    try:
        try:
            _refuse_others(connection, path)
        except sqlite3.OperationalError:
            # A folder that may not be written to has no room for the index that WAL readers share. Without a log
            # beside the file nobody is writing, and none is needed.
            if path.with_name(path.name + "-wal").exists():
                raise
            connection.close()
            connection = _connect(f"{address}?mode=ro&immutable=1")
            _refuse_others(connection, path)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if 0 < version < len(MIGRATIONS):
            raise NotOurs(f"{path} was written by an older version of marketd (schema {version}): start it once")
        connection.execute(f"PRAGMA cache_size = -{CACHE >> 10}")
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(address: str) -> Connection:
    return sqlite3.connect(address, uri=True, timeout=BUSY, isolation_level=None, check_same_thread=False)


def _refuse_others(connection: Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise NotOurs(f"{path} is another program's database")
    if version > len(MIGRATIONS):
        raise NotOurs(f"{path} was written by a newer version of marketd (schema {version})")


def _migrate(connection: Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for number, script in list(enumerate(MIGRATIONS, 1))[version:]:
        # executescript would commit first; within its own BEGIN the whole step is one transaction.
        connection.executescript(
            f"BEGIN IMMEDIATE;{script}PRAGMA application_id = {APPLICATION_ID};PRAGMA user_version = {number};COMMIT;"
        )


def is_corrupt(error: BaseException) -> bool:
    """The file's content is damaged, or is no database at all."""
    code = getattr(error, "sqlite_errorcode", 0) or 0
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_outside(error: BaseException) -> bool:
    """The disk, the file or another program is at fault, not what was asked."""
    return isinstance(error, OSError | sqlite3.OperationalError | NotOurs) or is_corrupt(error)


def log_size(path: Path) -> int:
    """Bytes of what was written and is not yet folded into the file."""
    try:
        return path.with_name(path.name + "-wal").stat().st_size
    except FileNotFoundError:
        return 0


class Damaged(sqlite3.DatabaseError):
    """What SQLite itself would say by an error code."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def check_index(connection: Connection) -> None:
    """Read the small tables by which all else is found. Raises Damaged."""
    for table in ("series", "coverage"):
        for (text,) in connection.execute(f"PRAGMA quick_check({table})").fetchall():
            # Values that a constraint forbids are no damage, and some versions see them where there are none.
            if text != "ok" and " value in " not in text:
                raise Damaged(text)


@contextmanager
def snapshot(connection: Connection) -> Iterator[None]:
    """All questions of the block are answered as of one moment; it should be short, as it holds up the log."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def move_aside(path: Path, now: datetime) -> Path:
    """Rename a damaged file and what belongs to it, so that a new one can be begun; returns its new name."""
    aside = path.with_name(f"{path.name}.corrupt-{now:%Y%m%dT%H%M%S.%fZ}")
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


def number_of(connection: Connection, series: Series) -> int | None:
    found = connection.execute(
        "SELECT id FROM series WHERE kind = ? AND exchange = ? AND symbol = ? AND interval = ?", series
    ).fetchone()
    return found and int(found[0])
