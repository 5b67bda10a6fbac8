"""What OKX's rows mean, as events: the functions that the session and the REST calls share. No I/O, no state.

Contracts become base units here, multiplied as decimals: a size of 0.01 leaves no binary noise.
"""

from datetime import datetime

from actors.decimals import amount, number, product, valued
from actors.decoding import integer, moment, opening, optional_amount, optional_moment, worth
from actors.errors import BadMessage
from actors.events import FundingRate, Instrument, Liquidation, Ohlc, OpenInterest, Trade
from actors.exchanges.okx import wire
from actors.exchanges.settled import interval_between

NAME = "okx"
# Bars of 6 hours and more open at UTC+8 unless `utc` is asked for. There is no 8H, and on which days their bars of
# three days open is not documented.
THEIR_INTERVALS = {
    **{"1m": "1m", "3m": "3m", "5m": "5m", "15m": "15m", "30m": "30m", "1h": "1H", "2h": "2H", "4h": "4H"},
    **{"6h": "6Hutc", "12h": "12Hutc", "1d": "1Dutc", "1w": "1Wutc", "1M": "1Mutc"},
}
OUR_INTERVALS = {theirs: ours for ours, theirs in THEIR_INTERVALS.items()}
SETTLED_IN = ("USDT", "USDC")


def candle(row: wire.CandleRow, symbol: str, interval: str) -> Ohlc:
    open_time, open_, high, low, close, contracts, base, quote, confirm = row
    if confirm not in ("0", "1"):
        raise BadMessage(f"a candle that is neither closed nor open: {confirm[:20]!r}")
    prices = amount(open_), amount(high), amount(low), amount(close)
    volumes = contracts, amount(base), amount(quote)
    return ohlc((integer(open_time), *prices, *volumes, "1" if confirm == "1" else "0"), symbol, interval)


def ohlc(row: wire.JudgedRow, symbol: str, interval: str) -> Ohlc:
    open_time, open_, high, low, close, _, base, quote, confirm = row
    return Ohlc(
        exchange=NAME,
        symbol=symbol,
        timestamp=opening(open_time),
        interval=interval,
        open=open_,
        high=high,
        low=low,
        close=close,
        volume=base,
        quote_volume=quote,
        trades_count=None,
        is_closed=confirm == "1",
    )


def trade(row: wire.Trade, symbol: str, size: str) -> Trade:
    contracts, side = row.contracts, row.side
    _, _, quantity = valued(contracts, size)
    if len(contracts) + len(size) < 16:  # so has the quantity fewer digits, and is written as the very product
        price, _, value = valued(row.price, repr(quantity))
    else:
        price, value = amount(row.price), product(row.price, contracts, size)
    return Trade(
        exchange=NAME,
        symbol=symbol,
        timestamp=moment(integer(row.time)),
        side=side,
        price=price,
        quantity=quantity,
        value=value,
        is_buyer_maker=side == "sell",
        trade_id=integer(row.id),
    )


def liquidation(row: wire.LiquidationDetail, symbol: str, size: str) -> Liquidation | None:
    """None where nothing was liquidated."""
    amount(row.contracts)
    value = product(row.price, row.contracts, size)
    if not value:
        return None
    return Liquidation(
        exchange=NAME,
        symbol=symbol,
        timestamp=moment(integer(row.time)),
        side=row.side,
        price=amount(row.price),
        quantity=product(row.contracts, size),
        value=value,
    )


def open_interest(row: wire.OpenInterest, symbol: str) -> OpenInterest:
    interest = amount(row.base)
    return OpenInterest(
        exchange=NAME,
        symbol=symbol,
        timestamp=moment(integer(row.time)),
        open_interest=interest,
        open_interest_value=worth(interest, optional_amount(row.value)),
    )


def interest_of(row: wire.InterestRow, symbol: str) -> OpenInterest:
    time, _, base, value = row
    interest = amount(base)
    return OpenInterest(
        exchange=NAME,
        symbol=symbol,
        timestamp=moment(integer(time)),
        open_interest=interest,
        open_interest_value=worth(interest, optional_amount(value)),
    )


def funding(row: wire.Funding, symbol: str, given_at: datetime, mark_price: float | None) -> FundingRate | None:
    """The rate of the running period; None before a contract's funding has begun."""
    at = optional_moment(row.time)
    if not row.rate or at is None:
        return None
    return FundingRate(
        exchange=NAME,
        symbol=symbol,
        timestamp=optional_moment(row.given) or given_at,
        funding_rate=number(row.rate),
        funding_time=at,
        funding_interval_hours=hours_of(row),
        mark_price=mark_price,
    )


def hours_of(row: wire.Funding) -> float | None:
    """Of the running period: OKX changes it by itself. That of the next one where the last settlement is not said."""
    times = [optional_moment(row.previous_time), optional_moment(row.time), optional_moment(row.next_time)]
    for before, after in ((times[0], times[1]), (times[1], times[2])):
        if before and after and (hours := interval_between(before, after)):
            return hours
    return None


def settled(row: wire.SettledFunding, symbol: str) -> FundingRate:
    """The row does not say the interval: see actors.exchanges.settled."""
    time = moment(integer(row.time))
    return FundingRate(
        exchange=NAME,
        symbol=symbol,
        timestamp=time,
        funding_rate=number(row.rate or row.expected),
        funding_time=time,
        funding_interval_hours=None,
        mark_price=None,
    )


def is_ours(row: wire.Contract) -> bool:
    return row.contract_type == "linear" and row.settle in SETTLED_IN


def size_of(row: wire.Contract) -> float:
    """Base units in one contract."""
    size = product(row.value, row.multiplier or "1")
    if size <= 0:
        raise BadMessage(f"{row.symbol}: a contract of {row.value[:20]!r} x {row.multiplier[:20]!r}")
    return size


def instrument(row: wire.Contract, funding_hours: float | None, now: datetime) -> Instrument:
    size, ends = size_of(row), optional_moment(row.ends)
    state = "expired" if row.state == "live" and ends is not None and ends <= now else row.state
    return Instrument(
        exchange=NAME,
        symbol=row.symbol,
        base=row.base,
        quote=row.settle,
        settle=row.settle,
        status="TRADING" if state == "live" else state,
        tick_size=optional_amount(row.tick),
        step_size=product(row.lot, repr(size)) or None if row.lot else None,
        funding_interval_hours=funding_hours,
        contract_size=size,
    )
