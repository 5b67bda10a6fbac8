"""What stands in for the exchanges during a replay: which answer a question gets, which connection a line."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from math import inf
from typing import Any

import pytest
import trio

from actors.clock import RecordedClock, fixed_order
from actors.errors import LineLost, UpstreamError, UpstreamTimeout
from actors.recording import replay
from actors.recording.format import Answered, AnyRecord, Closed, Down, Failed, Frame, Lost, Sent, Up
from actors.recording.replay import PATIENCE, UNREAD_MAX, Replay
from actors.upstream.dial import ConnectionClosed
from actors.upstream.rest import Question, Unreachable
from actors.upstream.seam import Socket
from tests.daemon.fixtures import captured_logs

SECOND = 1_000_000
NOW, LATER = 1_789_999_200_000, 1_789_999_200_123  # Unix milliseconds, as in questions


def answer(at: float, body: bytes, query: str = "", *, path: str = "/path", asked: bytes = b"") -> Answered:
    us = int(at * SECOND)
    return Answered(us, "binance", us - 5, "POST" if asked else "GET", path, query, asked, 200, {"x-used": "1"}, body)


def get(query: dict[str, str] | None = None, path: str = "/path") -> Question:
    return Question("GET", path, query or {})


def frame(at: float, data: bytes, line: int = 1) -> Frame:
    return Frame(int(at * SECOND), "binance", line, data, False)


def up(at: float, line: int = 1) -> Up:
    return Up(int(at * SECOND), "binance", line, [])


def play(
    records: Sequence[AnyRecord], *tasks: Callable[[Replay], Awaitable[Any]], is_complete: bool = True
) -> list[tuple[float, Any]]:
    """Replay the records to the tasks; what each task returned or raised, and when."""
    clock = RecordedClock(0, inf)
    results: list[tuple[float, Any]] = [(-1.0, None)] * len(tasks)

    async def program() -> None:
        upstream = Replay(clock, is_complete=is_complete)

        async def run(place: int) -> None:
            try:
                result = await tasks[place](upstream)
            except (UpstreamError, UpstreamTimeout, LineLost, ConnectionClosed) as error:
                result = error
            results[place] = round(trio.current_time(), 3), result

        async with trio.open_nursery() as nursery:
            for place in range(len(tasks)):
                nursery.start_soon(run, place)
            clock.start()
            await upstream.play(records)
            await trio.sleep(100)
            nursery.cancel_scope.cancel()

    with fixed_order():
        trio.run(program, clock=clock, instruments=[clock])
    return results


def asking(question: Question, at: float = 0.0) -> Callable[[Replay], Awaitable[bytes]]:
    async def ask(upstream: Replay) -> bytes:
        await trio.sleep_until(at)
        async with upstream.open_http("binance", "", None) as http:
            return (await http.ask(question)).body

    return ask


# --- REST


def test_an_answer_comes_at_its_moment_and_not_before() -> None:
    records: list[AnyRecord] = [answer(3, b"other", path="/other"), answer(5, b"first"), answer(7, b"second")]
    found = play(records, asking(get()), asking(get(), at=1), asking(get(path="/other"), at=3.5))
    assert found == [(5, b"first"), (7, b"second"), (3.5, b"other")]


def test_an_answer_is_as_it_was() -> None:
    async def ask(upstream: Replay) -> Any:
        async with upstream.open_http("binance", "", None) as http:
            return await http.ask(get({"a": "1 2"}))

    [(_, found)] = play([answer(2, b"body", "a=1+2")], ask)
    assert (found.status, dict(found.headers), found.body) == (200, {"x-used": "1"}, b"body")
    assert (found.answered_at - found.asked_at).microseconds == 5
    assert found.answered_at.timestamp() == 2


def test_a_question_that_says_when_it_is_asked_is_known_in_spite_of_it() -> None:
    earlier, later = {"start": str(NOW), "limit": "5"}, {"start": str(LATER), "limit": "5"}
    records: list[AnyRecord] = [
        answer(1, b"limit 6", f"start={NOW}&limit=6"),
        answer(2, b"now", f"start={NOW}&limit=5"),
        answer(3, b"body now", asked=b'{"start":%d}' % NOW),
    ]
    body = Question("POST", "/path", {}, b'{"start":%d}' % LATER)
    assert play(records, asking(get(later)), asking(body)) == [(2, b"now"), (3, b"body now")]
    # Where one asks for exactly that, it is the one who gets it.
    assert play(records, asking(get(later)), asking(get(earlier), at=1))[1] == (2, b"now")


def test_a_question_without_an_answer_is_told_so() -> None:
    stale = answer(1, b"stale")
    [(at, error), (_, of_another)] = play([stale], asking(get(), at=2 + PATIENCE), asking(get(path="/other")))
    assert (at, str(error)) == (2 + 2 * PATIENCE, "/path: the recording has no answer to this")
    assert isinstance(error, UpstreamTimeout)
    assert isinstance(of_another, UpstreamTimeout)
    [(at, error)] = play([], asking(get()), is_complete=False)
    assert at < 0.1
    assert isinstance(error, UpstreamTimeout)


@pytest.mark.parametrize(
    ("name", "kind"), [("Unreachable", Unreachable), ("UpstreamTimeout", UpstreamTimeout), ("Else", UpstreamError)]
)
def test_failures_fail_again(name: str, kind: type[Exception]) -> None:
    failed = Failed(2 * SECOND, "binance", 1, "GET", "/path", "", b"", name, "why")
    [(at, error)] = play([failed], asking(get()))
    assert (at, type(error), str(error)) == (2, kind, "why")


# --- lines


def reading(log: list[Any], at: float = 0.0, line: int = 1, until: float = inf) -> Callable[[Replay], Awaitable[None]]:
    async def read(upstream: Replay) -> None:
        await trio.sleep_until(at)
        async with upstream.open_socket("binance", line, [], "", None) as socket:
            log.append(("up", round(trio.current_time(), 3)))
            with trio.move_on_at(until):
                await read_all(socket)

    async def read_all(socket: Socket) -> None:
        await socket.ping()
        await socket.send_message("hello")

        def heard(messages: Sequence[bytes | str], taken_at: datetime) -> None:
            log.extend((message, round(trio.current_time(), 3), taken_at.timestamp()) for message in messages)

        await socket.listen(heard)

    return read


def test_a_connection_comes_when_it_came_and_ends_as_it_ended() -> None:
    log: list[Any] = []
    records: list[AnyRecord] = [
        up(1),
        frame(2, b"one"),
        Sent(2 * SECOND, "binance", 1, "hello"),
        Frame(3 * SECOND, "binance", 1, b"two", True),
        frame(3.5, b"of another line", line=2),
        Closed(4 * SECOND, "binance", 1, 1012, "maintenance"),
        Down(4 * SECOND, "binance", 1, True, "closed by the exchange"),
    ]
    [(at, error)] = play(records, reading(log))
    assert log == [("up", 1), (b"one", 2, 2), ("two", 3, 3)]
    assert at == 4
    assert (error.reason.code, error.reason.reason) == (1012, "maintenance")


def test_attempts_fail_as_they_failed() -> None:
    log: list[Any] = []
    records: list[AnyRecord] = [
        Down(1 * SECOND, "binance", 1, False, "cannot connect"),
        up(2),
        Down(3 * SECOND, "binance", 1, True, "silence"),
        up(4),
        Closed(5 * SECOND, "binance", 1, None, ""),
    ]
    results = play(records, *(reading(log, at=at) for at in (0, 1.5, 3.5)))
    assert [(at, str(error)) for at, error in results][:2] == [(1, "cannot connect"), (3, "silence")]
    assert isinstance(results[2][1], ConnectionClosed)
    assert results[2][1].reason is None
    assert log == [("up", 2), ("up", 4)]


def test_a_line_that_comes_late_finds_what_it_missed() -> None:
    log: list[Any] = []
    records: list[AnyRecord] = [
        up(1),
        frame(2, b"one"),
        frame(3, b"two"),
        Down(4 * SECOND, "binance", 1, True, "silence"),
    ]
    [(at, error)] = play(records, reading(log, at=10))
    assert (at, str(error)) == (10, "silence")
    assert log == [("up", 10), (b"one", 10, 2), (b"two", 10, 3)]


def test_a_line_that_left_too_soon_finds_the_rest() -> None:
    log: list[Any] = []
    records: list[AnyRecord] = [up(1), frame(2, b"one"), frame(3, b"two"), frame(5, b"three")]
    play(records, reading(log, until=2.5), reading(log, at=4, until=6), reading(log, at=7))
    assert log == [
        ("up", 1),
        (b"one", 2, 2),
        ("up", 4),
        (b"two", 4, 3),
        (b"three", 5, 5),
        ("up", 7),  # again: the recorded connection is still open
    ]


def test_what_nobody_follows_is_bounded_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "ATTEMPTS_MAX", 2)
    log: list[Any] = []
    records: list[AnyRecord] = [
        up(1),
        *(frame(2, b"x") for _ in range(UNREAD_MAX + 10)),
        Lost(3 * SECOND, 7),
        up(4),
        up(5),
        frame(6, b"y"),
    ]
    with captured_logs() as logs:
        play(records, reading(log, at=7))
    assert [entry["event"] for entry in logs] == ["replay.line_not_followed", "replay.hole"]
    assert logs[1]["records"] == 7
    assert log == [("up", 7)]  # the older one of the two connections that were kept, which said nothing


def test_records_that_went_back_in_time_keep_their_order() -> None:
    log: list[Any] = []
    records: list[AnyRecord] = [up(5), frame(4, b"one"), frame(3, b"two"), frame(6, b"three")]
    play(records, reading(log))
    assert [(entry[0], entry[1]) for entry in log] == [("up", 5), (b"one", 5), (b"two", 5), (b"three", 6)]
    assert [entry[2] for entry in log[1:]] == [4, 3, 6]
