"""A seeded market: the one world behind every simulated exchange.

Law: no I/O and no exchange in here. Integers throughout, as in `history`: ticks, steps, tick x step, and
milliseconds of market time. The same seed, assets and starting time give the same world, however often and however
coarsely it is advanced.

Before `genesis` (the minute in which the market was made) there are only bars, those of the skeleton. From then on
trades happen around the skeleton's price, and a bar is what its trades say.
"""

import random
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import reduce
from typing import Literal, NamedTuple

from actors.simulation.assets import ASSETS, Asset
from actors.simulation.history import (
    DAY,
    HOUR,
    INTERVALS,
    MINUTE,
    Bar,
    Skeleton,
    flat,
    floor_open,
    merge,
    noise,
    shift_open,
)

EIGHT = 100_000_000  # mark prices and funding rates are integers of 1e-8
_TRADES_HELD = 20_000  # per asset; older ones exist only inside bars
_NOTHING = (-1, 0, flat(0, 0))

Side = Literal["buy", "sell"]


class Clock:
    """Market time. It runs `rate` times as fast as the real one; at rate 0 only `advance` moves it."""

    def __init__(
        self,
        start: int | None = None,
        *,
        rate: float = 1.0,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rate = rate
        self._timer = timer
        self._origin = timer()
        self._start = time.time_ns() // 1_000_000 if start is None else start

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return self._start + int((self._timer() - self._origin) * 1000 * self.rate)

    def advance(self, milliseconds: int) -> None:
        self._start += milliseconds


class Trade(NamedTuple):
    """An aggregate trade: the fills `first`..`last` of one taker order at one price. Ids are contiguous."""

    id: int
    time: int
    price: int
    quantity: int
    public_quantity: int  # without retail price improvement
    first: int
    last: int
    side: Side  # of the taker


class Liquidation(NamedTuple):
    """A forced order, filled by the trades of its moment. `average` and `limit` in ticks."""

    number: int
    time: int
    side: Side  # of the order: "sell" = a long was liquidated
    quantity: int
    last_quantity: int
    average: int
    limit: int
    first: int  # the ids of the trades that filled it: from `first` on, up to before `end`
    end: int


class Tape:
    """One asset's market: its past, and the trades and forced orders since genesis.

    Integers become wire strings with `spell(n * tick_units, price_decimals)` and alike.
    """

    def __init__(self, asset: Asset, seed: int, genesis: int) -> None:
        self.asset = asset
        self.base = asset.base or asset.name
        self.tick_units, self.price_decimals = _units(asset.tick)
        self.step_units, self.step_decimals = _units(asset.step)
        self._tick_value: int = self.tick_units * EIGHT // 10**self.price_decimals
        self.genesis = genesis
        today = genesis - genesis % DAY
        self.listed = today - asset.listed_days * DAY
        self.ended = today - asset.delisted_days * DAY if asset.delisted_days else None
        self.lost: list[tuple[int, int]] = []  # [from, to) that the exchange has no bars of, for good
        self.trades: list[Trade] = []  # the newest, ids contiguous up to next_id - 1
        self.liquidations: list[Liquidation] = []  # all, number = position

        price = round(Decimal(asset.price) / Decimal(asset.tick))
        self._value = float(asset.tick) * float(asset.step)  # of one step at a price of one tick
        self._size = max(1.0, 1500 / (price * self._value))  # steps, in the usual trade of 1,500
        self._sigma = max(1.0, price * 0.0005)  # ticks, of the change in a minute
        # The past is as lively as the present: the means, per minute, of what `advance` draws.
        large, forced = 60 / asset.large_every, 60 / asset.liquidation_every
        fills = (asset.trades * 60 + large + 2 * forced) * 1.29
        notional = asset.trades * 60 * 3080 + large * 357_000 + forced * 14_000
        self._skeleton = Skeleton(
            seed,
            genesis,
            path=asset.path or asset.name,
            shape=asset.shape,
            price=price,
            sigma=self._sigma,
            fills=fills,
            size=notional / (price * self._value) / fills,
        )
        self.key = self._skeleton.key

        self._rng = random.Random(f"{seed} {asset.name} live")
        # Ids look as they do after years of trading: beyond 32 bits.
        self.next_id = 3_000_000_000 + self._rng.randrange(10**9)
        self._next_fill = self._first_fill = 8_000_000_000 + self._rng.randrange(10**9)
        self._deviation = 0.0
        self._minutes: list[Bar] = []  # closed, since genesis
        self._minute = flat(genesis, self._skeleton.bar(genesis - MINUTE).close)
        self._folded: dict[str, tuple[int, int, Bar]] = {}  # interval: opening, until, closed part
        never = 1 << 62
        self._due = [never, never, never]  # the next trade, large trade, liquidation
        if asset.trades and self.ended is None:
            self._due = [genesis + self._pause(i) for i in range(3)]

    # -- time ---------------------------------------------------------------------------------

    def advance(self, now: int) -> None:
        """Let happen what happens until `now`, inclusive."""
        due = self._due
        while (at := min(due)) <= now:
            kind = due.index(at)
            due[kind] = at + self._pause(kind)
            side: Side = "buy" if self._rng.random() < 0.5 else "sell"
            if kind == 2:
                self._liquidate(at, side)
                continue
            price = self._price(at, side)
            quantity = self._size * self._rng.lognormvariate(0, 1.2)
            if kind == 1:
                quantity = 102_000 * self._rng.uniform(1, 6) / (price * self._value)
            self._traded(at, side, price, max(1, round(quantity)))
        self._roll(now)
        if len(self.trades) > 2 * _TRADES_HELD:
            del self.trades[:-_TRADES_HELD]

    def _traded(self, at: int, side: Side, price: int, quantity: int) -> None:
        fills = min(quantity, 1 + int(self._rng.expovariate(1.5)))
        hidden = quantity // 8 if self._rng.random() < 0.05 else 0
        self.trade(at, side, price, quantity, fills=fills, hidden=hidden)

    def trade(self, at: int, side: Side, price: int, quantity: int, *, fills: int = 1, hidden: int = 0) -> Trade:
        """Print one aggregate trade, not before the last one. Draws nothing, so that what follows stays as it is."""
        self._roll(at)
        first = self._next_fill
        self._next_fill += fills
        trade = Trade(self.next_id, at, price, quantity, quantity - hidden, first, self._next_fill - 1, side)
        self.next_id += 1
        self.trades.append(trade)
        quote = price * quantity
        bought = side == "buy"
        printed = Bar(
            self._minute.open_time, price, price, price, price, quantity, quote, fills,
            quantity if bought else 0, quote if bought else 0, first, trade.last,
        )  # fmt: skip
        self._minute = merge(self._minute, printed)
        return trade

    def liquidate(self, at: int, side: Side, fills: Sequence[tuple[int, int]]) -> Liquidation:
        """Fill a forced order at these (price, quantity) pairs, each of which is also a trade."""
        first = self.next_id
        for price, quantity in fills:
            self.trade(at, side, price, quantity)
        total = sum(quantity for _, quantity in fills)
        average = round(sum(price * quantity for price, quantity in fills) / total)
        margin = max(1, average // 250)  # the limit is worse than the market: near the bankruptcy
        limit = average + margin if side == "buy" else average - margin
        order = Liquidation(len(self.liquidations), at, side, total, fills[-1][1], average, limit, first, self.next_id)
        self.liquidations.append(order)
        if order.number % 3 == 0:
            self._next_fill += 1  # the insurance fund took a fill over: its id is in no stream
        return order

    def _liquidate(self, at: int, side: Side) -> None:
        total = max(3, round(self._size * 4 * self._rng.lognormvariate(0, 1.3)))
        price = self._price(at, side)
        worse = 1 if side == "buy" else -1
        parts = self._rng.randint(1, 3)
        quantities = [total // parts] * (parts - 1)
        quantities.append(total - sum(quantities))
        self.liquidate(at, side, [(price + worse * i, q) for i, q in enumerate(quantities)])

    def _pause(self, kind: int) -> int:
        """Milliseconds to the next event. The rare kinds are never much later than their average."""
        if kind == 0:
            return 1 + int(self._rng.expovariate(self.asset.trades / 1000))
        every = self.asset.large_every if kind == 1 else self.asset.liquidation_every
        return 1 + int(every * 1000 * self._rng.uniform(0.4, 1.6))

    def _price(self, at: int, side: Side) -> int:
        self._deviation = 0.9 * self._deviation + self._rng.gauss(0, self._sigma * 0.1)
        bar = self._skeleton.bar(at - at % MINUTE)
        fair = bar.open + (bar.close - bar.open) * (at - bar.open_time) / MINUTE
        return max(1, round(fair + self._deviation + (0.5 if side == "buy" else -0.5)))

    def _roll(self, at: int) -> None:
        """Close the minutes that are over."""
        while at >= self._minute.open_time + MINUTE:
            self._minutes.append(self._minute)
            self._minute = flat(self._minute.open_time + MINUTE, self._minute.close)

    @property
    def last_fill(self) -> int:
        return self._next_fill - 1

    # -- bars ---------------------------------------------------------------------------------

    def bars(
        self,
        interval: str,
        now: int,
        *,
        start: int | None = None,
        end: int | None = None,
        limit: int,
        newest: bool = False,
    ) -> list[Bar]:
        """Bars that opened within [start, end], oldest first, the open one included.

        More than `limit`: the first ones after `start`; the last ones where there is no `start` or with `newest`.
        """
        last = floor_open(interval, (now if self.ended is None else self.ended - 1))
        if end is not None:
            last = min(last, floor_open(interval, end))
        first = floor_open(interval, self.listed)
        if start is not None:
            aligned = floor_open(interval, start)
            first = max(first, aligned if aligned == start else shift_open(interval, aligned, 1))
        step = -1 if start is None or newest else 1
        opening = last if step < 0 else first
        found: list[Bar] = []
        while first <= opening <= last and len(found) < limit:
            if not self.lost or not self._is_lost(opening, shift_open(interval, opening, 1)):
                found.append(self.bar(interval, opening))
            opening = shift_open(interval, opening, step)
        return found[::step]

    def _is_lost(self, start: int, end: int) -> bool:
        return any(lost <= start and end <= until for lost, until in self.lost)

    def span(self, start: int, end: int) -> Bar:
        """The bar over any whole minutes that have begun."""
        pieces = [self._live(at) for at in range(max(start, self.genesis), end, MINUTE)]
        if start < self.genesis:
            pieces.insert(0, self._skeleton.span(start, min(end, self.genesis)))
        return reduce(merge, pieces)

    def bar(self, interval: str, opening: int) -> Bar:
        """The bar that opens at `opening`, as far as it has happened."""
        start, end = max(opening, self.listed), shift_open(interval, opening, 1)
        if self.ended is not None:
            end = min(end, self.ended)
        if end <= self.genesis:
            if INTERVALS[interval] <= 1440 and start == opening:
                return self._skeleton.bar(opening, INTERVALS[interval])
            return self._skeleton.span(start, end)._replace(open_time=opening)
        known, until, bar = self._folded.get(interval, _NOTHING)
        if known != opening:
            until = max(start, self.genesis)
            bar = flat(opening, self._live(until).open)
            if start < self.genesis:
                bar = self._skeleton.span(start, self.genesis)
                bar = bar._replace(open_time=opening, first=self._first_fill - bar.trades, last=self._first_fill - 1)
        closed = min(end, self._minute.open_time)
        while until < closed:
            bar = merge(bar, self._live(until))
            until += MINUTE
        if opening >= known:  # what live streams ask for again and again: the newest
            self._folded[interval] = opening, until, bar
        return merge(bar, self._minute) if until < end else bar

    def _live(self, opening: int) -> Bar:
        index = (opening - self.genesis) // MINUTE
        return self._minutes[index] if index < len(self._minutes) else self._minute

    # -- derived values: functions of time alone ----------------------------------------------

    def mark(self, at: int) -> int:
        """The mark price at any time, in 1e-8."""
        bar = self._skeleton.bar(at - at % MINUTE)
        between = bar.open * MINUTE + (bar.close - bar.open) * (at % MINUTE)
        return between * self._tick_value // MINUTE

    def index(self, at: int) -> int:
        """The index price, in 1e-8."""
        premium = 0.008 if self.asset.dated else 0.0003 * noise(self.key + 1, at, 600_000)
        return int(self.mark(at) * (1 - premium))

    def funding_rate(self, at: int) -> int:
        """The rate of the running period, in 1e-8; its value at a settlement is the one settled."""
        period = self.asset.funding_hours * HOUR
        bend = 8000 * noise(self.key + 2, at, 3 * period) + 3000 * noise(self.key + 3, at, HOUR)
        return int(10_000 + bend + 200 * noise(self.key + 4, at, MINUTE))

    def next_funding(self, at: int) -> int:
        """When the running period settles; a settlement's own moment belongs to the next period."""
        period = self.asset.funding_hours * HOUR
        return at - at % period + period

    def open_interest(self, at: int) -> int:
        """One side's open interest in steps."""
        base = self._size * 800_000 * max(self.asset.trades, 0.05)
        waves = ((0.15, 7 * DAY), (0.05, DAY), (0.02, 4 * HOUR), (0.004, 900_000), (0.0005, 20_000))
        return int(base * (1 + sum(w * noise(self.key + 5, at, p) for w, p in waves)))


class Market:
    """All assets on one clock. `advance` before looking; any number of exchanges may share it."""

    def __init__(
        self,
        *,
        seed: int = 1,
        assets: Sequence[Asset] = ASSETS,
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.now = self.clock.now()
        self.genesis = self.now - self.now % MINUTE
        self.tapes = {asset.name: Tape(asset, seed, self.genesis) for asset in assets}
        self.advance()

    def advance(self) -> None:
        """Bring the world up to the clock. `now` is the time it has reached."""
        self.now = max(self.now, self.clock.now())
        for tape in self.tapes.values():
            tape.advance(self.now)

    def trade(self, name: str, *, side: Side, price: str, quantity: str) -> Trade:
        """Print a trade now, for a test. Price and quantity must fit tick and step.

        Raises ValueError where they do not.
        """
        self.advance()
        tape = self.tapes[name]
        return tape.trade(self.now, side, *_fitted(tape, price, quantity))

    def liquidate(self, name: str, *, side: Side, price: str, quantity: str) -> Liquidation:
        """Fill a forced order in one trade now, for a test. Raises ValueError as `trade` does."""
        self.advance()
        tape = self.tapes[name]
        return tape.liquidate(self.now, side, [_fitted(tape, price, quantity)])


def spell(units: int, decimals: int) -> str:
    """`spell(8400010, 2)` is `"84000.10"`."""
    if not decimals:
        return str(units)
    if units < 0:
        return "-" + spell(-units, decimals)
    digits = str(units).zfill(decimals + 1)
    return f"{digits[:-decimals]}.{digits[-decimals:]}"


def _units(size: str) -> tuple[int, int]:
    """`"0.10"` is 10 units of two decimals."""
    whole, _, fraction = size.partition(".")
    return int(whole + fraction), len(fraction)


def _fitted(tape: Tape, price: str, quantity: str) -> tuple[int, int]:
    ticks = Decimal(price) / Decimal(tape.asset.tick)
    steps = Decimal(quantity) / Decimal(tape.asset.step)
    if ticks % 1 or steps % 1 or ticks <= 0 or steps <= 0:
        raise ValueError(f"{price} x {quantity} fits no tick {tape.asset.tick} x {tape.asset.step}")
    return int(ticks), int(steps)
