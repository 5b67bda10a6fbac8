"""Binance's frames as fast as they can be made: many symbols, contiguous trade ids, minute bars that close in time."""

import time
from collections.abc import Sequence

from .feeder import MINUTE

TRADES_PER_BAR = (
    2  # trades between two updates of a symbol's bar: quiet for Binance, so bars weigh more than they would
)


class Frames:
    """An endless sequence of frames, the same for whoever asks: what differs is the time."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self._symbols = symbols
        self._next_id = 3_478_018_549
        self._opened = self.now() // MINUTE * MINUTE

    @staticmethod
    def now() -> int:
        return time.time_ns() // 1_000_000

    def burst(self) -> list[str]:
        """One round over all symbols."""
        at = self.now()
        opened = at // MINUTE * MINUTE
        frames = []
        if opened > self._opened:
            frames += [self.kline(symbol, self._opened, at, True) for symbol in self._symbols]
            self._opened = opened
        for _ in range(TRADES_PER_BAR):
            frames += [self.trade(symbol, at) for symbol in self._symbols]
            self._next_id += 1
        return frames + [self.kline(symbol, opened, at, False) for symbol in self._symbols]

    def trade(self, symbol: str, at: int) -> str:
        number = self._next_id
        price = f"{60_000 + number % 977}.{number % 10}0"
        maker = "true" if number % 3 else "false"
        return (
            f'{{"stream":"{symbol.lower()}@aggTrade","data":{{"e":"aggTrade","E":{at},"a":{number},"s":"{symbol}",'
            f'"p":"{price}","q":"0.{number % 900 + 1:03}","nq":"0.016","f":{number},"l":{number + 3},"T":{at - 1},'
            f'"m":{maker},"st":1}}}}'
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
