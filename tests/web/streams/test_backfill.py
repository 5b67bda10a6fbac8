"""`backfill` on /ws where the exchange's own history has holes: the last bars that exist, and then live ones."""

import pytest

from tests.daemon.fixtures import Json, World, eventually, world

MINUTE = 60_000
BARS = 120 * MINUTE  # of two hours: nothing follows them before the test does
COUNT = 50


async def backfilled(w: World, interval: str) -> list[Json]:
    """The history that a client is told ahead of live data."""
    topic = f"binance:BTCUSDT:ohlc:{interval}"
    async with w.stream("/ws") as client:
        await client.say({"op": "subscribe", "topics": [topic], "backfill": COUNT})
        await eventually(lambda: client.of("live", "error"), what="the end of the backfill")
        assert not client.of("error")
        bars = client.frames[: client.frames.index({"type": "live", "topic": topic})]
    return [{key: value for key, value in bar.items() if key not in ("type", "topic")} for bar in bars[1:]]


@pytest.mark.parametrize(
    ("interval", "step"), [pytest.param("2h", BARS, id="settled"), pytest.param("3m", 3 * MINUTE, id="young")]
)
async def test_what_the_exchange_lacks_is_neither_waited_for_nor_made_up(interval: str, step: int) -> None:
    async with world() as w:
        now = w.now // BARS * BARS
        w.sim.market.tapes["BTC"].lost += [(now - back * step, now - (back - 4) * step) for back in (44, 59)]
        told = await backfilled(w, interval)
        assert told == (await w.bars(interval=interval, limit=COUNT + 1))[:-1]
        assert await w.get(f"/binance/ohlc/BTCUSDT/{interval}", limit=100) == await w.bars(interval=interval, limit=100)


async def test_memory_answers_for_a_range_with_a_hole_that_is_the_exchange_s_own() -> None:
    async with world() as w:
        now = w.now // BARS * BARS
        w.sim.market.tapes["BTC"].lost += [(now - 44 * BARS, now - 40 * BARS)]
        await backfilled(w, "2h")
        expected = await w.bars(interval="2h", limit=100)
        asked = w.sim.count("/fapi/v1/klines")
        for query, rows in (
            ({"limit": 100}, expected),
            ({"limit": 20, "start_time": now - 50 * BARS}, expected[-47:-27]),
            ({"limit": 20, "end_time": now - 35 * BARS}, expected[-56:-36]),
        ):
            assert await w.get("/binance/ohlc/BTCUSDT/2h", **query) == rows
        assert w.sim.count("/fapi/v1/klines") == asked
