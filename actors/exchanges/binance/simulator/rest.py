"""The REST half of the simulated Binance USD-M: answers as the exchange gives them, limits and refusals included.

Law: no I/O; a request in, a reply out, all of it from the market as it stands. Weights, defaults, bounds and codes are
the documented ones; where the documents are silent the strictest plausible behaviour was chosen.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

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
from actors.exchanges.binance.simulator.rows import (
    PERPETUAL,
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
from actors.simulation.history import DAY, HOUR, INTERVALS, MINUTE, floor_open, hashed, shift_open
from actors.simulation.market import Market, Tape, Trade, spell
from actors.simulation.server import Reply, Request

_PERIODS = ("5m", "15m", "30m", "1h", "2h", "4h", "6h", "12h", "1d")
_encode = msgspec.json.encode


class _Refused(Exception):
    """Raised with a code and a message: HTTP 400."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one IP may do."""

    weight: int = 2400  # per minute
    patience: int = 20  # refused requests in a minute before the ban
    futures_data: int = 1000  # requests per 5 min to /futures/data
    funding: int = 500  # requests per 5 min to fundingRate and fundingInfo together


@dataclass(slots=True)
class _Account:
    """What one IP has done. Time is market time."""

    limits: Limits
    banned_until: int = 0
    used: int = 0
    _minute: int = 0
    _refused: int = 0
    _bans: int = 0
    _recent: dict[str, deque[int]] = field(default_factory=dict)

    def refusal(self, now: int, path: str, weight: int) -> Reply | None:
        """Charge a request; the 418 or 429 if it may not pass."""
        if now // MINUTE != self._minute:
            self._minute, self.used, self._refused = now // MINUTE, 0, 0
        if now < self.banned_until:
            return banned(self.banned_until)
        self.used += weight
        limits = self.limits
        over = self.used > limits.weight
        for bucket, limit in (("/futures/data", limits.futures_data), ("/fapi/v1/funding", limits.funding)):
            if path.startswith(bucket):
                times = self._recent.setdefault(bucket, deque())
                while times and times[0] <= now - 5 * MINUTE:
                    times.popleft()
                times.append(now)
                over = over or len(times) > limit
        if not over:
            return None
        self._refused += 1
        if self._refused > limits.patience:
            self._bans += 1
            self.banned_until = now + 2 * MINUTE * 2 ** min(self._bans - 1, 10)
            return banned(self.banned_until)
        return too_many_requests(limit=limits.weight)


def error(code: int, message: str, status: int = 400) -> Reply:
    return Reply(status, _encode({"code": code, "msg": message}))


def too_many_requests(*, retry_after: int | None = None, limit: int = 2400) -> Reply:
    """429. The exchange does not document a Retry-After (seconds) here; proxies send one."""
    reply = error(
        -1003,
        f"Too many requests; current limit of IP(127.0.0.1) is {limit} requests per minute. "
        "Please use the websocket for live updates to avoid polling the API.",
        429,
    )
    if retry_after is not None:
        reply.headers["Retry-After"] = str(retry_after)
    return reply


def banned(until: int) -> Reply:
    """418, until a time in ms."""
    message = f"Way too many requests; IP(127.0.0.1) banned until {until}. "
    return error(-1003, message + "Please use the websocket for live updates to avoid bans.", 418)


def restricted() -> Reply:
    """451: the body has no code."""
    text = "Service unavailable from a restricted location according to 'b. Eligibility' in the terms of use."
    return Reply(451, _encode({"msg": text}))


def html(status: int) -> Reply:
    """What a proxy or firewall in between says: 403, 502, or a page with 200."""
    page = f"<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>"
    return Reply(status, page.encode(), content_type="text/html")


def unavailable(text: str = "Unknown error, please check your request or try again later.") -> Reply:
    """503 in one of its flavours; `Service Unavailable.` is another."""
    return error(-1000, text, 503)


class Rest:
    """Answers requests."""

    def __init__(self, market: Market, limits: Limits) -> None:
        self._market = market
        self._account = _Account(limits)
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
                except _Refused as refused:
                    reply = error(*refused.args)
        reply.weight = weight
        if request.path.startswith("/fapi/"):
            reply.headers["X-MBX-USED-WEIGHT-1M"] = str(self._account.used)
        return reply

    def _tape(self, query: dict[str, str]) -> tuple[str, Tape]:
        symbol = query.get("symbol", "")
        if not symbol:
            raise _missing("symbol")
        if symbol not in self._symbols:
            raise _Refused(-1121, "Invalid symbol.")
        return symbol, self._symbols[symbol]

    def _traded(self, query: dict[str, str]) -> list[tuple[str, Tape]]:
        """The symbol asked for, or all; only what still trades."""
        if "symbol" not in query:
            return [(symbol, tape) for symbol, tape in self._symbols.items() if tape.ended is None]
        symbol, tape = self._tape(query)
        if tape.ended is not None:
            raise _Refused(-1122, "Invalid symbol status.")
        return [(symbol, tape)]

    def _klines(self, query: dict[str, str]) -> object:
        _, tape = self._tape(query)
        interval = query.get("interval", "")
        if not interval:
            raise _missing("interval")
        if interval not in INTERVALS:
            raise _Refused(-1120, "Invalid interval.")
        limit, (start, end) = _limit(query, 500, 1500), _times(query)
        bars = tape.bars(interval, self._market.now, start=start, end=end, limit=limit)
        return [kline_row(tape, interval, bar) for bar in bars]

    def _open_interest(self, query: dict[str, str]) -> object:
        if "symbol" not in query:
            raise _missing("symbol")
        ((symbol, tape),) = self._traded(query)
        at = self._market.now - self._market.now % 3000  # it lags, and repeats between polls
        amount = spell(tape.open_interest(at) * tape.step_units, tape.step_decimals)
        return {"openInterest": amount, "symbol": symbol, "time": at}

    def _open_interest_history(self, query: dict[str, str]) -> object:
        symbol, tape = self._tape(query)
        period = query.get("period", "")
        if period not in _PERIODS:
            raise _Refused(-1130, "parameter 'period' is invalid.")
        limit, (start, end) = _limit(query, 30, 500), _times(query)
        now = self._market.now
        if start is not None and start < now - 30 * DAY:
            raise _Refused(-1130, "parameter 'startTime' is invalid.")
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

    def _premium_index(self, query: dict[str, str]) -> object:
        now = self._market.now
        rows = [premium_row(symbol, tape, now) for symbol, tape in self._traded(query)]
        return rows[0] if "symbol" in query else rows

    def _funding_rate(self, query: dict[str, str]) -> object:
        limit, (start, end) = _limit(query, 100, 1000), _times(query)
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
        limit, (start, end) = _limit(query, 500, 1000), _times(query)
        from_id, trades = _integer(query, "fromId"), tape.trades
        if from_id is not None and (start is not None or end is not None):
            text = "Timeout waiting for response from backend server. Send status unknown; execution status unknown."
            raise _Refused(-1007, text, 408)
        if start is not None and end is not None and end - start >= HOUR:
            raise _Refused(-1127, "Lookup interval is too big. More than 1 hours between startTime and endTime.")
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
            raise _missing("contractType")
        if query.get("pair", "") not in self._symbols:
            raise _Refused(-1121, "Invalid pair.")
        return self._klines(query | {"symbol": query["pair"]})

    def _value_klines(self, query: dict[str, str], kind: str) -> object:
        _, tape = self._tape(query | {"symbol": query.get("pair" if kind == "index" else "symbol", "")})
        interval = query.get("interval", "")
        if interval not in INTERVALS:
            raise _Refused(-1120, "Invalid interval.")
        limit, (start, end), now = _limit(query, 500, 1500), _times(query), self._market.now
        return value_klines(tape, interval, opens(interval, start, end, limit, now), now, kind)

    def _trades(self, query: dict[str, str]) -> object:
        _, tape = self._tape(query)
        return single_trades(tape, tape.trades[-_limit(query, 500, 1000) :])

    def _depth(self, query: dict[str, str]) -> object:
        _, tape = self._tape(query)
        limit = _limit(query, 500, 1000)
        if limit not in DEPTHS:
            raise _Refused(-4021, f"'{limit}' is not valid depth limit.")
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


def _missing(name: str) -> _Refused:
    return _Refused(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


def _integer(query: dict[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not text:
        raise _Refused(-1105, f"Parameter '{name}' was empty.")
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        legal = "legal range is '^[0-9]{1,20}$'."
        raise _Refused(-1100, f"Illegal characters found in parameter '{name}'; {legal}")
    return int(text)


def _limit(query: dict[str, str], default: int, most: int) -> int:
    limit = _integer(query, "limit")
    if limit is None:
        return default
    if not 1 <= limit <= most:
        raise _Refused(-1130, "Data sent for parameter 'limit' is not valid.")
    return limit


def _times(query: dict[str, str]) -> tuple[int | None, int | None]:
    start, end = _integer(query, "startTime"), _integer(query, "endTime")
    if start is not None and end is not None and start > end:
        raise _Refused(-1023, "Start time is greater than end time.")
    far = PERPETUAL  # no calendar overflow, whatever the client sends
    return start if start is None else min(start, far), end if end is None else min(end, far)
