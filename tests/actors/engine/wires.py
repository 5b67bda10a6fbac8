"""The way to a server on loopback, and how it breaks: cut, hung, slow, or at the very answer to what was said."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

CHUNK = 1 << 16


class Wire:
    """Passes on what comes to `port`. Change its fields at any time: each acts from the next bytes on."""

    def __init__(self, target: int) -> None:
        self.target = target  # the server's port; another one for connections to come
        self.port = 0
        self.is_hung = False  # connections are taken and stay open, and nothing goes through
        self.delay = 0.0  # seconds, each way
        self.loses = b""  # the answer to the next command that holds this is lost, and the connection with it
        self.lost = 0
        self._is_cut = False
        self._passing: set[trio.CancelScope] = set()
        self._thawed = trio.Event()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        """End all connections; those to come end at once."""
        self._is_cut = True
        self.break_off()

    def break_off(self) -> None:
        """End all connections."""
        for scope in self._passing:
            scope.cancel()

    def hang(self) -> None:
        self.is_hung, self._thawed = True, trio.Event()

    def mend(self) -> None:
        """Whatever hung goes through now."""
        self._is_cut = self.is_hung = False
        self._thawed.set()

    async def serve(self, client: trio.SocketStream) -> None:
        if self._is_cut:
            return
        try:
            async with await trio.open_tcp_stream("127.0.0.1", self.target) as server, trio.open_nursery() as nursery:
                self._passing.add(nursery.cancel_scope)
                doomed = trio.Event()
                try:
                    nursery.start_soon(self._pass, client, server, nursery, doomed, True)
                    await self._pass(server, client, nursery, doomed, False)
                finally:
                    self._passing.discard(nursery.cancel_scope)
        except* (OSError, trio.BrokenResourceError):
            pass  # the server is not there, or one side is gone: the connection ends

    async def _pass(
        self,
        source: trio.SocketStream,
        sink: trio.SocketStream,
        nursery: trio.Nursery,
        doomed: trio.Event,
        is_asking: bool,
    ) -> None:
        while data := await source.receive_some(CHUNK):
            if self.is_hung:
                await self._thawed.wait()
            if self.delay:
                await trio.sleep(self.delay)
            if is_asking and self.loses and self.loses in data:
                self.loses = b""
                doomed.set()
            elif not is_asking and doomed.is_set():
                self.lost += 1
                break
            await sink.send_all(data)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def wired(target: int) -> AsyncIterator[Wire]:
    """A wire to a port of loopback for as long as the block lasts."""
    wire = Wire(target)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        wire.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, wire.serve, listeners)
        yield wire
        nursery.cancel_scope.cancel()
