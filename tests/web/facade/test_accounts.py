"""What is about an account: refused in the exchange's words, or, where the exchange tells it to whoever has an address,
passed on to nobody else.
"""

from typing import Any

import msgspec
import pytest
import trio_websocket

from actors.simulation.server import Connection
from tests.daemon.fixtures import eventually
from tests.web.facade.fixtures import Venue, venue
from tests.web.facade.test_streams import SECRET, Socket, connected

ONE, OTHER = "0x" + "1" * 40, "0x" + "2" * 40


def subscribe(**subscription: Any) -> dict[str, Any]:
    return {"method": "subscribe", "subscription": subscription}


async def begun(socket: Socket, **subscription: Any) -> Any:
    """The acknowledgement's subscription."""
    told = await socket.ask(subscribe(**subscription))
    assert told["channel"] == "subscriptionResponse", told
    return told["data"]["subscription"]


def carrying(world: Venue, name: str) -> list[Connection]:
    return [connection for connection in world.sim.connections if name in connection.streams]


async def test_what_users_do_is_told_to_their_own_clients_alone() -> None:
    """The frames of `orderUpdates` do not say whose they are."""
    async with venue("hyperliquid") as world, connected(world) as mine, connected(world) as others:
        await begun(mine, type="orderUpdates", user=ONE)
        await begun(others, type="orderUpdates", user=OTHER)
        await eventually(lambda: carrying(world, f"orderUpdates:{ONE}") and carrying(world, f"orderUpdates:{OTHER}"))
        (line,) = carrying(world, f"orderUpdates:{ONE}")
        assert f"orderUpdates:{OTHER}" not in line.streams
        line.send(b'{"channel":"orderUpdates","data":[{"order":{"oid":1}}]}')
        assert (await mine.hear())["data"] == [{"order": {"oid": 1}}]
        assert await others.ask({"method": "ping"}) == {"channel": "pong"}, "nothing came before"


async def test_a_newcomer_is_told_the_snapshot_and_what_came_since() -> None:
    async with venue("hyperliquid") as world, connected(world) as first, connected(world) as second:
        await begun(first, type="userFills", user=ONE)
        snapshot = await first.hear()
        assert snapshot["data"] == {"isSnapshot": True, "user": ONE, "fills": []}
        (line,) = carrying(world, f"userFills:{ONE}")
        line.send(msgspec.json.encode({"channel": "userFills", "data": {"user": ONE, "fills": [{"tid": 7}]}}))
        fill = await first.hear()
        await begun(second, type="userFills", user=ONE)
        assert [await second.hear(), await second.hear()] == [snapshot, fill]
        assert carrying(world, f"userFills:{ONE}") == [line]


async def test_more_users_than_there_are_connections_for_are_refused() -> None:
    async with venue("hyperliquid") as world, connected(world) as socket:
        for number in range(4):
            await begun(socket, type="orderUpdates", user=f"0x{number:040}")
        told = await socket.ask(subscribe(type="orderUpdates", user=ONE))
        assert (told["channel"], told["data"][:20]) == ("error", "Invalid subscription")
        await eventually(lambda: len(world.sim.connections) == 4, what="a connection for each")


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "orderUpdates"},
        {"type": "orderUpdates", "user": "0x1"},
        {"type": "orderUpdates", "user": [ONE]},
        {"type": "trades", "coin": "BTC", "user": ONE},
        {"type": "l2Book", "coin": "BTC", "nSigFigs": 9},
        {"type": "allMids", "dex": "XYZ"},
    ],
)
async def test_what_the_exchange_would_cut_the_connection_for_does_not_reach_it(wrong: dict[str, Any]) -> None:
    async with venue("hyperliquid") as world, connected(world) as socket:
        told = await socket.ask(subscribe(**wrong))
        assert (told["channel"], told["data"][:18]) == ("error", "Error parsing JSON")
        assert not world.sim.connections


async def test_all_mids_of_a_dex_are_told_apart() -> None:
    async with venue("hyperliquid") as world, connected(world) as socket, connected(world) as other:
        await begun(socket, type="allMids")
        assert "BTC" in (await socket.hear())["data"]["mids"]
        await begun(other, type="allMids", dex="xyz")
        assert "BTC" not in (await other.hear())["data"]["mids"]
        assert await socket.ask({"method": "ping"}) == {"channel": "pong"}, "of the other dex it is told nothing"


async def test_bybits_private_path_says_why_nothing_is_served() -> None:
    async with venue("bybit") as world, connected(world, "/v5/private") as socket:
        for order in ({"op": "auth", "args": [SECRET, 1, SECRET]}, {"op": "subscribe", "args": ["order"]}):
            told = await socket.ask(order)
            assert (told["success"], told["op"]) == (False, order["op"])
            assert "public market data only" in told["ret_msg"]
        assert not world.sim.connections
        assert SECRET not in str(world.logs)


async def test_a_listen_key_in_a_path_is_refused_before_the_upgrade() -> None:
    key = SECRET * 3
    async with venue("binance") as world:
        for path in (f"/ws/{key}", f"/market/ws/{key}", f"/stream?streams=btcusdt@trade/{key}"):
            with pytest.raises(trio_websocket.ConnectionRejected) as rejected:
                async with connected(world, path):
                    pass
            assert (rejected.value.status_code, msgspec.json.decode(rejected.value.body or b"")["code"]) == (401, -2015)
        assert SECRET not in str(world.logs)
        async with connected(world, "/ws/0") as socket:  # ccxt's own name
            assert await socket.ask({"method": "LIST_SUBSCRIPTIONS", "id": 1}) == {"result": ["0"], "id": 1}
