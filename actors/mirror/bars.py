"""Closed bars of a topic on a node without lines: read from the engine once, and kept by the log from then on. No I/O.

What is read may be ahead of the log as far as it was read here, or behind it. Bars go by their opens, and each closes
once: those that the log has yet to tell are left out until it does, and those that it told meanwhile are put behind.
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

import trio

from actors.events import Ohlc, Topic, bar_end
from actors.exchanges.exchange import Exchange
from actors.feeds.rows import Rows


class MirrorBars:
    """`most`: bars that are held. Nothing is, before it is filled."""

    def __init__(self, exchange: Exchange, topic: Topic, most: int) -> None:
        self._has_empty_bars = exchange.has_empty_bars
        self._interval = topic.interval or ""
        self._where = exchange.name, topic.symbol, self._interval
        self._most = most
        self._rows: Rows | None = None
        self._told: list[Ohlc] = []  # before it was filled
        self.filled_at = trio.current_time()
        self.read = trio.Event()  # the engine was asked, whatever it said

    def close(self, bar: Ohlc) -> bool:
        """A bar is told as closed. False: it does not follow the last one, and what is held is of no use."""
        if self._rows is None:
            self._told.append(bar)
            return True
        last = self._rows.last
        if last is not None and not self._follows(last, bar):
            return False
        self._rows.append(bar)
        return True

    def fill(self, read: Sequence[Ohlc], begins: datetime) -> None:
        """`read`: all that the engine keeps, ascending. `begins`: the open of the next bar whose close is yet to be
        told, by the log as far as it was read here."""
        run = [bar for bar in read if bar.timestamp < begins]
        for bar in self._told:
            if not run or bar.timestamp > run[-1].timestamp:
                run.append(bar)
        holes = [at for at, (older, newer) in enumerate(pairwise(run), 1) if not self._follows(older, newer)]
        self._rows = Rows(self._where, self._most, run[holes[-1] :] if holes else run)
        self._told = []
        self.filled_at = trio.current_time()

    def _follows(self, older: Ohlc, newer: Ohlc) -> bool:
        is_next = newer.timestamp == bar_end(older.timestamp, self._interval)
        return is_next or (newer.timestamp > older.timestamp and not self._has_empty_bars)

    # --- answers; None: not all of it is held. `begins` as above; `current`: the bar that is open ---

    def _held(self, begins: datetime) -> Rows | None:
        """The closed bars, where they reach up to the open one."""
        last = self._rows.last if self._rows is not None else None
        if last is None or (self._has_empty_bars and bar_end(last.timestamp, self._interval) != begins):
            return None
        return self._rows

    def before_live(self, count: int, begins: datetime) -> list[Ohlc]:
        """Up to `count` closed bars right before what is told live."""
        rows = self._held(begins)
        return [] if rows is None else rows.part(len(rows) - count, len(rows))

    def newest(self, limit: int, end: datetime | None, begins: datetime, current: Ohlc | None) -> list[Ohlc] | None:
        """The last `limit` bars that opened before `end`."""
        rows = self._held(begins)
        if rows is None:
            return None
        is_asked = current is not None and (end is None or current.timestamp < end)
        open_one = [current] if current is not None and is_asked else []
        count = len(rows) if end is None else rows.count_before(end)
        closed = limit - len(open_one)
        return [*rows.part(count - closed, count), *open_one] if count >= closed else None

    def between(
        self, start: datetime, end: datetime | None, limit: int, begins: datetime, current: Ohlc | None
    ) -> list[Ohlc] | None:
        """The first `limit` bars of `[start, end)`."""
        rows = self._held(begins)
        if rows is None or rows.first_open is None or start < rows.first_open:
            return None
        first = rows.count_before(start)
        until = len(rows) if end is None else rows.count_before(end)
        found = rows.part(first, min(until, first + limit))
        is_asked = current is not None and start <= current.timestamp and (end is None or current.timestamp < end)
        return [*found, current] if current is not None and is_asked and len(found) < limit else found
