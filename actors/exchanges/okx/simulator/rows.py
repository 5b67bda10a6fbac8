"""How the simulated OKX spells things: symbols, contracts, the rows of its answers and frames."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from actors.simulation.history import HOUR, Bar
from actors.simulation.market import Liquidation, Market, Tape, Trade, spell

# Its own, whatever the client thinks: base units in one contract, as (ctVal, ctMult).
SIZES = {
    "BTC": ("0.01", "1"),
    "ETH": ("0.1", "1"),
    "DOGE": ("1000", "1"),
    "XRP": ("10", "10"),
    "PEPE": ("10000000", "1"),
}
DEFAULT_SIZE = ("1", "1")
THOUSAND = "1000"  # of a token are one in the market's name for it; OKX counts single ones


def listing(market: Market) -> dict[str, Tape]:
    """OKX's symbol for each asset, those that no longer trade included; dated contracts are no swaps."""
    return {f"{coin(tape)}-USDT-SWAP": tape for tape in market.tapes.values() if not tape.asset.dated}


def coin(tape: Tape) -> str:
    return tape.base.removeprefix(THOUSAND)


def zeros(tape: Tape) -> int:
    """Of the number of single tokens that the market's own unit is."""
    return 3 if tape.base.startswith(THOUSAND) else 0


def price(tape: Tape, ticks: int) -> str:
    return spell(ticks * tape.tick_units, tape.price_decimals + zeros(tape))


def mark(tape: Tape, at: int) -> str:
    return spell(tape.mark(at) // 10 ** (8 - tape.price_decimals), tape.price_decimals + zeros(tape))


def base(tape: Tape, steps: int) -> str:
    return spell(steps * tape.step_units * 10 ** zeros(tape), tape.step_decimals)


def quote(tape: Tape, amount: int) -> str:
    return spell(amount * tape.tick_units * tape.step_units, tape.price_decimals + tape.step_decimals)


def contracts(tape: Tape, steps: int) -> str:
    value, multiplier = SIZES.get(coin(tape), DEFAULT_SIZE)
    return f"{(Decimal(base(tape, steps)) / (Decimal(value) * Decimal(multiplier))).normalize():f}"


def rate(value: int) -> str:
    return spell(value, 8) + "00000000"


def candle_row(tape: Tape, bar: Bar, *, closed: bool) -> list[str]:
    prices = [price(tape, ticks) for ticks in (bar.open, bar.high, bar.low, bar.close)]
    volumes = [contracts(tape, bar.volume), base(tape, bar.volume), quote(tape, bar.quote)]
    return [str(bar.open_time), *prices, *volumes, "1" if closed else "0"]


def trade_row(symbol: str, tape: Tape, trade: Trade) -> dict[str, object]:
    """The stream's: all fills of one order at one price."""
    return {
        "instId": symbol,
        "tradeId": str(trade.last),
        "px": price(tape, trade.price),
        "sz": contracts(tape, trade.quantity),
        "side": trade.side,
        "ts": str(trade.time),
        "count": str(trade.last - trade.first + 1),
        "source": "0",
        "seqId": trade.id,
    }


def fill_rows(symbol: str, tape: Tape, before: int | None) -> Iterator[dict[str, object]]:
    """REST's: each fill by itself, the newest first, of those with a smaller id than `before`."""
    for trade in reversed(tape.trades):
        fills = trade.last - trade.first + 1
        for number in range(trade.last, trade.first - 1, -1):
            if before is None or number < before:
                rest = trade.quantity % fills if number == trade.last else 0
                row = trade_row(symbol, tape, trade)
                del row["count"], row["seqId"]
                yield row | {"tradeId": str(number), "sz": contracts(tape, trade.quantity // fills + rest)}


def interest(tape: Tape, at: int) -> tuple[str, str, str]:
    """Contracts, base units, dollars."""
    steps = tape.open_interest(at)
    value = Decimal(base(tape, steps)) * Decimal(mark(tape, at))
    return contracts(tape, steps), base(tape, steps), f"{value:f}"


def interest_row(symbol: str, tape: Tape, at: int) -> dict[str, object]:
    count, amount, value = interest(tape, at)
    return {"instId": symbol, "instType": "SWAP", "oi": count, "oiCcy": amount, "oiUsd": value, "ts": str(at)}


def funding_row(symbol: str, tape: Tape, now: int) -> dict[str, object]:
    period = tape.asset.funding_hours * HOUR
    coming = tape.next_funding(now)
    return {
        "formulaType": "withRate",
        "fundingRate": rate(tape.funding_rate(now)),
        "fundingTime": str(coming),
        "impactValue": "20000.0000000000000000",
        "instId": symbol,
        "instType": "SWAP",
        "interestRate": "0.0001000000000000",
        "maxFundingRate": "0.00375",
        "method": "current_period",
        "minFundingRate": "-0.00375",
        "nextFundingRate": "",
        "nextFundingTime": str(coming + period),
        "premium": "-0.0001969158061855",
        "prevFundingTime": str(coming - period),
        "settFundingRate": rate(tape.funding_rate(coming - period)),
        "settState": "settled",
        "ts": str(now),
    }


def settled_row(symbol: str, tape: Tape, at: int) -> dict[str, object]:
    paid = tape.funding_rate(at)
    expected = {"fundingRate": rate(paid + 7), "realizedRate": rate(paid)}
    return {"instType": "SWAP", "instId": symbol, **expected, "fundingTime": str(at), "method": "current_period"}


def mark_row(symbol: str, tape: Tape, now: int) -> dict[str, object]:
    return {"instType": "SWAP", "instId": symbol, "markPx": mark(tape, now), "ts": str(now)}


def mark_candle_row(tape: Tape, opening: int, end: int, now: int) -> list[str]:
    """[open time, open, high, low, close, confirm]"""
    times = [opening + (end - opening) * part // 8 for part in range(8)]
    values = [(tape.mark(at), mark(tape, at)) for at in (min(at, now) for at in (*times, end - 1))]
    told = values[0][1], max(values)[1], min(values)[1], values[-1][1]
    return [str(opening), *told, "1" if end <= now else "0"]


def contract_row(symbol: str, tape: Tape) -> dict[str, object]:
    value, multiplier = SIZES.get(coin(tape), DEFAULT_SIZE)
    family = symbol.removesuffix("-SWAP")
    return {
        "alias": "",
        "baseCcy": "",
        "category": "1",
        "ctMult": multiplier,
        "ctType": "linear",
        "ctVal": value,
        "ctValCcy": coin(tape),
        "expTime": "",
        "futureSettlement": False,
        "instFamily": family,
        "instId": symbol,
        "instIdCode": 10459,
        "instType": "SWAP",
        "lever": "100",
        "listTime": str(tape.listed),
        "lotSz": contracts(tape, 1),
        "minSz": contracts(tape, 1),
        "quoteCcy": "",
        "ruleType": "normal",
        "settleCcy": "USDT",
        "state": "live" if tape.ended is None else "suspend",
        "tickSz": price(tape, 1),
        "uly": family,
        "upcChg": [],
    }


def inverse_row(tape: Tape) -> dict[str, object]:
    """A contract that is worth so many dollars and settled in its base: nothing for a client of linear ones."""
    family = f"{tape.base}-USD"
    inverse = {"ctType": "inverse", "ctVal": "100", "ctMult": "1", "ctValCcy": "USD", "settleCcy": tape.base}
    row = contract_row(f"{family}-SWAP", tape)
    return row | inverse | {"lotSz": "1", "minSz": "1"}


def forced_row(symbol: str, tape: Tape, order: Liquidation) -> dict[str, Any]:
    detail = {
        "bkLoss": "0",
        "bkPx": price(tape, order.limit),
        "ccy": "",
        "posSide": ("net", "long" if order.side == "sell" else "short")[order.number % 2],
        "side": order.side,
        "sz": contracts(tape, order.quantity),
        "ts": str(order.time),
    }
    family = symbol.removesuffix("-SWAP")
    return {"details": [detail], "instFamily": family, "instId": symbol, "instType": "SWAP", "uly": family}


def told_orders(tape: Tape) -> Iterator[Liquidation]:
    """The first forced order of each second: the others are not told."""
    second = -1
    for order in tape.liquidations:
        if order.time // 1000 != second:
            second = order.time // 1000
            yield order
