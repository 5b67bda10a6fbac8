"""What one client has spent and has open, against its limits.

Law: plain functions that never wait. A limit is looked at before anything is made for what it may refuse, and a refusal
is `RateLimited`, which names the limit. An exempt client is counted, and held to nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import ceil
from typing import Any

import trio

from actors.errors import RateLimited
from actors.upstream import caller
from web.access.limits import Limits

EGRESS_OVER = 10.0  # seconds over which what is sent is averaged

Symbol = tuple[str, str]
"""An exchange, and a symbol of it."""


NONE = Limits(
    requests_per_second=0.0,
    request_burst=0,
    connections=0,
    topics=0,
    filtered_topics=0,
    on_demand_symbols=0,
    exports=0,
)


class Held:
    """An on-demand symbol that is collected for a client."""

    __slots__ = ("end", "sources", "topics", "until")

    def __init__(self) -> None:
        self.topics = 0
        self.sources: set[Any] = set()  # what its topics were read from
        self.until = 0.0  # once no topic is left: when it ends by itself
        self.end: Callable[[], None] | None = None  # before its time


class Account:
    """One client: what it spent and what it has open."""

    __slots__ = (
        *("_policy", "_sent", "_spent", "connections", "exports", "filtered", "id", "is_exempt", "is_stale", "limits"),
        *("_refused", "symbols", "topics"),
    )

    def __init__(self, id: str, limits: Limits, *, is_exempt: bool, refused: Counter[str] | None = None) -> None:
        """`refused`: counts what any client is refused, by the limit."""
        self.id = id
        self._refused = Counter() if refused is None else refused
        self._spent = 0.0  # GCRA: when all requests until now will have been earned anew
        self._sent = 0.0  # the same of bytes
        self.adopt(limits, is_exempt=is_exempt)
        self.connections = self.topics = self.filtered = self.exports = 0
        self.symbols: dict[Symbol, Held] | None = None  # made when first needed

    def adopt(self, limits: Limits, *, is_exempt: bool) -> None:
        """Hold the client to these limits from now on."""
        self.limits = NONE if is_exempt else limits
        self.is_exempt = is_exempt
        self.is_stale = False
        burst, per_second = self.limits.request_burst, self.limits.requests_per_second
        self._policy = _policy(burst, per_second)
        if self._policy and self._spent:  # in the old limits' seconds: nobody waits longer than for a whole burst
            self._spent = min(self._spent, trio.current_time() + burst / per_second)

    @property
    def caller(self) -> caller.Client:
        """As the budget of upstream requests knows it."""
        return caller.Client(self.id, self.is_exempt, self.limits.upstream_share)

    @property
    def is_idle(self) -> bool:
        return not (self.connections or self.topics or self.exports or self.symbols)

    # --- requests ---

    def spend(self, requests: int = 1) -> float:
        """Take requests from the allowance: 0, or the seconds until there are so many, and then nothing is taken."""
        if not self._policy:
            return 0.0
        limits = self.limits
        each = 1.0 / limits.requests_per_second
        now = trio.current_time()
        spent = (self._spent if self._spent > now else now) + requests * each
        over = spent - now - limits.request_burst * each
        if over > 1e-9:
            return over
        self._spent = spent
        return 0.0

    def check_egress(self) -> None:
        """Raises RateLimited where more was sent than may be."""
        if wait := self.egress_wait():
            self._refused["egress_bytes_per_second"] += 1
            detail = f"this client was sent more than {self.limits.egress_bytes_per_second:g} bytes a second"
            raise RateLimited(detail, limit="egress_bytes_per_second", retry_after=wait)

    def request(self) -> None:
        """One request. Raises RateLimited."""
        if self.is_exempt:
            return
        if wait := self.spend():
            raise self.refusal(wait)
        self.check_egress()

    def refusal(self, wait: float) -> RateLimited:
        """What a client is told whose allowance is used up for so many seconds."""
        limits = self.limits
        self._refused["requests_per_second"] += 1
        detail = f"more than {limits.requests_per_second:g} requests a second, {limits.request_burst} at once"
        return RateLimited(detail, limit="requests_per_second", retry_after=wait)

    def headers(self) -> dict[str, str]:
        """What an answer says of the allowance, if there is one: draft-ietf-httpapi-ratelimit-headers-10."""
        if not self._policy:
            return {}
        behind = self._spent - trio.current_time()
        if behind <= 0.0:
            behind = 0.0
        left = int(self.limits.request_burst - behind * self.limits.requests_per_second + 1e-6)
        return {"RateLimit-Policy": self._policy, "RateLimit": f'"requests";r={max(0, left)};t={ceil(behind)}'}

    # --- bytes ---

    def sent(self, size: int) -> None:
        """So many bytes went to this client."""
        if rate := self.limits.egress_bytes_per_second:
            self._sent = max(self._sent, trio.current_time()) + size / rate

    def egress_wait(self) -> float:
        """Seconds until this client may be sent more; 0: now."""
        if not self.limits.egress_bytes_per_second:
            return 0.0
        return max(0.0, self._sent - trio.current_time() - EGRESS_OVER)

    # --- what is open ---

    @contextmanager
    def exporting(self) -> Iterator[None]:
        """One export, for as long as the block lasts. Raises RateLimited where one more may not run."""
        if 0 < self.limits.exports <= self.exports:
            raise self.too_many("exports", self.limits.exports, "exports at once")
        self.exports += 1
        try:
            yield
        finally:
            self.exports -= 1

    def check_topics(self, *, is_filtered: bool) -> None:
        """Raises RateLimited where one more may not be followed."""
        limits = self.limits
        if 0 < limits.topics <= self.topics:
            raise self.too_many("topics", limits.topics, "topics over all of its connections")
        if is_filtered and 0 < limits.filtered_topics <= self.filtered:
            raise self.too_many("filtered_topics", limits.filtered_topics, "topics with a filter of their own")

    def hold(self, symbol: Symbol) -> Held:
        """One more topic of an on-demand symbol; `leave` must follow. Raises RateLimited."""
        if self.symbols is None:
            self.symbols = {}
        held = self.symbols.get(symbol)
        if held is None:
            self._make_room(self.symbols)
            held = self.symbols[symbol] = Held()
        held.topics += 1
        return held

    def leave(self, symbol: Symbol, held: Held, *, lingers: float, end: Callable[[], None]) -> None:
        """One topic less. The last one's symbol is collected for `lingers` seconds more, if the client holds few."""
        held.topics -= 1
        if held.topics:
            return
        assert self.symbols is not None
        if 0 < self.limits.on_demand_symbols < 2 * len(self.symbols):
            del self.symbols[symbol]
            end()
        else:
            held.until, held.end = trio.current_time() + lingers, end

    def _make_room(self, symbols: dict[Symbol, Held]) -> None:
        """Forget what has ended, and end the symbol left longest ago where there are as many as may be."""
        now, most = trio.current_time(), self.limits.on_demand_symbols
        left = sorted((held.until, symbol) for symbol, held in symbols.items() if not held.topics)
        for until, symbol in left:
            if until > now and not 0 < most <= len(symbols):
                break
            held = symbols.pop(symbol)
            if until > now and held.end is not None:
                held.end()
        if 0 < most <= len(symbols):
            raise self.too_many("on_demand_symbols", most, "symbols collected that the configuration does not name")

    def too_many(self, limit: str, most: int, what: str) -> RateLimited:
        """What a client is told that has as many of something as it may."""
        self._refused[limit] += 1
        return RateLimited(f"one client may have {most} {what}", limit=limit)

    def forget_symbols(self) -> None:
        """Let go of those that have ended."""
        if self.symbols:
            now = trio.current_time()
            if not any(held.topics or held.until > now for held in self.symbols.values()):
                self.symbols = None


@lru_cache(16)
def _policy(burst: int, per_second: float) -> str:
    """How many requests at once, and in how many seconds they are earned anew; empty where there is no limit."""
    return f'"requests";q={burst};w={ceil(burst / per_second)}' if burst and per_second else ""
