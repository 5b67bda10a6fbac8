"""Early answers: byte for byte what Quart answers, never old, and only where nothing is unusual about the request."""

import gzip
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

import web.rest.early
from daemon.settings import Server
from tests.daemon.fixtures import World, eventually, world
from tests.patience import WITHIN
from web.rest.early import Early
from web.rest.heads import parse_head

PAGE = "https://page.example"
BARS = "/binance/ohlc/BTCUSDT/1m?limit=100"


class Answers(list[bool]):
    """Of each request that the server asked about: whether it was answered early."""

    early: Early  # the daemon's own


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    seen = Answers()
    answer = Early.answer

    def noted(self: Early, data: bytes, seat: Any = None, address: str = "") -> tuple[bytes, bytes] | None:
        seen.early = self
        found = answer(self, data, seat, address)
        seen.append(found is not None)
        return found

    monkeypatch.setattr(Early, "answer", noted)
    return seen


@pytest.fixture
async def w(answers: Answers) -> AsyncIterator[World]:
    async with world(server=Server(port=0, cors_origins=[PAGE])) as running:
        await running.settled()
        answers.clear()
        yield running


class Wire:
    """One connection, and the answers on it as they come."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._data = b""

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def answer(self) -> tuple[bytes, bytes]:
        """(head without the date, body)."""
        with trio.fail_after(WITHIN):
            while b"\r\n\r\n" not in self._data:
                self._data += await self._more()
            head, _, self._data = self._data.partition(b"\r\n\r\n")
            lines = head.split(b"\r\n")
            length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
            while len(self._data) < length:
                self._data += await self._more()
        body, self._data = self._data[:length], self._data[length:]
        assert any(line.startswith(b"date: ") for line in lines)
        return b"\r\n".join(line for line in lines if not line.startswith(b"date: ")), body

    async def _more(self) -> bytes:
        data = bytes(await self._stream.receive_some(1 << 16))
        assert data, f"hung up after {self._data!r}"
        return data

    async def is_over(self) -> bool:
        with trio.fail_after(WITHIN):
            return await self._stream.receive_some(1) == b""


async def connect(w: World) -> Wire:
    return Wire(await trio.open_tcp_stream("127.0.0.1", int(w.url.rpartition(":")[2])))


def head(target: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


TARGETS = [
    "/",
    "/exchanges",
    "/symbols",
    "/symbols?exchange=binance&q=BT",
    "/health/live",
    BARS,
    "/binance/ohlc/btcusdt/1m?limit=3",
    "/BINANCE/ohlc/BTCUSDT/5m?limit=1",
    "/binance/ohlc/BTCUSDT/1m?limit=5&start_time=1789999000000",
    "/binance/oi/BTCUSDT",
    "/binance/funding/BTCUSDT",
    "//binance/funding/BTCUSDT",
]
HEADERS = [
    [],
    ["Accept-Encoding: gzip, deflate"],
    ["accept-encoding: zstd;q=0.9, gzip;q=0.1", f"Origin: {PAGE}"],
    ["Origin: https://other.example", "Connection: keep-alive", "Cookie: a=b", "User-Agent: test/1 (x)"],
]


async def test_early_answers_are_those_of_quart_byte_for_byte(w: World, answers: Answers) -> None:
    early, ordinary = await connect(w), await connect(w)
    for target, headers in itertools.product(TARGETS, HEADERS):
        answers.clear()
        found = []
        for _ in range(2):  # understood the first time, remembered the second
            await early.send(head(target, *headers))
            found.append(await early.answer())
        assert answers == [True, True], target
        await ordinary.send(head(target, *headers, "TE: trailers"))
        assert [await ordinary.answer()] * 2 == found, (target, headers)
        assert answers == [True, True, False]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/nothing", 404),
        ("/binance/funding/NOPE", 404),
        ("/binance/ohlc/BTCUSDT/7m", 404),
        ("/binance/ohlc/BTCUSDT/1m?limit=0", 422),
        ("/binance/ohlc/BTCUSDT/1m?limit=5&limit=6", 422),
        ("/binance/funding/BTCUSDT?x=1", 422),
        ("/binance/funding/BTC%55SDT", 200),
        ("/binance/oi-hist/BTCUSDT", 200),
        ("/binance/ohlc/BTCUSDT/2h?limit=5", 200),
        ("/binance/funding/BTCUSDT/", 404),
        ("/health/ready", 200),
        ("/ws-catalog", 200),
        ("/docs", 200),
        ("/ws/binance/BTCUSDT/trades", 426),
    ],
)
async def test_all_else_is_left_to_quart(w: World, answers: Answers, target: str, status: int) -> None:
    wire = await connect(w)
    for _ in range(2):
        await wire.send(head(target))
        line, _body = await wire.answer()
        assert line.startswith(b"HTTP/1.1 %d " % status), line
    assert answers
    assert not any(answers)


UNUSUAL = {
    "1.0": b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n",
    "close": head("/", "Connection: close"),
    "body": head("/", "Content-Length: 2") + b"{}",
    "empty body": head("/", "Content-Length: 0"),
    "chunked": head("/", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "HEAD": head("/").replace(b"GET", b"HEAD"),
    "POST": head("/").replace(b"GET", b"POST"),
    "two hosts": head("/", "Host: y"),
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two encodings": head("/", "Accept-Encoding: gzip", "Accept-Encoding: zstd"),
    "bad header": head("/", "a b: c"),
    "two at once": head("/") + head("/health/live"),
    "upgrade": head("/", "Upgrade: websocket", "Connection: Upgrade"),
    "expect": head("/", "Expect: 100-continue"),
    "long": head("/", "Cookie: " + "x" * 5000),
    "absolute": head("http://x/"),
    "part": head("/")[:-2],
    "nothing": b"",
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual_is_not_understood(name: str) -> None:
    assert parse_head(UNUSUAL[name]) is None


async def test_pipelined_split_and_early_requests_are_answered_in_order_on_one_connection(
    w: World, answers: Answers
) -> None:
    wire = await connect(w)
    funding, live = head("/binance/funding/BTCUSDT"), head("/health/live")
    await wire.send(funding + live)
    assert b'"funding_rate"' in (await wire.answer())[1]
    assert (await wire.answer())[1] == b'{"status":"live"}'
    wire, asked = await connect(w), len(answers)
    await wire.send(live[:20])
    await eventually(lambda: len(answers) > asked, what="the first half")
    await wire.send(live[20:])
    assert (await wire.answer())[1] == b'{"status":"live"}'
    assert not any(answers)
    wire = await connect(w)
    await wire.send(funding)
    await eventually(lambda: any(answers), what="an early answer")
    assert b'"funding_rate"' in (await wire.answer())[1]
    await wire.send(head("/binance/oi-hist/BTCUSDT"))  # waits for the exchange; what comes meanwhile waits for it
    await wire.send(live)
    assert b'"open_interest"' in (await wire.answer())[1]
    assert (await wire.answer())[1] == b'{"status":"live"}'
    await wire.send(head("/", "Connection: close"))
    assert (await wire.answer())[0].startswith(b"HTTP/1.1 200")
    assert await wire.is_over()


async def test_an_answer_is_never_old(w: World, answers: Answers) -> None:
    """Whatever the market does, the next request is answered with what the daemon knows then."""
    wire, plain = await connect(w), await connect(w)
    packed = head(BARS, "Accept-Encoding: gzip")
    seen = set()
    for _ in range(30):
        await w.pass_time(2_000)
        await w.settled()
        await wire.send(packed)
        body = gzip.decompress((await wire.answer())[1])
        await plain.send(head(BARS, "TE: trailers"))
        assert body == (await plain.answer())[1]
        seen.add(body)
    assert len(seen) > 15
    assert sum(answers) >= 30


async def test_memory_that_is_not_current_answers_nothing(w: World, answers: Answers) -> None:
    wire = await connect(w)
    for path in (BARS, "/binance/funding/BTCUSDT"):
        await wire.send(head(path))
        await wire.answer()
    assert answers == [True, True]
    w.sim.faults.ws_accept = "reset"
    w.sim.drop()
    await w.health(lambda health: health["feeds"][0]["state"] == "down")
    answers.clear()
    asked = w.sim.count("/fapi/v1/klines")
    for path in (BARS, "/binance/funding/BTCUSDT"):
        await wire.send(head(path))
        assert (await wire.answer())[0].startswith(b"HTTP/1.1 200")
    assert not any(answers)
    assert w.sim.count("/fapi/v1/klines") == asked + 1


async def test_what_is_remembered_is_bounded(w: World, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many different heads are sent, and however long their answers are."""
    await w.get("/health/live")
    early, numbers = answers.early, itertools.count()
    monkeypatch.setattr(web.rest.early, "HEADS_MAX", 20)
    bodies = set()
    for number in itertools.islice(numbers, 100):
        assert early.answer(head(BARS, f"X-Number: {number}"))
        assert len(early._asked) <= 20
        bodies.add(early._bodies[BARS, None])
    assert len(bodies) == 1, "heads that never repeat do not cost the answer"
    for number in range(100):
        assert early.answer(head(f"/binance/ohlc/BTCUSDT/1m?limit={number + 1}"))
        assert len(early._bodies) <= 20
    monkeypatch.setattr(web.rest.early, "HEADS_MAX", 10_000)
    monkeypatch.setattr(web.rest.early, "BODIES_MAX", 100_000)
    for number in itertools.islice(numbers, 200):
        assert early.answer(head(f"/binance/ohlc/BTCUSDT/1m?limit={number % 100 + 1}", f"X-Number: {number}"))
        assert sum(len(body.data) for body in early._bodies.values()) == early._size <= 100_000


async def test_what_memory_cannot_answer_is_not_remembered(w: World, answers: Answers) -> None:
    """Anybody can ask for what is not there, under any number of names."""
    connection = await connect(w)
    for number in range(20):
        await connection.send(head(f"/binance/ohlc/NOPE{number}/1m"))
        await connection.answer()
    assert answers
    assert not any(answers)
    assert not [target for target, _ in answers.early._bodies if "NOPE" in target]
