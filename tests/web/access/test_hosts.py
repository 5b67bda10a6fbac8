"""By which names the daemon answers, on every way in; and below which path."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import trio

from daemon.settings import Server
from tests.daemon.fixtures import World, world
from tests.patience import WITHIN
from tests.web.server.served import HANDSHAKE, exchange, guarded
from web.access.front import Front
from web.access.hosts import Hosts

EVIL = "evil.example"


@pytest.mark.parametrize(
    ("bind", "allowed", "host", "code"),
    [
        ("127.0.0.1", (), "localhost", None),
        ("127.0.0.1", (), "LocalHost:8000", None),
        ("127.0.0.1", (), "127.0.0.1:1", None),
        ("127.0.0.1", (), "[::1]:8000", None),
        ("127.0.0.5", (), "127.0.0.5:8000", None),
        ("::1", (), "[::1]", None),
        ("localhost", (), "localhost:", None),
        ("127.0.0.1", (), EVIL, "unknown_host"),
        ("127.0.0.1", (), "127.0.0.1.evil.example", "unknown_host"),
        ("127.0.0.1", (), "evil.example:127.0.0.1", "unknown_host"),
        ("127.0.0.1", (), "localhost:8000:9", "unknown_host"),
        ("127.0.0.1", (), "localhost@evil.example", "unknown_host"),
        ("127.0.0.1", (), "[localhost]", "unknown_host"),
        ("127.0.0.1", (), "localhost\x00", "unknown_host"),
        ("127.0.0.1", (), "::1", "unknown_host"),
        ("127.0.0.1", (), "", "bad_request"),
        ("127.0.0.1", (), None, "bad_request"),
        ("0.0.0.0", (), EVIL, None),  # not loopback: every host
        ("0.0.0.0", (), "", "bad_request"),
        (None, (), EVIL, None),  # a Unix socket alone
        ("0.0.0.0", ("data.example", "[2001:db8::1]"), "DATA.example:443", None),
        ("0.0.0.0", ("Data.Example", "[2001:db8::1]"), "[2001:DB8::1]:443", None),
        ("0.0.0.0", ("data.example",), "localhost", "unknown_host"),
        ("127.0.0.1", ("data.example",), "127.0.0.1", "unknown_host"),
        (None, ("data.example",), EVIL, "unknown_host"),
    ],
)
def test_names_are_compared_without_port_and_case(
    bind: str | None, allowed: tuple[str, ...], host: str | None, code: str | None
) -> None:
    told = Hosts(allowed, bind=bind).refusal(host)
    assert (told and told.code) == code


def test_what_comes_over_a_unix_socket_may_have_any_name_unless_some_are_set() -> None:
    hosts = Hosts(bind="127.0.0.1")
    assert hosts.refusal(EVIL, is_local_socket=True) is None
    hosts.change(["data.example"])
    assert hosts.refusal(EVIL, is_local_socket=True) is not None
    assert hosts.refusal("localhost") is not None
    hosts.change([])
    assert hosts.refusal("localhost") is None


# --- on the running daemon


def port_of(w: World) -> int:
    port = urlsplit(w.url).port
    assert port is not None
    return port


async def raw(w: World, request: bytes) -> tuple[int, bytes]:
    with trio.fail_after(WITHIN):
        answer = await exchange(port_of(w), request)
    return int(answer[9:12]), answer.partition(b"\r\n\r\n")[2]


REQUEST = b"GET %b HTTP/1.1\r\nhost: %b\r\nconnection: close\r\n\r\n"
PATHS = [b"/", b"/binance/ohlc/BTCUSDT/1m", b"/docs", b"/no/such", b"/sse?topics=binance:BTCUSDT:trades", b"/health"]


async def test_other_names_are_misdirected_on_every_way_in() -> None:
    async with world() as w:
        await w.settled()
        for path in PATHS:
            for keep in (b"", b"connection: keep-alive\r\n"):  # memory answers some of them early
                request = REQUEST.replace(b"connection: close\r\n", keep) % (path, EVIL.encode())
                async with await trio.open_tcp_stream("127.0.0.1", port_of(w)) as stream:
                    await stream.send_all(request)
                    answer = b""
                    with trio.fail_after(WITHIN):
                        while b"unknown_host" not in answer:
                            answer += await stream.receive_some()
                assert answer.startswith(b"HTTP/1.1 421 "), path
                assert b"\r\ncontent-type: application/problem+json\r\n" in answer
                assert b'"code":"unknown_host"' in answer
        for path in (b"/ws", b"/ws/binance/BTCUSDT/trades"):
            handshake = HANDSHAKE % (path, b"Origin: http://evil.example\r\n")
            status, body = await raw(w, handshake.replace(b"host: test", b"host: evil.example"))
            assert (status, msgspec.json.decode(body)["code"]) == (421, "unknown_host")
            status, _ = await raw(w, handshake.replace(b"host: test", b"host: localhost"))
            assert status == 403, "then comes the Origin"
        assert (await raw(w, REQUEST % (b"/health/live", EVIL.encode())))[0] == 200
        assert (await raw(w, REQUEST % (b"/health", b"localhost:1")))[0] == 200


async def test_a_request_without_a_name_is_bad() -> None:
    async with world(live=False) as w:
        for request in (
            b"GET / HTTP/1.0\r\n\r\n",
            b"GET / HTTP/1.0\r\nhost:\r\n\r\n",
            b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost:\r\nconnection: close\r\n\r\n",
            (HANDSHAKE % (b"/ws", b"")).replace(b"host: test", b"host:"),
        ):
            assert (await raw(w, request))[0] == 400, request
        assert (await raw(w, b"GET /health/live HTTP/1.0\r\n\r\n"))[0] == 200


async def test_what_was_remembered_under_a_good_name_is_not_told_under_a_bad_one() -> None:
    async with world() as w:
        await w.settled()
        path = b"/binance/ohlc/BTCUSDT/1m"
        good = (REQUEST % (path, b"localhost")).replace(b"connection: close\r\n", b"")
        async with await trio.open_tcp_stream("127.0.0.1", port_of(w)) as stream:
            for _ in range(3):
                await stream.send_all(good)
                answer = b""
                with trio.fail_after(WITHIN):
                    while not answer.endswith(b"]"):
                        answer += await stream.receive_some()
                assert answer.startswith(b"HTTP/1.1 200 ")
            await stream.send_all(good.replace(b"localhost", b"evil.test"))
            with trio.fail_after(WITHIN):
                assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 421 ")


# --- below a path


async def tell(scope: Any, receive: Any, send: Any) -> None:
    body = msgspec.json.encode([scope["path"], scope["raw_path"].decode()])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def below(root_path: str) -> AsyncIterator[int]:
    async with guarded(Front(tell, Hosts(), root_path=root_path)) as served:
        yield served.port


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        (b"/market/health", "/health"),
        (b"/market", "/"),
        (b"/market/", "/"),
        (b"/health", "/health"),  # the proxy took it off
        (b"/markets", "/markets"),
        (b"/market/market", "/market"),
    ],
)
async def test_the_path_below_which_a_proxy_serves_us_may_be_there_or_not(asked: bytes, path: str) -> None:
    async with below("/market") as port:
        with trio.fail_after(WITHIN):
            answer = await exchange(port, REQUEST % (asked, b"x"))
    assert msgspec.json.encode([path, path]) in answer


async def test_links_and_documents_name_the_path_that_clients_see() -> None:
    async with world(live=False, server=Server(port=0, root_path="/market")) as w:
        for root in ("/", "/market/"):
            assert (await w.get(root))["docs"] == "/market/docs"
        assert (await w.get("/openapi.json"))["servers"] == [{"url": "/market"}]
        assert (await w.get("/market/asyncapi.json"))["servers"]["marketd"]["pathname"] == "/market"
        async with w.stream("/market/ws") as stream:
            await stream.say({"op": "ping", "id": 1})
            assert await stream.at_least(1) == [{"type": "pong", "id": 1}]
