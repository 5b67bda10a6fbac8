"""The catalogue and the clock of an exchange, kept up to date."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
import trio.testing

from actors import clock
from actors.errors import UpstreamLimited
from actors.exchanges.listings import EVERY, Listings
from actors.upstream.skew import Skew

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
AHEAD = timedelta(seconds=3)  # the exchange's clock


class Refusing:
    """An exchange that refuses everybody for a minute; the catalogue's call waits until that is over."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.last_answer = None

    async def server_time(self) -> datetime:
        self.asked.append("time")
        if trio.current_time() < 60:
            raise UpstreamLimited("too many requests", retry_after=60)
        return NOW + AHEAD

    async def instruments(self) -> list[Any]:
        self.asked.append("catalogue")
        await trio.sleep(max(0.0, 60 - trio.current_time()))
        return [object()]


async def test_a_clock_that_was_refused_is_read_as_soon_as_the_refusal_is_over(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(clock, "now", lambda: NOW)
    skew, rest = Skew("hyperliquid"), Refusing()
    listings = Listings("hyperliquid", lambda instruments: None, skew, lambda: False)
    with trio.move_on_after(EVERY / 2):
        await listings.run(rest, rest, rest)  # type: ignore[arg-type]
    assert skew.offset == AHEAD
    assert rest.asked == ["time", "catalogue", "time"], "and not more often than that"
