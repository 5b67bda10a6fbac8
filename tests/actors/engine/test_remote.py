"""A real server that is away, full, shut or wrongly set up: each is one plain error, and nothing is half done."""

from collections.abc import Iterator

import pytest
import structlog
import trio

from actors.engine.remote import open_engine
from actors.engine.words import ALL, Burst, EngineAway, EngineFull, EngineUnfit, Entry, Kept, Lease, Mark, Share
from tests.actors.engine.saying import say
from tests.actors.engine.servers import Server, programs, running
from tests.patience import WITHIN
from tests.programs import free_port

LANE, TOPIC = "binance.3", "binance:BTCUSDT:trades"


@pytest.fixture(scope="module", params=sorted(programs()))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param, "--maxmemory", "8mb") as server:
        yield server


async def test_a_full_server_takes_nothing_and_goes_on_when_there_is_room(server: Server) -> None:
    async with open_engine(server.url, "full", Kept(), patience=30) as engine:
        lease = await engine.take(LANE, "a", 60, "1-a")
        assert lease is not None
        said = 0
        big = b'{"text":"%b"}' % (b"x" * 500_000)

        async def say_all(lease: Lease) -> None:
            nonlocal said
            for n in range(1, 40):
                await say(engine, lease, Burst(n, [Entry(TOPIC, "trade", n, big)], {}))
                said = n

        with pytest.raises(EngineFull):
            await say_all(lease)
        assert said
        present = await engine.present(LANE)
        assert (present.n, present.seqs) == (said, {TOPIC: said})
        assert len((await engine.recall(LANE, TOPIC))[1]) == len(await engine.tail(LANE)) == said
        shares = [Share(LANE, "1-a", 1, Entry("all:liquidations", "liquidation", 1, big))]
        with pytest.raises(EngineFull):
            await engine.share(shares, Mark("", 0))
        assert (await engine.present(ALL)).n == 0
        await engine._client.config_set({"maxmemory": "64mb"})
        await say(engine, lease, Burst(said + 1, [Entry(TOPIC, "trade", said + 1, big)], {}))
        assert (await engine.present(LANE)).n == said + 1
        assert await engine.share(shares, Mark("", 0)) == Mark("", 1)


async def test_a_server_that_would_throw_away_is_refused(server: Server) -> None:
    async with open_engine(server.url, "policy", Kept(), patience=30) as engine:
        await engine.check(8)
        await engine._client.config_set({"maxmemory-policy": "allkeys-lru"})
        try:
            with pytest.raises(EngineUnfit, match="noeviction"):
                await engine.check(8)
        finally:
            await engine._client.config_set({"maxmemory-policy": "noeviction"})


async def test_a_server_that_restarts_is_spoken_to_again() -> None:
    with running("valkey", "--appendonly", "yes", "--appendfsync", "always") as server:
        async with open_engine(server.url, "again", Kept(), patience=30) as engine:
            lease = await engine.take(LANE, "a", 60, "1-a")
            assert lease is not None
            await say(engine, lease, Burst(1, [Entry(TOPIC, "trade", 1, b"{}")], {}))
            place = (await engine.present(LANE)).place
            failures: list[EngineAway] = []

            async def follow() -> None:
                with pytest.raises(EngineAway) as caught:
                    await engine.read({LANE: place}, 60)
                failures.append(caught.value)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow)
                await trio.sleep(0.05)
                server.kill()
            assert len(failures) == 1
            with pytest.raises(EngineAway, match="connection"):
                await engine.present(LANE)
            server.start()
            await say(engine, lease, Burst(2, [Entry(TOPIC, "trade", 2, b"{}")], {}))  # it knows no script any more
            assert [told.n for told in await engine.tail(LANE)] == [1, 2]


async def test_readings_that_are_given_up_take_no_place_from_others() -> None:
    with running("valkey") as server:
        async with open_engine(server.url, "places", Kept(), patience=30) as engine:
            for _ in range(9):
                async with trio.open_nursery() as nursery:
                    for _ in range(8):
                        nursery.start_soon(engine.read, {LANE: "0-0"}, 60)
                    await engine.present(LANE)
                    nursery.cancel_scope.cancel()
            with trio.fail_after(WITHIN):
                assert (await engine.present(LANE)).n == 0


async def test_without_a_server_or_its_password_there_is_no_answer() -> None:
    with running("valkey", "--requirepass", "right") as server:
        for userinfo, said in (("", "refuses us"), (":wrong@", "refuses us"), (":right@", "")):
            async with open_engine(server.url.replace("//", f"//{userinfo}"), "p", Kept(), patience=30) as engine:
                if not said:
                    assert await engine.check(8) == 8
                    continue
                with pytest.raises(EngineAway, match=said) as caught:
                    await engine.check(8)
                assert "wrong" not in str(caught.value).replace("WRONGPASS", "").replace("wrong number", "")
        url = server.url
    async with open_engine(url, "p", Kept(), patience=30) as engine:
        with pytest.raises(EngineAway):
            await engine.check(8)


@pytest.mark.parametrize("name", sorted(programs()))
async def test_a_server_of_a_cluster_is_refused(name: str) -> None:
    bus = str(free_port())  # by itself it takes one 10,000 above the other, which may be none
    with running(name, "--cluster-enabled", "yes", "--cluster-port", bus) as server:
        async with open_engine(server.url, "p", Kept(), patience=30) as engine:
            with pytest.raises(EngineUnfit, match="one of a cluster"):
                await engine.check(8)


HELLO = b"%3\r\n+version\r\n+6.0.16\r\n+proto\r\n:3\r\n+id\r\n:1\r\n"


@pytest.mark.parametrize(
    ("hello", "info", "reason"),
    [
        pytest.param(
            b"-ERR unknown command `HELLO`, with args beginning with: `3`\r\n", b"", "older than Redis 6", id="5"
        ),
        pytest.param(
            *(HELLO, b"# Server\r\nredis_version:6.0.16\r\n\r\n# Memory\r\nmaxmemory_policy:noeviction\r\n"),
            r"speaks Redis 6\.0\.16: 6\.2 or newer is needed",
            id="6.0",
        ),
        pytest.param(HELLO, b"# Server\r\nredis_version:7.0.0\r\n", "nor how it is set up", id="something else"),
        pytest.param(HELLO, b"", "does not say that it is a Redis", id="something else that says nothing"),
    ],
)
async def test_a_server_that_is_another_is_refused_in_one_line(hello: bytes, info: bytes, reason: str) -> None:
    answers = {b"HELLO": hello, b"SELECT": b"+OK\r\n", b"INFO": b"$%d\r\n%b\r\n" % (len(info), info)}

    async def other(stream: trio.SocketStream) -> None:
        while asked := await stream.receive_some():
            lines = asked.split(b"\r\n")
            if b"INFO" in lines and b"*1" not in lines:
                await stream.send_all(b"-ERR syntax error\r\n")  # before 7.0 there is one section or all
                continue
            for line in lines:
                await stream.send_all(answers.get(line, b""))

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, other, listeners)
        url = f"redis://127.0.0.1:{listeners[0].socket.getsockname()[1]}/0"
        async with open_engine(url, "p", Kept(), patience=30) as engine:
            with pytest.raises(EngineUnfit, match=reason):
                await engine.check(8)
        nursery.cancel_scope.cancel()


async def test_a_server_that_keeps_nothing_is_used_and_told_of(server: Server) -> None:
    with structlog.testing.capture_logs() as logs:
        async with open_engine(server.url, "kept", Kept(), patience=30) as engine:
            assert await engine.check(8) == 8
            await engine._client.config_set({"appendonly": "yes"})
            try:
                await engine.check(8)
            finally:
                await engine._client.config_set({"appendonly": "no"})
    assert [entry["event"] for entry in logs] == ["engine.keeps_nothing"]


async def test_no_answer_in_time_is_no_answer() -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, silent, listeners)
        url = f"redis://127.0.0.1:{listeners[0].socket.getsockname()[1]}/0"
        async with open_engine(url, "p", Kept(), patience=0.05) as engine:
            with pytest.raises(EngineAway):
                await engine.present(LANE)
        nursery.cancel_scope.cancel()
