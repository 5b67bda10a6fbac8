"""The trades of one symbol: duplicates out, order kept, losses noticed. No I/O.

Where ids count up by one, a jump says exactly what is missing. Elsewhere a lost connection is the only sign, and what
the exchange still shows of the recent past is joined to what was seen by the ids that both have. Newer trades wait in
`_held` until the missing ones were asked for; what cannot be had is said once, as an unrepaired gap.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from actors.events import Gap, Trade
from actors.exchanges.exchange import Exchange

RECENT = 4_000  # ids remembered to know a trade again, where ids do not count up
HELD_MAX = 20_000  # trades that may wait for missing ones
GONE = "the exchange does not have them"

Told = list[Trade | Gap]


class Missing(NamedTuple):
    """Trades between two that are known: after `last`, before `first`."""

    last: Trade
    first: Trade


class _Held(NamedTuple):
    trade: Trade
    was_cut_off: bool  # between the one before it and this one


class Trades:
    def __init__(self, exchange: Exchange, symbol: str) -> None:
        self._exchange, self._symbol = exchange, symbol
        self._counts_up = exchange.contiguous_trade_ids
        self.missing: Missing | None = None  # to be asked for: `learn`, then `conclude`
        self.duplicates = 0  # trades delivered more than once
        self._last: Trade | None = None  # that readers were told of
        self._seen: dict[int | str, None] = {}  # ids told, the recent ones, in order; only where they do not count up
        self._was_cut_off = False  # since the last trade
        self._held: list[_Held] = []
        self._found: list[Trade] = []  # missing ones, ascending, that the exchange still had

    def interrupt(self) -> None:
        """The connection was lost."""
        self._was_cut_off = True

    def restart(self) -> None:
        """What waits is lost to a new run of the feed, and is found missing by it; what was told is not told again."""
        self.missing = None
        self._held, self._found = [], []
        self._was_cut_off = True

    # --- what the stream says ---

    def apply(self, trade: Trade) -> Told:
        """What to publish now. Sets `missing` where trades must be asked for first."""
        if self.missing is not None:
            return self._hold(trade)
        last = self._last
        if last is None:
            self._was_cut_off = False
            return [self._tell(trade)]
        if self._counts_up:
            steps = int(trade.trade_id) - int(last.trade_id)
            if steps == 1:
                return [self._tell(trade)]
            if steps <= 0 and trade.timestamp <= last.timestamp:
                self.duplicates += 1
                return []
            if steps <= 0:  # a duplicate is never newer than the newest
                return [self._lost(last, trade, "the exchange counts its trades anew"), self._tell(trade)]
            return self._miss(last, trade, f"{steps - 1} trades were not received")
        if trade.trade_id in self._seen:
            self.duplicates += 1
            return []
        if self._was_cut_off:
            return self._miss(last, trade, "the connection was lost: trades may be missing")
        return [self._tell(trade)]

    def _miss(self, last: Trade, first: Trade, reason: str) -> Told:
        was_cut_off, self._was_cut_off = self._was_cut_off, False
        if self._exchange.missed_trades is None:
            return [self._lost(last, first, reason), self._tell(first)]
        self.missing = Missing(last, first)
        self._held.append(_Held(first, was_cut_off))
        return []

    def _hold(self, trade: Trade) -> Told:
        self._held.append(_Held(trade, self._was_cut_off))
        self._was_cut_off = False
        if len(self._held) >= HELD_MAX:
            return self.conclude("too many newer ones are waiting")
        if self._counts_up and self._last and int(trade.trade_id) == int(self._last.trade_id) + 1:
            return self._release()  # it was late, not lost
        return []

    def backlog(self, trades: Sequence[Trade]) -> Told:
        """The recent past, ascending, as some exchanges tell it at the start of a subscription; closes short gaps."""
        last = self._last
        if last is None or self.missing is not None or not trades:
            return []
        joined = any(trade.trade_id in self._seen for trade in trades)
        news = [trade for trade in trades if trade.trade_id not in self._seen and trade.timestamp >= last.timestamp]
        self._was_cut_off = False
        if not news:
            return []  # nothing traded meanwhile
        told: Told = []
        start = last.timestamp
        if not joined:
            start = news[0].timestamp
            told.append(self._lost(last, news[0], "the connection was lost: trades may be missing"))
        told.append(self._gap(start, news[-1].timestamp, "the connection was lost", True))
        return [*told, *map(self._tell, news)]

    # --- what the exchange says when it is asked ---

    def learn(self, rows: Sequence[Trade]) -> bool:
        """Rows of the missing range, ascending. Whether it is complete now; if `missing` did not move, ask later."""
        if self.missing is None:
            return True
        return self._learn_by_id(self.missing, rows) if self._counts_up else self._learn_by_time(self.missing, rows)

    def _learn_by_id(self, missing: Missing, rows: Sequence[Trade]) -> bool:
        """Asked was for what follows `last`: where the answer begins later, there is nothing older any more."""
        last, first = missing
        for index, row in enumerate(rows):
            steps = int(row.trade_id) - int(last.trade_id)
            if (steps == 1 or (steps > 1 and index == 0)) and int(row.trade_id) < int(first.trade_id):
                self._found.append(row)
                last = row
        self.missing = Missing(last, first)
        return int(last.trade_id) + 1 == int(first.trade_id)

    def _learn_by_time(self, missing: Missing, rows: Sequence[Trade]) -> bool:
        ids = [row.trade_id for row in rows]
        if missing.first.trade_id in ids:
            self._found = list(rows[: ids.index(missing.first.trade_id)])
            return True
        self._found = [row for row in rows if row.timestamp <= missing.first.timestamp]
        return False  # what was pushed is not yet in the answer

    def conclude(self, problem: str | None) -> Told:
        """No more is to be learned (`problem`: why not all): what was missed and what waited for it, in order."""
        if self.missing is None or self._last is None:
            return []
        known, first = self._last, self.missing.first
        runs, joins_known, joins_first = (
            self._runs_by_id(known, first) if self._counts_up else self._run_by_time(problem)
        )
        why = f"trades were not received: {problem or GONE}"
        told: Told = []
        for run in runs:
            if not joins_known:
                told.append(self._lost(known, run[0], why))
            start = known if joins_known else run[0]
            until = first if joins_first and run is runs[-1] else run[-1]
            told.append(self._gap(start.timestamp, until.timestamp, "trades were not received", True))
            told += map(self._tell, run)
            known, joins_known = run[-1], run is runs[-1] and joins_first
        if not (joins_known and joins_first):
            told.append(self._lost(known, first, why))
        return [*told, *self._release(accept=first)]

    def _runs_by_id(self, last: Trade, first: Trade) -> tuple[list[list[Trade]], bool, bool]:
        """What is known of the trades between two, cut at every jump; whether it joins the one, and the other."""
        late = [held.trade for held in self._held if int(held.trade.trade_id) < int(first.trade_id)]
        self._held = [held for held in self._held if int(held.trade.trade_id) >= int(first.trade_id)]
        known = {int(trade.trade_id): trade for trade in (*late, *self._found)}
        runs: list[list[Trade]] = []
        for number in sorted(number for number in known if number > int(last.trade_id)):
            if number - 1 in known and runs:
                runs[-1].append(known[number])
            else:
                runs.append([known[number]])
        return runs, int(last.trade_id) + 1 in known, int(first.trade_id) - 1 in known

    def _run_by_time(self, problem: str | None) -> tuple[list[list[Trade]], bool, bool]:
        """The same of what the exchange showed: trades of one moment may be in any order there."""
        known = {held.trade.trade_id for held in self._held} | self._seen.keys()
        last = self._last
        run = [row for row in self._found if row.trade_id not in known and last and row.timestamp >= last.timestamp]
        return [run] if run else [], any(row.trade_id in self._seen for row in self._found), problem is None

    def _release(self, accept: Trade | None = None) -> Told:
        """Apply what waited, and `accept` whatever is missing before it."""
        held, self._held = self._held, []
        self.missing = None
        self._found = []
        if self._counts_up:
            held.sort(key=lambda item: int(item.trade.trade_id))
        told: Told = []
        is_cut_off, self._was_cut_off = self._was_cut_off, False
        for trade, was_cut_off in held:
            self._was_cut_off |= was_cut_off  # until a trade is told: one that is only repeated ends nothing
            if trade is accept:
                accept, self._was_cut_off = None, False
                told.append(self._tell(trade))
            else:
                told += self.apply(trade)
        self._was_cut_off |= is_cut_off
        return told

    def _tell(self, trade: Trade) -> Trade:
        self._last = trade
        if not self._counts_up:
            self._seen[trade.trade_id] = None
            if len(self._seen) > RECENT:
                del self._seen[next(iter(self._seen))]
        return trade

    def _lost(self, last: Trade, first: Trade, reason: str) -> Gap:
        return self._gap(last.timestamp, first.timestamp, reason, False)

    def _gap(self, start: datetime, end: datetime, reason: str, repaired: bool) -> Gap:
        return Gap(
            exchange=self._exchange.name,
            symbol=self._symbol,
            timestamp=end,
            start=start,
            end=end,
            reason=reason,
            repaired=repaired,
        )
