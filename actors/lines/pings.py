"""Whether the other end of a connection is there: pings, and the exchange's own heartbeat."""

from collections.abc import Callable

import trio

from actors.errors import LineLost
from actors.exchanges.exchange import LineLimits
from actors.lines.asking import send_frame
from actors.upstream.dial import ConnectionClosed
from actors.upstream.seam import Socket

ALIVE_WITHIN = 4.0  # seconds in which a connection that may be quiet must answer


async def check(socket: Socket) -> None:
    """Returns when the connection has answered. Raises LineLost where it does not."""
    try:
        with trio.fail_after(ALIVE_WITHIN):
            await socket.ping()
    except trio.TooSlowError:
        raise LineLost(f"silence: not even a pong within {ALIVE_WITHIN:g} s", how="silence") from None
    except ConnectionClosed:
        return  # the receiving task says why


async def ping(socket: Socket, limits: LineLimits, last_heard: Callable[[], float]) -> None:
    """For as long as the connection lasts. Raises LineLost where it neither answers nor says anything else."""
    while True:
        await trio.sleep(limits.ping_every)
        try:
            with trio.fail_after(limits.pong_within):
                await socket.ping()
        except trio.TooSlowError:
            # Whoever still sends data is alive: its pong waits behind them, or is withheld.
            if trio.current_time() - last_heard() > limits.pong_within:
                raise LineLost(f"no pong within {limits.pong_within:g} s", how="timeout") from None
        except ConnectionClosed:
            return  # the receiving task says why


async def beat(socket: Socket, limits: LineLimits, heartbeat: str) -> None:
    """For ever."""
    while True:
        await trio.sleep(limits.heartbeat_every)
        await send_frame(socket, heartbeat)
