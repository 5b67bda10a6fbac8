"""What a façade that nobody asks costs the frames that pass it: a glance."""

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import trio

from actors.connector import Connector
from actors.exchanges import binance, bybit, hyperliquid
from actors.exchanges.dialect import Dialect
from actors.exchanges.exchange import Exchange
from actors.facade.followed import Ear, Followed

HOUR = 3600.0


def heard_by(exchange: Exchange, read: list[str]) -> tuple[Followed, Ear]:
    """`read`: the streams whose frames were decoded."""
    feed = SimpleNamespace(derived=())
    connector = SimpleNamespace(
        name=exchange.name, exchange=exchange, feeds={}, reading=lambda topic: nullcontext(feed)
    )
    followed = Followed(cast(Dialect, exchange.dialect), cast(Connector, connector))
    return followed, followed.opened(lambda stream, frame: read.append(stream))


def ticker(number: int) -> bytes:
    data: dict[str, Any] = {"symbol": "BTCUSDT", "lastPrice": str(number)}
    if not number:
        data["markPrice"] = "7"
    return msgspec.json.encode(
        {
            "topic": "tickers.BTCUSDT",
            "type": "delta" if number else "snapshot",
            "data": data,
            "cs": number,
            "ts": number,
        }
    )


def trade(number: int) -> bytes:
    row = {"coin": "BTC", "side": "A", "px": "1.0", "sz": "1.0", "time": number, "tid": number}
    return msgspec.json.encode({"channel": "trades", "data": [row]})


def candle(number: int) -> bytes:
    bar = {"t": 1_790_358_600_000, "T": 1_790_358_659_999, "s": "BTC", "i": "1m", "o": "1", "c": "1", "n": number}
    return msgspec.json.encode({"channel": "candle", "data": bar})


OTHER = msgspec.json.encode({"topic": "publicTrade.BTCUSDT", "type": "snapshot", "ts": 1, "data": []})


async def test_without_a_listener_no_frame_is_read_until_one_comes() -> None:
    read: list[str] = []
    followed, ear = heard_by(hyperliquid.EXCHANGE, read)
    for number in range(1000):
        ear.heard((trade(number), candle(number)))
    assert not read
    followed.need()
    assert read.count("candle BTC 1m") == 1
    assert read.count("trades BTC") == 30
    ear.heard((trade(1000),))
    assert read.count("trades BTC") == 31, "while somebody may listen"


@pytest.mark.parametrize(
    "spell", [lambda told: told, lambda told: dict(reversed(told.items()))], ids=["spaced", "turned"]
)
async def test_what_is_spelled_unlike_the_documents_is_kept_all_the_same(spell: Callable[[Any], Any]) -> None:
    def spelled(frame: bytes) -> bytes:
        return json.dumps(spell(json.loads(frame))).encode()

    read: list[str] = []
    followed, ear = heard_by(bybit.EXCHANGE, read)
    ear.heard([spelled(ticker(number)) for number in (7, 0, 1)])
    ear.heard([spelled(OTHER), ticker(2)])
    assert not read
    followed.need()
    assert read == ["tickers.BTCUSDT"] * 3, "from the snapshot on"
    read = []
    followed, ear = heard_by(hyperliquid.EXCHANGE, read)
    for number in range(40):
        ear.heard((spelled(trade(number)), spelled(candle(number))))
    assert not read
    followed.need()
    assert (read.count("candle BTC 1m"), read.count("trades BTC")) == (1, 30)


@pytest.mark.parametrize(
    "frame",
    [
        b'{"stream":"btcusdt@aggTrade","data":{"a":1}}',
        b'{"stream": "btcusdt@aggTrade", "data": {"a":1}}',
        b'{"data":{"a":1},"stream":"btcusdt@aggTrade"}',
    ],
)
def test_binances_envelope_is_opened_however_it_is_spelled(frame: bytes) -> None:
    assert cast(Dialect, binance.EXCHANGE.dialect).read(frame) == ("btcusdt@aggTrade", b'{"a":1}')


async def test_a_tickers_changes_are_read_a_hundred_at_a_time() -> None:
    read: list[str] = []
    followed, ear = heard_by(bybit.EXCHANGE, read)
    for number in range(50):
        ear.heard((ticker(number), OTHER))
    assert not read
    for number in range(50, 120):
        ear.heard((ticker(number), OTHER))
    assert set(read) == {"tickers.BTCUSDT"}
    followed.need()
    assert len(read) == 120
    ear.heard((ticker(0),))
    assert followed.is_needed


async def test_what_nobody_listens_to_any_more_is_not_read(autojump_clock: trio.testing.MockClock) -> None:
    read: list[str] = []
    followed, ear = heard_by(hyperliquid.EXCHANGE, read)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(followed.run)
        followed.need(HOUR)
        await trio.sleep(HOUR - 5)
        ear.heard((trade(1),))
        assert read == ["trades BTC"]
        await trio.sleep(10)
        ear.heard((trade(2),))
        assert read == ["trades BTC"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("frames", [(b"", b"{}", b'{"channel":"trades"', b'{"topic":"tickers.', b"\xff" * 50)])
@pytest.mark.parametrize("exchange", [bybit.EXCHANGE, hyperliquid.EXCHANGE], ids=lambda exchange: str(exchange.name))
async def test_broken_frames_harm_nobody(exchange: Exchange, frames: Sequence[bytes]) -> None:
    read: list[str] = []
    followed, ear = heard_by(exchange, read)
    ear.heard(frames)
    followed.need()
    ear.heard(frames)
    assert not read


async def test_what_cannot_be_told_on_does_not_cost_the_feed_its_connection() -> None:
    """The line drops such a frame and counts it; the façade hears the same frames."""
    followed, ear = heard_by(binance.EXCHANGE, [])
    told: list[bytes] = []
    followed.join("btcusdt@aggTrade", lambda stream, frame: told.append(frame))
    good = b'{"e":"aggTrade","E":2,"a":7,"s":"BTCUSDT","p":"1","q":"1","f":1,"l":1,"T":1,"m":true}'
    for data in (b'{"e":"aggTrade"}', b"null", good, b"[" * 900 + b"]" * 900, b"\xff"):
        ear.heard((b'{"stream":"btcusdt@aggTrade","data":%b}' % data,))
    assert told == [good]
