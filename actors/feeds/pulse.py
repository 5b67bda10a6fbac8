"""How often one topic speaks, and whether its silence is unusual for it. No I/O, no clock: times are seconds, given.

A topic is measured by itself: the longest silence that it kept lately is usual, several times as long is not. A busy
symbol is missed within seconds, a quiet one is left alone; and where the exchange confirms that nothing happened, the
silence so far becomes usual too.
"""

SOONEST = 15.0  # seconds: no silence shorter than this means anything
UNKNOWN = 60.0  # seconds: the limit of a topic whose own rate is not known yet
PATIENCE = 4.0  # times the longest usual silence
UNNOTICED = SOONEST / PATIENCE  # seconds: whether a silence was shorter than this changes no limit
LEARNED = 50  # events after which a topic's own rate is known
HALF_LIFE = 600.0  # seconds after which a long silence counts half


class Pulse:
    __slots__ = ("_count", "_longest", "_measured_at", "_slow", "last")

    def __init__(self, slow: float = 0.0) -> None:
        self._slow = slow  # seconds for which it may have nothing to say, whatever its rate was lately
        self.last: float | None = None  # when it spoke, or was asked to; None: nothing is to be expected of it
        self._count = 0
        self._longest = 0.0
        self._measured_at = 0.0  # when `_longest` was last brought up to date

    def expect(self, now: float) -> None:
        """A connection is there: silence counts from now on."""
        self.last = now

    def pause(self) -> None:
        """The connection is gone: silence means nothing."""
        self.last = None

    def heard(self, now: float) -> None:
        if self.last is not None:
            self._count += 1
            if now - self.last > UNNOTICED:
                self._forget(now)
                self._longest = max(self._longest, now - self.last)
        self.last = now

    def excuse(self, now: float) -> None:
        """The exchange itself had nothing to say."""
        if self.last is not None:
            self._forget(now)
            self._longest = max(self._longest, now - self.last)

    def _forget(self, now: float) -> None:
        self._longest *= 0.5 ** ((now - self._measured_at) / HALF_LIFE)
        self._measured_at = now

    def limit(self, now: float) -> float:
        """Seconds of silence from which on something may be wrong."""
        self._forget(now)
        usual = max(PATIENCE * self._longest, 2 * self._slow)
        return max(SOONEST, usual) if self._count >= LEARNED else max(UNKNOWN, usual)

    def is_overdue(self, now: float) -> bool:
        return self.last is not None and now - self.last > self.limit(now)
