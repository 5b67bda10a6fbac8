"""Saying to the engine: what the lanes that are led here have to say, of all exchanges, in one call.

It is calls that cost, and a lane has one burst under way at most. The first thing after a silence is said at once, and
what comes within a flush after that goes together. A burst whose answer was lost is said again, as it was, until the
engine has it or the lane is lost.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import trio

from actors.engine.words import Burst, Engine, EngineAway, Lease
from actors.relay.lane import Lane

MOST = 2000  # entries of one call, or a little more: the engine does nothing else meanwhile
PAUSE = 0.1  # seconds before the engine is asked again after it did not answer


class _Led(NamedTuple):
    lane: Lane
    said: Callable[[Lane, Burst], None]


class Saying:
    """`seconds`: of a lease. `flush`: seconds that an event may wait for others."""

    def __init__(
        self,
        engine: Engine,
        *,
        seconds: float,
        flush: float,
        on_failure: Callable[[EngineAway], None] = lambda error: None,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._seconds, self._flush = seconds, flush
        self._failed, self._answered = on_failure, on_answer
        self._lanes: deque[_Led] = deque()  # who is next comes first
        self._news = trio.Event()
        self._unsaid_since: float | None = None
        self._is_failing = False  # the last call had no answer

    @property
    def is_refused(self) -> bool:
        """The engine does not take what is said, whatever else it answers."""
        return self._unsaid_since is not None

    def add(self, lanes: Iterable[Lane], said: Callable[[Lane, Burst], None]) -> None:
        """Say what these have to say, whenever they are led. `said`: told of each burst that the engine has."""
        self._lanes += [_Led(lane, said) for lane in lanes]

    def tell(self) -> None:
        """A lane has something to say, or may have."""
        self._news.set()

    async def run(self) -> None:
        """Say until cancelled."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            began = trio.current_time()
            while saying := self._bursts():
                if not await self._say(saying):
                    await trio.sleep(PAUSE)
                    continue
                await trio.sleep_until(began + self._flush)
                began = trio.current_time()
            if self._is_failing:  # what was not taken is not ours to say any more: others tell how the engine is
                self._note_answer()

    def _bursts(self) -> dict[Lease, tuple[_Led, Burst]]:
        """What lanes that are led have to say."""
        found: dict[Lease, tuple[_Led, Burst]] = {}
        count = 0
        for _ in range(len(self._lanes)):
            led = self._lanes[0]
            self._lanes.rotate(-1)
            lane = led.lane
            if lane.lease is not None and lane.writer.is_leading and lane.refusal is None:
                burst = lane.writer.under_way if lane.is_awaited else lane.writer.burst()
                if burst is not None:
                    found[lane.lease] = led, burst
                    count += len(burst.entries)
            if count >= MOST:
                break
        return found

    async def _say(self, saying: Mapping[Lease, tuple[_Led, Burst]]) -> bool:
        """Whether there was an answer."""
        began = trio.current_time()
        try:
            refused = await self._engine.say({lease: burst for lease, (_, burst) in saying.items()})
        except EngineAway as error:
            self._is_failing = True
            self._failed(error)
            self._unsaid_since = since = began if self._unsaid_since is None else self._unsaid_since
            if trio.current_time() + PAUSE >= since + self._seconds:
                for led, _ in saying.values():  # what is to be said would grow without end
                    led.lane.refuse(error)
                self._unsaid_since = None
            return False
        self._note_answer()
        took = trio.current_time() - began
        for lease, ((lane, said), burst) in saying.items():
            if lane.lease is not lease or lane.writer.under_way is not burst:
                continue  # it was lost meanwhile
            if (refusal := refused.get(lease)) is not None:
                lane.refuse(refusal)
                continue
            lane.writer.acknowledged()
            lane.n = burst.n
            lane.said += 1
            lane.entries += len(burst.entries)
            lane.say_seconds = took
            said(lane, burst)
            if lane.is_awaited:
                lane.called.set()
        return True

    def _note_answer(self) -> None:
        self._unsaid_since, self._is_failing = None, False
        self._answered()
