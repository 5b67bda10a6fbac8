"""Nodes that collect, as far as HTTP goes: each a listener on loopback that answers as a test wants."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from actors.engine.words import Member

Respond = Callable[["Call"], Awaitable[None]]


class Call:
    """One request. `head`: all of its head."""

    def __init__(self, stream: trio.SocketStream, head: bytes, body: bytes) -> None:
        self.stream, self.body = stream, body
        self.head = head.decode()
        self.target = self.head.split(" ")[1]

    async def say(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def answer(self, body: bytes, status: str = "200 OK", *lines: str) -> None:
        head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *lines]
        await self.say("\r\n".join([*head, "", ""]).encode() + body)


class Collector:
    def __init__(self, name: str, port: int) -> None:
        self.member = Member(name=name, role="ingest", address=f"http://127.0.0.1:{port}")
        self.heads: list[str] = []  # of the requests so far
        self.left = 0  # connections that the other side ended


@asynccontextmanager
async def collector(name: str, respond: Respond) -> AsyncIterator[Collector]:
    """It ends a connection where `respond` raises BrokenResourceError."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        one = Collector(name, listener.socket.getsockname()[1])

        async def serve(stream: trio.SocketStream) -> None:
            data = b""
            try:
                while True:
                    while b"\r\n\r\n" not in data:
                        got = await stream.receive_some()
                        if not got:
                            one.left += 1
                            return
                        data += got
                    head, _, data = data.partition(b"\r\n\r\n")
                    one.heads.append(head.decode())
                    length = re.search(rb"(?i)content-length: (\d+)", head)
                    while length is not None and len(data) < int(length[1]):
                        data += await stream.receive_some()
                    await respond(Call(stream, head, data))
                    data = b""
            except trio.BrokenResourceError:
                one.left += 1
            finally:
                await trio.aclose_forcefully(stream)

        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield one
        nursery.cancel_scope.cancel()


async def yes(call: Call) -> None:
    await call.answer(b'{"target":"%b"}' % call.target.encode(), "200 OK", "Content-Type: application/json")


async def goes(call: Call) -> None:
    """Ends the connection without a word."""
    raise trio.BrokenResourceError


async def hangs(call: Call) -> None:
    """Says nothing until the other side is gone."""
    await call.stream.receive_some()
    raise trio.BrokenResourceError


def nowhere(name: str) -> Member:
    """A node whose address nobody listens at."""
    return Member(name=name, role="ingest", address="http://127.0.0.1:9")
