"""The streams of the simulated Binance USD-M.

Law: a stream is a generator that is sent the time and yields the frames that have become due since the last time; it
sees the market and knows nothing of connections. The first `next` only starts it.
"""

from collections.abc import Generator
from typing import Any, Literal

import msgspec

from actors.exchanges.binance.simulator.rows import price, quantity, quote
from actors.simulation.history import Bar, floor_open, hashed, shift_open
from actors.simulation.market import Liquidation, Tape, spell

_encode = msgspec.json.encode

Source = Generator[list[bytes], int, None]


class ForcedOrders:
    """Samples each symbol's forced orders: one per 1000 ms, told when that second is over."""

    def __init__(self, symbols: dict[str, Tape], pick: Literal["largest", "latest"]) -> None:
        self._symbols = symbols
        self._pick = pick
        self._seen = {symbol: len(tape.liquidations) for symbol, tape in symbols.items()}
        self._open: dict[str, tuple[int, Liquidation]] = {}  # the end of the second, the best so far
        self._told = 0
        self.due: list[tuple[str, bytes]] = []  # what this tick tells

    def advance(self, now: int) -> None:
        self.due.clear()
        for symbol, tape in self._symbols.items():
            for order in tape.liquidations[self._seen[symbol] :]:
                end, best = self._open.get(symbol, (0, order))
                if order.time >= end:
                    if end:
                        self._tell(symbol, tape, end, best)
                    self._open[symbol] = order.time + 1000, order
                elif self._pick == "latest" or order.average * order.quantity > best.average * best.quantity:
                    self._open[symbol] = end, order
            self._seen[symbol] = len(tape.liquidations)
        for symbol, (end, best) in list(self._open.items()):
            if end + 3 <= now:
                self._tell(symbol, self._symbols[symbol], end, best)
                del self._open[symbol]

    def _tell(self, symbol: str, tape: Tape, end: int, order: Liquidation) -> None:
        limit, average = price(tape, order.limit), price(tape, order.average)
        frame = _force_order(
            symbol, symbol, 1, end + 3, order, limit, average,
            quantity(tape, order.quantity), quantity(tape, order.last_quantity),
        )  # fmt: skip
        self.due.append((symbol, frame))
        if symbol == "BTCUSDT":
            self._told += 1
            if self._told % 2:  # COIN-M orders come in the all-market stream too, counted in contracts of 100 USD
                contracts = str(max(1, int(float(average) * float(quantity(tape, order.quantity)) / 100)))
                frame = _force_order(
                    "BTCUSD_PERP", "BTCUSD", 2, end + 3, order,
                    limit[:-1], average[:-1], contracts, contracts,
                )  # fmt: skip
                self.due.append(("BTCUSD_PERP", frame))


def _force_order(
    symbol: str,
    pair: str,
    kind: int,
    at: int,
    order: Liquidation,
    limit: str,
    average: str,
    filled: str,
    last: str,
) -> bytes:
    return _encode(
        {
            "e": "forceOrder",
            "E": at,
            "o": {
                "s": symbol,
                "S": order.side.upper(),
                "o": "LIMIT",
                "f": "IOC",
                "q": filled,
                "p": limit,
                "ap": average,
                "X": "FILLED",
                "l": last,
                "z": filled,
                "T": order.time,
                "ps": pair,
                "st": kind,
            },
        }
    )


def forced(due: list[tuple[str, bytes]], wanted: str) -> Source:
    """One symbol's, or, without one, everybody's: an object per frame, never an array."""
    frames: list[bytes] = []
    while True:
        yield frames
        frames = [frame for symbol, frame in due if symbol == wanted or not wanted]


def agg_trades(symbol: str, tape: Tape, now: int) -> Source:
    frames: list[bytes] = []
    following = tape.next_id
    while True:
        now = yield frames
        count = tape.next_id - following
        frames = [
            _encode(
                {
                    "e": "aggTrade",
                    "E": now,
                    "a": trade.id,
                    "s": symbol,
                    "p": price(tape, trade.price),
                    "q": quantity(tape, trade.quantity),
                    "nq": quantity(tape, trade.public_quantity),
                    "f": trade.first,
                    "l": trade.last,
                    "T": trade.time,
                    "m": trade.side == "sell",
                    "st": 1,
                }
            )
            for trade in (tape.trades[-count:] if count else ())
        ]
        following = tape.next_id


def klines(symbol: str, tape: Tape, interval: str, now: int) -> Source:
    """At most every 250 ms and only on change; the closing frame late, and before anything of the next bar."""
    frames: list[bytes] = []
    opening, pushed = floor_open(interval, now), now
    if now < _closing(tape, interval, before := shift_open(interval, opening, -1)):
        opening = before
    shown: Bar | None = tape.bar(interval, opening)
    while True:
        now = yield frames
        frames = []
        while True:
            closing = _closing(tape, interval, opening)
            bar = tape.bar(interval, opening)
            if now < closing:
                break
            frames.append(_kline(symbol, tape, interval, bar, closing, closed=True))
            opening, shown, pushed = shift_open(interval, opening, 1), None, 0
        if bar != shown and bar.trades and now - pushed >= 250:
            frames.append(_kline(symbol, tape, interval, bar, now, closed=False))
            shown, pushed = bar, now


def _closing(tape: Tape, interval: str, opening: int) -> int:
    """When a bar's closing frame is sent: busy symbols' in less than a second, thin ones' after about two."""
    least, span = (200, 800) if tape.asset.trades >= 0.5 else (1900, 110)
    return shift_open(interval, opening, 1) + least + hashed(tape.key, opening) % span


def _kline(symbol: str, tape: Tape, interval: str, bar: Bar, at: int, *, closed: bool) -> bytes:
    """Spaced as on the wire, where `k` is spelled by another hand than the rest."""
    return (
        f'{{"e":"kline","E":{at},"s":"{symbol}","k":{{"t":{bar.open_time}, '
        f'"T":{shift_open(interval, bar.open_time, 1) - 1}, "s":"{symbol}", "i":"{interval}", '
        f'"f":{bar.first}, "L":{bar.last}, "o":"{price(tape, bar.open)}", "c":"{price(tape, bar.close)}", '
        f'"h":"{price(tape, bar.high)}", "l":"{price(tape, bar.low)}", "v":"{quantity(tape, bar.volume)}", '
        f'"n":{bar.trades}, "x":{"true" if closed else "false"}, "q":"{quote(tape, bar.quote)}", '
        f'"V":"{quantity(tape, bar.buy_volume)}", "Q":"{quote(tape, bar.buy_quote)}", "B":"0"}}}}'
    ).encode()


def mark_price(symbol: str, tape: Tape, every: int, now: int) -> Source:
    frames: list[bytes] = []
    last = now // every
    while True:
        now = yield frames
        frames = []
        if now // every > last:
            last = now // every
            frames.append(_encode(_mark_update(symbol, tape, last * every)))


def mark_prices(symbols: dict[str, Tape], every: int, now: int) -> Source:
    """Everybody's, in two messages, COIN-M rows in the second; each is a part of the whole."""
    frames: list[bytes] = []
    last = now // every
    traded = [(symbol, tape) for symbol, tape in symbols.items() if tape.ended is None]
    while True:
        now = yield frames
        frames = []
        if now // every > last:
            last = now // every
            rows = [_mark_update(symbol, tape, last * every) for symbol, tape in traded]
            if "BTCUSDT" in symbols:
                coin = _mark_update("BTCUSDT", symbols["BTCUSDT"], last * every)
                rows.append({**coin, "s": "BTCUSD_PERP", "st": 2})
            cut = len(rows) * 3 // 4
            frames = [_encode(rows[:cut]), _encode(rows[cut:])]


def _mark_update(symbol: str, tape: Tape, at: int) -> dict[str, Any]:
    mark = tape.mark(at)
    average = (mark + tape.mark(at - 10_000) + tape.mark(at - 20_000)) // 3
    dated = tape.asset.dated
    return {
        "e": "markPriceUpdate",
        "E": at,
        "s": symbol,
        "p": spell(mark, 8),
        "ap": spell(average, 8),
        "P": spell(tape.index(at - 1000), 8),
        "i": spell(tape.index(at), 8),
        "r": "" if dated else spell(tape.funding_rate(at), 8),
        "T": 0 if dated else tape.next_funding(at),
        "st": 1,
    }


def book_ticker(symbol: str, tape: Tape, now: int) -> Source:
    """The book's best, on the public tier and the retired paths: what makes those look alive."""
    frames: list[bytes] = []
    seen = tape.next_id
    while True:
        now = yield frames
        frames = []
        if tape.next_id > seen:
            seen = tape.next_id
            last = tape.trades[-1]
            bid = last.price if last.side == "sell" else last.price - 1
            frames.append(
                _encode(
                    {
                        "e": "bookTicker",
                        "u": last.last,
                        "s": symbol,
                        "ps": symbol,
                        "b": price(tape, bid),
                        "B": quantity(tape, last.quantity + 7),
                        "a": price(tape, bid + 1),
                        "A": quantity(tape, last.quantity + 3),
                        "T": last.time,
                        "E": now,
                        "st": 1,
                    }
                )
            )
