"""How those who have much to do leave room for the others.

Trio gives every task that is ready its turn before it looks at sockets and deadlines again. When an hour ends for a
thousand feeds at once, or after a moment in which the machine was busy elsewhere, one such pass would take a fifth of a
second, and whoever answers a client waits for its end. So who takes what an exchange sent first asks whether this pass
has room for more. Where nothing bounds passes (a replay, whose order must depend on nothing but the recording), it has.
"""

from time import perf_counter

import trio
from trio.lowlevel import RunVar

SLICE = 0.02  # seconds of one pass in which work is begun
LEAST = 20  # pieces of it that are begun all the same: of those seconds other programs may have taken most
PASSES = 100  # that one waits for room at most


class Passes(trio.abc.Instrument):
    """When the present pass began, and how much work was begun in it."""

    def __init__(self) -> None:
        self.since, self.begun = perf_counter(), 0

    def after_io_wait(self, timeout: float) -> None:
        self.since, self.begun = perf_counter(), 0


_passes: RunVar[Passes | None] = RunVar("passes", None)


def bound() -> None:
    """Passes of this run of Trio are bounded from now on."""
    passes = Passes()
    trio.lowlevel.add_instrument(passes)
    _passes.set(passes)


async def room() -> None:
    """Return in a pass that has room for more work: mostly at once, without a checkpoint."""
    passes = _passes.get()
    if passes is None:
        return
    for _ in range(PASSES):
        if passes.begun < LEAST or perf_counter() - passes.since < SLICE:
            break
        await trio.lowlevel.checkpoint()
    passes.begun += 1
