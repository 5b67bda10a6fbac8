"""Kafka, and whatever speaks its protocol. The only module that knows confluent-kafka, whose own threads do the I/O.

One request is under way to a broker at a time: a batch that is sent again is never behind a later one, so rows of one
key stay in order without the rights and the state on the broker that an idempotent producer needs.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from actors.sinks.rows import Failed, Row, WritingOver

AT_ONCE = 20_000  # rows that the client may have
FINAL = frozenset({"MSG_SIZE_TOO_LARGE", "INVALID_MSG", "INVALID_MSG_SIZE", "INVALID_RECORD"})
"""Errors that say that a row is not taken, whenever it is offered."""
DOWN = frozenset({"_ALL_BROKERS_DOWN", "_AUTHENTICATION", "_SSL", "_RESOLVE"})

DEFAULTS: Mapping[str, object] = {
    "client.id": "marketd",
    "acks": "all",
    "max.in.flight.requests.per.connection": 1,
    "message.timeout.ms": 0,  # a row is given up by nobody but us
    "topic.metadata.propagation.max.ms": 5_000,  # a topic that is not there is said so then, and asked for again
    "linger.ms": 5,
    "batch.size": 262_144,  # bytes: one that is larger than a broker takes would be refused with all its rows
    "queue.buffering.max.messages": AT_ONCE,
    "queue.buffering.max.kbytes": 65_536,
    "compression.type": "lz4",
    "partitioner": "murmur2_random",  # as Java's clients: a key is in the partition where they look for it
    "socket.timeout.ms": 10_000,
    "reconnect.backoff.max.ms": 2_000,
    "statistics.interval.ms": 1_000,  # they say whether a broker is there
}

_MOMENT = re.compile(r" \(after \d+ms in state \w+.*\)\Z")
"""Of each try another one, in what is the same reason."""

_quiet = logging.getLogger("marketd.kafka")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False  # what the client logs is said by its errors too, and those are ours to tell


class BadSettings(Exception):
    """The client cannot be made from the URL: the text says why."""


class _Broker(msgspec.Struct):
    state: str


class _Statistics(msgspec.Struct):
    brokers: dict[str, _Broker] = {}


_statistics = msgspec.json.Decoder(_Statistics)


def settings_of(url: str) -> dict[str, object]:
    """The client's settings of kafka://USER:PASSWORD@HOST:PORT,HOST:PORT?setting=value; kafka+ssl:// is by TLS.

    What stands behind `?` are librdkafka's own names: `sasl.mechanism=SCRAM-SHA-512&ssl.ca.location=/etc/ca.pem`.
    """
    parts = urlsplit(url)
    who, _, hosts = parts.netloc.rpartition("@")
    secure = "ssl" if parts.scheme == "kafka+ssl" else "plaintext"
    settings: dict[str, object] = {**DEFAULTS, "bootstrap.servers": hosts, "security.protocol": secure}
    if who:
        user, _, password = who.partition(":")
        settings |= {"security.protocol": f"sasl_{secure}", "sasl.mechanism": "PLAIN"}
        settings |= {"sasl.username": unquote(user), "sasl.password": unquote(password)}
    return settings | dict(parse_qsl(parts.query))


def check(url: str) -> None:
    """Raises BadSettings. Nobody is asked: the client is made without brokers."""
    try:
        Producer({**settings_of(url), "bootstrap.servers": "", "logger": _quiet})
    except (KafkaException, TypeError, ValueError) as error:
        raise BadSettings(_text_of(error)) from None


def _text_of(error: Exception) -> str:
    if isinstance(error, KafkaException) and isinstance(error.args[0], KafkaError):
        return error.args[0].str()
    return str(error)


class Kafka:
    """A producer; see Writing. Made without waiting: its threads connect."""

    def __init__(self, url: str) -> None:
        self.is_up = False
        self.problem: str | None = None
        self._over: str | None = None
        self._written = 0
        self._failed: list[Failed] = []
        callbacks: dict[str, Any] = {"error_cb": self._on_error, "stats_cb": self._on_statistics, "logger": _quiet}
        self._producer = Producer({**settings_of(url), **callbacks})

    # --- what the client calls, within `poll` ---

    def _on_error(self, error: KafkaError) -> None:
        if self.problem is None or error.name() != "_ALL_BROKERS_DOWN":  # which says less than what is known
            self.problem = _MOMENT.sub("", error.str())
        if error.fatal():
            self._over = error.str()
        if error.name() in DOWN:
            self.is_up = False

    def _on_statistics(self, text: str) -> None:
        self.is_up = any(broker.state == "UP" for broker in _statistics.decode(text).brokers.values())
        if self.is_up:
            self.problem = None

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._written += 1
        else:
            row = Row(message.topic() or "", _bytes(message.key()), _bytes(message.value()))
            self._failed.append(Failed(row, error.str(), error.name() in FINAL))

    # --- what a sink calls ---

    def send(self, row: Row) -> bool:
        try:
            self._producer.produce(row.into, row.value, row.key, on_delivery=self._on_delivery)
        except BufferError:
            return False
        except KafkaException as exception:
            error = exception.args[0]
            if error.name() not in FINAL:  # rows that were sent before it are yet to be refused: it stays behind them
                self.problem, self.is_up = error.str(), False
                return False
            self._failed.append(Failed(row, error.str(), True))
        return True

    def look(self) -> tuple[int, list[Failed]]:
        self._producer.poll(0)
        if self._over is not None:
            raise WritingOver(self._over)
        return self._news()

    def _news(self) -> tuple[int, list[Failed]]:
        written, self._written = self._written, 0
        failed, self._failed = self._failed, []
        return written, failed

    def close(self) -> tuple[int, list[Failed]]:
        self._producer.purge()
        self._producer.flush(1.0)  # which has nothing left to wait for
        self._producer.close()
        return self._news()


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""
