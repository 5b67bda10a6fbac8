"""OKX's REST dialect for its swaps, spoken to clients: what a request asks for, how rows and refusals are spelled. No
I/O. Refusals of what was asked are mostly a 200: clients look at `code`.

Source: https://www.okx.com/docs-v5/en/#order-book-trading-market-data
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
    UpstreamLimited,
    UpstreamTimeout,
)
from actors.events import INTERVALS, bar_end, from_ms, ms
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
from actors.exchanges.okx import wire
from actors.exchanges.okx.limits import PATHS
from actors.exchanges.okx.normalise import OUR_INTERVALS, THEIR_INTERVALS
from actors.exchanges.okx.rest import CANDLES_PAGE, RATES_PAGE, RECENT, explain, refusal
from actors.upstream.rest import Question

CANDLES, HISTORY = "/api/v5/market/candles", "/api/v5/market/history-candles"
FUNDING = "/api/v5/public/funding-rate-history"
CANDLES_DEFAULT = 100
PARAMETERS = frozenset(
    (
        *("instId", "instType", "instFamily", "uly", "bar", "after", "before", "limit", "sz", "type", "period"),
        *("begin", "end", "state", "tdMode", "tier", "quoteCcy"),
    )
)
PUBLIC = ("/api/v5/market/", "/api/v5/public/", "/api/v5/rubik/", "/api/v5/system/")

# Path -> seconds that an answer about one contract or about all is good for.
PASSED: Mapping[str, tuple[float, float]] = {
    "/api/v5/public/instruments": (60, 60),
    "/api/v5/public/position-tiers": (60, 60),
    "/api/v5/public/open-interest": (2, 3),
    "/api/v5/public/funding-rate": (5, 5),
    "/api/v5/public/mark-price": (1, 2),
    "/api/v5/public/price-limit": (1, 1),
    "/api/v5/public/liquidation-orders": (2, 2),
    "/api/v5/rubik/stat/contracts/open-interest-history": (10, 10),
    "/api/v5/market/ticker": (1, 1),
    "/api/v5/market/tickers": (2, 2),
    "/api/v5/market/trades": (1, 1),
    "/api/v5/market/history-trades": (1, 1),
    "/api/v5/market/books": (0.5, 0.5),
    "/api/v5/market/mark-price-candles": (5, 5),
    "/api/v5/market/history-mark-price-candles": (5, 5),
    "/api/v5/system/status": (60, 60),
}
INDEX: Mapping[str, float] = {  # these are asked about an index, such as BTC-USDT
    "/api/v5/market/index-tickers": 1,
    "/api/v5/market/index-candles": 5,
    "/api/v5/market/history-index-candles": 5,
}

WORDS = "marketd serves public market data only; ask the exchange itself for what needs a key"

_encode = msgspec.json.encode
_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode
_candle = msgspec.json.Decoder(wire.CandleRow).decode
_settled = msgspec.json.Decoder(wire.SettledFunding).decode


def route(asked: Asked, view: View) -> Way:
    """What answers a request."""
    path, now = asked.path, view.now()
    if path.startswith("/api/v5/") and not path.startswith(PUBLIC):
        return refuse(Refusal("private", WORDS, asked=asked), now)
    known = path in PASSED or path in INDEX or path in (CANDLES, HISTORY, FUNDING, "/api/v5/public/time")
    if asked.method != "GET" or not known:
        return refuse(Refusal("not_served", "", asked=asked), now)
    if path == "/api/v5/public/time":
        return Reply(200, answer([b'{"ts":"%d"}' % now]))
    query = {name: value for name, value in asked.query.items() if name in PARAMETERS}
    if query.get("instType", "SWAP") not in ("SWAP", ""):
        return Reply(200, _refused("51000", "Parameter instType error at marketd: SWAP alone"))
    symbol = query.get("instId", "")
    if path in INDEX:
        return _pass(path, query, INDEX[path])
    if symbol and symbol != "ANY" and not symbol.endswith("-SWAP"):
        return Reply(200, _refused("51001", "Instrument ID doesn't exist at marketd: swaps alone"))
    if path in (CANDLES, HISTORY):
        return _candles(path, query, view)
    if path == FUNDING:
        return _funding(path, query, view)
    one, everything = PASSED[path]
    return _pass(path, query, one if symbol and symbol != "ANY" else everything)


def _pass(path: str, query: Mapping[str, str], seconds: float) -> Pass:
    return Pass(Question("GET", path, query), PATHS.get(path, "other"), 1, seconds)


def _range(query: Mapping[str, str], default: int, most: int) -> tuple[int | None, int | None, int] | None:
    """(start, end, limit), both ends included; None where the exchange had better say what it makes of it.

    `after` and `before` are what a row is older and newer than. The newest rows between them are the answer.
    """
    try:
        before, after = number_of(query.get("before")), number_of(query.get("after"))
        limit = number_of(query.get("limit"))
    except ValueError:
        return None
    limit = default if limit is None else limit
    start, end = None if before is None else before + 1, None if after is None else after - 1
    if not 1 <= limit <= most or (end is not None and end < (start or 0)):
        return None
    return start, end, limit


def _candles(path: str, query: Mapping[str, str], view: View) -> Way:
    symbol, interval = query.get("instId", ""), OUR_INTERVALS.get(query.get("bar", "1m"))
    wanted = _range(query, CANDLES_DEFAULT, CANDLES_PAGE)
    if interval is None or wanted is None or not view.lists(symbol):
        return _pass(path, query, 1)
    start, end, limit = wanted
    step, now = INTERVALS[interval].total_seconds() * 1000, view.now()
    if path == HISTORY:  # it has closed bars alone, and when it gets the last of them is not known
        is_plain = end is not None and end < now - step
    else:  # it has the newest 1440
        is_plain = (now if end is None else min(end, now)) - limit * step >= now - RECENT * step
    if not is_plain:
        return _pass(path, query, 1)
    return Rows(Series(symbol, interval), start, end, limit, True, _pass(path, query, 0))


def _funding(path: str, query: Mapping[str, str], view: View) -> Way:
    """How many rates there are without a limit the documents tell in two ways: then the exchange says it."""
    symbol, wanted = query.get("instId", ""), _range(query, 0, RATES_PAGE)
    if wanted is None or not view.lists(symbol):
        return _pass(path, query, 30)
    start, end, limit = wanted
    return Rows(Series(symbol), start, end, limit, True, _pass(path, query, 0))


def fetch(series: Series, start: int | None, end: int | None, limit: int) -> Pass:
    query = {"instId": series.symbol}
    if series.interval:
        query["bar"] = THEIR_INTERVALS[series.interval]
    if start is not None:
        query["before"] = str(max(0, start - 1))
    if end is not None:
        query["after"] = str(end + 1)
    path = FUNDING if not series.interval else CANDLES if end is None else HISTORY
    return _pass(path, query | {"limit": str(min(limit, CANDLES_PAGE if series.interval else RATES_PAGE))}, 0)


def parse(series: Series, body: bytes) -> list[Row]:
    try:
        told = wire.decode_answer(body)
        if told.code != "0":
            raise BadMessage(f"no rows: {refusal(told.code, told.message)}")
        rows = []
        for raw in reversed(_rows(told.data)):
            if series.interval:
                opening = int(_candle(raw)[0])
                rows.append(Row(opening, ms(bar_end(from_ms(opening), series.interval)), bytes(raw)))
            else:
                time = int(_settled(raw).time)
                rows.append(Row(time, time + 1, bytes(raw)))
        return rows
    except (*UNREADABLE, ValueError) as error:
        raise BadMessage(f"OKX's rows are not what it documents: {error}") from None


def render(rows: Rows, texts: Sequence[bytes], now: int) -> Reply:
    """Newest first."""
    return Reply(200, answer(texts[::-1]))


def answer(rows: Sequence[bytes]) -> bytes:
    return b'{"code":"0","msg":"","data":[%b]}' % b",".join(rows)


def _refused(code: str, message: str) -> bytes:
    return _encode({"code": code, "msg": message, "data": []})


def refuse(refusal: Refusal, now: int) -> Reply:
    text = refusal.text
    match refusal.why:
        case "limited":
            wait = max(1, ceil(refusal.retry_after or 1))
            words = f"Too Many Requests. {text} (marketd, for this address; try again in {wait} s)"
            return Reply(429, _refused("50011", words), headers=(("Retry-After", str(wait)),))
        case "private":
            return Reply(401, _refused("50111", text))
        case "not_served":
            return Reply(404, _encode({"code": "404", "msg": "Not Found at marketd", "data": None}))
        case "timed_out":
            return Reply(504, _refused("50004", f"API endpoint request timeout: {text}"))
        case "blocked":
            return Reply(403, refusal.body or _refused("403", text))
        case "broke":
            return Reply(502, _refused("50026", f"System error, try again later: {text}"))


def judge(status: int, body: bytes) -> MarketError | None:
    """Refusals of what was asked are for the client; what means this address, or a fault of OKX's, is for us."""
    said = explain(status, body)
    if status >= 300:
        is_for_client = status < 500 and type(said) in (UpstreamError, UnknownSymbol, UnknownInterval)
        return None if is_for_client else said or UpstreamError(f"the exchange answered {status}")
    try:
        code = wire.decode_answer(body).code
    except UNREADABLE:
        return UpstreamError("the exchange answered with something that is no answer of its kind")
    return said if isinstance(said, UpstreamLimited | UpstreamTimeout) or code in ("50001", "50026") else None


def is_clients_fault(status: int, body: bytes) -> bool:
    if status >= 500:
        return False
    try:
        code = wire.decode_answer(body).code
    except UNREADABLE:
        return False
    return code == "50014" or code.startswith("51")


FACADE = Facade(
    route=route,
    fetch=fetch,
    parse=parse,
    render=render,
    refuse=refuse,
    judge=judge,
    is_clients_fault=is_clients_fault,
    page=CANDLES_PAGE,
    tail=CANDLES_PAGE,
    backwards=True,
    settle=2000,
)
