"""The file format of recordings: all that came from the exchanges and what was sent to them, in order, with times.

A recording is one or more files (parts), each a gzip stream of records. A record is its length in four bytes, big
endian, and that many bytes of MessagePack: an array of the record's tag and its fields, in the order of the structs
below. The first record of every part is a `Begin`. Times are Unix microseconds by the recording machine's clock. The
stream is flushed after every batch, so a file that was cut off anywhere is readable up to the cut.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from actors.decoding import UNREADABLE

VERSION = 1
GZIP = 31  # zlib's number for its largest window and gzip's envelope
CHUNK = 64 << 10  # bytes read at once
YEAR_9999 = 253_402_300_799_999_999
RECORD_MAX = 256 << 20  # bytes; more than the largest answer: anything longer is no record


Microseconds = Annotated[int, Meta(ge=0, le=YEAR_9999)]


class Record(Struct, frozen=True, array_like=True, gc=False):
    """`at`: when it came, or was done."""

    at: Microseconds


class Begin(Record, tag="begin", frozen=True, array_like=True):
    """The beginning of part `part` (1 is the first) of the recording `run`.

    `config`: what the daemon was configured to collect. `is_complete`: every answer that the daemon was given is here;
    a capture by another program may lack what this one asks for.
    """

    version: int
    run: str
    part: int
    config: dict[str, Any]
    is_complete: bool = True


class Up(Record, tag="up", frozen=True, array_like=True):
    """A line's connection was opened; `topics` are what the line carried then."""

    exchange: str
    line: int
    topics: list[str]


class Frame(Record, tag="f", frozen=True, array_like=True):
    """A WebSocket message as the line got it; `is_str` where it got a str and not bytes."""

    exchange: str
    line: int
    data: bytes
    is_str: bool


class Sent(Record, tag="sent", frozen=True, array_like=True):
    """A WebSocket message of the line's."""

    exchange: str
    line: int
    text: str


class Closed(Record, tag="closed", frozen=True, array_like=True):
    """The exchange ended the connection, with this close code or (None) without any."""

    exchange: str
    line: int
    code: int | None
    reason: str


class Down(Record, tag="down", frozen=True, array_like=True):
    """The line's connection is over, or (not `was_up`) an attempt failed. No reason: it was not wanted any more."""

    exchange: str
    line: int
    was_up: bool
    reason: str | None


class Asked(Record, frozen=True, array_like=True):
    """A REST request. `at` is when its answer was complete; `query` is encoded as in a URL."""

    exchange: str
    asked_at: Microseconds
    method: str
    path: str
    query: str
    question: bytes


class Answered(Asked, tag="answer", frozen=True, array_like=True):
    """And its answer: any status at all, and the headers that may matter, in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Failed(Asked, tag="failure", frozen=True, array_like=True):
    """And why there is no answer; `error` is the name of an exception (see rest.FAILURES)."""

    error: str
    text: str


class Lost(Record, tag="lost", frozen=True, array_like=True):
    """So many records could not be written here."""

    records: int


AnyRecord = Begin | Up | Frame | Sent | Closed | Down | Answered | Failed | Lost

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(AnyRecord).decode


class BadRecording(Exception):
    """str() says which file, where in it, and what is wrong."""


def encoded(record: AnyRecord) -> bytes:
    """A record as it stands in a file, before compression."""
    body = _encode(record)
    return len(body).to_bytes(4, "big") + body


def read(path: Path) -> Iterator[AnyRecord]:
    """The records of one file up to where it was cut off. Raises BadRecording."""
    buffer, at, offset = bytearray(), 0, 0  # `offset` counts the bytes before the buffer
    for data in _decompressed(path):
        buffer += data
        while len(buffer) - at >= 4:
            end = at + 4 + int.from_bytes(buffer[at : at + 4], "big")
            if end - at > RECORD_MAX:
                raise BadRecording(f"{path}: no record at byte {offset + at} of what it holds")
            if end > len(buffer):
                break
            try:
                record = _decode(memoryview(buffer)[at + 4 : end])
            except UNREADABLE as error:
                raise BadRecording(f"{path}: no record at byte {offset + at} of what it holds: {error}") from None
            at = end
            yield record
        del buffer[:at]
        offset, at = offset + at, 0


def _decompressed(path: Path) -> Iterator[bytes]:
    """What a file holds; members of gzip may follow each other, and the last one may lack its end."""
    try:
        with path.open("rb") as file:
            inflate = zlib.decompressobj(GZIP)
            while data := file.read(CHUNK):
                while data:
                    yield inflate.decompress(data)
                    data = inflate.unused_data
                    if inflate.eof:
                        inflate = zlib.decompressobj(GZIP)
    except zlib.error as error:
        raise BadRecording(f"{path}: not gzip, or damaged: {error}") from None
    except OSError as error:
        raise BadRecording(f"{path}: cannot be read: {error.strerror}") from None


def begin_of(path: Path) -> Begin:
    """The first record of a file. Raises BadRecording."""
    first = next(read(path), None)
    if not isinstance(first, Begin):
        raise BadRecording(f"{path}: holds no recording")
    if first.version != VERSION:
        raise BadRecording(f"{path}: is of version {first.version}, only version {VERSION} can be read")
    return first


class Recording:
    """The parts of one recording, in order. Raises BadRecording where they are not all of one, from the first on."""

    def __init__(self, paths: Iterable[Path]) -> None:
        begins: Mapping[Path, Begin] = {path: begin_of(path) for path in paths}
        self._paths = sorted(begins, key=lambda path: begins[path].part)
        if not self._paths:
            raise BadRecording("there is no file to replay")
        self.begin = begins[self._paths[0]]
        for number, path in enumerate(self._paths, start=1):
            if begins[path].run != self.begin.run:
                raise BadRecording(f"{path}: is of another recording than {self._paths[0]}")
            if begins[path].part != number:
                # Without the start there is no catalogue, and nothing to make of the rest.
                raise BadRecording(f"{path}: is part {begins[path].part}, and part {number} is not given")

    def records(self) -> Iterator[AnyRecord]:
        """Everything but the beginnings."""
        for path in self._paths:
            yield from (record for record in read(path) if not isinstance(record, Begin))
