"""How much may be asked of an exchange's REST host, kept before the exchange has to say so; and how much at once.

One Budget per exchange. A request waits for a turn: for room in its bucket (see `actors.upstream.bucket`) and for a
slot of its kind of caller, taken together, so that who waits holds neither. Within a kind: repairs go by what they
spare per unit of weight (Smith's rule, 1956), so that a bar does not wait for trades that cost twenty times as much; of
clients the one that used least is next (start-time fair queueing, Goyal et al. 1996); background work in its order.
The gate closes the whole host after a refusal.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from copy import copy
from heapq import heappop, heappush
from itertools import count

import trio
from msgspec import Struct

from actors.errors import MarketError, RateLimited, UpstreamLimited, UpstreamTimeout
from actors.upstream.bucket import CALLERS, CLIENTS_MOST, Bucket, BucketReport, Caller, Spent
from actors.upstream.bucket import Window as Window
from actors.upstream.caller import CLIENT, URGENCY, Client

PATIENCE = 3.0  # seconds a client may wait for room before it is told to come back
SLOT_PATIENCE = 10.0  # seconds a client may wait while the host answers nobody
SLOTS: dict[Caller, int] = {"repair": 16, "client": 16, "background": 16}  # requests under way at once
UPSTREAM_SHARE = 0.5  # of what clients may spend, for one of them


class BudgetReport(Struct, frozen=True, kw_only=True):
    """`closed_for`: seconds until requests may leave again, after a rate limit or a ban; null where they may."""

    buckets: list[BucketReport]
    waiting: int
    closed_for: float | None
    closed_reason: str | None


class _Turn:
    """A request that waits."""

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.woken = trio.Event()
        self.is_over = False  # it had its turn, or went away


class _Queue:
    """Those of one kind that wait for one bucket, the next one first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, _Turn]] = []
        self._number = count()

    def __len__(self) -> int:
        return sum(not turn.is_over for _, _, turn in self._heap)

    def join(self, turn: _Turn, rank: float) -> None:
        heappush(self._heap, (rank, next(self._number), turn))

    def first(self) -> _Turn | None:
        while self._heap and self._heap[0][2].is_over:
            heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def wake_all(self) -> None:
        for _, _, turn in self._heap:
            turn.woken.set()

    def weight_before(self, turn: _Turn) -> int:
        """What those ask for who come before one."""
        place = next(entry for entry in self._heap if entry[2] is turn)
        return sum(entry[2].weight for entry in self._heap if entry < place and not entry[2].is_over)


class _Fairness:
    """Start tags: a client's next request starts where its last one ends, in weight, but not before the present."""

    def __init__(self) -> None:
        self._now = 0.0  # the tag that was served last
        self._ends: dict[str, float] = {}  # by client, where its last request ends

    def tag(self, client: str, weight: int) -> float:
        if len(self._ends) > 1000:
            self._ends = {name: end for name, end in self._ends.items() if end > self._now}
        start = max(self._now, self._ends.get(client, 0.0))
        self._ends[client] = start + weight
        return start

    def served(self, tag: float) -> None:
        self._now = max(self._now, tag)


class Budget:
    """The request budget of one exchange host: buckets by name, slots, and a gate over all of them."""

    def __init__(
        self, windows: Mapping[str, Window], *, upstream_share: float = UPSTREAM_SHARE, share: float = 1.0
    ) -> None:
        """`share`: that the windows are of what the exchange allows; others at our address may use the rest."""
        self.buckets = {name: Bucket(window) for name, window in windows.items()}
        self._share = share
        self.upstream_share = upstream_share  # of what clients may spend, for one that is not exempt; 0: no limit
        self._queues = {(name, caller): _Queue() for name in windows for caller in CALLERS}
        self._fairness = {name: _Fairness() for name in windows}
        self._free = dict(SLOTS)
        self._closed_until = float("-inf")
        self._closed_by: MarketError = UpstreamLimited("")

    def close(self, seconds: float, error: MarketError) -> None:
        """No request leaves for `seconds`: the exchange said so. An earlier, longer closure stays in force."""
        until = trio.current_time() + seconds
        if until > self._closed_until:
            self._closed_until, self._closed_by = until, error
            for queue in self._queues.values():
                queue.wake_all()

    def closed_for(self) -> float:
        """Seconds until the gate opens; 0 when it is open."""
        return max(0.0, self._closed_until - trio.current_time())

    @property
    def waiting(self) -> int:
        return sum(map(len, self._queues.values()))

    def report(self) -> BudgetReport:
        closed = self.closed_for()
        return BudgetReport(
            buckets=[bucket.report(name) for name, bucket in self.buckets.items()],
            waiting=self.waiting,
            closed_for=round(closed, 3) if closed else None,
            closed_reason=str(self._closed_by) if closed else None,
        )

    def observe(self, bucket: str, used: int) -> None:
        """The exchange's own count, where it is higher than ours and theirs who share this address with us."""
        counted = self.buckets[bucket]
        unseen = used - counted.used() - int(counted.window.limit * (1 / self._share - 1))
        if unseen > 0:
            self.buckets[bucket].spend(unseen, None)

    @asynccontextmanager
    async def turn(self, bucket: str, weight: int, caller: Caller) -> AsyncIterator[None]:
        """Room for `weight` in `bucket`, and a slot, for the time of a request; the room for a window after it, too.

        Background work waits for it; repairs wait as long as their own deadline lets them. Clients get UpstreamLimited
        where there will be no room within PATIENCE, UpstreamTimeout where no slot comes free, RateLimited where their
        own share is used up. A closed gate refuses whoever cannot wait for it, in the words that closed it.
        """
        spent = await self._take(bucket, weight, caller)
        try:
            yield
        finally:
            self.buckets[bucket].answered(spent)
            self._free[caller] += 1
            for name in self.buckets:
                self._wake_first(name, caller)

    async def _take(self, name: str, weight: int, caller: Caller) -> Spent:
        bucket, queue, client = self.buckets[name], self._queues[name, caller], CLIENT.get()
        tag = self._fairness[name].tag(client.id, weight) if caller == "client" else 0.0
        turn = _Turn(weight)
        queue.join(turn, {"client": tag, "repair": -URGENCY.get() / weight, "background": 0.0}[caller])
        since = trio.current_time()
        try:
            while True:
                if caller == "client":
                    self._hold_to_share(bucket, weight, client)
                wait = self._wait(bucket, queue, turn, caller, trio.current_time() - since)
                if wait == 0:
                    break
                turn.woken = trio.Event()
                with trio.move_on_after(wait):
                    await turn.woken.wait()
            self._free[caller] -= 1
            if caller == "client":
                self._fairness[name].served(tag)
            return bucket.leave(weight, caller, client.id)
        finally:
            turn.is_over = True
            self._wake_first(name, caller)

    def _hold_to_share(self, bucket: Bucket, weight: int, client: Client) -> None:
        share = self.upstream_share if client.upstream_share is None else client.upstream_share
        if client.exempt or not share:
            return
        most = share * CLIENTS_MOST * bucket.window.limit
        wait = bucket.wait_for_client(weight, client.id, most)
        if wait:
            text = "this client used its share of what may be asked of the exchange"
            raise RateLimited(text, limit="upstream_share", retry_after=wait)

    def _wait(self, bucket: Bucket, queue: _Queue, turn: _Turn, caller: Caller, waited: float) -> float:
        """Seconds until it is worth looking again; 0: it is this one's turn. Raises for who cannot wait."""
        closed = self.closed_for()
        patience = float("inf")
        if caller == "repair":
            patience = trio.current_effective_deadline() - trio.current_time()
        if closed and (caller == "client" or closed > patience):
            refused = copy(self._closed_by)
            refused.retry_after = closed
            raise refused
        is_first = queue.first() is turn
        before = 0 if is_first else queue.weight_before(turn)
        room = bucket.wait_for(before + turn.weight, caller)
        has_slot = self._free[caller] > 0
        if is_first and has_slot and not room:
            return closed
        if caller != "client":
            return max(closed, room) if is_first and has_slot else float("inf")
        if room and room > PATIENCE - waited:
            raise UpstreamLimited("the request budget of this address is used up", retry_after=max(room, 1.0))
        if waited >= SLOT_PATIENCE:
            raise UpstreamTimeout(f"the exchange answers nobody: no turn within {SLOT_PATIENCE:g} s")
        return room if is_first and has_slot else SLOT_PATIENCE - waited

    def _wake_first(self, name: str, caller: Caller) -> None:
        if first := self._queues[name, caller].first():
            first.woken.set()
