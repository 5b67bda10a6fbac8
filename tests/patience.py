"""How long tests wait for what must happen: more than the busiest machine needs, as only one that fails waits so long.

Where a test is about a time, what it allows is far below this and the other outcome far above it, or it lives in
virtual time: nothing is measured.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio
import trio.abc
from trio.testing import MockClock

WITHIN = 30.0  # seconds
SETTLED = 0.005  # seconds, real ones, in which no socket of this process has anything to say

# Marks tests whose servers and clients are all in the test's own process, and no thread has a part: time passes when
# all of them wait for it, and not while the machine is busy.
virtual_time = pytest.mark.virtual_time


def run_in_virtual_time(
    main: Callable[..., Awaitable[Any]],
    *,
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> Any:
    return trio.run(main, clock=clock or MockClock(autojump_threshold=SETTLED), instruments=instruments)
