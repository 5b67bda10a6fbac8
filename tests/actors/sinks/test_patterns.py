"""Which topics a pattern means, and which patterns mean nothing."""

import pytest

from actors.events import Topic
from actors.sinks.patterns import matching, parsed

TRADES = Topic("binance", "BTCUSDT", "trades")
COLONS = Topic("hyperliquid", "xyz:TSLA", "trades")
BARS = Topic("binance", "BTCUSDT", "ohlc", "1m")
FORCED = Topic("bybit", "ETHUSDT", "liquidations")


@pytest.mark.parametrize(
    ("pattern", "topics"),
    [
        ("binance:BTCUSDT:trades", [TRADES]),
        ("binance:*:trades", [TRADES]),
        ("*:*:trades", [TRADES, COLONS]),
        ("*:BTC*:trades", [TRADES]),
        ("hyperliquid:xyz:TSLA:trades", [COLONS]),
        ("hyperliquid:xyz:*:trades", [COLONS]),
        ("binance:*:ohlc:1m", [BARS]),
        ("*:*:ohlc:*", [BARS]),
        ("*:*:ohlc:5m", []),
        ("binance:B.CUSDT:trades", []),
        ("all:liquidations", [FORCED]),
        ("bybit:*:liquidations", [FORCED]),
        ("all:large_trades", []),
    ],
)
def test_what_is_meant(pattern: str, topics: list[Topic]) -> None:
    assert [topic for topic in (TRADES, COLONS, BARS, FORCED) if matching([parsed(pattern)], topic)] == topics


@pytest.mark.parametrize(
    "pattern",
    [
        *("binance:BTCUSDT", "binance::trades", ":BTCUSDT:trades", "binance:BTCUSDT:trade", "*", ""),
        *("binance:BTCUSDT:ohlc", "binance:BTCUSDT:ohlc:7m", "binance:*:ohlc:", "all:trades", "all:*:trades", "oi-vol"),
        "binance:*:oi-vol",
    ],
)
def test_what_means_nothing(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parsed(pattern)
