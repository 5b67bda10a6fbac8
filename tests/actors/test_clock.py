"""The clock of a replay: it waits for every task, steps from deadline to deadline, and keeps the pace it was given."""

import socket
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any

import pytest
import trio
import trio._core._run as scheduler
import trio.testing

from actors import clock
from actors.clock import RecordedClock, fixed_order, from_us, now, to_us

BEGAN = datetime(2021, 7, 22, 22, 25, 40, 175661, tzinfo=UTC)


def run(program: Callable[[RecordedClock], Awaitable[Any]], speed: float = inf) -> Any:
    recorded = RecordedClock(to_us(BEGAN), speed)
    with fixed_order():
        return trio.run(program, recorded, clock=recorded, instruments=[recorded])


def test_outside_of_a_replay_it_is_what_the_machine_says() -> None:
    async def inside() -> datetime:
        return now()

    for said in (now(), trio.run(inside)):
        assert abs(said - datetime.now(UTC)) < timedelta(seconds=5)
        assert said.tzinfo is UTC


def test_it_follows_the_recording_to_the_microsecond() -> None:
    async def program(recorded: RecordedClock) -> list[datetime]:
        recorded.start()
        seen = [now()]
        for microseconds in (1, 999_999, 86_400_000_000 * 365):
            await trio.sleep_until(recorded.at(to_us(BEGAN) + microseconds))
            seen.append(now())
        return seen

    began = time.perf_counter()
    seen = run(program)
    assert [to_us(moment) - to_us(BEGAN) for moment in seen] == [0, 1, 999_999, 86_400_000_000 * 365]
    assert time.perf_counter() - began < 5  # a year


def test_it_does_not_move_while_any_task_can_run() -> None:
    async def busy(times: set[float]) -> None:
        for _ in range(1000):
            await trio.lowlevel.checkpoint()
            times.add(trio.current_time())

    async def program(recorded: RecordedClock) -> set[float]:
        recorded.start()
        times: set[float] = set()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(busy, times)
            nursery.start_soon(trio.sleep, 0.000001)
        return times

    assert run(program) == {0.0}


def test_it_does_not_move_before_it_is_started() -> None:
    async def program(recorded: RecordedClock) -> tuple[float, float]:
        at: list[float] = []

        async def sleeper() -> None:
            await trio.sleep(5)
            at.append(time.perf_counter())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeper)
            await trio.to_thread.run_sync(time.sleep, 0.1)
            assert trio.current_time() == 0
            recorded.start(delay=0.1)
            started_at = time.perf_counter()
        return at[0] - started_at, trio.current_time()

    waited, at = run(program)
    assert at == 5
    assert waited >= 0.1


def test_it_keeps_its_pace_and_steps_for_the_timers_of_clients() -> None:
    async def program(recorded: RecordedClock) -> tuple[float, set[float]]:
        recorded.start()
        began = time.perf_counter()
        steps = set()
        async with trio.open_nursery() as nursery:

            async def look() -> None:
                while True:
                    steps.add(trio.current_time())
                    await trio.to_thread.run_sync(time.sleep, 0.01)

            nursery.start_soon(look)
            await trio.sleep(3)
            nursery.cancel_scope.cancel()
        return time.perf_counter() - began, steps

    took, steps = run(program, speed=10)
    assert took >= 0.3
    # A request that comes now and may take a second must not be told that it came seconds ago.
    assert len(steps) >= 3


def test_it_waits_for_clients_that_read_slowly_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "STUCK", 0.3)

    def unread() -> tuple[trio.SocketStream, socket.socket]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        return trio.SocketStream(trio.socket.from_stdlib_socket(ours)), theirs

    async def timed(seconds: float) -> float:
        began = time.perf_counter()
        await trio.sleep(seconds)
        return time.perf_counter() - began

    async def program(recorded: RecordedClock) -> tuple[float, float]:
        recorded.start()
        (to_dead, dead), (to_slow, slow) = unread(), unread()

        async def send(stream: trio.SocketStream) -> None:
            await stream.send_all(bytes(4 << 20))

        began = list[float]()

        def read_late() -> None:
            time.sleep(0.1)
            began.append(time.perf_counter())
            while slow.recv(1 << 20):
                pass

        with dead, slow:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, to_dead)
                stuck = await timed(2000)
                assert recorded._given_up == 1
                monkeypatch.setattr(clock, "STUCK", 30)
                nursery.start_soon(send, to_slow)
                nursery.start_soon(trio.to_thread.run_sync, read_late)
                await trio.sleep(1000)
                assert began  # the other one is waited for all the same
                await to_slow.aclose()
                nursery.cancel_scope.cancel()
        return stuck, trio.current_time()

    stuck, at = run(program)
    assert at == 3000
    assert stuck >= 0.3


def test_tasks_run_in_the_same_order_each_time() -> None:
    async def program(recorded: RecordedClock) -> list[int]:
        recorded.start()
        order: list[int] = []
        event = trio.Event()

        async def task(number: int) -> None:
            await event.wait()  # a set of tasks waits for it
            order.append(number)
            await trio.sleep(1)
            order.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(task, number)
            await trio.sleep(1)
            event.set()
        return order

    orders = [run(program) for _ in range(5)]
    assert all(order == orders[0] for order in orders)


def test_the_order_is_trios_own_afterwards_and_its_lack_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    switch = "_ALLOW_DETERMINISTIC_SCHEDULING"
    before = getattr(scheduler, switch), scheduler._r
    with fixed_order():
        assert getattr(scheduler, switch) is True
    assert (getattr(scheduler, switch), scheduler._r) == before
    monkeypatch.delattr(scheduler, switch)
    with pytest.raises(RuntimeError, match="has no switch for a fixed order"), fixed_order():
        pass


def test_moments_of_a_recording() -> None:
    recorded = RecordedClock(to_us(BEGAN), 1)
    assert recorded.utc() == BEGAN
    assert from_us(to_us(BEGAN)) == BEGAN
    assert recorded.at(to_us(BEGAN) + 1_500_000) == 1.5


async def test_looks_that_begin_at_any_time_fall_together(autojump_clock: trio.testing.MockClock) -> None:
    """Five tasks of two paces wake a process of whole seconds once a second, and none of them sleeps for too long."""
    woken: list[float] = []

    async def look(every: float, first: float) -> None:
        await trio.sleep(first)
        while True:
            before = trio.current_time()
            await clock.tick(every)
            assert 0 < trio.current_time() - before <= every
            woken.append(trio.current_time())

    began = trio.current_time()
    with trio.move_on_after(10.5):
        async with trio.open_nursery() as nursery:
            for every, first in ((1.0, 0.1), (1.0, 0.25), (1.0, 0.6), (2.0, 0.7), (2.0, 0.95)):
                nursery.start_soon(look, every, first)
    assert sorted(set(woken)) == [began // 1 + second for second in range(1, 11)]
    assert len(woken) == 3 * 10 + 2 * 5


async def test_the_next_tick_is_never_the_present(mock_clock: trio.testing.MockClock) -> None:
    """Also where a quotient of fractions comes out one too small, and whoever sleeps until then would never sleep."""
    for number in range(1000):
        mock_clock.jump(max(0.0, number * 0.1 - trio.current_time()))
        assert 0 < clock.next_tick(0.1) - trio.current_time() < 0.11


@pytest.mark.parametrize(("late", "until"), [(0.0, 1.0), (0.4, 1.4), (30.0, 32.0)])
async def test_a_look_for_silence_that_is_late_waits_until_what_came_is_read(
    mock_clock: trio.testing.MockClock, late: float, until: float
) -> None:
    began = trio.current_time() // 1
    mock_clock.jump(began + 1 - trio.current_time())  # a whole second
    looked: list[float] = []

    async def look() -> None:
        await clock.tick_for_silence(1.0)
        looked.append(trio.current_time() - began - 1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(1.0 + late)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.autojump_threshold = 0
    assert looked == [pytest.approx(until)]
