"""Who turns a frame of Binance into an object: this project, ccxt, cryptofeed. Each is given the frame as it came.

Each is made ready for a list of symbols and returns a function of one frame. Nothing here needs a network. A frame is
bytes for this project and text for the others, as each gets it from its WebSocket.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from actors.exchanges.binance.session import BinanceSession

from .feeder import contract

Normaliser = Callable[[Any], object]


def marketd(symbols: Sequence[str]) -> Normaliser:
    receive, now = BinanceSession({}).receive, datetime.now(UTC)
    return lambda frame: receive(frame, now)


def ccxt(symbols: Sequence[str]) -> Normaliser:
    """What `watch_trades` and `watch_ohlcv` do with a message, their caches of a thousand rows included."""
    import json

    import ccxt.pro

    exchange = ccxt.pro.binanceusdm({"newUpdates": True})
    exchange.set_markets([exchange.parse_market(contract(symbol) | {"filters": []}) for symbol in symbols])
    client = SimpleNamespace(
        url="wss://fstream.binance.com/stream", subscriptions={}, resolve=lambda result, message_hash: None
    )
    return lambda frame: exchange.handle_message(client, json.loads(frame))


def cryptofeed(symbols: Sequence[str]) -> Normaliser:
    """What its connection hands a message to, up to a callback that takes the object."""
    from cryptofeed.defines import CANDLES, TRADES
    from cryptofeed.exchanges import BinanceFutures
    from cryptofeed.symbols import Symbols

    listed = [contract(symbol) | {"pricePrecision": 2} for symbol in symbols]
    mapping, info = BinanceFutures._parse_symbol_data({"symbols": listed})
    Symbols.set(BinanceFutures.id, mapping, info)

    async def take(event: object, timestamp: float) -> None:
        pass

    names = [name for name in mapping if "PINDEX" not in name]
    channels = [TRADES, CANDLES]
    callbacks: dict[str, Any] = {TRADES: take, CANDLES: take}
    feed = BinanceFutures(symbols=names, channels=channels, callbacks=callbacks, candle_closed_only=False)
    connection = SimpleNamespace(uuid="benchmark")

    def normalise(frame: str) -> None:
        handling = feed.message_handler(frame, connection, 0.0)
        try:
            handling.send(None)
        except StopIteration:  # nothing in it waits
            return
        raise RuntimeError("cryptofeed waits for something")

    return normalise


TAKE_BYTES = {"marketd"}
NORMALISERS: dict[str, Callable[[Sequence[str]], Normaliser]] = {
    "marketd": marketd,
    **({"ccxt": ccxt} if find_spec("ccxt") else {}),
    **({"cryptofeed": cryptofeed} if find_spec("cryptofeed") else {}),
}
