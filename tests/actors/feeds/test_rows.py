"""The run of bars that is held: a plain list says what it must answer, whatever is packed of it."""

from collections.abc import Iterable
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.events import Ohlc
from actors.feeds import rows as module
from actors.feeds.packing import Packed
from actors.feeds.rows import BLOCK, NEWEST, Rows
from tests.actors.feeds.test_packing import WHERE, bar, exactly

MINUTE = timedelta(minutes=1)


class Listed:
    """The twin of Rows: a list."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.bars: list[Ohlc] = []

    def append(self, bar: Ohlc) -> None:
        self.bars = [*self.bars, bar][-self.most :]

    def replace(self, bar: Ohlc, *, before_last: bool = False) -> None:
        self.bars[-2 if before_last else -1] = bar

    def clear(self) -> None:
        self.bars = []

    def count_before(self, time: datetime) -> int:
        return sum(bar.timestamp < time for bar in self.bars)

    def part(self, start: int, stop: int) -> list[Ohlc]:
        return self.bars[max(0, start) : max(0, stop)]


class Twins:
    """Both, told the same by a tape of decisions."""

    def __init__(self, tape: bytes, most: int) -> None:
        self.tape = iter(tape)
        self.rows, self.listed = Rows(WHERE, most), Listed(most)
        self.at = 0

    def run(self) -> None:
        for step in self.tape:
            match step % 16:
                case 0:
                    self.rows.clear()
                    self.listed.clear()
                case 1 | 2 | 3 if self.listed.bars:
                    self.replace(self.listed.bars[-1], before_last=False)
                case 4 if len(self.listed.bars) > 1:
                    self.replace(self.listed.bars[-2], before_last=True)
                case 5:
                    self.at += step // 16  # a hole
                case _:
                    self.append(self.new())
            self.compare()

    def new(self) -> Ohlc:
        self.at += 1
        odd = {"quote_volume": None, "volume": 0.1 + 0.2} if self.at % 11 == 0 else {}
        return bar(self.at, open=self.at / 100, **odd)

    def append(self, new: Ohlc) -> None:
        self.rows.append(new)
        self.listed.append(new)

    def replace(self, old: Ohlc, *, before_last: bool) -> None:
        new = bar(self.at, timestamp=old.timestamp, close=float(next(self.tape, 0)))
        self.rows.replace(new, before_last=before_last)
        self.listed.replace(new, before_last=before_last)

    def compare(self) -> None:
        rows, bars = self.rows, self.listed.bars
        assert exactly(list(rows)) == exactly(bars)
        assert len(rows) == len(bars)
        assert rows.first_open == (bars[0].timestamp if bars else None)
        assert rows.last == (bars[-1] if bars else None)
        assert rows.before_last == (bars[-2] if len(bars) > 1 else None)
        start, stop = (next(self.tape, 0) % 20 - 3 for _ in range(2))
        assert exactly(rows.part(start, stop)) == exactly(self.listed.part(start, stop))
        time = bar(self.at - next(self.tape, 0) % 20).timestamp + MINUTE / 2 * (start % 2)
        assert rows.count_before(time) == self.listed.count_before(time)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=200), st.integers(2, 14))
def test_it_answers_as_a_list_would(tape: bytes, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", 3)
        Twins(tape, most).run()


def test_at_its_full_size_it_answers_as_a_list_would() -> None:
    rows, listed = Rows(WHERE, 200), Listed(200)
    for index in range(300):
        for twin in (rows, listed):
            twin.append(bar(index, is_closed=False))
            twin.replace(bar(index))
        if index % 7 == 0:
            assert exactly(list(rows)) == exactly(listed.bars)
            for start in (-1, 0, 1, BLOCK, 150, 199):
                assert exactly(rows.part(start, start + 45)) == exactly(listed.part(start, start + 45))
                time = bar(index - start).timestamp
                assert rows.count_before(time) == listed.count_before(time)


def packed(most: int, bars: Iterable[Ohlc]) -> Rows:
    rows = Rows(WHERE, most, bars)
    while rows.pack():
        pass
    return rows


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_what_is_not_packed_yet_answers_as_a_list_would(steps: int) -> None:
    rows, listed = Rows(WHERE, 200, map(bar, range(250))), Listed(200)
    for index in range(250):
        listed.append(bar(index))
    for index in range(250, 480):
        for _ in range(steps if index > 260 else 0):
            rows.pack()
        rows.append(bar(index))
        listed.append(bar(index))
        if index % 5 == 0:
            assert exactly(list(rows)) == exactly(listed.bars)
            assert rows.first_open == listed.bars[0].timestamp
            for start in (0, 1, BLOCK, 150, 199):
                assert exactly(rows.part(start, start + 45)) == exactly(listed.part(start, start + 45))
                time = bar(index - start).timestamp
                assert rows.count_before(time) == listed.count_before(time)
    assert len(rows._events) < BLOCK + NEWEST  # each that came packed a block of those that waited


def test_all_but_the_newest_are_packed() -> None:
    rows = packed(1500, map(bar, range(1500)))
    assert len(rows._blocks) == (1500 - NEWEST) // BLOCK
    assert all(isinstance(block, Packed) for block in rows._blocks)
    assert NEWEST <= len(rows._events) < BLOCK + NEWEST


def test_who_asks_again_is_given_the_same_bars() -> None:
    rows = packed(100, map(bar, range(100)))
    before = rows.part(20, 100)
    rows.append(bar(100))  # the oldest goes
    after = rows.part(19, 100)
    assert all(a is b for a, b in zip(before, after, strict=False))
    assert len(after) == len(before) + 1


def test_looking_through_all_of_them_keeps_nothing_unpacked() -> None:
    rows = packed(100, map(bar, range(100)))
    module._unpacked.cache_clear()
    assert len(list(rows)) == 100
    assert module._unpacked.cache_info().currsize == 0
    rows.part(0, 40)
    assert module._unpacked.cache_info().currsize == 2
