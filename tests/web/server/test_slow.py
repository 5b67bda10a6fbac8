"""Clients that do not read, say too much, or vanish; on the stock server too, as the control."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing
import wsproto.events as ws

from tests.patience import WITHIN
from tests.web.server.served import (
    BINARY,
    HANDSHAKE,
    TEXT,
    Client,
    captured_log,
    client,
    descriptors,
    frame,
    guarded,
    handshake,
    never_reading,
    read_to_end,
    reads_for_the_app,
    reset,
    still_served,
    stock,
    tls_contexts,
    until,
)
from web.server.connections import Limits
from web.server.websocket import IDLE_FRAMES

WRITE_DEADLINE = 0.5


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return captured_log(monkeypatch)


# --- Clients that never read ---------------------------------------------------------------------


NEVER_READ = {
    "response": b"GET /large HTTP/1.1\r\nhost: test\r\n\r\n",
    "websocket that awaits its sends": HANDSHAKE % (b"/ws/send", b""),
    "websocket that pushes": HANDSHAKE % (b"/ws/push", b""),
}


@pytest.mark.parametrize("request_bytes", NEVER_READ.values(), ids=NEVER_READ.keys())
async def test_never_reading_client_is_cut(request_bytes: bytes, lines: list[Any]) -> None:
    limits = Limits(write_deadline=WRITE_DEADLINE)
    async with guarded(limits=limits) as served, client(served.port, b"/ws/echo") as other:
        stuck = await never_reading(served.port, request_bytes)
        await until(lambda: served.statistics.open == 2)
        assert {outbox._write_deadline for outbox in served.statistics.outboxes()} == {WRITE_DEADLINE}
        await still_served(served.port, other)
        await until(lambda: served.statistics.open == 1)
        assert served.statistics.cut == 1
        assert [line["event"] for line in lines] == ["web.client_cut"]
        await still_served(served.port, other)
        await trio.aclose_forcefully(stuck)


@pytest.mark.parametrize("request_bytes", NEVER_READ.values(), ids=NEVER_READ.keys())
async def test_never_reading_tls_client_is_cut(request_bytes: bytes) -> None:
    server_context, client_context = tls_contexts()
    async with guarded(limits=Limits(write_deadline=WRITE_DEADLINE), tls=server_context) as served:
        plain = await never_reading(served.port, b"")
        stuck = trio.SSLStream(plain, client_context, server_hostname="localhost")
        await stuck.send_all(request_bytes)
        await until(lambda: served.statistics.open == 1)
        await until(lambda: served.statistics.open == 0)
        assert served.statistics.cut == 1
        await trio.aclose_forcefully(stuck)


@pytest.mark.parametrize("request_bytes", NEVER_READ.values(), ids=NEVER_READ.keys())
async def test_never_reading_client_does_not_hold_up_the_stop(request_bytes: bytes) -> None:
    async with guarded(limits=Limits(write_deadline=60, grace=0.5)) as served:
        stuck = await never_reading(served.port, request_bytes)
        await until(lambda: served.statistics.open == 1)
        await trio.testing.wait_all_tasks_blocked(0.1)  # the socket is full
        served.stop.set()
        with trio.fail_after(WITHIN):
            await served.ended.wait()
        await trio.aclose_forcefully(stuck)


@pytest.mark.parametrize("name", ["response", "websocket that awaits its sends"])
async def test_never_reading_client_holds_up_stock_for_ever(name: str) -> None:
    async with stock() as served:
        stuck = await never_reading(served.port, NEVER_READ[name])
        await trio.testing.wait_all_tasks_blocked(0.1)  # the socket is full
        served.stop.set()
        with trio.move_on_after(2):
            await served.ended.wait()
        assert not served.ended.is_set()
        reset(stuck)  # which is what lets it go
        with trio.fail_after(WITHIN):
            await served.ended.wait()


async def test_reader_that_falls_behind_is_told_1013() -> None:
    async with guarded(limits=Limits(outbox_bytes=20_000)) as served:
        slow = await handshake(await never_reading(served.port, b""), b"/ws/push")
        await until(lambda: all(outbox.closed for outbox in served.statistics.outboxes()))
        with trio.fail_after(WITHIN):
            assert await slow.close_code() == 1013
            assert await read_to_end(slow.stream) == b""
        await slow.aclose()
        await until(lambda: served.statistics.open == 0)
        assert served.statistics.cut == 1


# --- Messages that are too big -------------------------------------------------------------------

MEBIBYTE = 1 << 20


async def attack(other: Client, chunk: bytes, count: int) -> int:
    """Send one endless message in fragments; returns the peak of Python's memory meanwhile."""
    tracemalloc.start()
    try:
        await other.send(frame(BINARY, chunk, final=False))
        fragment = frame(0, chunk, final=False)
        for _ in range(count):
            with trio.fail_after(WITHIN):
                await other.send(fragment)
        await trio.sleep(0.05)
        return tracemalloc.get_traced_memory()[1]
    except trio.BrokenResourceError:
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


async def test_message_over_the_limit_is_1009_and_costs_no_memory() -> None:
    limits = Limits(message_bytes=MEBIBYTE)
    chunk = bytes(128 << 10)
    async with guarded(limits=limits) as served, client(served.port, b"/ws/echo") as other:
        peak = await attack(other, chunk, 160)
        assert peak < 2 * MEBIBYTE
        await until(lambda: served.statistics.open == 0)
    async with guarded(limits=limits) as served, client(served.port, b"/ws/echo") as other:
        await other.send(frame(BINARY, bytes(MEBIBYTE + 1)))
        with trio.fail_after(WITHIN):
            assert await other.close_code() == 1009
            assert await read_to_end(other.stream) == b""
        await until(lambda: served.statistics.open == 0)


async def test_stock_stores_a_message_over_the_limit() -> None:
    async with (
        stock(websocket_max_message_size=MEBIBYTE) as served,
        client(served.port, b"/ws/echo") as other,
    ):
        assert await attack(other, bytes(128 << 10), 160) > 8 * MEBIBYTE


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"x" * 1000), None),
        (frame(TEXT, b"x" * 1001), 1009),
        (frame(TEXT, "é".encode() * 501), 1009),  # bytes count, not characters
        (frame(TEXT, b"x" * 600, final=False) + frame(0, b"x" * 600), 1009),
        (frame(TEXT, b"", final=False) + frame(0, b"", final=False) * 1100, 1008),
    ],
)
async def test_limit_of_a_message(data: bytes, code: int | None) -> None:
    async with (
        guarded(limits=Limits(message_bytes=1000)) as served,
        client(served.port, b"/ws/echo") as other,
    ):
        await other.send(data)
        with trio.fail_after(WITHIN):
            if code is None:
                assert await other.message() == "x" * 1000
            else:
                assert await other.close_code() == code


# --- Clients that vanish, or send without reading ------------------------------------------------


async def test_descriptors_are_back_after_300_resets() -> None:
    async with guarded() as served:
        before = descriptors()
        clients: list[trio.SocketStream] = []

        async def connect(path: bytes) -> None:
            stream = await trio.open_tcp_stream("127.0.0.1", served.port)
            await handshake(stream, path)
            clients.append(stream)

        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(connect, (b"/ws/drain", b"/ws/echo", b"/ws/deaf")[number % 3])
        assert served.statistics.open == 300
        for stream in clients:
            reset(stream)
        await until(lambda: served.statistics.open == 0)
        assert descriptors() <= before
        assert served.statistics.crashes == 0


FLOOD = frame(TEXT, b"nobody asked") * 200


@pytest.mark.parametrize("path", [b"/ws/echo", b"/ws/drain", b"/ws/deaf", b"/ws/push"])
async def test_client_that_sends_without_reading_pins_nothing(path: bytes) -> None:
    async with guarded() as served:
        before = descriptors()
        tasks = trio.lowlevel.current_statistics().tasks_living
        for _ in range(20):
            stream = await trio.open_tcp_stream("127.0.0.1", served.port)
            flooding = await handshake(stream, path)
            await flooding.send(FLOOD)
            reset(stream)
        await until(lambda: descriptors() <= before and trio.lowlevel.current_statistics().tasks_living == tasks)


async def test_ping_flood_that_reads_no_pong_is_cut() -> None:
    async with guarded(limits=Limits(write_deadline=WRITE_DEADLINE)) as served:
        flooding = await handshake(await never_reading(served.port, b""), b"/ws/drain")
        pings = frame(9, b"p" * 125) * 100
        with trio.fail_after(WITHIN), suppress(trio.BrokenResourceError):
            while True:
                await flooding.send(pings)
        await until(lambda: served.statistics.open == 0)
        await flooding.aclose()


IDLE = {
    "pings": frame(9, b"p"),
    "pongs": frame(10),
    "empty messages": frame(TEXT),
    "empty fragments": frame(TEXT, final=False) + frame(0),
}


@pytest.mark.parametrize("idle", IDLE.values(), ids=IDLE.keys())
async def test_flood_of_frames_that_say_nothing_is_1008(idle: bytes) -> None:
    async with guarded() as served, client(served.port, b"/ws/drain") as flooding:
        await flooding.send(idle * (IDLE_FRAMES + 1))
        with trio.fail_after(WITHIN):
            while not isinstance(event := await flooding.event(), ws.CloseConnection):
                assert isinstance(event, ws.Pong)
        assert event.code == 1008


async def test_pings_at_any_bearable_rate_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.server.websocket.IDLE_SECONDS", 0.01)
    async with guarded() as served, client(served.port, b"/ws/drain") as lively:
        with trio.fail_after(WITHIN):
            for _ in range(3 * IDLE_FRAMES):
                await lively.send(frame(9, b"p"))
                assert isinstance(await lively.event(), ws.Pong)
                await trio.sleep(0.0001)


@reads_for_the_app
async def test_client_that_sends_without_reading_pins_stock() -> None:
    async with stock() as served:
        before = descriptors()
        for _ in range(5):
            stream = await trio.open_tcp_stream("127.0.0.1", served.port)
            flooding = await handshake(stream, b"/ws/deaf")
            await flooding.send(FLOOD)
            reset(stream)
        await trio.sleep(1.5)
        assert descriptors() >= before + 5


@reads_for_the_app
async def test_app_that_leaves_messages_unread_loses_the_client() -> None:
    async with guarded() as served, client(served.port, b"/ws/deaf") as flooding:
        await flooding.send(FLOOD)
        with trio.fail_after(WITHIN):
            assert await flooding.close_code() == 1008
