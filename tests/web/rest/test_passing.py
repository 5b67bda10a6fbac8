"""What goes through an edge to a node that collects, what comes back, and what does not."""

import gzip
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from actors.engine.words import Member
from actors.mirror.ingests import open_ingests
from tests.actors.mirror.collectors import Call, collector, hangs, nowhere, yes
from tests.daemon.fixtures import eventually
from tests.patience import WITHIN
from web.access.origins import Origins
from web.counts import WebCounts
from web.problems import Problem
from web.rest.passing import BODY_MAX, Passing


class Client:
    """One request, and what was answered."""

    def __init__(self, path: str, query: str = "", method: str = "GET", body: bytes = b"", **headers: Any) -> None:
        names = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "headers": names}
        self.scope["query_string"] = query.encode()
        self.given = [{"type": "http.request", "body": body, "more_body": False}]
        self.status = 0
        self.lines: list[tuple[str, str]] = []
        self.body, self.is_whole = b"", False
        self.leaves = trio.Event()

    async def receive(self) -> Any:
        if self.given:
            return self.given.pop(0)
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.lines = [(name.decode(), value.decode()) for name, value in message["headers"]]
        else:
            self.body += message["body"]
            self.is_whole = not message.get("more_body")

    def of(self, name: str) -> list[str]:
        return [value for key, value in self.lines if key == name]


class Edge:
    def __init__(self, passing: Passing, counts: WebCounts) -> None:
        self.passing, self.counts = passing, counts

    async def ask(self, client: Client) -> Client:
        with trio.fail_after(WITHIN):
            await self.passing(client.scope, client.receive, client.send)
        return client


async def held(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body", "body": b"held"})


def passed(method: str, path: str) -> str | None:
    return None if path == "/held" else "/all"


def worded(path: str, told: Problem) -> object:
    return {"errmsg": told.detail} if path.startswith("/udf/") else told


@asynccontextmanager
async def edge(members: Sequence[Member]) -> AsyncIterator[Edge]:
    counts = WebCounts()
    async with open_ingests(lambda: members, token="mk_x") as ingests:
        passing = Passing(
            held, ingests, passed=passed, worded=worded, origins=Origins(["https://page.example"]), counts=counts
        )
        yield Edge(passing, counts)


async def test_what_an_answer_says_of_itself_goes_through_and_what_it_says_of_the_node_does_not() -> None:
    packed = gzip.compress(b"[1,2,3]")

    async def answer(call: Call) -> None:
        lines = ["Content-Type: text/csv", "Content-Encoding: gzip", "Vary: Accept-Encoding", 'ETag: "x"', "Age: 3"]
        lines += [
            "RateLimit: r=1",
            "Access-Control-Allow-Origin: *",
            "Date: today",
            "X-Marketd: rows",
            "Retry-After: 9",
        ]
        await call.answer(packed, "206 Partial Content", *lines)

    async with collector("a", answer) as a, edge([a.member]) as one:
        asked: Any = {
            "accept_encoding": "gzip",
            "range": "bytes=0-9",
            "if_range": '"x"',
            "cookie": "no",
            "host": "edge",
        }
        client = await one.ask(Client("/export/ohlc", "a=b%20c&d", **asked, origin="https://page.example"))
        (head,) = a.heads
        lines = head.split("\r\n")
        assert lines[0] == "GET /export/ohlc?a=b%20c&d HTTP/1.1"
        assert {"accept-encoding: gzip", "range: bytes=0-9", 'if-range: "x"', "authorization: Bearer mk_x"} <= {*lines}
        assert not [line for line in lines if line.startswith(("cookie", "origin"))]
        assert f"Host: {a.member.address.removeprefix('http://')}" in lines
        assert (client.status, client.body, client.is_whole) == (206, packed, True)
        assert {name: client.of(name) for name in dict(client.lines)} == {
            "content-length": [str(len(packed))],
            "content-type": ["text/csv"],
            "content-encoding": ["gzip"],
            "vary": ["Accept-Encoding", "Origin"],
            "etag": ['"x"'],
            "age": ["3"],
            "x-marketd": ["rows"],
            "retry-after": ["9"],
            "access-control-allow-origin": ["https://page.example"],
        }
        assert one.counts.requests["/all", "2xx"] == 1


async def test_what_is_held_is_answered_here() -> None:
    async with collector("a", yes) as a, edge([a.member]) as one:
        assert (await one.ask(Client("/held"))).status == 299
        assert not a.heads


async def test_a_body_goes_through_and_one_without_bound_does_not() -> None:
    async def echo(call: Call) -> None:
        await call.answer(call.body)

    async with collector("a", echo) as a, edge([a.member]) as one:
        client = await one.ask(Client("/as/hyperliquid/info", method="POST", body=b'{"type":"meta"}'))
        assert (client.status, client.body) == (200, b'{"type":"meta"}')
        client = await one.ask(Client("/as/hyperliquid/info", method="POST", body=b"x" * (BODY_MAX + 1)))
        assert (client.status, len(a.heads)) == (400, 1)


async def test_with_no_node_there_it_is_not_ready_in_the_words_of_who_asks() -> None:
    async with edge([nowhere("a")]) as one:
        client = await one.ask(Client("/quality"))
        told = msgspec.json.decode(client.body, type=Problem)
        assert (client.status, told.code, client.of("retry-after")) == (503, "not_ready", ["2"])
        assert client.of("content-type") == ["application/problem+json"]
        client = await one.ask(Client("/udf/history"))
        assert (client.status, client.body) == (503, b'{"errmsg":"%b"}' % told.detail.encode())


async def test_an_answer_that_breaks_off_is_not_ended() -> None:
    async def breaks(call: Call) -> None:
        await call.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        raise trio.BrokenResourceError

    async with collector("a", breaks) as a, edge([a.member]) as one:
        client = await one.ask(Client("/export/ohlc"))
        assert (client.status, client.body, client.is_whole) == (200, b"abc", False)
        assert client.of("transfer-encoding") == []
        assert one.counts.requests["/all", "5xx"] == 1


async def test_a_client_that_leaves_ends_the_question() -> None:
    async with collector("a", hangs) as a, edge([a.member]) as one, trio.open_nursery() as nursery:
        client = Client("/export/ohlc")
        nursery.start_soon(one.ask, client)
        await eventually(lambda: a.heads, WITHIN)
        client.leaves.set()
        await eventually(lambda: a.left == 1, WITHIN)
        await eventually(lambda: one.counts.requests["/all", "4xx"] == 1, WITHIN)
        assert client.status == 0
