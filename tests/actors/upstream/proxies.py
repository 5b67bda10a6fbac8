"""A proxy on loopback that speaks HTTP CONNECT and SOCKS5, each as far as clients use it, and counts its tunnels.

It looks up every name as this machine, so that what reached a made-up name can only have come through it.
"""

from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import trio

Client = trio.SocketStream | trio.SSLStream[trio.SocketStream]


@dataclass
class FakeProxy:
    port: int
    credentials: str | None = None  # "user:password"
    mode: Literal["works", "silent", "refuses", "hangs up"] = "works"
    reached: list[tuple[str, int]] = field(default_factory=list)  # hosts as they were asked for
    clients: int = 0
    fixed: tuple[str, int] | None = None  # where all go, without being asked

    def url(self, scheme: str) -> str:
        return f"{scheme}://{self.credentials + '@' if self.credentials else ''}127.0.0.1:{self.port}"

    async def serve(self, client: Client) -> None:
        self.clients += 1
        async with client:
            with suppress(trio.BrokenResourceError):  # one of the two ends is gone
                await self._serve(client)

    async def _serve(self, client: Client) -> None:
        if self.mode == "silent":
            await trio.sleep_forever()
        if self.mode == "hangs up":
            return
        target = self.fixed
        if target is None:
            first = await client.receive_some(1)
            target = await (self._socks(client) if first == b"\x05" else self._connect(client))
        if target is None:
            return
        self.reached.append(target)
        async with await trio.open_tcp_stream("127.0.0.1", target[1]) as server, trio.open_nursery() as nursery:
            nursery.start_soon(_pump, client, server, nursery.cancel_scope)
            nursery.start_soon(_pump, server, client, nursery.cancel_scope)

    async def _connect(self, client: Client) -> tuple[str, int] | None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await client.receive_some(1)
        if self.mode == "refuses":
            await client.send_all(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            return None
        if self.credentials and b64encode(self.credentials.encode()) not in head:
            await client.send_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return None
        host, _, port = head.split()[1].decode().rpartition(":")
        await client.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return host, int(port)

    async def _socks(self, client: Client) -> tuple[str, int] | None:
        methods = await _exactly(client, (await _exactly(client, 1))[0])
        wanted = 2 if self.credentials else 0
        if wanted not in methods:
            await client.send_all(b"\x05\xff")
            return None
        await client.send_all(bytes((5, wanted)))
        if self.credentials:
            await _exactly(client, 1)
            user = await _exactly(client, (await _exactly(client, 1))[0])
            password = await _exactly(client, (await _exactly(client, 1))[0])
            is_right = f"{user.decode()}:{password.decode()}" == self.credentials
            await client.send_all(b"\x01" + (b"\x00" if is_right else b"\x01"))
            if not is_right:
                return None
        kind = (await _exactly(client, 4))[3]
        size = {1: 4, 4: 16}.get(kind) or (await _exactly(client, 1))[0]
        raw = await _exactly(client, size)
        host = ".".join(map(str, raw)) if kind == 1 else raw.decode()
        port = int.from_bytes(await _exactly(client, 2))
        await client.send_all(bytes((5, 2 if self.mode == "refuses" else 0, 0, 1, 0, 0, 0, 0, 0, 0)))
        return None if self.mode == "refuses" else (host, port)


async def _exactly(stream: Client, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = await stream.receive_some(count - len(data))
        if not part:
            raise trio.BrokenResourceError
        data += part
    return data


async def _pump(source: Client, sink: Client, whole: trio.CancelScope) -> None:
    with suppress(trio.BrokenResourceError):
        async for data in source:
            await sink.send_all(data)
    whole.cancel()


async def start(nursery: trio.Nursery, credentials: str | None = None) -> FakeProxy:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy = FakeProxy(listener.socket.getsockname()[1], credentials)
    nursery.start_soon(partial(trio.serve_listeners, proxy.serve, [listener]))
    return proxy
