"""The streaming module in a real browser, under a stand-in for the chart library that is as strict as the library."""

from functools import partial

import pytest
import trio

from daemon.settings import Server
from tests.daemon.fixtures import MINUTE, World, assets, iso, world
from tests.patience import WITHIN
from tests.web.browser import Browser, Visit, Wire

pytestmark = pytest.mark.timeout(240)

# What the library does with a datafeed: history first, then ticks over a cache of its own. A bar before the newest is a
# violation, a minute left out is a hole; when the datafeed says that the cache is void, history is asked for again.
CHART = """async (address) => {
    const { datafeed } = await import(address);
    const chart = window.chart = { bars: new Map(), troubles: [], resets: 0, ticks: 0, ready: null };
    datafeed.onReady((told) => (chart.ready = told));
    const symbol = await new Promise((done, failed) => datafeed.resolveSymbol("binance:btcusdt", done, failed));
    const history = (countBack) => new Promise((done, failed) => {
        const now = window.market_now();
        const range = { from: now - countBack * 60, to: now + 60, countBack, firstDataRequest: true };
        datafeed.getBars(symbol, "1", range, done, failed);
    });
    const load = async () => { chart.bars = new Map((await history(100)).map((bar) => [bar.time, bar])); };
    const tick = (bar) => {
        chart.ticks += 1;
        const newest = Math.max(...chart.bars.keys());
        if (bar.time < newest) chart.troubles.push(`violation: ${bar.time} after ${newest}`);
        if (bar.time > newest + 60_000) chart.troubles.push(`hole: ${newest} to ${bar.time}`);
        chart.bars.set(bar.time, bar);
    };
    let waiting = null; // ticks that come while history is asked for again
    const reset = async () => {
        chart.resets += 1;
        if (waiting) return;
        waiting = [];
        await load();
        const newest = Math.max(...chart.bars.keys());
        for (const bar of waiting) if (bar.time >= newest) tick(bar);
        waiting = null;
    };
    chart.pulse = async () => {
        const newest = Math.max(...chart.bars.keys());
        const old = (await history(2)).slice(-2).filter((bar) => bar.time < newest - 60_000);
        chart.troubles.push(...old.map((bar) => `pulse: ${bar.time} after ${newest}`));
    };
    await load();
    datafeed.subscribeBars(symbol, "1", (bar) => (waiting ? waiting.push(bar) : tick(bar)), "one", reset);
}"""


async def hears_again(w: World) -> None:
    """Let the market live until the daemon hears it: what a new connection missed is not sent to it."""
    with trio.fail_after(WITHIN):
        while (await w.get("/health"))["status"] != "healthy":
            await w.pass_time(500)
            await trio.sleep(0.05)


AT = "async (now) => { window.market_now = () => now; }"
PRICES = ("open", "high", "low", "close", "volume")


async def test_ten_minutes_of_pulses_over_cuts_have_no_violation_no_hole_and_ask_the_exchange_for_nothing(
    browser: Browser,
) -> None:
    async with world(market=assets("BTC"), server=Server(port=0, cors_origins="*")) as w:
        wire = Wire(w.url, w.nursery)
        await wire.open()

        def act(visit: Visit) -> None:
            visit.page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
            visit.page.goto(f"{w.url}/health/live")  # another origin than the module's
            visit.look(AT, w.now // 1000)
            visit.look(CHART, f"{wire.url}/udf/datafeed.js")
            calls, began, cuts = w.sim.count("/fapi/v1/klines"), w.now, 0
            while w.now - began < 10 * MINUTE:
                visit.call(w.pass_time, 15_000)
                visit.look(AT, w.now // 1000)
                visit.look("chart.pulse()")
                if (w.now - began) % (2 * MINUTE) == 0:
                    visit.soon(wire.cut)
                    visit.call(w.pass_time, 75_000)
                    visit.soon(wire.mend)
                    visit.look("chart.ticks = 0")
                    visit.wait("chart.ticks > 60")  # all that was missed
                    cuts += 1
                    w.sim.faults.ws_accept = "reset"
                    visit.soon(w.sim.drop)
                    visit.call(w.health, lambda told: told["status"] != "healthy")
                    visit.call(w.pass_time, 70_000)
                    w.sim.faults.ws_accept = "accept"
                    visit.call(hears_again, w)
            assert w.sim.count("/fapi/v1/klines") - calls <= 6 * cuts, (
                "a lost connection's bars are asked for, no pulse is"
            )
            bars = visit.call(partial(w.get, "/binance/ohlc/BTCUSDT/1m", limit=100))
            visit.wait("last => Math.max(...chart.bars.keys()) === Date.parse(last)", bars[-1]["timestamp"])
            told = visit.look("({ ...chart, bars: [...chart.bars.values()].sort((a, b) => a.time - b.time) })")
            assert told["troubles"] == []
            assert told["resets"] >= cuts, "a repaired gap is in the history alone"
            assert told["ready"]["supports_search"]
            known = {iso(bar["time"]): [bar[name] for name in PRICES] for bar in told["bars"]}
            for bar in bars[:-1]:
                assert known[bar["timestamp"]] == [bar[name] for name in PRICES]

        await browser.visit(act, expected="ERR_")
