"""Streams that no feed follows, passed on: each is subscribed to upstream once for all its followers, on lines of its
own, and ends a while after the last of them left. Frames go on as they came; nothing is repaired, as on the exchange.

A line carries no more than the exchange allows, and there are few of them: the feeds need connections, too.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from itertools import count

import structlog
import trio

from actors import clock
from actors.connector import Connector
from actors.errors import LineLost
from actors.exchanges.dialect import Dialect
from actors.exchanges.exchange import Supervise
from actors.facade.followed import Followed, Listener
from actors.lines import pings
from actors.lines.patience import Patience
from actors.upstream.dial import ConnectionClosed, closing
from actors.upstream.seam import Socket

LINGER = 30.0  # seconds that a stream outlives its last reader
ALIVE_EVERY = 20.0  # seconds between questions whether the connection lives
SILENT = 60.0  # seconds without a word, not even an answer to those, that end a connection
WATCH_EVERY = 1.0  # seconds between looks at a connection that answers no questions
LINES_MAX = 4  # of one exchange; Hyperliquid allows ten connections in all
FIRST_LINE = 1000  # numbers of lines; those of the feeds count from 1

log = structlog.get_logger()


class _Stream:
    def __init__(self, dialect: Dialect, name: str) -> None:
        self.memory = dialect.memory(name)
        self.listeners: dict[Listener, None] = {}
        self.left_at = 0.0


class _Line:
    """One connection, as long as there is a stream to carry on it. `place`: see Dialect.line_of."""

    def __init__(self, dialect: Dialect, connector: Connector, place: str, number: int) -> None:
        self._dialect, self._connector = dialect, connector
        self.place, self.number = place, number
        self._url, _, self._suffix = place.partition("#")
        self.is_over = False
        self.streams: dict[str, _Stream] = {}
        self._asked: dict[str, None] = {}  # what this connection was asked for
        self._requests = 0
        self.work = trio.Event()
        self._heard_at = 0.0
        self._has_spoken = False
        self._patience = Patience(connector.exchange.limits.silence)
        self._patience.was_in_vain()  # what is passed on may be quiet by nature: a feed is told of more than one thing

    async def run(self) -> None:
        """Until there is no stream left. Raises LineLost."""
        while self.streams:
            names = list(self.streams)
            async with self._connector.open_socket(self._url, self.number, names) as socket:
                log.info("relay.up", exchange=self._connector.name, line=self.number, streams=len(self.streams))
                self._asked.clear()
                self._heard_at = trio.current_time()
                self._has_spoken = False
                self._patience.restart(self._heard_at)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send, socket, nursery.cancel_scope)
                    nursery.start_soon(self._keep_alive, socket)
                    nursery.start_soon(self._receive, socket)
        self.is_over = True

    async def _send(self, socket: Socket, connection: trio.CancelScope) -> None:
        """Ask for what is wanted, as fast as the exchange allows; end the connection when nothing is."""
        pause = 1 / self._connector.exchange.limits.frames_per_second
        while True:
            self._forget()
            if not self.streams:
                connection.cancel()
                return
            fresh = [name for name in self.streams if name not in self._asked]
            old = [name for name in self._asked if name not in self.streams]
            self._asked = dict.fromkeys(self.streams)
            for subscribe, names in ((False, old), (True, fresh)):
                for frame in self._dialect.ask(subscribe, names, self._requests + 1) if names else ():
                    self._requests += 1
                    self._patience.asked(trio.current_time())
                    await _send_frame(socket, frame)
                    await trio.sleep(pause)
            with trio.move_on_after(LINGER / 4):
                await self.work.wait()
            self.work = trio.Event()

    def _forget(self) -> None:
        now = trio.current_time()
        gone = [n for n, stream in self.streams.items() if not stream.listeners and now - stream.left_at > LINGER]
        for name in gone:
            del self.streams[name]

    async def _receive(self, socket: Socket) -> None:
        def heard(frames: Sequence[bytes | str], _: datetime) -> None:
            if self._dialect.heartbeat is not None:
                self._heard_at = trio.current_time()  # an answer to it will do
            for frame in frames:
                self._tell(frame.encode() if isinstance(frame, str) else bytes(frame))

        try:
            await socket.listen(heard)
        except ConnectionClosed as error:
            raise LineLost(f"closed by the exchange, {closing(error)}") from None

    def _tell(self, frame: bytes) -> None:
        told = self._dialect.read(frame)
        if told is None:
            return
        self._heard_at, self._has_spoken = trio.current_time(), True
        name, body = told[0] + self._suffix, told[1]
        stream = self.streams.get(name)
        if stream is None:
            return
        news = stream.memory.take(body)
        if news is not None:
            for listener in list(stream.listeners):
                listener(name, news)

    async def _keep_alive(self, socket: Socket) -> None:
        """An open socket proves nothing: whoever says nothing, not even that it lives, is lost."""
        if self._dialect.heartbeat is None:
            await self._watch(socket)
            return
        while True:
            await trio.sleep(ALIVE_EVERY)
            await _send_frame(socket, self._dialect.heartbeat)
            if trio.current_time() - self._heard_at > SILENT:
                raise LineLost(f"silence: nothing for {SILENT:g} s")

    async def _watch(self, socket: Socket) -> None:
        """Nor does a pong: what spoke by itself is missed when it falls silent, sooner where it was lively."""
        while True:
            await clock.tick_for_silence(WATCH_EVERY)
            now = trio.current_time()
            match self._patience.look(now, self._heard_at, has_spoken=self._has_spoken):
                case "ask":
                    await pings.check(socket)
                    self._patience.alive(trio.current_time())
                case "lost":
                    self._patience.was_in_vain()
                    raise LineLost(f"silence: nothing for {now - self._heard_at:.0f} s", how="silence")


async def _send_frame(socket: Socket, frame: str) -> None:
    try:
        with trio.fail_after(10):
            await socket.send_message(frame)
    except trio.TooSlowError:
        raise LineLost("the exchange does not read what is sent") from None
    except ConnectionClosed:
        await trio.sleep_forever()  # the receiving task says why


class Relay:
    """One exchange's. Runs as a task of its own."""

    def __init__(self, dialect: Dialect, connector: Connector, supervise: Supervise, followed: Followed) -> None:
        self._dialect, self._connector, self._supervise = dialect, connector, supervise
        self._followed = followed
        self._lines: list[_Line] = []
        self._number = count(FIRST_LINE)
        self._new, self._to_start = trio.open_memory_channel[_Line](LINES_MAX)
        self._following: defaultdict[Listener, dict[str, None]] = defaultdict(dict)

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            async for line in self._to_start:
                nursery.start_soon(self._run_line, line)

    async def _run_line(self, line: _Line) -> None:
        await self._supervise("relay", line.run, exchange=self._connector.name, line=line.number)
        self._lines.remove(line)

    def has_room(self, name: str) -> bool:
        """Whether a stream that no feed has can be had."""
        place = self._dialect.line_of(self._connector.ws_url, name)
        return place is None or self._line_for(place, name) is not None or len(self._lines) < LINES_MAX

    def _line_for(self, place: str, name: str) -> _Line | None:
        """The line that carries a stream, else one that has room for it."""
        lines = [line for line in self._lines if line.place == place and not line.is_over]
        most = self._connector.exchange.limits.topics
        carrying = (line for line in lines if name in line.streams)
        return next(carrying, None) or next((line for line in lines if len(line.streams) < most), None)

    def join(self, name: str, listener: Listener) -> Sequence[bytes]:
        """Tell `listener` all that comes from now on; returns what it is to be told at once."""
        greeting = self._followed.join(name, listener)
        if greeting is not None:
            self._following[listener][name] = None
            return greeting
        place = self._dialect.line_of(self._connector.ws_url, name)
        if place is None or not self.has_room(name):
            return ()
        line = self._line_for(place, name)
        is_new = line is None
        if line is None:
            line = _Line(self._dialect, self._connector, place, next(self._number))
            self._lines.append(line)
        stream = line.streams.get(name)
        if stream is None:
            stream = line.streams[name] = _Stream(self._dialect, name)
            line.work.set()
        if is_new:
            self._new.send_nowait(line)
        stream.listeners[listener] = None
        self._following[listener][name] = None
        return stream.memory.greeting()

    def leave(self, name: str, listener: Listener) -> None:
        self._following[listener].pop(name, None)
        if self._followed.leave(name, listener):
            return
        for line in self._lines:
            stream = line.streams.get(name)
            if stream is not None and stream.listeners.pop(listener, 0) is None:
                stream.left_at = trio.current_time()

    def forget(self, listener: Listener) -> None:
        """It is gone."""
        for name in list(self._following[listener]):
            self.leave(name, listener)
        del self._following[listener]
