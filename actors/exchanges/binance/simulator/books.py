"""Books, prices and derived bars of the simulated Binance USD-M: what bots ask for and follow beside the basics."""

from collections.abc import Mapping

import msgspec

from actors.exchanges.binance.simulator.rows import price, quantity, ticker_row
from actors.exchanges.binance.simulator.streams import Source
from actors.simulation.book import Book, Level, book_of
from actors.simulation.history import floor_open, shift_open
from actors.simulation.market import Tape, Trade, spell

_encode = msgspec.json.encode

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


def single_trade(symbol: str, tape: Tape, now: int) -> Source:
    """One frame per aggregate, as its last fill."""
    frames: list[bytes] = []
    following = tape.next_id
    while True:
        now = yield frames
        count = tape.next_id - following
        following = tape.next_id
        frames = [
            _encode(
                {
                    **{"e": "trade", "E": now, "T": trade.time, "s": symbol, "t": trade.last},
                    **{"p": price(tape, trade.price), "q": quantity(tape, trade.quantity)},
                    **{"X": "MARKET", "m": trade.side == "sell", "st": 1},
                }
            )
            for trade in (tape.trades[-count:] if count else ())
        ]


def day_ticker(symbol: str, tape: Tape, now: int, *, mini: bool) -> Source:
    """Of the last 24 hours, every 2 s; the small one every second."""
    frames: list[bytes] = []
    every = 1000 if mini else 2000
    last = now // every
    while True:
        now = yield frames
        frames = []
        if now // every > last:
            last = now // every
            frames = [_encode(_day(symbol, tape, now, mini=mini))]


def day_tickers(symbols: Mapping[str, Tape], now: int, *, mini: bool) -> Source:
    """Of all that were traded since the last time, as one array."""
    frames: list[bytes] = []
    last = now // 1000
    seen = {symbol: tape.next_id for symbol, tape in symbols.items()}
    while True:
        now = yield frames
        frames = []
        if now // 1000 > last:
            last = now // 1000
            changed = [symbol for symbol, tape in symbols.items() if tape.next_id != seen[symbol]]
            seen |= {symbol: symbols[symbol].next_id for symbol in changed}
            rows = [_day(symbol, symbols[symbol], now, mini=mini) for symbol in changed]
            frames = [_encode(rows)] if rows else []


def _day(symbol: str, tape: Tape, now: int, *, mini: bool) -> dict[str, object]:
    row, names = ticker_row(symbol, tape, now), MINI if mini else MINI | FULL
    told = {"e": "24hrMiniTicker" if mini else "24hrTicker", "E": now, "s": symbol}
    return told | {short: row[long] for short, long in names.items()} | {"st": 1}


MINI = {"c": "lastPrice", "o": "openPrice", "h": "highPrice", "l": "lowPrice", "v": "volume", "q": "quoteVolume"}
FULL = {
    **{"p": "priceChange", "P": "priceChangePercent", "w": "weightedAvgPrice", "Q": "lastQty", "O": "openTime"},
    **{"C": "closeTime", "F": "firstId", "L": "lastId", "n": "count"},
}


def depth_changes(symbol: str, tape: Tape, now: int, every: int) -> Source:
    """What changed of the book: `pu` is the `u` of the frame before. A size of 0 takes a level away."""
    frames: list[bytes] = []
    shown = book_of(tape, now, 100)
    last = now // every
    while True:
        now = yield frames
        frames = []
        book = book_of(tape, now, 100)
        if now // every > last and book.number != shown.number:
            last = now // every
            sides = {"b": _changed(shown.bids, book.bids), "a": _changed(shown.asks, book.asks)}
            told = {
                name: [[price(tape, at), quantity(tape, size)] for at, size in rows.items()]
                for name, rows in sides.items()
            }
            head = {"e": "depthUpdate", "E": now, "T": book.time, "s": symbol, "U": shown.number + 1, "u": book.number}
            frames = [_encode({**head, "pu": shown.number, **told, "st": 1})]
            shown = book


def _changed(before: list[Level], after: list[Level]) -> dict[int, int]:
    gone = {at: 0 for at, _ in before}
    return gone | {at: size for at, size in after}


def partial_depth(symbol: str, tape: Tape, now: int, levels_shown: int, every: int) -> Source:
    """The best levels, whole each time."""
    frames: list[bytes] = []
    last, number = now // every, 0
    while True:
        now = yield frames
        frames = []
        book = book_of(tape, now, levels_shown)
        if now // every > last and book.number != number:
            last = now // every
            head = {"e": "depthUpdate", "E": now, "T": book.time, "s": symbol, "U": number + 1, "u": book.number}
            told = levels(tape, book)
            frames = [_encode({**head, "pu": number, "b": told["bids"], "a": told["asks"], "st": 1})]
            number = book.number
