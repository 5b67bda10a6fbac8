"""Whom a request is of, behind a proxy that is trusted and behind one that is not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio

from tests.patience import WITHIN
from tests.web.server.served import HANDSHAKE, captured_log, exchange, guarded
from web.server.forwarded import Proxies

TRUSTED = ("127.0.0.0/8", "10.0.0.0/8", "2001:db8::/32")


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return captured_log(monkeypatch)


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("127.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("127.0.0.1", "198.51.100.1, 203.0.113.7", "203.0.113.7"),  # what is further left, the client said itself
        ("127.0.0.1", "198.51.100.1,203.0.113.7, 10.1.1.1,  10.2.2.2", "203.0.113.7"),
        ("127.0.0.1", "2001:db9::1", "2001:db9::1"),
        ("127.0.0.1", "::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8::5", "203.0.113.7", "203.0.113.7"),
        ("::ffff:10.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("", "203.0.113.7", "203.0.113.7"),  # a Unix socket's peer
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "10.1.1.1, 10.2.2.2", "127.0.0.1"),  # nobody but proxies
        ("127.0.0.1", "203.0.113.7, unknown", "127.0.0.1"),
        ("127.0.0.1", "203.0.113.7, ", "127.0.0.1"),
        ("127.0.0.1", "203.0.113.7:4711", "127.0.0.1"),
        ("127.0.0.1", "203.0.113.7\x00", "127.0.0.1"),
        ("127.0.0.1", "203.0.113.256", "127.0.0.1"),
        ("198.51.100.9", "203.0.113.7", "198.51.100.9"),  # not trusted
        ("198.51.100.9", "127.0.0.1", "198.51.100.9"),
    ],
)
def test_the_client_is_the_last_that_is_no_proxy(peer: str, forwarded: str, client: str) -> None:
    assert Proxies(TRUSTED).client_of(peer, forwarded) == client
    head = b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For:  %b\r\n\r\n" % forwarded.encode()
    assert Proxies(TRUSTED).client_of_head(peer, head) == client


def test_nobody_is_trusted_unless_named() -> None:
    proxies = Proxies()
    assert proxies.client_of("127.0.0.1", "203.0.113.7") == "127.0.0.1"
    proxies.change(["127.0.0.1/32"])
    assert proxies.client_of("127.0.0.1", "203.0.113.7") == "203.0.113.7"
    proxies.change([])
    assert proxies.client_of("127.0.0.1", "203.0.113.7") == "127.0.0.1"


async def tell(scope: Any, receive: Any, send: Any) -> None:
    """An app that answers what it was told of its client."""
    body = msgspec.json.encode([scope["client"] and scope["client"][0], scope["scheme"]])
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": f"{kind}.start", "status": 200, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})


GET = b"GET / HTTP/1.1\r\nhost: test\r\n%b\r\n"
ENDS = b"connection: close\r\n"
PROXIED = b"x-forwarded-for: 198.51.100.1\r\nx-forwarded-for: 203.0.113.7\r\nx-forwarded-proto: http,https\r\n"


async def told(port: int, *requests: bytes) -> list[list[str]]:
    answers = (await exchange(port, *requests)).split(b"\r\n\r\n")[1:]
    return [msgspec.json.decode(answer[: answer.index(b"]") + 1], type=list[str]) for answer in answers]


async def test_the_app_is_told_who_asks(lines: list[Any]) -> None:
    async with guarded(tell, proxies=Proxies(["127.0.0.0/8"])) as served:
        with trio.fail_after(WITHIN):
            assert await told(served.port, GET % PROXIED + GET % ENDS) == [
                ["203.0.113.7", "https"],
                ["127.0.0.1", "http"],  # the next request of the same connection is its own
            ]
            assert await told(served.port, GET % (PROXIED + ENDS)) == [["203.0.113.7", "https"]]
            assert await told(served.port, HANDSHAKE % (b"/", PROXIED)) == [["203.0.113.7", "wss"]]
    assert lines == []


async def test_a_peer_that_is_not_trusted_speaks_for_itself_alone(lines: list[Any]) -> None:
    async with guarded(tell) as served:
        with trio.fail_after(WITHIN):
            for _ in range(3):
                assert await told(served.port, GET % (PROXIED + ENDS)) == [["127.0.0.1", "http"]]
    (line,) = lines
    assert (line["event"], line["log_level"], line["peer"]) == ("web.forwarded_ignored", "warning", "127.0.0.1")
    assert "one client" in line["detail"]


async def test_early_answers_are_told_who_asks() -> None:
    seen = []

    def early(data: bytes, seat: object, address: str) -> None:
        seen.append(address)

    async with guarded(tell, early=early, proxies=Proxies(["127.0.0.0/8"])) as served:
        with trio.fail_after(WITHIN):
            await told(served.port, GET % (b"X-Forwarded-For: 203.0.113.7\r\n" + ENDS))
            await told(served.port, GET % ENDS)
    assert seen == ["203.0.113.7", "127.0.0.1"]
