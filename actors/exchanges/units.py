"""Assets that some exchanges count in thousands: 1000PEPE, kPEPE, SHIB1000, 1MBABYDOGE. No I/O.

A name is read as a number of something only where it can hardly be anything else: a power of ten from 1000 on before
at least two letters or after at least three, `1M` before three, or Hyperliquid's small k before capitals. 1INCH, KAVA,
SPX500 and the like are names of their own.
"""

import re
from decimal import Decimal
from typing import NamedTuple

_BEFORE = re.compile(r"(10{3,})([A-Z][A-Z0-9]*[A-Z][A-Z0-9]*)", re.ASCII)
_AFTER = re.compile(r"([A-Z]{3,})(10{3,})", re.ASCII)
_MILLION = re.compile(r"1M([A-Z]{3,})", re.ASCII)
_THOUSAND = re.compile(r"k([A-Z][A-Z0-9]+)", re.ASCII)


class Unit(NamedTuple):
    """`many` of the asset."""

    asset: str
    many: int = 1


def unit_of(base: str) -> Unit:
    """What a contract's base asset is a number of: `Unit("PEPE", 1000)` of "1000PEPE". Case matters for `k` alone."""
    if found := _THOUSAND.fullmatch(base):
        return Unit(found[1], 1000)
    upper = base.upper()
    if found := _BEFORE.fullmatch(upper):
        return Unit(found[2], int(found[1]))
    if found := _AFTER.fullmatch(upper):
        return Unit(found[1], int(found[2]))
    if found := _MILLION.fullmatch(upper):
        return Unit(found[1], 1_000_000)
    return Unit(upper)


def scaled(number: float, by: int, per: int = 1) -> float:
    """`number` x `by` / `per`, powers of ten both: the decimal point moves, and no binary noise comes in."""
    return float(Decimal(repr(number)) * by / per)
