"""What time it is: this machine's, or, while a recording is replayed, that of the recording.

The clock of the Trio run decides, so nothing has to be handed around: under a `RecordedClock` both `now()` and all of
Trio's own waits follow the recording.
"""

import random
import time
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any, final

import trio
import trio._core._run as scheduler

from actors.events import EPOCH

HEARTBEAT = 0.1  # seconds: the longest step while real clients are served, whose timers count from the last one
STOOD_STILL = 0.5  # seconds that a look for silence is late because the process had no turn
STUCK = 5.0  # seconds that time stands still for a client that does not read

_MICROSECOND = timedelta(microseconds=1)


def now() -> datetime:
    """The present, in UTC."""
    try:
        clock = trio.lowlevel.current_clock()
    except RuntimeError:  # outside of Trio
        return datetime.now(UTC)
    # Not isinstance: of an abstract class it is asked in Python, and this is asked several times for each frame.
    return clock.utc() if type(clock) is RecordedClock else datetime.now(UTC)


def next_tick(seconds: float) -> float:
    """The next whole multiple of `seconds` on Trio's clock, at most so far away.

    For looks that only have to be made now and then: those that are due in the same second wake the process once
    instead of once each, and waking is what an idle process pays for.
    """
    now = trio.current_time()
    at = (now // seconds + 1) * seconds
    return at if at > now else at + seconds  # 0.3 // 0.1 is 2: of a fraction the quotient may be one too small


async def tick(seconds: float) -> None:
    """Sleep until the next tick."""
    await trio.sleep_until(next_tick(seconds))


async def tick_for_silence(seconds: float) -> None:
    """The same for a look at what was not heard: after one that is late, as the process stood still, so many seconds
    more, in which what came meanwhile is read."""
    due = next_tick(seconds)
    await trio.sleep_until(due)
    if trio.current_time() - due > STOOD_STILL:
        await trio.sleep(seconds)


def to_us(moment: datetime) -> int:
    """Unix microseconds."""
    return (moment - EPOCH) // _MICROSECOND


def from_us(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)


@final
class RecordedClock(trio.abc.Clock, trio.abc.Instrument):
    """Trio's clock for a replay; give it to `trio.run` both as `clock` and among `instruments`.

    Its time stands still while any task can run, and then steps to the next deadline of any task: whatever follows
    from one moment is over before the next one begins, whether a second takes a second or nothing at all. It does not
    move before `start`. `began_at`: Unix microseconds at zero. `speed`: recorded seconds per second; inf: no waits.
    """

    def __init__(self, began_at: int, speed: float) -> None:
        self._began_at = began_at
        self._speed = speed
        self._time = 0.0
        self._target: float | None = None  # where the next step leads; None while tasks can run
        self._anchor = inf  # when, by the machine's clock, this clock's zero was or would have been
        self._stuck_since: float | None = None  # when more clients than were given up began not to read
        self._given_up = 0  # clients that do not read and are not waited for

    def start(self, delay: float = 0.0) -> None:
        """Move, `delay` seconds from now."""
        self._anchor = time.perf_counter() + delay - self._time / self._speed

    def finish(self) -> None:
        """The recording is over: go on at the pace of the world, in which clients must be let go."""
        self._speed, self._stuck_since = 1.0, None
        self.start()

    def utc(self) -> datetime:
        return from_us(self._began_at + round(self._time * 1e6))

    def at(self, microseconds: int) -> float:
        """Trio's time at a moment in Unix microseconds."""
        return (microseconds - self._began_at) / 1e6

    # --- trio.abc.Clock

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self._time

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Trio asks only when no task can run."""
        if self._speed < inf:
            deadline = min(deadline, self._time + HEARTBEAT * self._speed)
        self._target = deadline
        if deadline == inf:
            self._stuck_since = None  # nothing to go on to: whoever reads wakes us
        if self._stuck_since is not None:
            return 0.001
        return max(0.0, self._anchor + deadline / self._speed - time.perf_counter()) if deadline < inf else inf

    # --- trio.abc.Instrument

    def after_io_wait(self, timeout: float) -> None:
        target, self._target = self._target, None
        if target is None or target == inf or time.perf_counter() < self._anchor + target / self._speed:
            return
        if self._speed == inf and self._is_somebody_behind():
            return
        self._time = max(self._time, target)

    def _is_somebody_behind(self) -> bool:
        """Without waits a client could be outrun for no fault of its own: it is given real time to read."""
        statistics = trio.lowlevel.current_statistics()
        if statistics.tasks_runnable:
            return True
        waiting = getattr(statistics.io_statistics, "tasks_waiting_write", 0)
        self._given_up = min(self._given_up, waiting)
        if waiting == self._given_up:
            self._stuck_since = None
            return False
        if self._stuck_since is None:
            self._stuck_since = time.perf_counter()
        if time.perf_counter() - self._stuck_since < STUCK:
            return True
        self._given_up, self._stuck_since = waiting, None
        return False


class _InOrder(random.Random):
    """Takes the place of Trio's dice."""

    def shuffle(self, x: MutableSequence[Any]) -> None:
        pass


@contextmanager
def fixed_order() -> Iterator[None]:
    """Within, Trio runs the tasks that are ready at one moment in an order that depends on nothing but their age.

    Otherwise it throws dice. The switch is Trio's own, made for Hypothesis and not public: RuntimeError where it is
    gone, since a replay that differs from the last one would be worse than none.
    """
    switch, dice = "_ALLOW_DETERMINISTIC_SCHEDULING", "_r"
    if not hasattr(scheduler, switch) or not hasattr(scheduler, dice):
        raise RuntimeError(f"Trio {trio.__version__} has no switch for a fixed order of tasks")
    before = getattr(scheduler, switch), getattr(scheduler, dice)
    setattr(scheduler, switch, True)
    setattr(scheduler, dice, _InOrder())
    try:
        yield
    finally:
        setattr(scheduler, switch, before[0])
        setattr(scheduler, dice, before[1])
