"""Exports read in part, as Polars and DuckDB do: one file for one reader, whatever happens meanwhile."""

import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from daemon.settings import Archive, Export
from tests.daemon.fixtures import MINUTE, World, world
from tests.patience import WITHIN
from web.rest import spool

URL = "/export/ohlc.csv?interval=1m&symbol=BTCUSDT"


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(path=str(tmp_path / "marketd.db"))


async def part(w: World, wanted: str, **headers: str) -> httpx.Response:
    return await w.client.get(URL, headers={"Range": wanted, **headers})


async def test_every_range_of_a_file_is_a_piece_of_it(archive: Archive) -> None:
    async with world(archive=archive) as w:
        head = await w.client.head(URL)
        size, tag = int(head.headers["content-length"]), head.headers["etag"]
        assert (head.status_code, head.headers["accept-ranges"]) == (200, "bytes")
        assert not tag.startswith("W/")
        whole = (await part(w, "bytes=0-")).content
        assert len(whole) == size > 1000
        for start, end in [(0, 1), (0, size), (5, 17), (size - 1, size), (size // 2, size - 3)]:
            found = await part(w, f"bytes={start}-{end - 1}", **{"Accept-Encoding": "gzip"})
            assert (found.status_code, found.content) == (206, whole[start:end])
            assert found.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
            assert int(found.headers["content-length"]) == end - start
            assert (found.headers["etag"], "content-encoding" in found.headers) == (tag, False)
        assert (await part(w, "bytes=-7")).content == whole[-7:]
        assert (await part(w, f"bytes=-{size + 262_144}")).content == whole, "longer than the file is allowed"
        assert (await part(w, f"bytes=3-{size * 9}")).content == whole[3:]
        for beyond in (f"bytes={size}-", "bytes=-0"):
            refused = await part(w, beyond)
            assert (refused.status_code, refused.headers["content-range"]) == (416, f"bytes */{size}")
            assert refused.json()["code"] == "range_not_satisfiable"
        for odd in ("bytes=5-2", "bytes=a-b", "lines=0-3", "bytes=0-1,4-5", "bytes=-"):
            found = await part(w, odd)
            assert (found.status_code, found.content) == (200, whole), odd


async def test_conditions_are_of_the_file(archive: Archive) -> None:
    async with world(archive=archive) as w:
        tag = (await w.client.head(URL)).headers["etag"]
        assert (await part(w, "bytes=0-3", **{"If-Range": tag})).status_code == 206
        assert (await part(w, "bytes=0-3", **{"If-Range": '"other"'})).status_code == 200
        unchanged = await w.client.get(URL, headers={"If-None-Match": tag})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        assert {"content-length", "content-type"}.isdisjoint(unchanged.headers), "a cache would believe it of its file"
        assert (await w.client.get(URL, headers={"If-None-Match": '"other"'})).status_code == 200


async def test_one_reader_has_one_file_and_a_whole_one_is_of_now(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "FRESH", 0.0)
    async with world(archive=archive) as w:
        head = await w.client.head(URL)
        first = (await part(w, "bytes=0-")).content
        await w.pass_time(3 * MINUTE)
        await w.settled()
        newer = (await w.client.get(URL)).content
        assert newer.startswith(first)
        assert len(newer) > len(first)
        again = await part(w, "bytes=0-")
        assert (again.content, again.headers["etag"]) == (first, head.headers["etag"])


async def test_a_file_that_nobody_came_back_to_is_made_anew(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "KEPT", 0.1)
    monkeypatch.setattr(spool, "LOOK_EVERY", 0.05)
    async with world(archive=archive) as w:
        first = (await w.client.head(URL)).headers["content-length"]
        await w.pass_time(3 * MINUTE)
        await w.settled()
        await trio.sleep(0.3)
        assert int((await w.client.head(URL)).headers["content-length"]) > int(first)


async def test_equal_requests_share_the_making_and_parts_need_no_turn(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    open_process = trio.lowlevel.open_process

    async def counted(command: Any, **options: Any) -> trio.Process:
        made.append(command)
        return await open_process(command, **options)

    async with world(archive=archive) as w:
        monkeypatch.setattr(trio.lowlevel, "open_process", counted)
        found: list[bytes] = []

        async def read() -> None:
            found.append((await part(w, "bytes=0-99")).content)

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(read)
        assert len(made) == 1
        assert len(set(found)) == 1


async def test_a_spool_that_is_full_says_so(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = "import sys, time; print('x'); sys.stdout.flush(); time.sleep(600)"
    open_process = trio.lowlevel.open_process

    async def open_endless(command: Any, **options: Any) -> trio.Process:
        return await open_process([sys.executable, "-c", endless], **options)

    async with world(archive=archive, export=Export(spool_files=1)) as w:
        monkeypatch.setattr(trio.lowlevel, "open_process", open_endless)
        async with w.client.stream("GET", URL) as reading:
            pieces = reading.aiter_raw()  # held: an answer ends with its iterator
            assert await anext(pieces)
            problem = await w.problem("/export/ohlc.csv", 503, "overloaded", interval="5m")
            assert "[export]" in problem["detail"]
        monkeypatch.undo()

        async def is_free() -> bool:
            return (await w.client.get(URL)).status_code == 200

        with trio.fail_after(WITHIN):
            while not await is_free():  # noqa: ASYNC110 - another process ends it
                await trio.sleep(0.02)


async def test_a_file_that_does_not_fit_is_no_file(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = Path("go_on")
    large = (
        "import os, sys, time; sys.stdout.write('x' * 1000); sys.stdout.flush()\n"
        f"while not os.path.exists({str(go_on.absolute())!r}): time.sleep(0.01)\n"
        "sys.stdout.write('x' * 3_000_000)"
    )
    open_process = trio.lowlevel.open_process

    async def open_large(command: Any, **options: Any) -> trio.Process:
        return await open_process([sys.executable, "-c", large], **options)

    async with world(archive=archive, export=Export(spool_mb=1)) as w:
        monkeypatch.setattr(trio.lowlevel, "open_process", open_large)
        async with w.client.stream("GET", URL) as reading:
            pieces = reading.aiter_raw()
            assert await anext(pieces)
            go_on.touch()
            with pytest.raises(httpx.RemoteProtocolError):  # begun already: it ends too early
                async for _ in pieces:
                    pass
        refused = await part(w, "bytes=0-9")
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")


async def test_names_have_the_format_in_them_and_limit_is_of_the_newest(archive: Archive) -> None:
    async with world(archive=archive) as w:
        newest = await w.client.get("/export/ohlc.ndjson?interval=1m&symbol=BTCUSDT&limit=3")
        assert newest.headers["content-type"] == "application/x-ndjson"
        rows = await w.get("/binance/ohlc/BTCUSDT/1m", limit=4)
        assert [row["timestamp"] for row in map(httpx.Response.json, _lines(newest))] == [
            row["timestamp"] for row in rows if row["is_closed"]
        ][-3:]
        await w.problem("/export/ohlc.xlsx", 404, "not_found", interval="1m")
        await w.problem("/export/ohlc.csv", 422, "invalid_parameter", interval="1m", limit="-1")


def _lines(response: httpx.Response) -> list[httpx.Response]:
    return [httpx.Response(200, content=line) for line in response.content.splitlines()]
