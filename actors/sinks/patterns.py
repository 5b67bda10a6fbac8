"""Topics by patterns, as clients name them: `binance:*:trades`, `*:BTCUSDT:ohlc:1m`, `all:liquidations`.

`*` stands for any exchange, symbol or interval, also for part of a symbol (`binance:*USDC:trades`). Symbols may hold
colons. No I/O.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple, get_args

from actors.events import INTERVALS, Kind, Topic
from actors.feeds.everything import ALL, KINDS

FEED_KINDS: tuple[Kind, ...] = tuple(kind for kind in get_args(Kind) if kind != "oi-vol")
"""Of topics that feeds tell."""


class Pattern(NamedTuple):
    exchange: str
    symbol: re.Pattern[str]
    kind: Kind
    interval: str | None  # "*": any

    def matches(self, topic: Topic) -> bool:
        return (
            topic.kind == self.kind
            and self.exchange in ("*", topic.exchange)
            and self.interval in ("*", topic.interval)
            and self.symbol.fullmatch(topic.symbol) is not None
        )


def parsed(text: str) -> Pattern:
    """Raises ValueError: what is wrong with it."""
    match text.split(":"):
        case [exchange, kind] if exchange == ALL and kind in KINDS:
            return Pattern("*", re.compile(".+"), kind, None)
        case [exchange, *_] if exchange == ALL:
            raise ValueError(f"there is all:{' and all:'.join(KINDS)}")
        case [exchange, *symbol, "ohlc", interval] if exchange and any(symbol):
            if interval != "*" and interval not in INTERVALS:
                raise ValueError(f"there is no interval {interval!r}")
            return Pattern(exchange, _symbol(":".join(symbol)), "ohlc", interval)
        case [_, *_, "ohlc"]:
            raise ValueError("bars have an interval: EXCHANGE:SYMBOL:ohlc:INTERVAL")
        case [exchange, *symbol, kind] if exchange and any(symbol) and kind in FEED_KINDS:
            return Pattern(exchange, _symbol(":".join(symbol)), kind, None)
    raise ValueError(f"expected EXCHANGE:SYMBOL:KIND, KIND one of {' '.join(FEED_KINDS)}")


def _symbol(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split("*"))))


def matching(patterns: Iterable[Pattern], topic: Topic) -> bool:
    return any(pattern.matches(topic) for pattern in patterns)
