"""Binance's frames as fast as they can be made, and the other end of a WebSocket that sends them: many symbols,
contiguous trade ids, minute bars that close in time.
"""

import base64
import hashlib
import re
import select
import socket
import time
from collections.abc import Callable, Sequence

from .feeder import MINUTE
from .processes import Ended

TRADES_PER_BAR = (
    2  # trades between two updates of a symbol's bar: quiet for Binance, so bars weigh more than they would
)
PACE = 3  # frames per millisecond, where they are paced
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455
_ACCEPT = (
    "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {}\r\n\r\n"
)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Frames:
    """An endless sequence of frames, the same for whoever asks: what differs is the time, Unix milliseconds.

    Each has a time of its own, as far as `now` tells them apart.
    """

    def __init__(
        self, symbols: Sequence[str], now: Callable[[], int] = now_ms, *, whole_coins: int = 0, marks: bool = False
    ) -> None:
        self._symbols = symbols
        self._marks = marks  # the funding of each symbol in every round, too
        self._now = now
        self._whole = whole_coins  # of each trade: from 2 on it is a large one
        self._next_id = 3_478_018_549
        self._opened = now() // MINUTE * MINUTE

    def burst(self) -> list[str]:
        """One round over all symbols."""
        now = self._now
        opened = now() // MINUTE * MINUTE
        frames = []
        if opened > self._opened:
            frames += [self.kline(symbol, self._opened, now(), True) for symbol in self._symbols]
            self._opened = opened
        for _ in range(TRADES_PER_BAR):
            frames += [self.trade(symbol, now()) for symbol in self._symbols]
            self.next_round()
        if self._marks:
            frames += [self.mark(symbol, now()) for symbol in self._symbols]
        return frames + [self.kline(symbol, opened, now(), False) for symbol in self._symbols]

    def next_round(self) -> None:
        """The next trade of each symbol is the next one."""
        self._next_id += 1

    def trade(self, symbol: str, at: int) -> str:
        number = self._next_id
        price = f"{60_000 + number % 977}.{number % 10}0"
        maker = "true" if number % 3 else "false"
        return (
            f'{{"stream":"{symbol.lower()}@aggTrade","data":{{"e":"aggTrade","E":{at},"a":{number},"s":"{symbol}",'
            f'"p":"{price}","q":"{self._whole}.{number % 900 + 1:03}","nq":"0.016","f":{number},"l":{number + 3},'
            f'"T":{at - 1},"m":{maker},"st":1}}}}'
        )

    def mark(self, symbol: str, at: int) -> str:
        return (
            f'{{"stream":"{symbol.lower()}@markPrice@1s","data":{{"e":"markPriceUpdate","E":{at},"s":"{symbol}",'
            f'"p":"64346.70","ap":"64346.70","P":"64335.31","i":"64399.61","r":"0.00005301",'
            f'"T":{at + 3_600_000},"st":1}}}}'
        )

    def kline(self, symbol: str, opened: int, at: int, is_closed: bool) -> str:
        number = self._next_id
        base = 60_000 + opened // MINUTE % 900
        return (
            f'{{"stream":"{symbol.lower()}@kline_1m","data":{{"e":"kline","E":{at},"s":"{symbol}","k":{{"t":{opened},'
            f'"T":{opened + MINUTE - 1},"s":"{symbol}","i":"1m","f":{number},"L":{number + 90},"o":"{base}.80",'
            f'"c":"{base + number % 70}.40","h":"{base + 99}.90","l":"{base - 7}.40","v":"9.{number % 900:03}",'
            f'"n":{number % 500 + 1},"x":{"true" if is_closed else "false"},"q":"590577.96880","V":"3.460",'
            f'"Q":"224795.09440","B":"0"}},"st":1}}}}'
        )


def text_frame(text: str) -> bytes:
    """A WebSocket frame as a server sends it."""
    body = text.encode()
    size = len(body)
    return (bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")) + body


class Exchange:
    """The other end of one WebSocket: frames as fast as they are taken. Whoever connects is sent them at once."""

    def __init__(self, frames: Frames) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._frames = frames

    def accept(self, within: float) -> None:
        self._listener.settimeout(within)
        self._client, _ = self._listener.accept()
        self._client.settimeout(within)
        self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._client.recv(4096)
        key = re.search(rb"(?i)sec-websocket-key: *(\S+)", head)
        assert key is not None
        self._client.sendall(_ACCEPT.format(base64.b64encode(hashlib.sha1(key[1] + _GUID).digest()).decode()).encode())

    def send_until(self, end: float, *, paced: bool = False) -> int:
        """How many frames were sent; what the client says meanwhile is read and dropped."""
        count = 0
        while time.monotonic() < end:
            count += self.send_burst(paced=paced)
        return count

    def send_burst(self, *, paced: bool = False) -> int:
        """One round over all symbols; with `paced`, slowly and each frame by itself."""
        burst, now = self._frames.burst(), time.monotonic()
        if paced:
            for at in range(0, len(burst), PACE):
                for frame in burst[at : at + PACE]:
                    self._client.sendall(text_frame(frame))
                now += 0.001
                time.sleep(max(0.0, now - time.monotonic()))
        else:
            self._client.sendall(b"".join(map(text_frame, burst)))
        while select.select([self._client], [], [], 0)[0]:
            if not self._client.recv(1 << 16):
                raise Ended("whoever was fed hung up")
        return len(burst)

    def close(self) -> None:
        self._client.close()
        self._listener.close()
