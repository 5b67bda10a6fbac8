"""Hyperliquid's info endpoint, normalised: which question, what it weighs, what the rows mean. No retries here.

Every question is a POST to /info. Weights are charged by the size of the answer, so they are estimated beforehand.
Source: https://hyperliquid.gitbook.io/hyperliquid-docs/for-developers/api/info-endpoint
"""

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

import msgspec
import structlog

from actors.decimals import number
from actors.decoding import decode, moment, optional_moment, priced
from actors.errors import BadMessage, MarketError, Told, UnknownSymbol, Unsupported, UpstreamError
from actors.events import (
    EPOCH,
    INTERVALS,
    FundingRate,
    Instrument,
    Ohlc,
    OpenInterest,
    PredictedFunding,
    VenuePrediction,
    ceil_ms,
    ms,
)
from actors.exchanges.hyperliquid import wire
from actors.exchanges.hyperliquid.session import (
    FUNDING_HOURS,
    HOUR,
    NAME,
    funding,
    judged,
    next_hour,
    ohlc,
    open_interest,
)
from actors.exchanges.paging import telling
from actors.exchanges.settled import last_rates
from actors.upstream.rest import RestClient, excerpt

WEIGHT = 20  # of every documented question but the few that weigh 2
CANDLES_PER_WEIGHT = 60  # and one more for so many rows of the answer
FUNDING_PER_WEIGHT = 20
CANDLES_KEPT = 5000  # per coin and interval, whatever is asked for: older ones are silently missing
FUNDING_PAGE = 500
NO_TIME = timedelta(0)
LAUNCH = datetime(2023, 1, 1, tzinfo=UTC)  # a little before the first trade: there are no older bars
HOURLY_SINCE = datetime(2023, 6, 8, tzinfo=UTC)  # funding was paid every 8 hours until then
COLLATERAL = {0: "USDC", 360: "USDH", 235: "USDE", 268: "USDT0"}  # by token; that of the first dex is 0
PRICE_DECIMALS = 6

T = TypeVar("T")
log = structlog.get_logger()


class NotUnderstood(UpstreamError):
    """The exchange has no such question, or none with such parameters."""


class HyperliquidRest:
    def __init__(self, client: RestClient, now: Callable[[], datetime]) -> None:
        self._client = client
        self._now = now

    async def server_time(self) -> datetime:
        return await exchange_time(self._client)

    async def instruments(self) -> list[Instrument]:
        """The perpetuals of every dex, delisted ones included.

        One question answers for all dexes. Where that is not understood the first dex alone is better than nothing; a
        passing trouble is raised, because names that are missing from a catalogue count as delisted.
        """
        try:
            listings = await ask(self._client, wire.decode_listings, {"type": "allPerpMetas"}, WEIGHT)
        except NotUnderstood as error:
            log.warning("hyperliquid.builder_dexes_unknown", reason=str(error))
            listings = [await ask(self._client, wire.decode_listing, {"type": "meta"}, WEIGHT)]
        return [instrument(asset, listing) for listing in listings for asset in listing.universe]

    async def ohlc(
        self,
        symbol: str,
        interval: str,
        *,
        limit: int,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> list[Ohlc]:
        """Up to `limit` bars of `[start, end)`: the first ones when `start` is given, else the last ones.

        The exchange keeps the last 5000 per interval, and may have none for a time without trades. Where there are few,
        the next question is for as long a time as the missing ones should take; once such questions have weighed as
        much as one for all the rest of the range, that one is asked.
        """
        step, now = INTERVALS[interval], self._now()
        asked_at, is_last = ms(now), start is None
        final = now + step if end is None else min(end, now + step)  # a step more: our clocks may differ
        low, high = max(start or EPOCH, EPOCH), final
        width = limit * step + (max(high - now, NO_TIME) if is_last else NO_TIME)
        rows: list[Ohlc] = []
        spent, seen = 0, NO_TIME
        with telling(lambda: Told(rows, None if is_last else start, final if is_last else low)):
            while len(rows) < limit and low < high:
                whole = high - low
                if seen:
                    width = seen / len(rows) * enough_for(limit - len(rows)) if rows else whole
                    spent += candles_weight(width // step)
                if spent > candles_weight(whole // step):
                    width = whole
                width = min(width, whole)
                since, until = (high - width, high) if is_last else (low, low + width)
                page = await self._candles(symbol, interval, since, until, asked_at)
                rows = page + rows if is_last else rows + page
                low, high = (low, since) if is_last else (until, high)
                seen += width
                if high <= LAUNCH or (page and not is_last and not page[-1].is_closed):
                    break  # there is nothing beyond
        return rows[-limit:] if is_last else rows[:limit]

    async def _candles(self, symbol: str, interval: str, start: datetime, end: datetime, asked_at: int) -> list[Ohlc]:
        """The bars that opened within `[start, end)`; the exchange also gives the one that was open at `start`."""
        first, last = ceil_ms(start), ceil_ms(end) - 1
        request = {"coin": symbol, "interval": interval, "startTime": first, "endTime": last}
        rows = await ask(
            self._client,
            wire.decode_candles,
            {"type": "candleSnapshot", "req": request},
            candles_weight((end - start) // INTERVALS[interval]),
        )
        if rows is None:
            raise UnknownSymbol(f"Hyperliquid knows no {symbol}")
        if any((row.coin, row.interval) != (symbol, interval) for row in rows):
            raise BadMessage(f"Hyperliquid's candleSnapshot is not of {symbol} {interval}")
        found = [row for row in rows if first <= row.open_time <= last]
        # A bar that ends while the answer travels is not whole in it; one that another follows is.
        return priced(ohlc(judged(row), is_closed=row is not found[-1] or row.close_time < asked_at) for row in found)

    async def open_interest(self, symbol: str) -> OpenInterest:
        found = open_interest(symbol, await self._context(symbol), self._now())
        if found is None:
            raise Unsupported(f"{symbol} has no open interest")
        return found

    async def open_interest_history(
        self, symbol: str, period: str, *, limit: int, start: datetime | None, end: datetime | None
    ) -> list[OpenInterest]:
        raise Unsupported("Hyperliquid has no history of open interest")

    async def funding(self, instrument: Instrument) -> FundingRate:
        """The running estimate for the next full hour. Unsupported where there is none."""
        found = funding(instrument.symbol, await self._context(instrument.symbol), self._now())
        if found is None:
            raise Unsupported(f"{instrument.symbol} has no funding")
        return found

    async def _context(self, symbol: str) -> wire.Context:
        """The present numbers of one name, out of those of its whole dex."""
        question = {"type": "metaAndAssetCtxs"}
        dex, colon, _ = symbol.partition(":")
        if colon:
            question["dex"] = dex
        listing, contexts = await ask(self._client, wire.decode_listing_and_contexts, question, WEIGHT)
        if len(contexts) != len(listing.universe):
            raise BadMessage("Hyperliquid's metaAndAssetCtxs has not one context per asset")
        for asset, context in zip(listing.universe, contexts, strict=True):
            if asset.name == symbol:
                return context
        raise UnknownSymbol(f"Hyperliquid lists no {symbol}")

    async def funding_history(
        self, instrument: Instrument, *, limit: int, start: datetime | None, end: datetime | None
    ) -> list[FundingRate]:
        """Up to `limit` settled rates of `[start, end)`, as of the full hours they were paid at."""
        final = ceil_hour(min(end, self._now()) if end else self._now())
        if start is not None:
            start = max(ceil_hour(start), EPOCH)
            return (await self._settled(instrument.symbol, start, final, limit))[:limit]
        rates = await last_rates(partial(self._settled, instrument.symbol), limit, final, FUNDING_HOURS)
        return rates[-limit:]

    async def _settled(
        self, symbol: str, start: datetime, end: datetime, limit: int = sys.maxsize
    ) -> list[FundingRate]:
        """At least the first `limit` of the full hours `[start, end)`, in as many pages as it takes.

        A rate is booked up to 0.2 s after its hour and belongs to it. The exchange answers with the first rows of a
        range, at most 500.
        """
        rates: list[FundingRate] = []
        at = start
        with telling(lambda: Told(rates, start, at)):
            while at < end and len(rates) < limit:
                count = min((end - at) // HOUR, FUNDING_PAGE)
                question = {"type": "fundingHistory", "coin": symbol, "startTime": ms(at), "endTime": ms(end) - 1}
                weight = WEIGHT + -(-count // FUNDING_PER_WEIGHT)
                rows = await ask(self._client, wire.decode_funding_rows, question, weight)
                if rows is None:
                    raise UnknownSymbol(f"Hyperliquid knows no {symbol}")
                page = [settled(symbol, row) for row in rows if row.time]
                page = [rate for rate in page if at <= rate.timestamp < end]
                if not page:
                    break
                rates += page
                at = page[-1].timestamp + HOUR
        return rates


async def predicted_funding(client: RestClient) -> list[PredictedFunding]:
    """What the exchange expects its own and other venues' funding to be, for the coins of its first dex.

    Venues keep the names that Hyperliquid gives them: "HlPerp" is Hyperliquid itself, "BinPerp" Binance, "BybitPerp"
    Bybit; a venue that does not list the coin is absent. Rates are per the venue's own interval.

    HlPerp's `nextFundingTime` is the hour that has already been settled, not the next one. A time that is not in the
    future by the exchange's own clock is therefore replaced by the next full hour, at which the rate will be paid;
    other venues' times are passed on as they are.
    """
    rows = await ask(client, wire.decode_predictions, {"type": "predictedFundings"}, WEIGHT)
    now = await exchange_time(client)
    return [
        PredictedFunding(
            coin=coin,
            venues=[prediction(venue, said, now) for venue, said in venues if said is not None],
        )
        for coin, venues in rows
    ]


def prediction(venue: str, said: wire.Prediction, now: datetime) -> VenuePrediction:
    at, hours = optional_moment(said.next_funding_time), said.interval_hours or None
    if venue == "HlPerp":
        at, hours = at if at and at > now else next_hour(now), hours or FUNDING_HOURS
    return VenuePrediction(
        venue=venue,
        funding_rate=number(said.funding_rate),
        next_funding_time=at,
        funding_interval_hours=hours,
    )


async def exchange_time(client: RestClient) -> datetime:
    """The time of the exchange's latest state, 0.1 to 0.3 s ago."""
    return moment((await ask(client, wire.decode_exchange_status, {"type": "exchangeStatus"}, 2)).time)


async def ask(client: RestClient, decoder: Callable[[bytes], T], question: Mapping[str, object], weight: int) -> T:
    """A question's decoded answer, or BadMessage that says what was being read."""
    body = await client.query("/info", msgspec.json.encode(question), bucket="weight", weight=weight)
    return decode(decoder, body, f"Hyperliquid's {question['type']}")


def candles_weight(bars: int) -> int:
    """What a question for so many whole bars weighs at most; a part of one more is in the range."""
    return WEIGHT + -(-min(bars + 1, CANDLES_KEPT) // CANDLES_PER_WEIGHT)


def enough_for(missing: int) -> float:
    """How many bars to expect where so many are wanted: where they come by chance, two deviations more."""
    return float(missing + 2 * missing**0.5)


def explain(status: int, body: bytes) -> MarketError | None:
    """The exchange's refusals have no codes, only plain texts; a bad name is a 500 with the body `null`."""
    if status == 500 and body.strip() == b"null":
        return UnknownSymbol("Hyperliquid knows no such name")
    if status in (400, 415, 422):
        return NotUnderstood(f"Hyperliquid: {excerpt(body)} ({status})")
    return None


def ceil_hour(time: datetime) -> datetime:
    floor = time.replace(minute=0, second=0, microsecond=0)
    return floor if floor == time else floor + HOUR


def settled(symbol: str, row: wire.FundingRow) -> FundingRate:
    time = moment(row.time).replace(minute=0, second=0, microsecond=0)
    return FundingRate(
        exchange=NAME,
        symbol=symbol,
        timestamp=time,
        funding_rate=number(row.funding_rate),
        funding_time=time,
        funding_interval_hours=FUNDING_HOURS if time > HOURLY_SINCE else 8.0,
        mark_price=None,
    )


def instrument(asset: wire.Asset, listing: wire.Listing) -> Instrument:
    """Prices have at most five significant figures and `6 - szDecimals` decimals: the tick is the finest there can be.

    Oracle prices are in USDT on the first dex while all else is in the collateral, which is therefore the quote.
    """
    collateral = COLLATERAL.get(listing.collateral_token, f"token {listing.collateral_token}")
    return Instrument(
        exchange=NAME,
        symbol=asset.name,
        base=asset.name.rpartition(":")[2],
        quote=collateral,
        settle=collateral,
        status="DELISTED" if asset.is_delisted else "TRADING",
        tick_size=power(-max(0, PRICE_DECIMALS - asset.size_decimals)),
        step_size=power(-asset.size_decimals),
        funding_interval_hours=FUNDING_HOURS,
    )


def power(exponent: int) -> float:
    return float(f"1e{exponent}")


def aliases(instrument: Instrument) -> tuple[str, ...]:
    """What people coming from other exchanges call a coin of the first dex."""
    if ":" in instrument.symbol:
        return ()
    name = instrument.symbol.upper()
    return (f"{name}USDT", f"{name}USDC")
