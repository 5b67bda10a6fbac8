"""Loading of history: how much of it is under way at once, and how much stays."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest
import trio
import trio.testing
from msgspec import structs

from actors import turns
from actors.errors import BadMessage, MarketError, UpstreamError, UpstreamLimited, UpstreamTimeout
from actors.events import Ohlc
from actors.exchanges.binance import EXCHANGE
from actors.exchanges.exchange import Exchange, Rest
from actors.feeds import rows
from actors.feeds.history import SETTLE, History
from actors.feeds.packing import pack
from actors.feeds.patience import REPAIR_WITHIN
from tests.actors.feeds.test_packing import bar


class Pages(list[Ohlc]):
    """An answer whose end can be seen."""


class SlowRest:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: list[weakref.ref[Pages]] = []
        self.go_on = trio.Semaphore(0)
        self.fails = False

    async def ohlc(self, symbol: str, interval: str, **_: Any) -> list[Ohlc]:
        self.asked.append(f"{symbol} {interval}")
        await self.go_on.acquire()
        if self.fails:
            raise UpstreamTimeout("nothing came")
        rows = Pages(map(bar, range(100)))
        self.answers.append(weakref.ref(rows))
        return rows


def history_of(symbol: str, rest: Any, loads: trio.CapacityLimiter) -> History:
    made = History(
        EXCHANGE,
        symbol,
        repair=rest,
        background=rest,
        publish=lambda interval, said: None,
        derived=frozenset(),
        loads=loads,
    )
    for interval in ("1m", "5m"):
        made.add(interval)
    return made


async def load_all(count: int, rest: SlowRest, loads: trio.CapacityLimiter, check: Callable[[], None]) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(history_of(f"S{number}", rest, loads).load)
        for _ in range(2 * count):
            await trio.testing.wait_all_tasks_blocked()
            check()
            rest.go_on.release()


async def test_no_more_feeds_load_at_once_than_may() -> None:
    rest, loads, done = SlowRest(), trio.CapacityLimiter(2), [0]

    def check() -> None:
        assert len(rest.asked) - done[0] == min(2, 8 - done[0])
        done[0] += 1

    await load_all(4, rest, loads, check)
    assert sorted(rest.asked) == sorted(f"S{number} {interval}" for number in range(4) for interval in ("1m", "5m"))


async def test_what_was_fetched_is_not_kept_while_the_next_is_waited_for() -> None:
    rest = SlowRest()

    def check() -> None:
        assert [answer for answer in rest.answers if answer() is not None] == []

    await load_all(3, rest, trio.CapacityLimiter(3), check)
    assert len(rest.answers) == 6


async def test_a_load_that_fails_makes_room_for_others() -> None:
    rest, loads = SlowRest(), trio.CapacityLimiter(1)
    failed = trio.Event()

    async def fail(history: History) -> None:
        rest.fails = True
        rest.go_on.release()
        rest.go_on.release()
        try:
            await history.load()
        except UpstreamTimeout:
            failed.set()
        rest.fails = False

    await fail(history_of("S0", rest, loads))
    assert failed.is_set()
    await load_all(1, rest, loads, lambda: None)
    assert rest.asked == ["S0 1m", "S0 5m", "S0 1m", "S0 5m"]


class Answered:
    """Answers at once, with as many bars as were asked for."""

    async def ohlc(self, symbol: str, interval: str, *, limit: int, **_: Any) -> list[Ohlc]:
        return [bar(index) for index in range(limit)]


async def test_a_load_is_many_small_pieces_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for one piece in a pass somebody else has a turn between any two blocks that are packed."""
    turns.bound()
    monkeypatch.setattr(turns, "SLICE", 0.0)
    monkeypatch.setattr(turns, "LEAST", 1)
    history = history_of("BTCUSDT", Answered(), trio.CapacityLimiter(1))
    others_turns, packed, most = 0, 0, 0

    def count(*_: Any) -> Any:
        nonlocal packed
        packed += 1
        return pack(*_)

    async def wait_for_turns(loaded: trio.Event) -> None:
        nonlocal others_turns, packed, most
        while not loaded.is_set():
            most, packed, others_turns = max(most, packed), 0, others_turns + 1
            await trio.lowlevel.checkpoint()

    monkeypatch.setattr(rows, "pack", count)
    loaded = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for_turns, loaded)
        await history.load()
        loaded.set()
    blocks = (EXCHANGE.history - rows.NEWEST) // rows.BLOCK
    assert most <= 2  # Trio may put the other first in one pass and last in the next
    assert others_turns >= blocks
    found = history.ohlc("1m", limit=EXCHANGE.history, start=None, end=None)
    assert found == [bar(index) for index in range(EXCHANGE.history)]


async def test_what_the_stream_says_while_a_load_is_packed_finds_all_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    turns.bound()
    monkeypatch.setattr(turns, "SLICE", 0.0)
    monkeypatch.setattr(turns, "LEAST", 1)
    history = history_of("BTCUSDT", Answered(), trio.CapacityLimiter(1))
    count = EXCHANGE.history
    async with trio.open_nursery() as nursery:
        nursery.start_soon(history.load)
        while history.held_since("1m") is None:
            await trio.lowlevel.checkpoint()
        for at in range(count, count + 40):
            new = bar(at)
            history.apply(new, new.timestamp + timedelta(minutes=1))
            await trio.lowlevel.checkpoint()
            held = history.ohlc("1m", limit=count, start=None, end=None)
            assert held == [bar(index) for index in range(at + 1 - count, at + 1)]


class Troubled:
    """A host that answers with what is in its list, the last one for ever."""

    def __init__(self, *answers: list[Ohlc] | MarketError) -> None:
        self.answers = list(answers)
        self.asked_at: list[float] = []

    async def ohlc(self, symbol: str, interval: str, **_: Any) -> list[Ohlc]:
        self.asked_at.append(trio.current_time())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, MarketError):
            raise answer
        return answer


async def repaired(rest: Troubled, exchange: Exchange = EXCHANGE) -> list[Any]:
    """What is told of bars 1 and 2, of which the stream brought an update each, before the end of bar 1 got lost."""
    told: list[Any] = []
    done = trio.Event()

    def publish(interval: str, said: Any) -> None:
        told.append(said)
        if said.timestamp == opened(2).timestamp:
            done.set()

    made = History(
        exchange,
        "BTCUSDT",
        repair=cast(Rest, rest),
        background=cast(Rest, rest),
        publish=publish,
        derived=frozenset(),
        loads=trio.CapacityLimiter(1),
    )
    made.add("1m")
    made.apply(opened(1), opened(1).timestamp)
    made.apply(opened(2), opened(2).timestamp)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.repair)
        await done.wait()
        nursery.cancel_scope.cancel()
    return told[1:-1]


def opened(index: int) -> Ohlc:
    return structs.replace(bar(index), is_closed=False)


CLOSED = structs.replace(bar(1), is_closed=True)


async def test_a_passing_trouble_of_the_exchange_is_waited_out(autojump_clock: trio.testing.MockClock) -> None:
    rest = Troubled(UpstreamError("502"), BadMessage("a page"), [CLOSED, opened(2)])
    gap, closed = await repaired(rest)
    assert (gap.repaired, closed) == (True, CLOSED)
    assert len(rest.asked_at) == 3


async def test_a_trouble_that_lasts_is_waited_for_no_longer_than_newer_bars_may_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    began = trio.current_time()
    [gap] = await repaired(rest := Troubled(UpstreamError("502")))
    assert (gap.repaired, "502" in gap.reason) == (False, True)
    assert trio.current_time() - began == pytest.approx(REPAIR_WITHIN, abs=0.5)
    assert len(rest.asked_at) == 5, "0, 0.5, 1.5, 3.5, 7.5 s"
    began = trio.current_time()
    [gap] = await repaired(Troubled(UpstreamLimited("429", retry_after=60.0)))
    assert not gap.repaired
    assert trio.current_time() - began < 1.0


async def test_rest_that_lags_behind_the_stream_is_asked_again(autojump_clock: trio.testing.MockClock) -> None:
    [_, closed] = await repaired(rest := Troubled([], [bar(0)], [CLOSED]))
    assert closed == CLOSED
    assert len(rest.asked_at) == 3


async def test_a_bar_that_rest_says_is_open_is_not_taken_for_final(autojump_clock: trio.testing.MockClock) -> None:
    says = replace(EXCHANGE, says_closed=True)
    [_, closed] = await repaired(rest := Troubled([opened(1)], [CLOSED]), says)
    assert (closed, len(rest.asked_at)) == (CLOSED, 2)
    [_, closed] = await repaired(rest := Troubled([opened(1)], [CLOSED]))
    assert (closed.is_closed, len(rest.asked_at)) == (True, 1), "elsewhere the clock says it, and ours may differ"


def test_the_first_update_of_a_bar_waits_for_the_last_one_of_the_bar_before() -> None:
    told: list[Any] = []
    made = History(
        replace(EXCHANGE, closes_bars=False),
        "BTCUSDT",
        repair=cast(Rest, Troubled([])),
        background=cast(Rest, Troubled([])),
        publish=lambda interval, said: told.append(said),
        derived=frozenset(),
        loads=trio.CapacityLimiter(1),
    )
    made.add("1m")
    end, ms = opened(2).timestamp, timedelta(milliseconds=1)
    first, last = opened(1), structs.replace(opened(1), close=7.0)
    made.apply(first, end - 500 * ms)
    made.apply(opened(2), end + 50 * ms)
    made.notice(end + 60 * ms)
    assert told == [first]
    made.apply(last, end + 160 * ms)
    made.notice(end + SETTLE - ms)
    assert told == [first, last]
    made.notice(end + SETTLE)
    assert told == [first, last, structs.replace(last, is_closed=True), opened(2)]
    newer = structs.replace(opened(3), close=8.0)
    made.apply(opened(3), opened(3).timestamp + ms)
    made.apply(newer, opened(3).timestamp + SETTLE)
    made.notice(opened(3).timestamp + SETTLE)
    assert told[4:] == [structs.replace(opened(2), is_closed=True), newer], "and is told once"
    made.apply(opened(4), opened(4).timestamp + ms)
    made.interrupt()
    made.notice(opened(4).timestamp + SETTLE)
    assert len(told) == 6, "after a lost connection it is told anew"
