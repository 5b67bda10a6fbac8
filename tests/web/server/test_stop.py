"""TLS, stopping, and what the server's caller sees of its faults."""

from __future__ import annotations

import importlib.metadata
import socket
import ssl
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from quart_trio import QuartTrio

import web.server.connections
import web.server.pinned
from tests.patience import WITHIN
from tests.web.server.served import (
    TEXT,
    Contexts,
    captured_log,
    client,
    exchange,
    frame,
    guarded,
    handshake,
    read_to_end,
    stock,
    tls_contexts,
    until,
)
from web.server.protocol import GuardedH11
from web.server.settings import Limits

GET = b"GET /json HTTP/1.1\r\nhost: test\r\n%s\r\n"
PATIENT = Limits(head=2 * WITHIN, grace=2 * WITHIN)  # what ends sooner ends for another reason


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return captured_log(monkeypatch)


# --- TLS --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contexts() -> Contexts:
    return tls_contexts()


async def tls_stream(port: int, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    return trio.SSLStream(
        await trio.open_tcp_stream("127.0.0.1", port),
        context,
        server_hostname="localhost",
        https_compatible=True,
    )


async def test_tls(contexts: Contexts) -> None:
    async with guarded(tls=contexts[0]) as served:
        with trio.fail_after(WITHIN):
            async with await tls_stream(served.port, contexts[1]) as stream:
                await stream.send_all(GET % b"connection: close\r\n")
                assert b'{"ok":true}' in await read_to_end(stream)
            reader = await handshake(await tls_stream(served.port, contexts[1]), b"/ws/push")
            for number in range(200):
                assert str(await reader.message()).startswith(f"{number}.")
            await reader.aclose()
            other = await handshake(await tls_stream(served.port, contexts[1]), b"/ws/echo")
            await other.send(frame(TEXT, b"hello"))
            assert await other.message() == "hello"
            served.stop.set()
            assert await other.close_code() == 1001
            await other.aclose()
            await served.ended.wait()


async def test_tls_peer_that_says_nothing_is_dropped(contexts: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    assert web.server.connections.TLS_HANDSHAKE_DEADLINE == 5
    monkeypatch.setattr("web.server.connections.TLS_HANDSHAKE_DEADLINE", 0.2)
    async with guarded(tls=contexts[0]) as served:
        with trio.fail_after(WITHIN):
            assert await exchange(served.port) == b""
            await exchange(served.port, b"GET / HTTP/1.1\r\n\r\n")  # no TLS at all


async def test_tls_never_speaks_http2() -> None:
    server, client_side = tls_contexts()
    server.set_alpn_protocols(["h2", "http/1.1"])
    client_side.set_alpn_protocols(["h2"])
    async with guarded(tls=server) as served:
        with trio.fail_after(WITHIN):
            stream = await tls_stream(served.port, client_side)
            await stream.do_handshake()
            assert await read_to_end(stream) == b""
            await stream.aclose()


# --- Stopping ---------------------------------------------------------------------------------------


async def test_stop_says_1001_and_lets_a_response_end() -> None:
    async with (
        guarded(limits=PATIENT) as served,
        client(served.port, b"/ws/drain") as first,
        client(served.port, b"/ws/push") as second,
    ):
        idle = await trio.open_tcp_stream("127.0.0.1", served.port)
        busy = await trio.open_tcp_stream("127.0.0.1", served.port)
        await busy.send_all(b"GET /slow HTTP/1.1\r\nhost: test\r\n\r\n")
        begun = await busy.receive_some()
        assert begun.startswith(b"HTTP/1.1 200")
        served.stop.set()
        with trio.fail_after(WITHIN):
            assert await first.close_code() == 1001
            assert await second.close_code() == 1001
            assert await read_to_end(idle) == b""
            rest = await read_to_end(busy)
            assert rest.endswith(b"three\r\n0\r\n\r\n"), "the response was cut off"
            with pytest.raises(OSError, match="connect"):
                await trio.open_tcp_stream("127.0.0.1", served.port)
            for peer in (first, second):
                await peer.aclose()
            await served.ended.wait()


async def test_stock_stops_without_a_close_frame() -> None:
    async with stock() as served, client(served.port, b"/ws/drain") as other:
        served.stop.set()
        with trio.fail_after(WITHIN), pytest.raises(EOFError):
            await other.close_code()


async def test_websocket_that_is_being_accepted_at_stop_is_told_too() -> None:
    async with guarded(limits=PATIENT) as served, trio.open_nursery() as nursery:

        async def connect() -> None:
            async with client(served.port, b"/ws/late") as late:
                assert await late.close_code() == 1001

        nursery.start_soon(connect)
        await until(lambda: served.statistics.open == 1)
        await trio.testing.wait_all_tasks_blocked()
        served.stop.set()
        with trio.fail_after(WITHIN):
            await served.ended.wait()


async def test_cancelling_ends_at_once() -> None:
    with trio.fail_after(WITHIN):
        async with guarded(limits=PATIENT) as served, client(served.port, b"/ws/drain"):
            pass  # `guarded` cancels the server when it is left


# --- The boundary and the pin -----------------------------------------------------------------------


@pytest.mark.parametrize("where", ["reader", "task"])
async def test_fault_of_a_connection_is_its_own(where: str, monkeypatch: pytest.MonkeyPatch, lines: list[Any]) -> None:
    handle = GuardedH11.handle

    async def fail() -> None:
        raise LookupError("on purpose")

    async def faulty(self: GuardedH11, event: Any) -> None:
        if b"boom" in getattr(event, "data", b""):
            if where == "reader":
                await fail()
            self.task_group.spawn(fail)
            await trio.sleep_forever()
        await handle(self, event)

    monkeypatch.setattr(GuardedH11, "handle", faulty)
    async with guarded() as served, client(served.port, b"/ws/echo") as other:
        with trio.fail_after(WITHIN):
            assert await exchange(served.port, b"boom") == b""
        await other.send(frame(TEXT, b"hello"))
        assert await other.message() == "hello"
        await until(lambda: served.statistics.open == 1)
        assert served.statistics.crashes == 1
        [line] = lines
        assert line["event"] == "web.connection_crashed"
        assert (line["log_level"], line["error"]) == ("warning", "LookupError")


async def test_peers_that_vanish_are_probed() -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(web.server.connections.serve, QuartTrio("tests.none"), [listener], stop=trio.Event())
        )
        assert listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        nursery.cancel_scope.cancel()


async def test_requests_write_no_line_of_log(lines: list[Any], capfd: pytest.CaptureFixture[str]) -> None:
    request = b"GET /json?%0d%0a\x1b[31m HTTP/1.1\r\nhost: test\r\nuser-agent: \"'\\\r\n"
    async with guarded() as served:
        with trio.fail_after(WITHIN):
            await exchange(served.port, request.replace(b"\x1b", b"%1b") + b"connection: close\r\n\r\n")
    assert lines == []
    assert capfd.readouterr() == ("", "")


async def test_other_hypercorn_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    web.server.pinned.check_hypercorn()

    async def refused(match: str) -> None:
        with pytest.raises(RuntimeError, match=match) as caught:
            await web.server.connections.serve(QuartTrio("tests.none"), [], stop=trio.Event())
        assert "\n" not in str(caught.value)

    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", lambda _: "0.19.0")
        await refused(r"hypercorn 0\.18\.0 is needed exactly, 0\.19\.0 is installed")
    with monkeypatch.context() as patch:
        patch.delattr(web.server.pinned.WSStream, "_send_wsproto_event")
        await refused(r"no WSStream\._send_wsproto_event")
    with monkeypatch.context() as patch:
        patch.setattr(web.server.pinned.H11Protocol, "_create_stream", lambda self, request, more: None)
        await refused(r"changed H11Protocol\._create_stream")
    with monkeypatch.context() as patch:
        patch.delattr(web.server.pinned.Config, "h11_max_incomplete_size")
        await refused(r"no Config\.h11_max_incomplete_size")
