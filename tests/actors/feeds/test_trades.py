"""Trades: each told once and in order, a loss repaired or announced, nothing held for longer than it is asked for.

The examples show one case each. The properties at the end run generated histories of three kinds of exchange: ids that
count up, ids that say nothing beside a window of recent trades, and a backlog at the start of every connection.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.events import EPOCH, Gap, Trade
from actors.exchanges import binance, bybit, hyperliquid
from actors.exchanges.exchange import Exchange
from actors.feeds.trades import HELD_MAX, RECENT, Missing, Told, Trades

START = EPOCH + timedelta(days=20_000)
TICK = timedelta(milliseconds=250)

BY_ID = binance.EXCHANGE  # ids count up by one, missing ones are asked for
BY_TIME = bybit.EXCHANGE  # ids say nothing, the recent trades can be asked for
BY_BACKLOG = hyperliquid.EXCHANGE  # ids say nothing, a connection begins with the recent trades
BLIND = replace(BY_ID, missed_trades=None)  # what is missing cannot be asked for


def at(tick: float) -> datetime:
    return START + tick * TICK


def trade(number: int, tick: float | None = None, *, name: int | str | None = None) -> Trade:
    """Trade `number`, a quarter of a second after the one before it unless `tick` says when."""
    return Trade(
        exchange="any",
        symbol="BTCUSDT",
        timestamp=at(number if tick is None else tick),
        side="buy",
        price=100.0 + number,
        quantity=1.0,
        value=100.0 + number,
        is_buyer_maker=False,
        trade_id=number if name is None else name,
    )


def row(*numbers: int) -> list[Trade]:
    return [trade(number) for number in numbers]


def told_after(trades: Trades, *heard: Trade) -> Told:
    return [said for one in heard for said in trades.apply(one)]


def numbers(told: Told) -> list[int | str]:
    return [said.trade_id for said in told if isinstance(said, Trade)]


def gaps(told: Told, *, repaired: bool) -> list[tuple[datetime, datetime]]:
    return [(said.start, said.end) for said in told if isinstance(said, Gap) and said.repaired == repaired]


def new(exchange: Exchange = BY_ID) -> Trades:
    return Trades(exchange, "BTCUSDT")


def missed(trades: Trades) -> Missing | None:
    """What is to be asked for; read anew each time, which a checker of types cannot know of an attribute."""
    return trades.missing


# --- ids that count up ---


def test_trades_in_a_row_are_told_at_once() -> None:
    assert told_after(new(), *row(5, 6, 7)) == row(5, 6, 7)


def test_a_trade_that_comes_again_is_counted_and_dropped() -> None:
    trades = new()
    told_after(trades, *row(5, 6))
    assert told_after(trades, *row(6, 5, 6)) == []
    assert trades.duplicates == 3
    assert missed(trades) is None


def test_newer_trades_wait_for_those_that_were_not_received() -> None:
    trades = new()
    assert told_after(trades, *row(5, 8, 9)) == row(5)
    assert missed(trades) == Missing(trade(5), trade(8))
    assert trades.learn(row(6, 7))
    told = trades.conclude(None)
    assert numbers(told) == [6, 7, 8, 9]
    assert isinstance(told[0], Gap)
    assert gaps(told, repaired=True) == [(at(5), at(8))]
    assert gaps(told, repaired=False) == []
    assert missed(trades) is None


def test_missing_trades_may_come_in_pages() -> None:
    trades = new()
    told_after(trades, *row(1, 9))
    assert not trades.learn(row(2, 3, 4))
    assert missed(trades) == Missing(trade(4), trade(9))
    assert not trades.learn(row(2, 3))  # an answer to an older question
    assert trades.learn(row(5, 6, 7, 8))
    assert numbers(trades.conclude(None)) == list(range(2, 10))


def test_a_late_trade_ends_the_search_without_a_gap() -> None:
    trades = new()
    told_after(trades, *row(5, 8))
    assert told_after(trades, trade(7)) == []
    assert told_after(trades, trade(6)) == row(6, 7, 8)
    assert missed(trades) is None
    assert trades.conclude(None) == []  # the answer that comes after it


def test_a_late_trade_that_leaves_a_hole_behind_it_is_told_and_the_rest_asked_for() -> None:
    trades = new()
    told_after(trades, *row(5, 8))
    assert told_after(trades, trade(6)) == row(6)
    assert missed(trades) == Missing(trade(6), trade(8))


def test_what_the_exchange_does_not_have_is_said_once() -> None:
    trades = new()
    told_after(trades, *row(5, 9))
    assert not trades.learn(row(6))
    told = trades.conclude("refused")
    assert numbers(told) == [6, 9]
    assert gaps(told, repaired=True) == [(at(5), at(6))]
    assert gaps(told, repaired=False) == [(at(6), at(9))]
    assert told_after(trades, *row(7, 10)) == row(10)


def test_an_answer_with_a_hole_is_used_up_to_the_hole() -> None:
    trades = new()
    told_after(trades, *row(5, 9))
    assert not trades.learn(row(6, 8))
    assert gaps(trades.conclude("refused"), repaired=False) == [(at(6), at(9))]


def test_of_a_loss_older_than_what_the_exchange_keeps_the_rest_is_told() -> None:
    trades = new()
    told_after(trades, *row(5, 20))
    assert not trades.learn(row(12, 13, 14)), "nothing before them is kept"
    assert missed(trades) == Missing(trade(14), trade(20))
    assert trades.learn(row(15, 16, 17, 18, 19, 20, 21))
    told = trades.conclude(None)
    assert numbers(told) == [*range(12, 21)]
    assert gaps(told, repaired=False) == [(at(5), at(12))]
    assert gaps(told, repaired=True) == [(at(12), at(20))]


def test_late_trades_at_the_end_of_a_failed_search_are_not_thrown_away() -> None:
    trades = new()
    told_after(trades, *row(5, 9))
    told_after(trades, trade(8), trade(7))
    told = trades.conclude("refused")
    assert numbers(told) == [7, 8, 9]
    assert gaps(told, repaired=False) == [(at(5), at(7))]


def test_a_second_hole_among_what_waited_is_a_search_of_its_own() -> None:
    trades = new()
    told_after(trades, *row(5, 7, 9))
    trades.learn(row(6))
    assert numbers(trades.conclude(None)) == [6, 7]
    assert missed(trades) == Missing(trade(7), trade(9))


def test_an_exchange_that_counts_anew_is_followed() -> None:
    trades = new()
    told_after(trades, *row(500, 501))
    told = told_after(trades, trade(1, 502), trade(2, 503))
    assert numbers(told) == [1, 2]
    assert gaps(told, repaired=False) == [(at(501), at(502))]


def test_what_cannot_be_asked_for_is_a_gap_at_once() -> None:
    told = told_after(new(BLIND), *row(5, 8))
    assert numbers(told) == [5, 8]
    assert gaps(told, repaired=False) == [(at(5), at(8))]


def test_no_more_than_so_many_trades_wait() -> None:
    trades = new()
    told_after(trades, trade(1))
    told = told_after(trades, *(trade(number) for number in range(3, 3 + HELD_MAX)))
    assert gaps(told, repaired=False) == [(at(1), at(3))]
    assert numbers(told) == list(range(3, 3 + HELD_MAX))
    assert trades.conclude(None) == []  # the answer that comes too late


def test_a_new_run_tells_nothing_twice_and_finds_what_it_lost() -> None:
    trades = new()
    told_after(trades, *row(5, 8, 9))
    trades.restart()
    assert missed(trades) is None
    assert told_after(trades, *row(5, 10)) == []
    assert missed(trades) == Missing(trade(5), trade(10))


# --- ids that say nothing ---


def test_after_a_lost_connection_the_recent_trades_are_asked_for() -> None:
    trades = new(BY_TIME)
    told_after(trades, *row(1, 2))
    trades.interrupt()
    assert told_after(trades, *row(5, 6)) == []
    assert missed(trades) == Missing(trade(2), trade(5))
    assert trades.learn(row(0, 1, 2, 3, 4, 5, 6))
    told = trades.conclude(None)
    assert numbers(told) == [3, 4, 5, 6]
    assert gaps(told, repaired=True) == [(at(2), at(5))]
    assert gaps(told, repaired=False) == []


def test_a_lost_connection_that_cost_nothing_is_not_mentioned() -> None:
    trades = new(BY_TIME)
    told_after(trades, *row(1, 2))
    trades.interrupt()
    assert told_after(trades, trade(3)) == []
    assert trades.learn(row(1, 2, 3))
    assert trades.conclude(None) == row(3)


def test_recent_trades_that_do_not_reach_back_leave_a_gap() -> None:
    trades = new(BY_TIME)
    told_after(trades, *row(1, 2))
    trades.interrupt()
    told_after(trades, trade(9))
    assert trades.learn(row(6, 7, 8, 9))
    told = trades.conclude(None)
    assert numbers(told) == [6, 7, 8, 9]
    assert gaps(told, repaired=False) == [(at(2), at(6))]
    assert gaps(told, repaired=True) == [(at(6), at(9))]


def test_recent_trades_that_lag_leave_a_gap_at_their_end() -> None:
    trades = new(BY_TIME)
    told_after(trades, *row(1, 2))
    trades.interrupt()
    told_after(trades, trade(9))
    assert not trades.learn(row(1, 2, 3))
    told = trades.conclude("the exchange does not have them")
    assert numbers(told) == [3, 9]
    assert gaps(told, repaired=False) == [(at(3), at(9))]


def test_a_lost_connection_while_trades_wait_is_a_search_of_its_own() -> None:
    trades = new(BY_TIME)
    told_after(trades, trade(1))
    trades.interrupt()
    told_after(trades, *row(3, 4))
    trades.interrupt()
    told_after(trades, trade(6))
    trades.learn(row(1, 2, 3, 4))
    assert numbers(trades.conclude(None)) == [2, 3, 4]
    assert missed(trades) == Missing(trade(4), trade(6))


def test_of_trades_of_one_moment_those_that_wait_are_told_in_their_order() -> None:
    """The window begins in the middle of the moment at which the connection came back."""
    trades = new(BY_TIME)
    told_after(trades, trade(1, 1))
    trades.interrupt()
    told_after(trades, trade(4, 9), trade(5, 9))
    assert not trades.learn([trade(5, 9), trade(6, 10)])
    told = trades.conclude("the exchange does not have them")
    assert numbers(told) == [4, 5]
    assert gaps(told, repaired=False) == [(at(1), at(9))]


@pytest.mark.parametrize("count", [1, RECENT, RECENT + 1])
def test_recent_trades_are_known_again(count: int) -> None:
    trades = new(BY_TIME)
    told_after(trades, *row(*range(count)))
    assert told_after(trades, *row(*range(max(0, count - RECENT), count))) == []
    assert trades.duplicates == min(count, RECENT)


# --- a backlog ---


def test_a_backlog_that_joins_is_told_without_a_loss() -> None:
    trades = new(BY_BACKLOG)
    told_after(trades, *row(1, 2))
    trades.interrupt()
    told = trades.backlog(row(1, 2, 3, 4))
    assert numbers(told) == [3, 4]
    assert gaps(told, repaired=True) == [(at(2), at(4))]
    assert told_after(trades, trade(5)) == row(5)


def test_a_backlog_that_does_not_reach_back_leaves_a_gap() -> None:
    trades = new(BY_BACKLOG)
    told_after(trades, *row(1, 2))
    trades.interrupt()
    told = trades.backlog(row(5, 6))
    assert numbers(told) == [5, 6]
    assert gaps(told, repaired=False) == [(at(2), at(5))]


def test_a_backlog_without_news_says_that_nothing_was_lost() -> None:
    trades = new(BY_BACKLOG)
    told_after(trades, *row(1, 2))
    trades.interrupt()
    assert trades.backlog(row(1, 2)) == []
    assert told_after(trades, trade(3)) == row(3)


def test_the_first_backlog_of_all_tells_nothing() -> None:
    trades = new(BY_BACKLOG)
    assert trades.backlog(row(1, 2)) == []
    assert told_after(trades, trade(3)) == row(3)


def test_without_a_backlog_a_lost_connection_is_a_gap() -> None:
    trades = new(BY_BACKLOG)
    told_after(trades, *row(1, 2))
    trades.interrupt()
    told = told_after(trades, trade(5))
    assert numbers(told) == [5]
    assert gaps(told, repaired=False) == [(at(2), at(5))]


# --- any history ---


class Reader:
    """A reader of the topic, who believes nothing. Trades are known by their place in the market's tape."""

    def __init__(self, tape: list[Trade], *, knows_order: bool) -> None:
        self.tape = tape
        self.knows_order = knows_order  # of trades of one moment
        self.places: dict[int | str, int] = {}  # by id, as the tape grows
        self.heard: list[int] = []
        self.known: set[int] = set()
        self.lost: list[Gap] = []
        self.gaps_after: list[tuple[int, Gap]] = []  # unrepaired ones, and the trade before them
        self.owed: Gap | None = None  # said to be repaired

    def hear(self, said: Trade | Gap) -> None:
        if isinstance(said, Gap):
            assert said.start <= said.end
            assert self.heard, "a gap before anything was told"
            assert said.start >= self.tape[self.heard[-1]].timestamp, "a gap in what was told"
            if said.repaired:
                assert self.owed is None, "a repair announced within a repair"
                self.owed = said
            else:
                self.lost.append(said)
                self.gaps_after.append((self.heard[-1], said))
            return
        for place in range(len(self.places), len(self.tape)):
            self.places[self.tape[place].trade_id] = place
        place = self.places[said.trade_id]
        assert said == self.tape[place]
        assert place not in self.known, "told again"
        if self.heard:
            last = self.heard[-1]
            is_of_one_moment = not self.knows_order and said.timestamp == self.tape[last].timestamp
            assert place > last or is_of_one_moment, "told behind newer ones"
            for missing in range(last + 1, place):
                time = self.tape[missing].timestamp
                is_lost = any(gap.start <= time <= gap.end for gap in self.lost)
                assert is_lost or missing in self.known, f"trade {missing}: a loss unsaid"
        if self.owed is not None:
            assert self.owed.start <= said.timestamp <= self.owed.end, "something newer before what was repaired"
            self.owed = None
        self.heard.append(place)
        self.known.add(place)
        if self.knows_order:  # else a gap may have been said of this very moment
            self.lost = []

    def check_every_gap_lost_something(self) -> None:
        """Where ids count up it is known: an unrepaired gap is followed by a jump."""
        following = dict(zip(self.heard, self.heard[1:], strict=False))
        for last, _ in self.gaps_after:
            assert following.get(last, last + 2) > last + 1, "a gap where nothing was lost"


class Story:
    """One history, told by a tape of decisions: what is traded, what the stream and REST make of it."""

    WINDOW = 6  # trades that an answer holds

    def __init__(self, decisions: bytes, exchange: Exchange) -> None:
        self.decisions = iter(decisions)
        self.counts_up = exchange.contiguous_trade_ids
        self.has_backlog = exchange is BY_BACKLOG
        self.trades = Trades(exchange, "BTCUSDT")
        self.market: list[Trade] = []
        self.tick = 0
        self.reader = Reader(self.market, knows_order=self.counts_up)
        self.delayed: list[Trade] = []
        self.sent: list[Trade] = []  # on this connection
        self.is_connected = True
        self.asked: tuple[Missing, int] | None = None  # a question under way, and how many trades there were
        self.in_vain = 0
        self.undisturbed = True  # nothing was lost, late or restarted

    def decide(self, count: int) -> int:
        """The next decision, one of `count`; 0, the usual, once the tape is over."""
        return next(self.decisions, 0) % count

    def run(self) -> None:
        steps = (
            *(self.trade, self.trade, self.trade, self.trade, self.trade, self.repeat, self.catch_up, self.answer),
            *(self.answer, self.ask, self.cut, self.reconnect, self.reconnect, self.restart, self.fail, self.answer),
        )
        for step in self.decisions:
            steps[step % len(steps)]()
        self.settle()
        if self.undisturbed:
            assert self.reader.heard == list(range(len(self.market)))
            assert not self.reader.gaps_after
        if self.counts_up:
            self.reader.check_every_gap_lost_something()

    def tell(self, told: Told) -> None:
        for said in told:
            self.reader.hear(said)
        assert self.trades.missing is not None or not self.trades._held, "held, and nothing is asked for"

    def make(self) -> Trade:
        number = len(self.market)
        self.tick += self.decide(3)  # several may be of one moment
        made = trade(number, self.tick, name=number if self.counts_up else f"{number * 7919 % 104_729:x}")
        self.market.append(made)
        return made

    def trade(self) -> None:
        made = self.make()
        if not self.is_connected:
            return
        match self.decide(8):
            case 6 if self.counts_up:  # elsewhere frames of one connection neither get lost nor overtake each other
                self.undisturbed = False
                self.delayed.append(made)
            case 7 if self.counts_up:
                self.undisturbed = False
            case 5:
                self.deliver(made)
                self.deliver(made)
            case _:
                self.deliver(made)

    def deliver(self, one: Trade) -> None:
        self.sent.append(one)
        self.tell(self.trades.apply(one))
        if self.counts_up and one.trade_id == self.market[-1].trade_id and self.trades.missing is None:
            assert self.reader.heard[-1] == self.reader.places[one.trade_id], "neither told nor asked about"

    def repeat(self) -> None:
        if self.sent and self.is_connected:
            self.deliver(self.sent[-1 - self.decide(len(self.sent))])

    def catch_up(self) -> None:
        if self.delayed and self.is_connected:
            self.deliver(self.delayed.pop(self.decide(len(self.delayed))))

    def cut(self) -> None:
        if self.is_connected:
            self.undisturbed = False
            self.is_connected = False
            self.trades.interrupt()
            self.sent.clear()
            self.delayed.clear()

    def reconnect(self) -> None:
        if not self.is_connected:
            self.is_connected = True
            if self.has_backlog and self.decide(8) != 7:  # it may be garbled
                shown = self.market[-1 - self.decide(self.WINDOW) :]
                self.check_joined(shown, self.trades.backlog(shown))

    def check_joined(self, shown: Sequence[Trade], told: Told) -> None:
        """What holds the last trade that was told proves that nothing behind it is missing."""
        if self.reader.heard and any(one.trade_id == self.market[self.reader.heard[-1]].trade_id for one in shown):
            assert not any(isinstance(said, Gap) and not said.repaired for said in told), "a gap in what is joined"
        self.tell(told)

    def restart(self) -> None:
        """A new run of the feed; what waited unread or was being asked for is forgotten."""
        self.undisturbed = False
        self.trades.restart()
        self.asked, self.in_vain = None, 0
        self.sent.clear()
        for _ in range(self.decide(3)):
            self.make()

    # --- REST, as a feed asks it ---

    def ask(self) -> None:
        if self.trades.missing is not None and self.asked is None:
            self.asked = self.trades.missing, len(self.market) - self.decide(4)

    def answer(self) -> None:
        self.ask()
        if self.asked is None:
            return
        (missing, known), self.asked = self.asked, None
        if self.decide(2):
            known = len(self.market)
        rows = self.rows(missing, known)
        if self.decide(6) == 5:
            some = self.decide(256)  # an answer with holes, which only ids can show
            rows = [one for place, one in enumerate(rows) if some >> place % 8 & 1] if self.counts_up else []
        before = self.trades.missing
        if self.trades.learn(rows):
            self.conclude(None, rows)
        elif self.trades.missing == before or len(rows) < self.WINDOW:
            self.in_vain += 1
            if self.in_vain == 3:
                self.conclude("the exchange does not have them", rows)

    def rows(self, missing: Missing, known: int) -> list[Trade]:
        there = self.market[:known]
        if self.counts_up:
            start = int(missing.last.trade_id) + 1
            return there[start : min(start + self.WINDOW, int(missing.first.trade_id))]
        return there[-self.WINDOW :]

    def fail(self) -> None:
        if self.trades.missing is not None:
            self.conclude("refused", [])

    def conclude(self, problem: str | None, rows: Sequence[Trade]) -> None:
        self.asked, self.in_vain = None, 0
        first = self.trades.missing.first if self.trades.missing else None
        told = self.trades.conclude(problem)
        if first is not None and not self.counts_up and problem is None:
            before = told[: told.index(first)]
            self.check_joined(rows, before)
            told = told[len(before) :]
        self.tell(told)
        assert first is None or self.trades.missing is None or self.trades.missing.first != first, "asked for again"

    def settle(self) -> None:
        """Nothing fails any more: what waits is told, and what is new at once."""
        self.reconnect()
        for _ in range(2):
            self.deliver(self.make())
            for _ in range(len(self.market)):
                if self.trades.missing is None:
                    break
                if self.trades.learn(self.rows(self.trades.missing, len(self.market))):
                    self.tell(self.trades.conclude(None))
                elif not self.counts_up:  # it fell out of the window
                    self.tell(self.trades.conclude("the exchange does not have them"))
        assert self.trades.missing is None
        newest = self.make()
        assert self.trades.apply(newest) == [newest]
        self.reader.hear(newest)


@settings(max_examples=2000, deadline=None, derandomize=True)
@given(st.binary(min_size=20, max_size=200))
def test_any_history_of_an_exchange_that_counts_its_trades(decisions: bytes) -> None:
    Story(decisions, BY_ID).run()


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.binary(min_size=20, max_size=200))
def test_any_history_where_missing_trades_cannot_be_asked_for(decisions: bytes) -> None:
    Story(decisions, BLIND).run()


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(st.binary(min_size=20, max_size=200))
def test_any_history_of_an_exchange_that_shows_its_recent_trades(decisions: bytes) -> None:
    Story(decisions, BY_TIME).run()


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(st.binary(min_size=20, max_size=200))
def test_any_history_of_an_exchange_that_begins_with_a_backlog(decisions: bytes) -> None:
    Story(decisions, BY_BACKLOG).run()
