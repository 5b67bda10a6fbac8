"""One count of an exchange, kept by us: a sliding window of weights, and the parts of it that callers are sure of.

Each kind of caller has a part that nobody else can use; what is beyond the parts is for whoever comes. So a gap is
never given up because clients asked for history, nor is a client refused because everything is being repaired.
"""

from collections import Counter, deque
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import trio
from msgspec import Struct

Caller = Literal["repair", "client", "background"]
CALLERS: tuple[Caller, ...] = get_args(Caller)

PLANNED = 0.95  # of the limit: the exchange counts with its own clock, so it is never planned to the last unit
PARTS: dict[Caller, float] = {"repair": 0.25, "client": 0.15, "background": 0.1}  # of the limit
CLIENTS_MOST = PLANNED - PARTS["repair"] - PARTS["background"]  # of the limit: what clients may spend of it


class Window(NamedTuple):
    """At most `limit` units of weight within any `seconds`."""

    limit: int
    seconds: float


class BucketReport(Struct, frozen=True, kw_only=True):
    """Weight spent within the window that ends now, our own and what the exchange counted beside it.

    `by`: our own, by whom it was spent for.
    """

    name: str
    used: int
    limit: int
    by: dict[Caller, int]
    window_seconds: float


class _Spent(NamedTuple):
    time: float
    weight: int
    caller: Caller | None  # None: other programs behind the same address
    client: str


class Bucket:
    def __init__(self, window: Window) -> None:
        self.window = window
        self._spent: deque[_Spent] = deque()
        self._sum = 0
        self._by: Counter[Caller | None] = Counter()
        self._by_client: Counter[str] = Counter()
        self.spent_total: Counter[Caller] = Counter()  # since the start

    def _expire(self) -> None:
        horizon = trio.current_time() - self.window.seconds
        while self._spent and self._spent[0].time <= horizon:
            spent = self._spent.popleft()
            self._sum -= spent.weight
            self._by[spent.caller] -= spent.weight
            if spent.caller == "client":
                self._by_client[spent.client] -= spent.weight
                if not self._by_client[spent.client]:
                    del self._by_client[spent.client]

    def used(self) -> int:
        """Weight spent within the window that ends now."""
        self._expire()
        return self._sum

    def used_by(self, caller: Caller) -> int:
        self._expire()
        return self._by[caller]

    def spend(self, weight: int, caller: Caller | None, client: str = "") -> None:
        self._spent.append(_Spent(trio.current_time(), weight, caller, client))
        self._sum += weight
        self._by[caller] += weight
        if caller is not None:
            self.spent_total[caller] += weight
        if caller == "client":
            self._by_client[client] += weight

    def wait_for(self, weight: int, caller: Caller) -> float:
        """Seconds until `caller` may spend `weight` more; 0 when now, and at most a window."""
        self._expire()
        used, by = self._sum, Counter(self._by)
        limit = self.window.limit

        def fits() -> bool:
            reserved = sum(
                max(0.0, PARTS[other] * limit - by[other] - (weight if other == caller else 0)) for other in CALLERS
            )
            return used + weight + reserved <= PLANNED * limit + 1e-9

        if fits() or not self._spent:
            return 0.0
        for spent in self._spent:
            used -= spent.weight
            by[spent.caller] -= spent.weight
            if fits():
                return self._until_forgotten(spent)
        return self._until_forgotten(self._spent[-1])

    def wait_for_client(self, weight: int, client: str, most: float) -> float:
        """Seconds until a client that may spend `most` within the window has room for `weight`; 0 when now."""
        self._expire()
        used = self._by_client.get(client, 0)
        if not used or used + weight <= most:  # one request alone is never too much
            return 0.0
        last: _Spent | None = None
        for spent in self._of(client):
            last = spent
            used -= spent.weight
            if used + weight <= most:
                break
        return self._until_forgotten(last) if last else 0.0

    def _of(self, client: str) -> Iterable[_Spent]:
        return (spent for spent in self._spent if spent.caller == "client" and spent.client == client)

    def _until_forgotten(self, spent: _Spent) -> float:
        return max(0.0, spent.time + self.window.seconds - trio.current_time())

    def report(self, name: str) -> BucketReport:
        used = self.used()
        by = {caller: self._by[caller] for caller in CALLERS}
        return BucketReport(name=name, used=used, limit=self.window.limit, by=by, window_seconds=self.window.seconds)
