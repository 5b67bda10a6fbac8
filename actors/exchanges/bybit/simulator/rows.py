"""How the simulated Bybit spells things: symbols, numbers, the rows of its answers and frames."""

from datetime import UTC, datetime, timedelta
from urllib.parse import quote as percent_encoded
from uuid import UUID

from actors.simulation.history import DAY, HOUR, MINUTE, Bar, hashed
from actors.simulation.market import Market, Tape, Trade, spell


def listing(market: Market) -> dict[str, Tape]:
    """Bybit's symbol for each asset, those that no longer trade included."""
    suffix = f"{datetime.fromtimestamp(delivery(market.genesis) / 1000, UTC):-%d%b%y}".upper()
    return {f"{tape.base}USDT{suffix if tape.asset.dated else ''}": tape for tape in market.tapes.values()}


def delivery(now: int) -> int:
    """08:00 UTC on the last Friday of the quarter, more than a day ahead."""
    moment = datetime.fromtimestamp(now / 1000, UTC) + timedelta(days=1)
    quarters = moment.year * 4 + (moment.month - 1) // 3
    while True:
        quarters += 1
        after = datetime(quarters // 4, quarters % 4 * 3 + 1, 1, 8, tzinfo=UTC)
        friday = after - timedelta(days=(after.weekday() - 5) % 7 + 1)
        if friday > moment:
            return int(friday.timestamp()) * 1000


def price(tape: Tape, ticks: int) -> str:
    return spell(ticks * tape.tick_units, tape.price_decimals)


def quantity(tape: Tape, steps: int) -> str:
    return spell(steps * tape.step_units, tape.step_decimals)


def quote(tape: Tape, amount: int) -> str:
    return spell(amount * tape.tick_units * tape.step_units, tape.price_decimals + tape.step_decimals)


def cut(value: int, decimals: int) -> str:
    """1e-8 units with fewer decimals."""
    return spell(value // 10 ** (8 - decimals), decimals)


def rate(value: int) -> str:
    """1e-8 units without trailing zeros."""
    return spell(value, 8).rstrip("0").rstrip(".")


def trade_id(tape: Tape, trade: Trade) -> str:
    return str(UUID(int=hashed(tape.key, trade.id) << 64 | hashed(tape.key + 9, trade.id), version=5))


def kline_row(tape: Tape, bar: Bar) -> list[str]:
    prices = [price(tape, ticks) for ticks in (bar.open, bar.high, bar.low, bar.close)]
    return [str(bar.open_time), *prices, quantity(tape, bar.volume), quote(tape, bar.quote)]


def interest_row(tape: Tape, at: int, *, in_seconds: bool) -> dict[str, str]:
    steps = tape.open_interest(at)
    both = 2 * steps * tape.step_units * 10 ** (8 - tape.step_decimals)
    return {
        "openInterest": spell(both, 8),
        "singleOpenInterest": quantity(tape, steps),
        "timestamp": str(at // 1000 if in_seconds else at),
    }


def funding_row(symbol: str, tape: Tape, at: int) -> dict[str, str]:
    return {"symbol": symbol, "fundingRate": rate(tape.funding_rate(at)), "fundingRateTimestamp": str(at)}


def recent_trade_row(symbol: str, tape: Tape, trade: Trade) -> dict[str, object]:
    return {
        "execId": trade_id(tape, trade),
        "symbol": symbol,
        "price": price(tape, trade.price),
        "size": quantity(tape, trade.quantity),
        "side": trade.side.title(),
        "time": str(trade.time),
        "isBlockTrade": False,
        "isRPITrade": False,
        "seq": str(trade.last),
    }


def day_until(tape: Tape, now: int) -> Bar:
    """The bar of the last 24 hours."""
    end = now - now % MINUTE + MINUTE
    return tape.span(end - DAY, end)


def ticker_row(symbol: str, tape: Tape, now: int, day: Bar, *, is_stream: bool) -> dict[str, str]:
    """A ticker of REST, or the snapshot of the stream, which spells delivery differently and has a tick direction."""
    dated = tape.asset.dated
    last = tape.bar("1m", now - now % MINUTE).close
    steps, mark = tape.open_interest(now), tape.mark(now)
    value = steps * tape.step_units * mark // 10**tape.step_decimals  # one side's, in 1e-8
    head = {
        "symbol": symbol,
        "price24hPcnt": spell(1_000_000 * (last - day.open) // day.open, 6),
        "lastPrice": price(tape, last),
        "prevPrice24h": price(tape, day.open),
        "highPrice24h": price(tape, max(day.high, last)),
        "lowPrice24h": price(tape, min(day.low, last)),
        "prevPrice1h": price(tape, tape.bar("1m", now - now % MINUTE - HOUR).open),
        "markPrice": cut(mark, tape.price_decimals),
        "indexPrice": cut(tape.index(now), tape.price_decimals),
        "openInterest": quantity(tape, 2 * steps),
        "openInterestValue": cut(2 * value, 2),
        "turnover24h": quote(tape, day.quote),
        "volume24h": quantity(tape, day.volume),
    }
    if is_stream:
        head["tickDirection"] = "PlusTick" if tape.trades and tape.trades[-1].side == "buy" else "MinusTick"
    funding = {
        "fundingIntervalHour": str(tape.asset.funding_hours),
        "fundingCap": "0.005",
        "nextFundingTime": str(tape.next_funding(now)),
        "fundingRate": rate(tape.funding_rate(now)),
    }
    if dated:
        at = delivery(tape.genesis)
        iso = datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        funding = {
            "nextFundingTime": "",
            "fundingRate": "",
            "deliveryTime": iso if is_stream else str(at),
            "basis": cut(mark - tape.index(now), 2),
            "basisRate": "0.008",
            "predictedDeliveryPrice": "",
        }
    elif not is_stream:
        funding |= {"deliveryTime": "0", "basis": "", "basisRate": "", "predictedDeliveryPrice": ""}
    return {
        **head,
        **funding,
        "singleOpenInterest": quantity(tape, steps),
        "singleOpenInterestValue": cut(value, 2),
        "bid1Price": price(tape, last - 1),
        "bid1Size": quantity(tape, 7 + last % 90),
        "ask1Price": price(tape, last),
        "ask1Size": quantity(tape, 3 + last % 70),
        "preOpenPrice": "",
        "preQty": "",
        "curPreListingPhase": "",
    }


def contract_row(symbol: str, tape: Tape, number: int) -> dict[str, object]:
    asset = tape.asset
    return {
        "symbol": symbol,
        "symbolId": number,
        "contractType": "LinearFutures" if asset.dated else "LinearPerpetual",
        "status": "Trading" if tape.ended is None else "Closed",
        "baseCoin": tape.base,
        "quoteCoin": "USDT",
        "launchTime": str(tape.listed),
        "deliveryTime": str(delivery(tape.genesis)) if asset.dated else str(tape.ended or 0),
        "deliveryFeeRate": "",
        "priceScale": str(tape.price_decimals),
        "leverageFilter": {"minLeverage": "1", "maxLeverage": "100.00", "leverageStep": "0.01"},
        "priceFilter": {"minPrice": asset.tick, "maxPrice": "1999999.80", "tickSize": asset.tick},
        "lotSizeFilter": {
            "maxOrderQty": "1190.000",
            "minOrderQty": asset.step,
            "qtyStep": asset.step,
            "postOnlyMaxOrderQty": "1190.000",
            "maxMktOrderQty": "500.000",
            "minNotionalValue": "5",
        },
        "unifiedMarginTrade": True,
        "fundingInterval": 0 if asset.dated else asset.funding_hours * 60,
        "settleCoin": "USDT",
        "copyTrading": "both",
        "upperFundingRate": "0.00375",
        "lowerFundingRate": "-0.00375",
        "isPreListing": False,
        "preListingInfo": None,
        "riskParameters": {"priceLimitRatioX": "0.01", "priceLimitRatioY": "0.02"},
        "symbolType": "",
    }


def cursor_after(rows: list[dict[str, object]]) -> str:
    """Percent-encoded, as Bybit's are."""
    return percent_encoded(f"first={rows[0]['symbol']}&last={rows[-1]['symbol']}", safe="")
