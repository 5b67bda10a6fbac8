"""`GET /sse?topics=...`: the topics of `/ws` as Server-Sent Events, for whoever has an HTTP client and nothing else.

Each event's `id` is the client's position in all of its topics, so that `Last-Event-ID`, which browsers send by
themselves, resumes every one of them. A client reads what its topics remember at its own pace: one that is slower than
their memory is told so by a gap, like one that came back too late.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack

import trio
from quart import Response

from web.access.auth import ENDING, READ, VISIT, Auth
from web.counts import WebCounts
from web.parameters import MultiArgs
from web.problems import BadParameter, Denied, InvalidParameters
from web.streams.fanout import Fanout
from web.streams.fanouts import Fanouts
from web.streams.memory import Cursor, Forgotten, Position
from web.streams.shares import following
from web.streams.topics import SPIKES, find_by_name
from web.streams.trunk import COLLECTED_WITHIN

TOPICS_MAX = 50  # of one stream: every event carries a position for each of them
CHUNK = 256  # events sent at once
KEEP_ALIVE = 15.0  # seconds without an event, after which a comment keeps proxies and clients from hanging up
RETRY_MS = 1000  # what a client waits before it comes back
CONTENT_TYPE = "text/event-stream"
EPOCH_NAME = re.compile(r"[0-9a-f]{1,16}-[0-9a-f]{1,16}")  # as far as clients are told it again


def topics_of(args: MultiArgs) -> list[str]:
    """The topics that a query names, comma separated or repeated. Raises InvalidParameters."""
    others = [name for name in args.keys() if name != "topics"]  # noqa: SIM118 - iterating would repeat names
    unknown = [BadParameter(name, "unknown parameter; this route takes: topics") for name in others]
    names: list[str] = []
    for part in ",".join(args.getlist("topics")).split(","):
        if names and part and ":" not in part and part.partition("?")[0] != SPIKES.name:
            names[-1] += f",{part}"  # a comma inside a topic: oi-vol?timeframes=5m,15m
        elif part:
            names.append(part)
    names = list(dict.fromkeys(names))
    if not unknown and not names:
        unknown = [BadParameter("topics", "names no topic, such as binance:BTCUSDT:ohlc:1m")]
    if len(names) > TOPICS_MAX:
        unknown.append(BadParameter("topics", f"more than {TOPICS_MAX} topics; /ws takes more"))
    if unknown:
        raise InvalidParameters(unknown)
    return names


async def respond(
    names: Sequence[str], last_event_id: str | None, fanouts: Fanouts, auth: Auth, *, head_only: bool
) -> Response:
    """The stream, for as long as the client's key is good.

    Raises InvalidParameters, NotFound or MarketError where a topic cannot be had."""
    visit, sources = VISIT.get(), fanouts.sources
    with ExitStack() as stack:
        held = [
            stack.enter_context(following(visit.account, fanouts, find_by_name(name, sources), remember=True))
            for name in names
        ]
        with trio.move_on_after(COLLECTED_WITHIN):
            for fanout in held:
                await fanout.trunk.collected()
        hold = stack.pop_all()
    if head_only:
        hold.close()
        response = Response(b"", content_type=CONTENT_TYPE)
    else:
        stream = _Stream(list(dict.fromkeys(held)), hold, fanouts.stopping, last_event_id, fanouts.counts)
        hold.enter_context(auth.staying(visit, READ, stream.end))
        ENDING.get().callback(hold.close)  # also where it never begins
        response = Response(stream.events(), content_type=CONTENT_TYPE)
        response.timeout = None  # it has no end of its own
    response.headers["Cache-Control"] = "no-cache, no-transform"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would hold events back
    return response


class _Place:
    """Where a client stands in one topic."""

    __slots__ = ("cursor", "epoch", "fanout", "seq")

    def __init__(self, fanout: Fanout) -> None:
        self.fanout = fanout
        self.cursor = Cursor(0, 0, 0)
        self.epoch = fanout.epoch
        self.seq = 0

    async def enter(self) -> list[bytes]:
        """Go to the present; what the client is told of it."""
        current, self.seq, self.cursor = await self.fanout.open(self)
        self.epoch = self.fanout.epoch
        return [] if current is None else [self.fanout.numbered_text(current, self.seq)]

    async def resume(self, since: Position) -> bool:
        await self.fanout.recall(since)
        cursor = self.fanout.resume(since)
        if cursor is None:
            return False
        self.cursor, self.seq = cursor, since.seq
        return True

    def lose(self, since: Position | None) -> bytes:
        """The gap to tell a client that cannot be resumed; until it is told the present, it stays where it was."""
        is_ours = since is not None and EPOCH_NAME.fullmatch(since.epoch)
        self.epoch, self.seq = (since.epoch, since.seq) if since and is_ours else ("", 0)
        return self.fanout.too_old(since)

    def __str__(self) -> str:
        return f"{self.epoch}.{self.seq}"


class _Stream:
    """One client."""

    def __init__(
        self,
        fanouts: Sequence[Fanout],
        hold: ExitStack,
        stopping: trio.Event,
        last_event_id: str | None,
        counts: WebCounts,
    ) -> None:
        self._places = [_Place(fanout) for fanout in fanouts]
        self._hold = hold
        self._counts = counts
        self._stopping = stopping
        self._last_event_id = last_event_id
        self._woken = trio.Event()
        self._is_denied = False

    async def events(self) -> AsyncIterator[bytes]:
        self._counts.sse += 1
        try:
            for place in self._places:
                place.fanout.wakers[place] = self._wake
            yield b"retry: %d\n\n" % RETRY_MS + await self._begin()
            while not self._is_over():
                self._woken = trio.Event()
                if news := await self._news():
                    yield news
                    continue
                with trio.move_on_after(KEEP_ALIVE) as quiet:
                    await self._woken.wait()
                if quiet.cancelled_caught:
                    yield b":\n\n"
        finally:
            self._counts.sse -= 1
            for place in self._places:
                place.fanout.leave(place)
            self._hold.close()

    def end(self, denied: Denied) -> None:
        """Its client may read no more."""
        self._is_denied = True
        self._woken.set()

    def _wake(self) -> None:
        self._woken.set()

    def _is_over(self) -> bool:
        if self._is_denied or self._stopping.is_set():
            return True
        return any(place.fanout.is_over for place in self._places)

    async def _begin(self) -> bytes:
        """Everything starts where the client says it was, or in the present."""
        for place in self._places:
            await place.fanout.trunk.begun()
        new = [
            (place, since)
            for place, since in zip(self._places, _positions(self._last_event_id, len(self._places)), strict=True)
            if since is None or not await place.resume(since)
        ]
        # All gaps come first: a client that leaves in their midst must be told the others when it comes back.
        gaps = [place.lose(since) for place, since in new] if self._last_event_id else []
        told = list(map(self._event, gaps))
        for place, _ in new:
            told += map(self._event, await place.enter())
        # An event without data only says where the client is: it may leave again before anything happens.
        return b"".join(told) + b"id: %b\n\n" % self._id()

    async def _news(self) -> bytes:
        news: list[bytes] = []
        for place in self._places:
            try:
                said, place.cursor = place.fanout.read(place.cursor, CHUNK)
            except Forgotten:
                news.append(self._event(place.fanout.too_old(Position(place.fanout.epoch, place.seq))))
                news += map(self._event, await place.enter())
                continue
            for seq, text in said:
                place.seq = seq
                news.append(self._event(text))
                self._counts.written(place.fanout.topic.kind, 1, len(text))
        return b"".join(news)

    def _event(self, text: bytes) -> bytes:
        return b"id: %b\ndata: %b\n\n" % (self._id(), text)

    def _id(self) -> bytes:
        return ",".join(map(str, self._places)).encode()


def _positions(last_event_id: str | None, count: int) -> list[Position | None]:
    """The positions that an event's id holds, one per topic; None for each that cannot be read."""
    parts = (last_event_id or "").split(",")
    if len(parts) != count:
        return [None] * count
    return [
        Position(epoch, int(seq)) if seq.isascii() and seq.isdigit() and len(seq) < 19 else None
        for epoch, _, seq in (part.rpartition(".") for part in parts)
    ]
