"""The past of a simulated market: bars as a function of seed and time alone.

Law: no state that matters, no I/O. Prices are integers of ticks, quantities integers of steps, quote amounts integers
of tick x step, so that nothing is ever rounded and bars of every interval agree exactly; times are milliseconds since
the epoch.

A skeleton is made of days, drawn from a few template days of minute bars which are moved, mirrored and stretched.
All of that is exact in integers, so that a bar of any length is looked up, not added up: 1500 days cost no more than
1500 minutes.
"""

import math
import random
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache, reduce
from typing import NamedTuple

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000

# Minutes per bar. 1w opens on Monday, 1M on the first, all others are aligned to the epoch.
INTERVALS = {
    "1m": 1, "3m": 3, "5m": 5, "15m": 15, "30m": 30, "1h": 60, "2h": 120, "4h": 240, "6h": 360,
    "8h": 480, "12h": 720, "1d": 1440, "3d": 4320, "1w": 10080, "1M": 43200,
}  # fmt: skip
_MONDAY = 4 * DAY  # the epoch was a Thursday
_TEMPLATES = 6


class Bar(NamedTuple):
    """One bar; `first` and `last` are fill ids, -1 where there was no trade or it is too long ago."""

    open_time: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    quote: int
    trades: int
    buy_volume: int
    buy_quote: int
    first: int = -1
    last: int = -1


def flat(open_time: int, price: int) -> Bar:
    """A bar without trades."""
    return Bar(open_time, price, price, price, price, 0, 0, 0, 0, 0)


def merge(a: Bar, b: Bar) -> Bar:
    """The bar over two neighbours. A bar without trades is flat and adds nothing."""
    if not b.trades:
        return a
    if not a.trades:
        return b._replace(open_time=a.open_time)
    return Bar(
        a.open_time,
        a.open,
        max(a.high, b.high),
        min(a.low, b.low),
        b.close,
        a.volume + b.volume,
        a.quote + b.quote,
        a.trades + b.trades,
        a.buy_volume + b.buy_volume,
        a.buy_quote + b.buy_quote,
        a.first,
        b.last,
    )


def floor_open(interval: str, at: int) -> int:
    """The opening time of the bar that holds the moment `at`."""
    match interval:
        case "1M":
            month = datetime.fromtimestamp(at / 1000, UTC)
            return _month_start(month.year, month.month - 1)
        case "1w":
            return at - (at - _MONDAY) % (7 * DAY)
        case _:
            return at - at % (INTERVALS[interval] * MINUTE)


def shift_open(interval: str, opening: int, bars: int) -> int:
    """The opening time `bars` bars after (or, negative, before) the one at `opening`."""
    if interval == "1M":
        month = datetime.fromtimestamp(opening / 1000, UTC)
        return _month_start(month.year, month.month - 1 + bars)
    return opening + bars * INTERVALS[interval] * MINUTE


def _month_start(year: int, month: int) -> int:
    """`month` counts from 0 and may lie outside the year; years before 1970 are 1970."""
    year, month = max(1970, year + month // 12), month % 12 + 1
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1000


def hashed(key: int, n: int) -> int:
    """64 well mixed bits (splitmix64)."""
    x = (key + n * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return x ^ (x >> 31)


def noise(key: int, at: int, period: int) -> float:
    """A smooth random curve within -1..1 with a knot every `period`."""
    n, rest = divmod(at, period)
    x = rest / period
    a, b = (hashed(key ^ period, i) / 2**63 - 1 for i in (n, n + 1))
    return a + (b - a) * x * x * (3 - 2 * x)


def _poisson(rng: random.Random, mean: float) -> int:
    if mean > 30:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    count, left = 0, math.exp(-mean)
    product = rng.random()
    while product > left:
        product *= rng.random()
        count += 1
    return count


class Template:
    """A day of minute bars, relative to the price at its opening.

    Prices and activity are drawn apart: two templates from the same `prices` move alike, however lively they are.
    """

    def __init__(self, prices: random.Random, activity: random.Random, sigma: float, fills: float, size: float) -> None:
        minutes, price = [], 0
        for i in range(1440):
            # Activity comes in waves through the day.
            wave = 1 + 0.5 * math.sin(i / 230) ** 2
            opening, move = price, round(prices.gauss(0, sigma * wave))
            up, down = (int(prices.expovariate(2 / sigma)) for _ in range(2))
            count = _poisson(activity, fills)
            if not count:
                minutes.append(flat(i * MINUTE, price))
                continue
            price += move
            high, low = max(opening, price) + up, min(opening, price) - down
            volume = max(count, int(count * size * wave * activity.lognormvariate(0, 0.4)))
            typical = (opening + high + low + price) // 4
            bought = int(volume * activity.uniform(0.3, 0.7))
            minutes.append(
                Bar(
                    i * MINUTE, opening, high, low, price,
                    volume, volume * typical, count, bought, bought * typical,
                )
            )  # fmt: skip
        self._levels = {1: minutes}
        self.net = price

    def row(self, offset: int, minutes: int) -> Bar:
        """The bar of so many minutes (a divisor of 1440) that opens `offset` ms into the day."""
        rows = self._levels.get(minutes)
        if rows is None:
            base = self._levels[1]
            rows = [reduce(merge, base[i : i + minutes]) for i in range(0, 1440, minutes)]
            self._levels[minutes] = rows
        return rows[offset // (minutes * MINUTE)]


@lru_cache(maxsize=1000)
def _template(path: str, shape: str, index: int, sigma: float, fills: float, size: float) -> Template:
    """Cached, because it is pure and some 5 ms of work: every market of the process draws from the same ones."""
    prices, activity = random.Random(f"{path} {index}"), random.Random(f"{shape} {index}")
    return Template(prices, activity, sigma, fills, size)


class _Day(NamedTuple):
    price: int  # at 00:00
    template: Template
    scale: int  # negative: mirrored
    bulk: int  # multiplies volumes


class Skeleton:
    """The price of one asset at all times, as a chain of days that passes `price` on the day of `genesis`.

    `sigma`: ticks, of the change in a minute. `fills`: per minute. `size`: steps per fill. Skeletons of the same
    `path` move together; those of the same `shape` share their template days, which are what costs.
    """

    def __init__(
        self,
        seed: int,
        genesis: int,
        *,
        path: str,
        shape: str,
        price: int,
        sigma: float,
        fills: float,
        size: float,
    ) -> None:
        self.key = random.Random(f"{seed} {path}").getrandbits(64)
        self._today = genesis // DAY
        self._price = price
        self._path_name = f"{seed} {path if shape == '' else shape}"
        self._shape_name = f"{self._path_name} {fills} {size:.3g}"
        self._nature = sigma, fills, size
        self._days: dict[int, _Day] = {}

    def bar(self, opening: int, minutes: int = 1) -> Bar:
        """The bar of so many minutes, a divisor of 1440 and aligned."""
        day = self._day(opening // DAY)
        row = day.template.row(opening % DAY, minutes)
        price, scale, bulk = day.price, day.scale, day.bulk
        high, low = (row.high, row.low) if scale > 0 else (row.low, row.high)
        return Bar(
            opening,
            price + scale * row.open,
            price + scale * high,
            price + scale * low,
            price + scale * row.close,
            bulk * row.volume,
            bulk * (row.volume * price + scale * row.quote),
            bulk * row.trades,
            bulk * row.buy_volume,
            bulk * (row.buy_volume * price + scale * row.buy_quote),
        )

    def span(self, start: int, end: int) -> Bar:
        """The bar over any whole minutes."""
        return reduce(merge, self._pieces(start, end))

    def _pieces(self, start: int, end: int) -> Iterable[Bar]:
        """As large as they fit."""
        while start < end:
            for minutes in (1440, 60, 1):
                if start % (minutes * MINUTE) == 0 and start + minutes * MINUTE <= end:
                    break
            yield self.bar(start, minutes)
            start += minutes * MINUTE

    def _day(self, number: int) -> _Day:
        """The chain is extended from today, in both directions, on demand."""
        found = self._days.get(number)
        if found is not None:
            return found
        forward = number >= self._today
        step = 1 if forward else -1
        at = number
        while at != self._today and at - step not in self._days:
            at -= step
        while True:
            self._days[at] = self._drawn(at, self._days.get(at - step), forward)
            if at == number:
                return self._days[at]
            at += step

    def _drawn(self, number: int, near: _Day | None, forward: bool) -> _Day:
        """The day next to `near`, which is yesterday if `forward`, else tomorrow."""
        bits = hashed(self.key, number)
        template = _template(self._path_name, self._shape_name, bits % _TEMPLATES, *self._nature)
        price = self._price
        if near is not None:
            price = near.price + near.scale * near.template.net if forward else near.price
        # A coin, but the further the price has strayed the surer the day leads back.
        stray = price / self._price - 1
        up = (stray < 0) == (bits >> 24 & 255 < 128 + 255 * abs(stray))
        if not forward:
            up = not up
        scale = 1 if up == (template.net > 0) else -1
        if forward:
            return _Day(price, template, scale, 1)
        scale *= 2 if bits >> 8 & 3 == 0 else 1
        return _Day(price - scale * template.net, template, scale, 1 + (bits >> 16) % 3)
