"""Inputs that kill the process of a stock server, which is the control that the guard is needed."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from contextlib import suppress
from random import Random
from typing import Any

import hpack
import pytest
import trio

from tests.patience import WITHIN
from tests.web.server.served import (
    BINARY,
    CLOSE,
    HANDSHAKE,
    TEXT,
    captured_log,
    client,
    descriptors,
    exchange,
    frame,
    guarded,
    still_served,
    stock,
    until,
)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return captured_log(monkeypatch)


def h2_frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def h2_request(*headers: tuple[bytes, bytes]) -> bytes:
    return H2_PREFACE + h2_frame(1, 5, 1, hpack.Encoder().encode(headers))


H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + h2_frame(4, 0, 0)
H2_GET = ((b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"test"))
H2C = (
    b"GET /json HTTP/1.1\r\nhost: test\r\nconnection: upgrade, http2-settings, close\r\n"
    b"upgrade: h2c\r\nhttp2-settings: %s\r\n\r\n"
)

KILLERS: dict[str, tuple[int, bytes]] = {
    "non-ascii subprotocol": (400, HANDSHAKE % (b"/ws/echo", b"sec-websocket-protocol: \xff\r\n")),
    "non-ascii extension": (400, HANDSHAKE % (b"/ws/echo", b"sec-websocket-extensions: \xff\r\n")),
    "non-ascii connection": (
        400,
        (HANDSHAKE % (b"/ws/echo", b"")).replace(b": upgrade", b": upgrade, \xff"),
    ),
    "upgrade in another spelling": (
        400,
        (HANDSHAKE % (b"/ws/echo", b"sec-websocket-protocol: \xff\r\n"))
        .replace(b"GET", b"get")
        .replace(b": websocket", b": WebSocket\xa0"),
    ),
    "bytes before accept": (400, HANDSHAKE % (b"/ws/echo", b"") + b"x"),
    "upgrade with a body": (400, HANDSHAKE % (b"/ws/echo", b"content-length: 5\r\n") + b"hello"),
    "h2c, bad base64": (200, H2C % b"A"),
    "h2c, bad settings": (200, H2C % b"AAEAAA"),
    "h2, non-ascii path": (505, h2_request(*H2_GET, (b":path", b"/\xff"))),
    "h2, non-ascii method": (
        505,
        h2_request((b":method", b"G\xff"), *H2_GET[1:], (b":path", b"/")),
    ),
    "h2, connect": (505, h2_request((b":method", b"CONNECT"), (b":authority", b"test"))),
    "h2, priority flood": (
        505,
        H2_PREFACE + b"".join(h2_frame(2, 0, n, bytes(4) + b"\x10") for n in range(1, 2005, 2)),
    ),
}


@pytest.mark.parametrize(("status", "data"), KILLERS.values(), ids=KILLERS.keys())
async def test_killer_is_refused_and_nobody_else_notices(status: int, data: bytes, lines: list[Any]) -> None:
    async with guarded() as served, client(served.port, b"/ws/echo") as other:
        with trio.fail_after(WITHIN):
            answer = await exchange(served.port, data)
        assert answer.startswith(b"HTTP/1.1 %d" % status)
        await still_served(served.port, other)
        if status == 200:  # an upgrade that is offered may be ignored
            assert lines == []
        else:
            assert served.statistics.refused == 1
            assert [(line["log_level"], line["status"]) for line in lines] == [("warning", status)]
        assert served.statistics.crashes == 0


async def test_bytes_while_the_app_decides_are_refused() -> None:
    async with guarded() as served:
        with trio.fail_after(WITHIN):
            answer = await exchange(served.port, HANDSHAKE % (b"/ws/late", b""), b"x")
        assert answer.startswith(b"HTTP/1.1 400")
        assert answer.count(b"HTTP/1.1") == 1
        await until(lambda: served.statistics.open == 0)


@pytest.mark.parametrize("data", [data for _, data in KILLERS.values()], ids=KILLERS.keys())
async def test_killer_kills_stock(data: bytes) -> None:
    async with stock() as served:
        with trio.move_on_after(2):
            await exchange(served.port, data)
        with trio.fail_after(WITHIN):
            await served.ended.wait()
        assert served.died is not None


SEEDS = [
    b"GET /json HTTP/1.1\r\nhost: test\r\naccept: */*\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhello",
    b"POST /echo HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET /json HTTP/1.0\r\nexpect: 100-continue\r\n\r\n" * 2,
    *(data for _, data in KILLERS.values() if len(data) < 1000),
    HANDSHAKE % (b"/ws/echo", b"sec-websocket-protocol: a, b\r\n"),
]
FRAMES = [
    frame(TEXT, b"hello") + frame(9, b"ping") + frame(CLOSE, b"\x03\xe8"),
    frame(TEXT, b"hel", final=False) + frame(0, "lö".encode()) + frame(BINARY, b"x" * 300),
]


def mutated(random: Random, data: bytes) -> bytes:
    result = bytearray(data)
    for _ in range(random.randrange(1, 6)):
        at = random.randrange(len(result) + 1)
        match random.randrange(5):
            case 0:
                result[at : at + 1] = bytes((random.randrange(256),))
            case 1:
                result[at:at] = random.randbytes(random.randrange(1, 8))
            case 2:
                del result[at : at + random.randrange(1, 8)]
            case 3:
                result[at:at] = result[at : at + random.randrange(1, 40)]
            case _:
                del result[at:]
    return bytes(result)


async def hear(sock: socket.socket, size: int = 4096) -> bytes:
    while True:
        try:
            return sock.recv(size)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)
        except ConnectionError:
            return b""  # the server may hang up while it is still told something


async def say_all(port: int, count: int, seed: int, *, patience: float = WITHIN) -> Counter[bytes]:
    """So many mutated streams, each on its own connection; returns how they were answered."""
    random = Random(seed)
    answers: Counter[bytes] = Counter()
    for _ in range(count // 50):
        speakers: list[tuple[socket.socket, bytes | None]] = []
        for _ in range(50):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.setblocking(False)
            if random.random() < 0.1:  # frames come once the WebSocket is accepted
                sock.send(HANDSHAKE % (b"/ws/echo", b""))
                speakers.append((sock, mutated(random, random.choice(FRAMES))))
            else:
                sock.send(mutated(random, random.choice(SEEDS)))
                sock.shutdown(socket.SHUT_WR)
                speakers.append((sock, None))
        for sock, frames in speakers:
            with sock, trio.move_on_after(patience) as scope:
                answer = await hear(sock)
                answers[answer[9:12]] += 1
                if frames is not None and answer:
                    sock.send(frames)
                    sock.shutdown(socket.SHUT_WR)
                while answer:
                    answer = await hear(sock)
            answers[b"left hanging"] += scope.cancelled_caught
    return answers


@pytest.mark.parametrize("seed", range(1, 5))  # in four, or one process waits for the other
async def test_mutated_streams_end_nothing_but_their_connection(lines: list[Any], seed: int) -> None:
    app_lines = logging.getLogger("tests.web.server.served")
    app_lines.setLevel(logging.CRITICAL)
    async with (
        guarded() as served,
        client(served.port, b"/ws/echo") as other,
        trio.open_nursery() as nursery,
    ):

        async def watch() -> None:
            while True:
                await still_served(served.port, other)
                await trio.sleep(0.2)

        nursery.start_soon(watch)
        before = descriptors()
        answers = await say_all(served.port, 2000, seed=seed)
        await until(lambda: served.statistics.open <= 2)
        nursery.cancel_scope.cancel()
    assert sum(answers.values()) == 2000
    assert answers[b"left hanging"] == 0
    assert answers[b"200"] > 25, "some must stay whole"
    assert answers[b"400"] > 250
    assert descriptors() <= before
    assert served.statistics.crashes == 0, "contained, but there should be none"
    refused = [line for line in lines if line["event"] == "web.request_refused"]
    assert served.statistics.refused == sum(line.get("suppressed", 1) for line in refused)
    assert len(refused) < 200, "what a client can cause is not a line each"


async def test_mutated_streams_kill_stock() -> None:
    async with stock() as served:
        with trio.move_on_after(2 * WITHIN), suppress(OSError):
            await say_all(served.port, 2000, seed=1, patience=0.05)
        with trio.fail_after(WITHIN):
            await served.ended.wait()
        assert served.died is not None
