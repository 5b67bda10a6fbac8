"""Conflated bars and joined frames: what may be left out is left out, and nothing else."""

from itertools import pairwise
from typing import Any, cast

import msgspec
import trio
from hypothesis import given
from hypothesis import strategies as st

from actors.events import Gap, Ohlc, Said, from_ms
from actors.relayed import Relayed
from tests.daemon.fixtures import MINUTE, Json, eventually, world
from web.server.outbox import Outbox, payloads_of, text_frame
from web.streams.memory import Encoded
from web.streams.pacing import Batcher, Conflater


def bar(minute: int, close: float, *, is_closed: bool = False) -> Ohlc:
    return Ohlc(
        exchange="binance",
        symbol="BTCUSDT",
        timestamp=from_ms(minute * MINUTE),
        interval="1m",
        open=1.0,
        high=9.0,
        low=0.5,
        close=close,
        volume=1.0,
        quote_volume=None,
        trades_count=None,
        is_closed=is_closed,
    )


GAP = Gap(
    exchange="binance",
    symbol="BTCUSDT",
    timestamp=from_ms(0),
    start=from_ms(0),
    end=from_ms(1),
    reason="for a test",
    repaired=False,
)


class Paced:
    """A conflater of what is not encoded."""

    def __init__(self, rate: float) -> None:
        self._conflater = Conflater(rate)

    @property
    def due(self) -> float:
        return self._conflater.due

    def take(self, said: Said, now: float) -> list[Said | Relayed]:
        return [told.said for told in self._conflater.take(Encoded(said, b"", now), now)]

    def flush(self, now: float) -> list[Said | Relayed]:
        return [told.said for told in self._conflater.flush(now)]


def test_the_latest_update_is_told_when_its_time_has_come() -> None:
    conflater = Paced(2.0)
    assert conflater.take(bar(0, 1.0), 10.0) == [bar(0, 1.0)]
    assert conflater.take(bar(0, 2.0), 10.1) == []
    assert conflater.take(bar(0, 3.0), 10.2) == []
    assert conflater.due == 10.5
    assert conflater.flush(10.5) == [bar(0, 3.0)]
    assert conflater.flush(10.6) == []
    assert conflater.due > 1e9


def test_a_close_is_told_at_once_and_a_gap_behind_what_came_before_it() -> None:
    conflater = Paced(1.0)
    conflater.take(bar(0, 1.0), 10.0)
    conflater.take(bar(0, 2.0), 10.1)
    assert conflater.take(bar(0, 3.0, is_closed=True), 10.2) == [bar(0, 3.0, is_closed=True)]
    assert conflater.flush(20.0) == [], "the older update of a closed bar is not told"
    conflater.take(bar(1, 1.0), 20.0)
    conflater.take(bar(1, 2.0), 20.1)
    assert conflater.take(GAP, 20.2) == [bar(1, 2.0), GAP]


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 1.0)), max_size=60), st.floats(0.5, 20.0))
def test_no_close_is_lost_nothing_is_told_too_often_and_the_last_word_is_the_latest(
    steps: list[tuple[bool, float]], rate: float
) -> None:
    conflater, now, minute = Paced(rate), 0.0, 0
    given_closes: list[Said] = []
    told: list[tuple[float, Said | Relayed]] = []
    latest: Said | None = None
    for number, (closes, wait) in enumerate(steps):
        while conflater.due <= now + wait:
            now, wait = conflater.due, now + wait - conflater.due
            told += [(now, said) for said in conflater.flush(now)]
        now += wait
        latest = bar(minute, float(number), is_closed=closes)
        if closes:
            given_closes.append(latest)
            minute += 1
        told += [(now, said) for said in conflater.take(latest, now)]
    told += [(now, said) for said in conflater.flush(now)]
    assert [said for _, said in told if isinstance(said, Ohlc) and said.is_closed] == given_closes
    assert not steps or told[-1][1] == latest
    numbers = [said.close for _, said in told if isinstance(said, Ohlc)]
    assert numbers == sorted(set(numbers)), "in order, nothing twice"
    for (before, _), (at, said) in pairwise(told[:-1]):
        if isinstance(said, Ohlc) and not said.is_closed:
            assert at - before >= 1 / rate - 1e-9


class Wire:
    """Stands for an outbox."""

    def __init__(self) -> None:
        self.closed = False
        self.said: list[Any] = []

    def send(self, frame: bytes) -> None:
        self.said += map(msgspec.json.decode, payloads_of(frame))

    async def write_texts(self, texts: list[bytes]) -> None:
        self.said += map(msgspec.json.decode, texts)

    def close(self, code: int, reason: str = "") -> None:
        self.said.append(code)


async def test_frames_of_one_moment_leave_as_one_array(autojump_clock: trio.testing.MockClock) -> None:
    wire = Wire()
    async with trio.open_nursery() as nursery:
        batcher = Batcher(cast(Outbox, wire), 0.05, nursery.start_soon)
        for number in range(3):
            batcher.send(text_frame(b"%d" % number))
            await trio.sleep(0.01)
        assert wire.said == []
        await trio.sleep(0.03)
        batcher.send(text_frame(b'"%b"' % (b"x" * 70_000)))
        await batcher.write_texts([b"3", b"4"])
        batcher.send(text_frame(b"5"))
        batcher.close(1001)
    assert wire.said == [[0, 1, 2], ["x" * 70_000], [3, 4], [5], 1001]


async def test_a_client_that_asks_for_batches_hears_the_same_in_fewer_frames() -> None:
    async with (
        world() as w,
        w.stream("/ws/binance/BTCUSDT/trades") as plain,
        w.stream("/ws/binance/BTCUSDT/trades?batch_ms=200") as batched,
        w.stream("/ws?batch_ms=200") as socket,
    ):
        command: Json = {"op": "subscribe", "topics": ["binance:BTCUSDT:trades"]}
        await socket.say(command)
        await eventually(lambda: socket.frames)
        await w.pass_time(10_000)
        await plain.at_least(10)

        def flat(frames: list[Json]) -> list[Json]:
            return [event for frame in frames for event in frame]

        # Neither need be ahead: on a busy machine the last trades reach them at different moments.
        await eventually(lambda: flat(batched.frames) == plain.frames)
        assert len(batched.frames) < len(plain.frames)
        await eventually(lambda: len(flat(socket.frames)) > len(plain.frames))
        ack, *events = flat(socket.frames)
        assert ack == {"type": "ack", "topics": ["binance:BTCUSDT:trades"]}
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        for path in ("/ws?batch_ms=-1", "/ws?batch=5", "/ws/binance/BTCUSDT/trades?batch_ms=99999"):
            frame, code, _ = await w.refused(path)
            assert (frame["code"], code) == ("invalid_parameter", 1008)
        for path, wanted in (
            ("/ws/binance/NOPE/trades?batch_ms=100", "unknown_symbol"),
            ("/ws/oi-vol?timeframes=99h&batch_ms=100", "invalid_parameter"),
        ):
            frame, code, _ = await w.refused(path)
            assert (frame["code"], code) == (wanted, 1008)


async def test_a_slow_bar_still_closes() -> None:
    async with (
        world() as w,
        w.stream("/ws/binance/BTCUSDT/ohlc") as every,
        w.stream("/ws/binance/BTCUSDT/ohlc?max_rate=2") as some,
    ):

        def closed(frames: list[Json]) -> list[Json]:
            return [frame for frame in frames if frame["is_closed"]]

        for minute in range(1, 5):
            await w.pass_time(MINUTE)
            await eventually(lambda: len(closed(every.frames)) >= minute <= len(closed(some.frames)))  # noqa: B023
        begun = closed(some.frames)[0]["timestamp"]  # a bar may have closed before it connected
        bars = [bar for bar in closed(every.frames) if bar["timestamp"] >= begun]
        both = min(len(bars), len(closed(some.frames)))
        assert both >= 2
        assert closed(some.frames)[:both] == bars[:both]
        assert len(some.frames) < len(every.frames) / 2
