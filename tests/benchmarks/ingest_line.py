"""One line of the daemon with feeds that only count: what a frame costs from the socket to a normalised event.

Ends when the exchange does, and says how many events of which kind there were, as a line of JSON.
"""

import argparse
import signal
import sys
from collections import Counter
from typing import Any

import msgspec
import trio

from actors.errors import LineLost
from actors.events import Kind, Topic
from actors.exchanges.binance import EXCHANGE
from actors.exchanges.exchange import Backlog, Update
from actors.lines.line import Line
from daemon import log

from .feeder import symbols

KINDS: tuple[tuple[Kind, str | None], ...] = (("trades", None), ("ohlc", "1m"))


class Counting:
    """A feed in which nothing happens."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()

    def deliver(self, said: Update | Backlog | Topic, received_at: Any) -> None:
        if isinstance(said, Update):
            self.kinds[said.event.kind] += 1

    def ignore(self, *_: object, **__: object) -> None:
        pass

    line_up = line_down = topic_silent = topic_heard = topic_rejected = line_refused = ignore


async def run(url: str, count: int) -> Counter[str]:
    feeds = {symbol: Counting() for symbol in symbols(count)}
    line = Line(EXCHANGE, url, None, {}, trio.lowlevel.checkpoint, 1)
    for symbol, feed in feeds.items():
        line.add(feed, [Topic(EXCHANGE.name, symbol, kind, interval) for kind, interval in KINDS])
    try:
        await line.run()
    except* LineLost:
        pass
    return sum((feed.kinds for feed in feeds.values()), Counter())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="ws://host:port of the exchange")
    parser.add_argument("--symbols", type=int, required=True)
    parser.add_argument("--limit", type=int, required=True, help="seconds after which the process ends, whatever is on")
    options = parser.parse_args()
    signal.alarm(options.limit)
    log.configure("INFO", "json")
    kinds = trio.run(run, options.url, options.symbols)
    sys.stdout.buffer.write(msgspec.json.encode(kinds) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
