"""Binance's REST answers: what is asked for, at what weight, in which pages, and what the rows become."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actors.errors import (
    BadMessage,
    MarketError,
    UnknownInterval,
    UnknownSymbol,
    Unsupported,
    UpstreamError,
    UpstreamLimited,
    UpstreamTimeout,
)
from actors.events import FundingRate, Instrument, Ohlc, OpenInterest, from_ms, ms
from actors.exchanges.binance import EXCHANGE
from actors.exchanges.binance.rest import BinanceRest, explain
from actors.upstream.rest import Params, RestClient
from tests.patience import WITHIN
from tests.recordings import RECORDINGS

MINUTE = timedelta(minutes=1)
HOUR = 3_600_000  # ms
NOW = datetime(2026, 11, 24, 12, 0, 30, tzinfo=UTC)
FIRST = NOW.replace(second=0) - 4000 * MINUTE  # the open of the first bar there is


class Asked(NamedTuple):
    path: str
    params: dict[str, str | int]
    bucket: str
    weight: int


class FakeClient(RestClient):
    """Answers from functions, by path; an error body is raised as the real client would."""

    def __init__(self, answers: Mapping[str, Callable[[dict[str, Any]], object]]) -> None:
        self.answers = answers
        self.asked: list[Asked] = []

    async def get(self, path: str, params: Params | None = None, *, bucket: str, weight: int) -> bytes:
        given = {key: value for key, value in (params or {}).items() if value is not None}
        self.asked.append(Asked(path, given, bucket, weight))
        answer = self.answers[path](given)
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        if isinstance(answer, dict) and "code" in answer:
            raise explain(400, body) or UpstreamError("?")
        return body


def answering(path: str, answer: object) -> tuple[BinanceRest, FakeClient]:
    client = FakeClient({path: answer if callable(answer) else lambda _: answer})
    return BinanceRest(client, lambda: NOW), client


def instrument(symbol: str = "BTCUSDT", hours: float | None = 8.0) -> Instrument:
    return Instrument(
        exchange="binance",
        symbol=symbol,
        base="BTC",
        quote="USDT",
        settle="USDT",
        status="TRADING",
        tick_size=0.1,
        step_size=0.001,
        funding_interval_hours=hours,
    )


def kline(open_time: int, close: str = "64969.40") -> list[object]:
    row: list[object] = [open_time, "64970.80", "64970.90", "64969.40", close, "9.090", open_time + 59_999]
    return [*row, "590577.96880", 194, "3.460", "224795.09440", "0"]


def klines(params: dict[str, Any]) -> object:
    """One-minute bars from FIRST to the one that is open now, cut as Binance cuts them."""
    start, end = params.get("startTime"), params.get("endTime")
    if start is not None and end is not None and start > end:
        return {"code": -1023, "msg": "Start time is greater than end time."}
    assert 1 <= params["limit"] <= 1500
    times = [ms(FIRST + index * MINUTE) for index in range(4001)]
    times = [t for t in times if (start is None or t >= start) and (end is None or t <= end)]
    return [kline(t) for t in (times[: params["limit"]] if start is not None else times[-params["limit"] :])]


KLINES = "/fapi/v1/klines"


async def ask_klines(
    limit: int, start: datetime | None = None, end: datetime | None = None
) -> tuple[list[int], list[Asked]]:
    """Minutes since FIRST of the bars that came, and what was asked."""
    client = FakeClient({KLINES: klines})
    rows = await BinanceRest(client, lambda: NOW).ohlc("BTCUSDT", "1m", limit=limit, start=start, end=end)
    return [(row.timestamp - FIRST) // MINUTE for row in rows], client.asked


# --- bars ---


async def test_a_bar() -> None:
    rest, client = answering(KLINES, [kline(1786173300000)])
    assert await rest.ohlc("BTCUSDT", "1m", limit=1) == [
        Ohlc(
            exchange="binance",
            symbol="BTCUSDT",
            timestamp=from_ms(1786173300000),
            interval="1m",
            open=64970.8,
            high=64970.9,
            low=64969.4,
            close=64969.4,
            volume=9.09,
            quote_volume=590577.9688,
            trades_count=194,
            is_closed=True,
        )
    ]
    assert client.asked == [Asked(KLINES, {"symbol": "BTCUSDT", "interval": "1m", "limit": 1}, "weight", 1)]


async def test_bars_as_another_library_reads_them() -> None:
    path = RECORDINGS / "ccxt" / "binance_fetchOHLCV_swap.json"
    if not path.exists():
        pytest.skip(f"no recordings at {path}")
    sample = json.loads(path.read_text())
    rest, _ = answering(KLINES, sample["httpResponse"])
    rows = await rest.ohlc("BTCUSDT", "1m", limit=3)
    said = [[ms(row.timestamp), row.open, row.high, row.low, row.close, row.volume] for row in rows]
    assert said == sample["parsedResponse"]


@pytest.mark.parametrize(
    ("limit", "weight"), [(1, 1), (99, 1), (100, 2), (499, 2), (500, 5), (1000, 5), (1001, 10), (1500, 10)]
)
async def test_bars_weigh_by_their_number(limit: int, weight: int) -> None:
    rows, asked = await ask_klines(limit)
    assert len(rows) == limit
    assert [(one.bucket, one.weight) for one in asked] == [("weight", weight)]


async def test_a_range_of_bars_is_half_open() -> None:
    rows, asked = await ask_klines(100, FIRST + 10 * MINUTE, FIRST + 13 * MINUTE)
    assert rows == [10, 11, 12]
    assert asked[0].params["startTime"] == ms(FIRST + 10 * MINUTE)
    assert asked[0].params["endTime"] == ms(FIRST + 13 * MINUTE) - 1
    rows, _ = await ask_klines(100, FIRST + 10 * MINUTE + timedelta(milliseconds=1), FIRST + 13 * MINUTE)
    assert rows == [11, 12]


@pytest.mark.parametrize("limit", [1, 2, 1499, 1500, 1501, 3200, 10_000])
async def test_the_same_start_gives_the_same_first_bar(limit: int) -> None:
    rows, asked = await ask_klines(limit, FIRST + 100 * MINUTE)
    assert rows == list(range(100, min(100 + limit, 4001)))
    assert all(int(one.params["limit"]) <= 1500 for one in asked)


@pytest.mark.parametrize("limit", [1, 1500, 1501, 3200, 4001, 10_000])
async def test_without_a_start_the_newest_bars_come(limit: int) -> None:
    rows, _ = await ask_klines(limit)
    assert rows == list(range(max(0, 4001 - limit), 4001))
    rows, _ = await ask_klines(limit, end=FIRST + 3500 * MINUTE)
    assert rows == list(range(max(0, 3500 - limit), 3500))


@pytest.mark.parametrize("count", [1, 1499, 1500, 1501, 3000, 3001])
async def test_a_range_beyond_one_page(count: int) -> None:
    rows, asked = await ask_klines(4000, FIRST + MINUTE, FIRST + (1 + count) * MINUTE)
    assert rows == list(range(1, 1 + count))
    assert len(asked) <= count // 1500 + 1


async def test_a_range_of_bars_that_have_not_come_to_be() -> None:
    assert (await ask_klines(10, NOW + MINUTE))[0] == []
    assert (await ask_klines(10, NOW + MINUTE, NOW + 2 * MINUTE))[0] == []
    assert (await ask_klines(10, None, FIRST))[0] == []


async def test_a_bar_is_closed_by_the_exchange_s_clock() -> None:
    end = 1786173360000
    for now, closed in ((end - 1, False), (end, True), (end + 60_000, True), (end - 60_000, False)):
        client = FakeClient({KLINES: lambda _: [kline(end - 60_000)]})
        (row,) = await BinanceRest(client, partial(from_ms, now)).ohlc("BTCUSDT", "1m", limit=1)
        assert row.is_closed is closed


async def test_a_bar_that_ended_while_the_answer_travelled_was_open_when_it_was_read() -> None:
    """The row lacks what was traded after the exchange read it, so it may not pass for the bar's last word."""
    end = 1786173360000
    clock = [end - 20]

    def answer(_: dict[str, Any]) -> object:
        clock[0] = end + 30
        return [kline(end - 60_000)]

    rest = BinanceRest(FakeClient({KLINES: answer}), lambda: from_ms(clock[0]))
    (row,) = await rest.ohlc("BTCUSDT", "1m", limit=1)
    assert not row.is_closed


@pytest.mark.parametrize(
    "row",
    [
        [],
        kline(0)[:11],
        ["0", *kline(0)[1:]],
        kline(-1),
        kline(10**18),
        *(kline(0, close) for close in ("nan", "inf", "-1", "", "1e999")),
        [0, 64970.8, *kline(0)[2:]],
        None,
    ],
    ids=lambda row: repr(row)[:30],
)
async def test_a_broken_row_is_a_bad_message(row: object) -> None:
    rest, _ = answering(KLINES, [kline(0), row])
    with pytest.raises(BadMessage):
        await rest.ohlc("BTCUSDT", "1m", limit=2)


# --- the catalogue and the clock ---


async def test_the_exchange_s_time() -> None:
    rest, client = answering("/fapi/v1/time", {"serverTime": 1499827319559})
    assert await rest.server_time() == from_ms(1499827319559)
    assert client.asked == [Asked("/fapi/v1/time", {}, "weight", 1)]


def contract(symbol: str, type_: str = "PERPETUAL", status: str = "TRADING") -> dict[str, object]:
    return {
        "symbol": symbol,
        "pair": symbol,
        "contractType": type_,
        "status": status,
        "baseAsset": "BTC",
        "quoteAsset": "USDT",
        "marginAsset": "USDC",
        "pricePrecision": 7,
        "filters": [
            {"filterType": "MARKET_LOT_SIZE", "stepSize": "5"},
            {"filterType": "LOT_SIZE", "stepSize": "0.001", "minQty": "0.001"},
            {"filterType": "PRICE_FILTER", "tickSize": "0.10"},
            {"filterType": "MAX_NUM_ORDERS", "limit": 200},
        ],
    }


def catalogue(info: object, funding: object) -> tuple[BinanceRest, FakeClient]:
    client = FakeClient({"/fapi/v1/exchangeInfo": lambda _: info, "/fapi/v1/fundingInfo": lambda _: funding})
    return BinanceRest(client, lambda: NOW), client


async def test_the_catalogue() -> None:
    symbols = [
        contract("BTCUSDT"),
        contract("BLZUSDT"),
        contract("TSLAUSDT", "TRADIFI_PERPETUAL"),
        contract("BTCUSDT_261225", "CURRENT_QUARTER"),
        contract("OLDUSDT", status="SETTLING"),
        contract("NEWUSDT", "", "PENDING_TRADING"),
    ]
    adjusted = [{"symbol": "BLZUSDT", "fundingIntervalHours": 4, "disclaimer": False}]
    rest, client = catalogue({"serverTime": 1, "symbols": symbols}, adjusted)
    rows = {row.symbol: row for row in await rest.instruments()}
    assert rows["BTCUSDT"] == Instrument(
        exchange="binance",
        symbol="BTCUSDT",
        base="BTC",
        quote="USDT",
        settle="USDC",
        status="TRADING",
        tick_size=0.1,
        step_size=0.001,
        funding_interval_hours=8.0,
    )
    assert {symbol: row.funding_interval_hours for symbol, row in rows.items()} == {
        "BTCUSDT": 8.0,
        "BLZUSDT": 4.0,
        "TSLAUSDT": 8.0,
        "BTCUSDT_261225": None,
        "OLDUSDT": 8.0,
        "NEWUSDT": None,
    }
    assert [symbol for symbol, row in rows.items() if not row.is_trading] == ["OLDUSDT", "NEWUSDT"]
    assert [(one.bucket, one.weight) for one in client.asked] == [("weight", 1), ("funding", 1)]


@pytest.mark.parametrize("answer", [{"code": -1003, "msg": "Too many"}, b"<html>", {"symbol": 5}])
async def test_without_funding_intervals_there_is_still_a_catalogue(answer: object) -> None:
    rest, _ = catalogue({"symbols": [contract("BTCUSDT")]}, answer)
    (row,) = await rest.instruments()
    assert row.symbol == "BTCUSDT"
    assert row.funding_interval_hours is None  # not known, so not made up


async def test_a_real_catalogue() -> None:
    path = RECORDINGS / "cryptofeed" / "BINANCE_FUTURES.0"
    if not path.exists():
        pytest.skip(f"no recordings at {path}")
    line = next(line for line in path.read_text().splitlines() if "/exchangeInfo -> " in line)
    body = line.partition(" -> ")[2].partition(": ")[2].encode()
    rest, _ = catalogue(body, [])
    rows = {row.symbol: row for row in await rest.instruments()}
    assert len(rows) == 122
    assert sum(row.is_trading for row in rows.values()) == 121
    assert sum(row.funding_interval_hours is None for row in rows.values()) == 3  # two dated, one not yet trading
    assert (rows["BTCUSDT"].tick_size, rows["BTCUSDT"].step_size) == (0.01, 0.001)
    for symbol in json.loads(body)["symbols"]:
        sizes = {row["filterType"]: row for row in symbol["filters"]}
        row = rows[symbol["symbol"]]
        assert Decimal(str(row.tick_size)) == Decimal(sizes["PRICE_FILTER"]["tickSize"])
        assert Decimal(str(row.step_size)) == Decimal(sizes["LOT_SIZE"]["stepSize"])
        assert (row.base, row.quote, row.settle) == (symbol["baseAsset"], symbol["quoteAsset"], symbol["marginAsset"])


# --- open interest ---


async def test_open_interest() -> None:
    body = {"openInterest": "10659.509", "symbol": "BTCUSDT", "time": 1589437530011}
    rest, client = answering("/fapi/v1/openInterest", body)
    assert await rest.open_interest("BTCUSDT") == OpenInterest(
        exchange="binance",
        symbol="BTCUSDT",
        timestamp=from_ms(1589437530011),
        open_interest=10659.509,
        open_interest_value=None,
    )
    assert client.asked == [Asked("/fapi/v1/openInterest", {"symbol": "BTCUSDT"}, "weight", 1)]


HISTORY = "/futures/data/openInterestHist"
STEP = 5 * MINUTE
OLDEST = NOW.replace(second=0) - timedelta(days=29)


def interest_row(timestamp: int | str) -> dict[str, object]:
    return {
        "symbol": "BTCUSDT",
        "sumOpenInterest": "20403.12345678",
        "sumOpenInterestValue": "176196512.12345678",
        "timestamp": timestamp,
    }


class InterestHistory:
    """Rows at some of the five-minute periods. Of a range with more than `limit` rows it gives the newest."""

    def __init__(self, periods: Sequence[int]) -> None:
        self.times = [ms(OLDEST + period * STEP) for period in periods]

    def __call__(self, params: dict[str, Any]) -> object:
        start, end = params.get("startTime"), params.get("endTime")
        if start is not None and end is not None and start > end:
            return {"code": -1023, "msg": "Start time is greater than end time."}
        assert 1 <= params["limit"] <= 500
        times = [t for t in self.times if (start is None or t >= start) and (end is None or t <= end)]
        return [interest_row(t) for t in times[-params["limit"] :]]


async def ask_interest(
    history: InterestHistory, limit: int, start: datetime | None, end: datetime | None = None
) -> tuple[list[int], list[Asked]]:
    client = FakeClient({HISTORY: history})
    rest = BinanceRest(client, lambda: NOW)
    rows = await rest.open_interest_history("BTCUSDT", "5m", limit=limit, start=start, end=end)
    return [(row.timestamp - OLDEST) // STEP for row in rows], client.asked


@pytest.mark.parametrize("timestamp", [1591261042378, "1591261042378"])
async def test_an_open_interest_row(timestamp: int | str) -> None:
    rest, client = answering(HISTORY, [interest_row(timestamp)])
    assert await rest.open_interest_history("BTCUSDT", "5m", limit=30, start=None, end=None) == [
        OpenInterest(
            exchange="binance",
            symbol="BTCUSDT",
            timestamp=from_ms(1591261042378),
            open_interest=20403.12345678,
            open_interest_value=176196512.12345678,
        )
    ]
    params: dict[str, str | int] = {"symbol": "BTCUSDT", "period": "5m", "limit": 30}
    assert client.asked == [Asked(HISTORY, params, "futures_data", 1)]


@pytest.mark.parametrize("timestamp", ["soon", -1, 10**30, "9" * 5000, None])
async def test_a_row_without_a_time(timestamp: Any) -> None:
    rest, _ = answering(HISTORY, [interest_row(timestamp)])
    with pytest.raises(BadMessage):
        await rest.open_interest_history("BTCUSDT", "5m", limit=30, start=None, end=None)


@pytest.mark.parametrize("nothing", [0, "0", ""])
async def test_a_row_whose_time_is_none_is_no_row(nothing: int | str) -> None:
    rest, _ = answering(HISTORY, [interest_row(nothing), interest_row(1591261042378)])
    [row] = await rest.open_interest_history("BTCUSDT", "5m", limit=30, start=None, end=None)
    assert row.timestamp == from_ms(1591261042378)


@pytest.mark.parametrize("limit", [1, 2, 30, 499, 500])
@pytest.mark.parametrize("every", [1, 7, 100, 700], ids=lambda every: f"a row every {every} periods")
async def test_the_same_start_gives_the_same_first_row(every: int, limit: int) -> None:
    """Periods without trades have no row, and a wide range is cut at its far end."""
    periods = range(3, 29 * 288, every)
    rows, asked = await ask_interest(InterestHistory(periods), limit, OLDEST + 2 * STEP)
    assert rows == list(periods[:limit])
    assert all(one.bucket == "futures_data" for one in asked)
    assert len(asked) <= 20


async def test_a_range_of_interest_is_half_open() -> None:
    every = InterestHistory(range(1000))
    rows, asked = await ask_interest(every, 500, OLDEST + 10 * STEP, OLDEST + 13 * STEP)
    assert rows == [10, 11, 12]
    assert asked[-1].params["endTime"] == ms(OLDEST + 13 * STEP) - 1
    rows, _ = await ask_interest(every, 500, None, OLDEST + 13 * STEP)
    assert rows == list(range(13))
    rows, _ = await ask_interest(every, 2, OLDEST + 10 * STEP, OLDEST + 13 * STEP)
    assert rows == [10, 11]


async def test_pages_of_interest_from_within_a_millisecond_miss_no_row() -> None:
    start = OLDEST + 10 * STEP + timedelta(microseconds=1)  # just behind a row that is held
    rows, asked = await ask_interest(InterestHistory(range(11, 2000, 5)), 300, start)
    assert rows == list(range(11, 11 + 300 * 5, 5))
    assert asked[0].params["startTime"] == ms(OLDEST + 10 * STEP) + 1


async def test_a_range_of_interest_that_has_not_come_to_be() -> None:
    every = InterestHistory(range(1000))
    assert (await ask_interest(every, 30, NOW + timedelta(days=1)))[0] == []
    assert (await ask_interest(every, 30, NOW + timedelta(days=1), NOW + timedelta(days=2)))[0] == []


# --- funding ---

PREMIUM = "/fapi/v1/premiumIndex"
PREMIUM_BODY = {
    "symbol": "BTCUSDT",
    "markPrice": "11793.63104562",
    "indexPrice": "11781.80495970",
    "lastFundingRate": "0.00038246",
    "nextFundingTime": 1597392000000,
    "time": 1597370495002,
}


async def test_the_running_rate() -> None:
    rest, client = answering(PREMIUM, PREMIUM_BODY)
    assert await rest.funding(instrument(hours=4.0)) == FundingRate(
        exchange="binance",
        symbol="BTCUSDT",
        timestamp=from_ms(1597370495002),
        funding_rate=0.00038246,
        funding_time=from_ms(1597392000000),
        funding_interval_hours=4.0,
        mark_price=11793.63104562,
    )
    assert client.asked == [Asked(PREMIUM, {"symbol": "BTCUSDT"}, "weight", 1)]


async def test_an_interval_that_is_not_known_is_not_made_up() -> None:
    rest, _ = answering(PREMIUM, PREMIUM_BODY)
    assert (await rest.funding(instrument(hours=None))).funding_interval_hours is None


@pytest.mark.parametrize("change", [{"lastFundingRate": ""}, {"nextFundingTime": 0}])
async def test_a_dated_contract_has_no_funding(change: dict[str, object]) -> None:
    rest, _ = answering(PREMIUM, {**PREMIUM_BODY, **change})
    with pytest.raises(Unsupported):
        await rest.funding(instrument("BTCUSDT_261225", None))


async def test_settled_rates() -> None:
    rows = [
        {"symbol": "BTCUSDT", "fundingRate": "-0.03750000", "fundingTime": 1570608000003, "markPrice": ""},
        {"symbol": "BTCUSDT", "fundingRate": "0.0001", "fundingTime": 1570636800000, "markPrice": "34287.54619963"},
        {"symbol": "BTCUSDT", "fundingRate": "0.0002", "fundingTime": 1570665600000},
    ]
    rest, client = answering("/fapi/v1/fundingRate", rows)
    start, end = from_ms(1570608000000), from_ms(1570700000000)
    rates = await rest.funding_history(instrument(), limit=100, start=start, end=end)
    assert [(ms(rate.funding_time), rate.funding_rate, rate.mark_price) for rate in rates] == [
        (1570608000003, -0.0375, None),
        (1570636800000, 0.0001, 34287.54619963),
        (1570665600000, 0.0002, None),
    ]
    assert [rate.funding_interval_hours for rate in rates] == [None, 8, 8], "of the first nobody knows"
    [(path, params, bucket, weight)] = client.asked
    assert (path, bucket, weight) == ("/fapi/v1/fundingRate", "funding", 1)
    assert (params["startTime"], params["endTime"]) == (ms(start) - 8 * HOUR, ms(end) - 1), (
        "the one before is asked for"
    )


class Settlements:
    """The exchange's funding history: without a start the newest, 200 at most; else the first from there on."""

    def __init__(self, times: list[int]) -> None:
        self.times = times
        self.calls = 0

    def __call__(self, params: dict[str, str | int]) -> object:
        self.calls += 1
        start, end, limit = params.get("startTime"), int(params.get("endTime", 1 << 60)), int(params["limit"])
        found = [at for at in self.times if int(start or 0) <= at <= end]
        found = found[-min(limit, 200) :] if start is None else found[:limit]
        return [{"symbol": "BTCUSDT", "fundingRate": "0.0001", "fundingTime": at + 3} for at in found]


PRESENT = ms(NOW)
CHANGED = PRESENT - PRESENT % (8 * HOUR) - 20 * 24 * HOUR  # from eight hours to four
SHORTENED = [*range(CHANGED - 1500 * 8 * HOUR, CHANGED, 8 * HOUR), *range(CHANGED, PRESENT, 4 * HOUR)]


@pytest.mark.parametrize("limit", [1, 2, 30, 200, 999, 1000])
@pytest.mark.parametrize("believed", [None, 1.0, 4.0, 8.0])
async def test_rates_have_the_interval_they_were_settled_at(limit: int, believed: float | None) -> None:
    history = Settlements(SHORTENED)
    rest, _ = answering("/fapi/v1/fundingRate", history)
    contract = instrument("BTCUSDT", believed)
    truth = {at + 3: 4 if at > CHANGED else 8 for at in SHORTENED}
    for start, end in ((None, None), (PRESENT - 900 * 8 * HOUR, None), (CHANGED - 33 * HOUR, CHANGED + 50 * HOUR)):
        since, until = start and from_ms(start), end and from_ms(end)
        rates = await rest.funding_history(contract, limit=limit, start=since or None, end=until or None)
        wanted = [at for at in truth if (start or 0) <= at < (end or PRESENT)]
        wanted = wanted[-limit:] if start is None else wanted[:limit]
        assert [ms(rate.timestamp) for rate in rates] == wanted
        assert [rate.funding_interval_hours for rate in rates] == [truth[at] for at in wanted]


async def test_without_times_more_than_the_200_newest_rates_are_told() -> None:
    history = Settlements(SHORTENED)
    rest, _ = answering("/fapi/v1/fundingRate", history)
    assert len(await rest.funding_history(instrument(), limit=1000, start=None, end=None)) == 1000
    assert history.calls <= 4
    listed_lately = Settlements(SHORTENED[-7:])
    rest, _ = answering("/fapi/v1/fundingRate", listed_lately)
    rates = await rest.funding_history(instrument(), limit=1000, start=None, end=None)
    assert [rate.funding_interval_hours for rate in rates] == [None, *[4.0] * 6]
    assert listed_lately.calls <= 3, "the exchange said that there is nothing older"


async def test_a_contract_that_was_listed_twice_has_the_rates_of_both_times() -> None:
    long_ago = [at - 400 * 24 * HOUR for at in SHORTENED[-20:]]
    rest, _ = answering("/fapi/v1/fundingRate", Settlements([*long_ago, *SHORTENED[-20:]]))
    rates = await rest.funding_history(instrument(), limit=100, start=None, end=None)
    assert len(rates) == 40
    assert [rate.funding_interval_hours for rate in rates] == [None, *[4.0] * 19, None, *[4.0] * 19]


async def test_an_exchange_that_ignores_the_range_is_not_asked_for_ever() -> None:
    rows = [{"symbol": "BTCUSDT", "fundingRate": "0.0001", "fundingTime": at} for at in SHORTENED[:1000]]
    rest, _ = answering("/fapi/v1/fundingRate", rows)
    with trio.fail_after(WITHIN):
        await rest.funding_history(instrument(), limit=5000, start=from_ms(PRESENT - 24 * HOUR), end=None)


# --- errors ---


@pytest.mark.parametrize(
    ("status", "code", "wanted"),
    [
        (400, -1121, UnknownSymbol),
        (400, -1122, UnknownSymbol),
        (400, -1120, UnknownInterval),
        (429, -1003, UpstreamLimited),
        (503, -1008, UpstreamLimited),
        (400, -1000, UpstreamError),
        (400, -1130, UpstreamError),
        (408, -1007, UpstreamTimeout),
    ],
)
def test_error_codes(status: int, code: int, wanted: type[MarketError]) -> None:
    error = explain(status, json.dumps({"code": code, "msg": "Its own words."}).encode())
    assert type(error) is wanted
    assert "Its own words." in str(error)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b'{"msg":"Service unavailable from a restricted location"}', b"\xff", b"{"]
)
def test_a_body_without_a_code_explains_nothing(body: bytes) -> None:
    assert explain(451, body) is None


def test_a_ban_says_until_when() -> None:
    error = explain(418, b'{"code":-1003,"msg":"Way too many requests; IP(1.2.3.4) banned until 1796008700930."}')
    assert isinstance(error, UpstreamLimited)
    assert error.until == 1796008700.93


@pytest.mark.parametrize("until", ["soon", ""])
def test_a_ban_that_does_not_say_until_when_is_still_a_ban(until: str) -> None:
    error = explain(418, f'{{"code":-1003,"msg":"IP banned until {until}"}}'.encode())
    assert isinstance(error, UpstreamLimited)
    assert error.until is None


BODIES = st.one_of(
    st.binary(max_size=30),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["1", "nan"]),
        lambda inner: (
            st.lists(inner, max_size=13)
            | st.dictionaries(st.sampled_from(["symbol", "symbols", "time", "serverTime", "code", "msg"]), inner)
        ),
        max_leaves=15,
    ).map(lambda value: json.dumps(value).encode()),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(BODIES)
@example(b"[" * 100_000)
@example(b'{"code":-1003,"msg":"banned until 9999999999999999"}')
async def test_any_body_is_data_or_a_bad_message(body: bytes) -> None:
    paths = (KLINES, HISTORY, PREMIUM, "/fapi/v1/time", "/fapi/v1/exchangeInfo", "/fapi/v1/openInterest")
    client = FakeClient(dict.fromkeys((*paths, "/fapi/v1/fundingRate"), lambda _: body))
    rest = BinanceRest(client, lambda: NOW)
    for call in (
        rest.server_time,
        lambda: rest.ohlc("BTCUSDT", "1m", limit=1),
        lambda: rest.open_interest("BTCUSDT"),
        lambda: rest.open_interest_history("BTCUSDT", "5m", limit=1, start=None, end=None),
        lambda: rest.funding(instrument()),
        lambda: rest.funding_history(instrument(), limit=1, start=None, end=None),
    ):
        with suppress(BadMessage, Unsupported):
            await call()
    error = explain(400, body)
    assert error is None or type(error) is not BadMessage


def test_the_rest_client_is_the_exchange_s() -> None:
    assert isinstance(EXCHANGE.open_rest(FakeClient({}), lambda: NOW), BinanceRest)
    assert set(EXCHANGE.budget) == {"weight", "futures_data", "funding"}
    assert EXCHANGE.budget["weight"].limit == 2400
