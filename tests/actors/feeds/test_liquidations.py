"""Liquidations of one symbol: told once each, those of a cut before newer ones, nothing claimed that is not known."""

from datetime import timedelta
from typing import Any

import trio

from actors.events import Gap, Liquidation
from actors.exchanges.okx import EXCHANGE
from actors.feeds.everything import Everything
from actors.feeds.liquidations import PUSHED_WITHIN, Liquidations, Range
from actors.feeds.readers import Readers
from tests.actors.archive.fixtures import T0, liquidation

SECOND = timedelta(seconds=1)


class Told:
    def __init__(self, *, can_ask: bool = True) -> None:
        readers = Readers("okx", "BTC-USDT-SWAP", Everything())
        self._reader = readers.subscribe(readers.topic("liquidations"), 1000)
        self.known = Liquidations(EXCHANGE, "BTC-USDT-SWAP", readers, can_ask=can_ask)

    def push(self, second: int, *events: Liquidation) -> None:
        for event in events:
            self.known.apply(event, (T0 + second * SECOND, T0 + second * SECOND))

    def news(self) -> list[Any]:
        found: list[Any] = []
        try:
            while True:
                found.append(self._reader.receive_nowait())
        except trio.WouldBlock:
            return found


async def test_what_was_missed_comes_before_what_waited_and_nothing_twice() -> None:
    told = Told()
    one, two, three, four = (liquidation(second) for second in (1, 2, 3, 4))
    told.push(1, one, one)
    assert told.news() == [one, one], "equal ones of one frame happened"
    told.known.cut(T0 + SECOND, T0 + 4 * SECOND)
    assert told.known.missing == Range(T0 + SECOND - PUSHED_WITHIN, T0 + 4 * SECOND)
    told.push(4, three, four)
    assert told.news() == []
    told.known.conclude([one, two, two, three], None)
    gap, *events = told.news()
    assert (gap.repaired, gap.start, gap.end) == (True, T0, T0 + 4 * SECOND)
    assert events == [two, two, three, four]
    assert list(told.known.told) == [one, one, *events]
    assert told.known.missing is None
    told.push(5, four)
    assert (told.news(), told.known.repeated) == ([], 2), "the one that waited, and the one told again"


async def test_what_cannot_be_had_is_said_once_and_newer_ones_go_on() -> None:
    told = Told()
    told.known.cut(T0, T0 + 2 * SECOND)
    told.known.cut(T0 + 3 * SECOND, T0 + 5 * SECOND)
    assert told.known.missing == Range(T0 - PUSHED_WITHIN, T0 + 5 * SECOND), "cut once more while it was asked for"
    told.push(6, liquidation(6))
    told.known.conclude([], "the exchange does not say")
    gap, event = told.news()
    assert (gap.repaired, "the exchange does not say" in gap.reason, event) == (False, True, liquidation(6))
    told.known.conclude([liquidation(1)], None)
    assert told.news() == [], "nothing is missing any more"


async def test_a_new_run_misses_what_the_last_one_did_not_get() -> None:
    told = Told()
    assert told.known.restart() is None
    told.known.cut(T0, T0 + SECOND)
    told.push(2, liquidation(2))
    assert told.known.restart() == T0
    assert (told.known.missing, told.news()) == (None, [])


async def test_where_nobody_can_ask_the_loss_is_said_at_once() -> None:
    told = Told(can_ask=False)
    told.known.cut(T0, T0 + SECOND)
    [gap] = told.news()
    assert isinstance(gap, Gap)
    assert (gap.repaired, told.known.missing) == (False, None)
    told.push(2, liquidation(2))
    assert told.news() == [liquidation(2)]
