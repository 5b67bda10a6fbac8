"""The streams of the simulated Bybit.

Law: a stream sees the market and knows nothing of connections. `opening` is what a new subscriber is told at once;
`due` is what everybody is told when time has passed: whole frames, each call from where the last one ended.
"""

from collections.abc import Iterable
from typing import Protocol

import msgspec

from actors.exchanges.bybit.simulator.rows import day_until, price, quantity, quote, ticker_row, trade_id
from actors.simulation.book import Level, book_of
from actors.simulation.history import INTERVALS, Bar, floor_open, shift_open
from actors.simulation.market import Tape

# Its own: an error shared with the client's table would not be seen.
INTERVAL_NAMES = {
    **{"1": "1m", "3": "3m", "5": "5m", "15": "15m", "30": "30m", "60": "1h", "120": "2h", "240": "4h"},
    **{"360": "6h", "720": "12h", "D": "1d", "W": "1w", "M": "1M"},
}
TRADES_PER_FRAME = 1024
LIQUIDATIONS_EVERY = 500  # ms
KLINE_EVERY = 1000  # ms, at least, between two pushes of a bar; 60 times that where nothing happens
DAY_EVERY = 5000  # ms between looks at the last 24 hours, which are costly

_encode = msgspec.json.encode


class Stream(Protocol):
    def opening(self, now: int) -> list[bytes]: ...

    def due(self, now: int) -> list[bytes]: ...


def open_stream(topic: str, symbols: dict[str, Tape], now: int) -> Stream | None:
    """The stream of a topic; None where Bybit has no handler for it. Names are case-sensitive."""
    kind, _, symbol = topic.partition(".")
    interval = ""
    depth = ""
    if kind == "orderbook":
        depth, _, symbol = symbol.partition(".")
    if kind == "kline":
        theirs, _, symbol = symbol.partition(".")
        interval = INTERVAL_NAMES.get(theirs, "")
    tape = symbols.get(symbol)
    if tape is None or tape.ended is not None:
        return None
    match kind:
        case "kline" if interval in INTERVALS:
            return Klines(topic, tape, interval, now)
        case "orderbook" if depth in ("1", "50", "200", "1000"):
            return Orderbook(topic, symbol, tape, int(depth), now)
        case "publicTrade":
            return Trades(topic, symbol, tape)
        case "tickers":
            return Tickers(topic, symbol, tape, now)
        case "allLiquidation":
            return Liquidations(topic, symbol, tape, now)
        case _:
            return None


def _snapshot(topic: str, ts: int, data: object) -> bytes:
    return _encode({"topic": topic, "type": "snapshot", "ts": ts, "data": data})


class Klines:
    """The open bar, at most once a second. At a bar's end one message carries it and the one that begins."""

    def __init__(self, topic: str, tape: Tape, interval: str, now: int) -> None:
        self._topic, self._tape, self._interval = topic, tape, interval
        self._opening = floor_open(interval, now)
        self._shown: Bar | None = None
        self._pushed = now

    def opening(self, now: int) -> list[bytes]:
        return [_snapshot(self._topic, now, [self._row(self._tape.bar(self._interval, self._opening), now)])]

    def due(self, now: int) -> list[bytes]:
        frames = []
        while now >= (end := shift_open(self._interval, self._opening, 1)):
            closed = self._row(self._tape.bar(self._interval, self._opening), end, closed=True)
            self._opening = end
            self._shown = self._tape.bar(self._interval, end)
            begun = self._row(self._shown, now if now < shift_open(self._interval, end, 1) else end)
            frames.append(_snapshot(self._topic, now, [closed, begun]))
            self._pushed = now
        bar = self._tape.bar(self._interval, self._opening)
        if now - self._pushed >= (KLINE_EVERY if bar != self._shown else 60 * KLINE_EVERY):
            frames.append(_snapshot(self._topic, now, [self._row(bar, now)]))
            self._shown, self._pushed = bar, now
        return frames

    def _row(self, bar: Bar, at: int, *, closed: bool = False) -> dict[str, object]:
        tape = self._tape
        return {
            "start": bar.open_time,
            "end": shift_open(self._interval, bar.open_time, 1) - 1,
            "interval": self._topic.split(".")[1],
            "open": price(tape, bar.open),
            "close": price(tape, bar.close),
            "high": price(tape, bar.high),
            "low": price(tape, bar.low),
            "volume": quantity(tape, bar.volume),
            "turnover": quote(tape, bar.quote),
            "confirm": closed,
            "timestamp": at,
        }


class Trades:
    def __init__(self, topic: str, symbol: str, tape: Tape) -> None:
        self._topic, self._symbol, self._tape = topic, symbol, tape
        self._following = tape.next_id

    def opening(self, now: int) -> list[bytes]:
        return []  # no backlog

    def due(self, now: int) -> list[bytes]:
        tape = self._tape
        count = tape.next_id - self._following
        self._following = tape.next_id
        rows = [
            {
                "T": trade.time,
                "s": self._symbol,
                "S": trade.side.title(),
                "v": quantity(tape, trade.quantity),
                "p": price(tape, trade.price),
                "L": "PlusTick" if trade.side == "buy" else "MinusTick",
                "i": trade_id(tape, trade),
                "BT": False,
                "RPI": False,
                "seq": trade.last,
            }
            for trade in (tape.trades[-count:] if count else ())
        ]
        return [
            _snapshot(self._topic, now, rows[first : first + TRADES_PER_FRAME])
            for first in range(0, len(rows), TRADES_PER_FRAME)
        ]


class Tickers:
    """A snapshot for each newcomer, then what has changed, for all."""

    def __init__(self, topic: str, symbol: str, tape: Tape, now: int) -> None:
        self._topic, self._symbol, self._tape = topic, symbol, tape
        self._day, self._day_at = day_until(tape, now), now
        self._sequence = tape.last_fill
        self._shown = self._state(now)

    def _state(self, now: int) -> dict[str, str]:
        return ticker_row(self._symbol, self._tape, now, self._day, is_stream=True)

    def _frame(self, kind: str, data: dict[str, str], now: int) -> bytes:
        self._sequence += 1
        return _encode({"topic": self._topic, "type": kind, "data": data, "cs": self._sequence, "ts": now})

    def opening(self, now: int) -> list[bytes]:
        return [self._frame("snapshot", self._shown, now)]

    def due(self, now: int) -> list[bytes]:
        if now - self._day_at >= DAY_EVERY:
            self._day, self._day_at = day_until(self._tape, now), now
        state = self._state(now)
        changes = {name: value for name, value in state.items() if self._shown[name] != value}
        self._shown = state
        return [self._frame("delta", {"symbol": self._symbol, **changes}, now)] if changes else []


class Liquidations:
    """All of them, every half second, at their bankruptcy price and with the POSITION's side."""

    def __init__(self, topic: str, symbol: str, tape: Tape, now: int) -> None:
        self._topic, self._symbol, self._tape = topic, symbol, tape
        self._seen = len(tape.liquidations)
        self._told = now // LIQUIDATIONS_EVERY

    def opening(self, now: int) -> list[bytes]:
        return []

    def due(self, now: int) -> list[bytes]:
        if now // LIQUIDATIONS_EVERY == self._told:
            return []
        self._told = now // LIQUIDATIONS_EVERY
        tape = self._tape
        rows = [
            {
                "T": order.time,
                "s": self._symbol,
                "S": "Buy" if order.side == "sell" else "Sell",
                "v": quantity(tape, order.quantity),
                "p": price(tape, order.limit),
            }
            for order in tape.liquidations[self._seen :]
        ]
        self._seen = len(tape.liquidations)
        return [_snapshot(self._topic, now, rows)] if rows else []


class Orderbook:
    """A snapshot for each newcomer, then what has changed; of one level, snapshots alone."""

    def __init__(self, topic: str, symbol: str, tape: Tape, depth: int, now: int) -> None:
        self._topic, self._symbol, self._tape, self._depth = topic, symbol, tape, min(depth, 100)
        self._shown = book_of(tape, now, self._depth)

    def _frame(self, kind: str, bids: Iterable[Level], asks: Iterable[Level], now: int) -> bytes:
        tape, book = self._tape, self._shown
        sides = {
            name: [[price(tape, ticks), quantity(tape, steps) if steps else "0"] for ticks, steps in rows]
            for name, rows in (("b", bids), ("a", asks))
        }
        data = {"s": self._symbol, **sides, "u": book.number, "seq": book.number}
        return _encode({"topic": self._topic, "type": kind, "ts": now, "data": data, "cts": book.time})

    def opening(self, now: int) -> list[bytes]:
        return [self._frame("snapshot", self._shown.bids, self._shown.asks, now)]

    def due(self, now: int) -> list[bytes]:
        before, book = self._shown, book_of(self._tape, now, self._depth)
        if book.number == before.number:
            return []
        self._shown = book
        if self._depth == 1:
            return self.opening(now)
        bids, asks = _changed(before.bids, book.bids), _changed(before.asks, book.asks)
        return [self._frame("delta", bids, asks, now)]


def _changed(before: list[Level], after: list[Level]) -> Iterable[Level]:
    """Levels that are gone have a size of 0."""
    return ({at: 0 for at, _ in before} | dict(after)).items()
