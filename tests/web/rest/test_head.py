"""HEAD says what GET would: a program that asks for a length first must not be told that there is nothing."""

from pathlib import Path

import httpx

from daemon.settings import Archive, Server
from tests.daemon.fixtures import World, world

SSE = "/sse?topics=binance:BTCUSDT:trades"


async def headers_of(w: World, method: str, path: str, **headers: str) -> tuple[int, dict[str, str]]:
    """The status and headers, without waiting for a body that may have no end."""
    async with w.client.stream(method, path, headers={"Accept-Encoding": "identity"} | headers) as response:
        told = {name: value for name, value in response.headers.items() if name != "date"}
        return response.status_code, told


def paths_of(document: httpx.Response) -> list[str]:
    """Every documented path, with what its examples put into it."""
    places = {"{exchange}": "binance", "{symbol}": "BTCUSDT", "{interval}": "1m", "{kind}": "ohlc"}
    paths = []
    for path in document.json()["paths"]:
        for place, value in places.items():
            path = path.replace(place, value)
        paths.append(path)
    return paths


async def test_head_says_what_get_says(tmp_path: Path) -> None:
    archive = Archive(path=str(tmp_path / "archive.db"))
    async with world(archive=archive, server=Server(port=0, cors_origins=["https://page.example"])) as w:
        await w.settled()
        documented = paths_of(await w.client.get("/openapi.json"))
        assert "/export/ohlc" in documented
        exports = [f"/export/ohlc?interval=1m&format={form}" for form in ("csv", "ndjson")]
        others = ["/docs", "/redoc", "/docs/assets/docs.css", "/openapi.json", "/asyncapi.json", "/ws", "/ws-catalog"]
        refused = ["/no/such", "/binance/ohlc/BTCUSDT/7m", "/export/candles", "/binance/oi-hist/BTCUSDT?limit=0"]
        # What /quality says grows with every event.
        documented = [path for path in documented if not path.startswith("/quality")]
        for path in [*documented, *exports, *others, *refused, SSE]:
            for _ in range(20):
                got, told = await headers_of(w, "GET", path), await headers_of(w, "HEAD", path)
                if await headers_of(w, "GET", path) == got:  # else it has grown meanwhile
                    break
            assert told == got, path
            assert told[1].get("content-length") != "0", path


async def test_head_of_what_is_compressed_is_the_compressed_length() -> None:
    async with world(live=False) as w:
        got = await headers_of(w, "GET", "/openapi.json", **{"Accept-Encoding": "gzip"})
        assert got[1]["content-encoding"] == "gzip"
        assert await headers_of(w, "HEAD", "/openapi.json", **{"Accept-Encoding": "gzip"}) == got
