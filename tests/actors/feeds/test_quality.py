"""What the daemon says of its own data: /quality, and the request budgets in /health and /exchanges."""

from datetime import UTC, datetime, timedelta

from actors.events import Gap
from actors.feeds.quality import Lags, Quality
from actors.simulation.http import Reply, RestFault
from tests.daemon.fixtures import MINUTE, Json, World, eventually, world

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)


def second(count: float) -> timedelta:
    return timedelta(seconds=count)


def gap(start: float, end: float, *, repaired: bool) -> Gap:
    return Gap(
        exchange="binance",
        symbol="BTCUSDT",
        timestamp=NOON + second(end),
        start=NOON + second(start),
        end=NOON + second(end),
        reason="for a test",
        repaired=repaired,
    )


def report(quality: Quality, at: float, down_since: float | None = None) -> Json:
    down = None if down_since is None else NOON + second(down_since)
    return quality.report("t", NOON + second(at), duplicates=0, lag=None, down_since=down)


def test_only_what_was_not_repaired_lessens_the_coverage() -> None:
    quality = Quality()
    assert report(quality, 10).covered is None
    quality.heard(NOON)
    assert report(quality, 10).covered == 1
    quality.noticed(gap(10, 60, repaired=True))
    quality.noticed(gap(70, 80, repaired=False))
    found = report(quality, 100)
    assert (found.covered, found.gaps_repaired, found.gaps_unrepaired, len(found.gaps)) == (0.9, 1, 1, 2)
    assert report(quality, 100, down_since=90).covered == 0.8, "what an outage will have cost is not known yet"
    assert (found.since, found.last_event_age) == (NOON, 100)


def test_a_thousand_gaps_are_counted_and_the_last_hundred_kept() -> None:
    quality = Quality()
    quality.heard(NOON)
    for start in range(1000):
        quality.noticed(gap(start, start + 1, repaired=False))
    found = report(quality, 2000)
    assert (found.gaps_unrepaired, len(found.gaps), found.covered) == (1000, 100, 0.5)
    assert found.gaps[-1].start == NOON + second(999)


def test_lag_is_told_without_the_skew_of_the_clocks() -> None:
    lags = Lags()
    assert lags.report(second(0)) is None
    for milliseconds in range(100):
        lags.add(2 + milliseconds / 1000)  # our clock is two seconds ahead
    found = lags.report(second(-2))
    assert found is not None
    assert (found.median_ms, found.p99_ms) == (50, 99)


async def topics(w: World) -> dict[str, Json]:
    found = await w.get("/quality/binance/btcusdt")
    assert (found["exchange"], found["symbol"]) == ("binance", "BTCUSDT")
    (same,) = await w.get("/quality")
    assert [row["topic"] for row in same["topics"]] == [row["topic"] for row in found["topics"]]
    return {row["topic"].removeprefix("binance:BTCUSDT:"): row for row in found["topics"]}


async def test_quality_tells_what_came_what_was_lost_and_what_was_repaired() -> None:
    async with world() as w, w.stream("/ws/binance/BTCUSDT/trades") as stream:
        await w.pass_time(5000)
        await stream.at_least(3)
        before = await topics(w)
        assert {"trades", "ohlc:1m", "ohlc:5m", "funding", "oi"} <= before.keys()
        assert before["trades"]["events"] >= 3
        assert before["trades"]["gaps"] == []
        assert before["trades"]["lag"].keys() == {"median_ms", "p99_ms"}
        assert before["trades"]["last_event_age"] >= 0

        w.sim.drop()
        w.sim.market.clock.advance(2 * MINUTE)
        w.sim.tick()
        await eventually(lambda: w.sim.connections_total == 2)
        await w.subscribed("btcusdt@aggTrade")
        await w.pass_time(2000)
        await eventually(lambda: w.logged("trades.repaired"))
        await eventually(lambda: w.logged("bars.repaired"))
        after = await topics(w)
        for name in ("trades", "ohlc:1m"):
            assert (after[name]["gaps_repaired"], after[name]["gaps_unrepaired"]) == (1, 0), name
            assert after[name]["gaps"][0]["repaired"] is True
        # Liquidations cannot be had again: the whole outage is a loss.
        lost = after["liquidations"]
        assert (lost["gaps_repaired"], lost["gaps_unrepaired"]) == (0, 1)
        last = await w.get("/binance/ohlc/BTCUSDT/1m", limit=1)
        assert lost["gaps"][0]["from"] < last[0]["timestamp"] < lost["gaps"][0]["to"]

        await w.problem("/quality/binance/ETHUSDT", 404, "unknown_symbol")
        await w.problem("/quality/binance/NOPE", 404, "unknown_symbol")
        await w.problem("/quality/nowhere/BTCUSDT", 404, "unknown_exchange")


async def test_budgets_are_visible_and_say_when_an_exchange_refuses() -> None:
    async with world() as w:
        budget = (await w.get("/health"))["budgets"]["binance"]
        weight = next(bucket for bucket in budget["buckets"] if bucket["name"] == "weight")
        assert (weight["limit"], weight["window_seconds"]) == (2400, 60)
        assert 0 < weight["used"] < 2400
        assert (budget["closed_for"], budget["closed_reason"], budget["waiting"]) == (None, None, 0)

        body = b'{"code":-1003,"msg":"Too many requests."}'
        w.sim.faults.rest.append(RestFault("/fapi", reply=Reply(429, body, {"Retry-After": "7"})))
        await w.problem("/binance/ohlc/ETHUSDT/1h", 503, "upstream_limited")
        (exchange,) = (await w.get("/exchanges"))["exchanges"]
        assert 5 < exchange["budget"]["closed_for"] <= 7
        assert "Too many requests" in exchange["budget"]["closed_reason"]
