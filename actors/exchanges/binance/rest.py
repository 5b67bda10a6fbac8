"""Binance USD-M REST, normalised: which path, which parameters, what it weighs, what the rows mean. No retries here.

Source: https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api
"""

import re
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import structlog

from actors.decimals import amount, number
from actors.decoding import (
    UNREADABLE,
    counted,
    decode,
    moment,
    opening,
    optional_amount,
    optional_moment,
    priced,
    worth,
)
from actors.errors import (
    MarketError,
    Told,
    UnknownInterval,
    UnknownSymbol,
    Unsupported,
    UpstreamError,
    UpstreamLimited,
    UpstreamTimeout,
)
from actors.events import (
    EPOCH,
    INTERVALS,
    FundingRate,
    Instrument,
    Ohlc,
    OpenInterest,
    Trade,
    from_ms,
    last_ms,
    ms,
    optional_ms,
)
from actors.exchanges.binance import wire
from actors.exchanges.binance.session import DEFAULT_FUNDING_HOURS, NAME, trade
from actors.exchanges.paging import first, newest, oldest, retelling, telling
from actors.exchanges.settled import BEFORE, LONGEST, last_rates, of_range, told_of_range
from actors.upstream.rest import Params, RestClient

KLINES_PAGE = 1500
AGG_TRADES_PAGE = 1000
FUNDING_PAGE = 1000
SOON = timedelta(minutes=1)  # our idea of the exchange's clock may be off: what is settled now is asked for, too
AGG_TRADES_WEIGHT = 20
OPEN_INTEREST_PAGE = 500
BANNED_UNTIL = re.compile(r"banned until (\d{10,16})")

log = structlog.get_logger()


class BinanceRest:
    def __init__(self, client: RestClient, now: Callable[[], datetime]) -> None:
        self._client = client
        self._now = now

    async def server_time(self) -> datetime:
        body = await self._client.get("/fapi/v1/time", bucket="weight", weight=1)
        return moment(decode(wire.decode_server_time, body, "Binance's time").server_time)

    async def instruments(self) -> list[Instrument]:
        """Every contract of the catalogue, trading or not."""
        body = await self._client.get("/fapi/v1/exchangeInfo", bucket="weight", weight=1)
        info = decode(wire.decode_exchange_info, body, "Binance's exchangeInfo")
        try:
            body = await self._client.get("/fapi/v1/fundingInfo", bucket="funding", weight=1)
            adjusted = {
                row.symbol: float(row.interval_hours) or None
                for row in decode(wire.decode_funding_info, body, "Binance's fundingInfo")
            }
            default: float | None = DEFAULT_FUNDING_HOURS
        except MarketError as error:  # streams do not need it; the next refresh of the catalogue asks again
            log.warning("binance.funding_intervals_unknown", reason=str(error))
            adjusted, default = {}, None
        return [instrument(contract, adjusted.get(contract.symbol, default)) for contract in info.symbols]

    async def ohlc(
        self,
        symbol: str,
        interval: str,
        *,
        limit: int,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> list[Ohlc]:
        """Up to `limit` bars of `[start, end)`: the first ones when `start` is given, else the last ones."""
        read = partial(self._bars, symbol, interval)
        with retelling(lambda told: told._replace(rows=priced(told.rows))):
            if start is None:
                return priced(await newest(read, KLINES_PAGE, limit, end))
            return priced(await oldest(read, KLINES_PAGE, limit, start, end))

    async def _bars(
        self, symbol: str, interval: str, start: datetime | None, end: datetime | None, size: int
    ) -> list[Ohlc]:
        """One page: the first bars of a range, or without a start the last."""
        asked_at = ms(self._now())
        body = await self._client.get(
            "/fapi/v1/klines",
            {
                "symbol": symbol,
                "interval": interval,
                "limit": size,
                "startTime": optional_ms(start),
                "endTime": last_ms(end),
            },
            bucket="weight",
            weight=klines_weight(size),
        )
        rows = decode(wire.decode_klines, body, "Binance's klines")
        # A bar that ends while the answer travels is not whole in it; one that another follows is.
        last = len(rows) - 1
        return [
            bar(row, symbol, interval, is_closed=index < last or row[6] < asked_at) for index, row in enumerate(rows)
        ]

    async def open_interest(self, symbol: str) -> OpenInterest:
        body = await self._client.get("/fapi/v1/openInterest", {"symbol": symbol}, bucket="weight", weight=1)
        row = decode(wire.decode_open_interest, body, "Binance's openInterest")
        return OpenInterest(
            exchange=NAME,
            symbol=symbol,
            timestamp=moment(row.time),
            open_interest=amount(row.open_interest),
            open_interest_value=None,
        )

    async def open_interest_history(
        self, symbol: str, period: str, *, limit: int, start: datetime | None, end: datetime | None
    ) -> list[OpenInterest]:
        """Up to `limit` rows of `[start, end)`, of the last 30 days. Periods without trades have no row."""
        read = partial(self._interests, symbol, period)
        if start is None:
            return await read(None, end, limit)
        step, now = INTERVALS[period], self._now()
        final = now + step if end is None else min(end, now + step)
        return await first(read, OPEN_INTEREST_PAGE, limit, start, final, step=step, now=now)

    async def _interests(
        self, symbol: str, period: str, start: datetime | None, end: datetime | None, size: int
    ) -> list[OpenInterest]:
        """One page: of a range with more rows than `size`, those at an end of the exchange's choosing."""
        body = await self._client.get(
            "/futures/data/openInterestHist",
            {
                "symbol": symbol,
                "period": period,
                "limit": size,
                "startTime": optional_ms(start),
                "endTime": last_ms(end),
            },
            bucket="futures_data",
            weight=1,
        )
        return [
            OpenInterest(
                exchange=NAME,
                symbol=symbol,
                timestamp=at,
                open_interest=amount(row.open_interest),
                open_interest_value=worth(amount(row.open_interest), amount(row.open_interest_value)),
            )
            for row in decode(wire.decode_open_interest_rows, body, "Binance's openInterestHist")
            if (at := optional_moment(row.timestamp)) is not None
        ]

    async def funding(self, instrument: Instrument) -> FundingRate:
        """The rate of the running period. Unsupported for a dated contract."""
        body = await self._client.get("/fapi/v1/premiumIndex", {"symbol": instrument.symbol}, bucket="weight", weight=1)
        row = decode(wire.decode_premium_index, body, "Binance's premiumIndex")
        at = optional_moment(row.next_funding_time)
        if row.funding_rate == "" or at is None:
            raise Unsupported(f"{instrument.symbol} has no funding: it is a dated contract, or does not trade yet")
        return FundingRate(
            exchange=NAME,
            symbol=instrument.symbol,
            timestamp=moment(row.time),
            funding_rate=number(row.funding_rate),
            funding_time=at,
            funding_interval_hours=instrument.funding_interval_hours,
            mark_price=optional_amount(row.mark_price),
        )

    async def funding_history(
        self, instrument: Instrument, *, limit: int, start: datetime | None, end: datetime | None
    ) -> list[FundingRate]:
        """Up to `limit` settled rates of `[start, end)`, each with the interval that it was settled at."""
        symbol, soon = instrument.symbol, self._now() + SOON
        end = min(end, soon) if end else soon
        with retelling(partial(told_of_range, start=start)):
            if start is None:
                read = partial(self._settled, symbol)
                hours = instrument.funding_interval_hours or DEFAULT_FUNDING_HOURS
                return of_range(await last_rates(read, limit + 1, end, hours), None, limit)
            rates = await self._settled(symbol, max(EPOCH, start - LONGEST), end, limit + BEFORE)
            return of_range(rates, start, limit)

    async def _settled(
        self, symbol: str, start: datetime, end: datetime, limit: int = sys.maxsize
    ) -> list[FundingRate]:
        """The first `limit` rates of `[start, end)`, page by page.

        Both times are given: a question without them is answered with the 200 newest, one with them with the first.
        """
        rates: list[FundingRate] = []
        at = start
        with telling(lambda: Told(rates, start, at)):
            while at < end and len(rates) < limit:
                size = min(limit - len(rates), FUNDING_PAGE)
                body = await self._client.get(
                    "/fapi/v1/fundingRate",
                    {"symbol": symbol, "limit": size, "startTime": optional_ms(at), "endTime": last_ms(end)},
                    bucket="funding",
                    weight=1,
                )
                page = decode(wire.decode_funding_rows, body, "Binance's fundingRate")
                rates += [settled(row, symbol, time) for row in page if (time := optional_moment(row.funding_time))]
                if len(page) < size or page[-1].funding_time < ms(at):  # the end, or not what was asked for
                    break
                at = from_ms(page[-1].funding_time + 1)
        return rates


async def missed_trades(client: RestClient, symbol: str, last: Trade, first: Trade) -> list[Trade]:
    """The aggregate trades that follow `last`, up to a page: `fromId` is inclusive. At least 24 hours are kept."""
    start = int(last.trade_id) + 1
    params: Params = {"symbol": symbol, "fromId": start, "limit": min(int(first.trade_id) - start, AGG_TRADES_PAGE)}
    body = await client.get("/fapi/v1/aggTrades", params, bucket="weight", weight=AGG_TRADES_WEIGHT)
    return [trade(row, symbol) for row in decode(wire.decode_agg_trades, body, "Binance's aggTrades")]


def explain(status: int, body: bytes) -> MarketError | None:
    """Binance's error body as an error of ours; None where it carries no code."""
    try:
        error = wire.decode_error(body)
    except UNREADABLE:
        return None
    text = f"Binance: {error.msg} ({error.code})"
    match error.code:
        case None:
            return None
        case -1121 | -1122:
            return UnknownSymbol(text)
        case -1120:
            return UnknownInterval(text)
        case -1006 | -1007:
            return UpstreamTimeout(text)
        case -1003 | -1008:
            return UpstreamLimited(text, until=banned_until(error.msg))
        case _:
            return UpstreamError(text)


def banned_until(message: str) -> float | None:
    """Unix seconds from "banned until <epoch ms>"; None where the text does not say."""
    match = BANNED_UNTIL.search(message)
    return int(match[1]) / 1000 if match else None


def klines_weight(limit: int) -> int:
    if limit < 100:
        return 1
    if limit < 500:
        return 2
    return 5 if limit <= 1000 else 10


def settled(row: wire.FundingRow, symbol: str, at: datetime) -> FundingRate:
    """The row does not say the interval: see actors.exchanges.settled."""
    return FundingRate(
        exchange=NAME,
        symbol=symbol,
        timestamp=at,
        funding_rate=number(row.funding_rate),
        funding_time=at,
        funding_interval_hours=None,
        mark_price=optional_amount(row.mark_price),
    )


def bar(row: wire.KlineRow, symbol: str, interval: str, *, is_closed: bool) -> Ohlc:
    open_time, open_, high, low, close, volume, _, quote_volume, trades_count, *_ = row
    return Ohlc(
        exchange=NAME,
        symbol=symbol,
        timestamp=opening(open_time),
        interval=interval,
        open=amount(open_),
        high=amount(high),
        low=amount(low),
        close=amount(close),
        volume=amount(volume),
        quote_volume=amount(quote_volume),
        trades_count=counted(trades_count, amount(volume)),
        is_closed=is_closed,
    )


def instrument(contract: wire.Contract, hours: float | None) -> Instrument:
    sizes = {row.type: row for row in contract.filters}  # their order in the array is not fixed
    price, lot = sizes.get("PRICE_FILTER"), sizes.get("LOT_SIZE")
    return Instrument(
        exchange=NAME,
        symbol=contract.symbol,
        base=contract.base,
        quote=contract.quote,
        settle=contract.settle,
        status=contract.status,
        tick_size=optional_amount(price.tick_size) if price else None,
        step_size=optional_amount(lot.step_size) if lot else None,
        funding_interval_hours=hours if "PERPETUAL" in contract.contract_type else None,
    )
