"""The streams of the simulated Hyperliquid.

Law: a stream is a generator that is sent the time and yields the frames that have become due since the last time; it
sees the market and knows nothing of connections. The first `next` only starts it.
"""

from collections.abc import Generator, Sequence

import msgspec

from actors.exchanges.hyperliquid.simulator.rows import Coin, candle, context, l2_book, last_day, trade_row
from actors.simulation.history import MINUTE, Bar, floor_open, hashed, shift_open
from actors.simulation.market import Trade

_encode = msgspec.json.encode

Source = Generator[list[bytes], int, None]
MIDS_EVERY = 5000  # ms
PUSH_EVERY = 500  # ms between two pushes of one candle


def envelope(channel: str, data: object) -> bytes:
    return _encode({"channel": channel, "data": data})


def trades_frame(coin: Coin, trades: list[Trade]) -> bytes:
    return envelope("trades", [trade_row(coin, trade) for trade in trades])


def trades(coin: Coin, now: int) -> Source:
    """What happened since the last look, as one block."""
    frames: list[bytes] = []
    following = coin.tape.next_id
    while True:
        yield frames
        count = coin.tape.next_id - following
        frames = [trades_frame(coin, coin.tape.trades[-count:])] if count else []
        following = coin.tape.next_id


def candle_frame(coin: Coin, interval: str, bar: Bar) -> bytes:
    return envelope("candle", candle(coin, interval, bar))


def candles(coin: Coin, interval: str, now: int) -> Source:
    """On change only, never said to be final: a bar's last push comes late, a bar without trades has none at all."""
    frames: list[bytes] = []
    opening, pushed = floor_open(interval, now), now
    shown = coin.tape.bar(interval, opening)
    while True:
        now = yield frames
        frames = []
        while True:
            end = shift_open(interval, opening, 1)
            bar = coin.tape.bar(interval, opening)
            if now < end + 100 + hashed(coin.key, opening) % 100:
                break
            if bar != shown:
                frames.append(candle_frame(coin, interval, bar))
            opening, pushed = end, 0
            shown = coin.tape.bar(interval, opening)._replace(trades=0)
        if bar != shown and bar.trades and now - pushed >= PUSH_EVERY:
            frames.append(candle_frame(coin, interval, bar))
            shown, pushed = bar, now


def contexts(coin: Coin, now: int) -> Source:
    """Once a second, changed or not."""
    frames: list[bytes] = []
    last, minute = now // 1000, now // MINUTE
    day = last_day(coin.tape, now)
    while True:
        now = yield frames
        frames = []
        if now // 1000 > last:
            last = now // 1000
            if now // MINUTE > minute:  # a day's volume is dear to add up
                minute, day = now // MINUTE, last_day(coin.tape, now)
            frames = [context_frame(coin, last * 1000, day)]


def context_frame(coin: Coin, at: int, day: Bar) -> bytes:
    return envelope("activeAssetCtx", {"coin": coin.name, "ctx": context(coin, at, day)})


def books(coin: Coin, now: int, channel: str) -> Source:
    """The book, or ("bbo") its best alone, on change and at most every half second."""
    frames: list[bytes] = []
    shown, pushed = -1, now
    while True:
        now = yield frames
        frames = []
        if coin.tape.next_id != shown and now - pushed >= PUSH_EVERY:
            shown, pushed = coin.tape.next_id, now
            frames = [book_frame(coin, now, channel)]


def book_frame(coin: Coin, now: int, channel: str) -> bytes:
    book = l2_book(coin, now)
    if channel == "l2Book":
        return envelope("l2Book", book)
    best = [side[0] if side else None for side in book["levels"]]
    return envelope("bbo", {"coin": coin.name, "time": now, "bbo": best})


def mids(coins: Sequence[Coin], now: int) -> Source:
    """Everybody's price at once."""
    frames: list[bytes] = []
    last = now // MIDS_EVERY
    while True:
        now = yield frames
        frames = []
        if now // MIDS_EVERY > last:
            last = now // MIDS_EVERY
            frames = [mids_frame(coins, now)]


def mids_frame(coins: Sequence[Coin], now: int) -> bytes:
    return envelope("allMids", {"mids": {coin.name: coin.mark(now) for coin in coins if not coin.is_delisted}})


def of_users(now: int) -> Source:
    """Nobody trades in a simulation."""
    while True:
        yield []
