"""Python's garbage collector, kept from stopping a daemon that holds a whole market.

A full collection looks at every object that could be part of a cycle: hundreds of thousands for a thousand feeds, a
third of a second in which nobody gets a turn. Nearly all of them are there to stay. So what survived one full
collection is left out of those that follow, and looked at once more when there is a quarter more of it: what was let go
meanwhile and refers to itself waits until then. All else is freed at once, as ever.

What was looked at once is not looked at again, so many small looks cost no more than few long ones: they come after
every third collection of the middle generation instead of every tenth.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

AGAIN_AFTER = 600.0  # seconds, at least, between two looks at everything
OFTEN = 3  # collections of the middle generation to one of everything
GROWTH, MARGIN = 1.25, 20_000  # of what is left out, since the last one


class Survivors:
    """What the collector calls before and after it runs."""

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._looked_at = timer()
        self._limit = 0  # of what is left out; beyond it everything is looked at

    def __call__(self, phase: Literal["start", "stop"], info: dict[str, int]) -> None:
        if info["generation"] < 2:
            return
        if phase == "stop":
            gc.freeze()
            if not self._limit:
                self._limit = MARGIN + round(GROWTH * gc.get_freeze_count())
        elif self._timer() - self._looked_at >= AGAIN_AFTER:  # to count them takes a while, too
            self._looked_at = self._timer()
            if gc.get_freeze_count() > self._limit:
                gc.unfreeze()
                self._limit = 0


@contextmanager
def left_alone(timer: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Within, survivors of a full collection are left out of the next ones; those of now at once."""
    survivors, thresholds = Survivors(timer), gc.get_threshold()
    gc.callbacks.append(survivors)
    gc.set_threshold(*thresholds[:2], OFTEN)
    gc.collect()
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(survivors)
        gc.unfreeze()
