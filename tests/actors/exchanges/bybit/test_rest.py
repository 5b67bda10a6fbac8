"""Bybit's REST calls against the simulated exchange's own answers, in memory: no sockets, a clock that stands still."""

import json
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any, cast
from urllib.parse import parse_qsl

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import (
    BadMessage,
    MarketError,
    UnknownInterval,
    UnknownSymbol,
    Unsupported,
    UpstreamError,
    UpstreamGeoBlocked,
    UpstreamLimited,
    UpstreamTimeout,
)
from actors.events import Instrument, bar_end, from_ms, ms
from actors.exchanges.bybit import EXCHANGE
from actors.exchanges.bybit.rest import BybitRest, explain
from actors.exchanges.bybit.simulator.rest import Limits, Rest, blocked, refused, too_frequent
from actors.simulation.assets import ASSETS
from actors.simulation.history import DAY, HOUR, MINUTE
from actors.simulation.market import Clock, Market, spell
from actors.simulation.server import Reply, Request
from actors.upstream.rest import Params, RestClient
from tests.patience import WITHIN
from tests.recordings import RECORDINGS

START = 1_795_000_037_000

SMALL = [asset for asset in ASSETS if asset.name in ("BTC", "1000PEPE", "币安人生", "OCEAN", "BTC-quarter")]


class Client:
    """A RestClient that asks `answer` instead of a host; the query is encoded and parsed as on the wire."""

    def __init__(self, answer: Callable[[Request], Reply]) -> None:
        self._answer = answer
        self.requests: list[Request] = []
        self.heeded: list[MarketError] = []

    def heed(self, error: MarketError) -> None:
        self.heeded.append(error)

    async def get(self, path: str, params: Params | None = None, *, bucket: str, weight: int) -> bytes:
        assert bucket in EXCHANGE.budget
        assert weight == 1
        query = {key: str(value) for key, value in (params or {}).items() if value is not None}
        url = httpx.Request("GET", f"http://exchange{path}", params=query).url
        request = Request("GET", path, dict(parse_qsl(url.query.decode(), strict_parsing=bool(url.query))), b"")
        self.requests.append(request)
        reply = self._answer(request)
        assert reply.status == 200
        return reply.body


class World:
    """A still market, its REST answers, and a client of them."""

    def __init__(self, catalogue_page: int = 1000) -> None:
        self.market = Market(seed=7, clock=Clock(START, rate=0), assets=SMALL)
        self.server = Rest(self.market, Limits(requests=10**6, catalogue_page=catalogue_page))
        self.client = Client(self.server.answer)
        self.rest = BybitRest(cast(RestClient, self.client), lambda: from_ms(self.market.now))

    def advance(self, milliseconds: int) -> None:
        self.market.clock.advance(milliseconds)
        self.market.advance()

    def spent(self) -> int:
        """Requests since the last look."""
        count = len(self.client.requests)
        self.client.requests.clear()
        return count


@pytest.fixture
def world() -> World:
    return World()


def canned(*bodies: object) -> BybitRest:
    replies = iter([body if isinstance(body, Reply) else Reply(body=json.dumps(body).encode()) for body in bodies])
    return BybitRest(cast(RestClient, Client(lambda _: next(replies))), lambda: from_ms(START))


def answered(result: object, time: int = START) -> dict[str, object]:
    return {"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": time}


def recorded(path: str) -> Any:
    file = RECORDINGS / path
    if not file.exists():
        pytest.skip(f"no recordings at {RECORDINGS}")
    return json.loads(file.read_text())


def instrument(symbol: str = "BTCUSDT", hours: float | None = 8.0) -> Instrument:
    base = symbol.removesuffix("USDT")
    return Instrument(
        exchange="bybit",
        symbol=symbol,
        base=base,
        quote="USDT",
        settle="USDT",
        status="TRADING",
        tick_size=0.1,
        step_size=0.001,
        funding_interval_hours=hours,
    )


def times(rows: list[Any]) -> list[int]:
    return [ms(row.timestamp) for row in rows]


# -- catalogue and clock ----------------------------------------------------------------------


async def test_the_catalogue_is_read_to_its_last_page() -> None:
    world = World(catalogue_page=2)
    found = {row.symbol: row for row in await world.rest.instruments()}
    assert set(found) == {"BTCUSDT", "1000PEPEUSDT", "币安人生USDT", "BTCUSDT-25DEC26"}
    assert [request.query.get("cursor") for request in world.client.requests] == [
        None,
        "first=1000PEPEUSDT&last=BTCUSDT",
    ]
    assert all(request.query["limit"] == "1000" for request in world.client.requests)
    assert found["BTCUSDT"] == instrument()
    pepe, dated = found["1000PEPEUSDT"], found["BTCUSDT-25DEC26"]
    assert (pepe.base, pepe.funding_interval_hours, pepe.tick_size) == ("1000PEPE", 4.0, 1e-7)
    assert (dated.base, dated.funding_interval_hours, dated.is_trading) == ("BTC", None, True)


async def test_a_cursor_that_leads_in_circles_ends() -> None:
    page = answered({"list": [], "nextPageCursor": "first%3DA%26last%3DB"})
    with pytest.raises(BadMessage, match="does not end"):
        await canned(*[page] * 60).instruments()


async def test_a_status_is_ours_only_where_it_trades() -> None:
    body = recorded("bybit-docs/rest_instruments_linear_perpetual.json")
    row = body["result"]["list"][0]
    body["result"]["list"] = [row, {**row, "status": "PreLaunch"}, {**row, "contractType": "InversePerpetual"}]
    trading, early = await canned(body).instruments()
    assert trading == instrument()
    assert (early.status, early.is_trading) == ("PreLaunch", False)


async def test_the_clock(world: World) -> None:
    assert await world.rest.server_time() == from_ms(START)
    assert await canned(recorded("bybit-docs/rest_time.json")).server_time() == from_ms(1688639403423)


# -- bars -------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", EXCHANGE.intervals)
async def test_the_newest_bars(world: World, interval: str) -> None:
    rows = await world.rest.ohlc("BTCUSDT", interval, limit=30)
    assert len(rows) == 30
    assert all(bar_end(a.timestamp, interval) == b.timestamp for a, b in pairwise(rows))
    assert [row.is_closed for row in rows] == [True] * 29 + [False]
    assert rows[-1].timestamp <= from_ms(START) < bar_end(rows[-1].timestamp, interval)
    tape = world.market.tapes["BTC"]
    bar = tape.bars(interval, world.market.now, limit=1)[0]
    assert rows[-1].close == bar.close / 10
    assert rows[-1].volume == float(spell(bar.volume, 3))
    assert (rows[-1].interval, rows[-1].trades_count) == (interval, None)


async def test_more_bars_than_a_page(world: World) -> None:
    rows = await world.rest.ohlc("BTCUSDT", "1m", limit=1500)
    assert world.spent() == 2
    assert len(rows) == 1500
    assert {b - a for a, b in pairwise(times(rows))} == {MINUTE}
    again = await world.rest.ohlc("BTCUSDT", "1m", limit=1500, start=rows[0].timestamp)
    assert again == rows
    assert world.spent() == 2
    end = rows[1200].timestamp
    assert await world.rest.ohlc("BTCUSDT", "1m", limit=1100, end=end) == rows[100:1200]


async def test_the_range_is_half_open(world: World) -> None:
    rows = await world.rest.ohlc("BTCUSDT", "5m", limit=20)
    start, end = rows[5].timestamp, rows[9].timestamp
    one = timedelta(milliseconds=1)
    for first, last, expected in (
        (start, end, rows[5:9]),
        (start - one, end, rows[5:9]),
        (start + one, end + one, rows[6:10]),
        (start, start, []),
        (end, start, []),
    ):
        assert await world.rest.ohlc("BTCUSDT", "5m", limit=20, start=first, end=last) == expected
        assert await world.rest.ohlc("BTCUSDT", "5m", limit=2, start=first, end=last) == expected[:2]


@pytest.mark.parametrize("interval", ["1m", "1h", "1d", "1M"])
async def test_the_limit_does_not_move_the_first_bar(world: World, interval: str) -> None:
    start = from_ms(START - 1200 * DAY + 12_345)
    whole = await world.rest.ohlc("BTCUSDT", interval, limit=1500, start=start)
    for limit in (1, 7, 999, 1000, 1001):
        assert await world.rest.ohlc("BTCUSDT", interval, limit=limit, start=start) == whole[:limit]


@pytest.mark.parametrize("interval", ["1m", "4h", "1d", "1w", "1M"])
async def test_bars_before_the_first_one_cost_few_requests(world: World, interval: str) -> None:
    listed = world.market.tapes["币安人生"].listed
    world.spent()
    for limit in (1, 1500):
        rows = await world.rest.ohlc("币安人生USDT", interval, limit=limit, start=from_ms(0))
        assert listed - 31 * DAY <= times(rows)[0] <= listed
        assert len(rows) == limit or not rows[-1].is_closed
        assert world.spent() <= 6
    assert await world.rest.ohlc("币安人生USDT", "1m", limit=5, start=from_ms(0), end=from_ms(listed)) == []
    assert await world.rest.ohlc("BTCUSDT", "1m", limit=5, start=from_ms(START + MINUTE)) == []


@pytest.mark.parametrize("is_relisted", [True, False])
async def test_a_gap_that_is_too_wide_to_be_read_is_not_taken_for_the_end(world: World, is_relisted: bool) -> None:
    start, last = START - 100 * DAY, START - DAY

    def listed_for_a_day(request: Request) -> Reply:
        first, final = int(request.query["start"]), int(request.query["end"])
        opens = [*range(start, start + DAY, MINUTE), *([last] if is_relisted else [])]
        rows = [[str(at), *"111111"] for at in opens if first <= at <= final]
        rows = rows[::-1][: int(request.query["limit"])]
        result = {"symbol": "BTCUSDT", "category": "linear", "list": rows}
        return Reply(body=json.dumps(answered(result)).encode())

    client = Client(listed_for_a_day)
    rest = BybitRest(cast(RestClient, client), lambda: from_ms(START))
    asked = rest.ohlc("BTCUSDT", "1m", limit=1500, start=from_ms(start))
    if is_relisted:
        with pytest.raises(UpstreamError, match="ask from there on"):
            await asked
    else:
        assert len(await asked) == 1440
    assert len(client.requests) <= 15


@pytest.mark.parametrize(
    ("interval", "after", "ends", "waits"),
    [
        ("1m", 0, None, 2.0),
        ("1m", 1500, None, 0.5),
        ("1m", 1500, 0, 0.5),
        ("1m", 1500, -MINUTE, 0.0),
        ("1m", 2000, None, 0.0),
        ("5m", 1500, None, 0.0),
        ("5m", MINUTE * 3 + 500, None, 1.5),
    ],
)
async def test_a_bar_is_asked_for_when_rest_has_all_of_it(
    autojump_clock: trio.testing.MockClock, interval: str, after: int, ends: int | None, waits: float
) -> None:
    """Right after its end it may lack its last trades there. `after`, `ends`: ms from a minute's end."""
    minute = 1_795_000_020_000
    assert minute // MINUTE % 5 == 2
    client = Client(lambda _: Reply(body=json.dumps(answered({"list": []})).encode()))
    rest = BybitRest(cast(RestClient, client), lambda: from_ms(minute + after))
    began = trio.current_time()
    await rest.ohlc("BTCUSDT", interval, limit=2, end=None if ends is None else from_ms(minute + ends))
    assert trio.current_time() - began == pytest.approx(waits)


async def test_a_bar_closes_by_the_exchanges_clock(world: World, autojump_clock: trio.testing.MockClock) -> None:
    opening = START - START % MINUTE
    world.advance(MINUTE - START % MINUTE - 1)
    rows = await world.rest.ohlc("BTCUSDT", "1m", limit=1, start=from_ms(opening))
    assert [row.is_closed for row in rows] == [False]
    world.advance(1)
    rows = await world.rest.ohlc("BTCUSDT", "1m", limit=2, start=from_ms(opening))
    assert [row.is_closed for row in rows] == [True, False]


async def test_bars_as_documented_and_as_ccxt_reads_them() -> None:
    case = recorded("ccxt/bybit_fetchOHLCV.json")[0]
    body = case["httpResponse"] | {"retCode": 0, "time": 1706803708087}  # ccxt turned these numbers into strings
    rows = await canned(body).ohlc("BTCUSDT", "1h", limit=3, start=from_ms(1706628191000))
    assert [[ms(r.timestamp), r.open, r.high, r.low, r.close, r.volume] for r in rows] == case["parsedResponse"]
    assert rows[0].quote_volume == 58117391.4117
    rows = await canned(recorded("bybit-docs/rest_kline.json")).ohlc("BTCUSD", "1h", limit=3)
    assert times(rows) == [1670601600000, 1670605200000, 1670608800000]
    assert all(row.is_closed for row in rows)


# -- open interest ----------------------------------------------------------------------------


async def test_open_interest_is_one_side(world: World) -> None:
    interest = await world.rest.open_interest("BTCUSDT")
    tape = world.market.tapes["BTC"]
    assert interest.timestamp == from_ms(START)
    assert interest.open_interest == tape.open_interest(START) / 1000
    assert interest.open_interest_value == pytest.approx(interest.open_interest * tape.mark(START) / 1e8)


async def test_open_interest_history(world: World) -> None:
    period = 5 * MINUTE
    rows = await world.rest.open_interest_history("BTCUSDT", "5m", limit=500, start=None, end=None)
    assert world.spent() == 3
    assert len(rows) == 500
    assert {b - a for a, b in pairwise(times(rows))} == {period}, "also where a page's oldest row is in seconds"
    tape = world.market.tapes["BTC"]
    assert [row.open_interest for row in rows] == [tape.open_interest(at) / 1000 for at in times(rows)]
    assert times(rows)[-1] == START - START % period
    start, end = rows[100].timestamp, rows[450].timestamp
    for limit in (1, 200, 350, 500):
        found = await world.rest.open_interest_history("BTCUSDT", "5m", limit=limit, start=start, end=end)
        assert found == rows[100 : min(100 + limit, 450)]
    assert all("endTime" in request.query for request in world.client.requests), "a startTime alone is ignored"
    later = start + timedelta(milliseconds=1)
    assert (await world.rest.open_interest_history("BTCUSDT", "5m", limit=1, start=later, end=None)) == [rows[101]]
    world.spent()
    first = await world.rest.open_interest_history("币安人生USDT", "1h", limit=3, start=from_ms(0), end=None)
    assert times(first)[0] == world.market.tapes["币安人生"].listed
    assert world.spent() <= 5


async def test_open_interest_rows_as_observed() -> None:
    rows = [
        {"openInterest": "52664.64200000", "singleOpenInterest": "26332.321", "timestamp": "1789458600000"},
        {"openInterest": "52673.34300000", "timestamp": "1789458300000"},
        {"openInterest": "52652.41700000", "singleOpenInterest": "26326.209", "timestamp": "1789458000"},
    ]
    body = answered({"symbol": "BTCUSDT", "list": rows, "nextPageCursor": "lastid%3D28782110%26lasttime%3D1789458000"})
    found = await canned(body).open_interest_history("BTCUSDT", "5m", limit=3, start=None, end=None)
    assert times(found) == [1789458000000, 1789458300000, 1789458600000]
    assert [row.open_interest for row in found] == [26326.209, 26336.6715, 26332.321]
    sample = recorded("bybit-docs/rest_open_interest.json")
    found = await canned(sample).open_interest_history("BTCUSD", "1d", limit=5, start=None, end=None)
    assert found[-1].open_interest == 31955346


# -- funding ----------------------------------------------------------------------------------


async def test_funding(world: World) -> None:
    rate = await world.rest.funding(instrument())
    tape = world.market.tapes["BTC"]
    assert rate.timestamp == from_ms(START)
    assert rate.funding_rate == tape.funding_rate(START) / 1e8
    assert rate.funding_time == from_ms(tape.next_funding(START))
    assert rate.funding_interval_hours == 8.0
    assert rate.mark_price == tape.mark(START) // 10**6 / 100
    with pytest.raises(Unsupported):
        await world.rest.funding(instrument("BTCUSDT-25DEC26", None))


async def test_funding_as_ccxt_reads_it() -> None:
    case = recorded("ccxt/bybit_fetchFundingRate.json")[0]
    body = case["httpResponse"] | {"retCode": 0, "time": 1730730080834}
    parsed = case["parsedResponse"]
    rate = await canned(body).funding(instrument())
    assert rate.funding_rate == parsed["fundingRate"]
    assert ms(rate.funding_time) == parsed["fundingTimestamp"]
    assert (ms(rate.timestamp), rate.mark_price) == (parsed["timestamp"], parsed["markPrice"])
    assert f"{rate.funding_interval_hours:g}h" == parsed["interval"], "the catalogue's: the ticker is an old one"
    interest = await canned(body).open_interest("BTCUSDT")
    assert (interest.open_interest, interest.open_interest_value) == (34802.462, 2387151680.175)


@pytest.mark.parametrize(("symbol", "hours"), [("BTCUSDT", 8), ("1000PEPEUSDT", 4), ("币安人生USDT", 1)])
async def test_funding_history(world: World, symbol: str, hours: int) -> None:
    one = instrument(symbol, hours)
    rows = await world.rest.funding_history(one, limit=450, start=None, end=None)
    assert world.spent() == 3
    assert len(rows) == 450
    assert {b - a for a, b in pairwise(times(rows))} == {hours * HOUR}
    tape = world.market.tapes[one.base]
    assert [row.funding_rate for row in rows] == [tape.funding_rate(at) / 1e8 for at in times(rows)]
    assert all(row.funding_time == row.timestamp for row in rows)
    start, end = rows[10].timestamp, rows[430].timestamp
    for limit in (1, 200, 420, 1000):
        found = await world.rest.funding_history(one, limit=limit, start=start, end=end)
        assert found == rows[10 : min(10 + limit, 430)]
        assert await world.rest.funding_history(one, limit=limit, start=start, end=None) == rows[10 : 10 + limit]
    oldest = await world.rest.funding_history(one, limit=2, start=from_ms(0), end=None)
    assert times(oldest)[0] == tape.listed + hours * HOUR


@pytest.mark.parametrize("believed", [1.0, 8.0])
async def test_funding_history_where_the_interval_was_another(world: World, believed: float) -> None:
    """Truly 4 hours: windows of a present 1 hour hold too few rows, those of 8 hours more than a page."""
    one = instrument("1000PEPEUSDT", believed)
    start = from_ms(START - 200 * DAY)
    rows = await world.rest.funding_history(one, limit=1000, start=start, end=None)
    assert len(rows) == 1000
    assert world.spent() <= 9
    assert {b - a for a, b in pairwise(times(rows))} == {4 * HOUR}
    assert await world.rest.funding_history(one, limit=3, start=start, end=None) == rows[:3]


@pytest.mark.parametrize("limit", [1, 30, 199, 200, 500])
@pytest.mark.parametrize("believed", [1.0, 4.0, 8.0])
async def test_rates_have_the_interval_they_were_settled_at(world: World, limit: int, believed: float) -> None:
    changed = START - START % (8 * HOUR) - 20 * DAY  # from eight hours to four
    history = [*range(changed - 900 * 8 * HOUR, changed, 8 * HOUR), *range(changed, START, 4 * HOUR)]

    def answer(request: Request) -> Reply:
        if request.path != "/v5/market/funding/history":
            return world.server.answer(request)
        start, end = int(request.query.get("startTime", 0)), int(request.query.get("endTime", START))
        found = [at for at in history if start <= at <= end][-int(request.query["limit"]) :]
        rows = [{"symbol": "X", "fundingRate": "0.0001", "fundingRateTimestamp": str(at)} for at in reversed(found)]
        return Reply(body=json.dumps({"retCode": 0, "time": START, "result": {"list": rows}}).encode())

    rest = BybitRest(cast(RestClient, Client(answer)), lambda: from_ms(START))
    for start, end in ((None, None), (changed - 33 * HOUR, changed + 50 * HOUR), (changed - 300 * 8 * HOUR, None)):
        since, until = from_ms(start) if start else None, from_ms(end) if end else None
        rates = await rest.funding_history(instrument("BTCUSDT", believed), limit=limit, start=since, end=until)
        wanted = [at for at in history if (start or 0) <= at < (end or START)]
        wanted = wanted[-limit:] if start is None else wanted[:limit]
        assert times(rates) == wanted
        assert [rate.funding_interval_hours for rate in rates] == [4 if at > changed else 8 for at in wanted]


async def test_an_answer_that_ignores_the_range_is_not_paged_through_for_ever(world: World) -> None:
    """As open interest really does for a startTime without an endTime."""

    def answer(request: Request) -> Reply:
        query = {key: value for key, value in request.query.items() if key not in ("end", "endTime")}
        return world.server.answer(
            request._replace(query=query | {"startTime": "0"} if "startTime" in query else query)
        )

    rest = BybitRest(cast(RestClient, Client(answer)), lambda: from_ms(START))
    with trio.fail_after(WITHIN):
        rows = await rest.ohlc("BTCUSDT", "1m", limit=1500)
        assert len(rows) == 1000
        assert len(await rest.funding_history(instrument(), limit=1000, start=None, end=None)) == 200
        past = from_ms(START - 900 * DAY)
        assert await rest.open_interest_history("BTCUSDT", "5m", limit=9, start=past, end=from_ms(START - DAY)) == []


async def test_documented_funding_history() -> None:
    body = recorded("bybit-docs/rest_funding_history.json")
    (row,) = await canned(body).funding_history(instrument("ETHPERP"), limit=200, start=None, end=None)
    assert (ms(row.timestamp), row.funding_rate, row.mark_price) == (1672041600000, 0.0001, None)


# -- refusals ---------------------------------------------------------------------------------


async def test_a_refusal_in_a_200(world: World) -> None:
    with pytest.raises(UnknownSymbol, match="10001"):
        await world.rest.ohlc("NOPEUSDT", "1m", limit=1)
    with pytest.raises(UnknownSymbol):
        await world.rest.open_interest("OCEANUSDT")
    assert world.spent() == 2, "a bad parameter is not tried twice"


@pytest.mark.parametrize(
    ("code", "message", "error", "tries"),
    [
        (10000, "Server Timeout", UpstreamTimeout, 2),
        (10001, "Invalid period!", UnknownInterval, 1),
        (10001, "params error: limit invalid", UpstreamError, 1),
        (10006, "Too many visits!", UpstreamLimited, 1),
        (10018, "Exceeded the IP Rate Limit.", UpstreamLimited, 1),
        (429, "trading service experiencing high load", UpstreamLimited, 1),
        (10009, "IP has been banned.", UpstreamGeoBlocked, 1),
        (10016, "System error. Please try again later.", UpstreamError, 2),
        (10017, "Path not found", UpstreamError, 1),
        (-1, "request expired", UpstreamError, 1),
    ],
)
async def test_codes(code: int, message: str, error: type[MarketError], tries: int) -> None:
    client = Client(lambda _: refused(code, message))
    with pytest.raises(MarketError) as raised:
        await BybitRest(cast(RestClient, client), lambda: from_ms(START)).server_time()
    assert type(raised.value) is error
    assert message in str(raised.value)
    assert len(client.requests) == tries
    assert (raised.value.retry_after is not None) == (error in (UpstreamLimited, UpstreamGeoBlocked))
    said = explain(400, refused(code, message).body)
    assert type(said) is error


async def test_a_fault_of_the_moment_is_tried_again_a_moment_later(autojump_clock: trio.testing.MockClock) -> None:
    rest = canned(refused(10016, "System error."), recorded("bybit-docs/rest_time.json"))
    began = trio.current_time()
    assert await rest.server_time() == from_ms(1688639403423)
    assert trio.current_time() - began == pytest.approx(0.2)


def test_statuses() -> None:
    frequent = explain(403, too_frequent().body)
    assert isinstance(frequent, UpstreamLimited)
    assert frequent.retry_after == 600
    banned = explain(403, b'{"retCode":10006,"retMsg":"access too frequent"}')
    assert isinstance(banned, UpstreamLimited)
    assert banned.retry_after == 600
    system = explain(429, b'{"retCode":10006,"retMsg":"Too many visits!"}')
    assert isinstance(system, UpstreamLimited)
    assert system.retry_after is None, "the Retry-After header or the default decides"
    assert isinstance(explain(403, blocked().body), UpstreamGeoBlocked)
    assert explain(403, b"<html>Request blocked.</html>") is None
    assert explain(502, b"<html>bad gateway</html>") is None
    assert explain(404, b"{}") is None


BAD_BODIES = {
    "not json": b"<html>",
    "no code": b'{"result":{}}',
    "no time": b'{"retCode":0,"result":{"list":[]}}',
    "no result": b'{"retCode":0,"time":1}',
    "a result full of nothing": b'{"retCode":0,"time":1,"result":{}}',
    "short row": b'{"retCode":0,"time":1,"result":{"list":[["1","2"]]}}',
    "nan": b'{"retCode":0,"time":1,"result":{"list":[["1","NaN","1","1","1","1","1"]]}}',
    "a time in words": b'{"retCode":0,"time":1,"result":{"list":[["soon","1","1","1","1","1","1"]]}}',
    "not utf-8": b'{"retCode":0,"retMsg":"\xff"}',
    "deep": b"[" * 20_000,
}


@pytest.mark.parametrize("kind", BAD_BODIES)
async def test_bad_bodies(kind: str) -> None:
    with pytest.raises(BadMessage):
        await canned(Reply(body=BAD_BODIES[kind])).ohlc("BTCUSDT", "1m", limit=10)


@given(st.sampled_from([400, 403, 404, 429, 500]), st.binary(max_size=100))
def test_explain_never_raises(status: int, body: bytes) -> None:
    explain(status, body)
