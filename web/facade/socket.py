"""One client's WebSocket below `/as/`: its messages to the dialect, the dialect's frames to its outbox."""

import msgspec
import trio

from actors.exchanges.dialect import Heard, Talk
from actors.exchanges.facade import Asked, Reply
from actors.facade.desk import Desk
from actors.facade.relay import Relay
from actors.mirror.ingests import Ingests
from web.access.account import Account
from web.facade.http import PREFIX, Desks, place_of, unknown
from web.problems import problem
from web.server.outbox import Outbox, text_frame
from web.streams.entry import Enter
from web.streams.fanout import Outlet
from web.streams.shares import metered
from web.streams.socket import ClientLeft, websocket

QUESTIONS_MAX = 100  # of one socket, not yet answered
PING = b"\x89\x00"
POLICY_VIOLATION, NORMAL = 1008, 1000


async def serve_facade(desks: Desks, enter: Enter) -> None:
    """One client's life on one socket."""
    exchange, path = place_of(websocket.path) or ("", "")
    desk = desks.get(exchange)
    if desk is None:
        await _refuse(unknown(exchange, desks))
        return
    dialect, relay = desk.dialect, desk.relay
    if dialect is None or relay is None:
        await _refuse(desk.not_served(Asked("GET", path, {})))
        return
    talk = dialect.talk(path, websocket.scope["query_string"].decode("latin1"), desk)
    if isinstance(talk, Reply):
        await _refuse(talk)
        return

    async def serve(outbox: Outbox, account: Account) -> None:
        async with trio.open_nursery() as nursery:
            client = _Client(talk, desk, relay, metered(outbox, account), nursery)
            if dialect.ping_every is not None:
                nursery.start_soon(_ping, outbox, dialect.ping_every)
            if dialect.idle is not None:
                nursery.start_soon(client.end_when_idle, outbox, dialect.idle)
            burst, per_second = dialect.messages
            allowance, checked_at = float(burst), trio.current_time()
            try:
                client.heed(talk.begin())
                while not client.is_over:
                    message = await websocket.receive()
                    now = trio.current_time()
                    allowance = min(burst, allowance + (now - checked_at) * per_second) - 1
                    checked_at = now
                    if allowance < 0:
                        outbox.close(POLICY_VIOLATION, "Too many requests")
                        break
                    client.heed(talk.receive(message))
            except ClientLeft:
                pass
            finally:
                relay.forget(client.tell)
            nursery.cancel_scope.cancel()

    await enter(serve)


async def refuse_on_edge(ingests: Ingests) -> None:
    """An exchange's streams are told where the exchange is heard."""
    there = ", ".join(member.address for member in ingests.present) or "none is there"
    told = problem("not_ready", f"an edge has no streams below {PREFIX}; nodes that collect have: {there}")
    await websocket.refuse(told.status, {"Content-Type": "application/problem+json"}, msgspec.json.encode(told))


async def _refuse(reply: Reply) -> None:
    await websocket.refuse(reply.status, {"Content-Type": reply.content_type, **dict(reply.headers)}, reply.body)


async def _ping(outbox: Outbox, every: float) -> None:
    while True:
        await trio.sleep(every)
        outbox.send(PING)


class _Client:
    def __init__(self, talk: Talk, desk: Desk, relay: Relay, outbox: Outlet, nursery: trio.Nursery) -> None:
        self._talk, self._desk, self._relay = talk, desk, relay
        self._outbox, self._nursery = outbox, nursery
        self._questions = 0
        self._spoken_at = trio.current_time()
        self.is_over = False

    def heed(self, heard: Heard) -> None:
        for reply in heard.replies:
            self._say(reply)
        for name in heard.left:
            self._relay.leave(name, self.tell)
        for name in heard.joined:
            for frame in self._relay.join(name, self.tell):
                self.tell(name, frame)
        if heard.question is not None and self._questions < QUESTIONS_MAX:
            self._questions += 1
            self._nursery.start_soon(self._answer, heard.question)
        if heard.closed is not None:
            self.is_over = True
            self._outbox.close(*heard.closed)

    def tell(self, name: str, frame: bytes) -> None:
        self._say(self._talk.wrap(name, frame))

    def _say(self, frame: bytes) -> None:
        self._spoken_at = trio.current_time()
        self._outbox.send(text_frame(frame))

    async def _answer(self, asked: Asked) -> None:
        told = await self._desk.answer(asked)
        self._questions -= 1
        self._say(self._talk.answered(asked, told.reply))

    async def end_when_idle(self, outbox: Outbox, seconds: float) -> None:
        """The exchange hangs up on whoever it has nothing to tell."""
        while (left := self._spoken_at + seconds - trio.current_time()) > 0:  # noqa: ASYNC110 (time is what is waited for)
            await trio.sleep(left)
        outbox.close(NORMAL, "idle")
