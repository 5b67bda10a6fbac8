"""Rows of the archive as files that other programs load: CSV, NDJSON, Parquet, Arrow. Bytes out, no I/O.

Columns are the fields of the REST answers, in their order. Parquet and Arrow need pyarrow, which is an extra: it is
imported where it is used and nowhere else.
"""

import csv
import importlib.util
import io
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import msgspec

from actors.archive.series import EVENTS, FIELDS, ArchiveKind, Row, Series, event_of, from_us

_ROWS = 20_000
_ARROW_ROWS = 65_536  # one row group, or record batch


class Encoder(Protocol):
    """Makes one file, piece by piece; every method returns the bytes that are ready."""

    def begin(self) -> bytes: ...
    def rows(self, series: Series, rows: Sequence[Row]) -> bytes: ...
    def end(self) -> bytes: ...


class Csv:
    """With a header. Times are ISO 8601 in UTC with microseconds, all alike; what is not known is empty."""

    def __init__(self, kind: ArchiveKind) -> None:
        self._columns = EVENTS[kind].__struct_fields__

    def begin(self) -> bytes:
        return ",".join(self._columns).encode() + b"\r\n"

    def rows(self, series: Series, rows: Sequence[Row]) -> bytes:
        text = io.StringIO()
        columns = _columns_of(series, rows)
        csv.writer(text).writerows(zip(*(map(cell, columns[name]) for name in self._columns), strict=True))
        return text.getvalue().encode()

    def end(self) -> bytes:
        return b""


def cell(value: Any) -> Any:
    """A value as the csv module should write it."""
    match value:
        case bool():
            return "true" if value else "false"
        case datetime():
            return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return value  # csv writes a float as repr does, and None as nothing


class Ndjson:
    """One object per line, as REST gives them."""

    def __init__(self, kind: ArchiveKind) -> None:
        self._encode = msgspec.json.Encoder().encode_lines

    def begin(self) -> bytes:
        return b""

    def rows(self, series: Series, rows: Sequence[Row]) -> bytes:
        return self._encode([event_of(series, row) for row in rows])

    def end(self) -> bytes:
        return b""


class Arrow:
    """Parquet, or Arrow's file format (Feather). Trade ids are text: some exchanges have numbers, some have none."""

    def __init__(self, kind: ArchiveKind, *, parquet: bool) -> None:
        import pyarrow

        self._pa = pyarrow
        self._schema = pyarrow.schema(
            [(field.name, self._type(field.type)) for field in msgspec.structs.fields(EVENTS[kind])]
        )
        self._sink = _Sink()
        if parquet:
            from pyarrow import parquet as pq

            self._writer: Any = pq.ParquetWriter(self._sink, self._schema, compression="zstd")
        else:
            self._writer = pyarrow.ipc.new_file(self._sink, self._schema)

    def _type(self, kind: Any) -> Any:
        if kind is datetime:
            return self._pa.timestamp("us", tz="UTC")
        simple = {bool: self._pa.bool_(), float: self._pa.float64(), float | None: self._pa.float64()}
        return simple.get(kind) or (self._pa.int64() if kind == int | None else self._pa.string())

    def begin(self) -> bytes:
        return self._sink.take()

    def rows(self, series: Series, rows: Sequence[Row]) -> bytes:
        columns = _columns_of(series, rows)
        if "trade_id" in columns:
            columns["trade_id"] = [str(value) for value in columns["trade_id"]]
        arrays = [self._pa.array(columns[field.name], field.type) for field in self._schema]
        self._writer.write_table(self._pa.Table.from_arrays(arrays, schema=self._schema))
        return self._sink.take()

    def end(self) -> bytes:
        self._writer.close()
        return self._sink.take()


class _Sink(io.RawIOBase):
    """Where pyarrow writes; what it wrote is taken away piece by piece."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._written += len(piece)
        return len(piece)

    def take(self) -> bytes:
        taken, self._pieces = b"".join(self._pieces), []
        return taken


def _columns_of(series: Series, rows: Sequence[Row]) -> dict[str, Sequence[Any]]:
    """The values of each field of the events that the rows were made of."""
    time, *values = zip(*rows, strict=True)
    columns: dict[str, Sequence[Any]] = dict(zip(FIELDS[series.kind], values, strict=False))
    columns["timestamp"] = [from_us(value) for value in time]
    for name in {"funding_time"} & columns.keys():
        columns[name] = [from_us(value) for value in columns[name]]
    for name in {"is_buyer_maker", "partial"} & columns.keys():
        columns[name] = [bool(value) for value in columns[name]]
    constants = {"exchange": series.exchange, "symbol": series.symbol, "interval": series.interval, "is_closed": True}
    return {**{name: [value] * len(rows) for name, value in constants.items()}, **columns}


class Format(NamedTuple):
    suffix: str
    content_type: str
    encoder: Callable[[ArchiveKind], Encoder]
    chunk: int  # rows at a time
    needs: str | None = None  # a module of the extra


FORMATS = {
    "csv": Format("csv", "text/csv; charset=utf-8", Csv, _ROWS),
    "ndjson": Format("ndjson", "application/x-ndjson", Ndjson, _ROWS),
    "parquet": Format(
        *("parquet", "application/vnd.apache.parquet", lambda kind: Arrow(kind, parquet=True), _ARROW_ROWS, "pyarrow"),
    ),
    "arrow": Format(
        *("arrow", "application/vnd.apache.arrow.file", lambda kind: Arrow(kind, parquet=False)),
        *(_ARROW_ROWS, "pyarrow"),
    ),
}


def missing(format: str) -> str | None:
    """Why a format cannot be written here; None: it can."""
    needs = FORMATS[format].needs
    if needs is None or importlib.util.find_spec(needs) is not None:
        return None
    return f"{format} needs {needs}, which is not installed: pip install 'marketd[arrow]'"


def file_name(kind: str, exchange: str | None, symbol: str | None, interval: str | None, format: str) -> str:
    """A name that no file system minds, whatever an exchange calls its symbols."""
    parts = [kind, *filter(None, (exchange, symbol, interval))]
    return "-".join(re.sub(r"[^A-Za-z0-9_]", "_", part) for part in parts) + f".{FORMATS[format].suffix}"
