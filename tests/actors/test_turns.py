"""Room in a pass of the scheduler: much work is done in many passes, and others have their turns in between."""

import pytest
import trio

from actors import turns

UNIT = 0.0005  # seconds that one piece of work takes


class Clock:
    """Moves when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(turns, "perf_counter", clock)
    return clock


async def longest_wait(clock: Clock, workers: int, pieces: int) -> float:
    """Of somebody who wants a turn in every pass, while `workers` have `pieces` of work to do, all at once."""
    waits = [0.0]
    left = workers

    async def work() -> None:
        nonlocal left
        for _ in range(pieces):
            await turns.room()
            clock.now += UNIT
            await trio.lowlevel.checkpoint()
        left -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(workers):
            nursery.start_soon(work)
        while left:
            since = clock.now
            await trio.lowlevel.checkpoint()
            waits.append(clock.now - since)
    assert clock.now == pytest.approx(workers * pieces * UNIT)
    return max(waits)


async def test_nobody_waits_for_all_the_work_there_is(clock: Clock) -> None:
    turns.bound()
    # Trio may put the other first in one pass and last in the next.
    assert await longest_wait(clock, workers=400, pieces=3) <= 2 * (turns.SLICE + UNIT) + 1e-9


class Turns(trio.abc.Instrument):
    """How many tasks had a turn in each pass."""

    def __init__(self) -> None:
        self.passes = [0]

    def after_io_wait(self, timeout: float) -> None:
        self.passes.append(0)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.passes[-1] += 1


async def test_of_all_who_wait_for_room_only_those_ask_that_will_find_some(clock: Clock) -> None:
    turns.bound()
    counted = Turns()
    trio.lowlevel.add_instrument(counted)
    order: list[int] = []

    async def work(number: int) -> None:
        await turns.room()
        clock.now += turns.SLICE
        order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(400):
            nursery.start_soon(work, number)
    assert sorted(order) == [*range(400)]
    first, *others = sorted(counted.passes, reverse=True)
    assert first >= 400  # all begin at once
    assert len(others) >= 400 / (2 * turns.LEAST)
    assert max(others) <= 2 * turns.LEAST + 2


async def test_who_is_cancelled_in_the_line_leaves_it_to_the_others(clock: Clock) -> None:
    turns.bound()
    done = 0

    async def work() -> None:
        nonlocal done
        await turns.room()
        clock.now += turns.SLICE
        done += 1

    async with trio.open_nursery() as nursery, trio.open_nursery() as impatient:
        for _ in range(200):
            impatient.start_soon(work)
            nursery.start_soon(work)
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        impatient.cancel_scope.cancel()
    assert 200 <= done < 400


async def test_unbounded_passes_have_room_for_all(clock: Clock) -> None:
    assert await longest_wait(clock, workers=400, pieces=3) >= 200 * UNIT


async def test_some_work_is_begun_in_a_pass_that_took_long_already(clock: Clock) -> None:
    """Other programs had the processor."""
    turns.bound()
    began: list[int] = []
    async with trio.open_nursery() as nursery:

        async def work(number: int) -> None:
            await turns.room()
            began.append(number)

        clock.now += 2 * turns.SLICE
        for number in range(turns.LEAST + 5):
            await work(number) if number < turns.LEAST else nursery.start_soon(work, number)
        assert len(began) == turns.LEAST  # without a checkpoint
    assert len(began) == turns.LEAST + 5


async def test_who_waited_long_enough_goes_on(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if others take all of every pass."""
    monkeypatch.setattr(turns.Passes, "after_io_wait", lambda passes, timeout: None)  # all are over
    turns.bound()
    passes = turns._passes.get()
    assert passes is not None
    passes.begun, clock.now = turns.LEAST, 2 * turns.SLICE
    count = 0

    async def look() -> None:
        nonlocal count
        while True:
            await trio.lowlevel.checkpoint()
            count += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await turns.room()
        nursery.cancel_scope.cancel()
    assert turns.PASSES - 2 <= count <= turns.PASSES + 2


async def test_what_follows_from_a_step_is_done_in_it_as_long_as_the_pass_has_room(clock: Clock) -> None:
    """The rest waits for a task's turn, whatever is raised meanwhile."""
    turns.bound()
    done: list[str] = []

    class Follower:
        def call(self) -> None:
            clock.now += turns.SLICE / 2
            done.append("called")

        def wake(self) -> None:
            done.append("woken")

    turns.follow(Follower())
    assert done == ["woken"]

    def work() -> None:
        with turns.step():
            for _ in range(turns.LEAST + 2):
                turns.follow(Follower())
            assert done == ["woken"]
            raise ValueError("by the step")

    with pytest.raises(ValueError, match="by the step"):
        work()
    assert done == ["woken", *["called"] * turns.LEAST, "woken", "woken"]
