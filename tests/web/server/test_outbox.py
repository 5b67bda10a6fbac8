from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from random import Random

import pytest
import trio
import trio.testing
import wsproto.events as ws
from wsproto.connection import Connection, ConnectionType

from tests.patience import WITHIN
from tests.web.server.served import read_to_end, reset, tcp_pair, tls_contexts, until
from web.server.outbox import Outbox, close_frame, text_frame

BIG = b"B" * 20_000  # a frame that a socket's buffers hold only a few of


@asynccontextmanager
async def outbox_on(
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream],
    *,
    write_deadline: float = 5.0,
    capacity: int = 1 << 20,
) -> AsyncIterator[Outbox]:
    async with trio.open_nursery() as nursery:
        outbox = Outbox(stream, nursery, write_deadline=write_deadline, capacity=capacity)
        outbox.open()
        try:
            yield outbox
        finally:
            outbox.end()
            nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(stream)


def parse(data: bytes) -> tuple[list[str], int | None]:
    """The messages in what a server sent, and the code of the close frame that ends it."""
    protocol = Connection(ConnectionType.CLIENT)
    protocol.receive_data(data)
    messages: list[str] = []
    parts: list[str] = []
    for event in protocol.events():
        if isinstance(event, ws.CloseConnection):
            return messages, event.code
        assert isinstance(event, ws.TextMessage), event
        parts.append(event.data)
        if event.message_finished:
            messages.append("".join(parts))
            parts.clear()
    assert not parts, "the last frame is not whole"
    return messages, None


async def ends_with_reset(stream: trio.SocketStream) -> bool:
    try:
        while await stream.receive_some():
            pass
    except trio.BrokenResourceError:
        return True
    return False


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
def test_text_frame(size: int) -> None:
    assert parse(text_frame(b"x" * size)) == (["x" * size], None)


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (1001, "", b"\x88\x02\x03\xe9"),
        (1013, "too slow", b"\x88\x0a\x03\xf5too slow"),
        (1005, "never sent", b"\x88\x00"),
        (1006, "", b"\x88\x00"),
    ],
)
def test_close_frame(code: int, reason: str, expected: bytes) -> None:
    assert close_frame(code, reason) == expected


def test_long_close_reason_is_cut_between_characters() -> None:
    frame = close_frame(1011, "x" * 122 + "é" * 40)
    assert len(frame) == 2 + 2 + 122
    assert frame[4:].decode() == "x" * 122


async def test_frames_arrive_whole_and_in_order_through_a_full_socket() -> None:
    server, client = await tcp_pair(receive_buffer=4096)
    sizes = Random(1)
    frames = [text_frame(b"%d " % n + b"x" * sizes.randrange(4000)) for n in range(3000)]
    received = bytearray()
    async with outbox_on(server, capacity=1 << 30) as outbox:
        with trio.fail_after(WITHIN):
            for number, frame in enumerate(frames):
                outbox.send(frame)
                if number % 10 == 0:  # the client now and then takes a little
                    received += await client.receive_some(sizes.randrange(1, 20_000))
            assert outbox.pending > 0, "the socket never was full: this shows nothing"
            outbox.close(1000)
            outbox.answered()
            received += await read_to_end(client)
    assert bytes(received) == b"".join(frames) + close_frame(1000)
    assert not outbox.cut


async def test_idle_outbox_costs_no_task_and_a_stalled_one_only_while_it_stalls() -> None:
    server, client = await tcp_pair()
    async with outbox_on(server) as outbox:
        tasks = trio.lowlevel.current_statistics().tasks_living
        outbox.send(text_frame(b"hello"))
        assert outbox.pending == 0, "an idle socket takes a frame at once"
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        while not outbox.pending:
            outbox.send(text_frame(BIG))
        assert trio.lowlevel.current_statistics().tasks_living == tasks + 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_to_end, client)
            await until(lambda: outbox.pending == 0)
            await trio.testing.wait_all_tasks_blocked()
            assert trio.lowlevel.current_statistics().tasks_living == tasks + 1  # the reader
            nursery.cancel_scope.cancel()


async def test_reader_that_falls_behind_reads_whole_frames_and_then_1013() -> None:
    server, client = await tcp_pair(receive_buffer=4096)
    async with outbox_on(server, capacity=200_000) as outbox:
        with trio.fail_after(WITHIN):
            sent = 0
            while not outbox.closed:
                outbox.send(text_frame(b"%d " % sent + BIG))
                sent += 1
            assert outbox.pending < 2 * len(BIG), "whole pending frames are dropped"
            outbox.send(text_frame(b"after the end"))
            outbox.answered()
            messages, code = parse(await read_to_end(client))
    assert code == 1013
    numbers = [int(message.split(" ")[0]) for message in messages]
    assert numbers == list(range(len(numbers)))
    assert 0 < len(numbers) < sent
    assert outbox.cut == "fell behind"


async def test_reader_that_fell_behind_and_still_does_not_read_is_aborted() -> None:
    server, client = await tcp_pair(receive_buffer=4096)
    async with trio.open_nursery() as nursery:
        outbox = Outbox(server, nursery, write_deadline=0.2, capacity=200_000)
        outbox.open()
        while not outbox.closed:
            outbox.send(text_frame(BIG))
        with trio.fail_after(WITHIN):  # its connection's nursery is what ends
            await trio.sleep_forever()
    assert nursery.cancel_scope.cancelled_caught
    await trio.aclose_forcefully(server)
    await trio.aclose_forcefully(client)


async def test_peer_that_accepts_no_byte_is_cut_at_the_write_deadline(autojump_clock: trio.testing.MockClock) -> None:
    server, client = await tcp_pair(receive_buffer=4096)
    async with trio.open_nursery() as nursery:
        outbox = Outbox(server, nursery, write_deadline=0.3)
        outbox.open()
        while not outbox.pending:
            outbox.send(text_frame(BIG))
        started = trio.current_time()
        await trio.sleep_forever()
    assert trio.current_time() - started == pytest.approx(0.3)
    assert outbox.cut == "accepts no bytes"
    assert outbox.closed
    await trio.aclose_forcefully(server)
    assert await ends_with_reset(client), "the kernel must not keep its bytes either"


async def test_slow_peer_that_goes_on_accepting_is_not_cut(mock_clock: trio.testing.MockClock) -> None:
    mock_clock.autojump_threshold = 0.01  # seconds in which the sockets have nothing to say
    server, client = await tcp_pair(receive_buffer=4096)
    async with outbox_on(server, write_deadline=0.3) as outbox:
        while outbox.pending < 100_000:
            outbox.send(text_frame(BIG))
        started = trio.current_time()
        with trio.fail_after(WITHIN):
            while outbox.pending:
                await client.receive_some(50_000)
                await trio.sleep(0.02)
        assert trio.current_time() - started > 0.3, "too quick to show anything"
        assert not outbox.cut


async def test_nothing_is_sent_before_open_and_after_close() -> None:
    server, client = await tcp_pair()
    async with trio.open_nursery() as nursery:
        outbox = Outbox(server, nursery)
        outbox.send(text_frame(b"too early"))
        await outbox.write(b"HTTP/1.1 101 ")
        outbox.open()
        outbox.send(text_frame(b"a"))
        outbox.close(1001)
        outbox.close(1011)
        outbox.send(text_frame(b"too late"))
        await outbox.write(b"too late")
        outbox.answered()
        with trio.fail_after(WITHIN):
            assert await read_to_end(client) == b"HTTP/1.1 101 " + text_frame(b"a") + close_frame(1001)
        assert nursery.cancel_scope.deadline < trio.current_time() + 1.1
        nursery.cancel_scope.cancel()


async def test_connection_that_is_no_websocket_ends_without_a_close_frame() -> None:
    server, client = await tcp_pair()
    async with trio.open_nursery() as nursery:
        outbox = Outbox(server, nursery)
        await outbox.write(b"HTTP/1.1 200 ")
        outbox.close(1001)
        with trio.fail_after(WITHIN):
            assert await read_to_end(client) == b"HTTP/1.1 200 "
        nursery.cancel_scope.cancel()


async def test_send_never_raises_when_the_peer_is_gone() -> None:
    server, client = await tcp_pair()
    async with outbox_on(server) as outbox:
        reset(client)
        with trio.fail_after(WITHIN):
            while not outbox.closed:
                outbox.send(text_frame(b"x"))
                await trio.lowlevel.checkpoint()
        outbox.send(text_frame(b"x"))
        outbox.close(1001)
        assert not outbox.cut, "who leaves is not slow"


async def test_flusher_notices_that_the_peer_is_gone() -> None:
    server, client = await tcp_pair(receive_buffer=4096)
    async with outbox_on(server) as outbox:
        while not outbox.pending:
            outbox.send(text_frame(BIG))
        reset(client)
        await until(lambda: outbox.closed and not outbox.pending)


async def test_reused_descriptor_is_never_written_to() -> None:
    server, client = await tcp_pair()
    async with outbox_on(server) as outbox:
        number = server.socket.fileno()
        server.socket.close()
        reader, writer = os.pipe()
        assert number in (reader, writer), "the number was not reused: this shows nothing"
        os.set_blocking(reader, False)
        outbox.send(text_frame(b"for somebody else"))
        with pytest.raises(BlockingIOError):
            os.read(reader, 100)
        os.close(reader)
        os.close(writer)
        assert outbox.closed
    await trio.aclose_forcefully(client)


async def test_write_waits_for_the_peer_and_keeps_the_order() -> None:
    server, client = await tcp_pair(receive_buffer=4096)
    body = b"h" * (8 << 20)
    async with outbox_on(server, capacity=1 << 10) as outbox, trio.open_nursery() as nursery:
        done = trio.Event()

        async def write() -> None:
            await outbox.write(body)
            await outbox.write(b"and more")
            done.set()

        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        assert not done.is_set()
        assert outbox.pending > 1 << 20, "the bound is for frames; a response waits instead"
        received = bytearray()
        with trio.fail_after(WITHIN):
            while len(received) < len(body) + 8:
                received += await client.receive_some()
            await done.wait()
        assert bytes(received) == body + b"and more"


async def test_cancelled_write_leaves_no_hole() -> None:
    server, client = await tcp_pair(receive_buffer=4096)
    async with outbox_on(server, capacity=1 << 30) as outbox:
        with trio.move_on_after(0.05) as scope:
            await outbox.write(b"h" * (8 << 20))
        assert scope.cancelled_caught
        outbox.send(text_frame(b"next"))
        outbox.finish()
        with trio.fail_after(WITHIN):
            received = await read_to_end(client)
        assert received == b"h" * (8 << 20) + text_frame(b"next")


async def test_write_is_released_when_the_connection_ends() -> None:
    server, client = await tcp_pair(receive_buffer=4096)
    async with outbox_on(server) as outbox, trio.open_nursery() as nursery:
        nursery.start_soon(outbox.write, bytes(8 << 20))
        await trio.testing.wait_all_tasks_blocked()
        outbox.end()
    await trio.aclose_forcefully(client)


async def tls_pair() -> tuple[trio.SSLStream[trio.SocketStream], trio.SSLStream[trio.SocketStream]]:
    server_context, client_context = tls_contexts()
    server, client = await tcp_pair(receive_buffer=4096)
    server_tls = trio.SSLStream(server, server_context, server_side=True, https_compatible=True)
    client_tls = trio.SSLStream(client, client_context, server_hostname="localhost", https_compatible=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server_tls.do_handshake)
        nursery.start_soon(client_tls.do_handshake)
    return server_tls, client_tls


async def test_tls_frames_arrive_in_order() -> None:
    server, client = await tls_pair()
    frames = [text_frame(b"%d" % number + BIG) for number in range(200)]
    async with outbox_on(server, capacity=1 << 30) as outbox, trio.open_nursery() as nursery:
        for frame in frames:
            outbox.send(frame)
        nursery.start_soon(partial(outbox.write, b"w" * 300_000))
        await trio.testing.wait_all_tasks_blocked()
        outbox.close(1000)
        outbox.answered()
        with trio.fail_after(WITHIN):
            received = await read_to_end(client)
    assert received == b"".join(frames) + b"w" * 300_000 + close_frame(1000)


async def test_tls_reader_that_falls_behind_reads_whole_frames_and_then_1013() -> None:
    server, client = await tls_pair()
    async with outbox_on(server, capacity=500_000) as outbox:
        with trio.fail_after(WITHIN):
            sent = 0
            while not outbox.closed:
                outbox.send(text_frame(b"%d " % sent + BIG))
                sent += 1
                await trio.testing.wait_all_tasks_blocked()
            outbox.answered()
            messages, code = parse(await read_to_end(client))
    assert code == 1013
    assert [int(m.split(" ")[0]) for m in messages] == list(range(len(messages)))
    assert 0 < len(messages) < sent


async def test_tls_peer_that_accepts_no_byte_is_cut() -> None:
    server, client = await tls_pair()
    async with trio.open_nursery() as nursery:
        outbox = Outbox(server, nursery, write_deadline=0.3)
        outbox.open()
        for _ in range(500):
            outbox.send(text_frame(b"x" * 1000))
        with trio.fail_after(WITHIN):
            await trio.sleep_forever()
    assert outbox.cut == "accepts no bytes"
    await trio.aclose_forcefully(server)
    await trio.aclose_forcefully(client)
