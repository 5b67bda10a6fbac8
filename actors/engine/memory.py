"""An engine within the process: it keeps an engine's promises by Trio's clock, and breaks as a server does."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from math import inf

import trio

from actors.engine.words import (
    ALL,
    CLOSED_BAR,
    EPOCH,
    LOG_SECONDS,
    PRESENT,
    Burst,
    EngineAway,
    Entry,
    Fenced,
    Kept,
    Lease,
    Mark,
    Member,
    Present,
    Refused,
    RolledBack,
    Share,
    Told,
    has_number_within,
)

START_MS = 1_700_000_000_000


@dataclass
class _Lane:
    token: str | None = None
    until: float = 0.0
    term: int = 0
    epoch: str = ""
    n: int = 0
    renewed: int = 0  # n of the burst that says so
    ms: int = 0
    log: list[Told] = field(default_factory=list)
    memory: dict[str, list[Told]] = field(default_factory=dict)
    seqs: dict[str, int] = field(default_factory=dict)
    now: dict[str, bytes] = field(default_factory=dict)
    closed: dict[str, int] = field(default_factory=dict)
    bars: dict[str, dict[int, bytes]] = field(default_factory=dict)
    shared: dict[str, Mark] = field(default_factory=dict)  # by lane: how far it is shared

    @property
    def place(self) -> str:
        return f"{self.ms}-{self.n}"


class MemoryEngine:
    """`is_away`: nothing is carried out. `answers_lost`: so many of the next calls are carried out and not answered."""

    def __init__(self, kept: Kept | None = None) -> None:
        self.is_away = False
        self.answers_lost = 0
        self._kept = kept or Kept()
        self._lanes: dict[str, _Lane] = {}
        self._count: int | None = None
        self._wanted: dict[str, dict[str, float]] = {}
        self._refused: dict[str, dict[str, tuple[str, float]]] = {}
        self._catalogues: dict[str, bytes] = {}
        self._members: dict[str, tuple[Member, float]] = {}
        self._news = trio.Event()

    # --- what a server may do ---

    def snapshot(self) -> dict[str, _Lane]:
        return deepcopy(self._lanes)

    def restore(self, snapshot: dict[str, _Lane]) -> None:
        """Come back older; with {} as if there had been nothing."""
        self._lanes = deepcopy(snapshot)
        self._tell()

    # --- an engine ---

    async def check(self, lanes: int) -> int:
        await self._asked()
        self._count = self._count or lanes
        self._answer()
        return self._count

    async def take(self, lane: str, name: str, seconds: float, epoch: str) -> Lease | None:
        await self._asked()
        it = self._lane(lane)
        found = None
        if it.token is None:
            it.term += 1
            it.epoch = it.epoch or epoch
            it.token = f"{name}|{it.term}|{it.epoch}"
            it.until = trio.current_time() + seconds
            found = Lease(lane, it.token)
        self._answer()
        return found

    async def hold(self, lease: Lease, seconds: float) -> None:
        await self._asked()
        self._led(lease).until = trio.current_time() + seconds
        self._answer()

    async def release(self, lease: Lease) -> None:
        await self._asked()
        it = self._lane(lease.lane)
        if it.token == lease.token:
            it.token = None
        self._answer()

    async def say(self, bursts: Mapping[Lease, Burst]) -> Mapping[Lease, Refused]:
        await self._asked()
        refused: dict[Lease, Refused] = {}
        for lease, burst in bursts.items():
            try:
                it = self._led(lease)
            except Fenced as error:
                refused[lease] = error
                continue
            if burst.n > it.n + 1:
                refused[lease] = RolledBack(f"{lease.lane} ends at {it.n}, not at {burst.n - 1}")
            elif burst.n > it.n:
                self._append(it, burst)
            elif burst.n == it.renewed:
                refused[lease] = RolledBack(f"another memory of {lease.lane} begins at {burst.n}")
        self._answer()
        return refused

    async def share(self, shares: Sequence[Share], known: Mark) -> Mark:
        await self._asked()
        it = self._lane(ALL)
        if known.epoch and (known.epoch != it.epoch or known.n > it.n):
            raise RolledBack(f"{ALL} ends at {it.epoch}, {it.n}, not at {known.epoch}, {known.n}")
        seqs, entries, shared = dict(it.seqs), [], dict(it.shared)
        for lane, epoch, n, entry in shares:
            of = self._lane(lane)
            before = it.shared.get(lane)
            if epoch == of.epoch and n <= of.n and (before is None or before.epoch != epoch or n > before.n):
                shared[lane] = Mark(epoch, n)
                if entry.seq is not None:
                    seqs[entry.topic] = seqs.get(entry.topic, 0) + 1
                    entry = entry._replace(seq=seqs[entry.topic])
                entries.append(entry)
        it.shared = shared
        if entries:
            self._append(it, Burst(it.n + 1, entries, {}))
        mark = Mark(it.epoch, it.n)
        self._answer()
        return mark

    async def renew(self, lane: str, old: str, new: str) -> None:
        await self._asked()
        it, shared = self._lane(lane), self._lane(ALL)
        if it.epoch == old:
            self._begin(it, new)
            if shared is not it and shared.epoch and shared.n != shared.renewed:
                self._begin(shared, new)
        self._answer()

    async def present(self, lane: str) -> Present:
        await self._asked()
        it = self._lane(lane)
        found = Present(
            *(it.epoch, it.place, it.n, self._now_ms(), it.token), dict(it.seqs), dict(it.now), dict(it.closed)
        )
        self._answer()
        return found

    async def holders(self, lanes: Sequence[str]) -> Mapping[str, tuple[str, float]]:
        await self._asked()
        found = {lane: (it.token, it.until - trio.current_time()) for lane in lanes if (it := self._lane(lane)).token}
        self._answer()
        return found

    async def tail(self, lane: str, behind: str = "0-0", count: int | None = None) -> Sequence[Told]:
        await self._asked()
        found = self._behind(lane, behind)[:count]
        self._answer()
        return found

    async def read(self, places: Mapping[str, str], seconds: float) -> Mapping[str, Sequence[Told]]:
        with trio.move_on_after(seconds):
            while True:
                await self._asked()
                news = self._news
                found = {lane: self._behind(lane, place) for lane, place in places.items()}
                if any(found.values()):
                    self._answer()
                    return {lane: told for lane, told in found.items() if told}
                await news.wait()
        self._answer()
        return {}

    async def recall(self, lane: str, topic: str, behind: int = 0) -> tuple[int, Sequence[Told]]:
        await self._asked()
        memory = list(self._lane(lane).memory.get(topic, ()))
        while len(memory) > 1 and has_number_within(memory[1:], behind):
            del memory[0]
        found = self._now_ms(), memory
        self._answer()
        return found

    async def write_bars(self, lease: Lease, topic: str, bars: Mapping[int, bytes]) -> None:
        await self._asked()
        it = self._led(lease)
        last = max(bars, default=inf)
        newer = {open_ms: text for open_ms, text in it.bars.get(topic, {}).items() if open_ms > last}
        it.bars[topic] = dict(sorted({**bars, **newer}.items())[-self._kept.bars :])
        self._answer()

    async def bars_since(self, lane: str, topics: Sequence[str]) -> Mapping[str, int]:
        await self._asked()
        kept = self._lane(lane).bars
        found = {topic: next(iter(kept[topic])) for topic in topics if kept.get(topic)}
        self._answer()
        return found

    async def bars(self, lane: str, topic: str) -> Sequence[bytes]:
        await self._asked()
        found = list(self._lane(lane).bars.get(topic, {}).values())
        self._answer()
        return found

    async def want(self, exchange: str, topics: Iterable[str], seconds: float) -> None:
        await self._asked()
        until = trio.current_time() + seconds
        self._wanted.setdefault(exchange, {}).update(dict.fromkeys(topics, until))
        self._answer()

    async def wanted(self, exchange: str) -> Sequence[str]:
        await self._asked()
        now = trio.current_time()
        found = [topic for topic, until in self._wanted.get(exchange, {}).items() if until > now]
        self._answer()
        return found

    async def refuse(self, exchange: str, topic: str, reason: str, seconds: float) -> None:
        await self._asked()
        self._refused.setdefault(exchange, {})[topic] = reason, trio.current_time() + seconds
        self._answer()

    async def refused(self, exchange: str) -> Mapping[str, str]:
        await self._asked()
        now = trio.current_time()
        found = {topic: reason for topic, (reason, until) in self._refused.get(exchange, {}).items() if until > now}
        self._answer()
        return found

    async def write_catalogue(self, exchange: str, text: bytes) -> None:
        await self._asked()
        self._catalogues[exchange] = text
        self._answer()

    async def catalogue(self, exchange: str) -> bytes | None:
        await self._asked()
        found = self._catalogues.get(exchange)
        self._answer()
        return found

    async def announce(self, member: Member, seconds: float) -> None:
        await self._asked()
        self._members[member.name] = member, trio.current_time() + seconds
        self._answer()

    async def withdraw(self, name: str) -> None:
        await self._asked()
        self._members.pop(name, None)
        self._answer()

    async def members(self) -> Sequence[Member]:
        await self._asked()
        now = trio.current_time()
        found = [member for _, (member, until) in sorted(self._members.items()) if until > now]
        self._answer()
        return found

    # --- within ---

    async def _asked(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.is_away:
            raise EngineAway("switched off")

    def _answer(self) -> None:
        """What was asked is done; now it may be that nobody hears of it."""
        if self.answers_lost:
            self.answers_lost -= 1
            raise EngineAway("the answer was lost")

    def _now_ms(self) -> int:
        return START_MS + int(trio.current_time() * 1000)

    def _lane(self, lane: str) -> _Lane:
        it = self._lanes.setdefault(lane, _Lane())
        if it.token is not None and it.until <= trio.current_time():
            it.token = None
        return it

    def _led(self, lease: Lease) -> _Lane:
        it = self._lane(lease.lane)
        if it.token != lease.token:
            raise Fenced(f"{lease.lane} is led by {it.token or 'nobody'}")
        return it

    def _begin(self, it: _Lane, epoch: str) -> None:
        it.epoch = epoch
        it.renewed = it.n + 1
        self._append(it, Burst(it.n + 1, [Entry("", EPOCH, None, b'"%b"' % epoch.encode())], {}))

    def _append(self, it: _Lane, burst: Burst) -> None:
        it.n = burst.n
        it.ms = max(it.ms, self._now_ms())
        it.log.append(Told(it.place, tuple(burst.entries)))
        it.log = [told for told in it.log if told.at_ms >= it.ms - LOG_SECONDS * 1000]
        topics: dict[str, list[Entry]] = {}
        for entry in burst.entries:
            topics.setdefault(entry.topic, []).append(entry)
            if entry.seq is not None:
                it.seqs[entry.topic] = entry.seq
            if entry.type in PRESENT:
                it.now[entry.topic] = entry.text
        oldest = it.ms - self._kept.seconds * 1000
        for topic, entries in topics.items():
            if topic:
                memory = [*it.memory.get(topic, ()), Told(it.place, tuple(entries))]
                it.memory[topic] = [told for told in memory[-self._kept.bursts :] if told.at_ms >= oldest]
        for topic, opens in burst.closed.items():
            bars = it.bars.setdefault(topic, {})
            texts = [entry.text for entry in topics[topic] if entry.text.endswith(CLOSED_BAR)]
            for open_ms, text in zip(opens, texts, strict=True):
                if open_ms > it.closed.get(topic, -1):
                    if open_ms > max(bars, default=-1):  # else it was written with the older ones already
                        bars[open_ms] = text
                    it.closed[topic] = open_ms
            while len(bars) > self._kept.bars:
                del bars[next(iter(bars))]
        self._tell()

    def _behind(self, lane: str, place: str) -> Sequence[Told]:
        return [told for told in self._lane(lane).log if _key(told.place) > _key(place)]

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()


def _key(place: str) -> tuple[int, int]:
    ms, _, n = place.partition("-")
    return int(ms), int(n)
