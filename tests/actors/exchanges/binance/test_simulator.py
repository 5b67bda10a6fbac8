"""The simulated Binance on real loopback sockets: its answers and frames, its rules, and every fault once.

The market's clock stands still unless a test advances it, so that every frame is known.
"""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, open_websocket_url

from actors.exchanges.binance.simulator import BAD_FRAMES, Options, serve
from actors.exchanges.binance.simulator.limits import Limits, banned, html, restricted, too_many_requests, unavailable
from actors.exchanges.binance.simulator.rows import delivery
from actors.simulation.assets import ASSETS
from actors.simulation.history import DAY, HOUR, MINUTE
from actors.simulation.market import Clock, Market
from actors.simulation.server import Faults, RestFault, Simulator
from tests.patience import WITHIN, virtual_time
from tests.recordings import RECORDINGS

START = 1_795_000_037_000

# A mark and not pytest.skip(): in an async test that loses its reason.
needs_recordings = pytest.mark.skipif(not RECORDINGS.exists(), reason=f"no recordings at {RECORDINGS}")
PATIENT = Options(messages_per_second=10_000)
SMALL = [asset for asset in ASSETS if asset.name in ("BTC", "ETH", "BLZ")]


@pytest.fixture
async def sim(nursery: trio.Nursery) -> Simulator:
    return await start(nursery)


async def start(nursery: trio.Nursery, options: Options = PATIENT, *, at: int = START, **market: Any) -> Simulator:
    made = Market(seed=7, clock=Clock(at, rate=0), **market)
    running: Simulator = await nursery.start(partial(serve, made, options=options))
    return running


@asynccontextmanager
async def rest(sim: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    with trio.fail_after(WITHIN):
        async with httpx.AsyncClient(base_url=sim.rest_url, timeout=WITHIN) as client:
            yield client


async def get(sim: Simulator, path: str, **query: Any) -> Any:
    async with rest(sim) as client:
        return (await client.get(path, params=query)).raise_for_status().json()


class Client:
    """A WebSocket client that knows when it has everything: replies come in order with frames."""

    def __init__(self, ws: WebSocketConnection) -> None:
        self.ws = ws
        self._number = 0

    async def order(self, method: str, *params: Any) -> Any:
        self._number += 1
        await self.ws.send_message(json.dumps({"method": method, "params": params, "id": self._number}))
        return self._number

    async def everything(self) -> list[Any]:
        """All frames before now, replies excepted."""
        number = await self.order("LIST_SUBSCRIPTIONS")
        frames: list[Any] = []
        while True:
            frame = json.loads(await self.ws.get_message())
            if isinstance(frame, dict) and frame.get("id") == number:
                return frames
            if not (isinstance(frame, dict) and "id" in frame):
                frames.append(frame)

    async def said(self, message: str | bytes) -> Any:
        await self.ws.send_message(message)
        return json.loads(await self.ws.get_message())


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    with trio.fail_after(WITHIN):
        async with open_websocket_url(quote(url, safe=":/?&=@!%"), disconnect_timeout=1) as ws:
            yield Client(ws)


@asynccontextmanager
async def subscribed(sim: Simulator, *streams: str, form: str = "/ws/") -> AsyncIterator[Client]:
    async with connected(f"{sim.ws_url}{form}{'/'.join(streams)}") as client:
        yield client


def advance(sim: Simulator, milliseconds: int) -> None:
    sim.market.clock.advance(milliseconds)
    sim.tick()


def fields(value: Any) -> Any:
    """The shape of a JSON value: keys and types."""
    if isinstance(value, dict):
        return {key: fields(each) for key, each in value.items()}
    return type(value)


def recorded(name: str, sample: str) -> Any:
    value = json.loads((RECORDINGS / "binance-sdk" / name).read_text())[sample]
    return value[0] if isinstance(value, list) else value


# -- REST -------------------------------------------------------------------------------------


@needs_recordings
@pytest.mark.parametrize(
    ("sample", "path", "query"),
    [
        ("check_server_time", "/fapi/v1/time", {}),
        ("open_interest", "/fapi/v1/openInterest", {"symbol": "BTCUSDT"}),
        ("open_interest_statistics", "/futures/data/openInterestHist", {"symbol": "BTCUSDT", "period": "5m"}),
        ("mark_price", "/fapi/v1/premiumIndex", {"symbol": "BTCUSDT"}),
        ("get_funding_rate_history", "/fapi/v1/fundingRate", {"symbol": "BTCUSDT"}),
        ("get_funding_rate_info", "/fapi/v1/fundingInfo", {}),
        ("ticker24hr_price_change_statistics", "/fapi/v1/ticker/24hr", {"symbol": "BTCUSDT"}),
        ("compressed_aggregate_trades_list", "/fapi/v1/aggTrades", {"symbol": "BTCUSDT"}),
    ],
)
async def test_rest_rows_have_the_documented_fields(
    sim: Simulator, sample: str, path: str, query: dict[str, str]
) -> None:
    body = await get(sim, path, **query)
    row = body[-1] if isinstance(body, list) else body
    assert fields(row) == fields(recorded("rest_market_data.json", sample))


async def test_exchange_info(sim: Simulator) -> None:
    info = await get(sim, "/fapi/v1/exchangeInfo")
    limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 2400}
    assert limit in info["rateLimits"]
    assert sim.market.now - info["serverTime"] > 30 * HOUR, "stale on purpose"
    symbols = {row["symbol"]: row for row in info["symbols"]}
    assert set(symbols) == {f"{a.name}USDT" for a in ASSETS if not a.dated} | {"BTCUSDT_261225"}
    assert symbols["OCEANUSDT"]["status"] == "SETTLING"
    assert symbols["OCEANUSDT"]["deliveryDate"] < sim.market.now
    assert symbols["BTCUSDT"]["deliveryDate"] == 4133404800000
    assert symbols["BTCUSDT_261225"]["contractType"] == "CURRENT_QUARTER"
    assert symbols["BTCUSDT_261225"]["baseAsset"] == "BTC"
    filters = {row["filterType"]: row for row in symbols["BTCUSDT"]["filters"]}
    assert filters["PRICE_FILTER"]["tickSize"] == "0.10"
    assert filters["LOT_SIZE"]["stepSize"] == "0.001"


@needs_recordings
async def test_exchange_info_has_the_documented_fields(sim: Simulator) -> None:
    symbol = (await get(sim, "/fapi/v1/exchangeInfo"))["symbols"][0]
    assert set(symbol) == set(recorded("rest_market_data.json", "exchange_information")["symbols"][0])


def test_quarters_end_on_the_last_friday() -> None:
    assert delivery(START) == 1_798_185_600_000, "2026-12-25 08:00"
    assert delivery(1_798_185_600_000) == 1_806_048_000_000, "2027-03-26 08:00"


async def test_klines(sim: Simulator) -> None:
    advance(sim, 5 * MINUTE)
    path = "/fapi/v1/klines"
    rows = await get(sim, path, symbol="BTCUSDT", interval="1m")
    assert len(rows) == 500
    assert [type(cell) for cell in rows[0]] == [int, str, str, str, str, str, int, str, int, str, str, str]
    assert all(row[6] == row[0] + MINUTE - 1 for row in rows)
    assert rows[-1][0] <= sim.market.now <= rows[-1][6], "the open bar is the last"
    start, end = rows[10][0], rows[14][0]
    assert await get(sim, path, symbol="BTCUSDT", interval="1m", startTime=start, endTime=end) == rows[10:15]
    assert await get(sim, path, symbol="BTCUSDT", interval="1m", startTime=start, limit=3) == rows[10:13]
    assert await get(sim, path, symbol="BTCUSDT", interval="1m", endTime=end, limit=3) == rows[12:15]
    assert await get(sim, path, symbol="BTCUSDT", interval="1m", startTime=10**19) == []
    assert len(await get(sim, path, symbol="币安人生USDT", interval="1M", limit=1500)) > 10
    opening = [int(n) for n in rows[-1][1].split(".")]
    assert len(rows[-1][1].split(".")[1]) == 2, opening
    assert len(rows[-1][5].split(".")[1]) == 3
    assert len(rows[-1][7].split(".")[1]) == 5


async def test_open_interest_history_joins_the_present(sim: Simulator) -> None:
    rows = await get(sim, "/futures/data/openInterestHist", symbol="BTCUSDT", period="5m", limit=500)
    assert len(rows) == 500
    assert [b["timestamp"] - a["timestamp"] for a, b in pairwise(rows)] == [5 * MINUTE] * 499
    newest = rows[-1]["timestamp"]
    advance(sim, newest + 5 * MINUTE - sim.market.now)
    now = await get(sim, "/fapi/v1/openInterest", symbol="BTCUSDT")
    rows = await get(sim, "/futures/data/openInterestHist", symbol="BTCUSDT", period="5m", limit=1)
    assert rows[0]["timestamp"] == newest + 5 * MINUTE == now["time"]
    assert rows[0]["sumOpenInterest"] == now["openInterest"] + "00000"
    hours = await get(sim, "/futures/data/openInterestHist", symbol="BTCUSDT", period="1h", limit=2)
    at = hours[-1]["timestamp"]
    again = await get(sim, "/futures/data/openInterestHist", symbol="BTCUSDT", period="5m", startTime=at, endTime=at)
    assert again == [hours[-1]]
    advance(sim, 1000)
    assert (await get(sim, "/fapi/v1/openInterest", symbol="BTCUSDT"))["time"] == now["time"], "it lags"


async def test_funding(nursery: trio.Nursery) -> None:
    sim = await start(nursery, at=START - START % (8 * HOUR) + 8 * HOUR - 20_000)
    now = await get(sim, "/fapi/v1/premiumIndex", symbol="BTCUSDT")
    settles = now["nextFundingTime"]
    assert settles % (8 * HOUR) == 0
    advance(sim, settles - sim.market.now + 60)
    rows = await get(sim, "/fapi/v1/fundingRate", symbol="BTCUSDT")
    assert len(rows) == 100
    assert 0 <= rows[-1]["fundingTime"] - settles < 12, "booked a few ms late"
    after = await get(sim, "/fapi/v1/premiumIndex", symbol="BTCUSDT")
    assert after["nextFundingTime"] == settles + 8 * HOUR
    first, last = rows[-5]["fundingTime"], rows[-3]["fundingTime"]
    query = {"symbol": "BTCUSDT", "startTime": first, "endTime": last}
    assert await get(sim, "/fapi/v1/fundingRate", **query) == rows[-5:-2]
    assert await get(sim, "/fapi/v1/fundingRate", **query, limit=2) == rows[-5:-3]
    hourly = await get(sim, "/fapi/v1/fundingRate", symbol="币安人生USDT", limit=1000)
    assert len(hourly) == 200, "without times the newest 200 at most"
    everyone = await get(sim, "/fapi/v1/fundingRate")
    assert len({row["symbol"] for row in everyone}) > 10
    adjusted = await get(sim, "/fapi/v1/fundingInfo")
    assert {row["symbol"]: row["fundingIntervalHours"] for row in adjusted} == {"1000PEPEUSDT": 4, "币安人生USDT": 1}


async def test_premium_index_of_all(sim: Simulator) -> None:
    rows = {row["symbol"]: row for row in await get(sim, "/fapi/v1/premiumIndex")}
    assert "OCEANUSDT" not in rows
    dated = rows["BTCUSDT_261225"]
    assert (dated["lastFundingRate"], dated["nextFundingTime"]) == ("", 0)
    assert len(await get(sim, "/fapi/v1/ticker/24hr")) == len(rows)


async def test_agg_trades(sim: Simulator) -> None:
    advance(sim, 20 * MINUTE)
    path = "/fapi/v1/aggTrades"
    newest = await get(sim, path, symbol="BTCUSDT", limit=1000)
    assert [row["a"] for row in newest] == list(range(newest[0]["a"], newest[0]["a"] + 1000))
    first = newest[100]["a"]
    assert await get(sim, path, symbol="BTCUSDT", fromId=first) == newest[100:600]
    start, end = newest[200]["T"], newest[300]["T"]
    within = await get(sim, path, symbol="BTCUSDT", startTime=start, endTime=end, limit=1000)
    assert within == [row for row in newest if start <= row["T"] <= end]
    assert await get(sim, path, symbol="BTCUSDT", fromId=newest[-1]["a"] + 1) == []
    assert await get(sim, path, symbol="OCEANUSDT") == []


async def test_ticker(sim: Simulator) -> None:
    advance(sim, 90_000)
    row = await get(sim, "/fapi/v1/ticker/24hr", symbol="ETHUSDT")
    minutes = await get(sim, "/fapi/v1/klines", symbol="ETHUSDT", interval="1m", limit=1440)
    assert row["lastPrice"] == minutes[-1][4]
    assert row["openPrice"] == minutes[0][1]
    assert row["count"] == sum(each[8] for each in minutes) == row["lastId"] - row["firstId"] + 1
    assert float(row["volume"]) == pytest.approx(sum(float(each[5]) for each in minutes))
    assert float(row["highPrice"]) == max(float(each[2]) for each in minutes)


KLINES, BTC = "/fapi/v1/klines", {"symbol": "BTCUSDT"}
MINUTES = {**BTC, "interval": "1m"}
HISTORY = "/futures/data/openInterestHist"


@pytest.mark.parametrize(
    ("path", "query", "status", "code"),
    [
        (KLINES, {"interval": "1m"}, 400, -1102),
        (KLINES, BTC, 400, -1102),
        (KLINES, {"symbol": "NOPEUSDT", "interval": "1m"}, 400, -1121),
        (KLINES, {"symbol": "btcusdt", "interval": "1m"}, 400, -1121),
        (KLINES, {**BTC, "interval": "7m"}, 400, -1120),
        (KLINES, {**MINUTES, "limit": "1501"}, 400, -1130),
        (KLINES, {**MINUTES, "limit": "0"}, 400, -1130),
        (KLINES, {**MINUTES, "limit": ""}, 400, -1105),
        (KLINES, {**MINUTES, "limit": "ten"}, 400, -1100),
        (KLINES, {**MINUTES, "startTime": "-5"}, 400, -1100),
        (KLINES, {**MINUTES, "startTime": "2", "endTime": "1"}, 400, -1023),
        ("/fapi/v1/openInterest", {}, 400, -1102),
        ("/fapi/v1/openInterest", {"symbol": "OCEANUSDT"}, 400, -1122),
        ("/fapi/v1/premiumIndex", {"symbol": "OCEANUSDT"}, 400, -1122),
        ("/fapi/v1/fundingRate", {"limit": "1001"}, 400, -1130),
        ("/fapi/v1/aggTrades", {**BTC, "limit": "1001"}, 400, -1130),
        ("/fapi/v1/aggTrades", {**BTC, "startTime": "0", "endTime": "3600000"}, 400, -1127),
        ("/fapi/v1/aggTrades", {**BTC, "startTime": "0", "fromId": "1"}, 408, -1007),
        (HISTORY, {**BTC, "period": "1m"}, 400, -1130),
        (HISTORY, {**BTC, "period": "5m", "startTime": "0"}, 400, -1130),
        (HISTORY, {**BTC, "period": "5m", "limit": "501"}, 400, -1130),
        ("/fapi/v1/nothing", {}, 404, -5000),
    ],
)
async def test_refusals(sim: Simulator, path: str, query: dict[str, str], status: int, code: int) -> None:
    async with rest(sim) as client:
        answer = await client.get(path, params=query)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["msg"]
    assert (sim.requests[-1].status, sim.requests[-1].query) == (status, query)


async def test_weights(sim: Simulator) -> None:
    used = 0
    async with rest(sim) as client:
        for query, weight in (
            ("klines?symbol=BTCUSDT&interval=1m&limit=99", 1),
            ("klines?symbol=BTCUSDT&interval=1m&limit=499", 2),
            ("klines?symbol=BTCUSDT&interval=1m", 5),
            ("klines?symbol=BTCUSDT&interval=1m&limit=1001", 10),
            ("aggTrades?symbol=BTCUSDT", 20),
            ("premiumIndex", 10),
            ("premiumIndex?symbol=BTCUSDT", 1),
            ("ticker/24hr", 40),
            ("fundingRate?symbol=BTCUSDT", 0),
            ("exchangeInfo", 1),
        ):
            answer = await client.get(f"/fapi/v1/{query}")
            used += weight
            assert answer.headers["x-mbx-used-weight-1m"] == str(used), query
        assert "x-mbx-used-weight-1m" not in (await client.get(HISTORY, params={**BTC, "period": "5m"})).headers
        advance(sim, MINUTE)
        assert (await client.get("/fapi/v1/ping")).headers["x-mbx-used-weight-1m"] == "1", "reset on the minute"


async def test_limit_then_ban(nursery: trio.Nursery) -> None:
    options = Options(limits=Limits(weight=40, patience=3))
    sim = await start(nursery, options, assets=SMALL)
    async with rest(sim) as client:
        query = "/fapi/v1/aggTrades?symbol=BTCUSDT"
        statuses = [(await client.get(query)).status_code for _ in range(7)]
        assert statuses == [200, 200, 429, 429, 429, 418, 418]
        body = (await client.get("/fapi/v1/ping")).json()
        assert body["code"] == -1003
        until = re.search(r"banned until (\d+)", body["msg"])
        assert until is not None
        assert int(until[1]) == sim.market.now + 2 * MINUTE
        advance(sim, 2 * MINUTE)
        assert (await client.get("/fapi/v1/ping")).status_code == 200


@pytest.mark.parametrize(
    ("limits", "paths"),
    [
        (Limits(futures_data=2), [f"{HISTORY}?symbol=BTCUSDT&period=5m&limit=1"]),
        (Limits(funding=2), ["/fapi/v1/fundingRate?symbol=BTCUSDT&limit=1", "/fapi/v1/fundingInfo"]),
    ],
)
async def test_separate_buckets(nursery: trio.Nursery, limits: Limits, paths: list[str]) -> None:
    sim = await start(nursery, Options(limits=limits), assets=SMALL)
    async with rest(sim) as client:
        statuses = [(await client.get(paths[i % len(paths)])).status_code for i in range(3)]
        assert statuses == [200, 200, 429]
        assert (await client.get("/fapi/v1/ping")).status_code == 200
        advance(sim, 5 * MINUTE)
        assert (await client.get(paths[0])).status_code == 200


async def test_connections_are_kept_alive(sim: Simulator) -> None:
    with trio.fail_after(WITHIN):
        stream = await trio.open_tcp_stream("127.0.0.1", int(sim.rest_url.rpartition(":")[2]))
        async with stream:
            for _ in range(3):
                await stream.send_all(b"GET /fapi/v1/ping HTTP/1.1\r\nHost: x\r\n\r\n")
                assert b"HTTP/1.1 200" in await stream.receive_some()
            await stream.send_all(b"GET /fapi/v1/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b""
            while data := await stream.receive_some():
                answer += data
            assert answer.endswith(b"{}")


# -- streams ----------------------------------------------------------------------------------

QUOTED = {  # frames observed on the real exchange
    "btcusdt@aggTrade": '{"e":"aggTrade","E":1791391082024,"a":3478018549,"s":"BTCUSDT","p":"83434.40","q":"0.016",'
    '"nq":"0.016","f":8154045700,"l":8154045704,"T":1791391081874,"m":true,"st":1}',
    "btcusdt@kline_1m": '{"e":"kline","E":1786173360960,"s":"BTCUSDT","k":{"t":1786173300000, "T":1786173359999, '
    '"s":"BTCUSDT", "i":"1m", "f":7960920076, "L":7960920277, "o":"64970.80", "c":"64969.40", "h":"64970.90", '
    '"l":"64969.40", "v":"9.090", "n":194, "x":true, "q":"590577.96880", "V":"3.460", "Q":"224795.09440", "B":"0"}}',
    "!forceOrder@arr": '{"e":"forceOrder","E":1791565603055,"o":{"s":"BTCUSDT","S":"SELL","o":"LIMIT","f":"IOC",'
    '"q":"0.190","p":"82338.30","ap":"82651.90","X":"FILLED","l":"0.155","z":"0.190","T":1791565602120,'
    '"ps":"BTCUSDT","st":1}}',
    "btcusdt@markPrice@1s": '{"e":"markPriceUpdate","E":1785048483000,"s":"BTCUSDT","p":"64346.70000000",'
    '"ap":"64346.70000000","P":"64335.31235580","i":"64399.61608696","r":"0.00005301","T":1785052800000,"st":1}',
}


def skeleton(text: str) -> str:
    """A frame without its values: keys, order, spacing and the decimals of what is spelled."""
    return re.sub(r"true|false", "B", re.sub(r"(BUY|SELL)", "SIDE", re.sub(r"\d+(?=[.\",}])", "#", text)))


@pytest.mark.parametrize("stream", QUOTED)
async def test_frames_look_like_the_real_ones(sim: Simulator, stream: str) -> None:
    async with subscribed(sim, stream) as client:
        sim.market.liquidate("BTC", side="sell", price="83000.00", quantity="1.250")
        advance(sim, 61_000)
        frame = await client.ws.get_message()
        assert isinstance(frame, str)

        def shape(text: str) -> str:
            return re.sub(r"\.#|\.\d+", ".#", skeleton(text))

        assert shape(frame) == shape(QUOTED[stream])
        real, ours = json.loads(QUOTED[stream]), json.loads(frame)
        assert fields(ours) == fields(real)

        def decimals(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: decimals(each) for key, each in value.items()}
            return len(value.partition(".")[2]) if isinstance(value, str) and "." in value else None

        assert decimals(ours) == decimals(real)


@needs_recordings
@pytest.mark.parametrize(
    ("sample", "stream", "extra"),
    [
        ("aggregate_trade_streams", "btcusdt@aggTrade", set()),
        ("kline_candlestick_streams", "btcusdt@kline_1m", set()),
        ("mark_price_stream", "btcusdt@markPrice", set()),
        ("mark_price_stream_for_all_market", "!markPrice@arr@1s", set()),
        ("liquidation_order_streams", "btcusdt@forceOrder", {"ps", "st"}),
    ],
)
async def test_frames_have_the_documented_fields(sim: Simulator, sample: str, stream: str, extra: set[str]) -> None:
    expected = recorded("ws_streams_market.json", sample)
    async with subscribed(sim, stream) as client:
        advance(sim, 61_000)
        frame = json.loads(await client.ws.get_message())
    frame = frame[0] if isinstance(frame, list) else frame
    assert set(frame) == set(expected)
    for inner in ("k", "o"):
        if isinstance(frame.get(inner), dict):
            assert set(frame[inner]) == set(expected[inner]) | extra


async def test_every_trade_is_streamed_as_rest_tells_it(sim: Simulator) -> None:
    async with subscribed(sim, "btcusdt@aggTrade") as client:
        for _ in range(20):
            advance(sim, 350)
        frames = await client.everything()
    assert len(frames) > 15
    assert all(0 <= frame["E"] - frame["T"] <= 350 for frame in frames)
    rows = await get(sim, "/fapi/v1/aggTrades", symbol="BTCUSDT", fromId=frames[0]["a"])
    assert [{key: frame[key] for key in rows[0]} for frame in frames] == rows


async def test_bars_update_then_close_late_and_once(sim: Simulator) -> None:
    async with subscribed(sim, "btcusdt@kline_1m", "btcusdt@aggTrade", form="/stream?streams=") as client:
        for _ in range(1300):
            advance(sim, 100)
        frames = await client.everything()
    bars = [frame["data"] for frame in frames if frame["stream"] == "btcusdt@kline_1m"]
    opens = [bar["k"]["t"] for bar in bars]
    assert opens == sorted(opens), "nothing of a bar after its close"
    closed = [bar for bar in bars if bar["k"]["x"]]
    assert len(closed) == len({bar["k"]["t"] for bar in closed}) == 2
    for bar in closed:
        assert 200 <= bar["E"] - bar["k"]["T"] <= 1001
        assert all(other["k"]["t"] != bar["k"]["t"] for other in bars[bars.index(bar) + 1 :])
    pushed = [bar["E"] for bar in bars if not bar["k"]["x"]]
    assert all(b - a >= 250 for a, b in pairwise(pushed))

    trades = [f["data"] for f in frames if f["stream"] == "btcusdt@aggTrade"]
    whole = closed[1]["k"]
    inside = [t for t in trades if whole["t"] <= t["T"] <= whole["T"]]
    assert whole["o"] == inside[0]["p"]
    assert whole["c"] == inside[-1]["p"]
    assert float(whole["h"]) == max(float(t["p"]) for t in inside)
    assert float(whole["v"]) == pytest.approx(sum(float(t["q"]) for t in inside))
    assert float(whole["q"]) == pytest.approx(sum(float(t["q"]) * float(t["p"]) for t in inside))
    assert whole["n"] == sum(t["l"] - t["f"] + 1 for t in inside)
    assert (whole["f"], whole["L"]) == (inside[0]["f"], inside[-1]["l"])
    (row,) = await get(
        sim, "/fapi/v1/klines", symbol="BTCUSDT", interval="1m", startTime=whole["t"], endTime=whole["t"]
    )
    assert row == [whole[key] for key in "tohlcvTqnVQB"]


async def test_longer_live_bars_agree_with_rest(sim: Simulator) -> None:
    streams = [f"btcusdt@kline_{interval}" for interval in ("5m", "1h", "1d", "1w", "1M")]
    async with subscribed(sim, *streams) as client:
        advance(sim, 700)
        frames = await client.everything()
    assert len(frames) == 5
    for frame in frames:
        bar = frame["k"]
        (row,) = await get(sim, "/fapi/v1/klines", symbol="BTCUSDT", interval=bar["i"], limit=1)
        assert row == [bar[key] for key in "tohlcvTqnVQB"]
        assert bar["L"] > bar["f"] > 0


async def test_a_silent_symbol_still_closes_its_bar(nursery: trio.Nursery) -> None:
    sim = await start(nursery, assets=[asset for asset in ASSETS if asset.name == "BLZ"])
    async with subscribed(sim, "blzusdt@kline_1m") as client:
        for _ in range(600):
            advance(sim, 1000)
        frames = await client.everything()
    closed = [frame for frame in frames if frame["k"]["x"]]
    assert len(closed) == 10
    assert all(1800 <= frame["E"] - frame["k"]["T"] <= 2100 for frame in closed)
    silent = [frame["k"] for frame in closed if not frame["k"]["n"]]
    assert silent
    assert all((bar["f"], bar["L"], bar["v"], bar["o"]) == (-1, -1, "0", bar["c"]) for bar in silent)


async def test_forced_orders_are_sampled(nursery: trio.Nursery) -> None:
    sim = await start(nursery, assets=SMALL)
    async with (
        subscribed(sim, "ethusdt@forceOrder") as one,
        subscribed(sim, "!forceOrder@arr", form="/stream?streams=") as everybody,
    ):
        advance(sim, 5000)  # past any window that was open
        await one.everything()
        await everybody.everything()
        began = sim.market.now
        for quantity in ("50.000", "99.000", "60.000"):
            sim.market.liquidate("ETH", side="buy", price="2900.00", quantity=quantity)
        advance(sim, 999)
        assert not [f for f in await one.everything() if f["o"]["T"] == began], "not before the second is over"
        advance(sim, 30_000)
        mine = await one.everything()
        all_of_them = [frame["data"] for frame in await everybody.everything()]
    (told,) = [frame for frame in mine if frame["o"]["T"] == began]
    order = told["o"]
    assert (order["S"], order["q"], order["z"], order["ap"], order["X"]) == (
        "BUY",
        "99.000",
        "99.000",
        "2900.00",
        "FILLED",
    )
    assert float(order["p"]) > float(order["ap"])
    assert 1000 <= told["E"] - began <= 1012
    assert told in all_of_them
    assert [f for f in all_of_them if f["o"]["s"] == "ETHUSDT"] == mine
    coin = [frame["o"] for frame in all_of_them if frame["o"]["st"] == 2]
    assert {order["s"] for order in coin} == {"BTCUSD_PERP"}
    for symbol in ("ETHUSDT", "BTCUSDT"):
        times = [frame["E"] for frame in all_of_them if frame["o"]["s"] == symbol]
        assert all(b - a >= 1000 for a, b in pairwise(times))


async def test_forced_orders_the_latest_instead(nursery: trio.Nursery) -> None:
    sim = await start(nursery, Options(messages_per_second=10_000, forced_order="latest"), assets=SMALL)
    async with subscribed(sim, "blzusdt@forceOrder") as client:
        for quantity in ("900000", "30"):
            sim.market.liquidate("BLZ", side="sell", price="0.03100", quantity=quantity)
        advance(sim, 1100)
        assert [frame["o"]["q"] for frame in await client.everything()] == ["30"]


async def test_a_bar_about_to_close_is_closed_for_a_newcomer(sim: Simulator) -> None:
    advance(sim, 60_000 - sim.market.now % 60_000 + 50)
    async with subscribed(sim, "btcusdt@kline_1m") as client:
        advance(sim, 1500)
        frames = await client.everything()
    assert frames[0]["k"]["x"]
    assert frames[0]["k"]["t"] < sim.market.now - MINUTE
    assert not any(frame["k"]["x"] for frame in frames[1:])


async def test_mark_prices(sim: Simulator) -> None:
    async with subscribed(
        sim, "btcusdt@markPrice@1s", "btcusdt@markPrice", "!markPrice@arr@1s", form="/stream?streams="
    ) as client:
        for _ in range(90):
            advance(sim, 100)
        frames = await client.everything()
    single = [f["data"] for f in frames if f["stream"] == "btcusdt@markPrice@1s"]
    assert len(single) == 9
    assert all(each["E"] % 1000 == 0 for each in single)
    assert len([f for f in frames if f["stream"] == "btcusdt@markPrice"]) == 3
    arrays = [f["data"] for f in frames if f["stream"] == "!markPrice@arr@1s"]
    assert len(arrays) == 18, "two parts a second"
    everybody = {row["s"]: row for row in arrays[0] + arrays[1]}
    assert everybody["BTCUSDT"] == single[0]
    assert everybody["BTCUSD_PERP"]["st"] == 2
    assert (everybody["BTCUSDT_261225"]["r"], everybody["BTCUSDT_261225"]["T"]) == ("", 0)
    assert "OCEANUSDT" not in everybody


async def test_non_ascii_symbols(sim: Simulator) -> None:
    async with subscribed(sim, "币安人生usdt@aggTrade") as client:
        await client.order("SUBSCRIBE", "币安人生usdt@markPrice@1s")
        await client.everything()
        advance(sim, 10_000)
        frames = await client.everything()
    assert {frame["e"] for frame in frames} == {"aggTrade", "markPriceUpdate"}
    assert {frame["s"] for frame in frames} == {"币安人生USDT"}


# -- paths and control frames -----------------------------------------------------------------


async def test_the_path_decides_the_envelope(sim: Simulator) -> None:
    for path, wrapped in (("/ws", False), ("/stream", True)):
        async with connected(sim.ws_url + path) as client:
            await client.order("SUBSCRIBE", "btcusdt@aggTrade")
            await client.everything()
            advance(sim, 5000)
            frames = await client.everything()
            assert frames
            assert all(("stream" in frame) == wrapped for frame in frames)
            reply = await client.said(
                json.dumps({"method": "SET_PROPERTY", "params": ["combined", not wrapped], "id": 9})
            )
            assert reply == {"result": None, "id": 9}
            advance(sim, 5000)
            assert all(("stream" in frame) != wrapped for frame in await client.everything())


@pytest.mark.parametrize(
    ("path", "alive"),
    [
        ("/market/ws", {"btcusdt@aggTrade", "btcusdt@kline_1m", "btcusdt@markPrice@1s"}),
        ("/public/ws", {"btcusdt@bookTicker"}),
        ("/ws", {"btcusdt@bookTicker"}),  # retired: it acknowledges everything
    ],
)
async def test_an_acknowledgement_proves_nothing(sim: Simulator, path: str, alive: set[str]) -> None:
    names = ["btcusdt@aggTrade", "btcusdt@kline_1m", "btcusdt@markPrice@1s", "btcusdt@bookTicker"]
    dead = ["btcusdt@nonsense", "BTCUSDT@aggTrade", "btcusdt@kline_7m", "nopeusdt@aggTrade", "oceanusdt@markPrice@1s"]
    async with connected(sim.ws_url.removesuffix("/market") + path) as client:
        for number, name in enumerate(names + dead):
            reply = await client.said(json.dumps({"method": "SUBSCRIBE", "params": [name], "id": number}))
            assert reply == {"result": None, "id": number}
        reply = await client.said('{"method":"SET_PROPERTY","params":["combined",true],"id":99}')
        for _ in range(5):
            advance(sim, 1000)
        frames = await client.everything()
        assert {frame["stream"] for frame in frames} == alive
        assert list(sim.connections[0].streams) == names + dead


@pytest.mark.parametrize(
    ("path", "status"),
    [("/market/ws/btcusdt@aggTrade,ethusdt@aggTrade", 400), ("/nowhere", 404), ("/private/ws", 404), ("/market", 404)],
)
async def test_bad_paths(sim: Simulator, path: str, status: int) -> None:
    with pytest.raises(ConnectionRejected) as refused:
        async with connected(sim.ws_url.removesuffix("/market") + path.replace(",", "%2C")):
            pass
    assert refused.value.status_code == status
    assert not sim.connections_total


async def test_unsubscribing_ends_the_stream(sim: Simulator) -> None:
    async with subscribed(sim, "btcusdt@aggTrade", "ethusdt@aggTrade") as client:
        await client.order("UNSUBSCRIBE", "btcusdt@aggTrade", "never@subscribed")
        await client.everything()
        advance(sim, 5000)
        assert {frame["s"] for frame in await client.everything()} == {"ETHUSDT"}
        listed = await client.said('{"method":"LIST_SUBSCRIPTIONS","id":77}')
        assert listed == {"result": ["ethusdt@aggTrade"], "id": 77}


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        ("what?", 3, "Invalid JSON: expected value at line 1 column 1"),
        ('{"id":1}', 2, "missing field `method`"),
        ("[]", 2, "missing field `method`"),
        ('{"method":"SUB","params":[],"id":1}', 2, "unknown variant `SUB`, expected one of `SUBSCRIBE`"),
        ('{"method":"SUBSCRIBE","params":[],"id":-1}', 2, "request ID must be an unsigned integer"),
        ('{"method":"SUBSCRIBE","params":[],"id":"a"}', 2, "request ID must be an unsigned integer"),
        ('{"method":"SUBSCRIBE","params":{},"id":1}', 2, "Invalid request"),
        ('{"method":"GET_PROPERTY","params":["speed"],"id":1}', 0, "Unknown property"),
        ('{"method":"SET_PROPERTY","params":["combined","yes"],"id":1}', 1, "Invalid value type: expected Boolean"),
        ('{"method":"SET_PROPERTY","params":[1,true],"id":1}', 2, "property name must be a string"),
        ('{"method":"SET_PROPERTY","params":["combined",true,1],"id":1}', 2, "too many parameters"),
    ],
)
async def test_control_errors(sim: Simulator, message: str, code: int, text: str) -> None:
    async with connected(f"{sim.ws_url}/ws") as client:
        reply = await client.said(message)
        assert reply["code"] == code
        assert text in reply["msg"]
        assert await client.said('{"method":"GET_PROPERTY","params":["combined"],"id":2}') == {"result": False, "id": 2}
        assert sim.connections[0].received[0] == message


async def ended(client: Client) -> int | None:
    """Read to the end of the connection; the close code."""
    try:
        while True:
            await client.ws.get_message()
    except ConnectionClosed as closed:
        return None if closed.reason is None else closed.reason.code


@virtual_time
async def test_too_many_messages_in_a_second(nursery: trio.Nursery) -> None:
    sim = await start(nursery, Options(), assets=SMALL)
    async with connected(f"{sim.ws_url}/ws") as client:
        for _ in range(5):
            await client.order("LIST_SUBSCRIPTIONS")
            await client.ws.pong()
        assert len(sim.connections) == 1
        await client.order("LIST_SUBSCRIPTIONS")
        assert await ended(client) == 1008


async def test_too_many_streams(sim: Simulator) -> None:
    async with connected(f"{sim.ws_url}/ws") as client:
        await client.order("SUBSCRIBE", *(f"s{i}usdt@aggTrade" for i in range(1024)))
        await client.everything()
        await client.order("SUBSCRIBE", "btcusdt@aggTrade")
        assert await ended(client) == 1008


@virtual_time
async def test_pings_and_lifetime(nursery: trio.Nursery) -> None:
    sim = await start(nursery, Options(ping_interval=0.1, lifetime=0.6), assets=SMALL)
    async with connected(f"{sim.ws_url}/ws") as client:
        connection = sim.connections[0]
        assert await ended(client) == 1001
        assert connection.pongs >= 2


@virtual_time
async def test_no_pong_is_the_end(nursery: trio.Nursery) -> None:
    sim = await start(nursery, Options(ping_interval=0.1, pong_timeout=0.3), assets=SMALL)
    with trio.fail_after(WITHIN):
        port = int(sim.rest_url.rpartition(":")[2]), int(re.findall(r":(\d+)", sim.ws_url)[0])
        async with await trio.open_tcp_stream("127.0.0.1", port[1]) as stream:
            await stream.send_all(
                b"GET /market/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            received = b""
            while data := await stream.receive_some():
                received += data
    assert b"101 " in received
    assert b"\x89\x00" in received
    assert b"\x88\x0e\x03\xf0Pong timeout" in received


# -- faults -----------------------------------------------------------------------------------


async def outcome(client: httpx.AsyncClient, path: str = "/fapi/v1/ping") -> tuple[str, Any]:
    try:
        answer = await client.get(path)
    except httpx.HTTPError as error:
        return type(error).__name__, None
    return str(answer.status_code), answer


@virtual_time
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (RestFault(reply=too_many_requests()), "429"),
        (RestFault(reply=too_many_requests(retry_after=7)), "429"),
        (RestFault(reply=banned(START + DAY)), "418"),
        (RestFault(reply=restricted()), "451"),
        (RestFault(reply=html(403)), "403"),
        (RestFault(reply=html(502)), "502"),
        (RestFault(reply=html(200)), "200"),
        (RestFault(reply=unavailable()), "503"),
        (RestFault(truncate=True, path="/fapi/v1/ping"), "RemoteProtocolError"),
        (RestFault(hang_up=True), "RemoteProtocolError"),
        (RestFault(delay=0.3), "ReadTimeout"),
    ],
)
async def test_rest_faults_strike_as_often_as_told(sim: Simulator, fault: RestFault, expected: str) -> None:
    fault.times = 1
    sim.faults.rest.append(fault)
    with trio.fail_after(WITHIN):
        async with httpx.AsyncClient(base_url=sim.rest_url, timeout=0.2) as client:
            kind, answer = await outcome(client)
            assert kind == expected
            if fault.reply is not None:
                assert answer.content == fault.reply.body
                assert answer.headers.get("retry-after") == fault.reply.headers.get("Retry-After")
            assert (await outcome(client))[0] == "200", "once only"
    assert not sim.faults.rest


async def test_rest_faults_by_path(sim: Simulator) -> None:
    sim.faults.rest.append(RestFault("/fapi/v1/klines", reply=html(500)))
    async with rest(sim) as client:
        for _ in range(2):
            assert (await outcome(client, "/fapi/v1/klines?symbol=BTCUSDT&interval=1m"))[0] == "500"
            assert (await outcome(client))[0] == "200"
    assert sim.count("/fapi/v1/klines") == 2
    assert sim.count() == 4


async def test_kept_alive_connection_closed_unannounced(sim: Simulator) -> None:
    sim.faults.rest.append(RestFault(close=True, times=1))
    with trio.fail_after(WITHIN):
        async with await trio.open_tcp_stream("127.0.0.1", int(sim.rest_url.rpartition(":")[2])) as stream:
            await stream.send_all(b"GET /fapi/v1/ping HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while data := await stream.receive_some():
                answer += data
    assert answer.endswith(b"{}")
    assert b"onnection: close" not in answer


@virtual_time
async def test_rest_refuses_connections(sim: Simulator) -> None:
    sim.faults.rest_accept = "reset"
    async with rest(sim) as client:
        assert (await outcome(client))[0] in ("ReadError", "RemoteProtocolError", "ConnectError", "WriteError")
        sim.faults.rest_accept = "accept"
        assert (await outcome(client))[0] == "200"
    sim.faults.rest_accept = "silent"
    async with httpx.AsyncClient(base_url=sim.rest_url, timeout=0.2) as client:
        assert (await outcome(client))[0] == "ReadTimeout"


@virtual_time
async def test_websocket_refuses_connections(sim: Simulator) -> None:
    url = f"{sim.ws_url}/ws"
    sim.faults.ws_accept = "reset"
    with trio.fail_after(WITHIN):
        async with await trio.open_tcp_stream("127.0.0.1", int(re.findall(r":(\d+)", url)[0])) as stream:
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
    sim.faults.ws_accept = 503
    with pytest.raises(ConnectionRejected):
        async with connected(url):
            pass
    sim.faults.ws_accept = "silent"
    with trio.move_on_after(0.3) as waited:
        async with open_websocket_url(url, connect_timeout=5):
            pass
    assert waited.cancelled_caught
    sim.faults.ws_accept = "accept"
    async with connected(url) as client:
        assert await client.everything() == []
    assert (sim.attempts, sim.connections_total) == (4, 1)


async def test_drop_and_close(sim: Simulator) -> None:
    async with subscribed(sim, "btcusdt@aggTrade") as client:
        sim.drop()
        assert await ended(client) == 1006
    async with subscribed(sim, "btcusdt@aggTrade") as client, subscribed(sim, "btcusdt@aggTrade") as other:
        sim.connections[0].close(1012, "restart")
        assert await ended(client) == 1012
        advance(sim, 5000)
        assert await other.everything()
        sim.close(1001)
        assert await ended(other) == 1001
    with trio.fail_after(WITHIN):
        while sim.connections:  # noqa: ASYNC110 (it has no event to wait for)
            await trio.sleep(0.01)


@virtual_time
async def test_stall_is_half_open_silence(sim: Simulator) -> None:
    async with subscribed(sim, "btcusdt@aggTrade") as client:
        sim.faults.stall = True
        advance(sim, 5000)
        with trio.move_on_after(0.3) as silent:
            await client.ws.ping()
        assert silent.cancelled_caught, "no pong"
        sim.faults.stall = False
        before = sim.market.tapes["BTC"].next_id
        advance(sim, 5000)
        frames = await client.everything()
        assert frames[0]["a"] == before, "what happened meanwhile is lost"


@virtual_time
async def test_one_connection_stalls(sim: Simulator) -> None:
    async with subscribed(sim, "btcusdt@aggTrade") as client, subscribed(sim, "btcusdt@aggTrade") as other:
        sim.connections[0].stalled = True
        advance(sim, 5000)
        assert await other.everything()
        with trio.move_on_after(0.2) as silent:
            await client.everything()
        assert silent.cancelled_caught
        sim.connections[0].stalled = False


@pytest.mark.parametrize("muted", ["btcusdt@aggTrade", "*"])
async def test_mute(sim: Simulator, muted: str) -> None:
    async with subscribed(sim, "btcusdt@aggTrade", "ethusdt@aggTrade") as client:
        sim.faults.mute.add(muted)
        advance(sim, 5000)
        frames = await client.everything()
        await client.ws.ping()
        assert {frame["s"] for frame in frames} == (set() if muted == "*" else {"ETHUSDT"})
        sim.faults.mute.clear()
        before = sim.market.tapes["BTC"].next_id
        advance(sim, 5000)
        ids = [frame["a"] for frame in await client.everything() if frame["s"] == "BTCUSDT"]
        assert ids[0] == before, "a gap is left"


@pytest.mark.parametrize("kind", BAD_FRAMES)
async def test_bad_frames(sim: Simulator, kind: str) -> None:
    with trio.fail_after(WITHIN):
        async with open_websocket_url(f"{sim.ws_url}/ws", max_message_size=1 << 20, disconnect_timeout=1) as ws:
            sim.push(BAD_FRAMES[kind])
            if kind in ("oversized", "not utf-8"):
                assert await ended(Client(ws)) in (1009, 1007)
                sim.drop()  # after an error of the protocol trio-websocket waits for the server to go
            else:
                message = await ws.get_message()
                assert isinstance(message, str)
                assert message.encode() == BAD_FRAMES[kind]


async def test_binary_and_broken_frames(sim: Simulator) -> None:
    async with connected(f"{sim.ws_url}/ws") as client:
        sim.push('{"e":"aggTrade"}', binary=True)
        assert await client.ws.get_message() == b'{"e":"aggTrade"}'
        sim.connections[0].send_raw(b"\xf1\x01x")  # reserved bits set
        assert await ended(client) == 1002
        sim.drop()


async def test_sent_is_what_the_client_saw(sim: Simulator) -> None:
    async with subscribed(sim, "btcusdt@aggTrade", "btcusdt@kline_1m", form="/stream?streams=") as client:
        for _ in range(20):
            advance(sim, 1000)
        frames = await client.everything()
    assert frames == [json.loads(sent.frame) for sent in sim.sent]
    assert {sent.stream for sent in sim.sent} == {"btcusdt@aggTrade", "btcusdt@kline_1m"}


async def test_it_runs_by_itself(nursery: trio.Nursery) -> None:
    """With a running clock, faster than real: a bar closes without a hand on it."""
    market = Market(seed=1, assets=SMALL, clock=Clock(START + 20_000, rate=60))
    sim: Simulator = await nursery.start(partial(serve, market, faults=Faults()))
    async with subscribed(sim, "btcusdt@kline_1m") as client:
        while not json.loads(await client.ws.get_message())["k"]["x"]:
            pass


async def test_two_exchanges_may_share_a_market(nursery: trio.Nursery) -> None:
    market = Market(seed=1, assets=SMALL, clock=Clock(START, rate=0))
    sims: list[Simulator] = [await nursery.start(partial(serve, market)) for _ in range(2)]
    async with subscribed(sims[0], "btcusdt@aggTrade") as one, subscribed(sims[1], "btcusdt@aggTrade") as two:
        advance(sims[0], 4000)
        sims[1].tick()
        first, second = await one.everything(), await two.everything()
    assert first
    assert first == second
