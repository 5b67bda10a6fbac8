"""Trades that no update of a bar followed, and those that one may know of."""

from datetime import datetime, timedelta

from actors.events import EPOCH
from actors.feeds.unanswered import SAME, WITHIN, Unanswered

START = EPOCH + timedelta(days=20_000)
MS = timedelta(milliseconds=1)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_a_bar_that_did_not_follow_a_trade_is_told_once() -> None:
    it = Unanswered()
    it.updated("1m", at(0))
    it.traded(["1m", "5m"], at(10))
    it.traded(["1m", "5m"], at(12))
    it.updated("5m", at(12.5))
    assert it.overdue(at(10) + WITHIN) == []
    assert it.overdue(at(10) + WITHIN + MS) == ["1m"]
    assert it.overdue(at(20)) == []
    it.traded(["1m"], at(20))
    assert it.overdue(at(20) + WITHIN + MS) == ["1m"]


def test_an_update_that_came_just_before_its_trade_knows_of_it() -> None:
    it = Unanswered()
    it.updated("1m", at(0))
    it.traded(["1m"], at(0) + SAME - MS)
    assert it.overdue(at(100)) == []
    it.traded(["1m"], at(0) + SAME)
    assert it.overdue(at(100)) == ["1m"]
