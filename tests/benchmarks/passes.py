"""The daemon as it is, with its scheduler counted: how many passes it makes, and which tasks run in them.

    python -m tests.benchmarks.passes FILE [arguments of marketd]

Every half second FILE says how many there were since the start. A pass is one look at the sockets and timers
(`epoll_wait`) and all tasks that are ready then; a step is one task's turn. Counting costs CPU of its own: what is
measured elsewhere is measured without.
"""

import sys
from collections import Counter
from functools import partial
from pathlib import Path

import msgspec
import trio

from daemon.__main__ import main

EVERY = 0.5  # seconds


class Passes(msgspec.Struct):
    """Since the start. `steps`: by the coroutine that a task runs."""

    passes: int = 0
    steps: dict[str, int] = {}

    def since(self, before: "Passes") -> "Passes":
        steps = Counter(self.steps)
        steps.subtract(before.steps)
        return Passes(self.passes - before.passes, dict(steps.most_common()))


class Counting(trio.abc.Instrument):
    def __init__(self, file: Path) -> None:
        self._file = file
        self._counted = Passes()
        self._next_write = 0.0

    def before_io_wait(self, timeout: float) -> None:
        self._counted.passes += 1

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        steps = self._counted.steps
        steps[task.name] = steps.get(task.name, 0) + 1

    def after_io_wait(self, timeout: float) -> None:
        if (now := trio.current_time()) >= self._next_write:
            self._next_write = now + EVERY
            whole = self._file.with_suffix(".new")
            whole.write_bytes(msgspec.json.encode(self._counted))
            whole.replace(self._file)


def read(file: Path) -> Passes:
    return msgspec.json.decode(file.read_bytes(), type=Passes)


if __name__ == "__main__":
    trio.run = partial(trio.run, instruments=[Counting(Path(sys.argv[1]))])  # type: ignore[assignment]
    sys.exit(main(sys.argv[2:]))
