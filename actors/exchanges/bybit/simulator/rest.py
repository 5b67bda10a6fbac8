"""The REST half of the simulated Bybit: answers as the exchange gives them, limits and refusals included.

Law: no I/O; a request in, a reply out, all of it from the market as it stands. Defaults, bounds, orders and what is
silently ignored are the documented or measured ones; where nothing is known the strictest plausible was chosen.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from actors.exchanges.bybit.simulator.books import orderbook, premium, ratio_row, risk_rows, value_row
from actors.exchanges.bybit.simulator.rows import (
    contract_row,
    cursor_after,
    day_until,
    funding_row,
    interest_row,
    kline_row,
    listing,
    recent_trade_row,
    ticker_row,
)
from actors.exchanges.bybit.simulator.streams import INTERVAL_NAMES
from actors.simulation.book import book_of
from actors.simulation.history import HOUR, floor_open, shift_open
from actors.simulation.market import Market, Tape
from actors.simulation.server import Reply, Request

PERIODS = {"5min": "5m", "15min": "15m", "30min": "30m", "1h": "1h", "4h": "4h", "1d": "1d"}
FAR = 4_133_404_800_000  # no calendar overflow, whatever the client sends

_encode = msgspec.json.encode


class _Refused(Exception):
    """Raised with a retCode and a message: HTTP 200 all the same."""


@dataclass(slots=True)
class Limits:
    """What one IP may do, and what it has done. Time is market time."""

    requests: int = 600  # per rolling `window`
    window: int = 5000
    ban: int = 600_000  # ms of 403 after a breach
    catalogue_page: int = 1000  # rows at most, whatever the client's limit
    banned_until: int = 0
    _recent: deque[int] = field(default_factory=deque)

    def refusal(self, now: int) -> Reply | None:
        """Count a request; the 403 if it may not pass."""
        recent = self._recent
        while recent and recent[0] <= now - self.window:
            recent.popleft()
        recent.append(now)
        if len(recent) > self.requests:
            self.banned_until = now + self.ban
        return too_frequent() if now < self.banned_until else None


def refused(code: int, message: str, *, now: int = 0, status: int = 200) -> Reply:
    """A refusal in Bybit's envelope; nearly all of them come with a 200."""
    body = {"retCode": code, "retMsg": message, "result": {}, "retExtInfo": {}, "time": now}
    return Reply(status, _encode(body))


def too_frequent() -> Reply:
    """403 for an address that asked too often: a text, not JSON."""
    return Reply(403, b"403 Forbidden: access too frequent", content_type="text/plain")


def blocked() -> Reply:
    """403 for an address in a country that is not served: the firewall's page."""
    text = "The Amazon CloudFront distribution is configured to block access from your country."
    return Reply(403, f"<HTML><BODY><H1>403 ERROR</H1>{text}</BODY></HTML>".encode(), content_type="text/html")


class Rest:
    """Answers requests."""

    def __init__(self, market: Market, limits: Limits) -> None:
        self._market = market
        self._limits = limits
        self._symbols = dict(sorted(listing(market).items()))
        self._routes: dict[str, Callable[[dict[str, str]], object]] = {
            "/v5/market/time": self._time,
            "/v5/market/instruments-info": self._instruments,
            "/v5/market/kline": self._klines,
            "/v5/market/open-interest": self._open_interest,
            "/v5/market/tickers": self._tickers,
            "/v5/market/funding/history": self._funding_history,
            "/v5/market/recent-trade": self._recent_trades,
            "/v5/market/orderbook": self._orderbook,
            "/v5/market/risk-limit": self._risk_limits,
            "/v5/market/mark-price-kline": lambda query: self._value_klines(query, Tape.mark),
            "/v5/market/index-price-kline": lambda query: self._value_klines(query, Tape.index),
            "/v5/market/premium-index-price-kline": lambda query: self._value_klines(query, premium),
            "/v5/market/account-ratio": self._account_ratio,
        }

    def answer(self, request: Request) -> Reply:
        self._market.advance()
        now = self._market.now
        reply = self._limits.refusal(now)
        if reply is None:
            respond = self._routes.get(request.path)
            if respond is None or request.method != "GET":
                reply = refused(10017, "Path not found or wrong method", now=now, status=404)
            else:
                reply = self._respond(respond, request.query, now)
        reply.weight = 1
        return reply

    def _respond(self, respond: Callable[[dict[str, str]], object], query: dict[str, str], now: int) -> Reply:
        try:
            result = respond(query)
        except _Refused as refusal:
            return refused(*refusal.args, now=now)
        return Reply(body=_encode({"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": now}))

    def _tape(self, query: dict[str, str], *, category: str | None = None) -> tuple[str, Tape]:
        _check_category(query, category)
        symbol = query.get("symbol", "")
        tape = self._symbols.get(symbol)
        if tape is None or tape.ended is not None:
            raise _Refused(10001, "params error: Symbol Is Invalid" if symbol else "symbol params err")
        return symbol, tape

    def _time(self, _: dict[str, str]) -> object:
        now = self._market.now
        return {"timeSecond": str(now // 1000), "timeNano": str(now * 1_000_000)}

    def _instruments(self, query: dict[str, str]) -> object:
        _check_category(query)
        status, cursor = query.get("status", "Trading"), query.get("cursor", "")
        limit = min(_limit(query, 500, 1000), self._limits.catalogue_page)
        after = ""
        if cursor:
            first, separator, after = cursor.partition("&last=")
            if not separator or not first.startswith("first="):
                raise _Refused(10001, "cursor is invalid")  # encoded twice, for one
        rows = [
            contract_row(symbol, tape, number)
            for number, (symbol, tape) in enumerate(self._symbols.items())
            if symbol > after and query.get("symbol", symbol) == symbol
        ]
        rows = [row for row in rows if row["status"] == status]
        more = len(rows) > limit
        rows = rows[:limit]
        return {"category": "linear", "list": rows, "nextPageCursor": cursor_after(rows) if more else ""}

    def _klines(self, query: dict[str, str]) -> object:
        """Newest first. Start and end include bars that open at them; a range too wide loses its old end."""
        symbol, tape = self._tape(query, category="linear")
        interval = INTERVAL_NAMES.get(query.get("interval", ""))
        if interval is None:
            raise _Refused(10001, "Invalid period!")
        limit, start, end = _limit(query, 200, 1000), _integer(query, "start"), _integer(query, "end")
        bars = tape.bars(interval, self._market.now, start=start, end=end, limit=limit, newest=end is not None)
        return {"symbol": symbol, "category": "linear", "list": [kline_row(tape, bar) for bar in reversed(bars)]}

    def _open_interest(self, query: dict[str, str]) -> object:
        """Newest first, within (startTime, endTime]; a startTime alone is ignored. The oldest row is in seconds."""
        symbol, tape = self._tape(query)
        period = PERIODS.get(query.get("intervalTime", ""))
        if period is None:
            raise _Refused(10001, "params error: intervalTime invalid")
        times, more = _newest(query, period, tape, self._market.now, _limit(query, 50, 200))
        rows = [interest_row(tape, at, in_seconds=more and at == times[-1]) for at in times]
        cursor = f"lastid%3D{times[-1] // 300_000}%26lasttime%3D{times[-1] // 1000}" if more else ""
        return {"symbol": symbol, "category": "linear", "list": rows, "nextPageCursor": cursor}

    def _account_ratio(self, query: dict[str, str]) -> object:
        """The same of the shares of accounts that are long and short."""
        symbol, tape = self._tape(query)
        period = PERIODS.get(query.get("period", ""))
        if period is None:
            raise _Refused(10001, "params error: period invalid")
        times, more = _newest(query, period, tape, self._market.now, _limit(query, 50, 500))
        cursor = f"lastid%3D0%26lasttime%3D{times[-1] // 1000}" if more else ""
        return {"list": [ratio_row(symbol, tape, at) for at in times], "nextPageCursor": cursor}

    def _tickers(self, query: dict[str, str]) -> object:
        _check_category(query)
        now = self._market.now
        chosen = [self._tape(query)] if "symbol" in query else list(self._symbols.items())
        rows = [
            ticker_row(symbol, tape, now, day_until(tape, now), is_stream=False)
            for symbol, tape in chosen
            if tape.ended is None
        ]
        return {"category": "linear", "list": rows}

    def _funding_history(self, query: dict[str, str]) -> object:
        symbol, tape = self._tape(query)
        limit, start, end = _limit(query, 200, 200), _integer(query, "startTime"), _integer(query, "endTime")
        if start is not None and end is None:
            raise _Refused(10001, "params error: endTime is required with startTime")
        rows: list[object] = []
        period = tape.asset.funding_hours * HOUR
        at = self._market.now if end is None else min(end, self._market.now)
        at -= at % period
        while not tape.asset.dated and at >= max(tape.listed + period, start or 0) and len(rows) < limit:
            rows.append(funding_row(symbol, tape, at))
            at -= period
        return {"category": "linear", "list": rows}

    def _recent_trades(self, query: dict[str, str]) -> object:
        symbol, tape = self._tape(query)
        trades = tape.trades[-_limit(query, 500, 1000) :]
        return {"category": "linear", "list": [recent_trade_row(symbol, tape, trade) for trade in reversed(trades)]}

    def _orderbook(self, query: dict[str, str]) -> object:
        symbol, tape = self._tape(query)
        now = self._market.now
        return orderbook(symbol, tape, book_of(tape, now, _limit(query, 25, 500)), now)

    def _risk_limits(self, query: dict[str, str]) -> object:
        """Two tiers each."""
        _check_category(query)
        chosen = [self._tape(query)] if "symbol" in query else list(self._symbols.items())
        rows = [row for symbol, tape in chosen if tape.ended is None for row in risk_rows(symbol)]
        return {"category": "linear", "list": rows, "nextPageCursor": ""}

    def _value_klines(self, query: dict[str, str], value: Callable[[Tape, int], int]) -> object:
        """Bars of a price that is not traded: five columns."""
        symbol, tape = self._tape(query, category="linear")
        interval = INTERVAL_NAMES.get(query.get("interval", ""))
        if interval is None:
            raise _Refused(10001, "Invalid period!")
        limit, start, end = _limit(query, 200, 1000), _integer(query, "start"), _integer(query, "end")
        now = self._market.now
        bars = tape.bars(interval, now, start=start, end=end, limit=limit, newest=end is not None)
        rows = [value_row(tape, bar.open_time, shift_open(interval, bar.open_time, 1), now, value) for bar in bars]
        return {"symbol": symbol, "category": "linear", "list": rows[::-1]}


def _newest(query: dict[str, str], period: str, tape: Tape, now: int, limit: int) -> tuple[list[int], bool]:
    """Times of rows within (startTime, endTime], newest first, and whether there are older ones."""
    start, end = _integer(query, "startTime"), _integer(query, "endTime")
    if end is None:
        start = None
    if cursor := query.get("cursor"):
        _, separator, last = cursor.partition("&lasttime=")
        if not separator:
            raise _Refused(10001, "cursor is invalid")
        end = int(last) * 1000 - 1
    at = floor_open(period, now if end is None else min(end, now))
    first = max(tape.listed, -1 if start is None else start + 1)
    times: list[int] = []
    while at >= first and len(times) <= limit:
        times.append(at)
        at = shift_open(period, at, -1)
    return times[:limit], len(times) > limit


def _check_category(query: dict[str, str], default: str | None = None) -> None:
    if query.get("category", default) != "linear":
        raise _Refused(10001, "params error: Category is invalid")


def _integer(query: dict[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise _Refused(10001, f"params error: {name} is invalid")
    return min(int(text), FAR)


def _limit(query: dict[str, str], default: int, most: int) -> int:
    limit = _integer(query, "limit")
    if limit is None:
        return default
    if not 1 <= limit <= most:
        raise _Refused(10001, "params error: limit is invalid")
    return limit
