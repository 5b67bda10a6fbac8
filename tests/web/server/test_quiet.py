"""How many lines of log clients can cause."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.web.server.served import captured_log, exchange, guarded
from web.server.quiet import Quiet


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return captured_log(monkeypatch)


async def test_five_of_an_event_in_ten_seconds_and_then_their_number(
    lines: list[Any], autojump_clock: MockClock
) -> None:
    quiet = Quiet()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(quiet.run)
        assert [quiet.allows("web.a") for _ in range(8)] == [True] * 5 + [False] * 3
        assert quiet.allows("web.b"), "each event has its own"
        await trio.sleep(9.9)
        assert not quiet.allows("web.a")
        assert lines == []
        await trio.sleep(0.2)
        assert lines == [{"event": "web.a", "suppressed": 4, "log_level": "warning"}]
        assert [quiet.allows("web.a") for _ in range(6)] == [True] * 5 + [False], "a new while"
        await trio.sleep(60)
        assert [line["suppressed"] for line in lines] == [4, 1]
        assert quiet.allows("web.a")
        await trio.sleep(60)
        assert len(lines) == 2, "nothing was suppressed: nothing is told"
        nursery.cancel_scope.cancel()


async def test_what_is_untold_at_the_end_is_told_then(lines: list[Any], autojump_clock: MockClock) -> None:
    quiet = Quiet(1, 10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(quiet.run)
        for _ in range(4):
            quiet.allows("web.a")
        nursery.cancel_scope.cancel()
    assert [line["suppressed"] for line in lines] == [3]


async def test_malformed_requests_are_a_few_lines(lines: list[Any]) -> None:
    async with guarded() as served:
        for _ in range(100):
            assert (await exchange(served.port, b"rubbish\r\n\r\n")).startswith(b"HTTP/1.1 400")
        served.stop.set()
        await served.ended.wait()
    assert served.statistics.refused == 100
    assert sum(line.get("suppressed", 1) for line in lines) == 100
    assert len(lines) < 50
