"""How the simulated Hyperliquid spells things: names, numbers, the rows of its answers and frames."""

from bisect import bisect_right
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import cached_property
from operator import attrgetter
from typing import Any

from actors.simulation.book import book_of
from actors.simulation.history import DAY, HOUR, MINUTE, Bar, floor_open, hashed, shift_open
from actors.simulation.market import EIGHT, Liquidation, Market, Tape, Trade, spell

COLLATERAL = {"": 0, "xyz": 0, "hyna": 235}  # by dex; 0 is USDC
BUILDERS = {"xyz": {"AAPL": "LINK"}, "hyna": {"BTC": "BTC", "ETH": "ETH"}}
"""What builders list, and whose tape it trades on: the same asset may be on several dexes."""

PRICE_DECIMALS = 6
FIGURES = 5
VAULT = "0x2e3d94f0562703b25c83308a05046ddaf9a8dd14"


@dataclass(frozen=True)
class Coin:
    """One name: a tape, and how this exchange counts it."""

    name: str
    dex: str
    tape: Tape

    @property
    def size_decimals(self) -> int:
        return self.tape.step_decimals

    @property
    def is_delisted(self) -> bool:
        return self.tape.ended is not None

    @cached_property
    def key(self) -> int:
        return self.tape.key ^ sum(map(ord, self.dex)) << 20  # one tape on two dexes: not the same trades' ids

    def price(self, ticks: int) -> str:
        return self.rounded(ticks * self.tape.tick_units, self.tape.price_decimals)

    def mark(self, at: int) -> str:
        return self.rounded(self.tape.mark(at), 8)

    def rounded(self, units: int, decimals: int) -> str:
        """The nearest allowed price: five significant figures, `6 - szDecimals` decimals, integers always."""
        price = Decimal(units).scaleb(-decimals)
        finest = max(price.adjusted() - FIGURES + 1, self.size_decimals - PRICE_DECIMALS)
        step = Decimal(1).scaleb(min(0, finest))
        return plain(price.quantize(step, ROUND_HALF_UP))

    def size(self, steps: int) -> str:
        return plain(Decimal(spell(steps * self.tape.step_units, self.tape.step_decimals)))

    def funding_rate(self, at: int) -> str:
        """Per hour."""
        return plain((Decimal(self.tape.funding_rate(at)) / EIGHT / self.tape.asset.funding_hours).quantize(PRECISION))


PRECISION = Decimal("1e-10")


def plain(number: Decimal) -> str:
    """As the exchange writes numbers: no exponent, no trailing zeros, at least one decimal."""
    text = f"{number:f}"
    if "." not in text:
        return f"{text}.0"
    text = text.rstrip("0")
    return f"{text}0" if text.endswith(".") else text


def listing(market: Market) -> dict[str, Coin]:
    """Hyperliquid's name for each asset; it has no dated contracts, and names in ASCII only."""
    coins = {}
    for tape in market.tapes.values():
        if not tape.asset.dated and tape.base.isascii():
            name = f"k{tape.base[4:]}" if tape.base.startswith("1000") else tape.base
            coins[name] = Coin(name, "", tape)
    for dex, names in BUILDERS.items():
        for name, asset in names.items():
            if asset in market.tapes:
                coins[f"{dex}:{name}"] = Coin(f"{dex}:{name}", dex, market.tapes[asset])
    return coins


def asset_row(coin: Coin) -> dict[str, object]:
    row: dict[str, object] = {
        "szDecimals": coin.size_decimals,
        "name": coin.name,
        "maxLeverage": 40,
        "marginTableId": 56,
    }
    if coin.is_delisted:
        row["isDelisted"] = True
    return row


def meta(coins: list[Coin], dex: str) -> dict[str, object]:
    tiers = [{"lowerBound": "0.0", "maxLeverage": 40}]
    return {
        "universe": [asset_row(coin) for coin in coins],
        "marginTables": [[56, {"description": "", "marginTiers": tiers}]],
        "collateralToken": COLLATERAL.get(dex, 0),
    }


def dex_row(dex: str) -> dict[str, object]:
    return {
        "name": dex,
        "fullName": f"{dex} dex",
        "deployer": "0x5e89b26d8d66da9888c835c9bfcc2aa51813e152",
        "oracleUpdater": None,
        "feeRecipient": None,
        "assetToStreamingOiCap": [],
        "assetToFundingMultiplier": [],
    }


def context(coin: Coin, now: int, day: Bar) -> dict[str, object]:
    """The present numbers of one name. `day`: the bar over the last 24 hours. An empty book has nulls."""
    tape = coin.tape
    oracle, mark = tape.index(now), tape.mark(now)
    last = tape.trades[-1].price if tape.trades else day.close
    empty = coin.is_delisted
    return {
        "funding": "0.0" if empty else coin.funding_rate(now),
        "openInterest": "0.0" if empty else coin.size(tape.open_interest(now)),
        "prevDayPx": coin.price(day.open),
        "dayNtlVlm": plain(
            Decimal(
                spell(day.quote * tape.tick_units * tape.step_units, tape.price_decimals + tape.step_decimals),
            )
        ),
        "premium": None if empty else plain((Decimal(mark - oracle) / oracle).quantize(PRECISION)),
        "oraclePx": coin.rounded(oracle, 8),
        "markPx": coin.mark(now),
        "midPx": None if empty else coin.price(last),
        "impactPxs": None if empty else [coin.price(last), coin.price(last)],
        "dayBaseVlm": coin.size(day.volume),
    }


def last_day(tape: Tape, now: int) -> Bar:
    """The bar over 24 hours; of what has ended, its last."""
    end = now if tape.ended is None else tape.ended - MINUTE
    start = end - end % MINUTE - DAY + MINUTE
    return tape.span(start, start + DAY)


def candle(coin: Coin, interval: str, bar: Bar) -> dict[str, object]:
    return {
        "t": bar.open_time,
        "T": shift_open(interval, bar.open_time, 1) - 1,
        "s": coin.name,
        "i": interval,
        "o": coin.price(bar.open),
        "c": coin.price(bar.close),
        "h": coin.price(bar.high),
        "l": coin.price(bar.low),
        "v": coin.size(bar.volume),
        "n": bar.trades,
    }


def trade_row(coin: Coin, trade: Trade) -> dict[str, object]:
    """`tid` is a hash of 50 bits and does not count up; the transaction's hash is often all zeros."""
    bits = hashed(coin.key, trade.id)
    people = [f"0x{hashed(bits, which):016x}{bits:016x}00000000" for which in (1, 2)]
    if order := taken_over(coin, trade):
        people[0 if order.side == "sell" else 1] = VAULT
    return {
        "coin": coin.name,
        "side": "B" if trade.side == "buy" else "A",
        "px": coin.price(trade.price),
        "sz": coin.size(trade.quantity),
        "time": trade.time,
        "hash": f"0x{0 if bits % 3 == 0 else bits:064x}",
        "tid": bits >> 14,
        "users": people,
    }


def taken_over(coin: Coin, trade: Trade) -> Liquidation | None:
    """The forced order that a trade filled as a whole: the vault took it over. The book needs several for others."""
    orders = coin.tape.liquidations
    index = bisect_right(orders, trade.id, key=attrgetter("first")) - 1
    return (
        orders[index] if index >= 0 and (orders[index].first, orders[index].end) == (trade.id, trade.id + 1) else None
    )


def l2_book(coin: Coin, now: int) -> dict[str, Any]:
    """Up to 20 levels a side; prices that round to the same are one level."""
    book = book_of(coin.tape, now, 0 if coin.is_delisted else 60)
    sides: list[list[dict[str, object]]] = []
    taken: set[str] = set()  # rounded, the lowest ask may be at the highest bid's price, which is then no ask
    for rows in (book.bids, book.asks):
        levels: dict[str, list[int]] = {}
        for ticks, steps in rows:
            levels.setdefault(coin.price(ticks), []).append(steps)
        told = [(px, sizes) for px, sizes in levels.items() if px not in taken][:20]
        taken = {px for px, _ in told}
        sides.append([{"px": px, "sz": coin.size(sum(sizes)), "n": len(sizes)} for px, sizes in told])
    return {"coin": coin.name, "time": now, "levels": sides}


def funding_rows(coin: Coin, now: int, start: int, end: int, limit: int) -> list[dict[str, object]]:
    """The first settled rates of [start, end]: one an hour, booked up to 118 ms after it."""
    tape = coin.tape
    end = min(end, now if tape.ended is None else tape.ended)
    rows: list[dict[str, object]] = []
    at = max(start, tape.listed + HOUR)
    at -= at % HOUR
    while at <= end and len(rows) < limit:
        booked = at + 1 + hashed(coin.key, at) % 118
        if start <= booked <= end:
            rate = coin.funding_rate(at)
            premium = plain(8 * Decimal(rate))
            rows.append({"coin": coin.name, "fundingRate": rate, "premium": premium, "time": booked})
        at += HOUR
    return rows


def predictions(coin: Coin, now: int) -> list[object]:
    """Per venue. Hyperliquid's own next funding time is the one that has passed."""
    tape = coin.tape
    eight = plain(Decimal(tape.funding_rate(now)).scaleb(-8))
    later = now - now % (8 * HOUR) + 8 * HOUR
    other = {"fundingRate": eight, "nextFundingTime": later, "fundingIntervalHours": 8}
    hourly = coin.funding_rate(now)
    own = {"fundingRate": hourly, "nextFundingTime": floor_open("1h", now), "fundingIntervalHours": 1}
    listed = tape.asset.trades >= 0.1  # elsewhere too
    return [coin.name, [["BinPerp", other], ["HlPerp", own], ["BybitPerp", other if listed else None]]]
