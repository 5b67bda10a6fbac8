"""The routes below /udf: what the chart asks for, answered in its own words."""

from datetime import datetime, timedelta
from importlib.resources import files
from typing import Annotated, TypeVar

import msgspec
import trio
from msgspec import Meta, Struct
from quart import Response, request
from quart_trio import QuartTrio

from actors import clock
from actors.archive import flows
from actors.errors import Unsupported
from actors.events import INTERVALS, from_ms
from web.parameters import parse
from web.problems import BadParameter, InvalidParameters, NotFound, Problem
from web.rest.fixed import FixedFile
from web.rest.route import connector_of
from web.streams.fanouts import Fanouts
from web.udf import marks, quotes
from web.udf.history import MOST, history
from web.udf.known import bars_before, gaps, quote, settlements
from web.udf.symbols import KIND, RESOLUTIONS, columns, describe, interval_of, resolutions_of, search, symbol_named

BELOW = "/udf"
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


class Udf:
    """The chart's datafeed: one method for each of its routes."""

    def __init__(self, fanouts: Fanouts) -> None:
        self._fanouts = fanouts
        self._connectors = fanouts.sources.connectors
        self._module = FixedFile((files("web.udf") / "datafeed.js").read_bytes(), "text/javascript; charset=utf-8")

    async def config(self) -> Response:
        known = {name for connector in self._connectors.values() for name in resolutions_of(connector)}
        everywhere = {"value": "", "name": "All exchanges", "desc": "Every exchange that is collected here"}
        each = [
            {"value": name.upper(), "name": name.upper(), "desc": connector.exchange.title}
            for name, connector in self._connectors.items()
        ]
        return _json(
            {
                "supports_search": True,
                "supports_group_request": False,
                "supports_marks": True,
                "supports_timescale_marks": True,
                "supports_time": True,
                "supported_resolutions": [name for name in RESOLUTIONS if name in known],
                "exchanges": [everywhere, *each],
                "symbols_types": [{"name": "All types", "value": ""}, {"name": "Crypto", "value": KIND}],
            }
        )

    async def time(self) -> Response:
        seconds = int(clock.now().timestamp())
        return Response(str(seconds), content_type="text/plain; charset=utf-8", headers=_FRESH)

    async def symbols(self) -> Response:
        return _json(describe(*symbol_named(self._connectors, _asked(SymbolQuery).symbol)))

    async def search(self) -> Response:
        query = _asked(SearchQuery)
        if query.type not in ("", KIND):
            return _json([])
        return _json(search(self._connectors, query.query, exchange=query.exchange, limit=query.limit))

    async def symbol_info(self) -> Response:
        return _json(columns(connector_of(self._connectors, _asked(GroupQuery).group)))

    async def history(self) -> Response:
        query = _asked(HistoryQuery)
        connector, instrument = symbol_named(self._connectors, query.symbol)
        interval = interval_of(connector, query.resolution)
        start, end = _range(query)
        before = bars_before(self._fanouts, connector, instrument, interval)
        found = await history(before, interval, start=start, end=end, countback=query.countback, now=connector.now())
        return _json(found)

    async def quotes(self) -> Response:
        names = [name for name in _asked(QuotesQuery).symbols.split(",") if name.strip()]
        if not 0 < len(names) <= quotes.AT_ONCE:
            raise InvalidParameters([BadParameter("symbols", f"1 to {quotes.AT_ONCE} are needed, with commas between")])
        found: dict[int, quotes.Quote] = {}

        async def ask(number: int, name: str) -> None:
            found[number] = await quote(self._fanouts, name)

        async with trio.open_nursery() as nursery:
            for number, name in enumerate(names):
                nursery.start_soon(ask, number, name)
        return _json(quotes.Quotes(d=[found[number] for number in range(len(names))]))

    async def marks(self) -> Response:
        query = _asked(RangeQuery)
        connector, instrument = symbol_named(self._connectors, query.symbol)
        interval = interval_of(connector, query.resolution)
        start, end = _range(query)
        try:
            seen = connector.liquidations(instrument.symbol)
        except Unsupported:
            return _json(marks.of_liquidations([], instrument.quote))
        asked = interval if INTERVALS[interval] <= timedelta(days=1) else "1d"
        sums = await seen.bars(asked, limit=MOST, start=start, end=end) if end > start else []
        bars = [flows.liquidation_bar(connector.name, instrument.symbol, asked, bar) for bar in sums]
        wanted = bars if asked == interval else marks.joined(bars, interval)
        return _json(marks.of_liquidations(wanted, instrument.quote))

    async def timescale_marks(self) -> Response:
        query = _asked(RangeQuery)
        connector, instrument = symbol_named(self._connectors, query.symbol)
        start, end = _range(query)
        settled = await settlements(connector, instrument, start, end)
        open_gaps = [(topic, gap) for topic, gap in gaps(connector, instrument) if start <= gap.start < end]
        return _json([*marks.of_settlements(settled), *marks.of_gaps(open_gaps)])

    async def module(self) -> Response:
        return self._module.answer()

    async def nothing(self, path: str) -> Response:
        raise NotFound(f"the chart's protocol has no {path[:100]!r}")


def add_udf(app: QuartTrio, fanouts: Fanouts) -> None:
    """Serve the chart's datafeed below /udf."""
    udf = Udf(fanouts)
    views = (
        udf.config,
        udf.time,
        udf.symbols,
        udf.search,
        udf.symbol_info,
        udf.history,
        udf.quotes,
        udf.marks,
        udf.timescale_marks,
    )
    for view in views:
        app.add_url_rule(f"{BELOW}/{view.__name__}", f"udf_{view.__name__}", view)
    app.add_url_rule(f"{BELOW}/datafeed.js", "udf_datafeed", udf.module)
    app.add_url_rule(f"{BELOW}/<path:path>", "udf_nothing", udf.nothing)


def is_below(path: str) -> bool:
    """Whether who asks there speaks the chart's protocol."""
    return path.startswith(f"{BELOW}/")


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
