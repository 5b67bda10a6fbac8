"""Calls under way, shared: whoever asks for the same thing while it is being fetched gets the same answer."""

from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar, cast

import outcome
import trio

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
        """The result of `call`, made once for all who ask for `key` while it is under way; its error likewise."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            self._nursery.start_soon(self._fly, key, flight, call)
        await flight.landed.wait()
        if flight.error is not None:
            raise flight.error.with_traceback(None)
        return cast(T, flight.value)

    async def _fly(self, key: Hashable, flight: _Flight, call: Callable[[], Awaitable[object]]) -> None:
        async def run() -> object:
            return await call()

        result = await outcome.acapture(run)
        del self._flights[key]
        match result:
            case outcome.Value(value=value):
                flight.value = value
            case outcome.Error(error=Exception() as error):
                flight.error = error  # a fault of ours too: it belongs to those who asked, and only to them
            case outcome.Error(error=error):
                raise error
        flight.landed.set()
