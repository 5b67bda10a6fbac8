"""What recording costs: the same frames taken by a line with and without a recorder, in turns.

CPU per frame, of the Trio thread alone (that is what ingest is slowed by) and of the whole process (compressing and
writing included), and how many bytes a frame takes on the disk.

    python -m tests.benchmarks.record --frames 100000 --rounds 5
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import trio

from actors import clock
from actors.recording.recorder import Recorded, Recorder
from actors.upstream.dial import ConnectionClosed, closed
from actors.upstream.inbound import Heard
from actors.upstream.seam import Socket, Upstream

BURST = 100  # frames between two looks of other tasks, as when a socket has much to say


class Cost(NamedTuple):
    """Microseconds of CPU per frame."""

    trio_thread: float
    process: float


class Frames:
    """An upstream whose only socket has these frames at once."""

    def __init__(self, frames: Sequence[bytes]) -> None:
        self._frames = iter(frames)

    @asynccontextmanager
    async def open_socket(self, *where: Any) -> AsyncIterator[Socket]:
        yield self

    def open_http(self, *where: Any) -> Any:
        raise NotImplementedError

    async def listen(self, heard: Heard) -> NoReturn:
        for number, frame in enumerate(self._frames):
            heard([frame], clock.now())
            if number % BURST == 0:
                await trio.lowlevel.checkpoint()
        raise closed(None, "")

    async def send_message(self, message: str) -> None: ...
    async def ping(self) -> None: ...


def made_up(count: int) -> list[bytes]:
    """Trades and bars as Binance sends them: no two are alike, as in life."""
    rng = random.Random(1)
    frames = []
    for number in range(count):
        now, price = 1_789_999_200_000 + number * 3, 84_000 + rng.random() * 100
        name = rng.choice(("btcusdt", "ethusdt", "solusdt"))
        quantity = rng.random() * 3
        if number % 3:
            text = (
                f'{{"stream":"{name}@aggTrade","data":{{"e":"aggTrade","E":{now + 5},"a":{3478018549 + number},'
                f'"s":"{name.upper()}","p":"{price:.2f}","q":"{quantity:.3f}","nq":"{quantity:.3f}","f":{number * 2},'
                f'"l":{number * 2 + 1},"T":{now},"m":{str(rng.random() < 0.5).lower()},"st":1}}}}'
            )
        else:
            volume = rng.random() * 1000
            text = (
                f'{{"stream":"{name}@kline_1m","data":{{"e":"kline","E":{now},"s":"{name.upper()}","k":{{"t":'
                f'{now // 60000 * 60000},"T":{now // 60000 * 60000 + 59999},"s":"{name.upper()}","i":"1m","f":{number},'
                f'"L":{number + 9},"o":"{price:.2f}","c":"{price + 1:.2f}","h":"{price + 2:.2f}","l":"{price - 2:.2f}",'
                f'"v":"{volume:.3f}","n":{number % 5000},"x":false,"q":"{volume * price:.4f}",'
                f'"V":"{volume / 2:.3f}","Q":"{volume * price / 2:.4f}","B":"0"}},"st":1}}}}'
            )
        frames.append(text.encode())
    return frames


async def take(upstream: Upstream) -> None:
    with suppress(ConnectionClosed):
        async with upstream.open_socket("binance", 1, [], "", None) as socket:
            await socket.listen(lambda messages, taken_at: None)


async def measured(frames: Sequence[bytes], folder: Path | None) -> Cost:
    upstream: Upstream = Frames(frames)
    process, thread = time.process_time(), time.thread_time()
    if folder is None:
        await take(upstream)
    else:
        recorder = Recorder(folder, {}, part_bytes=1 << 40)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(recorder.run)
            await take(Recorded(upstream, recorder))
            nursery.cancel_scope.cancel()
        if recorder.lost:
            raise RuntimeError(f"{recorder.lost} records were lost")
    each = 1e6 / len(frames)
    return Cost((time.thread_time() - thread) * each, (time.process_time() - process) * each)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    frames = made_up(options.frames)
    without, with_it = list[Cost](), list[Cost]()
    on_disk = 0
    for _ in range(options.rounds):
        without.append(trio.run(measured, frames, None))
        with tempfile.TemporaryDirectory() as folder:
            with_it.append(trio.run(measured, frames, Path(folder)))
            on_disk = sum(path.stat().st_size for path in Path(folder).iterdir())
    size = sum(map(len, frames)) / len(frames)
    rows = [("without", without), ("recorded", with_it)]
    for name, costs in rows:
        thread, process = (statistics.median(part) for part in zip(*costs, strict=True))
        sys.stdout.write(
            f"{name:>9}: {thread:6.2f} us of the Trio thread, {process:6.2f} us of the process, per frame\n"
        )
    sys.stdout.write(f"a frame of {size:.0f} bytes takes {on_disk / len(frames):.1f} on the disk\n")


if __name__ == "__main__":
    main()
