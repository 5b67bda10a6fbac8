"""Many rows by pages: as the exchange has them, in few questions, and nothing lost of what was told before an error."""

import random
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from actors.archive.recall import fetch_of
from actors.archive.series import Series
from actors.errors import MarketError, Told, UpstreamError
from actors.events import OpenInterest, from_ms
from actors.exchanges.paging import FEW, first, newest, oldest, retelling, told_before
from actors.simulation.assets import ASSETS
from actors.simulation.market import Clock, Market
from actors.simulation.server import Request, Simulator
from actors.upstream.rest import Explain, Params, RestClient
from tests.actors.exchanges.fixtures import EXCHANGES, simulator_of
from tests.daemon.fixtures import START

T0 = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
PAGE = 10


def row(minute: int) -> OpenInterest:
    where: Any = {"exchange": "binance", "symbol": "BTCUSDT"}
    return OpenInterest(**where, timestamp=T0 + minute * MINUTE, open_interest=1.0, open_interest_value=None)


class Exchange:
    """Has rows at some minutes; breaks at its `breaks_at`th question."""

    def __init__(self, minutes: list[int], *, gives: str, breaks_at: int = 0) -> None:
        self.rows = [row(minute) for minute in minutes]
        self.gives, self.breaks_at = gives, breaks_at
        self.asked = 0

    async def read(self, start: datetime | None, end: datetime | None, size: int) -> list[OpenInterest]:
        self.asked += 1
        if self.asked == self.breaks_at:
            raise UpstreamError("it broke")
        found = self.between(start, end)
        return found[:size] if self.gives == "first" else found[-size:]

    def between(self, start: datetime | None, end: datetime | None) -> list[OpenInterest]:
        return [
            one
            for one in self.rows
            if (start is None or one.timestamp >= start) and (end is None or one.timestamp < end)
        ]


WALKS: dict[str, tuple[str, Callable[[Exchange, int], Any]]] = {
    "newest": ("last", lambda it, limit: newest(it.read, PAGE, limit, T0 + 100 * MINUTE)),
    "oldest": ("first", lambda it, limit: oldest(it.read, PAGE, limit, T0 + 5 * MINUTE, None)),
    "first": (
        "last",
        lambda it, limit: first(
            *(it.read, PAGE, limit, T0 + 5 * MINUTE, None), step=MINUTE, now=T0 + timedelta(minutes=119, seconds=30)
        ),
    ),
}


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("breaks_at", [1, 2, 4])
async def test_an_error_says_what_was_told_before_it(walk: str, breaks_at: int) -> None:
    gives, ask = WALKS[walk]
    broken = Exchange(list(range(120)), gives=gives, breaks_at=breaks_at)
    with pytest.raises(UpstreamError, match="it broke") as caught:
        await ask(broken, 45)
    told = told_before(caught.value)
    assert told is not None
    assert told_before(caught.value) is None, "what an error is remembered for is not its rows"
    assert len(told.rows) == PAGE * (breaks_at - 1)
    whole = await ask(Exchange(list(range(120)), gives=gives), 45)
    if told.rows:
        assert list(told.rows) == (whole[-len(told.rows) :] if walk == "newest" else whole[: len(told.rows)])
        assert list(told.rows) == broken.between(told.start or told.rows[0].timestamp, told.end)


@pytest.mark.parametrize("is_sure", [True, False])
@pytest.mark.parametrize("seed", range(60))
async def test_the_first_rows_are_those_that_the_exchange_has_in_few_questions(seed: int, is_sure: bool) -> None:
    """Rows in clusters of their own density, with nothing between: all of them, or a word from where to ask on."""
    rng = random.Random(seed)
    minutes: set[int] = set()
    at = rng.choice([0, 40, 3000])
    for _ in range(rng.randrange(1, 5)):
        step, length = rng.choice([1, 1, 2, 8, 50]), rng.randrange(1, 400)
        minutes |= set(range(at, at + length, step))
        at += length + rng.choice([0, 5, 300, 5000])
    limit = rng.choice([1, 2, 9, 10, 11, 60, 150])
    start, end = T0 + rng.randrange(-50, 100) * MINUTE, rng.choice([None, T0 + rng.randrange(100, at + 200) * MINUTE])
    it = Exchange(sorted(minutes), gives="last")
    truth = it.between(start, end)[:limit]
    apart = MINUTE if is_sure else rng.choice([MINUTE, 8 * MINUTE])
    try:
        found = await first(*(it.read, PAGE, limit, start, end), step=apart, least=MINUTE, now=T0 + (at + 100) * MINUTE)
    except UpstreamError as error:
        told = told_before(error)
        assert told is not None
        assert told.start == start
        assert list(told.rows) == truth[: len(told.rows)] == it.between(told.start, told.end)
    else:
        assert found == truth
    assert it.asked <= FEW + -(-limit // PAGE) + 1


async def test_rows_that_are_far_apart_are_not_looked_for_one_window_after_the_other() -> None:
    it = Exchange(list(range(0, 8000, 8)), gives="last")
    found = await first(*(it.read, PAGE, 100, T0, None), step=MINUTE, least=MINUTE, now=T0 + 9000 * MINUTE)
    assert [one.timestamp for one in found] == [T0 + 8 * n * MINUTE for n in range(100)]
    assert it.asked <= 15, "in windows of ten minutes it was 80"


async def test_nothing_before_the_beginning_is_read_through() -> None:
    it = Exchange(list(range(50_000, 50_100)), gives="last")

    async def begin() -> datetime:
        return T0 + 49_990 * MINUTE

    found = await first(*(it.read, PAGE, 30, T0, None), step=MINUTE, now=T0 + 50_100 * MINUTE, begin=begin)
    assert found == it.rows[:30]
    assert it.asked <= 6


async def test_what_was_told_becomes_what_the_answer_would_have_said() -> None:
    def broken(told: Told | None) -> MarketError:
        error = UpstreamError("it broke")
        error.told = told
        return error

    for told, wanted in ((None, None), (Told([1, 2], T0, None), Told([2], T0, None))):
        error = broken(told)
        with suppress(UpstreamError), retelling(lambda told: told._replace(rows=told.rows[1:])):
            raise error
        assert error.told == wanted


# --- every exchange


MOST = {"ohlc": 3100, "open_interest_history": 500, "funding_history": 1000}


class Direct(RestClient):
    """Asks the simulated exchange without a socket; breaks at its `breaks_at`th question."""

    def __init__(self, sim: Simulator, explain: Explain, breaks_at: int) -> None:
        self.sim, self.breaks_at = sim, breaks_at
        self._explain = explain
        self.asked = 0

    async def get(self, path: str, params: Params | None = None, *, bucket: str, weight: int) -> bytes:
        query = {key: str(value) for key, value in (params or {}).items() if value is not None}
        return await self._answer(Request("GET", path, query, b""))

    async def query(self, path: str, body: bytes, *, bucket: str, weight: int) -> bytes:
        return await self._answer(Request("POST", path, {}, body))

    async def _answer(self, request: Request) -> bytes:
        self.asked += 1
        if self.asked == self.breaks_at:
            raise UpstreamError("it broke")
        self.sim.market.clock.advance(1000)  # within its limits, some of which count the market's time
        self.sim.market.advance()
        await trio.sleep(1)
        reply = self.sim.venue.answer(request)
        if reply.status != 200:
            raise self._explain(reply.status, reply.body) or UpstreamError("?")
        return reply.body


HISTORIES = [
    (name, kind)
    for name, exchange in EXCHANGES.items()
    for kind in ("ohlc", "open_interest_history", "funding_history")
    if kind == "ohlc" or exchange.capabilities[kind.replace("funding", "funding_rate")]
]
"""Of each exchange what it tells again."""


@pytest.mark.parametrize("is_last", [True, False])
@pytest.mark.parametrize(("name", "kind"), HISTORIES)
async def test_every_exchange_says_what_it_told_before_an_error(
    name: str, kind: Any, is_last: bool, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """With what its answer would have said of the same rows, wherever it breaks."""
    exchange = EXCHANGES[name]
    market = Market(seed=7, clock=Clock(START, rate=0), assets=[asset for asset in ASSETS if asset.name == "BTC"])
    sim = await nursery.start(simulator_of(name).serve, market)

    def client(breaks_at: int = 0) -> Direct:
        return Direct(sim, exchange.explain, breaks_at)

    def rest(client: RestClient) -> Any:
        return exchange.open_rest(client, lambda: from_ms(market.now))

    catalogue = {row.symbol: row for row in await rest(client()).instruments()}
    listed = catalogue[exchange.symbols[0]]
    series = Series(kind, name, listed.symbol, {"ohlc": "1h", "open_interest_history": "1h"}.get(kind, ""))
    end = from_ms(START) - timedelta(hours=1)
    start = None if is_last else end - timedelta(days=29 if kind == "open_interest_history" else 95)

    async def ask(client: RestClient) -> list[Any]:
        return await fetch_of(rest(client), series, listed)(start, end, MOST[kind])

    whole = client()
    rows = await ask(whole)
    assert rows
    for breaks_at in range(1, whole.asked + 1):
        with pytest.raises(UpstreamError, match="it broke") as caught:
            await ask(client(breaks_at))
        told = told_before(caught.value)
        if told and told.rows:
            since, until = told.start or told.rows[0].timestamp, told.end or end
            assert list(told.rows) == [row for row in rows if since <= row.timestamp < until]
    assert whole.asked == 1 or (told and told.rows), "before the last question at least"
