"""A symbol's day so far, as a watch list shows it. No I/O."""

from datetime import datetime
from decimal import Decimal

from msgspec import UNSET, Struct, UnsetType

from actors.events import Ohlc
from web.udf.symbols import SymbolInfo

AT_ONCE = 50  # symbols in one request


class Values(Struct, frozen=True, kw_only=True):
    """Of the day that began at 00:00 UTC; null where nothing traded in it, or nothing is known of the day before.

    `ch` and `chp` (per cent) are against the close before it.
    """

    lp: float
    ch: float | None
    chp: float | None
    open_price: float | None
    high_price: float | None
    low_price: float | None
    prev_close_price: float | None
    volume: float
    short_name: str
    exchange: str
    description: str


class Nothing(Struct, frozen=True):
    """The values of a symbol that has none."""


class Quote(Struct, frozen=True, kw_only=True):
    """`n` is the symbol as it was asked for."""

    s: str
    n: str
    v: Values | Nothing
    errmsg: str | UnsetType = UNSET


class Quotes(Struct, frozen=True, kw_only=True):
    s: str = "ok"
    d: list[Quote]


def quote_of(asked: str, symbol: SymbolInfo, days: list[Ohlc], now: datetime) -> Quote:
    """`days`: the last two bars of a day, or those there are; at least one."""
    last = days[-1]
    today = last if last.timestamp.date() == now.date() else None
    before = (days[-2] if len(days) > 1 else None) if today else last
    change = Decimal(repr(last.close)) - Decimal(repr(before.close)) if before else None
    percent = float(round(change / Decimal(repr(before.close)) * 100, 4)) if before and change is not None else None
    values = Values(
        lp=last.close,
        ch=None if change is None else float(change),
        chp=percent,
        open_price=today.open if today else None,
        high_price=today.high if today else None,
        low_price=today.low if today else None,
        prev_close_price=before.close if before else None,
        volume=today.volume if today else 0.0,
        short_name=symbol.name,
        exchange=symbol.exchange,
        description=symbol.description,
    )
    return Quote(s="ok", n=asked, v=values)
