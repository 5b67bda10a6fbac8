"""The floor under every server: one epoll loop of plain system calls that knows nothing and sends the same bytes.

`--upstream` makes it a fan-out: each trade of the feeder becomes one frame as long as the daemon's, written to every
client by one `send`. Without it, it answers each request with a body of the size that `--answer` gives its target.
"""

import argparse
import select
import signal
import socket
import sys

import msgspec

from actors.upstream.inbound import Splitter

from .feeder import TRADES

_HANDSHAKE = (
    b"GET /stream HTTP/1.1\r\nhost: feeder\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzhRXG0iD5HU=\r\n\r\n"
)
_TRADE = (
    b'{"type":"trade","exchange":"binance","symbol":"BTCUSDT","timestamp":"2026-01-01T00:00:00.000000Z","side":"sell",'
    b'"price":%.3f,"quantity":0.001,"value":%.6f,"is_buyer_maker":true,"trade_id":%d}'
)


class Upstream(msgspec.Struct, frozen=True):
    class Data(msgspec.Struct, frozen=True):
        p: str
        a: int

    data: Data | None = None


decode = msgspec.json.Decoder(Upstream).decode


class Floor:
    def __init__(self, upstream: str | None, answers: dict[bytes, bytes]) -> None:
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._poll = select.epoll()
        self._poll.register(self._listener, select.EPOLLIN)
        self._clients: dict[int, socket.socket] = {}
        self._readers: dict[int, socket.socket] = {}  # whose handshake is done
        self._upstream: socket.socket | None = None
        self._splitter = Splitter(1 << 20)
        if upstream is not None:
            host, _, port = upstream.partition(":")
            self._upstream = socket.create_connection((host, int(port)))
            self._upstream.sendall(_HANDSHAKE + _masked(f'{{"method":"SUBSCRIBE","params":["{TRADES}"],"id":1}}'))
            self._poll.register(self._upstream, select.EPOLLIN)
        sys.stderr.write(f'{{"event":"web.listening","url":"http://127.0.0.1:{self._listener.getsockname()[1]}"}}\n')
        sys.stderr.flush()

    def run(self) -> None:
        while True:
            for number, _ in self._poll.poll():
                if number == self._listener.fileno():
                    client, _address = self._listener.accept()
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._clients[client.fileno()] = client
                    self._poll.register(client, select.EPOLLIN)
                elif self._upstream is not None and number == self._upstream.fileno():
                    self._fan_out(self._upstream.recv(1 << 16))
                else:
                    self._serve(self._clients[number])

    def _serve(self, client: socket.socket) -> None:
        try:
            data = client.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            self._poll.unregister(client)
            del self._clients[client.fileno()]
            self._readers.pop(client.fileno(), None)
            client.close()
        elif b"upgrade: websocket" in data:
            client.sendall(_ACCEPTED)
            self._readers[client.fileno()] = client
        elif answer := self._answers.get(data.split(b" ", 2)[1]):
            client.sendall(answer)

    def _fan_out(self, data: bytes) -> None:
        texts, _ = self._splitter.feed(data)
        for text in texts:
            trade = decode(text).data
            if trade is not None:
                price = float(trade.p)
                body = _TRADE % (price, price / 1000, trade.a)
                frame = b"\x81\x7e" + len(body).to_bytes(2, "big") + body
                for client in self._readers.values():
                    try:
                        client.send(frame, socket.MSG_DONTWAIT)
                    except OSError:  # full, or left, of which its own event tells
                        continue


def _masked(text: str) -> bytes:
    return bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text.encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--upstream", help="host:port of the exchange")
    parser.add_argument("--answer", action="append", default=[], metavar="TARGET=BYTES", help="size of a body")
    parser.add_argument("--limit", type=int, required=True, help="seconds after which the process ends, whatever is on")
    options = parser.parse_args()
    signal.alarm(options.limit)
    answers = {}
    for text in options.answer:
        target, _, size = text.rpartition("=")
        head = f"HTTP/1.1 200 \r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n"
        answers[target.encode()] = head.encode() + b"0" * int(size)
    Floor(options.upstream, answers).run()


if __name__ == "__main__":
    main()
