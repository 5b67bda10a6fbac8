"""How long a connection may say nothing: what is lost, what is quiet, and how patience is learned."""

import pytest

from actors.lines.patience import GROWTH, LONGEST, OPENING, STEADY, Patience

LIMIT = 15.0


def heard_each_second(patience: Patience, start: float, end: float) -> float:
    """Data comes every second; returns when it came last."""
    last = start
    while last < end:
        last += 1.0
        assert patience.look(last, last, has_spoken=True) == "fine"
    return last


def test_a_connection_that_spoke_by_itself_is_lost_when_it_falls_silent() -> None:
    patience = Patience(LIMIT)
    patience.restart(100.0)
    last = heard_each_second(patience, 100.0, 100.0 + OPENING + 3)
    assert patience.look(last + LIMIT, last, has_spoken=True) == "fine"
    assert patience.look(last + LIMIT + 1, last, has_spoken=True) == "lost"


def test_a_connection_that_never_spoke_is_lost() -> None:
    patience = Patience(LIMIT)
    patience.restart(100.0)
    patience.asked(101.0)
    assert patience.look(100.0 + LIMIT + 1, 100.0, has_spoken=False) == "lost"


def test_a_connection_that_only_answered_is_asked_whether_it_lives_for_as_long_as_it_does() -> None:
    patience = Patience(LIMIT)
    patience.restart(100.0)
    patience.asked(101.0)
    at, last, asked = 100.0, 102.0, 0
    while at < 4000.0:
        at += 1.0
        verdict = patience.look(at, min(at, last), has_spoken=True)
        assert verdict != "lost"
        if verdict == "ask":
            asked += 1
            patience.alive(at)
    assert asked == pytest.approx(3900 / LIMIT, rel=0.1)


@pytest.mark.parametrize("lasts", [OPENING + 2, STEADY - 5])
def test_patience_grows_where_the_next_connection_falls_silent_too(lasts: float) -> None:
    patience, at, borne = Patience(LIMIT), 0.0, []
    for _ in range(6):
        patience.restart(at)
        last = heard_each_second(patience, at, at + lasts)
        borne.append(patience.seconds)
        at = last + patience.seconds + 1
        assert patience.look(at, last, has_spoken=True) == "lost"
        patience.was_in_vain()
    assert borne == [min(LIMIT * GROWTH**n, LONGEST) for n in range(6)]


def test_a_steady_connection_is_missed_soon_however_often() -> None:
    patience, at = Patience(LIMIT), 0.0
    patience.was_in_vain()  # long ago
    for _ in range(5):
        patience.restart(at)
        last = heard_each_second(patience, at, at + STEADY + 5)
        at = last + LIMIT + 1
        assert patience.look(at, last, has_spoken=True) == "lost"
        patience.was_in_vain()
