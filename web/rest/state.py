"""The daemon itself over REST: whether it is well, what it collects, and how good that is. All of it from memory."""

from collections.abc import Callable
from datetime import timedelta
from importlib.metadata import version
from typing import Any, Literal

import trio
from msgspec import UNSET, Struct, UnsetType, structs

from actors import clock
from actors.archive.archive import ArchiveReport
from actors.engine.links import EngineReport
from actors.errors import NotReady, UnknownSymbol
from actors.events import FeedState, Instrument
from actors.exchanges.exchange import Capability
from actors.feeds.health import FeedReport
from actors.feeds.quality import TopicReport
from actors.sinks.report import SinkReport
from actors.sinks.sinks import Sinks
from actors.upstream.budget import BudgetReport
from web import parameters as p
from web.connectors import AnyConnector, AnyFeed, Connectors
from web.rest.route import Answer, Route, archive_of, connector_of

HealthState = Literal["healthy", "degraded", "starting"]
VERSION = version("marketd")


class Root(Struct, frozen=True):
    name: str
    version: str
    status: HealthState
    docs: str
    exchanges: list[str]


class Health(Struct, frozen=True):
    """`exchanges`: whether at least one feed of it delivers. `archive` is null where it is switched off.

    `engine` is there where several nodes share one; while it is away, nothing is delivered to streams. `sinks` is there
    where there are any.
    """

    status: HealthState
    exchanges: dict[str, bool]
    feeds: list[FeedReport]
    budgets: dict[str, BudgetReport]
    archive: ArchiveReport | None
    engine: EngineReport | UnsetType = UNSET
    sinks: list[SinkReport] | UnsetType = UNSET


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


Engine = Callable[[], EngineReport]
"""How the engine between several nodes is, where there is one."""


def root(
    connectors: Connectors,
    query: p.NoQuery,
    *,
    root_path: str = "",
    engine: Engine | None = None,
    sinks: Sinks | None = None,
) -> Root:
    return Root("marketd", VERSION, health_state(connectors, engine, sinks), f"{root_path}/docs", list(connectors))


def health(
    connectors: Connectors, query: p.TableQuery, *, engine: Engine | None = None, sinks: Sinks | None = None
) -> Health:
    feeds = [feed.report() for connector in connectors.values() for feed in connector.feeds.values()]
    away = _away(engine)
    if away is not None:
        where: Any = {"state": "down", "reason": _why(away), "next_retry": None}
        feeds = [structs.replace(feed, **where, since=max(feed.since, away.since)) for feed in feeds]
    return Health(
        health_state(connectors, engine, sinks),
        {name: connector.is_live and away is None for name, connector in connectors.items()},
        feeds,
        {name: connector.budget.report() for name, connector in connectors.items()},
        archive.report() if (archive := archive_of(connectors)) else None,
        UNSET if engine is None else engine(),
        UNSET if sinks is None else sinks.report(),
    )


def _away(engine: Engine | None) -> EngineReport | None:
    """The engine's report where it takes and tells nothing."""
    return report if engine is not None and (report := engine()).state != "live" else None


def _why(away: EngineReport) -> str:
    """What a feed says of it: the engine's own report tells more."""
    return "the engine was not reached yet" if away.state == "starting" else f"the engine is {away.state}"


def health_state(connectors: Connectors, engine: Engine | None = None, sinks: Sinks | None = None) -> HealthState:
    """Healthy when every feed is live, archive and sinks write; starting while some have yet to begin; else degraded.

    Without its engine a node is degraded.
    """
    if _away(engine) is not None:
        return "degraded"
    states = {feed.health.state for connector in connectors.values() for feed in connector.feeds.values()}
    archive = archive_of(connectors)
    if states & {"stale", "down", "failed"} or (archive and archive.is_failing) or (sinks and sinks.are_failing):
        return "degraded"
    if "starting" in states or any(connector.not_ready_reason() is not None for connector in connectors.values()):
        return "starting"
    return "healthy"


def health_live(connectors: Connectors, query: p.NoQuery) -> Live:
    return Live("live")


def health_ready(connectors: Connectors, query: p.NoQuery, *, engine: Engine | None = None) -> Answer:
    reasons = {
        name: reason for name, connector in connectors.items() if (reason := connector.not_ready_reason()) is not None
    }
    if (away := _away(engine)) is not None:
        reasons = dict.fromkeys(connectors, _why(away))
    if reasons:
        return Answer(Ready("not_ready", reasons), 503)
    return Answer(Ready("ready"), 200)


def exchanges(connectors: Connectors, query: p.TableQuery) -> ExchangesAnswer:
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


async def quality(connectors: Connectors, query: p.TableQuery) -> list[FeedQuality]:
    """One entry per feed and topic that said anything since the start. Hundreds of feeds are told one by one."""
    found = []
    for connector in connectors.values():
        for feed in list(connector.feeds.values()):
            found.append(_quality(connector, feed))
            await trio.lowlevel.checkpoint()
    return found


async def feed_quality(connectors: Connectors, query: p.TableQuery, *, exchange: str, symbol: str) -> FeedQuality:
    connector = connector_of(connectors, exchange)
    symbol = symbol if symbol in connector.feeds else connector.catalogue.resolve(symbol).symbol
    feed = connector.feeds.get(symbol)
    if feed is None:
        raise UnknownSymbol(f"{symbol} is not collected here, so nothing is known of its data")
    return _quality(connector, feed)


def _quality(connector: AnyConnector, feed: AnyFeed) -> FeedQuality:
    skew = connector.clock_skew
    return FeedQuality(
        connector.name,
        feed.symbol,
        feed.health.state,
        round(skew / timedelta(milliseconds=1), 3),
        feed.quality(clock.now(), skew),
    )


ROUTES = [
    Route("/", root, p.NoQuery, Root, "daemon", "What this is, and whether it is well"),
    Route("/health", health, p.TableQuery, Health, "daemon", "Every feed's state, from memory"),
    Route("/health/live", health_live, p.NoQuery, Live, "daemon", "200 while the process runs"),
    Route("/health/ready", health_ready, p.NoQuery, Ready, "daemon", "200 when every exchange delivers, else 503"),
    Route("/exchanges", exchanges, p.TableQuery, ExchangesAnswer, "daemon", "Exchanges and what each can do"),
    Route(
        "/quality", quality, p.TableQuery, list[FeedQuality], "daemon", "How complete and how late every feed's data is"
    ),
    Route(
        "/quality/{exchange}/{symbol}",
        *(feed_quality, p.TableQuery, FeedQuality, "daemon", "How complete and how late one feed's data is"),
    ),
    Route("/symbols", symbols, p.SymbolsQuery, list[Instrument], "daemon", "The instrument catalogue"),
]
