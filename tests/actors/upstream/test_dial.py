"""Who listens to a connection is told in order and in a plain call, and ends the connection by what it raises."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import partial

import pytest
import trio
import trio.testing

from actors.errors import LineLost
from actors.exchanges.binance import simulator
from actors.simulation.assets import ASSETS
from actors.simulation.market import Clock, Market
from actors.simulation.server import Simulator
from actors.upstream.dial import ConnectionClosed, open_socket
from actors.upstream.inbound import InboundStream
from actors.upstream.pauses import FORBIDDEN_PAUSE
from tests.patience import WITHIN

HEAD = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


@pytest.fixture
async def sim(nursery: trio.Nursery) -> AsyncIterator[Simulator]:
    market = Market(seed=1, clock=Clock(1_795_000_000_000, rate=0), assets=ASSETS[:1])
    running: Simulator = await nursery.start(partial(simulator.serve, market))
    return running  # type: ignore[return-value]


async def test_what_comes_with_the_handshake_waits_for_the_listener(nursery: trio.Nursery) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    inbound = InboundStream(ours, 100)
    heard: list[Sequence[bytes | str]] = []
    await theirs.send_all(HEAD + b"\x81\x01a\x81\x01b")
    with trio.fail_after(WITHIN):
        assert await inbound.receive_some() == HEAD, "the library is not kept waiting for a listener"
    await theirs.send_all(b"\x81\x01c")
    nursery.start_soon(inbound.receive_some)
    await trio.testing.wait_all_tasks_blocked()
    inbound.listen(lambda messages, _: heard.append(messages))
    assert heard == [[b"a", b"b"], [b"c"]]
    await theirs.send_all(b"\x81\x01d")
    await trio.testing.wait_all_tasks_blocked()
    assert heard[2:] == [[b"d"]]


async def test_texts_and_what_the_library_makes_of_the_rest_come_to_one_listener(sim: Simulator) -> None:
    heard: list[bytes | str] = []

    def listen(messages: Sequence[bytes | str], taken_at: datetime) -> None:
        heard.extend(messages)
        if len(heard) == 2:
            sim.close(1012, "maintenance")

    with trio.fail_after(WITHIN):
        async with open_socket(sim.ws_url + "/stream", None) as socket:
            sim.push('{"a": 1}')
            sim.push("binary", binary=True)
            with pytest.raises(ConnectionClosed) as ended:
                await socket.listen(listen)
    assert sorted(map(str, heard)) == ["b'binary'", "b'{\"a\": 1}'"]
    assert ended.value.reason is not None
    assert ended.value.reason.code == 1012


async def test_a_handshake_says_who_asks(nursery: trio.Nursery) -> None:
    """Firewalls refuse what has no User-Agent, and the exchange's own words would not say so."""
    head, lost = await refusal(nursery, "403 Forbidden")
    assert b"\r\nuser-agent: marketd\r\n" in head.lower()
    assert "403" in str(lost)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("status", "headers", "pause"),
    [
        ("451 Unavailable For Legal Reasons", "", FORBIDDEN_PAUSE),
        ("429 Too Many Requests", "Retry-After: 7\r\n", 7),
        (
            "503 Service Unavailable",
            "Date: Mon, 30 Nov 2026 10:00:00 GMT\r\nRetry-After: Mon, 30 Nov 2026 10:01:00 GMT\r\n",
            60,
        ),
        ("429 Too Many Requests", "Retry-After: soon\r\n", None),
        ("403 Forbidden", "", None),
    ],
)
async def test_who_refuses_the_handshake_is_left_alone_as_long_as_it_says(
    nursery: trio.Nursery, status: str, headers: str, pause: float | None
) -> None:
    """Where it says nothing, the supervisor's own delays hold; a location that is not served, for longer."""
    _, lost = await refusal(nursery, status, headers)
    assert lost.retry_after == pause
    nursery.cancel_scope.cancel()


async def refusal(nursery: trio.Nursery, status: str, headers: str = "") -> tuple[bytes, LineLost]:
    """The head of a handshake that was refused so, and what came of it."""
    heads: list[bytes] = []

    async def refuse(stream: trio.SocketStream) -> None:
        heads.append(await stream.receive_some())
        await stream.send_all(f"HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\n\r\n".encode())

    [listener] = await nursery.start(partial(trio.serve_tcp, refuse, 0, host="127.0.0.1"))
    port = listener.socket.getsockname()[1]
    with trio.fail_after(WITHIN), pytest.raises(LineLost) as lost:
        async with open_socket(f"ws://127.0.0.1:{port}/v5/public/linear", None):
            pytest.fail("it was refused")
    return heads[0], lost.value


async def test_what_a_listener_raises_ends_the_connection_and_is_told_to_who_opened_it(sim: Simulator) -> None:
    def listen(messages: Sequence[bytes | str], taken_at: datetime) -> None:
        raise ZeroDivisionError(messages[0])

    async def connected() -> None:
        async with open_socket(sim.ws_url + "/stream", None) as socket:
            sim.push("text")
            await socket.listen(listen)

    with trio.fail_after(WITHIN):
        with pytest.raises(ExceptionGroup) as ended:
            await connected()
        assert ended.group_contains(ZeroDivisionError, match="text")
        while sim.connections:  # noqa: ASYNC110 (the simulator's own word)
            await trio.sleep(0.01)
