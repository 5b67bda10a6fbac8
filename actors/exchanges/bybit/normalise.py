"""What Bybit's rows mean, as events: the functions that the session and the REST calls share. No I/O, no state."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from actors.errors import BadMessage
from actors.events import (
    FundingRate,
    Instrument,
    Liquidation,
    Ohlc,
    OpenInterest,
    Trade,
    amount,
    bar_end,
    from_ms,
    number,
    product,
)
from actors.exchanges.bybit import wire

NAME = "bybit"
OUR_INTERVALS = {
    **{"1": "1m", "3": "3m", "5": "5m", "15": "15m", "30": "30m", "60": "1h", "120": "2h", "240": "4h"},
    **{"360": "6h", "720": "12h", "D": "1d", "W": "1w", "M": "1M"},
}
THEIR_INTERVALS = {ours: theirs for theirs, ours in OUR_INTERVALS.items()}

T = TypeVar("T")


def decode(decoder: Callable[[Any], T], body: bytes | str | msgspec.Raw, what: str) -> T:
    """A decoded body, or BadMessage that says what was being read."""
    try:
        return decoder(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"Bybit's {what} is not what it documents: {error}") from None


def ohlc(bar: wire.Bar, symbol: str, interval: str) -> Ohlc:
    return Ohlc(
        exchange=NAME,
        symbol=symbol,
        timestamp=from_ms(bar.start),
        interval=interval,
        open=amount(bar.open),
        high=amount(bar.high),
        low=amount(bar.low),
        close=amount(bar.close),
        volume=amount(bar.volume),
        quote_volume=amount(bar.turnover),
        trades_count=None,
        is_closed=bar.is_closed,
    )


def trade(row: wire.Trade | wire.RecentTrade, symbol: str) -> Trade:
    return Trade(
        exchange=NAME,
        symbol=symbol,
        timestamp=from_ms(row.time if isinstance(row.time, int) else integer(row.time)),
        side="buy" if row.side == "Buy" else "sell",
        price=amount(row.price),
        quantity=amount(row.quantity),
        value=product(row.price, row.quantity),
        is_buyer_maker=row.side == "Sell",
        trade_id=row.id,
    )


def liquidation(row: wire.Liquidation, symbol: str) -> Liquidation:
    return Liquidation(
        exchange=NAME,
        symbol=symbol,
        timestamp=from_ms(row.time),
        side="sell" if row.position == "Buy" else "buy",  # a long position is sold off
        price=amount(row.price),
        quantity=amount(row.quantity),
        value=product(row.price, row.quantity),
    )


def merged(known: wire.Ticker, delta: wire.Ticker) -> wire.Ticker:
    changes = {name: value for name in delta.__struct_fields__ if (value := getattr(delta, name)) is not None}
    return msgspec.structs.replace(known, **changes)


def funding(ticker: wire.Ticker, symbol: str, timestamp: datetime, instrument: Instrument | None) -> FundingRate | None:
    """The rate of the running period; None for a dated contract."""
    if not ticker.funding_rate or not ticker.next_funding_time:
        return None
    hours = instrument.funding_interval_hours if instrument else None
    return FundingRate(
        exchange=NAME,
        symbol=symbol,
        timestamp=timestamp,
        funding_rate=number(ticker.funding_rate),
        funding_time=from_ms(integer(ticker.next_funding_time)),
        # The ticker is newer than the catalogue: Bybit shortens a period while the market is in stress.
        funding_interval_hours=amount(ticker.funding_hours) if ticker.funding_hours else hours,
        mark_price=amount(ticker.mark_price) if ticker.mark_price else None,
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
        open_interest_value=one_side(ticker.single_open_interest_value, ticker.open_interest_value),
    )


def one_side(single: str | None, both: str | None) -> float | None:
    """Bybit's own word for one side is younger than its sum of both."""
    if single:
        return amount(single)
    if not both:
        return None
    amount(both)
    return product(both, "0.5")


def integer(text: str) -> int:
    """A time that Bybit spells as a string."""
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise BadMessage(f"not a time: {text[:40]!r}")
    return int(text)


def instrument(row: wire.Contract) -> Instrument:
    is_perpetual = row.contract_type == "LinearPerpetual"
    return Instrument(
        exchange=NAME,
        symbol=row.symbol,
        base=row.base,
        quote=row.quote,
        settle=row.settle,
        status="TRADING" if row.status == "Trading" else row.status,
        tick_size=amount(row.price.tick_size) if row.price.tick_size else None,
        step_size=amount(row.lot.step_size) if row.lot.step_size else None,
        funding_interval_hours=row.funding_minutes / 60 if is_perpetual and row.funding_minutes > 0 else None,
    )


def bar(row: wire.KlineRow, symbol: str, interval: str, given_at: datetime) -> Ohlc:
    open_time, open_, high, low, close, volume, turnover = row
    timestamp = from_ms(integer(open_time))
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
        timestamp=from_ms(time if time >= 10**12 else time * 1000),  # a page's oldest row was seen in seconds
        open_interest=interest,
        open_interest_value=None,
    )


def settled(row: wire.FundingRow, instrument: Instrument) -> FundingRate:
    time = from_ms(integer(row.time))
    return FundingRate(
        exchange=NAME,
        symbol=instrument.symbol,
        timestamp=time,
        funding_rate=number(row.funding_rate),
        funding_time=time,
        funding_interval_hours=instrument.funding_interval_hours,
        mark_price=None,
    )
