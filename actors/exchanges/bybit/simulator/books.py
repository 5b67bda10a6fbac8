"""Books, tiers of risk and bars of untraded prices of the simulated Bybit, as it spells them."""

from collections.abc import Callable

from actors.exchanges.bybit.simulator.rows import cut, price, quantity
from actors.simulation.book import Book
from actors.simulation.history import hashed
from actors.simulation.market import EIGHT, Tape, spell


def orderbook(symbol: str, tape: Tape, book: Book, now: int) -> dict[str, object]:
    """`u` and `seq` count on with each change; `cts` is the engine's time."""
    sides = {
        name: [[price(tape, ticks), quantity(tape, steps)] for ticks, steps in rows]
        for name, rows in (("b", book.bids), ("a", book.asks))
    }
    return {"s": symbol, **sides, "ts": now, "u": book.number, "seq": book.number, "cts": book.time}


def risk_rows(symbol: str) -> list[dict[str, object]]:
    return [
        {
            "id": number,
            "symbol": symbol,
            "riskLimitValue": str(2_000_000 * number),
            "maintenanceMargin": f"0.00{4 + number}",
            "initialMargin": f"0.0{number}",
            "isLowestRisk": int(number == 1),
            "maxLeverage": f"{100 // number}.00",
            "mmDeduction": "" if number == 1 else "2000",
        }
        for number in (1, 2)
    ]


def value_row(tape: Tape, opening: int, end: int, now: int, value: Callable[[Tape, int], int]) -> list[str]:
    """[open time, open, high, low, close]"""
    times = [opening + (end - opening) * part // 8 for part in range(8)]
    values = [value(tape, min(at, now)) for at in (*times, end - 1)]
    told = values[0], max(values), min(values), values[-1]
    decimals = 8 if value is premium else tape.price_decimals
    return [str(opening), *(cut(one, decimals) for one in told)]


def premium(tape: Tape, at: int) -> int:
    """How far the mark price is above the index, as a fraction of it; 1e-8."""
    index = tape.index(at)
    return (tape.mark(at) - index) * EIGHT // index


def ratio_row(symbol: str, tape: Tape, at: int) -> dict[str, str]:
    buys = 4000 + hashed(tape.key, at) % 2001  # 1e-4
    return {"symbol": symbol, "buyRatio": spell(buys, 4), "sellRatio": spell(10_000 - buys, 4), "timestamp": str(at)}
