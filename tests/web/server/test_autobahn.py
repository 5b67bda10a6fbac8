"""The Autobahn test suite's own case files, run against the server by kosoku."""

from __future__ import annotations

import asyncio

import kosoku
import trio

from tests.web.server.served import guarded
from web.server.connections import Limits

CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"]
CONCURRENCY = 8  # some cases send in slow pieces: most of the time is waiting


async def run_cases(port: int, path: str, cases: list[str]) -> tuple[int, list[str]]:
    """How many cases ran, and what was wrong with those that failed."""
    url = f"ws://127.0.0.1:{port}{path}"
    try:
        passed = await kosoku.run_fuzzingclient(url, cases, concurrency=CONCURRENCY)
    except kosoku.FailureError as failure:
        return len(failure.results), [
            f"{case.case_id}: {case.result} {case.result_close}" for case in failure.results if not case.passed
        ]
    return len(passed), []


async def in_thread(port: int, path: str, cases: list[str]) -> tuple[int, list[str]]:
    with trio.fail_after(60):
        return await trio.to_thread.run_sync(lambda: asyncio.run(run_cases(port, path, cases)), abandon_on_cancel=True)


async def test_autobahn_cases() -> None:
    """Sections 1 to 7 and 10; 9 is about speed, 12 and 13 about compression, which is never on."""
    async with guarded(limits=Limits(message_bytes=64 << 10)) as served:
        count, wrong = await in_thread(served.port, "/ws/echo", CASES)
    assert wrong == []
    assert count > 240
    assert served.statistics.crashes == 0


async def test_cases_can_fail() -> None:
    """The control; not on the stock server, which passes them: they let a server just hang up."""
    async with guarded() as served:
        _, wrong = await in_thread(served.port, "/ws/drain", ["1.1.2", "2.2"])
    assert len(wrong) >= 1
