"""History from disk and exchange together: as the exchange alone would answer, and only what is missing is asked."""

import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from actors.archive import archive as archive_module
from actors.archive import refill as refill_module
from actors.archive.archive import Archive
from actors.archive.kept import KeptRest
from actors.archive.nothing import FOR, RANGES, Nothing
from actors.archive.recall import Recall, fetch_of, questions_for
from actors.archive.refill import Refill, fill
from actors.archive.seen import Seen, sampled, with_sampled_interest
from actors.archive.series import Piece, Range, Series, Write, row_of, us
from actors.archive.writer import Writer
from actors.errors import UpstreamError, UpstreamLimited
from actors.events import Ohlc, OpenInterest
from actors.exchanges.binance import EXCHANGE
from actors.exchanges.paging import newest, oldest
from tests.actors.archive.fixtures import (
    INSTRUMENT,
    MINUTE,
    QUIET,
    T0,
    WHERE,
    Remembering,
    archived,
    bar,
    funding,
    interest,
    large_trade,
    liquidation,
    until,
)

BARS = Series("ohlc", "binance", "BTCUSDT", "1m")
LENGTH = 60  # minutes of the market


@dataclass
class Past:
    archive: Archive
    recall: Recall
    rest: Remembering
    now: datetime

    async def ask(self, *, limit: int, start: int | None = None, end: int | None = None) -> list[Ohlc]:
        """The bars between minutes, as a client asks for them."""
        kept: Any = KeptRest(self.rest, self.recall)
        a, b = (None if minute is None else T0 + minute * MINUTE for minute in (start, end))
        fetch = fetch_of(kept, BARS, INSTRUMENT)
        return await self.recall.answer(BARS, fetch, limit=limit, start=a, end=b)

    def hold(self, first: int, last: int) -> None:
        """The archive has seen these minutes without a gap."""
        rows = [
            row_of("ohlc", bar) for bar in self.rest.bars if T0 + first * MINUTE <= bar.timestamp < T0 + last * MINUTE
        ]
        covered = Range(us(T0 + first * MINUTE), us(T0 + last * MINUTE))
        self.archive.put([Write(BARS, rows, [covered])])


@asynccontextmanager
async def past(path: Path, bars: list[Ohlc], exchange: Any = EXCHANGE) -> AsyncIterator[Past]:
    """A market of LENGTH minutes, of which the last bar is open."""
    now = T0 + LENGTH * MINUTE - timedelta(seconds=20)
    async with archived(path / "marketd.db") as archive:
        yield Past(archive, Recall(archive, exchange, lambda: now), Remembering(bars), now)


def market(missing: set[int] = frozenset()) -> list[Ohlc]:  # type: ignore[assignment]
    return [bar(minute, closed=minute < LENGTH - 1) for minute in range(LENGTH) if minute not in missing]


def minutes(bars: list[Ohlc]) -> list[int]:
    return [(bar.timestamp - T0) // MINUTE for bar in bars]


# --- the same as the exchange


@pytest.mark.parametrize("is_settled", [False, True])
@pytest.mark.parametrize("seed", range(9))
async def test_any_question_is_answered_as_the_exchange_alone_would(
    tmp_path: Path, seed: int, is_settled: bool
) -> None:
    """Whether every bar is there, or there are none where nobody traded, or the exchange lacks some for good."""
    rng = random.Random(seed)
    missing = set(rng.sample(range(1, LENGTH - 1), 20)) if seed % 3 else set()
    async with past(tmp_path, market(missing), QUIET if seed % 3 == 1 else EXCHANGE) as world:
        if is_settled:
            world.recall._now = lambda: world.now + timedelta(days=2)
        for _ in range(4):
            first = rng.randrange(LENGTH - 8)
            world.hold(first, first + rng.randrange(1, 8))
        alone = Remembering(world.rest.bars)
        for _ in range(25):
            await world.archive.flush()
            start = rng.choice([None, rng.randrange(LENGTH)])
            end = rng.choice([None, rng.randrange(1, LENGTH + 5)])
            if start is not None and end is not None and end <= start:
                continue
            limit = rng.choice([1, 2, 5, 20, 100])
            a, b = (None if minute is None else T0 + minute * MINUTE for minute in (start, end))
            expected = await alone.ohlc("BTCUSDT", "1m", limit=limit, start=a, end=b)
            asked = len(world.rest.asked)
            found = await world.ask(limit=limit, start=start, end=end)
            assert found == expected, (seed, start, end, limit, minutes(found), minutes(expected))
            assert len(world.rest.asked) - asked <= questions_for(limit)


@pytest.mark.parametrize(("limit", "most"), [(1, 3), (20, 3), (99, 3), (250, 5), (900, 12)])
@pytest.mark.parametrize("is_last", [True, False])
async def test_however_many_holes_an_answer_costs_what_its_limit_justifies(
    tmp_path: Path, limit: int, most: int, is_last: bool
) -> None:
    """Every other bar is held, and the exchange has forgotten some: they are in the answer as well."""
    length = 1000
    bars = [bar(minute) for minute in range(length)]
    async with past(tmp_path, bars) as world:
        world.recall._now = lambda: T0 + timedelta(days=3)
        held = [Range(us(at), us(at + MINUTE)) for at in (bar.timestamp for bar in bars[::2])]
        world.archive.put([Write(BARS, [row_of("ohlc", bar) for bar in bars[::2]], held)])
        await world.archive.flush()
        forgotten = range(0, 10) if not is_last else range(length - 10, length)
        world.rest.bars = [bar for minute, bar in enumerate(bars) if minute not in forgotten]
        left = [minute for minute in range(length) if minute not in forgotten or minute % 2 == 0]
        found = await world.ask(limit=limit, start=None if is_last else 0, end=length)
        assert minutes(found) == (left[-limit:] if is_last else left[:limit])
        assert len(world.rest.asked) <= most


@pytest.mark.parametrize("is_last", [True, False])
async def test_what_pages_told_before_an_error_is_kept_and_not_asked_for_again(tmp_path: Path, is_last: bool) -> None:
    """The exchange tells seven rows at a time, and breaks at its third page."""
    async with past(tmp_path, market()) as world:
        world.recall._now = lambda: T0 + timedelta(days=3)
        whole, pages = world.rest.ohlc, 0

        async def read(start: Any, end: Any, size: int) -> list[Ohlc]:
            nonlocal pages
            pages += 1
            if pages == 3:
                raise UpstreamLimited("used up", retry_after=1.0)
            return await whole("BTCUSDT", "1m", limit=size, start=start, end=end)

        async def ohlc(symbol: str, interval: str, *, limit: int, start: Any = None, end: Any = None) -> list[Ohlc]:
            return await (newest(read, 7, limit, end) if start is None else oldest(read, 7, limit, start, end))

        world.rest.ohlc = ohlc  # type: ignore[method-assign]
        question = {"limit": 30, "end": 50} if is_last else {"limit": 30, "start": 10, "end": 50}
        with pytest.raises(UpstreamLimited):
            await world.ask(**question)
        await world.archive.flush()
        found = [
            ((piece.start - us(T0)) // 60_000_000, (piece.end - us(T0)) // 60_000_000)
            for piece in await world.recall.coverage(BARS, us(T0), us(T0 + LENGTH * MINUTE))
            if piece.is_held
        ]
        assert found == [(36, 50) if is_last else (10, 24)], "no more than was told"
        pages, world.rest.asked = 3, []
        expected = list(range(20, 50) if is_last else range(10, 40))
        assert minutes(await world.ask(**question)) == expected
        assert sum(size for _, _, size in world.rest.asked) <= 30 - 14 + 2, "only what was not told before"


async def test_what_is_held_is_not_asked_for_and_only_holes_are(tmp_path: Path) -> None:
    async with past(tmp_path, market()) as world:
        world.hold(10, 20)
        world.hold(25, 40)
        await world.archive.flush()
        assert minutes(await world.ask(limit=10, start=10, end=20)) == list(range(10, 20))
        assert world.rest.asked == []
        assert minutes(await world.ask(limit=100, start=12, end=38)) == list(range(12, 38))
        ((start, end, limit),) = world.rest.asked
        assert (start, end) == (T0 + 20 * MINUTE, T0 + 25 * MINUTE)
        assert limit <= 7  # no more than the hole can have: questions cost by their size
        await world.archive.flush()
        assert minutes(await world.ask(limit=30, end=40)) == list(range(10, 40))  # the hole is filled
        assert len(world.rest.asked) == 1


async def test_the_open_bar_comes_from_the_exchange_and_is_not_kept(tmp_path: Path) -> None:
    async with past(tmp_path, market()) as world:
        found = await world.ask(limit=5)
        assert [bar.is_closed for bar in found] == [True] * 4 + [False]
        await world.archive.flush()
        world.rest.asked.clear()
        assert await world.ask(limit=5) == found
        ((start, end, limit),) = world.rest.asked
        assert (start, end) == (None, None)
        assert limit <= 3


async def test_what_the_exchange_has_forgotten_is_not_lost_and_not_made_up(tmp_path: Path) -> None:
    async with past(tmp_path, market()) as world:
        world.hold(5, 10)
        world.rest.since = T0 + 30 * MINUTE
        await world.archive.flush()
        expected = [*range(5, 10), *range(30, 60)]
        for _ in range(2):  # a hole that nobody could fill is not taken for filled
            assert minutes(await world.ask(limit=100, start=0)) == expected
            assert minutes(await world.ask(limit=100)) == expected
            await world.archive.flush()
        world.rest.since = T0 + 15 * MINUTE  # it had only been slow
        assert minutes(await world.ask(limit=100, start=0)) == [*range(5, 10), *range(15, 60)]


async def test_while_the_exchange_is_down_what_is_held_is_answered(tmp_path: Path) -> None:
    async with past(tmp_path, market()) as world:
        world.hold(10, 20)
        await world.archive.flush()
        world.rest.is_down = True
        assert minutes(await world.ask(limit=5, start=12)) == list(range(12, 17))
        with pytest.raises(UpstreamError):
            await world.ask(limit=50, start=12)  # a hole is never papered over


async def test_a_missing_bar_of_an_exchange_that_makes_every_bar_is_a_hole(tmp_path: Path) -> None:
    async with past(tmp_path, market(missing={20})) as world:
        assert minutes(await world.ask(limit=10, start=16)) == [16, 17, 18, 19, *range(21, 27)]
        await world.archive.flush()
        world.rest.bars = market()
        assert minutes(await world.ask(limit=10, start=16)) == list(range(16, 26))


async def test_bars_that_the_exchange_lacks_for_good_are_not_asked_for_again(tmp_path: Path) -> None:
    missing = set(range(20, 30))
    left = [minute for minute in range(10, 50) if minute not in missing]
    async with past(tmp_path, market(missing)) as world:
        world.recall._now = lambda: T0 + timedelta(days=2)
        assert minutes(await world.ask(limit=100, start=10, end=50)) == left
        await world.archive.flush()
        asked = len(world.rest.asked)
        assert minutes(await world.ask(limit=100, start=10, end=50)) == left
        assert minutes(await world.ask(limit=20, end=40)) == left[:20]
        assert minutes(await world.ask(limit=3, start=18)) == [18, 19, 30]
        assert await world.ask(limit=9, start=22, end=28) == []
        assert len(world.rest.asked) == asked


@pytest.mark.parametrize("question", [{"start": 10, "end": 50}, {"end": 50}, {"start": 10}])
async def test_the_bars_around_a_hole_show_that_it_is_the_exchanges_own(
    tmp_path: Path, question: dict[str, int]
) -> None:
    """One question for it, and none after a restart either: it is written down."""
    missing = set(range(20, 30))
    left = [minute for minute in range(10, 50) if minute not in missing]
    async with past(tmp_path, market(missing)) as world:
        world.recall._now = lambda: T0 + timedelta(days=2)
        world.hold(10, 20)
        world.hold(30, 50)
        await world.archive.flush()
        assert minutes(await world.ask(limit=30, **question)) == left
        assert len(world.rest.asked) == 1
        await world.archive.flush()
        world.recall = Recall(world.archive, EXCHANGE, world.recall._now)
        assert minutes(await world.ask(limit=30, **question)) == left
        assert len(world.rest.asked) == 1


async def test_a_hole_that_was_empty_in_a_part_is_asked_for_as_a_whole(tmp_path: Path) -> None:
    missing = set(range(20, 30))
    async with past(tmp_path, market(missing)) as world:
        world.recall._now = lambda: T0 + timedelta(days=2)
        assert await world.ask(limit=100, start=22, end=28) == []
        assert len(await world.ask(limit=100, start=10, end=50)) == 30
        assert len(world.rest.asked) == 2
        await world.archive.flush()
        world.recall = Recall(world.archive, EXCHANGE, world.recall._now)
        assert len(await world.ask(limit=100, start=10, end=50)) == 30
        assert len(world.rest.asked) == 2


async def test_an_empty_answer_is_not_asked_for_again_for_a_while_and_never_written(tmp_path: Path) -> None:
    async with past(tmp_path, market(missing=set(range(20, 30)))) as world:
        at = T0 + timedelta(days=2)
        world.recall._now = lambda: at
        for _ in range(3):
            assert await world.ask(limit=100, start=22, end=28) == []
        assert len(world.rest.asked) == 1
        assert minutes(await world.ask(limit=100, start=15, end=28)) == list(range(15, 20))
        at += timedelta(hours=2)
        world.rest.bars = market()  # it was in trouble then
        assert minutes(await world.ask(limit=100, start=15, end=28)) == list(range(15, 28))


async def test_what_may_still_come_is_asked_for_again(tmp_path: Path) -> None:
    async with past(tmp_path, market(missing=set(range(20, 30)))) as world:
        world.recall._now = lambda: T0 + timedelta(hours=24, minutes=29)  # bar 30 opened less than a day ago
        for _ in range(2):
            asked = len(world.rest.asked)
            assert len(await world.ask(limit=100, start=10, end=50)) == 30
            assert await world.ask(limit=100, start=20, end=30) == []
            await world.archive.flush()
            assert len(world.rest.asked) == asked + 2


def test_what_is_remembered_of_nothing_is_bounded() -> None:
    nothing = Nothing()
    for number in range(RANGES + 10):
        nothing.add(BARS, Range(number, number + 1), now=number)
    nothing.add(BARS, Range(10, 11), now=RANGES)  # again: it is the newest
    nothing.add(BARS, Range(-1, 0), now=RANGES)
    found = nothing.ranges(BARS, now=RANGES)
    assert len(found) == RANGES
    assert Range(10, 11) in found
    assert Range(11, 12) not in found
    assert nothing.ranges(BARS._replace(symbol="ETHUSDT"), now=RANGES) == []
    assert nothing.ranges(BARS, now=RANGES + 10 + FOR) == []


async def test_an_answer_that_stops_short_does_not_hide_bars(tmp_path: Path) -> None:
    async with past(tmp_path, market()) as world:
        world.recall._now = lambda: T0 + timedelta(days=1)
        world.rest.bars = market(missing=set(range(20, LENGTH)))
        assert minutes(await world.ask(limit=100, start=10, end=50)) == list(range(10, 20))
        await world.archive.flush()
        world.rest.bars = market()
        assert minutes(await world.ask(limit=100, start=10, end=50)) == list(range(10, 50))


@pytest.mark.parametrize("exchange", [EXCHANGE, QUIET])
async def test_a_long_bar_that_is_still_open_is_not_forgotten(tmp_path: Path, exchange: Any) -> None:
    """It began days ago, and the question ends after that, days ago too."""
    weeks = BARS._replace(interval="1w")
    bars = [bar(0, interval="1w"), bar(7 * 24 * 60, interval="1w", closed=False)]
    async with past(tmp_path, bars, exchange) as world:
        world.recall._now = lambda: T0 + timedelta(days=11)
        kept: Any = KeptRest(world.rest, world.recall)
        for _ in range(3):
            found = await world.recall.answer(
                weeks, fetch_of(kept, weeks, INSTRUMENT), limit=9, start=T0, end=T0 + timedelta(days=9)
            )
            assert found == bars
            await world.archive.flush()


async def test_a_bar_that_has_only_just_ended_is_not_kept(tmp_path: Path) -> None:
    async with past(tmp_path, market()) as world:
        world.recall._now = lambda: T0 + 20 * MINUTE + timedelta(seconds=4)
        world.recall.keep(BARS, [bar(18), bar(19)], T0 + 18 * MINUTE, None, 10)
        await world.archive.flush()
        found = await world.recall.coverage(BARS, us(T0), us(T0 + 30 * MINUTE))
        assert [(p.start, p.end) for p in found if p.is_held] == [(us(T0 + 18 * MINUTE), us(T0 + 19 * MINUTE))]


async def test_without_a_readable_archive_the_exchange_answers(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "missing" / "marketd.db", keep=("ohlc",))
    world = Past(archive, Recall(archive, EXCHANGE, lambda: T0), Remembering(market()), T0)
    assert minutes(await world.ask(limit=3, start=10)) == [10, 11, 12]


async def test_history_that_the_exchange_refuses_is_not_asked_for(tmp_path: Path) -> None:
    async with past(tmp_path, market()) as world:
        world.hold(0, 5)
        await world.archive.flush()
        fetch = fetch_of(world.rest, BARS, INSTRUMENT)
        kept = world.now - (T0 + 40 * MINUTE)
        for start in (None, T0):
            found = await world.recall.answer(BARS, fetch, limit=100, start=start, end=None, kept=kept)
            assert minutes(found)[:5] == list(range(5))
            assert 40 in minutes(found)
        assert all(start is None or start >= T0 + 40 * MINUTE for start, _, _ in world.rest.asked)


# --- filling


async def test_a_fill_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refill_module, "PAGE", 7)
    async with past(tmp_path, market()) as world:
        kept: Any = KeptRest(world.rest, world.recall)
        fetch = fetch_of(kept, BARS, INSTRUMENT)
        end = us(T0 + 50 * MINUTE)
        told: list[tuple[datetime, int]] = []

        def stop_after_three(at: datetime, rows: int) -> None:
            told.append((at, rows))
            if len(told) == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            await fill(world.recall, BARS, fetch, await world.recall.coverage(BARS, us(T0), end), stop_after_three)
        assert [rows for _, rows in told] == [7, 7, 7]
        world.rest.asked.clear()
        holes = [piece for piece in await world.recall.coverage(BARS, us(T0), end) if not piece.is_held]
        await fill(world.recall, BARS, fetch, holes, lambda at, rows: told.append((at, rows)))
        assert world.rest.asked[0][0] == T0 + 21 * MINUTE
        assert sum(rows for _, rows in told) == 50
        world.rest.asked.clear()
        assert minutes(await world.ask(limit=100, start=0, end=50)) == list(range(50))
        assert world.rest.asked == []


async def test_only_an_answer_without_rows_ends_a_fill(tmp_path: Path) -> None:
    """The exchange tells no more than seven rows at a time, whatever is asked for; in the middle it has none."""
    async with past(tmp_path, market(missing=set(range(23, 40)))) as world:
        world.recall._now = lambda: T0 + timedelta(days=2)
        kept: Any = KeptRest(world.rest, world.recall)
        whole = fetch_of(kept, BARS, INSTRUMENT)
        asked: list[datetime] = []

        async def fetch(start: Any, end: Any, limit: int) -> list[Any]:
            asked.append(start)
            return await whole(start, end, min(limit, 7))

        end = T0 + 50 * MINUTE
        for _ in range(2):
            found = await world.recall.coverage(BARS, us(T0), us(end))
            holes = [piece for piece in found if not piece.is_held]
            await fill(world.recall, BARS, fetch, holes, lambda at, rows: None)
        world.rest.asked.clear()
        assert len(await world.ask(limit=100, start=0, end=50)) == 33
        assert world.rest.asked == []
    assert [round((at - T0) / MINUTE) for at in asked] == [-1, 7, 14, 21, 45]


async def test_a_fill_of_rates_has_each_of_them(tmp_path: Path) -> None:
    """They are settled some milliseconds early or late, and two hours are not always two steps apart."""
    series = Series("funding_history", "binance", "BTCUSDT")
    rates = [funding(hour * 3600 + (0.02 if hour % 2 else 0.0), rate=hour / 1e6) for hour in range(30)]
    asked = 0

    async def fetch(start: Any, end: Any, limit: int) -> list[Any]:
        nonlocal asked
        asked += 1
        return [rate for rate in rates if start <= rate.timestamp < end][:1]

    told: list[int] = []
    async with past(tmp_path, []) as world:
        hole = Piece(us(T0), us(T0 + timedelta(hours=40)), False)
        await fill(world.recall, series, fetch, [hole], lambda at, rows: told.append(rows))
    assert told == [1] * 30 + [0]


async def test_recent_holes_are_filled_and_older_ones_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refill_module, "AFTER", 0.0)
    quiet_about_history: Any = {**EXCHANGE.capabilities, "open_interest_history": False, "funding_rate_history": False}
    async with past(tmp_path, market()) as world, trio.open_nursery() as nursery:
        world.recall.exchange = replace(EXCHANGE, capabilities=quiet_about_history)
        world.hold(10, 20)
        world.hold(30, 40)
        await world.archive.flush()
        kept: Any = KeptRest(world.rest, world.recall)
        refill = Refill(world.recall, kept, lambda: world.now, lambda: [(INSTRUMENT, ("1m",))])
        nursery.start_soon(refill.run)
        await until(lambda: len(world.rest.asked) == 2)
        await world.archive.flush()
        nursery.cancel_scope.cancel()
    assert [(start, end) for start, end, _ in world.rest.asked] == [
        (T0 + 20 * MINUTE, T0 + 30 * MINUTE),
        (T0 + 40 * MINUTE, world.now - 2 * MINUTE),
    ]


async def test_a_series_that_errs_does_not_keep_the_others_from_being_filled(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(refill_module, "AFTER", 0.0)
    monkeypatch.setattr(refill_module, "PACE", 0.0)
    error: Exception = UpstreamError("the exchange has forgotten this one")
    tried: list[str] = []
    refill: Any = Refill(Any, Any, lambda: T0, lambda: [(INSTRUMENT, ())])  # type: ignore[arg-type]
    series = [BARS._replace(symbol=symbol) for symbol in ("ETHUSDT", "BTCUSDT")]

    async def failing(one: Series, _: object) -> None:
        tried.append(one.symbol)
        raise error

    monkeypatch.setattr(refill, "_series", lambda *_: series)
    monkeypatch.setattr(refill, "_fill", failing)
    refill._asked = {(BARS, Piece(0, us(T0 - timedelta(days=days)), False)) for days in (1, 29)}
    with trio.move_on_after(1):
        await refill.run()
    assert tried == ["ETHUSDT", "BTCUSDT"]
    assert len(refill._asked) == 1  # what is too old to be looked at needs no memory
    error = UpstreamLimited("too many requests")
    with pytest.raises(UpstreamLimited):
        await refill.run()


# --- what only this daemon saw


async def test_seen_is_what_archive_and_memory_have_each_as_often_as_it_happened(tmp_path: Path) -> None:
    series = Series("liquidations", "binance", "BTCUSDT")
    old, twice, new = liquidation(1), liquidation(2), liquidation(3, value=5000.0, side="buy")
    async with archived(tmp_path / "marketd.db") as archive:
        rows = [(*row_of("liquidations", event), number) for event, number in ((old, 0), (twice, 0), (twice, 1))]
        archive.put([Write(series, rows)])
        await archive.flush()
        seen = Seen(archive, series, [twice, twice, new])  # memory has forgotten the oldest; the newest is not written

        async def ask(limit: int = 10, **query: Any) -> list[Any]:
            return await seen.events(limit=limit, **({"start": None, "end": None, "least": 0.0} | query))

        assert await ask() == [old, twice, twice, new]
        assert await ask(limit=2) == [twice, new]
        assert await ask(limit=2, start=T0) == [old, twice]
        assert await ask(least=2000.0) == [new]
        assert await ask(end=new.timestamp) == [old, twice, twice]
    assert await Seen(None, series, [twice, new]).events(limit=5, start=None, end=None, least=0.0) == [twice, new]


async def test_what_a_thread_is_writing_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "PATIENCE", 0.05)
    monkeypatch.setattr(archive_module, "LAST_WRITE", 0.1)
    series = Series("liquidations", "binance", "BTCUSDT")
    rows = [(*row_of("liquidations", liquidation(1)), number) for number in (0, 1)]
    is_back = threading.Event()
    async with archived(tmp_path / "marketd.db") as archive:
        archive.put([Write(series, rows[:1])])
        await archive.flush()
        monkeypatch.setattr(Writer, "write", lambda *_: is_back.wait(10))
        archive.put([Write(series, rows[1:])])
        await archive.flush()
        assert archive._rows.is_away
        seen: Seen[Any] = Seen(archive, series, [])
        events = await seen.events(limit=9, start=None, end=None, least=0.0)
        ((_, count, _, sells),) = await seen.bars("1m", limit=9, start=None, end=None)
        is_back.set()
    assert events == [liquidation(1)] * 2
    assert (count, sells) == (2, 2000.0)


@pytest.mark.parametrize("moment", ["before the file is read", "after it was read"])
async def test_each_event_counts_once_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setattr(archive_module, "PATIENCE", 0.0)  # nothing waits for the disk, as while it is slow
    monkeypatch.setattr(archive_module, "BATCH_EVERY", inf)
    series = Series("large_trades", "binance", "BTCUSDT")
    trades = [large_trade(number, number) for number in range(5)]
    async with archived(tmp_path / "marketd.db") as archive:
        await until(lambda: archive.report().state == "ok")
        ask = archive.reads.ask

        async def all_written() -> None:
            archive._wanted.set()
            await until(lambda: archive.report().pending == 0)

        async def while_writing(query: Any) -> Any:
            if moment == "after it was read":
                found = await ask(query)
                await all_written()
                return found
            await all_written()
            return await ask(query)

        archive.reads.ask = while_writing  # type: ignore[method-assign]
        seen: Seen[Any] = Seen(archive, series, trades)
        archive.put([Write(series, [row_of("large_trades", trade) for trade in trades[:4]])])
        ((_, count, _, _),) = await seen.bars("1m", limit=9, start=None, end=None)
        archive.put([Write(series, [row_of("large_trades", trades[4])])])
        found = await seen.events(limit=9, start=None, end=None, least=0.0)
    assert (count, found) == (4, trades)


@pytest.mark.parametrize("is_kept", [True, False])
async def test_bars_of_what_was_seen(tmp_path: Path, is_kept: bool) -> None:
    series = Series("large_trades", "binance", "BTCUSDT")
    events = [large_trade(n * 25, n, value=100_000.1 + n, side="buy" if n % 3 else "sell") for n in range(20)]
    async with archived(tmp_path / "marketd.db") as archive:
        if is_kept:
            archive.put([Write(series, [row_of("large_trades", event) for event in events])])
        seen = Seen(archive if is_kept else None, series, events)
        bars = await seen.bars("1m", limit=3, start=None, end=None)
        first = await seen.bars("5m", limit=1, start=T0 + 2 * MINUTE, end=T0 + 4 * MINUTE)
    assert [bar[0] for bar in bars] == [us(T0 + minute * MINUTE) for minute in (5, 6, 7)]
    some = [event for event in events if 5 <= (event.timestamp - T0) / MINUTE < 6]
    assert bars[0][1] == len(some)
    assert bars[0][2] == pytest.approx(sum(event.value for event in some if event.side == "buy"))
    assert bars[0][3] == pytest.approx(sum(event.value for event in some if event.side == "sell"))
    ((begin, count, *_),) = first
    assert (begin, count) == (us(T0), sum(120 <= n * 25 < 240 for n in range(20)))


def test_an_exchange_without_a_history_of_interest_gets_one_from_the_archive(tmp_path: Path) -> None:
    none = {**EXCHANGE.capabilities, "open_interest_history": False}
    exchange = replace(EXCHANGE, capabilities=none, open_interest_periods=())
    assert with_sampled_interest(exchange, ()) is exchange
    assert with_sampled_interest(exchange, ("ohlc",)) is exchange
    archive = Archive(tmp_path / "x", keep=("open_interest",))
    assert with_sampled_interest(EXCHANGE, archive.keep) is EXCHANGE
    found = with_sampled_interest(exchange, archive.keep)
    assert found.capabilities["open_interest_history"] == "partial"
    assert {"5m", "1h", "1d"} <= set(found.open_interest_periods)
    assert not {"1m", "3d", "1w", "1M"} & set(found.open_interest_periods)


async def test_sampled_interest_is_that_of_the_end_of_each_period_that_is_over(tmp_path: Path) -> None:
    series = Series("open_interest", "binance", "BTCUSDT")
    samples = [interest(60 * minute + 30, 100.0 + minute) for minute in (0, 1, 4, 5, 6, 16, 19, 20, 21)]
    now = T0 + 22 * MINUTE
    async with archived(tmp_path / "marketd.db") as archive:
        archive.put([Write(series, [row_of("open_interest", sample) for sample in samples])])

        async def ask(limit: int = 10, start: int | None = None, end: int | None = None) -> list[tuple[int, float]]:
            a, b = (None if minute is None else T0 + minute * MINUTE for minute in (start, end))
            rows: list[OpenInterest] = await sampled(archive, series, "5m", limit=limit, start=a, end=b, now=now)
            assert all(row.exchange == WHERE["exchange"] for row in rows)
            return [((row.timestamp - T0) // MINUTE, row.open_interest) for row in rows]

        # 10:05 is what was last seen before it; nothing was seen from 10:10 to 10:15; 10:25 is yet to come
        assert await ask() == [(5, 104.0), (10, 106.0), (20, 119.0)]
        assert await ask(limit=1) == [(20, 119.0)]
        assert await ask(limit=1, start=0) == [(5, 104.0)]
        assert await ask(start=5, end=20) == [(5, 104.0), (10, 106.0)]
        assert await ask(start=6) == [(10, 106.0), (20, 119.0)]
        assert await ask(start=10, end=21) == [(10, 106.0), (20, 119.0)]
