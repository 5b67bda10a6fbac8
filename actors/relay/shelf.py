"""What other nodes find at the engine beside the log, put there by whoever leads: what an exchange lists, and the
closed bars from before anything was said, or from a while of which something is missing.

Bars that are said are added by the engine itself: here are written only those that it lacks.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

import msgspec
import trio

from actors import turns
from actors.engine.words import Engine, EngineAway, Fenced, Lease
from actors.events import Instrument, Topic, ms
from actors.relay.closes import Knows
from actors.relay.lane import Lane
from actors.relay.relay import Relay

LOOK = 1.0  # seconds between looks for what is to be put there
ALL = 100_000  # bars: as many as a feed holds

_encode = msgspec.json.Encoder().encode


class Listed(Protocol):
    """A catalogue, as far as it is asked here."""

    @property
    def instruments(self) -> Mapping[str, Instrument]: ...


class Holds(Knows, Protocol):
    """A feed, as far as it is asked here."""

    def held_since(self, interval: str) -> datetime | None: ...


class Lists(Protocol):
    """A connector, as far as it is asked here."""

    @property
    def name(self) -> str: ...
    @property
    def catalogue(self) -> Listed: ...
    @property
    def feeds(self) -> Mapping[str, Holds]: ...


class Shelf:
    """Of one exchange; `relay` says what this node leads."""

    def __init__(self, engine: Engine, relay: Relay, connector: Lists) -> None:
        self._engine, self._relay, self._connector = engine, relay, connector
        self._listed: tuple[Lease, bytes] | None = None  # what was written last, and when we led by which lease
        self._kept: dict[Lease, set[str]] = {}  # by our terms: topics of bars of which the engine has all

    async def run(self) -> None:
        """Put there what is new, until cancelled."""
        while True:
            await trio.sleep(LOOK)
            try:
                await self._list()
                self._kept = {lane.lease: self._kept.get(lane.lease, set()) for lane in self._relay.lanes if lane.lease}
                for lane in self._relay.lanes:
                    if lane.lease is not None:
                        await self._keep_bars(lane, lane.lease)
            except (EngineAway, Fenced):
                continue  # the relay tells

    async def _list(self) -> None:
        """Who leads the first lane writes the catalogue, anew in each term: what is there may be older."""
        lease, instruments = self._relay.lanes[0].lease, self._connector.catalogue.instruments
        if lease is None or not instruments:
            return
        text = _encode(list(instruments.values()))
        if (lease, text) != self._listed:
            await self._engine.write_catalogue(self._connector.name, text)
            self._listed = lease, text

    async def _keep_bars(self, lane: Lane, lease: Lease) -> None:
        """Write what the engine lacks. Raises EngineAway, Fenced."""
        kept = self._kept.setdefault(lease, set())
        kept -= lane.writer.torn
        lacking = {name: topic for name, topic in lane.writer.bars.items() if name not in kept}
        if not lacking:
            return
        since = await self._engine.bars_since(lane.name, list(lacking))
        for name, topic in lacking.items():
            begins = self._held_since(topic)
            if begins is None:
                continue  # it is yet to be loaded
            if name in lane.writer.torn or ms(begins) < since.get(name, ms(begins) + 1):
                await self._write_bars(lane, lease, name, topic)
            kept.add(name)

    def _held_since(self, topic: Topic) -> datetime | None:
        feed = self._connector.feeds.get(topic.symbol)
        return feed.held_since(topic.interval or "") if feed is not None else None

    async def _write_bars(self, lane: Lane, lease: Lease, name: str, topic: Topic) -> None:
        feed = self._connector.feeds.get(topic.symbol)
        known = feed.closed_bars(topic.interval or "", ALL) if feed is not None else None
        lane.writer.torn.discard(name)
        if known is not None and known[1]:
            await self._engine.write_bars(lease, name, {ms(bar.timestamp): _encode(bar) for bar in known[1]})
            await turns.room()
