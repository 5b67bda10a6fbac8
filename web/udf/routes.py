"""The routes below /udf: what the chart asks for, answered in its own words."""

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from hashlib import sha256
from importlib.resources import files
from typing import Annotated, Any, TypeVar

import msgspec
import trio
from msgspec import Meta, Struct
from quart import Response, request
from quart_trio import QuartTrio

from actors import clock
from actors.archive import flows
from actors.connector import Connector
from actors.errors import MarketError, UnknownInterval, Unsupported
from actors.events import EPOCH, INTERVALS, Gap, Instrument, Ohlc, from_ms
from web.access.auth import VISIT
from web.parameters import parse
from web.problems import BadParameter, Denied, InvalidParameters, NotFound, Problem
from web.rest.route import connector_of
from web.streams.fanouts import Fanouts
from web.streams.shares import following
from web.streams.topics import find_by_name
from web.udf import marks, quotes
from web.udf.history import MOST, Before, history
from web.udf.symbols import KIND, RESOLUTIONS, columns, describe, interval_of, resolutions_of, search, symbol_named

BELOW = "/udf"
PATIENCE = timedelta(seconds=60)  # since anything came, for which what was known then still answers
LAST = 253_402_300_799  # seconds: the end of the year 9999

Seconds = Annotated[int, Meta(ge=-(10**12), le=10**12, description="Unix seconds")]

Q = TypeVar("Q", bound=Struct)

_encode = msgspec.json.Encoder().encode


class SymbolQuery(Struct, frozen=True):
    symbol: str


class SearchQuery(Struct, frozen=True):
    query: str = ""
    type: str = ""
    exchange: str = ""
    limit: Annotated[int, Meta(ge=1)] = 30


class GroupQuery(Struct, frozen=True):
    group: str


class RangeQuery(Struct, frozen=True, rename={"start": "from", "end": "to"}):
    symbol: str
    resolution: str
    start: Seconds
    end: Seconds


class HistoryQuery(RangeQuery, frozen=True, rename={"start": "from", "end": "to"}):
    countback: Annotated[int, Meta(ge=0, description="At least so many bars before `to`")] = 0


class QuotesQuery(Struct, frozen=True):
    symbols: str


def add_udf(app: QuartTrio, fanouts: Fanouts) -> None:
    """Serve the chart's datafeed below /udf."""
    connectors = fanouts.sources.connectors
    datafeed = (files("web.udf") / "datafeed.js").read_bytes()
    tag = sha256(datafeed).hexdigest()[:16]

    @app.get(f"{BELOW}/config")
    async def udf_config() -> Response:
        known = {name for connector in connectors.values() for name in resolutions_of(connector)}
        return _json(
            {
                "supports_search": True,
                "supports_group_request": False,
                "supports_marks": True,
                "supports_timescale_marks": True,
                "supports_time": True,
                "supported_resolutions": [name for name in RESOLUTIONS if name in known],
                "exchanges": [
                    {"value": "", "name": "All exchanges", "desc": "Every exchange that is collected here"},
                    *(
                        {"value": name.upper(), "name": name.upper(), "desc": connector.exchange.title}
                        for name, connector in connectors.items()
                    ),
                ],
                "symbols_types": [{"name": "All types", "value": ""}, {"name": "Crypto", "value": KIND}],
            }
        )

    @app.get(f"{BELOW}/time")
    async def udf_time() -> Response:
        seconds = int(clock.now().timestamp())
        return Response(str(seconds), content_type="text/plain; charset=utf-8", headers=_FRESH)

    @app.get(f"{BELOW}/symbols")
    async def udf_symbols() -> Response:
        return _json(describe(*symbol_named(connectors, _asked(SymbolQuery).symbol)))

    @app.get(f"{BELOW}/search")
    async def udf_search() -> Response:
        query = _asked(SearchQuery)
        if query.type not in ("", KIND):
            return _json([])
        return _json(search(connectors, query.query, exchange=query.exchange, limit=query.limit))

    @app.get(f"{BELOW}/symbol_info")
    async def udf_symbol_info() -> Response:
        return _json(columns(connector_of(connectors, _asked(GroupQuery).group)))

    @app.get(f"{BELOW}/history")
    async def udf_history() -> Response:
        query = _asked(HistoryQuery)
        connector, instrument = symbol_named(connectors, query.symbol)
        interval = interval_of(connector, query.resolution)
        start, end = _range(query)
        before = _bars_before(fanouts, connector, instrument, interval)
        found = await history(before, interval, start=start, end=end, countback=query.countback, now=connector.now())
        return _json(found)

    @app.get(f"{BELOW}/quotes")
    async def udf_quotes() -> Response:
        names = [name for name in _asked(QuotesQuery).symbols.split(",") if name.strip()]
        if not 0 < len(names) <= quotes.AT_ONCE:
            raise InvalidParameters([BadParameter("symbols", f"1 to {quotes.AT_ONCE} are needed, with commas between")])
        found: dict[int, quotes.Quote] = {}

        async def ask(number: int, name: str) -> None:
            found[number] = await _quote(fanouts, name)

        async with trio.open_nursery() as nursery:
            for number, name in enumerate(names):
                nursery.start_soon(ask, number, name)
        return _json(quotes.Quotes(d=[found[number] for number in range(len(names))]))

    @app.get(f"{BELOW}/marks")
    async def udf_marks() -> Response:
        query = _asked(RangeQuery)
        connector, instrument = symbol_named(connectors, query.symbol)
        interval = interval_of(connector, query.resolution)
        start, end = _range(query)
        try:
            seen = connector.liquidations(instrument.symbol)
        except Unsupported:
            return _json(marks.of_liquidations([], instrument.quote))
        asked = interval if INTERVALS[interval] <= timedelta(days=1) else "1d"
        sums = await seen.bars(asked, limit=MOST, start=start, end=end) if end > start else []
        bars = [flows.liquidation_bar(connector.name, instrument.symbol, asked, bar) for bar in sums]
        return _json(
            marks.of_liquidations(bars if asked == interval else marks.joined(bars, interval), instrument.quote)
        )

    @app.get(f"{BELOW}/timescale_marks")
    async def udf_timescale_marks() -> Response:
        query = _asked(RangeQuery)
        connector, instrument = symbol_named(connectors, query.symbol)
        start, end = _range(query)
        settled = await _settlements(connector, instrument, start, end)
        gaps = [(topic, gap) for topic, gap in _gaps(connector, instrument) if start <= gap.start < end]
        return _json([*marks.of_settlements(settled), *marks.of_gaps(gaps)])

    @app.get(f"{BELOW}/datafeed.js")
    async def udf_datafeed() -> Response:
        response = Response(datafeed, content_type="text/javascript; charset=utf-8")
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.set_etag(tag)
        return await response.make_conditional(request)

    @app.get(f"{BELOW}/<path:path>")
    async def udf_nothing(path: str) -> Response:
        raise NotFound(f"the chart's protocol has no {path[:100]!r}")


def worded(told: Problem) -> dict[str, object]:
    """A problem as the adapter understands it, which looks at nothing but its body."""
    body: dict[str, object] = msgspec.to_builtins(told)
    return {"s": "error", "errmsg": told.detail, **body}


_FRESH = {"Cache-Control": "no-store"}


def _json(body: object) -> Response:
    return Response(_encode(body), content_type="application/json", headers=_FRESH)


def _asked(query: type[Q]) -> Q:
    """The query; what else the adapter sends is none of ours."""
    return parse(request.args, query, ignore_unknown=True)


def _range(query: RangeQuery) -> tuple[datetime, datetime]:
    """Raises InvalidParameters where it ends before it begins."""
    if query.start > query.end:
        raise InvalidParameters([BadParameter("from", "must not be after to")])
    start, end = (from_ms(min(max(0, seconds), LAST) * 1000) for seconds in (query.start, query.end))
    return start, end


def _bars_before(fanouts: Fanouts, connector: Connector, instrument: Instrument, interval: str) -> Before:
    """From memory where it reaches so far; a chart of what is not collected has it collected, as a stream would."""
    symbol = instrument.symbol

    async def before(time: datetime, count: int) -> list[Ohlc]:
        if time <= EPOCH:
            return []
        now, step = connector.now(), INTERVALS[interval]
        if now - time < 2 * step:
            _collect(fanouts, connector, symbol, interval)
        rows = connector.known_ohlc(symbol, interval, limit=count, end=time, patience=PATIENCE)
        if rows is None:
            # Of charts that ask at one moment for all there is, each says another second.
            end = None if time > now + step else time
            rows = await connector.ohlc(symbol, interval, limit=count, start=None, end=end)
        return rows

    return before


def _collect(fanouts: Fanouts, connector: Connector, symbol: str, interval: str) -> None:
    """Have it collected for a while longer, within what the client may; where it may not, the exchange is asked."""
    if connector.is_configured(symbol, interval):
        return
    wanted = find_by_name(f"{connector.name}:{symbol}:ohlc:{interval}", fanouts.sources)
    with suppress(MarketError, Denied), following(VISIT.get().account, fanouts, wanted):
        pass


async def _quote(fanouts: Fanouts, name: str) -> quotes.Quote:
    connectors = fanouts.sources.connectors
    try:
        connector, instrument = symbol_named(connectors, name)
        if "1d" not in connector.exchange.intervals:
            raise UnknownInterval(f"{connector.name} has no bars of a day")
        days = await _bars_before(fanouts, connector, instrument, "1d")(connector.now() + timedelta(days=1), 2)
    except (MarketError, InvalidParameters) as error:
        return quotes.Quote(s="error", n=name, v=quotes.Nothing(), errmsg=str(error))
    if not days:
        return quotes.Quote(s="error", n=name, v=quotes.Nothing(), errmsg=f"{instrument.symbol} has not traded yet")
    return quotes.quote_of(name, describe(connector, instrument), days, connector.now())


async def _settlements(connector: Connector, instrument: Instrument, start: datetime, end: datetime) -> list[Any]:
    """The latest thousand within the range."""
    until = None if end > connector.now() else end
    if end <= start or end <= EPOCH:
        return []
    try:
        rates = await connector.funding_history(instrument.symbol, limit=1000, start=None, end=until)
    except Unsupported:
        return []
    return [rate for rate in rates if start <= rate.funding_time < end]


def _gaps(connector: Connector, instrument: Instrument) -> Iterable[tuple[str, Gap]]:
    feed = connector.feeds.get(instrument.symbol)
    if feed is None:
        return
    for report in feed.quality(clock.now(), connector.clock_skew):
        for gap in report.gaps:
            yield report.topic, gap
