"""Supervision on a virtual clock: when a run is started again, when not, and what is said about it."""

import gc
import math
import random
import weakref
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trio.testing import MockClock

from daemon.supervisor import LONGEST_RETRY_AFTER, Change, RestartPolicy, _reason, supervise

EXACT = RestartPolicy(delay=1, max_delay=8, stable_after=30, jitter=0)


class Lost(Exception):
    expected = True

    def __init__(self, text: str = "", retry_after: Any = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


@pytest.fixture(autouse=True)
def _default_logging() -> None:
    structlog.reset_defaults()


class Script:
    """A run that lasts and ends as it is told: (seconds, exception or None) for each start."""

    def __init__(self, *runs: tuple[float, BaseException | None]) -> None:
        self.runs = list(runs)
        self.starts: list[float] = []

    async def __call__(self) -> None:
        self.starts.append(trio.current_time())
        seconds, error = self.runs.pop(0)
        await trio.sleep(seconds)
        if error is not None:
            raise error

    def waits(self, lengths: Sequence[float]) -> list[float]:
        """The seconds between the end of one run and the start of the next."""
        return [
            round(later - earlier - length, 9)
            for (earlier, later), length in zip(pairwise(self.starts), lengths, strict=True)
        ]


def failing(count: int, seconds: float = 0) -> list[tuple[float, BaseException | None]]:
    return [(seconds, Lost("silence")) for _ in range(count)]


async def test_a_run_that_returns_is_over(autojump_clock: MockClock) -> None:
    changes: list[Change] = []
    script = Script((5, None))
    with capture_logs() as logs:
        await supervise("feed", script, EXACT, on_change=changes.append)
    assert (changes, logs, len(script.starts)) == ([], [], 1)


async def test_the_wait_doubles_up_to_the_longest(autojump_clock: MockClock) -> None:
    script = Script(*failing(6), (0, None))
    changes: list[Change] = []
    await supervise("line", script, EXACT, on_change=changes.append)
    assert script.waits([0] * 6) == [1, 2, 4, 8, 8, 8]
    assert [(c.state, c.attempt, c.delay, c.reason) for c in changes] == [
        ("down", number, wait, "silence") for number, wait in enumerate([1, 2, 4, 8, 8, 8], 1)
    ]


async def test_only_a_run_that_lasted_resets_the_wait(autojump_clock: MockClock) -> None:
    script = Script(*failing(3), (29.9, Lost()), (30, Lost()), *failing(1), (0, None))
    changes: list[Change] = []
    await supervise("line", script, EXACT, on_change=changes.append)
    assert script.waits([0, 0, 0, 29.9, 30, 0]) == [1, 2, 4, 8, 1, 2]
    assert [change.attempt for change in changes] == [1, 2, 3, 4, 1, 2]


async def test_a_first_wait_above_the_longest_is_the_longest(autojump_clock: MockClock) -> None:
    script = Script(*failing(2), (0, None))
    await supervise("line", script, RestartPolicy(delay=9, max_delay=2, jitter=0))
    assert script.waits([0, 0]) == [2, 2]


async def test_another_policy_counts_from_the_next_failure_on(autojump_clock: MockClock) -> None:
    script = Script(*failing(6), (0, None))
    present = EXACT

    def change(_: Change) -> None:
        nonlocal present
        if len(script.starts) == 4:
            present = RestartPolicy(delay=1, max_delay=3, jitter=0)
        if len(script.starts) == 5:
            present = RestartPolicy(delay=20, max_delay=60, jitter=0)

    await supervise("line", script, lambda: present, on_change=change)
    assert script.waits([0] * 6) == [1, 2, 4, 8, 3, 20]


async def test_many_failures_do_not_overflow(autojump_clock: MockClock) -> None:
    script = Script(*failing(2000), (0, None))
    with capture_logs() as logs:
        await supervise("line", script, EXACT)
    assert len(script.starts) == 2001
    assert logs[-1]["attempt"] == 2000
    assert max(script.waits([0] * 2000)) == 8


async def test_a_chance_is_taken_off_the_wait(autojump_clock: MockClock) -> None:
    policy = RestartPolicy(delay=1, max_delay=8, jitter=0.25)
    script = Script(*failing(200), (0, None))
    await supervise("line", script, policy, rng=random.Random(7))
    chance = random.Random(7)
    wanted = [min(2**n, 8) * (1 - 0.25 * chance.random()) for n in range(200)]
    waits = script.waits([0] * 200)
    assert waits == pytest.approx(wanted)
    assert all(6 <= wait <= 8 for wait in waits[3:])
    assert len(set(waits)) == 200


# --- giving up


async def test_giving_up_is_said_and_returns(autojump_clock: MockClock) -> None:
    script = Script(*failing(5))
    changes: list[Change] = []
    with capture_logs() as logs:
        await supervise(
            "feed", script, RestartPolicy(max_attempts=3), on_change=changes.append, context={"symbol": "BTC"}
        )
    assert len(script.starts) == 3
    assert [change.state for change in changes] == ["down", "down", "failed"]
    assert changes[-1].delay is None
    assert logs[-1] == {
        "event": "feed.failed", "log_level": "error", "symbol": "BTC", "reason": "silence", "attempt": 3,
    }  # fmt: skip


async def test_runs_that_lasted_do_not_count(autojump_clock: MockClock) -> None:
    lasting = failing(1, seconds=31)
    script = Script(*lasting, *failing(1), *lasting, *lasting, *failing(2))
    changes: list[Change] = []
    await supervise("feed", script, RestartPolicy(max_attempts=2), on_change=changes.append)
    assert not script.runs
    assert [change.state for change in changes] == ["down"] * 5 + ["failed"]


# --- retry_after


@pytest.mark.parametrize(
    ("asked", "waited"),
    [
        (120, 120),
        (0.5, 1),
        (None, 1),
        (-5, 1),
        (math.nan, 1),
        ("60", 1),
        (math.inf, LONGEST_RETRY_AFTER),
        (10**400, LONGEST_RETRY_AFTER),
    ],
)
async def test_what_the_exchange_asks_for_is_waited(asked: Any, waited: float, autojump_clock: MockClock) -> None:
    script = Script((0, Lost("ban", asked)), (0, None))
    await supervise("line", script, EXACT)
    assert script.waits([0]) == [waited]


async def test_what_is_asked_for_is_never_cut_short(autojump_clock: MockClock) -> None:
    script = Script(*[(0, Lost("ban", 100)) for _ in range(50)], (0, None))
    await supervise("line", script, RestartPolicy(delay=1, max_delay=8), rng=random.Random(1))
    waits = script.waits([0] * 50)
    assert all(100 <= wait <= 102 for wait in waits)
    assert len(set(waits)) == 50


async def test_the_longest_of_a_group_is_waited(autojump_clock: MockClock) -> None:
    group = ExceptionGroup("g", [Lost("a", 5), ExceptionGroup("h", [Lost("b", 60), ValueError("c")])])
    script = Script((0, group), (0, None))
    changes: list[Change] = []
    with capture_logs() as logs:
        await supervise("line", script, EXACT, on_change=changes.append)
    assert script.waits([0]) == [60]
    assert changes[0].reason == "a; b; ValueError: c"
    assert changes[0].error is group
    assert logs[0]["exc_info"] is group  # one of them was not expected


async def test_a_nursery_of_expected_errors_needs_no_traceback(autojump_clock: MockClock) -> None:
    left = 2

    async def run() -> None:
        nonlocal left
        left -= 1
        async with trio.open_nursery() as nursery:
            if left:
                nursery.start_soon(Script((1, Lost("silence"))))
                nursery.start_soon(Script((1, Lost("silence"))))

    with capture_logs() as logs:
        await supervise("line", run, EXACT)
    assert [(entry["event"], entry["reason"], "exc_info" in entry) for entry in logs] == [
        ("line.down", "silence", False)
    ]


# --- what is said


async def test_the_log_line(autojump_clock: MockClock) -> None:
    fault = TypeError("oops")
    script = Script((0, Lost("no data\nfor 20 s")), (0, fault), (0, None))
    with capture_logs() as logs:
        await supervise("feed", script, EXACT, context={"exchange": "binance", "symbol": "BTCUSDT"})
    context = {"event": "feed.down", "exchange": "binance", "symbol": "BTCUSDT"}
    assert logs == [
        context | {"log_level": "warning", "reason": "no data for 20 s", "attempt": 1, "delay": 1},
        context | {"log_level": "error", "reason": "TypeError: oops", "attempt": 2, "delay": 2, "exc_info": fault},
    ]


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


NAMELESS = type("", (Exception,), {})


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Lost("silence"), "silence"),
        (Lost(), "Lost"),
        (Lost(" \n\t\x00"), "Lost"),
        (Lost("a: b"), "a: b"),
        (ValueError(), "ValueError"),
        (ValueError("a\r\nb\x1b[2J\u2028c\ud800"), "ValueError: a b [2J c"),
        (KeyError("k"), "KeyError: 'k'"),
        (SyntaxError("bad"), "SyntaxError: bad"),
        (NAMELESS(), "error"),
        (Unspeakable(), "Unspeakable: <exception str() failed>"),
        (Lost("x" * 10_000), "x" * 200),
        (ExceptionGroup("g", [Lost(t) for t in "abacde"]), "a; b; c (and 2 more)"),
    ],
)
def test_reasons(error: Exception, reason: str) -> None:
    assert _reason(error) == reason


@given(st.text(st.characters(codec=None)), st.booleans())
def test_a_reason_is_never_empty_and_one_line(text: str, expected: bool) -> None:
    reason = _reason(Lost(text) if expected else ValueError(text))
    assert reason
    assert reason.isprintable()
    assert len(reason) <= 200


# --- what is not ours to stop


async def test_cancellation_passes_while_running_and_while_waiting(autojump_clock: MockClock) -> None:
    for seconds in (0.5, 1.5):  # the run lasts 1 s, the wait 1 s
        with capture_logs() as logs, trio.move_on_after(seconds) as scope:
            await supervise("feed", Script((1, Lost("silence")), (9, None)), EXACT)
        assert scope.cancelled_caught
        assert len(logs) == (seconds > 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
async def test_other_base_exceptions_pass_untouched(error: BaseException, autojump_clock: MockClock) -> None:
    with capture_logs() as logs, pytest.raises(type(error)) as caught:
        await supervise("feed", Script((0, error)), EXACT)
    assert caught.value is error
    assert logs == []


async def test_a_failure_while_being_cancelled_does_not_outlive_it(autojump_clock: MockClock) -> None:
    async def breaks_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Lost("broke while closing")

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(breaks_when_cancelled)
            nursery.start_soon(trio.sleep_forever)

    changes: list[Change] = []
    with capture_logs() as logs, trio.move_on_after(1) as scope:
        await supervise("line", run, EXACT, on_change=changes.append)
    assert scope.cancelled_caught
    assert changes == []
    assert [(entry["event"], entry["reason"]) for entry in logs] == [("line.stopped", "broke while closing")]


async def test_a_mixed_group_keeps_what_is_not_ours(autojump_clock: MockClock) -> None:
    interrupt = KeyboardInterrupt()
    mixed = BaseExceptionGroup("mixed", [ValueError("bug"), interrupt])
    with capture_logs() as logs, pytest.raises(BaseExceptionGroup) as caught:
        await supervise("line", Script((0, mixed)), EXACT)
    assert caught.value.exceptions == (interrupt,)
    assert logs[0]["event"] == "line.stopped"
    assert "exc_info" in logs[0]


async def test_nothing_of_a_failed_run_is_kept_while_waiting(autojump_clock: MockClock) -> None:
    class Socket:
        pass

    held: list[weakref.ref[Socket]] = []

    async def run() -> None:
        socket = Socket()
        held.append(weakref.ref(socket))
        raise Lost("silence")

    async def look() -> None:
        await trio.sleep(0.5)
        gc.collect()
        assert [ref() for ref in held] == [None]

    with trio.move_on_after(0.9):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await supervise("line", run, EXACT, on_change=lambda change: None)
