"""The tasks that ask an exchange for what the stream did not deliver, trades and, where it tells them afterwards,
liquidations; newer ones wait for them, within a limit.

`actors.feeds.trades` and `liquidations` decide what is missing and what to make of the answers; this module asks.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime

import trio
from structlog.typing import FilteringBoundLogger

from actors.errors import MarketError
from actors.events import Gap, Liquidation, Trade
from actors.feeds.liquidations import Liquidations, Range
from actors.feeds.patience import ASK_AGAIN, REPAIR_WITHIN, may_pass, pauses
from actors.feeds.trades import GONE, Missing, Told, Trades
from actors.upstream.caller import URGENCY

ASKED = 3  # answers that hardly help, until missed trades are given up
HELPFUL = 100  # trades
LAG = 1.0  # seconds that REST may be behind the stream with liquidations, which have no ids to tell it by

AskMissed = Callable[[str, Trade, Trade], Awaitable[list[Trade]]]
"""(symbol, last, first) -> trades between the two that the exchange still has; see Exchange.missed_trades."""

AskLiquidations = Callable[[str, datetime, datetime], Awaitable[list[Liquidation]]]
"""(symbol, start, end) -> those that happened, ascending; see Exchange.missed_liquidations."""


class TradeRepair:
    def __init__(
        self,
        symbol: str,
        trades: Trades,
        ask: AskMissed,
        tell: Callable[[Told], None],
        log: FilteringBoundLogger,
        urgency: Callable[[], float],
    ) -> None:
        self._symbol, self._trades = symbol, trades
        self._ask, self._tell = ask, tell
        self._log = log
        self._urgency = urgency  # among other symbols' repairs
        self._work = trio.Event()

    def notice(self) -> None:
        """Trades may be missing."""
        if self._trades.missing is not None:
            self._work.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            while (missing := self._trades.missing) is not None:
                problem = await self._ask_missed()
                told = self._trades.conclude(problem)
                if problem is None and any(isinstance(said, Gap) and not said.repaired for said in told):
                    problem = GONE
                tell = self._log.info if problem is None else self._log.warning
                tell("trades.repaired" if problem is None else "trades.lost", reason=problem, since=_since(missing))
                self._tell(told)

    async def _ask_missed(self) -> str | None:
        """Learn what the exchange still has of the missing trades; why not all of them, if so."""
        in_vain, trouble, pause = 0, "", pauses()
        URGENCY.set(self._urgency())
        with trio.move_on_after(REPAIR_WITHIN):
            while (missing := self._trades.missing) is not None:
                try:
                    rows = await self._ask(self._symbol, *missing)
                except MarketError as error:
                    trouble = str(error)
                    if not may_pass(error):
                        return trouble
                    await trio.sleep(next(pause))
                    continue
                trouble = ""
                if self._trades.learn(rows):
                    return None
                if self._trades.missing == missing or len(rows) < HELPFUL:
                    in_vain += 1
                    if in_vain == ASKED:
                        return GONE
                    await trio.sleep(ASK_AGAIN)
            return None  # they came late, by the stream
        return trouble or f"no whole answer within {REPAIR_WITHIN:g} s"


class LiquidationRepair:
    def __init__(
        self,
        symbol: str,
        liquidations: Liquidations,
        ask: AskLiquidations,
        log: FilteringBoundLogger,
        urgency: Callable[[], float],
    ) -> None:
        self._symbol, self._liquidations, self._ask = symbol, liquidations, ask
        self._log, self._urgency = log, urgency
        self._work = trio.Event()

    def notice(self) -> None:
        """Some may be missing."""
        if self._liquidations.missing is not None:
            self._work.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            while (missing := self._liquidations.missing) is not None:
                found, problem = await self._ask_missed(missing)
                if self._liquidations.missing != missing and problem is None:
                    continue  # the connection was lost once more meanwhile
                tell = self._log.info if problem is None else self._log.warning
                event = "liquidations.repaired" if problem is None else "liquidations.lost"
                tell(event, reason=problem, since=missing.start.isoformat())
                self._liquidations.conclude(found, problem)

    async def _ask_missed(self, missing: Range) -> tuple[list[Liquidation], str | None]:
        URGENCY.set(self._urgency())
        with trio.move_on_after(REPAIR_WITHIN):
            await trio.sleep(LAG)
            try:
                return await self._ask(self._symbol, missing.start, missing.end), None
            except MarketError as error:
                return [], str(error)
        return [], f"no whole answer within {REPAIR_WITHIN:g} s"


def _since(missing: Missing) -> str:
    return missing.last.timestamp.isoformat()
