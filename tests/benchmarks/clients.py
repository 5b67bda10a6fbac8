"""Many WebSocket clients of one stream in one lean process: raw sockets, one epoll, a frame parsed once for them all.

Talks to its parent in lines of JSON: `{"joined":1}` once the first client has its first trade, `{"joined":N}` once all
are connected; then it is told `{"start":us,"end":us}`, the window of send times that counts, and answers a `Result`.
"""

import argparse
import select
import signal
import socket
import sys
import time
from array import array
from urllib.parse import urlsplit

import msgspec

from .feeder import age_of, now_us

DRAIN = 1_000_000  # microseconds after the window for what is still on its way
_RECEIVE = 1 << 16
_TEXT, _CLOSE, _PING = 0x81, 0x88, 0x89
HANDSHAKE = (
    "GET {} HTTP/1.1\r\nhost: {}\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Joined(msgspec.Struct, frozen=True):
    joined: int


class Window(msgspec.Struct, frozen=True):
    """Trades sent at `start` or later, before `end`, count. Microseconds of `now_us`."""

    start: int
    end: int


class Result(msgspec.Struct, frozen=True):
    """Latencies in microseconds from the exchange's send to the client's receive."""

    delivered: int
    expected: int  # trades of the window, by their ids, times the clients
    out_of_order: int  # trades whose id did not follow the client's last one
    closed: int  # clients that lost their connection
    p50: int
    p99: int
    worst: int
    frame_bytes: int
    busy: float  # share of a core that this process used; near 1 it measures itself


class Trade(msgspec.Struct, frozen=True):
    price: float
    trade_id: int


decode_trade = msgspec.json.Decoder(Trade).decode


class Clients:
    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._rests: dict[int, bytes] = {}  # received, but not yet a whole frame
        self._last_ids: dict[int, int] = {}
        self._trades: dict[bytes, Trade] = {}  # by frame: each client gets the same bytes
        self._window = Window(0, 0)
        self._ids: set[int] = set()  # of the window
        self._latencies = array("L")
        self._out_of_order = 0
        self._closed = 0
        self._frame_bytes = 0

    @property
    def has_trades(self) -> bool:
        return bool(self._trades)

    def connect(self) -> None:
        """One more client, its handshake done."""
        address = (self._url.hostname or "", self._url.port or 80)
        connection = socket.create_connection(address, timeout=10)
        connection.sendall(HANDSHAKE.format(self._url.path, self._url.netloc).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            data = connection.recv(_RECEIVE)
            if not data:
                raise ConnectionError(f"hung up during the handshake: {head!r}")
            head += data
        head, _, rest = head.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise ConnectionError(f"refused: {head!r}")
        connection.setblocking(False)
        number = connection.fileno()
        self._sockets[number] = connection
        self._poll.register(number, select.EPOLLIN)
        self._take(number, rest, now_us())

    def receive_until(self, end: int) -> None:
        """Read whatever comes until `end`, of `now_us`."""
        while (left := end - now_us()) > 0:
            self.receive(left / 1e6)

    def receive(self, timeout: float) -> None:
        """Read once from each client that has something, or wait for `timeout` seconds."""
        window, append = self._window, self._latencies.append
        for number, _ in self._poll.poll(timeout):
            try:
                data = self._sockets[number].recv(_RECEIVE)
            except ConnectionResetError:
                data = b""
            now = now_us()
            trade = self._trades.get(data)
            # The common case is one whole frame, which another client had before.
            if trade is None or number in self._rests:
                self._take(number, data, now) if data else self._drop(number)
                continue
            self._check_order(number, trade.trade_id)
            age = age_of(trade.price, now)
            if window.start <= now - age < window.end:
                append(age)

    def _take(self, number: int, data: bytes, now: int) -> None:
        data = self._rests.pop(number, b"") + data
        while len(data) >= 4:
            kind, size, begin = data[0], data[1], 2
            if size == 126:
                size, begin = int.from_bytes(data[2:4], "big"), 4
            end = begin + size
            if len(data) < end:
                break
            frame, body, data = data[:end], data[begin:end], data[end:]
            if kind == _TEXT:
                self._take_trade(number, frame, body, now)
            elif kind == _PING:
                self._sockets[number].send(bytes((0x8A, 0x80 | size, 0, 0, 0, 0)) + body)
            elif kind == _CLOSE:
                self._drop(number)
                return
        if data:
            self._rests[number] = data

    def _take_trade(self, number: int, frame: bytes, body: bytes, now: int) -> None:
        trade = self._trades.get(frame)
        if trade is None:
            trade = self._trades[frame] = decode_trade(body)
            self._frame_bytes = len(frame)
        self._check_order(number, trade.trade_id)
        age = age_of(trade.price, now)
        if self._window.start <= now - age < self._window.end:
            self._latencies.append(age)
            self._ids.add(trade.trade_id)

    def _check_order(self, number: int, trade_id: int) -> None:
        last = self._last_ids.get(number)
        self._last_ids[number] = trade_id
        if last is not None and trade_id != last + 1:
            self._out_of_order += 1

    def _drop(self, number: int) -> None:
        self._poll.unregister(number)
        self._sockets.pop(number).close()
        self._closed += 1

    def measure(self, window: Window) -> Result:
        self.receive_until(window.start - 100_000)  # no send time in there can count
        self._window = window
        before = time.process_time()
        self.receive_until(window.end)
        busy = (time.process_time() - before) / ((window.end - window.start) / 1e6)
        self.receive_until(window.end + DRAIN)
        ages = sorted(self._latencies)
        if not ages:
            raise ConnectionError("no trade arrived within the window")
        return Result(
            delivered=len(ages),
            expected=(max(self._ids) - min(self._ids) + 1) * (len(self._sockets) + self._closed),
            out_of_order=self._out_of_order,
            closed=self._closed,
            p50=ages[len(ages) // 2],
            p99=ages[len(ages) * 99 // 100],
            worst=ages[-1],
            frame_bytes=self._frame_bytes,
            busy=round(busy, 3),
        )


def tell(message: Joined | Result) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="ws://host:port/path of a stream of trades")
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--limit", type=int, required=True, help="seconds after which the process ends, whatever is on")
    options = parser.parse_args()
    signal.alarm(options.limit)

    clients = Clients(options.url)
    clients.connect()
    while not clients.has_trades:
        clients.receive(1.0)
    tell(Joined(1))
    msgspec.json.decode(sys.stdin.buffer.readline(), type=Joined)  # go on
    for _ in range(options.clients - 1):
        clients.connect()
        clients.receive(0)
    tell(Joined(options.clients))
    wait_for_parent(clients)
    tell(clients.measure(msgspec.json.decode(sys.stdin.buffer.readline(), type=Window)))


def wait_for_parent(clients: Clients) -> None:
    """Keep reading the streams until the parent has said something."""
    while not select.select([sys.stdin], [], [], 0)[0]:
        clients.receive(0.05)


if __name__ == "__main__":
    main()
