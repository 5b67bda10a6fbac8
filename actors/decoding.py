"""Reading what comes from outside: what a decoder may raise, as one error of ours.

What is spelled as nothing is nothing, too: a time of 0 or "" is no time, and never 1970.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from actors.errors import BadMessage
from actors.events import Ohlc, amount, at_ms

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # the latter two come out of msgspec too

T = TypeVar("T")


def decode(decoder: Callable[[Any], T], body: bytes | str | msgspec.Raw, what: str) -> T:
    """A decoded body, or BadMessage that says what was being read: "Binance's klines"."""
    try:
        return decoder(body)
    except UNREADABLE as error:
        raise BadMessage(f"{what} is not what it documents: {error}") from None


@lru_cache(maxsize=1 << 14)  # as `from_ms`
def moment(milliseconds: int) -> datetime:
    """The UTC time of an exchange's Unix milliseconds; BadMessage for 0, which is no time."""
    if milliseconds == 0:
        raise BadMessage("a time of 0")
    return at_ms(milliseconds)


def optional_moment(milliseconds: int | str | None) -> datetime | None:
    """The same for a time that may be none: None, "" or 0."""
    number = milliseconds if isinstance(milliseconds, int) else integer(milliseconds or "0")
    return moment(number) if number else None


def optional_amount(text: str | None) -> float | None:
    """A price or a size that may be none: None, "" or 0."""
    return (amount(text) if text else 0.0) or None


def integer(text: str) -> int:
    """A time that is spelled as a string."""
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise BadMessage(f"not a time: {text[:40]!r}")
    return int(text)


def counted(trades: int, volume: float) -> int | None:
    """A bar's number of trades; None where it is 0 though something was traded."""
    return None if trades == 0 and volume > 0 else trades


def priced(bars: Iterable[Ohlc]) -> list[Ohlc]:
    """Those of a market that has begun: before its first trade an exchange may say that all prices are 0."""
    return [bar for bar in bars if bar.low > 0]


def worth(interest: float, value: float | None) -> float | None:
    """The value of open interest; None where it is 0 though there is some."""
    return None if interest and not value else value
