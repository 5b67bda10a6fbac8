"""The request budget on a virtual clock. Windows and waits are powers of two, so that times are exact."""

from collections.abc import Sequence
from math import inf

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.errors import MarketError, RateLimited, UpstreamError, UpstreamGeoBlocked, UpstreamLimited, UpstreamTimeout
from actors.upstream.bucket import PARTS, PLANNED, Bucket, Caller, Window
from actors.upstream.budget import PATIENCE, SLOT_PATIENCE, SLOTS, Budget
from actors.upstream.caller import CLIENT, URGENCY, Client

LIMIT, SECONDS = 100, 64.0
REPAIRS, CLIENTS, BACKGROUND = 70, 60, 55  # what each may spend where nobody else does
REPAIR_PART = 25


@pytest.fixture
def budget() -> Budget:
    return Budget({"weight": Window(LIMIT, SECONDS), "other": Window(10, SECONDS)})


async def spend(budget: Budget, weight: int, caller: Caller = "client", bucket: str = "weight") -> float:
    """The seconds that the caller waited."""
    before = trio.current_time()
    async with budget.turn(bucket, weight, caller):
        return trio.current_time() - before


def limited(text: str) -> MarketError:
    return UpstreamLimited(text)


async def test_a_window_slides(autojump_clock: MockClock) -> None:
    bucket = Bucket(Window(LIMIT, SECONDS))
    for _ in range(4):
        bucket.spend(10, "client")
        await trio.sleep(16)
    assert bucket.used() == 30  # the first is exactly one window old
    await trio.sleep(15)
    assert bucket.used() == 30
    await trio.sleep(1)
    assert bucket.used() == 20
    await trio.sleep(SECONDS)
    assert (bucket.used(), bucket.used_by("client"), bucket.spent_total["client"]) == (0, 0, 40)


async def test_room_comes_back_one_spending_at_a_time(autojump_clock: MockClock) -> None:
    bucket = Bucket(Window(LIMIT, SECONDS))
    for _ in range(4):
        bucket.spend(15, "client")
        await trio.sleep(8)
    assert [bucket.wait_for(weight, "client") for weight in (0, 1, 15, 16, 60)] == [0, 32, 32, 40, 56]


async def test_a_weight_above_the_limit_waits_for_an_empty_window_and_not_for_ever(autojump_clock: MockClock) -> None:
    bucket = Bucket(Window(LIMIT, SECONDS))
    assert bucket.wait_for(LIMIT + 1, "repair") == 0
    bucket.spend(1, "client")
    assert 0 < bucket.wait_for(LIMIT + 1, "repair") <= SECONDS


@pytest.mark.parametrize(("caller", "most"), [("repair", REPAIRS), ("client", CLIENTS), ("background", BACKGROUND)])
async def test_each_kind_leaves_the_others_their_parts(
    budget: Budget, autojump_clock: MockClock, caller: Caller, most: int
) -> None:
    bucket = budget.buckets["weight"]
    assert await spend(budget, most, caller) == 0
    assert bucket.wait_for(1, caller) == SECONDS
    for other, part in PARTS.items():
        if other != caller:
            assert await spend(budget, int(part * LIMIT), other) == 0
    assert bucket.used() == PLANNED * LIMIT
    [report, _] = budget.report().buckets
    assert report.by == {name: int(part * LIMIT) for name, part in PARTS.items()} | {caller: most}
    assert budget.buckets["other"].used() == 0


async def test_a_client_waits_a_little_but_not_long(budget: Budget, autojump_clock: MockClock) -> None:
    await spend(budget, CLIENTS)
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
        await spend(budget, weight, "background")
        served.append((weight, trio.current_time() - start))

    start = trio.current_time()
    await spend(budget, 30, "background")
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            for weight in (BACKGROUND, 1, 2, 3):
                nursery.start_soon(work, weight)
                await wait_all_tasks_blocked()
    assert served == [(BACKGROUND, SECONDS), (1, 2 * SECONDS), (2, 2 * SECONDS), (3, 2 * SECONDS)]


async def test_who_gives_up_waiting_spends_nothing_and_holds_up_nobody(
    budget: Budget, autojump_clock: MockClock
) -> None:
    await spend(budget, BACKGROUND, "background")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spend, budget, BACKGROUND, "background")
        await wait_all_tasks_blocked()
        assert budget.report().waiting == 1
        assert await spend(budget, 5) == 0
        nursery.cancel_scope.cancel()
    assert budget.buckets["weight"].used() == BACKGROUND + 5
    assert budget.report().waiting == 0
    assert await spend(budget, 1, "background") == SECONDS


async def test_the_most_urgent_repair_is_next(budget: Budget, autojump_clock: MockClock) -> None:
    served: list[float] = []

    async def repair(urgency: float) -> None:
        URGENCY.set(urgency)
        await spend(budget, REPAIRS, "repair")
        served.append(urgency)

    await spend(budget, REPAIRS, "repair")
    async with trio.open_nursery() as nursery:
        for urgency in (1.0, 9.0, 0.0, 5.0):
            nursery.start_soon(repair, urgency)
            await wait_all_tasks_blocked()
    assert served == [9.0, 5.0, 1.0, 0.0]


async def test_a_cheap_repair_goes_before_dear_ones_unless_these_are_as_much_more_urgent(
    budget: Budget, autojump_clock: MockClock
) -> None:
    """After a reconnect missed bars, of weight 1, are not given up for the sake of missed trades, of 20."""
    served: list[tuple[float, int]] = []

    async def repair(urgency: float, weight: int) -> None:
        URGENCY.set(urgency)
        await spend(budget, weight, "repair")
        served.append((urgency, weight))

    await spend(budget, REPAIRS, "repair")
    async with trio.open_nursery() as nursery:
        for urgency, weight in ((9.0, 20), (1.0, 1), (30.0, 20), (0.5, 1), (inf, 10)):
            nursery.start_soon(repair, urgency, weight)
            await wait_all_tasks_blocked()
    assert served == [(inf, 10), (30.0, 20), (1.0, 1), (0.5, 1), (9.0, 20)]


async def test_a_repair_waits_until_its_own_deadline(budget: Budget, autojump_clock: MockClock) -> None:
    await spend(budget, REPAIRS, "repair")
    with trio.move_on_after(SECONDS / 2) as given_up:
        await spend(budget, 1, "repair")
    assert given_up.cancelled_caught
    with trio.move_on_after(SECONDS) as given_up:
        assert await spend(budget, 1, "repair") == SECONDS / 2
    budget.close(16, limited("banned"))
    with trio.move_on_after(8), pytest.raises(UpstreamLimited, match="banned"):  # at once: it cannot wait so long
        assert await spend(budget, 1, "repair") == 0
    with trio.fail_after(32):
        assert await spend(budget, 1, "repair") == 16


async def test_a_reconnect_of_three_hundred_symbols_leaves_room_for_clients_and_polls(
    autojump_clock: MockClock,
) -> None:
    budget = Budget({"weight": Window(2400, 60.0)})
    repaired: list[float] = []

    async def repair(urgency: float) -> None:
        URGENCY.set(urgency)
        with trio.move_on_after(10):
            async with budget.turn("weight", 20, "repair"):
                await trio.sleep(0.1)
                repaired.append(urgency)

    async with trio.open_nursery() as nursery:
        for symbol in range(300):
            nursery.start_soon(repair, float(symbol))
        for _ in range(20):
            await trio.sleep(0.5)
            assert await spend(budget, 1) == 0
            assert await spend(budget, 1, "background") == 0
    assert len(repaired) == 84  # 70 % of the limit, by 20


# --- fairness ---


def as_client(name: str, *, exempt: bool = False) -> None:
    CLIENT.set(Client(name, exempt))


async def test_one_client_cannot_spend_what_others_may(budget: Budget, autojump_clock: MockClock) -> None:
    as_client("greedy")
    for _ in range(3):
        await spend(budget, 10)
    with pytest.raises(RateLimited) as refused:
        await spend(budget, 10)
    assert (refused.value.limit, refused.value.retry_after) == ("upstream_share", SECONDS)
    as_client("other")
    assert await spend(budget, 30) == 0
    as_client("greedy")
    await trio.sleep(SECONDS)
    assert await spend(budget, 10) == 0


async def test_a_burst_of_one_client_is_held_to_its_share(budget: Budget, autojump_clock: MockClock) -> None:
    outcomes: list[str] = []

    async def ask() -> None:
        as_client("greedy")
        try:
            async with budget.turn("weight", 5, "client"):
                await trio.sleep(1)
            outcomes.append("served")
        except RateLimited:
            outcomes.append("limited")

    async with trio.open_nursery() as nursery:
        for _ in range(40):
            nursery.start_soon(ask)
    assert (outcomes.count("served"), outcomes.count("limited")) == (6, 34)


async def test_an_exempt_client_is_held_to_no_share(budget: Budget, autojump_clock: MockClock) -> None:
    as_client("operator", exempt=True)
    assert await spend(budget, CLIENTS) == 0
    budget.upstream_share = 0
    as_client("greedy")
    await trio.sleep(SECONDS)
    assert await spend(budget, CLIENTS) == 0


async def test_a_client_s_own_share_goes_before_everybody_s(budget: Budget, autojump_clock: MockClock) -> None:
    CLIENT.set(Client("small", exempt=False, upstream_share=0.1))
    assert await spend(budget, 5) == 0
    with pytest.raises(RateLimited):
        await spend(budget, 5)
    CLIENT.set(Client("whole", exempt=False, upstream_share=0.0))
    assert await spend(budget, CLIENTS - 5) == 0


async def test_the_client_that_used_least_is_served_first(budget: Budget, autojump_clock: MockClock) -> None:
    budget.upstream_share = 0
    served: list[str] = []

    async def ask(name: str) -> None:
        as_client(name)
        await spend(budget, 10)
        served.append(name)

    as_client("other")
    await spend(budget, CLIENTS)
    await trio.sleep(SECONDS - 2)
    async with trio.open_nursery() as nursery:
        for name in ("greedy", "greedy", "greedy", "modest"):
            nursery.start_soon(ask, name)
            await wait_all_tasks_blocked()
    assert served == ["greedy", "modest", "greedy", "greedy"]


# --- slots ---


async def test_slots_are_of_each_kind_and_who_waits_for_room_holds_none(
    budget: Budget, autojump_clock: MockClock
) -> None:
    async def hang(caller: Caller) -> None:
        async with budget.turn("weight", 1, caller):
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for _ in range(SLOTS["client"]):
            nursery.start_soon(hang, "client")
        for _ in range(100):  # more than there is room for, in a bucket of their own
            nursery.start_soon(spend, budget, 1, "background", "other")
        await wait_all_tasks_blocked()
        assert await spend(budget, 1, "repair") == 0
        assert await spend(budget, 1, "background") == 0
        before = trio.current_time()
        with pytest.raises(UpstreamTimeout):
            await spend(budget, 1)
        assert trio.current_time() - before == SLOT_PATIENCE
        nursery.cancel_scope.cancel()
    assert await spend(budget, 1) == 0  # who was cancelled gave its slot back


# --- the gate ---


@pytest.mark.parametrize("kind", [UpstreamLimited, UpstreamGeoBlocked, UpstreamError])
async def test_a_pause_is_told_in_the_words_that_began_it(
    budget: Budget, autojump_clock: MockClock, kind: type[MarketError]
) -> None:
    assert budget.closed_for() == 0
    budget.close(16, kind("the exchange answered so"))
    for bucket in ("weight", "other"):
        with pytest.raises(MarketError, match="answered so") as refused:
            await spend(budget, 1, bucket=bucket)
        assert type(refused.value) is kind
        assert refused.value.retry_after == 16
    assert budget.report().closed_reason == "the exchange answered so"
    assert await spend(budget, 1, "background") == 16
    assert budget.closed_for() == 0
    assert await spend(budget, 1) == 0


async def test_a_longer_closure_stays_in_force(budget: Budget, autojump_clock: MockClock) -> None:
    budget.close(120, limited("banned"))
    budget.close(16, limited("too many requests"))
    assert budget.closed_for() == 120
    with pytest.raises(UpstreamLimited, match="banned"):
        await spend(budget, 1)
    budget.close(240, limited("banned again"))
    assert budget.closed_for() == 240
    await trio.sleep(240)
    assert await spend(budget, 1) == 0


async def test_a_closure_that_is_made_longer_holds_who_waits_already(budget: Budget, autojump_clock: MockClock) -> None:
    waited: list[float] = []

    async def work() -> None:
        waited.append(await spend(budget, 1, "background"))

    budget.close(16, limited("too many requests"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        await trio.sleep(8)
        budget.close(32, limited("still too many"))
    assert waited == [40]


async def test_a_person_who_waits_for_room_is_refused_when_the_gate_closes(
    budget: Budget, autojump_clock: MockClock
) -> None:
    """No request leaves while the gate is closed, however it came to wait."""
    await spend(budget, CLIENTS)
    await trio.sleep(SECONDS - 2)

    async def close() -> None:
        await trio.sleep(1)
        budget.close(120, limited("banned"))

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
    assert await spend(budget, 1, "background") == SECONDS


QUARTER = st.integers(0, 64).map(lambda quarters: quarters / 4)
ASKED = st.tuples(
    QUARTER,
    st.integers(1, 40),
    st.sampled_from(["client", "background", "repair"]),
    st.sampled_from("abc"),
    st.tuples(QUARTER, QUARTER),  # to the exchange and back
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(ASKED, max_size=40), st.booleans())
def test_the_repair_part_is_free_at_every_moment(
    asked: Sequence[tuple[float, int, Caller, str, tuple[float, float]]], exempt: bool
) -> None:
    """Whoever asks for how much and when, and however long it is under way: no window of the exchange, which counts
    arrivals, holds more than is planned, and repairs find their part."""
    spent: list[tuple[float, int, Caller]] = []
    refused: list[MarketError] = []

    async def ask(budget: Budget, weight: int, caller: Caller, client: str, way: tuple[float, float]) -> None:
        as_client(client, exempt=exempt)
        to, back = way
        try:
            with trio.move_on_after(2 * SECONDS) as waiting:
                async with budget.turn("weight", weight, caller):
                    waiting.deadline = inf
                    await trio.sleep(to)
                    spent.append((trio.current_time(), weight, caller))
                    await trio.sleep(back)
        except (UpstreamLimited, RateLimited) as error:
            refused.append(error)

    async def look(bucket: Bucket) -> None:
        while True:
            left = REPAIR_PART - bucket.used_by("repair")
            assert left <= 0 or bucket.wait_for(left, "repair") == 0
            await trio.sleep(0.25)

    async def main() -> None:
        budget = Budget({"weight": Window(LIMIT, SECONDS)})
        async with trio.open_nursery() as watching:
            watching.start_soon(look, budget.buckets["weight"])
            async with trio.open_nursery() as nursery:
                for pause, weight, caller, client, way in asked:
                    await trio.sleep(pause)
                    nursery.start_soon(ask, budget, weight, caller, client, way)
            watching.cancel_scope.cancel()
        assert budget.waiting == 0
        assert budget._free == SLOTS

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert all(0 < (error.retry_after or 0) <= SECONDS for error in refused)
    for end, _, _ in spent:
        window = [(weight, caller) for at, weight, caller in spent if end - SECONDS < at <= end]
        assert sum(weight for weight, _ in window) <= PLANNED * LIMIT
        assert sum(weight for weight, caller in window if caller != "repair") <= PLANNED * LIMIT - REPAIR_PART
        assert sum(weight for weight, caller in window if caller == "client") <= CLIENTS
        assert sum(weight for weight, caller in window if caller == "background") <= BACKGROUND


async def test_what_others_at_our_address_may_spend_is_not_ours(autojump_clock: MockClock) -> None:
    budget = Budget({"weight": Window(50, SECONDS)}, share=0.25)  # of 200, of which 150 are theirs
    await spend(budget, 10)
    budget.observe("weight", 160)
    assert budget.buckets["weight"].used() == 10
    budget.observe("weight", 170)
    assert budget.buckets["weight"].used() == 20
