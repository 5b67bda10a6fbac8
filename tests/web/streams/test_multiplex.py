"""`/ws` without sockets: what a client may command, and what it is answered."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, cast

import msgspec
import pytest
import trio
import trio.testing

from actors import clock
from actors.exchanges import binance
from actors.exchanges.exchange import Rest
from actors.feeds.everything import Everything
from actors.feeds.feed import Feed
from actors.feeds.interest import Turns
from actors.spikes import Spikes
from tests.daemon.test_truth import LOCAL, SYMBOL, Connector, Market, Upstream, quiet
from web.connectors import Connectors
from web.server.outbox import Outbox, payloads_of
from web.streams.fanouts import Fanouts
from web.streams.multiplex import ClientLimits, Multiplex
from web.streams.topics import Sources

Json = Any
TRADES, BARS = f"binance:{SYMBOL}:trades", f"binance:{SYMBOL}:ohlc:1m"


class Client:
    """Stands for an outbox and keeps what it is given."""

    def __init__(self) -> None:
        self.frames: list[Json] = []
        self.closed: int | None = None

    def send(self, frames: bytes) -> None:
        self.frames += map(msgspec.json.decode, payloads_of(frames))

    async def write_texts(self, texts: Sequence[bytes]) -> None:
        self.frames += map(msgspec.json.decode, texts)
        await trio.lowlevel.checkpoint()

    def close(self, code: int, reason: str = "") -> None:
        self.closed = self.closed or code


class Daemon:
    """A feed that nobody runs, its fan-outs, and one client."""

    def __init__(self, nursery: trio.Nursery, limits: ClientLimits) -> None:
        async def run_once(name: str, run: Callable[[], Awaitable[None]], **_: Any) -> None:
            await run()

        exchange = quiet(binance.EXCHANGE)
        self.market = Market(exchange)
        upstream = Upstream(self.market)
        rest, everything = cast(Rest, upstream), Everything()
        self.feed = Feed(
            exchange,
            SYMBOL,
            ("1m",),
            large_trade_threshold_usd=1e9,
            supervise=run_once,
            repair=rest,
            background=rest,
            turns=Turns(exchange.budget["weight"], clock.now, lambda: 1),
            everything=everything,
            loads=trio.CapacityLimiter(1),
        )
        connectors = cast(Connectors, {"binance": Connector(self.feed, upstream)})
        self.fanouts = Fanouts(nursery, run_once, Sources(connectors, everything, cast(Spikes, None)))
        self.client = Client()
        self.multiplex = Multiplex(cast(Outbox, self.client), self.fanouts, limits, nursery, LOCAL)

    async def say(self, command: Json) -> list[Json]:
        """What a command is answered, once all is quiet."""
        before = len(self.client.frames)
        self.take(command)
        await trio.testing.wait_all_tasks_blocked()
        return self.client.frames[before:]

    def take(self, command: Json) -> bool:
        return self.multiplex.take(command if isinstance(command, str | bytes | None) else msgspec.json.encode(command))

    async def trade(self) -> list[Json]:
        before = len(self.client.frames)
        made = self.market.trade()
        self.feed.readers.publish("trades", made)
        await trio.testing.wait_all_tasks_blocked()
        return self.client.frames[before:]


@pytest.fixture
async def daemon(nursery: trio.Nursery) -> AsyncIterator[Daemon]:
    daemon = Daemon(nursery, ClientLimits(topics=3, commands_per_second=20.0))
    yield daemon
    daemon.multiplex.close()


async def test_a_topic_is_acknowledged_and_followed(daemon: Daemon) -> None:
    assert await daemon.say({"op": "subscribe", "id": 7, "topics": [TRADES]}) == [
        {"type": "ack", "id": 7, "topics": [TRADES]}
    ]
    told = [frame for _ in range(3) for frame in await daemon.trade()]
    assert [frame["seq"] for frame in told] == [1, 2, 3]
    assert {(frame["topic"], frame["type"]) for frame in told} == {(TRADES, "trade")}
    assert await daemon.say({"op": "unsubscribe", "id": "x", "topics": [TRADES]}) == [
        {"type": "ack", "id": "x", "topics": [TRADES]}
    ]
    assert await daemon.trade() == []
    assert await daemon.say({"op": "ping", "id": 0}) == [{"type": "pong", "id": 0}]


@pytest.mark.parametrize(
    ("message", "id"),
    [
        (None, None),
        (b"", None),
        ("{", None),
        ("[]", None),
        (b"\xff\xfe", None),
        ("[" * 5000, None),
        ('{"op":"shout","id":3}', 3),
        ('{"id":"a","topics":[]}', "a"),
        ('{"op":"subscribe","id":1,"topics":[]}', 1),
        (f'{{"op":"subscribe","id":1,"topics":"{TRADES}"}}', 1),
        (f'{{"op":"subscribe","id":1,"topics":["{TRADES}"],"sinse":{{}}}}', 1),
        (f'{{"op":"subscribe","id":1,"topics":["{TRADES}"],"since":{{"{TRADES}":5}}}}', 1),
        (f'{{"op":"subscribe","id":1,"topics":["{BARS}"],"backfill":0}}', 1),
        (f'{{"op":"subscribe","id":{{"no":"id"}},"topics":["{TRADES}"]}}', None),
        ('{"op":"ping","id":"%s"}' % ("x" * 65), None),
        ('{"op":"ping","id":%s}' % ("9" * 5000), None),
    ],
)
async def test_what_is_no_command_is_answered_and_ends_nothing(daemon: Daemon, message: Json, id: Json) -> None:
    (error,) = await daemon.say(message)
    assert (error["type"], error["code"], error.get("id")) == ("error", "invalid_command", id)
    assert error["detail"]
    assert await daemon.say({"op": "ping"}) == [{"type": "pong"}]


async def test_bad_topics_among_good_ones_have_errors_of_their_own(daemon: Daemon) -> None:
    bad = ["nowhere:BTC:trades", "gossip", f"binance:{SYMBOL}:ohlc:1m?interval=1m", f"{TRADES}?status=1"]
    told = await daemon.say({"op": "subscribe", "id": 2, "topics": [*bad[:2], TRADES, *bad[2:]]})
    errors = {frame["topic"]: frame["code"] for frame in told if frame["type"] == "error"}
    assert errors == dict(
        zip(bad, ["unknown_exchange", "not_found", "invalid_parameter", "invalid_parameter"], strict=True)
    )
    assert {frame["id"] for frame in told} == {2}
    assert [frame["topics"] for frame in told if frame["type"] == "ack"] == [[TRADES]]


async def test_a_topic_is_left_by_any_spelling_it_was_joined_by(daemon: Daemon) -> None:
    name, other = f"{TRADES[:-6]}large_trades?min_value_usd=5", f"{TRADES[:-6]}large_trades?min_value_usd=5.0"
    (ack,) = await daemon.say({"op": "subscribe", "topics": [other, name]})
    assert ack["topics"] == [name]
    (ack,) = await daemon.say({"op": "unsubscribe", "topics": [other]})
    assert ack["topics"] == [name]
    (error,) = await daemon.say({"op": "unsubscribe", "id": 4, "topics": [name]})
    assert (error["code"], error["topic"], error["id"]) == ("invalid_parameter", name, 4)


async def test_spellings_do_not_pile_up(daemon: Daemon) -> None:
    names = [f"{TRADES[:-6]}large_trades?min_value_usd=5.{'0' * number}" for number in range(1, 51)]
    (ack,) = await daemon.say({"op": "subscribe", "topics": names})
    assert len(ack["topics"]) == 1
    assert len(daemon.multiplex._spelled) <= 6


async def test_only_so_many_topics_on_one_connection(daemon: Daemon) -> None:
    names = [f"{TRADES[:-6]}large_trades?min_value_usd={number}" for number in range(1, 6)]
    told = await daemon.say({"op": "subscribe", "topics": names})
    assert [frame["code"] for frame in told if frame["type"] == "error"] == ["too_many_topics"] * 2
    (ack,) = (frame for frame in told if frame["type"] == "ack")
    assert ack["topics"] == names[:3]
    await daemon.say({"op": "unsubscribe", "topics": names[:1]})
    (ack,) = await daemon.say({"op": "subscribe", "topics": names[3:4]})
    assert ack["topics"] == names[3:4]


async def test_a_position_of_a_topic_that_is_not_asked_for_is_an_error(daemon: Daemon) -> None:
    since = {BARS: {"epoch": "e", "seq": 1}}
    told = await daemon.say({"op": "subscribe", "id": 1, "topics": [TRADES], "since": since})
    assert [(frame["type"], frame["id"]) for frame in told] == [("error", 1), ("ack", 1)]
    assert BARS in str(told[0]["errors"])


async def test_only_bars_have_a_past(daemon: Daemon) -> None:
    """A command may name topics of every kind: those that are not bars just go live."""
    ack, *rest = await daemon.say({"op": "subscribe", "topics": [TRADES], "backfill": 5})
    assert (ack, rest) == ({"type": "ack", "topics": [TRADES]}, [])
    assert [frame["seq"] for frame in await daemon.trade()] == [1]


async def test_a_position_that_is_no_longer_held_is_one_gap_and_then_live(daemon: Daemon) -> None:
    since = {TRADES: {"epoch": "0-another", "seq": 41}}
    ack, gap = await daemon.say({"op": "subscribe", "topics": [TRADES], "since": since})
    assert ack["type"] == "ack"
    assert (gap["type"], gap["reason"], gap["repaired"]) == ("gap", "resume_too_old", False)
    assert [frame["seq"] for frame in await daemon.trade()] == [1]


async def test_a_topic_left_in_the_moment_it_was_resumed_is_not_followed(daemon: Daemon) -> None:
    """The task that was to bring the client up to the present begins when the client is gone."""
    await daemon.say({"op": "subscribe", "topics": [TRADES]})
    (trade,) = await daemon.trade()
    since = {TRADES: {"epoch": trade["epoch"], "seq": trade["seq"]}}
    await daemon.say({"op": "unsubscribe", "topics": [TRADES]})
    daemon.take({"op": "subscribe", "topics": [TRADES], "since": since})
    await daemon.say({"op": "unsubscribe", "topics": [TRADES]})
    assert await daemon.trade() == []


async def test_a_flood_of_commands_is_refused_and_then_ends_the_client(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    daemon = Daemon(nursery, ClientLimits(commands_per_second=5.0))
    answers = [(await daemon.say({"op": "ping", "id": number}))[0] for number in range(12)]
    assert [answer["type"] for answer in answers] == ["pong"] * 10 + ["error"] * 2
    assert [(answer["code"], answer["id"]) for answer in answers[10:]] == [
        ("too_many_commands", 10),
        ("too_many_commands", 11),
    ]
    await trio.sleep(1.0)  # five more are earned, two of them are owed
    answers = [(await daemon.say({"op": "ping"}))[0] for _ in range(4)]
    assert [answer["type"] for answer in answers] == ["pong"] * 3 + ["error"]
    assert daemon.client.closed is None
    sent = 0
    while daemon.take({"op": "ping"}):
        sent += 1
        assert sent < 100
    assert daemon.client.closed == 1008
    nursery.cancel_scope.cancel()
