"""The WebSocket of the stream handlers: what it says of its handshake, what it hands on, and how it ends."""

from collections.abc import MutableMapping
from typing import Any

import pytest
import trio

from tests.daemon.fixtures import world
from web.streams.paths import serve_stream
from web.streams.socket import ClientLeft, WebSocket, serving, websocket

Message = MutableMapping[str, Any]


def made(*messages: Message, query: bytes = b"") -> tuple[WebSocket, list[Message]]:
    """A WebSocket that receives `messages`, and what is sent on it."""
    waiting, sent = list(messages), list[Message]()

    async def receive() -> Message:
        await trio.lowlevel.checkpoint()
        return waiting.pop(0)

    async def send(message: Message) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    scope = {
        "type": "websocket",
        "scheme": "ws",
        "path": "/ws/a b",
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", b"x.example:81"), (b"origin", b"https://x.example:81")],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
    }
    return WebSocket(scope, receive, send), sent


async def test_the_handshake_is_known_until_it_is_accepted_and_the_query_for_ever() -> None:
    socket, sent = made(query=b"a=1&a=%C3%A9&b=")
    assert (socket.host, socket.headers.get("Origin"), socket.path) == (
        "x.example:81",
        "https://x.example:81",
        "/ws/a b",
    )
    await socket.accept()
    assert sent == [{"type": "websocket.accept", "headers": [], "subprotocol": None}]
    assert socket.headers.get("Origin") is None
    assert socket.args.getlist("a") == ["1", "é"]
    assert socket.args["b"] == ""


async def test_messages_come_in_order_until_the_client_leaves() -> None:
    said: list[dict[str, Any]] = [
        {"text": "é", "bytes": None},
        {"text": None, "bytes": b"\xff"},
        {"text": None, "bytes": b""},
    ]
    socket, _ = made(
        *({"type": "websocket.receive"} | message for message in said), {"type": "websocket.disconnect", "code": 1006}
    )
    assert [await socket.receive() for _ in said] == ["é", b"\xff", ""]
    with pytest.raises(ClientLeft):
        await socket.receive()


async def test_the_name_stands_for_the_socket_of_its_task() -> None:
    async def handle(query: bytes) -> None:
        socket, _ = made(query=query)
        with serving(socket):
            await trio.testing.wait_all_tasks_blocked()
            assert websocket.args.to_dict() == {"n": query.decode()[2:]}
        with pytest.raises(RuntimeError):
            websocket.args.to_dict()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(handle, b"n=1")
        nursery.start_soon(handle, b"n=2")


async def test_a_fault_of_a_stream_is_1011_for_its_client_and_nothing_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def faulty(path: str, *rest: Any) -> None:
        if "faulty" in path:
            await websocket.accept()
            raise LookupError("a fault of ours")
        await serve_stream(path, *rest)

    monkeypatch.setattr("web.app.serve_stream", faulty)
    async with world() as w, w.stream("/ws/binance/BTCUSDT/trades") as other:
        async with w.stream("/ws/faulty") as stream:
            code, _reason = await stream.end()
            assert (code, stream.frames) == (1011, [])
        assert w.logged("web.app_crashed")
        await w.pass_time(2000)
        await other.at_least(1)
        assert other.closed is None
