"""What the configuration takes away from the façade is refused in the exchange's words, as on Binance by silence."""

from typing import Any

import pytest
import trio

from daemon.settings import Facade
from tests.web.facade.fixtures import SYMBOLS, venue
from tests.web.facade.test_limits import TIME, distinct
from tests.web.facade.test_rest import NAMES, get, klines
from tests.web.facade.test_streams import TRADES, connected

NOT_SERVED = {"binance": (404, -5000), "bybit": (200, 10017), "hyperliquid": (422, None), "okx": (404, "404")}
BOOKS: dict[str, Any] = {
    "binance": {"method": "SUBSCRIBE", "params": ["btcusdt@bookTicker"], "id": 1},
    "bybit": {"op": "subscribe", "args": ["orderbook.50.BTCUSDT"]},
    "hyperliquid": {"method": "subscribe", "subscription": {"type": "l2Book", "coin": "BTC"}},
    "okx": {"op": "subscribe", "args": [{"channel": "books", "instId": "BTC-USDT-SWAP"}]},
}


def is_accepted(name: str, told: Any) -> bool:
    match name:
        case "binance":
            return bool(told == {"result": None, "id": 1})
        case "bybit":
            return bool(told["success"])
        case "okx":
            return bool(told["event"] == "subscribe")
        case _:
            return bool(told["channel"] == "subscriptionResponse")


@pytest.mark.parametrize("name", NAMES)
async def test_without_passing_on_only_what_is_held_is_served(name: str) -> None:
    async with venue(name, facade=Facade(passthrough=False)) as world:
        status, code = NOT_SERVED[name]
        for request in (distinct(name, 1), klines(name)):
            answer = await world.ours(**request)
            assert answer.status_code == status, answer.text
            assert code is None or code in answer.json().values()
        if name in TIME:
            assert (await world.ours(**get(TIME[name]))).status_code == 200
        assert not world.asked()


@pytest.mark.parametrize("name", NAMES)
async def test_without_the_relay_only_streams_of_feeds_are_told(name: str) -> None:
    async with venue(name, facade=Facade(relay=False), rate=20.0, symbols=SYMBOLS[name]) as world:
        async with connected(world) as socket:
            assert is_accepted(name, await socket.ask(BOOKS[name])) == (name == "binance")
            assert is_accepted(name, await socket.ask(TRADES[name]))
            await socket.hear()
        assert "book" not in str([c.received for c in world.sim.connections])


@pytest.mark.parametrize("name", NAMES)
async def test_without_feeds_on_demand_a_symbol_that_has_none_is_not_followed(name: str) -> None:
    async with venue(name, on_demand=False, rate=20.0) as world, connected(world) as socket:
        assert is_accepted(name, await socket.ask(TRADES[name])) == (name == "binance")
        with trio.move_on_after(0.3) as silence:
            await socket.hear()
        assert silence.cancelled_caught
        assert not world.sim.connections


async def test_without_the_facade_there_is_nothing() -> None:
    async with venue("binance", facade=Facade(enabled=False)) as world:
        answer = await world.ours(**get("/fapi/v1/time"))
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_exchange")
