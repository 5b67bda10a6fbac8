"""The liquidations of one symbol: each told once, those of a cut asked for where the exchange tells them afterwards. No
I/O.

They have no id. Equal ones of one frame happened; those of a later frame, or of an answer, are told again.
"""

from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from actors.events import Gap, Liquidation
from actors.exchanges.exchange import Exchange
from actors.feeds.readers import Readers

KEPT = 5_000  # held for REST
RECENT = 4_000  # remembered to drop duplicates by
PUSHED_WITHIN = timedelta(seconds=1)  # of a liquidation's time: Binance tells the largest of every second at its end


class Range(NamedTuple):
    """Half-open, of the exchange's time."""

    start: datetime
    end: datetime


Frame = tuple[datetime, datetime]
"""What tells frames apart: when they were pushed, and when received. Two connections may bring the same one."""


class Liquidations:
    def __init__(self, exchange: Exchange, symbol: str, readers: Readers, *, can_ask: bool) -> None:
        self._exchange, self._symbol, self._readers = exchange, symbol, readers
        self._can_ask = can_ask  # somebody will ask for what is missing
        self.missing: Range | None = None  # to be asked for: `conclude`
        self.repeated = 0  # delivered more than once
        self.told: deque[Liquidation] = deque(maxlen=KEPT)
        self._recent: dict[Liquidation, Frame] = {}  # in order, and the frame that told them
        self._waiting: list[tuple[Liquidation, Frame]] = []  # newer than the missing ones

    def restart(self) -> datetime | None:
        """A new run of the feed; since when liquidations are missing that were not asked for to the end."""
        missing, self.missing, self._waiting = self.missing, None, []
        return missing and missing.start + PUSHED_WITHIN

    def cut(self, start: datetime, end: datetime) -> None:
        """The connection was lost between the two. What cannot be asked for is lost, and said once."""
        if "liquidations" not in self._exchange.pushed:
            return
        lost = Range(start - PUSHED_WITHIN, max(start, end))
        if self._can_ask:
            self.missing = lost if self.missing is None else Range(self.missing.start, lost.end)
        else:
            self._announce(lost, "the connection was lost: liquidations may be missing", repaired=False)

    def conclude(self, found: Sequence[Liquidation], problem: str | None) -> None:
        """What the exchange has of the missing ones, ascending (`problem`: why it is not all), and what waited."""
        missing, self.missing = self.missing, None
        waiting, self._waiting = self._waiting, []
        if missing is None:
            return
        reason = "the connection was lost" if problem is None else f"liquidations may be missing: {problem}"
        self._announce(missing, reason, repaired=problem is None)
        answer = missing.end, missing.start  # a frame like no other
        for liquidation in found:
            if self._recent.get(liquidation, answer) == answer:
                self._tell(liquidation, answer)
        for liquidation, frame in waiting:
            self.apply(liquidation, frame)

    def apply(self, liquidation: Liquidation, frame: Frame) -> None:
        if self.missing is not None:
            self._waiting.append((liquidation, frame))
        elif self._recent.get(liquidation, frame) != frame:
            self.repeated += 1
        else:
            self._tell(liquidation, frame)

    def _tell(self, liquidation: Liquidation, frame: Frame) -> None:
        self._recent[liquidation] = frame
        if len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]
        self.told.append(liquidation)
        self._readers.publish("liquidations", liquidation)

    def _announce(self, lost: Range, reason: str, *, repaired: bool) -> None:
        gap = Gap(
            exchange=self._exchange.name,
            symbol=self._symbol,
            timestamp=lost.end,
            start=lost.start,
            end=lost.end,
            reason=reason,
            repaired=repaired,
        )
        self._readers.publish("liquidations", gap)
