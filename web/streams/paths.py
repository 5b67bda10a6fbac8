"""The WebSocket streams: which path is which topic, and one client's life on it.

What cannot be had is told in a frame, see `web.streams.entry`. Whatever a client sends is read and dropped, so that its
leaving is always noticed; a flood of it ends the client.
"""

import msgspec
import trio
from msgspec import Struct

from actors.errors import MarketError, RateLimited, UnknownExchange
from actors.feeds.everything import KINDS
from web.access.account import Account
from web.parameters import SocketQuery, parse
from web.problems import InvalidParameters, NotFound, problem_of
from web.server.outbox import Outbox, text_frame
from web.streams.entry import Enter
from web.streams.fanout import Client, Fanout
from web.streams.fanouts import Fanouts
from web.streams.multiplex import NO_TOPIC, SOCKET, TOPIC_WITHIN, ClientLimits, Multiplex
from web.streams.pacing import Batcher
from web.streams.shares import TOO_MUCH, following, metered
from web.streams.socket import ClientLeft, websocket
from web.streams.topics import SPIKES, STREAMS, Sources, Stream, Wanted, find_by_path

POLICY_VIOLATION = 1008
ALLOWANCE = 40  # messages that a client may send at once
ALLOWANCE_PER_SECOND = 20.0


async def serve_stream(path: str, fanouts: Fanouts, limits: ClientLimits, enter: Enter) -> None:
    """One client's life on one stream."""

    async def serve(outbox: Outbox, account: Account) -> None:
        try:
            if path == SOCKET:
                await serve_socket(outbox, fanouts, limits, account, parse(websocket.args, SocketQuery))
            else:
                wanted = find_by_path(path, websocket.args, fanouts.sources)
                await serve_topic(outbox, fanouts, account, wanted)
        except (MarketError, InvalidParameters, NotFound) as error:
            refuse(outbox, error, path)

    await enter(serve)


async def serve_topic(outbox: Outbox, fanouts: Fanouts, account: Account, wanted: Wanted) -> None:
    """One client's life on a per-path stream."""
    query = wanted.query
    with following(account, fanouts, wanted) as fanout:
        await fanout.trunk.collected()
        if not query.batch_ms:
            await follow(outbox, Client(metered(outbox, account), wants_status=query.status), fanout)
            return
        async with trio.open_nursery() as nursery:
            batcher = Batcher(outbox, query.batch_ms / 1000, nursery.start_soon)
            await follow(outbox, Client(metered(batcher, account), wants_status=query.status), fanout)
            nursery.cancel_scope.cancel()


async def follow(outbox: Outbox, client: Client, fanout: Fanout) -> None:
    """Send a topic to `client` until the program behind `outbox` leaves."""
    fanout.join(client)
    try:
        await drain(outbox)
    finally:
        fanout.leave(client)


async def serve_socket(
    outbox: Outbox, fanouts: Fanouts, limits: ClientLimits, account: Account, query: SocketQuery
) -> None:
    """One client's life on `/ws`."""
    async with trio.open_nursery() as nursery:
        out = Batcher(outbox, query.batch_ms / 1000, nursery.start_soon) if query.batch_ms else outbox
        multiplex = Multiplex(metered(out, account), fanouts, limits, nursery, account)
        try:
            with multiplex.waiting:
                while multiplex.take(await websocket.receive()):
                    pass
        except ClientLeft:
            pass
        finally:
            multiplex.close()
        if multiplex.waiting.cancelled_caught:
            outbox.close(NO_TOPIC, f"no topic for {TOPIC_WITHIN:g} s")
        nursery.cancel_scope.cancel()


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
    outbox.close(TOO_MUCH if isinstance(error, RateLimited) else POLICY_VIOLATION, told.code)


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
