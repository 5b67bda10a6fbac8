"""Hyperliquid's REST calls against recorded answers, and against the simulator's, without a socket.

The fake client answers at once and keeps what was asked; only that it is a RestClient is pretended.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, cast

import pytest

from actors.errors import BadMessage, MarketError, UnknownSymbol, Unsupported, UpstreamError
from actors.events import INTERVALS, Instrument, from_ms, ms
from actors.exchanges.catalogue import Catalogue
from actors.exchanges.hyperliquid import EXCHANGE
from actors.exchanges.hyperliquid.rest import HyperliquidRest, NotUnderstood, aliases, explain, predicted_funding
from actors.exchanges.hyperliquid.simulator.rest import Limits, Rest
from actors.simulation.assets import ASSETS
from actors.simulation.market import Clock, Market
from actors.simulation.server import Request
from actors.upstream.rest import RestClient
from tests import recordings

RECORDINGS = recordings.RECORDINGS / "hyperliquid"
START = 1_795_000_037_000
HOUR = timedelta(hours=1)

Json = Any


@dataclass
class Fake:
    """Answers questions with `reply(question) -> (status, body)`."""

    reply: Callable[[Json], tuple[int, bytes]]
    asked: list[Json] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)

    async def query(self, path: str, body: bytes, *, bucket: str, weight: int) -> bytes:
        assert (path, bucket) == ("/info", "weight")
        question = json.loads(body)
        self.asked.append(question)
        self.weights.append(weight)
        status, answer = self.reply(question)
        if status == 200:
            return answer
        raise explain(status, answer) or UpstreamError(f"{status}")

    @property
    def client(self) -> RestClient:
        return cast(RestClient, self)

    def rest(self, now: datetime) -> HyperliquidRest:
        return HyperliquidRest(self.client, lambda: now)


def answering(**answers: Json) -> Fake:
    """Canned answers by question type; anything else is refused as the exchange does."""

    def reply(question: Json) -> tuple[int, bytes]:
        if question["type"] not in answers:
            return 422, b"Failed to deserialize the JSON body into the target type"
        return 200, json.dumps(answers[question["type"]]).encode()

    return Fake(reply)


def recorded(name: str) -> Json:
    file = RECORDINGS / name
    if not file.exists():
        pytest.skip(f"no recordings at {RECORDINGS}")
    return json.loads(file.read_text())


def cassette(name: str) -> tuple[Json, Json]:
    """The last request of a cassette and its response."""
    last = recorded(name)[-1]
    return last["request"], last["response"]


@pytest.fixture(scope="module")
def market() -> Market:
    made = Market(seed=7, clock=Clock(START, rate=0), assets=[a for a in ASSETS if a.name in ("BTC", "BLZ", "OCEAN")])
    made.clock.advance(300_000)
    made.advance()
    return made


def simulated(market: Market, **options: Any) -> Fake:
    rest = Rest(market, Limits(weight=10**9), **options)

    def reply(question: Json) -> tuple[int, bytes]:
        answer = rest.answer(Request("POST", "/info", {}, json.dumps(question).encode()))
        return answer.status, answer.body

    return Fake(reply)


def coin(symbol: str) -> Instrument:
    return Instrument(
        exchange="hyperliquid",
        symbol=symbol,
        base=symbol,
        quote="USDC",
        settle="USDC",
        status="TRADING",
        tick_size=0.1,
        step_size=0.001,
        funding_interval_hours=1.0,
    )


# -- the catalogue ----------------------------------------------------------------------------


async def test_the_catalogue_of_the_documentation() -> None:
    fake = answering(meta=recorded("meta.json"))
    rows = {row.symbol: row for row in await fake.rest(from_ms(START)).instruments()}
    assert [question["type"] for question in fake.asked] == ["allPerpMetas", "meta"], (
        "the first dex is better than none"
    )
    assert list(rows) == ["BTC", "ETH", "HPOS", "LOOM"]
    assert rows["BTC"] == Instrument(
        exchange="hyperliquid",
        symbol="BTC",
        base="BTC",
        quote="USDC",
        settle="USDC",
        status="TRADING",
        tick_size=0.1,
        step_size=0.00001,
        funding_interval_hours=1.0,
    )
    assert (rows["HPOS"].tick_size, rows["HPOS"].step_size) == (0.000001, 1.0)
    assert rows["LOOM"].status == "DELISTED"
    assert not rows["LOOM"].is_trading


async def test_every_dex_is_listed_by_one_question() -> None:
    first = {"universe": [{"name": "BTC", "szDecimals": 5}], "marginTables": [], "collateralToken": 0}
    builders = {
        "universe": [{"name": "hyna:BTC", "szDecimals": 4}, {"name": "hyna:X", "szDecimals": 7, "isDelisted": True}],
        "collateralToken": 235,
    }
    fake = answering(allPerpMetas=[first, builders])
    rows = await fake.rest(from_ms(START)).instruments()
    assert fake.weights == [20]
    assert [(row.symbol, row.base, row.settle, row.status) for row in rows] == [
        ("BTC", "BTC", "USDC", "TRADING"),
        ("hyna:BTC", "BTC", "USDE", "TRADING"),
        ("hyna:X", "X", "USDE", "DELISTED"),
    ]
    assert rows[2].tick_size == 1.0, "integers are always allowed"
    assert await fake.rest(from_ms(START)).instruments() == rows


async def test_a_passing_trouble_does_not_shorten_the_catalogue() -> None:
    def reply(question: Json) -> tuple[int, bytes]:
        return (200, b'{"universe":[{"name":"BTC","szDecimals":5}]}') if question["type"] == "meta" else (502, b"")

    with pytest.raises(UpstreamError, match="502"):
        await Fake(reply).rest(from_ms(START)).instruments()


async def test_spellings() -> None:
    catalogue = Catalogue("hyperliquid", EXCHANGE.aliases)
    catalogue.adopt([coin("BTC"), coin("kPEPE"), coin("xyz:AAPL")])
    for spelling, symbol in {
        "BTC": "BTC",
        "btc": "BTC",
        "BTCUSDT": "BTC",
        "btcusdc": "BTC",
        "KPEPE": "kPEPE",
        "kPEPEUSDT": "kPEPE",
        "xyz:AAPL": "xyz:AAPL",
        "XYZ:aapl": "xyz:AAPL",
    }.items():
        assert catalogue.resolve(spelling).symbol == symbol
    for unknown in ("AAPL", "xyz:AAPLUSDT", "BTCUSD"):
        with pytest.raises(UnknownSymbol):
            catalogue.resolve(unknown)
    assert aliases(coin("xyz:AAPL")) == ()


# -- bars -------------------------------------------------------------------------------------


async def test_recorded_candles() -> None:
    request, response = cassette("get_candles_snapshot.json")
    fake = answering(candleSnapshot=response)
    start, end = from_ms(request["req"]["startTime"]), from_ms(request["req"]["endTime"])
    rows = await fake.rest(from_ms(START)).ohlc("kPEPE", "1h", limit=500, start=start, end=end)
    inside = [row for row in response if start <= from_ms(row["t"]) < end]
    assert len(inside) == len(response) - 1, "the exchange begins with the bar that holds the start"
    assert [ms(row.timestamp) for row in rows] == [row["t"] for row in inside]
    assert (rows[0].open, rows[0].high, rows[0].low, rows[0].close) == (0.001603, 0.001603, 0.001584, 0.001591)
    first = inside[0]
    assert [rows[0].open, rows[0].volume, rows[0].trades_count] == [float(first["o"]), float(first["v"]), first["n"]]
    assert all(row.is_closed for row in rows)
    assert rows[0].quote_volume is None


def truth(market: Market, interval: str) -> list[int]:
    """The opens of all bars that the simulated exchange would give."""
    bars = market.tapes["BTC"].bars(interval, market.now, limit=5000)
    return [bar.open_time for bar in bars]


@pytest.mark.parametrize("interval", EXCHANGE.intervals)
async def test_the_last_bars(market: Market, interval: str) -> None:
    fake = simulated(market)
    now = from_ms(market.now)
    expected = truth(market, interval)
    for limit in (1, 2, 500, 1500):
        rows = await fake.rest(now).ohlc("BTC", interval, limit=limit)
        assert [ms(row.timestamp) for row in rows] == expected[-limit:]
        assert [row.is_closed for row in rows] == [True] * (len(rows) - 1) + [False]
        assert max(fake.weights) <= 20 + 84


async def test_ranges_are_half_open(market: Market) -> None:
    fake, now = simulated(market), from_ms(market.now)
    opens = truth(market, "1m")

    async def ask(start: int | None, end: int | None, limit: int = 1500) -> list[int]:
        rows = await fake.rest(now).ohlc(
            "BTC",
            "1m",
            limit=limit,
            start=None if start is None else from_ms(start),
            end=None if end is None else from_ms(end),
        )
        return [ms(row.timestamp) for row in rows]

    a, b = opens[-100], opens[-50]
    assert await ask(a, b) == opens[-100:-50]
    assert await ask(a + 1, b + 1) == opens[-99:-49]
    assert await ask(a - 1, b - 1) == opens[-100:-50]
    assert await ask(None, b, 10) == opens[-60:-50]
    assert await ask(a, None, 10) == opens[-100:-90]
    assert await ask(a, None) == opens[-100:]
    assert await ask(a, a) == []
    assert await ask(b, a) == []
    assert await ask(None, 0) == []
    assert await ask(market.now + 10**9, None) == []


async def test_the_same_start_is_the_same_first_row(market: Market) -> None:
    fake, now = simulated(market), from_ms(market.now)
    opens = truth(market, "1m")
    for start in (0, opens[0] - 30 * 60_000, opens[0] + 1, opens[700]):
        firsts = set()
        for limit in (1, 7, 1500):
            rows = await fake.rest(now).ohlc("BTC", "1m", limit=limit, start=from_ms(start))
            assert len(rows) == limit
            firsts.add(rows[0].timestamp)
        assert firsts == {from_ms(min(at for at in opens if at >= start))}


async def test_bars_without_trades_may_be_missing(market: Market) -> None:
    whole, holes = simulated(market, empty_candles=True), simulated(market)
    now = from_ms(market.now)
    every = [row for row in await whole.rest(now).ohlc("BLZ", "1m", limit=1500) if row.trades_count]
    rows = await holes.rest(now).ohlc("BLZ", "1m", limit=500)
    assert len(rows) == 500
    assert rows == every[-500:], "as many as were asked for, holes or not"
    start = every[3].timestamp
    assert await holes.rest(now).ohlc("BLZ", "1m", limit=700, start=start) == every[3:703]


def traded_every(step: int, now: int) -> Fake:
    """A coin of which one minute in `step` ms has a bar; the exchange keeps the newest 5000."""
    return traded_at(list(range(now - now % step, 0, -step)[:5000][::-1]))


def traded_at(kept: list[int]) -> Fake:
    """A coin with a bar at each of these minutes."""

    def reply(question: Json) -> tuple[int, bytes]:
        asked = question["req"]
        prices = dict.fromkeys("ochl", "1.5")
        rows = [
            {"t": at, "T": at + 59_999, "s": "SLOW", "i": "1m", "v": "2", "n": 3} | prices
            for at in kept
            if asked["startTime"] <= at <= asked["endTime"]
        ]
        return 200, json.dumps(rows).encode()

    return Fake(reply)


async def test_a_seldom_traded_coin_costs_two_questions() -> None:
    """One bar in 8 hours, minutes of 120 days: in windows of 1500 minutes it was 116 questions for 361 rows."""
    hours, now = 3_600_000, START - START % 60_000
    fake = traded_every(8 * hours, now)
    start = from_ms(now) - timedelta(days=120)
    rows = await fake.rest(from_ms(now)).ohlc("SLOW", "1m", limit=1500, start=start)
    first = -(-ms(start) // (8 * hours)) * 8 * hours
    assert [ms(row.timestamp) for row in rows] == list(range(first, now + 1, 8 * hours))
    assert len(fake.asked) == 2
    assert sum(fake.weights) <= 150


@pytest.mark.parametrize("minutes", [1, 2, 3, 10])
async def test_however_seldom_a_coin_trades_three_questions_are_enough(minutes: int) -> None:
    now = START - START % 3_600_000
    fake = traded_every(minutes * 60_000, now)
    start = from_ms(now) - timedelta(minutes=4000)
    rows = await fake.rest(from_ms(now)).ohlc("SLOW", "1m", limit=1000, start=start)
    assert len(rows) == min(1000, 4000 // minutes + 1)
    assert [row.timestamp - rows[0].timestamp for row in rows[:3]] == [timedelta(minutes=n * minutes) for n in range(3)]
    assert len(fake.asked) <= 3


@pytest.mark.parametrize("is_last", [True, False])
@pytest.mark.parametrize(("limit", "minutes", "most"), [(10, 3, 75), (100, 3, 80), (1500, 2, 130), (1, 1, 21)])
async def test_a_thin_coin_is_asked_for_as_its_bars_come(is_last: bool, limit: int, minutes: int, most: int) -> None:
    """Small questions where these weigh less than one for all the range, which is 104 and more."""
    now = START - START % 3_600_000
    fake = traded_every(minutes * 60_000, now)
    start = None if is_last else from_ms(now) - timedelta(minutes=4999)
    rows = await fake.rest(from_ms(now)).ohlc("SLOW", "1m", limit=limit, start=start)
    assert len(rows) == limit
    assert {b.timestamp - a.timestamp for a, b in pairwise(rows)} <= {timedelta(minutes=minutes)}
    assert sum(fake.weights) <= most


@pytest.mark.parametrize("is_last", [True, False])
async def test_however_badly_bars_are_guessed_small_questions_weigh_no_more_than_the_large_one(is_last: bool) -> None:
    """Each time some come, but never enough."""
    now = START - START % 3_600_000
    minutes = {0, 3, 7, 13, 23, 50, 99, 200, 399, 1000, 2100, 4000}
    times = {now - (minute if is_last else 4999 - minute) * 60_000 for minute in minutes}
    fake = traded_at(sorted(times))
    start = None if is_last else from_ms(now) - timedelta(minutes=4999)
    rows = await fake.rest(from_ms(now)).ohlc("SLOW", "1m", limit=12, start=start)
    assert [ms(row.timestamp) for row in rows] == sorted(times)
    others = fake.weights[1:]  # the first is for as many minutes as bars are wanted
    assert sum(others) <= 2 * 104
    assert len(fake.asked) <= 6


async def test_what_was_told_before_an_error_is_said() -> None:
    hours, now = 3_600_000, START - START % 60_000
    fake = traded_every(8 * hours, now)
    start = from_ms(now) - timedelta(days=120)
    reply = fake.reply
    fake.reply = lambda question: reply(question) if len(fake.asked) == 1 else (500, b"busy")
    with pytest.raises(UpstreamError) as caught:
        await fake.rest(from_ms(now)).ohlc("SLOW", "1m", limit=1500, start=start)
    told = caught.value.told
    assert told is not None
    assert [ms(row.timestamp) % (8 * hours) for row in told.rows] == [0, 0, 0]
    assert (told.start, told.end) == (start, start + timedelta(minutes=1500))


async def test_a_bar_that_ended_while_the_answer_travelled_was_open_when_it_was_read(market: Market) -> None:
    now = market.now
    times = iter([from_ms(now)])
    rest = HyperliquidRest(simulated(market).client, lambda: next(times, from_ms(now + 60_000)))
    rows = await rest.ohlc("BTC", "1m", limit=3)
    assert [row.is_closed for row in rows] == [True, True, False]


async def test_a_delisted_coin_keeps_its_bars(market: Market) -> None:
    rows = await simulated(market).rest(from_ms(market.now)).ohlc("OCEAN", "1h", limit=5)
    assert len(rows) == 5
    assert all(row.is_closed for row in rows)


async def test_what_is_asked_is_weighed(market: Market) -> None:
    fake, now = simulated(market), from_ms(market.now)
    await fake.rest(now).ohlc("BTC", "1m", limit=500)
    await fake.rest(now).ohlc("BTC", "1m", limit=500, start=now - HOUR)
    await fake.rest(now).ohlc("BTC", "1m", limit=1500, start=from_ms(0))
    assert fake.weights == [29, 22, 46, 104]


async def test_another_coins_candles_are_not_taken_for_ours() -> None:
    row = {"t": 0, "T": 1, "s": "ETH", "i": "1m", "o": "1", "c": "1", "h": "1", "l": "1", "v": "1", "n": 1}
    with pytest.raises(BadMessage, match="not of BTC"):
        await answering(candleSnapshot=[row]).rest(from_ms(START)).ohlc("BTC", "1m", limit=5)


# -- open interest and funding ----------------------------------------------------------------


async def test_recorded_contexts() -> None:
    fake, now = answering(metaAndAssetCtxs=recorded("metaAndAssetCtxs.json")), from_ms(START)
    interest = await fake.rest(now).open_interest("ETH")
    assert (interest.open_interest, interest.open_interest_value, interest.timestamp) == (1882.55, None, now)
    rate = await fake.rest(now).funding(coin("HPOS"))
    assert (rate.funding_rate, rate.mark_price, rate.funding_interval_hours) == (0.0000125, 8.4542, 1.0)
    assert rate.funding_time == datetime(2026, 11, 18, 12, tzinfo=UTC), "the next full hour"
    with pytest.raises(UnknownSymbol):
        await fake.rest(now).open_interest("SOL")


async def test_a_builders_contexts_are_its_dexes(market: Market) -> None:
    fake, now = simulated(market), from_ms(market.now)
    builder = await fake.rest(now).open_interest("hyna:BTC")
    own = await fake.rest(now).open_interest("BTC")
    assert builder.open_interest == own.open_interest
    assert fake.asked == [{"type": "metaAndAssetCtxs", "dex": "hyna"}, {"type": "metaAndAssetCtxs"}]
    with pytest.raises(UnknownSymbol):
        await fake.rest(now).open_interest("nowhere:BTC")


async def test_contexts_must_be_as_many_as_assets() -> None:
    listing, contexts = recorded("metaAndAssetCtxs.json")
    with pytest.raises(BadMessage):
        await answering(metaAndAssetCtxs=[listing, contexts[:2]]).rest(from_ms(START)).open_interest("BTC")


async def test_no_history_of_open_interest(market: Market) -> None:
    with pytest.raises(Unsupported):
        await simulated(market).rest(from_ms(START)).open_interest_history("BTC", "5m", limit=1, start=None, end=None)


async def test_recorded_funding_history() -> None:
    request, response = cassette("get_funding_history_1684811870000.json")
    start, end = from_ms(request["startTime"]), from_ms(request["endTime"])
    fake = answering(fundingHistory=response)
    rows = await fake.rest(from_ms(START)).funding_history(coin("BTC"), limit=1000, start=start, end=end)
    assert [row.funding_rate for row in rows] == [float(row["fundingRate"]) for row in response]
    assert [ms(row.timestamp) for row in rows] == [row["time"] - row["time"] % 3_600_000 for row in response]
    assert all(row.timestamp == row.funding_time for row in rows)
    assert {row.funding_interval_hours for row in rows} == {8.0}, "until June 2023"
    rows = (
        await answering(fundingHistory=recorded("fundingHistory.json"))
        .rest(from_ms(START))
        .funding_history(coin("ETH"), limit=1, start=start, end=end)
    )
    assert rows[0].funding_rate == -0.00022196


def hours(market: Market) -> list[int]:
    """The last 2500 hours that have been settled."""
    newest = market.now - market.now % 3_600_000
    return [newest - back * 3_600_000 for back in range(2500)][::-1]


async def test_funding_history(market: Market) -> None:
    fake, now, settled = simulated(market), from_ms(market.now), hours(market)

    async def ask(limit: int, start: int | None = None, end: int | None = None) -> list[int]:
        rows = await fake.rest(now).funding_history(
            coin("BTC"),
            limit=limit,
            start=None if start is None else from_ms(start),
            end=None if end is None else from_ms(end),
        )
        return [ms(row.timestamp) for row in rows]

    assert await ask(1) == settled[-1:]
    assert await ask(1000) == settled[-1000:], "in pages"
    assert await ask(1000, settled[100]) == settled[100:1100]
    assert await ask(5, settled[100]) == settled[100:105]
    assert await ask(5, settled[100] + 1) == settled[101:106]
    assert await ask(9, settled[100], settled[103]) == settled[100:103]
    assert await ask(9, settled[100], settled[103] + 1) == settled[100:104], "booked later, but of that hour"
    assert await ask(3, None, settled[103]) == settled[100:103]
    assert await ask(9, settled[100], settled[100]) == []
    assert await ask(9, market.now + 10**9) == []
    old = {(await ask(limit, 0))[0] for limit in (1, 500, 1000)}
    assert len(old) == 1
    rows = await fake.rest(now).funding_history(coin("BTC"), limit=3, start=None, end=None)
    assert {row.funding_interval_hours for row in rows} == {1.0}
    assert all(row.mark_price is None for row in rows)


async def test_hours_that_are_missing_are_made_up_for_by_older_ones(market: Market) -> None:
    fake, now, settled = simulated(market), from_ms(market.now), hours(market)
    answer = fake.reply

    def with_holes(question: Json) -> tuple[int, bytes]:
        status, body = answer(question)
        rows = [row for row in json.loads(body) if row["time"] // 3_600_000 % 5]
        return status, json.dumps(rows).encode()

    fake.reply = with_holes
    rows = await fake.rest(now).funding_history(coin("BTC"), limit=100, start=None, end=None)
    assert [ms(row.timestamp) for row in rows] == [at for at in settled if at // 3_600_000 % 5][-100:]
    assert len(fake.asked) <= 4


async def test_predicted_funding() -> None:
    at = from_ms(1733958000000) + timedelta(minutes=36)
    answers = recorded("predictedFundings.json")
    answers.append(["X", [["BinPerp", None], ["HlPerp", {"fundingRate": "-0.1", "nextFundingTime": ms(at) + 1000}]]])
    fake = answering(predictedFundings=answers, exchangeStatus={"specialStatuses": None, "time": ms(at)})
    [avax, other] = await predicted_funding(fake.client)
    assert avax.coin == "AVAX"
    assert [(venue.venue, venue.funding_rate, venue.funding_interval_hours) for venue in avax.venues] == [
        ("BinPerp", 0.0001, None),
        ("HlPerp", 0.0000125, 1.0),
        ("BybitPerp", 0.0001, None),
    ]
    assert [venue.next_funding_time for venue in avax.venues] == [from_ms(1733961600000)] * 3, (
        "not the hour that is over"
    )
    assert [venue.venue for venue in other.venues] == ["HlPerp"]
    assert other.venues[0].next_funding_time == at + timedelta(seconds=1), "right already"
    assert fake.weights == [20, 2]


async def test_predictions_of_the_simulator(market: Market) -> None:
    found = await predicted_funding(simulated(market).client)
    assert [row.coin for row in found] == ["BTC", "BLZ"]
    assert [venue.venue for venue in found[1].venues] == ["BinPerp", "HlPerp"]
    times = [venue.next_funding_time for row in found for venue in row.venues]
    assert all(time is not None and time > from_ms(market.now) for time in times)


# -- errors -----------------------------------------------------------------------------------


async def test_the_clock(market: Market) -> None:
    assert await simulated(market).rest(from_ms(0)).server_time() == from_ms(market.now)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (500, b"null", UnknownSymbol),
        (422, b"Failed to deserialize the JSON body into the target type", NotUnderstood),
        (400, b"Failed to parse the request body as JSON", NotUnderstood),
        (500, b"Internal Server Error", None),
        (502, b"<html>", None),
        (429, b"null", None),
        (405, b"", None),
    ],
)
def test_refusals(status: int, body: bytes, error: type[MarketError] | None) -> None:
    found = explain(status, body)
    assert type(found) is (error or type(None))


async def test_unknown_coins(market: Market) -> None:
    rest = simulated(market).rest(from_ms(market.now))
    with pytest.raises(UnknownSymbol):
        await rest.ohlc("NOPE", "1m", limit=5)
    with pytest.raises(UnknownSymbol):
        await rest.funding_history(coin("NOPE"), limit=5, start=None, end=None)
    nothing = Fake(lambda question: (200, b"null")).rest(from_ms(market.now))
    with pytest.raises(UnknownSymbol):
        await nothing.ohlc("NOPE", "1m", limit=5)
    with pytest.raises(UnknownSymbol):
        await nothing.funding_history(coin("NOPE"), limit=5, start=None, end=None)


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"\xff", b"<html>", b"[" * 20_000, b'[{"t":1}]'])
async def test_answers_that_nobody_documented(body: bytes) -> None:
    rest = Fake(lambda question: (200, body)).rest(from_ms(START))
    with pytest.raises(BadMessage):
        await rest.ohlc("BTC", "1m", limit=5)
    with pytest.raises(BadMessage):
        await rest.server_time()
    with pytest.raises(BadMessage):
        await rest.instruments()
    with pytest.raises(BadMessage):
        await rest.funding(coin("BTC"))
    with pytest.raises(BadMessage):
        await rest.funding_history(coin("BTC"), limit=5, start=None, end=None)
    with pytest.raises(BadMessage):
        await predicted_funding(Fake(lambda question: (200, body)).client)


def test_intervals_are_known_everywhere() -> None:
    assert set(EXCHANGE.intervals) <= set(INTERVALS)


async def test_a_venue_without_a_next_time_says_null() -> None:
    """Never 1970."""
    at = from_ms(START)
    venues = [["BybitPerp", {"fundingRate": "0.0001", "nextFundingTime": 0, "fundingIntervalHours": 0}]]
    fake = answering(predictedFundings=[["X", venues]], exchangeStatus={"specialStatuses": None, "time": ms(at)})
    [coin] = await predicted_funding(fake.client)
    assert (coin.venues[0].next_funding_time, coin.venues[0].funding_interval_hours) == (None, None)
