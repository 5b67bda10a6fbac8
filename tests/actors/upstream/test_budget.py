"""The request budget on a virtual clock. Windows and waits are powers of two, so that times are exact."""

from collections.abc import Sequence

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.errors import UpstreamLimited
from actors.upstream.budget import BACKGROUND_SHARE, INTERACTIVE_SHARE, PATIENCE, Bucket, Budget, Window

LIMIT, SECONDS = 100, 64.0
BACKGROUND, INTERACTIVE = round(LIMIT * BACKGROUND_SHARE), round(LIMIT * INTERACTIVE_SHARE)


@pytest.fixture
def budget() -> Budget:
    return Budget({"weight": Window(LIMIT, SECONDS), "other": Window(10, SECONDS)})


async def spend(budget: Budget, weight: int, *, background: bool = False, bucket: str = "weight") -> float:
    """The seconds that the caller waited."""
    before = trio.current_time()
    await budget.spend(bucket, weight, background=background)
    return trio.current_time() - before


async def test_a_window_slides(autojump_clock: MockClock) -> None:
    bucket = Bucket(Window(LIMIT, SECONDS))
    for _ in range(4):
        bucket.spend(10)
        await trio.sleep(16)
    assert bucket.used() == 30  # the first is exactly one window old
    await trio.sleep(15)
    assert bucket.used() == 30
    await trio.sleep(1)
    assert bucket.used() == 20
    await trio.sleep(SECONDS)
    assert bucket.used() == 0


async def test_room_comes_back_one_spending_at_a_time(autojump_clock: MockClock) -> None:
    bucket = Bucket(Window(LIMIT, SECONDS))
    for _ in range(4):
        bucket.spend(25)
        await trio.sleep(8)
    assert bucket.wait_for(1, 1.0) == 32
    assert bucket.wait_for(25, 1.0) == 32
    assert bucket.wait_for(26, 1.0) == 40
    assert bucket.wait_for(100, 1.0) == 56
    assert bucket.wait_for(0, 1.0) == 0


async def test_a_weight_above_the_limit_waits_for_an_empty_window_and_not_for_ever(autojump_clock: MockClock) -> None:
    bucket = Bucket(Window(LIMIT, SECONDS))
    assert bucket.wait_for(LIMIT + 1, 1.0) == 0
    bucket.spend(1)
    assert 0 < bucket.wait_for(LIMIT + 1, 1.0) <= SECONDS


async def test_background_work_leaves_room_for_people(budget: Budget, autojump_clock: MockClock) -> None:
    assert await spend(budget, BACKGROUND, background=True) == 0
    assert await spend(budget, INTERACTIVE - BACKGROUND) == 0
    with pytest.raises(UpstreamLimited) as refused:
        await spend(budget, 1)
    assert refused.value.retry_after == SECONDS
    assert await spend(budget, 1, background=True) == SECONDS
    assert budget.buckets["other"].used() == 0


async def test_a_person_waits_a_little_but_not_long(budget: Budget, autojump_clock: MockClock) -> None:
    await spend(budget, INTERACTIVE)
    await trio.sleep(SECONDS - PATIENCE - 1)
    with pytest.raises(UpstreamLimited) as refused:
        await spend(budget, 1)
    assert refused.value.retry_after == PATIENCE + 1
    await trio.sleep(1)
    assert await spend(budget, 1) == PATIENCE
    assert budget.buckets["weight"].used() == 1


async def test_background_work_waits_in_line(budget: Budget, autojump_clock: MockClock) -> None:
    """A small request may not overtake a big one: the big one would never find room."""
    served: list[tuple[int, float]] = []

    async def work(weight: int) -> None:
        await budget.spend("weight", weight, background=True)
        served.append((weight, trio.current_time() - start))

    start = trio.current_time()
    await spend(budget, BACKGROUND // 2)
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            for weight in (BACKGROUND, 1, 2, 3):
                nursery.start_soon(work, weight)
                await wait_all_tasks_blocked()
    assert served == [(BACKGROUND, SECONDS), (1, 2 * SECONDS), (2, 2 * SECONDS), (3, 2 * SECONDS)]


async def test_people_do_not_stand_in_the_background_s_line(budget: Budget, autojump_clock: MockClock) -> None:
    await spend(budget, BACKGROUND, background=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spend_in_background, budget)
        await wait_all_tasks_blocked()
        assert await spend(budget, 5) == 0
        nursery.cancel_scope.cancel()
    assert budget.buckets["weight"].used() == BACKGROUND + 5  # who gave up waiting has spent nothing


async def spend_in_background(budget: Budget) -> None:
    await budget.spend("weight", 1, background=True)


async def test_the_gate_refuses_people_and_holds_background_work(budget: Budget, autojump_clock: MockClock) -> None:
    assert budget.closed_for() == 0
    budget.close(16, "the exchange answered 429")
    for bucket in ("weight", "other"):
        with pytest.raises(UpstreamLimited, match="answered 429") as refused:
            await spend(budget, 1, bucket=bucket)
        assert refused.value.retry_after == 16
    assert await spend(budget, 1, background=True) == 16
    assert budget.closed_for() == 0
    assert await spend(budget, 1) == 0


async def test_a_longer_closure_stays_in_force(budget: Budget, autojump_clock: MockClock) -> None:
    budget.close(120, "banned")
    budget.close(16, "too many requests")
    assert budget.closed_for() == 120
    with pytest.raises(UpstreamLimited, match="banned"):
        await spend(budget, 1)
    budget.close(240, "banned again")
    assert budget.closed_for() == 240
    await trio.sleep(240)
    assert await spend(budget, 1) == 0


async def test_a_closure_that_is_made_longer_holds_who_waits_already(budget: Budget, autojump_clock: MockClock) -> None:
    waited: list[float] = []

    async def work() -> None:
        waited.append(await spend(budget, 1, background=True))

    budget.close(16, "too many requests")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        await trio.sleep(8)
        budget.close(32, "still too many")
    assert waited == [40]


async def test_a_person_who_waits_for_room_is_refused_when_the_gate_closes(
    budget: Budget, autojump_clock: MockClock
) -> None:
    """No request leaves while the gate is closed, however it came to wait."""
    await spend(budget, INTERACTIVE)
    await trio.sleep(SECONDS - 2)

    async def close() -> None:
        await trio.sleep(1)
        budget.close(120, "banned")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close)
        with pytest.raises(UpstreamLimited, match="banned"):
            await spend(budget, 1)


async def test_the_exchange_s_own_count_is_believed_where_it_is_higher(
    budget: Budget, autojump_clock: MockClock
) -> None:
    await spend(budget, 10)
    budget.observe("weight", 5)
    assert budget.buckets["weight"].used() == 10
    budget.observe("weight", 90)
    assert budget.buckets["weight"].used() == 90
    budget.observe("weight", 90)
    assert budget.buckets["weight"].used() == 90
    with pytest.raises(UpstreamLimited):
        await spend(budget, 10)
    assert budget.buckets["other"].used() == 0
    await trio.sleep(SECONDS)
    assert budget.buckets["weight"].used() == 0


async def test_an_absurd_count_closes_no_longer_than_a_window(budget: Budget, autojump_clock: MockClock) -> None:
    budget.observe("weight", 999_999_999)
    assert await spend(budget, 1, background=True) == SECONDS


QUARTER = st.integers(0, 64).map(lambda quarters: quarters / 4)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.tuples(QUARTER, st.integers(1, 40), st.booleans()), max_size=40))
def test_no_window_ever_holds_more_than_its_limit(asked: Sequence[tuple[float, int, bool]]) -> None:
    """Whoever asks for how much and when: a background share for the background, nearly all of it for all."""
    spent: list[tuple[float, int, bool]] = []

    async def ask(budget: Budget, weight: int, background: bool) -> None:
        try:
            await budget.spend("weight", weight, background=background)
        except UpstreamLimited as refused:
            waits.append(refused.retry_after or 0.0)
        else:
            spent.append((trio.current_time(), weight, background))

    async def main() -> None:
        budget = Budget({"weight": Window(LIMIT, SECONDS)})
        async with trio.open_nursery() as nursery:
            for pause, weight, background in asked:
                await trio.sleep(pause)
                nursery.start_soon(ask, budget, weight, background)

    waits: list[float] = []
    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert len(spent) + len(waits) == len(asked)
    assert all(PATIENCE < wait <= SECONDS for wait in waits)
    for end, _, _ in spent:
        window = [(weight, background) for at, weight, background in spent if end - SECONDS < at <= end]
        assert sum(weight for weight, _ in window) <= INTERACTIVE
        assert sum(weight for weight, background in window if background) <= BACKGROUND
