"""What the dashboard costs a browser, beside its budgets: bytes, the time until it lives, frames, tasks, nodes, heap.

    python -m tests.benchmarks.page [--rates 200,1000] [--seconds 20] [--hour 60]

The daemon and a simulated Binance run in this process, Chromium beside it, on one chart with both tapes. Updates are
what the page's socket brings it; the market runs as fast as that takes. `--hour` is how many seconds the heap is
watched for, in which as many updates come as in an hour of a busy market (8 a second); 0: not at all. Chromium is
Debian's.
"""

import argparse
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import trio

from tests.daemon.fixtures import World, fast, world
from tests.web.browser import Browser, Visit

STEP = 0.05  # seconds between two pieces of the market's time
HOUR = 8 * 3600  # updates
# What the page notes of itself: since it began to live, the frames it painted and the tasks that took over 50 ms.
NOTES = """
window.lived = 0; window.frames = 0; window.widest = 0; window.long = [];
new PerformanceObserver((list) => {
    for (const task of list.getEntries()) window.long.push([task.startTime, task.duration]);
}).observe({ type: "longtask", buffered: true });
addEventListener("DOMContentLoaded", () => {
    const chart = document.querySelector('[data-panel="chart"]');
    new MutationObserver(() => {
        if (chart.dataset.state === "live" && +chart.dataset.bars) window.lived ||= performance.now();
    }).observe(chart, { attributes: true });
});
let former = 0;
(function frame(now) {
    window.frames += 1;
    if (former) window.widest = Math.max(window.widest, now - former);
    former = now;
    requestAnimationFrame(frame);
})(0);
"""


class Driver:
    """Lets the market live so fast that the page gets as many updates as are wanted."""

    def __init__(self, w: World) -> None:
        self._w = w
        self.speed = 0.0  # of the market's time

    async def run(self) -> None:
        while True:
            if self.speed:
                await self._w.pass_time(round(1000 * STEP * self.speed))
            await trio.sleep(STEP)


class Page:
    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._session = visit.page.context.new_cdp_session(visit.page)
        self._session.send("Performance.enable")
        self._session.send("Network.enable")
        self.bytes: dict[str, float] = {}
        urls: dict[str, str] = {}
        self._session.on(
            "Network.requestWillBeSent", lambda told: urls.update({told["requestId"]: told["request"]["url"]})
        )
        self._session.on("Network.loadingFinished", lambda told: self._note(urls[told["requestId"]], told))

    def _note(self, url: str, told: dict[str, Any]) -> None:
        self.bytes[url] = self.bytes.get(url, 0) + told["encodedDataLength"]

    def collect(self) -> None:
        for _ in range(2):
            self._session.send("HeapProfiler.collectGarbage")

    def metrics(self) -> dict[str, float]:
        return {one["name"]: one["value"] for one in self._session.send("Performance.getMetrics")["metrics"]}

    def elements(self) -> int:
        count: int = self._visit.look("document.getElementsByTagName('*').length")
        return count

    def look(self, expression: str) -> Any:
        return self._visit.look(expression)

    def rest(self, seconds: float) -> None:
        self._visit.page.wait_for_timeout(1000 * seconds)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def tell(name: str, value: str, budget: str, is_within: bool) -> None:
    say(f"{name:44} {value:>24}   {budget:24} {'' if is_within else 'OVER'}")


@contextmanager
def counted(page: Page) -> Iterator[dict[str, float]]:
    """What happens within the block: updates, frames and milliseconds of it, and what the main thread did."""
    page.look("(frames = 0, widest = 0, long.length = 0, frames_seen = 0, window.began = performance.now())")
    before, found = page.metrics(), dict[str, float]()
    yield found
    told = page.look(
        "({ frames, widest, updates: frames_seen, ms: performance.now() - began, long: long.length,"
        " longest: Math.max(0, ...long.map(([, ms]) => ms)) })"
    )
    after = page.metrics()
    found |= told
    for name in ("TaskDuration", "ScriptDuration", "LayoutDuration", "RecalcStyleDuration"):
        found[name] = after[name] - before[name]


def measure(visit: Visit, url: str, driver: Driver, rates: list[int], seconds: float, hour: float) -> None:
    visit.page.add_init_script(NOTES)
    page = Page(visit)
    visit.page.goto(f"{url}/#/binance/BTCUSDT/1m")
    visit.wait("lived > 0")
    page.rest(2)
    told = sum(size for name, size in page.bytes.items() if "/ui/" in name or name.endswith("/"))
    library = next(size for name, size in page.bytes.items() if "lightweight" in name)
    lived = page.look("lived")
    tell("page's files without the library", f"{(told - library) / 1000:.1f} kB", "150 kB", told - library < 150_000)
    tell("with it", f"{told / 1000:.1f} kB", "250 kB", told < 250_000)
    tell("all answers to a chart's first load", f"{sum(page.bytes.values()) / 1000:.1f} kB", "", True)
    tell("navigation until the chart lives", f"{lived:.0f} ms", "2000 ms", lived < 2000)

    driver.speed = 10
    with counted(page) as first:
        page.rest(5)
    per_speed = first["updates"] / (first["ms"] / 1000) / driver.speed
    for rate in rates:
        driver.speed = rate / per_speed
        page.rest(2)
        with counted(page) as found:
            page.rest(seconds)
        took = found["ms"] / 1000
        say(f"-- {found['updates'] / took:.0f} updates a second, market at {driver.speed:.0f} times real time")
        frames = found["frames"] / took
        tell("frames a second", f"{frames:.1f}", "60 at 200 updates/s", frames > 58 or rate > 200)
        tell("longest pause between two", f"{found['widest']:.0f} ms", "", True)
        tell("tasks over 50 ms", f"{found['long']:.0f} (longest {found['longest']:.0f} ms)", "none", not found["long"])
        shares = (
            found[name] / took for name in ("TaskDuration", "ScriptDuration", "LayoutDuration", "RecalcStyleDuration")
        )
        tell(
            "main thread: busy, script, layout, style",
            " ".join(f"{100 * share:.1f}" for share in shares) + " %",
            "",
            True,
        )
        tell("elements", f"{page.elements()}", "3000", page.elements() <= 3000)
    if hour:
        watch_heap(page, driver, per_speed, hour)
    driver.speed = 0
    visit.look("document.querySelector('[data-role=bars-table]').open = true")
    page.rest(1)
    tell("elements with the table of bars", f"{page.elements()}", "3000", page.elements() <= 3000)


def watch_heap(page: Page, driver: Driver, per_speed: float, seconds: float) -> None:
    """The heap after as many updates as five minutes and an hour bring, of which the first have filled the tapes."""
    page.look("(frames_seen = 0)")
    sizes = []
    for updates in (HOUR / 12, HOUR):
        driver.speed = HOUR / seconds / per_speed
        while page.look("frames_seen") < updates:
            page.rest(0.5)
        driver.speed = 0  # what is under way is no part of it
        page.rest(2)
        page.collect()
        sizes.append(page.metrics()["JSHeapUsedSize"] / 1e6)
    growth = sizes[1] / sizes[0] - 1
    tell("heap after 5 minutes' updates, an hour's", f"{sizes[0]:.2f}, {sizes[1]:.2f} MB", "within 10 %", growth < 0.1)
    tell("nodes of all kinds", f"{page.metrics()['Nodes']:.0f}", "", True)


async def run(rates: list[int], seconds: float, hour: float) -> None:
    browser = await trio.to_thread.run_sync(Browser)
    try:
        async with world(symbols=("BTCUSDT", "ETHUSDT"), exchange=fast()) as w:
            driver = Driver(w)
            w.nursery.start_soon(driver.run)
            act = partial(measure, url=w.url, driver=driver, rates=rates, seconds=seconds, hour=hour)
            await browser.visit(act, viewport={"width": 1440, "height": 900})
    finally:
        await trio.to_thread.run_sync(browser.close)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.page", description=__doc__)
    parser.add_argument("--rates", default="200,1000", help="updates a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each rate")
    parser.add_argument("--hour", type=float, default=60.0, help="seconds in which an hour's updates come")
    told = parser.parse_args()
    say(f"{platform.machine()}, {os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}")
    trio.run(run, [int(rate) for rate in told.rates.split(",")], told.seconds, told.hour)


if __name__ == "__main__":
    main()
