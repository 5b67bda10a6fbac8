"""Other people's servers as processes of their own on loopback: started, sent signals, killed, started again."""

import random
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

BEGUN_WITHIN = 60.0  # seconds
PORTS = range(16_000, 32_000)  # below those that the system gives to whoever connects: none is taken meanwhile


def free_port() -> int:
    """A port for a program that must be told one: nobody listens there, and no connection is made from there."""
    while True:
        with suppress(OSError), socket.socket() as free:
            port = random.choice(PORTS)
            free.bind(("127.0.0.1", port))
            return port


class Program:
    """One process at a time, which listens on a port that it keeps."""

    def __init__(self, port: int, command: Sequence[str]) -> None:
        self.port = port
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        until = time.monotonic() + BEGUN_WITHIN
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as asking:
                if self._answers(asking):
                    return
            assert self._process.poll() is None, "the server has ended"  # who answers may be somebody else's
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.02)  # it says nothing when it is ready

    def _answers(self, asking: socket.socket) -> bool:
        """Whether it is ready for whoever has connected."""
        return True

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
