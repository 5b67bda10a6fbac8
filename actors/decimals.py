"""Decimal strings of exchanges as floats: judged, and multiplied. No I/O, no state.

`amount` judges a number, and has the last word. Of a trade `valued` has msgspec read both as JSON strings that hold
numbers: in one step, and without the liberties that Python's `float` takes.
"""

import sys
from decimal import Decimal, DecimalException
from math import inf, isfinite
from typing import Annotated

from msgspec import Meta, MsgspecError
from msgspec.json import Decoder

from actors.errors import BadMessage

_Finite = Annotated[float, Meta(ge=0, le=sys.float_info.max)]
_read = Decoder(list[_Finite], strict=False).decode
_UNREAD = (MsgspecError, ValueError)  # the latter: a text is no Unicode, or holds more numbers than one
_ROUND = 1.5 * 2**52  # added to a float below 2^51 and taken away again, it leaves a whole number


def number(text: str) -> float:
    """An exchange's decimal string as a float; NaN, infinities and non-numbers are BadMessage.

    `float` reads "nan" and "inf", and a price of either would poison every sum downstream.
    """
    try:
        value = float(text)
    except ValueError:
        raise BadMessage(f"not a number: {text[:40]!r}") from None
    if not text.isascii() or "_" in text or text[0] <= " " or text[-1] <= " ":  # Python's own liberties
        raise BadMessage(f"not a number: {text[:40]!r}")
    if not isfinite(value):
        raise BadMessage(f"not a finite number: {text[:40]!r}")
    return value


def amount(text: str) -> float:
    """A price or a quantity: a finite number that is not negative."""
    try:  # what `number` does, in one step: there are more of these than of anything else
        value = float(text)
    except ValueError:
        value = -1.0
    if 0 <= value < inf and text.isascii() and "_" not in text and text.strip() == text:
        return value
    number(text)
    raise BadMessage(f"negative: {text[:40]!r}")


def valued(price: str, quantity: str) -> tuple[float, float, float]:
    """(price, quantity, what `product` makes of them), in half the time.

    A float that is some whole number / 10^n was read from that very decimal, if from no more than 15 digits. Products
    of whole numbers below 2^53 are exact, and one division rounds as it should. What does not fit goes the long way.
    """
    written = f'["{price}","{quantity}"]'
    try:
        one, many = _read(written)
    except _UNREAD:
        one = many = 0.0
    if one > 10:
        scale, other, both = 1e3, 1e5, 1e8
    elif many > 10:
        scale, other, both = 1e7, 1e1, 1e8
    else:
        scale, other, both = 1e8, 1e4, 1e12
    whole, count = (one * scale + _ROUND) - _ROUND, (many * other + _ROUND) - _ROUND
    found = whole * count
    if (
        0 < found < 1e15
        and whole / scale == one
        and count / other == many
        and len(price) < 16 > len(quantity)
        and "\\" not in written  # a digit may be spelled with one
    ):
        return one, many, found / both
    return amount(price), amount(quantity), product(price, quantity)


def product(price: str, quantity: str, *more: str) -> float:
    """price x quantity, multiplied as decimals: the float nearest to the true product, with no binary noise."""
    try:
        exact = Decimal(price) * Decimal(quantity)
        if more:
            for text in more:
                exact *= Decimal(text)
        value = float(exact)
    except (DecimalException, OverflowError):
        raise BadMessage(f"not numbers: {' x '.join(text[:40] for text in (price, quantity, *more))}") from None
    if not -inf < value < inf:
        raise BadMessage(f"out of range: {' x '.join(text[:40] for text in (price, quantity, *more))}")
    return value
