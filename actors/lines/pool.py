"""The lines of one exchange: which socket carries which feed, and when a socket is replaced before its time is up.

A line that grows old is handed over: another one asks for the same topics, and only when it delivers is the old one
ended. Feeds hear both meanwhile, and drop what they are told twice.
"""

import ssl
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from math import inf

import structlog
import trio

from actors import clock
from actors.counts import Counts
from actors.events import Instrument, Topic
from actors.exchanges.exchange import Exchange, Supervise
from actors.feeds.feed import Feed
from actors.lines.line import Line
from actors.upstream.seam import Upstream

LOOK_EVERY = 1.0  # seconds between looks for lines that grow old
LOOK = 0.1  # seconds between looks whether a new line delivers
TRY_AGAIN = 600.0  # seconds
HANDOVER_WITHIN = 60.0  # seconds in which a new line must deliver; else the old one stays, and another tries later
YOUNGEST = 5.0  # seconds before a connection is replaced though all of an exchange's servers announce their end
SPREAD = 0.05  # the fraction of a lifetime by which lines differ: those opened together are not replaced together

log = structlog.get_logger()


class Lines:
    def __init__(
        self,
        exchange: Exchange,
        url: str,
        tls: ssl.SSLContext | None,
        instruments: Mapping[str, Instrument],
        nursery: trio.Nursery,
        supervise: Supervise,
        exchange_time: Callable[[datetime], datetime],
        upstream: Upstream,
        counts: Counts | None = None,
    ) -> None:
        self._exchange = exchange
        self._url, self._tls = url, tls
        self._instruments = instruments
        self._nursery = nursery
        self._supervise = supervise
        self._exchange_time = exchange_time  # what the exchange's clock shows at a moment of ours
        self._upstream = upstream
        self._counts = counts or Counts()
        self._all: list[Line] = []
        self._of: dict[tuple[str, str], Line] = {}  # by symbol and path
        self._made = 0
        self._connecting, self._next_connect = trio.Lock(), float("-inf")

    def __contains__(self, symbol: str) -> bool:
        return any(symbol == carried for carried, _ in self._of)

    @property
    def connected(self) -> int:
        """Lines that have a connection."""
        return sum(line.is_up for line in self._all)

    def no_room_for(self, topics: Iterable[Topic], carried: Iterable[Topic]) -> str | None:
        """Why topics cannot be subscribed to beside those carried; None where the exchange does not limit their number.

        Feeds are served in the order of their coming: those beyond the limit wait for the next look at the catalogue.
        """
        limit = self._exchange.limits.subscriptions
        if limit is None:
            return None
        needed = {self._exchange.subscription_of(topic) for topic in (*carried, *topics)}
        if len(needed) <= limit:
            return None
        return f"{self._exchange.name} allows {limit} subscriptions in all, and {len(needed)} would be needed"

    def carry(self, feed: Feed, topics: list[Topic]) -> None:
        """Give a feed's topics to the lines it is on already, or to the first ones with room."""
        for path, some in self._by_path(topics).items():
            line = self._of.get((feed.symbol, path))
            if line is None:
                room = self._exchange.limits.topics - len(some)
                lines = (line for line in self._all if line.path == path and len(line) <= room and not line.stands_in)
                line = next(lines, None) or self._open(path)
            self._of[feed.symbol, path] = line
            line.add(feed, some)

    def _by_path(self, topics: Iterable[Topic]) -> dict[str, list[Topic]]:
        found: dict[str, list[Topic]] = {}
        for topic in topics:
            found.setdefault(self._exchange.path_of(topic.kind), []).append(topic)
        return found

    def drop(self, feed: Feed) -> None:
        """Carry a feed no longer."""
        for key in [key for key in self._of if key[0] == feed.symbol]:
            line = self._of.pop(key)
            line.remove(feed.upstream_topics())
            if len(line) == 0:
                self._end(line)

    def doubt(self, topic: Topic, reason: str) -> None:
        """A topic should have spoken: see Line.doubt."""
        if line := self._of.get((topic.symbol, self._exchange.path_of(topic.kind))):
            line.doubt(topic, reason)

    def _open(self, path: str, *, stands_in: bool = False) -> Line:
        self._made += 1
        line = Line(
            self._exchange,
            self._url,
            self._tls,
            self._instruments,
            self._ready_to_connect,
            self._made,
            self._exchange_time,
            self._upstream,
            path=path,
            counts=self._counts,
            stands_in=stands_in,
        )
        self._all.append(line)
        self._nursery.start_soon(self._run, line)
        return line

    async def _run(self, line: Line) -> None:
        with line.scope:
            await self._supervise(
                "line", line.run, on_change=line.changed, exchange=self._exchange.name, line=line.number
            )
            self._forget(line)  # it was given up: nothing new may be put on it

    def _end(self, line: Line) -> None:
        self._forget(line)
        line.scope.cancel()

    def _forget(self, line: Line) -> None:
        if line in self._all:
            self._all.remove(line)

    async def _ready_to_connect(self) -> None:
        """Space out the connection attempts of all lines, also those that are due at once as the machine was busy."""
        async with self._connecting:
            await trio.sleep_until(self._next_connect)
            self._next_connect = trio.current_time() + self._exchange.limits.connect_spacing

    # --- replacing lines before the exchange cuts them ---

    async def replace_the_old(self) -> None:
        """For ever: also those whose end the exchange has announced."""
        lifetime = self._exchange.limits.lifetime or inf
        lives: dict[Line, float] = {}  # seconds that each connection may last
        while True:
            await clock.tick(LOOK_EVERY)
            lives = {line: lives.get(line) or lifetime * (1 - SPREAD * _share(line.number)) for line in self._all}
            for line, life in list(lives.items()):
                is_due = line.age > life or (line.is_leaving and line.age > YOUNGEST)
                if is_due and not await self._replace(line) and not line.is_leaving:
                    lives[line] = line.age + TRY_AGAIN

    async def _replace(self, old: Line) -> bool:
        new = self._open(old.path, stands_in=True)
        new.follow(old)
        with trio.move_on_after(HANDOVER_WITHIN):
            while not new.delivers_like(old):  # noqa: ASYNC110 (plain state of another task)
                await trio.sleep(LOOK)
        if not new.delivers_like(old) or old not in self._all:
            log.warning("line.not_replaced", exchange=self._exchange.name, line=old.number, by=new.number)
            self._end(new)
            return False
        new.follow(old)  # what was added to it or taken from it meanwhile
        for key, line in self._of.items():
            if line is old:
                self._of[key] = new
        new.takes_over()
        self._end(old)
        self._counts.disconnects["rotation"] += 1
        log.info("line.replaced", exchange=self._exchange.name, line=old.number, by=new.number)
        return True


def _share(number: int) -> float:
    """From 0 to 1: far apart for numbers in a row, and the same each time, so that a recording can be replayed."""
    return number * 0.618033988749895 % 1
