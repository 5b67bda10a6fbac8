"""Which of the nodes that collect is asked, and what becomes of a question that one does not answer."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest
import structlog.testing
import trio

from actors.engine.words import Member
from actors.errors import MarketError, NotReady, Overloaded, UnknownSymbol, UpstreamError, UpstreamLimited
from actors.mirror import ingests as module
from actors.mirror.ingests import BrokenOff, Ingests, Question, open_ingests
from tests.actors.mirror.collectors import Call, collector, goes, hangs, nowhere, yes
from tests.daemon.fixtures import eventually
from tests.patience import WITHIN


@asynccontextmanager
async def asking(members: Sequence[Member], first: str | None = None, token: str = "") -> AsyncIterator[Ingests]:
    async with open_ingests(lambda: members, token=token, first_for=lambda target: first) as ingests:
        with trio.fail_after(WITHIN):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ingests.run)
                yield ingests
                nursery.cancel_scope.cancel()


async def ask(ingests: Ingests, target: str = "/x?y=1") -> Any:
    return await ingests.get(target, dict)


async def test_equal_questions_go_to_one_node_and_others_to_others() -> None:
    async with collector("a", yes) as a, collector("b", yes) as b, asking([a.member, b.member]) as ingests:
        for _ in range(3):
            assert await ask(ingests) == {"target": "/x?y=1"}
        assert sorted((len(a.heads), len(b.heads))) == [0, 3]
        for number in range(20):
            await ask(ingests, f"/{number}")
        assert min(len(a.heads), len(b.heads)) > 1


@pytest.mark.parametrize("name", ["a", "b"])
async def test_the_node_that_leads_is_asked_first(name: str) -> None:
    async with collector("a", yes) as a, collector("b", yes) as b, asking([a.member, b.member], name) as ingests:
        for number in range(8):
            await ask(ingests, f"/{number}")
        assert (len(a.heads), len(b.heads)) == ((8, 0) if name == "a" else (0, 8))


async def test_edges_and_nodes_without_an_address_are_not_asked() -> None:
    edge = Member(name="e", role="edge", address="http://127.0.0.1:9")
    mute = Member(name="m", role="both", address="")
    async with collector("a", yes) as a, asking([edge, mute, a.member], "e") as ingests:
        assert await ask(ingests)
        assert not ingests.failed


async def test_a_node_that_is_not_reached_or_ends_without_a_word_is_asked_in_vain() -> None:
    async with collector("b", goes) as b, collector("c", yes) as c:
        members = [nowhere("a"), b.member, c.member]
        for first in "ab":
            async with asking(members, first) as ingests:
                assert await ask(ingests)
                assert ingests.failed[first] == 1
                assert ingests.answered["c"] == 1
        async with asking(members[:2]) as ingests:
            with pytest.raises(NotReady, match="no node that collects answers"):
                await ask(ingests)
        async with asking([]) as ingests:
            with pytest.raises(NotReady, match="none of them is there"):
                await ask(ingests)


async def test_a_node_that_did_not_answer_is_asked_last_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAST", WITHIN)
    async with collector("b", yes) as b, asking([nowhere("a"), b.member], "a") as ingests:
        for _ in range(5):
            assert await ask(ingests)
        assert (ingests.failed["a"], ingests.answered["b"]) == (1, 5)
        monkeypatch.setattr(module, "LAST", 0.0)
        assert await ask(ingests)
        assert ingests.failed["a"] == 2


async def test_a_connection_that_was_kept_and_is_closed_costs_no_answer() -> None:
    async def once(call: Call) -> None:
        await yes(call)
        raise trio.BrokenResourceError  # while the other side keeps the connection for its next question

    async with collector("a", once) as a, asking([a.member]) as ingests:
        for number in range(20):
            await ask(ingests, f"/{number}")
        assert ingests.answered["a"] == 20
        assert not ingests.failed


async def test_a_node_that_is_frozen_is_left_once_it_is_there_no_longer() -> None:
    async with collector("a", hangs) as a, collector("b", yes) as b:
        members = [a.member, b.member]
        async with asking(members, "a") as ingests, trio.open_nursery() as nursery:
            nursery.start_soon(ask, ingests)
            await eventually(lambda: a.heads, WITHIN)
            members.remove(a.member)  # its word ran out
        assert (ingests.failed["a"], ingests.answered["b"]) == (1, 1)
        await eventually(lambda: a.left == 1, WITHIN)


async def test_a_node_that_refuses_the_key_is_none() -> None:
    async def refuses(call: Call) -> None:
        assert "authorization: Bearer mk_x" in call.head
        await call.answer(b"{}", "401 Unauthorized", "WWW-Authenticate: Bearer")

    async with collector("a", refuses) as a, asking([a.member], token="mk_x") as ingests:
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                with pytest.raises(NotReady, match=r"it refuses this edge's key, see engine\.token"):
                    await ask(ingests)
        assert [entry["event"] for entry in logs] == ["ingest.fails"]  # said once


@pytest.mark.parametrize(
    ("body", "error", "retry_after"),
    [
        (b'{"code":"unknown_symbol","detail":"no"}', UnknownSymbol, None),
        (b'{"code":"upstream_limited","detail":"no","retry_after":7}', UpstreamLimited, 7.0),
        (b'{"code":"rate_limited","detail":"no","retry_after":1,"limit":"requests_per_second"}', NotReady, 1.0),
        (b"<html>no", NotReady, None),
        (b'"\xff"', NotReady, None),
    ],
)
async def test_a_refusal_is_the_error_that_it_was_there(
    body: bytes, error: type[MarketError], retry_after: float | None
) -> None:
    async def refuses(call: Call) -> None:
        await call.answer(body, "503 no")

    async with collector("a", refuses) as a, asking([a.member]) as ingests:
        with pytest.raises(error) as caught:
            await ask(ingests)
        assert caught.value.retry_after == retry_after


async def test_a_node_that_limits_the_edge_is_named_once_in_the_log() -> None:
    async def limits(call: Call) -> None:
        await call.answer(b'{"code":"rate_limited","detail":"no","retry_after":1}', "429 Too Many Requests")

    async with collector("a", limits) as a, asking([a.member]) as ingests:
        with structlog.testing.capture_logs() as logs:
            for _ in range(2):
                async with ingests.asked(Question("GET", b"/")) as passage:
                    assert passage.status == 429
        assert [(entry["event"], entry["node"]) for entry in logs] == [("ingest.limits_us", "a")]


async def test_an_answer_of_another_kind_is_an_error() -> None:
    async with collector("a", yes) as a, asking([a.member]) as ingests:
        with pytest.raises(UpstreamError, match="answered something else"):
            await ingests.get("/", datetime)


async def test_an_answer_that_breaks_off_is_not_asked_for_again() -> None:
    async def breaks(call: Call) -> None:
        await call.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbeginning")
        raise trio.BrokenResourceError

    async with collector("a", breaks) as a, collector("b", yes) as b, asking([a.member, b.member], "a") as ingests:
        async with ingests.asked(Question("GET", b"/")) as passage:
            assert passage.status == 200
            assert await anext(passage.pieces) == b"beginning"
            with pytest.raises(BrokenOff):
                await anext(passage.pieces)
        assert not b.heads


async def test_what_is_under_way_at_once_is_bounded_and_nothing_is_left_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 3)
    monkeypatch.setattr(module, "TURN", 0.05)
    async with collector("a", hangs) as a, asking([a.member]) as ingests:
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(ask, ingests, f"/{number}")
            await eventually(lambda: len(a.heads) == 3, WITHIN)
            with pytest.raises(Overloaded):
                await ask(ingests)
            nursery.cancel_scope.cancel()  # their clients leave
        await eventually(lambda: a.left == 3, WITHIN)
