"""The streams of the simulated OKX.

Law: a stream sees the market and knows nothing of connections. `opening` is what a new subscriber is told at once;
`due` is what everybody is told when time has passed: rows, each list of which is one push, from where the last call
ended.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from actors.exchanges.okx.simulator.rest import BARS
from actors.exchanges.okx.simulator.rows import (
    candle_row,
    contracts,
    funding_row,
    interest_row,
    mark_row,
    price,
    trade_row,
)
from actors.simulation.history import Bar, floor_open, shift_open
from actors.simulation.market import Liquidation, Tape

CANDLE_EVERY = 1000  # ms, at least, between two pushes of a bar
LIQUIDATIONS_EVERY = 1000  # ms in which one order of a contract is told
EARLIER = 10_000  # ms: orders so young are told to a new subscriber
EVERY = {"open-interest": 3000, "funding-rate": 30_000, "mark-price": 200}  # ms
ROWS: Mapping[str, Callable[[str, Tape, int], object]] = {
    "open-interest": interest_row,
    "funding-rate": funding_row,
    "mark-price": mark_row,
}
TIERS = {"trades": "public", **dict.fromkeys(EVERY, "public"), "liquidation-orders": "public"} | {
    f"candle{bar}": "business" for bar in BARS
}
"""On which of the sockets a channel is."""

Push = list[object]


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
            [_forced(symbol, tape, order)]
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
                push: Push = [_forced(symbol, tape, order)]
                if symbol.startswith("BTC-"):
                    push.append(_forced(symbol.replace("-USDT-", "-USD-"), tape, order))
                pushes.append(push)
            self._seen[symbol] = len(tape.liquidations)
        return pushes


def _forced(symbol: str, tape: Tape, order: Liquidation) -> dict[str, object]:
    detail = {
        "bkLoss": "0",
        "bkPx": price(tape, order.limit),
        "ccy": "",
        "posSide": ("net", "long" if order.side == "sell" else "short")[order.number % 2],
        "side": order.side,
        "sz": contracts(tape, order.quantity),
        "ts": str(order.time),
    }
    family = symbol.removesuffix("-SWAP")
    return {"details": [detail], "instFamily": family, "instId": symbol, "instType": "SWAP", "uly": family}
