"""Who asks for too much is refused in the exchange's words, with the time, and before the exchange would do it."""

from typing import Any

import httpx
import msgspec
import pytest
import trio

from actors.simulation.server import Reply, RestFault
from daemon.settings import Facade
from tests.daemon.fixtures import START
from tests.patience import WITHIN
from tests.web.facade.fixtures import venue
from tests.web.facade.test_rest import MINUTE, NAMES, OKX, get, info, klines
from web.access.limits import Limits

LIMITED = {"binance": (429, -1003), "bybit": (200, 10006), "hyperliquid": (429, None), "okx": (429, "50011")}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "okx"])
async def test_past_its_share_a_client_is_refused_before_the_exchange_would_and_rows_go_on(name: str) -> None:
    async with venue(name, facade=Facade(share=0.02)) as world:
        await world.ours(**klines(name))
        status, code = LIMITED[name]
        answers = [await world.ours(**distinct(name, number)) for number in range(4)]
        with trio.fail_after(WITHIN):
            while answers[-1].headers["x-marketd"] == "pass":
                answers.append(await world.ours(**distinct(name, len(answers))))
        refused = answers[-1]
        assert refused.status_code == status
        assert code is None or code in refused.json().values()
        assert 1 <= int(refused.headers["retry-after"]) <= 61
        assert name != "bybit" or int(refused.headers["x-bapi-limit-reset-timestamp"]) > START
        assert (await world.ours(**klines(name, end=START - 20 * MINUTE, limit=5))).headers["x-marketd"] == "rows"
        assert {served.status for served in world.asked()} == {200}


async def test_what_an_answer_weighs_by_its_rows_is_spent_once_it_is_known() -> None:
    """Hyperliquid counts a twentieth of every fill; one who asks cannot know how many there are."""
    async with venue("hyperliquid") as world:

        async def spent() -> int:
            buckets = (await world.client.get("/health")).json()["budgets"]["hyperliquid"]["buckets"]
            return int(buckets[0]["by"]["client"])

        before = await spent()
        world.sim.faults.rest.append(
            RestFault(reply=Reply(200, msgspec.json.encode([{"tid": n} for n in range(2000)])))
        )
        assert len((await world.ours(**distinct("hyperliquid", 1))).json()) == 2000
        assert await spent() - before == 20 + 2000 // 20


@pytest.mark.parametrize("name", NAMES)
async def test_past_its_own_limit_a_client_is_refused_as_by_the_exchange(name: str) -> None:
    limits = Limits(exempt=(), request_burst=100, requests_per_second=0.5)
    status, code = LIMITED[name]
    request = {"json": {"type": "exchangeStatus"}} if name == "hyperliquid" else get(TIME[name])
    async with venue(name, limits=limits) as world:
        with trio.fail_after(WITHIN):
            while not (refused := await world.ours(**request)).headers.get("retry-after"):
                assert refused.status_code == 200
        assert refused.status_code == status
        assert code is None or code in refused.json().values()
        assert 1 <= int(refused.headers["retry-after"]) <= 61
        assert refused.headers["content-type"].startswith("application/json")


TIME = {"binance": "/fapi/v1/time", "bybit": "/v5/market/time", "okx": "/api/v5/public/time"}


def distinct(name: str, number: int) -> dict[str, Any]:
    """A dear request that no other is like."""
    if name == "hyperliquid":
        return info(type="userFills", user=f"0x{number:040}")
    if name == "bybit":
        return get(
            "/v5/market/open-interest",
            category="linear",
            symbol="BTCUSDT",
            intervalTime="5min",
            endTime=str(number + START),
        )
    if name == "okx":
        return get("/api/v5/market/history-trades", instId=OKX, after=str(10**10 + number))
    return get("/fapi/v1/aggTrades", symbol="BTCUSDT", fromId=str(number))


@pytest.mark.parametrize("name", NAMES)
async def test_while_the_exchange_bans_us_rows_are_still_served(name: str) -> None:
    async with venue(name) as world:
        rows = await world.ours(**klines(name, end=START - 20 * MINUTE, limit=5))
        assert rows.status_code == 200
        ban = {
            "binance": Reply(418, b'{"code":-1003,"msg":"Way too many requests"}'),
            "bybit": Reply(403, b"403 Forbidden: access too frequent", content_type="text/plain"),
            "hyperliquid": Reply(429, b"Too Many Requests", content_type="text/plain"),
            "okx": Reply(429, b'{"code":"50011","msg":"Too Many Requests","data":[]}'),
        }
        world.sim.faults.rest.append(RestFault(reply=ban[name]))
        status, code = LIMITED[name]
        waits = []
        for number in range(2):
            refused = await world.ours(**distinct(name, number))
            assert refused.status_code == status, "never 418: clients stop for good"
            assert code is None or code in refused.json().values()
            waits.append(int(refused.headers["retry-after"]))
        assert waits[0] - waits[1] in range(10), "the first is told for how long, like the others"
        again = await world.ours(**klines(name, end=START - 20 * MINUTE, limit=5))
        assert (again.content == rows.content or name != "binance", again.headers["x-marketd"]) == (True, "rows")


TOO_MANY = b'{"retCode":10006,"retMsg":"Too many visits!","result":{},"retExtInfo":{},"time":1795946219999}'


@pytest.mark.parametrize(
    "reply", [Reply(200, TOO_MANY), Reply(403, b"<html>403 ERROR</html>", content_type="text/html")]
)
async def test_a_refusal_of_this_address_is_heeded_whatever_its_status(reply: Reply) -> None:
    async with venue("bybit") as world:
        world.sim.faults.rest.append(RestFault(reply=reply, times=1))
        assert (await world.ours(**distinct("bybit", 0))).json()["retCode"] == 10006
        before = len(world.asked())
        assert (await world.ours(**distinct("bybit", 1))).json()["retCode"] == 10006
        assert len(world.asked()) == before, "whoever goes on asking is banned"


async def test_a_fault_of_the_exchange_within_a_200_is_not_remembered() -> None:
    async with venue("bybit") as world:
        reply = b'{"retCode":10016,"retMsg":"System error.","result":{},"retExtInfo":{},"time":1795946219999}'
        world.sim.faults.rest.append(RestFault(reply=Reply(200, reply), times=1))
        codes = [(await world.ours(**distinct("bybit", 0))).json()["retCode"] for _ in range(2)]
        assert codes == [10016, 0]


async def test_okxs_allowances_of_two_seconds_are_waited_for_and_too_many_refused() -> None:
    async with venue("okx", facade=Facade(share=0.1)) as world:
        answers: list[httpx.Response] = []

        async def ask(number: int) -> None:
            answers.append(await world.ours(**distinct("okx", number)))

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(ask, number)
        statuses = sorted(answer.status_code for answer in answers)
        assert set(statuses) == {200, 429}
        refused = [answer for answer in answers if answer.status_code == 429]
        assert {answer.json()["code"] for answer in refused} == {"50011"}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert {served.status for served in world.asked()} == {200}


async def test_a_block_of_the_region_is_told_in_the_exchanges_words_for_as_long_as_it_lasts() -> None:
    body = b'{"msg":"Service unavailable from a restricted location"}'
    path = "/fapi/v1/trades"
    async with venue("binance") as world:
        world.sim.faults.rest.append(RestFault(path, times=1, reply=Reply(451, body)))
        for symbol in ("BTCUSDT", "ETHUSDT"):
            told = await world.ours(path, params={"symbol": symbol})
            assert (told.status_code, told.content) == (451, body)
        assert [served.path for served in world.asked()].count(path) == 1
