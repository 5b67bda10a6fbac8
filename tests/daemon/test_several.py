"""Two daemons on one exchange and a real server between them: one numbering, a hand-over, a server that goes."""

import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import pytest
import trio
from trio_websocket import ConnectionRejected, open_websocket_url

from actors.engine.remote import open_engine
from actors.engine.words import Kept, Member
from actors.exchanges.binance import simulator as binance
from actors.simulation.market import Clock, Market
from actors.simulation.server import Simulator
from daemon.dump import dump
from daemon.kinds import ConfigError
from daemon.settings import Config, Engine, OiVol, Streams
from daemon.several import address_of
from tests.actors.engine.servers import Server, running
from tests.daemon.fixtures import START, TWO, Json, Served, Stream, configuration, eventually, fast, serving
from tests.patience import WITHIN
from web.streams import sse, trunk

TOPICS = ["binance:BTCUSDT:trades", "binance:BTCUSDT:ohlc:1m"]
LEASE = 2.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("valkey", "--appendonly", "yes") as server:
        yield server


@asynccontextmanager
async def exchange(rate: float = 2.0) -> AsyncIterator[Simulator]:
    async with trio.open_nursery() as nursery:
        market = Market(assets=TWO, clock=Clock(START, rate=rate))
        yield await nursery.start(partial(binance.serve, market))
        nursery.cancel_scope.cancel()


class Reached(Protocol):
    """What a daemon takes for an exchange."""

    @property
    def rest_url(self) -> str: ...
    @property
    def ws_url(self) -> str: ...


def node(sim: Reached, url: str, name: str, prefix: str, *, symbols: list[str] | None = None, **changes: Any) -> Any:
    settings = {"lease_seconds": LEASE, "lanes": 2, **changes}
    engine = Engine(url=url, name=name, prefix=prefix, **settings)
    return serving(configuration(sim, symbols or ["BTCUSDT"], engine=engine), fast())


def leaders(health: Json) -> dict[str, str]:
    return {lane["name"]: lane["leader"] for lane in health["engine"]["lanes"]}


async def healthy(served: Served) -> Json:
    return await served.health(lambda health: bool(health["status"] == "healthy"), within=30)


def broken(ids: list[int]) -> list[tuple[int, int]]:
    """Where ids do not count up by one."""
    return [(before, after) for before, after in pairwise(ids) if after != before + 1]


def numbered(stream: Stream) -> dict[tuple[str, str, int], Json]:
    return {(frame["topic"], frame["epoch"], frame["seq"]): frame for frame in stream.frames if "seq" in frame}


def trades(stream: Stream) -> list[Json]:
    return stream.of("trade")


async def subscribe(stream: Stream, **more: Any) -> None:
    await stream.say({"op": "subscribe", "topics": TOPICS, **more})


async def test_two_nodes_tell_the_same_and_one_goes_on_for_the_other(server: Server) -> None:
    async with exchange() as sim, node(sim, server.url, "b", "pair") as second:
        async with node(sim, server.url, "a", "pair") as first:
            await healthy(first)
            await healthy(second)
            async with first.stream("/ws") as here, second.stream("/ws") as there:
                await subscribe(here)
                await subscribe(there)
                await eventually(lambda: len(trades(here)) > 4 and len(trades(there)) > 4, within=30)
        # The first node is gone. Its client comes to the other one, and misses nothing.
        left = trades(here)[-1]
        since = {left["topic"]: {"epoch": left["epoch"], "seq": left["seq"]}}
        async with second.stream("/ws") as again:
            await again.say({"op": "subscribe", "topics": [left["topic"]], "since": since})
            await eventually(lambda: len(trades(again)) > 4, within=30)
            told = [trade["seq"] for trade in trades(again)]
            assert told == list(range(left["seq"] + 1, left["seq"] + 1 + len(told)))
            assert again.of("gap") == []
        ids = [trade["trade_id"] for trade in trades(here) + trades(again)]
        assert broken(ids) == []
        same = numbered(here).keys() & numbered(there).keys()
        assert len(same) > 4
        assert all(numbered(here)[number] == numbered(there)[number] for number in same if "trades" in number[0])

        def leads_all(health: Json) -> bool:
            return health["engine"]["state"] == "live" and set(leaders(health).values()) == {"b"}

        engine = (await second.health(leads_all))["engine"]
        assert (engine["role"], engine["name"]) == ("both", "b")


async def test_what_is_over_all_symbols_has_one_numbering_and_goes_on_elsewhere(server: Server) -> None:
    topic = "all:large_trades"
    streams = Streams(intervals=("1m",), large_trade_threshold_usd=1.0)

    def told(stream: Stream) -> list[tuple[str, int]]:
        return [(trade["symbol"], trade["trade_id"]) for trade in stream.of("large_trade")]

    def one(sim: Simulator, name: str, role: Any = "both") -> Any:
        about: Any = {"lease_seconds": LEASE, "lanes": 2, "role": role}  # a symbol in each lane
        engine = Engine(url=server.url, name=name, prefix="all", **about)
        return serving(configuration(sim, ["BTCUSDT", "ETHUSDT"], engine=engine, streams=streams), fast())

    async with exchange() as sim, one(sim, "b") as second:
        async with one(sim, "a") as first, one(sim, "edge", "edge") as edge:
            await healthy(first)
            await healthy(second)
            async with first.stream("/ws") as here, edge.stream("/ws") as there:
                for stream in (here, there):
                    await stream.say({"op": "subscribe", "topics": [topic]})
                    await eventually(lambda: len({symbol for symbol, _ in told(stream)}) == 2, within=30)  # noqa: B023
                known = len(told(here))
                await eventually(lambda: len(told(here)) > known + 4, within=30)
        left = here.of("large_trade")[-1]
        async with second.stream("/ws") as again:
            since = {topic: {"epoch": left["epoch"], "seq": left["seq"]}}
            await again.say({"op": "subscribe", "topics": [topic], "since": since})
            await eventually(lambda: len(told(again)) > 8, within=30)
        seqs = [trade["seq"] for trade in (*here.of("large_trade"), *again.of("large_trade"))]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
        assert again.of("gap") == []
        for symbol in ("BTCUSDT", "ETHUSDT"):
            ids = [id for traded, id in (*told(here), *told(again)) if traded == symbol]
            assert broken(ids) == []
        same = numbered(here).keys() & numbered(there).keys()
        assert len(same) > 4
        assert all(numbered(here)[number] == numbered(there)[number] for number in same)


async def test_lanes_go_to_a_node_that_comes_and_back_where_it_goes_and_nobody_notices(server: Server) -> None:
    both, told = ["BTCUSDT", "ETHUSDT"], "binance:ETHUSDT:trades"  # lane 0, of which "a" is the first
    async with exchange() as sim, node(sim, server.url, "b", "come", symbols=both) as second:
        await healthy(second)
        await second.health(lambda health: set(leaders(health).values()) == {"b"}, within=30)
        async with second.stream("/ws") as stream:
            await stream.say({"op": "subscribe", "topics": [told]})
            async with node(sim, server.url, "a", "come", symbols=both) as first:
                shared = {"binance.0": "a", "binance.1": "b"}
                await second.health(lambda health: leaders(health) == shared, within=30)
                await first.health(lambda health: leaders(health) == shared, within=30)
                known = len(trades(stream))
                await eventually(lambda: len(trades(stream)) > known + 4, within=30)
            await second.health(lambda health: set(leaders(health).values()) == {"b"}, within=30)
            known = len(trades(stream))
            await eventually(lambda: len(trades(stream)) > known + 4, within=30)
            ids = [trade["trade_id"] for trade in trades(stream)]
            assert broken(ids) == []
            seqs = [trade["seq"] for trade in trades(stream)]
            assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
            assert stream.of("gap") == []


async def test_of_more_nodes_than_copies_each_collects_what_it_follows_and_serves_everything(server: Server) -> None:
    both = ["BTCUSDT", "ETHUSDT"]
    about: Any = {"symbols": both, "copies": 1}
    async with exchange() as sim, node(sim, server.url, "a", "few", **about) as first:
        await healthy(first)
        assert collected(await first.get("/health")) == both
        async with node(sim, server.url, "b", "few", **about) as second:
            # Nobody hands over what only one follows: the other one has nothing to do, and serves all there is.
            async with second.stream("/ws/binance/ETHUSDT/trades") as stream:
                await stream.at_least(2, within=30)
            assert collected(await second.get("/health")) == []
            assert (await second.ask("/binance/ohlc/BTCUSDT/1m")).status_code == 200
            first.stop.set()  # and where the one that followed is gone, it takes over
            await second.health(lambda health: collected(health) == both, within=30)


def collected(health: Json) -> list[str]:
    return sorted(feed["symbol"] for feed in health["feeds"])


async def test_a_node_that_only_collects_says_who_serves_streams(server: Server) -> None:
    async with exchange() as sim, node(sim, server.url, "in", "roles", role="ingest") as ingest:
        await healthy(ingest)
        lanes = (await ingest.health(lambda health: set(leaders(health).values()) == {"in"}))["engine"]["lanes"]
        assert {lane["place"] for lane in lanes} == {None}
        async with node(sim, server.url, "out", "roles", role="edge") as edge:
            await healthy(edge)
            told = f"this node serves no streams; nodes that do: {edge.url}"
            with trio.fail_after(WITHIN):
                while (response := await ingest.ask("/sse", topics=TOPICS[0])).json()["detail"] != told:  # noqa: ASYNC110
                    await trio.sleep(0.02)
            assert (response.status_code, response.json()["code"]) == (503, "not_ready")
            for path in ("/ws", "/ws/binance/BTCUSDT/trades", "/ws/all/liquidations", "/ws/oi-vol"):
                with pytest.raises(ConnectionRejected) as caught:
                    await open_websocket_url(ingest.url.replace("http", "ws", 1) + path).__aenter__()
                assert caught.value.status_code == 503
                assert caught.value.body is not None
                assert json.loads(caught.value.body)["detail"] == told
            async with edge.stream("/ws") as stream:
                await stream.say({"op": "subscribe", "topics": ["binance:ETHUSDT:trades"]})
                await eventually(lambda: len(trades(stream)) > 2, within=30)
        for path in ("/binance/ohlc/BTCUSDT/1m", "/as/binance/fapi/v1/klines?symbol=BTCUSDT&interval=1m"):
            assert (await ingest.client.get(path)).status_code == 200
        charts = await ingest.ask("/udf/history", symbol="binance:BTCUSDT", resolution="1", **{"from": 1, "to": 2})
        assert charts.status_code == 200, charts.text
    async with exchange() as sim, node(sim, server.url, "in", "roles", role="ingest") as ingest:
        await healthy(ingest)
        assert (await ingest.ask("/sse", topics=TOPICS[0])).json()["detail"].endswith("none is there")


async def test_a_node_asks_for_its_share_of_what_the_exchange_allows(server: Server) -> None:
    async with exchange() as sim, node(sim, server.url, "a", "share", budget_share=0.25) as served:
        budget = (await healthy(served))["budgets"]["binance"]
        assert {one["name"]: one["limit"] for one in budget["buckets"]} == {
            "weight": 600,
            "futures_data": 250,
            "funding": 125,
        }


async def test_what_whoever_collects_has_no_room_for_is_refused_wherever_it_is_asked_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (trunk, sse):  # on a busy machine whoever collects may be asked later than clients wait for that
        monkeypatch.setattr(module, "COLLECTED_WITHIN", WITHIN)
    engine: Any = {"url": server.url, "prefix": "room", "lease_seconds": LEASE, "lanes": 2}

    def one(sim: Simulator, **about: Any) -> Any:
        return serving(configuration(sim, ["BTCUSDT"], engine=Engine(**engine | about)), fast(subscriptions=5))

    async with exchange() as sim, one(sim, name="a") as both, one(sim, name="e", role="edge") as edge:
        await healthy(both)
        await healthy(edge)
        known = "binance allows 5 subscriptions in all"
        for served in (both, edge):
            async with served.stream("/ws") as stream:
                await stream.say({"op": "subscribe", "id": 7, "topics": ["binance:ETHUSDT:trades", TOPICS[0]]})
                await eventually(lambda: stream.of("error") and len(trades(stream)) > 2, within=30)
                [error] = stream.of("error")
                assert (error["code"], error["id"], error["topic"]) == ("upstream_limited", 7, "binance:ETHUSDT:trades")
                assert known in error["detail"]
                assert {trade["symbol"] for trade in trades(stream)} == {"BTCUSDT"}
            async with served.stream("/ws/binance/ETHUSDT/ohlc?interval=1m") as stream:
                await eventually(lambda: stream.of("error"), within=30)
                assert stream.of("error")[0]["code"] == "upstream_limited"
            response = await served.ask("/sse", topics="binance:ETHUSDT:trades")
            assert (response.status_code, response.json()["code"]) == (503, "upstream_limited")
        assert collected(await both.get("/health")) == ["BTCUSDT"]


async def test_spikes_are_looked_for_in_what_is_collected(server: Server) -> None:
    about: Any = {"streams": Streams(intervals=("1m",)), "oi_vol": OiVol(timeframes=("5m",))}
    engine = Engine(url=server.url, name="a", prefix="spikes", lease_seconds=LEASE, lanes=2)
    async with exchange() as sim, serving(configuration(sim, ["BTCUSDT"], engine=engine, **about), fast()) as served:
        await healthy(served)
        with trio.fail_after(WITHIN):
            while ":5m" not in (await served.client.get("/quality/binance/BTCUSDT")).text:  # noqa: ASYNC110 (no event)
                await trio.sleep(0.02)


async def test_a_server_that_goes_is_told_of_and_nothing_is_lost_when_it_comes_back() -> None:
    with running("valkey", "--appendonly", "yes") as server:
        async with exchange() as sim, node(sim, server.url, "a", "away") as served:
            await healthy(served)
            async with served.stream("/ws") as stream:
                await subscribe(stream)
                await eventually(lambda: len(trades(stream)) > 2, within=30)
                server.kill()
                gone = {"state": "away", "reason": "no connection to the server"}
                away = await served.health(lambda health: health["engine"].items() >= gone.items())
                assert away["status"] == "degraded"
                assert {(feed["state"], feed["reason"]) for feed in away["feeds"]} == {("down", "the engine is away")}
                assert away["exchanges"] == {"binance": False}
                response = await served.ask("/health/ready")
                assert response.status_code == 503
                assert response.json()["reasons"] == {"binance": "the engine is away"}
                known = len(trades(stream))
                await eventually(lambda: ("down", "the engine is away") in states(stream), within=30)
                server.start()
                await healthy(served)
                await eventually(lambda: len(trades(stream)) > known + 4, within=30)
                ids = [trade["trade_id"] for trade in trades(stream)]
                assert broken(ids) == []
                assert stream.of("gap") == []
            metrics = (await served.client.get("/metrics")).text
            assert "marketd_engine_up 1.0" in metrics


def states(stream: Stream) -> list[tuple[str, str | None]]:
    return [(status["state"], status["reason"]) for status in stream.of("status")]


async def test_a_topic_that_only_a_client_wants_is_told_by_whoever_leads_it(server: Server) -> None:
    async with exchange() as sim, node(sim, server.url, "a", "want") as first:
        await healthy(first)
        async with node(sim, server.url, "b", "want") as second:
            await healthy(second)
            async with second.stream("/ws/binance/ETHUSDT/trades") as stream:
                await stream.at_least(1, within=30)
                assert {feed["symbol"] for feed in (await first.get("/health"))["feeds"]} == {"BTCUSDT", "ETHUSDT"}


async def test_a_node_is_known_to_others_until_it_stops(server: Server) -> None:
    async with exchange() as sim, open_engine(server.url, "there", Kept()) as engine:
        async with (
            node(sim, server.url, "a", "there") as first,
            node(sim, server.url, "b", "there", address="http://b"),
        ):
            with trio.fail_after(WITHIN):
                while len(found := await engine.members()) < 2:  # noqa: ASYNC110 (on a server)
                    await trio.sleep(0.02)
            told = [(member.name, member.role, member.address) for member in found]
            assert told == [("a", "both", first.url), ("b", "both", "http://b")]
        assert list(await engine.members()) == []


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("https://10.0.0.5:8443", "https://10.0.0.5:8443"),
        ("http://0.0.0.0:8000", f"http://{socket.gethostname()}:8000"),
        ("https://[::]:8443", f"https://{socket.gethostname()}:8443"),
        ("unix:/run/marketd.sock", ""),
    ],
)
def test_others_reach_a_node_where_it_listens(url: str, address: str) -> None:
    assert address_of(url) == address


def wrong(error: pytest.ExceptionInfo[BaseException]) -> str:
    found: BaseException | None = error.value
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, ConfigError)
    return str(found)


async def test_a_server_that_cannot_be_used_ends_the_daemon_with_one_line(server: Server) -> None:
    async with exchange() as sim:
        async with node(sim, server.url, "a", "lanes") as served:
            await healthy(served)
        with pytest.raises(BaseExceptionGroup) as caught:
            async with node(sim, server.url, "b", "lanes", lanes=3) as served:
                await trio.sleep(30)
        assert wrong(caught) == "engine.lanes: the engine was set up with 2 lanes, not 3"
        async with open_engine(server.url, "lanes", Kept()) as engine:
            await engine.announce(Member(name="a", role="both", address="http://elsewhere"), 60)
            with pytest.raises(BaseExceptionGroup) as caught:
                async with node(sim, server.url, "a", "lanes", lease_seconds=1.0):
                    await trio.sleep(30)
            assert wrong(caught) == "engine.name: another node is called a: http://elsewhere"
    with running("valkey", "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru") as forgetful:
        async with exchange() as sim:
            with pytest.raises(BaseExceptionGroup) as caught:
                async with node(sim, forgetful.url, "a", "policy") as served:
                    await trio.sleep(30)
            assert "engine.url: the server's maxmemory-policy is allkeys-lru" in wrong(caught)


async def test_a_server_that_is_not_there_is_a_state_and_the_exchange_is_served_by_rest() -> None:
    with running("valkey") as server:
        url = server.url
    async with exchange() as sim, node(sim, url, "a", "none") as served:
        health = await served.health(lambda health: bool(health["engine"]["state"] == "away"), within=30)
        assert health["status"] == "degraded"
        with trio.fail_after(WITHIN):
            while (await served.ask("/binance/ohlc/BTCUSDT/1m")).status_code != 200:  # noqa: ASYNC110 (no event)
                await trio.sleep(0.02)


def test_one_machine_alone_never_imports_what_several_need() -> None:
    code = (
        "import sys, trio, msgspec\n"
        "from daemon.several import open_node\n"
        "from daemon.sinks import open_sinks\n"
        "from daemon.settings import Config\n"
        "assert open_sinks(Config(exchanges={})) is None\n"
        "async def main():\n"
        "    async with open_node(Config(exchanges={}), [], None, '') as node:\n"
        "        assert node is None\n"
        "import daemon.__main__\n"
        "trio.run(main)\n"
        "sys.exit(sorted({'coredis', 'beartype', 'confluent_kafka'} & set(sys.modules)) != [])\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_its_password_and_an_edge_s_key_are_not_shown() -> None:
    config = Config(engine=Engine(url="redis://:secret@10.0.0.5:6379/0", token="mk_secret"), exchanges={})
    assert "secret" not in dump(config)
    assert 'token = "***"' in dump(config)
    assert 'url = "redis://***@10.0.0.5:6379/0"' in dump(config)
