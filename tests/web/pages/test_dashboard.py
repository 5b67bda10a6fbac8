"""The dashboard in a real browser, against the simulators: what it draws is what the API says, whatever breaks."""

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import pytest
import trio

from daemon.settings import Auth
from tests.actors.exchanges.fixtures import EXCHANGES, Venues, quick, venues
from tests.daemon.fixtures import Json, Served, World, world
from tests.web.browser import WITHIN, Browser, Visit, Wire
from web.access.keys import Key, new_key, write_keys

pytestmark = pytest.mark.timeout(240)

CHART = '[data-panel="chart"]'
SENTENCE = "document.querySelector('[data-role=chart-status]').textContent"
FIELDS = ("open", "high", "low", "close")


def state_is(visit: Visit, state: str) -> None:
    visit.wait(f"state => document.querySelector('{CHART}').dataset.state === state", state)


def status(visit: Visit) -> str:
    told: str = visit.page.locator('[data-role="chart-status"]').inner_text()
    return told


def open_chart(visit: Visit, url: str, market: str = "binance/BTCUSDT/1m") -> None:
    visit.page.goto(f"{url}/#/{market}")
    state_is(visit, "live")
    visit.look("document.querySelector('[data-role=\"bars-table\"]').open = true")


ROWS = """() => [...document.querySelectorAll('[data-role="bars-table"] tbody tr')].map((row) => ({
    timestamp: row.dataset.time, is_closed: row.dataset.closed === "true",
    ...Object.fromEntries(
        [...row.querySelectorAll("[data-field]")].map((cell) => [cell.dataset.field, +cell.dataset.value])),
}))"""


def bars_are(visit: Visit, served: Served, path: str = "/binance/ohlc/BTCUSDT/1m") -> None:
    """The newest bars of the API are in the table and on the canvas, once all that is under way has arrived."""
    told = partial(served.get, path, limit=100)

    def shown() -> tuple[Json, Json, Json]:
        drawn = visit.look(f"document.querySelector('{CHART}').drawn()")
        times = [bar["time"] for bar in drawn]
        assert times == sorted(set(times))
        return visit.call(told), visit.look(ROWS), drawn

    wanted = ("timestamp", *FIELDS, "volume", "is_closed")

    def are_equal(bars: Json, rows: Json, drawn: Json) -> bool:
        count = len(bars)
        in_table = rows[-count:] == [{name: bar[name] for name in wanted} for bar in bars]
        prices = [[[bar[name] for name in FIELDS] for bar in some] for some in (bars, drawn[-count:])]
        return in_table and prices[0] == prices[1]

    until = monotonic() + WITHIN / 1000
    while not are_equal(*(seen := shown())):
        assert monotonic() < until, [part[-3:] for part in seen]
        visit.page.wait_for_timeout(50)


async def test_what_is_drawn_is_what_the_api_says_through_every_loss(browser: Browser) -> None:
    """After loading 500 bars, a minute's end, a cut of the page's socket and one of the exchange's."""
    async with world() as w:
        wire = Wire(w.url, w.nursery)
        await wire.open()

        def act(visit: Visit) -> None:
            open_chart(visit, wire.url)
            bars_are(visit, w)
            assert int(visit.look(f"document.querySelector('{CHART}').dataset.bars")) >= 500
            visit.call(w.pass_time, 70_000)
            bars_are(visit, w)

            visit.soon(wire.cut)
            state_is(visit, "disconnected")
            assert "reconnecting" in status(visit)
            visit.wait("document.querySelector('[data-panel=liquidations]').dataset.state === 'disconnected'")
            liquidate = partial(w.sim.market.liquidate, "BTC", side="sell", price="84000.10", quantity="7.5")
            visit.soon(liquidate)
            visit.call(w.pass_time, 2000)  # the exchange tells one a second
            visit.soon(liquidate)  # two equal ones are two
            visit.call(w.pass_time, 128_000)
            visit.soon(wire.mend)
            state_is(visit, "live")
            bars_are(visit, w)
            rows = visit.page.locator('[data-panel="liquidations"] tr[data-value="630000.75"]')
            rows.nth(1).wait_for()
            assert rows.count() == 2
            assert "long" in rows.first.inner_text()
            assert visit.look("document.documentElement.dataset.socket") == "open"

            w.sim.faults.ws_accept = "reset"
            visit.soon(w.sim.drop)
            state_is(visit, "down")
            assert "reconnecting to Binance" in status(visit)
            visit.call(w.pass_time, 130_000)
            w.sim.faults.ws_accept = "accept"
            visit.call(lives_again, w)
            state_is(visit, "live")
            bars_are(visit, w)
            assert rows.count() == 2
            # What cannot be had again is said: liquidations of the time of the cut.
            visit.wait("document.querySelector('[data-panel=liquidations] tr[data-gap]')")
            visit.look("location.hash = '#/health'")
            visit.wait("document.querySelector('[data-panel=gaps] tr[data-topic$=liquidations][data-repaired=false]')")
            visit.wait("document.querySelector('[data-panel=gaps] tr[data-topic$=\"ohlc:1m\"][data-repaired=true]')")

        await browser.visit(act, expected="ERR_")  # the browser itself complains of connections that fail


async def test_the_same_holds_of_every_exchange(browser: Browser) -> None:
    async with venues([quick(exchange) for exchange in EXCHANGES.values()]) as w:

        def act(visit: Visit) -> None:
            shown = {name: exchange.symbols[0] for name, exchange in EXCHANGES.items()}
            visits = {name: visit.another() for name in shown}
            for name, symbol in shown.items():
                open_chart(visits[name], w.url, f"{name}/{symbol}/1m")
                bars_are(visits[name], w, f"/{name}/ohlc/{symbol}/1m")
            for name in shown:
                w.sims[name].faults.ws_accept = "reset"
                visit.soon(w.sims[name].drop)
                state_is(visits[name], "down")
                w.sims[name].faults.ws_accept = "accept"
            visit.call(w.pass_time, 65_000)
            visit.call(lives_again, w)
            for name, symbol in shown.items():
                state_is(visits[name], "live")
                bars_are(visits[name], w, f"/{name}/ohlc/{symbol}/1m")

        await browser.visit(act)


async def lives_again(w: World | Venues) -> None:
    """Let the market live until all feeds hear it: what a new connection missed is not sent to it."""
    with trio.fail_after(WITHIN / 1000):
        while (await w.get("/health"))["status"] != "healthy":
            await w.pass_time(500)
            await trio.sleep(0.05)


async def test_a_state_is_said_with_its_reason_and_near_names_of_what_there_is_not(browser: Browser) -> None:
    async with world() as w:
        health, quality = await w.get("/health"), await w.get("/quality")
        (feed,) = health["feeds"]
        bars = await w.get("/binance/ohlc/BTCUSDT/1m", limit=30)
        minutes = {"from": bars[5]["timestamp"], "to": bars[9]["timestamp"]}
        topic = next(one for one in quality[0]["topics"] if one["topic"] == "binance:BTCUSDT:ohlc:1m")
        topic["gaps"] = [{**minutes, "reason": "lost for good", "repaired": False}]

        def act(visit: Visit) -> None:
            page = visit.page
            page.route("**/health", lambda route: route.fulfill(json=health))
            page.route("**/quality", lambda route: route.fulfill(json=quality))
            early = {"status": 503, "json": {"detail": "no catalogue yet", "retry_after": 2}}
            page.route("**/symbols", lambda route: route.fulfill(**early), times=1)
            page.goto(f"{w.url}/#/binance/BTCUSDT/1m")
            visit.wait(f"{SENTENCE} === 'no catalogue yet (again in 2 s)'")
            open_chart(visit, w.url)
            visit.wait("document.querySelector('.gap')?.getBoundingClientRect().width > 3")
            for state in ("stale", "failed"):
                feed.update(state=state, reason=f"because {state}")
                visit.look("document.dispatchEvent(new Event('visibilitychange'))")  # as one who comes back
                state_is(visit, state)
                assert f"{state}: because {state}" in status(visit)
                assert "last update" in status(visit)
            feed.update(state="live", reason=None)

            page.goto(f"{w.url}/#/binance/BTCNOPE/1m")
            state_is(visit, "error")
            assert status(visit) == "There is no BTCNOPE on binance"
            assert page.locator('[data-role="near"] a').first.inner_text().startswith("BTCUSDT")
            assert visit.look(f"document.querySelector('{CHART}').drawn()") == []
            page.goto(f"{w.url}/#/Binance/btcusdt/1m")
            visit.wait("location.hash === '#/binance/BTCUSDT/1m'")
            state_is(visit, "live")
            page.goto(f"{w.url}/#/binance/%3Cimg%20src%3Dx%3E/1m")
            visit.wait("document.querySelector('h1').textContent.includes('<img')")
            assert page.locator("h1 img").count() == 0
            for odd in ("%E0%A4%A", "binance", "binance/BTCUSDT/7m", "nowhere/BTCUSDT/1m"):
                page.goto(f"{w.url}/#/{odd}")
                visit.wait(f"{SENTENCE}.startsWith('There is no')")

        await browser.visit(act, expected="503")


async def test_a_hidden_page_rests_keeps_its_socket_and_paints_once_when_it_is_shown(browser: Browser) -> None:
    async with world() as w:

        def act(visit: Visit) -> None:
            open_chart(visit, w.url)
            visit.page.wait_for_selector('[data-panel="funding"] tbody tr')
            hide = "is => { Object.defineProperty(document, 'hidden', { value: is, configurable: true });"
            hide += " document.dispatchEvent(new Event('visibilitychange')); }"
            visit.look(hide, True)
            before = visit.look("[document.body.innerText, asked, frames_seen]")
            visit.call(w.pass_time, 70_000)
            visit.wait("seen => frames_seen > seen + 100", before[2])
            assert visit.look("[document.body.innerText, asked]") == before[:2]
            assert visit.look("document.documentElement.dataset.socket") == "open"
            visit.look(hide, False)
            bars_are(visit, w)

        await browser.visit(act)


async def test_the_keys_lead_everywhere_and_the_focus_is_never_lost(browser: Browser) -> None:
    async with world(symbols=("BTCUSDT", "ETHUSDT")) as w:

        def press(visit: Visit, key: str, then: str) -> None:
            visit.page.keyboard.press(key)
            visit.wait(then)

        def view(name: str) -> str:
            return f"document.documentElement.dataset.view === '{name}'"

        def act(visit: Visit) -> None:
            visit.page.goto(f"{w.url}/")
            visit.page.wait_for_selector('[data-panel="markets"] tbody tr:nth-child(2) [data-field="last"]:not(:empty)')
            press(visit, "Tab", "document.activeElement.getAttribute('href') === '#main'")
            press(visit, "c", view("chart"))
            press(visit, "2", "location.hash.endsWith('/5m')")
            press(visit, "t", "document.querySelector('[data-role=\"bars-table\"]').open")
            press(visit, "h", view("health"))
            press(visit, "/", "document.activeElement.dataset.role === 'search'")
            press(visit, "m", "document.activeElement.value === 'm'")  # letters are letters in a field
            visit.page.keyboard.press("Control+A")
            visit.page.keyboard.type("ethusdt")
            press(visit, "Enter", "location.hash.includes('ETHUSDT')")
            press(visit, "?", "document.querySelector('dialog').open")
            visit.page.locator('[data-role="letters"]').uncheck()
            press(visit, "Escape", "!document.querySelector('dialog').open")
            visit.page.keyboard.press("h")
            assert visit.look(view("chart"))
            visit.look("document.querySelector('[data-nav=markets]').click()")
            visit.page.wait_for_selector('[data-symbol="BTCUSDT"] [data-field="last"]:not(:empty)')
            visit.page.wait_for_selector('[data-symbol="ETHUSDT"] [data-field="last"]:not(:empty)')

            visit.page.focus('tr[data-symbol="ETHUSDT"] a')
            price = '[data-symbol="ETHUSDT"] [data-field="last"]'
            before = visit.page.locator(price).get_attribute("data-value")
            visit.look("document.querySelector('th[data-sort=\"last\"] button').dispatchEvent(new Event('click'))")
            visit.look("document.querySelector('th[data-sort=\"last\"] button').dispatchEvent(new Event('click'))")
            assert visit.look("document.querySelector('tbody tr').dataset.symbol") == "ETHUSDT"  # the cheaper one first
            visit.call(w.pass_time, 5000)
            visit.wait(f"before => document.querySelector('{price}').dataset.value !== before", before)
            assert visit.look("document.activeElement.textContent") == "ETHUSDT"

        await browser.visit(act)


async def test_three_hundred_markets_take_few_commands_and_paint_at_their_own_pace(browser: Browser) -> None:
    async with world() as w:
        names = [f"S{number:03}USDT" for number in range(300)]
        told, (one, *_) = await w.get("/exchanges"), await w.get("/symbols")
        told["exchanges"][0]["symbols"] = names
        symbols = [{**one, "symbol": name, "base": name[:4]} for name in names]
        bar = {"type": "ohlc", "open": 1.5, "high": 2.0, "low": 1.0, "volume": 3.0, "quote_volume": 4.5}
        commands: list[Json] = []

        def act(visit: Visit) -> None:
            page = visit.page
            page.route("**/exchanges", lambda route: route.fulfill(json=told))
            page.route("**/symbols", lambda route: route.fulfill(json=symbols))
            sockets: list[Any] = []

            def talk(socket: Any) -> None:
                sockets.append(socket)
                socket.on_message(lambda text: commands.append(msgspec.json.decode(text)))

            page.route_web_socket("**/ws?*", talk)
            page.goto(f"{w.url}/")
            page.wait_for_selector('[data-panel="markets"] tbody tr:nth-child(300)')
            visit.wait("document.documentElement.dataset.socket === 'open'")
            wanted = {f"binance:{name}:{kind}" for name in names for kind in ("ohlc:1d", "funding", "oi")}
            until, topics = monotonic() + WITHIN / 1000, set[str]()
            while not topics >= wanted:
                assert monotonic() < until, commands
                page.wait_for_timeout(20)
                topics = {topic for command in commands for topic in command["topics"]}
            assert len(commands) < 20, "more at once are refused"
            painted = "new Promise((done) => { let count = 0; new MutationObserver(() => count++)"
            painted += ".observe(document.querySelector('tbody'), { subtree: true, attributes: true });"
            page.evaluate(f"window.painted = {painted} setTimeout(() => done(count), 1000); }})")
            for number in range(20):
                frames = [
                    {
                        **bar,
                        "topic": f"binance:{name}:ohlc:1d",
                        "close": 1.5 + number / 100,
                        "seq": number,
                        "epoch": "e",
                    }
                    for name in names
                ]
                sockets[0].send(msgspec.json.encode(frames).decode())
                page.wait_for_timeout(20)
            assert page.evaluate("painted") <= 6
            page.wait_for_selector('tr[data-symbol="S299USDT"] [data-value="1.69"]')

        await browser.visit(act)


async def test_every_view_is_free_of_serious_faults_and_fits_its_width(browser: Browser) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    async with venues([quick(exchange) for exchange in EXCHANGES.values()]) as w:

        def look(visit: Visit, name: str) -> None:
            found = axe.run(visit.page).response["violations"]
            serious = [
                (one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")
            ]
            assert serious == [], name
            assert not visit.look("document.documentElement.scrollWidth > innerWidth"), name

        def act(visit: Visit) -> None:
            visit.page.goto(w.url)
            for view, address in (("markets", "#/"), ("chart", "#/binance/BTCUSDT/1m"), ("health", "#/health")):
                visit.look("address => location.hash = address", address)
                visit.page.wait_for_selector(f'[data-page="{view}"] tbody tr')
                for scheme, width in (("light", 1440), ("dark", 390)):
                    visit.page.emulate_media(color_scheme=scheme)
                    visit.page.set_viewport_size({"width": width, "height": 900})
                    look(visit, f"{view} {scheme} {width}")

        await browser.visit(act)


async def test_who_needs_a_key_is_asked_for_it_and_the_socket_has_it_too(browser: Browser, tmp_path: Path) -> None:
    text, id, sha256 = new_key()
    write_keys(tmp_path / "keys.toml", {id: Key("reader", sha256, ("read",), datetime.now(UTC))})
    async with world(auth=Auth(keys_file=str(tmp_path / "keys.toml"), anonymous=()), live=False) as w:
        await w.subscribed("btcusdt@aggTrade")
        await w.pass_time(1000)

        def act(visit: Visit) -> None:
            visit.page.goto(f"{w.url}/#/binance/BTCUSDT/1m")
            visit.page.fill('[data-role="key"] input', f"{text[:-1]}{'A' if text[-1] != 'A' else 'B'}")
            visit.page.keyboard.press("Enter")
            visit.wait("document.querySelector('[data-role=key] [role=status]').textContent.includes('cannot be used')")
            visit.page.fill('[data-role="key"] input', text)
            visit.page.keyboard.press("Enter")
            state_is(visit, "live")
            assert visit.look("document.documentElement.dataset.socket") == "open"
            assert visit.look("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]

        await browser.visit(act, expected="401")
