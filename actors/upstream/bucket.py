"""One count of an exchange, kept by us: a sliding window of weights, and the parts of it that callers are sure of.

Each kind of caller has a part that nobody else can use; what is beyond the parts is for whoever comes. So a gap is
never given up because clients asked for history, nor is a client refused because everything is being repaired.

The exchange counts a request when it arrives there, which is some time between its leaving and its answer. So a request
is counted from when it leaves until a window after its answer: whatever the network does, nothing that the exchange can
count as one window is more than we planned.
"""

from collections import Counter, deque
from collections.abc import Iterable
from itertools import chain
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
    """Weight spent within the window that ends now, and by requests under way.

    `used`: ours, and what the exchange counted beside it.

    `by`: our own, by whom it was spent for.
    """

    name: str
    used: int
    limit: int
    by: dict[Caller, int]
    window_seconds: float


class Spent(NamedTuple):
    weight: int
    caller: Caller | None  # None: other programs behind the same address
    client: str


class Bucket:
    def __init__(self, window: Window) -> None:
        self.window = window
        self._spent: deque[tuple[float, Spent]] = deque()  # with the time from which a window is counted
        self._under_way: list[Spent] = []  # by requests that are not answered
        self._sum = 0
        self._by: Counter[Caller | None] = Counter()
        self._by_client: Counter[str] = Counter()
        self.spent_total: Counter[Caller] = Counter()  # since the start

    def _expire(self) -> None:
        horizon = trio.current_time() - self.window.seconds
        while self._spent and self._spent[0][0] <= horizon:
            _, spent = self._spent.popleft()
            self._sum -= spent.weight
            self._by[spent.caller] -= spent.weight
            if spent.caller == "client":
                self._by_client[spent.client] -= spent.weight
                if not self._by_client[spent.client]:
                    del self._by_client[spent.client]

    def used(self) -> int:
        """Weight spent within the window that ends now, and by requests under way."""
        self._expire()
        return self._sum

    def used_by(self, caller: Caller) -> int:
        self._expire()
        return self._by[caller]

    def spend(self, weight: int, caller: Caller | None, client: str = "") -> None:
        """What the exchange has counted by now."""
        self.answered(self.leave(weight, caller, client))

    def leave(self, weight: int, caller: Caller | None, client: str = "") -> Spent:
        """A request leaves; to be told by `answered` when it has its answer, or will have none."""
        spent = Spent(weight, caller, client)
        self._under_way.append(spent)
        self._sum += weight
        self._by[caller] += weight
        if caller is not None:
            self.spent_total[caller] += weight
        if caller == "client":
            self._by_client[client] += weight
        return spent

    def answered(self, spent: Spent) -> None:
        self._under_way.remove(spent)  # or its equal: which one does not matter
        self._spent.append((trio.current_time(), spent))

    def wait_for(self, weight: int, caller: Caller) -> float:
        """Seconds until `caller` may spend `weight` more, if what is under way is answered now; 0 to a window."""
        self._expire()
        used, by = self._sum, Counter(self._by)
        limit = self.window.limit

        def fits() -> bool:
            reserved = sum(
                max(0.0, PARTS[other] * limit - by[other] - (weight if other == caller else 0)) for other in CALLERS
            )
            return used + weight + reserved <= PLANNED * limit + 1e-9

        wait = 0.0
        for time, spent in self._in_order():
            if fits():
                break
            used -= spent.weight
            by[spent.caller] -= spent.weight
            wait = self._until_forgotten(time)
        return wait

    def wait_for_client(self, weight: int, client: str, most: float) -> float:
        """Seconds until a client that may spend `most` within the window has room for `weight`; 0 when now."""
        self._expire()
        used = self._by_client.get(client, 0)
        if not used or used + weight <= most:  # one request alone is never too much
            return 0.0
        wait = 0.0
        for time, spent in self._in_order():
            if used + weight <= most:
                break
            if spent.caller == "client" and spent.client == client:
                used -= spent.weight
                wait = self._until_forgotten(time)
        return wait

    def _in_order(self) -> Iterable[tuple[float, Spent]]:
        """What was spent, in the order in which it is forgotten."""
        now = trio.current_time()
        return chain(self._spent, ((now, spent) for spent in self._under_way))

    def _until_forgotten(self, time: float) -> float:
        return max(0.0, time + self.window.seconds - trio.current_time())

    def report(self, name: str) -> BucketReport:
        used = self.used()
        by = {caller: self._by[caller] for caller in CALLERS}
        return BucketReport(name=name, used=used, limit=self.window.limit, by=by, window_seconds=self.window.seconds)
