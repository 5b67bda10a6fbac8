"""Rows that wait for the disk: in which order they go, what is dropped, and that none is lost or there twice."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from actors.archive.series import Range, Series, Write
from actors.archive.waiting import Waiting

BARS = Series("ohlc", "binance", "BTCUSDT", "1m")
RATES = Series("funding_history", "binance", "BTCUSDT")
FORCED = Series("liquidations", "binance", "BTCUSDT")
LARGE = Series("large_trades", "binance", "BTCUSDT")


def write(series: Series, *numbers: int) -> Write:
    return Write(series, [(number,) for number in numbers])


def numbers(writes: list[Write]) -> list[int]:
    return [row[0] for write in writes for row in write.rows]


def test_what_nobody_tells_again_is_written_first_and_dropped_last() -> None:
    waiting = Waiting(4)
    for one in (write(BARS, 1), write(FORCED, 2), write(RATES, 3), write(LARGE, 4)):
        waiting.add(one)
    assert waiting.trim() == 0
    assert numbers(waiting.take(99)) == [2, 4, 1, 3]
    waiting.give_back()
    waiting.add(write(LARGE, 5))
    waiting.add(write(LARGE, 6))
    assert waiting.trim() == 2
    assert numbers(waiting.take(99)) == [2, 4, 5, 6]
    waiting.give_back()
    waiting.add(write(BARS, 7))
    waiting.add(write(FORCED, 8))
    assert waiting.trim() == 2  # the bar, though it is the newest but one; then the oldest of the others
    assert numbers(waiting.take(99)) == [4, 5, 6, 8]


def test_what_is_away_comes_back_to_its_old_place() -> None:
    waiting = Waiting(99)
    for number in range(6):
        waiting.add(write(FORCED if number % 2 else BARS, number))
    assert numbers(waiting.take(4)) == [1, 3, 5, 0]
    waiting.add(write(FORCED, 6))
    assert [row[0] for row in waiting.rows(FORCED)] == [1, 3, 5, 6]  # away or not
    assert (waiting.size, waiting.is_away, bool(waiting)) == (7, True, True)
    waiting.give_back()
    assert [row[0] for row in waiting.rows(FORCED)] == [1, 3, 5, 6]
    assert [row[0] for row in waiting.rows(BARS)] == [0, 2, 4]
    assert numbers(waiting.take(99)) == [1, 3, 5, 6, 0, 2, 4]
    assert waiting.done() == 7
    assert (waiting.size, waiting.is_away, bool(waiting), waiting.rows(FORCED)) == (0, False, False, [])


class Counted(str):
    """A symbol that counts how often it is compared."""

    compared = 0

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)


def test_what_waits_of_a_series_is_found_without_a_look_at_all_others() -> None:
    """Each question about liquidations looks for it, on the event loop, while there may be 200,000 rows."""
    waiting = Waiting(99_999)
    for number in range(5000):
        waiting.add(write(FORCED._replace(symbol=Counted(f"COIN{number % 1000}")), number))
    waiting.add(write(FORCED, 1))
    waiting.take(100)
    Counted.compared = 0
    assert waiting.rows(FORCED._replace(symbol=Counted("BTCUSDT"))) == [(1,)]
    assert Counted.compared < 100


def test_coverage_without_rows_takes_room() -> None:
    waiting = Waiting(3)
    for number in range(5):
        waiting.add(Write(BARS, [], [Range(number, number + 1)]))
    assert (waiting.trim(), waiting.size) == (0, 3)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from([BARS, RATES, FORCED, LARGE]), st.integers(0, 4)),
        st.tuples(st.sampled_from(["take", "done", "give_back", "trim"]), st.none(), st.integers(1, 9)),
    ),
    max_size=40,
)


@given(STEPS)
def test_every_row_is_waiting_written_or_dropped(steps: list[tuple[str, Series | None, int]]) -> None:
    waiting = Waiting(8)
    added = written = dropped = 0
    for what, series, many in steps:
        match what:
            case "add":
                assert series is not None
                waiting.add(write(series, *range(added, added + many)))
                added += many
            case "take" if not waiting.is_away:
                batch = waiting.take(many)
                sizes = [len(one.rows) for one in batch if one.rows]
                assert sum(sizes[:-1]) < many
            case "done":
                written += waiting.done()
            case "give_back":
                waiting.give_back()
            case "trim":
                dropped += waiting.trim()
        left = {series: waiting.rows(series) for series in (BARS, RATES, FORCED, LARGE)}
        assert all(rows == sorted(rows) for rows in left.values())
        assert max(Counter(row for rows in left.values() for row in rows).values(), default=1) == 1
        assert sum(map(len, left.values())) == waiting.size == added - written - dropped
