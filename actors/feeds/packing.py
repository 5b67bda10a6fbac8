"""Closed bars in less than a tenth of the memory that they take as events: columns of whole numbers. No I/O.

What comes out is what went in, to the last bit and of the same types; bars for which that does not hold are kept as
they are. Exchanges write decimals: a whole number divided by a power of ten. IEEE 754 rounds that quotient to the very
float that reading the decimal gives, as long as both are exact floats (below 2^53, up to 10^22). So a column is its
least number and, for every row, how far above it that row is, in as few bytes as the farthest one needs.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import repeat
from math import isfinite
from struct import Struct as Layout
from typing import Any

from msgspec import Struct

from actors.events import Ohlc, from_ms, ms

Where = tuple[str, str, str]
"""Exchange, symbol, interval."""

POWERS = tuple(10.0**scale for scale in range(16))
EXACT = 2**53  # below it every whole number is a float
WIDTHS = {"B": 1 << 8, "H": 1 << 16, "I": 1 << 32, "Q": 1 << 64}  # as `array` and `memoryview` name them
WHOLE = -1  # the scale of numbers that are not floats

_ROWS = Layout("=H")
_COLUMN = Layout("=cbq")  # how each of its numbers is written, their scale, the least of them
_EVEN, _ABSENT = b"=", b"-"  # times with one step between them, which follows; None in every row
_COLUMNS = 8


class Packed(Struct, frozen=True, eq=False, gc=False):
    """Bars of one symbol and interval, all closed."""

    where: Where
    data: bytes

    def opened(self, index: int) -> datetime:
        """When one of them opened; nothing else is unpacked for it."""
        times: Sequence[int] = next(_columns(self.data))
        return from_ms(times[index])

    def bars(self) -> tuple[Ohlc, ...]:
        """New events, each equal to the one that was packed."""
        exchange, symbol, interval = self.where
        return tuple(
            [
                Ohlc(
                    exchange=exchange,
                    symbol=symbol,
                    timestamp=from_ms(time),
                    interval=interval,
                    open=first,
                    high=high,
                    low=low,
                    close=last,
                    volume=volume,
                    quote_volume=quote_volume,
                    trades_count=trades_count,
                    is_closed=True,
                )
                for time, first, high, low, last, volume, quote_volume, trades_count in zip(
                    *_columns(self.data), strict=False
                )
            ]
        )


class Plain(Struct, frozen=True, eq=False, gc=False):
    """Bars that cannot be packed."""

    kept: tuple[Ohlc, ...]

    def opened(self, index: int) -> datetime:
        return self.kept[index].timestamp

    def bars(self) -> tuple[Ohlc, ...]:
        return self.kept


def pack(where: Where, bars: Sequence[Ohlc]) -> Packed | Plain:
    """1 to 65535 bars, ascending."""
    columns = [
        _times([bar.timestamp for bar in bars]),
        _floats([bar.open for bar in bars]),
        _floats([bar.high for bar in bars]),
        _floats([bar.low for bar in bars]),
        _floats([bar.close for bar in bars]),
        _floats([bar.volume for bar in bars]),
        _floats([bar.quote_volume for bar in bars]),
        _counts([bar.trades_count for bar in bars]),
    ]
    packed = [column for column in columns if column is not None]
    is_alike = all(bar.is_closed and (bar.exchange, bar.symbol, bar.interval) == where for bar in bars)
    if not is_alike or len(packed) < _COLUMNS:
        return Plain(tuple(bars))
    return Packed(where, _ROWS.pack(len(bars)) + b"".join(packed))


# --- one column; None: it cannot be packed ---


def _times(times: list[datetime]) -> bytes | None:
    numbers = [ms(time) for time in times]
    if any(from_ms(number) != time or time.tzinfo is not UTC for number, time in zip(numbers, times, strict=True)):
        return None
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    if step > 0 and numbers == [*range(numbers[0], numbers[0] + step * len(numbers), step)]:
        return _COLUMN.pack(_EVEN, WHOLE, numbers[0]) + step.to_bytes(8, "little")
    return _whole(numbers, WHOLE)


def _floats(values: Sequence[float | None]) -> bytes | None:
    floats = [value for value in values if type(value) is float]  # a whole number would come back as a float
    if len(floats) < len(values):
        return _absent(values)
    scaled = _scaled(floats)
    return _as_they_are(floats) if scaled is None else _whole(*scaled)


def _counts(values: Sequence[int | None]) -> bytes | None:
    counts = [value for value in values if type(value) is int]
    return _absent(values) if len(counts) < len(values) else _whole(counts, WHOLE)


def _absent(values: Iterable[object]) -> bytes | None:
    return _COLUMN.pack(_ABSENT, 0, 0) if all(value is None for value in values) else None


def _as_they_are(floats: list[float]) -> bytes:
    return _COLUMN.pack(b"d", 0, 0) + array("d", floats).tobytes()


def _whole(numbers: list[int], scale: int) -> bytes | None:
    least = min(numbers)
    farthest = max(numbers) - least
    width = next((name for name, limit in WIDTHS.items() if farthest < limit), None)
    if width is None or not -(1 << 63) <= least < 1 << 63:
        return None
    return _COLUMN.pack(width.encode(), scale, least) + array(width, [number - least for number in numbers]).tobytes()


def _scaled(floats: list[float]) -> tuple[list[int], int] | None:
    """Whole numbers and a scale: each float is its whole number / 10^scale, to the last bit. None: there are none."""
    largest = max(map(abs, floats))
    if not all(map(isfinite, floats)):
        return None
    first, bits = floats[0], array("d", floats).tobytes()  # bits, since -0.0 == 0.0
    for scale, power in enumerate(POWERS):
        if largest * power >= EXACT:
            return None
        if round(first * power) / power == first:  # most columns have one scale, and most values need it
            numbers = [round(value * power) for value in floats]
            if array("d", [number / power for number in numbers]).tobytes() == bits:
                return numbers, scale
    return None


def _columns(data: bytes) -> Iterator[Any]:
    """The columns of packed bars in their order, each a value per row."""
    rows, at = _ROWS.unpack_from(data)[0], _ROWS.size
    for _ in range(_COLUMNS):
        code, scale, least = _COLUMN.unpack_from(data, at)
        at += _COLUMN.size
        if code == _ABSENT:
            yield repeat(None, rows)
        elif code == _EVEN:
            step = int.from_bytes(data[at : at + 8], "little")
            at += 8
            yield range(least, least + rows * step, step)
        else:
            width = code.decode()
            numbers = array(width)
            numbers.frombytes(data[at : at + rows * numbers.itemsize])
            at += rows * numbers.itemsize
            if width == "d":
                yield numbers
            elif scale == WHOLE:
                yield [least + number for number in numbers]
            else:
                power, lowest = POWERS[scale], float(least)
                yield [(lowest + number) / power for number in numbers]
