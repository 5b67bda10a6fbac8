"""What the README shows is what the program does."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

from tests.daemon.fixtures import Json, assets, eventually, world

ROOT = Path(__file__).parents[1]
STREAMS = (ROOT / "web" / "README.md").read_text()

PAGES = [
    page for page in sorted(ROOT.rglob("README.md")) if not any(p.startswith(".") for p in page.relative_to(ROOT).parts)
]

RUN = """

async def main():
    async for bar in closed_bars(URL):
        print(json.dumps(bar), flush=True)

asyncio.run(main())
"""


async def test_the_example_client_hears_every_bar_once_through_lost_connections() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", STREAMS, re.DOTALL)
    heard: list[Json] = []
    async with world(rate=60, market=assets("BTC")) as w:
        url = w.url.replace("http", "ws", 1) + "/ws"
        command = [sys.executable, "-c", f"URL = {url!r}\n{example}{RUN}"]

        async def listen(process: trio.Process) -> None:
            assert process.stdout is not None
            rest = b""
            async for data in process.stdout:
                *lines, rest = (rest + data).split(b"\n")
                heard.extend(map(msgspec.json.decode, lines))

        async with trio.open_nursery() as nursery:
            process = await nursery.start(partial(trio.run_process, command, stdout=subprocess.PIPE, check=False))
            nursery.start_soon(listen, process)
            await eventually(lambda: len(heard) >= 499, what="the whole backfill, or what follows is taken for news")
            for _ in range(3):
                count = len(heard)
                w.sim.drop()  # the exchange's connection
                await eventually(lambda: len(heard) > count)  # noqa: B023 - awaited here
            process.terminate()
            nursery.cancel_scope.cancel()
        times = [bar["timestamp"] for bar in heard]
        assert times == sorted(set(times))
        rows = await w.bars(limit=1500)
        known = {row["timestamp"]: row for row in rows}
        within = [row for row in rows if times[0] <= row["timestamp"] <= times[-1]]
        assert [row["timestamp"] for row in within] == times, "none is missing"
        for bar in heard:
            assert known[bar["timestamp"]].items() <= bar.items()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" in link:
            continue
        name, _, place = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if place else []
        assert not place or place in [re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings], link


def test_a_stranger_reads_no_more_than_170_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 170


def test_the_walk_of_a_trade_names_at_most_eight_files_each_once() -> None:
    text = (ROOT / "actors" / "README.md").read_text()
    walk = text.partition("## One trade")[2].partition("\n## ")[0]
    files = re.findall(r"`((?:actors|web)/[\w/]+\.py)`", walk)
    assert 0 < len(files) <= 8
    assert len(set(files)) == len(files)
    assert all((ROOT / file).is_file() for file in files)
