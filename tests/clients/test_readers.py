"""What reads tables and files by URL, by the README's lines as they stand there but for the address.

pandas and Polars come with `dev`; DuckDB and its extension for HTTP, which is loaded by its path, with `clients`.
"""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.clients.servers import demo
from tests.patience import WITHIN

ROOT = Path(__file__).parents[2]
LINES: dict[str, str] = dict(re.findall(r"^\| (\w+) \| `(.*?)`", (ROOT / "web/README.md").read_text(), re.MULTILINE))
CONFIG = """
[streams]
intervals = ["1m"]
[oi_vol]
timeframes = []
[archive]
path = "ARCHIVE"
[exchanges.binance]
symbols = ["BTCUSDT"]
[exchanges.bybit]
enabled = false
[exchanges.hyperliquid]
enabled = false
[exchanges.okx]
enabled = false
"""
PRICES = ["open", "high", "low", "close", "volume"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with demo(CONFIG) as base, httpx.Client(base_url=base, timeout=WITHIN) as client:
        for _ in range(600):
            if client.get("/export/ohlc.csv", params={"interval": "1m", "limit": 5}).text.count("\r\n") == 6:
                break
        yield base


def line(tool: str, url: str) -> str:
    return LINES[tool].replace("http://127.0.0.1:8000", url)


def exported(url: str) -> list[dict[str, Any]]:
    """The newest closed bars of the archive, by its own route."""
    text = httpx.get(f"{url}/export/ohlc.ndjson?interval=1m&symbol=BTCUSDT", timeout=30).text
    return [msgspec.json.decode(row) for row in text.splitlines()]


def test_pandas_reads_the_newest_bars(url: str) -> None:
    pandas = pytest.importorskip("pandas")
    frame = eval(line("pandas", url), {"pd": pandas})
    assert str(frame.index.dtype).startswith("datetime64")
    assert frame.index.is_monotonic_increasing
    assert len(frame) >= 500
    assert (frame["high"] >= frame["low"]).all()


def test_polars_scans_a_file_in_parts(url: str) -> None:
    polars = pytest.importorskip("polars")
    found = eval(line("Polars", url), {"pl": polars}).filter(polars.col("volume") > 0).select(PRICES).tail(50).collect()
    told = [tuple(row[name] for name in PRICES) for row in exported(url)]
    newest = told.index(found.rows()[-1]) + 1
    assert found.rows() == told[newest - 50 : newest]
    assert newest >= len(told) - 1  # a minute may have ended meanwhile


@pytest.fixture(scope="module")
def duck() -> Iterator[Any]:
    duckdb = pytest.importorskip("duckdb")
    try:
        named = files("duckdb-ext-httpfs") or []
    except PackageNotFoundError:
        pytest.skip("duckdb-ext-httpfs, which carries DuckDB's extension for HTTP, is not installed")
    extension = next(file.locate() for file in named if file.name == "httpfs.duckdb_extension")
    with duckdb.connect(config={"allow_unsigned_extensions": "true"}) as connection:
        connection.execute(f"LOAD '{extension}'")
        yield connection


def test_duckdb_reads_parquet_csv_and_ndjson(duck: Any, url: str) -> None:
    rows = exported(url)
    (found,) = duck.sql(f"SELECT count(*) AS n FROM ({line('DuckDB', url)})").fetchall()
    assert found[0] >= len(rows)
    wanted = [tuple(row[name] for name in PRICES) for row in rows[-50:]]
    asked = f"interval=1m&symbol=BTCUSDT&end_time={rows[-1]['timestamp']}"
    for reader, suffix in (("read_parquet", "parquet"), ("read_csv", "csv"), ("read_json", "ndjson")):
        source = f"{reader}('{url}/export/ohlc.{suffix}?{asked}')"
        query = f"SELECT {', '.join(PRICES)} FROM {source} ORDER BY timestamp DESC LIMIT 50"
        read = [tuple(float(value) for value in row) for row in duck.execute(query).fetchall()][::-1]
        assert read[-40:] == wanted[-41:-1], suffix  # the end is exclusive
    table = duck.execute(f"SELECT * FROM read_csv('{url}/binance/funding-hist/BTCUSDT?format=csv')")
    assert [column[0] for column in table.description][:3] == ["exchange", "symbol", "timestamp"]
