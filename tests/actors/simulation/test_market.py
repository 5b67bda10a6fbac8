"""The simulated market: one world from one seed, in which bars, trades and derived values agree. No event loop."""

import time
from datetime import UTC, datetime
from functools import cache, reduce
from itertools import pairwise

import pytest

from actors.simulation.assets import ASSETS, synthetic
from actors.simulation.history import DAY, HOUR, INTERVALS, MINUTE, Bar, floor_open, merge, shift_open
from actors.simulation.market import Clock, Market, Tape, spell

START = 1_795_000_037_000  # 37 s into a minute, in the middle of a day, an hour and a 5m bar


def world(seed: int = 7, start: int = START) -> tuple[Market, Clock]:
    clock = Clock(start, rate=0)
    return Market(seed=seed, clock=clock), clock


@cache
def later(seconds: float, seed: int = 7) -> Market:
    market, clock = world(seed)
    clock.advance(int(seconds * 1000))
    market.advance()
    return market


def lived(tape: Tape, start: int, end: int) -> Bar | None:
    """What the trades of [start, end) say."""
    trades = [trade for trade in tape.trades if start <= trade.time < end]
    if not trades:
        return None
    bought = [trade for trade in trades if trade.side == "buy"]
    prices = [trade.price for trade in trades]
    return Bar(
        start,
        prices[0],
        max(prices),
        min(prices),
        prices[-1],
        sum(trade.quantity for trade in trades),
        sum(trade.quantity * trade.price for trade in trades),
        sum(trade.last - trade.first + 1 for trade in trades),
        sum(trade.quantity for trade in bought),
        sum(trade.quantity * trade.price for trade in bought),
        trades[0].first,
        trades[-1].last,
    )


def test_one_seed_is_one_world_however_it_is_advanced() -> None:
    one, _ = world()
    coarse = later(300)
    other, clock = world()
    for _ in range(400):
        clock.advance(750)
        other.advance()
    for name, tape in coarse.tapes.items():
        assert tape.trades == other.tapes[name].trades
        assert tape.liquidations == other.tapes[name].liquidations
        for interval in INTERVALS:
            assert tape.bars(interval, coarse.now, limit=9) == other.tapes[name].bars(interval, other.now, limit=9)
    assert one.tapes["BTC"].trades == coarse.tapes["BTC"].trades[: len(one.tapes["BTC"].trades)]


def test_another_seed_is_another_world() -> None:
    one, other = later(10), later(10, seed=8)
    assert one.tapes["BTC"].trades != other.tapes["BTC"].trades
    assert one.tapes["BTC"].bars("1d", one.now, limit=5) != other.tapes["BTC"].bars("1d", other.now, limit=5)


def test_an_injected_trade_changes_no_other() -> None:
    plain = later(60)
    market, clock = world()
    market.trade("BTC", side="buy", price="90000.00", quantity="1.500")
    market.liquidate("ETH", side="sell", price="2000.00", quantity="3.000")
    clock.advance(60_000)
    market.advance()
    ours = [(t.time, t.price, t.quantity) for t in market.tapes["BTC"].trades]
    ours.remove((START, 900_000, 1500))
    assert ours == [(t.time, t.price, t.quantity) for t in plain.tapes["BTC"].trades]


@pytest.mark.parametrize("name", [asset.name for asset in ASSETS])
def test_longer_bars_are_their_minutes(name: str) -> None:
    market = later(1800)
    tape = market.tapes[name]
    for interval, minutes in INTERVALS.items():
        if minutes > 1440:
            continue
        for bar in tape.bars(interval, market.now, limit=3):
            last = shift_open(interval, bar.open_time, 1) - 1
            parts = tape.bars("1m", market.now, start=bar.open_time, end=last, limit=1500)
            whole = reduce(merge, parts)
            assert whole[:10] == bar[:10]
            traded = [part for part in parts if part.trades]
            if not traded:
                continue
            assert bar.open == traded[0].open
            assert bar.high == max(part.high for part in traded)
            assert bar.low == min(part.low for part in traded)
            assert bar.close == traded[-1].close == parts[-1].close
            assert bar.volume == sum(part.volume for part in parts)
            assert bar.quote == sum(part.quote for part in parts)
            assert bar.trades == sum(part.trades for part in parts)


@pytest.mark.parametrize("interval", ["3d", "1w", "1M"])
def test_the_longest_bars_are_their_days(interval: str) -> None:
    market = later(90)
    tape = market.tapes["BTC"]
    for bar in tape.bars(interval, market.now, limit=40):
        last = shift_open(interval, bar.open_time, 1) - 1
        days = tape.bars("1d", market.now, start=bar.open_time, end=last, limit=31)
        assert reduce(merge, days)[:10] == bar[:10]


def test_bars_far_back_agree_as_well() -> None:
    market, _ = world()
    tape = market.tapes["ETH"]
    for days in (3, 40, 1000):
        opening = floor_open("1d", START - days * DAY)
        minutes = tape.bars("1m", market.now, start=opening, end=opening + DAY - 1, limit=1440)
        assert reduce(merge, minutes) == tape.bar("1d", opening)


@pytest.mark.parametrize("name", ["BTC", "1000PEPE", "BLZ", "BTC-quarter"])
def test_live_bars_are_what_the_trades_say(name: str) -> None:
    market = later(1200)
    tape = market.tapes[name]
    for interval in ("1m", "3m", "5m", "15m"):
        minutes = INTERVALS[interval] * MINUTE
        opening = shift_open(interval, floor_open(interval, market.genesis - 1), 1)
        seen = 0
        for bar in tape.bars(interval, market.now, start=opening, limit=100):
            said = lived(tape, bar.open_time, bar.open_time + minutes)
            if said is None:
                assert (bar.trades, bar.volume, bar.quote) == (0, 0, 0)
                assert bar.open == bar.high == bar.low == bar.close
            else:
                assert bar == said
                seen += 1
        assert seen


def test_a_bar_that_spans_genesis_counts_past_and_trades() -> None:
    market = later(60)
    tape = market.tapes["BTC"]
    bar = tape.bars("1h", market.now, limit=1)[0]
    said = lived(tape, market.genesis, market.now + 1)
    assert said is not None
    past = tape.bars("1m", market.now, start=bar.open_time, end=market.genesis - 1, limit=60)
    assert bar.trades == said.trades + sum(minute.trades for minute in past)
    assert (bar.close, bar.last) == (said.close, said.last)
    assert bar.first == said.first - sum(minute.trades for minute in past)


@pytest.mark.parametrize("name", ["BTC", "ETH", "XRP", "1000PEPE"])
def test_the_past_joins_the_present(name: str) -> None:
    market = later(600)
    tape = market.tapes[name]
    bars = tape.bars("1m", market.now, limit=240)
    assert [bar.open_time for bar in bars] == list(range(bars[0].open_time, market.now, MINUTE))
    for before, after in pairwise(bars):
        assert abs(after.open / before.close - 1) < 0.002, "no jump, least of all at genesis"
    past = [bar.volume for bar in bars if bar.open_time < market.genesis]
    live = [bar.volume for bar in bars if market.genesis <= bar.open_time < market.now - MINUTE]
    assert 0.3 < (sum(live) / len(live)) / (sum(past) / len(past)) < 3, "as lively as before"


def test_every_bar_is_possible() -> None:
    market = later(300)
    for tape in market.tapes.values():
        for interval in ("1m", "15m", "4h", "1d"):
            for bar in tape.bars(interval, market.now, limit=150):
                assert 0 < bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high
                assert 0 <= bar.buy_volume <= bar.volume
                assert 0 <= bar.buy_quote <= bar.quote
                assert bar.low * bar.volume <= bar.quote <= bar.high * bar.volume
                assert (bar.trades == 0) == (bar.volume == 0)


def test_ranges() -> None:
    market, _ = world()
    tape = market.tapes["BTC"]
    opening = floor_open("5m", START) - HOUR

    def opens(**bounds: int) -> list[int]:
        bars = tape.bars("5m", market.now, start=bounds.get("start"), end=bounds.get("end"), limit=bounds["limit"])
        return [bar.open_time - opening for bar in bars]

    step = 5 * MINUTE
    assert opens(start=opening, end=opening + 2 * step, limit=9) == [0, step, 2 * step], "both bounds count"
    assert opens(start=opening + 1, limit=2) == [step, 2 * step]
    assert opens(end=opening + 1, limit=2) == [-step, 0]
    assert opens(start=opening, end=opening - 1, limit=2) == []
    assert opens(start=START + HOUR, limit=2) == []
    assert tape.bars("5m", market.now, limit=1)[0].open_time == floor_open("5m", START), "the open bar comes last"
    first = tape.bars("1d", market.now, start=0, limit=1)[0]
    assert first.open_time == tape.listed
    newest = tape.bars("5m", market.now, start=opening, limit=2, newest=True)
    assert [bar.open_time for bar in newest] == [floor_open("5m", START) - step, floor_open("5m", START)]


def test_bars_that_an_exchange_lost_are_not_there_and_not_counted() -> None:
    market, _ = world()
    tape, now = market.tapes["BTC"], market.now
    whole = tape.bars("1h", now, limit=30)
    tape.lost.append((whole[20].open_time, whole[24].open_time))
    left = whole[:20] + whole[24:]
    assert tape.bars("1h", now, start=whole[0].open_time, limit=30) == left
    assert tape.bars("1h", now, start=whole[18].open_time, limit=3) == [*whole[18:20], whole[24]]
    assert tape.bars("1h", now, end=whole[25].open_time, limit=3) == [whole[19], *whole[24:26]]
    assert tape.bars("1h", now, start=whole[21].open_time, end=whole[23].open_time, limit=9, newest=True) == []


def test_calendar() -> None:
    def ms(year: int, month: int, day: int) -> int:
        return int(datetime(year, month, day, tzinfo=UTC).timestamp()) * 1000

    assert floor_open("1w", ms(2026, 11, 24)) == ms(2026, 11, 23), "a Monday"
    assert floor_open("1w", ms(2026, 11, 23)) == ms(2026, 11, 23)
    assert floor_open("1M", ms(2026, 11, 24)) == ms(2026, 11, 1)
    assert shift_open("1M", ms(2026, 11, 1), 2) == ms(2027, 1, 1)
    assert shift_open("1M", ms(2026, 1, 1), -1) == ms(2025, 12, 1)
    assert shift_open("1M", 0, -5) >= 0


def test_trades_are_in_order_and_their_ids_contiguous() -> None:
    for tape in later(600).tapes.values():
        for before, after in pairwise(tape.trades):
            assert after.id == before.id + 1
            assert after.time >= before.time
            assert after.first > before.last >= before.first > 2**32
        if tape.trades:
            assert tape.trades[-1].id == tape.next_id - 1


def test_forced_orders_are_filled_by_trades() -> None:
    market = later(600)
    for tape in market.tapes.values():
        for order in tape.liquidations:
            fills = [t for t in tape.trades if t.time == order.time and t.side == order.side]
            assert sum(t.quantity for t in fills) >= order.quantity
            assert min(t.price for t in fills) <= order.average <= max(t.price for t in fills)
            assert (order.limit > order.average) == (order.side == "buy"), "the limit is the worse price"
            assert order.last_quantity <= order.quantity


def test_something_of_everything_within_20_seconds() -> None:
    for seed in range(5):
        before, clock = world(seed)
        counts = {name: len(before.tapes[name].liquidations) for name in ("BTC", "ETH", "SOL")}
        clock.advance(20_000)
        before.advance()
        for name, count in counts.items():
            assert len(before.tapes[name].liquidations) > count
        tape = before.tapes["BTC"]
        recent = [t for t in tape.trades if t.time > START]
        assert len(recent) > 40
        large = [t for t in recent if float(spell(t.price * t.quantity, 1)) / 1000 > 100_000]
        assert large


def test_prices_are_near_the_mark() -> None:
    market = later(600)
    for tape in market.tapes.values():
        for trade in tape.trades[-200:]:
            paid = trade.price * tape.tick_units / 10**tape.price_decimals
            assert abs(paid * 1e8 / tape.mark(trade.time) - 1) < 0.01


def test_funding() -> None:
    market, _ = world()
    for tape in market.tapes.values():
        period = tape.asset.funding_hours * HOUR
        at = tape.next_funding(market.now)
        assert market.now < at <= market.now + period
        assert at % period == 0
        assert tape.next_funding(at) == at + period, "at the settlement the next period has begun"
        rates = {tape.funding_rate(market.now + i * MINUTE) for i in range(60)}
        assert len(rates) > 30, "it moves during the period"
        assert abs(tape.funding_rate(at) - tape.funding_rate(at - 1000)) < 100, "and settles where it was"
        assert all(abs(rate) < 100_000 for rate in rates)


def test_open_interest_does_not_jump() -> None:
    market, _ = world()
    for tape in market.tapes.values():
        values = [tape.open_interest(market.now + i * 5 * MINUTE) for i in range(-100, 1)]
        assert all(abs(b / a - 1) < 0.02 for a, b in pairwise(values))
        assert len(set(values)) > 50


def test_the_quiet_and_the_ended() -> None:
    market = later(1800)
    assert 10 < len(market.tapes["BLZ"].trades) < 100
    gone = market.tapes["OCEAN"]
    assert not gone.trades
    assert gone.ended is not None
    last = gone.bars("1h", market.now, limit=1)[0]
    assert last.open_time == gone.ended - HOUR
    assert last.trades


def test_a_day_and_night_roll_over() -> None:
    clock = Clock(START, rate=0)
    market = Market(seed=7, assets=[asset for asset in ASSETS if asset.name == "ADA"], clock=clock)
    clock.advance(30 * HOUR)
    market.advance()
    tape = market.tapes["ADA"]
    bars = tape.bars("1d", market.now, limit=3)
    assert [bar.open_time % DAY for bar in bars] == [0, 0, 0]
    hours = tape.bars("1h", market.now, start=bars[1].open_time, end=bars[1].open_time + DAY - 1, limit=24)
    assert reduce(merge, hours)[:10] == bars[1][:10]


def test_price_and_quantity_must_fit() -> None:
    market, _ = world()
    for price, quantity in (("84000.05", "1"), ("84000", "0.0001"), ("0", "1"), ("84000", "-1")):
        with pytest.raises(ValueError, match="fits no tick"):
            market.trade("BTC", side="buy", price=price, quantity=quantity)


def test_spelling() -> None:
    assert spell(8400010, 2) == "84000.10"
    assert spell(5, 8) == "0.00000005"
    assert spell(-5, 2) == "-0.05"
    assert spell(-500, 2) == "-5.00"
    assert spell(17, 0) == "17"


def test_the_clock() -> None:
    real = 100.0
    clock = Clock(START, rate=20, timer=lambda: real)
    real += 3
    assert clock.now() == START + MINUTE, "a minute takes three seconds"
    clock.advance(500)
    assert clock.now() == START + MINUTE + 500


def test_history_and_scale_cost_little() -> None:
    began = time.process_time()
    market, clock = world()
    for interval in ("1d", "1m", "12h"):
        assert len(market.tapes["BTC"].bars(interval, market.now, limit=1500)) == 1500
    many = Market(seed=1, assets=synthetic(300), clock=clock)
    clock.advance(60_000)
    many.advance()
    assert len(many.tapes) == 300
    assert sum(len(tape.trades) for tape in many.tapes.values()) > 2000
    assert len({tape.bars("1d", many.now, limit=9)[0].close for tape in many.tapes.values()}) > 100
    assert time.process_time() - began < 5, "about 0.4 s on an idle machine"
