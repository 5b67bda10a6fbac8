"""The façade's streams: the exchange's own frames in its own protocol, subscribed to once however many follow."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import pytest
import trio
import trio_websocket

from tests.actors.exchanges.fixtures import quick
from tests.daemon.fixtures import eventually
from tests.patience import WITHIN
from tests.web.facade.fixtures import Venue, venue

NAMES = ("binance", "bybit", "hyperliquid", "okx")
PATH = {"binance": "/market/ws", "bybit": "/v5/public/linear", "hyperliquid": "/ws", "okx": "/ws/v5/public"}
TRADES: Mapping[str, Any] = {
    "binance": {"method": "SUBSCRIBE", "params": ["btcusdt@aggTrade"], "id": 1},
    "bybit": {"op": "subscribe", "req_id": "a", "args": ["publicTrade.BTCUSDT"]},
    "hyperliquid": {"method": "subscribe", "subscription": {"type": "trades", "coin": "BTC"}},
    "okx": {"id": "1", "op": "subscribe", "args": [{"channel": "trades", "instId": "BTC-USDT-SWAP"}]},
}
STREAM = {
    **{"binance": "btcusdt@aggTrade", "bybit": "publicTrade.BTCUSDT", "hyperliquid": "trades:BTC"},
    "okx": "trades:BTC-USDT-SWAP",
}
SECRET = "SECRETsecret0123456789"


class Socket:
    def __init__(self, socket: trio_websocket.WebSocketConnection) -> None:
        self._socket = socket

    async def say(self, message: Any) -> None:
        raw = message if isinstance(message, str | bytes) else msgspec.json.encode(message).decode()
        await self._socket.send_message(raw)

    async def hear(self, within: float = WITHIN) -> Any:
        with trio.fail_after(within):
            return msgspec.json.decode(await self._socket.get_message())

    async def ask(self, message: Any) -> Any:
        await self.say(message)
        return await self.hear()


@asynccontextmanager
async def connected(world: Venue, path: str = "") -> AsyncIterator[Socket]:
    url = world.url.replace("http", "ws", 1) + (path or PATH[world.name])
    async with trio_websocket.open_websocket_url(url) as socket:
        yield Socket(socket)


def trade_ids(name: str, frame: Any) -> list[Any]:
    match name:
        case "binance":
            return [frame["a"]] if frame.get("e") == "aggTrade" else []
        case "bybit":
            return [row["i"] for row in frame.get("data", ())] if "topic" in frame else []
        case "okx":
            is_trades = frame.get("arg", {}).get("channel") == "trades" and "data" in frame
            return [row["tradeId"] for row in frame["data"]] if is_trades else []
        case _:
            return [row["tid"] for row in frame["data"]] if frame["channel"] == "trades" else []


def told(world: Venue) -> list[Any]:
    """The trades that the exchange told, in its order, each once."""
    frames = [msgspec.json.decode(sent.frame) for sent in world.sim.sent if sent.stream == STREAM[world.name]]
    found = [
        one
        for frame in frames
        for one in trade_ids(world.name, frame.get("data", frame) if "stream" in frame else frame)
    ]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("name", NAMES)
async def test_five_clients_are_one_subscription_and_all_hear_all(name: str) -> None:
    async with venue(name, rate=20.0) as world:
        heard: list[list[Any]] = []

        async def follow() -> None:
            mine: list[Any] = []
            async with connected(world) as socket:
                await socket.say(TRADES[name])
                while len(mine) < 60:
                    mine += trade_ids(name, await socket.hear())
            heard.append(mine)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(follow)
        carried = [c for c in world.sim.connections if STREAM[name] in c.streams]
        assert len(carried) == 1
        told_apart = STREAM[name].split(":")[0]  # of the messages that subscribe, one names it
        asked = [m for c in world.sim.connections for m in c.received if told_apart in str(m)]
        assert len(asked) == 1
        theirs = told(world)
        for mine in heard:
            assert len(set(mine)) == len(mine)
            if name == "hyperliquid":
                continue  # its backlog comes newest first: no order to compare
            first = theirs.index(mine[0])
            assert mine == theirs[first : first + len(mine)]


@pytest.mark.parametrize("name", NAMES)
async def test_a_lost_line_is_no_matter_of_the_clients(name: str) -> None:
    async with venue(name, rate=5.0) as world, connected(world) as socket:
        await socket.say(TRADES[name])
        while not trade_ids(name, await socket.hear()):
            pass
        before = world.sim.connections_total
        world.sim.drop()
        await eventually(lambda: world.sim.connections_total > before, what="another connection")
        seen: list[Any] = []
        while len(seen) < 3:
            seen += trade_ids(name, await socket.hear())
        assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("name", NAMES)
async def test_a_stream_ends_upstream_only_after_the_last_has_left(name: str) -> None:
    async with venue(name, rate=5.0) as world:
        async with connected(world) as one, connected(world) as other:
            await one.say(TRADES[name])
            await other.say(TRADES[name])
            while not trade_ids(name, await one.hear()):
                pass
            if name == "binance":
                await one.say(TRADES[name] | {"method": "UNSUBSCRIBE"})
            elif name in ("bybit", "okx"):
                await one.say(TRADES[name] | {"op": "unsubscribe"})
            else:
                await one.say(TRADES[name] | {"method": "unsubscribe"})
            while not trade_ids(name, await other.hear()):
                pass
        assert any(STREAM[name] in c.streams for c in world.sim.connections)


async def test_binances_control_frames() -> None:
    async with venue("binance") as world, connected(world) as socket:
        assert await socket.ask({"method": "SUBSCRIBE", "params": ["no@nonsense"], "id": 7}) == {
            "result": None,
            "id": 7,
        }
        assert await socket.ask({"method": "LIST_SUBSCRIPTIONS", "id": 3}) == {"result": ["no@nonsense"], "id": 3}
        assert (await socket.ask("{bad"))["code"] == 3
        assert (await socket.ask({"method": "GALAXY", "id": 1}))["code"] == 2
        assert (await socket.ask({"method": "SET_PROPERTY", "params": ["combined", 1], "id": 1}))["code"] == 1
        assert (await socket.ask({"method": "GET_PROPERTY", "params": ["x"], "id": 1}))["code"] == 0
        assert not any(c.streams for c in world.sim.connections)


async def test_a_path_and_a_query_name_streams_and_decide_the_envelope() -> None:
    async with venue("binance", rate=5.0) as world:
        async with connected(world, "/market/ws/btcusdt@markPrice@1s") as socket:
            assert (await socket.hear())["e"] == "markPriceUpdate"
        async with connected(world, "/stream?streams=btcusdt@markPrice@1s/btcusdt@bookTicker") as socket:
            frames = [await socket.hear() for _ in range(12)]
            assert {frame["stream"] for frame in frames} == {"btcusdt@markPrice@1s", "btcusdt@bookTicker"}
        async with connected(world, "/market/stream?streams=btcusdt@bookTicker/btcusdt@markPrice@1s") as socket:
            frames = [await socket.hear() for _ in range(3)]
            assert {frame["stream"] for frame in frames} == {"btcusdt@markPrice@1s"}, "the other is of another tier"


async def test_streams_of_all_markets_are_passed_on_and_subscribed_to_once() -> None:
    """No feed has them: a daemon follows some markets."""
    names = ("!ticker@arr", "!miniTicker@arr", "!markPrice@arr@1s", "!forceOrder@arr")
    order = {"method": "SUBSCRIBE", "params": list(names), "id": 1}
    async with venue("binance", rate=20.0) as world:
        async with connected(world, "/stream") as one, connected(world, "/ws") as other:
            assert await one.ask(order) == await other.ask(order) == {"result": None, "id": 1}
            missing = set(names)
            while missing:
                told = await one.hear()
                missing.discard(told["stream"])
                assert isinstance(told["data"], dict) == (told["stream"] == "!forceOrder@arr")
            assert isinstance(await other.hear(), list | dict)
        asked = [message for c in world.sim.connections for message in c.received if "!ticker@arr" in str(message)]
        assert len(asked) == 1


async def test_a_line_carries_no_more_than_the_exchange_allows_and_there_are_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.web.facade.fixtures.quick", partial(quick, topics=2))
    kinds = ("ticker", "miniTicker", "bookTicker", "trade", "depth5", "depth10", "depth20", "depth", "depth@100ms")
    names = [f"btcusdt@{kind}" for kind in kinds]
    async with venue("binance", rate=20.0) as world, connected(world, "/stream") as socket:
        assert (await socket.ask({"method": "SUBSCRIBE", "params": names, "id": 1}))["result"] is None
        missing = set(names[:8])  # four lines of two; the ninth stream is acknowledged and silent
        while missing:
            missing.discard((await socket.hear())["stream"])
        assert sorted(len(c.streams) for c in world.sim.connections) == [2, 2, 2, 2]


async def test_a_line_that_falls_silent_is_replaced_though_it_answers_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.web.facade.fixtures.quick", partial(quick, silence=0.2))
    monkeypatch.setattr("actors.facade.relay.WATCH_EVERY", 0.1)
    monkeypatch.setattr("actors.lines.patience.OPENING", 0.05)
    async with venue("binance", rate=20.0) as world, connected(world, "/public/ws/btcusdt@bookTicker") as socket:
        opened = trio.current_time()
        await socket.hear()
        await eventually(lambda: trio.current_time() - opened > 0.2, what="more than an answer")
        await socket.hear()
        world.sim.faults.mute.add("*")
        await eventually(lambda: world.sim.connections_total > 1, what="another connection")
        world.sim.faults.mute.clear()
        newest = world.sim.market.now
        while (await socket.hear())["E"] < newest:
            pass


async def flood(socket: Socket) -> None:
    for number in range(30):
        await socket.say({"method": "LIST_SUBSCRIPTIONS", "id": number})
    while True:
        await socket.hear()


async def test_binance_hangs_up_on_a_flood() -> None:
    async with venue("binance") as world, connected(world) as socket:
        with pytest.raises(trio_websocket.ConnectionClosed) as closed:
            await flood(socket)
        assert closed.value.reason is not None
        assert closed.value.reason.code == 1008


async def test_bybits_answers() -> None:
    async with venue("bybit") as world, connected(world) as socket:
        pong = await socket.ask({"op": "ping", "req_id": 5})
        assert (pong["success"], pong["ret_msg"], pong["req_id"], pong["op"]) == (True, "pong", "5", "ping")
        bad = {"op": "subscribe", "args": ["publicTrade.BTCUSDT", "publicTrade.NOPE"]}
        assert (await socket.ask(bad))["ret_msg"] == "error:handler not found,topic:publicTrade.NOPE"
        assert (await socket.ask(TRADES["bybit"]))["success"]
        again = await socket.ask(TRADES["bybit"])
        assert again["ret_msg"] == "error:already subscribed,topic:publicTrade.BTCUSDT"
        assert not (await socket.ask({"op": "auth", "args": [SECRET]}))["success"]
        assert (await socket.ask({"op": "galaxy"}))["ret_msg"] == "error:invalid op"
        assert SECRET not in str(world.logs)


async def test_okxs_answers() -> None:
    async with venue("okx", rate=5.0) as world, connected(world) as socket:
        acked = await socket.ask(TRADES["okx"])
        assert (acked["id"], acked["event"], acked["arg"]) == ("1", "subscribe", TRADES["okx"]["args"][0])
        again = await socket.ask(TRADES["okx"])
        while "event" not in again:
            again = await socket.hear()
        assert again["event"] == "subscribe", "and nothing is told twice"
        swap, bar = {"instId": "BTC-USDT-SWAP"}, {"channel": "candle1m", "instId": "BTC-USDT-SWAP"}
        wrong: list[tuple[Any, str]] = [
            ({"op": "subscribe", "args": [bar]}, "60018"),  # on the other path
            ({"op": "subscribe", "args": [{"channel": "trades", "instId": "NOPE-SWAP"}]}, "60018"),
            ({"op": "subscribe", "args": [{"channel": "galaxy", **swap}]}, "60018"),
            ({"op": "subscribe", "args": []}, "60013"),
            ({"op": "subscribe", "args": [swap]}, "60013"),
            ({"op": "galaxy"}, "60012"),
            ({"op": "login", "args": [{"apiKey": SECRET}]}, "60009"),
        ]
        for order, code in wrong:
            told = await socket.ask(order)
            while "event" not in told:
                told = await socket.hear()
            assert (told["event"], told["code"]) == ("error", code), order
        assert SECRET not in str(world.logs)
        async with connected(world, "/ws/v5/business") as other:
            await other.ask({"op": "subscribe", "args": [bar]})
            assert (await other.hear())["arg"] == bar
        async with connected(world) as third:
            assert (await third.ask({"op": "subscribe", "args": [{"channel": "mark-price", **swap}]}))["event"]
            assert float((await third.hear())["data"][0]["markPx"]) > 0
        with pytest.raises(trio_websocket.ConnectionRejected) as rejected:
            async with connected(world, "/ws/v5/private"):
                pass
        assert rejected.value.status_code == 401


async def test_okxs_books_begin_whole_for_a_newcomer_and_follow_on() -> None:
    order = {"op": "subscribe", "args": [{"channel": "books", "instId": "BTC-USDT-SWAP"}]}
    async with venue("okx", rate=5.0) as world, connected(world) as first, connected(world) as second:
        assert (await first.ask(order))["event"] == "subscribe"
        frames = [await first.hear() for _ in range(6)]
        assert [frame["action"] for frame in frames] == ["snapshot", *["update"] * 5]
        assert (await second.ask(order))["event"] == "subscribe"
        whole, change = await second.hear(), await second.hear()
        [book] = whole["data"]
        assert (whole["action"], book["prevSeqId"]) == ("snapshot", -1)
        assert (change["action"], change["data"][0]["prevSeqId"]) == ("update", book["seqId"])
        assert [float(px) for px, *_ in book["bids"]] == sorted((float(px) for px, *_ in book["bids"]), reverse=True)
        assert all(float(size) > 0 for _, size, *_ in (*book["bids"], *book["asks"]))
        assert float(book["bids"][0][0]) < float(book["asks"][0][0])
        assert len([c for c in world.sim.connections if "books:BTC-USDT-SWAP" in c.streams]) == 1


@pytest.mark.parametrize("topic", ["tickers.BTCUSDT", "orderbook.50.BTCUSDT"])
async def test_a_newcomer_begins_with_a_whole_snapshot(topic: str) -> None:
    async with venue("bybit", rate=5.0) as world, connected(world) as first, connected(world) as second:
        order = {"op": "subscribe", "args": [topic]}
        assert (await first.ask(order))["success"]
        frames = [await first.hear() for _ in range(6)]
        assert [frame["type"] for frame in frames] == ["snapshot", *["delta"] * 5]
        assert (await second.ask(order))["success"]
        snapshot = await second.hear()
        assert snapshot["type"] == "snapshot"
        assert snapshot["data"].keys() == frames[0]["data"].keys()
        if topic.startswith("orderbook"):
            sides = snapshot["data"]
            assert [float(p) for p, _ in sides["b"]] == sorted((float(p) for p, _ in sides["b"]), reverse=True)
            assert all(float(size) > 0 for _, size in (*sides["b"], *sides["a"]))
            assert float(sides["b"][0][0]) < float(sides["a"][0][0])


async def test_an_unknown_coin_does_not_reach_the_line() -> None:
    async with venue("hyperliquid") as world, connected(world) as socket:
        assert (await socket.ask(TRADES["hyperliquid"]))["channel"] == "subscriptionResponse"
        await socket.hear()  # the backlog
        before = world.sim.connections_total
        bad = {"method": "subscribe", "subscription": {"type": "trades", "coin": "NOPE"}}
        assert (await socket.ask(bad))["channel"] == "error"
        assert (await socket.ask(TRADES["hyperliquid"]))["data"].startswith("Already subscribed: ")
        assert await socket.ask({"method": "ping"}) == {"channel": "pong"}
        post = {"method": "post", "id": 3, "request": {"type": "info", "payload": {"type": "l2Book", "coin": "BTC"}}}
        answer = await socket.ask(post)
        assert (answer["data"]["id"], answer["data"]["response"]["payload"]["data"]["coin"]) == (3, "BTC")
        signed = {"method": "post", "id": 4, "request": {"type": "action", "payload": {"signature": SECRET}}}
        assert (await socket.ask(signed))["data"]["response"]["type"] == "error"
        assert world.sim.connections_total == before
        assert SECRET not in str(world.logs)


GARBAGE: Sequence[str | bytes] = (
    *("", "null", "[]", "1", '"x"', "{}", "{bad", "[" * 5000, '{"method":1}', '{"op":1,"args":1}', "\x00"),
    *('{"method":"subscribe","subscription":{"type":[],"coin":{}}}', '{"method":"post","id":"x","request":1}'),
    *('{"op":"subscribe","args":[1]}', '{"op":"subscribe","args":["' + "x" * 30_000 + '"]}'),
    *('{"method":"SUBSCRIBE","params":["' + "y@" * 9000 + '"],"id":1}', '{"method":"SUBSCRIBE","params":{},"id":-1}'),
    *(b"\xff\xfe\x00", b"{}", '{"method":"subscribe","subscription":{"type":"candle","coin":"BTC","interval":[]}}'),
    *('{"method":"subscribe","subscription":[]}', '{"method":"post","id":1,"request":{"type":"info"}}'),
)


@pytest.mark.parametrize("name", NAMES)
async def test_garbage_gets_the_exchanges_error_and_disturbs_nobody(name: str) -> None:
    async with venue(name, rate=5.0) as world, connected(world) as bystander:
        await bystander.say(TRADES[name])
        for garbage in GARBAGE:
            async with connected(world) as socket:
                await socket.say(garbage)
                assert await socket.hear()
        while not trade_ids(name, await bystander.hear()):
            pass
        assert not [entry for entry in world.logs if "exc_info" in entry or "crash" in entry["event"]]


async def test_private_streams_are_refused_before_the_upgrade() -> None:
    async with venue("binance") as world:
        with pytest.raises(trio_websocket.ConnectionRejected) as rejected:
            async with connected(world, f"/private/ws/{SECRET}"):
                pass
        assert rejected.value.status_code == 401
        assert SECRET not in str(world.logs)
