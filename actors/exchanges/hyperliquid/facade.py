"""Hyperliquid's info endpoint, spoken to clients: what a question asks for, how rows and refusals are spelled. No I/O.

Clients put their own millisecond into ranges, so bodies never repeat: candles and funding are cut out of rows by range,
and what is asked of the exchange begins and ends with whole bars. Questions about an account are public too, and live
bots need them: they pass, but are neither shared nor remembered.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import msgspec

from actors.decoding import UNREADABLE
from actors.errors import BadMessage, MarketError, UpstreamError, UpstreamGeoBlocked, UpstreamLimited
from actors.events import INTERVALS
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
)
from actors.exchanges.hyperliquid import wire
from actors.exchanges.hyperliquid.rest import (
    CANDLES_KEPT,
    CANDLES_PER_WEIGHT,
    FUNDING_PAGE,
    FUNDING_PER_WEIGHT,
    WEIGHT,
)
from actors.upstream.rest import Question

TAIL = 60  # candles for a weight of 1
HOUR = 3_600_000
FAR = 4_102_444_800_000  # 2100
FIXED = {name: step for name, step in INTERVALS.items() if name not in ("1M", "6h")}  # months vary; there is no 6h

PASSED: Mapping[str, tuple[int, float]] = {  # question -> weight, seconds that its answer is good for
    "metaAndAssetCtxs": (20, 2),
    "spotMetaAndAssetCtxs": (20, 2),
    "predictedFundings": (20, 2),
    "meta": (20, 60),
    "spotMeta": (20, 60),
    "allPerpMetas": (20, 60),
    "perpDexs": (20, 60),
    "perpsAtOpenInterestCap": (20, 60),
    "perpDexLimits": (20, 60),
    "perpDexStatus": (20, 60),
    "allMids": (2, 1),
    "l2Book": (2, 0.5),
    "recentTrades": (20, 1),
    "exchangeStatus": (2, 1),
    "candleSnapshot": (20, 1),
    "fundingHistory": (20, 1),
}
OF_USERS = {"clearinghouseState": 2, "spotClearinghouseState": 2, "orderStatus": 2, "userRole": 60}
PER_WEIGHT = {  # rows for one more of weight, whoever they are of
    **{"candleSnapshot": CANDLES_PER_WEIGHT, "fundingHistory": FUNDING_PER_WEIGHT, "recentTrades": 20},
    **dict.fromkeys(("historicalOrders", "userFills", "userFillsByTime", "userFunding", "twapHistory"), 20),
    **dict.fromkeys(("userNonFundingLedgerUpdates", "userTwapSliceFills", "userTwapSliceFillsByTime"), 20),
    **dict.fromkeys(("delegatorHistory", "delegatorRewards"), 20),
}
PARAMETERS = frozenset(
    (
        *("type", "req", "coin", "interval", "startTime", "endTime", "dex", "nSigFigs", "mantissa", "user"),
        *("aggregateByTime", "reversed", "oid", "vaultAddress", "token", "id"),
    )
)
CANDLE_PARAMETERS = frozenset(("coin", "interval", "startTime", "endTime"))
TEXT = "text/plain; charset=utf-8"
NOT_UNDERSTOOD = b"Failed to deserialize the JSON body into the target type"
WORDS = "marketd serves public market data only; send what is signed to the exchange itself"

_encode = msgspec.json.encode
_decode = msgspec.json.decode
_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode
_candle = msgspec.json.Decoder(wire.Candle[str]).decode
_settled = msgspec.json.Decoder(wire.FundingRow).decode


def route(asked: Asked, view: View) -> Way:
    """What answers a request."""
    now = view.now()
    if asked.path == "/exchange":
        return refuse(Refusal("private", WORDS, asked=asked), now)
    if asked.path != "/info":
        return Reply(404, b"", TEXT)
    if asked.method != "POST":
        return Reply(405, b"", TEXT)
    if asked.content_type.partition(";")[0].strip().lower() != "application/json":
        return Reply(415, b"Expected request with `Content-Type: application/json`", TEXT)
    try:
        body = _decode(asked.body)
    except UNREADABLE:
        return Reply(400, b"Failed to parse the request body as JSON", TEXT)
    kind = body.get("type") if isinstance(body, dict) else None
    if not isinstance(kind, str):
        return Reply(422, NOT_UNDERSTOOD, TEXT)
    if "signature" in body or "action" in body:
        return refuse(Refusal("private", WORDS, asked=asked), now)
    body = _listed(body, PARAMETERS)
    if isinstance(request := body.get("req"), dict):
        body["req"] = _listed(request, CANDLE_PARAMETERS)
    if "user" in body:
        return _pass(body, OF_USERS.get(kind, WEIGHT), 0)._replace(joins="never")
    if kind not in PASSED:
        return refuse(Refusal("not_served", "", asked=asked), now)
    weight, seconds = PASSED[kind]
    as_asked = _pass(body, weight, seconds)
    match kind:
        case "candleSnapshot":
            return _candles(body.get("req"), as_asked, view)
        case "fundingHistory":
            return _funding(body, as_asked, view)
    return as_asked


def _listed(body: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """Nothing else of a client's goes upstream."""
    return {name: value for name, value in body.items() if name in names}


def weigh(question: Question, body: bytes) -> int:
    kind = _decode(question.body)["type"]
    weight = OF_USERS.get(kind, WEIGHT) if kind not in PASSED else PASSED[kind][0]
    per = PER_WEIGHT.get(kind)
    try:
        return weight if per is None else weight + len(_rows(body)) // per
    except UNREADABLE:
        return weight  # no rows


def _pass(body: Mapping[str, Any], weight: int, seconds: float) -> Pass:
    """Keyed by what a question says, not by how a client spaces it."""
    return Pass(Question("POST", "/info", {}, _encode(body, order="deterministic")), "weight", weight, seconds)


def _time(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63):
        raise ValueError(name)
    return value


def _candles(request: Any, as_asked: Pass, view: View) -> Way:
    """Every bar that touches the range, of the newest 5000. Bars of months are asked for as they come."""
    if not isinstance(request, dict):
        return as_asked
    coin, interval = request.get("coin"), request.get("interval")
    try:
        start, end = _time(request, "startTime"), _time(request, "endTime")
    except ValueError:
        return as_asked
    if not isinstance(coin, str) or not isinstance(interval, str) or interval not in FIXED or not view.lists(coin):
        return as_asked
    if start is None or (end is not None and end < start):
        return as_asked
    now, step = view.now(), _step(interval)
    first = max(_opening(start, interval), _opening(now, interval) - (CANDLES_KEPT - 1) * step, 0)
    last = None if end is None or end >= now else _opening(end, interval) + step - 1
    if last is not None and last < first:
        return as_asked
    series = Series(coin, interval)
    expected = (min(now, last or now) - first) // step + 1
    return Rows(series, first, last, CANDLES_KEPT + 1, False, fetch(series, first, last, expected))


def _funding(body: Mapping[str, Any], as_asked: Pass, view: View) -> Way:
    coin = body.get("coin")
    try:
        start, end = _time(body, "startTime"), _time(body, "endTime")
    except ValueError:
        return as_asked
    if not isinstance(coin, str) or not view.lists(coin) or start is None or (end is not None and end < start):
        return as_asked
    last = None if end is None or end >= view.now() else end
    series, first = Series(coin), start - start % HOUR
    expected = min(FUNDING_PAGE, max(1, (min(view.now(), last or view.now()) - first) // HOUR + 1))
    fetched = fetch(series, first, last, expected)
    wider = Rows(series, first, last, FUNDING_PAGE, False, fetched)
    return Rows(series, start, last, FUNDING_PAGE, False, as_asked._replace(weight=fetched.weight), wider=wider)


def _step(interval: str) -> int:
    return int(FIXED[interval].total_seconds() * 1000)


def _opening(time: int, interval: str) -> int:
    """When the bar opened that a time is in. Weeks begin on Mondays, all else with the epoch."""
    offset = 4 * 24 * HOUR if interval == "1w" else 0
    return (time - offset) // _step(interval) * _step(interval) + offset


def fetch(series: Series, start: int | None, end: int | None, limit: int) -> Pass:
    """Rows from `start` to `end`, about `limit`, which only weighs: the exchange has no such parameter."""
    start = start or 0
    if series.interval:
        request = {"coin": series.symbol, "interval": series.interval, "startTime": start, "endTime": end or FAR}
        return _pass({"type": "candleSnapshot", "req": request}, WEIGHT + ceil(limit / CANDLES_PER_WEIGHT), 0)
    question = {"type": "fundingHistory", "coin": series.symbol, "startTime": start}
    return _pass(question | ({} if end is None else {"endTime": end}), WEIGHT + limit // FUNDING_PER_WEIGHT, 0)


def parse(series: Series, body: bytes) -> list[Row]:
    try:
        rows = []
        for raw in _rows(body):
            if series.interval:
                candle = _candle(raw)
                rows.append(Row(candle.open_time, candle.close_time + 1, bytes(raw)))
            else:
                rows.append(Row(time := _settled(raw).time, time + 1, bytes(raw)))
        return rows
    except UNREADABLE as error:
        raise BadMessage(f"Hyperliquid's rows are not what it documents: {error}") from None


def render(rows: Rows, texts: Sequence[bytes], now: int) -> Reply:
    return Reply(200, b"[%b]" % b",".join(texts[-CANDLES_KEPT:]))


def refuse(refusal: Refusal, now: int) -> Reply:
    """In plain text: clients look into objects for what is not there."""
    match refusal.why:
        case "limited":
            return Reply(429, b"null", headers=(("Retry-After", str(max(1, ceil(refusal.retry_after or 1)))),))
        case "private":
            return Reply(401, refusal.text.encode(), TEXT)
        case "not_served":
            return Reply(422, NOT_UNDERSTOOD, TEXT)
        case "timed_out":
            return Reply(504, refusal.text.encode(), TEXT)
        case "blocked":
            return Reply(403, refusal.body or refusal.text.encode(), TEXT)
        case "broke":
            return Reply(502, refusal.text.encode(), TEXT)


def judge(status: int, body: bytes) -> MarketError | None:
    """A bad name is a 500 with `null`: for the client, like all that says what is wrong with a question."""
    if status < 300 or status in (400, 415, 422) or (status == 500 and body.strip() == b"null"):
        return None
    if status == 429:
        return UpstreamLimited("the exchange limits this address")
    if status in (403, 451):
        return UpstreamGeoBlocked("the exchange does not serve this address")
    return UpstreamError(f"the exchange answered {status}")


def is_clients_fault(status: int, body: bytes) -> bool:
    return status >= 400 and judge(status, body) is None


FACADE = Facade(
    route=route,
    fetch=fetch,
    parse=parse,
    render=render,
    refuse=refuse,
    judge=judge,
    is_clients_fault=is_clients_fault,
    page=CANDLES_KEPT,
    tail=TAIL,
    weigh=weigh,
    has_holes=True,
)
