"""Bybit's REST dialect for its linear contracts, spoken to clients: what a request asks for, how rows and refusals are
spelled. No I/O. Nearly everything is a 200: clients look at `retCode`.

Source: https://bybit-exchange.github.io/docs/v5/market/kline and its neighbours
"""

from collections.abc import Mapping, Sequence
from math import ceil

import msgspec

from actors.decoding import UNREADABLE
from actors.errors import (
    BadMessage,
    MarketError,
    UnknownInterval,
    UnknownSymbol,
    UpstreamError,
    UpstreamGeoBlocked,
    UpstreamLimited,
)
from actors.events import bar_end, from_ms, ms
from actors.exchanges.bybit import wire
from actors.exchanges.bybit.normalise import OUR_INTERVALS
from actors.exchanges.bybit.rest import RETRIED, SETTLE, explain, refusal
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
from actors.upstream.pauses import FORBIDDEN_PAUSE
from actors.upstream.rest import Question

KLINE, FUNDING = "/v5/market/kline", "/v5/market/funding/history"
KLINES_PAGE, KLINES_DEFAULT = 1000, 200
FUNDING_PAGE = 200
CLOSED_PAGE = 600.0  # seconds that a page is remembered whose bars are all closed
PARAMETERS = frozenset(
    (
        *("category", "symbol", "symbolType", "status", "baseCoin", "settleCoin", "interval", "intervalTime"),
        *("period", "start", "end", "startTime", "endTime", "limit", "cursor"),
    )
)

# Path -> seconds that an answer about one symbol or about all is good for.
PASSED: Mapping[str, tuple[float, float]] = {
    "/v5/market/instruments-info": (60, 60),
    "/v5/market/risk-limit": (60, 60),
    "/v5/market/tickers": (1, 2),
    "/v5/market/open-interest": (10, 10),
    "/v5/market/account-ratio": (10, 10),
    "/v5/market/recent-trade": (1, 1),
    "/v5/market/orderbook": (0.5, 0.5),
}
OTHER_KLINES = (
    "/v5/market/mark-price-kline",
    "/v5/market/index-price-kline",
    "/v5/market/premium-index-price-kline",
)
CATEGORY_OPTIONAL = (KLINE, *OTHER_KLINES)

WORDS = "marketd serves public market data only; ask the exchange itself for what needs a key"

_encode = msgspec.json.encode


class _Klines(msgspec.Struct):
    rows: list[msgspec.Raw] = msgspec.field(name="list")


_rows = msgspec.json.Decoder(_Klines).decode
_kline = msgspec.json.Decoder(wire.KlineRow).decode
_settled = msgspec.json.Decoder(wire.FundingRow).decode


def route(asked: Asked, view: View) -> Way:
    """What answers a request."""
    path, now = asked.path, view.now()
    if "sign" in asked.query or "api_key" in asked.query or _is_private(path):
        return refuse(Refusal("private", WORDS, asked=asked), now)
    if asked.method != "GET":
        return refuse(Refusal("not_served", "", asked=asked), now)
    query = {name: value for name, value in asked.query.items() if name in PARAMETERS}
    if path == "/v5/market/time":
        return Reply(200, _answer(now, _encode({"timeSecond": str(now // 1000), "timeNano": str(now * 1_000_000)})))
    if path not in PASSED and path not in (*CATEGORY_OPTIONAL, FUNDING):
        return refuse(Refusal("not_served", "", asked=asked), now)
    if query.get("category", "linear" if path in CATEGORY_OPTIONAL else "") != "linear":
        return Reply(200, _refused(10001, "params error: Category is invalid at marketd: linear alone", now))
    match path:
        case "/v5/market/kline":
            return _klines(path, query, view)
        case "/v5/market/funding/history":
            return _funding(path, query, view)
        case _ if path in OTHER_KLINES:
            end = query.get("end", "")
            is_past = end.isascii() and end.isdigit() and int(end[:16]) < now - 31 * 86_400_000
            return _pass(path, query, CLOSED_PAGE if is_past else 5)
    one, everything = PASSED[path]
    return _pass(path, query, one if "symbol" in query else everything)


def _is_private(path: str) -> bool:
    return path.startswith("/v5/") and not path.startswith(("/v5/market/", "/v5/public/"))


def _pass(path: str, query: Mapping[str, str], seconds: float) -> Pass:
    return Pass(Question("GET", path, query), "weight", 1, seconds)


def _klines(path: str, query: Mapping[str, str], view: View) -> Way:
    as_asked = _pass(path, query, 0)
    symbol, interval = query.get("symbol", ""), OUR_INTERVALS.get(query.get("interval", ""))
    if interval is None or not view.lists(symbol):
        return as_asked
    try:
        start, end = number_of(query.get("start")), number_of(query.get("end"))
        limit = number_of(query.get("limit"))
    except ValueError:
        return as_asked
    limit = KLINES_DEFAULT if limit is None else min(limit, KLINES_PAGE)
    if limit < 1 or (start is not None and end is not None and start > end):
        return as_asked
    # A range that holds more than fits loses its old end.
    return Rows(Series(symbol, interval), start, end, limit, start is None or end is not None, as_asked)


def _funding(path: str, query: Mapping[str, str], view: View) -> Way:
    as_asked = _pass(path, query, 0)
    symbol = query.get("symbol", "")
    try:
        start, end = number_of(query.get("startTime")), number_of(query.get("endTime"))
        limit = number_of(query.get("limit"))
    except ValueError:
        return as_asked
    limit = FUNDING_PAGE if limit is None else limit
    is_bad = start is not None and (end is None or start > end)  # a startTime alone is an error of the exchange's
    if is_bad or not 1 <= limit <= FUNDING_PAGE or not view.lists(symbol):
        return as_asked
    return Rows(Series(symbol), start, end, limit, True, as_asked)


def fetch(series: Series, start: int | None, end: int | None, limit: int) -> Pass:
    query = {"category": "linear", "symbol": series.symbol}
    if series.interval:
        query["interval"] = next(theirs for theirs, ours in OUR_INTERVALS.items() if ours == series.interval)
        times = {"start": start, "end": end}
    else:
        # Without an end a start is refused; nothing is settled in the future.
        times = {"startTime": start, "endTime": FAR if end is None and start is not None else end}
    query |= {name: str(time) for name, time in times.items() if time is not None}
    return _pass(KLINE if series.interval else FUNDING, query | {"limit": str(limit)}, 0)


FAR = 4_102_444_800_000  # 2100


def parse(series: Series, body: bytes) -> list[Row]:
    try:
        answer = wire.decode_answer(body)
        if answer.code != 0:
            raise BadMessage(f"no rows: {refusal(answer.code, answer.message)}")
        rows = []
        for raw in reversed(_rows(answer.result).rows):
            if series.interval:
                opening = int(_kline(raw)[0])
                rows.append(Row(opening, ms(bar_end(from_ms(opening), series.interval)), bytes(raw)))
            else:
                time = int(_settled(raw).time)
                rows.append(Row(time, time + 1, bytes(raw)))
        return rows
    except (*UNREADABLE, ValueError) as error:
        raise BadMessage(f"Bybit's rows are not what it documents: {error}") from None


def render(rows: Rows, texts: Sequence[bytes], now: int) -> Reply:
    """Newest first."""
    listed = b",".join(reversed(texts))
    symbol = f'"symbol":"{rows.series.symbol}",' if rows.series.interval else ""
    return Reply(200, _answer(now, b'{%b"category":"linear","list":[%b]}' % (symbol.encode(), listed)))


def _answer(now: int, result: bytes) -> bytes:
    return b'{"retCode":0,"retMsg":"OK","result":%b,"retExtInfo":{},"time":%d}' % (result, now)


def _refused(code: int, message: str, now: int) -> bytes:
    return _encode({"retCode": code, "retMsg": message, "result": {}, "retExtInfo": {}, "time": now})


def refuse(refusal: Refusal, now: int) -> Reply:
    text = refusal.text
    match refusal.why:
        case "limited":
            wait = max(1, ceil(refusal.retry_after or 1))
            reset = str(now + wait * 1000)
            headers = (("Retry-After", str(wait)), ("X-Bapi-Limit-Reset-Timestamp", reset))
            words = f"Too many visits! {text} (marketd, for this address; try again in {wait} s)"
            return Reply(200, _refused(10006, words, now), headers=headers)
        case "private":
            return Reply(200, _refused(10003, text, now))
        case "not_served":
            return Reply(200, _refused(10017, "Path not found or wrong method at marketd", now))
        case "timed_out":
            return Reply(200, _refused(10000, f"Server Timeout: {text}", now))
        case "blocked":
            return Reply(200, _refused(10024, text, now))
        case "broke":
            return Reply(200, _refused(10016, f"System error: {text}", now))


def judge(status: int, body: bytes) -> MarketError | None:
    """Refusals within a 200 are for the client, but for those that mean this address, or that a second try may mend."""
    if status >= 300:
        said = explain(status, body)
        if type(said) in (UpstreamError, UnknownSymbol, UnknownInterval) and status < 500:
            return None
        pause = FORBIDDEN_PAUSE if status == 403 else None
        return said or UpstreamError(f"the exchange answered {status}", retry_after=pause)
    try:
        error = wire.decode_refusal(body)
    except UNREADABLE:
        return UpstreamError("the exchange answered with something that is no answer of its kind")
    said = refusal(error.code, error.message) if error.code else None
    is_for_us = error.code in RETRIED or isinstance(said, UpstreamLimited | UpstreamGeoBlocked)
    return said if is_for_us else None


def is_clients_fault(status: int, body: bytes) -> bool:
    if status >= 300:
        return False
    try:
        return wire.decode_refusal(body).code == 10001
    except UNREADABLE:
        return False


FACADE = Facade(
    route=route,
    fetch=fetch,
    parse=parse,
    render=render,
    refuse=refuse,
    judge=judge,
    is_clients_fault=is_clients_fault,
    page=KLINES_PAGE,
    tail=KLINES_PAGE,
    settle=int(SETTLE.total_seconds() * 1000),
)
