"""What clients that do not speak Trio are pointed at: the demo (the daemon and its simulators) in a process of its own,
or a daemon and one simulator in a thread of this one, so that what the exchange was asked can be counted.
"""

import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trio

from actors.simulation.server import Served as Request
from daemon.settings import Facade
from tests.daemon.fixtures import eventually
from tests.web.facade.fixtures import SYMBOLS, Venue, venue

WITHIN = 60.0  # seconds
CONFIG = """
[streams]
intervals = ["1m"]     # warming up must leave the clients something to ask
[oi_vol]
timeframes = []
[archive]
enabled = false
[facade]
share = 0.95           # a minute of tests asks for what a bot asks for in ten
[exchanges.binance]
symbols = ["BTCUSDT"]
[exchanges.bybit]
symbols = ["BTCUSDT"]
[exchanges.hyperliquid]
symbols = ["BTC"]
[exchanges.okx]
symbols = ["BTC-USDT-SWAP"]
"""


@contextmanager
def demo(config_text: str = CONFIG) -> Iterator[str]:
    """The base URL of a running demo whose feeds have begun; its archive is in a folder of its own."""
    with TemporaryDirectory() as folder:
        config = Path(folder) / "config.toml"
        config.write_text(config_text.replace("ARCHIVE", str(Path(folder) / "archive.sqlite3")))
        yield from _running([sys.executable, "-m", "daemon", "demo", "--port", "0", "--config", str(config)])


def _running(command: list[str]) -> Iterator[str]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        deadline = time.monotonic() + WITHIN
        for line in process.stdout:
            if found := re.search(r"documentation\s+(http://\S+?)/docs", line):
                yield found[1]
                return
            if time.monotonic() > deadline:
                break
        raise AssertionError("the demo did not begin")
    finally:
        process.terminate()
        process.wait(15)


@contextmanager
def running(name: str, *, rate: float = 1.0, share: float = 0.5, **changes: Any) -> Iterator[Venue]:
    """A daemon whose feed has begun, and the exchange behind it."""
    found: list[Venue] = []
    is_up, is_over = threading.Event(), threading.Event()

    async def main() -> None:
        now, facade = int(time.time() * 1000), Facade(share=share)
        async with venue(name, rate=rate, start=now, symbols=SYMBOLS[name], facade=facade, **changes) as world:
            await eventually(lambda: any(c.streams for c in world.sim.connections), what="the feed")
            await trio.sleep(1)
            found.append(world)
            is_up.set()
            await trio.to_thread.run_sync(is_over.wait)

    thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
    thread.start()
    assert is_up.wait(60)
    try:
        yield found[0]
    finally:
        is_over.set()
        thread.join(30)


def asked_of(world: Venue, since: int, until: int | None = None) -> Counter[tuple[str, str]]:
    """How often the exchange was asked each question, whoever asked when."""
    asked = islice(list(world.sim.requests), since, until)
    return Counter((_kind(one), f"{sorted(one.query.items())}{one.body!r}") for one in asked)


def _kind(one: Request) -> str:
    """The path, and where all have the same one, what is asked."""
    return f"{one.path} {json.loads(one.body)['type']}" if one.body else one.path
