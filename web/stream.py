"""The WebSocket streams: which path is which topic, and one client's life on it.

A client is accepted first and told what is wrong in a frame: a browser cannot read a refused handshake. Whatever a
client sends is read and dropped, so that its leaving is always noticed; a flood of it ends the client.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import msgspec
import trio
from msgspec import Struct

from actors.errors import MarketError, UnknownExchange
from actors.events import Event, FundingRate, Kind, LargeTrade, Liquidation, Ohlc, OpenInterest, Topic, Trade
from actors.everything import ALL, KINDS, Everything
from actors.spikes import OiSpike, Spikes
from web import parameters as p
from web.fanout import Client, Fanouts, Source
from web.outbox import Outbox, text_frame
from web.problems import BadParameter, InvalidParameters, NotFound, problem, problem_of
from web.rest import Connectors, connector_of
from web.server import OUTBOX
from web.socket import ClientLeft, websocket

POLICY_VIOLATION = 1008
ALLOWANCE = 40  # messages that a client may send at once
ALLOWANCE_PER_SECOND = 20.0


class Sources(NamedTuple):
    """Everything that topics are read from."""

    connectors: Connectors
    everything: Everything
    spikes: Spikes


class Stream(NamedTuple):
    """One kind of per-path stream."""

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
"""Of one exchange and symbol; those of `everything.KINDS` exist over all of them too."""

SPIKES = Stream(
    *("oi-vol", "oi-vol", p.SpikeStreamQuery, OiSpike, "open_interest"),
    "Unusual changes of open interest, confirmed by unusual volume or not",
)


def find_topic(path: str, args: p.MultiArgs, sources: Sources) -> tuple[Topic, p.StreamQuery]:
    """The topic that a path and its query name. Raises NotFound, InvalidParameters or MarketError."""
    match path.strip("/").split("/"):
        case ["ws", "oi-vol"]:
            return Topic("", "", "oi-vol"), p.parse(args, SPIKES.query)
        case ["ws", "all", name] if name in KINDS:
            stream = STREAMS[name]
            return Topic(ALL, "", stream.kind), p.parse(args, stream.query)
        case ["ws", exchange, symbol, name]:
            connector = connector_of(sources.connectors, exchange)
            if name not in STREAMS:
                raise NotFound(f"there is no stream {name[:60]!r}; known: {', '.join(STREAMS)}")
            stream = STREAMS[name]
            connector.check_capability(stream.capability)
            query = p.parse(args, stream.query)
            interval = query.interval if isinstance(query, p.OhlcStreamQuery) else None
            connector.check_interval(interval)
            return Topic(connector.name, symbol, stream.kind, interval), query
        case ["ws", exchange, *_] if exchange != ALL:
            connector_of(sources.connectors, exchange)
    raise NotFound(f"there is no stream at {path[:100]!r}; /ws-catalog lists them")


@contextmanager
def source_of(topic: Topic, sources: Sources) -> Iterator[tuple[Source, Topic]]:
    """What serves a topic, kept serving for as long as the block lasts; and the topic as it is spelled there."""
    if topic.kind == "oi-vol":
        yield sources.spikes, topic
    elif topic.exchange == ALL:
        yield sources.everything, topic
    else:
        with sources.connectors[topic.exchange].reading(topic) as feed:
            yield feed, topic._replace(symbol=feed.symbol)


def acceptance(query: p.StreamQuery, spikes: Spikes) -> Callable[[Any], bool] | None:
    """Which events a client wants; None for all of them."""
    match query:
        case p.ValueStreamQuery(min_value_usd=least) if least > 0:
            return lambda event: bool(event.value >= least)
        case p.SpikeStreamQuery(timeframes=text) if text:
            wanted = frozenset(text.split(","))
            if unknown := wanted.difference(spikes.timeframes):
                watched = ", ".join(spikes.timeframes)
                detail = f"{', '.join(sorted(unknown))[:60]!r} is not watched; watched are: {watched}"
                raise InvalidParameters([BadParameter("timeframes", detail)])
            return lambda event: event.timeframe in wanted
    return None


async def serve_stream(path: str, sources: Sources, fanouts: Fanouts, origins: list[str] | str) -> None:
    """One client's life on one stream."""
    if not is_allowed_origin(websocket.headers.get("Origin"), websocket.host, origins):
        detail = "pages of this origin may not connect: see server.cors_origins"
        told = problem("forbidden_origin", detail)
        await websocket.refuse(told.status, "application/problem+json", msgspec.json.encode(told))
        return
    await websocket.accept()
    outbox = outbox_of_client()
    try:
        topic, query = find_topic(path, websocket.args, sources)
        client = Client(outbox, accepts=acceptance(query, sources.spikes), wants_status=query.status)
        with source_of(topic, sources) as (source, spelled), fanouts.joined(source, spelled, client):
            await drain(outbox)
    except (MarketError, InvalidParameters, NotFound) as error:
        refuse(outbox, error, path)


def outbox_of_client() -> Outbox:
    """The way out of the WebSocket that is being handled; `web.server` put it there."""
    return cast(Outbox, websocket.scope["extensions"][OUTBOX])


def refuse(outbox: Outbox, error: MarketError | InvalidParameters | NotFound, path: str) -> None:
    """Say what is wrong in one frame, and close."""
    match path.strip("/").split("/"):
        case ["ws", exchange, symbol, _] if not isinstance(error, NotFound | UnknownExchange):
            where = {"exchange": exchange, "symbol": symbol}
        case _:
            where = {}
    told = problem_of(error, **where)
    # A problem's own `type` is a URI; a frame's says what kind of frame it is.
    frame = msgspec.to_builtins(told) | {"type": "error"}
    outbox.send(text_frame(msgspec.json.encode(frame)))
    outbox.close(POLICY_VIOLATION, told.code)


async def drain(outbox: Outbox) -> None:
    """Read and drop what the client sends until it leaves or sends too much."""
    allowance, checked_at = float(ALLOWANCE), trio.current_time()
    while True:
        try:
            await websocket.receive()
        except ClientLeft:
            return
        now = trio.current_time()
        allowance = min(ALLOWANCE, allowance + (now - checked_at) * ALLOWANCE_PER_SECOND) - 1
        checked_at = now
        if allowance < 0:
            outbox.close(POLICY_VIOLATION, "too many messages")
            return


def is_allowed_origin(origin: str | None, host: str, allowed: list[str] | str) -> bool:
    """A page of another site may not read streams through its visitor's browser unless the configuration allows it.

    Programs send no Origin; a page of this daemon sends its own address.
    """
    if origin is None or allowed == "*":
        return True
    return origin in allowed or urlsplit(origin).netloc == host


class StreamEntry(Struct, frozen=True):
    path: str
    topic: str
    summary: str
    parameters: list[str]
    event: str
    example: str


class StreamCatalog(Struct, frozen=True):
    streams: list[StreamEntry]


def catalog(sources: Sources) -> StreamCatalog:
    """Every WebSocket path and topic, with its parameters and an example that works here."""
    name, connector = next(iter(sources.connectors.items()), ("binance", None))
    symbol = next(iter(connector.symbols if connector else ()), "BTCUSDT")
    entries = []
    for stream in STREAMS.values():
        tail, query = (":{interval}", "?interval=1m") if stream.kind == "ohlc" else ("", "")
        path, topic = f"{{exchange}}/{{symbol}}/{stream.name}", f"{{exchange}}:{{symbol}}:{stream.kind}{tail}"
        entries.append(_entry(stream, path, topic, f"{name}/{symbol}/{stream.name}{query}"))
    for kind in KINDS:
        entries.append(_entry(STREAMS[kind], f"all/{kind}", f"all:{kind}", f"all/{kind}?min_value_usd=50000"))
    example = ",".join(sources.spikes.timeframes[:2])
    entries.append(_entry(SPIKES, SPIKES.name, SPIKES.name, f"{SPIKES.name}?timeframes={example}"))
    return StreamCatalog(entries)


def _entry(stream: Stream, path: str, topic: str, example: str) -> StreamEntry:
    parameters = [field.name for field in msgspec.structs.fields(stream.query)]
    return StreamEntry(f"/ws/{path}", topic, stream.summary, parameters, stream.event.type, f"/ws/{example}")
