"""How the simulated Binance USD-M spells things: symbols, numbers, the rows of its REST answers."""

from datetime import UTC, datetime, timedelta

import msgspec

from actors.simulation.history import DAY, MINUTE, Bar, shift_open
from actors.simulation.market import Market, Tape, spell

PERPETUAL = 4133404800000  # the delivery date of what has none


def listing(market: Market) -> dict[str, Tape]:
    """Binance's symbol for each asset."""
    quarter = delivery(market.genesis)
    symbols = {}
    for tape in market.tapes.values():
        suffix = f"_{datetime.fromtimestamp(quarter / 1000, UTC):%y%m%d}" if tape.asset.dated else ""
        symbols[f"{tape.base}USDT{suffix}"] = tape
    return symbols


def delivery(now: int) -> int:
    """08:00 UTC on the last Friday of the quarter, more than a day ahead."""
    moment = datetime.fromtimestamp(now / 1000, UTC) + timedelta(days=1)
    year, month = moment.year, (moment.month + 2) // 3 * 3
    while True:
        following = datetime(year + month // 12, month % 12 + 1, 1, 8, tzinfo=UTC)
        friday = following - timedelta(days=(following.weekday() - 5) % 7 + 1)
        if friday > moment:
            return int(friday.timestamp()) * 1000
        month += 3
        year, month = year + (month - 1) // 12, (month - 1) % 12 + 1


def price(tape: Tape, ticks: int) -> str:
    return spell(ticks * tape.tick_units, tape.price_decimals)


def quantity(tape: Tape, steps: int) -> str:
    return spell(steps * tape.step_units, tape.step_decimals)


def quote(tape: Tape, amount: int) -> str:
    return spell(amount * tape.tick_units * tape.step_units, tape.price_decimals + tape.step_decimals)


def kline_row(tape: Tape, interval: str, bar: Bar) -> list[object]:
    return [
        bar.open_time,
        price(tape, bar.open),
        price(tape, bar.high),
        price(tape, bar.low),
        price(tape, bar.close),
        quantity(tape, bar.volume),
        shift_open(interval, bar.open_time, 1) - 1,
        quote(tape, bar.quote),
        bar.trades,
        quantity(tape, bar.buy_volume),
        quote(tape, bar.buy_quote),
        "0",
    ]


def interest_row(symbol: str, tape: Tape, at: int) -> dict[str, object]:
    amount = tape.open_interest(at) * tape.step_units
    return {
        "symbol": symbol,
        "sumOpenInterest": spell(amount * 10 ** (8 - tape.step_decimals), 8),
        "sumOpenInterestValue": spell(amount * tape.mark(at) // 10**tape.step_decimals, 8),
        "CMCCirculatingSupply": "19900000.00000000",
        "timestamp": at,
    }


def premium_row(symbol: str, tape: Tape, now: int) -> dict[str, object]:
    dated = tape.asset.dated
    return {
        "symbol": symbol,
        "markPrice": spell(tape.mark(now), 8),
        "indexPrice": spell(tape.index(now), 8),
        "estimatedSettlePrice": spell(tape.index(now - now % MINUTE), 8),
        "lastFundingRate": "" if dated else spell(tape.funding_rate(now), 8),
        "interestRate": "" if dated else "0.00010000",
        "nextFundingTime": 0 if dated else tape.next_funding(now),
        "time": now,
    }


def funding_row(symbol: str, tape: Tape, at: int, booked: int) -> dict[str, object]:
    return {
        "symbol": symbol,
        "fundingRate": spell(tape.funding_rate(at), 8),
        "fundingTime": booked,
        "markPrice": spell(tape.mark(at), 8),
        "rateType": "Regular",
    }


def ticker_row(symbol: str, tape: Tape, now: int) -> dict[str, object]:
    start = now - now % MINUTE - DAY + MINUTE
    day = tape.span(start, now - now % MINUTE + MINUTE)
    change = day.close - day.open
    average = day.quote // day.volume if day.volume else day.close
    last = tape.trades[-1] if tape.trades else None
    last_fill = tape.last_fill
    return {
        "symbol": symbol,
        "priceChange": price(tape, change),
        "priceChangePercent": spell(100_000 * change // day.open, 3),
        "weightedAvgPrice": price(tape, average),
        "lastPrice": price(tape, day.close),
        "lastQty": quantity(tape, last.quantity if last else 0),
        "openPrice": price(tape, day.open),
        "highPrice": price(tape, day.high),
        "lowPrice": price(tape, day.low),
        "volume": quantity(tape, day.volume),
        "quoteVolume": quote(tape, day.quote),
        "openTime": start,
        "closeTime": now,
        "firstId": last_fill - day.trades + 1,
        "lastId": last_fill,
        "count": day.trades,
    }


def exchange_info(market: Market, symbols: dict[str, Tape]) -> bytes:
    """Encoded once: `serverTime` is stale on the real exchange too (37 h in a capture)."""
    limits = (("REQUEST_WEIGHT", "MINUTE", 1, 2400), ("ORDERS", "MINUTE", 1, 1200), ("ORDERS", "SECOND", 10, 300))
    keys = ("rateLimitType", "interval", "intervalNum", "limit")
    return msgspec.json.encode(
        {
            "timezone": "UTC",
            "serverTime": market.genesis - 134_640_000,
            "futuresType": "U_MARGINED",
            "rateLimits": [dict(zip(keys, limit, strict=True)) for limit in limits],
            "exchangeFilters": [],
            "assets": [{"asset": "USDT", "marginAvailable": True, "autoAssetExchange": "-10000"}],
            "symbols": [symbol_row(symbol, tape, market.genesis) for symbol, tape in symbols.items()],
        }
    )


def symbol_row(symbol: str, tape: Tape, now: int) -> dict[str, object]:
    asset = tape.asset
    expiry = delivery(now) if asset.dated else tape.ended or PERPETUAL
    lots = {"minQty": asset.step, "maxQty": "1000000", "stepSize": asset.step}
    return {
        "symbol": symbol,
        "pair": f"{tape.base}USDT",
        "contractType": "CURRENT_QUARTER" if asset.dated else "PERPETUAL",
        "deliveryDate": expiry,
        "onboardDate": tape.listed,
        "status": "TRADING" if tape.ended is None else "SETTLING",
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": tape.base,
        "quoteAsset": "USDT",
        "marginAsset": "USDT",
        "pricePrecision": tape.price_decimals,
        "quantityPrecision": tape.step_decimals,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": [],
        "settlePlan": 0,
        "triggerProtect": "0.0500",
        "liquidationFee": "0.012500",
        "marketTakeBound": "0.05",
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": asset.tick, "maxPrice": "4529764", "tickSize": asset.tick},
            {"filterType": "LOT_SIZE", **lots},
            {"filterType": "MARKET_LOT_SIZE", **lots},
            {"filterType": "MAX_NUM_ORDERS", "limit": 200},
            {"filterType": "MIN_NOTIONAL", "notional": "5"},
            {
                "filterType": "PERCENT_PRICE",
                "multiplierUp": "1.0500",
                "multiplierDown": "0.9500",
                "multiplierDecimal": "4",
            },
        ],
        "orderTypes": ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
    }
