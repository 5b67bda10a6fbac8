"""The WebSocket streams: which path is which topic, and one client's life on it.

A client is accepted first and told what is wrong in a frame: a browser cannot read a refused handshake. Whatever a
client sends is read and dropped, so that its leaving is always noticed; a flood of it ends the client.
"""

from typing import cast
from urllib.parse import urlsplit

import msgspec
import trio
from msgspec import Struct

from actors.errors import MarketError, UnknownExchange
from actors.feeds.everything import KINDS
from web.parameters import SocketQuery, parse
from web.problems import InvalidParameters, NotFound, problem, problem_of
from web.server.connections import OUTBOX
from web.server.outbox import Outbox, text_frame
from web.streams.fanout import Client, Fanout
from web.streams.fanouts import Fanouts
from web.streams.multiplex import SOCKET, ClientLimits, Multiplex
from web.streams.pacing import Batcher
from web.streams.socket import ClientLeft, websocket
from web.streams.topics import SPIKES, STREAMS, Sources, Stream, Wanted, find_by_path

POLICY_VIOLATION = 1008
ALLOWANCE = 40  # messages that a client may send at once
ALLOWANCE_PER_SECOND = 20.0


async def serve_stream(path: str, fanouts: Fanouts, limits: ClientLimits, origins: list[str] | str) -> None:
    """One client's life on one stream."""
    if not is_allowed_origin(websocket.headers.get("Origin"), websocket.host, origins):
        detail = "pages of this origin may not connect: see server.cors_origins"
        told = problem("forbidden_origin", detail)
        await websocket.refuse(told.status, "application/problem+json", msgspec.json.encode(told))
        return
    await websocket.accept()
    outbox = outbox_of_client()
    try:
        if path == SOCKET:
            await serve_socket(outbox, fanouts, limits, parse(websocket.args, SocketQuery))
        else:
            await serve_topic(outbox, fanouts, find_by_path(path, websocket.args, fanouts.sources))
    except (MarketError, InvalidParameters, NotFound) as error:
        refuse(outbox, error, path)


async def serve_topic(outbox: Outbox, fanouts: Fanouts, wanted: Wanted) -> None:
    """One client's life on a per-path stream."""
    query = wanted.query
    with fanouts.holding(wanted) as fanout:
        if not query.batch_ms:
            await follow(outbox, Client(outbox, wants_status=query.status), fanout)
            return
        async with trio.open_nursery() as nursery:
            batcher = Batcher(outbox, query.batch_ms / 1000, nursery.start_soon)
            await follow(outbox, Client(batcher, wants_status=query.status), fanout)
            nursery.cancel_scope.cancel()


async def follow(outbox: Outbox, client: Client, fanout: Fanout) -> None:
    """Send a topic to `client` until the program behind `outbox` leaves."""
    fanout.join(client)
    try:
        await drain(outbox)
    finally:
        fanout.leave(client)


async def serve_socket(outbox: Outbox, fanouts: Fanouts, limits: ClientLimits, query: SocketQuery) -> None:
    """One client's life on `/ws`."""
    async with trio.open_nursery() as nursery:
        out = Batcher(outbox, query.batch_ms / 1000, nursery.start_soon) if query.batch_ms else outbox
        multiplex = Multiplex(out, fanouts, limits, nursery)
        try:
            while multiplex.take(await websocket.receive()):
                pass
        except ClientLeft:
            pass
        finally:
            multiplex.close()
        nursery.cancel_scope.cancel()


def outbox_of_client() -> Outbox:
    """The way out of the WebSocket that is being handled; `web.server.connections` put it there."""
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
    try:
        return origin in allowed or urlsplit(origin).netloc == host
    except ValueError:  # not an origin at all
        return False


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
    summary = "Any of these topics on one connection, by commands; /sse has them over HTTP"
    entries.append(StreamEntry(SOCKET, "{topic}", summary, [], "any", SOCKET))
    return StreamCatalog(entries)


def _entry(stream: Stream, path: str, topic: str, example: str) -> StreamEntry:
    parameters = [field.name for field in msgspec.structs.fields(stream.query)]
    return StreamEntry(f"/ws/{path}", topic, stream.summary, parameters, stream.event.type, f"/ws/{example}")
