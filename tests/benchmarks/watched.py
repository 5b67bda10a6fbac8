"""The daemon with somebody inside who watches: how long its tasks make each other wait, and how many bars it holds.

    python -m tests.benchmarks.watched [arguments of marketd]

Each line on stdin is answered by one line on stdout, a `Watched`, and the counting of passes begins anew. A pass of
Trio's scheduler gives every task that is ready its turn; whatever becomes ready meanwhile waits for its end. Counting
the bars looks at every object that there is, and stops the daemon for that long.
"""

import gc
import sys
import threading
import time
from bisect import bisect_left
from functools import partial
from unittest.mock import patch

import msgspec
import trio

from actors.feeds.bars import Bars
from actors.feeds.packing import Packed
from daemon.__main__ import main

LIMITS = (1, 2, 5, 10, 20, 50, 100, 200, 500)  # milliseconds, the upper ends of the histogram's classes


class Watched(msgspec.Struct, frozen=True):
    """Passes by how long they took (the last class has no upper end), and the longest of them, in ms; series of bars
    that there are and that are loaded, their bars, and how many of these are packed into so many bytes."""

    passes: list[int]
    longest: float
    series: int
    loaded: int
    bars: int
    packed: int
    packed_bytes: int


class Passes(trio.abc.Instrument):
    def __init__(self) -> None:
        self._began: float | None = None
        self.begin()

    def begin(self) -> None:
        self.counts = [0] * (len(LIMITS) + 1)
        self.longest = 0.0

    def after_io_wait(self, timeout: float) -> None:
        self._began = time.perf_counter()

    def before_io_wait(self, timeout: float) -> None:
        if self._began is not None:
            took = 1000 * (time.perf_counter() - self._began)
            self.counts[bisect_left(LIMITS, took)] += 1
            self.longest = max(self.longest, took)


def answer(passes: Passes) -> None:
    """Answer questions until there are no more. A thread's work: stdin has no other end."""
    for _ in sys.stdin:
        counts, longest = passes.counts, passes.longest
        every = [kept for kept in gc.get_objects() if type(kept) is Bars]
        blocks = [block for bars in every for block in bars.rows._blocks if isinstance(block, Packed)]
        watched = Watched(
            passes=counts,
            longest=longest,
            series=len(every),
            loaded=sum(not bars.needs_load for bars in every),
            bars=sum(len(bars.rows) for bars in every),
            packed=sum(bars.rows._packed for bars in every),
            packed_bytes=sum(len(block.data) for block in blocks),
        )
        sys.stdout.write(msgspec.json.encode(watched).decode() + "\n")
        sys.stdout.flush()
        passes.begin()


if __name__ == "__main__":
    watch = Passes()
    threading.Thread(target=answer, args=(watch,), daemon=True).start()
    with patch.object(trio, "run", partial(trio.run, instruments=[watch])):
        sys.exit(main(sys.argv[1:]))
