"""What a chart's answers are made of: bars from memory where it reaches so far, the last day, settlements, gaps."""

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from actors import clock
from actors.errors import MarketError, UnknownInterval, Unsupported
from actors.events import EPOCH, INTERVALS, Gap, Instrument, Ohlc
from web.access.auth import VISIT
from web.connectors import AnyConnector
from web.problems import Denied, InvalidParameters
from web.streams.fanouts import Fanouts
from web.streams.shares import following
from web.streams.topics import find_by_name
from web.udf import quotes
from web.udf.history import Before
from web.udf.symbols import describe, symbol_named

PATIENCE = timedelta(seconds=60)  # since anything came, for which what was known then still answers


def bars_before(fanouts: Fanouts, connector: AnyConnector, instrument: Instrument, interval: str) -> Before:
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


def _collect(fanouts: Fanouts, connector: AnyConnector, symbol: str, interval: str) -> None:
    """Have it collected for a while longer, within what the client may; where it may not, the exchange is asked."""
    if connector.is_configured(symbol, interval):
        return
    wanted = find_by_name(f"{connector.name}:{symbol}:ohlc:{interval}", fanouts.sources)
    with suppress(MarketError, Denied), following(VISIT.get().account, fanouts, wanted):
        pass


async def quote(fanouts: Fanouts, name: str) -> quotes.Quote:
    connectors = fanouts.sources.connectors
    try:
        connector, instrument = symbol_named(connectors, name)
        if "1d" not in connector.exchange.intervals:
            raise UnknownInterval(f"{connector.name} has no bars of a day")
        days = await bars_before(fanouts, connector, instrument, "1d")(connector.now() + timedelta(days=1), 2)
    except (MarketError, InvalidParameters) as error:
        return quotes.Quote(s="error", n=name, v=quotes.Nothing(), errmsg=str(error))
    if not days:
        return quotes.Quote(s="error", n=name, v=quotes.Nothing(), errmsg=f"{instrument.symbol} has not traded yet")
    return quotes.quote_of(name, describe(connector, instrument), days, connector.now())


async def settlements(connector: AnyConnector, instrument: Instrument, start: datetime, end: datetime) -> list[Any]:
    """The latest thousand within the range."""
    until = None if end > connector.now() else end
    if end <= start or end <= EPOCH:
        return []
    try:
        rates = await connector.funding_history(instrument.symbol, limit=1000, start=None, end=until)
    except Unsupported:
        return []
    return [rate for rate in rates if start <= rate.funding_time < end]


def gaps(connector: AnyConnector, instrument: Instrument) -> Iterable[tuple[str, Gap]]:
    """(topic, gap) of all that is known of the market; none of one that is not collected."""
    feed = connector.feeds.get(instrument.symbol)
    if feed is None:
        return
    for report in feed.quality(clock.now(), connector.clock_skew):
        for gap in report.gaps:
            yield report.topic, gap
