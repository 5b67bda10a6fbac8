"""/ws and /sse of the running daemon: a client that leaves and comes back has heard what one that stayed has heard."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import msgspec
import trio
import trio_websocket

from tests.daemon.fixtures import Json, World, eventually, world

TOPICS = ["binance:BTCUSDT:ohlc:1m", "binance:BTCUSDT:trades"]


class Follower:
    """A program that follows topics, on one connection after the other, and keeps every numbered event."""

    def __init__(self) -> None:
        self.events: dict[str, dict[int, Json]] = {topic: {} for topic in TOPICS}
        self.others: list[Json] = []
        self.positions: dict[str, Json] = {}
        self.event_id = ""

    def hear(self, frame: Json) -> None:
        if "seq" not in frame:
            self.others.append(frame)
            return
        last = self.positions.get(frame["topic"])
        assert last is None or (last["epoch"], last["seq"] + 1) == (frame["epoch"], frame["seq"])
        self.positions[frame["topic"]] = {"epoch": frame["epoch"], "seq": frame["seq"]}
        self.events[frame["topic"]][frame["seq"]] = frame

    @asynccontextmanager
    async def on_socket(self, w: World) -> AsyncIterator[None]:
        async with trio_websocket.open_websocket_url(w.url.replace("http", "ws", 1) + "/ws") as socket:
            command = {"op": "subscribe", "id": 1, "topics": TOPICS, "since": self.positions}
            await socket.send_message(msgspec.json.encode(command).decode())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, socket)
                await eventually(lambda: any(frame["type"] == "ack" for frame in self.others))
                yield
                nursery.cancel_scope.cancel()

    async def _read(self, socket: trio_websocket.WebSocketConnection) -> None:
        while True:
            self.hear(msgspec.json.decode(await socket.get_message()))

    @asynccontextmanager
    async def on_events(self, w: World) -> AsyncIterator[None]:
        headers = {"Last-Event-ID": self.event_id} if self.event_id else {}
        url = "/sse?topics=" + ",".join(TOPICS)
        async with w.client.stream("GET", url, headers=headers) as response, trio.open_nursery() as nursery:
            assert response.headers["content-type"] == "text/event-stream"
            self.event_id = ""
            nursery.start_soon(self._read_events, response)
            await eventually(lambda: self.event_id)
            yield
            nursery.cancel_scope.cancel()

    async def _read_events(self, response: httpx.Response) -> None:
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                self.event_id = value
            elif name == "data":
                self.hear(msgspec.json.decode(value))


async def at_the_present(w: World, stays: Follower, leaves: Follower) -> None:
    """Both have heard the last trade that the exchange sent, and whatever came with it."""
    await w.settled()
    newest = w.frames("btcusdt@aggTrade")[-1]["a"]

    def heard(follower: Follower) -> bool:
        trades = follower.events[TOPICS[1]]
        return bool(trades) and trades[max(trades)]["trade_id"] == newest

    await eventually(lambda: heard(stays) and heard(leaves) and leaves.positions == stays.positions)


async def follow(w: World, kind: str) -> None:
    stays, leaves = Follower(), Follower()
    visit = {"ws": leaves.on_socket, "sse": leaves.on_events}[kind]
    stay = {"ws": stays.on_socket, "sse": stays.on_events}[kind]
    async with stay(w):
        for seconds in (3, 70, 5):
            async with visit(w):
                await w.pass_time(seconds * 1000, step=500)
                if seconds == 5:  # the exchange cuts the connection meanwhile
                    w.sim.drop()
                    await eventually(lambda: w.sim.connections_total == 2)
                    await w.subscribed("btcusdt@aggTrade")
                    await w.pass_time(3000, step=500)
                await at_the_present(w, stays, leaves)
            await w.pass_time(65_000, step=1000)
        async with visit(w):
            await at_the_present(w, stays, leaves)
        for topic in TOPICS:
            last = max(leaves.events[topic])
            assert sorted(leaves.events[topic]) == sorted(seq for seq in stays.events[topic] if seq <= last)
            for seq, event in leaves.events[topic].items():
                assert event == stays.events[topic][seq]
        assert not [frame for frame in leaves.others if frame.get("reason") == "resume_too_old"]
        closed = [bar for bar in leaves.events[TOPICS[0]].values() if bar["is_closed"]]
        times = [bar["timestamp"] for bar in closed]
        assert len(times) >= 4
        assert times == sorted(set(times))


async def test_a_client_of_ws_comes_back() -> None:
    async with world() as w:
        await follow(w, "ws")


async def test_a_client_of_sse_comes_back() -> None:
    async with world() as w:
        await follow(w, "sse")
