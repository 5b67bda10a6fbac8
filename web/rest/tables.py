"""Answers as tables, for programs that load by URL: CSV, or one JSON object per line.

Columns are the fields of the rows, in their order, as `/export` has them. A table cannot say what is missing: where an
exchange had no answer, there is none at all unless it is asked for.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Struct, structs

from actors.errors import UpstreamError
from actors.events import PredictedFunding
from web.rest.formats import FORMATS, cell
from web.rest.state import ExchangesAnswer, FeedQuality, Health

_encode_lines = msgspec.json.Encoder().encode_lines

Row = dict[str, Any] | Struct


class Table(NamedTuple):
    columns: Sequence[str]
    rows: Iterable[Row]


def write(kind: Any, answer: Any, form: str) -> tuple[str, bytes]:
    """(content type, file) of an answer of the type `kind`. Raises UpstreamError where a part of it is missing."""
    table = _table(kind, answer)
    content_type = FORMATS[form].content_type
    if form == "ndjson":
        return content_type, _encode_lines(list(table.rows))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(table.columns)
    writer.writerows([cell(_value(row, name)) for name in table.columns] for row in table.rows)
    return content_type, text.getvalue().encode()


def _value(row: Row, name: str) -> Any:
    return row[name] if isinstance(row, dict) else getattr(row, name, None)  # a row of /multi may say no multiplier


def without_errors(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What the exchanges said that had an answer."""
    return {name: told for name, told in answer.items() if name != "errors"}


def _row_type(kind: Any) -> type[Struct] | None:
    """What the rows of a list are, or those of each exchange."""
    if get_origin(kind) is list:
        (row,) = get_args(kind)
        return row if isinstance(row, type) and issubclass(row, Struct) else None
    if isinstance(kind, type) and issubclass(kind, Struct) and "errors" in kind.__struct_fields__:
        each = structs.fields(kind)[0].type  # a list of rows, or one, or nothing
        (told, *_) = get_args(each)
        return _row_type(told) or (told if isinstance(told, type) and issubclass(told, Struct) else None)
    return None


def _table(kind: Any, answer: Any) -> Table:
    match answer:
        case Health():
            return _of(answer.feeds, _columns(Health, "feeds"))
        case ExchangesAnswer():
            return _exchanges(answer)
        case FeedQuality():
            return _qualities([answer])
    row = _row_type(kind)
    assert row is not None
    if row is FeedQuality:
        return _qualities(answer)
    if row is PredictedFunding:
        return _predictions(answer)
    if isinstance(answer, Mapping):
        if errors := answer.get("errors"):
            failed = "; ".join(f"{name}: {problem.detail}" for name, problem in errors.items())
            raise UpstreamError(f"a table cannot say what is missing (partial=1 asks for the rest): {failed}")
        told = [one for each in answer.values() for one in (each if isinstance(each, list) else [each])]
        return _of(told, row.__struct_fields__)
    return _of(answer, row.__struct_fields__)


def _columns(kind: type[Struct], member: str) -> Sequence[str]:
    (field,) = [field for field in structs.fields(kind) if field.name == member]
    (row,) = get_args(field.type)
    columns: Sequence[str] = row.__struct_fields__
    return columns


def _of(rows: Sequence[Struct], columns: Sequence[str]) -> Table:
    return Table(columns, rows)


def _exchanges(answer: ExchangesAnswer) -> Table:
    """Capabilities are columns; symbols and intervals are joined by spaces."""
    rows = [
        {
            "name": each.name,
            **each.capabilities,
            "symbols": " ".join(each.symbols),
            "intervals": " ".join(each.intervals),
        }
        for each in answer.exchanges
    ]
    known = dict.fromkeys(name for row in rows for name in row)
    columns = [*(name for name in known if name not in ("symbols", "intervals")), "symbols", "intervals"]
    return Table(columns, [{name: row.get(name) for name in columns} for row in rows])


_QUALITY = (
    *("exchange", "symbol", "state", "clock_skew_ms", "topic", "since", "events", "covered", "gaps_repaired"),
    *("gaps_unrepaired", "duplicates", "last_event", "last_event_age", "lag_median_ms", "lag_p99_ms"),
)


def _qualities(feeds: Sequence[FeedQuality]) -> Table:
    """One row per topic; the gaps themselves are in the JSON answer."""
    rows = []
    for feed in feeds:
        for topic in feed.topics:
            lag = {
                "lag_median_ms": topic.lag.median_ms if topic.lag else None,
                "lag_p99_ms": topic.lag.p99_ms if topic.lag else None,
            }
            row = structs.asdict(feed) | structs.asdict(topic) | lag
            rows.append({name: row[name] for name in _QUALITY})
    return Table(_QUALITY, rows)


def _predictions(predictions: Sequence[PredictedFunding]) -> Table:
    columns = ("coin", "venue", "funding_rate", "next_funding_time", "funding_interval_hours")
    rows = [{"coin": one.coin, **structs.asdict(venue)} for one in predictions for venue in one.venues]
    return Table(columns, rows)
