"""Bars: each closed exactly once, in order, nothing missing in silence; memory is one run that equals the exchange's.

The examples show one case each. The property at the end runs generated histories: an exchange that makes bars, a stream
that loses, repeats and delays frames, REST that answers late, partly or not at all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from actors.events import EPOCH, Gap, Ohlc, bar_end
from actors.exchanges.binance import EXCHANGE
from actors.feeds import rows
from actors.feeds.bars import GRACE, RETRY, Bars

MINUTE = timedelta(minutes=1)
MS = timedelta(milliseconds=1)
START = EPOCH + timedelta(days=20_000)
HISTORY = 8

CLOSING = replace(EXCHANGE, history=HISTORY)  # says when a bar is final
SILENT = replace(CLOSING, closes_bars=False)  # never says it


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    """Of so few bars most would never be packed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BLOCK", 2)
        yield


def new_bars(*, closes_bars: bool = True, interval: str = "1m") -> Bars:
    return Bars(CLOSING if closes_bars else SILENT, "BTCUSDT", interval)


def at(index: float) -> datetime:
    """The open of bar `index`, or a time within it."""
    return START + index * MINUTE


def bar(index: int, version: int = 1, *, closed: bool = False, interval: str = "1m") -> Ohlc:
    """Bar `index` after `version` updates: every one of them has its own values."""
    price = 100.0 * index + version
    return Ohlc(
        exchange="binance",
        symbol="BTCUSDT",
        timestamp=at(index),
        interval=interval,
        open=100.0 * index,
        high=price,
        low=100.0 * index,
        close=price,
        volume=float(version),
        quote_volume=price * version,
        trades_count=version,
        is_closed=closed,
    )


def closed(*indexes: int, version: int = 1) -> list[Ohlc]:
    return [bar(index, version, closed=True) for index in indexes]


def month(year: int, number: int, *, closed: bool) -> Ohlc:
    some = bar(0, closed=closed, interval="1M")
    fields = {name: getattr(some, name) for name in some.__struct_fields__}
    return Ohlc(**{**fields, "timestamp": START.replace(year=year, month=number, day=1)})


def gap(start: float, end: float, now: datetime, reason: str, *, repaired: bool) -> Gap:
    return Gap(
        exchange="binance",
        symbol="BTCUSDT",
        timestamp=now,
        start=at(start),
        end=at(end),
        reason=reason,
        repaired=repaired,
    )


def bars_after(*updates: Ohlc, closes_bars: bool = True) -> Bars:
    """Bars whose history was loaded before the stream said `updates`, each half a second after its last moment."""
    bars = new_bars(closes_bars=closes_bars)
    bars.loaded(closed(*range(-HISTORY, 0)))
    for update in updates:
        bars.apply(update, pushed(update))
    return bars


def pushed(update: Ohlc) -> datetime:
    """When the stream says an update: late in its bar, or half a second after its end."""
    end = bar_end(update.timestamp, update.interval)
    return end + MS * 500 if update.is_closed else end - MS * (1000 - update.close % 100)


def missed(bars: Bars) -> datetime | None:
    """What a repair is to fetch; read anew each time, which a checker of types cannot know of an attribute."""
    return bars.repair_from


# --- the stream alone ---


def test_a_bar_is_told_as_it_changes_and_closed_once() -> None:
    bars = bars_after()
    updates = [bar(0, 1), bar(0, 2), bar(0, 2, closed=True), bar(1, 1)]
    assert [bars.apply(update, pushed(update)) for update in updates] == [[update] for update in updates]
    assert bars.newest(3) == [*closed(-1), bar(0, 2, closed=True), bar(1, 1)]
    assert missed(bars) is None
    assert bars.late == 0


def test_an_older_update_of_the_same_bar_is_dropped_where_frames_have_no_time() -> None:
    bars = Bars(replace(SILENT, unstamped=frozenset({"ohlc"})), "BTCUSDT", "1m")
    bars.loaded(closed(*range(-HISTORY, 0)))
    newest = bar(0, 3)
    assert bars.apply(newest, pushed(newest)) == [newest]
    assert bars.apply(bar(0, 2), pushed(newest) + MS) == []
    assert bars.late == 1
    assert bars.apply(bar(1, 1), pushed(bar(1, 1))) == [bar(0, 3, closed=True), bar(1, 1)]
    bars.interrupt()
    corrected = structs.replace(bar(1, 1), volume=0.5)
    assert bars.apply(corrected, pushed(corrected) + MS) == [corrected], "after a cut the exchange's word is the last"


@pytest.mark.parametrize(
    ("update", "pushed_at"),
    [
        pytest.param(bar(0, 2, closed=True), at(1) + MS * 500, id="the closing frame again"),
        pytest.param(bar(0, 2), at(1) + MS * 900, id="an update of a closed bar, pushed later"),
        pytest.param(bar(-1, 9, closed=True), at(1) + MS * 900, id="an older bar"),
        pytest.param(bar(1, 3), at(1) + MS * 400, id="pushed before what was heard last"),
    ],
)
def test_late_and_repeated_frames_are_dropped_and_counted(update: Ohlc, pushed_at: datetime) -> None:
    bars = bars_after(bar(0, 1), bar(0, 2, closed=True))
    assert bars.apply(update, pushed_at) == []
    assert bars.late == 1
    assert missed(bars) is None
    assert bars.newest(1) == [bar(0, 2, closed=True)]


def test_an_open_bar_repeated_word_for_word_is_dropped() -> None:
    bars = bars_after(bar(0, 1))
    assert bars.apply(bar(0, 1), pushed(bar(0, 1))) == []
    assert bars.apply(bar(0, 1), pushed(bar(0, 1)) + MS) == [bar(0, 1)]  # said again, not repeated
    assert bars.late == 1


def test_months_have_their_own_lengths() -> None:
    bars = new_bars(interval="1M")
    for number, days in ((1, 31), (2, 29), (3, 31), (4, 30)):
        update = month(2024, number, closed=True)
        assert bar_end(update.timestamp, "1M") - update.timestamp == timedelta(days=days)
        assert bars.apply(update, bar_end(update.timestamp, "1M") + MS) == [update]
    assert missed(bars) is None
    december = month(2024, 12, closed=False)
    assert bars.apply(december, december.timestamp + MS) == []
    assert missed(bars) == START.replace(year=2024, month=5, day=1)
    months = [month(2024, number, closed=True) for number in range(5, 12)]
    told = bars.repaired(months, december.timestamp + MS, "lost")
    assert told[1:] == [*months, december]
    assert list(bars.rows)[-8:] == [*months, december]
    january = month(2025, 1, closed=False)
    bars.apply(month(2024, 12, closed=True), january.timestamp + MS)
    assert bars.apply(january, january.timestamp + MS * 2) == [january]


# --- an exchange that never says that a bar is final ---


def test_the_next_bar_closes_the_one_before_it() -> None:
    bars = bars_after(bar(0, 1), closes_bars=False)
    assert bars.apply(bar(1, 1), pushed(bar(1, 1))) == [bar(0, 1, closed=True), bar(1, 1)]
    assert bars.newest(2) == [bar(0, 1, closed=True), bar(1, 1)]


def test_the_clock_closes_a_quiet_bar_and_a_late_update_is_dropped() -> None:
    bars = bars_after(bar(0, 1), closes_bars=False)
    assert bars.notice(at(1) + GRACE - MS) == []
    assert bars.notice(at(1) + GRACE) == [bar(0, 1, closed=True)]
    assert bars.apply(bar(0, 2), at(1) + GRACE + MS) == []
    assert bars.apply(bar(1, 1), at(1) + GRACE + 2 * MS) == [bar(1, 1)]


def test_a_bar_that_was_interrupted_is_fetched_not_closed() -> None:
    bars = bars_after(bar(0, 1), closes_bars=False)
    bars.interrupt()
    assert bars.apply(bar(1, 1), pushed(bar(1, 1))) == []
    assert missed(bars) == at(0)
    told = bars.repaired([bar(0, 7, closed=True)], at(2), "lost")
    assert told[1:] == [bar(0, 7, closed=True), bar(1, 1)]


def test_an_update_after_the_interruption_carries_the_whole_bar() -> None:
    bars = bars_after(bar(0, 1), closes_bars=False)
    bars.interrupt()
    bars.apply(bar(0, 5), at(0.9999))
    assert bars.apply(bar(1, 1), pushed(bar(1, 1))) == [bar(0, 5, closed=True), bar(1, 1)]


def test_a_bar_that_a_restart_interrupted_is_fetched_not_closed() -> None:
    bars = bars_after(bar(0, 1), closes_bars=False).successor()
    assert bars.apply(bar(1, 1), pushed(bar(1, 1))) == []
    assert missed(bars) == at(0)


def test_a_bar_that_only_rest_told_of_is_fetched_not_closed() -> None:
    bars = new_bars(closes_bars=False)
    assert bars.loaded([*closed(-2, -1), bar(0, 3)]) == [bar(0, 3)]
    assert bars.apply(bar(1, 1), pushed(bar(1, 1))) == []  # what changed in bar 0 after REST answered is not known
    assert missed(bars) == at(0)


def test_what_was_lost_while_newer_bars_waited_is_not_closed_either() -> None:
    bars = bars_after(bar(0, 1), closes_bars=False)
    bars.interrupt()
    bars.apply(bar(1, 1), at(1.5))  # waits for bar 0
    bars.interrupt()
    assert bars.repaired([bar(0, 7, closed=True)], at(1.6), "lost")[1:] == [bar(0, 7, closed=True), bar(1, 1)]
    assert bars.apply(bar(2, 1), pushed(bar(2, 1))) == []  # bar 1 may have changed between the connections
    assert missed(bars) == at(1)


# --- a close that was missed ---


def test_a_missed_close_is_repaired_before_anything_newer() -> None:
    bars = bars_after(bar(0, 1))
    assert bars.apply(bar(1, 1), at(1.5)) == []
    assert missed(bars) == at(0)
    assert bars.newest(1) is None  # memory does not answer meanwhile
    assert bars.apply(bar(1, 2), at(1.6)) == []
    told = bars.repaired([bar(0, 5, closed=True), bar(1, 2)], at(1.7), "lost")
    assert told == [gap(0, 1, at(1.7), "lost", repaired=True), bar(0, 5, closed=True), bar(1, 2)]
    assert missed(bars) is None
    assert bars.newest(3) == [*closed(-1), bar(0, 5, closed=True), bar(1, 2)]


def test_whole_bars_that_were_missed_are_repaired() -> None:
    bars = bars_after(bar(0, 1, closed=True))
    assert bars.apply(bar(3, 1), at(3.5)) == []
    assert missed(bars) == at(1)
    told = bars.repaired(closed(1, 2), at(3.6), "lost")
    assert told == [gap(1, 3, at(3.6), "lost", repaired=True), *closed(1, 2), bar(3, 1)]


def test_a_repaired_bar_is_closed_whatever_the_clock_said() -> None:
    bars = bars_after(bar(0, 1))
    bars.apply(bar(1, 1), at(1.5))
    assert bars.repaired([bar(0, 5, closed=False)], at(1.7), "lost")[1:] == [bar(0, 5, closed=True), bar(1, 1)]


def test_a_row_that_was_still_open_when_it_was_asked_for_is_not_closed() -> None:
    """REST answered while bar 1 was open; the stream went on with bar 2 before the answer was read."""
    bars = bars_after(bar(0, 1))
    bars.notice(at(1) + GRACE)
    bars.apply(bar(2, 1), at(2.01))
    told = bars.repaired([*closed(0), bar(1, 1)], at(2.02), "quiet")
    assert bar(1, 1, closed=True) not in told


def test_bars_that_close_during_a_repair_are_told_after_it() -> None:
    bars = bars_after(bar(0, 1))
    updates = [bar(1, 1), bar(1, 2, closed=True), bar(2, 1), bar(2, 3)]
    assert [bars.apply(update, pushed(update)) for update in updates] == [[], [], [], []]
    told = bars.repaired([bar(0, 2, closed=True), bar(1, 2, closed=True)], at(3), "lost")
    assert told[1:] == [bar(0, 2, closed=True), bar(1, 2, closed=True), bar(2, 3)]


def test_a_hole_within_what_waited_is_a_repair_of_its_own() -> None:
    bars = bars_after(bar(0, 1))
    for update in (bar(1, 1, closed=True), bar(4, 1)):
        assert bars.apply(update, pushed(update)) == []
    assert bars.repaired(closed(0), at(5), "lost")[1:] == [*closed(0, 1)]
    assert missed(bars) == at(2)
    assert bars.repaired(closed(2, 3), at(5), "lost")[1:] == [*closed(2, 3), bar(4, 1)]


@pytest.mark.parametrize(
    ("rows", "lost", "repaired"),
    [
        pytest.param([], [(1, 5)], [], id="nothing"),
        pytest.param([1, 2], [(3, 5)], [(1, 3)], id="the first ones"),
        pytest.param([3, 4], [(1, 3)], [(3, 5)], id="the last ones"),
        pytest.param([2, 3], [(1, 2), (4, 5)], [(2, 4)], id="the middle"),
        pytest.param([1, 4], [(2, 4)], [(1, 2), (4, 5)], id="a hole"),
    ],
)
def test_what_a_repair_does_not_find_is_announced_once(
    rows: list[int], lost: list[tuple[int, int]], repaired: list[tuple[int, int]]
) -> None:
    bars = bars_after(bar(0, 1, closed=True))
    bars.apply(bar(5, 1), at(5.5))
    told = bars.repaired(closed(*rows), at(5.6), "lost")
    assert [said for said in told if isinstance(said, Ohlc)] == [*closed(*rows), bar(5, 1)]
    gaps = [said for said in told if isinstance(said, Gap)]
    assert {(said.start, said.end) for said in gaps if not said.repaired} == {(at(a), at(b)) for a, b in lost}
    assert {(said.start, said.end) for said in gaps if said.repaired} == {(at(a), at(b)) for a, b in repaired}
    check_one_run(bars)
    check_no_hole_behind(bars, told)


def check_no_hole_behind(bars: Bars, told: Sequence[Ohlc | Gap]) -> None:
    """After an unrepaired gap memory begins behind it, and asks to be loaded again."""
    if any(isinstance(said, Gap) and not said.repaired for said in told):
        assert bars.needs_load
        assert bars.newest(1) is None


def test_an_empty_repair_of_one_close_leaves_no_open_bar_in_the_middle() -> None:
    bars = bars_after(bar(0, 1))
    bars.apply(bar(1, 1), at(1.5))
    told = bars.repaired([], at(1.6), "lost")
    assert told == [gap(0, 1, at(1.6), "lost", repaired=False), bar(1, 1)]
    check_one_run(bars)


def test_a_repair_that_fails_is_announced_and_memory_starts_anew() -> None:
    bars = bars_after(bar(0, 1))
    bars.apply(bar(2, 1), at(2.5))
    assert bars.abandon(at(2.6), "refused") == [gap(0, 2, at(2.6), "refused", repaired=False), bar(2, 1)]
    assert bars.needs_load
    assert bars.newest(1) is None
    assert bars.loaded([*closed(*range(-5, 2)), bar(2, 1)]) == []
    assert bars.newest(3) == [*closed(0, 1), bar(2, 1)]


def test_a_late_frame_during_a_repair_is_not_held() -> None:
    """A closing frame that comes again while a quiet bar is being fetched must not be told again."""
    bars = bars_after(bar(0, 1, closed=True))
    bars.notice(at(2) + GRACE)
    assert missed(bars) == at(1)
    bars.apply(bar(0, 1, closed=True), pushed(bar(0, 1, closed=True)))
    told = bars.repaired(closed(1), at(2.2), "lost")
    assert [said for said in told if isinstance(said, Ohlc)] == closed(1)
    assert bars.late == 1


@pytest.mark.parametrize("ends", ["repaired", "abandoned"])
def test_a_late_frame_during_a_repair_does_not_become_its_end(ends: str) -> None:
    """The repair must still reach to the first new bar, and every gap must begin before it ends."""
    bars = bars_after(bar(0, 1, closed=True))
    bars.notice(at(2) + GRACE)
    bars.apply(bar(0, 1, closed=True), pushed(bar(0, 1, closed=True)))
    bars.apply(bar(2, 1), at(2.2))
    told = bars.repaired(closed(1), at(2.3), "lost") if ends == "repaired" else bars.abandon(at(2.3), "lost")
    gaps = [said for said in told if isinstance(said, Gap)]
    assert gaps == [gap(1, 2, at(2.3), "lost", repaired=ends == "repaired")]
    assert [said for said in told if isinstance(said, Ohlc)] == [*(closed(1) if ends == "repaired" else []), bar(2, 1)]


# --- a close that is overdue ---


def test_an_overdue_close_is_noticed_by_the_exchange_s_time() -> None:
    bars = bars_after(bar(0, 1))
    assert bars.notice(at(1) + GRACE - MS) == []
    assert missed(bars) is None
    bars.notice(at(1) + GRACE)
    assert missed(bars) == at(0)
    told = bars.repaired([bar(0, 4, closed=True), bar(1, 1)], at(1) + GRACE, "quiet")
    assert told == [gap(0, 1, at(1) + GRACE, "quiet", repaired=True), bar(0, 4, closed=True)]
    bars.notice(at(2) + GRACE - MS)
    assert missed(bars) is None
    bars.notice(at(2) + GRACE)
    assert missed(bars) == at(1)


def test_the_overdue_closing_frame_itself_ends_the_repair() -> None:
    bars = bars_after(bar(0, 1))
    bars.notice(at(1) + GRACE)
    assert bars.apply(bar(0, 2, closed=True), at(1) + GRACE + MS) == []
    assert bars.repaired([bar(0, 2, closed=True)], at(1) + GRACE, "quiet") == [bar(0, 2, closed=True)]
    assert bars.apply(bar(1, 1), at(1.5)) == [bar(1, 1)]


def test_a_bar_that_the_exchange_does_not_have_yet_is_asked_for_again_later() -> None:
    bars = bars_after(bar(0, 1))
    now = at(1) + GRACE
    bars.notice(now)
    assert bars.repaired([], now, "quiet") == []
    bars.notice(now + RETRY - MS)
    assert missed(bars) is None
    bars.notice(now + RETRY)
    assert missed(bars) == at(0)


def test_what_is_lost_after_a_failed_repair_is_announced_too() -> None:
    """The stream stays quiet for ten minutes and REST fails: every missing bar belongs to some gap."""
    bars = bars_after(bar(0, 1, closed=True))
    now = at(2) + GRACE
    bars.notice(now)
    told = bars.abandon(now, "refused")
    for index in range(3, 10):  # other topics go on: the exchange's time is known
        bars.notice(at(index) + GRACE)
        if missed(bars) is not None:
            told += bars.abandon(at(index) + GRACE, "refused")
    told += bars.apply(bar(10, 1), at(10.5))
    if missed(bars) is not None:
        told += bars.abandon(at(10.5), "refused")
    assert told[-1] == bar(10, 1)
    gaps = sorted((said.start, said.end) for said in told if isinstance(said, Gap))
    assert gaps[0][0] == at(1)
    assert [end for _, end in gaps] == [*(start for start, _ in gaps[1:]), at(10)]


def test_a_closing_frame_repeated_after_a_failed_repair_is_not_told_again() -> None:
    bars = bars_after(bar(0, 1, closed=True))
    bars.notice(at(2) + GRACE)
    bars.abandon(at(2) + GRACE, "refused")
    assert bars.apply(bar(0, 1, closed=True), pushed(bar(0, 1, closed=True))) == []


# --- history from REST ---


def test_before_the_stream_speaks_the_current_bar_is_told_from_rest() -> None:
    bars = new_bars()
    assert bars.newest(1) is None
    assert bars.loaded([*closed(-3, -2, -1), bar(0, 3)]) == [bar(0, 3)]
    assert bars.newest(2) == [*closed(-1), bar(0, 3)]
    assert bars.apply(bar(0, 4), at(0.9)) == [bar(0, 4)]


def test_once_the_stream_spoke_rest_only_fills_memory() -> None:
    bars = new_bars()
    bars.apply(bar(0, 3), at(0.5))
    assert bars.loaded([*closed(-3, -2, -1), bar(0, 2)]) == []
    assert bars.newest(2) == [*closed(-1), bar(0, 3)]


def test_rest_one_bar_ahead_of_the_stream() -> None:
    bars = new_bars()
    bars.loaded([*closed(-2, -1), bar(0, 5, closed=True), bar(1, 1)])
    assert bars.apply(bar(0, 4), at(0.99)) == [bar(0, 4)]  # the stream decides what readers are told
    assert bars.apply(bar(0, 5, closed=True), at(1) + MS) == [bar(0, 5, closed=True)]
    assert bars.apply(bar(1, 2), at(1.1)) == [bar(1, 2)]
    assert bars.newest(3) == [*closed(-1), bar(0, 5, closed=True), bar(1, 2)]


def test_a_stream_that_replays_the_past_is_told_all_the_same() -> None:
    bars = new_bars()
    bars.loaded([*closed(-2, -1), bar(0, 1)])
    past = [bar(index, closed=done) for index in (-900_000, -899_999) for done in (False, True)]
    assert [bars.apply(update, pushed(update)) for update in past] == [[update] for update in past]
    check_one_run(bars)


def test_the_past_is_not_told_once_rest_closed_bars_in_the_stream_s_place() -> None:
    bars = new_bars()
    bars.loaded([*closed(-2, -1), bar(0, 1)])
    bars.notice(at(1) + GRACE)
    bars.apply(bar(-1, 1), at(0))
    assert bars.repaired(closed(0), at(1) + GRACE, "quiet")[1:] == closed(0)
    assert bars.apply(bar(0, 1), at(0.99)) == []


def test_rows_that_do_not_join_the_stream_s_are_not_held() -> None:
    bars = new_bars()
    bars.apply(bar(0, 3), at(0.5))
    bars.loaded(closed(-5, -4, -3))
    assert list(bars.rows) == [bar(0, 3)]
    assert bars.newest(2) is None


def test_of_rows_with_a_young_hole_only_what_follows_it_is_held() -> None:
    bars = new_bars()
    bars.loaded([*closed(-5, -4, -2, -1), bar(0, 1)])
    assert list(bars.rows) == [*closed(-2, -1), bar(0, 1)]
    assert bars.newest(3) == [*closed(-2, -1), bar(0, 1)]
    assert bars.newest(4) is None  # the exchange has more than what memory holds
    assert bars.between(at(-4), None, 10) is None


def quarters(*indexes: int) -> list[Ohlc]:
    """Closed bars of six hours."""
    return [structs.replace(bar(index, 1, closed=True), timestamp=quarter(index), interval="6h") for index in indexes]


def quarter(index: int) -> datetime:
    return START + index * timedelta(hours=6)


def test_a_hole_that_is_older_than_a_day_is_the_exchange_s_own_and_is_held() -> None:
    bars = new_bars(interval="6h")
    rows = quarters(-7, -6, -3, -2, -1, 0, 1)  # the last bar behind the hole opened a day before the newest
    bars.loaded(rows)
    assert bars.newest(6) == rows[1:]
    assert bars.newest(7) == rows
    assert bars.is_whole  # as many as were asked for there are not
    assert bars.between(quarter(-6), None, 3) == rows[1:4]
    assert bars.between(quarter(-5), None, 2) == rows[2:4]
    assert bars.history_before_live(6) == (quarter(2), rows[1:], True)


def test_older_bars_are_loaded_once_a_hole_has_become_the_exchange_s_own() -> None:
    bars = new_bars(interval="6h")
    young = quarters(-6, -5, -3, -2, -1, 0)
    bars.loaded(young)
    assert bars.newest(4) == young[2:]
    assert bars.newest(5) is None
    assert not bars.has_settled(quarter(1) - MS)
    assert bars.has_settled(quarter(1))
    assert bars.newest(4) == young[2:]  # meanwhile memory answers as before
    bars.loaded([*young, *quarters(1)])
    assert bars.newest(6) == young
    assert not bars.has_settled(quarter(9))


def test_a_row_that_was_open_when_rest_served_it_does_not_stay_so() -> None:
    """REST answered before bar -1 ended, the stream spoke first in bar 0: the row lacks the bar's end."""
    bars = new_bars()
    bars.apply(bar(0, 1), at(0.01))
    bars.loaded([*closed(-3, -2), bar(-1, 1)])
    check_one_run(bars)


def test_an_open_row_is_not_left_behind_when_the_stream_goes_on_after_a_failed_repair() -> None:
    bars = bars_after(bar(0, 1))
    bars.notice(at(1) + GRACE)
    bars.abandon(at(1) + GRACE, "refused")
    bars.loaded([*closed(-2, -1, 0), bar(1, 1)])
    bars.apply(bar(2, 1), at(2.5))
    if missed(bars) is not None:
        bars.repaired(closed(1), at(2.6), "lost")
    check_one_run(bars)


# --- an exchange that makes no bar where nothing traded ---


def sparse(*updates: Ohlc) -> Bars:
    bars = Bars(replace(SILENT, has_empty_bars=False), "BTCUSDT", "1m")
    bars.loaded(closed(*range(-HISTORY, 0)))
    for update in updates:
        bars.apply(update, pushed(update))
    return bars


def test_quiet_intervals_are_passed_over_in_silence() -> None:
    bars = sparse(bar(0, 1))
    assert bars.notice(at(1) + GRACE) == [bar(0, 1, closed=True)]
    for index in range(2, 9):
        assert bars.notice(at(index) + GRACE) == []
    assert missed(bars) is None
    assert bars.apply(bar(9, 1), at(9.5)) == [bar(9, 1)]
    assert bars.newest(2) == [bar(0, 1, closed=True), bar(9, 1)]
    assert bars.apply(bar(12, 1), at(12.5)) == [bar(9, 1, closed=True), bar(12, 1)]


def test_after_an_interruption_rest_says_what_was_quiet() -> None:
    bars = sparse(bar(0, 1))
    bars.interrupt()
    assert bars.apply(bar(5, 1), at(5.5)) == []
    told = bars.repaired([bar(0, 4, closed=True), *closed(2)], at(5.6), "lost")
    assert [said for said in told if isinstance(said, Ohlc)] == [bar(0, 4, closed=True), *closed(2), bar(5, 1)]
    assert all(said.repaired for said in told if isinstance(said, Gap))


def test_a_quiet_coin_is_not_asked_about_again_and_again() -> None:
    bars = sparse(bar(0, 1))
    bars.notice(at(1) + GRACE)
    bars.interrupt()
    bars.notice(at(2) + GRACE)
    assert missed(bars) == at(1)
    assert bars.repaired([], at(2) + GRACE, "lost") == []
    for index in range(3, 30):
        bars.notice(at(index) + GRACE)
        assert missed(bars) is None
    assert bars.apply(bar(40, 1), at(40.5)) == [bar(40, 1)]


def test_a_bar_that_had_begun_is_never_passed_over() -> None:
    bars = sparse(bar(0, 1))
    bars.interrupt()
    bars.apply(bar(5, 1), at(5.5))
    told = bars.repaired([], at(5.6), "lost")
    assert told == [gap(0, 5, at(5.6), "lost", repaired=False), bar(5, 1)]


# --- answers from memory ---


def test_the_newest_bars() -> None:
    bars = new_bars()
    bars.loaded(closed(*range(HISTORY)))
    assert bars.newest(1) == closed(HISTORY - 1)
    assert bars.newest(HISTORY) == closed(*range(HISTORY))
    assert bars.newest(HISTORY + 1) is None


def test_a_young_symbol_s_history_is_whole() -> None:
    bars = new_bars()
    bars.loaded(closed(0, 1, 2))
    assert bars.newest(100) == closed(0, 1, 2)
    assert bars.between(at(-100), None, 100) == closed(0, 1, 2)


def test_history_that_outgrew_memory_is_no_longer_whole() -> None:
    bars = new_bars()
    bars.loaded(closed(*range(HISTORY - 1)))
    for index in (HISTORY - 1, HISTORY):
        bars.apply(bar(index, closed=True), at(index + 1))
    assert list(bars.rows) == closed(*range(1, HISTORY + 1))
    assert bars.between(at(0), None, 3) is None  # bar 0 exists and is not held
    assert bars.newest(HISTORY + 1) is None


def test_history_that_outgrows_memory_as_it_is_loaded_is_not_whole() -> None:
    """REST answered late, of a young symbol: its few rows and the stream's are more than memory holds."""
    bars = new_bars()
    for update in closed(0, 1, 2, 3, 4):
        bars.apply(update, pushed(update))
    bars.loaded(closed(-4, -3, -2, -1, 0))
    assert list(bars.rows) == closed(*range(-3, 5))
    assert bars.between(at(-4), None, 3) is None


@pytest.mark.parametrize(
    ("start", "end", "limit", "wanted"),
    [
        (0, None, 100, range(HISTORY)),
        (2, 5, 100, range(2, 5)),
        (2, 5, 2, range(2, 4)),
        (1.5, 4.5, 100, range(2, 5)),
        (HISTORY, None, 5, ()),
        (3, 3.5, 5, (3,)),
        (-0.1, None, 5, None),
    ],
)
def test_a_range_is_half_open_and_ascends(
    start: float, end: float | None, limit: int, wanted: Sequence[int] | None
) -> None:
    bars = new_bars()
    bars.loaded(closed(*range(HISTORY)))
    rows = bars.between(at(start), None if end is None else at(end), limit)
    assert rows == (None if wanted is None else closed(*wanted))


def test_a_successor_holds_nothing_and_tells_nothing_twice() -> None:
    bars = bars_after(bar(0, 1, closed=True), bar(1, 1)).successor()
    assert bars.needs_load
    assert bars.newest(1) is None
    assert bars.loaded([*closed(-1, 0), bar(1, 2)]) == []
    assert bars.apply(bar(0, 1, closed=True), pushed(bar(0, 1, closed=True))) == []
    assert bars.apply(bar(1, 3, closed=True), at(2) + MS) == [bar(1, 3, closed=True)]
    assert bars.newest(2) == [*closed(0), bar(1, 3, closed=True)]


def test_a_successor_repairs_what_was_missed_between_the_runs() -> None:
    bars = bars_after(bar(0, 1)).successor()
    bars.loaded([*closed(0, 1, 2), bar(3, 1)])
    assert bars.apply(bar(3, 2), at(3.5)) == []
    assert missed(bars) == at(0)
    assert bars.repaired([*closed(0, 1, 2), bar(3, 2)], at(3.6), "lost")[1:] == [*closed(0, 1, 2), bar(3, 2)]
    assert bars.newest(4) == [*closed(0, 1, 2), bar(3, 2)]


def check_one_run(bars: Bars) -> None:
    """Memory is one run of closed bars, the last of which may be open."""
    rows = list(bars.rows)
    opens = [row.timestamp for row in rows]
    assert opens[1:] == [bar_end(open_time, row.interval) for open_time, row in zip(opens, rows, strict=True)][:-1]
    if not bars.needs_load:
        assert all(row.is_closed for row in rows[:-1])


# --- any history ---


class Market:
    """The exchange's truth: which bars there are, how often each changed, and what time it is there."""

    def __init__(self) -> None:
        self.versions = dict.fromkeys(range(-4, 0), 1)  # of every bar that exists, the last one open
        self.versions[0] = 0
        self.now = at(0)

    @property
    def current(self) -> int:
        return (self.now - START) // MINUTE

    def has_ended(self, index: int) -> bool:
        return at(index + 1) <= self.now

    def row(self, index: int) -> Ohlc:
        return bar(index, self.versions[index], closed=self.has_ended(index))

    def rows(self, start: datetime | None = None) -> list[Ohlc]:
        rows = [self.row(index) for index in sorted(self.versions) if start is None or at(index) >= start]
        return rows if start is not None else rows[-HISTORY:]

    def pass_to(self, time: datetime) -> None:
        """Bars without trades exist too."""
        self.versions.update(dict.fromkeys(range(self.current + 1, (time - START) // MINUTE + 1), 0))
        self.now = time

    def update(self) -> Ohlc:
        """One more change of the current bar."""
        if self.now + 250 * MS >= at(self.current + 1):
            self.pass_to(at(self.current + 1))
        self.now += 250 * MS
        self.versions[self.current] += 1
        return self.row(self.current)

    def close(self) -> Ohlc:
        """The end of the current bar."""
        index = self.current
        self.pass_to(at(index + 1) + 500 * MS)
        return self.row(index)

    def halt(self) -> None:
        """The exchange stops: two bars never come to be."""
        index = self.current
        self.now = at(index + 3)
        self.versions[index + 3] = 0


class Reader:
    """A reader of the topic, who believes nothing."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.last: Ohlc | None = None
        self.closed: set[datetime] = set()
        self.lost: list[Gap] = []
        self.owed: list[datetime] = []  # opens of the bars that were said to be repaired
        self.gaps_end = datetime.min.replace(tzinfo=START.tzinfo)
        self.heard_stream = False

    def expected(self) -> datetime | None:
        if self.last is None:
            return None
        return self.last.timestamp + MINUTE if self.last.is_closed else self.last.timestamp

    def hear(self, said: Ohlc | Gap, *, from_rest: bool = False) -> None:
        if isinstance(said, Gap):
            self.hear_gap(said)
        else:
            self.hear_bar(said, from_rest=from_rest)

    def hear_gap(self, gap: Gap) -> None:
        assert gap.start < gap.end
        assert gap.start >= self.gaps_end, "said twice"
        assert self.expected() is None or gap.start >= (self.expected() or gap.start), "of bars that were told"
        self.gaps_end = gap.end
        if gap.repaired:
            self.owed += [at(index) for index in self.market.versions if gap.start <= at(index) < gap.end]
        else:
            self.lost.append(gap)

    def hear_bar(self, said: Ohlc, *, from_rest: bool) -> None:
        index = (said.timestamp - START) // MINUTE
        assert said.timestamp not in self.closed, "told after it was closed"
        if said.is_closed:
            assert said == self.market.row(index), "closed with other values than the exchange's"
            self.closed.add(said.timestamp)
        else:
            assert said == bar(index, said.trades_count or 0)
            assert (said.trades_count or 0) <= self.market.versions[index]
        if self.owed:
            assert said.is_closed
            assert said.timestamp == self.owed.pop(0), "something newer before what was said to be repaired"
        expected = self.expected()
        starts_anew = not self.heard_stream and not from_rest  # REST was ahead of the stream
        if expected is not None and not (starts_anew and said.timestamp < expected):
            assert said.timestamp >= expected, "an older bar"
            for missing in range((expected - START) // MINUTE, index):
                assert any(gap.start <= at(missing) and at(missing) < gap.end for gap in self.lost), "an unsaid hole"
        self.heard_stream = self.heard_stream or not from_rest
        self.last = said


class Story:
    """One history, told by a tape of decisions: what the market does, what the stream and REST make of it."""

    def __init__(self, tape: bytes, *, closes_bars: bool) -> None:
        self.tape = iter(tape)
        self.closes_bars = closes_bars
        self.market = Market()
        self.reader = Reader(self.market)
        self.bars = new_bars(closes_bars=closes_bars)
        self.sent: list[tuple[Ohlc, datetime]] = []
        self.delayed: list[tuple[Ohlc, datetime]] = []
        self.load: list[Ohlc] | None = None  # REST's rows at the time of asking
        self.repair: list[Ohlc] | None = None

    def decide(self, count: int) -> int:
        """The next decision, one of `count`; 0, the usual, once the tape is over."""
        return next(self.tape, 0) % count

    def run(self) -> None:
        steps = (
            *(self.update, self.update, self.close, self.close, self.repeat, self.catch_up, self.answer_repair),
            *(self.answer_load, self.answer_repair, self.answer_load, self.pause, self.restart, self.halt),
        )
        for step in self.tape:
            steps[step % len(steps)]()
            self.ask()
            self.check_memory()
        self.settle()

    def update(self) -> None:
        self.send(self.market.update())

    def close(self) -> None:
        update = self.market.close()
        if self.closes_bars:
            self.send(update)

    def send(self, update: Ohlc) -> None:
        frame = (update, self.market.now)
        self.sent.append(frame)
        match self.decide(8):
            case 0 | 1 | 2 | 3:
                self.deliver(frame)
            case 4:
                self.deliver(frame)
                self.deliver(frame)
            case 5 if self.closes_bars:  # frames of one connection do not overtake each other
                self.delayed.append(frame)
            case _:  # lost, and where nothing else tells, the connection with it
                self.interrupt()

    def interrupt(self) -> None:
        if not self.closes_bars:
            self.bars.interrupt()
            self.sent.clear()  # a new connection begins with the present

    def deliver(self, frame: tuple[Ohlc, datetime]) -> None:
        self.tell(self.bars.apply(*frame))
        self.notice()

    def notice(self) -> None:
        self.tell(self.bars.notice(self.market.now))

    def tell(self, said: Sequence[Ohlc | Gap], *, from_rest: bool = False) -> None:
        for item in said:
            self.reader.hear(item, from_rest=from_rest)

    def repeat(self) -> None:
        if self.sent:
            back = self.decide(len(self.sent)) if self.closes_bars else 0  # one connection's frames keep their order
            self.deliver(self.sent[-1 - back])

    def catch_up(self) -> None:
        if self.delayed:
            self.deliver(self.delayed.pop(self.decide(len(self.delayed))))

    def pause(self) -> None:
        """Nothing is heard of this topic; others tell the time, or do not."""
        self.market.pass_to(self.market.now + (1 + self.decide(3)) * MINUTE)
        self.interrupt()
        if self.decide(2):
            self.notice()

    def halt(self) -> None:
        self.market.halt()
        self.interrupt()

    def restart(self) -> None:
        self.bars = self.bars.successor()
        self.load = self.repair = None
        self.interrupt()

    def ask(self) -> None:
        """What `history` does at once."""
        if self.bars.needs_load and self.load is None:
            self.load = self.market.rows()
        if self.bars.repair_from is not None and self.repair is None:
            self.repair = self.market.rows(self.bars.repair_from)

    def answer_load(self) -> None:
        if self.load is not None and self.bars.needs_load:
            rows, self.load = self.load, None
            match self.decide(4):
                case 0:
                    self.tell(self.bars.loaded(rows), from_rest=True)
                case 1 | 2:
                    self.tell(self.bars.loaded(self.market.rows()), from_rest=True)
                case _:
                    pass  # it failed and is asked again

    def answer_repair(self) -> None:
        if self.repair is not None and self.bars.repair_from is not None:
            rows, self.repair = self.repair, None
            match self.decide(6):
                case 0:
                    told = self.bars.repaired(rows, self.market.now, "lost")
                case 1 | 2:
                    told = self.bars.repaired(self.market.rows(self.bars.repair_from), self.market.now, "lost")
                case 3:
                    some = self.decide(256)
                    rows = [row for number, row in enumerate(rows) if some >> number % 8 & 1]
                    told = self.bars.repaired(rows, self.market.now, "lost")
                case 4:
                    told = self.bars.repaired([], self.market.now, "lost")
                case _:
                    told = self.bars.abandon(self.market.now, "refused")
            self.tell(told)

    def check_memory(self) -> None:
        check_one_run(self.bars)
        for row in self.bars.rows:
            index = (row.timestamp - START) // MINUTE
            if row.is_closed:
                assert row == self.market.row(index)
            else:
                assert row == bar(index, row.trades_count or 0)
        for limit in (1, 3, HISTORY):
            last = self.bars.newest(limit)
            assert last is None or len(last) == limit or last[0] == self.market.row(-4)
        start = (self.bars.rows.first_open or START + 2 * MINUTE) - 2 * MINUTE
        between = self.bars.between(start, None, 3)
        if between is not None:
            newest = list(self.bars.rows)[-1].timestamp
            wanted = [row.timestamp for row in self.market.rows(start) if row.timestamp <= newest]
            assert [row.timestamp for row in between] == wanted[:3]

    def settle(self) -> None:
        """Nothing fails any more: memory comes to hold what the exchange has, and readers know all of it."""
        for _ in range(4):
            self.deliver((self.market.update(), self.market.now))
            update = self.market.close()
            if self.closes_bars:
                self.deliver((update, self.market.now))
            for _ in range(HISTORY):
                if self.bars.repair_from is not None:
                    rows = self.market.rows(self.bars.repair_from)
                    self.tell(self.bars.repaired(rows, self.market.now, "lost"))
                if self.bars.needs_load:
                    self.tell(self.bars.loaded(self.market.rows()), from_rest=True)
        update = self.market.update()
        self.deliver((update, self.market.now))
        self.check_memory()
        assert self.reader.last == update
        assert self.bars.newest(4) == self.market.rows()[-4:]


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(st.binary(max_size=120))
def test_any_history_of_an_exchange_that_closes_its_bars(tape: bytes) -> None:
    Story(tape, closes_bars=True).run()


@settings(max_examples=1200, deadline=None, derandomize=True)
@given(st.binary(max_size=120))
def test_any_history_of_an_exchange_that_does_not(tape: bytes) -> None:
    Story(tape, closes_bars=False).run()
