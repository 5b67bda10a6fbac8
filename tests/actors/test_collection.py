"""Open interest of many symbols is asked for evenly: one feed after the other, all together within their share."""

from itertools import pairwise
from typing import Any, cast

import pytest
import trio
import trio.testing

from actors import collection
from actors.collection import Collection
from actors.exchanges import binance
from actors.feeds.everything import Everything


@pytest.mark.parametrize(("feeds", "period"), [(1, collection.POLL_MIN), (50, collection.POLL_MIN), (400, 40.0)])
async def test_polls_are_spread(autojump_clock: trio.testing.MockClock, feeds: int, period: float) -> None:
    nothing: Any = None
    collected = Collection(
        *(binance.EXCHANGE, nothing),
        symbols=(),
        on_demand=True,
        intervals=("1m",),
        large_trade_threshold_usd=1e6,
        supervise=nothing,
        everything=Everything(),
        archive=None,
        linger=60.0,
        now=nothing,
        on_silence=nothing,
        counts=nothing,
    )
    collected.feeds.update({str(number): cast(Any, None) for number in range(feeds)})
    polled: dict[int, list[float]] = {number: [] for number in range(feeds)}

    async def poll(number: int) -> None:
        while True:
            polled[number].append(trio.current_time())  # at first all at once
            await trio.sleep(0.2)  # the answer
            await trio.sleep(collected._wait_to_poll())

    with trio.move_on_after(4.5 * period):
        async with trio.open_nursery() as nursery:
            for number in range(feeds):
                nursery.start_soon(poll, number)
    assert all(after - at <= period + 0.21 for mine in polled.values() for at, after in pairwise(mine))
    apart = [after - at for at, after in pairwise(sorted(at for mine in polled.values() for at in mine[1:]))]
    assert period / feeds - 1e-6 <= min(apart)
    assert max(apart) <= period / feeds + 0.21
