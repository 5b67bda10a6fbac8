"""How tests say one lane's bursts alone."""

from actors.engine.words import Burst, Engine, Lease


async def say(engine: Engine, lease: Lease, burst: Burst) -> None:
    """Raises what it is refused for."""
    for refused in (await engine.say({lease: burst})).values():
        raise refused
