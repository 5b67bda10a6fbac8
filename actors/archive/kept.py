"""An exchange's REST calls; the archive gets what they answer, and what an answer that failed had told until then."""

from collections.abc import Awaitable
from datetime import datetime
from typing import TypeVar

from actors.archive.recall import Recall
from actors.archive.series import ArchiveKind, Series
from actors.errors import MarketError
from actors.events import Event, FundingRate, Instrument, Ohlc, OpenInterest
from actors.exchanges.exchange import Rest
from actors.exchanges.paging import told_before

E = TypeVar("E", bound=Event)


class KeptRest:
    def __init__(self, rest: Rest, recall: Recall) -> None:
        self._rest, self._recall = rest, recall
        self.server_time = rest.server_time
        self.instruments = rest.instruments
        self.open_interest = rest.open_interest
        self.funding = rest.funding

    async def ohlc(
        self, symbol: str, interval: str, *, limit: int, start: datetime | None = None, end: datetime | None = None
    ) -> list[Ohlc]:
        answer = self._rest.ohlc(symbol, interval, limit=limit, start=start, end=end)
        return await self._keep(answer, "ohlc", symbol, interval, limit, start, end)

    async def open_interest_history(
        self, symbol: str, period: str, *, limit: int, start: datetime | None, end: datetime | None
    ) -> list[OpenInterest]:
        answer = self._rest.open_interest_history(symbol, period, limit=limit, start=start, end=end)
        return await self._keep(answer, "open_interest_history", symbol, period, limit, start, end)

    async def funding_history(
        self, instrument: Instrument, *, limit: int, start: datetime | None, end: datetime | None
    ) -> list[FundingRate]:
        answer = self._rest.funding_history(instrument, limit=limit, start=start, end=end)
        return await self._keep(answer, "funding_history", instrument.symbol, "", limit, start, end)

    async def _keep(
        self,
        answer: Awaitable[list[E]],
        kind: ArchiveKind,
        symbol: str,
        interval: str,
        limit: int,
        start: datetime | None,
        end: datetime | None,
    ) -> list[E]:
        series = Series(kind, self._recall.exchange.name, symbol, interval)
        try:
            rows = await answer
        except MarketError as error:
            if told := told_before(error):
                self._recall.keep(series, told.rows, told.start, told.end, len(told.rows) + 1)
            raise
        self._recall.keep(series, rows, start, end, limit)
        return rows
