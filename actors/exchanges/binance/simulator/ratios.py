"""What the simulated Binance USD-M tells of its traders under /futures/data: ratios of long to short, taker volume, and
how far the contract is from its index. One row for each period, no weight.
"""

from collections.abc import Callable

from actors.exchanges.binance.simulator.query import Refused, limit_of, times
from actors.exchanges.binance.simulator.rows import price, quantity
from actors.simulation.history import DAY, floor_open, hashed, shift_open
from actors.simulation.market import EIGHT, Tape, spell

PERIODS = ("5m", "15m", "30m", "1h", "2h", "4h", "6h", "12h", "1d")

Row = dict[str, object]
RowAt = Callable[[str, Tape, str, int], Row]  # symbol, its tape, period, when it begins


def rows(symbol: str, tape: Tape, query: dict[str, str], now: int, row_at: RowAt) -> list[Row]:
    """The newest of a range, ascending; a period is told once it is over."""
    period = query.get("period", "")
    if period not in PERIODS:
        raise Refused(-1130, "parameter 'period' is invalid.")
    limit, (start, end) = limit_of(query, 30, 500), times(query)
    first = max(now - 30 * DAY, tape.listed, start or 0)
    at = shift_open(period, floor_open(period, now), -1)
    at = min(at, floor_open(period, at if end is None else end))
    found: list[Row] = []
    while at >= first and len(found) < limit:
        found.append(row_at(symbol, tape, period, at))
        at = shift_open(period, at, -1)
    return found[::-1]


def accounts_at(salt: int) -> RowAt:
    """Shares of accounts, or of positions, that are long and short: each kind of ratio has a `salt` of its own."""

    def row_at(symbol: str, tape: Tape, period: str, at: int) -> Row:
        long = 4000 + hashed(tape.key + salt, at) % 2001  # 1e-4
        return {
            "symbol": symbol,
            "longAccount": spell(long, 4),
            "longShortRatio": spell(long * 10_000 // (10_000 - long), 4),
            "shortAccount": spell(10_000 - long, 4),
            "timestamp": at,
        }

    return row_at


def taken_at(symbol: str, tape: Tape, period: str, at: int) -> Row:
    bar = tape.bar(period, at)
    bought, sold = bar.buy_volume, bar.volume - bar.buy_volume
    return {
        "buySellRatio": spell(bought * 10_000 // max(1, sold), 4),
        "sellVol": quantity(tape, sold),
        "buyVol": quantity(tape, bought),
        "timestamp": at,
    }


def basis_at(symbol: str, tape: Tape, period: str, at: int) -> Row:
    index, close = tape.index(at), tape.bar(period, at).close
    futures = close * tape.tick_units * EIGHT // 10**tape.price_decimals
    return {
        "indexPrice": spell(index, 8),
        "contractType": "PERPETUAL",
        "basisRate": spell((futures - index) * 10_000 // index, 4),
        "futuresPrice": price(tape, close),
        "annualizedBasisRate": "",
        "basis": spell(futures - index, 8),
        "pair": symbol,
        "timestamp": at,
    }
