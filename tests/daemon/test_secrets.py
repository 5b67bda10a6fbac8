"""Mistakes with secrets, as operators and clients make them: each is one line that names it, loses nothing, and tells
nobody what is secret. The whole log of the run is searched for every secret that was used in it.
"""

import signal
import ssl
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trustme
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.actors.upstream import proxies
from tests.daemon.fixtures import eventually
from tests.daemon.test_process import START_WITHIN, Process, listening, simulated, started
from tests.patience import WITHIN
from tests.web.access.test_access import KeyFile, bearer

PASSWORD = "hunter2hunter2"
WRONG = "mk_abcd1234_" + "Z" * 43


class Files:
    """Everything that the configuration names, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.config, self.keys = folder / "config.toml", KeyFile(folder)
        self.certificate, self.private = folder / "cert.pem", folder / "key.pem"
        self.new_pair()

    def new_pair(self) -> None:
        made = self.authority.issue_cert("localhost")
        self.certificate.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
        self.private.write_bytes(made.private_key_pem.bytes())

    @property
    def private_lines(self) -> list[str]:
        return [line for line in self.private.read_text().splitlines() if "-----" not in line]


def mistakes(files: Files, good_key: str) -> list[tuple[Path, Any, str]]:
    """(the file, what makes it unusable, what is said of it)."""
    keys, text = files.keys.path, files.keys.path.read_text()
    config = files.config.read_text()
    stranger = trustme.CA().issue_cert("localhost").private_key_pem.bytes().decode()

    def readable(path: Path) -> None:
        path.chmod(0o644)

    def folder(path: Path) -> None:
        beside = path.with_name("beside")
        beside.symlink_to(path.parent)
        beside.replace(path)

    return [
        (keys, f'oops = "{good_key}', "auth.keys_file: keys.toml: is not TOML"),
        (keys, f'abcd1234 = "{good_key}"\n', "auth.keys_file: keys.toml: abcd1234: Expected object, got str"),
        (keys, text.replace('"read"', '"write"', 1), "Invalid enum value 'write', at .scopes[0]"),
        (keys, readable, "auth.keys_file: keys.toml: others may read or write it; chmod 600 makes it yours alone"),
        (keys, folder, "auth.keys_file: keys.toml: cannot be read: Is a directory"),
        (files.private, stranger, "server.certfile: cannot be used with server.keyfile"),
        (files.private, f"{PASSWORD}\n", "server.certfile: cannot be used with server.keyfile"),
        (files.config, config.replace("http://me:", "htp://me:"), "upstream.proxy: expected a URL"),
        (files.config, f'{config}\n[nonsense]\nkey = "{good_key}"\n', "nonsense: unknown section"),
    ]


def spoil(path: Path, how: Any) -> None:
    if callable(how):
        how(path)
    else:
        put(path, how.encode())


def put(path: Path, content: bytes) -> None:
    """At once: the daemon looks at its keys by itself, and a file without any is one, too."""
    beside = path.with_name("beside")
    beside.write_bytes(content)
    beside.chmod(0o600)
    beside.replace(path)


async def ask_in_every_wrong_way(client: httpx.AsyncClient, context: ssl.SSLContext, keys: dict[str, str]) -> None:
    """As clients do; what they are told has no key in it."""
    good = keys["good"]
    for key in keys.values():
        ways: list[tuple[str, dict[str, str]]] = [
            ("/health", bearer(key)),
            ("/binance/ohlc/BTCUSDT/1m", {"X-API-Key": key}),
            (f"/health?token={key}", {}),
            (f"/sse?topics=binance:BTCUSDT:nothing&token={key}", {}),
            ("/export/ohlc", bearer(key)),
            ("/health", {**bearer(key), "X-API-Key": good[:-1] + "A"}),
            (f"/{key}", bearer(good)),
        ]
        for path, headers in ways:
            answer = await client.get(path, headers=headers)
            if key not in path.split("?")[0]:
                assert key[12:] not in answer.text + str(answer.headers)
        for path, protocols in ((f"/ws?token={key}", []), ("/ws", ["marketd", f"marketd.key.{key}"])):
            url = str(client.base_url).replace("https", "wss") + path
            await trio.to_thread.run_sync(partial(visit, url, protocols, context))


def visit(url: str, protocols: list[str], context: ssl.SSLContext) -> None:
    offered = [Subprotocol(name) for name in protocols] or None
    with suppress(ConnectionClosed), connect(url, ssl=context, subprotocols=offered, open_timeout=WITHIN) as socket:
        socket.send('{"op":"ping"}')
        socket.recv(WITHIN)


async def failed(daemon: Process, count: int) -> dict[str, Any]:
    await eventually(lambda: len(daemon.logged("config.reload_failed")) >= count, WITHIN, "config.reload_failed")
    return daemon.logged("config.reload_failed")[count - 1]


async def test_no_mistake_loses_anything_or_tells_a_secret(tmp_path: Path, nursery: trio.Nursery) -> None:
    files = Files(tmp_path)
    keys = {"good": files.keys.add("read"), "expired": files.keys.add("read", expires=timedelta(seconds=-1))}
    keys |= {"scopeless": files.keys.add("metrics"), "unknown": WRONG}
    proxy = await proxies.start(nursery, f"me:{PASSWORD}")
    context = ssl.create_default_context()
    files.authority.configure_trust(context)
    async with simulated(tmp_path):
        more = '[auth]\nanonymous = []\n[server]\nport = 0\ncertfile = "cert.pem"\nkeyfile = "key.pem"\n'
        more += f'[upstream]\nproxy = "{proxy.url("http")}"\n'
        files.config.write_text(files.config.read_text().replace("[server]\nport = 0\n", more))
        async with listening("--log-level", "DEBUG", cwd=tmp_path) as daemon:
            url = daemon.url.replace("127.0.0.1", "localhost")
            async with httpx.AsyncClient(base_url=url, verify=context, timeout=WITHIN) as client:
                await ask_in_every_wrong_way(client, context, keys)
                for number, (path, how, told) in enumerate(mistakes(files, keys["good"]), 1):
                    content = path.read_bytes()
                    spoil(path, how)
                    daemon.process.send_signal(signal.SIGHUP)
                    entry = await failed(daemon, number)
                    assert told in entry["reason"]
                    assert "\n" not in entry["reason"]
                    async with httpx.AsyncClient(base_url=url, verify=context, timeout=WITHIN) as another:
                        assert (await another.get("/health", headers=bearer(keys["good"]))).status_code == 200, told
                    put(path, content)
                daemon.process.send_signal(signal.SIGHUP)
                await eventually(lambda: daemon.logged("config.reloaded"), WITHIN)
            daemon.process.send_signal(signal.SIGTERM)
            await daemon.ends(WITHIN)
        assert proxy.reached
    whole = daemon.stderr.decode() + daemon.stdout.decode()
    secrets = [key[12:] for key in keys.values()] + [key.sha256 for key in files.keys.keys.values()]
    for secret in (*secrets, PASSWORD, *files.private_lines, "BEGIN"):
        assert secret not in whole
    assert len(daemon.logged("auth.failed")) >= 1
    assert "Traceback" not in whole


@pytest.mark.parametrize(("command", "number"), [([], 3), (["check"], 5)])
async def test_a_start_with_a_mistake_is_one_line(tmp_path: Path, command: list[str], number: int) -> None:
    files = Files(tmp_path)
    files.config.write_text('[server]\nport = 0\ncertfile = "cert.pem"\nkeyfile = "key.pem"\n')
    path, how, told = mistakes(files, files.keys.add("read"))[number]
    spoil(path, how)
    async with started(*command, cwd=tmp_path) as process:
        assert await process.ends(START_WITHIN) == 78
        await eventually(lambda: process.stderr.endswith(b"\n"))
    assert told in process.stderr.decode()
    assert process.stderr.count(b"\n") == 1
    assert process.stdout == b""
