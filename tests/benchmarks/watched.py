"""The daemon with somebody inside who watches: how long its tasks make each other wait, and how many bars it holds.

    python -m tests.benchmarks.watched [arguments of marketd]

Each line on stdin is answered by one line on stdout, a `Watched`, and the counting of passes begins anew. A pass of
Trio's scheduler gives every task that is ready its turn; whatever becomes ready meanwhile waits for its end.
"""

import sys
import threading
import time
from bisect import bisect_left
from functools import partial
from unittest.mock import patch
from weakref import WeakSet

import msgspec
import trio

from actors.exchanges.exchange import Exchange
from actors.feeds.bars import Bars
from actors.feeds.packing import Packed
from daemon.__main__ import main

LIMITS = (1, 2, 5, 10, 20, 50, 100, 200, 500)  # milliseconds, the upper ends of the histogram's classes


class Watched(msgspec.Struct, frozen=True):
    """Passes by how long they took (the last class has no upper end), by the processor and by the clock on the wall;
    the longest of each in ms, what had its turn in the former, and the longest turn of one task by the processor;
    series of bars that there are and that are loaded, their bars, how many of these are packed and in how many bytes.
    """

    passes: list[int]
    longest: float
    longest_of: str
    passes_by_wall: list[int]
    longest_by_wall: float
    longest_turn: float
    longest_turn_of: str
    series: int
    loaded: int
    bars: int
    packed: int
    packed_bytes: int


class Passes(trio.abc.Instrument):
    """By the processor's time; the wall's also tells how long this program waited for others on the machine."""

    def __init__(self) -> None:
        self._began: tuple[float, float] | None = None
        self._turn = 0.0
        self._turns: dict[str, list[float]] = {}  # of this pass, by the coroutine that a task runs: ms
        self.begin()

    def begin(self) -> None:
        self.counts, self.longest, self.longest_of = [0] * (len(LIMITS) + 1), 0.0, ""
        self.counts_by_wall, self.longest_by_wall = [0] * (len(LIMITS) + 1), 0.0
        self.longest_turn, self.longest_turn_of = 0.0, ""

    def after_io_wait(self, timeout: float) -> None:
        self._began = time.thread_time(), time.perf_counter()
        self._turns = {}

    def before_io_wait(self, timeout: float) -> None:
        if self._began is not None:
            used = 1000 * (time.thread_time() - self._began[0])
            took = 1000 * (time.perf_counter() - self._began[1])
            self.counts[bisect_left(LIMITS, used)] += 1
            self.counts_by_wall[bisect_left(LIMITS, took)] += 1
            self.longest_by_wall = max(self.longest_by_wall, took)
            if used > self.longest:
                self.longest = used
                most = sorted(self._turns.items(), key=lambda turns: -sum(turns[1]))[:4]
                self.longest_of = ", ".join(f"{len(of)} of {name} {sum(of):.1f} ms" for name, of in most)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._turn = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        took = 1000 * (time.thread_time() - self._turn)
        self._turns.setdefault(task.name, []).append(took)
        if took > self.longest_turn:
            self.longest_turn, self.longest_turn_of = took, task.name


every: WeakSet[Bars] = WeakSet()
make = Bars.__init__


def noted(bars: Bars, exchange: Exchange, symbol: str, interval: str) -> None:
    make(bars, exchange, symbol, interval)
    every.add(bars)


def answer(passes: Passes) -> None:
    """Answer questions until there are no more. A thread's work: stdin has no other end."""
    for _ in sys.stdin:
        held = list(every)
        blocks = [block for bars in held for block in bars.rows._blocks if isinstance(block, Packed)]
        watched = Watched(
            passes=passes.counts,
            longest=passes.longest,
            longest_of=passes.longest_of,
            passes_by_wall=passes.counts_by_wall,
            longest_by_wall=passes.longest_by_wall,
            longest_turn=passes.longest_turn,
            longest_turn_of=passes.longest_turn_of,
            series=len(held),
            loaded=sum(not bars.needs_load for bars in held),
            bars=sum(len(bars.rows) for bars in held),
            packed=sum(bars.rows._packed for bars in held),
            packed_bytes=sum(len(block.data) for block in blocks),
        )
        sys.stdout.write(msgspec.json.encode(watched).decode() + "\n")
        sys.stdout.flush()
        passes.begin()


if __name__ == "__main__":
    watch = Passes()
    threading.Thread(target=answer, args=(watch,), daemon=True).start()
    counted = patch.object(Bars, "__init__", noted)
    with counted, patch.object(trio, "run", partial(trio.run, instruments=[watch])):
        sys.exit(main(sys.argv[1:]))
