"""Which topics there are, how clients name them, and where they are read from.

A topic has two names: the path of its own stream (`/ws/binance/BTCUSDT/ohlc?interval=1m`) and the one that `/ws` and
`/sse` take (`binance:BTCUSDT:ohlc:1m`). A filter (`?min_value_usd=`) is part of the name: what it lets through is
counted and remembered as a topic of its own.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

from werkzeug.datastructures import MultiDict

from actors.broadcast import Reader
from actors.events import (
    Event,
    FundingRate,
    Kind,
    LargeTrade,
    Liquidation,
    Ohlc,
    OiSpike,
    OpenInterest,
    Topic,
    Trade,
)
from actors.exchanges.exchange import Exchange
from actors.feeds.everything import ALL, KINDS, Everything
from actors.relayed import Numbering, Recalled, Told
from actors.spikes import Spikes
from web import parameters as p
from web.connectors import Connectors
from web.problems import BadParameter, InvalidParameters, NotFound
from web.rest.route import connector_of
from web.streams.pacing import Conflater


class Source(Protocol):
    """What topics are read from: a feed, or a stream over many."""

    @property
    def received_at(self) -> datetime | None:
        """When what it tells at the moment was received; None: that is nothing that was received."""

    def subscribe(self, topic: Topic, capacity: int) -> Reader[Told]: ...
    def current(self, topic: Topic) -> Event | None: ...


@runtime_checkable
class NumberedSource(Source, Protocol):
    """One whose events come with numbers that others give too: a topic's place is the same wherever it is told."""

    def numbering(self, topic: Topic) -> Numbering: ...
    async def recall(self, topic: Topic, behind: int) -> list[Recalled] | None:
        """What is remembered of a topic beyond this process, the oldest first; None where that cannot be told now.

        `behind`: the number of the event behind which all is asked for. More may be told.
        """


@runtime_checkable
class SharedSource(Source, Protocol):
    """One that somebody else collects, where there is room for it."""

    def is_collected(self, topic: Topic) -> bool:
        """Whether a topic is told; else it may yet be. Raises UpstreamLimited where it is known that it cannot be."""

    async def collected(self, topic: Topic) -> None:
        """Wait until a topic is told. Raises UpstreamLimited."""


@runtime_checkable
class BarSource(Source, Protocol):
    """One that keeps bars: a feed."""

    @property
    def symbol(self) -> str: ...
    @property
    def exchange(self) -> Exchange: ...

    def closed_bars(self, interval: str, count: int) -> tuple[datetime, list[Ohlc], bool] | None: ...


class NumberedFeed(BarSource, NumberedSource, Protocol):
    """A feed that several nodes tell, under one numbering."""


class NumberedFeeds(Protocol):
    """Those of an exchange."""

    def reading(self, topic: Topic) -> AbstractContextManager[NumberedFeed]: ...


class Sources(NamedTuple):
    """Everything that topics are read from."""

    connectors: Connectors
    everything: Everything
    spikes: Spikes
    shared: Mapping[str, NumberedFeeds] = MappingProxyType({})  # by exchange, where other nodes may be who tells
    everywhere: Source | None = None  # there also who tells what is over everything, and spikes


class Stream(NamedTuple):
    """One kind of stream."""

    name: str  # in the path
    kind: Kind
    query: type[p.StreamQuery]
    event: type[Event]
    capability: str
    summary: str


STREAMS = {
    stream.name: stream
    for stream in (
        Stream("ohlc", "ohlc", p.OhlcStreamQuery, Ohlc, "ohlc", "The current bar at once, then every update"),
        Stream("trades", "trades", p.StreamQuery, Trade, "trades", "Every trade"),
        Stream(
            *("large_trades", "large_trades", p.ValueStreamQuery, LargeTrade, "large_trades"),
            "Trades of at least the configured value",
        ),
        Stream("liquidations", "liquidations", p.ValueStreamQuery, Liquidation, "liquidations", "Forced orders"),
        Stream("funding", "funding", p.StreamQuery, FundingRate, "funding_rate", "The funding rate as it changes"),
        Stream("oi", "oi", p.StreamQuery, OpenInterest, "open_interest", "Open interest as it changes"),
    )
}
"""Of one exchange and symbol; those of `everything.KINDS` exist over all of them too. Name and kind are the same."""

SPIKES = Stream(
    *("oi-vol", "oi-vol", p.SpikeStreamQuery, OiSpike, "open_interest"),
    "Unusual changes of open interest, confirmed by unusual volume or not",
)


NOT_IN_NAMES = {
    "status": "is for per-path streams; here status and gap always come",
    "batch_ms": "is for per-path streams and for /ws itself, not for one of its topics",
}
"""Parameters of streams that are not part of a topic's name, and why."""


class Wanted(NamedTuple):
    """A topic as a client asked for it, and what of it."""

    topic: Topic  # the symbol in the client's spelling
    query: p.StreamQuery


def find_by_path(path: str, args: p.MultiArgs, sources: Sources) -> Wanted:
    """The topic that a path and its query name. Raises NotFound, InvalidParameters or MarketError."""
    match path.strip("/").split("/"):
        case ["ws", "oi-vol"]:
            return Wanted(Topic("", "", "oi-vol"), p.parse(args, SPIKES.query))
        case ["ws", "all", name] if name in KINDS:
            stream = STREAMS[name]
            return Wanted(Topic(ALL, "", stream.kind), p.parse(args, stream.query))
        case ["ws", exchange, symbol, name]:
            return _of_feed(exchange, symbol, name, args, sources)
        case ["ws", exchange, *_] if exchange != ALL:
            connector_of(sources.connectors, exchange)
    raise NotFound(f"there is no stream at {path[:100]!r}; /ws-catalog lists them")


def find_by_name(name: str, sources: Sources) -> Wanted:
    """The topic of a name such as `binance:BTCUSDT:ohlc:1m` or `all:liquidations?min_value_usd=50000`.

    Symbols may hold colons (`hyperliquid:xyz:TSLA:trades`). Raises as `find_by_path` does.
    """
    text, _, query = name.partition("?")
    args = MultiDict(_pairs(query))
    if stray := [BadParameter(name, said) for name, said in NOT_IN_NAMES.items() if name in args]:
        raise InvalidParameters(stray)
    match text.split(":"):
        case ["oi-vol"]:
            return Wanted(Topic("", "", "oi-vol"), p.parse(args, SPIKES.query))
        case ["all", kind] if kind in KINDS:
            stream = STREAMS[kind]
            return Wanted(Topic(ALL, "", stream.kind), p.parse(args, stream.query))
        case [exchange, *symbol, "ohlc", interval] if symbol:
            if "interval" in args:
                raise InvalidParameters([BadParameter("interval", "is already part of the topic's name")])
            args["interval"] = interval
            return _of_feed(exchange, ":".join(symbol), "ohlc", args, sources)
        case [exchange, *symbol, kind] if symbol:
            return _of_feed(exchange, ":".join(symbol), kind, args, sources)
    raise NotFound(f"there is no topic {name[:100]!r}; /ws-catalog lists them")


def _pairs(query: str) -> list[tuple[str, str]]:
    pairs = [part.partition("=") for part in query.split("&") if part]
    return [(key, value) for key, _, value in pairs]


def _of_feed(exchange: str, symbol: str, name: str, args: p.MultiArgs, sources: Sources) -> Wanted:
    connector = connector_of(sources.connectors, exchange)
    if name not in STREAMS:
        raise NotFound(f"there is no stream {name[:60]!r}; known: {', '.join(STREAMS)}")
    stream = STREAMS[name]
    connector.check_capability(stream.capability)
    query = p.parse(args, stream.query)
    interval = query.interval if isinstance(query, p.OhlcStreamQuery) else None
    connector.check_interval(interval)
    return Wanted(Topic(connector.name, symbol, stream.kind, interval), query)


def name_of(topic: Topic, query: p.StreamQuery) -> str:
    """The one name of a topic, its filter included."""
    match query:
        case p.ValueStreamQuery(min_value_usd=least) if least > 0:
            return f"{topic}?min_value_usd={_short(least)}"
        case p.OhlcStreamQuery(max_rate=rate) if rate > 0:
            return f"{topic}?max_rate={_short(rate)}"
        case p.SpikeStreamQuery(timeframes=text) if text:
            return f"{topic}?timeframes={','.join(dict.fromkeys(text.split(',')))}"
    return str(topic)


def _short(number: float) -> str:
    return str(int(number) if number.is_integer() and number < 1e15 else number)


def acceptance(query: p.StreamQuery, spikes: Spikes) -> Callable[[Any], bool] | None:
    """Which events are wanted; None for all of them."""
    match query:
        case p.ValueStreamQuery(min_value_usd=least) if least > 0:
            return lambda event: event.value >= least
        case p.SpikeStreamQuery(timeframes=text) if text:
            wanted = frozenset(text.split(","))
            if unknown := wanted.difference(spikes.timeframes):
                watched = ", ".join(spikes.timeframes)
                detail = f"{', '.join(sorted(unknown))[:60]!r} is not watched; watched are: {watched}"
                raise InvalidParameters([BadParameter("timeframes", detail)])
            return lambda event: event.timeframe in wanted
    return None


def conflater(query: p.StreamQuery) -> Conflater | None:
    """What keeps the rate of a topic's updates down, where that is asked for."""
    match query:
        case p.OhlcStreamQuery(max_rate=rate) if rate > 0:
            return Conflater(rate)
    return None


@contextmanager
def source_of(topic: Topic, sources: Sources) -> Iterator[tuple[Source, Topic]]:
    """What serves a topic, kept serving for as long as the block lasts; and the topic as it is spelled there."""
    if topic.kind == "oi-vol":
        yield sources.everywhere or sources.spikes, topic
    elif topic.exchange == ALL:
        yield sources.everywhere or sources.everything, topic
    else:
        feeds = sources.shared.get(topic.exchange) or sources.connectors[topic.exchange]
        with feeds.reading(topic) as feed:
            yield feed, topic._replace(symbol=feed.symbol)
