"""An order book around a tape's last price: a function of the last trade alone, so that REST and streams agree."""

from typing import NamedTuple

from actors.simulation.history import hashed
from actors.simulation.market import Tape

Level = tuple[int, int]
"""(price in ticks, quantity in steps)"""


class Book(NamedTuple):
    """Best first. `number` counts up with every change."""

    number: int
    time: int
    bids: list[Level]
    asks: list[Level]


def book_of(tape: Tape, now: int, depth: int) -> Book:
    last = tape.trades[-1] if tape.trades else None
    price = last.price if last else tape.span(now - now % 60_000 - 60_000, now - now % 60_000 + 60_000).close
    bid = price if last is None or last.side == "sell" else price - 1
    seed = tape.last_fill
    bids = [(bid - at, 1 + hashed(tape.key + 11, bid - at + seed) % 900) for at in range(depth) if bid > at]
    asks = [(bid + 1 + at, 1 + hashed(tape.key + 13, bid + 1 + at + seed) % 900) for at in range(depth)]
    return Book(seed, last.time if last else now, bids, asks)
