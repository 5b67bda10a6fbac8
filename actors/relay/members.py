"""Which nodes are there, and which of them is to lead what: this one says that it is, and looks who else does.

The order of the nodes of a lane is a rendezvous hash (Thaler and Ravishankar 1998): every node finds the same one by
itself, and where a node comes or goes, only lanes that it is first for change their leader.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import inf

import structlog
import trio

from actors.engine.words import Engine, EngineAway, Member

LOOKS = 8  # times in a lease that the engine is asked who is there
RENEWALS = 3  # times in its life that a node's word is renewed
PAUSE = 0.05  # seconds before an engine that did not answer is told again
WITHDRAWN_WITHIN = 0.5  # seconds that the end waits for the engine

log = structlog.get_logger()


class Members:
    """`me`: what is announced, but for the lanes that `ready` names. `seconds`: of a lease, and of such a word."""

    def __init__(
        self,
        engine: Engine,
        me: Member,
        *,
        seconds: float,
        ready: Callable[[], Sequence[str]] = lambda: (),
        on_failure: Callable[[EngineAway], None] = lambda error: None,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        self.me = me
        self.present: list[Member] = []  # nobody: the engine was not reached yet
        self._engine = engine
        self._seconds = seconds
        self._ready = ready
        self._failed, self._answered = on_failure, on_answer
        self._announced: Member | None = None
        self._announced_at = -inf
        self._before: Sequence[Member] = ()  # those that were there when the engine went away
        self._before_until = -inf
        self._is_away = False

    @property
    def is_known(self) -> bool:
        """The engine said who is there, or it is not there itself."""
        return bool(self.present) or self._is_away

    # --- who leads what ---

    def order(self, lane: str) -> list[Member]:
        """Those that collect, in the order in which they are to lead a lane."""
        collectors = [member for member in self.present if member.role != "edge"]
        return sorted(collectors, key=lambda member: blake2b(f"{lane}|{member.name}".encode(), digest_size=8).digest())

    def able(self, lane: str, left: str | None) -> str | None:
        """The first that could lead a lane at once, but for `left`; None: nobody could."""
        return next((member.name for member in self.order(lane) if lane in member.ready and member.name != left), None)

    def heir(self, lane: str, left: str | None = None) -> str | None:
        """Who is to lead a lane that nobody leads: the first that could at once, or else the first; None: nobody.

        `left`: the node that led it and fell silent; it is to be heir where there is no other.
        """
        order = sorted(self.order(lane), key=lambda member: member.name == left)
        return next((member.name for member in order if lane in member.ready), order[0].name if order else None)

    def before_me(self, lane: str, left: str | None) -> str | None:
        """Who could lead a lane at once and comes before this node, but for `left`; None: nobody."""
        for member in self.order(lane):
            if member.name == self.me.name:
                return None
            if lane in member.ready and member.name != left:
                return member.name
        return None

    def followers(self, lane: str, leader: str | None, copies: int) -> list[str]:
        """The nodes, as many as there are to be copies, that follow a lane: who leads it, and those that come next.

        A node that never found the engine is as if alone.
        """
        if not self.present and self.is_known:
            return [self.me.name]
        others = [member.name for member in self.order(lane) if member.name != leader]
        return [leader, *others][:copies] if leader is not None else others[:copies]

    # --- being there ---

    async def run(self) -> None:
        """Be there until cancelled."""
        try:
            while True:
                try:
                    await self._announce()
                    self._adopt(await self._engine.members())
                except EngineAway as error:
                    self._is_away = True
                    self._announced = None  # the engine may come back without it
                    self._failed(error)
                else:
                    self._answered()
                await trio.sleep(self._seconds / LOOKS)
        finally:
            await self._withdraw()

    def _adopt(self, found: Sequence[Member]) -> None:
        """Whoever was there when the engine went away has a lease's time to say so again: nobody goes before that."""
        now = trio.current_time()
        if self._is_away:
            self._is_away = False
            self._before, self._before_until = self.present, now + self._seconds
        names = {member.name for member in found}
        missing = [member for member in self._before if member.name not in names] if now < self._before_until else []
        self.present = [*found, *missing]
        if self._announced is not None and self.me.name not in {member.name for member in self.present}:
            self.present.append(self._announced)  # it slept in between

    async def _announce(self) -> None:
        now = trio.current_time()
        me = Member(name=self.me.name, role=self.me.role, address=self.me.address, ready=tuple(self._ready()))
        if me != self._announced or now >= self._announced_at + self._seconds / RENEWALS:
            await self._engine.announce(me, self._seconds)
            self._announced, self._announced_at = me, now

    async def _withdraw(self) -> None:
        with trio.move_on_after(WITHDRAWN_WITHIN, shield=True):
            while True:
                try:
                    await self._engine.withdraw(self.me.name)
                    return
                except EngineAway as error:  # the connection of what was cancelled, or more
                    log.debug("node.not_withdrawn", reason=str(error))
                    await trio.sleep(PAUSE)
        log.warning("node.not_withdrawn", name=self.me.name)
