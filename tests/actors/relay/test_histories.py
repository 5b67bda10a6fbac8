"""Nodes that lead, die, sleep and come back over an engine that freezes, forgets and loses answers, under Trio's clock.

What is told to an edge that reads all the while, and to one that joins in between, is held to the invariants: a number
is one event, a trade is told once or announced as lost, a bar closes once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.engine.memory import MemoryEngine
from actors.engine.words import ALL, Burst, Lease, Mark, Present, Refused, Share, Told
from actors.events import OiSpike
from actors.relay.claims import Claims
from actors.relay.closes import Closes
from actors.relay.hearing import Hearing
from actors.relay.sharing import Sharing
from actors.relay.takeover import Tail, holder_of
from actors.relay.writer import Writer
from tests.actors.relay.fixtures import (
    ALL_LIQUIDATIONS,
    BARS,
    COPIES,
    LEASE,
    SPIKES,
    SYMBOLS,
    TRADES,
    Market,
    Node,
    Observer,
    by_topic,
    check,
)

CALM = 4 * LEASE  # seconds after which all is told

Step = tuple[str, float]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "kill",
                "freeze",
                "thaw",
                "start",
                "return",
                "away",
                "back",
                "lose",
                "edge",
                "stop",
                "mute",
                "cut",
                "mend",
                "lag",
            ],
        ),
        st.floats(0.0, 2 * LEASE),
    ),
    max_size=14,
)


class History:
    """A market, an engine, up to three nodes and the edges that joined."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.market, self.engine = Market(), MemoryEngine()
        self.nodes: list[Node] = []
        self.gone: list[str] = []  # names of nodes that were killed or stopped
        self.edges: list[Observer] = []
        self.leaders: dict[str, str] = {}  # by lane, at the end
        self._count = 0
        self._older = self.engine.snapshot()

    async def begin(self) -> None:
        self.nursery.start_soon(self.market.run)
        self.step("start")
        await trio.sleep(0.1)  # the first one leads every lane
        self.step("start")
        self.step("edge")

    def step(self, what: str) -> None:
        match what:
            case "start" if len(self.nodes) < 3:
                self._count += 1
                self._start(f"node{self._count}", latency=0.01 * self._count)
            case "return" if self.gone and len(self.nodes) < 3:
                self._start(self.gone.pop(0), latency=0.03)
            case "kill" if self.nodes:
                self.gone.append(self.nodes[0].name)
                self.nodes.pop(0).kill()
            case "stop" if self.nodes:
                self.gone.append(self.nodes[0].name)
                self.nodes.pop(0).scope.cancel()
            case "freeze" if self.nodes:
                self.nodes[0].freeze()
            case "mute" if self.nodes:  # what it says in lanes is not shared with all
                self.nodes[0].way.refuses.add("share")
            case "lag" if self.nodes:  # it has much to catch up with
                self.nodes[0].lag = 2.0
            case "thaw":
                for node in self.nodes:
                    node.thaw()
                    node.lag = 0.0
                    node.way.refuses.clear()
            case "cut" if self.nodes:
                self.nodes[0].cut_off()
            case "mend":
                for node in self.nodes:
                    node.mend()
            case "away":
                self.engine.is_away = True
            case "back":
                self.engine.is_away = False
            case "lose":
                self.engine.answers_lost += 1
            case "edge" if len(self.edges) < 3:
                edge = Observer(self.engine)
                self.edges.append(edge)
                self.nursery.start_soon(edge.run)
            case "keep":
                self._older = self.engine.snapshot()
            case "roll back":
                self.engine.restore(self._older)

    def _start(self, name: str, latency: float) -> None:
        node = Node(self.market, self.engine, name, latency)
        self.nodes.append(node)
        self.nursery.start_soon(node.run)

    async def end(self) -> None:
        """All is well again, for long enough."""
        self.step("back")
        self.step("thaw")
        self.step("mend")
        self.engine.answers_lost = 0
        self.step("start")
        await trio.sleep(CALM)
        led = [lane.lease for node in self.nodes for lane in node.relay.lanes if lane.lease is not None]
        self.leaders = {lease.lane: holder_of(lease.token)[0] for lease in led}
        self.market.is_over = True
        await trio.sleep(1)


def run(steps: list[Step], *, rolled_back: bool = False, lossless: bool = False) -> History:
    """`lossless`: there is a node all the while that knows all, so that nothing may be announced as lost."""

    async def main() -> History:
        async with trio.open_nursery() as nursery:
            history = History(nursery)
            await history.begin()
            await trio.sleep(LEASE)
            for what, wait in steps:
                history.step(what)
                await trio.sleep(wait)
            await history.end()
            check(history.market, history.edges, rolled_back=rolled_back)
            if lossless:
                assert [gap for edge in history.edges for topic in edge.topics.values() for gap in topic.gaps] == []
            nursery.cancel_scope.cancel()
        return history

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@settings(max_examples=8, deadline=None)
@given(STEPS)
def test_whatever_happens_each_is_told_once_or_announced(steps: list[Step]) -> None:
    run(steps)


OLDER = st.tuples(st.sampled_from(["keep", "roll back", "kill", "start", "freeze", "thaw"]), st.floats(0.5, LEASE))


@settings(max_examples=5, deadline=None)
@given(st.lists(OLDER, max_size=8))
def test_an_engine_that_comes_back_older_is_another_memory(steps: list[Step]) -> None:
    """No edge is told a number twice, and what it could not be told is announced."""
    run(steps, rolled_back=True)


def test_a_burst_that_another_memorys_begin_crosses_is_said_again() -> None:
    """An edge sees that the engine is older before the new leader, who never knew it otherwise, says anything."""
    run([("thaw", 1.5), ("keep", 1.0), ("kill", 1.0), ("roll back", 1.0)], rolled_back=True)


@pytest.mark.parametrize("kept", [[], [("keep", 1.0)]], ids=["nothing", "what it had a second ago"])
def test_an_engine_that_lost_what_was_told_is_not_told_it_again_by_a_successor(kept: list[Step]) -> None:
    away: list[Step] = [("away", 1.0), ("kill", 1.0), ("roll back", 0.1), ("back", 6.0)]
    history = run([*kept, *away], rolled_back=True)
    for topic in TRADES:
        ids = [msgspec.json.decode(text)["trade_id"] for text in by_topic(history.edges[0])[topic]]
        assert ids == sorted(set(ids))


def test_what_a_lane_had_yet_to_share_when_it_began_anew_is_announced() -> None:
    """A successor says what the older engine lacks, and an edge begins another memory before that is shared."""
    run([("keep", 0.5), ("kill", 1.0), ("roll back", 1.0)], rolled_back=True)


# By the market's clock a minute ends 40 s after the begin.
PAST_A_BARS_END: list[Step] = [("thaw", 36.5), ("kill", 8.0)]
PAST_A_SPIKE: list[Step] = [("thaw", 38.0), ("kill", 8.0)]


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([("kill", 6.0)], id="the leader dies"),
        pytest.param([("stop", 1.0)], id="the leader is stopped"),
        pytest.param([("freeze", LEASE + 2), ("thaw", 2.0)], id="the leader sleeps past its lease, and writes late"),
        pytest.param([("kill", 0.0), ("kill", 38.0)], id="nobody is left for longer than anybody remembers"),
        pytest.param([("away", 2 * LEASE), ("back", 1.0)], id="the engine is away for two leases"),
        pytest.param([("away", 35.0), ("back", 1.0)], id="the engine is away for longer than nodes remember"),
        pytest.param([("lose", 0.1)] * 5, id="answers are lost"),
        pytest.param(PAST_A_BARS_END, id="the leader dies at a bar's end"),
        pytest.param(PAST_A_SPIKE, id="the leader dies right after a bar's end"),
        pytest.param([("mute", 5.0), ("kill", 6.0)], id="the leader dies before it shared what it said with all"),
        pytest.param(
            [("mute", 34.0), ("freeze", LEASE + 3), ("thaw", 2.0)], id="it sleeps, and shares late what another one did"
        ),
        pytest.param(
            [("kill", 6.0), ("lag", 4.0), ("return", 1.0), ("kill", 6.0)],
            id="the leader is behind, and dies when another one has just begun",
        ),
        pytest.param([("edge", 3.0), ("kill", 5.0), ("edge", 1.0)], id="edges join before and after"),
    ],
)
def test_what_may_happen_to_several_machines(steps: list[Step]) -> None:
    history = run(steps)
    first = history.edges[0]
    assert all(first.topics[topic].told for topic in (*TRADES, *BARS, ALL_LIQUIDATIONS))
    if steps in (PAST_A_BARS_END, PAST_A_SPIKE):
        assert len(first.topics[SPIKES].told) == len(SYMBOLS)
    for edge in history.edges[1:]:  # an edge that joined later was told the end of the same, byte for byte
        for topic, texts in by_topic(edge).items():
            assert by_topic(first)[topic][-len(texts) :] == texts


# "node1" comes before "node2" in both lanes, and between it and "node3" each comes first in one.
RETURNS: list[Step] = [("kill", 6.0), ("return", 9.0)]
CUT_OFF: list[Step] = [("cut", 7.0), ("mend", 9.0)]
JOINS: list[Step] = [("edge", 5.0)]


@pytest.mark.parametrize(
    ("steps", "waited"),
    [
        pytest.param([("start", 9.0)], 0.5, id="one more joins"),
        pytest.param([("stop", 6.0), ("return", 9.0)], LEASE / 4, id="the leader is stopped, and comes back"),
        pytest.param(RETURNS, 1.25 * LEASE, id="the leader dies, and comes back"),
        pytest.param(
            [("start", 9.0), ("stop", 9.0), ("return", 9.0)], LEASE / 4, id="one of three is stopped, comes back"
        ),
        pytest.param([*RETURNS, ("edge", 1.0), *RETURNS], 1.25 * LEASE, id="again and again"),
        pytest.param(CUT_OFF, 2 * LEASE, id="the leader is cut off from the exchange"),
        pytest.param([("kill", 38.5), ("return", 9.0)], 1.25 * LEASE, id="it comes back around a bar's end"),
    ],
)
def test_who_comes_back_is_given_its_lanes_and_nothing_is_lost(steps: list[Step], waited: float) -> None:
    history = run(steps, lossless=True)
    assert history.leaders == {"binance.0": "node1", "binance.1": "node3"}  # the first of three in the order of each
    assert history.market.most <= COPIES
    assert max(history.edges[0].topics[topic].waited for topic in TRADES) <= waited + 0.1


async def unfenced(engine: MemoryEngine, bursts: Mapping[Lease, Burst]) -> Mapping[Lease, Refused]:
    """As where the ids are the server's: whoever comes is let in."""
    await engine._asked()
    for lease, burst in bursts.items():
        it = engine._lane(lease.lane)
        engine._append(it, burst._replace(n=it.n + 1))
    engine._answer()
    return {}


async def anyway(engine: MemoryEngine, lease: Lease, seconds: float) -> None:
    await engine._asked()


async def in_steps(engine: MemoryEngine, lane: str) -> Present:
    present = await PRESENT(engine, lane)
    await trio.sleep(1.0)
    later = await PRESENT(engine, lane)
    return present._replace(place=later.place, n=later.n)


async def again(engine: MemoryEngine, shares: Sequence[Share], known: Mark) -> Mark:
    """As where nobody notes what was shared."""
    engine._lane(ALL).shared.clear()
    return await SHARE(engine, shares, known)


def always(writer: Writer, name: str, said: OiSpike) -> None:
    writer._add(name, said.type, msgspec.json.encode(said))


def forgetful(sharing: Sharing, lane: str, epoch: str, tail: Sequence[Told]) -> None:
    BEGIN(sharing, lane, epoch, [])


PRESENT, SHARE, BEGIN = MemoryEngine.present, MemoryEngine.share, Sharing.begin
MUTANTS: list[Any] = [
    pytest.param(
        *(MemoryEngine, {"say": unfenced, "hold": anyway}, [("freeze", LEASE + 2), ("thaw", 2.0)]), id="no fence"
    ),
    pytest.param(Tail, {"has": lambda *_: False}, [("kill", 6.0)], id="no identities at a takeover"),
    pytest.param(Writer, {"_note_unheard": lambda *_: None}, [("kill", 0.0), ("kill", 9.0)], id="no gap when cold"),
    pytest.param(Closes, {"_missed": lambda *_: []}, PAST_A_BARS_END, id="closes are not told by a successor"),
    pytest.param(MemoryEngine, {"share": again}, [("kill", 6.0)], id="what was shared is not noted"),
    pytest.param(
        Sharing, {"begin": forgetful}, [("mute", 5.0), ("kill", 6.0)], id="the log is not shared at a takeover"
    ),
    pytest.param(Writer, {"_tell_spike": always}, PAST_A_SPIKE, id="spikes are told by whoever sees them"),
    pytest.param(Claims, {"_is_ready": lambda *_: True}, RETURNS, id="handed back before it is ready"),
    pytest.param(Hearing, {"is_deaf": lambda *_: False}, CUT_OFF, id="who is cut off from the exchange leads on"),
    pytest.param(MemoryEngine, {"present": in_steps}, JOINS, id="joining in several steps"),
]


@pytest.mark.parametrize(("place", "wrong", "steps"), MUTANTS)
def test_the_check_sees_what_is_wrong(
    place: Any, wrong: dict[str, Any], steps: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, does in wrong.items():
        monkeypatch.setattr(place, name, does)
    with pytest.raises(ExceptionGroup) as caught:
        run(steps, lossless=steps in (RETURNS, JOINS, CUT_OFF))
    assert caught.value.subgroup(AssertionError) is not None
