"""Reading what comes from outside: what a decoder may raise, as one error of ours.

What is spelled as nothing is nothing, too: a time of 0 or "" is no time, and never 1970.
"""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from actors.decimals import amount
from actors.errors import BadMessage
from actors.events import EPOCH, Ohlc, from_ms

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # the latter two come out of msgspec too

T = TypeVar("T")


def decode(decoder: Callable[[Any], T], body: bytes | str | msgspec.Raw, what: str) -> T:
    """A decoded body, or BadMessage that says what was being read: "Binance's klines"."""
    try:
        return decoder(body)
    except UNREADABLE as error:
        raise BadMessage(f"{what} is not what it documents: {error}") from None


_AFTER = [timedelta(milliseconds=number) for number in range(4096)]
_FAR = 1 << 47  # milliseconds: in the year 6429
_near = (-len(_AFTER), EPOCH)  # a time that times of late are after, by less than those: Unix milliseconds, datetime


def moment(milliseconds: int) -> datetime:
    """The UTC time of an exchange's Unix milliseconds; BadMessage for 0, which is no time.

    Live, one is near the other: an addition makes it, in a third of the time.
    """
    global _near
    start, time = _near
    if 0 <= milliseconds - start < len(_AFTER):
        return time + _AFTER[milliseconds - start]
    if milliseconds == 0:
        raise BadMessage("a time of 0")
    time = from_ms(milliseconds)
    if len(_AFTER) < milliseconds < _FAR:  # near the ends of time there are some that are none
        start = milliseconds - len(_AFTER) // 2
        _near = (start, from_ms(start))
    return time


opening = lru_cache(maxsize=1 << 14)(moment)
"""The same of a time that is told again and again, such as the open of a bar: one datetime serves all symbols."""


def optional_moment(milliseconds: int | str | None) -> datetime | None:
    """The same for a time that may be none: None, "" or 0."""
    number = milliseconds if isinstance(milliseconds, int) else integer(milliseconds or "0")
    return opening(number) if number else None


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
