"""What other nodes find at the engine beside the log, put there by whoever leads: what an exchange lists."""

from collections.abc import Mapping
from typing import Protocol

import msgspec
import trio

from actors.engine.words import Engine, EngineAway, Lease
from actors.events import Instrument
from actors.relay.relay import Relay

LOOK = 1.0  # seconds between looks for what is to be put there

_encode = msgspec.json.Encoder().encode


class Listed(Protocol):
    """A catalogue, as far as it is asked here."""

    @property
    def instruments(self) -> Mapping[str, Instrument]: ...


class Lists(Protocol):
    """A connector, as far as it is asked here."""

    @property
    def name(self) -> str: ...
    @property
    def catalogue(self) -> Listed: ...


class Shelf:
    """Of one exchange; `relay` says what this node leads."""

    def __init__(self, engine: Engine, relay: Relay, connector: Lists) -> None:
        self._engine, self._relay, self._connector = engine, relay, connector
        self._listed: tuple[Lease, bytes] | None = None  # what was written last, and when we led by which lease

    async def run(self) -> None:
        """Put there what is new, until cancelled."""
        while True:
            await trio.sleep(LOOK)
            try:
                await self._list()
            except EngineAway:
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
