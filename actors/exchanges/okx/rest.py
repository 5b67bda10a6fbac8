"""OKX v5 REST, normalised: which path, which parameters, what the rows mean.

Lists come newest first. `after` means older than, `before` newer than, and neither includes its own moment; `before`
alone gives the newest page, not the one that follows it. So pages are walked backwards, and whatever has a start is
read in windows of which both ends are said.

Source: https://www.okx.com/docs-v5/en/#public-data-rest-api
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from actors import clock
from actors.decoding import UNREADABLE, decode, integer, moment, optional_amount, optional_moment, priced
from actors.errors import (
    BadMessage,
    MarketError,
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
    Event,
    FundingRate,
    Instrument,
    Ohlc,
    OpenInterest,
    ceil_ms,
)
from actors.exchanges.exchange import Notice
from actors.exchanges.okx import wire
from actors.exchanges.okx.limits import PATHS
from actors.exchanges.okx.normalise import (
    THEIR_INTERVALS,
    candle,
    funding,
    hours_of,
    instrument,
    interest_of,
    is_ours,
    open_interest,
    settled,
    size_of,
)
from actors.exchanges.paging import first, newest, retelling
from actors.exchanges.settled import BEFORE, LONGEST, SHORTEST, of_range, told_of_range
from actors.upstream.rest import Params, RestClient

CANDLES_PAGE = 300
RECENT = 1300  # bars that `candles` certainly has: its 1440 less a page in which time passes
INTERESTS_PAGE, INTERESTS_KEPT = 100, 1440
RATES_PAGE = 100  # 400 of late; but a page that were shorter than what was asked for would be taken for the last
RATES_KEPT = timedelta(days=100)
FUNDING_HOURS = 8.0  # where the catalogue does not say; only the width of a window depends on it
TRADES_PAGE, OLD_TRADES_PAGE, OLD_TRADES_PAGES = 500, 100, 20
PERIODS = {
    **{"5m": "5m", "15m": "15m", "30m": "30m", "1h": "1H", "2h": "2H", "4h": "4H"},
    **{"6h": "6Hutc", "12h": "12Hutc", "1d": "1Dutc"},
}
LIQUIDATIONS_PAGE, LIQUIDATIONS_PAGES = 100, 20
DEMO = "2"  # the environment that is not this one
MONTH = timedelta(days=31)
RETRIED = ("50004", "50026")  # its own timeout and its own fault deserve a second try
LIMITED_PAUSE = 2.0  # seconds: the window in which OKX counts

T = TypeVar("T")
E = TypeVar("E", bound=Event)


class OkxRest:
    def __init__(self, client: RestClient, now: Callable[[], datetime]) -> None:
        self._client = client
        self._now = now

    async def server_time(self) -> datetime:
        [row] = await self._one("/api/v5/public/time", {}, wire.decode_times)
        return moment(integer(row.time))

    async def instruments(self) -> list[Instrument]:
        """Every swap that is settled in dollars. Their funding intervals are another question's."""
        rows = await self._get("/api/v5/public/instruments", {"instType": "SWAP"}, wire.decode_contracts)
        hours: dict[str, float | None] = {}
        with suppress(MarketError):  # the catalogue alone is worth having: each rate says its interval again
            rates = await self._get("/api/v5/public/funding-rate", {"instId": "ANY"}, wire.decode_fundings)
            hours = {row.symbol: hours_of(row) for row in rates}
        return [instrument(row, hours.get(row.symbol), self._now()) for row in rows if is_ours(row)]

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
        if start is None:
            return await newest(read, CANDLES_PAGE, limit, end)
        if interval == "1M":
            return (await read(start, end, CANDLES_PAGE))[:limit]  # more months than OKX has existed
        begin, step = partial(self._first_day, symbol), INTERVALS[interval]
        return await first(read, CANDLES_PAGE, limit, start, end, step=step, now=self._now(), begin=begin)

    async def _bars(
        self, symbol: str, interval: str, start: datetime | None, end: datetime | None, size: int
    ) -> list[Ohlc]:
        """One page."""
        oldest = start or (end or self._now()) - INTERVALS[interval] * size
        is_recent = oldest >= self._now() - RECENT * INTERVALS[interval]
        path = "/api/v5/market/candles" if is_recent else "/api/v5/market/history-candles"
        params: Params = {
            "instId": symbol,
            "bar": THEIR_INTERVALS[interval],
            "after": None if end is None else ceil_ms(end),
            "before": _before(start),
            "limit": size,
        }
        rows = await self._get(path, params, wire.decode_candles)
        return ascending(priced(candle(row, symbol, interval) for row in rows), start, end)

    async def _first_day(self, symbol: str) -> datetime:
        """The day of a contract's first bar: what begins before it need not be read window by window."""
        months = await self._bars(symbol, "1M", None, None, CANDLES_PAGE)
        if not months:
            return self._now()
        month = months[0].timestamp
        days = await self._bars(symbol, "1d", month, month + MONTH, CANDLES_PAGE)
        return days[0].timestamp if days else month

    async def open_interest(self, symbol: str) -> OpenInterest:
        params: Params = {"instType": "SWAP", "instId": symbol}
        [row] = await self._one("/api/v5/public/open-interest", params, wire.decode_open_interests)
        return open_interest(row, symbol)

    async def open_interest_history(
        self, symbol: str, period: str, *, limit: int, start: datetime | None, end: datetime | None
    ) -> list[OpenInterest]:
        """The same order as `ohlc`. OKX keeps 1440 rows of each period."""
        read = partial(self._interests, symbol, period)
        if start is None:
            return await newest(read, INTERESTS_PAGE, limit, end)
        start = max(start, self._now() - (INTERESTS_KEPT + 1) * INTERVALS[period])
        return await first(read, INTERESTS_PAGE, limit, start, end, step=INTERVALS[period], now=self._now())

    async def _interests(
        self, symbol: str, period: str, start: datetime | None, end: datetime | None, size: int
    ) -> list[OpenInterest]:
        """One page. Whether `begin` and `end` are included is not documented: neither is the time of a row."""
        params: Params = {
            "instId": symbol,
            "period": PERIODS[period],
            "begin": _before(start),
            "end": None if end is None else ceil_ms(end) - 1,
            "limit": size,
        }
        path = "/api/v5/rubik/stat/contracts/open-interest-history"
        rows = await self._get(path, params, wire.decode_interest_rows)
        return ascending([interest_of(row, symbol) for row in rows], start, end)

    async def funding(self, instrument: Instrument) -> FundingRate:
        """The rate of the running period, with the mark price."""
        symbol = instrument.symbol
        [row] = await self._one("/api/v5/public/funding-rate", {"instId": symbol}, wire.decode_fundings)
        params: Params = {"instType": "SWAP", "instId": symbol}
        [mark] = await self._one("/api/v5/public/mark-price", params, wire.decode_mark_prices)
        rate = funding(row, symbol, self._now(), optional_amount(mark.price))
        if rate is None:
            raise Unsupported(f"{symbol} has no funding: it does not trade yet")
        return rate

    async def funding_history(
        self, instrument: Instrument, *, limit: int, start: datetime | None, end: datetime | None
    ) -> list[FundingRate]:
        """Up to `limit` settled rates of `[start, end)`, each with the interval that it was settled at."""
        read = partial(self._rates, instrument.symbol)
        with retelling(partial(told_of_range, start=start)):
            if start is None:
                return of_range(await newest(read, RATES_PAGE, limit + 1, end), None, limit)
            now = self._now()
            early = max(EPOCH, start - LONGEST, now - RATES_KEPT)
            step = timedelta(hours=instrument.funding_interval_hours or FUNDING_HOURS)
            rates = await first(*(read, RATES_PAGE, limit + BEFORE, early, end), step=step, least=SHORTEST, now=now)
            return of_range(rates, start, limit)

    async def _rates(self, symbol: str, start: datetime | None, end: datetime | None, size: int) -> list[FundingRate]:
        """One page."""
        params: Params = {
            "instId": symbol,
            "after": None if end is None else ceil_ms(end),
            "before": _before(start),
            "limit": size,
        }
        rows = await self._get("/api/v5/public/funding-rate-history", params, wire.decode_settled)
        return ascending([settled(row, symbol) for row in rows], start, end)

    async def fills(self, symbol: str, last: int, first: int) -> list[wire.Trade]:
        """Single fills, ascending by id, from `last` on as far as OKX goes back; those after `first` too."""
        found = await self._get("/api/v5/market/trades", {"instId": symbol, "limit": TRADES_PAGE}, wire.decode_trades)
        for _ in range(OLD_TRADES_PAGES):
            oldest = min((integer(row.id) for row in found), default=first + 1)
            if oldest <= last:
                break
            params: Params = {"instId": symbol, "type": 1, "after": oldest, "limit": OLD_TRADES_PAGE}
            page = await self._get("/api/v5/market/history-trades", params, wire.decode_trades)
            found += page
            if len(page) < OLD_TRADES_PAGE:
                break
        return sorted(found, key=lambda row: integer(row.id))

    async def contract_size(self, symbol: str) -> float:
        params: Params = {"instType": "SWAP", "instId": symbol}
        [row] = await self._one("/api/v5/public/instruments", params, wire.decode_contracts)
        return size_of(row)

    async def forced_orders(self, symbol: str, start: datetime, end: datetime) -> list[wire.LiquidationDetail]:
        """At least those of `[start, end)`."""
        found: list[wire.LiquidationDetail] = []
        family, after = symbol.removesuffix("-SWAP"), ceil_ms(end)
        for _ in range(LIQUIDATIONS_PAGES):
            params: Params = {
                **{"instType": "SWAP", "instFamily": family, "state": "filled"},
                **{"after": after, "limit": LIQUIDATIONS_PAGE},
            }
            rows = await self._get("/api/v5/public/liquidation-orders", params, wire.decode_liquidations)
            page = [detail for row in rows if row.symbol == symbol for detail in row.details]
            oldest = min((integer(detail.time) for row in rows for detail in row.details), default=0)
            if oldest < ceil_ms(start):
                return found + page
            # Others of the oldest one's moment may be on the next page: all of that moment are read there.
            newer = [detail for detail in page if integer(detail.time) > oldest]
            found += newer or page
            after = oldest + 1 if newer else oldest
        raise UpstreamError(f"OKX has more than {LIQUIDATIONS_PAGES} pages of liquidations of {symbol}")

    async def maintenance(self) -> list[wire.Maintenance]:
        return await self._get("/api/v5/system/status", {}, wire.decode_maintenance)

    # --- requests ---

    async def _one(self, path: str, params: Params, decoder: Callable[[Any], list[T]]) -> list[T]:
        rows = await self._get(path, params, decoder)
        if len(rows) != 1:
            raise BadMessage(f"OKX's {path} has {len(rows)} rows instead of one")
        return rows

    async def _get(self, path: str, params: Params, decoder: Callable[[Any], list[T]]) -> list[T]:
        """A 200 may be a refusal: only the body's code says."""
        for is_last in (False, True):
            body = await self._client.get(path, params, bucket=PATHS.get(path, "weight"), weight=1)
            answer = decode(wire.decode_answer, body, f"OKX's {path}")
            if answer.code not in RETRIED or is_last:
                break
        if answer.code != "0":
            error = refusal(answer.code, answer.message)
            self._client.heed(error)
            raise error
        return decode(decoder, answer.data, f"OKX's {path}")


async def notices(client: RestClient) -> list[Notice]:
    """Maintenance that is scheduled or on."""
    rest = OkxRest(client, clock.now)
    rows = await rest.maintenance()
    return [
        Notice(row.title, start, optional_moment(row.end))
        for row in rows
        if row.state in ("scheduled", "ongoing", "pre_open") and row.environment != DEMO
        if (start := optional_moment(row.begin)) is not None
    ]


def explain(status: int, body: bytes) -> MarketError | None:
    """OKX's error body as an error of ours. None: nothing special."""
    try:
        answer = wire.decode_answer(body)
    except UNREADABLE:
        return None
    return refusal(answer.code, answer.message) if answer.code != "0" else None


def refusal(code: str, message: str) -> MarketError:
    text = f"OKX: {message[:200]} ({code[:10]})"
    match code:
        case "51001":
            return UnknownSymbol(text)
        case "51000" if "bar" in message.lower() or "period" in message.lower():
            return UnknownInterval(text)
        case "50011" | "50013":
            return UpstreamLimited(text, retry_after=LIMITED_PAUSE)
        case "50004":
            return UpstreamTimeout(text)
        case _:
            return UpstreamError(text)


def _before(start: datetime | None) -> int | None:
    """A `before` that lets through what is at `start`."""
    return None if start is None else max(0, ceil_ms(start) - 1)


def ascending(rows: Sequence[E], start: datetime | None, end: datetime | None) -> list[E]:
    """The rows of `[start, end)`, oldest first: an answer that ignored the range must not be paged through for ever."""
    return sorted(
        (row for row in rows if (start is None or row.timestamp >= start) and (end is None or row.timestamp < end)),
        key=lambda row: row.timestamp,
    )
