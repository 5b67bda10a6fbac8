"""Reading of lanes' logs: each burst once and in order, or word that a lane begins anew.

The place of the last burst is the whole state. A short loss of the engine needs nothing: reading goes on there. Where
the log does not go on, or its memory is another one, reading goes on at the present.
"""

from collections.abc import Callable, Sequence

import structlog
import trio

from actors import clock
from actors.engine.words import Engine, EngineAway, Told
from actors.events import Topic
from actors.mirror.lane import Lane, said
from actors.relay.takeover import new_epoch
from actors.relayed import Recalled

WAIT = 5.0  # seconds that a reading waits for news
RECALLS = 4  # that are asked for at once; clients come back with many topics
RECALLED_WITHIN = 10.0  # seconds that whoever comes back waits for an engine that does not answer
PAUSE = 0.2  # seconds before an engine that did not answer is asked again

log = structlog.get_logger()


class Logs:
    """`take`: told each burst. `begin_anew`: told of a lane whose numbers are others now, or that is joined first.

    `note`: told that the engine answers (None) or does not. `begins`: a lane that has no memory yet is given one.
    """

    def __init__(
        self,
        engine: Engine,
        lanes: Sequence[Lane],
        *,
        take: Callable[[Lane, Told], None],
        begin_anew: Callable[[Lane], None],
        note: Callable[[EngineAway | None], None],
        begins: bool = False,
    ) -> None:
        self.holes = 0  # times that a lane began anew
        self._engine = engine
        self._lanes = {lane.name: lane for lane in lanes}
        self._take, self._begin_anew, self._note = take, begin_anew, note
        self._begins = begins
        self._recalls = trio.Semaphore(RECALLS)

    async def follow(self) -> None:
        """Read until cancelled."""
        while True:
            try:
                for lane in self._lanes.values():
                    await self._join(lane)
                self._note(None)
                while True:
                    await self._read()
            except EngineAway as error:
                self._note(error)
                await trio.sleep(PAUSE)

    async def _read(self) -> None:
        news = await self._engine.read({name: lane.place for name, lane in self._lanes.items()}, WAIT)
        received_at = clock.now()
        for name, bursts in news.items():
            lane = self._lanes[name]
            lane.received_at = received_at
            for told in bursts:
                if not lane.is_continued_by(told):
                    await self._join(lane, anew=True, goes_back=told.n <= lane.n)
                    break
                lane.place, lane.n = told.place, told.n
                self._take(lane, told)
            lane.received_at = None

    async def _join(self, lane: Lane, *, anew: bool = False, goes_back: bool = False) -> None:
        """Go on where reading stands; or, `anew` or where that cannot be, at the present, and say so.

        `goes_back`: what came behind this place has the number of something before it.
        """
        present = await self._engine.present(lane.name)
        is_same = bool(lane.epoch) and present.epoch == lane.epoch
        is_older = present.epoch in lane.past or (is_same and (goes_back or present.n < lane.n))
        if is_older:  # numbers that were read here would be given to other events
            log.error("lane.rolled_back", lane=lane.name, had=lane.n, has=present.n)
        if is_older or (self._begins and not present.epoch):
            await self._engine.renew(lane.name, present.epoch, new_epoch())
            present = await self._engine.present(lane.name)
        if not present.epoch or (present.epoch == lane.epoch and not anew):
            return
        if lane.epoch:
            self.holes += 1
            log.warning("lane.begins_anew", lane=lane.name, n=present.n, had=lane.n)
        lane.adopt(present)
        self._begin_anew(lane)

    async def recall(self, lane: str, topic: Topic, behind: int) -> list[Recalled] | None:
        """What the engine remembers of a topic behind the event of a number; None: it does not answer.

        A client that comes back waits for an engine that is away: without memory it would be told that it lost all.
        """
        until = trio.current_time() + RECALLED_WITHIN
        async with self._recalls:
            while True:
                try:
                    at_ms, memory = await self._engine.recall(lane, str(topic), behind)
                    break
                except EngineAway:
                    if trio.current_time() + PAUSE >= until:
                        return None
                    await trio.sleep(PAUSE)
        return [Recalled(said(entry), (at_ms - told.at_ms) / 1000) for told in memory for entry in told.entries]
