"""The closing handshake: whoever is sent a close frame is given the time to answer it, and no more than that."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from tests.patience import WITHIN
from tests.web.server.served import (
    BINARY,
    CLOSE,
    HANDSHAKE,
    TEXT,
    Client,
    Contexts,
    Served,
    frame,
    guarded,
    handshake,
    never_reading,
    read_to_end,
    reads_for_the_app,
    tls_contexts,
    until,
)
from web.server.connections import Limits
from web.server.websocket import ends_with_close

ANSWER = frame(CLOSE, struct.pack("!H", 1000) + b"bye")

# How the server comes to close: path, what the client sends for it (None: the server stops), the code.
WAYS: dict[str, tuple[bytes, bytes | None, int]] = {
    "stop": (b"/ws/drain", None, 1001),
    "fault of the app": (b"/ws/crash", b"", 1011),
    "bad utf-8": (b"/ws/drain", frame(TEXT, b"\xff"), 1007),
    "reserved opcode": (b"/ws/drain", frame(3, b"x"), 1002),
    "unmasked": (b"/ws/drain", b"\x81\x02hi", 1002),
    "message too big": (b"/ws/drain", frame(BINARY, bytes(2000)), 1009),
    "messages nobody reads": (b"/ws/deaf", frame(TEXT, b"x") * 200, 1008),
    "fell behind": (b"/ws/push", b"", 1013),
}
of_every_way = pytest.mark.parametrize(
    ("path", "provocation", "code"),
    [
        pytest.param(*way, id=name, marks=reads_for_the_app if way[0] == b"/ws/deaf" else ())
        for name, way in WAYS.items()
    ],
)


@pytest.fixture(scope="module")
def contexts() -> Contexts:
    return tls_contexts()


@asynccontextmanager
async def closed_by(
    path: bytes, provocation: bytes | None, code: int, contexts: Contexts | None = None
) -> AsyncIterator[tuple[Served, Client]]:
    """A client that has read its close frame and has not answered it."""
    limits = Limits(message_bytes=1000, outbox_bytes=20_000)
    async with guarded(limits=limits, tls=contexts and contexts[0]) as served:
        plain = await never_reading(served.port, b"")
        stream: trio.abc.Stream = plain
        if contexts is not None:
            stream = trio.SSLStream(plain, contexts[1], server_hostname="localhost", https_compatible=True)
        peer = await handshake(stream, path)
        await peer.send(provocation or b"")
        if provocation is None:
            served.stop.set()
        if code == 1013:
            await until(lambda: any(outbox.closed for outbox in served.statistics.outboxes()))
        with trio.fail_after(WITHIN):
            assert await peer.close_code(answered=False) == code
        yield served, peer
        await peer.aclose()


@of_every_way
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_the_write_side_stays_open_until_the_answer(
    path: bytes, provocation: bytes | None, code: int, tls: bool, contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.server.outbox.LINGER", 60.0)
    async with closed_by(path, provocation, code, contexts if tls else None) as (_, peer):
        with trio.move_on_after(0.1):
            received = await peer.stream.receive_some()
            pytest.fail(f"after its close frame the server said {received!r}")
        await peer.send(ANSWER)
        with trio.fail_after(WITHIN):
            assert await read_to_end(peer.stream) == b"", "the answer is what ends it"


@of_every_way
async def test_who_does_not_answer_is_not_waited_for(
    path: bytes, provocation: bytes | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.server.outbox.LINGER", 0.2)
    async with closed_by(path, provocation, code) as (served, _):
        await until(lambda: served.statistics.open == 0)
        if provocation is None:
            with trio.fail_after(WITHIN):
                await served.ended.wait()


async def test_the_wait_is_a_second() -> None:
    async with closed_by(*WAYS["stop"]) as (served, peer):
        begun = trio.current_time()
        with trio.fail_after(WITHIN):
            assert await read_to_end(peer.stream) == b""
            await served.ended.wait()
        assert trio.current_time() - begun > 0.8


async def test_who_goes_on_sending_instead_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.server.outbox.LINGER", 0.2)
    async with closed_by(*WAYS["bad utf-8"]) as (served, peer):
        with trio.fail_after(WITHIN), suppress(trio.BrokenResourceError):
            while True:
                await peer.send(frame(TEXT, b"more") * 100)
        await until(lambda: served.statistics.open == 0)


async def test_who_floods_instead_is_not_read_for_a_second() -> None:
    """Only what the sockets between us hold leaves the client, and then nothing until the connection ends."""
    async with closed_by(*WAYS["bad utf-8"]) as (served, peer):
        sent = 0
        with trio.fail_after(WITHIN), suppress(trio.BrokenResourceError):
            while sent < 1 << 28:
                await peer.send(bytes(1 << 16))
                sent += 1 << 16
        assert sent < 1 << 26
        await until(lambda: served.statistics.open == 0)


@pytest.mark.parametrize(
    "pieces",
    [
        [ANSWER[:1], ANSWER[1:5], ANSWER[5:]],
        [frame(TEXT, b"sent before yours came") + ANSWER],
        [b"\xff" * 300, ANSWER],
        [frame(CLOSE)],
        [frame(CLOSE, b"\x03\xe8" + b"x" * 123)],
    ],
    ids=["in pieces", "behind a message", "behind rubbish", "empty", "longest"],
)
async def test_any_close_frame_is_an_answer(pieces: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.server.outbox.LINGER", 60.0)
    async with closed_by(*WAYS["bad utf-8"]) as (_, peer):
        for piece in pieces:
            await peer.send(piece)
            await trio.testing.wait_all_tasks_blocked(0.01)
        with trio.fail_after(WITHIN):
            assert await read_to_end(peer.stream) == b""


async def test_answer_that_came_with_the_offence_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.server.outbox.LINGER", 60.0)
    async with closed_by(b"/ws/drain", frame(3, b"x") + ANSWER, 1002) as (_, peer):
        with trio.fail_after(WITHIN):
            assert await read_to_end(peer.stream) == b""


async def test_client_that_closes_first_sees_the_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.server.outbox.LINGER", 60.0)
    async with closed_by(b"/ws/drain", ANSWER + b"and what may not follow", 1000) as (_, peer):
        with trio.fail_after(WITHIN):
            assert await read_to_end(peer.stream) == b""


async def test_refused_upgrade_waits_for_no_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """It never was a WebSocket."""
    monkeypatch.setattr("web.server.outbox.LINGER", 60.0)
    async with guarded() as served:
        stream = await never_reading(served.port, HANDSHAKE % (b"/no/such", b""))
        with trio.fail_after(WITHIN):
            assert (await read_to_end(stream)).startswith(b"HTTP/1.1 404")
        await stream.aclose()


@pytest.mark.parametrize("size", [0, 2, 125])
def test_a_close_frame_is_found_at_the_end_only(size: int) -> None:
    close = frame(CLOSE, bytes(size))
    assert ends_with_close(close)
    assert ends_with_close(b"\x00" * 200 + close)
    assert not ends_with_close(close[:-1])
    assert not ends_with_close(close + b"\x00")
    assert not ends_with_close(b"")
    assert not ends_with_close(frame(TEXT, bytes(size)))
