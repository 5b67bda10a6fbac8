"""By which names this server may be asked: what keeps a page of another site from reaching it under that site's name.

A browser says in `Host` by which name it reached us. Where an attacker's name resolves to this machine (DNS rebinding),
his page and we are one origin for it, and no other rule of the browser or check of ours is worth anything.
"""

import ipaddress
import re
from collections.abc import Sequence

from web.problems import Problem, problem

ALWAYS = "/health/live"  # whoever restarts us asks by address
LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})

_HOST = re.compile(r"(\[[0-9a-f:.%]+\]|[^:\[\]]+)(?::[0-9]*)?")


class Hosts:
    """The names that are allowed: those configured, or, where none are, those that fit where the server listens."""

    def __init__(self, allowed: Sequence[str] = (), *, bind: str | None = None) -> None:
        """`bind`: the address that is listened on, None = none but a Unix socket."""
        self._bind = bind
        self.change(allowed)

    def change(self, allowed: Sequence[str]) -> None:
        """Allow these from now on, without ports and in any case; an IPv6 address in brackets."""
        bind, names = self._bind, frozenset(name.lower() for name in allowed)
        of_this_machine = LOCAL if bind is None else LOCAL | {f"[{bind}]" if ":" in bind else bind.lower()}
        if not names and bind is not None and is_loopback(bind):
            names = of_this_machine
        self._allowed = names or None  # None: every one
        self._are_local = names <= of_this_machine

    def refusal(self, host: str | None, *, is_local_socket: bool = False) -> Problem | None:
        """Why a request with this Host header is not answered; None: it is.

        `is_local_socket`: it came over a Unix socket, which no browser reaches: a proxy's names are as good there as
        those of this machine.
        """
        if not host:
            return problem("bad_request", "the request has no Host header: it must name this server")
        if self._allowed is None or (is_local_socket and self._are_local):
            return None
        found = _HOST.fullmatch(host.lower())
        if found and found[1] in self._allowed:
            return None
        return problem("unknown_host", f"this server is not {host[:100]!r}: see server.allowed_hosts")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"
