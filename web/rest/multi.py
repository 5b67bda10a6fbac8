"""Routes over all exchanges at once: each is asked at the same time, and one that fails is explained, not fatal."""

from collections.abc import Awaitable, Callable
from typing import Any

import trio
from msgspec import UNSET, UnsetType, defstruct, structs

from actors.archive.flows import LargeTradeBar, LiquidationBar
from actors.errors import MarketError, NotReady, UnknownInterval, UnknownSymbol, Unsupported, UpstreamError
from actors.events import Event, FundingRate, Instrument, Ohlc, OpenInterest, PredictedFunding
from actors.exchanges.exchange import load_exchanges
from actors.exchanges.units import Unit, scaled, unit_of
from web import parameters as p
from web.connectors import AnyConnector, Connectors
from web.problems import Problem, problem_of
from web.rest.handlers import bars_of_large_trades, bars_of_liquidations
from web.rest.route import Route, connector_of


def _by_exchange(name: str, answer: Any) -> Any:
    """The type of {exchange: answer}, and under `errors` the problems of those that failed, by exchange."""
    fields: list[tuple[str, Any, Any]] = [(exchange, answer | UnsetType, UNSET) for exchange in load_exchanges()]
    return defstruct(name, [*fields, ("errors", dict[str, Problem] | UnsetType, UNSET)], frozen=True, kw_only=True)


class OhlcAcross(Ohlc, frozen=True, kw_only=True, omit_defaults=True):
    """A bar in the unit that was asked for. `multiplier`: tokens in one unit of the exchange's own contract.

    Left out where both are single tokens, here and below.
    """

    multiplier: int | None = None


class OpenInterestAcross(OpenInterest, frozen=True, kw_only=True, omit_defaults=True):
    multiplier: int | None = None


class FundingRateAcross(FundingRate, frozen=True, kw_only=True, omit_defaults=True):
    multiplier: int | None = None


MultiOhlc = _by_exchange("MultiOhlc", list[OhlcAcross])
MultiOpenInterest = _by_exchange("MultiOpenInterest", OpenInterestAcross)
MultiFunding = _by_exchange("MultiFunding", FundingRateAcross)
MultiLiquidationBars = _by_exchange("MultiLiquidationBars", list[LiquidationBar])
MultiLargeTradeBars = _by_exchange("MultiLargeTradeBars", list[LargeTradeBar])

PRICES = {"open", "high", "low", "close", "mark_price"}  # of one unit; the other way round, quantities count units
QUANTITIES = {"volume", "open_interest"}

Ask = Callable[[AnyConnector, str], Awaitable[Any]]
"""(connector, symbol as this exchange spells it) -> its answer."""


def across(kind: type[Any], event: Event, own: Unit, asked: Unit) -> Event:
    """An exchange's event in the unit that was asked for: of this `kind` where a multiplier is to be said."""
    if own.many == asked.many == 1:
        return event
    values = structs.asdict(event) | {"multiplier": own.many}
    for name, value in values.items():
        if value is not None and name in PRICES:
            values[name] = scaled(value, asked.many, own.many)
        elif value is not None and name in QUANTITIES:
            values[name] = scaled(value, own.many, asked.many)
    said: Event = kind(**values)
    return said


async def ask_all(connectors: Connectors, symbol: str, ask: Ask) -> dict[str, Any]:
    """Every exchange's answer by name, and under `errors` the problems of those that have none.

    Where none has one: UnknownSymbol, UnknownInterval or Unsupported if that is so everywhere, else UpstreamError.
    """
    asked = asked_unit(connectors, symbol)
    answers: dict[str, Any] = dict.fromkeys(connectors)  # in the order of the configuration
    failures: dict[str, MarketError] = {}

    async def ask_one(name: str, connector: AnyConnector) -> None:
        try:
            answers[name] = await ask(connector, instrument_for(connector, symbol, asked).symbol)
        except MarketError as error:
            failures[name] = error
            del answers[name]

    async with trio.open_nursery() as nursery:
        for name, connector in connectors.items():
            nursery.start_soon(ask_one, name, connector)
    if not answers:
        kinds = {type(error) for error in failures.values()}
        kind = kinds.pop() if len(kinds) == 1 else UpstreamError
        if not issubclass(kind, UnknownSymbol | UnknownInterval | Unsupported):
            kind = UpstreamError
        raise kind("no exchange has an answer: " + "; ".join(f"{name}: {error}" for name, error in failures.items()))
    if failures:
        in_order = [name for name in connectors if name in failures]
        answers["errors"] = {name: problem_of(failures[name], exchange=name) for name in in_order}
    return answers


def asked_unit(connectors: Connectors, symbol: str) -> Unit:
    """The asset that a symbol of any exchange stands for; a name that none lists may be one itself."""
    for connector in connectors.values():
        try:
            return unit_of(connector.catalogue.resolve(symbol).base)
        except (UnknownSymbol, NotReady):
            continue
    return unit_of(symbol)


def instrument_for(connector: AnyConnector, symbol: str, asked: Unit) -> Instrument:
    """The exchange's own contract of that symbol where it has one, else its contract for the asset."""
    try:
        return connector.catalogue.resolve(symbol)
    except UnknownSymbol:
        return connector.catalogue.of_asset(asked)


def own_unit(connector: AnyConnector, symbol: str) -> Unit:
    return unit_of(connector.catalogue.resolve(symbol).base)


async def multi_ohlc(connectors: Connectors, query: p.MultiOhlcQuery, *, symbol: str, interval: str) -> dict[str, Any]:
    asked = asked_unit(connectors, symbol)

    async def ask(connector: AnyConnector, symbol: str) -> list[Event]:
        rows = await connector.ohlc(symbol, interval, limit=query.limit, start=query.start_time, end=query.end_time)
        own = own_unit(connector, symbol)
        return [across(OhlcAcross, row, own, asked) for row in rows]

    return await ask_all(connectors, symbol, ask)


async def multi_open_interest(connectors: Connectors, query: p.MultiQuery, *, symbol: str) -> dict[str, Any]:
    asked = asked_unit(connectors, symbol)

    async def ask(connector: AnyConnector, symbol: str) -> Event:
        interest = await connector.open_interest(symbol)
        return across(OpenInterestAcross, interest, own_unit(connector, symbol), asked)

    return await ask_all(connectors, symbol, ask)


async def multi_funding(connectors: Connectors, query: p.MultiQuery, *, symbol: str) -> dict[str, Any]:
    asked = asked_unit(connectors, symbol)

    async def ask(connector: AnyConnector, symbol: str) -> Event:
        funding = await connector.funding(symbol)
        return across(FundingRateAcross, funding, own_unit(connector, symbol), asked)

    return await ask_all(connectors, symbol, ask)


async def multi_liquidation_bars(connectors: Connectors, query: p.MultiBarsQuery, *, symbol: str) -> dict[str, Any]:
    async def ask(connector: AnyConnector, symbol: str) -> list[LiquidationBar]:
        return await bars_of_liquidations(connector, symbol, query)

    return await ask_all(connectors, symbol, ask)


async def multi_large_trade_bars(connectors: Connectors, query: p.MultiBarsQuery, *, symbol: str) -> dict[str, Any]:
    async def ask(connector: AnyConnector, symbol: str) -> list[LargeTradeBar]:
        return await bars_of_large_trades(connector, symbol, query)

    return await ask_all(connectors, symbol, ask)


async def predicted_funding(
    connectors: Connectors, query: p.PredictedFundingQuery, *, exchange: str
) -> list[PredictedFunding]:
    """The coming funding of every coin, or of one, as this exchange predicts it for itself and for others."""
    connector = connector_of(connectors, exchange)
    predictions = await connector.predicted_funding()
    if query.coin is None:
        return predictions
    coin = connector.catalogue.resolve(query.coin).base
    return [prediction for prediction in predictions if prediction.coin == coin]


ROUTES = [
    Route(
        "/multi/ohlc/{symbol}/{interval}",
        *(multi_ohlc, p.MultiOhlcQuery, MultiOhlc),
        *("all exchanges", "Bars of every exchange"),
    ),
    Route(
        "/multi/oi/{symbol}",
        *(multi_open_interest, p.MultiQuery, MultiOpenInterest),
        *("all exchanges", "Open interest on every exchange"),
    ),
    Route(
        "/multi/funding/{symbol}",
        *(multi_funding, p.MultiQuery, MultiFunding),
        *("all exchanges", "Funding rates of every exchange"),
    ),
    Route(
        "/multi/liquidations/{symbol}/bars",
        *(multi_liquidation_bars, p.MultiBarsQuery, MultiLiquidationBars),
        *("all exchanges", "Liquidations per bar on every exchange that tells of them"),
    ),
    Route(
        "/multi/large_trades/{symbol}/bars",
        *(multi_large_trade_bars, p.MultiBarsQuery, MultiLargeTradeBars),
        *("all exchanges", "Large trades per bar on every exchange"),
    ),
    Route(
        "/{exchange}/predicted-funding",
        *(predicted_funding, p.PredictedFundingQuery, list[PredictedFunding]),
        *("all exchanges", "Predicted funding of several venues, where an exchange offers it (Hyperliquid)"),
    ),
]
