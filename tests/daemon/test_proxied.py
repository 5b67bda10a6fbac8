"""Behind nginx, as the README says it: every way in works, and limits and log see the client, not the proxy."""

import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import pytest
import trio
from websockets.sync.client import connect

from daemon.settings import Auth, Server
from tests.daemon.fixtures import World, world
from tests.patience import WITHIN
from tests.programs import free_port
from web.access.limits import Limits

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin:/usr/local/sbin")
README = Path(__file__).parents[2] / "daemon" / "README.md"
CLIENT = "127.0.0.2"  # whoever comes from another address than the proxy's
HOST = "market.example.com"
TRADES = "binance:BTCUSDT:trades"

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


@asynccontextmanager
async def nginx(folder: Path, daemon: str) -> AsyncIterator[int]:
    """The README's `location`, in front of the daemon at a URL; the port where it listens."""
    found = re.search(r"```nginx\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    port = free_port()
    location = found[1].replace("http://127.0.0.1:8000", daemon)
    assert location != found[1]
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\nevents {{}}\n"
        f"http {{ access_log off;\n{temporary}server {{ listen 127.0.0.1:{port};\n{location}}} }}\n"
    )
    assert NGINX is not None
    command = [NGINX, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.DEVNULL)
    try:
        with trio.fail_after(WITHIN):
            while True:
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    assert process.poll() is None, (folder / "error.log").read_text()
                    await trio.sleep(0.05)
        yield port
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@asynccontextmanager
async def proxied(folder: Path) -> AsyncIterator[tuple[World, httpx.AsyncClient, int]]:
    server = Server(port=0, allowed_hosts=(HOST, "localhost", "127.0.0.1"), trusted_proxies=("127.0.0.1/32",))
    limits = Limits(exempt=(), request_burst=50, connections=3)
    auth, way = Auth(keys_file=str(folder / "none")), httpx.AsyncHTTPTransport(local_address=CLIENT)
    async with world(server=server, limits=limits, auth=auth) as w, nginx(folder, w.url) as port:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, transport=way, headers={"Host": HOST}, timeout=WITHIN) as client:
            yield w, client, port


async def test_rest_sse_and_websockets_pass_and_the_client_is_seen(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (w, client, port):
        answer = await client.get("/binance/funding/BTCUSDT")
        assert (answer.status_code, answer.headers["server"].partition("/")[0]) == (200, "nginx")
        assert answer.headers["ratelimit"].startswith('"requests";r=49;')
        assert (await client.get("/health", headers={"Host": "evil.example"})).status_code == 421
        # Whatever a client claims of itself comes before what the proxy adds, and is not believed.
        claimed = {"X-API-Key": "nonsense", "X-Forwarded-For": "203.0.113.9"}
        assert (await client.get("/health", headers=claimed)).status_code == 401
        assert [entry["client"] for entry in w.logged("auth.failed")] == [CLIENT]

        heard: list[str] = []
        first: list[str | bytes] = []

        async def listen() -> None:
            async with client.stream("GET", "/sse", params={"topics": TRADES}) as sse:
                assert sse.headers["content-type"].startswith("text/event-stream")
                async for line in sse.aiter_lines():
                    heard.append(line)

        def follow() -> None:
            url = f"ws://127.0.0.1:{port}/ws/{TRADES.replace(':', '/')}"
            with connect(url, source_address=(CLIENT, 0), open_timeout=20) as own:
                first.append(own.recv(20))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            nursery.start_soon(trio.to_thread.run_sync, follow)
            with trio.fail_after(WITHIN):
                while not (first and any('"type":"trade"' in line for line in heard)):  # as it comes, not buffered
                    await w.pass_time(1000)
                    await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
        assert msgspec.json.decode(first[0])["type"] == "trade"
