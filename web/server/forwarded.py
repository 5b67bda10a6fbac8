"""Whom a proxy speaks for: X-Forwarded-For and X-Forwarded-Proto, believed of the peers that the operator named.

Nothing else is read: every proxy that speaks `Forwarded` (RFC 7239) or PROXY speaks these too, and each more is one
more way to be somebody else.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache

import structlog

KNOWN = 4096  # addresses of which it is remembered whether they are trusted, and what proxies said whose client it is

_FORWARDED_FOR = re.compile(rb"\r\nx-forwarded-for:[ \t]*([^\r\n]*)", re.IGNORECASE)

log = structlog.get_logger()


class Proxies:
    """The peers whose word on their clients is taken. A peer without an address (a Unix socket's) is one of them."""

    def __init__(self, networks: Sequence[str] = ()) -> None:
        """`networks`: CIDRs. Raises ValueError."""
        self.change(networks)

    def change(self, networks: Sequence[str]) -> None:
        """Trust these from now on. Raises ValueError."""
        self._networks = [ipaddress.ip_network(network) for network in networks]
        self.trusts = lru_cache(KNOWN)(self._trusts)
        self._client_of = lru_cache(KNOWN)(self.client_of)
        self._warned = False

    def _trusts(self, address: str) -> bool:
        if not address:
            return True
        ip = _parse(address)
        return ip is not None and any(ip in network for network in self._networks)

    def client_of(self, peer: str, forwarded: str) -> str:
        """Who is behind `peer`, by the addresses that proxies added, the nearest last: the last that is no proxy.

        The peer itself where it is not trusted, where they name nobody else, and where they are no addresses.
        """
        if not self.trusts(peer):
            return peer
        while forwarded:
            forwarded, _, text = forwarded.rpartition(",")
            ip = _parse(text.strip())
            if ip is None:
                return peer
            if not self.trusts(str(ip)):
                return str(ip)
        return peer

    def client_of_head(self, peer: str, head: bytes) -> str:
        """The same for a request's head as it came, of which a header's name is not repeated."""
        if (peer and not self._networks) or not self.trusts(peer):
            return peer
        found = _FORWARDED_FOR.search(head)
        return self._client_of(peer, found[1].decode("latin1")) if found else peer

    def notice(self, peer: str, head: bytes) -> None:
        """Warn, once, where a peer that is not trusted speaks for others."""
        if not self._warned and _FORWARDED_FOR.search(head) and not self.trusts(peer):
            self._warned = True
            detail = "X-Forwarded-For is not believed: limits see this peer as one client; see server.trusted_proxies"
            log.warning("web.forwarded_ignored", peer=peer, detail=detail)


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip
