"""The archive in the running daemon: after a restart, as files, on the command line, and while the disk fails."""

import importlib.util
import json
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pandas
import polars
import pyarrow.feather
import pyarrow.parquet
import pytest
import trio

from actors.archive import archive as archive_module
from actors.archive.series import Series, Write
from actors.archive.writer import Writer
from actors.exchanges.binance import simulator as binance
from actors.exchanges.exchange import load_exchanges
from actors.simulation.market import Clock, Market
from actors.simulation.server import Simulator
from daemon import backfill
from daemon.__main__ import main as program
from daemon.settings import Archive, Streams
from daemon.supervisor import RestartPolicy
from tests.actors.exchanges.fixtures import Venues, quick, venues
from tests.daemon.fixtures import START, TWO, Json, World, eventually, iso, world
from tests.daemon.test_process import listening
from tests.patience import WITHIN
from web.rest import spool

MINUTE = 60_000


@asynccontextmanager
async def keeping(path: Path, **changes: Any) -> AsyncIterator[World]:
    async with world(archive=Archive(path=str(path / "marketd.db")), **changes) as w:
        yield w


async def seen(w: World, kind: str) -> list[Json]:
    found: list[Json] = await w.get(f"/binance/{kind}/BTCUSDT", limit=1000)
    return found


async def some_trading(w: World) -> None:
    """Large trades and liquidations of both sides, within two minutes."""
    for number in range(6):
        w.sim.market.trade("BTC", side="buy" if number % 3 else "sell", price="84000.10", quantity="3.5")
        w.sim.market.liquidate("BTC", side="sell" if number % 2 else "buy", price="84000.10", quantity="0.25")
        await w.pass_time(20_000)
    await w.settled()


# --- restarts


async def test_what_was_seen_survives_a_restart(tmp_path: Path) -> None:
    async with keeping(tmp_path) as w:
        await some_trading(w)
        before = {kind: await seen(w, kind) for kind in ("liquidations", "large_trades")}
        bars = {kind: await w.get(f"/binance/{kind}/BTCUSDT/bars", interval="1m") for kind in before}
        at = w.now
    assert all(len(rows) >= 6 for rows in before.values())
    async with keeping(tmp_path, start=at + 3 * MINUTE) as w:
        for kind, rows in before.items():
            assert (await seen(w, kind))[: len(rows)] == rows
            assert (await w.get(f"/binance/{kind}/BTCUSDT/bars", interval="1m"))[: len(bars[kind])] == bars[kind]
            part = await w.get(f"/binance/{kind}/BTCUSDT", start_time=rows[2]["timestamp"], limit=2)
            assert part == rows[2:4]
        health = await w.get("/health")
        assert (health["status"], health["archive"]["state"]) == ("healthy", "ok")


async def test_bars_are_sums_of_what_was_seen(tmp_path: Path) -> None:
    async with keeping(tmp_path) as w:
        await some_trading(w)
        events, bars = await seen(w, "liquidations"), await w.get("/binance/liquidations/BTCUSDT/bars", interval="1m")
        several = await w.get("/multi/liquidations/BTC/bars", interval="1m")
        assert several["binance"] == bars
    for bar in bars:
        minute = [event for event in events if event["timestamp"][:16] == bar["timestamp"][:16]]
        assert bar["count"] == len(minute)
        for side, name in (("sell", "long_value"), ("buy", "short_value")):
            assert bar[name] == pytest.approx(sum(event["value"] for event in minute if event["side"] == side))
    assert sum(bar["count"] for bar in bars) == len(events)


async def test_as_many_bars_are_held_as_the_configuration_says(tmp_path: Path) -> None:
    async with keeping(tmp_path, streams=Streams(intervals=("1m",), history=100)) as w:
        await w.until("/binance/ohlc/BTCUSDT/1m", lambda rows: len(rows) == 100, limit=100)
        asked = [served for served in w.sim.requests if served.path.startswith("/fapi/v1/klines")]
        assert max(int(served.query["limit"]) for served in asked) == 100  # the archive asks for what came before, too


async def test_what_is_not_held_comes_from_the_archive_without_asking(tmp_path: Path) -> None:
    """The newest bars from memory, what came before them from the archive; once that has it, no question leaves."""
    path = "/binance/ohlc/BTCUSDT/1m"
    async with keeping(tmp_path, streams=Streams(intervals=("1m",), history=100)) as w:

        def asked() -> list[int]:
            """The limits of all questions for these bars; the spikes of open interest ask for others."""
            served = (one.query for one in w.sim.requests if one.path == "/fapi/v1/klines")
            return [int(query["limit"]) for query in served if query["interval"] == "1m"]

        await w.until(path, lambda rows: len(rows) == 100, limit=100)
        loads = len(asked())
        rows = await w.get(path, limit=300)
        assert asked()[loads:] == [200]  # only what memory lacks
        assert rows == await w.bars(limit=300)
        await w.pass_time(2 * MINUTE)
        await w.settled()
        await w.health(lambda health: health["archive"]["written"] > 300 and not health["archive"]["pending"])
        truth = await w.bars(limit=302)
        at = [row["timestamp"] for row in truth]
        known = len(asked())
        assert await w.get(path, limit=250) == truth[-250:]
        assert await w.get(path, limit=150, end_time=at[-60]) == truth[-210:-60]
        assert await w.get(path, limit=30, start_time=at[190]) == truth[190:220]
        assert await w.get(path, limit=1000, start_time=at[150], end_time=at[-3]) == truth[150:-3]
        assert asked()[known:] == []


async def test_history_is_asked_for_once(tmp_path: Path) -> None:
    """What one daemon fetched, or saw, the next one does not ask for; and it answers the same."""
    since = 1_789_000_000_000
    questions: list[tuple[str, str, dict[str, Any]]] = [
        ("ohlc/BTCUSDT/30m", "/fapi/v1/klines", {"start_time": since, "limit": 500}),
        ("oi-hist/BTCUSDT", "/futures/data/openInterestHist", {"period": "1h", "start_time": since, "limit": 200}),
        ("funding-hist/BTCUSDT", "/fapi/v1/fundingRate", {"start_time": since, "limit": 20}),
    ]
    first: dict[str, Json] = {}
    async with keeping(tmp_path) as w:
        for path, _, query in questions:
            first[path] = await w.get(f"/binance/{path}", **query)
            assert len(first[path]) == query["limit"]
    async with keeping(tmp_path) as w:
        for path, upstream, query in questions:
            assert await w.get(f"/binance/{path}", **query) == first[path]
            fewer = query | {"limit": 7}
            assert await w.get(f"/binance/{path}", **fewer) == first[path][:7]
            asked = [request.query for request in w.sim.requests if request.path == upstream]
            # What feeds and spikes ask for has no start.
            assert [query for query in asked if "startTime" in query] == [], path


async def test_hours_that_an_exchange_lacks_for_good_are_asked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four of them, two days ago: rows as the exchange has them, nothing invented, and no second question."""
    monkeypatch.setattr(archive_module, "PATIENCE", 30.0)
    hour = 60 * MINUTE
    at = START - START % hour - 48 * hour
    names = {"binance": ("/fapi/v1/klines", "endTime"), "bybit": ("/v5/market/kline", "end")}
    chosen = [quick(load_exchanges()[name]) for name in names]
    archive = Archive(path=str(tmp_path / "marketd.db"))
    questions: list[dict[str, int]] = [
        {"start_time": at + hour, "end_time": at + 3 * hour, "limit": 500},
        {"start_time": at - 2 * hour, "end_time": at + 6 * hour, "limit": 500},
        {"end_time": at + 5 * hour, "limit": 100},
        {"start_time": at - hour, "limit": 80},
    ]

    def asked(w: Venues) -> int:
        """Questions for the past: feeds ask for the latest bars, without times."""
        return sum(
            request.path == path and end in request.query
            for name, (path, end) in names.items()
            for request in w.sims[name].requests
        )

    async def answers(w: Venues) -> list[Json]:
        return [await w.get(f"/{name}/ohlc/BTCUSDT/1m", **query) for name in names for query in questions]

    async with venues(chosen, archive=archive) as w:
        w.market.tapes["BTC"].lost.append((at, at + 4 * hour))
        first = await answers(w)
        assert [len(rows) for rows in first] == [0, 240, 100, 80] * 2
        await w.client.get("/export/ohlc", params={"interval": "1m", "format": "csv"})  # all is on disk
        count = asked(w)
        assert count
        assert await answers(w) == first
        assert asked(w) == count
    async with venues(chosen, archive=archive) as w:
        w.market.tapes["BTC"].lost.append((at, at + 4 * hour))
        assert await answers(w) == first
        assert asked(w) == 0


async def test_an_exchange_without_a_history_of_interest(tmp_path: Path) -> None:
    exchange = quick(load_exchanges()["hyperliquid"])
    path = "/hyperliquid/oi-hist/BTC"
    async with venues([exchange]) as w:
        await w.problem(path, 404, "unsupported")
        (about,) = (await w.get("/exchanges"))["exchanges"]
        assert about["capabilities"]["open_interest_history"] is False
    archive = Archive(path=str(tmp_path / "marketd.db"))
    amounts = []
    for minute in (0, 5):  # the exchange does not say of when its numbers are: it is the time they came at
        async with venues([exchange], archive=archive, start=START + minute * MINUTE) as w:
            amounts.append((await w.get("/hyperliquid/oi/BTC"))["open_interest"])
    async with venues([exchange], archive=archive, start=START + 10 * MINUTE) as w:
        (about,) = (await w.get("/exchanges"))["exchanges"]
        assert about["capabilities"]["open_interest_history"] == "partial"
        rows = await w.get(path, period="5m")
        hour = START - START % (60 * MINUTE)
        assert [row["timestamp"] for row in rows] == [iso(hour + 5 * MINUTE), iso(hour + 10 * MINUTE)]
        assert [row["open_interest"] for row in rows] == amounts
        assert await w.get(path, period="5m", start_time=hour + 6 * MINUTE) == rows[1:]
        assert await w.get(path, period="1h") == []  # the hour is not over
        await w.problem(path, 422, "invalid_parameter", period="1w")


# --- files


async def export(w: World, kind: str, format: str, **query: Any) -> bytes:
    response = await w.client.get(f"/export/{kind}", params={"format": format} | query)
    assert response.status_code == 200, response.text
    name = response.headers["content-disposition"]
    assert name.startswith('attachment; filename="')
    assert name.endswith(f'.{format}"')
    return response.content


def plain(frame: Any) -> list[dict[str, Any]]:
    """Rows with times as the API writes them and None for what is missing, whatever library they come from."""
    rows = frame.to_dicts() if isinstance(frame, polars.DataFrame) else json.loads(frame.to_json(orient="records"))
    for row in rows:
        for key, value in row.items():
            if hasattr(value, "timestamp"):
                row[key] = iso_us(round(value.timestamp() * 1_000_000))
            elif key in ("timestamp", "funding_time") and isinstance(value, int):
                row[key] = iso(value)
    return list(rows)


def iso_us(microseconds: int) -> str:
    assert microseconds % 1000 == 0
    return iso(microseconds // 1000)


EXPORTS: list[tuple[str, str, dict[str, Any]]] = [
    ("ohlc", "/binance/ohlc/BTCUSDT/15m", {"interval": "15m"}),
    ("large_trades", "/binance/large_trades/BTCUSDT", {}),
    ("funding_history", "/binance/funding-hist/BTCUSDT", {}),
]


@pytest.mark.timeout(240)  # two dozen processes, and every library that reads what they write
async def test_exported_files_read_back_as_the_rest_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "PATIENCE", 30.0)  # rows that a busy disk has not taken are in no file yet
    for name in ("web", "actors"):  # the working directory is the user's own
        Path(name).mkdir()
        Path(name, "__init__.py").write_text("raise RuntimeError('not this one')")
    async with keeping(tmp_path) as w:
        await some_trading(w)
        since = {"start_time": w.now - 3 * 86_400_000, "end_time": w.now - 20 * MINUTE}
        for kind, path, query in EXPORTS:
            span = since if kind in ("ohlc", "funding_history") else {}
            answer = await w.get(path, limit=1000, **span)
            assert answer, kind
            if kind == "large_trades":
                answer = [row | {"trade_id": str(row["trade_id"])} for row in answer]
            where = {"exchange": "binance", "symbol": "btcusdt", **query, **span}

            lines = (await export(w, kind, "ndjson", **where)).splitlines()
            told = [json.loads(line) for line in lines]
            assert [row | ({"trade_id": str(row["trade_id"])} if "trade_id" in row else {}) for row in told] == answer

            parquet, arrow = await export(w, kind, "parquet", **where), await export(w, kind, "arrow", **where)
            text = await export(w, kind, "csv", **where)
            tables = [pyarrow.parquet.read_table(BytesIO(parquet)), pyarrow.feather.read_table(BytesIO(arrow))]
            for table in tables:
                assert str(table.schema.field("timestamp").type) == "timestamp[us, tz=UTC]"
                numbers = [name for name in ("close", "value", "funding_rate") if name in table.column_names]
                assert {str(table.schema.field(name).type) for name in numbers} == {"double"}
                assert plain(polars.DataFrame(polars.from_arrow(table))) == answer
            ids = {"trade_id": polars.String}
            assert plain(polars.read_parquet(BytesIO(parquet))) == answer
            assert plain(polars.read_ipc(BytesIO(arrow))) == answer
            frame = polars.read_csv(BytesIO(text), try_parse_dates=True, schema_overrides=ids)
            assert str(frame.schema["timestamp"]) == "Datetime(time_unit='us', time_zone='UTC')"
            assert plain(frame) == answer
            times = [name for name in ("timestamp", "funding_time") if name in answer[0]]
            pandas_csv = pandas.read_csv(BytesIO(text), parse_dates=times, dtype={"trade_id": str})
            for one in (pandas.read_parquet(BytesIO(parquet)), pandas.read_feather(BytesIO(arrow)), pandas_csv):
                assert str(one["timestamp"].dtype) == "datetime64[us, UTC]"
                as_ms = one.assign(**{name: one[name].astype("int64") // 1000 for name in times})
                assert plain(as_ms) == answer


async def test_bad_exports_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with keeping(tmp_path) as w:
        await w.problem("/export/candles", 404, "not_found")
        await w.problem("/export/ohlc", 422, "invalid_parameter")
        await w.problem("/export/liquidations", 422, "invalid_parameter", interval="1m")
        await w.problem("/export/liquidations", 422, "invalid_parameter", format="xlsx")
        await w.problem("/export/liquidations", 404, "unknown_exchange", exchange="nowhere")
        await w.problem("/export/liquidations", 404, "unknown_symbol", exchange="binance", symbol="NOPE")
        await w.problem("/export/liquidations", 404, "unknown_symbol", symbol="NOPE")
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        told = await w.problem("/export/liquidations", 422, "invalid_parameter", format="parquet")
        assert "pip install 'marketd[arrow]'" in told["detail"]
        head = await w.client.head("/export/liquidations")
        assert (head.status_code, head.content) == (200, b"")
    async with world() as w:
        told = await w.problem("/export/liquidations", 404, "unsupported")
        assert "[archive]" in told["detail"]


async def test_what_is_listed_no_more_can_be_exported(tmp_path: Path) -> None:
    row = (1_700_000_000_000_000, "buy", 1.0, 2.0, 2.0, None, 0, 0)
    writer = Writer(tmp_path / "marketd.db")
    writer.write([Write(Series("liquidations", "binance", "GONEUSDT"), [row])])
    writer.close()
    async with keeping(tmp_path) as w:
        (gone,) = (await export(w, "liquidations", "ndjson", exchange="binance", symbol="GONEUSDT")).splitlines()
        assert json.loads(gone)["symbol"] == "GONEUSDT"


async def test_a_client_that_leaves_ends_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Endless as far as a client can tell, and no more than two at a time.
    endless = "import sys, time; print('x'); sys.stdout.flush(); time.sleep(600)"
    opened: list[trio.Process] = []
    open_process = trio.lowlevel.open_process

    async def open_endless(command: Any, **options: Any) -> trio.Process:
        opened.append(await open_process([sys.executable, "-c", endless], **options))
        return opened[-1]

    async with keeping(tmp_path) as w:
        monkeypatch.setattr(trio.lowlevel, "open_process", open_endless)
        monkeypatch.setattr(spool, "TURN", 0.2)
        async with w.client.stream("GET", "/export/ohlc?interval=1m") as one:
            async with w.client.stream("GET", "/export/ohlc?interval=5m") as other:
                assert (one.status_code, other.status_code) == (200, 200)
                pieces = one.aiter_raw(), other.aiter_raw()  # held: an answer ends with its iterator
                for piece in pieces:
                    assert await anext(piece)
                busy = await w.problem("/export/large_trades", 503, "not_ready")
                assert busy["retry_after"] == 1
            await eventually(lambda: any(process.returncode is not None for process in opened))
        await eventually(lambda: all(process.returncode is not None for process in opened))
        monkeypatch.undo()
        assert (await export(w, "ohlc", "csv", interval="1m")).startswith(b"exchange,")


async def test_an_export_that_breaks_off_is_not_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_process = trio.lowlevel.open_process

    async def open_failing(command: Any, **options: Any) -> trio.Process:
        failing = "import sys; print('a,b'); sys.stdout.flush(); sys.exit('the disk went away')"
        return await open_process([sys.executable, "-c", failing], **options)

    async with keeping(tmp_path) as w:
        monkeypatch.setattr(trio.lowlevel, "open_process", open_failing)
        with pytest.raises(httpx.RemoteProtocolError):
            await w.client.get("/export/ohlc", params={"interval": "1m"})
        (entry,) = await eventually(lambda: w.logged("web.export_failed"))
        assert entry["reason"] == "the disk went away"
        await w.get("/health/live")


# --- while the disk fails


async def test_without_a_folder_the_daemon_serves_and_says_so(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    async with world(archive=Archive(path=str(missing / "marketd.db")), live=False) as w:
        await w.health(lambda health: bool(health["archive"]["state"] == "failing"))
        await w.subscribed("btcusdt@aggTrade")
        await w.pass_time(1000)
        await w.is_live()
        await some_trading(w)
        assert len(await seen(w, "liquidations")) >= 6
        assert await w.get("/binance/liquidations/BTCUSDT/bars")
        told = await w.problem("/export/liquidations", 503, "not_ready")
        assert "cannot be read" in told["detail"]
        missing.mkdir()
        health = await w.health(lambda health: bool(health["archive"]["state"] == "ok"))
        assert health["archive"]["dropped"] == 0
        events = await seen(w, "liquidations")
    with sqlite3.connect(missing / "marketd.db") as connection:
        assert connection.execute("SELECT count(*) FROM liquidations").fetchone() == (len(events),)


async def test_a_disk_that_fails_is_in_the_health_and_live_data_goes_on(tmp_path: Path) -> None:
    async with keeping(tmp_path) as w:
        other = sqlite3.connect(tmp_path / "marketd.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        await some_trading(w)
        health = await w.health(lambda health: bool(health["archive"]["state"] == "failing"))
        assert health["status"] == "degraded"
        assert "locked" in health["archive"]["reason"]
        events, bars = await seen(w, "large_trades"), await w.get("/binance/large_trades/BTCUSDT/bars", interval="1m")
        assert len(events) >= 6
        assert sum(bar["count"] for bar in bars) == len(events)  # what waits in memory counts too
        assert (await w.ask("/health/ready")).status_code == 200
        other.execute("ROLLBACK")
        other.close()
        await w.health(lambda health: bool(health["archive"]["state"] == "ok" and health["status"] == "healthy"))
        assert await seen(w, "large_trades") == events
        assert len(w.logged("archive.failing")) == len(w.logged("archive.recovered")) == 1
    with sqlite3.connect(tmp_path / "marketd.db") as connection:
        (count,) = connection.execute("SELECT count(*) FROM large_trades").fetchone()
    assert count >= len(events)


# --- the commands


async def marketd(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    return await trio.run_process(
        [sys.executable, "-m", "daemon", *arguments], cwd=cwd, capture_stdout=True, capture_stderr=True, check=False
    )


@asynccontextmanager
async def exchange_only(folder: Path) -> AsyncIterator[Simulator]:
    """A simulated exchange of this very time, and a configuration that points at it."""
    async with trio.open_nursery() as nursery:
        sim = await nursery.start(partial(binance.serve, Market(assets=TWO, clock=Clock())))
        folder.joinpath("config.toml").write_text(
            f'[exchanges.binance]\nrest_url = "{sim.rest_url}"\nws_url = "{sim.ws_url}"\n'
        )
        yield sim
        nursery.cancel_scope.cancel()


async def test_backfill_and_export_on_the_command_line(tmp_path: Path) -> None:
    async with exchange_only(tmp_path) as sim:
        since = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=40)
        asked = ["--exchange", "binance", "--symbol", "btcusdt", "--kind", "ohlc", "--interval", "1m"]
        command = ["backfill", *asked, "--since", since.isoformat()]
        done = await marketd(*command, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, b""), done.stderr
        *_, last = [json.loads(line) for line in done.stderr.splitlines() if b"backfill.done" in line]
        assert last["rows"] >= 2400
        pages = sim.count("/fapi/v1/klines")
        assert pages <= 4

        again = await marketd(*command, cwd=tmp_path)
        assert again.returncode == 0
        assert sim.count("/fapi/v1/klines") <= pages + 1  # the open end alone

        rates = await marketd(
            *("backfill", "--exchange", "binance", "--symbol", "BTCUSDT", "--symbol", "ETHUSDT"),
            *("--kind", "funding_history", "--since", since.isoformat()),
            cwd=tmp_path,
        )
        assert rates.returncode == 0, rates.stderr
        upstream = sim.rest_url
        async with httpx.AsyncClient(base_url=upstream, timeout=WITHIN, verify=False) as client:
            query: dict[str, str | int] = {
                "symbol": "BTCUSDT",
                "interval": "1m",
                "startTime": int(since.timestamp() * 1000),
                "limit": 1500,
            }
            rows = (await client.get("/fapi/v1/klines", params=query)).json()

    where = ["--exchange", "binance", "--symbol", "BTCUSDT", "--interval", "1m"]
    done = await marketd("export", "ohlc", *where, "--output", "bars.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""  # progress is for terminals
    frame = polars.read_parquet(tmp_path / "bars.parquet")
    assert f"{len(frame)} rows in bars.parquet" in done.stdout.decode()
    assert frame["close"].to_list()[: len(rows)] == [float(row[4]) for row in rows]
    assert frame["timestamp"].dt.timestamp("ms").to_list()[: len(rows)] == [row[0] for row in rows]
    done = await marketd("export", "funding_history", "--format", "csv", "--output", "-", cwd=tmp_path)
    assert {row.split(b",")[1] for row in done.stdout.splitlines()[1:]} == {b"BTCUSDT", b"ETHUSDT"}
    assert sorted(path.name for path in tmp_path.glob("*.part")) == []


async def test_commands_say_what_is_wrong(tmp_path: Path) -> None:
    """Exit codes: 2 for a command that makes no sense, 78 for the configuration, 1 where the world is to blame."""
    tmp_path.joinpath("bad.toml").write_text("[archive]\nkeep = ['candles']\n")
    asked = ["backfill", "--exchange", "binance", "--symbol", "BTCUSDT", "--since", "2026-01-01"]
    bars = [*asked, "--kind", "ohlc", "--interval", "1m"]
    cases: list[tuple[list[str], int, str]] = [
        (["export", "candles"], 2, "invalid choice"),
        (["export", "ohlc"], 2, "--interval"),
        (["export", "liquidations"], 1, "unable to open"),
        (["export", "ohlc", "--interval", "1m", "--start", "soon"], 2, "ISO 8601"),
        (["export", "ohlc", "--config", "bad.toml"], 78, "archive.keep"),
        ([*asked, "--kind", "liquidations"], 2, "invalid choice"),
        ([*asked, "--kind", "ohlc"], 2, "--interval must be one of"),
        ([*asked[:2], "nowhere", *asked[3:], "--kind", "funding_history"], 2, "no exchange 'nowhere'"),
        ([*bars, "--until", "2025-01-01"], 2, "--until"),
    ]

    async def check(arguments: list[str], code: int, said: str) -> None:
        done = await marketd(*arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (code, b""), (arguments, done.stderr)
        assert said in done.stderr.decode(), arguments
        assert b"Traceback" not in done.stderr

    async with trio.open_nursery() as nursery:
        for case in cases:
            nursery.start_soon(check, *case)


def test_a_backfill_that_finds_no_exchange_gives_up_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backfill, "POLICY", RestartPolicy(delay=0.01, max_delay=0.01, max_attempts=3))
    Path("config.toml").write_text('[exchanges.binance]\nrest_url = "http://127.0.0.1:9"\n')
    asked = ["--exchange", "binance", "--symbol", "BTCUSDT", "--kind", "funding_history", "--since", "2026-01-01"]
    assert program(["backfill", *asked, "--log-level", "ERROR"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "goes on from here" in err


async def test_a_killed_daemon_has_what_it_had_written(tmp_path: Path) -> None:
    """The whole program, `kill -9`, three times: the file opens, is sound, and has every trade once."""
    async with exchange_only(tmp_path) as sim:
        tmp_path.joinpath("config.toml").write_text(
            tmp_path.joinpath("config.toml").read_text()
            + 'symbols = ["BTCUSDT"]\n[server]\nport = 0\n[streams]\nintervals = ["1m"]\n'
        )
        written: set[int] = set()
        for _ in range(3):
            async with listening(cwd=tmp_path) as daemon:
                async with httpx.AsyncClient(base_url=daemon.url, timeout=WITHIN, verify=False) as client:
                    count = 0
                    while count < 12:
                        sim.market.trade("BTC", side="buy", price="84000.10", quantity="2.5")
                        await trio.sleep(0.02)
                        rows = (await client.get("/binance/large_trades/BTCUSDT?limit=1000")).json()
                        count = len({row["trade_id"] for row in rows if isinstance(rows, list)} - written)
                    told = await client.get("/export/large_trades?format=ndjson")  # flushes: acknowledged
                written |= {json.loads(line)["trade_id"] for line in told.content.splitlines()}
                daemon.process.kill()
                await daemon.ends(within=WITHIN)
            (path,) = tmp_path.glob("marketd-*.db")  # of the simulated exchange alone
            with sqlite3.connect(path) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                ids = [row[0] for row in connection.execute("SELECT trade_id FROM large_trades")]
            assert len(ids) == len(set(ids))
            assert written <= set(ids)
