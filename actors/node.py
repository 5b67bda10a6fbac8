"""One node among several: its relays, its mirrors, and how it stands with the engine between them.

A node is given whatever a connector's feeds say, leads the lanes that nobody leads, and serves its own clients from the
mirrors, so that every node tells the same under the same numbers. What clients want here is collected on every node.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from typing import Literal, NamedTuple

import structlog
import trio
from msgspec import Struct

from actors import clock
from actors.connector import Connector
from actors.engine.words import Engine, EngineAway, EngineFull, Entry, Member, Role
from actors.errors import MarketError
from actors.events import Said, Topic
from actors.exchanges.exchange import Exchange, Supervise
from actors.mirror.everywhere import Everywhere
from actors.mirror.mirror import Mirror
from actors.relay.members import Members
from actors.relay.relay import Relay
from actors.relay.shelf import Shelf
from actors.relay.takeover import topic_named

LOOK = 0.5  # seconds between looks for what clients of other nodes want
ASK = 1.0  # seconds before an engine that was never reached is asked again

log = structlog.get_logger()

EngineState = Literal["starting", "live", "away", "full"]


class LaneReport(Struct, frozen=True):
    """`leader`: the node that leads it, null: nobody. `term`: how often that changed.

    `place`: of the last burst that was read here. `lag_ms`: what the last burst took to be said, where this node leads.
    """

    name: str
    leader: str | None
    term: int | None
    place: str
    lag_ms: float | None


class EngineReport(Struct, frozen=True):
    """The server between several nodes, as this one sees it."""

    state: EngineState
    since: datetime
    reason: str | None
    role: str
    name: str
    lanes: list[LaneReport]


class Links:
    """Whether the engine answers, by who asks it."""

    def __init__(self) -> None:
        self.state: EngineState = "starting"
        self.since = clock.now()
        self.reason: str | None = "the engine was not reached yet"
        self.failures = 0
        self._problems: dict[str, EngineAway] = {}

    def failed(self, who: str, error: EngineAway) -> None:
        self.failures += 1
        self._problems[who] = error
        self._note("full" if isinstance(error, EngineFull) else "away", str(error))

    def answered(self, who: str) -> None:
        if (self._problems.pop(who, None) is not None or self.state == "starting") and not self._problems:
            self._note("live")

    def _note(self, state: EngineState, reason: str | None = None) -> None:
        """`reason`: in the words of whoever failed; None: there is none any more."""
        self.reason = reason
        if state == self.state:
            return
        self.state, self.since = state, clock.now()
        if reason is None:
            log.info("engine.live")
        else:
            log.warning(f"engine.{state}", reason=reason)


class NodeSettings(NamedTuple):
    """`address`: see Member. `seconds`: of a lease. `flush`: seconds that an event may wait for others."""

    role: Role
    name: str
    address: str
    lanes: int
    seconds: float
    flush: float


class WrongLanes(Exception):
    """The engine was set up with another number of lanes."""


class Node:
    def __init__(
        self,
        engine: Engine,
        settings: NodeSettings,
        exchanges: Iterable[Exchange],
        supervise: Supervise,
    ) -> None:
        self.settings = settings
        self.links = Links()
        self.engine = engine
        self.supervise = supervise
        lanes, seconds = settings.lanes, settings.seconds
        self.members = Members(
            engine,
            Member(name=settings.name, role=settings.role, address=settings.address),
            seconds=seconds,
            on_failure=partial(self.links.failed, "members"),
            on_answer=partial(self.links.answered, "members"),
        )
        self.everywhere = Everywhere(
            engine,
            supervise=supervise,
            on_failure=partial(self.links.failed, "everywhere"),
            on_answer=partial(self.links.answered, "everywhere"),
        )
        self.relays: dict[str, Relay] = {}
        self.mirrors: dict[str, Mirror] = {}
        for exchange in exchanges:
            if settings.role != "edge":
                self.relays[exchange.name] = Relay(
                    exchange.name,
                    engine,
                    node=settings.name,
                    lanes=lanes,
                    seconds=seconds,
                    flush=settings.flush,
                    supervise=supervise,
                    on_failure=partial(self.links.failed, f"relay {exchange.name}"),
                    on_answer=partial(self.links.answered, f"relay {exchange.name}"),
                )
            self.mirrors[exchange.name] = Mirror(
                exchange,
                engine,
                lanes=lanes,
                seconds=seconds,
                everywhere=self.everywhere,
                supervise=supervise,
                on_failure=partial(self.links.failed, f"mirror {exchange.name}"),
                on_answer=partial(self.links.answered, f"mirror {exchange.name}"),
            )

    def write_to(self, also: Callable[[str, Sequence[Entry]], None]) -> None:
        """Give on what this node says, where it leads: see Relay."""
        for relay in self.relays.values():
            relay.also = also

    def also(self, exchange: str) -> Callable[[Topic, Said], None]:
        """What the feeds of an exchange are to tell all they say."""
        return self.relays[exchange].take

    def take(self, topic: Topic, said: Said) -> None:
        """Told of what is found beside the feeds."""
        self.relays[topic.exchange].take(topic, said)

    async def run(self, connectors: Mapping[str, Connector]) -> None:
        """Raises EngineUnfit, WrongLanes."""
        await self._check()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.supervise, "members", self.members.run)
            for mirror in self.mirrors.values():
                nursery.start_soon(mirror.run)
            nursery.start_soon(self.everywhere.run)
            for name, connector in connectors.items():
                nursery.start_soon(self.relays[name].run, connector)
                shelf = Shelf(self.engine, self.relays[name], connector)
                for task, run in (("wanted", partial(self._serve, connector)), ("shelf", shelf.run)):
                    nursery.start_soon(partial(self.supervise, task, run, exchange=name))

    async def _check(self) -> None:
        """Wait for the engine, and see that it can be used as it is set up."""
        while True:
            try:
                found = await self.engine.check(self.settings.lanes)
            except EngineAway as error:
                self.links.failed("check", error)
                await trio.sleep(ASK)
                continue
            self.links.answered("check")
            if found != self.settings.lanes:
                raise WrongLanes(f"the engine was set up with {found} lanes, not {self.settings.lanes}")
            return

    async def _serve(self, connector: Connector) -> None:
        """Collect what is wanted by clients, wherever they are, for as long as they want it."""
        holds: dict[str, ExitStack] = {}
        refused: set[str] = set()
        try:
            while True:
                await trio.sleep(LOOK)
                try:
                    wanted = set(await self.engine.wanted(connector.name))
                except EngineAway:
                    continue  # relay and mirror tell
                for name in set(holds) - wanted:
                    holds.pop(name).close()
                for name in wanted - set(holds):
                    try:
                        hold = ExitStack()
                        hold.enter_context(connector.reading(topic_named(name)))
                        holds[name] = hold
                    except MarketError as error:
                        if name not in refused:
                            log.warning("wanted.refused", topic=name, reason=str(error))
                        refused.add(name)
                refused &= wanted
        finally:
            for hold in holds.values():
                hold.close()

    def report(self) -> EngineReport:
        lanes = []
        for name, mirror in self.mirrors.items():
            relay = self.relays.get(name)
            for number, lane in enumerate(mirror.lanes):
                leader, term = _leader(lane.holder)
                ours = relay.lanes[number] if relay is not None else None
                is_led = ours is not None and ours.lease is not None and ours.said
                lag = round(ours.say_seconds * 1000, 3) if ours is not None and is_led else None
                lanes.append(LaneReport(lane.name, leader, term, lane.place, lag))
        links = self.links
        return EngineReport(links.state, links.since, links.reason, self.settings.role, self.settings.name, lanes)


def _leader(token: str | None) -> tuple[str | None, int | None]:
    if token is None:
        return None, None
    name, term, _ = token.rsplit("|", 2)
    return name, int(term)
