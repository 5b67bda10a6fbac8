"""Open interest of one feed where the exchange does not push it: asked for often while somebody wants it, else seldom.

Law: memory answers with what was told within the last POLL_MIN, or, while it is wanted, since the last turn. What is
older is forgotten as soon as somebody wants it, and asked for at once. This is the one place that knows who wants it:
who reads its topic, here or at another node; who asked for it a short while ago; a sink or a recording, always.
Everybody else is served by a value for each minute, which is told shortly before the minute ends: bars close then,
which spikes are found by, and the archive keeps the last of a minute.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import count
from math import inf

import trio

from actors.events import OpenInterest
from actors.upstream.budget import Window

POLL_SHARE = 0.25  # of a minute's request weight that polling may use
POLL_MIN = 10.0  # seconds between polls of one symbol that is wanted
UNWANTED = 60.0  # seconds between polls of one that is not
AHEAD = 2.0  # seconds before a minute's end at which the last of those has its turn: an answer takes a while
ASKED = 30.0  # seconds that a question counts as a wish
GOLDEN = 0.6180339887498949  # its multiples divide a circle evenly, however many there are (Steinhaus, 1957)


class Turns:
    """When the feeds of one exchange poll: each at a place of its own, so that they are evenly spread however many of
    them are wanted. All at once they would need a connection each, and cost several times as much.

    `weight`: the exchange's limit. `now`: by its clock. `feeds`: how many there are.
    """

    def __init__(self, weight: Window, now: Callable[[], datetime], feeds: Callable[[], int]) -> None:
        self._per_second = weight.limit * POLL_SHARE / weight.seconds
        self._now, self._feeds = now, feeds
        self._places = (number * GOLDEN % 1 for number in count())

    def place(self) -> float:
        """Of one more feed."""
        return next(self._places)

    def wait(self, place: float, *, is_wanted: bool) -> float:
        """Seconds until the next turn of a place."""
        span = max(POLL_MIN, self._feeds() / self._per_second)  # in which all have a turn
        period = span if is_wanted else max(UNWANTED, span)
        return (-AHEAD - span * place - self._now().timestamp()) % period or period


class Interest:
    """`ask`: the exchange; `tell` and `forget`: who holds the value. `always`: it is wanted whoever reads."""

    def __init__(
        self,
        turns: Turns,
        *,
        ask: Callable[[], Awaitable[OpenInterest]],
        tell: Callable[[OpenInterest], None],
        forget: Callable[[], None],
        always: bool,
    ) -> None:
        self._turns, self._place = turns, turns.place()
        self._ask, self._tell, self._forget = ask, tell, forget
        self._readers = 1 if always else 0
        self._asked_until = -inf
        self._told_at = -inf
        self._is_often = False  # somebody wanted it when the turn was taken that is the next
        self._wished = trio.Event()

    @property
    def _is_wanted(self) -> bool:
        return self._readers > 0 or trio.current_time() < self._asked_until

    @property
    def is_fresh(self) -> bool:
        """What was told last may be given as the present."""
        return self._is_often or trio.current_time() < self._told_at + POLL_MIN

    # --- who wants it ---

    @contextmanager
    def wanted(self) -> Iterator[None]:
        """It is, for as long as the block lasts."""
        self._readers += 1
        self._wish()
        try:
            yield
        finally:
            self._readers -= 1

    def asked(self) -> None:
        """A question was answered with what is held; more are expected."""
        self._asked_until = trio.current_time() + ASKED
        self._wish()

    def _wish(self) -> None:
        if not self.is_fresh:
            self._forget()  # so that what is asked for now is told, even if it is the same
        if not self._is_often:
            self._wished.set()

    # --- asking ---

    def take(self, interest: OpenInterest) -> None:
        """What the exchange answered just now, whoever asked it."""
        self._told_at = trio.current_time()
        self._tell(interest)

    async def poll(self, on_answer: Callable[[], None]) -> None:
        """Ask again and again. Raises what the exchange's REST raises."""
        try:
            while True:
                self.take(await self._ask())
                on_answer()
                await self._turn()
        finally:
            self._is_often, self._told_at = False, -inf

    async def _turn(self) -> None:
        latest = inf
        while True:
            self._wished, self._is_often = trio.Event(), self._is_wanted
            turn = trio.current_time() + self._turns.wait(self._place, is_wanted=self._is_often)
            with trio.move_on_at(min(turn, latest)):
                await self._wished.wait()
                latest = self._told_at + POLL_MIN  # no older than if it had been wanted before
                continue
            return
