"""The bars of one symbol in all its intervals, and the tasks that fetch what the stream does not give.

`actors.feeds.bars` decides what is missing; this module asks the exchange for it, and holds newer bars no longer than a
limit while it does.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
import trio

from actors import turns
from actors.errors import MarketError, NotReady
from actors.events import INTERVALS, Gap, Ohlc
from actors.exchanges.exchange import Exchange, Rest
from actors.feeds.bars import Bars
from actors.feeds.derivation import BASE, Derivation
from actors.feeds.patience import REPAIR_WITHIN, may_pass, pauses
from actors.upstream.caller import URGENCY

SETTLE = timedelta(seconds=0.5)  # the last update of a bar was seen 0.16 s after its end: the next one's waits for it
UNSURE = timedelta(seconds=1)  # so much an exchange's clock may be ahead of what we think

log = structlog.get_logger()


class History:
    def __init__(
        self,
        exchange: Exchange,
        symbol: str,
        *,
        repair: Rest,
        background: Rest,
        publish: Callable[[str, Ohlc | Gap], None],
        derived: frozenset[str],
        urgency: Callable[[], float] = lambda: 0.0,
        loads: trio.CapacityLimiter,
    ) -> None:
        self._exchange, self._symbol = exchange, symbol
        self._repairs, self._background = repair, background
        self._urgency = urgency  # of a repair, among those of other symbols
        self._loads = loads  # of all feeds, under way at once: see `load`
        self._publish = publish  # (interval, what its readers are told)
        self._derived = derived  # intervals that are made of minutes instead of being subscribed to
        self._bars: dict[str, Bars] = {}
        self._derivations: dict[str, Derivation] = {}
        self._exchange_time: datetime | None = None
        self._early: dict[str, Ohlc] = {}  # updates of bars that have just begun, where these close the ones before
        self._load_work = trio.Event()
        self._repair_work = trio.Event()

    @property
    def intervals(self) -> tuple[str, ...]:
        return tuple(self._bars)

    def add(self, interval: str) -> list[str]:
        """Keep bars of one more interval from now on; returns the intervals that must be subscribed for it."""
        if interval in self._bars:
            return []
        self._bars[interval] = Bars(self._exchange, self._symbol, interval)
        self._load_work.set()
        if interval not in self._derived:
            return [interval]
        subscribe = self.add(BASE)
        self._derivations[interval] = self._new_derivation(interval)
        self._derivations[interval].restart(self._bars[BASE].rows)
        return subscribe

    def _new_derivation(self, interval: str) -> Derivation:
        return Derivation(interval, has_empty_bars=self._exchange.has_empty_bars)

    @property
    def subscribed(self) -> list[str]:
        """The intervals that come from the exchange itself."""
        return [interval for interval in self._bars if interval not in self._derivations]

    def restart(self) -> None:
        """Forget what is held; what readers were told is not told again."""
        self._derivations = {interval: self._new_derivation(interval) for interval in self._derivations}
        self._bars = {interval: bars.successor() for interval, bars in self._bars.items()}
        self._exchange_time = None
        self._early.clear()

    def interrupt(self, interval: str | None = None) -> None:
        """The connection was lost, or one interval's topic was."""
        for name, bars in self._bars.items():
            if interval is None or name == interval:
                bars.interrupt()
                self._early.pop(name, None)  # it is told anew

    # --- what the stream says ---

    def apply(self, bar: Ohlc, pushed_at: datetime) -> None:
        self._pass_time(pushed_at)
        if not self._exchange.closes_bars:
            if -UNSURE < pushed_at - bar.timestamp < SETTLE:
                self._early[bar.interval] = bar
                return
            early = self._early.get(bar.interval)
            if early is not None and early.timestamp <= bar.timestamp:
                del self._early[bar.interval]
        self._apply(bar, pushed_at)

    def _apply(self, bar: Ohlc, pushed_at: datetime) -> None:
        bars = self._bars.get(bar.interval)
        if bars is not None:
            self._tell(bar.interval, bars.apply(bar, pushed_at))
            self._set_to_work(bars)

    def notice(self, exchange_time: datetime) -> None:
        """Time passed at the exchange: a bar may be overdue."""
        self._pass_time(exchange_time)
        if self._early:
            self._release(exchange_time)
        base = self._bars.get(BASE)
        for interval, bars in self._bars.items():
            due = bars.due
            if bars.settles_at is None and (due is None or exchange_time < due):
                continue  # nearly always
            if interval in self._derivations and base is not None and base.is_unsure:
                continue  # the last of its minutes are still to come
            if bars.settles_at is not None and bars.has_settled(exchange_time):
                self._load_work.set()
            if bars.due is not None and exchange_time >= bars.due:
                self._tell(interval, bars.notice(exchange_time))
                self._set_to_work(bars)

    def _release(self, exchange_time: datetime) -> None:
        for interval, bar in list(self._early.items()):
            if exchange_time >= bar.timestamp + SETTLE:
                del self._early[interval]
                self._apply(bar, exchange_time)

    def _pass_time(self, exchange_time: datetime) -> None:
        if self._exchange_time is None or exchange_time > self._exchange_time:
            self._exchange_time = exchange_time

    def _tell(self, interval: str, said: list[Ohlc] | list[Ohlc | Gap]) -> None:
        for item in said:
            self._publish(interval, item)
            if interval == BASE:
                self._derive(item)

    def _derive(self, minute: Ohlc | Gap) -> None:
        if isinstance(minute, Gap):
            if not minute.repaired:
                for interval, derivation in self._derivations.items():
                    derivation.interrupt()
                    self._bars[interval].interrupt()
            return
        if self._exchange_time is None:
            return
        for interval, derivation in self._derivations.items():
            bars = self._bars[interval]
            bar = derivation.apply(minute)
            if bar is None:
                bars.interrupt()  # the open bar changed in a way that nobody can tell: it will have to be fetched
            else:
                self._tell(interval, bars.apply(bar, self._exchange_time))
            self._set_to_work(bars)

    def _set_to_work(self, bars: Bars) -> None:
        if bars.repair_from is not None:
            self._repair_work.set()
        if bars.needs_load:
            self._load_work.set()

    # --- answers from memory; None means: ask the exchange ---

    def current(self, interval: str) -> Ohlc | None:
        bars = self._bars.get(interval)
        return bars.current if bars else None

    def ohlc(self, interval: str, *, limit: int, start: datetime | None, end: datetime | None) -> list[Ohlc] | None:
        """Up to `limit` bars as the public contract orders them: the first after `start`, else the newest."""
        bars = self._bars.get(interval)
        if bars is None:
            return None
        if start is None:
            return bars.newest(limit, end)
        return bars.between(start, end, limit)

    def unheard(self, interval: str) -> datetime | None:
        """See `Bars.unheard`; None too where the interval is not kept."""
        bars = self._bars.get(interval)
        return bars.unheard(self._exchange_time) if bars and self._exchange_time else None

    def begun(self, interval: str, rows: list[Ohlc]) -> None:
        """See `Bars.begun`."""
        if bars := self._bars.get(interval):
            bars.begun(rows)

    def held_since(self, interval: str) -> datetime | None:
        """See `Bars.held_since`; None too where the interval is not kept."""
        bars = self._bars.get(interval)
        return bars.held_since() if bars else None

    def known_ohlc(self, interval: str, *, limit: int, end: datetime | None) -> list[Ohlc] | None:
        """See `Bars.known`; None too where the interval is not kept."""
        bars = self._bars.get(interval)
        return bars.known(limit, end) if bars else None

    def closed_bars(self, interval: str, count: int) -> tuple[datetime, list[Ohlc], bool] | None:
        """See `Bars.history_before_live`; None too where the interval is not kept."""
        bars = self._bars.get(interval)
        return bars.history_before_live(count) if bars else None

    def late(self, interval: str) -> int:
        """Updates dropped as duplicates or out of order."""
        bars = self._bars.get(interval)
        return bars.late if bars else 0

    # --- tasks ---

    async def load(self) -> None:
        """Fetch every interval's bars now and whenever memory has a hole. Returns when there are none; may be rerun.

        One interval's failure does not keep the others from loading; it is raised when they are done. No more feeds
        load at once than may ask at once: each holds the pages that it has until the budget has room for the next.
        """
        problem: MarketError | None = None
        for interval, bars in list(self._bars.items()):
            if self._needs_load(bars):
                try:
                    async with self._loads:
                        await self._load(interval, bars)
                except MarketError as error:
                    problem = error
        if problem is not None:
            raise problem

    async def _load(self, interval: str, bars: Bars) -> None:
        """Raises MarketError. What was fetched is forgotten at the end: it takes ten times what is held of it.

        In many small pieces, since a thousand feeds do so at once. Whatever the stream says in between finds all bars,
        packed or not, and each derivation as it was or begun anew.
        """
        rows = await self._background.ohlc(self._symbol, interval, limit=bars.history)
        await turns.room(turns.PAGE)
        self._tell(interval, bars.loaded(rows))
        if interval == BASE:
            for derivation in list(self._derivations.values()):
                await turns.room(turns.PAGE)
                derivation.restart(bars.rows)
        while bars.rows.pack():
            await turns.room()
        if bars.needs_load:
            raise NotReady(f"the {interval} bars do not yet reach up to the stream's")

    async def wait_for_holes(self) -> None:
        """Return when `load` has work."""
        while not any(self._needs_load(bars) for bars in self._bars.values()):
            self._load_work = trio.Event()
            await self._load_work.wait()

    def _needs_load(self, bars: Bars) -> bool:
        return bars.needs_load or (self._exchange_time is not None and bars.has_settled(self._exchange_time))

    async def repair(self) -> None:
        """Fetch closed bars that the stream did not deliver, for ever; newer ones wait for them, within a limit."""
        while True:
            interval = next((name for name, bars in self._bars.items() if bars.repair_from), None)
            if interval is None:
                self._repair_work = trio.Event()
                await self._repair_work.wait()
                continue
            bars = self._bars[interval]
            self._tell(interval, await self._repair(interval, bars))
            self._set_to_work(bars)

    async def _repair(self, interval: str, bars: Bars) -> list[Ohlc | Gap]:
        start, now = bars.repair_from, self._exchange_time
        if start is None or now is None:
            raise RuntimeError("nothing to repair")
        where = {"exchange": self._exchange.name, "symbol": self._symbol, "interval": interval}
        count = min((now - start) // INTERVALS[interval] + 2, self._exchange.history)
        rows: list[Ohlc] | None = None
        problem = f"no answer within {REPAIR_WITHIN:g} s"
        URGENCY.set(self._urgency())
        with trio.move_on_after(REPAIR_WITHIN):
            for pause in pauses():
                try:
                    rows = await self._repairs.ohlc(self._symbol, interval, start=start, limit=count)
                    if not bars.lacks(rows):
                        break
                except MarketError as error:
                    problem = str(error)
                    if not may_pass(error):
                        break
                await trio.sleep(pause)
        if rows is None:
            log.warning("bars.lost", since=start.isoformat(), reason=problem, **where)
            return bars.abandon(now, f"closed bars were not received: {problem}")
        told = bars.repaired(rows, now, "closed bars were not received")
        log.info("bars.repaired", since=start.isoformat(), bars=len(told), **where)
        return told
