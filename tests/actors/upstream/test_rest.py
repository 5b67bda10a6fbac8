"""RestClient against a server on loopback that answers byte for byte what a test tells it to."""

import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial

import h11
import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actors.errors import (
    BadMessage,
    MarketError,
    UnknownSymbol,
    UpstreamError,
    UpstreamGeoBlocked,
    UpstreamLimited,
    UpstreamTimeout,
)
from actors.upstream import budget as budget_module
from actors.upstream import rest
from actors.upstream.bucket import Caller
from actors.upstream.budget import SLOTS, Budget, Window
from actors.upstream.caller import ANSWER_BY
from actors.upstream.pauses import FORBIDDEN_PAUSE, RETRY_AFTER_MAX, retry_after
from actors.upstream.rest import RestClient, excerpt, open_http
from tests.patience import WITHIN, virtual_time

Answer = Callable[[trio.SocketStream], Awaitable[None]]


def reply(status: int = 200, body: bytes = b"[]", *headers: tuple[str, str], length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def said(data: bytes) -> Answer:
    """An answer after which the connection stays open."""

    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(data)

    return answer


def said_and_closed(data: bytes) -> Answer:
    async def answer(stream: trio.SocketStream) -> None:
        if data:
            await stream.send_all(data)
        await stream.aclose()

    return answer


async def nothing(stream: trio.SocketStream) -> None:
    """Never an answer."""
    await trio.sleep_forever()


async def trickle(stream: trio.SocketStream) -> None:
    """A body that comes byte by byte and never ends."""
    await stream.send_all(reply(length=1_000_000))
    while True:
        await trio.sleep(0.02)
        await stream.send_all(b" ")


class Server:
    """Answers each request with the next answer of its list, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[h11.Request] = []
        self.bodies: list[bytes] = []
        self.asked_at: list[float] = []
        self.connections = 0
        self.url = ""

    def will(self, *answers: Answer | bytes) -> None:
        self.answers += [said(answer) if isinstance(answer, bytes) else answer for answer in answers]

    @property
    def targets(self) -> list[str]:
        return [request.target.decode() for request in self.requests]

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        try:
            while await self.read_request(stream):
                await self.answers.pop(0)(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has seen enough, or the answer was to close
        finally:
            await trio.aclose_forcefully(stream)

    async def read_request(self, stream: trio.SocketStream) -> bool:
        connection, body = h11.Connection(h11.SERVER), b""
        while True:
            match connection.next_event():
                case h11.Request() as request:
                    self.requests.append(request)
                    self.asked_at.append(trio.current_time())
                case h11.Data(data=data):
                    body += bytes(data)
                case h11.EndOfMessage():
                    self.bodies.append(body)
                    return True
                case h11.ConnectionClosed():
                    return False
                case h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some())


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with trio.open_nursery() as nursery:
        server = Server()
        listeners = await nursery.start(partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1"))
        server.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        yield server
        nursery.cancel_scope.cancel()


@pytest.fixture
def budget() -> Budget:
    return Budget({"weight": Window(1000, 60.0), "other": Window(1000, 60.0)})


def explain(status: int, body: bytes) -> MarketError | None:
    """An exchange that says "symbol" or "limit" in its own words, and otherwise only that it will not."""
    match body:
        case b"symbol":
            return UnknownSymbol("no such symbol")
        case b"limit":
            return UpstreamLimited("too much", retry_after=7.0)
        case b"until":
            return UpstreamLimited("banned", until=datetime(2030, 1, 1, 0, 1, tzinfo=UTC).timestamp())
        case b"soon":
            return UpstreamLimited("too much", retry_after=0.2)
        case b"refused":
            return UpstreamError("refused")
        case _:
            return None


@asynccontextmanager
async def open_client(server: Server, budget: Budget, *, caller: Caller = "client") -> AsyncIterator[RestClient]:
    """A client of the server, for a few seconds at most."""
    with trio.fail_after(WITHIN):
        async with open_http(server.url) as http:
            yield RestClient(http, budget, explain, caller=caller, used_header=("X-Used", "weight"))


async def get(client: RestClient, path: str = "/x", **params: str | int | None) -> bytes:
    return await client.get(path, params, bucket="weight", weight=10)


# --- what is asked ---


async def test_a_question_and_its_answer(server: Server, budget: Budget) -> None:
    server.will(reply(body=b'{"a":1}'), reply(204, b""))
    async with open_client(server, budget) as client:
        assert await get(client, "/v1/klines", symbol="币安人生USDT", limit=5, startTime=None) == b'{"a":1}'
        assert await get(client) == b""
    assert server.targets == ["/v1/klines?symbol=%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9FUSDT&limit=5", "/x"]
    headers = dict(server.requests[0].headers)
    assert headers[b"accept-encoding"] == b"identity"  # a small compressed body may inflate to gigabytes
    assert server.connections == 1
    assert budget.buckets["weight"].used() == 20
    assert budget.buckets["other"].used() == 0


async def test_a_posted_question(server: Server, budget: Budget) -> None:
    server.will(reply(503), reply(body=b"{}"))
    async with open_client(server, budget) as client:
        assert await client.query("/info", b'{"type":"meta"}', bucket="other", weight=3) == b"{}"
    assert [request.method for request in server.requests] == [b"POST", b"POST"]
    assert server.bodies == [b'{"type":"meta"}'] * 2
    assert dict(server.requests[1].headers)[b"content-type"] == b"application/json"
    assert budget.buckets["other"].used() == 6  # every attempt is paid for


async def test_a_compressed_body_is_not_inflated(server: Server, budget: Budget) -> None:
    body = gzip.compress(b" " * 100_000)
    server.will(reply(200, body, ("Content-Encoding", "gzip")))
    async with open_client(server, budget) as client:
        assert await get(client) == body


# --- limits and bans ---


@virtual_time
@pytest.mark.parametrize(
    ("status", "body", "headers", "pause"),
    [
        pytest.param(429, b"", [("Retry-After", "7")], 7, id="seconds"),
        pytest.param(429, b"", [("Retry-After", " 7 ")], 7, id="seconds with spaces"),
        pytest.param(429, b"", [], 60, id="nothing said"),
        pytest.param(429, b"", [("Retry-After", "banana")], 60, id="nonsense"),
        pytest.param(429, b"", [("Retry-After", "-5")], 60, id="negative"),
        pytest.param(429, b"", [("Retry-After", "0")], 60, id="zero"),
        pytest.param(429, b"", [("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT")], 60, id="a past date"),
        pytest.param(429, b"", [("Retry-After", "Sun, 06 Nov 99999999999999999999 08:49:37 GMT")], 60, id="no date"),
        pytest.param(429, b"", [("Retry-After", "9" * 5000)], RETRY_AFTER_MAX, id="longer than the longest ban"),
        pytest.param(418, b"", [], 120, id="a ban"),
        pytest.param(418, b"", [("Retry-After", "300")], 300, id="a ban of known length"),
        pytest.param(429, b"limit", [("Retry-After", "300")], 7, id="the exchange's own words"),
        pytest.param(400, b"limit", [], 7, id="the exchange's own words, whatever the status"),
        pytest.param(429, b"symbol", [], 60, id="the status, whatever the words"),
    ],
)
async def test_a_limit_closes_the_gate(
    server: Server, budget: Budget, status: int, body: bytes, headers: list[tuple[str, str]], pause: float
) -> None:
    server.will(reply(status, body, *headers))
    async with open_client(server, budget) as client:
        with pytest.raises(UpstreamLimited) as refused:
            await get(client)
        assert refused.value.retry_after == pause
        assert pause - 1 < budget.closed_for() <= pause
        for bucket in ("weight", "other"):  # the gate is the host's: no request leaves, whatever its bucket
            with pytest.raises(UpstreamLimited) as refused:
                await client.get("/x", bucket=bucket, weight=1)
            assert pause - 1 < (refused.value.retry_after or 0) <= pause
    assert len(server.requests) == 1


async def test_a_limit_until_a_date(server: Server, budget: Budget) -> None:
    until = datetime.now(UTC) + timedelta(seconds=90)
    server.will(reply(429, b"", ("Retry-After", format_datetime(until, usegmt=True))))
    async with open_client(server, budget) as client:
        with pytest.raises(UpstreamLimited):
            await get(client)
    assert 60 < budget.closed_for() <= 90


@pytest.mark.parametrize("until", [("Retry-After", "Tue, 01 Jan 2030 00:01:00 GMT"), ("Body", "until")])
async def test_a_time_that_the_exchange_names_is_by_its_own_clock(
    server: Server, budget: Budget, until: tuple[str, str]
) -> None:
    """Ours may be wrong by hours: the ban would be over too soon, which makes it longer, or last as much too long."""
    date = ("Date", "Tue, 01 Jan 2030 00:00:00 GMT")
    server.will(reply(418, b"until" if until[0] == "Body" else b"", date, until))
    async with open_client(server, budget) as client:
        with pytest.raises(UpstreamLimited) as refused:
            await get(client)
    assert refused.value.retry_after == 60
    assert 50 < budget.closed_for() <= 60


@virtual_time
async def test_background_work_waits_for_the_gate(server: Server, budget: Budget) -> None:
    server.will(reply())
    opens = trio.current_time() + 0.3
    budget.close(0.3, UpstreamLimited("429"))
    async with open_client(server, budget, caller="background") as client:
        assert await get(client) == b"[]"
    assert server.asked_at[0] >= opens


async def test_a_repair_that_is_refused_asks_again_where_its_deadline_lets_it(server: Server, budget: Budget) -> None:
    """What it is to find is lost otherwise: nobody asks for it a second time."""
    server.will(reply(429, b"soon"), reply(), reply(429, b"limit"))
    async with open_client(server, budget, caller="repair") as client:
        with trio.fail_after(5):
            assert await get(client) == b"[]"
        assert server.asked_at[1] - server.asked_at[0] >= 0.2
        with trio.fail_after(5), pytest.raises(UpstreamLimited):
            await get(client)
    assert len(server.requests) == 3
    assert budget.closed_for() > 5


@virtual_time
async def test_a_repair_goes_on_asking_servers_in_trouble_until_its_deadline(server: Server, budget: Budget) -> None:
    server.will(reply(503), said_and_closed(b""), reply(502), said_and_closed(b""), reply())
    server.will(*[reply(503, b"<html>")] * 20)
    async with open_client(server, budget, caller="repair") as client:
        with trio.fail_after(10):
            assert await get(client) == b"[]"
        began = trio.current_time()
        with trio.fail_after(10), pytest.raises(UpstreamError, match="answered 503"):
            await get(client)
        assert 5 < trio.current_time() - began < 10
    assert len(server.requests) == 5 + 6


async def test_requests_that_wait_for_their_turn_stay_behind_a_closed_gate(
    server: Server, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A burst meets a 429: what has not left yet must not leave, or the limit becomes a ban."""
    monkeypatch.setitem(SLOTS, "client", 1)
    budget = Budget({"weight": Window(1000, 60.0)})
    server.will(reply(429, b"", ("Retry-After", "30")), reply(429), reply(429))
    errors: list[UpstreamLimited] = []

    async def ask(client: RestClient) -> None:
        with pytest.raises(UpstreamLimited) as refused:
            await get(client)
        errors.append(refused.value)

    async with open_client(server, budget) as client, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask, client)
    assert len(errors) == 3
    assert len(server.requests) == 1


@pytest.mark.parametrize("used", ["50", "0050"])
@pytest.mark.parametrize("status", [200, 400, 429])
async def test_the_exchange_s_own_count_is_observed(server: Server, budget: Budget, status: int, used: str) -> None:
    server.will(reply(status, b"[]", ("X-Used", used)))
    async with open_client(server, budget) as client:
        if status == 200:
            await get(client)
        else:
            with pytest.raises(MarketError):
                await get(client)
    assert budget.buckets["weight"].used() == 50


@pytest.mark.parametrize("used", ["", "abc", "-5", "1e3", "5", "\xb2"])
async def test_a_count_that_is_none_or_lower_changes_nothing(server: Server, budget: Budget, used: str) -> None:
    server.will(reply(200, b"[]", ("X-Used", used)))
    async with open_client(server, budget) as client:
        await get(client)
    assert budget.buckets["weight"].used() == 10


# --- refusals ---


@pytest.mark.parametrize(
    ("status", "body", "wanted"),
    [
        (400, b"symbol", UnknownSymbol),
        (400, b"?", UpstreamError),
        (404, b"refused", UpstreamError),
        (302, b"", UpstreamError),
        (408, b"", UpstreamTimeout),
        (408, b"refused", UpstreamTimeout),
        (403, b"<html>", UpstreamError),
        (451, b"", UpstreamGeoBlocked),
        (451, b"refused", UpstreamGeoBlocked),
    ],
)
async def test_refusals(server: Server, budget: Budget, status: int, body: bytes, wanted: type[MarketError]) -> None:
    """The status names its case even where the exchange adds words of its own."""
    server.will(reply(status, body, ("Location", "/elsewhere")))
    async with open_client(server, budget) as client:
        with pytest.raises(MarketError) as refused:
            await get(client)
    assert type(refused.value) is wanted
    assert len(server.requests) == 1


@virtual_time
@pytest.mark.parametrize("body", [b"<html>", b"refused"])
@pytest.mark.parametrize("status", [403, 451])
async def test_being_turned_away_closes_the_gate(server: Server, budget: Budget, status: int, body: bytes) -> None:
    server.will(reply(status, body))
    async with open_client(server, budget) as client:
        with pytest.raises(MarketError) as refused:
            await get(client)
        assert refused.value.retry_after == FORBIDDEN_PAUSE
        assert FORBIDDEN_PAUSE - 1 < budget.closed_for() <= FORBIDDEN_PAUSE
        with pytest.raises(MarketError) as again:
            await get(client)
    assert type(again.value) is type(refused.value)  # the refusal's own code, for as long as the pause lasts
    assert str(again.value) == str(refused.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, b"{}", ("Content-Type", "text/html; charset=utf-8")),
        reply(200, b"<!DOCTYPE html><p>maintenance"),
    ],
)
async def test_a_page_is_not_data(server: Server, budget: Budget, answer: bytes) -> None:
    server.will(answer)
    async with open_client(server, budget) as client:
        with pytest.raises(BadMessage, match="page"):
            await get(client)


async def test_an_unprintable_body_is_quoted_in_one_printable_line(server: Server, budget: Budget) -> None:
    server.will(reply(400, b"\x1b[31m\r\nX-Evil: 1\n" + b"\xff" * 500))
    async with open_client(server, budget) as client:
        with pytest.raises(UpstreamError) as refused:
            await get(client)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


# --- trouble on the way ---


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_broken_exchange_is_asked_once_more(server: Server, budget: Budget, status: int) -> None:
    server.will(reply(status), reply(body=b"[1]"), reply(status), reply(status), reply(body=b"[2]"))
    async with open_client(server, budget) as client:
        assert await get(client) == b"[1]"
        with pytest.raises(UpstreamError, match=str(status)):
            await get(client)
        assert await get(client) == b"[2]"
    assert budget.buckets["weight"].used() == 50


async def test_a_connection_closed_under_a_question_is_replaced(server: Server, budget: Budget) -> None:
    server.will(reply(body=b"[1]"), said_and_closed(b""), reply(body=b"[2]"))
    async with open_client(server, budget) as client:
        assert await get(client) == b"[1]"
        assert await get(client) == b"[2]"
    assert (len(server.requests), server.connections) == (3, 2)


async def test_a_server_that_only_hangs_up_is_an_error(server: Server, budget: Budget) -> None:
    server.will(said_and_closed(b""), said_and_closed(b""))
    async with open_client(server, budget) as client:
        with pytest.raises(UpstreamError):
            await get(client)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(reply(200, b"[1,", length=100), id="truncated body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n[]", id="bad chunk"),
        pytest.param(b"SMTP ready\r\n", id="not HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="truncated head"),
    ],
)
async def test_a_broken_answer_is_asked_for_once_more(server: Server, budget: Budget, broken: bytes) -> None:
    server.will(said_and_closed(broken), reply(body=b"[1]"), said_and_closed(broken), said_and_closed(broken))
    async with open_client(server, budget) as client:
        assert await get(client) == b"[1]"
        with pytest.raises(UpstreamError):
            await get(client)
    assert len(server.requests) == 4


@virtual_time
@pytest.mark.parametrize("answer", [trickle, nothing], ids=["a body without end", "silence"])
async def test_one_deadline_bounds_the_whole_question(
    server: Server, budget: Budget, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    monkeypatch.setattr(rest, "TIMEOUT", 0.2)
    server.will(answer, reply(body=b"[1]"))
    async with open_client(server, budget) as client:
        before = trio.current_time()
        with pytest.raises(UpstreamTimeout):
            await get(client)
        assert trio.current_time() - before == pytest.approx(0.2, abs=0.03)
        assert await get(client) == b"[1]"
    assert len(server.requests) == 2  # what took too long is not asked again


@pytest.mark.parametrize("length", [None, 10_000_000])
async def test_an_answer_is_bounded(
    server: Server, budget: Budget, monkeypatch: pytest.MonkeyPatch, length: int | None
) -> None:
    monkeypatch.setattr(rest, "MAX_BYTES", 1000)
    server.will(reply(body=b" " * 1000), reply(200, b" " * 1001, length=length), reply(body=b"[1]"))
    async with open_client(server, budget) as client:
        assert len(await get(client)) == 1000
        with pytest.raises(UpstreamError, match="larger than"):
            await get(client)
        assert await get(client) == b"[1]"


async def test_nobody_listens(server: Server, budget: Budget) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    await listener.aclose()
    async with open_client(server, budget) as client:
        with pytest.raises(UpstreamError, match="ConnectError"):
            await get(client)


@virtual_time
async def test_a_question_that_is_given_up_leaves_its_place(
    server: Server, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SLOTS, "client", 1)
    budget = Budget({"weight": Window(1000, 60.0)})
    server.will(nothing, reply(body=b"[1]"))
    async with open_client(server, budget) as client:
        with trio.move_on_after(0.1) as given_up:
            await get(client)
        assert given_up.cancelled_caught
        assert await get(client) == b"[1]"


@virtual_time
async def test_no_more_questions_at_once_than_allowed(
    server: Server, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SLOTS, "client", 3)
    budget = Budget({"weight": Window(1000, 60.0)})
    under_way, most = 0, 0

    async def answer(stream: trio.SocketStream) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await trio.sleep(0.02)
        under_way -= 1
        await stream.send_all(reply())

    server.will(*[answer] * 12)
    async with open_client(server, budget) as client, trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(get, client)
    assert (most, len(server.requests)) == (3, 12)


@virtual_time
async def test_no_client_waits_for_long_where_the_host_hangs(
    server: Server, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many times more questions than slots: each ends with the code of its reason, in a few time-outs at most."""
    monkeypatch.setattr(rest, "TIMEOUT", 0.3)
    monkeypatch.setattr(budget_module, "SLOT_PATIENCE", 0.3)
    server.will(*[nothing] * 64)
    kinds: list[str] = []

    async def ask(client: RestClient) -> None:
        try:
            await client.get("/x", bucket="weight", weight=1)
        except (UpstreamTimeout, UpstreamLimited) as error:
            kinds.append(error.code)

    began = trio.current_time()
    async with open_client(server, budget) as client, trio.open_nursery() as nursery:
        for _ in range(320):
            nursery.start_soon(ask, client)
    assert kinds == ["upstream_timeout"] * 320
    assert trio.current_time() - began < 5  # 320 / 16 time-outs in a row are 6 s


@virtual_time
async def test_a_client_s_answer_ends_in_time_however_many_questions_it_takes(server: Server, budget: Budget) -> None:
    server.will(nothing, reply(body=b"[1]"))
    ANSWER_BY.set(trio.current_time() + 0.3)
    async with open_client(server, budget) as client:
        with pytest.raises(UpstreamTimeout):  # not only after the 10 s of this one
            await get(client)
    async with open_client(server, budget, caller="background") as client:
        assert await get(client) == b"[1]", "who is in no hurry waits"


@virtual_time
async def test_a_client_s_question_that_is_asked_twice_ends_in_time(
    server: Server, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "ANSWER_WITHIN", 0.4)
    server.will(reply(500), nothing)
    async with open_client(server, budget) as client:
        with pytest.raises(UpstreamTimeout, match="no answer within"):
            await get(client)
    assert len(server.requests) == 2


async def test_a_server_error_that_says_what_it_means_is_final(server: Server, budget: Budget) -> None:
    """Hyperliquid answers 500 to a name that it does not know."""
    server.will(reply(500, b"symbol"))
    async with open_client(server, budget) as client:
        with pytest.raises(UnknownSymbol):
            await get(client)
    assert len(server.requests) == 1


@virtual_time
async def test_a_server_error_that_says_how_long_is_not_asked_again_before(server: Server, budget: Budget) -> None:
    server.will(reply(503, b"maintenance", ("Retry-After", "30")))
    async with open_client(server, budget) as client:
        for _ in range(2):
            with pytest.raises(UpstreamError) as refused:
                await get(client)
            assert 29 < (refused.value.retry_after or 0) <= 30
    assert len(server.requests) == 1


# --- small functions ---


@settings(deadline=None, derandomize=True)
@given(st.text(max_size=40) | st.from_regex(r"\w{3}, \d{1,3} Nov \d{1,30} \d{1,3}:\d\d:\d\d [+-]?\w{1,30}"))
@example("Mon, 01 Jan 2024 00:00:00 +99999999999999999999")
@example("Sun, 06 Nov 99999999999999999999 08:49:37 GMT")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("١٢")
def test_any_retry_after_is_a_time_or_none(value: str) -> None:
    seconds = retry_after(value, datetime.now(UTC))
    assert seconds is None or seconds >= 0


def test_no_retry_after() -> None:
    assert retry_after(None, datetime.now(UTC)) is None
    assert retry_after("", datetime.now(UTC)) is None


@settings(derandomize=True)
@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
@example("\x7f\x9b31m\u202e\u2028".encode())  # what a terminal or a log viewer would obey
def test_an_excerpt_is_short_and_one_line(body: bytes) -> None:
    text = excerpt(body)
    assert 0 < len(text) <= 1300
    assert text.isprintable()
