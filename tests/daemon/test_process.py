"""The program as an operator runs it: a process, its signals and exit codes, what it writes where, how it ends.

The processes talk to a simulated exchange in the test's own process. Their WebSocket clients are the `websockets`
library's, in threads: an implementation that shares no line with the server's.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.to_thread
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from actors.exchanges.binance import simulator
from actors.exchanges.exchange import load_exchanges
from actors.simulation.market import Clock, Market
from actors.simulation.server import Faults, RestFault, Simulator
from daemon.main import GRACE
from tests.daemon.fixtures import TWO, eventually
from tests.patience import WITHIN

HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
DAEMON = (sys.executable, "-m", "daemon")
START_WITHIN = 60.0  # seconds; a busy machine takes its time to import everything


class Process:
    """A running `python -m daemon`, and what it has written so far."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.stdout, self.stderr = bytearray(), bytearray()
        self.url = ""

    @property
    def log(self) -> list[dict[str, Any]]:
        """The log: every whole line of stderr, each of which must be JSON."""
        return [json.loads(line) for line in bytes(self.stderr).split(b"\n")[:-1]]

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in self.log if entry["event"] == event]

    async def ends(self, within: float) -> int:
        """Its exit code."""
        with trio.move_on_after(within):
            return await self.process.wait()
        raise AssertionError(f"still running after {within:g} s: {self.stderr.decode()[-2000:]}")


@asynccontextmanager
async def started(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> AsyncIterator[Process]:
    """The daemon in a process of its own, killed at the end where it still runs."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MARKETD_", "PORT"))}
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            [*DAEMON, *arguments],
            cwd=cwd,
            env=environment | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        running = Process(process)

        async def read(stream: Any, into: bytearray) -> None:
            async for data in stream:
                into += data

        nursery.start_soon(read, process.stdout, running.stdout)
        nursery.start_soon(read, process.stderr, running.stderr)
        try:
            yield running
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


@asynccontextmanager
async def listening(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> AsyncIterator[Process]:
    """The same, once it accepts connections."""
    async with started(*arguments, cwd=cwd, env=env) as running:
        (entry,) = await eventually(lambda: running.logged("web.listening"), START_WITHIN, "web.listening")
        running.url = entry["url"]
        yield running


@asynccontextmanager
async def simulated(directory: Path, *, faults: Faults | None = None) -> AsyncIterator[Simulator]:
    """A simulated Binance, and a config.toml in the directory that points at it alone."""
    async with trio.open_nursery() as nursery:
        market = Market(assets=TWO, clock=Clock(rate=2))
        sim = await nursery.start(partial(simulator.serve, market, faults=faults))
        others = [name for name in load_exchanges() if name != "binance"]
        directory.joinpath("config.toml").write_text(
            "[server]\nport = 0\n"
            '[streams]\nintervals = ["1m"]\n'
            f'[exchanges.binance]\nsymbols = ["BTCUSDT"]\nrest_url = "{sim.rest_url}"\nws_url = "{sim.ws_url}"\n'
            + "".join(f"[exchanges.{name}]\nenabled = false\n" for name in others)
        )
        yield sim
        nursery.cancel_scope.cancel()


class Listener:
    """A WebSocket client in a thread of its own."""

    def __init__(self, url: str) -> None:
        self.url = url.replace("http", "ws", 1)
        self.heard: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None

    def listen(self) -> None:
        with connect(self.url, open_timeout=WITHIN, close_timeout=2, proxy=None) as client:
            try:
                while True:
                    self.heard.append(json.loads(client.recv(timeout=WITHIN)))
            except ConnectionClosed as error:
                self.closed = (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "")


async def listeners(nursery: trio.Nursery, url: str, *paths: str) -> list[Listener]:
    """Clients that have heard something."""
    clients = [Listener(url + path) for path in paths]
    for client in clients:
        nursery.start_soon(partial(trio.to_thread.run_sync, client.listen, abandon_on_cancel=True))
    await eventually(lambda: all(client.heard for client in clients), what="a first event for everybody")
    return clients


# --- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    # As on a platform: PORT decides the port, and that everybody may connect.
    env = {"PORT": "0"} if number == signal.SIGTERM else {}
    async with simulated(tmp_path) as sim, listening(cwd=tmp_path, env=env) as daemon, trio.open_nursery() as nursery:
        host = "0.0.0.0" if env else "127.0.0.1"
        assert re.fullmatch(rf"http://{re.escape(host)}:[1-9]\d*", daemon.url)
        url = daemon.url.replace("0.0.0.0", "127.0.0.1")
        prefix = "/ws/binance/BTCUSDT"
        clients = await listeners(nursery, url, f"{prefix}/trades", f"{prefix}/ohlc", f"{prefix}/funding")
        sim.drop()
        count = len(clients[0].heard)
        await eventually(lambda: daemon.logged("line.down") and len(clients[0].heard) > count + 3, what="trades again")

        daemon.process.send_signal(number)
        assert await daemon.ends(within=WITHIN) == 0
        await eventually(lambda: all(client.closed for client in clients))
        assert {client.closed for client in clients} == {(1001, "server is stopping")}
        assert daemon.stdout == b""
        for entry in daemon.log:
            assert list(entry)[:3] == ["timestamp", "level", "event"]
            assert entry["level"] in ("info", "warning")
        assert [entry["event"] for entry in daemon.log][-2:] == ["daemon.stopping", "daemon.stopped"]
        assert len(daemon.logged("web.listening")) == 1


async def test_it_ends_in_time_whatever_clients_and_the_exchange_do(tmp_path: Path) -> None:
    async with simulated(tmp_path) as sim, listening(cwd=tmp_path) as daemon, trio.open_nursery() as nursery:
        (polite,) = await listeners(nursery, daemon.url, "/ws/binance/BTCUSDT/ohlc")
        deaf = [await never_reading(daemon.url, b"/ws/binance/BTCUSDT/trades") for _ in range(3)]
        half = await trio.open_tcp_stream("127.0.0.1", int(daemon.url.rpartition(":")[2]))
        await half.send_all(b"GET /health HTT")
        for _ in range(20):  # more than the sockets between us hold
            for _ in range(300):
                sim.market.trade("BTC", side="buy", price="84000.10", quantity="0.001")
            sim.tick()
            await trio.lowlevel.checkpoint()
        sim.faults.rest.append(RestFault(path="/fapi/v1/klines", delay=60))
        nursery.start_soon(impatient, daemon.url + "/binance/ohlc/BTCUSDT/1h?start_time=0&limit=1")
        await eventually(lambda: not sim.faults.rest or sim.count("/fapi/v1/openInterest"))
        sim.faults.stall = True

        assert GRACE < 10, "the contract's"
        daemon.process.send_signal(signal.SIGTERM)
        assert await daemon.ends(within=GRACE + 12) == 0
        await eventually(lambda: polite.closed)
        assert polite.closed == (1001, "server is stopping")
        assert daemon.logged("daemon.stopped")
        for client in deaf:
            client.close()
        await half.aclose()
        nursery.cancel_scope.cancel()


async def never_reading(url: str, path: bytes) -> socket.socket:
    """A WebSocket client with a tiny window that reads nothing after the handshake."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.settimeout(WITHIN)
    client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
    client.sendall(HANDSHAKE % path)
    answer = await trio.to_thread.run_sync(client.recv, 12)
    assert answer == b"HTTP/1.1 101"
    return client


async def impatient(url: str) -> None:
    """A request whose answer may never come."""
    async with httpx.AsyncClient(timeout=WITHIN, verify=False) as client:
        with suppress(httpx.HTTPError):
            await client.get(url)


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    async with simulated(tmp_path) as sim, listening(cwd=tmp_path) as daemon, trio.open_nursery() as nursery:
        await listeners(nursery, daemon.url, "/ws/binance/BTCUSDT/ohlc")
        sim.faults.rest.append(RestFault(path="/fapi/v1/klines", delay=60))
        nursery.start_soon(impatient, daemon.url + "/binance/ohlc/BTCUSDT/1h?start_time=0&limit=1")
        await never_reading(daemon.url, b"/ws/binance/BTCUSDT/trades")
        daemon.process.send_signal(signal.SIGTERM)
        await eventually(lambda: daemon.logged("daemon.stopping"))
        daemon.process.send_signal(signal.SIGTERM)
        assert await daemon.ends(within=GRACE - 1) == 0
        nursery.cancel_scope.cancel()


async def test_it_ends_while_it_waits_for_an_exchange(tmp_path: Path) -> None:
    silent = Faults(rest_accept="silent", ws_accept="silent")
    async with simulated(tmp_path, faults=silent), listening(cwd=tmp_path) as daemon:
        daemon.process.send_signal(signal.SIGTERM)
        assert await daemon.ends(within=WITHIN) == 0
        assert daemon.stdout == b""


# --- other ends


async def test_exit_codes_and_what_is_said(tmp_path: Path) -> None:
    """What ends it before it begins: one line on stderr that says where and what, and a code of its own."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = str(taken.getsockname()[1])
    bad = tmp_path / "bad.toml"
    bad.write_text("[server]\nprot = 1\n")
    broken = tmp_path / "broken.toml"
    broken.write_text("[server\n")
    cases: list[tuple[list[str], dict[str, str], int, str]] = [
        (["--nonsense"], {}, 2, "usage: marketd"),
        (["--config", str(bad)], {}, 78, "bad.toml.*server.prot.*port"),
        (["check", "--config", str(broken)], {}, 78, "broken.toml"),
        ([], {"MARKETD_SERVER__PORT": "many"}, 78, "MARKETD_SERVER__PORT"),
        (["--port", port], {}, 1, f"127.0.0.1.*{port}"),
    ]

    async def check(arguments: list[str], env: dict[str, str], code: int, said: str) -> None:
        async with started(*arguments, cwd=tmp_path, env=env) as process:
            assert await process.ends(START_WITHIN) == code, arguments
            await eventually(lambda: process.stderr.endswith(b"\n"))
        text = process.stderr.decode()
        assert re.search(said, text), (arguments, text)
        assert process.stdout == b""
        assert "Traceback" not in text
        if code != 2:
            assert text.count("\n") == 1, text

    async with trio.open_nursery() as nursery:
        for case in cases:
            nursery.start_soon(check, *case)
    taken.close()


async def test_check_prints_what_is_in_force_and_no_secret(tmp_path: Path) -> None:
    tmp_path.joinpath("config.toml").write_text(
        '[exchanges.binance]\nrest_url = "http://me:s3cret@127.0.0.1:1"\nsymbols = ["ETHUSDT"]\n'
    )
    env = {"LOG_LEVEL": "warning"}
    async with started("check", "--port", "1234", cwd=tmp_path, env=env) as process:
        assert await process.ends(START_WITHIN) == 0
        await eventually(lambda: b"ETHUSDT" in process.stdout)
    text = process.stdout.decode()
    assert re.search(r"^port = 1234", text, re.MULTILINE)
    assert re.search(r'^level = "WARNING"', text, re.MULTILINE)
    assert "s3cret" not in text
    assert process.stderr == b""


async def test_check_says_that_a_proxy_of_the_environment_is_not_read(tmp_path: Path) -> None:
    tmp_path.joinpath("config.toml").write_text('[upstream]\nproxy = "http://me:s3cret@127.0.0.1:3128"\n')
    env = {"HTTPS_PROXY": "http://other:hush@127.0.0.1:1"}
    async with started("check", cwd=tmp_path, env=env) as process:
        assert await process.ends(START_WITHIN) == 0
        await eventually(lambda: b"HTTPS_PROXY is set and not read" in process.stderr)
    said = (process.stdout + process.stderr).decode()
    assert "s3cret" not in said
    assert "hush" not in said
    assert "***@127.0.0.1:3128" in said


# --- the demo


async def test_the_demo_runs_without_a_network_or_a_config(tmp_path: Path) -> None:
    async with listening("demo", "--port", "0", cwd=tmp_path) as daemon, trio.open_nursery() as nursery:
        await eventually(lambda: b"ws://" in daemon.stdout and daemon.stdout.endswith(b"\n\n"), what="a welcome")
        welcome = daemon.stdout.decode()
        assert f"curl {daemon.url}/health" in welcome
        streams = re.findall(r"(ws://\S+?)['\s]", welcome)
        assert len(streams) >= 3
        bars = next(url for url in streams if "/ohlc" in url)
        (client,) = await listeners(nursery, bars, "")
        assert client.heard[0]["type"] == "ohlc"
        async with httpx.AsyncClient(verify=False, timeout=WITHIN) as browser:
            for url in re.findall(r"(http://\S+?)['\s]", welcome):
                # An exchange may still be on its way; nothing else may be wrong.
                assert (await browser.get(url)).status_code in (200, 503), url
            names = (await browser.get(daemon.url)).json()["exchanges"]
        assert names == list(load_exchanges())
        daemon.process.send_signal(signal.SIGINT)
        assert await daemon.ends(within=WITHIN) == 0
        await eventually(lambda: client.closed)
        assert client.closed is not None
        assert client.closed[0] == 1001
        assert daemon.stdout.decode() == welcome
        assert [entry for entry in daemon.log if entry["level"] == "error"] == []


BARE = {"PATH": os.environ["PATH"]}
ODD = {"HOME": "/nonexistent", "LC_ALL": "xx_YY", "TZ": "Nowhere/Else", "TERM": "odd", "PYTHONIOENCODING": "ascii"}


@pytest.mark.parametrize(
    "environment", [BARE, BARE | ODD, BARE | {"PYTHONUNBUFFERED": "1"}], ids=["bare", "odd", "raw"]
)
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("check 2>/dev/full", 0),
        ("check | head -c 1 >/dev/null", 0),
        ("check >&-", 0),
        ("check >/dev/full", 1),
        ("check --config nowhere.toml 2>/dev/full", 78),
        ("check --config nowhere.toml 2>&-", 78),
        ("--nonsense 2>/dev/full", 2),
        ("export ohlc --interval 1m --output - 2>&-", 1),
    ],
)
def test_an_exit_code_does_not_depend_on_where_the_words_go(
    arguments: str, code: int, environment: dict[str, str], tmp_path: Path
) -> None:
    command = ["bash", "-o", "pipefail", "-c", f'"$0" -m daemon {arguments}', sys.executable]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr


async def test_signals_that_mean_nothing_do_not_end_it(tmp_path: Path) -> None:
    async with simulated(tmp_path), listening(cwd=tmp_path) as daemon:
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            for _ in range(3):
                daemon.process.send_signal(number)
        async with httpx.AsyncClient(timeout=WITHIN) as client:
            assert (await client.get(f"{daemon.url}/health/live")).status_code == 200
        daemon.process.terminate()
        assert await daemon.ends(within=WITHIN) == 0


async def test_a_service_manager_is_told_what_it_does(tmp_path: Path) -> None:
    """READY once it accepts, even where an exchange is out of reach; STOPPING as the first thing at the end."""
    (tmp_path / "config.toml").write_text(
        '[log]\nformat = "json"\n[exchanges.binance]\nrest_url = "http://127.0.0.1:9"\nws_url = "ws://127.0.0.1:9"\n'
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        told: list[str] = []

        def hear(line: str) -> bool:
            with suppress(BlockingIOError):
                while True:
                    told.extend(manager.recv(4096).decode().split("\n"))
            return line in told

        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        async with started("--port", "0", cwd=tmp_path, env=environ) as running:
            await eventually(partial(hear, "READY=1"), within=START_WITHIN)
            await eventually(lambda: running.logged("web.listening"))
            await eventually(lambda: hear("WATCHDOG=1") and told.count("WATCHDOG=1") > 3, within=START_WITHIN)
            assert "STATUS=0/1 exchanges live, 0 clients" in told
            assert "STOPPING=1" not in told
            running.process.send_signal(signal.SIGTERM)
            assert await running.ends(within=WITHIN) == 0
            assert hear("STOPPING=1")
