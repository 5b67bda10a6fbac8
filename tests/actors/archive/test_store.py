"""The archive's file: what is written is read, twice is once, and what it says it covers it covers."""

import random
import sqlite3
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from actors.archive import queries, store
from actors.archive import writer as writer_module
from actors.archive.series import (
    FAR,
    FIELDS,
    KINDS,
    Piece,
    Range,
    Series,
    Write,
    event_of,
    from_us,
    merged,
    pieces,
    row_of,
    us,
)
from actors.archive.writer import Writer
from actors.events import Event
from tests.actors.archive.fixtures import T0, bar, funding, interest, large_trade, liquidation

SERIES = Series("ohlc", "binance", "BTCUSDT", "1m")
RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: Range(*sorted(pair))), max_size=12)
EVENTS: dict[str, Event] = {
    "ohlc": bar(3),
    "open_interest": interest(1.25, 63317.07),
    "open_interest_history": interest(300, 0.1),
    "funding": funding(2, -0.0000125),
    "funding_history": funding(0, 0.0001),
    "liquidations": liquidation(7.000001, 1234.5),
    "large_trades": large_trade(9, "a4f1-…", 99.5, "sell"),
}


def series_of(kind: Any) -> Series:
    return Series(kind, "binance", "BTCUSDT", "1m" if kind in ("ohlc", "open_interest_history") else "")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "marketd.db"


def count(path: Path, table: str) -> int:
    with sqlite3.connect(path) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_and_twice_is_once(path: Path, kind: Any) -> None:
    event, series = EVENTS[kind], series_of(kind)
    row = (*row_of(kind, event), *((0,) if kind == "liquidations" else ()))
    writer = Writer(path)
    for _ in range(2):
        writer.write([Write(series, [row])])
    assert count(path, kind) == 1
    connection = store.open_reader(path)
    (read,) = queries.read(connection, series, 0, FAR, 10)
    assert event_of(series, read) == event
    assert type(event_of(series, read)) is type(event)


def test_ids_keep_their_type_and_equal_liquidations_are_told_apart(path: Path) -> None:
    writer = Writer(path)
    ids: list[int | str] = [1, "1", 2**63, "x"]
    trades = Series("large_trades", "binance", "BTCUSDT")
    writer.write([Write(trades, [row_of("large_trades", large_trade(1, one)) for one in ids])])
    forced = Series("liquidations", "binance", "BTCUSDT")
    rows = [(*row_of("liquidations", liquidation(1)), number) for number in (0, 1)]
    writer.write([Write(forced, rows)])
    connection = store.open_reader(path)
    found = [event_of(trades, row).trade_id for row in queries.read(connection, trades, 0, FAR, 10)]
    assert sorted(found, key=str) == sorted([1, "1", str(2**63), "x"], key=str)
    assert len(queries.read(connection, forced, 0, FAR, 10)) == 2


def test_the_schema_has_a_column_for_every_field(path: Path) -> None:
    store.open_writer(path).close()
    with sqlite3.connect(path) as connection:
        for kind in KINDS:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({kind})")]
            assert set(columns) == {"series", *store.COLUMNS[kind]}
            assert set(store.COLUMNS[kind]) >= {"time", *FIELDS[kind]}
        assert connection.execute("PRAGMA user_version").fetchone() == (len(store.MIGRATIONS),)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_transaction_is_all_or_nothing(path: Path) -> None:
    writer = Writer(path)
    good, bad = row_of("ohlc", bar(1)), (us(T0), "no number", None)
    with pytest.raises(sqlite3.Error):
        writer.write([Write(SERIES, [good], [Range(0, 10)]), Write(SERIES, [bad])])
    assert [count(path, name) for name in ("series", "ohlc", "coverage")] == [0, 0, 0]
    writer.write([Write(SERIES, [good], [Range(0, 10)])])  # the number of the series was not kept either
    assert [count(path, name) for name in ("series", "ohlc", "coverage")] == [1, 1, 1]


# --- files that are not ours


def test_another_programs_database_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (x)")
    before = path.read_bytes()
    with pytest.raises(store.NotOurs, match="another program's"):
        store.open_writer(path)
    assert path.read_bytes() == before


def test_a_newer_schema_is_left_alone(path: Path) -> None:
    store.open_writer(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 1000")
    for opening in (store.open_writer, store.open_reader):
        with pytest.raises(store.NotOurs, match="newer version"):
            opening(path)


def test_an_older_schema_is_brought_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(path)
    writer.write([Write(SERIES, [row_of("ohlc", bar(1))])])
    writer.close()
    monkeypatch.setattr(store, "MIGRATIONS", (*store.MIGRATIONS, "ALTER TABLE ohlc ADD COLUMN extra;"))
    connection = store.open_writer(path)
    assert connection.execute("SELECT time, extra FROM ohlc").fetchall() == [(us(bar(1).timestamp), None)]
    assert connection.execute("PRAGMA user_version").fetchone() == (len(store.MIGRATIONS),)


def test_liquidations_of_an_older_file_say_no_method(path: Path) -> None:
    forced = Series("liquidations", "binance", "BTCUSDT")
    with sqlite3.connect(path) as connection:
        for script in store.MIGRATIONS[:2]:
            connection.executescript(script)
        connection.execute(f"PRAGMA application_id = {store.APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 2")
        connection.execute("INSERT INTO series VALUES (1, 'liquidations', 'binance', 'BTCUSDT', '')")
        at = us(liquidation(1).timestamp)
        connection.execute("INSERT INTO liquidations VALUES (1, ?, 'sell', 100.0, 10.0, 0, 1000.0)", (at,))
    with pytest.raises(store.NotOurs, match="older version"):
        store.open_reader(path)
    writer = Writer(path)
    taken_over = replace(liquidation(2), method="backstop", partial=True)
    writer.write([Write(forced, [(*row_of("liquidations", taken_over), 0)])])
    writer.close()
    found = [event_of(forced, row) for row in queries.read(store.open_reader(path), forced, 0, FAR, 10)]
    assert found == [liquidation(1), taken_over]


def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.open_writer(path).close()
    version = len(store.MIGRATIONS)
    monkeypatch.setattr(store, "MIGRATIONS", (*store.MIGRATIONS, "CREATE TABLE u (x); CREATE TABLE u (x);"))
    with pytest.raises(sqlite3.Error):
        store.open_writer(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (version,)
        assert connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'u'").fetchone() == (0,)


@pytest.mark.parametrize("damage", ["garbage", "header", "middle"])
def test_damage_is_told_from_other_trouble_and_put_aside(path: Path, damage: str) -> None:
    writer = Writer(path)
    writer.write([Write(SERIES, [row_of("ohlc", bar(minute)) for minute in range(5000)])])
    writer.close()
    data = bytearray(path.read_bytes())
    if damage == "garbage":
        data = bytearray(random.Random(1).randbytes(5000))
    elif damage == "header":
        data[:100] = bytes(100)
    else:
        data[40_000:60_000] = bytes(20_000)
    path.write_bytes(data)

    def meet() -> None:
        connection = store.open_reader(path)
        try:
            store.check_index(connection)
            queries.read_over(connection, SERIES, 0, 5000)
        finally:
            connection.close()

    with pytest.raises(sqlite3.DatabaseError) as caught:
        meet()
    assert store.is_corrupt(caught.value)
    aside = store.move_aside(path, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert aside.name == "marketd.db.corrupt-20260102T030405.000000Z"
    assert aside.read_bytes() == data
    store.open_writer(path).close()


def test_a_reader_without_a_writer_reads_a_file_in_a_folder_of_others(path: Path) -> None:
    writer = Writer(path)
    writer.write([Write(SERIES, [row_of("ohlc", bar(1))])])
    writer.close()
    assert not path.with_name("marketd.db-wal").exists()
    connection = store.open_reader(path)
    assert len(queries.read(connection, SERIES, 0, FAR, 5)) == 1
    with pytest.raises(sqlite3.OperationalError):
        connection.execute("DELETE FROM ohlc")


# --- ranges


@given(RANGES, st.integers(0, 60), st.integers(0, 60))
def test_pieces_are_the_range_cut_where_it_is_held(held: list[Range], start: int, end: int) -> None:
    found = pieces(held, start, end)
    points = [(time, piece.is_held) for piece in found for time in range(piece.start, piece.end)]
    assert points == [(time, any(a <= time < b for a, b in held)) for time in range(start, end)]
    assert all(older.is_held != newer.is_held for older, newer in pairwise(found))


@given(RANGES)
def test_merged_ranges_do_not_touch(ranges: list[Range]) -> None:
    found = merged(ranges)
    assert all(older.end < newer.start for older, newer in pairwise(found))
    assert {t for a, b in found for t in range(a, b)} == {t for a, b in ranges for t in range(a, b)}


@settings(max_examples=40, deadline=None)
@given(st.lists(RANGES, max_size=5))
def test_the_file_covers_what_it_was_told_in_whatever_order(writes: list[list[Range]]) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(store.MIGRATIONS[0])
    for ranges in writes:
        for one in merged(ranges):
            writer_module._cover(connection, 1, one)
    rows = [Range(*row) for row in connection.execute("SELECT start, end FROM coverage ORDER BY start")]
    assert rows == merged([one for ranges in writes for one in ranges])


# --- reading


def filled(path: Path, series: Series, rows: list[Any]) -> store.Connection:
    writer = Writer(path)
    writer.write([Write(series, rows)])
    writer.close()
    return store.open_reader(path)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_chunks_give_every_row_once_where_times_are_equal(path: Path, size: int) -> None:
    rng = random.Random(size)
    series = Series("liquidations", "binance", "BTCUSDT")
    rows = {
        (rng.randrange(8), rng.choice(["buy", "sell"]), rng.choice([1.0, 2.0]), 1.0, 1.0, "market", 0, rng.randrange(3))
        for _ in range(60)
    }
    connection = filled(path, series, sorted(rows))
    found = [row for chunk in queries.chunks(connection, series, 1, 7, size) for row in chunk]
    assert found == [row for row in sorted(rows) if 1 <= row[0] < 7]
    assert queries.extent(connection, series) == Range(min(rows)[0], max(rows)[0] + 1)


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.integers(0, 99), max_size=30),
    st.integers(0, 10),
    st.integers(0, 10),
    st.integers(1, 12),
    st.booleans(),
)
def test_the_last_of_each_period(
    tmp_path_factory: Any, times: set[int], a: int, b: int, limit: int, newest: bool
) -> None:
    series = Series("open_interest", "binance", "BTCUSDT")
    path = tmp_path_factory.mktemp("periods") / "x.db"
    connection = filled(path, series, [(time, float(time), None) for time in sorted(times)])
    found = queries.last_of_periods(connection, series, a * 10, b * 10, 10, limit, newest=newest)
    expected = {time // 10: time for time in sorted(times) if a * 10 <= time < b * 10}
    wanted = sorted(expected.values())
    assert [row[0] for row in found] == (wanted[-limit:] if newest else wanted[:limit])


@pytest.mark.parametrize("newest", [False, True])
def test_sums_are_per_bar_and_side(path: Path, newest: bool) -> None:
    rng = random.Random(3)
    series = Series("large_trades", "binance", "BTCUSDT")
    rows = [
        (rng.randrange(1000), rng.choice(["buy", "sell"]), 1.0, 1.0, float(rng.randrange(9)), 0, number)
        for number in range(200)
    ]
    connection = filled(path, series, rows)
    expected: dict[int, list[float]] = {}
    for time, side, *_, value, _, _ in rows:
        if 105 <= time < 890:
            sums = expected.setdefault(time // 50 * 50, [0, 0.0, 0.0])
            sums[0] += 1
            sums[1 if side == "buy" else 2] += value
    bars = [(begin, *sums) for begin, sums in sorted(expected.items())]
    found = queries.sums(connection, series, 105, 890, 50, 6, newest=newest)
    assert found == (bars[-6:] if newest else bars[:6])


def test_pruning_keeps_what_is_young_and_covers_no_more_than_that(path: Path) -> None:
    writer = Writer(path)
    rows = [row_of("ohlc", bar(minute)) for minute in range(20)]
    begin, cut, end = us(T0), us(bar(15).timestamp), us(bar(20).timestamp)
    writer.write([Write(SERIES, rows, [Range(begin, end)])])
    assert [writer.prune("ohlc", cut, 4) for _ in range(2)] == [4, 4]
    connection = store.open_reader(path)
    so_far = us(bar(7).timestamp) + 1  # what was not deleted yet is held
    assert queries.coverage(connection, SERIES, begin, end) == [Piece(begin, so_far, False), Piece(so_far, end, True)]
    assert [writer.prune("ohlc", cut, 4) for _ in range(3)] == [4, 3, 0]
    assert [from_us(row[0]) for row in queries.read(connection, SERIES, 0, FAR, 99)] == [
        bar(minute).timestamp for minute in range(15, 20)
    ]
    assert queries.coverage(connection, SERIES, begin, end) == [Piece(begin, cut, False), Piece(cut, end, True)]


def test_pruning_writes_nothing_of_series_that_have_nothing_old(path: Path) -> None:
    writer = Writer(path)
    young = SERIES._replace(symbol="ETHUSDT")
    begin, cut, end = us(T0), us(bar(15).timestamp), us(bar(20).timestamp)
    for series, first in ((SERIES, 0), (young, 15)):  # nothing traded in the beginning of one, and that is known
        writer.write([Write(series, [row_of("ohlc", bar(n)) for n in range(first, 20)], [Range(begin, end)])])
    assert writer.prune("ohlc", cut, 100) == 15
    connection = store.open_reader(path)
    assert queries.coverage(connection, young, begin, end) == [Piece(begin, end, True)]


# --- was it closed in order?


def test_a_file_that_was_closed_in_order_and_not_touched_since_says_so(path: Path) -> None:
    writer = Writer(path)
    assert writer.was_ended  # it is new
    writer.write([Write(SERIES, [row_of("ohlc", bar(1))])])
    writer.end()
    for _ in range(2):
        writer = Writer(path)
        assert writer.was_ended
        writer.end()


@pytest.mark.parametrize("after", ["not closed in order", "touched", "killed"])
def test_a_file_that_may_be_damaged_says_so(path: Path, after: str) -> None:
    Writer(path).end()
    writer = Writer(path)
    writer.write([Write(SERIES, [row_of("ohlc", bar(1))])])
    if after == "killed":  # the log is still there
        copy = path.with_name("copy.db")
        for suffix in ("", "-wal"):
            copy.with_name(copy.name + suffix).write_bytes(path.with_name(path.name + suffix).read_bytes())
        path = copy
    elif after == "touched":
        writer.end()
        with path.open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"x")
    else:
        writer.close()
    assert not Writer(path).was_ended


def test_the_log_does_not_keep_what_it_once_needed(path: Path) -> None:
    writer, reader = Writer(path), store.open_reader(path)
    with store.snapshot(reader):  # which holds the log up
        reader.execute("SELECT count(*) FROM series").fetchone()
        for first in range(0, 300_000, 10_000):
            writer.write([Write(SERIES, [row_of("ohlc", bar(minute)) for minute in range(first, first + 10_000)])])
        assert store.log_size(path) > 2 * store.LOG_SIZE
    for minute in range(300_000, 300_003):
        writer.write([Write(SERIES, [row_of("ohlc", bar(minute))])])
    assert store.log_size(path) <= store.LOG_SIZE


def test_every_row_is_read_over(path: Path) -> None:
    """Many of one moment, too."""
    writer = Writer(path)
    series = Series("liquidations", "binance", "BTCUSDT")
    writer.write([Write(series, [(*row_of("liquidations", liquidation(n // 10)), n % 10) for n in range(95)])])
    connection = store.open_reader(path)
    start: int | None = 0
    reached = []
    while start is not None:
        reached.append(start)
        start = queries.read_over(connection, series, start, 25)
    assert len(reached) < 12
    assert us(liquidation(9).timestamp) - reached[-1] < 2_500_000
    queries.read_newest(connection, series, 10)


def test_series_are_found_in_any_case(path: Path) -> None:
    writer = Writer(path)
    for kind, symbol in (("ohlc", "kPEPE"), ("ohlc", "BTC"), ("funding", "BTC")):
        series = Series(kind, "hyperliquid", symbol, "1m" if kind == "ohlc" else "")  # type: ignore[arg-type]
        writer.write([Write(series, [])])
    connection = store.open_reader(path)
    assert [s.symbol for s in queries.find_series(connection, "ohlc")] == ["BTC", "kPEPE"]
    assert [s.symbol for s in queries.find_series(connection, "ohlc", symbol="KPEPE")] == ["kPEPE"]
    assert queries.find_series(connection, "ohlc", exchange="binance") == []
    assert queries.find_series(connection, "ohlc", interval="5m") == []
