"""When lines may connect."""

from itertools import pairwise
from typing import Any, cast

import trio
import trio.testing
from trio.testing import MockClock

from actors.exchanges.binance import EXCHANGE
from actors.lines.pool import Lines


async def test_attempts_that_are_due_at_once_are_spaced_all_the_same(mock_clock: MockClock) -> None:
    """The machine stood still, and several had waited for longer than they should."""
    nothing = cast(Any, None)
    lines = Lines(EXCHANGE, "", None, {}, nothing, nothing, nothing, nothing)
    begun: list[float] = []

    async def connect() -> None:
        await lines._ready_to_connect()
        begun.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(connect)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(10 * EXCHANGE.limits.connect_spacing)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.autojump_threshold = 0
    spaces = [later - earlier for earlier, later in pairwise(begun)]
    assert min(spaces) >= EXCHANGE.limits.connect_spacing
