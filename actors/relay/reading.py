"""A lane's log, read in pages: whoever takes a lane over, with many others, must keep its lease while it reads.

The most of it is read before that, while the lease of a leader that fell silent runs out.
"""

from actors.engine.words import Engine, Present, Told

PAGE = 200  # bursts, each of which is some events: milliseconds


class Reading:
    """Of the log from its beginning; `bursts`: what was read, `is_over`: there was no more."""

    def __init__(self, engine: Engine, lane: str) -> None:
        self.bursts: list[Told] = []
        self.is_over = False
        self._engine, self._lane = engine, lane

    async def read_on(self) -> None:
        """One page. Raises EngineAway, and may be asked again."""
        behind = self.bursts[-1].place if self.bursts else "0-0"
        page = await self._engine.tail(self._lane, behind, PAGE)
        self.bursts += page
        self.is_over = len(page) < PAGE

    def leads_to(self, present: Present) -> bool:
        """Nothing is missing of what was read: not so where the engine came back older meanwhile, or trimmed more."""
        numbers = [told.n for told in self.bursts]
        return numbers == list(range(present.n + 1 - len(numbers), present.n + 1))
