"""The splitter: texts taken whole, all else passed on byte for byte, however the bytes arrive."""

from collections.abc import Sequence
from datetime import datetime

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import turns
from actors.upstream.inbound import HEAD_MAX, InboundStream, Splitter

HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
MAX = 70_000


def frame(first: int, payload: bytes, *, mask: bool = False) -> bytes:
    bit = 0x80 if mask else 0
    size = len(payload)
    if size < 126:
        head = bytes([first, bit | size])
    elif size < 1 << 16:
        head = bytes([first, bit | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, bit | 127]) + size.to_bytes(8, "big")
    return head + (b"\0\0\0\0" if mask else b"") + payload


def split(splitter: Splitter, *chunks: bytes) -> tuple[list[bytes], bytes]:
    texts: list[bytes] = []
    passed = b""
    for chunk in chunks:
        taken, rest = splitter.feed(chunk)
        texts += taken
        passed += rest
    return texts, passed


OTHERS = {
    "ping": frame(0x89, b"hello"),
    "pong": frame(0x8A, b""),
    "close": frame(0x88, b"\x03\xe8bye"),
    "binary": frame(0x82, b"\x00\x01"),
    "first fragment": frame(0x01, b"half"),
    "last fragment": frame(0x80, b"half"),
    "reserved bit": frame(0xC1, b"squeezed"),
    "masked text": frame(0x81, b"masked", mask=True),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_what_is_no_plain_text_is_passed_on(other: bytes) -> None:
    texts, passed = split(Splitter(MAX), HEAD, frame(0x81, b"one"), other, frame(0x81, b"two"))
    assert texts == [b"one", b"two"]
    assert passed == HEAD + other


@settings(deadline=None)  # half a megabyte may come byte by byte
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=300).map(lambda payload: (True, frame(0x81, payload), payload)),
            st.sampled_from([*OTHERS.values()]).map(lambda raw: (False, raw, b"")),
            st.sampled_from([125, 126, 65_535, 65_536]).map(lambda n: (True, frame(0x81, b"x" * n), b"x" * n)),
        ),
        max_size=8,
    ),
    st.lists(st.integers(1, 5_000), min_size=1, max_size=20),
)
def test_however_the_bytes_arrive(frames: list[tuple[bool, bytes, bytes]], sizes: list[int]) -> None:
    stream = HEAD + b"".join(raw for _, raw, _ in frames)
    chunks: list[bytes] = []
    at = 0
    while at < len(stream):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(stream[at : at + size])
        at += size
    texts, passed = split(Splitter(MAX), *chunks)
    assert texts == [payload for is_text, _, payload in frames if is_text]
    assert passed == HEAD + b"".join(raw for is_text, raw, _ in frames if not is_text)


def test_a_refused_handshake_is_passed_on_with_its_body() -> None:
    answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\n\x81\x02no"
    assert split(Splitter(MAX), answer[:20], answer[20:]) == ([], answer)


def test_a_message_over_the_limit_is_left_to_the_library_to_refuse() -> None:
    huge = frame(0x81, b"x" * (MAX + 1))
    texts, passed = split(Splitter(MAX), HEAD, frame(0x81, b"fine"), huge[:1000], huge[1000:])
    assert texts == [b"fine"]
    assert passed == HEAD + huge


def test_an_answer_that_never_ends_is_passed_on() -> None:
    texts, passed = split(Splitter(MAX), b"HTTP/1.1 101 " + b"x" * HEAD_MAX, b"yz")
    assert texts == []
    assert len(passed) == 13 + HEAD_MAX + 2


class Clock:
    """Moves when frames are taken."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Waits(trio.abc.Instrument):
    """The longest pass by that clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.began, self.longest = clock, 0.0, 0.0

    def after_io_wait(self, timeout: float) -> None:
        self.longest = max(self.longest, self.clock.now - self.began)
        self.began = self.clock.now


async def test_sockets_that_all_have_something_to_read_at_once_are_read_in_many_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, heard = Clock(), 0
    monkeypatch.setattr(turns, "perf_counter", clock)
    turns.bound()
    waits = Waits(clock)
    trio.lowlevel.add_instrument(waits)
    each = 60  # frames, of a size that such frames have and 0.05 ms each

    def take(messages: Sequence[bytes | str], received_at: datetime) -> None:
        nonlocal heard
        heard += len(messages)
        clock.now += 0.00005 * len(messages)

    async with trio.open_nursery() as nursery:
        receivers = []
        for _ in range(100):
            receiver = trio.testing.MemoryReceiveStream()
            inbound = InboundStream(trio.StapledStream(trio.testing.MemorySendStream(), receiver), MAX)
            inbound.listen(take)
            receiver.put_data(HEAD)
            assert await inbound.receive_some() == HEAD
            nursery.start_soon(inbound.receive_some)
            receivers.append(receiver)
        await trio.testing.wait_all_tasks_blocked()
        for receiver in receivers:
            receiver.put_data(frame(0x81, b"x" * 300) * each)
            receiver.put_eof()
    assert heard == 100 * each
    # Each reads 3 ms: beyond the slice there is no room for more than one, and one is let in in every pass.
    assert waits.longest <= 2 * turns.SLICE
