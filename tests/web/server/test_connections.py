"""What a client gets to see. Who attacks is in test_server_faults.py and test_server_slow.py."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import quart
import trio
from quart_trio import QuartTrio

from tests.patience import WITHIN
from tests.web.server.served import (
    CLOSE,
    HANDSHAKE,
    TEXT,
    captured_log,
    client,
    descriptors,
    exchange,
    frame,
    guarded,
    read_to_end,
    stock,
    until,
)
from web.server.connections import Limits
from web.server.outbox import Outbox

GET = b"GET /json HTTP/1.1\r\nhost: test\r\n%s\r\n"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return captured_log(monkeypatch)


# --- HTTP -------------------------------------------------------------------------------------------


ENDING_REQUESTS = {
    "connection close": GET % b"connection: close\r\n",
    "http/1.0": b"GET /json HTTP/1.0\r\n\r\n",
    "early 413": b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 5000\r\n\r\n" + bytes(3000),
}


@pytest.mark.parametrize("request_bytes", ENDING_REQUESTS.values(), ids=ENDING_REQUESTS.keys())
async def test_connection_ends_with_the_response(request_bytes: bytes) -> None:
    async with guarded(limits=Limits(head=2 * WITHIN)) as served:
        await exchange(served.port, request_bytes)  # whatever opens its files at first use
        await until(lambda: served.statistics.open == 0)
        before = descriptors()
        with trio.fail_after(WITHIN):  # fifty of them, before one would end for being idle
            for _ in range(50):
                answer = await exchange(served.port, request_bytes)
                assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 413"))
        await until(lambda: served.statistics.open == 0)
        assert descriptors() <= before


@pytest.mark.parametrize("request_bytes", ENDING_REQUESTS.values(), ids=ENDING_REQUESTS.keys())
async def test_stock_connection_does_not_end_with_the_response(request_bytes: bytes) -> None:
    async with stock(keep_alive_timeout=60) as served:
        ended = 0
        for _ in range(5):
            with trio.move_on_after(0.1):
                await exchange(served.port, request_bytes)
                ended += 1
        assert ended < 5


async def test_keep_alive_and_pipelined_requests() -> None:
    async with guarded() as served:
        answer = await exchange(served.port, GET % b"" * 3 + GET % b"connection: close\r\n")
        assert answer.count(b'{"ok":true}') == 4
        assert served.statistics.accepted == 1


async def test_large_response_arrives_whole() -> None:
    async with guarded() as served:
        with trio.fail_after(WITHIN):
            answer = await exchange(served.port, b"GET /large HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert len(body) == 32 << 20
        assert b"\r\nserver:" not in head.lower()


BEGUN = b"GET / HTTP/1.1\r\nhost: test\r\n"


@pytest.mark.parametrize("head", [b"", BEGUN])
async def test_a_head_that_does_not_come_ends_the_connection(head: bytes) -> None:
    async with guarded(limits=Limits(head=0.2)) as served:
        with trio.fail_after(WITHIN):
            await exchange(served.port, head)


async def test_an_idle_connection_ends() -> None:
    async with guarded(limits=Limits(head=2 * WITHIN, keep_alive=0.2)) as served:
        with trio.fail_after(WITHIN):
            await exchange(served.port, GET % b"")


async def test_between_requests_a_connection_is_kept_for_longer_than_a_head_may_take() -> None:
    """Clients that poll at a steady pace would else meet the very moment of its end: a POST is not tried again."""
    async with guarded(limits=Limits(head=0.1)) as served:
        stream = await trio.open_tcp_stream("127.0.0.1", served.port)
        for _ in range(2):
            await stream.send_all(GET % b"")
            answer = b""
            with trio.fail_after(WITHIN):
                while b'{"ok":true}' not in answer:
                    data = await stream.receive_some()
                    assert data
                    answer += data
            await trio.sleep(0.3)
        await stream.aclose()


HEAVY = {
    "one packet": [GET % (b"x: " + b"y" * 20_000 + b"\r\n")],
    "many headers": [GET % b"".join(b"x%d: y\r\n" % n for n in range(4000))],
    "long target": [b"GET /json?" + b"q" * 20_000 + b" HTTP/1.1\r\nhost: test\r\n\r\n"],
    "never ends": [b"GET /json HTTP/1.1\r\nhost: test\r\nx: ", bytes(b"y" * 30_000)],
}


@pytest.mark.parametrize("chunks", HEAVY.values(), ids=HEAVY.keys())
async def test_oversized_request_head_is_431(chunks: list[bytes], lines: list[Any]) -> None:
    async with guarded() as served:
        with trio.fail_after(WITHIN):
            assert (await exchange(served.port, *chunks)).startswith(b"HTTP/1.1 431")
        assert served.statistics.refused == 1
        assert [line["log_level"] for line in lines] == ["warning"]


async def test_stock_takes_an_oversized_head_in_one_packet() -> None:
    async with stock() as served:
        with trio.fail_after(WITHIN):
            stream = await trio.open_tcp_stream("127.0.0.1", served.port)
            await stream.send_all(*HEAVY["one packet"])
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
            await stream.aclose()


async def test_connections_over_the_limit_are_refused_and_the_others_served() -> None:
    async with guarded(limits=Limits(connections=2)) as served:
        async with client(served.port, b"/ws/echo") as first, client(served.port, b"/ws/echo"):
            with trio.fail_after(WITHIN):
                answer = await exchange(served.port, GET % b"")
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"retry-after" in answer
            assert served.statistics.refused == 1
            await first.send(frame(TEXT, b"hello"))
            assert await first.message() == "hello"
        await until(lambda: served.statistics.open == 0)
        with trio.fail_after(WITHIN):
            assert b"200" in await exchange(served.port, GET % b"connection: close\r\n")


# --- WebSocket --------------------------------------------------------------------------------------


async def test_app_pushes_through_its_outbox() -> None:
    async with guarded() as served, client(served.port, b"/ws/push") as reader:
        with trio.fail_after(WITHIN):
            for number in range(500):
                message = await reader.message()
                assert isinstance(message, str)
                assert message.startswith(f"{number}.")


async def test_crash_of_the_app_is_1011(lines: list[Any]) -> None:
    async with guarded() as served, client(served.port, b"/ws/crash") as crashed:
        with trio.fail_after(WITHIN):
            assert await crashed.close_code() == 1011
            assert await read_to_end(crashed.stream) == b""
        assert served.statistics.crashes == 0, "a fault of the app is not one of the server"


async def test_crash_of_an_app_that_maps_nothing_is_1011_too(lines: list[Any]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        raise LookupError("on purpose")

    async with guarded(app) as served, client(served.port, b"/") as crashed:
        with trio.fail_after(WITHIN):
            assert await crashed.close_code() == 1011
        assert [line["event"] for line in lines] == ["web.app_crashed"]


async def test_stock_calls_a_crash_normal() -> None:
    app = QuartTrio("tests.stock")
    app.logger.handlers = [logging.NullHandler()]

    @app.websocket("/ws/crash")
    async def crash() -> None:
        await quart.websocket.accept()
        raise LookupError("on purpose")

    async with stock(app) as served, client(served.port, b"/ws/crash") as crashed:
        with trio.fail_after(WITHIN):
            assert await crashed.close_code() == 1000


@pytest.mark.parametrize("offer", [b"permessage-deflate", b"permessage-deflate; client_max_window_bits"])
async def test_no_extension_is_ever_negotiated(offer: bytes) -> None:
    headers = b"sec-websocket-extensions: " + offer + b"\r\n"
    async with guarded() as served, client(served.port, b"/ws/echo", headers) as plain:
        assert b"sec-websocket-extensions" not in plain.head.lower()
        await plain.send(frame(TEXT | 0x40, b"compressed?"))  # RSV1
        with trio.fail_after(WITHIN):
            assert await plain.close_code() == 1002
    async with stock() as served, client(served.port, b"/ws/echo", headers) as deflated:
        assert b"sec-websocket-extensions" in deflated.head.lower()


async def test_close_on_the_heels_of_the_handshake_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = Outbox.write

    async def slow_write(self: Outbox, data: bytes) -> None:
        await write(self, data)
        if data.startswith(b"HTTP/1.1 101"):
            await trio.sleep(0.1)  # the client is quicker than the task that accepted it

    monkeypatch.setattr(Outbox, "write", slow_write)
    async with guarded() as served, client(served.port, b"/ws/echo") as hasty:
        await hasty.send(frame(CLOSE, b"\x03\xe8"))
        with trio.fail_after(WITHIN):
            assert await hasty.close_code() == 1000


VIOLATIONS = {
    "bad utf-8": (frame(TEXT, b"\xff\xfe"), 1007),
    "unmasked": (b"\x81\x02hi", 1002),
    "reserved opcode": (frame(3, b"x"), 1002),
    "fragmented ping": (frame(9, b"x", final=False), 1002),
    "continuation of nothing": (frame(0, b"x"), 1002),
    "close of one byte": (frame(CLOSE, b"x"), 1002),
    "close": (frame(CLOSE, b"\x03\xe8bye"), 1000),
    "close without a code": (frame(CLOSE), 1005),
}


@pytest.mark.parametrize(("data", "code"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
async def test_protocol_errors_and_closes_are_answered(data: bytes, code: int) -> None:
    async with guarded() as served, client(served.port, b"/ws/echo") as other:
        await other.send(data)
        with trio.fail_after(WITHIN):
            assert await other.close_code() == code
            assert await read_to_end(other.stream) == b""
        await other.aclose()
        await until(lambda: served.statistics.open == 0)


async def test_stock_ends_a_protocol_error_without_a_close_frame() -> None:
    async with stock() as served, client(served.port, b"/ws/echo") as other:
        await other.send(frame(TEXT, b"\xff\xfe"))
        with trio.fail_after(WITHIN), pytest.raises(EOFError):
            await other.close_code()


@pytest.mark.parametrize(
    "request_bytes",
    [
        (HANDSHAKE % (b"/ws/echo", b"")).replace(b"HTTP/1.1", b"HTTP/1.0"),
        (HANDSHAKE % (b"/ws/echo", b"")).replace(b"version: 13", b"version: 12"),
        (HANDSHAKE % (b"/ws/echo", b"")).replace(b"connection: upgrade", b"connection: close"),
        (HANDSHAKE % (b"/ws/echo", b"")).replace(b"sec-websocket-key", b"x-websocket-key"),
    ],
)
async def test_bad_handshake_is_400_and_ends(request_bytes: bytes) -> None:
    async with guarded() as served:
        with trio.fail_after(WITHIN):
            assert (await exchange(served.port, request_bytes)).startswith(b"HTTP/1.1 400")


async def test_refused_upgrade_is_an_ordinary_response() -> None:
    async with guarded() as served:
        with trio.fail_after(WITHIN):
            answer = await exchange(served.port, HANDSHAKE % (b"/no/such", b""))
        assert answer.startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("framing", [b"content-length: 5", b"transfer-encoding: chunked"])
async def test_an_answer_to_a_request_that_is_still_on_its_way_says_that_it_is_the_last(framing: bytes) -> None:
    head = b"POST /no/such HTTP/1.1\r\nhost: x\r\n" + framing + b"\r\n\r\n"
    async with guarded() as served, await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
        with trio.fail_after(WITHIN):
            await stream.send_all(head)
            answer = await stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 404")
            assert b"connection: close\r\n" in answer
            await stream.send_all(b"5\r\nhello")
            await read_to_end(stream)


async def test_a_request_that_is_whole_when_it_is_answered_keeps_its_connection() -> None:
    async with guarded() as served, await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
        for _ in range(20):
            with trio.fail_after(WITHIN):
                await stream.send_all(b"POST /no/such HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello")
                answer = await stream.receive_some()
                while b"</p>" not in answer:
                    answer += await stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 404")
            assert b"connection: close" not in answer
