"""What the archive holds: kinds of rows, the series they belong to, how an event becomes a row and back. No I/O.

A row is its time, then the event's own fields in the order of `FIELDS`. Times are microseconds since 1970, the finest
that events have, so that what is read equals what was written.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, Literal, NamedTuple, get_args

from actors.events import EPOCH, INTERVALS, Event, FundingRate, LargeTrade, Liquidation, Ohlc, OpenInterest

ArchiveKind = Literal[
    "ohlc",
    "open_interest",  # as it was published, one sample a minute
    "open_interest_history",  # as the exchange tells it per period
    "funding",  # the running rate as it was published, one sample a minute
    "funding_history",  # settled
    "liquidations",
    "large_trades",
]
KINDS: tuple[ArchiveKind, ...] = get_args(ArchiveKind)
WITH_INTERVAL: frozenset[ArchiveKind] = frozenset({"ohlc", "open_interest_history"})
FETCHABLE: tuple[ArchiveKind, ...] = ("ohlc", "open_interest_history", "funding_history")  # exchanges tell them again
SEEN: tuple[ArchiveKind, ...] = ("liquidations", "large_trades")  # nobody tells them again

EVENTS: dict[ArchiveKind, type[Event]] = {
    "ohlc": Ohlc,
    "open_interest": OpenInterest,
    "open_interest_history": OpenInterest,
    "funding": FundingRate,
    "funding_history": FundingRate,
    "liquidations": Liquidation,
    "large_trades": LargeTrade,
}

_GIVEN = {"exchange", "symbol", "timestamp", "interval", "is_closed"}  # by the series, by the time, by being archived
FIELDS: dict[ArchiveKind, tuple[str, ...]] = {
    kind: tuple(name for name in event.__struct_fields__ if name not in _GIVEN) for kind, event in EVENTS.items()
}

_VALUES: dict[ArchiveKind, Callable[[Event], tuple[Any, ...]]] = {
    kind: attrgetter(*names) for kind, names in FIELDS.items()
}

MICROSECOND = timedelta(microseconds=1)
FAR = 1 << 62  # later than any time
SQL_INTEGER = 1 << 63  # a larger id is kept as text

Row = tuple[Any, ...]
"""(time, *FIELDS); of liquidations also a number that tells equal ones apart, at the end."""


class Range(NamedTuple):
    """Half-open, in microseconds."""

    start: int
    end: int


class Series(NamedTuple):
    """Rows of one kind and symbol; `interval` belongs to the kinds in WITH_INTERVAL."""

    kind: ArchiveKind
    exchange: str
    symbol: str
    interval: str = ""


class Write(NamedTuple):
    """Rows of one series, and the ranges that are completely held once they are written: all of it or nothing."""

    series: Series
    rows: Sequence[Row]
    covered: Sequence[Range] = ()


def us(time: datetime) -> int:
    """Microseconds since 1970."""
    return (time - EPOCH) // MICROSECOND


def from_us(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)


def step_of(series: Series) -> timedelta:
    """The least time between two rows of a fetchable series."""
    if series.interval == "1M":
        return timedelta(days=28)
    return INTERVALS[series.interval or "1h"]


def row_of(kind: ArchiveKind, event: Event) -> Row:
    """Made often: a daemon that starts puts every bar that its feeds load."""
    row: Row = (us(event.timestamp), *_VALUES[kind](event))
    match event:
        case FundingRate():
            at = FIELDS[kind].index("funding_time") + 1
            return (*row[:at], us(row[at]), *row[at + 1 :])
        case LargeTrade(trade_id=int(number)) if not -SQL_INTEGER <= number < SQL_INTEGER:
            return (*row[:-1], str(number))
    return row


def event_of(series: Series, row: Row) -> Any:
    """The event that a row was made of: an instance of EVENTS[series.kind]."""
    values: dict[str, Any] = dict(zip(FIELDS[series.kind], row[1:], strict=False))
    match series.kind:
        case "ohlc":
            values |= {"interval": series.interval, "is_closed": True}
        case "funding" | "funding_history":
            values["funding_time"] = from_us(values["funding_time"])
        case "large_trades":
            values["is_buyer_maker"] = bool(values["is_buyer_maker"])
        case "liquidations":
            values["partial"] = bool(values["partial"])
    where: dict[str, Any] = {"exchange": series.exchange, "symbol": series.symbol, "timestamp": from_us(row[0])}
    return EVENTS[series.kind](**where, **values)


# --- ranges


def merged(ranges: Sequence[Range]) -> list[Range]:
    """The same times as ascending ranges that do not touch."""
    found: list[Range] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1].end:
            found[-1] = Range(found[-1].start, max(end, found[-1].end))
        elif start < end:
            found.append(Range(start, end))
    return found


class Piece(NamedTuple):
    """A part of a range that is held as a whole, or is a hole."""

    start: int
    end: int
    is_held: bool


def pieces(held: Sequence[Range], start: int, end: int) -> list[Piece]:
    """`[start, end)` cut into what is held and what is not, ascending."""
    found: list[Piece] = []
    for a, b in merged(held):
        a, b = max(a, start), min(b, end)
        if a >= b:
            continue
        if a > start:
            found.append(Piece(start, a, False))
        found.append(Piece(a, b, True))
        start = b
    if start < end:
        found.append(Piece(start, end, False))
    return found
