"""The REST half of the simulated Binance USD-M: answers as the exchange gives them, limits and refusals included.

Law: no I/O; a request in, a reply out, all of it from the market as it stands. Weights, defaults, bounds and codes are
the documented ones; where the documents are silent the strictest plausible behaviour was chosen.
"""

from bisect import bisect_left
from collections.abc import Callable
from functools import partial

import msgspec

from actors.exchanges.binance.simulator.books import (
    DEPTHS,
    best,
    depth,
    depth_weight,
    last_price,
    opens,
    single_trades,
    value_klines,
)
from actors.exchanges.binance.simulator.limits import Account, Limits, error
from actors.exchanges.binance.simulator.query import Refused, integer, limit_of, missing, times
from actors.exchanges.binance.simulator.ratios import PERIODS, RowAt, accounts_at, basis_at, rows, taken_at
from actors.exchanges.binance.simulator.rows import (
    exchange_info,
    funding_row,
    interest_row,
    kline_row,
    listing,
    premium_row,
    price,
    quantity,
    ticker_row,
)
from actors.simulation.history import DAY, HOUR, INTERVALS, floor_open, hashed, shift_open
from actors.simulation.market import Market, Tape, Trade, spell
from actors.simulation.server import Reply, Request

RATIOS: dict[str, RowAt] = {
    "globalLongShortAccountRatio": accounts_at(1),
    "topLongShortAccountRatio": accounts_at(2),
    "topLongShortPositionRatio": accounts_at(3),
    "takerlongshortRatio": taken_at,
    "basis": basis_at,
}
_encode = msgspec.json.encode


class Rest:
    """Answers requests."""

    def __init__(self, market: Market, limits: Limits) -> None:
        self._market = market
        self._account = Account(limits)
        self._symbols = listing(market)
        self._info = exchange_info(market, self._symbols)
        self._routes: dict[str, tuple[Callable[[dict[str, str]], int], Callable[[dict[str, str]], object]]]
        self._routes = {
            "/fapi/v1/ping": (_one, lambda _: {}),
            "/fapi/v1/time": (_one, lambda _: {"serverTime": market.now}),
            "/fapi/v1/exchangeInfo": (_one, lambda _: self._info),
            "/fapi/v1/klines": (_klines_weight, self._klines),
            "/fapi/v1/openInterest": (_one, self._open_interest),
            "/futures/data/openInterestHist": (lambda _: 0, self._open_interest_history),
            **{f"/futures/data/{name}": (lambda _: 0, partial(self._ratios, row)) for name, row in RATIOS.items()},
            "/fapi/v1/premiumIndex": (lambda q: 1 if "symbol" in q else 10, self._premium_index),
            "/fapi/v1/fundingRate": (lambda _: 0, self._funding_rate),
            "/fapi/v1/fundingInfo": (lambda _: 0, self._funding_info),
            "/fapi/v1/aggTrades": (lambda _: 20, self._agg_trades),
            "/fapi/v1/continuousKlines": (_klines_weight, self._continuous_klines),
            "/fapi/v1/markPriceKlines": (_klines_weight, lambda q: self._value_klines(q, "mark")),
            "/fapi/v1/indexPriceKlines": (_klines_weight, lambda q: self._value_klines(q, "index")),
            "/fapi/v1/premiumIndexKlines": (_klines_weight, lambda q: self._value_klines(q, "premium")),
            "/fapi/v1/trades": (lambda _: 5, self._trades),
            "/fapi/v1/depth": (depth_weight, self._depth),
            "/fapi/v1/ticker/bookTicker": (lambda q: 2 if "symbol" in q else 5, self._best),
            "/fapi/v1/ticker/price": (lambda q: 1 if "symbol" in q else 2, self._price),
            "/fapi/v2/ticker/price": (lambda q: 1 if "symbol" in q else 2, self._price),
            "/fapi/v1/ticker/24hr": (lambda q: 1 if "symbol" in q else 40, self._ticker),
        }

    def answer(self, request: Request) -> Reply:
        self._market.advance()
        now, query = self._market.now, request.query
        weigh, respond = self._routes.get(request.path, (_one, None))
        weight = weigh(query)
        reply = self._account.refusal(now, request.path, weight)
        if reply is None:
            if respond is None or request.method != "GET":
                reply = error(-5000, f"Path {request.path}, Method {request.method} is invalid", 404)
            else:
                try:
                    body = respond(query)
                    reply = Reply(body=body if isinstance(body, bytes) else _encode(body))
                except Refused as refused:
                    reply = error(*refused.args)
        reply.weight = weight
        if request.path.startswith("/fapi/"):
            reply.headers["X-MBX-USED-WEIGHT-1M"] = str(self._account.used)
        return reply

    def _tape(self, query: dict[str, str]) -> tuple[str, Tape]:
        symbol = query.get("symbol", "")
        if not symbol:
            raise missing("symbol")
        if symbol not in self._symbols:
            raise Refused(-1121, "Invalid symbol.")
        return symbol, self._symbols[symbol]

    def _traded(self, query: dict[str, str]) -> list[tuple[str, Tape]]:
        """The symbol asked for, or all; only what still trades."""
        if "symbol" not in query:
            return [(symbol, tape) for symbol, tape in self._symbols.items() if tape.ended is None]
        symbol, tape = self._tape(query)
        if tape.ended is not None:
            raise Refused(-1122, "Invalid symbol status.")
        return [(symbol, tape)]

    def _klines(self, query: dict[str, str]) -> object:
        _, tape = self._tape(query)
        interval = query.get("interval", "")
        if not interval:
            raise missing("interval")
        if interval not in INTERVALS:
            raise Refused(-1120, "Invalid interval.")
        limit, (start, end) = limit_of(query, 500, 1500), times(query)
        bars = tape.bars(interval, self._market.now, start=start, end=end, limit=limit)
        return [kline_row(tape, interval, bar) for bar in bars]

    def _open_interest(self, query: dict[str, str]) -> object:
        if "symbol" not in query:
            raise missing("symbol")
        ((symbol, tape),) = self._traded(query)
        at = self._market.now - self._market.now % 3000  # it lags, and repeats between polls
        amount = spell(tape.open_interest(at) * tape.step_units, tape.step_decimals)
        return {"openInterest": amount, "symbol": symbol, "time": at}

    def _open_interest_history(self, query: dict[str, str]) -> object:
        symbol, tape = self._tape(query)
        period = query.get("period", "")
        if period not in PERIODS:
            raise Refused(-1130, "parameter 'period' is invalid.")
        limit, (start, end) = limit_of(query, 30, 500), times(query)
        now = self._market.now
        if start is not None and start < now - 30 * DAY:
            raise Refused(-1130, "parameter 'startTime' is invalid.")
        first = max(now - 30 * DAY, tape.listed, start or 0)
        first = shift_open(period, floor_open(period, first - 1), 1)
        at = floor_open(period, now if tape.ended is None else tape.ended)
        at = min(at, floor_open(period, at if end is None else end))
        rows: list[object] = []
        while at >= first and len(rows) < limit:
            # The newest rows of the range; a period without trades has none.
            before = shift_open(period, at, -1)
            if before < tape.listed or tape.bar(period, before).trades:
                rows.append(interest_row(symbol, tape, at))
            at = before
        return rows[::-1]

    def _ratios(self, row_at: RowAt, query: dict[str, str]) -> object:
        symbol, tape = self._tape(query | {"symbol": query.get("pair" if row_at is basis_at else "symbol", "")})
        if row_at is basis_at and query.get("contractType") != "PERPETUAL":
            raise missing("contractType")
        return rows(symbol, tape, query, self._market.now, row_at)

    def _premium_index(self, query: dict[str, str]) -> object:
        now = self._market.now
        rows = [premium_row(symbol, tape, now) for symbol, tape in self._traded(query)]
        return rows[0] if "symbol" in query else rows

    def _funding_rate(self, query: dict[str, str]) -> object:
        limit, (start, end) = limit_of(query, 100, 1000), times(query)
        now = self._market.now
        chosen = [self._tape(query)] if "symbol" in query else list(self._symbols.items())
        newest = start is None
        if start is None and end is None:
            limit = min(limit, 200)
        found: list[tuple[int, int, str, Tape]] = []
        for symbol, tape in chosen:
            if tape.asset.dated:
                continue
            period = tape.asset.funding_hours * HOUR
            last = now if tape.ended is None else tape.ended
            last = last if end is None else min(last, end)
            first = max(tape.listed + period, start or 0)
            if newest:
                first = max(first, last - limit * period)
            # Settlements are booked a few ms after the hour.
            count = 0
            for at in range(first - first % period, last + 1, period):
                booked = at + hashed(tape.key, at) % 12
                if count < limit and first <= booked <= last:
                    found.append((booked, at, symbol, tape))
                    count += not newest
        found.sort(key=lambda row: row[:3])
        kept = found[-limit:] if newest else found[:limit]
        return [funding_row(symbol, tape, at, booked) for booked, at, symbol, tape in kept]

    def _funding_info(self, query: dict[str, str]) -> object:
        return [
            {
                "symbol": symbol,
                "adjustedFundingRateCap": "0.02000000",
                "adjustedFundingRateFloor": "-0.02000000",
                "fundingIntervalHours": tape.asset.funding_hours,
                "disclaimer": False,
            }
            for symbol, tape in self._symbols.items()
            if tape.asset.funding_hours != 8
        ]

    def _agg_trades(self, query: dict[str, str]) -> object:
        _, tape = self._tape(query)
        limit, (start, end) = limit_of(query, 500, 1000), times(query)
        from_id, trades = integer(query, "fromId"), tape.trades
        if from_id is not None and (start is not None or end is not None):
            text = "Timeout waiting for response from backend server. Send status unknown; execution status unknown."
            raise Refused(-1007, text, 408)
        if start is not None and end is not None and end - start >= HOUR:
            raise Refused(-1127, "Lookup interval is too big. More than 1 hours between startTime and endTime.")
        first, last = 0, len(trades)
        if from_id is not None:
            first = max(0, from_id - trades[0].id) if trades else 0
        if start is not None:
            first = bisect_left(trades, start, key=_time)
        if end is not None:
            last = bisect_left(trades, end + 1, key=_time)
        if from_id is None and start is None:
            first = max(first, last - limit)
        return [
            {
                "a": trade.id,
                "p": price(tape, trade.price),
                "q": quantity(tape, trade.quantity),
                "nq": quantity(tape, trade.public_quantity),
                "f": trade.first,
                "l": trade.last,
                "T": trade.time,
                "m": trade.side == "sell",
            }
            for trade in trades[first : min(last, first + limit)]
        ]

    def _continuous_klines(self, query: dict[str, str]) -> object:
        if query.get("contractType", "") != "PERPETUAL":
            raise missing("contractType")
        if query.get("pair", "") not in self._symbols:
            raise Refused(-1121, "Invalid pair.")
        return self._klines(query | {"symbol": query["pair"]})

    def _value_klines(self, query: dict[str, str], kind: str) -> object:
        _, tape = self._tape(query | {"symbol": query.get("pair" if kind == "index" else "symbol", "")})
        interval = query.get("interval", "")
        if interval not in INTERVALS:
            raise Refused(-1120, "Invalid interval.")
        limit, (start, end), now = limit_of(query, 500, 1500), times(query), self._market.now
        return value_klines(tape, interval, opens(interval, start, end, limit, now), now, kind)

    def _trades(self, query: dict[str, str]) -> object:
        _, tape = self._tape(query)
        return single_trades(tape, tape.trades[-limit_of(query, 500, 1000) :])

    def _depth(self, query: dict[str, str]) -> object:
        _, tape = self._tape(query)
        limit = limit_of(query, 500, 1000)
        if limit not in DEPTHS:
            raise Refused(-4021, f"'{limit}' is not valid depth limit.")
        return depth(tape, self._market.now, limit)

    def _best(self, query: dict[str, str]) -> object:
        rows = [best(symbol, tape, self._market.now) for symbol, tape in self._traded(query)]
        return rows[0] if "symbol" in query else rows

    def _price(self, query: dict[str, str]) -> object:
        rows = [last_price(symbol, tape, self._market.now) for symbol, tape in self._traded(query)]
        return rows[0] if "symbol" in query else rows

    def _ticker(self, query: dict[str, str]) -> object:
        now = self._market.now
        rows = [ticker_row(symbol, tape, now) for symbol, tape in self._traded(query)]
        return rows[0] if "symbol" in query else rows


def _one(_: dict[str, str]) -> int:
    return 1


def _klines_weight(query: dict[str, str]) -> int:
    limit = int(text) if (text := query.get("limit", "500")).isascii() and text.isdigit() else 500
    return 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1000 else 10


def _time(trade: Trade) -> int:
    return trade.time
