"""`/ws`: many topics on one socket. What a client may command, and what it is told. No sockets here: bytes come in by
`take`, frames go out by the Outbox.

A topic is told without a seam: what is remembered, what is fetched, and what happens meanwhile meet at a cursor of the
topic's fan-out, behind which nothing is sent before all in front of it.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import inf
from typing import Any

import msgspec
import trio
from msgspec import UNSET, Struct, UnsetType

from actors.decoding import UNREADABLE
from actors.errors import MarketError, NotReady
from actors.events import Ohlc, bar_end
from web.access.account import Account
from web.problems import BadParameter, InvalidParameters, NotFound, Problem, problem, problem_of
from web.server.outbox import TRY_AGAIN_LATER, text_frame
from web.streams.commands import Ack, Id, Live, Ping, Pong, Subscribe, Unsubscribe
from web.streams.fanout import Client, Fanout, Opening, Outlet
from web.streams.fanouts import Fanouts
from web.streams.memory import Cursor, Forgotten, Position
from web.streams.shares import following
from web.streams.topics import BarSource, find_by_name

SOCKET = "/ws"
CHUNK = 256  # remembered frames written at once
BEGUN_WITHIN = 10.0  # seconds that a backfill waits for the first bar of a topic that has only begun
LOOK = 0.05  # seconds between looks for it
ASKED = 4  # times for bars right before the present
ASK_AGAIN = 1.5  # seconds; an answer is shared for one
LAGS = timedelta(minutes=1)  # an exchange's own history behind its streams; what it lacks for longer is its own hole
NAMED_MAX = 1000  # topics in one command, unless a connection may follow more
TOPICS_PER_COMMAND = 50  # so many topics in a command cost as much of the allowance as the command itself
PATIENCE = 4  # times the allowance of commands that may be refused before the client is cut off
POLICY_VIOLATION, NO_TOPIC = 1008, 4408
TOPIC_WITHIN = 60.0  # seconds that a connection may be without a topic


@dataclass
class ClientLimits:
    """What one `/ws` connection may ask for; may change while it is open."""

    topics: int = 1000
    commands_per_second: float = 20.0  # and twice as many at once


class _AnyCommand(Struct):
    id: Any = None


_decode = msgspec.json.Decoder(Subscribe | Unsubscribe | Ping).decode
_decode_id = msgspec.json.Decoder(_AnyCommand).decode
_encode = msgspec.json.Encoder().encode


class Subscription:
    """One topic of one client."""

    def __init__(self, fanout: Fanout, outbox: Outlet, hold: ExitStack) -> None:
        self.fanout = fanout
        self.client = Client(outbox, numbered=True)
        self.scope = trio.CancelScope()  # of whatever brings the client up to the present
        self._hold = hold

    def close(self) -> None:
        self.scope.cancel()
        self.fanout.leave(self)
        self.fanout.leave(self.client)
        self._hold.close()


class Multiplex:
    """One client of `/ws`."""

    def __init__(
        self, outbox: Outlet, fanouts: Fanouts, limits: ClientLimits, nursery: trio.Nursery, account: Account
    ) -> None:
        self.waiting = trio.CancelScope()  # of whoever waits for commands: it ends where there is no topic for too long
        self._account = account
        self._outbox = outbox
        self._fanouts = fanouts
        self._limits = limits
        self._nursery = nursery
        self._subscriptions: dict[str, Subscription] = {}  # by the topic's name
        self._spelled: dict[str, str] = {}  # the client's spellings of such names
        self._burst = 2 * limits.commands_per_second
        self._allowance, self._checked_at = self._burst, trio.current_time()
        self._note_topics()
        self._telling = trio.Lock()  # one piece of the past at a time: what is live needs the outbox's room

    def close(self) -> None:
        for subscription in self._subscriptions.values():
            subscription.close()
        self._subscriptions.clear()

    def _note_topics(self) -> None:
        self.waiting.deadline = inf if self._subscriptions else trio.current_time() + TOPIC_WITHIN

    # --- commands ---

    def take(self, message: str | bytes | None) -> bool:
        """Carry out one command; False: the client was cut off for sending too many."""
        now = trio.current_time()
        earned = (now - self._checked_at) * self._limits.commands_per_second
        self._allowance = min(self._burst, self._allowance + earned) - 1
        self._checked_at = now
        if self._allowance < -PATIENCE * self._burst:
            self._outbox.close(POLICY_VIOLATION, "too many messages")
            return False
        if self._allowance < 0:
            detail = f"more than {self._limits.commands_per_second:g} commands a second: this one was ignored"
            self._refuse(_id_of(message), problem("too_many_commands", detail, retry_after=1))
            return True
        try:
            command = _decode(message or b"")
        except UNREADABLE as error:
            text = str(error).replace("`", "")
            self._refuse(_id_of(message), problem("invalid_command", f"not a command: {text}"))
            return True
        match command:
            case Subscribe():
                self._subscribe(command)
            case Unsubscribe():
                self._unsubscribe(command)
            case Ping():
                self._say(Pong(_given(command.id)))
        return True

    def _subscribe(self, command: Subscribe) -> None:
        """Topics that can be had are acknowledged and follow; each of the others has an error of its own."""
        if not self._can_afford(command):
            return
        acknowledged: dict[str, None] = {}
        begun: list[tuple[Subscription, Position | None]] = []
        since = dict(command.since)
        for text in command.topics:
            try:
                name, subscription = self._open(text)
            except (MarketError, InvalidParameters, NotFound, _TooMany) as error:
                since.pop(text, None)
                self._refuse(command.id, _problem_of(error), topic=text)
                continue
            acknowledged[name] = None
            if text != name and len(self._spelled) < 2 * self._limits.topics:  # a topic has any number of spellings
                self._spelled[text] = name
            position = since.pop(text, None) or since.pop(name, None)
            if subscription is not None:
                begun.append((subscription, position))
        if since:
            stray = ", ".join(since)[:200]
            bad = BadParameter("since", f"names topics that are not among the command's: {stray}")
            self._refuse(command.id, problem_of(InvalidParameters([bad])))
        if acknowledged:
            self._acknowledge(command.id, list(acknowledged))
        for subscription, position in begun:
            if position is None and command.backfill is None and _is_collected(subscription.fanout):
                subscription.fanout.join(subscription.client)
            else:
                self._nursery.start_soon(self._bring_up, subscription, position, command)

    def _can_afford(self, command: Subscribe | Unsubscribe) -> bool:
        """Many topics in one command count for several; far more than a connection may follow are refused unread."""
        self._allowance -= len(command.topics) / TOPICS_PER_COMMAND
        most = max(self._limits.topics, NAMED_MAX)
        if len(command.topics) <= most:
            return True
        detail = f"a command may name {most} topics, this one names {len(command.topics)}"
        self._refuse(command.id, problem("too_many_topics", detail))
        return False

    def _open(self, text: str) -> tuple[str, Subscription | None]:
        """The topic's name, and a new subscription unless there is one."""
        name = self._spelled.get(text, text)
        if name in self._subscriptions:
            return name, None
        wanted = find_by_name(text, self._fanouts.sources)
        if len(self._subscriptions) >= self._limits.topics:  # nothing is made for what will be refused
            raise _TooMany(f"one connection may follow {self._limits.topics} topics")
        with ExitStack() as stack:
            fanout = stack.enter_context(following(self._account, self._fanouts, wanted, remember=True))
            if fanout.name in self._subscriptions:
                return fanout.name, None
            subscription = Subscription(fanout, self._outbox, stack.pop_all())
        self._subscriptions[fanout.name] = subscription
        self._note_topics()
        return fanout.name, subscription

    def _unsubscribe(self, command: Unsubscribe) -> None:
        if not self._can_afford(command):
            return
        left = []
        for text in command.topics:
            name = self._spelled.get(text, text)
            subscription = self._subscriptions.pop(name, None)
            if subscription is None:
                bad = BadParameter("topics", f"{text[:100]!r} was not subscribed to")
                self._refuse(command.id, problem_of(InvalidParameters([bad])), topic=text)
            else:
                subscription.close()
                left.append(name)
        if left:
            self._note_topics()
            self._spelled = {text: name for text, name in self._spelled.items() if name in self._subscriptions}
            self._acknowledge(command.id, left)

    # --- bringing a client up to the present ---

    async def _bring_up(self, subscription: Subscription, since: Position | None, command: Subscribe) -> None:
        fanout = subscription.fanout
        with subscription.scope:
            try:
                await trio.lowlevel.checkpoint_if_cancelled()  # it may have been left before this task began
                await fanout.trunk.collected()
                if since is not None:
                    await fanout.recall(since)
                cursor = None if since is None else fanout.resume(since)
                if cursor is None:
                    if since is not None:
                        self._outbox.send(text_frame(fanout.too_old(since)))
                    cursor = await self._begin(subscription, command.backfill)
                await self._catch_up(subscription, cursor)
            except MarketError as error:
                if self._subscriptions.get(fanout.name) is subscription:  # not left, and subscribed to anew, meanwhile
                    del self._subscriptions[fanout.name]
                    subscription.close()
                    self._note_topics()
                    self._refuse(command.id, _problem_of(error), topic=fanout.name)

    async def _begin(self, subscription: Subscription, backfill: int | None) -> Cursor:
        """Tell the present, behind so many closed bars; where to go on."""
        feed = subscription.fanout.source
        if backfill is not None and subscription.fanout.topic.interval and isinstance(feed, BarSource):
            return await self._tell_history(subscription, feed, subscription.fanout.topic.interval, backfill)
        opening = await subscription.fanout.open(subscription)
        self._tell_present(subscription.fanout, opening)
        return opening.cursor

    async def _tell_history(self, subscription: Subscription, feed: BarSource, interval: str, count: int) -> Cursor:
        fanout = subscription.fanout
        with trio.move_on_after(BEGUN_WITHIN):
            while (known := feed.closed_bars(interval, count)) is None:  # noqa: ASYNC110 (plain state)
                await trio.sleep(LOOK)
        if known is None:
            raise NotReady(f"{fanout.name} has no bar yet", retry_after=BEGUN_WITHIN)
        begins, bars, is_whole = known
        opening = await fanout.open(subscription)  # of the very moment of `known`: nothing was awaited in between
        if len(bars) < count and not is_whole:
            end = bars[0].timestamp if bars else begins
            bars = [*await self._older(feed, interval, count - len(bars), end), *bars]
        await self._write([_past(fanout.name, bar) for bar in bars])
        self._say(Live(fanout.name))
        if isinstance(opening.current, Ohlc) and not opening.current.is_closed:
            self._tell_present(fanout, opening)
        return opening.cursor

    async def _older(self, feed: BarSource, interval: str, count: int, end: datetime) -> list[Ohlc]:
        """The last `count` closed bars before `end`; fewer where there are no more.

        Raises NotReady where `end` is so young that the exchange may yet tell the bar right before it.
        """
        connector = self._fanouts.sources.connectors[feed.exchange.name]
        for _ in range(ASKED):
            rows = await connector.ohlc(feed.symbol, interval, limit=count, start=None, end=end)
            reaches = not rows or bar_end(rows[-1].timestamp, interval) >= end
            if reaches or not feed.exchange.has_empty_bars or connector.now() - end > LAGS:
                return [msgspec.structs.replace(row, is_closed=True) for row in rows]
            await trio.sleep(ASK_AGAIN)  # right after a bar's end the exchange's history may lack it
        raise NotReady(f"{feed.exchange.name} does not yet tell the {interval} bars of {feed.symbol} up to the present")

    def _tell_present(self, fanout: Fanout, opening: Opening) -> None:
        if opening.current is not None:
            self._outbox.send(text_frame(fanout.numbered_text(opening.current, opening.seq)))

    async def _catch_up(self, subscription: Subscription, cursor: Cursor) -> None:
        fanout = subscription.fanout
        while True:
            try:
                said, cursor = fanout.read(cursor, CHUNK)
            except Forgotten:
                self._outbox.send(text_frame(fanout.too_old(Position(fanout.epoch, 0))))
                opening = await fanout.open(subscription)
                self._tell_present(fanout, opening)
                cursor = opening.cursor
                continue
            if not said:
                break
            await self._write([text for _, text in said])
        if fanout.is_over:
            self._outbox.close(TRY_AGAIN_LATER, "the daemon is overloaded")
        fanout.admit(subscription.client)  # at the present: nothing was awaited since it was read

    async def _write(self, texts: Sequence[bytes]) -> None:
        """Frames of the past, in pieces: a client that reads slowly is waited for, within the outbox's patience."""
        for at in range(0, len(texts), CHUNK):
            async with self._telling:
                await self._outbox.write_texts(texts[at : at + CHUNK])

    # --- answers ---

    def _acknowledge(self, id: Id | None, names: list[str]) -> None:
        self._say(Ack(id=_given(id), topics=names))

    def _refuse(self, id: Id | None, told: Problem, topic: str | None = None) -> None:
        where = {name: value for name, value in (("id", id), ("topic", topic)) if value is not None}
        # A problem's own `type` is a URI; a frame's says what kind of frame it is.
        self._say(msgspec.to_builtins(told) | {"type": "error"} | where)

    def _say(self, frame: Ack | Pong | Live | dict[str, Any]) -> None:
        self._outbox.send(text_frame(_encode(frame)))


class _TooMany(Exception):
    """The connection's limit of topics is reached."""


def _problem_of(error: MarketError | InvalidParameters | NotFound | _TooMany) -> Problem:
    return problem("too_many_topics", str(error)) if isinstance(error, _TooMany) else problem_of(error)


def _given(id: Id | None) -> Id | UnsetType:
    return UNSET if id is None else id


def _id_of(message: str | bytes | None) -> int | str | None:
    """The id of a command that is otherwise unreadable, where it has a usable one."""
    try:
        id = _decode_id(message or b"").id
    except UNREADABLE:
        return None
    return id if isinstance(id, int | str) and len(str(id)) <= 64 else None


def _is_collected(fanout: Fanout) -> bool:
    """Whether nothing is to be waited for; what is refused meanwhile is told by whoever waits."""
    try:
        return fanout.trunk.is_collected()
    except MarketError:
        return False


def _past(name: str, bar: Ohlc) -> bytes:
    """A bar of history: it has no number."""
    return _encode({"type": bar.type, "topic": name})[:-1] + b"," + _encode(bar)[1:]
