"""How many clients the process has file descriptors for.

A client costs one. What the rest of the program will need is taken off first, since a client can come back and a feed
that cannot connect loses data.
"""

import os
import resource
from collections.abc import Iterable
from contextlib import suppress
from math import ceil

from daemon.listening import CannotListen

EXPORT = 4  # an export's: two pipes and what its start takes
FILES = 12  # of the archive and the recorder
UPSTREAM = 16  # of one exchange at least: its lines, their successors, its requests
TOPICS = 10  # of one symbol, as a bound: bars of several intervals and the rest
SPARE = 32
LEAST = 32  # clients: below, it is not worth starting
MOST = 10_000  # clients: each costs memory too

PORTABLE_MOST = 10_240  # where the hard limit is none, systems refuse to have none (macOS)


def raise_limit() -> None:
    """Let the process open as many files as it may, as Go programs do: the soft limit is for who uses select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = PORTABLE_MOST if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def clients_left(upstream: Iterable[tuple[int, int]], *, exports: int) -> int:
    """How many connections of clients there may be. Raises CannotListen.

    `upstream`: of each exchange its configured symbols, and the topics that one line carries. `exports`: at once.
    """
    lines = sum(max(UPSTREAM, 2 * ceil(symbols * TOPICS / topics)) for symbols, topics in upstream)
    needed = open_now() + lines + EXPORT * exports + FILES + SPARE
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST
    if soft - needed < LEAST:
        raise CannotListen(f"{soft} open files are allowed and {needed + LEAST} are needed: see ulimit -n")
    return min(MOST, soft - needed)


def open_now() -> int:
    """Descriptors that are open; /dev/fd is there on Linux and macOS."""
    try:
        return len(os.listdir("/dev/fd")) - 1  # the listing's own
    except OSError:
        return FILES
