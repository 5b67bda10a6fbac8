"""`/sse` without HTTP: which topics a query names, and the positions that an event's id holds."""

from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from werkzeug.datastructures import MultiDict

from tests.web.streams.test_multiplex import TRADES, Daemon
from web.access.auth import Auth, visiting
from web.access.clients import Clients
from web.access.limits import Limits
from web.problems import InvalidParameters
from web.streams.memory import Position
from web.streams.multiplex import ClientLimits
from web.streams.sse import _positions, respond, topics_of

OTHER = f"{TRADES[:-6]}large_trades"


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["a:b:trades"], ["a:b:trades"]),
        (["a:b:trades,a:c:trades", "a:b:trades"], ["a:b:trades", "a:c:trades"]),
        (["oi-vol"], ["oi-vol"]),
        (["oi-vol?timeframes=5m,15m,a:b:oi"], ["oi-vol?timeframes=5m,15m", "a:b:oi"]),
        (["a:b:oi,oi-vol?timeframes=5m,15m"], ["a:b:oi", "oi-vol?timeframes=5m,15m"]),
        (["a:b:oi,,"], ["a:b:oi"]),
    ],
)
def test_the_topics_of_a_query(given: list[str], names: list[str]) -> None:
    assert topics_of(MultiDict([("topics", text) for text in given])) == names


@pytest.mark.parametrize(
    "args", [[], [("topics", "")], [("topic", "a:b:oi")], [("topics", ",".join(f"a:{n}:oi" for n in range(51)))]]
)
def test_a_query_without_usable_topics_is_refused(args: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidParameters):
        topics_of(MultiDict(args))


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        (None, [None, None]),
        ("a-b.5,c-d.7", [Position("a-b", 5), Position("c-d", 7)]),
        ("a-b.5", [None, None]),
        ("a-b.5,c-d.7,e-f.9", [None, None]),
        ("a-b.x,c-d.7", [None, Position("c-d", 7)]),
        ("a-b.-1,c-d.\u0667", [None, None]),
        ("a-b." + "9" * 19 + ",.0", [None, Position("", 0)]),
    ],
)
def test_the_positions_of_an_event_s_id(text: str | None, positions: list[Any]) -> None:
    assert _positions(text, 2) == positions


async def opened(daemon: Daemon, last_event_id: str | None) -> tuple[Any, list[tuple[str, Any]]]:
    """A stream of two topics, and what it begins with: (id, event)."""
    auth = Auth(Clients(Limits()))
    with visiting(auth.visit((), "")):
        response: Any = await respond([TRADES, OTHER], last_event_id, daemon.fanouts, auth, head_only=False)
    stream = aiter(response.response)
    text = (await anext(stream)).decode()
    told = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if "data" in lines:
            told.append((lines["id"], msgspec.json.decode(lines["data"])))
    return stream, told


async def test_who_leaves_in_the_midst_of_its_losses_is_told_the_others_when_it_comes_back(
    nursery: trio.Nursery,
) -> None:
    daemon = Daemon(nursery, ClientLimits())
    stream, told = await opened(daemon, "1f-aa.5,2e-bb.6")
    await stream.aclose()
    assert [event["reason"] for _, event in told] == ["resume_too_old"] * 2
    first_id = told[0][0]  # all that it had heard
    stream, again = await opened(daemon, first_id)
    await stream.aclose()
    assert {event["topic"] for _, event in again} == {TRADES, OTHER}
    nursery.cancel_scope.cancel()


async def test_an_id_that_is_not_ours_is_not_repeated(nursery: trio.Nursery) -> None:
    daemon = Daemon(nursery, ClientLimits())
    stream, told = await opened(daemon, "<script>.5,\x00.6")
    await stream.aclose()
    assert all("script" not in event_id and "\x00" not in event_id for event_id, _ in told)
    nursery.cancel_scope.cancel()
