"""What every exchange folder promises the rest of the program, asked of each one that is found.

The other end is the folder's own simulator, and what it should say is what the simulated market knows: nothing in here
names an exchange. Market time stands still unless a test moves it.
"""

import ssl
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import fields, replace
from datetime import datetime
from functools import partial
from itertools import pairwise
from typing import Any, get_args

import pytest
import trio

from actors.errors import BadMessage
from actors.events import EPOCH, INTERVALS, Kind, Topic, ms
from actors.exchanges.exchange import Backlog, Exchange, Rejected, Update
from actors.lines.line import Line
from actors.lines.pool import Lines
from actors.simulation.history import floor_open
from actors.simulation.market import Clock, Market, Tape, Trade
from tests.actors.exchanges.fixtures import (
    EXCHANGES,
    catalogue,
    paths,
    quick,
    simulator_of,
    subscriptions,
    upstream_topics,
    venues,
)
from tests.actors.exchanges.fixtures import INTERVALS as STREAMED
from tests.daemon.fixtures import MINUTE, START, Json, Served, World, assets, captured_logs, eventually, iso
from tests.patience import WITHIN

MARKET = assets("BTC", "ETH", "SOL", "OCEAN", "BTC-quarter")
DELISTED = "OCEAN"


# A capability, where REST has it and where a stream has it.
CAPABILITIES: dict[str, tuple[str | None, str | None]] = {
    "ohlc": ("ohlc/{symbol}/1m", "ohlc"),
    "trades": (None, "trades"),
    "large_trades": ("large_trades/{symbol}", "large_trades"),
    "liquidations": ("liquidations/{symbol}", "liquidations"),
    "funding_rate": ("funding/{symbol}", "funding"),
    "funding_rate_history": ("funding-hist/{symbol}", None),
    "open_interest": ("oi/{symbol}", "oi"),
    "open_interest_history": ("oi-hist/{symbol}", None),
    "predicted_funding": ("predicted-funding", None),
}
NEEDS: dict[str, Kind] = {"ohlc": "ohlc", "trades": "trades", "large_trades": "trades", "liquidations": "liquidations"}
"""What only lines can bring, and the kind that brings it."""

pytestmark = pytest.mark.parametrize("name", EXCHANGES)


@asynccontextmanager
async def hosted(
    name: str,
    symbols: Sequence[str] = (),
    *,
    exchange: Exchange | None = None,
    intervals: Sequence[str] = STREAMED,
    served: Sequence[str] | None = None,
) -> AsyncIterator[World]:
    """The daemon with one exchange and its simulator; when the block begins, the `served` symbols are live."""
    exchange = exchange or quick(EXCHANGES[name])
    symbols = symbols or exchange.symbols[:1]
    live = {name: symbols if served is None else served}
    async with venues([exchange], symbols={name: symbols}, served=live, market=MARKET, intervals=intervals) as w:
        yield World(sim=w.sims[name], **{part.name: getattr(w, part.name) for part in fields(Served)})


async def instrument(w: World, symbol: str) -> Json:
    """A symbol's row of the catalogue."""
    [row] = [row for row in await w.get("/symbols") if row["symbol"] == symbol]
    return row


async def tape_of(w: World, symbol: str) -> Tape:
    """What really happens to a symbol."""
    return w.sim.market.tapes[(await instrument(w, symbol))["base"]]


def at(event: Json, key: str = "timestamp") -> int:
    """A time of an event, in ms."""
    return ms(datetime.fromisoformat(event[key]))


def price(tape: Tape, ticks: int) -> Any:
    """Exchanges round differently: five significant figures at least."""
    return pytest.approx(ticks * float(tape.asset.tick), rel=1e-4)


def quantity(tape: Tape, steps: int) -> Any:
    return pytest.approx(steps * float(tape.asset.step), rel=1e-9)


def rate(tape: Tape, time: int, hours: float) -> Any:
    """The funding rate per so many hours; it wavers by 2e-6 within a minute."""
    return pytest.approx(tape.funding_rate(time) / 1e8 * hours / tape.asset.funding_hours, abs=5e-6)


def bars_told(tape: Tape, interval: str, rows: Sequence[Json]) -> list[Json]:
    """The same rows as they really are."""
    told = []
    for row in rows:
        bar = tape.bar(interval, at(row))
        prices = dict(zip(("open", "high", "low", "close"), (bar.open, bar.high, bar.low, bar.close), strict=True))
        truth = {key: price(tape, ticks) for key, ticks in prices.items()}
        told.append({**row, **truth, "volume": quantity(tape, bar.volume), "interval": interval})
    return told


# --- the record


def test_the_record_is_coherent(name: str) -> None:
    exchange = EXCHANGES[name]
    assert exchange.name == name == name.lower()
    assert exchange.rest_url.startswith("https://")
    assert exchange.ws_url.startswith("wss://")
    urls = (exchange.rest_url, exchange.ws_url, exchange.ws_path, *exchange.ws_paths.values())
    assert not any(url.endswith("/") for url in urls)
    assert exchange.ws_paths.keys() <= exchange.pushed
    assert exchange.symbols
    assert len(set(exchange.symbols)) == len(exchange.symbols)

    lengths = [INTERVALS[interval] for interval in exchange.intervals]
    assert lengths == sorted(set(lengths)), "known, different, the shortest first"
    assert exchange.intervals[0] == "1m"
    assert set(exchange.open_interest_periods) <= set(INTERVALS)
    assert 1 <= exchange.history <= 5000

    kinds = set(get_args(Kind)) - {"large_trades", "oi-vol"}
    assert exchange.pushed <= kinds
    assert exchange.prompt <= exchange.pushed
    assert {"ohlc", "trades"} <= exchange.pushed

    limits = exchange.limits
    assert 1 <= limits.topics_per_frame <= limits.topics
    assert limits.topics >= len(upstream_topics(exchange, ["X"], exchange.intervals)), "a feed fits on one line"
    assert limits.frames_per_second > 0
    assert limits.connect_spacing > 0
    assert 1 < limits.silence < 20, "silence is noticed within 20 s"
    assert limits.ping_every > limits.pong_within > 0
    assert limits.heartbeat_every > 0
    assert limits.subscriptions is None or limits.subscriptions >= limits.topics
    assert all(window.limit > 0 and window.seconds > 0 for window in exchange.budget.values())
    assert "weight" in exchange.budget
    assert exchange.used_header is None or exchange.used_header[1] in exchange.budget
    assert exchange.heartbeat is None or exchange.heartbeat.strip()


def test_capabilities_are_all_said_and_agree_with_the_rest(name: str) -> None:
    exchange = EXCHANGES[name]
    capabilities = exchange.capabilities
    assert all(value in (True, False, "partial") for value in capabilities.values())
    assert set(capabilities) <= set(CAPABILITIES), "known names only"
    for capability, kind in NEEDS.items():
        assert bool(capabilities.get(capability)) == (kind in exchange.pushed), capability
    assert capabilities["funding_rate"] or "funding" not in exchange.pushed
    assert capabilities["open_interest"] or "oi" not in exchange.pushed
    assert bool(capabilities["open_interest_history"]) == bool(exchange.open_interest_periods)
    assert bool(capabilities.get("predicted_funding")) == (exchange.predicted_funding is not None)


def test_every_capability_is_said(name: str) -> None:
    assert set(EXCHANGES[name].capabilities) == set(CAPABILITIES), "`false` where there is none"


def test_every_topic_can_be_asked_for_and_ended(name: str) -> None:
    exchange = EXCHANGES[name]
    topics = upstream_topics(exchange, exchange.symbols[:1], exchange.intervals)
    shared = {exchange.subscription_of(topic) for topic in topics}
    assert len(shared) >= subscriptions(exchange, topics), "never fewer counted than there are"
    for topic in topics:
        session = exchange.new_session({})
        assert session.unsubscribe([topic]) == [] or session.unacknowledged() == ()
        frames = session.subscribe([topic])
        assert frames, topic
        of_all = exchange.subscription_of(topic) == exchange.subscription_of(topic._replace(symbol="another"))
        assert of_all or all(topic.symbol.lower() in frame.lower() for frame in frames)
        assert set(session.unacknowledged()) <= {topic}
        assert session.unsubscribe([topic])
        assert session.unacknowledged() == [] or session.unacknowledged() == ()


# --- capabilities by REST


async def test_what_rest_says_is_what_the_market_knows(name: str) -> None:
    exchange = EXCHANGES[name]
    async with hosted(name) as w:
        [symbol] = exchange.symbols[:1]
        tape = await tape_of(w, symbol)
        listed = await instrument(w, symbol)
        assert (listed["exchange"], listed["status"]) == (name, "TRADING")
        where = {"exchange": name, "symbol": symbol}

        for interval in exchange.intervals:
            rows = await w.get(f"/{name}/ohlc/{symbol}/{interval}", limit=5)
            newest = floor_open(interval, w.now)
            assert (len(rows), at(rows[-1])) == (5, newest), interval
            assert rows[:-1] == bars_told(tape, interval, rows[:-1])
            assert rows[-1]["open"] == bars_told(tape, interval, rows[-1:])[0]["open"]  # the rest may lag by a push
            assert [bar["is_closed"] for bar in rows] == [True] * 4 + [False]
            assert all({k: bar[k] for k in where} == where for bar in rows)

        can = exchange.capabilities
        if can["open_interest"]:
            interest = await w.get(f"/{name}/oi/{symbol}")
            assert {key: interest[key] for key in where} == where
            truth = tape.open_interest(w.now) * float(tape.asset.step)
            assert interest["open_interest"] == pytest.approx(truth, rel=1e-3)
        if can["open_interest_history"]:
            for period in exchange.open_interest_periods:
                rows = await w.get(f"/{name}/oi-hist/{symbol}", period=period, limit=4)
                assert [at(row) for row in rows] == [
                    floor_open(period, w.now) - n * (INTERVALS[period].total_seconds() * 1000) for n in (3, 2, 1, 0)
                ]
                for row in rows:
                    assert row["open_interest"] == quantity(tape, tape.open_interest(at(row)))
        if can["funding_rate"]:
            funding = await w.get(f"/{name}/funding/{symbol}")
            assert {key: funding[key] for key in where} == where
            hours = funding["funding_interval_hours"]
            assert funding["funding_rate"] == rate(tape, w.now, hours)
            assert 0 < at(funding, "funding_time") - w.now <= hours * 3_600_000
            assert at(funding, "funding_time") % (hours * 3_600_000) == 0
        if can["funding_rate_history"]:
            rows = await w.get(f"/{name}/funding-hist/{symbol}", limit=5)
            assert len(rows) == 5
            for earlier, row in zip([None, *rows], rows, strict=False):
                paid = at(row, "funding_time") // 60_000 * 60_000
                hours = row["funding_interval_hours"]
                assert row["funding_rate"] == rate(tape, paid, hours)
                assert earlier is None or paid - at(earlier, "funding_time") // 60_000 * 60_000 == hours * 3_600_000
        if can.get("predicted_funding"):
            predicted = await w.get(f"/{name}/predicted-funding")
            assert listed["base"] in {prediction["coin"] for prediction in predicted}
            assert all(venue["funding_rate"] is not None for coin in predicted for venue in coin["venues"])
        assert {served.status for served in w.sim.requests} == {200}


async def test_what_it_has_not_is_refused(name: str) -> None:
    exchange = EXCHANGES[name]
    async with hosted(name) as w:
        [symbol] = exchange.symbols[:1]
        [told] = (await w.get("/exchanges"))["exchanges"]
        assert told["capabilities"] == exchange.capabilities
        assert told["intervals"] == list(exchange.intervals)
        before = w.sim.count()
        for capability, (path, stream) in CAPABILITIES.items():
            if exchange.capabilities.get(capability):
                continue
            if path is not None:
                await w.problem(f"/{name}/{path.format(symbol=symbol)}", 404, "unsupported")
            if stream is not None:
                frame, code, _ = await w.refused(f"/ws/{name}/{symbol}/{stream}")
                assert (frame["type"], frame["code"], code) == ("error", "unsupported", 1008)
        for interval in INTERVALS.keys() - set(exchange.intervals):
            await w.problem(f"/{name}/ohlc/{symbol}/{interval}", 404, "unknown_interval")
        if exchange.capabilities["open_interest_history"]:
            for period in INTERVALS.keys() - set(exchange.open_interest_periods):
                await w.problem(f"/{name}/oi-hist/{symbol}", 422, "invalid_parameter", period=period)
        assert w.sim.count() == before, "known beforehand: nobody was asked"


# --- capabilities by stream


async def test_streams_tell_what_happens_each_event_once(name: str) -> None:
    exchange = EXCHANGES[name]
    async with hosted(name) as w:
        [symbol] = exchange.symbols[:1]
        tape = await tape_of(w, symbol)
        can = {stream for capability, (_, stream) in CAPABILITIES.items() if exchange.capabilities.get(capability)}
        streams = {}
        async with trio.open_nursery() as nursery:
            for stream in sorted(filter(None, can)):
                streams[stream] = await nursery.start(partial(held, w, f"/ws/{name}/{symbol}/{stream}"))
            await w.pass_time(1000)  # what went before is no longer on its way
            first, forced = tape.next_id, len(tape.liquidations)
            begun = w.now
            await w.pass_time(MINUTE + 10_000)
            happened = [trade for trade in tape.trades if trade.id >= first]
            assert len(happened) > 100

            def since(stream: str) -> list[Json]:
                return [event for event in streams[stream].frames if at(event) > begun]

            await eventually(lambda: len(since("trades")) >= len(happened), WITHIN, "every trade")
            assert [told(trade) for trade in since("trades")] == [truth(tape, trade) for trade in happened]
            ids = [trade["trade_id"] for trade in since("trades")]
            assert len(set(ids)) == len(ids)

            large = [trade for trade in happened if _value(tape, trade) >= 101_000]
            assert large
            await eventually(lambda: len(since("large_trades")) >= len(large), WITHIN, "every large trade")
            for trade in large:
                assert truth(tape, trade) in [told(found) for found in since("large_trades")]
            assert all(found["value"] >= 100_000 for found in since("large_trades"))

            if "liquidations" in can:
                orders = tape.liquidations[forced:]
                assert len(orders) > 3
                least = len(orders) // (2 if exchange.capabilities["liquidations"] is True else 5)
                await eventually(lambda: len(since("liquidations")) >= least, WITHIN, "liquidations")
                sides = {(order.time, order.side, order.quantity) for order in orders}
                for event in since("liquidations"):
                    steps = round(event["quantity"] / float(tape.asset.step))
                    assert (at(event), event["side"], steps) in sides
                times = [at(event) for event in since("liquidations")]
                assert len(set(times)) == len(times)
                if exchange.capabilities["liquidations"] is True:
                    assert times == [order.time for order in orders if order.time <= times[-1]]
            if "funding" in can:
                hours = streams["funding"].frames[-1]["funding_interval_hours"]

                def is_newest() -> bool:
                    return bool(streams["funding"].frames[-1]["funding_rate"] == rate(tape, w.now, hours))

                await eventually(is_newest, WITHIN, "the newest rate")
            if "oi" in can and "oi" in exchange.pushed:
                interest = pytest.approx(tape.open_interest(w.now) * float(tape.asset.step), rel=1e-3)
                await eventually(
                    lambda: [event["open_interest"] for event in streams["oi"].frames[-1:]] == [interest],
                    *(WITHIN, "the newest open interest"),
                )

            def closed() -> list[Json]:
                return [bar for bar in streams["ohlc"].frames if bar["is_closed"]]

            await eventually(closed, WITHIN, "the end of the bar")
            assert [at(bar) for bar in closed()] == [floor_open("1m", START)]
            assert closed() == bars_told(tape, "1m", closed())
            for stream, client in streams.items():
                assert client.frames, stream
                assert {(event["exchange"], event["symbol"]) for event in client.frames} == {(name, symbol)}
                assert len({event["type"] for event in client.frames}) == 1
                assert client.closed is None
            nursery.cancel_scope.cancel()
        assert w.sim.connections_total == len(paths(exchange))


async def held(w: World, path: str, *, task_status: trio.TaskStatus[Any]) -> None:
    async with w.stream(path) as client:
        task_status.started(client)
        await trio.sleep_forever()


def told(trade: Json) -> Json:
    return {key: trade[key] for key in ("timestamp", "side", "price", "quantity", "is_buyer_maker")}


def truth(tape: Tape, trade: Trade) -> Json:
    return {
        "timestamp": iso(trade.time),
        "side": trade.side,
        "price": price(tape, trade.price),
        "quantity": quantity(tape, trade.quantity),
        "is_buyer_maker": trade.side == "sell",
    }


def _value(tape: Tape, trade: Trade) -> float:
    return trade.price * float(tape.asset.tick) * trade.quantity * float(tape.asset.step)


# --- what must not be believed


UNKNOWN_TO_ALL = ('"hello"', "null", "[]", '{"hello":"world"}', "0", "")


def test_bad_frames_say_nothing(name: str) -> None:
    exchange = EXCHANGES[name]
    session = exchange.new_session({})
    session.subscribe(upstream_topics(exchange, exchange.symbols, STREAMED))
    frames = [*simulator_of(name).BAD_FRAMES.values(), *(frame.encode() for frame in UNKNOWN_TO_ALL)]
    for frame in frames:
        for form in (frame, frame.decode(errors="replace")):
            with suppress(BadMessage):
                said = session.receive(form, EPOCH)
                assert [item for item in said if not isinstance(item, Rejected) or item.topics] == [], frame[:200]


class Listener:
    """A feed, as far as a line sees it."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.troubles: list[str] = []

    def deliver(self, said: Update | Backlog | Topic, received_at: datetime) -> None:
        if isinstance(said, Update):
            self.updates.append(said)

    def line_up(self, path: str) -> None: ...
    def line_down(self, reason: str, delay: float | None, path: str) -> None: ...
    def topic_silent(self, topic: Topic, reason: str) -> None: ...
    def topic_heard(self, topic: Topic) -> None: ...
    def topic_rejected(self, topic: Topic, reason: str, *, final: bool) -> None:
        self.troubles.append(reason)

    def line_refused(self, reason: str) -> None:
        self.troubles.append(reason)


async def test_bad_frames_are_counted_said_once_and_survived(name: str) -> None:
    exchange = quick(EXCHANGES[name])
    simulator = simulator_of(name)
    with captured_logs() as logs:
        async with trio.open_nursery() as nursery:
            market = Market(assets=assets("BTC"), clock=Clock(START, rate=0))
            sim = await nursery.start(partial(simulator.serve, market))
            symbol, feed = exchange.symbols[0], Listener()
            every = upstream_topics(exchange, [symbol], STREAMED)
            topics = [topic for topic in every if exchange.path_of(topic.kind) == exchange.ws_path]
            listed = {row.symbol: row for row in await catalogue(exchange, sim.rest_url)}
            line = Line(exchange, sim.ws_url, ssl.create_default_context(), listed, trio.lowlevel.checkpoint, 1)
            line.add(feed, topics)
            nursery.start_soon(line.run)
            expected = subscriptions(exchange, topics)

            def subscribed() -> bool:
                return any(len(connection.streams) >= expected for connection in sim.connections)

            await eventually(subscribed, WITHIN, "subscriptions")

            def complained() -> int:
                return line.counts["garbage"] + line.counts["unknown"]

            sim.push('{"hello":"reader"}')
            await eventually(lambda: complained() == 1, WITHIN, "all that was under way has come")
            [connection], known = sim.connections, len(feed.updates)
            strange = {text: text.encode() for text in UNKNOWN_TO_ALL}
            for kind, frame in (simulator.BAD_FRAMES | strange).items():
                frames, complaints, said = line.counts["frames"], complained(), len(logs)
                for _ in range(2):
                    sim.push(frame)
                await eventually(lambda: line.counts["frames"] >= frames + 2, WITHIN, kind)  # noqa: B023 - awaited here
                assert complained() - complaints in (0, 2), kind
                fresh = [entry for entry in logs[said:] if entry["event"].endswith("_frame")]
                assert len(fresh) <= 1, (kind, "the second time is not news")
                if fresh:
                    assert complained() > complaints
                    assert (fresh[0]["exchange"], fresh[0]["log_level"]) == (name, "warning")
                    assert len(fresh[0]["sample"]) <= 1000
            assert complained() >= 20, "most of them are complained about"
            assert len(feed.updates) == known, "and none is believed"
            assert (feed.troubles, sim.connections, sim.attempts) == ([], [connection], 1)
            for _ in range(10):
                market.clock.advance(500)
                sim.tick()
            lively = {topic.kind for topic in topics} & {"trades", "ohlc"}
            await eventually(lambda: {u.event.kind for u in feed.updates[known:]} >= lively, WITHIN)
            nursery.cancel_scope.cancel()


# --- symbols that cannot be had


async def test_symbols_that_cannot_be_had_fail_alone(name: str) -> None:
    exchange = quick(EXCHANGES[name])
    good = exchange.symbols[:2]
    first = await _base(name, good[0])
    misspelt, delisted = good[0].replace(first, "BTCC"), good[0].replace(first, DELISTED)
    async with hosted(name, (misspelt, good[0], delisted, good[1]), served=good) as w:

        def settled(health: Json) -> bool:
            return {feed["state"] for feed in health["feeds"]} <= {"live", "failed"}

        health = await w.health(settled, WITHIN)
        states = {feed["symbol"]: feed["state"] for feed in health["feeds"]}
        assert states == {misspelt: "failed", good[0]: "live", delisted: "failed", good[1]: "live"}
        reasons = {feed["symbol"]: feed["reason"] for feed in health["feeds"] if feed["state"] == "failed"}
        assert all(symbol in reason for symbol, reason in reasons.items()), reasons
        assert (health["status"], health["exchanges"]) == ("degraded", {name: True})
        assert (await w.ask("/health/ready")).status_code == 200
        for symbol in (misspelt, delisted):
            frame, code, _ = await w.refused(f"/ws/{name}/{symbol}/trades")
            assert (frame["code"], code) == ("unknown_symbol", 1008)
        await w.problem(f"/{name}/funding/{misspelt}", 404, "unknown_symbol")
        async with w.stream(f"/ws/{name}/{good[1]}/trades") as client:
            await w.pass_time(5000)
            await client.at_least(1, WITHIN)
        assert (w.sim.attempts, w.sim.connections_total) == (len(paths(exchange)),) * 2


async def _base(name: str, symbol: str) -> str:
    """The base asset of a symbol, as the simulated exchange's own catalogue says."""
    async with hosted(name, (symbol,)) as w:
        base: str = (await instrument(w, symbol))["base"]
        return base


# --- limits


async def test_limits_are_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many topics on connections that carry few: as many connections as needed, evenly spaced, nothing refused."""
    intervals = EXCHANGES[name].intervals[:4]
    topics = upstream_topics(EXCHANGES[name], EXCHANGES[name].symbols[:1], intervals)
    each = Counter(EXCHANGES[name].path_of(topic.kind) for topic in topics)
    room = max(each.values())
    assert room < 2 * min(each.values()), "one feed per connection"
    per_frame = min(4, EXCHANGES[name].limits.topics_per_frame)
    exchange = quick(EXCHANGES[name], topics=room, topics_per_frame=per_frame, connect_spacing=0.3)
    begun: list[float] = []
    ready = Lines._ready_to_connect

    async def noted(self: Lines) -> None:
        await ready(self)
        begun.append(trio.current_time())

    monkeypatch.setattr(Lines, "_ready_to_connect", noted)
    async with hosted(name, exchange.symbols[:3], exchange=exchange, intervals=intervals) as w:
        assert len(begun) == w.sim.attempts == w.sim.connections_total == 3 * len(each)
        assert all(later - earlier >= 0.299 for earlier, later in pairwise(begun))
        assert max(len(connection.streams) for connection in w.sim.connections) <= 9
        await w.health(lambda health: bool(health["status"] == "healthy"), WITHIN)
        assert {served.status for served in w.sim.requests} == {200}
        assert w.logged("line.subscription_rejected") == []
        assert w.logged("line.down") == []
        assert w.logged("line.garbage_frame") + w.logged("line.unknown_frame") == []


async def test_the_shipped_limits_are_accepted(name: str) -> None:
    """All that one connection may carry, asked for at the shipped pace: the exchange refuses nothing."""
    exchange = replace(EXCHANGES[name], history=120)
    async with hosted(name, exchange.symbols[:3], exchange=exchange, intervals=("1m",)) as w:
        assert (w.sim.attempts, w.sim.connections_total) == (len(paths(exchange)),) * 2
        assert {served.status for served in w.sim.requests} == {200}
        assert w.logged("line.subscription_rejected") == []


@pytest.mark.parametrize("share", [0.25, 0.001])
def test_a_share_of_its_limits_is_asked_for(name: str, share: float) -> None:
    exchange = EXCHANGES[name]
    ours = exchange.within(share)
    assert exchange.within(1.0) is exchange
    for bucket, window in exchange.budget.items():
        assert ours.budget[bucket] == (max(1, int(window.limit * share)), window.seconds)
    assert ours.limits.connect_spacing == exchange.limits.connect_spacing / share
    if exchange.limits.subscriptions is not None:
        assert ours.limits.subscriptions == int(exchange.limits.subscriptions * share)
    assert ours.limits.topics == exchange.limits.topics  # of one connection, whoever has others
