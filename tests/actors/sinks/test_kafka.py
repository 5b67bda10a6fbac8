"""The Kafka client against librdkafka's own mock cluster, which speaks the real protocol on loopback: what is written
is what an ordinary consumer reads. And what a URL says."""

from collections.abc import Iterator
from itertools import count

import msgspec
import pytest
import trio
from confluent_kafka import Producer

from actors.sinks.kafka import BadSettings, Kafka, check, settings_of
from actors.sinks.patterns import parsed
from actors.sinks.rows import Row
from actors.sinks.sink import Sink, SinkSettings
from tests.actors.sinks.brokers import consumed, quiet
from tests.actors.sinks.test_sink import TRADES, tell
from tests.daemon.fixtures import eventually

_names = count()


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The addresses of a cluster of three."""
    host = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 3, "logger": quiet})
    about = host.list_topics(timeout=20)
    yield ",".join(f"{broker.host}:{broker.port}" for broker in about.brokers.values())
    host.close()


@pytest.fixture
def topic() -> str:
    return f"t{next(_names)}"


async def test_a_consumer_reads_all_that_was_said_in_order(cluster: str, topic: str) -> None:
    settings = SinkSettings("k", "kafka", [parsed("*:*:trades")], topic)
    sink = Sink(settings, lambda: Kafka(f"kafka://{cluster}"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run)
        tell(sink, range(30_000))  # more than the client takes at once
        await eventually(lambda: sink.written == 30_000, within=60)
        assert (sink.report().state, sink.pending, sink.dropped) == ("ok", 0, 0)
        tell(sink, range(30_000, 30_010))
        nursery.cancel_scope.cancel()  # and what is said at the end
    rows = await trio.to_thread.run_sync(consumed, cluster, topic)
    assert {key for key, _ in rows} == {str(TRADES).encode()}
    assert [msgspec.json.decode(value)["trade_id"] for _, value in rows] == list(range(30_010))


async def test_one_that_nobody_answers_is_down_and_says_why(topic: str) -> None:
    kafka = Kafka("kafka://127.0.0.1:1")
    try:
        assert kafka.send(Row(topic, b"k", b"v"))

        def is_down() -> bool:
            assert kafka.look() == (0, [])
            return "127.0.0.1:1" in (kafka.problem or "") and not kafka.is_up

        await eventually(is_down, within=30)
    finally:
        written, failed = kafka.close()
    assert (written, [failure.row for failure in failed]) == (0, [Row(topic, b"k", b"v")])


async def test_a_topic_that_is_not_there_is_waited_for_and_the_order_stays(cluster: str, topic: str) -> None:
    url = f"kafka://{cluster}?allow.auto.create.topics=false&topic.metadata.propagation.max.ms=200"
    sink = Sink(SinkSettings("k", "kafka", [parsed("*:*:trades")], topic), lambda: Kafka(url))
    other = Producer({"bootstrap.servers": cluster, "logger": quiet})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run)
        said = 0
        while not (sink.is_failing and said > 50):  # some are refused later, some at once
            tell(sink, [said])
            said += 1
            await trio.sleep(0.01)
        assert sink.report().reason == "Broker: Unknown topic or partition"
        other.list_topics(topic, timeout=20)  # which has it made
        await eventually(lambda: sink.written == said, within=30)
        assert (sink.report().state, sink.dropped) == ("ok", 0)
        nursery.cancel_scope.cancel()
    other.close()
    rows = await trio.to_thread.run_sync(consumed, cluster, topic)
    assert [msgspec.json.decode(value)["trade_id"] for _, value in rows] == list(range(said))


async def test_a_row_that_is_too_long_is_refused_for_good(cluster: str, topic: str) -> None:
    kafka = Kafka(f"kafka://{cluster}?message.max.bytes=2000")
    try:
        assert kafka.send(Row(topic, b"k", b"x" * 3000))
        assert [(failure.reason, failure.is_final) for failure in kafka.look()[1]] == [
            ("Unable to produce message: Broker: Message size too large", True)
        ]
        await eventually(lambda: (kafka.look(), kafka.is_up)[1], within=30)
    finally:
        kafka.close()


def test_a_url_says_who_asks_whom_and_how() -> None:
    url = "kafka+ssl://me:p%40ss:word@a:9093,[::1]:9094?sasl.mechanism=SCRAM-SHA-512&linger.ms=50"
    settings = settings_of(url)
    assert {key: settings[key] for key in ("bootstrap.servers", "security.protocol", "sasl.username")} == {
        "bootstrap.servers": "a:9093,[::1]:9094",
        "security.protocol": "sasl_ssl",
        "sasl.username": "me",
    }
    assert (settings["sasl.password"], settings["sasl.mechanism"]) == ("p@ss:word", "SCRAM-SHA-512")
    assert settings["linger.ms"] == "50"
    assert settings_of("kafka://a:1")["security.protocol"] == "plaintext"
    check(url)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("no.such.thing=1", "No such configuration property"),
        ("linger.ms=soon", "Invalid value for configuration property"),
        ("sasl.mechanism=NONE&security.protocol=SASL_PLAINTEXT", "mechanism"),
        ("ssl.ca.location=/nowhere&security.protocol=SSL", "ssl.ca.location"),
    ],
)
def test_what_the_client_cannot_use_is_said_without_asking_anybody(query: str, said: str) -> None:
    with pytest.raises(BadSettings, match=said) as caught:
        check(f"kafka://me:secret@a:1?{query}")
    assert "secret" not in str(caught.value)
