"""Times of exchanges: exact, whether near to one that was told or not."""

from datetime import UTC, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors import decoding
from actors.decoding import moment, opening
from actors.errors import BadMessage
from actors.events import EPOCH, from_ms, ms

LAST = 253402300799999  # of the year 9999


@given(st.lists(st.one_of(st.integers(1, LAST), st.integers(1790000000000, 1790000004000)), min_size=1))
@example([1, 999, 1000, 1001])
@example([LAST, LAST - 2048, LAST - 2049])
@example([4096, 1, 4097, 2048, 2049, 4097, 1])
def test_times_are_exact(times: list[int]) -> None:
    for milliseconds in times:
        for read in (moment, opening):
            time = read(milliseconds)
            assert time == EPOCH + timedelta(milliseconds=milliseconds)
            assert time.tzinfo is UTC
            assert ms(time) == milliseconds


@pytest.mark.parametrize("milliseconds", [0, -1, -1000, LAST + 1, 10**30])
def test_times_of_no_year_are_refused(milliseconds: int) -> None:
    for near in (1, 4097, LAST):
        moment(near)
        for read in (moment, opening, *((from_ms,) if milliseconds else ())):
            with pytest.raises(BadMessage):
                read(milliseconds)


def test_a_time_near_the_last_one_needs_no_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    moment(1790000000000)
    monkeypatch.setattr(decoding, "from_ms", None)
    for milliseconds in (1789999999000, 1790000001000):
        assert ms(moment(milliseconds)) == milliseconds


def test_symbols_share_the_open_of_a_bar() -> None:
    assert opening(1790000040000) is opening(1790000040000)
