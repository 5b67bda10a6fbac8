"""An inbox: all in order and once, by the owner's task or in its place; faults are the owner's and nobody else's."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from actors import turns
from actors.inbox import Inbox
from tests.patience import WITHIN

OWN = 1000  # added to what an owner tells itself


class Owner:
    """Takes up to `burst` numbers at a time; what it says into another's inbox follows from them."""

    def __init__(self, inbox: Inbox[int], other: Inbox[int] | None = None, burst: int = 3) -> None:
        self.inbox, self.other, self.burst = inbox, other, burst
        self.taken: list[int] = []
        self.turns = 0  # of its task
        self.is_taking = False

    def take(self) -> bool:
        assert not self.is_taking
        self.is_taking = True
        for _ in range(min(self.burst, self.inbox.given - self.inbox.taken)):
            item = self.inbox.take()
            self.taken.append(item)
            if item < 0:
                self.is_taking = False
                raise ValueError(item)
            if self.other is not None:
                self.other.put(item)
            if item % 10 == 9 and item < OWN:  # while it takes
                self.inbox.put(OWN + item)
        self.is_taking = False
        return not self.taken or self.taken[-1] % 4 != 0

    async def run(self) -> None:
        while True:
            await self.inbox.wait(self.take)
            self.turns += 1
            self.take()


async def test_what_comes_in_a_step_takes_no_turn_of_the_task(nursery: trio.Nursery) -> None:
    owner = Owner(Inbox[int](10))
    nursery.start_soon(owner.run)
    await wait_all_tasks_blocked()
    with turns.step():
        owner.inbox.put(1)
        owner.inbox.put(2)
        assert owner.taken == []
    assert owner.taken == [1, 2]
    owner.inbox.put(3)
    assert owner.taken == [1, 2]
    await wait_all_tasks_blocked()
    assert (owner.taken, owner.turns) == ([1, 2, 3], 1)
    with turns.step():
        for number in (5, 6, 7, 11):
            owner.inbox.put(number)
    assert owner.taken == [1, 2, 3, 5, 6, 7], "the rest is for another turn"
    await wait_all_tasks_blocked()
    assert (owner.taken, owner.turns) == ([1, 2, 3, 5, 6, 7, 11], 2)
    with turns.step():
        owner.inbox.put(8)  # which it says will not do
    await wait_all_tasks_blocked()
    assert (owner.taken[-1], owner.turns) == (8, 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=6), max_size=12), st.integers(1, 5))
def test_the_same_is_taken_in_the_same_order_as_by_tasks_alone(
    groups: list[list[tuple[int, bool]]], burst: int
) -> None:
    """Two that say on all that they take; the slow twin knows no steps."""

    async def run(is_slow: bool) -> list[list[int]]:
        last = Owner(Inbox[int](1000), burst=burst)
        first, second = (Owner(Inbox[int](1000), last.inbox, burst) for _ in range(2))
        async with trio.open_nursery() as nursery:
            for owner in (first, second, last):
                nursery.start_soon(owner.run)
            for number, group in enumerate(groups):
                if number % 3:
                    await wait_all_tasks_blocked()
                with nullcontext() if is_slow else turns.step():
                    for item, is_first in group:
                        (first if is_first else second).inbox.put(item)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        ordered = [[item for item in owner.taken if item < OWN] for owner in (first, second)]
        return [*ordered, *(sorted(owner.taken) for owner in (first, second, last))]

    assert trio.run(run, False) == trio.run(run, True)


@pytest.mark.parametrize("context", [turns.step, nullcontext], ids=["in its place", "by its task"])
async def test_a_fault_ends_its_owner_and_nothing_else(
    nursery: trio.Nursery, context: Callable[[], turns.Step | nullcontext[None]]
) -> None:
    faulty, other = Owner(Inbox[int](10)), Owner(Inbox[int](10))
    faults: list[str] = []

    async def supervised() -> None:
        while True:
            try:
                await faulty.run()
            except ValueError as error:
                faults.append(str(error))
                faulty.is_taking = False

    nursery.start_soon(supervised)
    nursery.start_soon(other.run)
    await wait_all_tasks_blocked()
    with context():
        faulty.inbox.put(1)
        faulty.inbox.put(-2)
        faulty.inbox.put(3)
        other.inbox.put(5)
    await wait_all_tasks_blocked()
    assert faults == ["-2"]
    assert (faulty.taken, other.taken) == ([1, -2, 3], [5])
    with context():
        faulty.inbox.put(7)
    await wait_all_tasks_blocked()
    assert faulty.taken[-1] == 7


async def test_who_does_not_wait_or_was_cancelled_is_not_stood_in_for() -> None:
    owner = Owner(Inbox[int](10))
    with turns.step():
        owner.inbox.put(1)
    assert owner.taken == []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(owner.run)
        await wait_all_tasks_blocked()
        assert owner.taken == [1]
        nursery.cancel_scope.cancel()
        with turns.step():
            owner.inbox.put(2)
    assert owner.taken == [1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(owner.run)  # another run takes what the first one left
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert owner.taken == [1, 2]


async def test_an_owner_that_cancels_itself_while_it_is_stood_in_for_ends() -> None:
    inbox = Inbox[int](10)
    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:

            def take() -> bool:
                inbox.take()
                nursery.cancel_scope.cancel()
                return True

            async def run() -> None:
                while True:
                    await inbox.wait(take)

            nursery.start_soon(run)
            await wait_all_tasks_blocked()
            with turns.step():
                inbox.put(1)
    assert nursery.cancel_scope.cancelled_caught


async def test_an_error_is_the_owners_even_where_it_has_ended_the_inbox_itself() -> None:
    inbox = Inbox[int](10)

    def take() -> bool:
        inbox.close()
        raise ValueError("after its end")

    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_told_of_its_end, inbox, take)
            await wait_all_tasks_blocked()
            with turns.step():
                inbox.put(1)


async def _told_of_its_end(inbox: Inbox[int], take: Callable[[], bool]) -> None:
    with pytest.raises(ValueError, match="after its end"):
        await inbox.wait(take)


@pytest.mark.parametrize("ends_in_step", [True, False])
async def test_the_end_and_the_closing_are_told(ends_in_step: bool) -> None:
    for close, kind in ((Inbox[int].end, trio.EndOfChannel), (Inbox[int].close, trio.ClosedResourceError)):
        owner = Owner(Inbox[int](10))
        told: list[type[BaseException]] = []

        async def run(owner: Owner = owner, told: list[type[BaseException]] = told) -> None:
            try:
                await owner.run()
            except (trio.EndOfChannel, trio.ClosedResourceError) as error:
                told.append(type(error))

        with trio.fail_after(WITHIN):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await wait_all_tasks_blocked()
                with turns.step() if ends_in_step else nullcontext():
                    owner.inbox.put(1)
                    close(owner.inbox)
        assert told == [kind]
        assert owner.taken == ([1] if kind is trio.EndOfChannel else [])


async def test_there_is_no_more_than_was_agreed(nursery: trio.Nursery) -> None:
    owner = Owner(Inbox[int](2))
    nursery.start_soon(owner.run)
    await wait_all_tasks_blocked()
    with turns.step():
        owner.inbox.put(1)
        owner.inbox.put(2)
        with pytest.raises(trio.WouldBlock):
            owner.inbox.put(3)
    assert owner.taken == [1, 2]
