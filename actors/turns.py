"""How those who have much to do leave room for the others.

Trio gives every task that is ready its turn before it looks at sockets and deadlines again. When an hour ends for a
thousand feeds at once, or after a moment in which the machine was busy elsewhere, one such pass would take a fifth of a
second, and whoever answers a client waits for its end. So who takes what an exchange sent first asks whether this pass
has room for more. Where nothing bounds passes (a replay, whose order must depend on nothing but the recording), it has.

And where little is to be done, it need not be spread: waking a task takes a pass of its own, which costs more than most
of what is done in one. Who is given something within a `step` is called at its end instead.
"""

from collections import deque
from time import perf_counter
from typing import Protocol

import trio
from trio.lowlevel import RunVar

SLICE = 0.02  # seconds of one pass in which work is begun
LEAST = 20  # pieces of it that are begun all the same: of those seconds other programs may have taken most
PAGE = 10  # pieces that reading a thousand rows counts as
PASSES = 100  # that one waits for room at most


class Passes(trio.abc.Instrument):
    """When the present pass began, and how much work was begun in it.

    Who finds no room asks again in the next pass, and only so many do as will find some: a thousand that ask would be a
    long pass by themselves. The others wait in a line behind them.
    """

    def __init__(self) -> None:
        self.since, self.begun = perf_counter(), 0
        self._asking = 0
        self._line = trio.lowlevel.ParkingLot()

    def after_io_wait(self, timeout: float) -> None:
        self.since, self.begun = perf_counter(), 0

    @property
    def have_room(self) -> bool:
        return self.begun < LEAST or perf_counter() - self.since < SLICE

    async def wait(self) -> None:
        """Until there is room, or for PASSES passes at the head of the line."""
        if self._asking >= LEAST:
            await self._line.park()
        self._asking += 1
        try:
            for _ in range(PASSES):
                await trio.lowlevel.checkpoint()
                if self.have_room:
                    break
        finally:
            self._asking -= 1
            self._line.unpark()


class Follower(Protocol):
    """Who has something to do."""

    def call(self) -> None:
        """Do it here and now. Must not raise."""

    def wake(self) -> None:
        """Have it done by a task, when its turn comes."""


class Step:
    """Plain work of one task, and what follows from it: as long as this pass has room, in the same turn."""

    def __init__(self) -> None:
        self.is_on = False
        self.followers: deque[Follower] = deque()

    def __enter__(self) -> None:
        assert not self.is_on
        self.is_on = True

    def __exit__(self, *_: object) -> None:
        passes = _passes.get()
        followers = self.followers
        try:
            while followers:
                follower = followers.popleft()
                if passes is None or passes.have_room:
                    follower.call()
                else:
                    follower.wake()
                if passes is not None:
                    passes.begun += 1
        finally:
            self.is_on = False
            while followers:
                followers.popleft().wake()


_passes: RunVar[Passes | None] = RunVar("passes", None)
_step: RunVar[Step | None] = RunVar("step", None)


def bound() -> None:
    """Passes of this run of Trio are bounded from now on."""
    passes = Passes()
    trio.lowlevel.add_instrument(passes)
    _passes.set(passes)


async def room(pieces: int = 1) -> None:
    """Return in a pass that has room for more work: mostly at once, without a checkpoint.

    `pieces`: what is to be done is that many times what a frame takes, some 0.1 ms.
    """
    passes = _passes.get()
    if passes is None:
        return
    if not passes.have_room:
        await passes.wait()
    passes.begun += pieces


def step() -> Step:
    """For a `with` block without awaits, which is in no other one."""
    found = _step.get()
    if found is None:
        found = Step()
        _step.set(found)
    return found


def follow(follower: Follower) -> None:
    """Have something done: at the end of the present step, else when a task's turn comes."""
    found = _step.get()
    if found is not None and found.is_on:
        found.followers.append(follower)
    else:
        follower.wake()
