"""Binance USD-M's REST dialect, spoken to clients: what a request asks for, how rows and refusals are spelled. No I/O.

Source: https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api; weights of
`wire` and `rest` beside it.
"""

from collections.abc import Mapping, Sequence
from math import ceil

import msgspec

from actors.decoding import UNREADABLE
from actors.errors import (
    BadMessage,
    MarketError,
    UpstreamError,
    UpstreamGeoBlocked,
    UpstreamLimited,
    UpstreamTimeout,
)
from actors.exchanges.binance import wire
from actors.exchanges.binance.rest import AGG_TRADES_WEIGHT, explain, klines_weight
from actors.exchanges.facade import (
    Asked,
    Facade,
    Pass,
    Refusal,
    Reply,
    Row,
    Rows,
    Series,
    View,
    Way,
    number_of,
)
from actors.upstream.rest import Question

INTERVALS = frozenset(
    ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M"),
)
KLINES, FUNDING = "/fapi/v1/klines", "/fapi/v1/fundingRate"
KLINES_PAGE, KLINES_DEFAULT = 1500, 500
FUNDING_PAGE, FUNDING_DEFAULT, FUNDING_NEWEST = 1000, 100, 200
TAIL = 99  # the most rows that weigh 1
HOUR = 3_600_000
BOOK_SHARED = 100  # levels up to which a book may be a little old: a book builder asks for more
CLOSED_PAGE = 600.0  # seconds that a page is remembered whose bars are all closed
PARAMETERS = frozenset(
    ("symbol", "pair", "contractType", "interval", "period", "limit", "startTime", "endTime", "fromId")
)

# Path -> bucket, weight of one symbol, of all, seconds that an answer about one or about all is good for.
PASSED: Mapping[str, tuple[str, int, int, float, float]] = {
    "/fapi/v1/exchangeInfo": ("weight", 1, 1, 60, 60),
    "/fapi/v1/fundingInfo": ("funding", 1, 1, 60, 60),
    "/fapi/v1/assetIndex": ("weight", 1, 10, 60, 60),
    "/fapi/v1/ticker/24hr": ("weight", 1, 40, 1, 2),
    "/fapi/v1/ticker/bookTicker": ("weight", 2, 5, 1, 2),
    "/fapi/v1/ticker/price": ("weight", 1, 2, 1, 2),
    "/fapi/v2/ticker/price": ("weight", 1, 2, 1, 2),
    "/fapi/v1/premiumIndex": ("weight", 1, 10, 1, 1),
    "/fapi/v1/openInterest": ("weight", 1, 1, 1, 1),
    "/fapi/v1/trades": ("weight", 5, 5, 1, 1),
    "/futures/data/openInterestHist": ("futures_data", 1, 1, 10, 10),
    "/futures/data/globalLongShortAccountRatio": ("futures_data", 1, 1, 10, 10),
    "/futures/data/topLongShortAccountRatio": ("futures_data", 1, 1, 10, 10),
    "/futures/data/topLongShortPositionRatio": ("futures_data", 1, 1, 10, 10),
    "/futures/data/takerlongshortRatio": ("futures_data", 1, 1, 10, 10),
    "/futures/data/basis": ("futures_data", 1, 1, 10, 10),
}
OTHER_KLINES = ("/fapi/v1/markPriceKlines", "/fapi/v1/indexPriceKlines", "/fapi/v1/premiumIndexKlines")
PRIVATE = ("/fapi/v1/listenKey", "/fapi/v1/order", "/fapi/v1/account", "/fapi/v2/account", "/fapi/v2/balance")

WORDS = "marketd serves public market data only; ask the exchange itself for what needs a key"

_encode = msgspec.json.encode
_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode
_kline = msgspec.json.Decoder(wire.KlineRow).decode


class _Settled(msgspec.Struct):
    time: int = msgspec.field(name="fundingTime")


_settled = msgspec.json.Decoder(_Settled).decode


def route(asked: Asked, view: View) -> Way:
    """What answers a request."""
    path = asked.path
    if "signature" in asked.query or b"signature=" in asked.body or path.startswith(PRIVATE):
        return refuse(Refusal("private", WORDS, asked=asked), view.now())
    if asked.method != "GET":
        return refuse(Refusal("not_served", "", asked=asked), view.now())
    query = {name: value for name, value in asked.query.items() if name in PARAMETERS}
    match path:
        case "/fapi/v1/ping":
            return Reply(200, b"{}")
        case "/fapi/v1/time":
            return Reply(200, _encode({"serverTime": view.now()}))
        case "/fapi/v1/klines" | "/fapi/v1/continuousKlines":
            return _klines(path, query, view)
        case "/fapi/v1/fundingRate":
            return _funding(path, query, view)
        case "/fapi/v1/aggTrades":
            return _agg_trades(path, query, view)
        case "/fapi/v1/depth":
            return _depth(path, query)
        case _ if path in OTHER_KLINES:
            return _pass(path, query, _limited_weight(query), _page_seconds(query, view.now()))
        case _ if path in PASSED:
            bucket, one, everything, seconds, all_seconds = PASSED[path]
            is_one = "symbol" in query or "pair" in query
            weight = one if is_one else everything
            return _pass(path, query, weight, seconds if is_one else all_seconds, bucket)
    return refuse(Refusal("not_served", "", asked=asked), view.now())


def _pass(path: str, query: Mapping[str, str], weight: int, seconds: float, bucket: str = "weight") -> Pass:
    return Pass(Question("GET", path, query), bucket, weight, seconds)


def _klines(path: str, query: Mapping[str, str], view: View) -> Way:
    symbol = query.get("symbol" if path == KLINES else "pair", "")
    as_asked = _pass(path, query, _limited_weight(query), 0)
    is_other = path != KLINES and query.get("contractType") != "PERPETUAL"
    if is_other or query.get("interval") not in INTERVALS or not view.lists(symbol):
        return as_asked._replace(seconds=5)
    rows = _ranged(Series(symbol, query["interval"]), query, as_asked, KLINES_DEFAULT, KLINES_PAGE)
    return rows or as_asked


def _funding(path: str, query: Mapping[str, str], view: View) -> Way:
    until_settled = (HOUR - view.now() % HOUR) / 1000
    as_asked = _pass(path, query, 1, min(30.0, until_settled), "funding")
    symbol = query.get("symbol")
    if symbol is None or not view.lists(symbol) or not query.keys() & {"startTime", "endTime", "limit"}:
        return as_asked
    rows = _ranged(Series(symbol), query, as_asked._replace(seconds=0), FUNDING_DEFAULT, FUNDING_PAGE)
    has_times = "startTime" in query or "endTime" in query
    # How many rows there are without times is not documented beyond doubt.
    return rows if rows and (has_times or rows.limit <= FUNDING_NEWEST) else as_asked


def _ranged(series: Series, query: Mapping[str, str], asked: Pass, default: int, most: int) -> Rows | None:
    """None where a number is none: the exchange says so in its own words."""
    try:
        start, end = number_of(query.get("startTime")), number_of(query.get("endTime"))
        limit = number_of(query.get("limit"))
    except ValueError:
        return None
    limit = default if limit is None else limit
    if not 1 <= limit <= most or (start is not None and end is not None and start > end):
        return None
    return Rows(series, start, end, limit, start is None, asked)


def _limited_weight(query: Mapping[str, str]) -> int:
    text = query.get("limit", "")
    return klines_weight(int(text[:6]) if text.isascii() and text.isdigit() else KLINES_DEFAULT)


def _page_seconds(query: Mapping[str, str], now: int) -> float:
    """A page of the past does not change; one that reaches the present does."""
    end = query.get("endTime", "")
    is_past = end.isascii() and end.isdigit() and int(end[:16]) < now - 31 * 86_400_000
    return CLOSED_PAGE if is_past else 5


def _agg_trades(path: str, query: Mapping[str, str], view: View) -> Pass:
    end = query.get("endTime", "")
    is_past = end.isascii() and end.isdigit() and int(end[:16]) < view.now() - 1000
    return _pass(path, query, AGG_TRADES_WEIGHT, 60 if "fromId" in query or is_past else 1)


def _depth(path: str, query: Mapping[str, str]) -> Pass:
    text = query.get("limit", "500")
    limit = int(text[:6]) if text.isascii() and text.isdigit() else 500
    weight = 2 if limit <= 50 else 5 if limit <= 100 else 10 if limit <= 500 else 20
    shared = _pass(path, query, weight, 0.5)
    return shared if limit <= BOOK_SHARED else shared._replace(seconds=0, joins="unsent")


def fetch(series: Series, start: int | None, end: int | None, limit: int) -> Pass:
    path = KLINES if series.interval else FUNDING
    query = {"symbol": series.symbol, "interval": series.interval, "limit": str(limit)}
    times = {"startTime": start, "endTime": end}
    query |= {name: str(time) for name, time in times.items() if time is not None}
    query = {name: value for name, value in query.items() if value}
    weight, bucket = (klines_weight(limit), "weight") if series.interval else (1, "funding")
    return _pass(path, query, weight, 0, bucket)


def parse(series: Series, body: bytes) -> list[Row]:
    try:
        if not series.interval:
            return [Row(time := _settled(row).time, time + 1, bytes(row)) for row in _rows(body)]
        rows = []
        for raw in _rows(body):
            kline = _kline(raw)
            rows.append(Row(kline[0], kline[6] + 1, bytes(raw)))
        return rows
    except UNREADABLE as error:
        raise BadMessage(f"Binance's rows are not what it documents: {error}") from None


def render(rows: Rows, texts: Sequence[bytes], now: int) -> Reply:
    return Reply(200, b"[%b]" % b",".join(texts))


def refuse(refusal: Refusal, now: int) -> Reply:
    asked, text = refusal.asked, refusal.text
    match refusal.why:
        case "limited":
            wait = max(1, ceil(refusal.retry_after or 1))
            words = f"Too many requests; {text} (marketd, for this address; try again in {wait} s)"
            return _error(429, -1003, words, (("Retry-After", str(wait)),))
        case "private":
            return _error(401, -2015, text)
        case "not_served":
            where = f"Path {asked.path[:200]}, Method {asked.method}" if asked else "Path"
            return _error(404, -5000, f"{where} is invalid at marketd")
        case "timed_out":
            return _error(504, -1007, f"Timeout waiting for response from backend server: {text}")
        case "blocked":
            body = refusal.body or _encode({"msg": text})
            return Reply(451, body)
        case "broke":
            return _error(502, -1001, f"Internal error; unable to process your request: {text}")


def _error(status: int, code: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    return Reply(status, _encode({"code": code, "msg": message}), headers=headers)


def judge(status: int, body: bytes) -> MarketError | None:
    """Every answer below 500 that has a code is for the client, but for those that mean this address."""
    said = explain(status, body) if status >= 300 else None
    if status in (418, 429) or isinstance(said, UpstreamLimited):
        return said if isinstance(said, UpstreamLimited) else UpstreamLimited("the exchange limits this address")
    if status == 451:
        return UpstreamGeoBlocked("the exchange does not serve this location")
    if status == 408:
        return UpstreamTimeout("the exchange timed out")
    if status >= 500 or (status >= 300 and said is None):
        return UpstreamError(f"the exchange answered {status}")
    return None


def is_clients_fault(status: int, body: bytes) -> bool:
    return 400 <= status < 500 and judge(status, body) is None


FACADE = Facade(
    route=route,
    fetch=fetch,
    parse=parse,
    render=render,
    refuse=refuse,
    judge=judge,
    is_clients_fault=is_clients_fault,
    page=KLINES_PAGE,
    tail=TAIL,
    used_weight=("/fapi/", "X-MBX-USED-WEIGHT-1M", "weight"),
)
