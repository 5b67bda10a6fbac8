"""A TCP stream that is read when there is something to read: as Trio's own, whatever comes and however it ends."""

import socket
import struct
from collections.abc import Callable

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from actors.upstream.tcp import Tcp
from tests.patience import WITHIN

Make = Callable[[trio.SocketStream], trio.abc.Stream]


def trios(stream: trio.SocketStream) -> trio.abc.Stream:
    return stream


@pytest.fixture(params=[Tcp, trios], ids=["ours", "trio's"])
def make(request: pytest.FixtureRequest) -> Make:
    found: Make = request.param
    return found


async def pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        near = await trio.testing.open_stream_to_socket_listener(listener)
        return near, await listener.accept()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=200), st.booleans()), max_size=8), st.sampled_from([1, 7, 500])
)
def test_all_that_comes_is_read_in_order(sent: list[tuple[bytes, bool]], size: int) -> None:
    async def run(make: Make) -> bytes:
        near, far = await pair()
        ours, got = make(near), bytearray()

        async def read() -> None:
            while data := await ours.receive_some(size):
                assert len(data) <= size
                got.extend(data)

        with trio.fail_after(WITHIN):
            async with ours, far, trio.open_nursery() as nursery:
                nursery.start_soon(read)
                for data, waits in sent:
                    await far.send_all(data)
                    if waits:
                        await wait_all_tasks_blocked()
                await far.send_eof()
        return bytes(got)

    assert trio.run(run, Tcp) == trio.run(run, trios) == b"".join(data for data, _ in sent)


async def test_what_is_sent_arrives(make: Make) -> None:
    near, far = await pair()
    async with make(near) as ours, far:
        await ours.wait_send_all_might_not_block()
        await ours.send_all(b"there")
        assert await far.receive_some(100) == b"there"


async def test_a_reset_is_a_broken_stream(make: Make) -> None:
    near, far = await pair()
    async with make(near) as ours:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await far.aclose()
        with trio.fail_after(WITHIN), pytest.raises(trio.BrokenResourceError):
            await ours.receive_some(100)


async def test_whoever_closes_it_ends_the_reading(make: Make, nursery: trio.Nursery) -> None:
    near, far = await pair()
    ours = make(near)
    ended = trio.Event()

    async def read() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await ours.receive_some(100)
        ended.set()

    async with far:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        await ours.aclose()
        with trio.fail_after(WITHIN):
            await ended.wait()
        with pytest.raises(trio.ClosedResourceError):
            await ours.receive_some(100)


async def test_whoever_closes_it_when_there_is_something_to_read_ends_the_reading_too(nursery: trio.Nursery) -> None:
    """The descriptor's number may be another file's by then."""
    near, far = await pair()
    ours = Tcp(near)
    ended = trio.Event()

    async def read() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await ours.receive_some(100)
        ended.set()

    async def wait_readable(number: int) -> None:
        near.socket.close()  # by another task of the same pass, before the reader's turn

    async with far:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trio.lowlevel, "wait_readable", wait_readable)
            nursery.start_soon(read)
            with trio.fail_after(WITHIN):
                await ended.wait()
