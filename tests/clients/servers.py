"""Runs the demo (the daemon and its simulators) in a process of its own, for clients that do not speak Trio."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

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
"""


@contextmanager
def demo() -> Iterator[str]:
    """The base URL of a running demo whose feeds have begun."""
    with TemporaryDirectory() as folder:
        config = Path(folder) / "config.toml"
        config.write_text(CONFIG)
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
