"""The whole daemon and a real broker beside it: a consumer reads what a client of `/ws` was told."""

import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from actors.exchanges.binance import simulator as binance
from actors.simulation.market import Clock, Market
from actors.simulation.server import Simulator
from actors.sinks import sink as module
from daemon.__main__ import main
from daemon.config import load
from daemon.dump import dump
from daemon.kinds import ConfigError
from daemon.reload import difference
from daemon.settings import Config, ExchangeSettings, Sink
from daemon.sinks import check, open_sinks
from tests.actors.sinks.brokers import Broker, consumed, running
from tests.daemon.fixtures import START, TWO, Json, Served, Stream, configuration, eventually, fast, serving

NAMES = {"binance": ExchangeSettings(symbols=("A",), rest_url="https://a", ws_url="wss://a")}
URL = "kafka://me:geheim@10.0.0.1:9092,10.0.0.2:9092?ssl.key.password=geheim"
TOPICS = ["binance:BTCUSDT:trades", "binance:BTCUSDT:ohlc:1m"]


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with running() as broker:
        yield broker


@asynccontextmanager
async def exchange() -> AsyncIterator[Simulator]:
    async with trio.open_nursery() as nursery:
        market = Market(assets=TWO, clock=Clock(START, rate=10.0))
        yield await nursery.start(partial(binance.serve, market))
        nursery.cancel_scope.cancel()


def sink(url: str, **more: Any) -> Sink:
    return Sink(**{"kind": "kafka", "url": url, "topics": ("*:*:trades", "binance:*:ohlc:1m"), **more})


async def subscribed(stream: Stream) -> None:
    await stream.say({"op": "subscribe", "topics": TOPICS})
    await eventually(lambda: len(stream.of("trade")) > 10 and len(stream.of("ohlc")) > 10, within=60)


async def read(broker: Broker, *names: str) -> list[Json]:
    """All rows of topics, and that each is under the key of its own topic."""
    found = []
    for name in names:
        for key, value in await trio.to_thread.run_sync(consumed, broker.address, name):
            found.append(msgspec.json.decode(value))
            assert found[-1]["topic"] == key.decode()
    return found


def told(rows: list[Json], topic: str) -> list[Json]:
    """The events of a topic, without who numbered them."""
    return [{k: v for k, v in row.items() if k != "epoch" and k != "seq"} for row in rows if row["topic"] == topic]


async def written(served: Served) -> Json:
    """Its health once the sink has written all that had come until now."""
    (now,) = (await served.get("/health"))["sinks"]
    come = now["written"] + now["pending"]
    return await served.health(lambda health: bool(health["sinks"][0]["written"] >= come))


async def test_a_consumer_reads_all_that_a_client_was_told_in_its_order(broker: Broker) -> None:
    async with exchange() as sim:
        config = configuration(sim, ["BTCUSDT", "ETHUSDT"], sink=(sink(broker.url, kafka_topic="all-{kind}"),))
        async with serving(config, fast()) as served:
            await served.is_live()
            async with served.stream("/ws") as stream:
                await subscribed(stream)
            (health,) = (await written(served))["sinks"]
            assert (health["name"], health["kind"], health["state"], health["dropped"]) == ("kafka", "kafka", "ok", 0)
            metrics = (await served.client.get("/metrics")).text
            assert 'marketd_sink_up{sink="kafka"} 1.0' in metrics
            assert 'marketd_sink_dropped_total{sink="kafka"} 0.0' in metrics
        rows = await read(broker, "all-trades", "all-ohlc")
        assert {row["topic"] for row in rows} == {*TOPICS, "binance:ETHUSDT:trades", "binance:ETHUSDT:ohlc:1m"}
        for topic in TOPICS:
            here = told([frame for frame in stream.frames if "seq" in frame and frame["topic"] == topic], topic)
            there = told(rows, topic)
            begin = there.index(here[0])
            assert there[begin : begin + len(here)] == here
            seqs = [row["seq"] for row in rows if row["topic"] == topic and "seq" in row]
            assert seqs == list(range(1, len(seqs) + 1))


async def test_a_broker_that_goes_is_told_of_and_nothing_is_lost_when_it_comes_back() -> None:
    """What it had is gone with it; all that was said since then is there."""
    with running() as broker:
        broker.kill()
        async with exchange() as sim:
            config = configuration(sim, ["BTCUSDT"], sink=(sink(broker.url),))
            async with serving(config, fast()) as served:
                away = await served.health(lambda health: bool(health["status"] == "degraded"))
                assert away["sinks"][0]["state"] == "failing"
                assert broker.address in away["sinks"][0]["reason"]
                async with served.stream("/ws") as stream:
                    await subscribed(stream)
                broker.start()
                await served.health(lambda health: bool(health["sinks"][0]["state"] == "ok"))
                (health,) = (await written(served))["sinks"]
                assert health["dropped"] == 0
                broker.send(signal.SIGSTOP)
                await trio.sleep(0.3)
                broker.send(signal.SIGCONT)
            rows = await read(broker, "marketd-trades")
            ids = [row["trade_id"] for row in told(rows, TOPICS[0])]
            assert ids == list(range(ids[0], ids[0] + len(ids)))
            assert ids[0] <= stream.of("trade")[0]["trade_id"]
            assert served.logged("sink.failing")
            assert served.logged("sink.recovered")


async def test_a_stop_does_not_wait_for_a_broker_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAST_WRITE", 0.2)
    async with exchange() as sim:
        config = configuration(sim, ["BTCUSDT"], sink=(sink("kafka://127.0.0.1:1"),))
        async with serving(config, fast()) as served:
            await served.health(lambda health: bool(health["sinks"][0]["pending"]))
        (entry,) = served.logged("sink.not_ended")
        assert entry["pending"] > 0


# --- the configuration


def loaded(text: str, environ: dict[str, str] | None = None) -> Config:
    Path("config.toml").write_text(text)
    return load(None, environ or {}, defaults=NAMES)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


GOOD = f'[[sink]]\nkind = "kafka"\nurl = "{URL}"\ntopics = ["binance:*:trades", "all:liquidations"]\n'


def test_it_is_shown_without_its_secrets_and_loads_again() -> None:
    config = loaded(f'{GOOD}\n[[sink]]\nkind = "kafka"\nname = "b"\nurl = "kafka+ssl://h"\ntopics = ["*:*:ohlc:*"]\n')
    assert [settings.name for settings in config.sink] == ["", "b"]
    shown = dump(config)
    assert "geheim" not in shown
    assert 'url = "kafka://***@10.0.0.1:9092,10.0.0.2:9092?***"' in shown
    assert [settings.topics for settings in loaded(shown).sink] == [settings.topics for settings in config.sink]


def test_the_environment_goes_over_the_file_and_is_enough() -> None:
    config = loaded(GOOD, {"MARKETD_SINK__0__URL": "kafka://other:1"})
    assert config.sink[0].url == "kafka://other:1"
    some = {"KIND": "kafka", "URL": "kafka://h", "TOPICS": "all:liquidations,binance:*:trades", "MIN_VALUE_USD": "5"}
    config = loaded("", {f"MARKETD_SINK__0__{key}": value for key, value in some.items()})
    assert (config.sink[0].topics, config.sink[0].min_value_usd) == (("all:liquidations", "binance:*:trades"), 5.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[sink]]\nkind = "kafka"\n', "config.toml: sink.0: url is missing"),
        ('[sink]\nkind = "kafka"\n', "config.toml: sink: expected tables [[sink]], got a table"),
        ("[[sinks]]\n", 'config.toml: sinks: unknown section (did you mean "sink"?)'),
        (f'{GOOD}topic = "a"\n', 'config.toml: sink.0.topic: unknown key (did you mean "topics"?)'),
        (GOOD.replace('"kafka"', '"redis"'), 'config.toml: sink.0.kind: expected "kafka", got "redis"'),
        (GOOD.replace("kafka://", "redis://"), "sink.0.url: expected a URL with hosts, kafka:// or kafka+ssl://"),
        (GOOD.replace("10.0.0.1:9092,", ","), "sink.0.url: expected a URL with hosts, kafka:// or kafka+ssl://"),
        (GOOD.replace(":trades", ":trade"), "sink.0.topics: expected a list of different topics such as"),
        (GOOD.replace("all:liquidations", "binance:*:trades"), "sink.0.topics: expected a list of different topics"),
        (f'{GOOD}kafka_topic = "a b"\n', "sink.0.kafka_topic: expected a name of letters, digits, dots"),
        (f"{GOOD}min_value_usd = -1\n", "sink.0.min_value_usd: expected a number of at least 0, got -1"),
        (f"{GOOD}{GOOD}", "sink.1.name: another sink is called 'kafka' too"),
        (GOOD.replace("binance:", "binanse:"), "sink.0.topics: 'binanse:*:trades' names no known exchange: binance"),
        (GOOD.replace("?ssl.key", "?ssl.kex"), 'sink.0.url: No such configuration property: "ssl.kex.password"'),
    ],
)
def test_a_mistake_is_one_line_without_secrets(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(loaded(text))
    assert said in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_check_ends_with_78(capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.toml").write_text(GOOD.replace("?ssl.key", "?ssl.kex"))
    assert main(["check"]) == 78
    said = 'marketd: sink.0.url: No such configuration property: "ssl.kex.password"\n'
    assert capsys.readouterr() == ("", said)


def test_others_wait_for_a_restart() -> None:
    config = loaded(GOOD)
    told, merged = difference(config, loaded(GOOD.replace("10.0.0.1", "10.0.0.3")))
    assert (told.changed, told.restart_needed) == ([], ["sink"])
    assert merged == config


def test_without_its_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "actors.sinks.kafka", None)
    monkeypatch.delattr("actors.sinks.kafka", raising=False)
    with pytest.raises(ConfigError, match=r"sink\.0\.kind: needs the extra `kafka` \(pip install 'marketd\[kafka\]'\)"):
        open_sinks(Config(sink=(sink("kafka://h"),), exchanges=NAMES))
