"""Every REST route that concerns one exchange, asked of the running daemon: right answers, and the right refusals."""

import re
from collections.abc import AsyncIterator
from functools import partial
from urllib.parse import quote

import httpx
import msgspec
import pytest
import trio
import trio.to_thread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.simulation.server import Faults
from actors.upstream import flights
from daemon.settings import Server
from tests.daemon.fixtures import MINUTE, START, Json, World, assets, iso, world
from tests.patience import WITHIN

OPENED = START - START % MINUTE  # when the bar that is open opened
DAY = 1440 * MINUTE


@pytest.fixture
async def w() -> AsyncIterator[World]:
    async with world() as running:
        await running.settled()
        yield running


# --- what the daemon says of itself


async def test_root_and_health_when_all_is_well(w: World) -> None:
    root = await w.get("/")
    assert root.keys() == {"name", "version", "status", "docs", "exchanges"}
    assert (root["name"], root["status"], root["docs"]) == ("marketd", "healthy", "/docs")
    assert root["exchanges"] == ["binance"]
    health = await w.get("/health")
    assert health["exchanges"] == {"binance": True}
    (feed,) = health["feeds"]
    assert feed.keys() == {"exchange", "symbol", "state", "since", "restarts", "last_event", "reason", "next_retry"}
    assert (feed["state"], feed["restarts"], feed["reason"], feed["next_retry"]) == ("live", 0, None, None)
    assert (await w.ask("/health/live")).status_code == 200
    ready = await w.ask("/health/ready")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})


async def test_exchanges_lists_capabilities_symbols_and_intervals(w: World) -> None:
    (binance,) = (await w.get("/exchanges"))["exchanges"]
    assert binance.keys() == {"name", "capabilities", "symbols", "intervals", "budget"}
    capabilities = binance["capabilities"]
    assert {"ohlc", "open_interest", "open_interest_history", "funding_rate", "funding_rate_history"} <= {
        name for name, value in capabilities.items() if value is True
    }
    assert capabilities["liquidations"] == "partial"
    assert binance["symbols"] == ["BTCUSDT"]
    assert {"1m", "5m", "1h", "1d", "1M"} <= set(binance["intervals"])


async def test_symbols_is_the_exchanges_catalogue() -> None:
    async with world(market=assets("BTC", "1000PEPE", "币安人生", "OCEAN", "BTC-quarter")) as w:
        rows = {row["symbol"]: row for row in await w.get("/symbols")}
        listed = {row["symbol"]: row for row in (await w.upstream("/fapi/v1/exchangeInfo"))["symbols"]}
        assert rows.keys() == listed.keys()
        for symbol, row in rows.items():
            contract = listed[symbol]
            filters = {entry["filterType"]: entry for entry in contract["filters"]}
            assert row == {
                "exchange": "binance",
                "symbol": symbol,
                "base": contract["baseAsset"],
                "quote": contract["quoteAsset"],
                "settle": contract["marginAsset"],
                "status": contract["status"],
                "tick_size": float(filters["PRICE_FILTER"]["tickSize"]),
                "step_size": float(filters["LOT_SIZE"]["stepSize"]),
                "funding_interval_hours": row["funding_interval_hours"],
            }
        hours = {symbol: row["funding_interval_hours"] for symbol, row in rows.items()}
        dated = next(symbol for symbol in rows if "_" in symbol)
        assert (hours["BTCUSDT"], hours["1000PEPEUSDT"], hours["币安人生USDT"], hours[dated]) == (8, 4, 1, None)

        assert {row["symbol"] for row in await w.get("/symbols", q="pepe")} == {"1000PEPEUSDT"}
        assert [row["symbol"] for row in await w.get("/symbols", q="人生", exchange="BINANCE")] == ["币安人生USDT"]
        assert await w.get("/symbols", q="nothing like it") == []
        await w.problem("/symbols", 404, "unknown_exchange", exchange="nowhere")


async def test_before_the_catalogue_the_daemon_says_when_to_come_back() -> None:
    async with world(faults=Faults(rest_accept="reset"), live=False) as w:
        assert (await w.ask("/health/live")).status_code == 200
        ready = await w.ask("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["reasons"].keys() == {"binance"}
        for path in ("ohlc/BTCUSDT/1m", "oi/BTCUSDT", "oi-hist/BTCUSDT", "funding/BTCUSDT", "funding-hist/BTCUSDT"):
            answer = await w.ask(f"/binance/{path}")
            assert (answer.status_code, answer.json()["code"]) == (503, "not_ready"), path
            assert int(answer.headers["retry-after"]) == answer.json()["retry_after"] >= 1
        await w.problem("/symbols", 503, "not_ready")
        assert (await w.health(lambda health: health["status"] == "degraded"))["exchanges"] == {"binance": False}
        reason = (await w.feed())["reason"]
        assert "catalogue" in reason

        w.sim.faults.rest_accept = "accept"
        await w.subscribed("btcusdt@aggTrade")
        await w.pass_time(1000)
        await w.is_live()
        assert (await w.ask("/health/ready")).status_code == 200
        assert len(await w.get("/symbols")) == 2


# --- bars


async def test_bars_are_the_exchanges(w: World) -> None:
    """Kept ones (1m and 5m) come from memory, the others from the exchange; nobody can tell."""
    for interval in ("1m", "5m", "15m", "1d", "3d", "1w", "1M"):
        answer = await w.get(f"/binance/ohlc/BTCUSDT/{interval}", limit=60)
        assert answer == await w.bars(interval=interval, limit=60)
        assert [row["is_closed"] for row in answer] == [True] * (len(answer) - 1) + [False]


async def test_limit_of_bars_has_its_default_and_its_bounds(w: World) -> None:
    path = "/binance/ohlc/BTCUSDT/1m"
    assert await w.get(path) == await w.bars(limit=500)
    for limit in (1, 2, 119, 120, 121, 1500):
        assert await w.get(path, limit=limit) == await w.bars(limit=limit)
    for bad in ("0", "-1", "1501", "9" * 30, "ten", "", "1.5", "²"):
        problem = await w.problem(path, 422, "invalid_parameter", limit=bad)
        assert [error["parameter"] for error in problem["errors"]] == ["limit"]


async def test_ranges_of_bars_are_half_open_and_begin_at_their_start(w: World) -> None:
    """Of bars in memory, of bars too old for it, and of an interval that is not kept."""
    for interval, ago in (("1m", 90), ("1m", 20_000), ("30m", 200), ("30m", 20_000)):
        await in_ranges(w, interval, ago)


async def in_ranges(w: World, interval: str, ago: int) -> None:
    path = f"/binance/ohlc/BTCUSDT/{interval}"
    step = MINUTE * int(interval[:-1])
    first = (OPENED - ago * MINUTE) // step * step

    def opens(rows: Json) -> list[str]:
        return [row["timestamp"] for row in rows]

    five = [iso(first + i * step) for i in range(5)]
    assert opens(await w.get(path, start_time=first, end_time=first + 2 * step)) == five[:2]
    assert opens(await w.get(path, start_time=first, end_time=first + 2 * step + 1)) == five[:3]
    # A start within a bar: that bar opened before it.
    assert opens(await w.get(path, start_time=first + 1, end_time=first + 2 * step)) == five[1:2]
    assert opens(await w.get(path, start_time=first + 1, end_time=first + 2)) == []
    for limit in (1, 2, 5, 500, 1500):
        rows = await w.get(path, start_time=first, limit=limit)
        assert opens(rows)[:5] == five[:limit]
        assert len(rows) <= limit
    # Without a start the range's last bars are meant.
    assert opens(await w.get(path, end_time=first + 5 * step, limit=2)) == five[3:]
    assert await w.get(path, start_time=iso(first), end_time=iso(first + step)) == await w.bars(
        interval=interval, startTime=first, endTime=first
    )


async def test_bars_since_a_start_end_with_the_open_one_or_at_the_end(w: World) -> None:
    path = "/binance/ohlc/BTCUSDT/1m"
    rows = await w.get(path, start_time=OPENED - 3 * MINUTE)
    assert rows == await w.bars(startTime=OPENED - 3 * MINUTE)
    assert [row["is_closed"] for row in rows] == [True, True, True, False]
    assert await w.get(path, start_time=OPENED - 3 * MINUTE, end_time=OPENED) == rows[:3]
    assert await w.get(path, start_time=OPENED + DAY) == []


async def test_times_may_be_written_in_several_ways(w: World) -> None:
    for text in ("2026-09-21T14:00:00Z", "2026-09-21T14:00:00", "2026-09-21T16:00:00+02:00", "1789999200000"):
        (row,) = await w.get("/binance/ohlc/BTCUSDT/1m", start_time=text, limit=1)
        assert row["timestamp"] == "2026-09-21T14:00:00Z"
        # As a URL typed by hand has it: the plus sign of an offset is not escaped.
        response = await w.client.get(f"/binance/ohlc/BTCUSDT/1m?limit=1&start_time={text}")
        assert response.json() == [row]


# --- the other routes


async def test_open_interest_and_its_history_are_the_exchanges(w: World) -> None:
    interest = await w.upstream("/fapi/v1/openInterest", symbol="BTCUSDT")
    assert await w.get("/binance/oi/BTCUSDT") == {
        "exchange": "binance",
        "symbol": "BTCUSDT",
        "timestamp": iso(interest["time"]),
        "open_interest": float(interest["openInterest"]),
        "open_interest_value": None,
    }

    def told(rows: Json) -> Json:
        return [
            {
                "exchange": "binance",
                "symbol": "BTCUSDT",
                "timestamp": iso(row["timestamp"]),
                "open_interest": float(row["sumOpenInterest"]),
                "open_interest_value": float(row["sumOpenInterestValue"]),
            }
            for row in rows
        ]

    path, upstream = "/binance/oi-hist/BTCUSDT", "/futures/data/openInterestHist"
    for period, limit in (("5m", 30), ("1h", 1), ("1d", 10), ("15m", 500)):
        rows = await w.upstream(upstream, symbol="BTCUSDT", period=period, limit=limit)
        assert await w.get(path, period=period, limit=limit) == told(rows)
    assert await w.get(path) == told(await w.upstream(upstream, symbol="BTCUSDT", period="5m", limit=30))

    step, first = 5 * MINUTE, START // DAY * DAY - 5 * DAY
    times = [iso(first + i * step) for i in range(5)]
    for limit in (1, 3, 499, 500):
        rows = await w.get(path, start_time=first, limit=limit)
        assert [row["timestamp"] for row in rows[:5]] == times[:limit]
        assert len(rows) == limit
    rows = await w.get(path, start_time=first, end_time=first + 3 * step)
    assert [row["timestamp"] for row in rows] == times[:3]
    rows = await w.get(path, end_time=first + 3 * step, limit=2)
    assert [row["timestamp"] for row in rows] == times[1:3]
    for bad in ({"limit": 501}, {"limit": 0}, {"period": "7m"}, {"period": "1M"}, {"period": ""}):
        await w.problem(path, 422, "invalid_parameter", **bad)


async def test_funding_and_its_history_are_the_exchanges(w: World) -> None:
    (frame,) = w.frames("btcusdt@markPrice@1s")[-1:]
    assert await w.get("/binance/funding/BTCUSDT") == {
        "exchange": "binance",
        "symbol": "BTCUSDT",
        "timestamp": iso(frame["E"]),
        "funding_rate": float(frame["r"]),
        "funding_time": iso(frame["T"]),
        "funding_interval_hours": 8,
        "mark_price": float(frame["p"]),
    }

    def told(rows: Json) -> Json:
        return [
            {
                "exchange": "binance",
                "symbol": "BTCUSDT",
                "timestamp": iso(row["fundingTime"]),
                "funding_rate": float(row["fundingRate"]),
                "funding_time": iso(row["fundingTime"]),
                "funding_interval_hours": 8,
                "mark_price": float(row["markPrice"]),
            }
            for row in rows
        ]

    path, upstream = "/binance/funding-hist/BTCUSDT", "/fapi/v1/fundingRate"
    rows = await w.upstream(upstream, symbol="BTCUSDT")
    assert await w.get(path) == told(rows)
    assert len(rows) == 100
    assert await w.get(path, limit=3) == told(rows[-3:])
    since = rows[40]["fundingTime"]
    for limit in (1, 10, 1000):
        answer = await w.get(path, start_time=since, limit=limit)
        assert answer == told(rows[40 : 40 + limit])
    assert await w.get(path, start_time=since, end_time=rows[43]["fundingTime"]) == told(rows[40:43])
    assert await w.get(path, end_time=rows[43]["fundingTime"], limit=2) == told(rows[41:43])
    assert len(await w.get(path, limit=1000, start_time=START - 400 * DAY)) == 1000
    for limit in (0, 1001):
        await w.problem(path, 422, "invalid_parameter", limit=limit)


async def test_what_a_symbol_that_is_not_collected_has_comes_from_the_exchange(w: World) -> None:
    row = await w.upstream("/fapi/v1/premiumIndex", symbol="ETHUSDT")
    assert await w.get("/binance/funding/ETHUSDT") == {
        "exchange": "binance",
        "symbol": "ETHUSDT",
        "timestamp": iso(row["time"]),
        "funding_rate": float(row["lastFundingRate"]),
        "funding_time": iso(row["nextFundingTime"]),
        "funding_interval_hours": 8,
        "mark_price": float(row["markPrice"]),
    }
    interest = await w.upstream("/fapi/v1/openInterest", symbol="ETHUSDT")
    answer = await w.get("/binance/oi/ETHUSDT")
    assert (answer["open_interest"], answer["timestamp"]) == (float(interest["openInterest"]), iso(interest["time"]))
    assert await w.get("/binance/ohlc/ETHUSDT/1m", limit=7) == await w.bars("ETHUSDT", limit=7)
    assert await w.get("/binance/liquidations/ETHUSDT") == []
    assert await w.get("/binance/large_trades/ETHUSDT") == []
    assert [feed["symbol"] for feed in (await w.get("/health"))["feeds"]] == ["BTCUSDT"]


async def test_liquidations_and_large_trades_are_those_that_were_seen(w: World) -> None:
    for _ in range(12):
        w.sim.market.trade("BTC", side="buy", price="84000.10", quantity="2.001")
        w.sim.market.liquidate("BTC", side="sell", price="83990.00", quantity="0.125")
        await w.pass_time(5000, step=500)

    def forced(frame: Json) -> Json:
        order = frame["o"]
        price, quantity = float(order["ap"]), float(order["z"])
        return {
            "exchange": "binance",
            "symbol": "BTCUSDT",
            "timestamp": iso(order["T"]),
            "side": order["S"].lower(),
            "price": price,
            "quantity": quantity,
            "value": round(price * quantity, 6),
        }

    def large(frame: Json) -> Json:
        price, quantity = float(frame["p"]), float(frame["q"])
        return {
            "exchange": "binance",
            "symbol": "BTCUSDT",
            "timestamp": iso(frame["T"]),
            "side": "sell" if frame["m"] else "buy",
            "price": price,
            "quantity": quantity,
            "value": round(price * quantity, 6),
            "is_buyer_maker": frame["m"],
            "trade_id": frame["a"],
        }

    orders = [forced(frame) for frame in w.frames("btcusdt@forceOrder")]
    trades = [row for frame in w.frames("btcusdt@aggTrade") if (row := large(frame))["value"] >= 100_000]
    assert len(orders) >= 12
    assert len(trades) >= 12
    for route, seen in (("liquidations", sorted(orders, key=by_time)), ("large_trades", trades)):
        path = f"/binance/{route}/BTCUSDT"
        assert await w.until(path, partial(is_as_long, seen), limit=1000) == seen
        await select_like(w, path, seen)


def is_as_long(seen: list[Json], found: list[Json]) -> bool:
    return len(found) >= len(seen)


def by_time(row: Json) -> str:
    return str(row["timestamp"])


async def select_like(w: World, path: str, seen: list[Json]) -> None:
    """The route's parameters pick from what was seen as the contract says."""
    assert await w.get(path) == seen[-100:]
    assert await w.get(path, limit=4) == seen[-4:]
    value = sorted(row["value"] for row in seen)[len(seen) // 2]
    assert await w.get(path, min_value_usd=value) == [row for row in seen if row["value"] >= value]
    times = sorted({row["timestamp"] for row in seen})
    start, end = times[2], times[-2]
    within = [row for row in seen if start <= row["timestamp"] < end]
    assert await w.get(path, start_time=start, end_time=end) == within
    assert await w.get(path, start_time=start, limit=2) == [row for row in seen if row["timestamp"] >= start][:2]
    assert await w.get(path, end_time=end, limit=2) == within[-2:]
    for bad in ({"limit": 0}, {"limit": 1001}, {"min_value_usd": "nan"}, {"min_value_usd": -1}):
        await w.problem(path, 422, "invalid_parameter", **bad)


# --- which symbol is meant


async def test_symbols_are_understood_in_any_case_and_any_script() -> None:
    async with world(market=assets("BTC", "币安人生", "OCEAN", "BTC-quarter")) as w:
        for spelling in ("btcusdt", "BtcUsdt", "BTCUSDT"):
            for path in (f"ohlc/{spelling}/1m", f"oi-hist/{spelling}", f"funding-hist/{spelling}"):
                assert {row["symbol"] for row in await w.get(f"/binance/{path}")} == {"BTCUSDT"}
            for path in (f"oi/{spelling}", f"funding/{spelling}"):
                assert (await w.get(f"/Binance/{path}"))["symbol"] == "BTCUSDT"
        for spelling in ("币安人生USDT", quote("币安人生usdt")):
            rows = await w.get(f"/binance/ohlc/{spelling}/1m", limit=3)
            assert rows == await w.bars("币安人生USDT", limit=3)
            assert (await w.get(f"/binance/funding/{spelling}"))["funding_interval_hours"] == 1
        dated = next(row["symbol"] for row in await w.get("/symbols") if "_" in row["symbol"])
        assert len(await w.get(f"/binance/ohlc/{dated}/1m", limit=3)) == 3
        await w.problem(f"/binance/funding/{dated}", 404, "unsupported")
        await w.problem("/binance/oi/OCEANUSDT", 404, "unknown_symbol")  # delisted


# --- refusals

EVERY_ROUTE = [
    "ohlc/{}/1m",
    "oi/{}",
    "oi-hist/{}",
    "funding/{}",
    "funding-hist/{}",
    "liquidations/{}",
    "large_trades/{}",
]


async def test_what_does_not_exist_is_a_404_that_says_so(w: World) -> None:
    for route in EVERY_ROUTE:
        problem = await w.problem("/nowhere/" + route.format("BTCUSDT"), 404, "unknown_exchange")
        assert "nowhere" in problem["detail"]
        for symbol in ("NOPE", "BTC", "%00", "BTCUSDT%20", "💥", "x" * 300):
            problem = await w.problem("/binance/" + route.format(symbol), 404, "unknown_symbol")
            assert problem["exchange"] == "binance"
    for interval in ("7m", "1H", "1", "m", "1y", "%20"):
        problem = await w.problem(f"/binance/ohlc/BTCUSDT/{interval}", 404, "unknown_interval")
        assert (problem["exchange"], problem["symbol"]) == ("binance", "BTCUSDT")
    for path in (
        "/nothing",
        "/binance",
        "/binance/",
        "/binance/ohlc",
        "/binance/ohlc/BTCUSDT",
        "/binance/oi/BTCUSDT/1m",
    ):
        await w.problem(path, 404, "not_found")
    for path in ("/health/", "/binance/nothing/BTCUSDT", "/binance/oi/BTCUSDT/", "/binance//oi/BTCUSDT", "/%ff%fe"):
        await w.problem(path, 404, "not_found")


async def test_every_bad_parameter_is_named_at_once(w: World) -> None:
    query = {"limit": "0", "start_time": "yesterday", "end_time": "99999999999999999", "colour": "red"}
    problem = await w.problem("/binance/ohlc/BTCUSDT/1m", 422, "invalid_parameter", **query)
    assert [error["parameter"] for error in problem["errors"]] == list(query)
    assert all(error["detail"] for error in problem["errors"])
    for name in ("start_time", "end_time"):
        for bad in ("", "0x10", "-1", "1e12", "2026-13-01", "2026-02-30T00:00Z", "1969-12-31T23:59:59Z", "nan", "١٢٣"):
            problem = await w.problem("/binance/ohlc/BTCUSDT/1m", 422, "invalid_parameter", **{name: bad})
            assert [error["parameter"] for error in problem["errors"]] == [name]
    for end in (START, START - 1):
        await w.problem("/binance/ohlc/BTCUSDT/1m", 422, "invalid_parameter", start_time=START, end_time=end)
    response = await w.client.get("/binance/ohlc/BTCUSDT/1m?limit=1&limit=2")
    assert (response.status_code, response.json()["errors"][0]["parameter"]) == (422, "limit")


async def test_unknown_query_parameters_are_refused_on_every_route(w: World) -> None:
    plain = ["/", "/health", "/health/live", "/health/ready", "/exchanges", "/symbols", "/ws-catalog"]
    for path in [*plain, *("/binance/" + route.format("BTCUSDT") for route in EVERY_ROUTE)]:
        problem = await w.problem(path, 422, "invalid_parameter", limmit=5)
        assert [error["parameter"] for error in problem["errors"]] == ["limmit"], path


async def test_methods(w: World) -> None:
    for path in ("/", "/health", "/symbols", "/binance/ohlc/BTCUSDT/1m", "/binance/oi/BTCUSDT"):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            await w.problem(path, 405, "method_not_allowed", method)
            assert "GET" in (await w.ask(path, method)).headers["allow"]
        head, get = await w.client.head(path), await w.client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == get.headers["content-length"]
        options = await w.client.options(path)
        assert options.status_code in (200, 204)
        assert "GET" in options.headers["allow"]
    missing = await w.client.head("/binance/oi/NOPE")
    assert (missing.status_code, missing.content) == (404, b"")


async def test_cors() -> None:
    ours, other = "https://page.example", "https://other.example"
    path = "/binance/oi/BTCUSDT"
    preflight = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "X-Thing"}
    async with world(server=Server(port=0, cors_origins=[ours])) as w:
        for method in ("GET", "OPTIONS"):
            for where in (path, "/binance/oi/NOPE", "/nothing"):
                headers = {"Origin": ours} | (preflight if method == "OPTIONS" else {})
                answer = await w.client.request(method, where, headers=headers)
                assert answer.headers["access-control-allow-origin"] == ours, (method, where)
                assert "origin" in answer.headers["vary"].lower()
                refused = await w.client.request(method, where, headers=headers | {"Origin": other})
                assert "access-control-allow-origin" not in refused.headers
        granted = await w.client.options(path, headers={"Origin": ours} | preflight)
        assert granted.status_code in (200, 204)
        assert "GET" in granted.headers["access-control-allow-methods"]
        assert granted.headers["access-control-allow-headers"] == "X-Thing"
        assert "access-control-allow-origin" not in (await w.client.get(path)).headers
    async with world(server=Server(port=0, cors_origins="*"), live=False) as w:
        assert (await w.client.get("/", headers={"Origin": other})).headers["access-control-allow-origin"] == "*"
    async with world(live=False) as w:
        assert "access-control-allow-origin" not in (await w.client.get("/", headers={"Origin": ours})).headers


async def test_what_does_not_exist_is_a_404_for_every_method(w: World) -> None:
    for method in ("POST", "PUT", "DELETE"):
        await w.problem("/nothing", 404, "not_found", method)
    assert (await w.client.head("/nothing")).status_code == 404


# --- for all routes


async def test_numbers_have_no_binary_noise(w: World) -> None:
    w.sim.market.trade("BTC", side="buy", price="126343.70", quantity="1.111")
    await w.pass_time(30_000)
    await w.settled()
    for route in EVERY_ROUTE:
        text = (await w.client.get("/binance/" + route.format("BTCUSDT"))).text
        assert re.findall(r"\d+\.\d{11,}|\d[eE][+-]?\d", text) == [], route
    assert '"price":126343.7,' in (await w.client.get("/binance/large_trades/BTCUSDT")).text


async def test_identical_requests_at_the_same_time_are_one_upstream_call(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flights, "FRESH", WITHIN)  # on a busy machine the last of them comes late
    answers: list[Json] = []

    async def ask() -> None:
        answers.append(await w.get("/binance/ohlc/BTCUSDT/1h", limit=9, start_time=START - 9 * DAY))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
    assert len(answers) == 20
    assert all(answer == answers[0] and len(answer) == 9 for answer in answers)
    assert len([served for served in w.sim.requests if "startTime" in served.query]) == 1


async def test_what_is_live_costs_no_upstream_call(w: World) -> None:
    await w.pass_time(10_000)
    await w.settled()
    polls = w.sim.count("/fapi/v1/openInterest")
    for path in ("ohlc/BTCUSDT/1m?limit=101", "ohlc/BTCUSDT/5m?limit=51", "oi/BTCUSDT", "funding/BTCUSDT"):
        for _ in range(5):
            assert (await w.client.get("/binance/" + path)).status_code == 200
    for path in ("/health", "/health/ready", "/", "/symbols", "/exchanges", "/binance/liquidations/BTCUSDT"):
        assert (await w.client.get(path)).status_code == 200
    assert w.sim.count("/fapi/v1/openInterest") == polls
    assert w.sim.count("/fapi/v1/premiumIndex") == 0
    assert {served.query.get("limit") for served in w.sim.requests}.isdisjoint({"101", "51"})
    assert w.sim.count("/fapi/v1/exchangeInfo") == 1


WORDS = [
    "binance",
    "BTCUSDT",
    "ETHUSDT",
    "ohlc",
    "oi",
    "oi-hist",
    "funding",
    "funding-hist",
    "liquidations",
    "ws",
    "1m",
]
SEGMENTS = st.sampled_from([*WORDS, "1M", "large_trades", "health", "symbols", "docs"]) | st.text(max_size=12)
NAMES = st.sampled_from(["limit", "start_time", "end_time", "period", "min_value_usd", "q", "exchange"]) | st.text(
    max_size=8
)
VALUES = st.integers().map(str) | st.floats().map(str) | st.datetimes().map(str) | st.text(max_size=20)
# The daemon's own documents are pages for people.
PAGES = re.compile(r"/(docs|redoc)(/|$)|/openapi\.json$")


async def test_no_path_and_no_query_breaks_it(w: World) -> None:
    """Whatever is asked: JSON, no fault of ours, and no call to the exchange that it answers with an error."""
    client = httpx.Client(base_url=w.url, timeout=WITHIN, verify=False)

    @settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(SEGMENTS, max_size=5),
        st.lists(st.tuples(NAMES, VALUES), max_size=4),
        st.sampled_from(["GET", "GET", "GET", "HEAD", "OPTIONS", "POST", "BREW"]),
    )
    def check(segments: list[str], query: list[tuple[str, str]], method: str) -> None:
        path = "/" + "/".join(escape(segment) for segment in segments)
        asked = "&".join(f"{escape(name)}={escape(value)}" for name, value in query)
        target = path + ("?" + asked if asked else "")
        response = client.request(method, httpx.URL(w.url).copy_with(raw_path=target.encode()))
        assert response.status_code < 500, (method, target, response.text)
        if response.content and not PAGES.search(path):
            msgspec.json.decode(response.content)
            assert response.headers["content-type"] in ("application/json", "application/problem+json")

    def escape(text: str) -> str:
        return quote(text.encode("utf-8", "surrogatepass"), safe="")

    with client:
        await trio.to_thread.run_sync(check)
    refused = [served for served in w.sim.requests if served.status >= 400]
    assert refused == []
    assert w.logged("web.fault") == []


async def test_broken_escapes_are_refused_politely(w: World) -> None:
    for target in (
        "/binance/oi/%",
        "/binance/oi/%zz",
        "/binance/oi/%E0%A4%A",
        "/?%ff=%fe",
        "/binance/oi/BTCUSDT?a&b=&=c",
    ):
        response = await w.client.get(httpx.URL(w.url).copy_with(raw_path=target.encode()))
        assert response.status_code in (400, 404, 422), target
        assert response.json()["code"] in ("unknown_symbol", "invalid_parameter", "not_found", "bad_request")
