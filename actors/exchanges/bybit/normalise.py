"""What Bybit's rows mean, as events: the functions that the session and the REST calls share. No I/O, no state."""

from datetime import datetime

import msgspec

from actors.decimals import amount, number, product, valued
from actors.decoding import integer, moment, opening, optional_amount, optional_moment, worth
from actors.errors import BadMessage
from actors.events import FundingRate, Instrument, Liquidation, Ohlc, OpenInterest, Trade, bar_end
from actors.exchanges.bybit import wire

NAME = "bybit"
OUR_INTERVALS = {
    **{"1": "1m", "3": "3m", "5": "5m", "15": "15m", "30": "30m", "60": "1h", "120": "2h", "240": "4h"},
    **{"360": "6h", "720": "12h", "D": "1d", "W": "1w", "M": "1M"},
}
SINGLES = (("open_interest", "single_open_interest"), ("open_interest_value", "single_open_interest_value"))
THEIR_INTERVALS = {ours: theirs for theirs, ours in OUR_INTERVALS.items()}


def judged(bar: wire.Bar[str]) -> wire.Bar[float]:
    return wire.Bar(
        start=bar.start,
        open=amount(bar.open),
        close=amount(bar.close),
        high=amount(bar.high),
        low=amount(bar.low),
        volume=amount(bar.volume),
        turnover=amount(bar.turnover),
        is_closed=bar.is_closed,
    )


def ohlc(bar: wire.Bar[float], symbol: str, interval: str) -> Ohlc:
    return Ohlc(
        exchange=NAME,
        symbol=symbol,
        timestamp=opening(bar.start),
        interval=interval,
        open=bar.open,
        high=bar.high,
        low=bar.low,
        close=bar.close,
        volume=bar.volume,
        quote_volume=bar.turnover,
        trades_count=None,
        is_closed=bar.is_closed,
    )


def trade(row: wire.Trade | wire.RecentTrade, symbol: str) -> Trade:
    price, quantity, value = valued(row.price, row.quantity)
    return Trade(
        exchange=NAME,
        symbol=symbol,
        timestamp=moment(row.time if isinstance(row.time, int) else integer(row.time)),
        side="buy" if row.side == "Buy" else "sell",
        price=price,
        quantity=quantity,
        value=value,
        is_buyer_maker=row.side == "Sell",
        trade_id=row.id,
    )


def liquidation(row: wire.Liquidation, symbol: str) -> Liquidation | None:
    """None where nothing was liquidated."""
    value = product(row.price, row.quantity)
    if not value:
        return None
    return Liquidation(
        exchange=NAME,
        symbol=symbol,
        timestamp=moment(row.time),
        side="sell" if row.position == "Buy" else "buy",  # a long position is sold off
        price=amount(row.price),
        quantity=amount(row.quantity),
        value=value,
    )


def merged(known: wire.Ticker, delta: wire.Ticker) -> wire.Ticker:
    """The ticker after a change. What it says of both sides alone makes an older word on one side void."""
    changes = {name: value for name in delta.__struct_fields__ if (value := getattr(delta, name)) is not None}
    for sum_, single in SINGLES:
        if sum_ in changes:
            changes.setdefault(single, None)
    return msgspec.structs.replace(known, **changes)


def funding(ticker: wire.Ticker, symbol: str, timestamp: datetime, instrument: Instrument | None) -> FundingRate | None:
    """The rate of the running period; None for a dated contract, and before a contract's funding has begun."""
    at = optional_moment(ticker.next_funding_time)
    if not ticker.funding_rate or at is None:
        return None
    hours = instrument.funding_interval_hours if instrument else None
    return FundingRate(
        exchange=NAME,
        symbol=symbol,
        timestamp=timestamp,
        funding_rate=number(ticker.funding_rate),
        funding_time=at,
        # The ticker is newer than the catalogue: Bybit shortens a period while the market is in stress.
        funding_interval_hours=optional_amount(ticker.funding_hours) or hours,
        mark_price=optional_amount(ticker.mark_price),
    )


def open_interest(ticker: wire.Ticker, symbol: str, timestamp: datetime) -> OpenInterest | None:
    """One side's; None where the ticker has none, as before a contract trades."""
    interest = one_side(ticker.single_open_interest, ticker.open_interest)
    if interest is None:
        return None
    return OpenInterest(
        exchange=NAME,
        symbol=symbol,
        timestamp=timestamp,
        open_interest=interest,
        open_interest_value=worth(interest, one_side(ticker.single_open_interest_value, ticker.open_interest_value)),
    )


def one_side(single: str | None, both: str | None) -> float | None:
    """Bybit's own word for one side is younger than its sum of both, and no word of its own where it is 0."""
    if found := optional_amount(single):
        return found
    if both:
        amount(both)
        return product(both, "0.5")
    return 0.0 if single else None


def instrument(row: wire.Contract) -> Instrument:
    is_perpetual = row.contract_type == "LinearPerpetual"
    return Instrument(
        exchange=NAME,
        symbol=row.symbol,
        base=row.base,
        quote=row.quote,
        settle=row.settle,
        status="TRADING" if row.status == "Trading" else row.status,
        tick_size=optional_amount(row.price.tick_size),
        step_size=optional_amount(row.lot.step_size),
        funding_interval_hours=row.funding_minutes / 60 if is_perpetual and row.funding_minutes > 0 else None,
    )


def bar(row: wire.KlineRow, symbol: str, interval: str, given_at: datetime) -> Ohlc:
    open_time, open_, high, low, close, volume, turnover = row
    timestamp = opening(integer(open_time))
    return Ohlc(
        exchange=NAME,
        symbol=symbol,
        timestamp=timestamp,
        interval=interval,
        open=amount(open_),
        high=amount(high),
        low=amount(low),
        close=amount(close),
        volume=amount(volume),
        quote_volume=amount(turnover),
        trades_count=None,
        is_closed=bar_end(timestamp, interval) <= given_at,
    )


def interest_of(row: wire.OpenInterestRow, symbol: str) -> OpenInterest:
    interest = one_side(row.single_open_interest, row.open_interest)
    if interest is None:
        raise BadMessage("an open-interest row without open interest")
    time = integer(row.timestamp)
    return OpenInterest(
        exchange=NAME,
        symbol=symbol,
        timestamp=moment(time if time >= 10**12 else time * 1000),  # a page's oldest row was seen in seconds
        open_interest=interest,
        open_interest_value=None,
    )


def settled(row: wire.FundingRow, symbol: str) -> FundingRate:
    """The row does not say the interval: see actors.exchanges.settled."""
    time = moment(integer(row.time))
    return FundingRate(
        exchange=NAME,
        symbol=symbol,
        timestamp=time,
        funding_rate=number(row.funding_rate),
        funding_time=time,
        funding_interval_hours=None,
        mark_price=None,
    )
