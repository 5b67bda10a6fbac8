"""The archive actor: what feeds say reaches the disk, and whatever the disk does nothing is lost that memory holds."""

import os
import sqlite3
import threading
from contextlib import ExitStack
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
import trio

from actors.archive import archive as archive_module
from actors.archive import check, queries, retention, store
from actors.archive import follower as follower_module
from actors.archive.archive import Archive
from actors.archive.follower import Follower
from actors.archive.reads import Reads, Unreadable
from actors.archive.series import FAR, KINDS, Piece, Row, Series, Write, event_of, row_of, us
from actors.archive.writer import Writer
from actors.events import Event, Topic
from tests.actors.archive.fixtures import (
    MINUTE,
    QUIET,
    T0,
    TellingFeed,
    archived,
    bar,
    funding,
    gap,
    interest,
    large_trade,
    liquidation,
    now,
    until,
)
from tests.benchmarks import crash
from tests.patience import WITHIN

BARS = Series("ohlc", "binance", "BTCUSDT", "1m")
FORCED = Series("liquidations", "binance", "BTCUSDT")
LARGE = Series("large_trades", "binance", "BTCUSDT")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "marketd.db"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries again at once what the disk did not take."""
    monkeypatch.setattr(archive_module, "RETRY", 0.05)
    monkeypatch.setattr(archive_module, "BATCH_EVERY", 0.05)
    monkeypatch.setattr(store, "BUSY", 0.05)


def events(path: Path, series: Series) -> list[Event]:
    connection = store.open_reader(path)
    try:
        return [event_of(series, row) for row in queries.read(connection, series, 0, FAR, 100_000)]
    finally:
        connection.close()


def held(path: Path, first: int, last: int, series: Series = BARS) -> list[tuple[int, int]]:
    """The minutes of a range that are covered."""
    connection = store.open_reader(path)
    start, end = us(T0 + first * MINUTE), us(T0 + last * MINUTE)
    found: list[Piece] = queries.coverage(connection, series, start, end)
    connection.close()
    minute = 60_000_000
    return [((p.start - us(T0)) // minute, (p.end - us(T0)) // minute) for p in found if p.is_held]


def integrity(path: Path) -> str:
    with sqlite3.connect(path) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


# --- what feeds say


async def test_what_a_feed_says_is_on_disk_after_a_flush(path: Path) -> None:
    feed: Any = TellingFeed()
    async with archived(path) as archive:
        with archive.following(feed, now):
            said = [large_trade(1, 11), large_trade(2, 12)], [liquidation(1), liquidation(1), liquidation(2)]
            feed.say(*said[0], *said[1], bar(0), bar(1), bar(2, closed=False))
            await archive.flush()
            assert events(path, LARGE) == said[0]
            assert events(path, FORCED) == said[1]
            assert events(path, BARS) == [bar(0), bar(1)]
            report = archive.report()
            assert (report.state, report.written, report.pending, report.dropped) == ("ok", 7, 0, 0)


async def test_collecting_from_many_feeds_gives_others_their_turn(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feeds: list[Any] = [TellingFeed() for _ in range(11)]
    order: list[str] = []
    collect = Follower.collect

    def noted(follower: Follower) -> list[Write]:
        order.append("feed")
        return collect(follower)

    async def go_on_beside() -> None:
        while True:
            order.append("other")
            await trio.lowlevel.checkpoint()

    monkeypatch.setattr(archive_module, "AT_ONCE", 2)
    monkeypatch.setattr(Follower, "collect", noted)
    archive = Archive(path, keep=KINDS, days={})
    with ExitStack() as stack:
        for number, feed in enumerate(feeds):
            stack.enter_context(archive.following(feed, now))
            feed.say(large_trade(1, number))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(go_on_beside)
            await archive._collect()
            nursery.cancel_scope.cancel()
        assert archive.report().pending == len(feeds)
        runs = [len(list(group)) for name, group in groupby(order) if name == "feed"]
    assert max(runs) <= 4  # Trio may put the other first in one pass and last in the next
    assert sum(runs) == len(feeds)


async def test_covered_is_what_came_without_a_gap(path: Path) -> None:
    feed: Any = TellingFeed()
    async with archived(path) as archive:
        with archive.following(feed, now):
            feed.say(bar(0), bar(1), gap(2, 4), bar(4), bar(5), gap(6, 7, repaired=True), bar(6), bar(7), bar(9))
        await archive.flush()
    assert held(path, 0, 20) == [(0, 2), (4, 8), (9, 10)]


async def test_nothing_traded_is_no_gap_where_that_makes_no_bar(path: Path) -> None:
    feed: Any = TellingFeed(QUIET)
    async with archived(path) as archive:
        with archive.following(feed, now):
            feed.say(bar(0), bar(3), gap(4, 6), bar(6))
        with archive.following(feed, now):  # nobody listened in between
            feed.say(bar(9), bar(11))
        await archive.flush()
    assert held(path, 0, 20) == [(0, 4), (6, 7), (9, 12)]


async def test_interest_and_funding_are_the_last_of_each_minute(path: Path) -> None:
    feed: Any = TellingFeed()
    clock = T0

    async with archived(path) as archive:
        with archive.following(feed, lambda: clock):
            feed.say(interest(1, 10.0), interest(59.5, 11.0), interest(60, 12.0), funding(5, 0.1), funding(6, 0.2))
            await archive.flush()
            series = Series("open_interest", "binance", "BTCUSDT"), Series("funding", "binance", "BTCUSDT")
            assert events(path, series[0]) == [interest(59.5, 11.0)]
            assert events(path, series[1]) == []
            clock = T0 + timedelta(seconds=62)
            await archive.flush()
            assert events(path, series[1]) == [funding(6, 0.2)]
        await archive.flush()
        assert events(path, series[0]) == [interest(59.5, 11.0), interest(60, 12.0)]


async def test_an_interval_that_is_added_later_is_followed(path: Path) -> None:
    feed: Any = TellingFeed()
    async with archived(path) as archive:
        with archive.following(feed, now):
            feed.intervals = ("1m", "5m")
            await archive.flush()
            feed.say(bar(0, interval="5m"), interval="5m")
        await archive.flush()
    assert events(path, BARS._replace(interval="5m")) == [bar(0, interval="5m")]


async def test_a_feed_is_asked_for_its_topics_only_when_they_change(path: Path) -> None:
    feed: Any = TellingFeed()
    follower = Follower(feed, frozenset({"ohlc", "liquidations"}), now)
    asked, topic = list[Topic](), feed.topic

    def counted(*arguments: Any) -> Topic:
        asked.append(topic(*arguments))
        return asked[-1]

    feed.topic = counted
    for _ in range(3):
        follower.collect()
    assert asked == []
    feed.intervals = ("5m", "1m")
    for _ in range(3):
        follower.collect()
    assert sorted(str(one) for one in asked) == [
        "binance:BTCUSDT:liquidations",
        "binance:BTCUSDT:ohlc:1m",
        "binance:BTCUSDT:ohlc:5m",
    ]


async def test_a_reader_that_lagged_is_a_hole_that_is_counted_and_logged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "CAPACITY", 2)
    feed: Any = TellingFeed()
    with structlog.testing.capture_logs() as logs:
        async with archived(path) as archive:
            with archive.following(feed, now):
                feed.say(bar(0), bar(1), bar(2))  # the third finds no room
                await archive.flush()
                feed.say(bar(3))
            await archive.flush()
            assert archive.report().lagged == 1
    assert events(path, BARS) == [bar(0), bar(1), bar(3)]
    assert held(path, 0, 9) == [(0, 2), (3, 4)]
    assert [entry["topic"] for entry in logs if entry["event"] == "archive.lagged"] == ["binance:BTCUSDT:ohlc:1m"]


async def test_only_what_is_to_be_kept_is_kept(path: Path) -> None:
    feed: Any = TellingFeed()
    async with archived(path, keep=("liquidations",)) as archive:
        with archive.following(feed, now):
            assert list(feed.broadcasts) == [Topic("binance", "BTCUSDT", "liquidations")]
            feed.say(liquidation(1))
        archive.put([Write(BARS, [row_of("ohlc", bar(1))])])
        await archive.flush()
    assert (len(events(path, FORCED)), events(path, BARS)) == (1, [])


async def test_what_is_to_be_kept_changes_for_feeds_that_are_followed(path: Path) -> None:
    feed: Any = TellingFeed()
    async with archived(path, keep=("liquidations",)) as archive:
        with archive.following(feed, now):
            feed.say(liquidation(1), bar(1))
            archive.change(keep=("ohlc",), days={})
            feed.say(liquidation(2), bar(2))
        await archive.flush()
    assert [event.timestamp for event in events(path, BARS)] == [bar(2).timestamp]
    assert len(events(path, FORCED)) <= 1


async def test_what_was_said_last_is_written_at_the_end(path: Path) -> None:
    feed: Any = TellingFeed()
    archive = Archive(path, keep=KINDS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(archive.run)
        await archive.flush()
        with archive.following(feed, now):
            feed.say(liquidation(1), interest(1, 5.0))
        nursery.cancel_scope.cancel()
    assert not path.with_name("marketd.db-wal").exists()  # closed in order
    assert events(path, FORCED) == [liquidation(1)]
    assert events(path, Series("open_interest", "binance", "BTCUSDT")) == [interest(1, 5.0)]


async def test_a_write_that_is_cancelled_is_made_up_for(path: Path) -> None:
    for steps in range(12):  # the end may come at any moment of a write
        archive = Archive(path, keep=KINDS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(archive.run)
            archive.put([Write(LARGE, [row_of("large_trades", large_trade(steps, steps))])])
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert (archive.dropped, archive.written, archive.report().pending) == (0, 1, 0)
    assert len(events(path, LARGE)) == 12


DAY = 86_400_000_000  # microseconds


def forced(days: float, number: int = 0) -> Row:
    """A liquidation so many days ago."""
    return (us(datetime.now(T0.tzinfo)) - round(days * DAY), "buy", 1.0, 1.0, 1.0, None, 0, number)


async def test_old_rows_go(path: Path) -> None:
    async with archived(path, days={"liquidations": 1}) as archive:
        rows = [forced(days) for days in (3, 2, 0)]
        archive.put([Write(FORCED, rows)])
        archive.change(keep=KINDS, days={"liquidations": 1})
        await archive.flush()
        await archive.flush()
    assert [us(event.timestamp) for event in events(path, FORCED)] == [rows[-1][0]]


@pytest.mark.usefixtures("quick")
async def test_deleting_old_rows_rests_though_there_are_always_some(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something passes its age in each moment: rounds are an hour apart, and a round goes on only while it has much."""
    deleted: list[int] = []
    prune = Writer.prune

    def counted(writer: Writer, *arguments: Any) -> int:
        deleted.append(prune(writer, *arguments))
        return deleted[-1]

    monkeypatch.setattr(Writer, "prune", counted)
    monkeypatch.setattr(retention, "STEP", 100)
    writer = Writer(path)
    # A second apart: rows of one time go together.
    writer.write([Write(FORCED, [forced(2 + number / 86_400, number) for number in range(250)])])
    writer.end()
    async with archived(path, days={"liquidations": 1}) as archive:
        for number in range(1000, 1020):
            archive.put([Write(FORCED, [forced(2 + number / 86_400, number)])])
            await archive.flush()
        await until(lambda: len(deleted) >= 3)
    assert [many >= 100 for many in deleted] == [True, True, False], "a few more where some are of one moment"
    assert 250 <= sum(deleted) < 270


@pytest.mark.usefixtures("quick")
async def test_limits_may_change_in_the_middle_of_deleting(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_deleting, may_end = threading.Event(), threading.Event()
    prune = Writer.prune

    def slowly(writer: Writer, *arguments: Any) -> int:
        is_deleting.set()
        may_end.wait(10)
        return prune(writer, *arguments)

    monkeypatch.setattr(Writer, "prune", slowly)
    async with archived(path, days={"liquidations": 1}) as archive:
        archive.put([Write(FORCED, [forced(days) for days in (3, 2, 0)])])
        await until(is_deleting.is_set)
        archive.change(keep=KINDS, days={"liquidations": 2.5})
        may_end.set()
        await archive.flush()
        await archive.flush()
        assert archive.report().state == "ok"
    assert 1 <= len(events(path, FORCED)) <= 2  # by which limit the first step went is left open


# --- is anything damaged?


def touched(path: Path) -> None:
    """A file with a row, which was not closed in order."""
    writer = Writer(path)
    writer.write([Write(BARS, [row_of("ohlc", bar(1))])])
    writer.close()


async def test_a_file_is_read_over_unless_it_was_closed_in_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Reads] = []
    over = check.read_over

    async def read_over(reads: Reads) -> None:
        await over(reads)
        read.append(reads)

    monkeypatch.setattr(check, "read_over", read_over)
    touched(path)
    async with archived(path) as archive:
        await until(lambda: read)
        # Readers that are idle at the end must not keep the log from being folded into the file.
        assert await archive.reads.ask(lambda c: queries.read(c, BARS, 0, FAR, 5))
    for _ in range(2):
        async with archived(path) as archive:
            assert await archive.reads.ask(lambda c: queries.read(c, BARS, 0, FAR, 5))
            assert not archive._may_be_damaged
    assert len(read) == 1


async def test_rows_are_taken_while_a_file_is_read_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that takes: nobody waits for it."""
    is_read, may_end = threading.Event(), threading.Event()

    def read_newest(*_: Any, **__: Any) -> None:
        is_read.set()
        may_end.wait(10)

    monkeypatch.setattr(queries, "read_newest", read_newest)
    touched(path)
    with structlog.testing.capture_logs() as logs:
        async with archived(path) as archive:
            await until(is_read.is_set)
            archive.put([Write(FORCED, [(1, "buy", 1.0, 1.0, 1.0, None, 0, 0)])])
            await archive.flush()
            assert len(await archive.reads.ask(lambda c: queries.read(c, FORCED, 0, FAR, 5))) == 1
            assert states(logs) == ["ready"]
            may_end.set()
            await until(lambda: states(logs) == ["ready", "checked"])


async def test_reading_a_file_over_does_not_hold_up_its_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "PIECE", 50)
    read_over, busy = queries.read_over, list[int]()
    writer = Writer(path)
    writer.write([Write(BARS, [row_of("ohlc", bar(minute)) for minute in range(500)])])

    def and_write(*arguments: Any, **more: Any) -> int | None:
        found = read_over(*arguments, **more)
        writer.write([Write(BARS, [row_of("ohlc", bar(1000 + len(busy)))])])
        busy.append(writer._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
        return found

    monkeypatch.setattr(queries, "read_over", and_write)
    await check.read_over(Reads(path, on_damage=pytest.fail))
    assert len(busy) >= 10
    assert set(busy) == {0}


# --- what may be wrong with a disk


class Disk:
    """SQLite finds no room while it is full: its own limit on pages says so, just as a full disk does."""

    is_full = False


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    found, opened = Disk(), store.open_writer

    def limited(path: Path) -> store.Connection:
        connection = opened(path)
        if found.is_full:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    monkeypatch.setattr(store, "open_writer", limited)
    return found


def states(logs: Any) -> list[str]:
    return [entry["event"].removeprefix("archive.") for entry in logs if entry["event"].startswith("archive.")]


@pytest.mark.usefixtures("quick")
async def test_a_full_disk_costs_nothing_that_memory_holds(path: Path, disk: Disk) -> None:
    disk.is_full = True
    feed: Any = TellingFeed()
    said = [large_trade(number, number) for number in range(3000)]
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            archive = Archive(path, keep=KINDS)
            nursery.start_soon(archive.run)
            await archive.flush()
            with archive.following(feed, now):
                for number in range(0, 3000, 500):
                    feed.say(*said[number : number + 500])
                    await archive.flush()
                await until(lambda: archive.is_failing)
                report = archive.report()
                assert "full" in str(report.reason)
                await until(lambda: archive.report().pending == 3000)
                assert archive.pending_rows(LARGE)[0] == row_of("large_trades", said[0])
                disk.is_full = False
                await until(lambda: archive.report().state == "ok")
                await archive.flush()
                assert archive.report().pending == archive.dropped == 0
            nursery.cancel_scope.cancel()
    assert events(path, LARGE) == said
    assert integrity(path) == "ok"
    assert states(logs) == ["ready", "failing", "recovered"]


@pytest.mark.usefixtures("quick")
async def test_beyond_the_bound_the_oldest_are_dropped_and_counted(path: Path) -> None:
    missing = path.parent / "missing" / "marketd.db"
    feed: Any = TellingFeed()
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            archive = Archive(missing, keep=KINDS, pending=100)
            nursery.start_soon(archive.run)
            with archive.following(feed, now):
                feed.say(bar(0))
                await archive.flush()
                await until(lambda: archive.is_failing)
                for number in range(250):
                    feed.say(large_trade(number, number))
                assert "unable to open" in str(archive.report().reason)
                await until(lambda: archive.report().pending == 100 and archive.dropped == 151)
                missing.parent.mkdir()
                await until(lambda: archive.report().state == "ok")
                assert archive.written == 100
            nursery.cancel_scope.cancel()
    assert [event.trade_id for event in events(missing, LARGE)] == list(range(150, 250))  # type: ignore[attr-defined]
    assert held(missing, 0, 9) == []  # the bar was dropped, and what it covered with it
    assert states(logs) == ["failing", "dropping", "recovered"]


@pytest.mark.usefixtures("quick")
async def test_a_locked_file_is_waited_for(path: Path) -> None:
    feed: Any = TellingFeed()
    async with archived(path) as archive:
        with archive.following(feed, now):
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            feed.say(liquidation(1))
            await until(lambda: archive.is_failing)
            assert "locked" in str(archive.report().reason)
            # Readers do not wait for it, and what is held answers.
            assert await archive.reads.ask(lambda c: queries.read(c, FORCED, 0, FAR, 5)) == []
            other.execute("ROLLBACK")
            other.close()
            await until(lambda: not archive.is_failing)
    assert events(path, FORCED) == [liquidation(1)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.usefixtures("quick")
async def test_a_read_only_folder_is_said_and_waited_for(path: Path) -> None:
    feed: Any = TellingFeed()
    path.parent.chmod(0o500)
    try:
        async with trio.open_nursery() as nursery:
            archive = Archive(path, keep=KINDS)
            nursery.start_soon(archive.run)
            with archive.following(feed, now):
                feed.say(liquidation(1))
                await until(lambda: archive.is_failing)
                path.parent.chmod(0o700)
                await until(lambda: archive.report().state == "ok")
            nursery.cancel_scope.cancel()
    finally:
        path.parent.chmod(0o700)
    assert events(path, FORCED) == [liquidation(1)]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("place", ["first page", "middle"])
async def test_a_damaged_file_is_put_aside_and_a_new_one_begun(path: Path, place: str) -> None:
    writer = Writer(path)
    writer.write([Write(BARS, [row_of("ohlc", bar(minute)) for minute in range(20_000)])])
    writer.close()
    data = bytearray(path.read_bytes())
    start = 0 if place == "first page" else len(data) // 2
    data[start : start + 30_000] = b"\xa5" * 30_000
    path.write_bytes(data)
    feed: Any = TellingFeed()
    with structlog.testing.capture_logs() as logs:
        async with archived(path) as archive:
            with archive.following(feed, now):
                feed.say(liquidation(1))
                await until(lambda: "corrupt" in states(logs))
                feed.say(liquidation(2))
                await archive.flush()
                await until(lambda: archive.report().state == "ok" and not archive.report().pending)
    (entry,) = [entry for entry in logs if entry["event"] == "archive.corrupt"]
    aside = Path(entry["moved_to"])
    assert aside.stat().st_size >= len(data)  # it may have been written to until the damage was met
    assert liquidation(2) in events(path, FORCED)
    assert integrity(path) == "ok"


@pytest.mark.usefixtures("quick")
async def test_damage_that_a_question_meets_is_seen_to(path: Path) -> None:
    async with archived(path) as archive:
        archive.put([Write(BARS, [row_of("ohlc", bar(minute)) for minute in range(20_000)])])
        await archive.flush()
        before = archive.report().written
        with path.open("r+b") as file:
            file.write(b"\xa5" * 8192)
        path.with_name("marketd.db-wal").write_bytes(b"")
        with structlog.testing.capture_logs() as logs:

            async def corrupt() -> bool:
                try:
                    await archive.reads.ask(lambda c: queries.read(c, BARS, 0, FAR, 100_000))
                except Unreadable:
                    return True
                return False

            with trio.fail_after(WITHIN):
                while not await corrupt() and "corrupt" not in states(logs):
                    archive.reads.close()
            await until(lambda: "corrupt" in states(logs) and archive.report().state == "ok")
            archive.put([Write(FORCED, [(1, "buy", 1.0, 1.0, 1.0, None, 0, 0)])])
            await until(lambda: archive.report().written > before)
    assert len(events(path, FORCED)) == 1


@pytest.mark.usefixtures("quick")
async def test_a_new_file_is_not_blamed_for_the_damage_of_the_old_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_read, is_replaced = threading.Event(), threading.Event()

    def damaged(connection: store.Connection) -> None:
        is_read.set()
        is_replaced.wait(10)
        raise store.Damaged("damaged")

    monkeypatch.setattr(store, "check_index", damaged)
    touched(path)
    with structlog.testing.capture_logs() as logs:
        async with archived(path) as archive:
            await until(is_read.is_set)
            archive._damaged("met by a question")
            await until(lambda: "corrupt" in states(logs))
            is_replaced.set()
            await until(lambda: archive.reads._threads.borrowed_tokens == 0)
            await archive.flush()
    assert states(logs).count("corrupt") == 1


@pytest.mark.usefixtures("quick")
async def test_a_damaged_file_that_somebody_removed_is_not_waited_for(path: Path) -> None:
    async with archived(path) as archive:
        await archive.flush()
        for file in path.parent.glob("marketd.db*"):
            file.unlink()
        archive._damaged("met by a question")
        archive.put([Write(LARGE, [row_of("large_trades", large_trade(1, 1))])])
        await until(lambda: archive.report().written == 1)
    assert len(events(path, LARGE)) == 1


async def test_a_disk_that_hangs_does_not_hold_up_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "LAST_WRITE", 0.1)
    is_back = threading.Event()
    monkeypatch.setattr(Writer, "write", lambda *_: is_back.wait(2 * WITHIN))
    try:
        with structlog.testing.capture_logs() as logs, trio.fail_after(WITHIN):
            async with archived(path) as archive:
                archive.put([Write(LARGE, [row_of("large_trades", large_trade(1, 1))])])
                await until(lambda: archive._rows.is_away)
        assert states(logs) == ["ready", "not_ended"]
        assert archive.report().pending == 1
    finally:
        is_back.set()


@pytest.mark.parametrize("moment", ["before it begins", "while it runs"])
async def test_a_question_that_nobody_waits_for_ends(path: Path, moment: str) -> None:
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    is_asked, is_left = threading.Event(), threading.Event()

    def question(connection: store.Connection) -> None:
        is_asked.set()
        if moment == "before it begins":
            is_left.wait(10)
        connection.execute(endless).fetchall()

    async with archived(path) as archive:
        for _ in range(6):
            is_asked.clear()
            is_left.clear()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(archive.reads.ask, question)
                await until(is_asked.is_set)
                nursery.cancel_scope.cancel()
            is_left.set()
            await until(lambda: archive.reads._threads.borrowed_tokens == 0)
        assert await archive.reads.ask(lambda c: queries.read(c, FORCED, 0, FAR, 5)) == []


@pytest.mark.usefixtures("quick")
async def test_a_file_that_was_removed_is_begun_anew(path: Path) -> None:
    feed: Any = TellingFeed()
    async with archived(path) as archive:
        with archive.following(feed, now):
            feed.say(liquidation(1))
            await archive.flush()
            assert len(await archive.reads.ask(lambda c: queries.read(c, FORCED, 0, FAR, 5))) == 1
            for file in path.parent.glob("marketd.db*"):
                file.unlink()
            feed.say(liquidation(2))
            await archive.flush()
            await until(lambda: path.exists() and archive.report().state == "ok" and not archive.report().pending)
            (row,) = await archive.reads.ask(lambda c: queries.read(c, FORCED, 0, FAR, 5))
            assert event_of(FORCED, row) == liquidation(2)
    assert events(path, FORCED) == [liquidation(2)]


@pytest.mark.usefixtures("quick")
async def test_another_programs_database_is_not_touched(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE precious (x)")
    before = path.read_bytes()
    async with archived(path) as archive:
        await until(lambda: archive.is_failing)
        assert "another program's" in str(archive.report().reason)
    assert path.read_bytes() == before
    assert list(path.parent.glob("*.corrupt*")) == []


async def test_a_row_that_no_disk_takes_is_a_fault_of_ours_and_not_held_for_ever(path: Path) -> None:
    archive = Archive(path, keep=KINDS)
    archive.put([Write(FORCED, [(1, "buy", None, 1.0, 1.0, None, 0, 0)])])
    with pytest.RaisesGroup(sqlite3.IntegrityError):
        await archive.run()
    assert (archive.dropped, archive.report().pending) == (1, 0)
    async with trio.open_nursery() as nursery:  # as the supervisor does
        nursery.start_soon(archive.run)
        archive.put([Write(FORCED, [(1, "buy", 1.0, 1.0, 1.0, None, 0, 0)])])
        await archive.flush()
        assert archive.report().state == "ok"
        nursery.cancel_scope.cancel()
    assert len(events(path, FORCED)) == 1


def test_kill_9_at_random_moments_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Ten of them; `python -m tests.benchmarks.crash` does a hundred."""
    result = crash.run(tmp_path, rounds=10, seed=7)
    assert result.acknowledged > 1000
    assert (result.lost, result.twice, result.damaged) == (0, 0, 0)
