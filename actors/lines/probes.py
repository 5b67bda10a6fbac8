"""Topics that fell silent: the exchange is asked whether anything happens that they should tell.

A quiet market is left alone; a topic that keeps silent about one that trades is doubted.
"""

from collections.abc import Callable, Mapping
from datetime import datetime

import structlog
import trio

from actors import clock
from actors.errors import MarketError
from actors.events import INTERVALS, Ohlc, Topic
from actors.exchanges.exchange import Rest
from actors.feeds.derivation import BASE
from actors.feeds.feed import Feed
from actors.lines.pool import Lines

LOOK_EVERY = 2.0  # seconds between looks for topics that are silent for longer than is usual for them
PROBE_AFTER = 5.0  # seconds between the two bars that tell whether anything happens at the exchange
RECENT = 3  # bars that are looked at: of what did not trade for days the last one may cost a search to find

log = structlog.get_logger()


class Probes:
    def __init__(
        self,
        feeds: Mapping[str, Feed],
        lines: Lines,
        rest: Rest,
        now: Callable[[], datetime],
        on_quiet: Callable[[], None] = lambda: None,
    ) -> None:
        self._feeds, self._lines, self._rest = feeds, lines, rest
        self._now = now  # the exchange's clock
        self._on_quiet = on_quiet  # a market stands still, or is not answered for: it may have ended
        self._probed: set[str] = set()  # symbols, one of whose topics is being looked into

    async def run(self) -> None:
        """For ever."""
        self._probed.clear()
        async with trio.open_nursery() as nursery:
            while True:
                await clock.tick(LOOK_EVERY)
                now = trio.current_time()
                for feed in self._feeds.values():
                    if feed.symbol not in self._probed and (topic := feed.overdue(now)):
                        self._probed.add(feed.symbol)
                        nursery.start_soon(self._probe, feed, topic)

    async def _probe(self, feed: Feed, topic: Topic) -> None:
        try:
            before = await self._latest(feed.symbol)
            await trio.sleep(PROBE_AFTER)
            after = await self._latest(feed.symbol)
        except MarketError as error:
            log.info("topic.not_probed", topic=str(topic), reason=str(error))
            self._on_quiet()
            feed.excuse(topic)  # nothing is known: ask again after another while
        else:
            if not _has_traded(before, after):
                feed.excuse()  # there is nothing that any of them could tell
                self._on_quiet()
            elif feed.is_overdue(topic):
                log.warning("topic.silent", topic=str(topic))
                self._lines.doubt(topic, f"no {topic.kind} data, though the exchange has some")
            feed.excuse(topic)
        self._probed.discard(feed.symbol)

    async def _latest(self, symbol: str) -> list[Ohlc]:
        start = self._now() - RECENT * INTERVALS[BASE]
        return await self._rest.ohlc(symbol, BASE, limit=RECENT + 1, start=start)


def _has_traded(before: list[Ohlc], after: list[Ohlc]) -> bool:
    """Whether the newest bar moved between two looks: a new one without volume says nothing."""
    if not after:
        return False
    if before and before[-1].timestamp == after[-1].timestamp:
        return after[-1].volume != before[-1].volume
    return after[-1].volume > 0
