"""Query parameters: a struct per route says names, types, bounds, defaults; `parse` finds all that is wrong at once.

The same structs describe the parameters in the OpenAPI document.
"""

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Literal, Protocol, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import FieldInfo

from actors.errors import BadMessage
from actors.events import from_ms
from web.problems import BadParameter, InvalidParameters

Time = Annotated[datetime, Meta(description="Unix milliseconds, or ISO 8601 (UTC where no offset is given)")]
MinValue = Annotated[float, Meta(ge=0, description="Only events of at least this value, in quote units")]

BatchMs = Annotated[
    int, Meta(ge=0, le=10_000, description="Join what comes within so many milliseconds into one frame, a JSON array")
]
MaxRate = Annotated[
    float,
    Meta(ge=0, le=1000, description="At most so many updates of an open bar a second; 0: all. Closed ones always"),
]
Partial = Annotated[bool, Meta(description="A table of the exchanges that answered, though others did not")]
BarInterval = Literal["1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d"]

WHOLE = re.compile(r"-?[0-9]{1,18}")

T = TypeVar("T", bound=Struct)


class MultiArgs(Protocol):
    """What Quart's `request.args` is, as far as it is used here."""

    def keys(self) -> Iterable[str]: ...
    def getlist(self, key: str) -> list[str]: ...


class SocketQuery(Struct, frozen=True):
    """Of /ws."""

    batch_ms: BatchMs = 0


class NoQuery(Struct, frozen=True):
    pass


class TableQuery(Struct, frozen=True, kw_only=True):
    """Of routes whose answer is a list, or holds one. A table is asked for by the query alone, never by `Accept`."""

    format: Literal["json", "csv", "ndjson"] = "json"


class MultiQuery(TableQuery, frozen=True, kw_only=True):
    """Of all exchanges at once."""

    partial: Partial = False


class OhlcQuery(TableQuery, frozen=True, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=1500)] = 500
    start_time: Time | None = None
    end_time: Time | None = None


class OpenInterestHistoryQuery(TableQuery, frozen=True, kw_only=True):
    period: str = "5m"
    limit: Annotated[int, Meta(ge=1, le=500)] = 30
    start_time: Time | None = None
    end_time: Time | None = None


class FundingHistoryQuery(TableQuery, frozen=True, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    start_time: Time | None = None
    end_time: Time | None = None


class SeenQuery(TableQuery, frozen=True, kw_only=True):
    """Of lists that hold what this daemon saw."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    start_time: Time | None = None
    end_time: Time | None = None
    min_value_usd: MinValue = 0.0


class BarsQuery(TableQuery, frozen=True, kw_only=True):
    """Of sums of what this daemon saw, per bar."""

    interval: BarInterval = "1h"
    limit: Annotated[int, Meta(ge=1, le=1500)] = 500
    start_time: Time | None = None
    end_time: Time | None = None


class MultiOhlcQuery(OhlcQuery, frozen=True, kw_only=True):
    partial: Partial = False


class MultiBarsQuery(BarsQuery, frozen=True, kw_only=True):
    partial: Partial = False


class ExportQuery(Struct, frozen=True):
    """Of files with what the archive holds."""

    exchange: str | None = None
    symbol: str | None = None
    interval: Annotated[str | None, Meta(description="Needed for bars and for open interest per period")] = None
    start_time: Time | None = None
    end_time: Time | None = None
    format: Literal["csv", "ndjson", "parquet", "arrow"] = "csv"
    limit: Annotated[int, Meta(ge=0, description="Only so many rows of each symbol, the newest; 0: all")] = 0


class SymbolsQuery(TableQuery, frozen=True, kw_only=True):
    exchange: str | None = None
    q: Annotated[str, Meta(description="Part of a symbol or base asset, in any case")] = ""


class PredictedFundingQuery(TableQuery, frozen=True, kw_only=True):
    coin: Annotated[str | None, Meta(description="One coin; none: every one")] = None


class StreamQuery(Struct, frozen=True):
    """`status` and `batch_ms` say how a client is told; the others belong to the topic."""

    status: Annotated[bool, Meta(description="Also send `status` and `gap` frames")] = False
    batch_ms: BatchMs = 0


class OhlcStreamQuery(StreamQuery, frozen=True):
    interval: str = "1m"
    max_rate: MaxRate = 0.0


class ValueStreamQuery(StreamQuery, frozen=True):
    min_value_usd: MinValue = 0.0


class SpikeStreamQuery(StreamQuery, frozen=True):
    timeframes: Annotated[str, Meta(description="Comma separated; none: every timeframe that is watched")] = ""


def parse(args: MultiArgs, query: type[T], *, ignore_unknown: bool = False) -> T:
    """The query as its struct. Raises InvalidParameters that names every missing, unknown, repeated or unusable one."""
    fields = _fields(query)
    errors: list[BadParameter] = []
    values: dict[str, Any] = {}
    for name in args.keys():  # noqa: SIM118 - iterating a MultiDict would repeat names
        given = args.getlist(name)
        if name not in fields and ignore_unknown:
            continue
        if name not in fields:
            known = ", ".join(fields) or "none"
            errors.append(BadParameter(name, f"unknown parameter; this route takes: {known}"))
        elif len(given) > 1:
            errors.append(BadParameter(name, "given more than once"))
        else:
            try:
                values[fields[name].name] = _value(given[0], fields[name].type)
            except ValueError as error:
                errors.append(BadParameter(name, f"{error}, got {given[0][:60]!r}"))
    named = {error.parameter for error in errors}
    for name, field in fields.items():
        if field.required and field.name not in values and name not in named:
            errors.append(BadParameter(name, "is needed"))
    start, end = values.get("start_time"), values.get("end_time")
    if start is not None and end is not None and end <= start:
        errors.append(BadParameter("end_time", "must be after start_time"))
    if errors:
        raise InvalidParameters(errors)
    return query(**values)


@cache
def _fields(query: type[Struct]) -> dict[str, FieldInfo]:
    """By the names that clients use; msgspec makes them anew each time."""
    return {field.encode_name: field for field in msgspec.structs.fields(query)}


def _value(text: str, kind: Any) -> Any:
    if kind == Time | None:
        return parse_time(text)
    if kind is str or _unannotated(kind) == str | None:
        return text
    if get_origin(kind) is Literal and text not in get_args(kind):
        raise ValueError(f"must be one of {', '.join(get_args(kind))}")
    if _unannotated(kind) is int and not WHOLE.fullmatch(text):
        raise ValueError("Expected a whole number")  # msgspec would also take 5.0 and 1e3
    try:
        value = msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(str(error).split(", got")[0].replace("`", "")) from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("Expected a finite number")
    return value


def _unannotated(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def parse_time(text: str) -> datetime:
    """Unix milliseconds or ISO 8601; ValueError otherwise."""
    if text.isascii() and text.isdigit():
        try:
            return from_ms(int(text[:20]))
        except BadMessage:
            raise ValueError("Expected a time between 1970 and 9999") from None
    try:
        time = datetime.fromisoformat(text.replace(" ", "+"))  # an unescaped "+01:00" arrives as a space
    except ValueError:
        raise ValueError("Expected Unix milliseconds or an ISO 8601 time") from None
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    try:
        time = time.astimezone(UTC)
    except OverflowError:
        raise ValueError("Expected a time between 1970 and 9999") from None
    if time.year < 1970:
        raise ValueError("Expected a time between 1970 and 9999")
    return time
