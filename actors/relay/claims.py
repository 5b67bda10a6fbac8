"""What of an exchange is this node's: to lead, to follow, and to give away. The leading itself is the relay's.

A lane is ours to lead where this is the first node that could, see Members; another's that nobody leads may be taken
once it stood free for a whole lease. It is awaited where a node that comes before this one is ready for it, or any node
while this one is cut off from the exchange, for a lease already.
"""

from collections.abc import Callable, Iterable, Sequence
from math import inf

import trio

from actors.engine.words import Engine, EngineAway
from actors.relay.lane import Lane
from actors.relay.members import LOOKS, Members
from actors.relay.takeover import holder_of, lane_of

SOON = 0.1  # seconds between looks while a lane is about to be handed to us
BEHIND = 0.01  # seconds behind the end of a lease that is not prolonged


class Claims:
    """`seconds`: of a lease. `copies`: nodes that follow each lane."""

    def __init__(
        self,
        engine: Engine,
        members: Members,
        lanes: Sequence[Lane],
        *,
        seconds: float,
        copies: int,
        on_failure: Callable[[EngineAway], None],
        on_answer: Callable[[], None],
    ) -> None:
        self.members = members
        self._engine, self._lanes = engine, lanes
        self._me = members.me.name
        self._seconds, self._copies = seconds, copies
        self._failed, self._answered = on_failure, on_answer
        self._expected: dict[str, list[str]] | None = None  # symbols by lane; None: not known yet
        self._has_looked = False
        self._is_away = False  # the engine, at the last look
        self.looked = trio.Event()  # at the next look

    # --- to follow ---

    def follows(self, lane: Lane) -> bool:
        """Whether its symbols are to be collected here: we lead it, or are to stand by."""
        # Who followed it until now sees that it no longer does at its next look: no more are to follow than `copies`.
        return lane.lease is not None or (lane.ours_since is not None and lane.ours_since <= self._settled)

    @property
    def _settled(self) -> float:
        return trio.current_time() - 2 * self._seconds / LOOKS

    @property
    def are_settled(self) -> bool:
        """It is decided what is to be collected here."""
        return self._has_looked and all(
            lane.ours_since is None or lane.ours_since <= self._settled for lane in self._lanes
        )

    # --- to lead ---

    def expect(self, symbols: Iterable[str]) -> None:
        """Whoever leads is to tell these symbols."""
        self._expected = {lane.name: [] for lane in self._lanes}
        for symbol in symbols:
            self._expected[self._lanes[lane_of(symbol, len(self._lanes))].name].append(symbol)

    def ready(self) -> list[str]:
        """The lanes that could be led here at once, and nothing would be lost or announced."""
        return [lane.name for lane in self._lanes if self._is_ready(lane)]

    def _is_ready(self, lane: Lane) -> bool:
        if self._expected is None:
            return False
        return all(lane.writer.hearing.is_whole(symbol, self._seconds) for symbol in self._expected[lane.name])

    def successor(self, lane: Lane) -> str | None:
        """Who is to lead a lane that we lead; None: we are."""
        # What a node said of itself before it died stands for a lease at most.
        left = lane.left if trio.current_time() < lane.left_at + self._seconds else None
        before = self.members.before_me(lane.name, left)
        expected = self._expected[lane.name] if self._expected is not None else ()
        if before is None and any(lane.writer.hearing.is_deaf(symbol, self._seconds) for symbol in expected):
            return self.members.able(lane.name, left)
        return before

    def may_take(self, lane: Lane) -> bool:
        """Whether a lane that nobody leads is for us to lead."""
        if lane.free_since is None:
            return False
        heir = self.members.heir(lane.name, lane.left)
        return heir == self._me or (heir is not None and trio.current_time() >= lane.free_since + self._seconds)

    # --- to look ---

    async def watch(self) -> None:
        """Look again and again who leads each lane."""
        names = [lane.name for lane in self._lanes]
        looked_at = trio.current_time()
        while True:
            pause = self._seconds / LOOKS
            try:
                holders = await self._engine.holders(names)
            except EngineAway as error:
                self._failed(error)
                self._note_away()
            else:
                self._answered()
                self._is_away = False
                for lane in self._lanes:
                    holder, left = holders.get(lane.name, (None, inf))
                    self._see(lane, holder, left)
                    if lane.lease is None:
                        pause = min(pause, left + BEHIND)
            now = trio.current_time()
            for lane in self._lanes:
                if now - looked_at > self._seconds:
                    lane.writer.hearing.was_asleep()
                self._note(lane, now)
            looked_at = now
            self._has_looked = self.members.is_known
            self.looked.set()
            self.looked = trio.Event()
            await trio.sleep(min(SOON, pause) if self._is_heir_of_another() else pause)

    def _note_away(self) -> None:
        """If the engine comes back without what it knew, readers are told so; until now they were told by others."""
        for lane in self._lanes if not self._is_away else ():
            if lane.holder is not None and lane.lease is None and not lane.is_silent:
                lane.writer.hearing.was_told(trio.current_time())
        self._is_away = True

    def _see(self, lane: Lane, holder: str | None, left: float) -> None:
        """`left`: seconds of the lease, of which there is never less than two thirds where it is prolonged in time."""
        now = trio.current_time()
        if holder is None and lane.holder is not None:
            # Whoever was seen with a lease that ran out since is dead or asleep, and may be thought there for a while.
            has_run_out = lane.is_silent and now < lane.seen_at + self._seconds / 2
            lane.left, lane.left_at = holder_of(lane.holder)[0] if has_run_out else None, now
        lane.holder, lane.is_silent = holder, holder is not None and left < self._seconds / 2
        if holder is not None:
            lane.seen_at = now
            if lane.lease is None and not lane.is_silent:
                lane.writer.hearing.told_elsewhere()

    def _note(self, lane: Lane, now: float) -> None:
        leader = None if lane.holder is None else holder_of(lane.holder)[0]
        if leader is not None:
            lane.free_since = None
        elif lane.free_since is None:
            lane.free_since = now
        if self._me not in self.members.followers(lane.name, leader, self._copies):
            lane.ours_since = None
        elif lane.ours_since is None:
            lane.ours_since = now
        lane.is_awaited = lane.lease is not None and self.successor(lane) not in (None, self._me)
        if lane.is_awaited:
            lane.called.set()

    def _is_heir_of_another(self) -> bool:
        """Whether somebody is about to hand a lane over to us."""
        return any(
            lane.holder is not None and lane.lease is None and self.members.heir(lane.name) == self._me
            for lane in self._lanes
            if self._is_ready(lane)
        )
