"""What a request is worth to the exchange, and for how long its answer is good."""

import trio

from actors.exchanges import binance, hyperliquid
from actors.exchanges.facade import Asked, Pass, Reply, Rows
from tests.web.facade.fixtures import venue
from tests.web.facade.test_rest import info

HOUR = 3_600_000
NOW = 500_000 * HOUR - 5000  # five seconds before an hour's end


class Present:
    def now(self) -> int:
        return NOW

    def lists(self, symbol: str) -> bool:
        return True

    def streams(self, name: str) -> bool:
        return True


def test_a_settlement_ends_the_memory_of_all_rates() -> None:
    assert binance.EXCHANGE.facade is not None
    way = binance.EXCHANGE.facade.route(Asked("GET", "/fapi/v1/fundingRate", {"limit": "1000"}), Present())
    assert isinstance(way, Pass)
    assert way.seconds == 5


def test_where_it_is_in_doubt_how_many_rates_there_are_the_exchange_says_so() -> None:
    """Without times there are the newest 200, or as many as were asked for."""
    assert binance.EXCHANGE.facade is not None
    kinds = {}
    for limit in (None, "200", "201"):
        query = {"symbol": "BTCUSDT"} | ({"limit": limit} if limit else {})
        kinds[limit] = type(binance.EXCHANGE.facade.route(Asked("GET", "/fapi/v1/fundingRate", query), Present()))
    assert kinds == {None: Pass, "200": Rows, "201": Pass}


def test_settled_rates_are_weighed_by_how_many_there_are() -> None:
    """20, and one more for each twenty rows."""
    assert hyperliquid.EXCHANGE.facade is not None
    for hours, weight in ((1, 20), (40, 22), (900, 45)):
        body = b'{"type":"fundingHistory","coin":"BTC","startTime":%d}' % (NOW - hours * HOUR)
        way = hyperliquid.EXCHANGE.facade.route(Asked("POST", "/info", {}, body), Present())
        assert isinstance(way, Rows)
        assert way.wider is not None
        assert (way.asked.weight, way.wider.asked.weight) == (weight, weight)


async def test_settled_rates_asked_for_a_millisecond_apart_are_one_call() -> None:
    async with venue("hyperliquid") as world:
        answers: list[bytes] = []

        async def ask(offset: int) -> None:
            start = world.sim.market.now - 100 * HOUR + offset
            answers.append((await world.ours(**info(type="fundingHistory", coin="BTC", startTime=start))).content)

        async with trio.open_nursery() as nursery:
            for offset in range(5):
                nursery.start_soon(ask, offset)
        assert len(world.asked()) == 1
        assert len(set(answers)) == 1
        _, theirs = await world.both(
            **info(type="fundingHistory", coin="BTC", startTime=world.sim.market.now - 100 * HOUR)
        )
        assert theirs.content == answers[0]


def test_hyperliquid_wants_to_be_told_that_it_is_json() -> None:
    assert hyperliquid.EXCHANGE.facade is not None
    found = {}
    for content_type in ("application/json", "Application/JSON; charset=utf-8", "text/plain", ""):
        asked = Asked("POST", "/info", {}, b'{"type":"meta"}', content_type)
        way = hyperliquid.EXCHANGE.facade.route(asked, Present())
        found[content_type] = (way.status, way.body) if isinstance(way, Reply) else "passed on"
    refused = 415, b"Expected request with `Content-Type: application/json`"
    assert [*found.values()] == ["passed on", "passed on", refused, refused]
