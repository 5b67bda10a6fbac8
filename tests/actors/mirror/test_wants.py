"""Whoever wants a topic that cannot be collected is told so, and once."""

import trio
from trio.testing import MockClock

from actors.engine.memory import MemoryEngine
from actors.mirror.wants import LOOK, Wants

TOPIC = "binance:BTCUSDT:trades"


async def test_a_refusal_is_told_once_to_each_who_comes(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Also to one that comes while the engine's last answer says so already, as it does while the engine is away."""
    engine, told = MemoryEngine(), list[str]()
    wants = Wants(engine, "binance", lambda name, reason: told.append(f"{name}: {reason}"))
    nursery.start_soon(wants.say)
    nursery.start_soon(wants.look)
    await engine.refuse("binance", TOPIC, "no room", 600)
    for expected in (1, 2):
        with wants.wanting(TOPIC):
            await trio.sleep(3 * LOOK)
            assert told == [f"{TOPIC}: no room"] * expected
    await trio.sleep(3 * LOOK)
    assert len(told) == 2
    nursery.cancel_scope.cancel()


async def test_what_is_refused_again_is_told_again(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    engine, told = MemoryEngine(), list[str]()
    wants = Wants(engine, "binance", lambda name, reason: told.append(reason))
    nursery.start_soon(wants.look)
    with wants.wanting(TOPIC):
        for reason in ("no room", "delisted"):
            await engine.refuse("binance", TOPIC, reason, 5)
            await trio.sleep(10)
    assert told == ["no room", "delisted"]
    nursery.cancel_scope.cancel()
