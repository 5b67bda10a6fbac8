"""Books, prices and derived bars of the simulated Binance USD-M: the REST answers that bots poll beside the basics."""

from collections.abc import Mapping

from actors.exchanges.binance.simulator.rows import price, quantity
from actors.simulation.book import Book, book_of
from actors.simulation.history import floor_open, shift_open
from actors.simulation.market import Tape, Trade, spell

DEPTHS = (5, 10, 20, 50, 100, 500, 1000)


def levels(tape: Tape, book: Book) -> dict[str, list[list[str]]]:
    return {
        side: [[price(tape, ticks), quantity(tape, steps)] for ticks, steps in rows]
        for side, rows in (("bids", book.bids), ("asks", book.asks))
    }


def depth(tape: Tape, now: int, limit: int) -> dict[str, object]:
    book = book_of(tape, now, min(limit, 100))
    return {"lastUpdateId": book.number, "E": now, "T": book.time, **levels(tape, book)}


def depth_weight(query: Mapping[str, str]) -> int:
    limit = int(text) if (text := query.get("limit", "500")).isascii() and text.isdigit() else 500
    return 2 if limit <= 50 else 5 if limit <= 100 else 10 if limit <= 500 else 20


def best(symbol: str, tape: Tape, now: int) -> dict[str, object]:
    book = book_of(tape, now, 1)
    (bid, bids), (ask, asks) = book.bids[0], book.asks[0]
    return {
        "symbol": symbol,
        "bidPrice": price(tape, bid),
        "bidQty": quantity(tape, bids),
        "askPrice": price(tape, ask),
        "askQty": quantity(tape, asks),
        "time": book.time,
        "lastUpdateId": book.number,
    }


def last_price(symbol: str, tape: Tape, now: int) -> dict[str, object]:
    minute = tape.bar("1m", now - now % 60_000)
    return {"symbol": symbol, "price": price(tape, minute.close), "time": tape.trades[-1].time if tape.trades else now}


def single_trades(tape: Tape, trades: list[Trade]) -> list[dict[str, object]]:
    """Each aggregate's first fill stands for it."""
    return [
        {
            "id": trade.last,
            "price": price(tape, trade.price),
            "qty": quantity(tape, trade.quantity),
            "quoteQty": spell(trade.price * tape.tick_units * trade.quantity * tape.step_units, _decimals(tape)),
            "time": trade.time,
            "isBuyerMaker": trade.side == "sell",
            "isRPITrade": False,
        }
        for trade in trades
    ]


def _decimals(tape: Tape) -> int:
    return tape.price_decimals + tape.step_decimals


def value_klines(tape: Tape, interval: str, opens: list[int], now: int, kind: str) -> list[list[object]]:
    """Bars of the mark or index price, or of the premium between them; they have no volumes."""
    rows: list[list[object]] = []
    for opening in opens:
        end = shift_open(interval, opening, 1)
        times = [opening + (end - opening) * part // 8 for part in range(8)]
        values = [_value(tape, min(at, now), kind) for at in (*times, end - 1)]
        told = [spell(value, 8) for value in (values[0], max(values), min(values), values[-1])]
        rows.append([opening, *told, "0", end - 1, "0", (end - opening) // 1000, "0", "0", "0"])
    return rows


def _value(tape: Tape, at: int, kind: str) -> int:
    if kind == "mark":
        return tape.mark(at)
    if kind == "index":
        return tape.index(at)
    return (tape.mark(at) - tape.index(at)) * 10**8 // tape.index(at)


def opens(interval: str, start: int | None, end: int | None, limit: int, now: int) -> list[int]:
    """When the bars of a range opened, at most `limit`."""
    last = floor_open(interval, now if end is None else min(end, now))
    if start is None:
        return [shift_open(interval, last, -back) for back in range(limit - 1, -1, -1)]
    first = floor_open(interval, start)
    at = first if first == start else shift_open(interval, first, 1)
    found: list[int] = []
    while at <= last and len(found) < limit:
        found.append(at)
        at = shift_open(interval, at, 1)
    return found
