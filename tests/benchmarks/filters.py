"""What many filters of one topic cost: 2 sockets that follow 1000 each, all different, 20 events a second, all wanted.

    python -m tests.benchmarks.filters [--filters 2000] [--rate 20] [--seconds 10]

Reported: the server's share of a core, its CPU per delivered frame, its memory before the filters, with them and at the
end, the frames that reached the two sockets, and how late a neighbour's plain stream was meanwhile. Linux only.
"""

import argparse
import socket
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from .clients import HANDSHAKE
from .feeder import age_of, daemon_config, now_us
from .processes import choose_cores, machine, read_cpu, read_memory, started, wait_for_address

MARK = b'"type":"large_trade"'
SOCKETS = 2


class Reader:
    """A socket whose bytes are counted and dropped, by a thread of its own."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.frames, self.ages = 0, list[int]()
        self._socket = socket.create_connection((parts.hostname, parts.port))
        self._socket.sendall(HANDSHAKE.format(parts.path, parts.netloc).encode())
        threading.Thread(target=self._read, daemon=True).start()

    def say(self, text: bytes) -> None:
        size = len(text)
        self._socket.sendall(bytes([0x81, 0x80 | 126]) + size.to_bytes(2, "big") + bytes(4) + text)

    def _read(self) -> None:
        rest = b""
        while data := self._socket.recv(1 << 20):
            data = rest + data
            self.frames += data.count(MARK)
            rest = data[-len(MARK) + 1 :]
            if len(data) < 4096:  # a lone event of the neighbour
                _, found, text = data.rpartition(b'"price":')
                if found:
                    self.ages.append(age_of(float(text.partition(b",")[0]), now_us()))
                rest = b""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.filters", description=__doc__)
    parser.add_argument("--filters", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    cores = choose_cores()
    sys.stdout.write(f"{machine(cores)}\n")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="filters-")))
        limit = ["--limit", str(round(options.seconds + 60))]
        command = [sys.executable, "-m", f"{__package__}.feeder", "--rate", str(options.rate), *limit]
        feeder = stack.enter_context(started(command, folder / "feeder.log", cores.others))
        address = wait_for_address(feeder, folder / "feeder.log")
        config = daemon_config(address).replace("[streams]", "[streams]\nlarge_trade_threshold_usd = 0.000001")
        (folder / "config.toml").write_text(config)
        command = [sys.executable, "-m", "daemon", "--config", str(folder / "config.toml")]
        core = cores.others if cores.server is None else [cores.server]
        server = stack.enter_context(started(command, folder / "server.log", core))
        url = "ws://" + wait_for_address(server, folder / "server.log")
        time.sleep(3)
        neighbour = Reader(f"{url}/ws/all/large_trades")
        before = read_memory(server.pid)
        readers = [Reader(f"{url}/ws") for _ in range(SOCKETS)]
        time.sleep(0.5)
        for number, reader in enumerate(readers):
            mine = range(number, options.filters, SOCKETS)
            names = [f"all:large_trades?min_value_usd={0.000001 * (1 + each):f}" for each in mine]
            for at in range(0, len(names), 200):
                reader.say(msgspec.json.encode({"op": "subscribe", "topics": names[at : at + 200]}))
                time.sleep(0.25)
        time.sleep(1)
        opened = read_memory(server.pid)
        neighbour.ages.clear()
        frames, cpu, begin = sum(r.frames for r in readers), read_cpu(server.pid, cores.server), time.monotonic()
        time.sleep(options.seconds)
        last, seconds = read_cpu(server.pid, cores.server), time.monotonic() - begin
        delivered, used = sum(r.frames for r in readers) - frames, last.user + last.system - cpu.user - cpu.system
        memory, ages = read_memory(server.pid), sorted(neighbour.ages)
        p99 = ages[len(ages) * 99 // 100] / 1000 if ages else float("nan")
        sys.stdout.write(
            f"{options.filters} filters, {options.rate:g} events/s: {used / seconds:.1%} of a core "
            f"({(last.system - cpu.system) / seconds:.1%} in the kernel), "
            f"{used * 1e6 / max(1, delivered):.2f} us per frame, {delivered / seconds:.0f} frames/s; memory "
            f"{before / 1e6:.0f} MB before, {(opened - before) / 1e6:+.0f} MB with them, "
            f"{(memory - before) / 1e6:+.0f} MB after {seconds:.0f} s; the neighbour's p99 {p99:.1f} ms\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
