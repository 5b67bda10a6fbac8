"""What clients of this node want of an exchange, said to whoever collects; and what of it cannot be collected."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import trio

from actors.engine.words import Engine, EngineAway

WANTED = 30.0  # seconds that a topic is collected after the last word that somebody wants it
LOOK = 0.5  # seconds between looks for what is refused, while anything is wanted
PAUSE = 0.2  # seconds before an engine that did not answer is asked again


class Wants:
    """`on_refused`: told the name of a topic that is wanted and cannot be collected any more, and why."""

    def __init__(self, engine: Engine, exchange: str, on_refused: Callable[[str, str], None]) -> None:
        self.refused: Mapping[str, str] = {}  # by the name of a topic: why
        self._engine, self._exchange = engine, exchange
        self._on_refused = on_refused
        self._wanted: Counter[str] = Counter()
        self._told: set[str] = set()  # topics that are refused, and whoever wants them knows it
        self._asks = trio.Event()

    @contextmanager
    def wanting(self, name: str) -> Iterator[None]:
        """The topic is wanted for as long as the block lasts and a while after."""
        self._wanted[name] += 1
        self._told.discard(name)
        if self._wanted[name] == 1:
            self._asks.set()
        try:
            yield
        finally:
            self._wanted[name] -= 1
            if not self._wanted[name]:
                del self._wanted[name]

    async def say(self) -> None:
        """Say again and again what is wanted."""
        while True:
            self._asks = trio.Event()
            if self._wanted:
                try:
                    await self._engine.want(self._exchange, list(self._wanted), WANTED)
                except EngineAway:
                    await trio.sleep(PAUSE)
                    continue
            with trio.move_on_after(WANTED / 3):
                await self._asks.wait()

    async def look(self) -> None:
        """Look again and again what is refused."""
        while True:
            if self._wanted:
                try:
                    self.refused = await self._engine.refused(self._exchange)
                except EngineAway:
                    await trio.sleep(PAUSE)
                    continue
                self._told &= self.refused.keys()
                for name, reason in self.refused.items():
                    if name in self._wanted and name not in self._told:
                        self._told.add(name)
                        self._on_refused(name, reason)
            await trio.sleep(LOOK)
