"""Bybit v5 REST, normalised: which path, which parameters, what the rows mean.

Lists come newest first, and a range that holds more than a page loses its old end. So whatever has a start is read in
windows that hold no more than a page: the same start gives the same first row, whatever the limit.

Source: https://bybit-exchange.github.io/docs/v5/market/kline and its neighbours
"""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote

import trio

from actors.decoding import UNREADABLE, decode, moment, optional_moment, priced
from actors.errors import (
    BadMessage,
    MarketError,
    UnknownInterval,
    UnknownSymbol,
    Unsupported,
    UpstreamError,
    UpstreamGeoBlocked,
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
    Trade,
    ceil_ms,
    last_ms,
    optional_ms,
)
from actors.exchanges.bybit import wire
from actors.exchanges.bybit.normalise import (
    THEIR_INTERVALS,
    bar,
    funding,
    instrument,
    interest_of,
    open_interest,
    settled,
    trade,
)
from actors.exchanges.paging import first, newest, retelling
from actors.exchanges.settled import BEFORE, LONGEST, SHORTEST, of_range, told_of_range
from actors.upstream.pauses import FORBIDDEN_PAUSE
from actors.upstream.rest import ASK_AGAIN, Params, RestClient, excerpt

CATALOGUE_PAGES = 50  # of 1000 rows; more would be a cursor that leads in circles
KLINES_PAGE = 1000
OPEN_INTEREST_PAGE = 200
FUNDING_PAGE = 200
TRADES_PAGE = 1000
DAY, MONTH = timedelta(days=1), timedelta(days=31)
SETTLE = timedelta(seconds=2)  # after its end a bar may lack its last trades in REST, while the stream has them
PERIODS = {"5m": "5min", "15m": "15min", "30m": "30min", "1h": "1h", "4h": "4h", "1d": "1d"}
FUNDING_HOURS = 8.0  # where the catalogue does not say; only the width of a window depends on it

RETRIED = (10000, 10016)  # its own timeout and its own fault deserve a second try; a bad parameter never does
LIMITED_PAUSE = 5.0  # seconds: the window in which Bybit counts an address's requests
BAN = 600.0  # seconds without any request that Bybit wants after "access too frequent"
GEO_BLOCKED = re.compile(r"\byour (country|region|location|jurisdiction)\b|restricted (location|region|jurisdiction)")

T = TypeVar("T")
E = TypeVar("E", bound=Event)


class BybitRest:
    def __init__(self, client: RestClient, now: Callable[[], datetime]) -> None:
        self._client = client
        self._now = now

    async def server_time(self) -> datetime:
        return moment((await self._ask("/v5/market/time", {})).time)

    async def instruments(self) -> list[Instrument]:
        """Every perpetual and dated contract that trades; Bybit lists no others unless asked for them by status."""
        found: list[Instrument] = []
        cursor: str | None = None
        for _ in range(CATALOGUE_PAGES):
            params: Params = {"category": "linear", "limit": 1000, "cursor": cursor}
            page, _ = await self._get("/v5/market/instruments-info", params, wire.decode_contracts)
            found += [instrument(row) for row in page.rows if row.contract_type in ("LinearPerpetual", "LinearFutures")]
            if not page.next_cursor:
                return found
            cursor = unquote(page.next_cursor)  # it comes percent-encoded, and sending encodes it
        raise BadMessage(f"Bybit's catalogue does not end after {CATALOGUE_PAGES} pages")

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
            return await newest(read, KLINES_PAGE, limit, end)
        step = timedelta(days=28) if interval == "1M" else INTERVALS[interval]
        # Longer bars open before their contract's first day.
        begin = partial(self._first_day, symbol) if step <= DAY else None
        return await first(read, KLINES_PAGE, limit, start, end, step=step, now=self._now(), begin=begin)

    async def _bars(
        self, symbol: str, interval: str, start: datetime | None, end: datetime | None, size: int
    ) -> list[Ohlc]:
        """One page. Bybit's start and end both include bars that open at them."""
        await self._settled(interval, end)
        params = {
            "category": "linear",
            "symbol": symbol,
            "interval": THEIR_INTERVALS[interval],
            "start": optional_ms(start),
            "end": last_ms(end),
            "limit": size,
        }
        page, given_at = await self._get("/v5/market/kline", params, wire.decode_klines)
        return ascending(priced(bar(row, symbol, interval, given_at) for row in page.rows), start, end)

    async def _settled(self, interval: str, end: datetime | None) -> None:
        """Wait until the bar that ended last is whole, if it is asked for."""
        now, step = self._now(), INTERVALS[interval]
        ended = now - (now - EPOCH) % min(step, DAY)  # weeks and months end at midnight, too
        if end is None or end > ended - step:
            await trio.sleep(max(0.0, (ended + SETTLE - now).total_seconds()))

    async def open_interest(self, symbol: str) -> OpenInterest:
        ticker, given_at = await self._ticker(symbol)
        interest = open_interest(ticker, symbol, given_at)
        if interest is None:
            raise BadMessage(f"Bybit's ticker of {symbol} has no open interest")
        return interest

    async def open_interest_history(
        self, symbol: str, period: str, *, limit: int, start: datetime | None, end: datetime | None
    ) -> list[OpenInterest]:
        """Up to `limit` rows of `[start, end)`: the first ones when `start` is given, else the last ones."""
        read = partial(self._interests, symbol, period)
        if start is None:
            return await newest(read, OPEN_INTEREST_PAGE, limit, end)
        begin = partial(self._first_day, symbol)
        step, now = INTERVALS[period], self._now()
        return await first(read, OPEN_INTEREST_PAGE, limit, start, end, step=step, now=now, begin=begin)

    async def _interests(
        self, symbol: str, period: str, start: datetime | None, end: datetime | None, size: int
    ) -> list[OpenInterest]:
        """One page. The exchange's range excludes its startTime, and without an endTime it ignores it."""
        params = {
            "category": "linear",
            "symbol": symbol,
            "intervalTime": PERIODS[period],
            "startTime": None if start is None else max(0, ceil_ms(start) - 1),
            "endTime": last_ms(end),
            "limit": size,
        }
        page, _ = await self._get("/v5/market/open-interest", params, wire.decode_open_interest_rows)
        return ascending([interest_of(row, symbol) for row in page.rows], start, end)

    async def funding(self, instrument: Instrument) -> FundingRate:
        """The rate of the running period. Unsupported for a dated contract."""
        ticker, given_at = await self._ticker(instrument.symbol)
        rate = funding(ticker, instrument.symbol, given_at, instrument)
        if rate is None:
            raise Unsupported(f"{instrument.symbol} has no funding: it is a dated contract, or does not trade yet")
        return rate

    async def funding_history(
        self, instrument: Instrument, *, limit: int, start: datetime | None, end: datetime | None
    ) -> list[FundingRate]:
        """Up to `limit` settled rates of `[start, end)`, each with the interval that it was settled at."""
        read = partial(self._rates, instrument)
        with retelling(partial(told_of_range, start=start)):
            if start is None:
                return of_range(await newest(read, FUNDING_PAGE, limit + 1, end), None, limit)
            early = max(EPOCH, start - LONGEST)
            rates = await first(
                *(read, FUNDING_PAGE, limit + BEFORE, early, end),
                step=timedelta(hours=instrument.funding_interval_hours or FUNDING_HOURS),
                least=SHORTEST,
                now=self._now(),
                begin=partial(self._first_day, instrument.symbol),
            )
            return of_range(rates, start, limit)

    async def _rates(
        self, instrument: Instrument, start: datetime | None, end: datetime | None, size: int
    ) -> list[FundingRate]:
        """One page. A startTime without an endTime is an error."""
        params = {
            "category": "linear",
            "symbol": instrument.symbol,
            "startTime": optional_ms(start),
            "endTime": last_ms(end),
            "limit": size,
        }
        page, _ = await self._get("/v5/market/funding/history", params, wire.decode_funding_rows)
        return ascending(
            [settled(row, instrument.symbol) for row in page.rows if optional_moment(row.time)], start, end
        )

    async def recent_trades(self, symbol: str) -> list[Trade]:
        """The last thousand, ascending; they have no range. That is half a minute to a minute of a busy symbol."""
        params: Params = {"category": "linear", "symbol": symbol, "limit": TRADES_PAGE}
        page, _ = await self._get("/v5/market/recent-trade", params, wire.decode_recent_trades)
        trades = [trade(row, symbol) for row in page.rows]
        if trades and trades[0].timestamp >= trades[-1].timestamp:  # newest first was seen, but is not documented
            trades.reverse()
        return trades

    async def _first_day(self, symbol: str) -> datetime:
        """The day of a contract's first bar: what begins before it need not be read window by window."""
        months = await self._bars(symbol, "1M", None, None, KLINES_PAGE)
        if not months:
            return self._now()
        month = months[0].timestamp
        days = await self._bars(symbol, "1d", month, month + MONTH, KLINES_PAGE)
        return days[0].timestamp if days else month

    # --- requests ---

    async def _ticker(self, symbol: str) -> tuple[wire.Ticker, datetime]:
        params = {"category": "linear", "symbol": symbol}
        page, given_at = await self._get("/v5/market/tickers", params, wire.decode_tickers)
        if not page.rows:
            raise UnknownSymbol(f"Bybit has no ticker of {symbol}")
        return page.rows[0], given_at

    async def _get(self, path: str, params: Params, decoder: Callable[[Any], T]) -> tuple[T, datetime]:
        """A result, and when Bybit gave it."""
        answer = await self._ask(path, params)
        return decode(decoder, answer.result, f"Bybit's {path}"), moment(answer.time)

    async def _ask(self, path: str, params: Params) -> wire.Answer:
        """A 200 may be a refusal: only the body's code says."""
        for is_last in (False, True):
            body = await self._client.get(path, params, bucket="weight", weight=1)
            answer = decode(wire.decode_answer, body, f"Bybit's {path}")
            if answer.code not in RETRIED or is_last:
                break
            await trio.sleep(ASK_AGAIN)
        if answer.code != 0:
            error = refusal(answer.code, answer.message)
            self._client.heed(error)
            raise error
        return answer


async def missed_trades(client: RestClient, symbol: str, last: Trade, first: Trade) -> list[Trade]:
    """Trades that may lie between two: Bybit shows only the most recent ones, whatever is asked."""
    return await BybitRest(client, lambda: first.timestamp).recent_trades(symbol)


def explain(status: int, body: bytes) -> MarketError | None:
    """Bybit's error body as an error of ours; a 403 is a firewall's page as often as JSON. None: nothing special."""
    text = excerpt(body)
    if status == 429:
        return UpstreamLimited(f"Bybit: {text}")  # the system's own protection: the header says for how long, or nobody
    if status == 403:
        said = body[:4000].decode("utf-8", "replace").lower()
        if "access too frequent" in said:
            return UpstreamLimited(f"Bybit: {text}", retry_after=BAN)
        if GEO_BLOCKED.search(said):
            return UpstreamGeoBlocked(f"Bybit does not serve this location: {text}", retry_after=FORBIDDEN_PAUSE)
    try:
        error = wire.decode_refusal(body)
    except UNREADABLE:
        return None
    return refusal(error.code, error.message) if error.code else None


def refusal(code: int, message: str) -> MarketError:
    text = f"Bybit: {message[:200]} ({code})"
    match code:
        case 10001 if "symbol" in message.lower():
            return UnknownSymbol(text)
        case 10001 if "interval" in message.lower() or "period" in message.lower():
            return UnknownInterval(text)
        case 10006 | 10018 | 429:
            return UpstreamLimited(text, retry_after=LIMITED_PAUSE)
        case 10009 | 10024:
            return UpstreamGeoBlocked(text, retry_after=FORBIDDEN_PAUSE)
        case 10000:
            return UpstreamTimeout(text)
        case _:
            return UpstreamError(text)


def ascending(rows: list[E], start: datetime | None, end: datetime | None) -> list[E]:
    """The rows of `[start, end)`, oldest first: an answer that ignored the range must not be paged through for ever."""
    return sorted(
        (row for row in rows if (start is None or row.timestamp >= start) and (end is None or row.timestamp < end)),
        key=lambda row: row.timestamp,
    )
