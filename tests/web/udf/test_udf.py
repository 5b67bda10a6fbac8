"""The chart's datafeed on a running daemon: an adapter that, as the public one, looks at bodies alone."""

from functools import partial
from typing import Any

import trio

from actors.simulation.http import Reply, RestFault
from daemon.settings import Auth, Server
from tests.daemon.fixtures import MINUTE, TWO, Json, Served, assets, eventually, iso, world
from web.access.limits import Limits

TICKER = "BINANCE:BTCUSDT"


async def udf(served: Served, path: str, **query: Any) -> Json:
    """The body, whatever the status."""
    response = await served.client.get(f"/udf/{path}", params=query)
    assert response.headers["cache-control"] == "no-store"
    return response.json()


class Chart:
    """One chart: its bars, and what the library does when they are not in order."""

    def __init__(self, served: Served, ticker: str = TICKER) -> None:
        self._served, self._ticker = served, ticker
        self.bars: dict[int, tuple[float, ...]] = {}

    async def load(self, now: int, bars: int) -> None:
        rows = await self._ask(now, now - bars * 60, bars)
        self.bars = dict(rows)

    async def pulse(self, now: int) -> None:
        """As the adapter does every few seconds: the last two bars, and no look at the others."""
        rows = (await self._ask(now, now - 600, 2))[-2:]
        for time, row in rows:
            newest = max(self.bars)
            if time < newest and row != self.bars[time]:
                assert time == sorted(self.bars)[-2], "time violation"
            self.bars[time] = row

    async def _ask(self, now: int, start: int, countback: int) -> list[tuple[int, tuple[float, ...]]]:
        query = {"symbol": self._ticker, "resolution": "1", "from": start, "to": now, "countback": countback}
        body = await udf(self._served, "history", **query)
        assert body["s"] == "ok", body
        times = body["t"]
        assert times == sorted(set(times))
        assert len(times) >= countback
        assert len({len(body[name]) for name in "tohlcv"}) == 1
        rows = zip(*(body[name] for name in "ohlcv"), strict=True)
        return list(zip(times, rows, strict=True))


async def test_pulses_over_cuts_are_answered_from_memory_in_order_without_a_hole() -> None:
    async with world(rate=60.0, market=assets("BTC")) as w:
        chart = Chart(w)
        await chart.load(w.now // 1000 + 60, 100)
        calls, cuts, began = w.sim.count("/fapi/v1/klines"), 0, w.now
        while w.now - began < 3 * MINUTE:
            for _ in range(15):
                await chart.pulse(w.now // 1000 + 1)
                await trio.sleep(0.05)
            if cuts < 3:
                w.sim.drop()
                cuts += 1
        repairs = w.sim.count("/fapi/v1/klines") - calls
        assert repairs <= 6 * cuts, "a lost connection's bars are asked for, no pulse is"
        times = sorted(chart.bars)
        assert times == list(range(times[0], times[-1] + 60, 60)), "no hole"
        known = {row["timestamp"]: row for row in await w.bars(limit=1500)}
        for time in times[:-2]:
            bar = known[iso(time * 1000)]
            assert chart.bars[time] == tuple(bar[name] for name in ("open", "high", "low", "close", "volume"))


async def test_a_live_chart_asks_the_exchange_for_nothing_and_of_a_new_symbol_once() -> None:
    async with world(market=TWO, rate=1.0) as w:
        calls = w.sim.count("/fapi/v1/klines")
        for _ in range(20):
            await Chart(w).load(w.now // 1000 + 60, 50)
        assert w.sim.count("/fapi/v1/klines") == calls
        other = Chart(w, "BINANCE:ETHUSDT")
        await other.load(w.now // 1000 + 60, 50)
        await w.is_live("ETHUSDT")
        await eventually(lambda: w.sim.count("/fapi/v1/klines") >= calls + 3, what="history of what is now collected")
        calls = w.sim.count("/fapi/v1/klines")
        for _ in range(20):
            await other.pulse(w.now // 1000 + 1)
        assert w.sim.count("/fapi/v1/klines") == calls


async def test_the_same_bars_as_the_rest_route_has() -> None:
    async with world() as w:
        rows = await w.get("/binance/ohlc/BTCUSDT/1m", limit=20)
        query = {"symbol": "btcusdt", "resolution": "1", "from": 0, "to": w.now // 1000 + 60, "countback": 20}
        body = await udf(w, "history", **query)
        assert [iso(time * 1000) for time in body["t"]][-20:] == [row["timestamp"] for row in rows]
        for column, name in zip("ohlcv", ("open", "high", "low", "close", "volume"), strict=True):
            assert body[column][-20:] == [row[name] for row in rows]
        last = body["t"][-1]
        exclusive = await udf(w, "history", **{**query, "to": last})
        assert exclusive["t"][-1] == last - 60
        days = await udf(w, "history", **{**query, "resolution": "D", "countback": 3})
        assert all(time % 86_400 == 0 for time in days["t"])


async def test_what_failed_is_an_error_and_never_the_end_of_history() -> None:
    async with world() as w:
        w.sim.faults.rest.append(RestFault("/fapi/v1/klines", reply=Reply(400, b"{}")))
        query: Json = {"symbol": TICKER, "resolution": "3", "from": 0, "to": w.now // 1000, "countback": 2}
        response = await w.client.get("/udf/history", params=query)
        body = response.json()
        assert (response.status_code, body["s"], body["code"]) == (502, "error", "upstream_error")
        assert body["errmsg"] == body["detail"]


REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("symbols", {"symbol": ""}, 422, "invalid_parameter"),
    ("symbols", {}, 422, "invalid_parameter"),
    ("symbols", {"symbol": "BINANCE:NOPE"}, 404, "unknown_symbol"),
    ("symbols", {"symbol": "NYSE:IBM"}, 404, "unknown_exchange"),
    ("symbols", {"symbol": "<b>x</b>"}, 404, "unknown_symbol"),
    ("symbol_info", {"group": "NYSE"}, 404, "unknown_exchange"),
    ("search", {"exchange": "NYSE"}, 404, "unknown_exchange"),
    ("search", {"limit": "many"}, 422, "invalid_parameter"),
    ("history", {"symbol": TICKER, "resolution": "7", "from": 0, "to": 1}, 404, "unknown_interval"),
    ("history", {"symbol": TICKER, "resolution": "1", "from": 2, "to": 1}, 422, "invalid_parameter"),
    ("history", {"symbol": TICKER, "resolution": "1", "from": 0}, 422, "invalid_parameter"),
    ("history", {"symbol": TICKER, "resolution": "1", "from": "x", "to": 1}, 422, "invalid_parameter"),
    ("history", {"symbol": TICKER, "resolution": "1", "from": 0, "to": 10**15}, 422, "invalid_parameter"),
    ("quotes", {"symbols": ","}, 422, "invalid_parameter"),
    ("nothing", {}, 404, "not_found"),
]


async def test_what_cannot_be_answered_says_so_in_the_body() -> None:
    async with world(server=Server(port=0, cors_origins="*")) as w:
        for path, query, status, code in REFUSED:
            answer = await w.client.get(f"/udf/{path}", params=query, headers={"Origin": "https://a.example"})
            body = answer.json()
            found = (answer.status_code, body["s"], body["code"], body["errmsg"])
            assert found == (status, "error", code, body["detail"]), (path, query)
            assert answer.headers["access-control-allow-origin"] == "*"
            assert answer.headers["cache-control"] == "no-store"


async def test_a_symbol_is_described_by_its_steps_and_found_in_any_case() -> None:
    async with world(market=TWO) as w:
        symbol = await udf(w, "symbols", symbol="binance:btcusdt", currencyCode="USD", unitId="1")
        assert symbol["ticker"] == symbol["full_name"] == TICKER
        assert (symbol["pricescale"], symbol["minmov"], symbol["volume_precision"]) == (10, 1, 3)
        assert symbol["description"] == "BTC / USDT on Binance USD-M futures"
        assert symbol["marketd"]["topics"]["1"] == "binance:BTCUSDT:ohlc:1m"
        assert "has_empty_bars" not in symbol
        assert (await udf(w, "symbols", symbol="BTCUSDT")) == symbol
        found = await udf(w, "search", query="bt", type="", exchange="", limit=30)
        assert found[0]["ticker"] == TICKER
        assert (await udf(w, "search", query="binance:eth"))[0]["symbol"] == "ETHUSDT"
        assert await udf(w, "search", query="eth", type="stock") == []
        columns = await udf(w, "symbol_info", group="BINANCE")
        place = columns["symbol"].index("BTCUSDT")
        assert columns["pricescale"][place] == 10
        assert columns["supported-resolutions"][place] == symbol["supported_resolutions"]


async def test_quotes_tell_the_day_and_name_what_is_unknown() -> None:
    async with world(market=TWO) as w:
        body = await udf(w, "quotes", symbols=f"{TICKER},NOPE")
        known, unknown = body["d"]
        before, today = await w.bars(interval="1d", limit=2)
        values = known["v"]
        assert (known["s"], known["n"], body["s"]) == ("ok", TICKER, "ok")
        assert values["prev_close_price"] == before["close"]
        assert values["open_price"] == today["open"]
        assert values["ch"] == round(values["lp"] - before["close"], 1)
        assert (unknown["s"], unknown["n"], unknown["v"]) == ("error", "NOPE", {})


async def test_marks_are_liquidations_per_bar_and_side_and_settlements() -> None:
    async with world() as w:
        await w.pass_time(3 * MINUTE)
        query = partial(udf, w, symbol=TICKER, resolution="1", to=w.now // 1000 + 60)
        rows = await w.get("/binance/liquidations/BTCUSDT/bars", interval="1m")
        marks = await query("marks", **{"from": 0})
        sums = [(row["timestamp"], value) for row in rows for value in (row["long_value"], row["short_value"]) if value]
        assert sums, "the market has liquidations"
        assert [iso(time * 1000) for time in marks["time"]] == [time for time, _ in sums]
        for text, (_, value) in zip(marks["text"], sums, strict=True):
            assert f"{value:,}".removesuffix(".0") in text
        assert len({len(column) for column in marks.values()}) == 1
        scale = await query("timescale_marks", **{"from": w.now // 1000 - 3 * 86_400})
        settled = await w.get("/binance/funding-hist/BTCUSDT", start_time=w.now - 3 * 86_400_000)
        assert [iso(mark["time"] * 1000) for mark in scale if mark["label"] == "F"] == [
            f"{row['funding_time'][:19]}Z"
            for row in settled  # some are stamped a millisecond late
        ]


async def test_the_streaming_module_is_served_to_pages_of_other_origins() -> None:
    async with world(server=Server(port=0, cors_origins="*")) as w:
        response = await w.client.get("/udf/datafeed.js", headers={"Origin": "https://chart.example"})
        assert response.headers["content-type"].startswith("text/javascript")
        assert response.headers["access-control-allow-origin"] == "*"
        assert len(response.text.splitlines()) <= 150
        again = await w.client.get("/udf/datafeed.js", headers={"If-None-Match": response.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


async def test_who_is_refused_before_any_route_is_told_so_in_the_chart_s_own_words() -> None:
    """The adapter takes what has no `s` for a symbol without a name."""
    async with world(
        auth=Auth(anonymous=()),
        limits=Limits(exempt=(), requests_per_second=0.01, request_burst=2),
        server=Server(port=0, cors_origins="*"),
        live=False,
    ) as w:
        told = []
        for _ in range(3):
            answer = await w.client.get("/udf/config", headers={"Origin": "https://a.example"})
            body = answer.json()
            assert (body["s"], body["errmsg"]) == ("error", body["detail"])
            assert answer.headers["access-control-allow-origin"] == "*"
            assert answer.headers["cache-control"] == "no-store"
            told.append((answer.status_code, body["code"]))
        assert told == [(401, "unauthorized"), (401, "unauthorized"), (429, "rate_limited")]
        assert "retry-after" in answer.headers
