"""Which nodes are there: this one says so again and again, and looks who else does."""

from collections.abc import Callable, Sequence
from math import inf

import structlog
import trio

from actors.engine.words import Engine, EngineAway, Member

LOOKS = 8  # times in a lease that the engine is asked who is there
RENEWALS = 3  # times in its life that a node's word is renewed
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
        self.present: Sequence[Member] = ()  # nobody: the engine was not reached yet
        self._engine = engine
        self._seconds = seconds
        self._ready = ready
        self._failed, self._answered = on_failure, on_answer
        self._announced: Member | None = None
        self._announced_at = -inf

    async def run(self) -> None:
        """Be there until cancelled."""
        try:
            while True:
                try:
                    await self._announce()
                    self.present = await self._engine.members()
                except EngineAway as error:
                    self._failed(error)
                else:
                    self._answered()
                await trio.sleep(self._seconds / LOOKS)
        finally:
            with trio.move_on_after(WITHDRAWN_WITHIN, shield=True):
                await self._withdraw()

    async def _announce(self) -> None:
        now = trio.current_time()
        me = Member(name=self.me.name, role=self.me.role, address=self.me.address, ready=tuple(self._ready()))
        if me != self._announced or now >= self._announced_at + self._seconds / RENEWALS:
            await self._engine.announce(me, self._seconds)
            self._announced, self._announced_at = me, now

    async def _withdraw(self) -> None:
        try:
            await self._engine.withdraw(self.me.name)
        except EngineAway as error:
            log.warning("node.not_withdrawn", reason=str(error))
