"""Several daemons and the server between them, as processes to be killed, frozen and started again. Linux only."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import trio

from actors.engine.remote import RemoteEngine
from actors.engine.words import EngineAway
from tests.actors.engine.servers import Server, programs
from tests.benchmarks.processes import ROOT

BEGUN_WITHIN = 90.0  # seconds; the machine may be busy
LOOK = 0.02  # seconds between looks at who leads

Json = dict[str, Any]


class Node:
    """One daemon, on a port that it keeps."""

    def __init__(self, name: str, role: str, folder: Path, configuration: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.name, self.role = name, role
        self.log = folder / f"{name}.log"
        self.is_up = False
        self._file = folder / f"{name}.toml"
        self._file.write_text(configuration)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"ws://{self.address}"

    def start(self) -> None:
        command = [sys.executable, "-m", "daemon", "--config", str(self._file), "--port", str(self.port)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={"PATH": os.environ.get("PATH", os.defpath)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        self.is_up = True

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        self.is_up = False
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def ended(self) -> int | None:
        """The exit code, where it ended by itself."""
        return None if self._process is None else self._process.poll()

    async def health(self, http: httpx.AsyncClient) -> Json | None:
        try:
            found: Json = (await http.get(f"http://{self.address}/health")).json()
        except httpx.HTTPError:
            return None
        return found

    async def healthy(self, http: httpx.AsyncClient) -> Json:
        """Its health, once all is live."""
        until, health = time.monotonic() + BEGUN_WITHIN, None
        while time.monotonic() < until:
            health = await self.health(http)
            if health and health["status"] == "healthy" and health["feeds"]:
                return health
            if (code := self.ended()) is not None:
                raise AssertionError(f"{self.name} ended with {code}: {self.log.read_text()[-2000:]}")
            await trio.sleep(0.05)
        raise AssertionError(f"{self.name} does not become healthy: {health} {self.log.read_text()[-3000:]}")


class KeptServer(Server):
    """A server whose memory can be taken away while it is dead."""

    def __init__(self, name: str, folder: Path, *options: str) -> None:
        super().__init__(programs()[name], folder, "--appendonly", "yes", *options)
        self._folder = folder

    def forget(self) -> None:
        shutil.rmtree(self._folder / "appendonlydir", ignore_errors=True)
        for file in (*self._folder.glob("*.aof"), *self._folder.glob("*.rdb")):
            file.unlink()


class Leaders:
    """Who leads each lane, looked at all the time, and when that changed."""

    def __init__(self, engine: RemoteEngine, lanes: Sequence[str]) -> None:
        self._engine, self.lanes = engine, lanes
        self.tokens: Mapping[str, str] = {}
        self.changes: list[tuple[float, str, str | None]] = []

    def of(self, node: str) -> list[str]:
        return [lane for lane, token in self.tokens.items() if token.rsplit("|", 2)[0] == node]

    async def watch(self) -> None:
        while True:
            try:
                found = await self._engine.holders(self.lanes)
            except EngineAway:
                await trio.sleep(LOOK)
                continue
            tokens, now = {lane: token for lane, (token, _) in found.items()}, trio.current_time()
            for lane in self.lanes:
                if self.tokens.get(lane) != tokens.get(lane):
                    self.changes.append((now, lane, tokens.get(lane)))
            self.tokens = tokens
            await trio.sleep(LOOK)

    def course(self, lane: str, since: float) -> tuple[float | None, float | None]:
        """After how many seconds a lane was free, and after how many it was led again."""
        free = next((at for at, name, token in self.changes if name == lane and at >= since and not token), None)
        led = next((at for at, name, token in self.changes if name == lane and at >= since and token), None)
        return (None if free is None else free - since), (None if led is None else led - since)


def configuration(
    urls: Mapping[str, tuple[str, str]],
    symbols: Mapping[str, Sequence[str]],
    intervals: Sequence[str],
    engine: Mapping[str, Any],
    exchanges: Sequence[str],
) -> str:
    """`urls`: of REST and WebSocket, by exchange. `exchanges`: all that there are; the others are switched off."""
    lines = ["[streams]", f"intervals = {list(intervals)}", "[oi_vol]", "timeframes = []"]
    lines += ["[archive]", "enabled = false"]
    lines += ["[supervision]", "reconnect_delay = 0.2", "max_reconnect_delay = 1.0"]
    lines += ["[engine]", *(f"{key} = {_toml(value)}" for key, value in engine.items())]
    for name in exchanges:
        lines.append(f"[exchanges.{name}]")
        if name not in urls:
            lines.append("enabled = false")
            continue
        lines += [f"symbols = {list(symbols[name])}", f'rest_url = "{urls[name][0]}"', f'ws_url = "{urls[name][1]}"']
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
