"""What is between two daemons breaks: the server is full, refuses, forgets, is late, cut off. What clients are told."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from coredis import PureToken, Redis

from tests.actors.engine.servers import Server, running
from tests.actors.engine.wires import Wire, wired
from tests.daemon.fixtures import Json, Served, Stream, eventually
from tests.daemon.test_several import LEASE, broken, exchange, healthy, node, states, subscribe, trades
from tests.patience import WITHIN

AWAY = ("down", "the engine is away")


@pytest.fixture
def server() -> Iterator[Server]:
    with running("valkey") as server:
        yield server


@asynccontextmanager
async def operator(url: str) -> AsyncIterator["Redis[bytes]"]:
    """Somebody beside the daemons who changes the server."""
    async with Redis.from_url(url) as client:
        yield client


def ids(stream: Stream) -> list[int]:
    return [trade["trade_id"] for trade in trades(stream)]


def all_are_there(stream: Stream) -> None:
    """Trades came once and none is missing; numbers are dense, and nothing was announced as lost."""
    assert broken(ids(stream)) == []
    assert broken([trade["seq"] for trade in trades(stream)]) == []
    assert [gap["reason"] for gap in stream.of("gap")] == []


async def goes_on(stream: Stream, more: int = 3) -> None:
    known = len(trades(stream))
    await eventually(lambda: len(trades(stream)) > known + more, within=30)


async def engine_is(served: Served, state: str) -> Json:
    health = await served.health(lambda health: bool(health["engine"]["state"] == state), within=30)
    return health["engine"]


@asynccontextmanager
async def followed(url: str, prefix: str, **changes: Any) -> AsyncIterator[tuple[Served, Stream]]:
    """A healthy node, and a client that hears trades there."""
    async with exchange() as sim, node(sim, url, "a", prefix, **changes) as served:
        await healthy(served)
        async with served.stream("/ws") as stream:
            await subscribe(stream)
            await goes_on(stream)
            yield served, stream


async def test_a_full_server_is_a_state_and_all_is_told_when_there_is_room(server: Server) -> None:
    async with operator(server.url) as redis, followed(server.url, "full") as (served, stream):
        await redis.config_set({"maxmemory": "1mb"})
        engine = await engine_is(served, "full")
        assert engine["reason"] == "the server has no memory left"
        await eventually(lambda: AWAY in states(stream), within=30)
        await trio.sleep(1.2 * LEASE)
        await redis.config_set({"maxmemory": "0"})
        await engine_is(served, "live")
        await goes_on(stream)
        all_are_there(stream)


def is_refused(health: Json) -> bool:
    engine = health["engine"]
    return bool(engine["state"] == "away" and (engine["reason"] or "").startswith("the server refuses us: "))


async def test_a_password_that_changes_is_a_state_until_it_is_changed_back() -> None:
    with running("valkey", "--requirepass", "right") as server:
        url = server.url.replace("//", "//:right@")
        async with operator(url) as redis, followed(url, "password") as (served, stream):
            await redis.config_set({"requirepass": "other"})
            await redis.client_kill(type_=PureToken.NORMAL, skipme=True)
            await served.health(is_refused, within=30)
            assert "right" not in str(served.logs)
            await eventually(lambda: AWAY in states(stream), within=30)
            await redis.config_set({"requirepass": "right"})
            await engine_is(served, "live")
            await goes_on(stream)
            all_are_there(stream)


async def test_a_wrong_password_and_a_server_that_is_not_there_yet_are_states() -> None:
    with running("valkey", "--requirepass", "right") as server:
        server.kill()
        url = server.url.replace("//", "//:wrong@")
        async with exchange() as sim, node(sim, url, "a", "start") as served:
            assert (await engine_is(served, "away"))["reason"] == "no connection to the server"
            server.start()
            await served.health(is_refused, within=30)
            assert ":wrong" not in str(served.logs)
            async with operator(server.url.replace("//", "//:right@")) as redis:
                await redis.config_set({"requirepass": "wrong"})
            await engine_is(served, "live")
            await healthy(served)


async def test_a_server_that_forgot_begins_anew_and_no_number_means_two_things() -> None:
    with running("valkey") as server:
        async with followed(server.url, "forgot") as (_, stream):
            server.kill()
            server.start()
            await eventually(lambda: stream.of("gap"), within=30)
            assert {gap["reason"] for gap in stream.of("gap")} == {"resume_too_old"}
            await goes_on(stream)
            told = trades(stream)
            numbers = [(trade["epoch"], trade["seq"]) for trade in told]
            assert len({epoch for epoch, _ in numbers}) == 2
            assert len(set(numbers)) == len(numbers)
            assert len(set(ids(stream))) == len(told)


def leads_all(name: str) -> Callable[[Json], bool]:
    return lambda health: {lane["leader"] for lane in health["engine"]["lanes"]} == {name}


async def test_the_node_that_is_cut_off_from_the_server_says_so_and_the_other_goes_on(server: Server) -> None:
    async with (
        exchange() as sim,
        wired(server.port) as wire,
        node(sim, wire.url, "cut", "networks") as first,
    ):
        await healthy(first)
        async with node(sim, server.url, "well", "networks") as second:
            await healthy(second)
            async with first.stream("/ws") as here, second.stream("/ws") as there:
                await subscribe(here)
                await subscribe(there)
                await goes_on(here)
                await goes_on(there)
                for fail in (wire.cut, wire.hang):
                    fail()
                    await engine_is(first, "away")
                    await goes_on(there)
                    await second.health(leads_all("well"), within=30)
                    wire.mend()
                    await engine_is(first, "live")
                    await goes_on(here)
                    await healthy(first)
                assert AWAY in states(here)
                assert AWAY not in states(there)
                all_are_there(here)
                all_are_there(there)


def has_lost(wire: Wire, answers: int) -> bool:
    """Whether so many answers were lost. One that did not come in time was none: then the next one is to be lost."""
    wire.loses = b"trade_id" if wire.lost < answers else b""
    return wire.lost >= answers


async def test_answers_that_are_late_or_lost_tell_nothing_twice(server: Server) -> None:
    async with wired(server.port) as wire, followed(wire.url, "late") as (_, stream):
        wire.delay = 0.03
        await goes_on(stream)
        wire.delay = 0.0
        for lost in (1, 2, 3):
            await eventually(partial(has_lost, wire, lost), within=30)
            await goes_on(stream, 1)
        all_are_there(stream)


async def test_whoever_comes_back_while_the_server_is_away_waits_for_its_memory(server: Server) -> None:
    async with wired(server.port) as wire, followed(wire.url, "memory") as (served, stream):
        topic = "binance:BTCUSDT:ohlc:5m"  # that nobody followed here: what was told of it is held by the server alone
        since = {topic: {"epoch": trades(stream)[0]["epoch"], "seq": 1}}
        wire.cut()
        await engine_is(served, "away")
        async with served.stream("/ws") as again:
            await again.say({"op": "subscribe", "topics": [topic], "since": since})
            await eventually(lambda: again.of("ack"), within=30)
            wire.mend()
            await eventually(lambda: len(again.of("ohlc")) > 4, within=30)
            assert again.of("gap") == []
            assert [bar["seq"] for bar in again.of("ohlc")][:5] == [2, 3, 4, 5, 6]


async def test_a_replica_that_is_promoted_is_gone_on_with() -> None:
    with running("valkey", "--repl-diskless-sync-delay", "0") as primary, running("valkey") as replica:
        async with operator(replica.url) as redis, wired(primary.port) as wire:
            await redis.replicaof("127.0.0.1", primary.port)
            async with followed(wire.url, "promoted") as (served, stream):
                await caught_up(wire, redis, stream)
                primary.kill()
                await redis.replicaof()
                wire.target = replica.port
                await goes_on(stream)
                await engine_is(served, "live")
                told = trades(stream)
                assert len({(trade["epoch"], trade["seq"]) for trade in told}) == len(told)
                assert len(set(ids(stream))) == len(told)
                assert {gap["reason"] for gap in stream.of("gap")} <= {"resume_too_old"}


async def caught_up(wire: Wire, redis: "Redis[bytes]", stream: Stream) -> None:
    """The replica has all that clients were told."""
    with trio.fail_after(WITHIN):
        while True:
            info: Any = await redis.info("replication")
            if info["master_link_status"] == "up" and info["slave_read_repl_offset"]:
                break
            await trio.sleep(0.02)
    await goes_on(stream)
