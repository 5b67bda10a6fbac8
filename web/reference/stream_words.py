"""What the AsyncAPI document says in words, and an example of everything that a stream may carry.

Only text and values live here. Examples are instances of what is encoded into frames, so they cannot drift from it;
what holds for REST and streams alike is in `web.reference.words`.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec

from actors.events import Event, FundingRate, Gap, LargeTrade, Liquidation, Ohlc, OiSpike, OpenInterest, Status, Trade
from web.problems import BadParameter, InvalidParameters, problem_of
from web.reference.examples import EXAMPLES as ANSWERS
from web.server.connections import Limits
from web.streams.commands import Ack, Live, Ping, Pong, Subscribe, Unsubscribe
from web.streams.memory import Position
from web.streams.multiplex import TOPIC_WITHIN
from web.streams.sse import RETRY_MS

ABOUT = """\
Streams of bars, trades, liquidations, funding and open interest of crypto derivatives exchanges, in one shape for \
all of them. Every WebSocket message is one text frame that holds one JSON object; its `type` (a client's `op`) says \
what it is. More members and more types may be added: a client ignores those that it does not know.

**Two ways to the same topics.** Each topic has a path of its own, whose frames hold `type` and the event's members, \
and nothing has to be sent to it. `/ws` carries many topics on one connection: its frames also name their `topic` and \
are numbered, so that a client that was away is told what it missed. `GET /sse`, which `/openapi.json` describes, \
carries the frames of `/ws` to programs that only have an HTTP client.

**Times** are ISO 8601 in UTC, ending in `Z`. **Symbols** are the exchange's own spelling, in any case where that is \
unambiguous. **Quantities** are in units of the base asset, **values** in units of the quote asset. A member is \
`null` where the exchange does not say.

**Nothing else ends a stream.** When the connection to an exchange breaks, clients stay connected and the stream \
resumes; `status` and `gap` frames say so, on `/ws` always, on other paths with `?status=1`. A connection is closed \
with:
"""

_LIMITS = Limits()
CLOSES = {
    1001: "The daemon is stopping.",
    1008: "There is no such stream, as an `error` frame has said; or the client sent too much.",
    1009: f"A message of the client was longer than {_LIMITS.message_bytes} bytes.",
    1011: "A fault of the daemon; its log says why.",
    4401: "A key is needed, or the one given is not valid, or not any more. Coming back without another is no use.",
    4403: "The key does not allow this.",
    4408: f"A connection to `/ws` had no topic for {TOPIC_WITHIN:g} s.",
    4429: "The client is over one of its limits, which an `error` frame has named: come back after its `retry_after`.",
    1013: f"The client fell too far behind: {_LIMITS.outbox_bytes} bytes waited for it. Or the daemon is overloaded.",
}
"""What each close code means."""

TOPICS = """\
A topic's name is `{{exchange}}:{{symbol}}:{{stream}}`, for bars with their interval behind; over everything that is \
collected `all:{{stream}}`. A filter follows as a query, and makes a topic of its own: `?min_value_usd=50000`. A name \
has at most {name_length} characters. Answers and frames have the one spelling of a topic: the exchange's name in \
lower case, the symbol as the exchange spells it, no filter that lets everything through. A symbol may hold colons."""

SOCKET = """\
Any number of commands in, one `ack` and an `error` for each topic that cannot be had out; what was asked for in one \
command may be partly refused. A command's `id`, if it has one, is on every answer to it.

**Topics.** {topics}

{names}

**Numbers.** Events of one topic are numbered by `seq`, which counts up by one within an `epoch`; another epoch means \
that the daemon has lost its memory of that topic. The present value, where a topic has one, comes first, with the \
number of the event that made it (0: no event of this epoch). `gap` and `status` frames have a `topic` and no number.

**Coming back.** `since` holds, by topic, the `epoch` and `seq` of the last event that the client had: every event \
after it is sent in order, with the `gap` and `status` frames in their places, then what happens meanwhile, and \
nothing twice. The last {frames} frames of each topic are remembered for {seconds:g} s, also while nobody follows it. \
What is no longer held is one `gap` frame whose `reason` is `resume_too_old`, then the present. Nodes that stand in \
for each other remember together: any of them may be asked, but for topics with a filter or `max_rate`.

**Bars of the past.** `backfill` sends so many closed bars first, ascending, with neither `epoch` nor `seq`; then a \
`live` frame, the bar still open, and every update: no bar is missing or sent twice where they meet. Where `since` is \
given too and still held, it counts alone.

**Less.** With `?batch_ms=50` on the socket, what is told within so many milliseconds is one frame, a JSON array of \
what would be frames; a bar's topic with `?max_rate=5` in its name has at most so many updates of an open bar a second.

**Losses.** `gap` says that the upstream lost `[from, to)` of a topic. `repaired` true: the range is sent before \
anything newer. False: it cannot be had, which is said once.

**Limits.** {topic_limit} topics on one connection; {commands:g} commands a second, and {burst:g} at once. A command \
over that is refused with `too_many_commands`; a client that goes on all the same is closed with 1008."""

STREAM = """\
On `/ws` and `/sse` it is the topic `{topic}`. Example: `{example}`. With `batch_ms` each frame is a JSON array of \
what would be frames.

What cannot be had (no such exchange, symbol, interval, or a bad parameter) is told in one `error` frame, then close \
1008. What a client sends is read and dropped; more than {allowance} messages at once, or {allowance_per_second:g} a \
second, end it."""

SSE = """\
The topics of `/ws`, in the frames that `/asyncapi.json` describes, one in the `data` of each event. An event's `id` \
is the client's position in all of its topics: a browser sends it back by itself as `Last-Event-ID`, and is told what \
it missed as on `/ws`; what is no longer held is a `gap` frame whose `reason` is `resume_too_old`. `retry` asks the \
client to wait {retry} ms before it comes back. A comment comes after {keep_alive:g} s without an event. At most \
{topics} topics; `/ws` takes more.

It has no end: read it with `curl -N` or `EventSource`; a page that waits for the whole answer waits for ever."""

SSE_PARAMETERS = {
    "topics": "Names of topics, comma separated or repeated; `/ws-catalog` has their names",
    "Last-Event-ID": "The `id` of the last event that the client had, to go on behind it; of the same topics in the "
    "same order",
}

ERROR = "What cannot be had or done: `detail` is for a person, `code` is for programs"
NUMBERED = "as `/ws` and `/sse` carry it, with its number"
PAST = "a closed bar of the past, before `live`"
SENT = "What is asked for, and what becomes of it"

COMMANDS = {
    Subscribe: "Follow topics; one that is followed already is acknowledged and goes on as it was",
    Unsubscribe: "Leave topics",
    Ping: "See whether the connection lives",
}
"""What each command is for."""

FRAME_FIELDS = {
    "type": "What kind of frame it is",
    "op": "What the client wants",
    "topic": "The topic's one name",
    "epoch": "One uninterrupted memory of the topic; numbers of another one do not compare",
    "seq": "Counts the topic's events up by one within the epoch",
    "Position.epoch": "Of the last event that the client had",
    "Position.seq": "Of the last event that the client had",
    "id": "The client's own name of the command, which answers to it carry",
    "Subscribe.topics": "Names of the topics",
    "Unsubscribe.topics": "Names of the topics, in any spelling that subscribed to them",
    "Ack.topics": "The topics that can be had, each by its one name",
    "since": "By topic: the position after which to go on. Only topics of this command",
    "backfill": "Closed bars to send first; only topics of bars have a past to be told",
    "OiSpike.timestamp": "Open of the bar",
    "timeframe": "Length of the bar over which it happened",
    "z_oi": "z-score of the change of open interest over the bar",
    "z_vol": "z-score of the bar's volume",
    "confirmed": "Whether the volume was unusual too",
    "Gap.exchange": "Name of the exchange; `all`, or empty, where the topic is over many",
    "Gap.symbol": "The exchange's own symbol; empty where the topic is over many",
    "Gap.timestamp": "When it was noticed",
    "Gap.reason": "Why it was lost, in words; `resume_too_old`: the client was away for longer than is remembered",
    "Status.timestamp": "When the state changed",
}
"""What a member of a frame means, where `words.FIELDS` does not say it: by `Struct.field`, else by the name alone."""


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


_WHERE: Any = {"exchange": "binance", "symbol": "BTCUSDT"}
_AT = datetime(2026, 1, 15, 11, 59, 12, 207_000, tzinfo=UTC)
_CLOSED, _OPEN = cast(list[Ohlc], ANSWERS[list[Ohlc]])
_LARGE = cast(list[LargeTrade], ANSWERS[list[LargeTrade]])[0]

EPOCH, SEQ = "19bc1796c40-5f1c0e", 42
PAST_BAR = _CLOSED
EVENTS: tuple[Event, ...] = (
    _OPEN,
    Trade(
        **_WHERE,
        timestamp=_AT,
        side="sell",
        price=96499.9,
        quantity=0.012,
        value=1157.9988,
        is_buyer_maker=True,
        trade_id=2915483390,
    ),
    _LARGE,
    cast(list[Liquidation], ANSWERS[list[Liquidation]])[0],
    cast(FundingRate, ANSWERS[FundingRate]),
    cast(OpenInterest, ANSWERS[OpenInterest]),
    OiSpike(**_WHERE, timestamp=_CLOSED.timestamp, timeframe="5m", z_oi=4.213, z_vol=3.377, confirmed=True),
)
BAR_TOPIC, FILTERED_TOPIC = "binance:BTCUSDT:ohlc:1m", "all:liquidations?min_value_usd=50000"
STATUS = Status(
    **_WHERE,
    timestamp=_AT,
    state="down",
    reason="silence: no data for 20 s",
    next_retry=_AT + timedelta(seconds=1.5),
)
GAP = Gap(
    **_WHERE,
    timestamp=_AT,
    start=_CLOSED.timestamp,
    end=_OPEN.timestamp,
    reason="the connection was lost",
    repaired=True,
)
BAD_TOPIC = "binance:BTCUSDT:trades?min_value_usd=1"
REFUSAL = problem_of(InvalidParameters([BadParameter("min_value_usd", "unknown parameter; this route takes: status")]))
SSE_EXAMPLE = f"""\
retry: {RETRY_MS}

id: {EPOCH}.{SEQ - 1}

id: {EPOCH}.{SEQ}
data: {_json({"type": _OPEN.type, "topic": BAR_TOPIC, "epoch": EPOCH, "seq": SEQ} | msgspec.to_builtins(_OPEN))}

"""
SAID: tuple[Subscribe | Unsubscribe | Ping | Ack | Pong | Live, ...] = (
    Subscribe(topics=[BAR_TOPIC, FILTERED_TOPIC], id=1, since={BAR_TOPIC: Position(EPOCH, SEQ)}),
    Subscribe(topics=[BAR_TOPIC], backfill=500),
    Unsubscribe(topics=[FILTERED_TOPIC], id="leave"),
    Ping(id=2),
    Ack(id=1, topics=[BAR_TOPIC, FILTERED_TOPIC]),
    Pong(id=2),
    Live(topic=BAR_TOPIC),
)
"""Commands and their answers."""

KEYS = """\
A key is needed where the configuration does not let everybody in: in `Authorization: Bearer`, in `X-API-Key`, as a \
subprotocol beside the one that is selected (`marketd, marketd.key.KEY`), or as `?token=KEY`, which proxies may log."""
