"""Who is let in, how the others are told, and what happens when there is no descriptor left for anybody."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import trio

from tests.patience import WITHIN
from tests.web.server.served import (
    Contexts,
    captured_log,
    client,
    descriptors,
    exchange,
    guarded,
    read_to_end,
    tls_contexts,
    until,
)
from web.server.accepting import LINGERING, refusal
from web.server.connections import Limits

GET = b"GET /json HTTP/1.1\r\nhost: test\r\n%b\r\n"
TOO_MANY = refusal("429 Too Many Requests", 1, "application/problem+json", b'{"status":429}')


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return captured_log(monkeypatch)


class Doorman:
    """Admits so many at a time."""

    def __init__(self, most: int) -> None:
        self.most, self.inside = most, 0

    def __call__(self, address: str) -> Doorman | None:
        assert address == "127.0.0.1"
        if self.inside >= self.most:
            return None
        self.inside += 1
        return self

    def leave(self) -> None:
        self.inside -= 1


async def test_who_is_not_admitted_is_told_so_without_a_task(lines: list[Any]) -> None:
    doorman = Doorman(1)
    async with guarded(admit=doorman, too_many=TOO_MANY) as served:
        async with client(served.port, b"/ws/drain"):
            tasks = trio.lowlevel.current_statistics().tasks_living
            for _ in range(3 * LINGERING):
                stream = await trio.open_tcp_stream("127.0.0.1", served.port)
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(GET % b"")
                with trio.fail_after(WITHIN):
                    assert await read_to_end(stream) == TOO_MANY
                assert trio.lowlevel.current_statistics().tasks_living == tasks
                await stream.aclose()
            assert served.statistics.refused == 3 * LINGERING
        await until(lambda: doorman.inside == 0)
        with trio.fail_after(WITHIN):
            assert (await exchange(served.port, GET % b"connection: close\r\n")).startswith(b"HTTP/1.1 200")
    assert {line["event"] for line in lines} == {"web.connection_refused"}
    assert len(lines) <= 6


async def test_refused_connections_are_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.server.accepting.LINGER", 0.1)
    async with guarded(admit=Doorman(0), too_many=TOO_MANY) as served:
        before = descriptors()
        peers = [await trio.open_tcp_stream("127.0.0.1", served.port) for _ in range(LINGERING)]
        await until(lambda: served.statistics.refused == LINGERING)
        await until(lambda: descriptors() <= before + LINGERING)  # ours
        for peer in peers:
            await trio.aclose_forcefully(peer)


async def test_who_expects_tls_is_only_closed() -> None:
    contexts: Contexts = tls_contexts()
    async with guarded(admit=Doorman(0), too_many=TOO_MANY, tls=contexts[0]) as served:
        with trio.fail_after(WITHIN):
            assert await exchange(served.port) == b""


async def test_as_many_as_may_be_are_open() -> None:
    async with guarded(limits=Limits(connections=1)) as served, client(served.port, b"/ws/drain"):
        with trio.fail_after(WITHIN):
            answer = await exchange(served.port, GET % b"")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 5\r\n" in answer


@contextmanager
def no_descriptors_left() -> Iterator[list[int]]:
    """Within the block each one that is closed is the only one there is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 300), hard))
    try:
        with suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        yield held
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_descriptors_clients_are_turned_away_and_one_line_says_so(lines: list[Any]) -> None:
    async with guarded() as served, client(served.port, b"/ws/drain") as other:
        with no_descriptors_left() as held:
            for _ in range(20):
                os.close(held.pop())  # for this side
                peer = await trio.open_tcp_stream("127.0.0.1", served.port)
                with trio.fail_after(WITHIN):
                    assert await read_to_end(peer) == b""
                await peer.aclose()
                held.append(os.open(os.devnull, os.O_RDONLY))
            await other.send(b"\x89\x80\x00\x00\x00\x00")
            with trio.fail_after(WITHIN):
                await other.event()
        assert [(line["event"], line["log_level"]) for line in lines] == [("web.accept_failed", "error")]
        with trio.fail_after(WITHIN):
            assert (await exchange(served.port, GET % b"connection: close\r\n")).startswith(b"HTTP/1.1 200")
    assert served.statistics.crashes == 0
