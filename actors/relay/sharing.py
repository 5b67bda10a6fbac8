"""What lanes said that belongs into streams over everything, shared in the engine with the writers of all other lanes.

It is shared once the engine has it in the lane, by a task of its own: no lane waits for that. Of one lane it is shared
in the lane's order, each burst whole; across lanes in the order in which writers come to the engine. Whoever begins to
lead a lane shares all that its log holds: what its predecessor did share, the engine leaves out.
"""

from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import structlog
import trio

from actors import clock
from actors.engine.words import ALL, EPOCH, STATUS, Engine, EngineAway, Entry, Mark, RolledBack, Share, Told
from actors.events import Event, Gap
from actors.relay.takeover import new_epoch, over_everything, topic_named

BATCH = 2_000  # events that are shared at once, unless one burst has more
PACE = 0.02  # seconds from one time to the next
WAITING = 10_000  # bursts of a lane that may wait; the older half of more is lost, and announced as such
PAUSE = 0.1  # seconds before the engine is asked again after it did not answer
MOMENT = timedelta(milliseconds=1)
NOT_TAKEN = "the engine did not take it"

log = structlog.get_logger()

_decode = msgspec.json.Decoder(Event).decode


class _Way:
    """One lane's way to the engine, while it is led from here and until all of it is shared."""

    def __init__(self, lane: str, epoch: str) -> None:
        self.lane, self.epoch = lane, epoch
        self.bursts: deque[list[Share]] = deque()


class Sharing:
    """Of one exchange's lanes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ways: dict[str, _Way] = {}  # by lane
        self._streams: dict[str, str | None] = {}  # over everything, by topic
        self._known = Mark("", 0)  # how far all that is shared had come
        self._past: set[str] = set()  # its epochs that were left: one that comes back is an engine that is older
        self._news = trio.Event()
        self._is_refused = False

    # --- what lanes said ---

    def begin(self, lane: str, epoch: str, tail: Sequence[Told]) -> None:
        """A lane is led from here on, with this log behind it."""
        self._ways[lane] = _Way(lane, epoch)
        for told in of_this_memory(tail):
            self.add(lane, told.n, told.entries)

    def add(self, lane: str, n: int, entries: Sequence[Entry]) -> None:
        """The engine has a burst of the lane."""
        way = self._ways[lane]
        shares = [
            Share(lane, way.epoch, n, entry._replace(topic=stream))
            for entry in entries
            if entry.type not in (STATUS, EPOCH) and (stream := self._stream_of(entry.topic)) is not None
        ]
        if shares:
            way.bursts.append(shares)
            if len(way.bursts) > WAITING:
                _make_room(way)
            self._news.set()

    def _stream_of(self, topic: str) -> str | None:
        if topic not in self._streams:
            self._streams[topic] = over_everything(topic_named(topic))
        return self._streams[topic]

    # --- sharing it ---

    async def run(self) -> None:
        """Share what there is, and then not for a while: what comes meanwhile goes together. Until cancelled."""
        while True:
            self._news = trio.Event()
            while bursts := self._waiting():
                await self._share(bursts)
                await trio.sleep(PACE)
            await self._news.wait()

    def _waiting(self) -> list[tuple[_Way, list[Share]]]:
        """As much as goes at once, of each lane the oldest first."""
        found: list[tuple[_Way, list[Share]]] = []
        count = 0
        for way in self._ways.values():
            for burst in way.bursts:
                if found and count + len(burst) > BATCH:
                    return found
                found.append((way, burst))
                count += len(burst)
        return found

    async def _share(self, bursts: Sequence[tuple[_Way, list[Share]]]) -> None:
        try:
            self._known = await self._engine.share([share for _, burst in bursts for share in burst], self._known)
        except RolledBack:
            await self._look()
        except EngineAway as error:
            await self._wait(error)
        else:
            self._is_refused = False
            for way, burst in bursts:
                if way.bursts and way.bursts[0] is burst:  # else it was lost meanwhile
                    way.bursts.popleft()

    async def _look(self) -> None:
        """All that is shared is another memory than it was, or an older one: then what follows is another."""
        known = self._known
        try:
            present = await self._engine.present(ALL)
            if present.epoch in self._past or (present.epoch == known.epoch and present.n < known.n):
                log.error("lane.rolled_back", lane=ALL, had=known.n, has=present.n)
                await self._engine.renew(ALL, present.epoch, new_epoch())
                present = await self._engine.present(ALL)
        except EngineAway as error:
            await self._wait(error)
            return
        if known.epoch != present.epoch:
            self._past.add(known.epoch)
        self._known = Mark(present.epoch, present.n)

    async def _wait(self, error: EngineAway) -> None:
        if not self._is_refused:
            log.warning("shared.waits", reason=str(error))
        self._is_refused = True
        await trio.sleep(PAUSE)


def of_this_memory(tail: Sequence[Told]) -> Sequence[Told]:
    """What was said since the lane's memory began. Of an older one nothing is shared: what that held is lost anyway."""
    for back, told in enumerate(reversed(tail)):
        if told.entries[0].type == EPOCH:
            return tail[len(tail) - back :]
    return tail


def _make_room(way: _Way) -> None:
    """Half of what waits is lost, the older one: of each symbol that is announced by one gap."""
    lost = [share for _ in range(len(way.bursts) // 2) for share in way.bursts.popleft()]
    log.error("shared.lost", lane=way.lane, events=len(lost))
    times: dict[tuple[str, str, str], list[datetime]] = {}
    for share in lost:
        event = _decode(share.entry.text)
        times.setdefault((share.entry.topic, event.exchange, event.symbol), []).append(event.timestamp)
    gaps = []
    for (stream, exchange, symbol), at in times.items():
        where: Any = {"exchange": exchange, "symbol": symbol, "timestamp": clock.now()}
        gap = Gap(**where, start=min(at), end=max(at) + MOMENT, reason=NOT_TAKEN, repaired=False)
        gaps.append(Share(way.lane, way.epoch, lost[-1].n, Entry(stream, Gap.type, None, msgspec.json.encode(gap))))
    way.bursts.appendleft(gaps)
