"""Calls shared, and whose error is whose."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.errors import RateLimited, UpstreamError
from actors.upstream.caller import CLIENT, Client
from actors.upstream.flights import Flights


async def test_one_client_s_spent_share_is_not_another_s_refusal(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    flights = Flights(nursery)
    answers: dict[str, object] = {}

    async def call() -> str:
        await trio.sleep(1)
        if CLIENT.get().id == "greedy":
            raise RateLimited("spent", limit="upstream_share")
        return "rows"

    async def ask(name: str, seat: str) -> None:
        CLIENT.set(Client(name, exempt=False))
        try:
            answers[seat] = await flights.share("key", call)
        except RateLimited as error:
            answers[seat] = error.limit

    async with trio.open_nursery() as asking:
        for name, seat in (("greedy", "first"), ("modest", "second"), ("modest", "third")):
            asking.start_soon(ask, name, seat)
            await wait_all_tasks_blocked()
    assert answers == {"first": "upstream_share", "second": "rows", "third": "rows"}


async def test_an_exchange_s_error_is_everybody_s(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    flights, calls = Flights(nursery), []

    async def call() -> None:
        calls.append(trio.current_time())
        await trio.sleep(1)
        raise UpstreamError("broken")

    async def ask() -> None:
        with pytest.raises(UpstreamError):
            await flights.share("key", call)

    async with trio.open_nursery() as asking:
        for _ in range(3):
            asking.start_soon(ask)
    assert len(calls) == 1
