"""sd_notify: what a service manager is told of the process. Without one, all of this does nothing.

A datagram to $NOTIFY_SOCKET, as in sd_notify(3): the packages for it are old, or want a compiler and libsystemd.
"""

import os
import socket
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import NamedTuple

import trio

STATUS_EVERY = 10.0  # seconds


class Notify(NamedTuple):
    """`address`: of the manager's socket. `watchdog`: seconds without a sign of life after which it kills us."""

    address: str | None = None
    watchdog: float | None = None

    def tell(self, *lines: str) -> None:
        """Send what has happened; a manager that does not listen misses it."""
        if self.address is None:
            return
        # "@" stands for the NUL that begins an abstract socket's name.
        address = "\0" + self.address[1:] if self.address[0] == "@" else self.address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.setblocking(False)
            manager.sendto("\n".join(lines).encode(), address)

    def reloading(self) -> None:
        """A reload begins; it ends with READY=1."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    async def watch(self, status: Callable[[], str]) -> None:
        """Give signs of life and say how things are, for ever. Where the main loop hangs, so does this."""
        if self.address is None:
            return
        wait = min(STATUS_EVERY, self.watchdog / 2) if self.watchdog else STATUS_EVERY
        told = float("-inf")
        while True:
            lines = ["WATCHDOG=1"] if self.watchdog else []
            if trio.current_time() - told >= STATUS_EVERY - wait / 2:
                told = trio.current_time()
                lines.append(f"STATUS={status()}")
            if lines:
                self.tell(*lines)
            await trio.sleep(wait)


def from_environment(environ: MutableMapping[str, str]) -> Notify:
    """What the manager set; it is taken out of `environ`, since it is not meant for our own children."""
    address = environ.pop("NOTIFY_SOCKET", "")
    microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if not address.startswith(("/", "@")):
        return Notify()
    is_ours = pid in ("", str(os.getpid()))
    usec = int(microseconds) if is_ours and microseconds.isascii() and microseconds.isdigit() else 0
    return Notify(address, usec / 1e6 or None)
