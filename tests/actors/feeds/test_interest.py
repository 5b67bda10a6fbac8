"""Open interest that is polled: often while somebody wants it, else once a minute; never told when it is too old."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from actors.collection import Collection, Reach
from actors.errors import UpstreamError
from actors.events import Ohlc, OpenInterest, Topic
from actors.exchanges import binance
from actors.feeds.everything import Everything
from actors.feeds.feed import Feed
from actors.feeds.interest import AHEAD, ASKED, POLL_MIN, UNWANTED, Interest, Turns
from actors.relay.wanted import Wanted
from actors.spikes import Spikes
from tests.actors.relay.fixtures import bar, supervise

BEGIN = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
WEIGHT = binance.EXCHANGE.budget["weight"]
TAKES = 0.2  # seconds, an answer
NAME = "binance:BTCUSDT:oi"


def now() -> datetime:
    return BEGIN + timedelta(seconds=trio.current_time())


class One:
    """What stands for a feed: it holds the value of the moment at which the exchange was asked."""

    def __init__(self, turns: Turns, *, always: bool = False) -> None:
        self.value: OpenInterest | None = None
        self.told: list[float] = []  # when
        self.asked: list[float] = []  # the exchange
        self.fails = False
        self.interest = Interest(turns, ask=self.ask, tell=self.tell, forget=self.forget, always=always)

    async def ask(self) -> OpenInterest:
        self.asked.append(trio.current_time())
        answer = OpenInterest(
            exchange="binance", symbol="BTCUSDT", timestamp=now(), open_interest=1.0, open_interest_value=None
        )
        await trio.sleep(TAKES)
        if self.fails:
            raise UpstreamError("refused")
        return answer

    def tell(self, interest: OpenInterest) -> None:
        if self.value is None:  # equal to the one before
            self.told.append(trio.current_time())
        self.value = interest

    def forget(self) -> None:
        self.value = None

    @property
    def held(self) -> OpenInterest | None:
        return self.value if self.interest.is_fresh else None

    async def poll(self) -> None:
        await self.interest.poll(lambda: None)

    def asked_in(self, since: float, until: float) -> int:
        return sum(since <= at < until for at in self.asked)


async def polled(count: int, nursery: trio.Nursery, *, always: bool = False) -> list[One]:
    """So many feeds of one exchange, all of which have been asked once."""
    found: list[One] = []
    turns = Turns(WEIGHT, now, lambda: count)
    for _ in range(count):
        found.append(One(turns, always=always))
        nursery.start_soon(found[-1].poll)
    await trio.sleep(TAKES + 0.1)
    return found


def most_within(seconds: float, times: list[float]) -> int:
    return max(sum(at <= other < at + seconds for other in times) for at in times)


@pytest.mark.parametrize(("feeds", "period"), [(1, POLL_MIN), (50, POLL_MIN), (100, POLL_MIN), (400, 40.0)])
async def test_what_is_wanted_is_asked_for_in_turn(
    autojump_clock: MockClock, nursery: trio.Nursery, feeds: int, period: float
) -> None:
    ones = await polled(feeds, nursery, always=True)
    await trio.sleep(4 * period)
    for one in ones:
        assert all(after - at <= period + TAKES + 0.01 for at, after in pairwise(one.asked))
        assert one.asked_in(1.0, 1.0 + 3 * period) == 3
    times = sorted(at for one in ones for at in one.asked if at > TAKES)
    assert most_within(1.0, times) <= feeds / period + 2, "evenly"


@pytest.mark.parametrize("feeds", [1, 100, 400])
async def test_what_nobody_wants_is_asked_for_before_each_minute_ends(
    autojump_clock: MockClock, nursery: trio.Nursery, feeds: int
) -> None:
    ones = await polled(feeds, nursery)
    await trio.sleep(5 * UNWANTED)
    span = max(POLL_MIN, feeds / 10)
    for one in ones:
        _, *later = one.asked
        assert len(later) == 5
        assert all(UNWANTED - AHEAD - span <= at % UNWANTED <= UNWANTED - AHEAD for at in later)
    times = sorted(at for one in ones for at in one.asked[1:])
    assert most_within(1.0, times) <= feeds / span + 2, "evenly"


async def test_what_is_too_old_is_forgotten_once_it_is_wanted_and_asked_for_at_once(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    [one] = await polled(1, nursery)
    await trio.sleep(POLL_MIN + 5)
    before = one.asked[:]
    assert one.held is None, "too old for the present"
    with one.interest.wanted():
        assert one.value is None
        await trio.sleep(TAKES + 0.01)
        assert one.held is not None
        assert one.asked[len(before) :] == [pytest.approx(trio.current_time() - TAKES, abs=0.02)]
        assert len(one.told) == 2, "a reader that came is told, even if it is the same"
        since = trio.current_time()
        await trio.sleep(10 * POLL_MIN)
        assert one.asked_in(since, trio.current_time()) in (10, 11)
        assert len(one.told) == 2
    await trio.sleep(POLL_MIN + 1)  # what was due is still asked for
    since = trio.current_time()
    await trio.sleep(3 * UNWANTED)
    assert one.asked_in(since, trio.current_time()) == 3


async def test_what_is_not_too_old_is_given_to_whoever_comes_and_renewed_in_time(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    [one] = await polled(1, nursery)
    await trio.sleep(POLL_MIN - 2)
    with one.interest.wanted():
        assert one.held is not None
        await trio.sleep(1)
        assert len(one.asked) == 1
        await trio.sleep(1.5)
        assert len(one.asked) == 2, "as old as it may be"


async def test_a_question_is_a_wish_for_a_while(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    [one] = await polled(1, nursery)
    one.interest.asked()
    since = trio.current_time()
    await trio.sleep(ASKED)
    assert one.asked_in(since, trio.current_time()) in (3, 4)
    await trio.sleep(POLL_MIN + 1)
    since = trio.current_time()
    await trio.sleep(2 * UNWANTED)
    assert one.asked_in(since, trio.current_time()) == 2


async def test_an_answer_to_somebody_else_is_held_too(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    [one] = await polled(1, nursery)
    await trio.sleep(POLL_MIN + 5)
    answer = await one.ask()
    one.interest.take(answer)
    one.interest.asked()
    assert one.held is answer
    await trio.sleep(2)  # its turn among those that are wanted is later
    assert len(one.asked) == 2, "it is not asked for twice"


async def test_while_polling_fails_nothing_is_fresh(autojump_clock: MockClock) -> None:
    one = One(Turns(WEIGHT, now, lambda: 1), always=True)
    with trio.move_on_after(1):
        await one.poll()
    assert one.value is not None
    assert one.held is None
    one.fails = True
    with pytest.raises(UpstreamError):
        await one.poll()
    assert one.value is not None
    assert one.held is None


@pytest.mark.parametrize("seed", range(20))
async def test_what_is_held_is_never_older_than_a_turn(autojump_clock: MockClock, seed: int) -> None:
    """Whoever comes and goes, and whenever: it is given while it is young, and whoever waits for it is told soon."""
    dice = random.Random(seed)
    async with trio.open_nursery() as nursery:
        [one] = await polled(1, nursery)
        with ExitStack() as readers:
            for _ in range(300):
                match dice.randrange(4):
                    case 0:
                        readers.enter_context(one.interest.wanted())
                        if one.held is None:
                            await trio.sleep(2 * TAKES + 0.01)  # one may be under way already
                            assert one.held is not None
                    case 1:
                        readers.pop_all().close()
                    case 2 if one.held is not None:
                        one.interest.asked()
                if (held := one.held) is not None:
                    assert now() - held.timestamp <= timedelta(seconds=POLL_MIN + 2 * TAKES + 0.01)
                await trio.sleep(dice.choice([0.0, 0.1, 3.0, 9.9, 10.0, 25.0, 70.0]) * dice.random())
        nursery.cancel_scope.cancel()


# --- who wants it


class Lines:
    """Lines that carry everything and say nothing."""

    def __contains__(self, symbol: str) -> bool:
        return True

    def no_room_for(self, *_: Any) -> None:
        return None


class Collected(Collection):
    """Of one symbol, of which only open interest is asked for."""

    def __init__(self, rest: Any, **settings: Any) -> None:
        nothing: Any = None
        super().__init__(
            *(binance.EXCHANGE, nothing),
            symbols=["BTCUSDT"],
            on_demand=True,
            intervals=("1m",),
            large_trade_threshold_usd=1e6,
            supervise=supervise,
            everything=Everything(),
            archive=None,
            linger=60.0,
            now=now,
            on_silence=nothing,
            counts=nothing,
            **settings,
        )
        self._rest = rest

    @contextmanager
    def running(self, nursery: trio.Nursery) -> Iterator[Feed]:
        with self.open(Reach(nursery, cast(Any, Lines()), self._rest, self._rest, None, None)):
            feed = self.feeds["BTCUSDT"]
            assert feed._interest is not None
            nursery.start_soon(feed._interest.poll, feed._on_poll)
            yield feed


class Rest:
    def __init__(self) -> None:
        self.asked = 0

    async def open_interest(self, symbol: str) -> OpenInterest:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        return OpenInterest(
            exchange="binance", symbol=symbol, timestamp=now(), open_interest=1.0, open_interest_value=None
        )

    async def asked_in(self, seconds: float) -> int:
        before = self.asked
        await trio.sleep(seconds)
        return self.asked - before


async def test_readers_of_its_topic_want_it_and_no_others(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    rest = Rest()
    collected = Collected(rest)
    with collected.running(nursery) as feed:
        await trio.sleep(30)
        with collected.reading(feed.topic("trades")), collected.reading(feed.topic("ohlc", "1m")):
            assert await rest.asked_in(3 * UNWANTED) == 3
        with collected.reading(feed.topic("oi")), feed.subscribe(feed.topic("oi"), 10) as reader:
            assert feed.current(feed.topic("oi")) is None
            said = await reader.receive()
            assert isinstance(said, OpenInterest)
            assert feed.open_interest() == feed.current(feed.topic("oi")) == said
            assert await rest.asked_in(UNWANTED) == UNWANTED / POLL_MIN


async def test_readers_at_another_node_want_it(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    rest = Rest()
    collected = Collected(rest)
    with collected.running(nursery):
        wanted = Wanted(cast(Any, collected))
        wanted.names = {NAME}
        await trio.sleep(30)
        wanted.collect({NAME})
        await trio.sleep(POLL_MIN)
        assert await rest.asked_in(UNWANTED) == UNWANTED / POLL_MIN
        wanted.collect(set())
        await trio.sleep(POLL_MIN)
        assert await rest.asked_in(3 * UNWANTED) == 3


async def test_a_sink_or_a_recording_wants_it_always(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    rest = Rest()
    collected = Collected(rest, always_wanted=lambda topic: topic == Topic("binance", "BTCUSDT", "oi"))
    with collected.running(nursery):
        await trio.sleep(1)
        assert await rest.asked_in(3 * UNWANTED) == 3 * UNWANTED / POLL_MIN


async def test_spikes_are_found_by_what_was_told_shortly_before_a_bar_closes(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Nobody else wants it, so that it may be too old for the present by then."""
    rest, judged = Rest(), list[OpenInterest | None]()

    class Detector:
        def on_close(self, bar: Ohlc, interest: OpenInterest | None) -> None:
            judged.append(interest)

    spikes = Spikes({}, timeframes=["1m"], window=30, threshold=3.0, symbols=(), supervise=supervise)
    collected = Collected(rest)
    with collected.running(nursery) as feed, feed.subscribe(feed.topic("ohlc", "1m"), 10) as reader:
        assert feed._interest is not None
        feed._interest._place = 0.99  # the first of its minute
        for minute in range(1, 6):
            await trio.sleep_until(minute * 60.0 + 1.5)
            assert feed.open_interest() is None
            feed.readers.publish_bar("1m", bar("BTCUSDT", now(), 1.0, is_closed=True))
            await spikes._follow(cast(Any, Detector()), feed, reader)
            assert judged[-1] is not None
            assert now() - judged[-1].timestamp <= timedelta(seconds=AHEAD + POLL_MIN + 1.5)
