"""What a service manager is told, over a socket such as systemd's."""

import os
import re
import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from daemon.notify import Notify, from_environment


def listen(address: str) -> socket.socket:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind("\0" + address[1:] if address[0] == "@" else address)
    manager.setblocking(False)
    return manager


def told(manager: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(manager.recv(4096).decode())
        except BlockingIOError:
            return found


@pytest.mark.parametrize("is_abstract", [False, True])
def test_lines_arrive_as_one_datagram(tmp_path: Path, is_abstract: bool) -> None:
    address = f"@marketd-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with listen(address) as manager:
        Notify(address).tell("READY=1", "STATUS=fine")
        Notify(address).reloading()
        ready, reloading = told(manager)
    assert ready == "READY=1\nSTATUS=fine"
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", reloading)


def test_a_manager_that_is_not_there_or_does_not_read_is_no_trouble(tmp_path: Path) -> None:
    Notify().tell("READY=1")
    Notify(str(tmp_path / "nobody")).tell("READY=1")
    with listen(str(tmp_path / "deaf")):
        for _ in range(10_000):
            Notify(str(tmp_path / "deaf")).tell("READY=1")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Notify()),
        ({"NOTIFY_SOCKET": "/run/n"}, Notify("/run/n")),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "20000000"}, Notify("@n", 20.0)),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}, Notify("@n", 20.0)),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}, Notify("@n")),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "0"}, Notify("@n")),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "soon"}, Notify("@n")),
        ({"NOTIFY_SOCKET": "vsock:2:1", "WATCHDOG_USEC": "1"}, Notify()),
        ({"NOTIFY_SOCKET": ""}, Notify()),
    ],
)
def test_what_the_manager_set_leaves_the_environment(environ: dict[str, str], expected: Notify) -> None:
    environ = {"HOME": "/", **environ}
    assert from_environment(environ) == expected
    assert environ == {"HOME": "/"}


async def watched(notify: Notify, seconds: float) -> list[tuple[float, str]]:
    """When what was told."""
    assert notify.address is not None
    seen = []
    begun = trio.current_time()
    with listen(notify.address) as manager, trio.move_on_after(seconds + 0.1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notify.watch, lambda: "2/3 exchanges live, 4 clients")
            while True:
                await trio.sleep(0.05)
                seen += [(trio.current_time() - begun, line) for line in told(manager)]
    return seen


async def test_signs_of_life_come_at_half_of_the_time(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    seen = await watched(Notify(str(tmp_path / "notify"), 4.0), 40)
    alive = [at for at, text in seen if "WATCHDOG=1" in text.split("\n")]
    assert alive == pytest.approx(list(range(0, 41, 2)), abs=0.2)
    status = [at for at, text in seen if "STATUS=2/3 exchanges live, 4 clients" in text.split("\n")]
    assert status == pytest.approx([0, 10, 20, 30, 40], abs=0.2)


async def test_without_a_watchdog_the_status_alone_is_told(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    seen = await watched(Notify(str(tmp_path / "notify")), 30)
    assert [text for _, text in seen] == ["STATUS=2/3 exchanges live, 4 clients"] * 4
    assert [at for at, _ in seen] == pytest.approx([0, 10, 20, 30], abs=0.2)
