"""How long a whole connection may say nothing. No I/O, no clock: times are seconds, given.

A connection that spoke by itself is lost when it falls silent. One that only ever answered what it was asked belongs
to markets that stand still: that it is alive is what a ping can tell, and that data is kept back is for the probes to
find out. Where a silence cost the connection and the next one hardly spoke either, the next may last longer.
"""

from typing import Literal

OPENING = 5.0  # seconds after a question in which data may be its answer
LIVELY = 3.0  # seconds: shorter silences than this, for ...
STEADY = 20.0  # ... so many seconds, make a connection of which silence is unusual
GROWTH, LONGEST = 4.0, 960.0  # how patience grows with every silence that was usual, up to so many seconds

Verdict = Literal["fine", "ask", "lost"]


class Patience:
    def __init__(self, limit: float) -> None:
        self._limit = self.seconds = limit  # seconds of silence that are borne
        self.restart(0.0)

    def restart(self, now: float) -> None:
        """A new connection."""
        self._asked_at = now
        self._lively_since = now
        self._alive_at = now
        self._speaks_by_itself = False
        self._is_steady = False

    def asked(self, now: float) -> None:
        self._asked_at = now

    def alive(self, now: float) -> None:
        """A ping was answered."""
        self._alive_at = now

    def look(self, now: float, last: float, *, has_spoken: bool) -> Verdict:
        """`last`: when data came last, or the connection was made; `has_spoken`: whether any came."""
        if last - self._asked_at > OPENING:
            self._speaks_by_itself = True
        if now - last > LIVELY:
            self._lively_since = now
        elif now - self._lively_since > STEADY:
            self._is_steady, self.seconds = True, self._limit
        if now - last <= self.seconds:
            return "fine"
        if has_spoken and not self._speaks_by_itself:
            return "ask" if now - max(last, self._alive_at) > self._limit else "fine"
        return "lost"

    def was_in_vain(self) -> None:
        """The connection is given up for its silence."""
        if not self._is_steady:
            self.seconds = min(GROWTH * self.seconds, LONGEST)
