"""Calls shared: whoever asks for the same thing while it is being fetched, or just after, gets the same answer."""

from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar, cast

import outcome
import trio

from actors.errors import RateLimited

# Seconds that an answer is given to those who ask the same. Requests that were sent at one moment do not arrive at one:
# a quick exchange has answered the first before the last of them is here.
FRESH = 1.0

T = TypeVar("T")


class _Flight:
    """One call under way."""

    def __init__(self) -> None:
        self.landed = trio.Event()
        self.value: object = None
        self.error: Exception | None = None


class Flights:
    """Runs calls in `nursery`, not in their callers: one caller's leaving does not take the answer from the others."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._flights: dict[Hashable, _Flight] = {}

    async def share(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> T:
        """The result of `call`, made once for all who ask for `key` meanwhile or just after; errors only meanwhile."""
        while True:
            flight = self._flights.get(key)
            is_mine = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight()
                self._nursery.start_soon(self._fly, key, flight, call)
            await flight.landed.wait()
            if isinstance(flight.error, RateLimited) and not is_mine:
                continue  # who asked first had no more to spend; this one may
            if flight.error is not None:
                raise flight.error.with_traceback(None)
            return cast(T, flight.value)

    async def _fly(self, key: Hashable, flight: _Flight, call: Callable[[], Awaitable[object]]) -> None:
        async def run() -> object:
            return await call()

        result = await outcome.acapture(run)
        match result:
            case outcome.Value(value=value):
                flight.value = value
                flight.landed.set()
                await trio.sleep(FRESH)
            case outcome.Error(error=Exception() as error):
                flight.error = error  # a fault of ours too: it belongs to those who asked, and only to them
                flight.landed.set()
            case outcome.Error(error=error):
                raise error
        del self._flights[key]
