"""The processes of a benchmark: started on chosen cores, spoken to in lines of JSON, measured, and stopped again.

Linux only. Nothing here outlives its `with` block, and every wait has a limit.
"""

import os
import platform
import resource
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import msgspec

ROOT = Path(__file__).parents[2]
START_WITHIN = 30.0  # seconds, each process
STOP_WITHIN = 10.0
TICK = os.sysconf("SC_CLK_TCK")

T = TypeVar("T")


class Ended(Exception):
    """A process that the measurement needs ended or kept silent; the text says which, and its last words."""


class Cpu(msgspec.Struct, frozen=True):
    """Seconds used so far."""

    user: float
    system: float
    core: float  # of the whole core: everything but idling


def read_cpu(pid: int, core: int | None) -> Cpu:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    lines = Path("/proc/stat").read_text().splitlines()
    row = next(line for line in lines if line.startswith("cpu " if core is None else f"cpu{core} "))
    times = [int(text) for text in row.split()[1:9]]
    busy = sum(times) - times[3] - times[4]  # idle, waiting for a disk
    return Cpu(int(fields[11]) / TICK, int(fields[12]) / TICK, busy / TICK)


def cpu_seconds(pid: int) -> float:
    """Used so far by all threads, to the nanosecond: `read_cpu` counts in hundredths."""
    return time.clock_gettime(~pid << 3 | 2)  # CPUCLOCK_SCHED of another process, as clock_getcpuclockid(3) makes it


def read_memory(pid: int) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


class Cores(msgspec.Struct, frozen=True):
    """Where processes run: the server alone on its core where there is more than one."""

    server: int | None
    others: list[int]


def choose_cores() -> Cores:
    cores = sorted(os.sched_getaffinity(0))
    return Cores(cores[-1], cores[:-1]) if len(cores) > 1 else Cores(None, cores)


@contextmanager
def started(
    command: Sequence[str], log: Path, cores: Sequence[int], *, stdin: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """A process for as long as the block lasts; stderr goes to `log`, the environment is bare."""
    environment = {"PATH": os.environ.get("PATH", os.defpath)}
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr
        )
    try:
        os.sched_setaffinity(process.pid, cores)
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@contextmanager
def reading(url: str, cores: Sequence[int]) -> Iterator[subprocess.Popen[bytes]]:
    """A WebSocket client that reads and forgets; it ends when its connection does."""
    program = (
        "import sys\nfrom websockets.sync.client import connect\n"
        "with connect(sys.argv[1], compression=None) as socket:\n for _ in socket: pass\n"
    )
    with started([sys.executable, "-c", program, url], Path(os.devnull), cores) as process:
        time.sleep(1.0)  # its start and its handshake are no part of what is measured
        yield process


def wait_for_address(process: subprocess.Popen[bytes], log: Path) -> str:
    """The host and port that a server logs once it listens."""
    deadline = time.monotonic() + START_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_bytes().splitlines(keepends=True):
            if b"web.listening" in line and line.endswith(b"\n"):
                url: str = msgspec.json.decode(line)["url"]
                return url.removeprefix("http://")
        time.sleep(0.05)
    raise Ended(f"{log.stem} does not listen: {log.read_text()[-2000:]}")


def hear(process: subprocess.Popen[bytes], log: Path, kind: type[T], within: float) -> T:
    """One line of JSON from a process."""
    assert process.stdout is not None
    if select.select([process.stdout], [], [], within)[0] and (line := process.stdout.readline()):
        return msgspec.json.decode(line, type=kind)
    if process.poll() is None:
        raise Ended(f"{log.stem}: nothing within {within:g} s; the server, or a busy machine, cannot keep up")
    raise Ended(f"{log.stem} ended: {log.read_text()[-2000:]}")


def say(process: subprocess.Popen[bytes], message: msgspec.Struct) -> None:
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(message) + b"\n")
    process.stdin.flush()


def sleep_until(moment: int) -> None:
    """Sleep until a moment of the microsecond clock that all processes of one machine share."""
    time.sleep(max(0, moment - time.monotonic_ns() // 1000) / 1e6)


def machine(cores: Cores) -> str:
    """One line: where the numbers are from."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((row.partition(": ")[2] for row in info if row.startswith("model name")), platform.machine())
    names = ("trio", "hypercorn", "quart", "msgspec", "fastapi", "uvicorn", "uvloop", "websockets")
    versions = ", ".join(f"{name} {_version(name)}" for name in names)
    pinned = "not pinned" if cores.server is None else f"server on core {cores.server}"
    return f"{cpu}, {os.cpu_count()} cores, {pinned}, Python {platform.python_version()}, {versions}"


def write_report(file: Path, cores: Cores, **parts: object) -> None:
    parts = {"machine": machine(cores)} | parts
    file.write_bytes(msgspec.json.format(msgspec.json.encode(parts, enc_hook=str), indent=2) + b"\n")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
