"""The garbage collector: what survived is left alone, and what of it became garbage is found later all the same."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from daemon import garbage


class Ring:
    """Refers to itself: only the collector frees it."""

    def __init__(self) -> None:
        self.ring = self


@pytest.fixture
def now() -> Iterator[list[float]]:
    """The collector's clock, while it leaves survivors alone."""
    clock = [0.0]
    with garbage.left_alone(lambda: clock[0]):
        yield clock
    assert gc.get_freeze_count() == 0


def test_survivors_are_left_alone(now: list[float]) -> None:
    ring = Ring()
    assert any(kept is ring for kept in gc.get_objects())
    gc.collect()
    assert not any(kept is ring for kept in gc.get_objects())


def test_young_garbage_is_freed_as_ever(now: list[float]) -> None:
    gone = weakref.ref(Ring())
    gc.collect()
    assert gone() is None


def test_survivors_that_become_garbage_are_found_once_there_are_many_more(now: list[float]) -> None:
    ring = Ring()
    gone = weakref.ref(ring)
    gc.collect()
    del ring
    more = [[index] for index in range(round(gc.get_freeze_count() * garbage.GROWTH) + garbage.MARGIN)]
    gc.collect()
    gc.collect()
    assert gone() is not None  # not so soon
    now[0] += garbage.AGAIN_AFTER
    gc.collect()
    assert gone() is None
    del more


def test_few_more_survivors_are_not_worth_a_look(now: list[float]) -> None:
    ring = Ring()
    gone = weakref.ref(ring)
    gc.collect()
    del ring
    now[0] += garbage.AGAIN_AFTER
    gc.collect()
    assert gone() is not None


def test_no_look_at_everything_is_long(now: list[float]) -> None:
    """Of many new objects that stay each look sees a part, and none of them twice."""
    looked_at: list[int] = []

    def count(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            looked_at.append(len(gc.get_objects()))

    gc.collect()
    gc.callbacks.insert(0, count)
    try:
        young, middle, _ = gc.get_threshold()  # Python 3.13 has others than 3.11
        kept = [[index] for index in range(4 * young * (middle + 1) * (garbage.OFTEN + 1))]
    finally:
        gc.callbacks.remove(count)
    assert len(looked_at) >= 2
    assert max(looked_at) <= young * (middle + 1) * (garbage.OFTEN + 2)
    assert sum(looked_at) <= 1.2 * len(kept)
