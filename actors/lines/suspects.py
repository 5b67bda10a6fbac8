"""Symbols, one of which makes the exchange cut the connection. It does not say which: it is found by elimination.

Every symbol that was not confirmed when a connection was cut is suspect, and asked for alone on the next connections.
"""

from collections import Counter
from collections.abc import Callable, Iterable

import trio

CUTS = 2  # so many, each while one symbol alone was asked for, convict it: a network may cut one by chance
LOOK = 0.05  # seconds between looks at what has no event to wait for
ACKNOWLEDGED_WITHIN = 5.0  # seconds


class Suspects:
    def __init__(self) -> None:
        self._symbols: set[str] = set()
        self._trial: str | None = None  # the only symbol that is asked for at the moment
        self._cuts: Counter[str] = Counter()  # by symbol, on trial

    def __bool__(self) -> bool:
        return bool(self._symbols)

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._symbols

    def restart(self) -> None:
        """A new connection: nobody is on trial."""
        self._trial = None

    def blame(self, symbols: set[str]) -> str | None:
        """A connection was cut before these were confirmed; the one that is convicted by it, if any."""
        if symbols == {self._trial}:
            [symbol] = symbols
            self._cuts[symbol] += 1
            if self._cuts[symbol] >= CUTS:
                self._symbols.discard(symbol)
                return symbol
        self._symbols |= symbols
        return None

    async def try_each(
        self,
        ask: Callable[[str], None],
        unacknowledged: Callable[[], Iterable[object]],
        pending: Callable[[], bool],
        has_answered: Callable[[], bool],
    ) -> None:
        """Ask for one suspect after the other, on a connection that answers and has nothing else to confirm."""
        await _settled(unacknowledged, pending)
        with trio.move_on_after(ACKNOWLEDGED_WITHIN):
            while not has_answered():  # noqa: ASYNC110 (a plain counter)
                await trio.sleep(LOOK)
        answers = has_answered()
        for symbol in sorted(self._symbols):
            self._trial = symbol if answers else None
            ask(symbol)
            await _settled(unacknowledged, pending)
            self._trial = None
            self._symbols.discard(symbol)
            self._cuts.pop(symbol, None)


async def _settled(unacknowledged: Callable[[], Iterable[object]], pending: Callable[[], bool]) -> None:
    """Wait until all that was asked for is confirmed, or is not going to be."""
    while pending():  # noqa: ASYNC110 (a plain deque)
        await trio.sleep(LOOK)
    with trio.move_on_after(ACKNOWLEDGED_WITHIN):
        while unacknowledged():  # noqa: ASYNC110 (state of a protocol without I/O)
            await trio.sleep(LOOK)
