"""The REST routes: what each takes and answers, as one table that the app serves and OpenAPI describes.

A handler turns a parsed query into one call of a connector. No upstream detail is known here.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from importlib.metadata import version
from typing import Any, Literal, NamedTuple

import trio
from msgspec import UNSET, Struct, UnsetType

from actors import clock
from actors.archive import flows
from actors.archive.archive import Archive, ArchiveReport
from actors.archive.flows import LargeTradeBar, LiquidationBar
from actors.connector import Connector
from actors.errors import NotReady, UnknownExchange, UnknownSymbol
from actors.events import FeedState, FundingRate, Instrument, LargeTrade, Liquidation, Ohlc, OpenInterest
from actors.exchanges.exchange import Capability
from actors.feeds.feed import Feed
from actors.feeds.health import FeedReport
from actors.feeds.quality import TopicReport
from actors.upstream.budget import BudgetReport
from web import parameters as p
from web.problems import BadParameter, InvalidParameters

Connectors = Mapping[str, Connector]
HealthState = Literal["healthy", "degraded", "starting"]
VERSION = version("marketd")


class Root(Struct, frozen=True):
    name: str
    version: str
    status: HealthState
    docs: str
    exchanges: list[str]


class Health(Struct, frozen=True):
    """`exchanges`: whether at least one feed of it delivers. `archive` is null where it is switched off."""

    status: HealthState
    exchanges: dict[str, bool]
    feeds: list[FeedReport]
    budgets: dict[str, BudgetReport]
    archive: ArchiveReport | None


class Live(Struct, frozen=True):
    status: Literal["live"]


class Ready(Struct, frozen=True):
    """`reasons`, by exchange, where it is not ready (and the status is 503)."""

    status: Literal["ready", "not_ready"]
    reasons: dict[str, str] | UnsetType = UNSET


class ExchangeSummary(Struct, frozen=True):
    """`symbols` are those collected now; the catalogue is at /symbols."""

    name: str
    capabilities: dict[str, Capability]
    symbols: list[str]
    intervals: list[str]
    budget: BudgetReport


class ExchangesAnswer(Struct, frozen=True):
    exchanges: list[ExchangeSummary]


class FeedQuality(Struct, frozen=True):
    """What can be said of one feed's data. `clock_skew_ms`: the exchange's clock minus ours; `lag` is without it."""

    exchange: str
    symbol: str
    state: FeedState
    clock_skew_ms: float
    topics: list[TopicReport]


class Answer(NamedTuple):
    """A body with a status of its own."""

    body: Struct
    status: int


Handler = Callable[..., Awaitable[Any] | Any]
"""(connectors, query, **path parameters) -> what is encoded as the answer, or an Answer.

A plain function where memory has the answer always.
"""

Held = Callable[..., Any]
"""The same from memory alone, without waiting: None where only the handler can tell."""


class Route(NamedTuple):
    path: str
    handler: Handler
    query: type[Struct]
    answer: Any
    tag: str
    summary: str
    held: Held | None = None  # of a handler that may wait


def root(connectors: Connectors, query: p.NoQuery, *, root_path: str = "") -> Root:
    return Root("marketd", VERSION, health_state(connectors), f"{root_path}/docs", list(connectors))


def health(connectors: Connectors, query: p.NoQuery) -> Health:
    return Health(
        health_state(connectors),
        {name: connector.is_live for name, connector in connectors.items()},
        [feed.report() for connector in connectors.values() for feed in connector.feeds.values()],
        {name: connector.budget.report() for name, connector in connectors.items()},
        archive.report() if (archive := archive_of(connectors)) else None,
    )


def archive_of(connectors: Connectors) -> Archive | None:
    """The archive that all of them share; None where it is switched off."""
    return next((connector.archive for connector in connectors.values()), None)


def health_state(connectors: Connectors) -> HealthState:
    """Healthy when every feed is live and the archive writes, starting while some have yet to begin, else degraded."""
    states = {feed.health.state for connector in connectors.values() for feed in connector.feeds.values()}
    archive = archive_of(connectors)
    if states & {"stale", "down", "failed"} or (archive and archive.is_failing):
        return "degraded"
    if "starting" in states or not all(connector.catalogue.instruments for connector in connectors.values()):
        return "starting"
    return "healthy"


def health_live(connectors: Connectors, query: p.NoQuery) -> Live:
    return Live("live")


def health_ready(connectors: Connectors, query: p.NoQuery) -> Answer:
    reasons = {
        name: reason for name, connector in connectors.items() if (reason := connector.not_ready_reason()) is not None
    }
    if reasons:
        return Answer(Ready("not_ready", reasons), 503)
    return Answer(Ready("ready"), 200)


def exchanges(connectors: Connectors, query: p.NoQuery) -> ExchangesAnswer:
    return ExchangesAnswer(
        [
            ExchangeSummary(
                name,
                dict(connector.exchange.capabilities),
                list(connector.feeds),
                list(connector.exchange.intervals),
                connector.budget.report(),
            )
            for name, connector in connectors.items()
        ]
    )


def symbols(connectors: Connectors, query: p.SymbolsQuery) -> list[Instrument]:
    asked = connectors.values() if query.exchange is None else [connector_of(connectors, query.exchange)]
    ready = [connector for connector in asked if connector.catalogue.instruments]
    if not ready:
        raise NotReady("no exchange's catalogue has arrived yet")
    part = query.q.upper()
    return [
        instrument
        for connector in ready
        for instrument in connector.catalogue.instruments.values()
        if part in instrument.symbol.upper() or part in instrument.base.upper()
    ]


async def quality(connectors: Connectors, query: p.NoQuery) -> list[FeedQuality]:
    """One entry per feed and topic that said anything since the start. Hundreds of feeds are told one by one."""
    found = []
    for connector in connectors.values():
        for feed in list(connector.feeds.values()):
            found.append(_quality(connector, feed))
            await trio.lowlevel.checkpoint()
    return found


async def feed_quality(connectors: Connectors, query: p.NoQuery, *, exchange: str, symbol: str) -> FeedQuality:
    connector = connector_of(connectors, exchange)
    symbol = symbol if symbol in connector.feeds else connector.catalogue.resolve(symbol).symbol
    feed = connector.feeds.get(symbol)
    if feed is None:
        raise UnknownSymbol(f"{symbol} is not collected here, so nothing is known of its data")
    return _quality(connector, feed)


def _quality(connector: Connector, feed: Feed) -> FeedQuality:
    skew = connector.clock_skew
    return FeedQuality(
        connector.name,
        feed.symbol,
        feed.health.state,
        round(skew / timedelta(milliseconds=1), 3),
        feed.quality(clock.now(), skew),
    )


def connector_of(connectors: Connectors, exchange: str) -> Connector:
    try:
        return connectors[exchange.lower()]
    except KeyError:
        known = ", ".join(connectors)
        raise UnknownExchange(f"there is no exchange {exchange[:60]!r} here; known: {known}") from None


async def ohlc(connectors: Connectors, query: p.OhlcQuery, *, exchange: str, symbol: str, interval: str) -> list[Ohlc]:
    return await connector_of(connectors, exchange).ohlc(
        symbol, interval, limit=query.limit, start=query.start_time, end=query.end_time
    )


async def open_interest(connectors: Connectors, query: p.NoQuery, *, exchange: str, symbol: str) -> OpenInterest:
    return await connector_of(connectors, exchange).open_interest(symbol)


def held_ohlc(
    connectors: Connectors, query: p.OhlcQuery, *, exchange: str, symbol: str, interval: str
) -> list[Ohlc] | None:
    return connector_of(connectors, exchange).held_ohlc(
        symbol, interval, limit=query.limit, start=query.start_time, end=query.end_time
    )


def held_open_interest(connectors: Connectors, query: p.NoQuery, *, exchange: str, symbol: str) -> OpenInterest | None:
    return connector_of(connectors, exchange).held_open_interest(symbol)


def held_funding(connectors: Connectors, query: p.NoQuery, *, exchange: str, symbol: str) -> FundingRate | None:
    return connector_of(connectors, exchange).held_funding(symbol)


async def open_interest_history(
    connectors: Connectors, query: p.OpenInterestHistoryQuery, *, exchange: str, symbol: str
) -> list[OpenInterest]:
    connector = connector_of(connectors, exchange)
    periods = connector.exchange.open_interest_periods
    connector.check_capability("open_interest_history")
    if query.period not in periods:
        raise InvalidParameters([BadParameter("period", f"must be one of {', '.join(periods)}")])
    return await connector.open_interest_history(
        symbol, query.period, limit=query.limit, start=query.start_time, end=query.end_time
    )


async def funding(connectors: Connectors, query: p.NoQuery, *, exchange: str, symbol: str) -> FundingRate:
    return await connector_of(connectors, exchange).funding(symbol)


async def funding_history(
    connectors: Connectors, query: p.FundingHistoryQuery, *, exchange: str, symbol: str
) -> list[FundingRate]:
    return await connector_of(connectors, exchange).funding_history(
        symbol, limit=query.limit, start=query.start_time, end=query.end_time
    )


async def liquidations(connectors: Connectors, query: p.SeenQuery, *, exchange: str, symbol: str) -> list[Liquidation]:
    return await connector_of(connectors, exchange).liquidations(symbol).events(**_seen(query))


async def large_trades(connectors: Connectors, query: p.SeenQuery, *, exchange: str, symbol: str) -> list[LargeTrade]:
    return await connector_of(connectors, exchange).large_trades(symbol).events(**_seen(query))


def _seen(query: p.SeenQuery) -> dict[str, Any]:
    return {"limit": query.limit, "start": query.start_time, "end": query.end_time, "least": query.min_value_usd}


async def liquidation_bars(
    connectors: Connectors, query: p.BarsQuery, *, exchange: str, symbol: str
) -> list[LiquidationBar]:
    """A bar in which none was seen is left out."""
    return await bars_of_liquidations(connector_of(connectors, exchange), symbol, query)


async def large_trade_bars(
    connectors: Connectors, query: p.BarsQuery, *, exchange: str, symbol: str
) -> list[LargeTradeBar]:
    """A bar in which none was seen is left out."""
    return await bars_of_large_trades(connector_of(connectors, exchange), symbol, query)


async def bars_of_liquidations(connector: Connector, symbol: str, query: p.BarsQuery) -> list[LiquidationBar]:
    seen = connector.liquidations(symbol)
    sums = await seen.bars(query.interval, limit=query.limit, start=query.start_time, end=query.end_time)
    return [flows.liquidation_bar(connector.name, seen.series.symbol, query.interval, bar) for bar in sums]


async def bars_of_large_trades(connector: Connector, symbol: str, query: p.BarsQuery) -> list[LargeTradeBar]:
    seen = connector.large_trades(symbol)
    sums = await seen.bars(query.interval, limit=query.limit, start=query.start_time, end=query.end_time)
    return [flows.large_trade_bar(connector.name, seen.series.symbol, query.interval, bar) for bar in sums]


ROUTES = [
    Route("/", root, p.NoQuery, Root, "daemon", "What this is, and whether it is well"),
    Route("/health", health, p.NoQuery, Health, "daemon", "Every feed's state, from memory"),
    Route("/health/live", health_live, p.NoQuery, Live, "daemon", "200 while the process runs"),
    Route("/health/ready", health_ready, p.NoQuery, Ready, "daemon", "200 when every exchange delivers, else 503"),
    Route("/exchanges", exchanges, p.NoQuery, ExchangesAnswer, "daemon", "Exchanges and what each can do"),
    Route(
        "/quality", quality, p.NoQuery, list[FeedQuality], "daemon", "How complete and how late every feed's data is"
    ),
    Route(
        "/quality/{exchange}/{symbol}",
        *(feed_quality, p.NoQuery, FeedQuality, "daemon", "How complete and how late one feed's data is"),
    ),
    Route("/symbols", symbols, p.SymbolsQuery, list[Instrument], "daemon", "The instrument catalogue"),
    Route(
        "/{exchange}/ohlc/{symbol}/{interval}",
        *(ohlc, p.OhlcQuery, list[Ohlc], "market data", "Bars, ascending; the open one last"),
        held=held_ohlc,
    ),
    Route(
        "/{exchange}/oi/{symbol}",
        *(open_interest, p.NoQuery, OpenInterest, "market data", "Open interest of this moment"),
        held=held_open_interest,
    ),
    Route(
        "/{exchange}/oi-hist/{symbol}",
        *(open_interest_history, p.OpenInterestHistoryQuery, list[OpenInterest]),
        *("market data", "Open interest per period, as far back as the exchange or the archive has it"),
    ),
    Route(
        "/{exchange}/funding/{symbol}",
        *(funding, p.NoQuery, FundingRate, "market data", "Funding rate of the running period"),
        held=held_funding,
    ),
    Route(
        "/{exchange}/funding-hist/{symbol}",
        *(funding_history, p.FundingHistoryQuery, list[FundingRate], "market data", "Settled funding rates"),
    ),
    Route(
        "/{exchange}/liquidations/{symbol}",
        *(liquidations, p.SeenQuery, list[Liquidation], "market data", "Liquidations seen by this daemon"),
    ),
    Route(
        "/{exchange}/large_trades/{symbol}",
        *(large_trades, p.SeenQuery, list[LargeTrade], "market data", "Large trades seen by this daemon"),
    ),
    Route(
        "/{exchange}/liquidations/{symbol}/bars",
        *(liquidation_bars, p.BarsQuery, list[LiquidationBar], "market data", "Liquidations per bar: count and value"),
    ),
    Route(
        "/{exchange}/large_trades/{symbol}/bars",
        *(large_trade_bars, p.BarsQuery, list[LargeTradeBar], "market data", "Large trades per bar: count and value"),
    ),
]
