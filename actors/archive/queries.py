"""What is asked of the archive's file. SQL for reading, and nothing else; see `store.py`."""

from collections.abc import Iterator, Sequence

from actors.archive.flows import Sums
from actors.archive.series import SEEN, ArchiveKind, Piece, Range, Row, Series, pieces
from actors.archive.store import COLUMNS, KEYS, Connection, number_of

_SELECT = {kind: f"SELECT {', '.join(columns)} FROM {kind} WHERE series = ?" for kind, columns in COLUMNS.items()}


def read(
    connection: Connection,
    series: Series,
    start: int,
    end: int,
    limit: int,
    *,
    newest: bool = False,
    least: float = 0.0,
) -> list[Row]:
    """Up to `limit` rows of `[start, end)`, ascending: the first ones, or the `newest`; of at least a value."""
    number = number_of(connection, series)
    if number is None:
        return []
    order = "DESC" if newest else "ASC"
    valued = " AND value >= ?" if least > 0 else ""
    keys = ", ".join(f"{key} {order}" for key in KEYS[series.kind])
    rows = connection.execute(
        f"{_SELECT[series.kind]} AND time >= ? AND time < ?{valued} ORDER BY {keys} LIMIT ?",
        (number, start, end, *((least,) if valued else ()), limit),
    ).fetchall()
    return rows[::-1] if newest else rows


def coverage(connection: Connection, series: Series, start: int, end: int) -> list[Piece]:
    """`[start, end)` cut into what is completely held and what is not."""
    number = number_of(connection, series)
    rows = connection.execute(
        "SELECT start, end FROM coverage WHERE series = ? AND start < ? AND end > ?", (number, end, start)
    ).fetchall()
    return pieces([Range(*row) for row in rows], start, end)


def last_of_periods(
    connection: Connection, series: Series, start: int, end: int, period: int, limit: int, *, newest: bool
) -> list[Row]:
    """The last row of each period that has one, within `[start, end)`, both of them multiples of `period`."""
    number = number_of(connection, series)
    within = f"{_SELECT[series.kind]} AND time >= ? AND time < ? ORDER BY time"
    found: list[Row] = []
    while number is not None and start < end and len(found) < limit:
        # One step of the index per period, however many rows a period has.
        edge = connection.execute(f"{within} {'DESC' if newest else 'ASC'} LIMIT 1", (number, start, end)).fetchone()
        if edge is None:
            break
        begin = edge[0] - edge[0] % period
        if newest:
            found.append(edge)
            end = begin
        else:
            last = (number, begin, begin + period)
            found.append(connection.execute(f"{within} DESC LIMIT 1", last).fetchone())
            start = begin + period
    return found[::-1] if newest else found


def sums(
    connection: Connection, series: Series, start: int, end: int, length: int, limit: int, *, newest: bool
) -> list[Sums]:
    """Up to `limit` bars of liquidations or large trades that happened within `[start, end)`: those that have any."""
    assert series.kind in SEEN
    number = number_of(connection, series)
    order = "DESC" if newest else "ASC"
    found: list[Sums] = []
    while number is not None and start < end and len(found) < limit:
        edge = connection.execute(
            f"SELECT time FROM {series.kind} WHERE series = ? AND time >= ? AND time < ? ORDER BY time {order} LIMIT 1",
            (number, start, end),
        ).fetchone()
        if edge is None:
            break
        begin = edge[0] - edge[0] % length
        count, buys, sells = connection.execute(
            "SELECT count(*), total(CASE side WHEN 'buy' THEN value END), total(CASE side WHEN 'sell' THEN value END) "
            f"FROM {series.kind} WHERE series = ? AND time >= ? AND time < ?",
            (number, max(begin, start), min(begin + length, end)),
        ).fetchone()
        found.append((begin, count, buys, sells))
        start, end = (start, begin) if newest else (begin + length, end)
    return found[::-1] if newest else found


def unwritten(connection: Connection, series: Series, rows: Sequence[Row]) -> list[Row]:
    """Those of the rows that the file does not have, each once, as it would be there."""
    keys, columns = KEYS[series.kind], COLUMNS[series.kind]
    where = [columns.index(key) for key in keys]
    by_key = {tuple(row[index] for index in where): row for row in rows}
    number = number_of(connection, series)
    known = f"SELECT 1 FROM {series.kind} WHERE series = ? AND {' AND '.join(f'{key} = ?' for key in keys)}"
    return [row for key, row in by_key.items() if not connection.execute(known, (number, *key)).fetchone()]


def find_series(
    connection: Connection,
    kind: ArchiveKind,
    *,
    exchange: str | None = None,
    symbol: str | None = None,
    interval: str | None = None,
) -> list[Series]:
    """The series of a kind that the file has, in order; names in any case."""
    wanted = {"exchange": exchange, "symbol": symbol}
    clauses = "".join(f" AND upper({name}) = upper(?)" for name, value in wanted.items() if value is not None)
    values = [value for value in wanted.values() if value is not None]
    if interval is not None:
        clauses, values = f"{clauses} AND interval = ?", [*values, interval]
    rows = connection.execute(
        f"SELECT kind, exchange, symbol, interval FROM series WHERE kind = ?{clauses} "
        "ORDER BY exchange, symbol, interval",
        (kind, *values),
    ).fetchall()
    return [Series(*row) for row in rows]


def extent(connection: Connection, series: Series) -> Range | None:
    """From a series' first row to just after its last; None where it has none."""
    number = number_of(connection, series)
    first, last = connection.execute(
        f"SELECT (SELECT min(time) FROM {series.kind} WHERE series = :n), "
        f"(SELECT max(time) FROM {series.kind} WHERE series = :n)",
        {"n": number},
    ).fetchone()
    return None if first is None else Range(first, last + 1)


def newest_from(connection: Connection, series: Series, start: int, end: int, count: int) -> int:
    """From when on `[start, end)` has no more than the newest `count` rows, but for others of that very moment."""
    found = connection.execute(
        f"SELECT time FROM {series.kind} WHERE series = ? AND time >= ? AND time < ? "
        "ORDER BY time DESC LIMIT 1 OFFSET ?",
        (number_of(connection, series), start, end, count - 1),
    ).fetchone()
    return int(found[0]) if found else start


def chunks(connection: Connection, series: Series, start: int, end: int, size: int) -> Iterator[list[Row]]:
    """All rows of `[start, end)`, ascending, `size` at a time.

    Each chunk is a transaction of its own that begins after the last key, so that a slow taker keeps neither a snapshot
    nor a lock.
    """
    number = number_of(connection, series)
    keys = KEYS[series.kind]
    columns = COLUMNS[series.kind]
    where = [columns.index(key) for key in keys]
    order = f"ORDER BY {', '.join(keys)} LIMIT ?"
    rows = connection.execute(
        f"{_SELECT[series.kind]} AND time >= ? AND time < ? {order}", (number, start, end, size)
    ).fetchall()
    # The first term is implied by the second, but only it bounds the index.
    after = (
        f"{_SELECT[series.kind]} AND time >= ? AND time < ? AND ({', '.join(keys)}) > ({', '.join('?' * len(keys))})"
    )
    while rows:
        yield rows
        if len(rows) < size:
            return
        last = [rows[-1][index] for index in where]
        rows = connection.execute(f"{after} {order}", (number, last[0], end, *last, size)).fetchall()


def read_newest(connection: Connection, series: Series, count: int) -> None:
    """Read the newest rows of a series, all of each, for damage alone."""
    connection.execute(
        f"SELECT count({COLUMNS[series.kind][-1]}) FROM ({_SELECT[series.kind]} ORDER BY time DESC LIMIT ?)",
        (number_of(connection, series), count),
    ).fetchone()


def read_over(connection: Connection, series: Series, start: int, count: int) -> int | None:
    """Read so many rows from a time on, for damage alone; returns where to go on, None at the end."""
    read, last, _ = connection.execute(
        f"SELECT count(*), max(time), count({COLUMNS[series.kind][-1]}) "
        f"FROM ({_SELECT[series.kind]} AND time >= ? ORDER BY time LIMIT ?)",
        (number_of(connection, series), start, count),
    ).fetchone()
    return None if read < count else int(max(last, start + 1))
