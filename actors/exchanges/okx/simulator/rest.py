"""The REST half of the simulated OKX: answers as the exchange gives them, limits and refusals included.

Law: no I/O; a request in, a reply out, all of it from the market as it stands. Defaults, bounds and orders are the
documented or measured ones; where nothing is known the strictest plausible was chosen. Limits are of real seconds.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import msgspec
import trio

from actors.exchanges.okx.simulator.books import book_row, ticker_row
from actors.exchanges.okx.simulator.rows import (
    candle_row,
    contract_row,
    fill_rows,
    forced_row,
    funding_row,
    interest,
    interest_row,
    inverse_row,
    listing,
    mark_candle_row,
    mark_row,
    settled_row,
    told_orders,
)
from actors.simulation.history import DAY, HOUR, floor_open, shift_open
from actors.simulation.market import Market, Tape
from actors.simulation.server import Reply, Request

# Its own: an error shared with the client's table would not be seen. Bars that open at UTC+8 are not simulated.
BARS = {
    **{"1m": "1m", "3m": "3m", "5m": "5m", "15m": "15m", "30m": "30m", "1H": "1h", "2H": "2h", "4H": "4h"},
    **{"6Hutc": "6h", "12Hutc": "12h", "1Dutc": "1d", "1Wutc": "1w", "1Mutc": "1M"},
}
RECENT = 1440  # rows of `candles` and of open interest
FAR = 4_133_404_800_000  # no calendar overflow, whatever the client sends

_encode = msgspec.json.encode


class _Refused(Exception):
    """Raised with a code and a message: HTTP 200 all the same."""


@dataclass(slots=True)
class Limits:
    """What one IP may do within two seconds, for each endpoint by itself, and what it has done."""

    requests: dict[str, int] = field(default_factory=dict)  # path -> another limit than the documented one
    _recent: dict[str, deque[float]] = field(default_factory=dict)

    def passes(self, path: str, most: int) -> bool:
        now = trio.current_time()
        recent = self._recent.setdefault(path, deque())
        while recent and recent[0] <= now - (5.0 if path.endswith("/status") else 2.0):
            recent.popleft()
        if len(recent) >= self.requests.get(path, most):
            return False
        recent.append(now)
        return True


def refused(code: str, message: str, *, status: int = 200) -> Reply:
    """A refusal in OKX's envelope."""
    return Reply(status, _encode({"code": code, "msg": message, "data": []}))


def too_frequent() -> Reply:
    return refused("50011", "Too Many Requests", status=429)


class Rest:
    """Answers requests."""

    def __init__(self, market: Market, limits: Limits, maintenance: list[dict[str, str]]) -> None:
        self._market = market
        self._limits = limits
        self._maintenance = maintenance
        self._symbols = listing(market)
        self._routes: dict[str, tuple[int, Callable[[dict[str, str]], object]]] = {
            "/api/v5/public/time": (10, self._time),
            "/api/v5/public/instruments": (20, self._instruments),
            "/api/v5/market/candles": (40, lambda query: self._candles(query, recent=True)),
            "/api/v5/market/history-candles": (20, lambda query: self._candles(query, recent=False)),
            "/api/v5/market/trades": (100, self._trades),
            "/api/v5/market/history-trades": (10, self._history_trades),
            "/api/v5/public/open-interest": (20, self._open_interest),
            "/api/v5/rubik/stat/contracts/open-interest-history": (10, self._open_interest_history),
            "/api/v5/public/funding-rate": (10, self._funding),
            "/api/v5/public/funding-rate-history": (10, self._funding_history),
            "/api/v5/public/mark-price": (10, self._mark_price),
            "/api/v5/market/ticker": (20, self._ticker),
            "/api/v5/market/tickers": (20, self._tickers),
            "/api/v5/market/books": (20, self._book),
            "/api/v5/market/mark-price-candles": (20, self._mark_candles),
            "/api/v5/system/status": (1, self._status),
            "/api/v5/public/liquidation-orders": (10, self._liquidations),
        }

    def answer(self, request: Request) -> Reply:
        self._market.advance()
        route = self._routes.get(request.path)
        if route is None or request.method != "GET":
            return Reply(404, _encode({"code": "404", "msg": "Not Found", "data": None}))
        most, respond = route
        if not self._limits.passes(request.path, most):
            return too_frequent()
        try:
            reply = Reply(body=_encode({"code": "0", "msg": "", "data": respond(request.query)}))
        except _Refused as refusal:
            reply = refused(*refusal.args)
        reply.weight = 1
        return reply

    def _tape(self, query: dict[str, str]) -> tuple[str, Tape]:
        symbol = query.get("instId", "")
        if not symbol:
            raise _Refused("50014", "Parameter instId can not be empty.")
        tape = self._symbols.get(symbol)
        if tape is None or tape.ended is not None:
            raise _Refused("51001", "Instrument ID, Instrument ID code, or Spread ID doesn't exist.")
        return symbol, tape

    def _swaps(self, query: dict[str, str]) -> list[tuple[str, Tape]]:
        if query.get("instType") != "SWAP":
            raise _Refused("51000", "Parameter instType error")
        if "instId" in query:
            return [self._tape(query)]
        return [(symbol, tape) for symbol, tape in self._symbols.items() if tape.ended is None]

    def _time(self, _: dict[str, str]) -> object:
        return [{"ts": str(self._market.now)}]

    def _instruments(self, query: dict[str, str]) -> object:
        if "instId" in query:
            return [contract_row(symbol, tape) for symbol, tape in self._swaps(query)]
        self._swaps(query)
        rows = [contract_row(symbol, tape) for symbol, tape in self._symbols.items()]
        return [*rows, *(inverse_row(tape) for symbol, tape in self._symbols.items() if symbol.startswith("BTC-"))]

    def _candles(self, query: dict[str, str], *, recent: bool) -> object:
        """The history has closed bars alone, the other one the newest 1440."""
        _, tape = self._tape(query)
        interval = BARS.get(query.get("bar", "1m"))
        if interval is None:
            raise _Refused("51000", "Parameter bar error")
        limit, older, newer = _limit(query, 100, 300), _integer(query, "after"), _integer(query, "before")
        now = self._market.now
        running = floor_open(interval, now)
        if recent:
            newer = max(-1 if newer is None else newer, shift_open(interval, running, -RECENT))
        else:
            older = min(FAR if older is None else older, running)
        bars = tape.bars(
            interval,
            now,
            start=None if newer is None else newer + 1,
            end=None if older is None else older - 1,
            limit=limit,
            newest=True,
        )
        return [candle_row(tape, bar, closed=bar.open_time < running) for bar in reversed(bars)]

    def _liquidations(self, query: dict[str, str]) -> object:
        """Those of the last day that the stream has told too, the newest first."""
        symbol = f"{query.get('instFamily', '')}-SWAP"
        tape = self._symbols.get(symbol)
        if tape is None or query.get("instType") != "SWAP" or query.get("state") != "filled":
            raise _Refused("51000", "Parameter instFamily error")
        limit, older = _limit(query, 100, 100), _integer(query, "after")
        end = FAR if older is None else older
        told = [order for order in told_orders(tape) if self._market.now - DAY <= order.time < end][-limit:]
        rows = [forced_row(symbol, tape, order) for order in reversed(told)]
        return [rows[0] | {"details": [row["details"][0] for row in rows], "totalLoss": "0"}] if rows else []

    def _status(self, query: dict[str, str]) -> object:
        return [row for row in self._maintenance if query.get("state") in (None, row["state"])]

    def _mark_candles(self, query: dict[str, str]) -> object:
        """Bars of a price that is not traded, the newest first."""
        _, tape = self._tape(query)
        interval = BARS.get(query.get("bar", "1m"))
        if interval is None:
            raise _Refused("51000", "Parameter bar error")
        limit, older, now = _limit(query, 100, 100), _integer(query, "after"), self._market.now
        running = floor_open(interval, now)
        first = max(tape.listed, (_integer(query, "before") or 0) + 1, shift_open(interval, running, -RECENT))
        opening = running if older is None else min(running, floor_open(interval, older - 1))
        times = islice(_back(interval, opening, first), limit)
        return [mark_candle_row(tape, at, shift_open(interval, at, 1), now) for at in times]

    def _trades(self, query: dict[str, str]) -> object:
        symbol, tape = self._tape(query)
        return list(islice(fill_rows(symbol, tape, None), _limit(query, 100, 500)))

    def _history_trades(self, query: dict[str, str]) -> object:
        symbol, tape = self._tape(query)
        if query.get("type", "1") != "1":
            raise _Refused("51000", "Parameter type error")
        return list(islice(fill_rows(symbol, tape, _integer(query, "after")), _limit(query, 100, 100)))

    def _open_interest(self, query: dict[str, str]) -> object:
        return [interest_row(symbol, tape, self._market.now) for symbol, tape in self._swaps(query)]

    def _open_interest_history(self, query: dict[str, str]) -> object:
        _, tape = self._tape(query)
        period = BARS.get(query.get("period", "5m"))
        if period in (None, "1m", "3m"):
            raise _Refused("51000", "Parameter period error")
        limit, begin, end = _limit(query, 100, 100), _integer(query, "begin"), _integer(query, "end")
        newest = floor_open(period, self._market.now)
        first = max(tape.listed, begin or 0, shift_open(period, newest, 1 - RECENT))
        times = _back(period, min(newest, floor_open(period, FAR if end is None else end)), first)
        return [[str(at), *interest(tape, at)] for at in islice(times, limit)]

    def _funding(self, query: dict[str, str]) -> object:
        if query.get("instId") == "ANY":
            return [funding_row(symbol, tape, self._market.now) for symbol, tape in self._swaps({"instType": "SWAP"})]
        symbol, tape = self._tape(query)
        return [funding_row(symbol, tape, self._market.now)]

    def _funding_history(self, query: dict[str, str]) -> object:
        """Newest first, of the last three months."""
        symbol, tape = self._tape(query)
        limit, older, newer = _limit(query, 100, 100), _integer(query, "after"), _integer(query, "before")
        period, now = tape.asset.funding_hours * HOUR, self._market.now
        first = max(tape.listed + period, now - 92 * DAY, (newer or 0) + 1)
        at = now if older is None else min(now, older - 1)
        times = range(at - at % period, first - 1, -period)
        return [settled_row(symbol, tape, at) for at in times[:limit]]

    def _mark_price(self, query: dict[str, str]) -> object:
        return [mark_row(symbol, tape, self._market.now) for symbol, tape in self._swaps(query)]

    def _ticker(self, query: dict[str, str]) -> object:
        return [ticker_row(*self._tape(query), self._market.now)]

    def _tickers(self, query: dict[str, str]) -> object:
        return [ticker_row(symbol, tape, self._market.now) for symbol, tape in self._swaps(query)]

    def _book(self, query: dict[str, str]) -> object:
        _, tape = self._tape(query)
        depth = _integer(query, "sz")
        if depth is not None and not 1 <= depth <= 400:
            raise _Refused("51000", "Parameter sz error")
        return [book_row(tape, self._market.now, depth or 1)]


def _back(interval: str, at: int, first: int) -> Iterator[int]:
    while at >= first:
        yield at
        at = shift_open(interval, at, -1)


def _integer(query: dict[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise _Refused("51000", f"Parameter {name} error")
    return min(int(text), FAR)


def _limit(query: dict[str, str], default: int, most: int) -> int:
    limit = _integer(query, "limit")
    if limit is None:
        return default
    if not 1 <= limit <= most:
        raise _Refused("51000", "Parameter limit error")
    return limit
