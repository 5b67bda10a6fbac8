"""coredis's client, opened anew before its pool runs dry.

coredis (6.9) loses one of the 64 places of its pool for good with each connection that ends while somebody waits on it
alone, as a reading does, and with each that is given up while it is made. Without this a node whose server had gone a
dozen times would never reach it again.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import trio
from coredis import Redis
from coredis.commands.script import Script
from coredis.connection import BaseConnection
from coredis.exceptions import NoScriptError, ResponseError

logging.getLogger("coredis").setLevel(logging.CRITICAL)  # what it tells of failures, at length, it raises as well

LOSSES = 16  # asks that failed or were given up, each of which may have lost a place


class _Opened:
    def __init__(self, client: "Redis[bytes]") -> None:
        self.client = client
        self.users = 0
        self.losses = 0
        self.is_over = trio.Event()


class Clients:
    """One client at a time, until `close`; those before it as long as somebody uses them.

    Whoever is cancelled may have a last word for the server: a client is not closed by the cancellation of its nursery.
    """

    def __init__(self, make: Callable[[], "Redis[bytes]"], nursery: trio.Nursery) -> None:
        self._make, self._nursery = make, nursery
        self._opened: _Opened | None = None
        self.opened = 0  # so often

    @property
    def current(self) -> "Redis[bytes]":
        assert self._opened is not None
        return self._opened.client

    async def open(self) -> None:
        """Use another client from now on."""
        await self._nursery.start(self._keep)

    async def _keep(self, *, task_status: trio.TaskStatus[None]) -> None:
        opened = _Opened(self._make())
        with trio.CancelScope(shield=True):
            await self._hold(opened, task_status)

    async def _hold(self, opened: _Opened, task_status: trio.TaskStatus[None]) -> None:
        async with opened.client:
            before, self._opened = self._opened, opened
            self.opened += 1
            if before is not None and not before.users:
                before.is_over.set()
            task_status.started()
            await opened.is_over.wait()

    def close(self) -> None:
        """Nobody asks any more."""
        before, self._opened = self._opened, None
        if before is not None:
            before.is_over.set()

    @contextmanager
    def using(self) -> Iterator[None]:
        """Around one ask of the current client."""
        opened = self._opened
        assert opened is not None
        opened.users += 1
        try:
            yield
        except ResponseError:  # there is an answer: the connection is well
            raise
        except BaseException:
            opened.losses += 1
            if opened.losses == LOSSES:
                self._nursery.start_soon(self.open)
            raise
        finally:
            opened.users -= 1
            if opened is not self._opened and not opened.users:
                opened.is_over.set()


class Own:
    """A connection that is kept from one ask to the next, for those that are many: to lease one of the pool's, and to
    make a command of coredis's, costs more than the ask itself."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._of: Redis[bytes] | None = None
        self._connection: BaseConnection | None = None

    async def ask(self, command: bytes, *arguments: bytes | str) -> Any:
        """The answer as it came. Given up, it takes the connection with it: an answer may yet come there."""
        connection, client = self._connection, self._clients.current
        if connection is None or self._of is not client or not connection.usable:
            connection = self._connection = await client.connection_pool.get_connection()
            self._of = client
        return await connection.create_request(command, *arguments, disconnect_on_cancellation=True)

    async def run(self, script: Script[bytes], keys: Sequence[str], arguments: Sequence[bytes | str]) -> Any:
        command = script.sha, str(len(keys)), *keys, *arguments
        try:
            return await self.ask(b"EVALSHA", *command)
        except NoScriptError:  # a server that was restarted
            await self._clients.current.script_load(script.script)
            return await self.ask(b"EVALSHA", *command)
