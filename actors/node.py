"""One node among several: its relays, its mirrors, and how it stands with the engine between them.

A node is given whatever a connector's feeds say, leads the lanes that nobody leads, and serves its own clients from the
mirrors, so that every node tells the same under the same numbers. What clients want here is collected on every node.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import structlog
import trio

from actors.connector import Connector
from actors.engine.links import EngineReport, LaneReport, Links
from actors.engine.words import Engine, EngineAway, Entry, Member, Role
from actors.events import Said, Topic
from actors.exchanges.exchange import Exchange, Supervise
from actors.mirror.everywhere import Everywhere
from actors.mirror.lane import Lane as Read
from actors.mirror.mirror import Mirror
from actors.mirror.shared import Elsewhere, Shared
from actors.relay.lane import Lane as Led
from actors.relay.members import Members
from actors.relay.relay import Relay
from actors.relay.saying import Saying
from actors.relay.shelf import Shelf
from actors.relay.takeover import holder_of, topic_named
from actors.relay.wanted import REFUSED, Wanted

LOOK = 0.25  # seconds between looks for what is to be collected here
ASK = 1.0  # seconds before an engine that was never reached is asked again

log = structlog.get_logger()


class NodeSettings(NamedTuple):
    """`address`: see Member. `lanes`: of each exchange. `copies`: nodes that follow each lane. `seconds`: of a lease.

    `flush`: seconds that an event may wait for others.
    """

    role: Role
    name: str
    address: str
    lanes: int
    copies: int
    seconds: float
    flush: float


class WrongLanes(Exception):
    """The engine was set up with another number of lanes."""


class NameTaken(Exception):
    """Another node that is there is called as this one."""


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
            ready=lambda: [name for relay in self.relays.values() for name in relay.claims.ready()],
            on_failure=partial(self.links.failed, "members"),
            on_answer=partial(self.links.answered, "members"),
        )
        self.everywhere = Everywhere(
            engine,
            supervise=supervise,
            on_failure=partial(self.links.failed, "everywhere"),
            on_answer=partial(self.links.answered, "everywhere"),
        )
        self.on_change: Callable[[], None] = lambda: None  # what is collected here is something else
        self._shared: dict[str, Shared] = {}
        self._undecided: set[str] = set()  # exchanges of which it is not known yet what is to be collected here
        self._symbols: dict[str, tuple[str, ...]] = {}  # by exchange: configured, whoever collects them
        self._saying = Saying(
            engine,
            seconds=seconds,
            flush=settings.flush,
            on_failure=partial(self.links.failed, "saying"),
            on_answer=partial(self.links.answered, "saying"),
        )
        self.relays: dict[str, Relay] = {}
        self.mirrors: dict[str, Mirror] = {}
        for exchange in exchanges:
            if settings.role != "edge":
                self._undecided.add(exchange.name)
                self.relays[exchange.name] = Relay(
                    exchange.name,
                    engine,
                    members=self.members,
                    lanes=lanes,
                    copies=settings.copies,
                    seconds=seconds,
                    saying=self._saying,
                    supervise=supervise,
                    on_failure=partial(self.links.failed, f"relay {exchange.name}"),
                    on_answer=partial(self.links.answered, f"relay {exchange.name}"),
                )
            if settings.role != "ingest":
                self.mirrors[exchange.name] = Mirror(
                    exchange,
                    engine,
                    lanes=lanes,
                    seconds=seconds,
                    everywhere=self.everywhere,
                    supervise=supervise,
                    is_full=lambda: self.links.state == "full",
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

    def shared(self, connectors: Mapping[str, Connector]) -> Mapping[str, Shared | Elsewhere]:
        """What clients of this node read topics from, by exchange."""
        if self.settings.role == "ingest":
            return dict.fromkeys(connectors, Elsewhere(self.elsewhere))
        for name, connector in connectors.items():
            self._shared[name] = Shared(connector, self.mirrors[name], self._symbols[name])
        return self._shared

    def elsewhere(self) -> str:
        """Where streams are told that are not told here, in words."""
        there = [member.address for member in self.members.present if member.role != "ingest" and member.address]
        return f"this node serves no streams; nodes that do: {', '.join(there) or 'none is there'}"

    async def run(self, connectors: Mapping[str, Connector]) -> None:
        """Raises EngineUnfit, WrongLanes, NameTaken."""
        await self._check()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.supervise, "members", self.members.run)
            for mirror in self.mirrors.values():
                nursery.start_soon(mirror.run)
            if self.mirrors:
                nursery.start_soon(self.everywhere.run)
            nursery.start_soon(self.supervise, "saying", self._saying.run)
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
            break
        await self._check_name()

    async def _check_name(self) -> None:
        """What this very node said of itself before it was started again is over after a lease."""
        me, until = self.members.me, trio.current_time() + 1.25 * self.settings.seconds
        while True:
            try:
                found = {member.name: member.address for member in await self.engine.members()}
            except EngineAway as error:
                self.links.failed("check", error)
                await trio.sleep(ASK)
                continue
            self.links.answered("check")
            other = found.get(me.name, me.address)
            if other == me.address:
                return
            if trio.current_time() >= until:
                raise NameTaken(f"another node is called {me.name}: {other}")
            await trio.sleep(self.settings.seconds / 8)

    def collect(self, exchange: str, symbols: Sequence[str]) -> tuple[str, ...]:
        """Collect these symbols of an exchange together with the other nodes; those among them that are ours now."""
        self._symbols[exchange] = tuple(symbols)
        if shared := self._shared.get(exchange):
            shared.symbols = self._symbols[exchange]
        relay = self.relays[exchange]
        return tuple(symbol for symbol in symbols if relay.claims.follows(relay.lane(symbol)))

    async def _serve(self, connector: Connector) -> None:
        """Collect what is ours of what is configured, and of what clients want, wherever they are, while they do."""
        relay, wanted = self.relays[connector.name], Wanted(connector)
        claims = relay.claims
        try:
            while True:
                with suppress(EngineAway):  # relay and mirror tell
                    wanted.names = set(await self.engine.wanted(connector.name))
                    for name, reason in wanted.to_refuse().items():
                        if relay.lane(topic_named(name).symbol).lease is not None:  # who stands by may have room later
                            await self.engine.refuse(connector.name, name, reason, REFUSED)
                wanted.collect({name for name in wanted.names if claims.follows(relay.lane(topic_named(name).symbol))})
                ours = self.collect(connector.name, self._symbols[connector.name])
                if ours != connector.symbols:
                    log.info("symbols.followed", exchange=connector.name, symbols=len(ours))
                    connector.change(symbols=ours)
                    self.on_change()
                wanted.end_the_unread()
                if claims.are_settled:
                    self._undecided.discard(connector.name)
                if connector.catalogue.instruments:
                    symbols = {*self._symbols[connector.name], *wanted.symbols}
                    claims.expect(symbol for symbol in symbols if connector.catalogue.problem_of(symbol) is None)
                await trio.sleep(LOOK)
        finally:
            wanted.collect(set())

    def report(self) -> EngineReport:
        lanes = []
        for name in self.relays or self.mirrors:
            relay, mirror = self.relays.get(name), self.mirrors.get(name)
            for number in range(self.settings.lanes):
                led = None if relay is None else relay.lanes[number]
                read = None if mirror is None else mirror.lanes[number]
                lanes.append(_lane_report(f"{name}.{number}", led, read))
        links, about = self.links, self.settings
        state, reason = links.state, links.reason
        if state == "live" and (self._undecided or any(mirror.is_away for mirror in self.mirrors.values())):
            state, reason = "starting", "what is collected and told here is not known yet"
        return EngineReport(state, links.since, reason, about.role, about.name, lanes)


def _lane_report(name: str, led: Led | None, read: Read | None) -> LaneReport:
    """`led`: as it is led here, if we hold its lease. `read`: as it is told here."""
    holder = read.holder if read is not None else led.holder if led is not None else None
    leader, term = (None, None) if holder is None else holder_of(holder)
    is_ours = led is not None and led.lease is not None and led.said
    lag = round(led.say_seconds * 1000, 3) if led is not None and is_ours else None
    return LaneReport(name, leader, term, None if read is None else read.place, lag)
