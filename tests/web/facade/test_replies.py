"""What the façade answers to a client's control frames is what the exchange answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import trio
import trio_websocket

from tests.web.facade.fixtures import venue
from tests.web.facade.test_streams import NAMES, PATH, Socket, connected

ORDERS: Mapping[str, Sequence[Any]] = {
    "binance": (
        {"method": "SUBSCRIBE", "params": ["btcusdt@aggTrade", "no@nonsense"], "id": 1},
        {"method": "SUBSCRIBE", "params": ["btcusdt@aggTrade"], "id": 2},
        {"method": "LIST_SUBSCRIPTIONS", "id": 3},
        {"method": "UNSUBSCRIBE", "params": ["btcusdt@aggTrade", "never@asked"], "id": 4},
        {"method": "GET_PROPERTY", "params": ["combined"], "id": 5},
        {"method": "SET_PROPERTY", "params": ["combined", True], "id": 6},
        {"method": "SET_PROPERTY", "params": ["combined", 1], "id": 7},
        {"method": "GET_PROPERTY", "params": ["x"], "id": 8},
        {"method": "GALAXY", "id": 9},
    ),
    "binance errors": ({"id": 1}, "{bad", {"method": "SUBSCRIBE", "params": 1, "id": 2}, {"method": "SUBSCRIBE"}),
    "bybit": (
        {"op": "ping"},
        {"op": "ping", "req_id": "a"},
        {"op": "subscribe", "req_id": "b", "args": ["allLiquidation.BTCUSDT"]},
        {"op": "subscribe", "args": ["allLiquidation.BTCUSDT"]},
        {"op": "subscribe", "args": ["allLiquidation.ETHUSDT", "publicTrade.NOPE"]},
        {"op": "subscribe", "args": ["kline.7.BTCUSDT"]},
        {"op": "unsubscribe", "args": ["allLiquidation.BTCUSDT"]},
        {"op": "galaxy"},
    ),
    "hyperliquid": (
        {"method": "ping"},
        {"method": "subscribe", "subscription": {"type": "orderUpdates", "user": "0x" + "1" * 40}},
        {"method": "subscribe", "subscription": {"type": "orderUpdates", "user": "0x" + "1" * 40}},
        {"method": "unsubscribe", "subscription": {"type": "orderUpdates", "user": "0x" + "1" * 40}},
        {"method": "unsubscribe", "subscription": {"type": "orderUpdates", "user": "0x" + "1" * 40}},
        {"method": "subscribe", "subscription": {"type": "galaxy", "coin": "BTC"}},
        {"method": "subscribe", "subscription": {"type": "candle", "coin": "BTC", "interval": "7m"}},
        {"method": "subscribe"},
        "{bad",
        [1],
    ),
}


def without_id(reply: Any) -> Any:
    """But for what is the connection's own; and Hyperliquid fills up what it acknowledges by more than was asked."""
    reply.pop("conn_id", None)
    if reply.get("channel") == "subscriptionResponse":
        subscription = reply["data"]["subscription"]
        reply["data"]["subscription"] = {key: value for key, value in subscription.items() if value is not None}
    return reply


@pytest.mark.parametrize("case", ORDERS)
async def test_control_frames_are_answered_as_by_the_exchange(case: str) -> None:
    name = case.split()[0]
    assert name in NAMES
    async with venue(name) as world, connected(world) as ours:
        url = world.sim.ws_url.removesuffix(PATH[name]).removesuffix("/market") + PATH[name]
        async with trio_websocket.open_websocket_url(url) as socket:
            theirs = Socket(socket)
            for order in ORDERS[case]:
                assert without_id(await ours.ask(order)) == without_id(await theirs.ask(order)), order
                if name == "binance":
                    await trio.sleep(0.1)  # ten a second are allowed
