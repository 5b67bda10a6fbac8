"""The relay: it leads the lanes that are its own, see Claims, and says to the engine what their writers have to say.

One task leads one lane, and what its writer has to say is said for it, see Saying. A lane that is lost begins a new
term like anybody else, with the log read anew. Where it is handed over, what is under way arrives, nothing more is
said, and the lease is let go; what was not said, the other one knows.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, Protocol, TypeVar

import structlog
import trio

from actors.engine.words import Burst, Engine, EngineAway, Entry, Fenced, Lease, Present, RolledBack
from actors.engine.words import Told as Logged
from actors.events import Said, Status, Topic
from actors.exchanges.exchange import Supervise
from actors.relay.claims import Claims
from actors.relay.closes import Knows
from actors.relay.lane import Lane
from actors.relay.members import Members
from actors.relay.reading import Reading
from actors.relay.saying import PAUSE, Saying
from actors.relay.sharing import Sharing, of_this_memory
from actors.relay.takeover import lane_of, new_epoch
from actors.relay.writer import Writer

RENEWALS = 3  # times in a lease that it is prolonged
REPEATED_MS = 5_000  # of a log that is written again: who led before may have said it and not written it
RELEASED_WITHIN = 0.5  # seconds that the end waits for the engine

T = TypeVar("T")

log = structlog.get_logger()


class Feeds(Protocol):
    """A connector, as far as a relay asks it."""

    @property
    def feeds(self) -> Mapping[str, Knows]: ...


class Relay:
    """Of one exchange. It takes what the feeds say, see Readers.

    `seconds`: of a lease. `copies`: nodes that follow each lane.
    """

    def __init__(
        self,
        exchange: str,
        engine: Engine,
        *,
        members: Members,
        lanes: int,
        copies: int,
        seconds: float,
        saying: Saying,
        supervise: Supervise,
        on_failure: Callable[[EngineAway], None] = lambda error: None,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        self._exchange, self._engine = exchange, engine
        self._node = members.me.name
        self._seconds, self._saying = seconds, saying
        self._supervise = supervise
        self._connector: Feeds | None = None
        writers = [Writer(self._feed_of, saying.tell) for _ in range(lanes)]
        self.lanes = [Lane(f"{exchange}.{number}", writer) for number, writer in enumerate(writers)]
        self._lane_of: dict[str, Lane] = {}  # by symbol
        saying.add(self.lanes, self._said)
        self._sharing = Sharing(engine)
        about: Any = {"seconds": seconds, "copies": copies, "on_failure": on_failure, "on_answer": self._note_answer}
        self.claims = Claims(engine, members, self.lanes, **about)
        self._failed, self._answered = on_failure, on_answer  # told whether the engine takes what is said
        # Given the name of a lane's memory and what the engine took for it, the last of who led before included.
        self.also: Callable[[str, Sequence[Entry]], None] = lambda epoch, entries: None

    def _feed_of(self, symbol: str) -> Knows | None:
        return self._connector.feeds.get(symbol) if self._connector is not None else None

    def lane(self, symbol: str) -> Lane:
        """The lane of a symbol."""
        lane = self._lane_of.get(symbol)
        if lane is None:
            lane = self._lane_of[symbol] = self.lanes[lane_of(symbol, len(self.lanes))]
        return lane

    # --- what feeds say ---

    def take(self, topic: Topic, said: Said) -> None:
        """A feed tells its readers; never waits."""
        lane = self.lane(topic.symbol)
        if isinstance(said, Status):
            lane.writer.take_status(said)
        else:
            lane.writer.take(topic, said)

    # --- leading ---

    async def run(self, connector: Feeds) -> None:
        """Lead what is ours, until cancelled; then let it go."""
        self._connector = connector
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(self._supervise, "claims", self.claims.watch, exchange=self._exchange))
            nursery.start_soon(partial(self._supervise, "sharing", self._sharing.run, exchange=self._exchange))
            for lane in self.lanes:
                nursery.start_soon(partial(self._supervise, "lane", partial(self._run, lane), lane=lane.name))

    async def _run(self, lane: Lane) -> None:
        while True:
            lane.lease = await self._obtain(lane)
            log.info("lane.led", lane=lane.name, term=lane.lease.token)
            try:
                await self._lead(lane, lane.lease)
                log.info("lane.handed_over", lane=lane.name, to=self.claims.successor(lane))
            except (Fenced, EngineAway) as error:
                log.warning("lane.lost", lane=lane.name, reason=str(error))
            finally:
                lane.writer.stop()
                lease, lane.lease = lane.lease, None
                await self._let_go(lease)

    async def _obtain(self, lane: Lane) -> Lease:
        while True:
            if not self.claims.may_take(lane):
                await self._read_ahead(lane)
            if not self.claims.may_take(lane):
                await self.claims.looked.wait()
                continue
            lane.free_since = None  # whoever takes it
            try:
                lease = await self._engine.take(lane.name, self._node, self._seconds, new_epoch())
                self._note_answer()
            except EngineAway as error:
                self._failed(error)
            else:
                if lease is not None:
                    return lease

    async def _let_go(self, lease: Lease) -> None:
        with trio.move_on_after(RELEASED_WITHIN, shield=True):
            await self._insist(partial(self._engine.release, lease), inf)
            return
        log.warning("lane.not_released", lane=lease.lane)

    async def _lead(self, lane: Lane, lease: Lease) -> None:
        """Have said what the writer has to say until the lane is awaited elsewhere. Raises Fenced, EngineAway."""
        until = trio.current_time() + self._seconds
        while True:
            asked_at = trio.current_time()
            present = await self._insist(partial(self._engine.present, lane.name), until)
            if present.epoch in lane.past or (present.epoch == lane.epoch and present.n < lane.n):
                present = await self._renew(lane, present, until)
            if lane.epoch not in ("", present.epoch):
                lane.past.add(lane.epoch)
            tail, until = await self._read(lane, lease, until, present)
            lane.epoch, lane.n = present.epoch, present.n
            self._sharing.begin(lane.name, present.epoch, tail)
            lane.refusal, lane.called = None, trio.Event()
            self._repeat(present, tail)
            lane.writer.lead(present, tail, asked_at)
            try:
                await self._hold(lane, lease, until)
                return
            except RolledBack as error:
                log.error("lane.rolled_back", lane=lane.name, reason=str(error))
                lane.writer.stop()
                until = trio.current_time() + self._seconds
                await self._insist(partial(self._engine.hold, lease, self._seconds), until)

    async def _read(self, lane: Lane, lease: Lease, until: float, present: Present) -> tuple[Sequence[Logged], float]:
        """The log, and until when the lane is led after that."""
        ahead, lane.ahead = lane.ahead, None
        readings = [Reading(self._engine, lane.name)]
        if ahead is not None:
            ahead.is_over = False
            readings.append(ahead)
        while True:
            reading = readings.pop()
            while not reading.is_over:
                now = trio.current_time()
                if now >= until - self._seconds + self._seconds / RENEWALS:
                    await self._insist(partial(self._engine.hold, lease, self._seconds), until)
                    until = now + self._seconds
                await self._insist(reading.read_on, until)
            if not readings or reading.leads_to(present):
                return reading.bursts, until

    async def _read_ahead(self, lane: Lane) -> None:
        """Read the log of a lane whose leader is silent, in time for its takeover."""
        if not lane.is_silent or not self.claims.follows(lane):
            lane.ahead = None
        elif lane.ahead is None:
            lane.ahead = ahead = Reading(self._engine, lane.name)
            try:
                while lane.is_silent and not ahead.is_over:
                    await ahead.read_on()
            except EngineAway as error:
                self._failed(error)

    def _repeat(self, present: Present, tail: Sequence[Logged]) -> None:
        for told in of_this_memory(tail):
            if told.at_ms >= tail[-1].at_ms - REPEATED_MS:
                self.also(present.epoch, told.entries)

    async def _renew(self, lane: Lane, present: Present, until: float) -> Present:
        """The engine lacks what it had acknowledged: what is numbered from now on belongs to another memory."""
        log.error("lane.rolled_back", lane=lane.name, had=lane.n, has=present.n)
        await self._insist(partial(self._engine.renew, lane.name, present.epoch, new_epoch()), until)
        return await self._insist(partial(self._engine.present, lane.name), until)

    async def _hold(self, lane: Lane, lease: Lease, until: float) -> None:
        """Prolong the lease until the lane is awaited elsewhere. Raises Fenced, RolledBack, EngineAway."""
        renew_at = until - self._seconds + self._seconds / RENEWALS
        while not lane.is_awaited or lane.writer.under_way is not None:
            self._saying.tell()  # there is what only time brings
            with trio.move_on_at(renew_at):
                await lane.called.wait()
            lane.called = trio.Event()
            if lane.refusal is not None:
                raise lane.refusal
            if (now := trio.current_time()) >= renew_at:
                await self._insist(partial(self._engine.hold, lease, self._seconds), until)
                until, renew_at = now + self._seconds, now + self._seconds / RENEWALS

    def _said(self, lane: Lane, burst: Burst) -> None:
        self._sharing.add(lane.name, burst.n, burst.entries)
        self.also(lane.epoch, burst.entries)

    def _note_answer(self) -> None:
        """The engine answers, and that is well if it takes what is said."""
        if not self._saying.is_refused:
            self._answered()

    async def _insist(self, ask: Callable[[], Awaitable[T]], until: float) -> T:
        """Ask until there is an answer, while the lease may last. Raises EngineAway, and what the call does."""
        while True:
            try:
                answer = await ask()
            except EngineAway as error:
                self._failed(error)
                if trio.current_time() + PAUSE >= until:
                    raise
                await trio.sleep(PAUSE)
            else:
                self._note_answer()
                return answer
