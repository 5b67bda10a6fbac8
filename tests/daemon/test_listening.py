"""Where clients come in, and for how many there are descriptors."""

import os
import resource
import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import trio

from daemon import descriptors
from daemon.listening import CannotListen, listen, remove_at_end
from daemon.settings import Server
from tests.daemon.fixtures import World, world

ROOT = Path(__file__).parents[2]


async def asked(path: str, target: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=path), base_url="http://localhost") as client:
        return await client.get(target, headers=headers)


@pytest.mark.parametrize("port", [0, -1])
async def test_a_unix_socket_is_listened_on_too_or_alone(tmp_path: Path, port: int) -> None:
    path = str(tmp_path / "marketd.sock")
    if port == -1:
        async with trio.open_nursery() as nursery:
            listeners, url = await listen(Server(port=-1, unix_socket=path), None)
            assert (len(listeners), url) == (1, f"unix:{path}")
            nursery.start_soon(remove_at_end, path)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await listeners[0].aclose()
        assert not os.path.lexists(path)
        return
    async with world(live=False, server=Server(port=0, unix_socket=path)) as w:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
        assert (await asked(path, "/exchanges")).status_code == 200
        assert (await asked(path, "/exchanges", Host="data.example")).status_code == 200, "no browser comes this way"
        assert (await w.ask("/health/live")).status_code == 200
        assert w.logged("web.forwarded_ignored") == []
        await asked(path, "/exchanges", **{"X-Forwarded-For": "203.0.113.7"})
        assert w.logged("web.forwarded_ignored") == [], "its peer is a trusted proxy"
        await is_limited(w, path)
    assert not os.path.lexists(path)


async def is_limited(w: World, path: str) -> None:
    """Whom a Unix socket's peer speaks for is a client like any other; the peer itself has no limits."""
    told = await asked(path, "/exchanges", **{"X-Forwarded-For": "203.0.113.7"})
    assert told.headers["RateLimit-Policy"].startswith('"requests";')
    assert "RateLimit-Policy" not in (await asked(path, "/exchanges")).headers


async def test_a_socket_that_was_left_behind_is_taken_over_and_one_in_use_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "marketd.sock")
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(path)
        killed.listen()
        with pytest.raises(CannotListen, match=r"cannot listen on .*marketd\.sock: Address already in use"):
            await listen(Server(port=-1, unix_socket=path), None)
    (listener,), _ = await listen(Server(port=-1, unix_socket=path), None)
    await listener.aclose()
    os.unlink(path)
    (tmp_path / "marketd.sock").write_text("a file of somebody's")
    with pytest.raises(CannotListen):
        await listen(Server(port=-1, unix_socket=path), None)
    assert (tmp_path / "marketd.sock").read_text() == "a file of somebody's"
    with pytest.raises(CannotListen, match="No such file or directory"):
        await listen(Server(port=0, unix_socket=str(tmp_path / "none" / "x.sock")), None)


# --- descriptors


def test_what_is_left_for_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "open_now", lambda: 20)
    for soft, expected in ((256, 256 - 20 - 16 - 8 - 12 - 32), (1 << 20, 10_000), (resource.RLIM_INFINITY, 10_000)):
        monkeypatch.setattr("resource.getrlimit", lambda _, soft=soft: (soft, soft))
        assert descriptors.clients_left([(10, 200)], exports=2) == expected
    monkeypatch.setattr("resource.getrlimit", lambda _: (119, 119))
    with pytest.raises(CannotListen, match=r"^119 open files are allowed and 120 are needed: see ulimit -n$"):
        descriptors.clients_left([(10, 200)], exports=2)
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, 1024))
    assert descriptors.clients_left([(1000, 100)], exports=0) == 1024 - 20 - 200 - 12 - 32, "many symbols, many lines"


def test_open_descriptors_are_counted() -> None:
    before = descriptors.open_now()
    pipes = os.pipe()
    assert descriptors.open_now() == before + 2
    for pipe in pipes:
        os.close(pipe)


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    program = (
        "import resource; from daemon.descriptors import raise_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200)); raise_limit()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "(200, 200)\n"


@pytest.mark.parametrize("limit", [64, 40])
def test_too_few_descriptors_are_one_line_and_exit_1(limit: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "daemon", "--port", "0"]
    limited = ["sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh", *command]
    ended = subprocess.run(
        limited,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"marketd: {limit} open files are allowed and ")
