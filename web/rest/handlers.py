"""The routes of market data: a parsed query becomes one call of a connector. No upstream detail is known here."""

from typing import Any

from actors.archive import flows
from actors.archive.flows import LargeTradeBar, LiquidationBar
from actors.events import FundingRate, LargeTrade, Liquidation, Ohlc, OpenInterest
from web import parameters as p
from web.connectors import AnyConnector, Connectors
from web.problems import BadParameter, InvalidParameters
from web.rest.route import Route, connector_of


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


async def bars_of_liquidations(connector: AnyConnector, symbol: str, query: p.BarsQuery) -> list[LiquidationBar]:
    seen = connector.liquidations(symbol)
    sums = await seen.bars(query.interval, limit=query.limit, start=query.start_time, end=query.end_time)
    return [flows.liquidation_bar(connector.name, seen.series.symbol, query.interval, bar) for bar in sums]


async def bars_of_large_trades(connector: AnyConnector, symbol: str, query: p.BarsQuery) -> list[LargeTradeBar]:
    seen = connector.large_trades(symbol)
    sums = await seen.bars(query.interval, limit=query.limit, start=query.start_time, end=query.end_time)
    return [flows.large_trade_bar(connector.name, seen.series.symbol, query.interval, bar) for bar in sums]


ROUTES = [
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
