"""The dashboard in a real browser, against the simulators: what it draws is what the API says."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.to_thread

from tests.actors.exchanges.fixtures import EXCHANGES, quick, venues
from tests.daemon.fixtures import Json, World, world

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium (Debian's package) is not installed"),
    pytest.mark.timeout(240),
]

WAIT = 20_000  # ms
CHART = '[data-panel="chart"]'


class Seen:
    """What a browser complained about, and whom it asked."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.foreign: list[str] = []


@contextmanager
def browsing(url: str, **context: Any) -> Iterator[Any]:
    """A page; whatever it complains about or asks another host fails the test."""
    seen = Seen()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(**context).new_page()
        page.set_default_timeout(WAIT)

        def on_console(said: Any) -> None:
            if said.type in ("error", "warning"):
                seen.complaints.append(said.text)

        def on_request(asked: Any) -> None:
            if host not in asked.url:
                seen.foreign.append(asked.url)

        page.on("console", on_console)
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        host = url.partition("//")[2]
        page.on("request", on_request)
        yield page
        browser.close()
    assert seen.complaints == []
    assert seen.foreign == []


async def in_thread(act: Callable[[], None]) -> None:
    await trio.to_thread.run_sync(act)


def state_is(page: Any, *states: str) -> None:
    page.wait_for_function(
        f"states => states.includes(document.querySelector('{CHART}').dataset.state)", arg=list(states)
    )


def shown(page: Any) -> tuple[list[Json], list[Json]]:
    """(what the canvas has, what the table has)."""
    drawn = page.evaluate(f"document.querySelector('{CHART}').drawn()")
    rows = page.evaluate(
        """() => [...document.querySelectorAll('[data-role="bars-table"] tbody tr')].map((row) => ({
            timestamp: row.dataset.time, is_closed: row.dataset.closed === "true",
            ...Object.fromEntries(
                [...row.querySelectorAll("[data-field]")].map((cell) => [cell.dataset.field, +cell.dataset.value])),
        }))"""
    )
    return drawn, rows


def bars_are(page: Any, bars: list[Json]) -> None:
    """The newest bars of the API are in the table, and on the canvas; waits for the last of them."""
    last = bars[-1]
    page.wait_for_function(
        f"""last => {{ const row = [...document.querySelectorAll('{CHART} tbody tr')].at(-1);
            return row && row.dataset.time === last.timestamp
                && +row.querySelector('[data-field="volume"]').dataset.value === last.volume; }}""",
        arg=last,
    )
    drawn, rows = shown(page)
    fields = ("open", "high", "low", "close")
    assert [{name: bar[name] for name in ("timestamp", *fields, "volume", "is_closed")} for bar in bars[-120:]] == [
        {name: row[name] for name in ("timestamp", *fields, "volume", "is_closed")} for row in rows[-len(bars) :]
    ]
    assert [tuple(bar[name] for name in fields) for bar in bars] == [
        tuple(bar[name] for name in fields) for bar in drawn[-len(bars) :]
    ]


def told(w: World, limit: int) -> list[Json]:
    found: list[Json] = trio.from_thread.run(partial(w.get, "/binance/ohlc/BTCUSDT/1m", limit=limit))
    return found


async def test_bars_are_those_of_the_api_after_loading_a_minutes_end_and_a_cut() -> None:
    async with world() as w:

        def act() -> None:
            with browsing(w.url) as page:
                page.goto(f"{w.url}/#/binance/BTCUSDT/1m")
                state_is(page, "live")
                page.locator('[data-role="bars-table"] summary').click()
                bars_are(page, told(w, 60))
                trio.from_thread.run(w.pass_time, 70_000)
                bars_are(page, told(w, 60))
                trio.from_thread.run_sync(w.sim.drop)
                state_is(page, "down")
                assert "reconnecting" in page.locator('[data-role="chart-status"]').inner_text()
                trio.from_thread.run(w.pass_time, 130_000)
                state_is(page, "live")
                trio.from_thread.run(w.pass_time, 1000)
                bars_are(page, told(w, 60))

        await in_thread(act)


async def test_a_liquidation_is_a_row_and_says_who_was_liquidated() -> None:
    async with world() as w:

        def act() -> None:
            with browsing(w.url) as page:
                page.goto(f"{w.url}/#/binance/BTCUSDT/1m")
                state_is(page, "live")
                page.wait_for_function("document.documentElement.dataset.socket === 'open'")
                liquidate = partial(w.sim.market.liquidate, "BTC", side="sell", price="84000.10", quantity="7.5")
                trio.from_thread.run_sync(liquidate)
                trio.from_thread.run(w.pass_time, 2000)
                row = page.locator('[data-panel="liquidations"] tr[data-value="630000.75"]')
                row.wait_for()
                assert row.count() == 1
                assert "long" in row.inner_text()

        await in_thread(act)


async def test_an_unknown_market_is_said_and_near_ones_are_named() -> None:
    async with world() as w:

        def act() -> None:
            with browsing(w.url) as page:
                page.goto(f"{w.url}/#/binance/BTCNOPE/1m")
                state_is(page, "error")
                assert page.locator('[data-role="chart-status"]').inner_text() == "There is no BTCNOPE on binance"
                assert page.locator('[data-role="near"] a').first.inner_text().startswith("BTCUSDT")
                page.goto(f"{w.url}/#/binance/%3Cimg%20src%3Dx%3E/1m")
                page.wait_for_function("document.querySelector('h1').textContent.includes('<img')")
                assert page.locator("h1 img").count() == 0

        await in_thread(act)


async def test_every_view_is_free_of_serious_faults_and_fits_its_width() -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    async with venues([quick(exchange) for exchange in EXCHANGES.values()]) as w:

        def look(page: Any, name: str) -> None:
            found = axe.run(page).response["violations"]
            serious = [
                (one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")
            ]
            assert serious == [], name
            assert not page.evaluate("document.documentElement.scrollWidth > innerWidth"), name

        def act() -> None:
            for scheme in ("light", "dark"):
                for width in (1440, 390):
                    size = {"width": width, "height": 900}
                    with browsing(w.url, viewport=size, color_scheme=scheme) as page:
                        for view, address in (("markets", ""), ("chart", "binance/BTCUSDT/1m"), ("health", "health")):
                            page.goto(f"{w.url}/#/{address}")
                            page.wait_for_function(f"document.documentElement.dataset.view === '{view}'")
                            page.wait_for_selector(f'[data-page="{view}"] tbody tr')
                            look(page, f"{view} {scheme} {width}")

        await in_thread(act)
