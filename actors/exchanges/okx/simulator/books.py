"""Order books and day's tickers of the simulated OKX, as it spells them."""

from actors.exchanges.okx.simulator.rows import base, contracts, price
from actors.simulation.book import Book, book_of
from actors.simulation.history import DAY, MINUTE
from actors.simulation.market import Tape

DEPTH = 60

Levels = dict[str, list[str]]
"""By price: [price, contracts, "0", orders]"""


def levels(tape: Tape, book: Book, depth: int) -> tuple[Levels, Levels]:
    """Bids and asks, best first."""
    sides = []
    for rows in (book.bids, book.asks):
        told = [(price(tape, ticks), contracts(tape, steps)) for ticks, steps in rows[:depth]]
        sides.append({px: [px, size, "0", "1"] for px, size in told})
    return sides[0], sides[1]


def book_row(tape: Tape, now: int, depth: int) -> dict[str, object]:
    bids, asks = levels(tape, book_of(tape, now, DEPTH), depth)
    return {"asks": list(asks.values()), "bids": list(bids.values()), "ts": str(now)}


def ticker_row(symbol: str, tape: Tape, now: int) -> dict[str, object]:
    book = book_of(tape, now, 1)
    begun = now - now % MINUTE - DAY + MINUTE
    day = tape.span(max(begun, tape.listed), begun + DAY)
    last = tape.trades[-1] if tape.trades else None
    (bid, bid_size), (ask, ask_size) = book.bids[0], book.asks[0]
    return {
        "instType": "SWAP",
        "instId": symbol,
        "last": price(tape, last.price if last else day.close),
        "lastSz": contracts(tape, last.quantity if last else 1),
        "askPx": price(tape, ask),
        "askSz": contracts(tape, ask_size),
        "bidPx": price(tape, bid),
        "bidSz": contracts(tape, bid_size),
        "open24h": price(tape, day.open),
        "high24h": price(tape, day.high),
        "low24h": price(tape, day.low),
        "volCcy24h": base(tape, day.volume),
        "vol24h": contracts(tape, day.volume),
        "ts": str(now),
        "sodUtc0": price(tape, day.open),
        "sodUtc8": price(tape, day.open),
    }
