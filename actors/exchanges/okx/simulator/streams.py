"""The streams of the simulated OKX.

Law: a stream sees the market and knows nothing of connections. `opening` is what a new subscriber is told at once;
`due` is what everybody is told when time has passed: rows, each list of which is one push, from where the last call
ended.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from actors.exchanges.okx.simulator.books import DEPTH, book_row, levels, ticker_row
from actors.exchanges.okx.simulator.rest import BARS
from actors.exchanges.okx.simulator.rows import (
    candle_row,
    forced_row,
    funding_row,
    interest_row,
    mark_row,
    trade_row,
)
from actors.simulation.book import book_of
from actors.simulation.history import Bar, floor_open, shift_open
from actors.simulation.market import Tape

CANDLE_EVERY = 1000  # ms, at least, between two pushes of a bar
LIQUIDATIONS_EVERY = 1000  # ms in which one order of a contract is told
EARLIER = 10_000  # ms: orders so young are told to a new subscriber
EVERY = {"open-interest": 3000, "funding-rate": 30_000, "mark-price": 200, "tickers": 100, "books5": 100}  # ms
ROWS: Mapping[str, Callable[[str, Tape, int], object]] = {
    "open-interest": interest_row,
    "funding-rate": funding_row,
    "mark-price": mark_row,
    "tickers": ticker_row,
    "books5": lambda symbol, tape, now: book_row(tape, now, 5) | {"instId": symbol},
}
TIERS = {"trades": "public", **dict.fromkeys(EVERY, "public"), "liquidation-orders": "public", "books": "public"} | {
    f"candle{bar}": "business" for bar in BARS
}
"""On which of the sockets a channel is."""

BOOKS_EVERY = 100  # ms


class Change(NamedTuple):
    """A push that says whether it is a whole or what changed of it."""

    action: str
    rows: list[object]


Push = list[object] | Change


class Stream(Protocol):
    def opening(self, now: int) -> list[Push]: ...

    def due(self, now: int) -> list[Push]: ...


def open_stream(channel: str, symbol: str, symbols: Mapping[str, Tape], now: int) -> Stream | None:
    """The stream of a channel; None where there is none. Names are case-sensitive."""
    if channel == "liquidation-orders":
        return Liquidations(symbols, now) if not symbol else None
    tape = symbols.get(symbol)
    if tape is None or tape.ended is not None:
        return None
    if channel == "trades":
        return Trades(symbol, tape)
    if channel == "books":
        return Books(tape, now)
    if channel in ROWS:
        return Regular(symbol, tape, ROWS[channel], EVERY[channel], now)
    interval = BARS.get(channel.removeprefix("candle")) if channel.startswith("candle") else None
    return Candles(tape, interval, now) if interval else None


class Candles:
    """The open bar while it changes, at most once a second. At a bar's end one push has it and the one that begins."""

    def __init__(self, tape: Tape, interval: str, now: int) -> None:
        self._tape, self._interval = tape, interval
        self._opening = floor_open(interval, now)
        self._shown: Bar | None = None
        self._pushed = now

    def opening(self, now: int) -> list[Push]:
        return [[candle_row(self._tape, self._tape.bar(self._interval, self._opening), closed=False)]]

    def due(self, now: int) -> list[Push]:
        tape, pushes = self._tape, list[Push]()
        while now >= (end := shift_open(self._interval, self._opening, 1)):
            closed = candle_row(tape, tape.bar(self._interval, self._opening), closed=True)
            self._opening, self._shown, self._pushed = end, tape.bar(self._interval, end), now
            pushes.append([closed, candle_row(tape, self._shown, closed=False)])
        bar = tape.bar(self._interval, self._opening)
        if bar != self._shown and now - self._pushed >= CANDLE_EVERY:
            pushes.append([candle_row(tape, bar, closed=False)])
            self._shown, self._pushed = bar, now
        return pushes


class Books:
    """A new subscriber is told the whole, everybody what changed; each says what it follows."""

    def __init__(self, tape: Tape, now: int) -> None:
        self._tape, self._told, self._number = tape, now, 0
        self._sides = levels(tape, book_of(tape, now, DEPTH), DEPTH)

    def opening(self, now: int) -> list[Push]:
        bids, asks = (list(side.values()) for side in self._sides)
        return [Change("snapshot", [self._row(bids, asks, now, -1)])]

    def due(self, now: int) -> list[Push]:
        if now - self._told < BOOKS_EVERY:
            return []
        self._told = now
        sides = levels(self._tape, book_of(self._tape, now, DEPTH), DEPTH)
        changes = []
        for old, new in zip(self._sides, sides, strict=True):
            gone = [[px, "0", "0", "0"] for px in old.keys() - new.keys()]
            changes.append([*gone, *(level for px, level in new.items() if old.get(px) != level)])
        if not any(changes):
            return []
        self._sides, self._number = sides, self._number + 1
        return [Change("update", [self._row(changes[0], changes[1], now, self._number - 1)])]

    def _row(self, bids: list[list[str]], asks: list[list[str]], now: int, previous: int) -> dict[str, object]:
        return {"asks": asks, "bids": bids, "ts": str(now), "seqId": self._number, "prevSeqId": previous}


class Trades:
    """One row for all fills of an order at one price."""

    def __init__(self, symbol: str, tape: Tape) -> None:
        self._symbol, self._tape = symbol, tape
        self._following = tape.next_id

    def opening(self, now: int) -> list[Push]:
        return []  # no backlog

    def due(self, now: int) -> list[Push]:
        count = self._tape.next_id - self._following
        self._following = self._tape.next_id
        return [[trade_row(self._symbol, self._tape, trade)] for trade in (self._tape.trades[-count:] if count else ())]


class Regular:
    """What is told again and again."""

    def __init__(self, symbol: str, tape: Tape, row: Callable[[str, Tape, int], object], every: int, now: int) -> None:
        self._symbol, self._tape, self._row, self._every = symbol, tape, row, every
        self._told = now // every

    def opening(self, now: int) -> list[Push]:
        return [[self._row(self._symbol, self._tape, now)]]

    def due(self, now: int) -> list[Push]:
        if now // self._every == self._told:
            return []
        self._told = now // self._every
        return self.opening(now)


class Liquidations:
    """Of every contract, the inverse ones too: the first order of each second, at the bankruptcy price."""

    def __init__(self, symbols: Mapping[str, Tape], now: int) -> None:
        self._symbols = symbols
        self._seen = {symbol: len(tape.liquidations) for symbol, tape in symbols.items()}
        self._told = dict.fromkeys(symbols, now // LIQUIDATIONS_EVERY)

    def opening(self, now: int) -> list[Push]:
        """Orders of a moment ago: a client must know them again."""
        return [
            [forced_row(symbol, tape, order)]
            for symbol, tape in self._symbols.items()
            for order in tape.liquidations[-1:]
            if now - order.time < EARLIER and order.number < self._seen[symbol]
        ]

    def due(self, now: int) -> list[Push]:
        pushes: list[Push] = []
        for symbol, tape in self._symbols.items():
            for order in tape.liquidations[self._seen[symbol] :]:
                if order.time // LIQUIDATIONS_EVERY == self._told[symbol]:
                    continue
                self._told[symbol] = order.time // LIQUIDATIONS_EVERY
                push: list[object] = [forced_row(symbol, tape, order)]
                if symbol.startswith("BTC-"):
                    push.append(forced_row(symbol.replace("-USDT-", "-USD-"), tape, order))
                pushes.append(push)
            self._seen[symbol] = len(tape.liquidations)
        return pushes
