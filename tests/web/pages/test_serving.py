"""The page and its files over HTTP: who gets the page and who JSON, and what a browser is told of them."""

import re

import pytest

from daemon.settings import Auth, Server
from tests.daemon.fixtures import world
from web.pages.dashboard import POLICY, page_files
from web.rest.headers import prefers_html

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        ("", False),
        ("*/*", False),
        ("application/json, text/plain, */*", False),
        ("text/html, application/json", False),
        ("application/json;q=0.9, text/html", True),
        ("text/html;q=0.9, application/json", False),
        ("text/*", True),
        ("text/*;q=0.5, application/json;q=0.4", True),
        ("text/html;q=0, */*", False),
        ("text/html;q=x, application/json;q=0.1", False),
        ("text/html;q=2", False),
        (";;;q=,", False),
        (BROWSER, True),
    ],
)
def test_the_page_is_for_whom_prefers_it(accept: str, is_page: bool) -> None:
    assert prefers_html(accept) is is_page


async def test_a_browser_gets_the_page_and_a_program_json() -> None:
    async with world() as w:
        for _ in range(2):  # the second time from memory, where that answers
            page = await w.client.get("/", headers={"Accept": BROWSER})
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            assert "Accept" in page.headers["vary"]
            assert page.headers["content-security-policy"] == POLICY
            program = await w.client.get("/", headers={"Accept": "*/*"})
            assert program.json()["name"] == "marketd"
            assert "Accept" in program.headers["vary"]
        head = await w.client.head("/", headers={"Accept": BROWSER})
        assert head.headers["content-type"] == "text/html; charset=utf-8"


async def test_files_are_compressed_tagged_and_not_sent_twice() -> None:
    async with world() as w:
        sizes = []
        for name in page_files().keys() - {"index.html"}:
            found = await w.client.get(f"/ui/{name}", headers={"Accept-Encoding": "gzip"})
            assert found.status_code == 200
            headers = found.headers
            assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-cache", "nosniff")
            again = await w.client.get(
                f"/ui/{name}", headers={"Accept-Encoding": "gzip", "If-None-Match": headers["etag"]}
            )
            assert (again.status_code, again.content) == (304, b"")
            assert {"content-length", "content-type"}.isdisjoint(again.headers)
            sizes.append((name, int(headers["content-length"])))
        assert sum(size for name, size in sizes if not name.startswith("lightweight")) < 150_000
        assert sum(size for _, size in sizes) < 250_000
        await w.problem("/ui/index.html", 404, "not_found")
        await w.problem("/ui/..%2Fdashboard.py", 404, "not_found")


def test_the_chart_library_is_the_one_that_is_called_and_its_licence_is_told() -> None:
    files = page_files()
    library = files["lightweight-charts.js"]
    assert b"Lightweight Charts\xe2\x84\xa2 v5." in library[:300]
    for name in ("createChart", "createSeriesMarkers", "CandlestickSeries", "HistogramSeries"):
        assert name.encode() in library
        assert name in files["canvas.js"].decode()
    for called in ("setData", "update", "setMarkers", "subscribeCrosshairMove", "timeToCoordinate", "scrollToPosition"):
        assert called.encode() in library
    page, licences = files["index.html"].decode(), files["licences.txt"].decode()
    for text in ("TradingView Lightweight Charts™", "TradingView, Inc.", "https://www.tradingview.com/"):
        assert text in page
        assert text in licences
    assert "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION" in licences
    assert "<script>" not in page
    assert "style=" not in page
    for name, data in files.items():
        if name.endswith(".js") and name != "lightweight-charts.js":
            assert len(data.splitlines()) < 200, name
            assert not {b"innerHTML", b"outerHTML", b"insertAdjacentHTML"} & set(re.findall(rb"\w+", data)), name


async def test_without_a_dashboard_everybody_gets_json() -> None:
    async with world(server=Server(port=0, dashboard=False)) as w:
        page = await w.client.get("/", headers={"Accept": BROWSER})
        assert page.json()["name"] == "marketd"
        await w.problem("/ui/app.js", 404, "not_found")


async def test_a_browser_without_a_key_gets_the_page_that_asks_for_one_and_a_program_a_problem() -> None:
    async with world(auth=Auth(anonymous=()), live=False) as w:
        page = await w.client.get("/", headers={"Accept": BROWSER})
        assert (page.status_code, page.headers["content-type"]) == (401, "text/html; charset=utf-8")
        assert page.headers["www-authenticate"] == 'Bearer realm="marketd"'
        assert (page.headers["cache-control"], page.headers["content-security-policy"]) == ("no-store", POLICY)
        assert page.content == page_files()["index.html"]
        assert (await w.client.get("/ui/app.js")).status_code == 200
        await w.problem("/", 401, "unauthorized")
        await w.problem("/exchanges", 401, "unauthorized")
