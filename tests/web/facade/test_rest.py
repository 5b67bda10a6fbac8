"""The façade over REST: for whatever is closed its answers are the exchange's, as text; what is not served is refused
in the exchange's words.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import msgspec
import pytest
import trio

from actors.facade import rows
from actors.simulation.server import Reply, RestFault
from tests.actors.exchanges.fixtures import simulator_of
from tests.daemon.fixtures import START
from tests.patience import WITHIN
from tests.web.facade.fixtures import SYMBOLS, venue

MINUTE = 60_000
NAMES = tuple(SYMBOLS)
OKX = "BTC-USDT-SWAP"


def klines(name: str, *, start: int | None = None, end: int | None = None, limit: int | None = None) -> dict[str, Any]:
    """A request for minute bars, as keyword arguments of `Venue.both`."""
    if name == "hyperliquid":
        times = {"startTime": START - 600 * MINUTE if start is None else start}
        if end is not None:
            times["endTime"] = end
        return {"json": {"type": "candleSnapshot", "req": {"coin": "BTC", "interval": "1m", **times}}}
    if name == "okx":
        query: dict[str, Any] = {"instId": OKX, "bar": "1m"}
        query |= {"before": None if start is None else max(0, start - 1), "after": None if end is None else end + 1}
        is_old = end is not None and end < START - 1300 * MINUTE
        path = f"/api/v5/market/{'history-candles' if is_old else 'candles'}"
    elif name == "bybit":
        query = {"category": "linear", "symbol": "BTCUSDT", "interval": "1", "start": start, "end": end}
        path = "/v5/market/kline"
    else:
        query = {"symbol": "BTCUSDT", "interval": "1m", "startTime": start, "endTime": end}
        path = "/fapi/v1/klines"
    query["limit"] = limit
    return {"path": path, "params": {name: value for name, value in query.items() if value is not None}}


RANGES: Sequence[Mapping[str, int]] = (
    {},
    {"limit": 2},
    {"limit": 700},
    {"start": START - 3000 * MINUTE, "limit": 40},
    {"start": START - 3000 * MINUTE + 1234, "limit": 40},
    {"start": START - 2990 * MINUTE, "end": START - 2960 * MINUTE, "limit": 900},
    {"end": START - 100 * MINUTE, "limit": 50},
    {"start": START - 5 * MINUTE},
    {"start": START - 5 * MINUTE, "end": START},
    {"start": 0, "limit": 1},
)


@pytest.mark.parametrize("name", NAMES)
async def test_bars_are_the_exchanges_own_and_asked_for_once(name: str) -> None:
    patient: dict[str, Any] = {}
    if name == "hyperliquid":  # its clock stands still, and with it the minute in which it counts
        simulator = simulator_of(name)
        patient["options"] = simulator.Options(limits=simulator.Limits(weight=100_000))
    async with venue(name, **patient) as world:
        for _ in range(3):
            for wanted in RANGES:
                request = klines(name, **wanted)
                ours, theirs = await world.both(**request)
                assert rows_of(ours) == rows_of(theirs), wanted
        before = len(world.asked())
        for wanted in RANGES:
            answer = await world.ours(**klines(name, **wanted))
            is_refused = name == "okx" and wanted.get("limit", 0) > 300  # in its own words, and remembered
            assert answer.headers["x-marketd"] == ("cache" if is_refused else "rows"), wanted
        # The present is known for a second; what is past is not asked for again.
        opened = START - START % MINUTE
        present = str(opened - 1) if name == "okx" else str(opened)  # that is older than what is asked for
        assert all(present in str(served) for served in world.asked()[before:])


def rows_of(answer: httpx.Response) -> Any:
    """Compared as text: number for number as the exchange wrote them."""
    raw = msgspec.json.decode(answer.content, type=msgspec.Raw)
    body = msgspec.json.decode(raw)
    if isinstance(body, dict):
        return body["result"] if "result" in body else (body["code"], body["msg"], body["data"])
    return bytes(raw)


@pytest.mark.parametrize("name", NAMES)
async def test_ten_clients_at_once_are_one_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "TAIL_FRESH", WITHIN)  # on a busy machine the last of them comes late
    async with venue(name) as world:
        answers: list[bytes] = []

        async def ask(offset: int) -> None:
            request = klines(name)
            if name == "hyperliquid":  # every client puts its own millisecond into its range
                request["json"]["req"]["startTime"] += offset
            answers.append(rows_of(await world.ours(**request)))

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(ask, number)
        assert len(world.asked()) == 1
        assert all(answer == answers[0] for answer in answers)


FUNDING: Mapping[str, Sequence[dict[str, Any]]] = {
    "binance": [
        {"path": "/fapi/v1/fundingRate", "params": {"symbol": "BTCUSDT"} | query}
        for query in ({}, {"limit": "7"}, {"startTime": str(START - 10**9)}, {"startTime": "0", "endTime": str(START)})
    ],
    "bybit": [
        {"path": "/v5/market/funding/history", "params": {"category": "linear", "symbol": "BTCUSDT"} | query}
        for query in (
            {},
            {"limit": "7"},
            {"startTime": str(START - 10**9), "endTime": str(START)},
            {"endTime": str(START - 10**9)},
            {"startTime": str(START - 10**9)},  # an error of the exchange's
        )
    ],
    "okx": [
        {"path": "/api/v5/public/funding-rate-history", "params": {"instId": OKX} | query}
        for query in (
            {},
            {"limit": "7"},
            {"before": str(START - 10**9), "limit": "50"},
            {"after": str(START - 10**9), "limit": "20"},
            {"before": str(START - 2 * 10**9), "after": str(START - 10**9), "limit": "100"},
        )
    ],
    "hyperliquid": [
        {"json": {"type": "fundingHistory", "coin": "BTC", "startTime": START - 3_600_000 * hours} | more}
        for hours in (5, 40, 900)
        for more in ({}, {"endTime": START - 7_200_000})
    ],
}


@pytest.mark.parametrize("name", NAMES)
async def test_settled_funding_is_the_exchanges_own(name: str) -> None:
    patient: dict[str, Any] = {}
    if name == "okx":  # it is asked twice as often as its clients do
        simulator = simulator_of(name)
        limits = simulator.Limits(requests={"/api/v5/public/funding-rate-history": 1000})
        patient["options"] = simulator.Options(limits=limits)
    async with venue(name, **patient) as world:
        for _ in range(2):
            for request in FUNDING[name]:
                ours, theirs = await world.both(**request)
                assert (ours.status_code, rows_of(ours)) == (theirs.status_code, rows_of(theirs)), request
        before = len(world.asked())
        for request in FUNDING[name]:
            assert (await world.ours(**request)).headers["x-marketd"] in ("rows", "cache"), request
        assert len(world.asked()) == before


def get(path: str, **params: str) -> dict[str, Any]:
    return {"path": path, "params": params}


def info(**body: Any) -> dict[str, Any]:
    return {"json": body}


WRONG: Mapping[str, Sequence[dict[str, Any]]] = {
    "binance": [
        get("/fapi/v1/klines", symbol="NOPE", interval="1m"),
        get("/fapi/v1/klines", symbol="BTCUSDT", interval="7m"),
        get("/fapi/v1/klines", symbol="BTCUSDT"),
        get("/fapi/v1/klines", symbol="BTCUSDT", interval="1m", limit="1501"),
        get("/fapi/v1/klines", symbol="BTCUSDT", interval="1m", limit="x"),
        get("/fapi/v1/klines", symbol="BTCUSDT", interval="1m", startTime="2", endTime="1"),
        get("/fapi/v1/openInterest"),
        get("/fapi/v1/fundingRate", symbol="BTCUSDT", limit="0"),
    ],
    "bybit": [
        get("/v5/market/kline", category="linear", symbol="NOPE", interval="1"),
        get("/v5/market/kline", category="linear", symbol="BTCUSDT", interval="7"),
        get("/v5/market/kline", category="linear", symbol="BTCUSDT", interval="1", limit="0"),
        get("/v5/market/tickers", category="linear", symbol="NOPE"),
        get("/v5/market/funding/history", category="linear", symbol="BTCUSDT", startTime="1"),
    ],
    "okx": [
        get("/api/v5/market/candles", instId="NOPE-USDT-SWAP", bar="1m"),
        get("/api/v5/market/candles", instId=OKX, bar="7m"),
        get("/api/v5/market/candles", instId=OKX, bar="1h"),
        get("/api/v5/market/candles", bar="1m"),
        get("/api/v5/market/candles", instId=OKX, limit="301"),
        get("/api/v5/market/candles", instId=OKX, limit="x"),
        get("/api/v5/market/books", instId=OKX, sz="500"),
        get("/api/v5/market/ticker", instId="NOPE-USDT-SWAP"),
        get("/api/v5/public/funding-rate-history", instId=OKX, limit="0"),
    ],
    "hyperliquid": [
        info(type="candleSnapshot", req={"coin": "NOPE", "interval": "1m", "startTime": 1}),
        info(type="candleSnapshot", req={"coin": "BTC", "interval": "7m", "startTime": 1}),
        info(type="candleSnapshot", req={"coin": "BTC", "interval": "1m", "startTime": "1"}),
        info(type="candleSnapshot"),
        info(type="fundingHistory", coin="NOPE", startTime=1),
        info(type="galaxy"),
        {"content": b"not json", "headers": {"Content-Type": "application/json"}},
        {"content": b"[1]", "headers": {"Content-Type": "application/json"}},
    ],
}


@pytest.mark.parametrize("name", NAMES)
async def test_a_clients_own_fault_is_told_in_the_exchanges_words_and_asked_once(name: str) -> None:
    async with venue(name) as world:
        for request in WRONG[name]:
            ours, theirs = await world.both(**request)
            assert ours.status_code == theirs.status_code, request
            assert without_time(ours.content) == without_time(theirs.content), request
        before = len(world.asked())
        for request in WRONG[name]:
            await world.ours(**request)
        assert len(world.asked()) == before


def without_time(body: bytes) -> Any:
    try:
        told = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body
    return {**told, "time": 0} if isinstance(told, dict) else told


SECRET = "SECRETsecret0123456789"
PRIVATE: Mapping[str, Sequence[dict[str, Any]]] = {
    "binance": [
        get("/fapi/v2/account", timestamp="1", signature=SECRET),
        get("/fapi/v1/klines", symbol="BTCUSDT", interval="1m", signature=SECRET),
        {"path": "/fapi/v1/order", "method": "POST", "content": f"symbol=BTCUSDT&signature={SECRET}".encode()},
        {"path": "/fapi/v1/listenKey", "method": "POST"},
    ],
    "bybit": [
        get("/v5/position/list", category="linear"),
        get("/v5/account/wallet-balance", api_key=SECRET, sign=SECRET),
        {"path": "/v5/order/create", "method": "POST", "content": f'{{"x":"{SECRET}"}}'.encode()},
    ],
    "okx": [
        get("/api/v5/account/balance"),
        {"path": "/api/v5/trade/order", "method": "POST", "content": f'{{"x":"{SECRET}"}}'.encode()},
    ],
    "hyperliquid": [{"path": "/exchange", "json": {"action": {}, "signature": SECRET}}],
}
REFUSED = {"binance": (401, -2015), "bybit": (200, 10003), "hyperliquid": (401, None), "okx": (401, "50111")}


@pytest.mark.parametrize("name", NAMES)
async def test_what_is_signed_is_refused_and_goes_nowhere(name: str) -> None:
    headers = {"X-MBX-APIKEY": SECRET, "X-BAPI-API-KEY": SECRET, "X-BAPI-SIGN": SECRET, "Cookie": f"a={SECRET}"}
    headers |= {"OK-ACCESS-KEY": SECRET, "OK-ACCESS-SIGN": SECRET, "OK-ACCESS-PASSPHRASE": SECRET}
    async with venue(name) as world:
        before = len(world.asked())
        for request in PRIVATE[name]:
            answer = await world.ours(**request, headers=headers)
            status, code = REFUSED[name]
            assert answer.status_code == status, request
            assert b"public market data only" in answer.content
            if code is not None:
                assert code in answer.json().values()
        assert len(world.asked()) == before
        request = klines(name)  # neither a key nor what nobody knows makes a request private
        if name == "hyperliquid":
            request["json"]["apiKey"] = request["json"]["req"]["secret"] = SECRET
            await world.ours(**info(type="l2Book", coin="BTC", password=SECRET), headers=headers)
            await world.ours(**info(type="openOrders", user="0x" + "1" * 40, privateKey=SECRET), headers=headers)
        else:
            request["params"]["secret"] = SECRET
        await world.ours(**request, headers=headers)
        sent = [repr(served) for served in world.asked()]
        assert sent
        assert not any(SECRET in request for request in sent)
        assert SECRET not in str(world.logs)


NOWHERE: Mapping[str, Sequence[dict[str, Any]]] = {
    "binance": [get("/fapi/v1/galaxy"), get("/dapi/v1/klines"), get("/fapi/v1/ticker"), get("/")],
    "bybit": [get("/v5/market/galaxy"), get("/v2/public/tickers")],
    "hyperliquid": [],
    "okx": [get("/api/v5/market/galaxy"), get("/v5/market/tickers"), get("/")],
}


@pytest.mark.parametrize("name", NAMES)
async def test_an_unknown_path_is_not_tried(name: str) -> None:
    async with venue(name) as world:
        before = len(world.asked())
        for request in NOWHERE[name]:
            answer = await world.ours(**request)
            assert "at marketd" in answer.text, request
            assert answer.status_code == (200 if name == "bybit" else 404)
        assert len(world.asked()) == before


async def test_an_exchange_that_does_not_run_is_a_problem_of_marketds_own() -> None:
    async with venue("binance") as world:
        answer = await world.client.get("/as/kraken/anything")
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_exchange")


async def test_okx_has_its_swaps_here_and_nothing_else() -> None:
    async with venue("okx") as world:
        before = len(world.asked())
        for request in (
            get("/api/v5/public/instruments", instType="SPOT"),
            get("/api/v5/market/candles", instId="BTC-USDT", bar="1m"),
            get("/api/v5/market/ticker", instId="BTC-USD-260925"),
        ):
            answer = await world.ours(**request)
            assert answer.json()["code"] in ("51000", "51001")
            assert "at marketd" in answer.json()["msg"]
        assert len(world.asked()) == before
        ours = await world.ours(**get("/api/v5/public/time"))
        assert abs(int(ours.json()["data"][0]["ts"]) - world.sim.market.now) < 60_000
        for request in (
            get("/api/v5/public/instruments", instType="SWAP"),
            get("/api/v5/public/funding-rate", instId="ANY"),
            get("/api/v5/market/tickers", instType="SWAP"),
            get("/api/v5/market/books", instId=OKX, sz="20"),
            get("/api/v5/public/open-interest", instType="SWAP", instId=OKX),
            get("/api/v5/rubik/stat/contracts/open-interest-history", instId=OKX, period="5m"),
        ):
            ours, theirs = await world.both(**request)
            assert (ours.status_code, ours.content) == (200, theirs.content)


async def test_the_exchanges_breakdown_is_told_in_its_own_shape() -> None:
    async with venue("binance") as world:
        world.sim.faults.rest.append(
            RestFault(path="/fapi/v1/ticker", reply=Reply(503, b"<html>", content_type="text/html"))
        )
        answer = await world.ours(**get("/fapi/v1/ticker/24hr", symbol="BTCUSDT"))
        assert (answer.status_code, answer.json()["code"]) == (502, -1001)


async def test_the_count_of_used_weight_is_where_clients_look_for_it() -> None:
    async with venue("binance") as world:
        answer = await world.ours(**get("/fapi/v1/time"))
        assert int(answer.headers["x-mbx-used-weight-1m"]) > 0
        assert (await world.ours(**get("/futures/data/galaxy"))).headers.get("x-mbx-used-weight-1m") is None
