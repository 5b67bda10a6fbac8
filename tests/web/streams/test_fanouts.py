"""What is kept of topics that clients made: within one memory for all, and nobody is kept from making theirs."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from actors.errors import Overloaded, UnknownSymbol
from actors.events import LargeTrade, Topic, from_ms
from actors.feeds.everything import ALL, Everything
from web.parameters import StreamQuery, ValueStreamQuery
from web.pressure import Pressure
from web.streams.fanout import Fanout
from web.streams.fanouts import Fanouts
from web.streams.memory import Memory, Position
from web.streams.topics import Sources, Wanted, name_of

LARGE, FORCED = Topic(ALL, "", "large_trades"), Topic(ALL, "", "liquidations")


def wanted(least: float, topic: Topic = LARGE) -> Wanted:
    return Wanted(topic, ValueStreamQuery(min_value_usd=float(least)))


async def supervise(name: str, run: Callable[[], Awaitable[None]], **_: object) -> None:
    await run()


class Daemon:
    def __init__(self, nursery: trio.Nursery, memory: Memory | None = None, connectors: Any = None) -> None:
        self.everything = Everything()
        self.pressure = Pressure(1, resident=lambda: 0)
        sources = Sources(connectors or {}, self.everything, cast(Any, None))
        self.fanouts = Fanouts(nursery, cast(Any, supervise), sources, memory, self.pressure)

    @contextmanager
    def following(self, *all_wanted: Wanted) -> Iterator[list[Fanout]]:
        with ExitStack() as stack:
            yield [stack.enter_context(self.fanouts.holding(one, remember=True)) for one in all_wanted]

    async def publish(self, count: int, topic: Topic = LARGE) -> None:
        for number in range(count):
            event = LargeTrade(
                **cast(Any, {"exchange": "binance", "symbol": "BTCUSDT", "timestamp": from_ms(number)}),
                **cast(Any, {"side": "buy", "price": 1.0, "quantity": 1.0, "value": 1e6}),
                is_buyer_maker=False,
                trade_id=number,
            )
            self.everything.publish(topic.kind, event)
        await trio.testing.wait_all_tasks_blocked()


def is_resumable(fanout: Fanout, seq: int) -> bool:
    return fanout.resume(Position(fanout.epoch, seq)) is not None


async def test_one_clients_filters_keep_nobody_from_another(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    daemon = Daemon(nursery)
    with daemon.following(*(wanted(1 + number) for number in range(3000))), daemon.following(wanted(99_999)) as mine:
        await daemon.publish(3)
        assert mine[0].seq == 3
    assert daemon.fanouts.states() == {"followed": 0, "idle": 3001, "filtered": 3001}
    await trio.sleep(daemon.fanouts.memory.seconds + 3)
    assert daemon.fanouts.states() == {"followed": 0, "idle": 0, "filtered": 0}
    assert daemon.fanouts.remembered_bytes == 0
    nursery.cancel_scope.cancel()


async def test_all_topics_together_remember_within_a_bound_and_the_one_left_longest_ago_forgets_first(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    daemon = Daemon(nursery, Memory(bytes=1_000_000))
    with daemon.following(wanted(1, FORCED)) as left:
        await daemon.publish(1000, FORCED)
    await trio.sleep(5)
    with daemon.following(wanted(2)) as stays:
        await daemon.publish(1000)
        assert daemon.fanouts.remembered_bytes > 1_000_000
        await trio.sleep(2)
        assert daemon.fanouts.remembered_bytes <= 1_000_000
        assert is_resumable(stays[0], 0)
        assert not is_resumable(left[0], 0)
        assert is_resumable(left[0], 1000)
        await daemon.publish(2000)
        await trio.sleep(2)
        assert daemon.fanouts.remembered_bytes <= 1_000_000
        assert not is_resumable(stays[0], 0)
        assert is_resumable(stays[0], 2900)
    nursery.cancel_scope.cancel()


async def test_where_memory_is_short_nothing_new_is_begun_and_topics_remember_half(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    def resolve(symbol: str) -> Any:
        if symbol != "ETHUSDT":
            raise UnknownSymbol("no such symbol")
        return SimpleNamespace(symbol=symbol)

    connector = SimpleNamespace(feeds={"BTCUSDT": None}, catalogue=SimpleNamespace(resolve=resolve))
    daemon = Daemon(nursery, Memory(frames=100, seconds=300.0), {"binance": connector})
    plain = Wanted(LARGE, StreamQuery())
    with daemon.following(wanted(1), plain) as before:
        daemon.pressure.is_high = True
        with pytest.raises(Overloaded):
            daemon.following(wanted(2)).__enter__()
        with pytest.raises(Overloaded):
            daemon.following(Wanted(Topic("binance", "ETHUSDT", "trades"), StreamQuery())).__enter__()
        with pytest.raises(AttributeError):  # it is let through to the connector, which here cannot read
            daemon.following(Wanted(Topic("binance", "BTCUSDT", "trades"), StreamQuery())).__enter__()
        with daemon.following(wanted(1), plain, Wanted(FORCED, StreamQuery())) as now:
            assert now[:2] == before
        await trio.sleep(2)
        assert daemon.fanouts.room.memory == Memory(50, 150.0, daemon.fanouts.memory.bytes // 2)
        daemon.pressure.is_high = False
        await trio.sleep(2)
        assert daemon.fanouts.room.memory == daemon.fanouts.memory
        with daemon.following(wanted(2)) as new:
            assert new[0].name == name_of(*wanted(2))
    nursery.cancel_scope.cancel()
