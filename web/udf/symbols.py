"""What the chart calls a symbol: tickers, resolutions, the symbol's description, the search for it. No I/O."""

from decimal import Decimal

from msgspec import Struct, structs

from actors.errors import NotReady, UnknownInterval, UnknownSymbol
from actors.events import Instrument
from web.connectors import AnyConnector, Connectors
from web.problems import BadParameter, InvalidParameters
from web.rest.route import connector_of

RESOLUTIONS = {
    **{"1": "1m", "3": "3m", "5": "5m", "15": "15m", "30": "30m"},
    **{"60": "1h", "120": "2h", "240": "4h", "360": "6h", "480": "8h", "720": "12h"},
    **{"1D": "1d", "3D": "3d", "1W": "1w", "1M": "1M"},
}
"""The chart's names of our intervals, the shortest first."""

SHORT = {"D": "1D", "W": "1W", "M": "1M"}
KIND = "crypto"


class Place(Struct, frozen=True, kw_only=True):
    """Where our own routes and topics have the symbol. `topics`: of its bars, by resolution."""

    exchange: str
    symbol: str
    topics: dict[str, str]


class SymbolInfo(Struct, frozen=True, kw_only=True):
    """Prices are whole multiples of `minmov / pricescale`."""

    name: str
    ticker: str
    full_name: str
    description: str
    type: str = KIND
    exchange: str
    listed_exchange: str
    session: str = "24x7"
    timezone: str = "Etc/UTC"
    format: str = "price"
    pricescale: int
    minmov: int
    volume_precision: int
    has_intraday: bool
    has_daily: bool
    has_weekly_and_monthly: bool
    intraday_multipliers: list[str]
    supported_resolutions: list[str]
    data_status: str = "streaming"
    currency_code: str
    marketd: Place


class Found(Struct, frozen=True, kw_only=True):
    """One row of a search."""

    symbol: str
    full_name: str
    ticker: str
    description: str
    exchange: str
    type: str = KIND


def ticker_of(instrument: Instrument) -> str:
    return f"{instrument.exchange.upper()}:{instrument.symbol}"


def symbol_named(connectors: Connectors, text: str) -> tuple[AnyConnector, Instrument]:
    """What a ticker means, in any case; without its exchange, the first that lists the symbol.

    Raises InvalidParameters where it is empty, UnknownExchange, UnknownSymbol, NotReady.
    """
    text = text.strip()
    head, colon, symbol = text.partition(":")
    if not text or (colon and not symbol):
        raise InvalidParameters([BadParameter("symbol", "a ticker is needed, such as BINANCE:BTCUSDT")])
    if colon and head.lower() in connectors:
        connector = connectors[head.lower()]
        return connector, connector.catalogue.resolve(symbol)
    missing: NotReady | None = None
    for connector in connectors.values():
        try:
            return connector, connector.catalogue.resolve(text)
        except NotReady as error:
            missing = error
        except UnknownSymbol:
            continue
    if missing is not None:
        raise missing
    if colon:
        connector_of(connectors, head)  # says which exchanges there are
    raise UnknownSymbol(f"no exchange here lists {text[:60]!r}")


def resolutions_of(connector: AnyConnector) -> dict[str, str]:
    """Those that the exchange has bars of: the chart makes others from them."""
    return {name: interval for name, interval in RESOLUTIONS.items() if interval in connector.exchange.intervals}


def interval_of(connector: AnyConnector, resolution: str) -> str:
    """Raises UnknownInterval."""
    known = resolutions_of(connector)
    interval = known.get(SHORT.get(resolution, resolution))
    if interval is None:
        named = ", ".join(known)
        raise UnknownInterval(f"{connector.name} has no resolution {resolution[:20]!r}: {named}")
    return interval


def describe(connector: AnyConnector, instrument: Instrument) -> SymbolInfo:
    resolutions = resolutions_of(connector)
    ticker, exchange = ticker_of(instrument), connector.name.upper()
    scale, step = _price_steps(instrument.tick_size)
    return SymbolInfo(
        name=instrument.symbol,
        ticker=ticker,
        full_name=ticker,
        description=_description(connector, instrument),
        exchange=exchange,
        listed_exchange=exchange,
        pricescale=scale,
        minmov=step,
        volume_precision=_decimals(instrument.step_size),
        has_intraday=any(name.isdigit() for name in resolutions),
        has_daily="1D" in resolutions,
        has_weekly_and_monthly={"1W", "1M"} <= resolutions.keys(),
        intraday_multipliers=[name for name in resolutions if name.isdigit()],
        supported_resolutions=list(resolutions),
        currency_code=instrument.quote,
        marketd=Place(
            exchange=connector.name,
            symbol=instrument.symbol,
            topics={
                name: f"{connector.name}:{instrument.symbol}:ohlc:{interval}" for name, interval in resolutions.items()
            },
        ),
    )


def _description(connector: AnyConnector, instrument: Instrument) -> str:
    dated = "" if instrument.funding_interval_hours is not None else f" ({instrument.symbol})"
    return f"{instrument.base} / {instrument.quote}{dated} on {connector.exchange.title}"


def _decimals(step: float | None) -> int:
    """Behind the point, of a step that is written without noise: 0.05 has two, 10 none."""
    if not step:
        return 0
    exponent = Decimal(repr(step)).normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _price_steps(tick: float | None) -> tuple[int, int]:
    """(pricescale, minmov)."""
    scale = 10 ** _decimals(tick)
    return scale, int(Decimal(repr(tick)) * scale) if tick else 1


def search(connectors: Connectors, query: str, *, exchange: str, limit: int) -> list[Found]:
    """The exact symbol or base first, then those that begin so, then those that hold it; what trades before the rest.

    `query` may begin with an exchange and a colon. Raises UnknownExchange, and NotReady before any catalogue arrived.
    """
    head, colon, rest = query.strip().partition(":")
    if colon and head.lower() in connectors and not exchange:
        exchange, query = head, rest
    elif colon and exchange and head.lower() == exchange.lower():
        query = rest
    asked = [connector_of(connectors, exchange)] if exchange else list(connectors.values())
    ready = [connector for connector in asked if connector.catalogue.instruments]
    if not ready:
        raise NotReady("no exchange's catalogue has arrived yet")
    part = query.strip().upper()
    ranked = [
        (rank, not instrument.is_trading, number, connector, instrument)
        for number, connector in enumerate(ready)
        for instrument in connector.catalogue.instruments.values()
        if (rank := _rank(instrument, part)) is not None
    ]
    ranked.sort(key=lambda row: row[:3])
    return [
        Found(
            symbol=instrument.symbol,
            full_name=ticker_of(instrument),
            ticker=ticker_of(instrument),
            description=_description(connector, instrument),
            exchange=connector.name.upper(),
        )
        for *_, connector, instrument in ranked[:limit]
    ]


def _rank(instrument: Instrument, part: str) -> int | None:
    names = (instrument.symbol.upper(), instrument.base.upper())
    if part in names:
        return 0
    if any(name.startswith(part) for name in names):
        return 1
    return 2 if any(part in name for name in names) else None


# Names of the columns that are not the symbol's own with hyphens for underscores.
_COLUMN_NAMES = {
    "name": ["symbol"],
    "ticker": ["ticker"],
    "exchange": ["exchange-traded", "exchange"],
    "listed_exchange": ["exchange-listed", "exchange_listed_name"],
    "minmov": ["minmovement", "minmov"],
    "session": ["session-regular", "session"],
}


def columns(connector: AnyConnector) -> dict[str, list[object]]:
    """Every symbol of one exchange, a list per member. Raises NotReady."""
    instruments = connector.catalogue.instruments.values()
    if not instruments:
        raise NotReady(f"{connector.name}: {connector.catalogue.problem}")
    rows = [structs.asdict(describe(connector, instrument)) for instrument in instruments]
    return {
        column: [row[member] for row in rows]
        for member in rows[0]
        if member != "marketd"
        for column in _COLUMN_NAMES.get(member, [member.replace("_", "-")])
    }
