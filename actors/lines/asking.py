"""What one connection still has to ask of the exchange, sent in few frames and slowly enough."""

from collections import deque
from collections.abc import Callable

import trio

from actors.errors import LineLost
from actors.events import Topic
from actors.exchanges.exchange import LineLimits, Session
from actors.upstream.dial import ConnectionClosed
from actors.upstream.seam import Socket

SENT_WITHIN = 10.0  # seconds


class Asking:
    def __init__(self, limits: LineLimits, on_sent: Callable[[Topic], None]) -> None:
        self._limits = limits
        self._on_sent = on_sent  # a topic is being asked for
        self._pending: deque[tuple[bool, Topic]] = deque()  # (subscribe?, topic), not yet sent
        self._work = trio.Event()

    def restart(self) -> None:
        """A new connection."""
        self._pending.clear()

    def ask(self, topic: Topic, *, subscribe: bool) -> None:
        self._pending.append((subscribe, topic))
        self._work.set()

    @property
    def is_pending(self) -> bool:
        return bool(self._pending)

    async def run(self, socket: Socket, session: Session) -> None:
        """For ever. Raises LineLost where the exchange does not read."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            while pending := self._pending:
                subscribe = pending[0][0]
                topics: list[Topic] = []
                while pending and pending[0][0] == subscribe and len(topics) < self._limits.topics_per_frame:
                    topics.append(pending.popleft()[1])
                frames = session.subscribe(topics) if subscribe else session.unsubscribe(topics)
                if subscribe:
                    for topic in topics:
                        self._on_sent(topic)
                for frame in frames:
                    await send_frame(socket, frame)
                    await trio.sleep(1 / self._limits.frames_per_second)


async def send_frame(socket: Socket, frame: str) -> None:
    try:
        with trio.fail_after(SENT_WITHIN):
            await socket.send_message(frame)
    except trio.TooSlowError:
        raise LineLost("the exchange does not read what is sent") from None
    except ConnectionClosed:
        await trio.sleep_forever()  # the receiving task says why, when it has read what came before the end
