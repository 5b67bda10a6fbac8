"""Lines of the log that clients can cause: a few of each event in a while, then how many more there would have been."""

from __future__ import annotations

import structlog
import trio

MOST, SECONDS = 5, 10.0  # lines of one event, in so long

log = structlog.get_logger()


class _Window:
    __slots__ = ("said", "suppressed", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.said = self.suppressed = 0


class Quiet:
    """Says which lines may be written; `run` tells of the others, one line with `suppressed=N` per event and while."""

    def __init__(self, most: int = MOST, seconds: float = SECONDS) -> None:
        self._most, self._seconds = most, seconds
        self._windows: dict[str, _Window] = {}
        self._suppressing = trio.Event()

    def allows(self, event: str) -> bool:
        """Whether a line of this event may be written; it is counted either way."""
        now = trio.current_time()
        window = self._windows.get(event)
        if window is None or (now >= window.until and not window.suppressed):
            window = self._windows[event] = _Window(now + self._seconds)
        if window.said < self._most:
            window.said += 1
            return True
        window.suppressed += 1
        self._suppressing.set()
        return False

    async def run(self) -> None:
        """Until it is cancelled; then what is still untold is told at once."""
        try:
            while True:
                await self._suppressing.wait()
                self._suppressing = trio.Event()
                while pending := [window.until for window in self._windows.values() if window.suppressed]:
                    await trio.sleep_until(min(pending))
                    self._tell(trio.current_time())
        finally:
            self._tell(float("inf"))

    def _tell(self, now: float) -> None:
        for event, window in list(self._windows.items()):
            if window.until <= now:
                del self._windows[event]
                if window.suppressed:
                    log.warning(event, suppressed=window.suppressed)
