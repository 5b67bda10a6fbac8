"""Every route that answers a list says the same as a table, and pandas reads it as it is."""

import csv
import io
from typing import Any

import msgspec
import pandas
import pytest

from actors.archive.series import EVENTS
from actors.simulation.http import Reply, RestFault
from tests.actors.exchanges.fixtures import EXCHANGES, quick, venues
from tests.daemon.fixtures import MINUTE, Json, World, world

LISTS = {
    "/binance/ohlc/BTCUSDT/1m": "ohlc",
    "/binance/oi-hist/BTCUSDT": "open_interest_history",
    "/binance/funding-hist/BTCUSDT": "funding_history",
    "/binance/liquidations/BTCUSDT": "liquidations",
    "/binance/large_trades/BTCUSDT": "large_trades",
    "/binance/liquidations/BTCUSDT/bars": None,
    "/binance/large_trades/BTCUSDT/bars": None,
    "/symbols": None,
}


async def table(w: Any, path: str, **query: Any) -> tuple[list[str], list[dict[str, str]]]:
    response = await w.client.get(path, params={"format": "csv", **query})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == "inline"
    assert not response.content.startswith(b"\xef\xbb\xbf")
    assert response.content.endswith(b"\r\n")
    reader = csv.DictReader(io.StringIO(response.text, newline=""))
    assert reader.fieldnames is not None
    return list(reader.fieldnames), list(reader)


def text_of(value: Any) -> str:
    """A JSON value as a cell; times have six digits there."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.endswith("Z") and "T" in value:
        head, _, digits = value.removesuffix("Z").partition(".")
        return f"{head}.{digits.ljust(6, '0')}Z"
    return str(value)


async def rows_are_those_of_json(w: World, path: str) -> None:
    columns, rows = await table(w, path)
    told = await w.get(path)
    if kind := LISTS[path]:
        assert columns == list(EVENTS[kind].__struct_fields__)  # type: ignore[index]
    left_out = {"partial": False}  # in JSON, where it is so
    assert [{name: text_of({**left_out, **row}.get(name)) for name in columns} for row in told] == rows
    lines = (await w.client.get(path, params={"format": "ndjson"})).content.splitlines()
    assert [msgspec.json.decode(line) for line in lines] == told


async def test_every_list_is_a_table_of_the_same_rows() -> None:
    async with world() as w:
        await w.pass_time(2 * MINUTE)
        for path in LISTS:
            await rows_are_those_of_json(w, path)


async def test_a_table_without_rows_has_its_header() -> None:
    async with world() as w:
        columns, rows = await table(w, "/binance/ohlc/BTCUSDT/1m", start_time=1000, end_time=2000)
        assert (columns, rows) == (list(EVENTS["ohlc"].__struct_fields__), [])


async def test_the_daemon_itself_as_tables() -> None:
    async with world(rate=5.0) as w:
        columns, (feed,) = await table(w, "/health")
        assert (feed["exchange"], feed["symbol"], feed["state"]) == ("binance", "BTCUSDT", "live")
        columns, topics = await table(w, "/quality")
        assert {"topic", "covered", "lag_p99_ms"} <= set(columns)
        assert any(row["topic"] == "binance:BTCUSDT:ohlc:1m" for row in topics)
        assert await table(w, "/quality/binance/BTCUSDT") is not None
        columns, (exchange,) = await table(w, "/exchanges")
        assert (exchange["name"], exchange["ohlc"], exchange["liquidations"]) == ("binance", "true", "partial")
        assert exchange["symbols"] == "BTCUSDT"


async def test_pandas_reads_times_as_times() -> None:
    async with world() as w:
        query: Json = {"format": "csv", "limit": 3}
        text = (await w.client.get("/binance/ohlc/BTCUSDT/1m", params=query)).text
        frame = pandas.read_csv(io.StringIO(text), parse_dates=["timestamp"])
        assert str(frame["timestamp"].dtype).startswith("datetime64")
        assert len(frame) == 3


@pytest.mark.parametrize("value", ["xml", "CSV", ""])
async def test_another_format_is_refused(value: str) -> None:
    async with world() as w:
        await w.problem("/binance/ohlc/BTCUSDT/1m", 422, "invalid_parameter", format=value)
        response = await w.client.get("/symbols", headers={"Accept": "text/csv"})
        assert response.headers["content-type"] == "application/json", "by the query alone"


async def test_a_table_over_all_exchanges_is_whole_or_not_there() -> None:
    async with venues([quick(exchange) for exchange in EXCHANGES.values()]) as w:
        columns, rows = await table(w, "/multi/ohlc/BTC/1m", limit=2)
        assert [row["exchange"] for row in rows] == [name for name in w.sims for _ in range(2)]
        assert columns == [*EVENTS["ohlc"].__struct_fields__, "multiplier"]
        assert {row["multiplier"] for row in rows} == {""}
        columns, rows = await table(w, "/multi/oi/BTC")
        assert [row["exchange"] for row in rows] == list(w.sims)
        columns, rows = await table(w, "/hyperliquid/predicted-funding", coin="BTC")
        assert columns[:3] == ["coin", "venue", "funding_rate"]
        assert len(rows) > 1

        w.sims["bybit"].faults.rest.append(RestFault(reply=Reply(400, b"{}")))
        query: Json = {"start_time": 1_000_000_000_000, "end_time": 1_000_000_100_000}
        problem = await w.problem("/multi/ohlc/BTC/1m", 502, "upstream_error", format="csv", **query)
        assert "bybit" in problem["detail"]
        assert await table(w, "/multi/ohlc/BTC/1m", partial="1", **query)
