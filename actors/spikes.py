"""Spikes of open interest and volume: rolling z-scores over closed bars, per symbol and timeframe.

The statistic is the standard score z = (x - mean) / s of the newest sample against the ones before it, with the sample
standard deviation s (n - 1), over a rolling window (NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.5.17 and
7.1.6). For open interest x is its change over a bar, for volume the bar's base volume. The newest sample is not part of
the window it is judged by, and samples are distinct: a bar counts once, and open interest that the exchange has not
updated since the last bar is no sample.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from math import sqrt
from statistics import fmean

import structlog
import trio

from actors.broadcast import Broadcast, Lagged, Reader
from actors.connector import Connector
from actors.errors import MarketError
from actors.events import Event, Ohlc, OiSpike, OpenInterest, Said, Topic
from actors.exchanges.exchange import Supervise
from actors.feeds.feed import Feed

SAMPLES_MIN = 20  # fewer say nothing about what is usual
CAPACITY = 256  # bar updates that may wait for a detector

log = structlog.get_logger()


class Score:
    """The standard score of samples against a rolling window of the ones before."""

    def __init__(self, window: int) -> None:
        self._samples: deque[float] = deque(maxlen=window)

    def judge(self, sample: float) -> float | None:
        """Its z-score (None while the window says nothing), after which it is part of the window."""
        z = None
        if len(self._samples) >= SAMPLES_MIN:
            mean = fmean(self._samples)
            # Not statistics.stdev: its exact fractions cost ten times as much, for every bar of every symbol.
            spread = sqrt(sum((other - mean) ** 2 for other in self._samples) / (len(self._samples) - 1))
            if spread > 0:
                z = (sample - mean) / spread
        self._samples.append(sample)
        return z


class Detector:
    """One symbol and timeframe: closed bars and open interest in, spikes out. No I/O."""

    def __init__(self, timeframe: str, window: int, threshold: float) -> None:
        self._timeframe = timeframe
        self._threshold = threshold
        self._oi, self._volume = Score(window), Score(window)
        self._last_bar: datetime | None = None
        self._last_interest: OpenInterest | None = None

    def learn(self, bars: Sequence[Ohlc], interests: Sequence[OpenInterest]) -> None:
        """History: fills the windows, tells nothing."""
        for bar in bars:
            if bar.is_closed and (self._last_bar is None or bar.timestamp > self._last_bar):
                self._last_bar = bar.timestamp
                self._volume.judge(bar.volume)
        for interest in interests:
            self._change(interest)

    def on_close(self, bar: Ohlc, interest: OpenInterest | None) -> OiSpike | None:
        """A bar closed while open interest was `interest`."""
        if self._last_bar is not None and bar.timestamp <= self._last_bar:
            return None
        self._last_bar = bar.timestamp
        z_vol = self._volume.judge(bar.volume)
        z_oi = self._change(interest)
        if z_oi is None or z_vol is None or abs(z_oi) < self._threshold:
            return None
        return OiSpike(
            exchange=bar.exchange,
            symbol=bar.symbol,
            timestamp=bar.timestamp,
            timeframe=self._timeframe,
            z_oi=round(z_oi, 3),
            z_vol=round(z_vol, 3),
            confirmed=z_vol >= self._threshold,
        )

    def _change(self, interest: OpenInterest | None) -> float | None:
        """The z-score of the change since the last distinct open interest."""
        last = self._last_interest
        if interest is None or (last is not None and interest.timestamp <= last.timestamp):
            return None
        self._last_interest = interest
        return None if last is None else self._oi.judge(interest.open_interest - last.open_interest)


class Spikes:
    """Watches every configured symbol; a source of topics like a feed.

    `also`: told of each spike as well, under a topic of its exchange, symbol and timeframe.
    """

    def __init__(
        self,
        connectors: Mapping[str, Connector],
        *,
        timeframes: Sequence[str],
        window: int,
        threshold: float,
        symbols: Sequence[str],
        supervise: Supervise,
        also: Callable[[Topic, OiSpike], None] | None = None,
    ) -> None:
        self.timeframes = tuple(timeframes)
        self._connectors = connectors
        self._window, self._threshold = window, threshold
        self._symbols = frozenset(symbols)  # of any exchange; none given: every configured one
        self._supervise = supervise
        self._also = also
        self._broadcast: Broadcast[Said] = Broadcast()
        self._watched: dict[tuple[str, str, str], trio.CancelScope] = {}  # exchange, symbol, timeframe
        self._nursery: trio.Nursery | None = None  # while it runs
        self.received_at: None = None  # a spike is computed

    def subscribe(self, topic: Topic, capacity: int) -> Reader[Said]:
        """A reader of every spike."""
        return self._broadcast.subscribe(capacity)

    def current(self, topic: Topic) -> Event | None:
        return None

    def change(self, *, timeframes: Sequence[str], window: int, threshold: float, symbols: Sequence[str]) -> None:
        """By other settings, or of other symbols that are collected; readers stay, and what is the same goes on."""
        if (window, threshold) != (self._window, self._threshold):
            self._window, self._threshold = window, threshold
            for scope in self._watched.values():
                scope.cancel()
            self._watched.clear()
        self.timeframes, self._symbols = tuple(timeframes), frozenset(symbols)
        self.update()

    async def run(self) -> None:
        """Watch until cancelled; each symbol and timeframe is a task of its own, and restarts alone."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.update()
            await trio.sleep_forever()

    def update(self) -> None:
        """Watch what is to be watched of what is collected now, and nothing else."""
        if self._nursery is None:
            return
        wanted = {
            (name, symbol, timeframe)
            for name, connector in self._connectors.items()
            for symbol in connector.symbols
            if not self._symbols or symbol in self._symbols
            for timeframe in self.timeframes
            if timeframe in connector.exchange.intervals
        }
        for over in self._watched.keys() - wanted:
            self._watched.pop(over).cancel()
        for name, symbol, timeframe in sorted(wanted - self._watched.keys()):
            scope = self._watched[name, symbol, timeframe] = trio.CancelScope()
            self._nursery.start_soon(self._supervised, self._connectors[name], symbol, timeframe, scope)

    async def _supervised(self, connector: Connector, symbol: str, timeframe: str, scope: trio.CancelScope) -> None:
        async def watch() -> None:
            await self._watch(connector, symbol, timeframe)

        with scope:
            await self._supervise("spikes", watch, exchange=connector.name, symbol=symbol, timeframe=timeframe)

    async def _watch(self, connector: Connector, symbol: str, timeframe: str) -> None:
        topic = Topic(connector.name, symbol, "ohlc", timeframe)
        await connector.listed.wait()
        if connector.catalogue.problem_of(symbol):
            return  # the feed's own state says so
        with connector.reading(topic) as feed, feed.subscribe(topic, CAPACITY) as reader:
            detector = Detector(timeframe, self._window, self._threshold)
            await self._teach(detector, connector, symbol, timeframe)
            while True:
                await self._follow(detector, feed, reader)

    async def _teach(self, detector: Detector, connector: Connector, symbol: str, timeframe: str) -> None:
        """Fill the windows from history, as far as the exchange has it; without it they fill with time."""
        try:
            bars = await connector.ohlc(symbol, timeframe, limit=self._window, start=None, end=None, background=True)
            interests: Sequence[OpenInterest] = ()
            if timeframe in connector.exchange.open_interest_periods:
                interests = await connector.open_interest_history(
                    symbol, timeframe, limit=min(self._window + 1, 500), start=None, end=None, background=True
                )
        except MarketError as error:
            log.info("spikes.no_history", exchange=connector.name, symbol=symbol, reason=str(error))
        else:
            detector.learn(bars, interests)

    async def _follow(self, detector: Detector, feed: Feed, reader: Reader[Said]) -> None:
        try:
            said = await reader.receive()
        except Lagged:
            raise MarketError("fell behind the feed") from None
        if isinstance(said, Ohlc) and said.is_closed:
            spike = detector.on_close(said, feed.last_open_interest())
            if spike is not None:
                self._broadcast.publish(spike)
                if self._also is not None:
                    self._also(Topic(spike.exchange, spike.symbol, "oi-vol", spike.timeframe), spike)
