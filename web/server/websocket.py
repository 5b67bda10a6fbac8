"""Hypercorn's WebSocket state machine, guarded: what a client may say once it was let in, and how it is closed.

Law: as in `web.server.protocol`. Every close, whoever starts it, leaves through `Outbox.close`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
import wsproto.events as ws
from wsproto.connection import ConnectionState as WebSocketState

from web.server.outbox import GOING_AWAY, Outbox
from web.server.pinned import Data, Event, StreamClosed, WebsocketAcceptEvent, WSStream

POLICY_VIOLATION, MESSAGE_TOO_BIG = 1008, 1009
CLOSE_MAX = 131  # bytes of a client's close frame
IDLE_SECONDS = 5.0
IDLE_FRAMES = int(50 * IDLE_SECONDS)  # pings, pongs and empty frames that a client may send in so long


class GuardedWebSocket(WSStream):
    """One WebSocket; every close, whoever starts it, leaves through `Outbox.close`."""

    def __init__(self, *stock: Any, outbox: Outbox, refused: Callable[[int], None]) -> None:
        super().__init__(*stock)
        self._outbox = outbox
        self._refused = refused
        self._message_bytes = 0
        self._idle_frames, self._idle_since = 0, trio.current_time()

    async def handle(self, event: Event) -> None:
        if isinstance(event, Data) and not self.closed and not self.handshake.accepted:
            await self._refuse_early_data()
        else:
            await super().handle(event)

    async def _refuse_early_data(self) -> None:
        """Stock answers 400 and lets the app answer too, which kills the process."""
        self.closed = True  # before anything is awaited: the app is answering right now
        self._refused(400)
        await self._send_error_response(400)
        if self.app_put is not None:
            await self.app_put({"type": "websocket.disconnect", "code": 1006})
        await self.send(StreamClosed(stream_id=self.stream_id))

    async def _accept(self, message: WebsocketAcceptEvent) -> None:
        # Before the answer, not after: the client may close on its heels, and is owed a close frame.
        # Nothing can come in between, since there is no checkpoint before the answer is written.
        self._outbox.open()
        await super()._accept(message)
        if self.context.terminated.is_set():
            self._outbox.close(GOING_AWAY, "server is stopping")

    async def _send_wsproto_event(self, event: ws.Event) -> None:
        if isinstance(event, ws.CloseConnection):
            self._outbox.close(event.code, event.reason or "")
        else:
            await super()._send_wsproto_event(event)

    async def _handle_events(self) -> None:
        """Stock stores a message before it measures it, and on a protocol error just hangs up."""
        for event in self.connection.events():
            if self._outbox.finished:
                return
            match event:
                case ws.TextMessage() | ws.BytesMessage():
                    await self._take(event)
                case ws.Ping():
                    if await self._may_idle():
                        await self._send_wsproto_event(event.response())
                case ws.Pong():
                    await self._may_idle()
                case ws.CloseConnection():
                    answers = self.connection.state is WebSocketState.REMOTE_CLOSING
                    await self._end(event.code, "" if answers else event.reason or "")
                    if answers:
                        self._outbox.answered()

    async def _may_idle(self) -> bool:
        """Count a frame that says nothing; False: so many came, so fast, that the client was cut off."""
        self._idle_frames += 1
        if self._idle_frames <= IDLE_FRAMES:
            return True
        now = trio.current_time()
        if now - self._idle_since < IDLE_SECONDS:
            await self._end(POLICY_VIOLATION, "too many pings or empty frames")
            return False
        self._idle_frames, self._idle_since = 0, now
        return True

    async def _take(self, event: ws.TextMessage | ws.BytesMessage) -> None:
        data = event.data.encode() if isinstance(event, ws.TextMessage) else event.data
        if not data and not await self._may_idle():
            return
        self._message_bytes += len(data)
        if self._message_bytes > self.config.websocket_max_message_size:
            self.buffer.clear()
            await self._end(MESSAGE_TOO_BIG, "message too big")
            return
        self.buffer.extend(event)
        if event.message_finished:
            message = self.buffer.to_message()
            self.buffer.clear()
            self._message_bytes = 0
            if self.app_put is not None:
                await self.app_put(message)

    async def _end(self, code: int, reason: str) -> None:
        self._outbox.close(code, reason)
        await self.send(StreamClosed(stream_id=self.stream_id))


def ends_with_close(data: bytes) -> bool:
    """Whether what a client sent ends with its close frame, after which it says nothing.

    What is in front of it need not make sense: it may be the very thing that its connection is closed for.
    """
    return any(data[-6 - size : -4 - size] == bytes((0x88, 0x80 | size)) for size in range(CLOSE_MAX - 5))
