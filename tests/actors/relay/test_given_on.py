"""What relays give on to whoever writes it elsewhere: all that edges are told, under its numbers, once at least."""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import pytest
import trio
import trio.testing
from hypothesis import given, settings

from actors.engine.words import Entry
from actors.relay.relay import Relay
from tests.actors.relay.fixtures import BARS, LEASE, LIQUIDATIONS, TRADES
from tests.actors.relay.test_histories import STEPS, History, Step


class Written:
    """By topic, epoch and number: what was written, and by which nodes."""

    def __init__(self) -> None:
        self.texts: dict[tuple[str, str, int], set[bytes]] = defaultdict(set)
        self.by: dict[tuple[str, str, int], list[str]] = defaultdict(list)

    def take(self, node: str, epoch: str, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.seq is not None:
                self.texts[entry.topic, epoch, entry.seq].add(entry.text)
                self.by[entry.topic, epoch, entry.seq].append(node)


class Writing(History):
    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__(nursery)
        self.written = Written()

    def step(self, what: str) -> None:
        super().step(what)
        for node in self.nodes:
            node.relay.also = partial(self.written.take, node.name)


def run(steps: list[Step]) -> Written:
    async def main() -> Written:
        async with trio.open_nursery() as nursery:
            history = Writing(nursery)
            await history.begin()
            await trio.sleep(LEASE)
            for what, wait in steps:
                history.step(what)
                await trio.sleep(wait)
            await history.end()
            written = history.written
            for edge in history.edges:
                for topic in (*TRADES, *BARS, *LIQUIDATIONS):
                    for epoch, seq, text in edge.topics[topic].told:
                        assert written.texts.get((str(topic), epoch, seq)) == {text}, (topic, seq)
            nursery.cancel_scope.cancel()
        return written

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@settings(max_examples=5, deadline=None)
@given(STEPS)
def test_whatever_happens_all_that_is_told_is_given_on(steps: list[Step]) -> None:
    run(steps)


def repeated(written: Written) -> list[list[str]]:
    """Who gave on what more than one node did."""
    return [nodes for nodes in written.by.values() if len(nodes) > 1]


def test_of_several_nodes_one_gives_on_but_for_the_last_before_a_lane_was_handed_over() -> None:
    written = run([("edge", 60.0)])
    assert len(repeated(written)) < len(written.by) / 4


def test_a_successor_gives_the_last_of_its_predecessor_on_once_more() -> None:
    written = run([("edge", 20.0), ("kill", 3 * LEASE)])
    assert repeated(written)
    assert all(len(set(nodes)) == len(nodes) for nodes in written.by.values())
    assert len(repeated(written)) < len(written.by) / 2


def test_without_that_some_would_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the engine took of a leader that died before it knew."""
    monkeypatch.setattr(Relay, "_repeat", lambda *_: None)
    with pytest.raises(BaseExceptionGroup):
        run([("edge", 5.0), *[("lose", 0.0)] * 50, ("lose", 0.5), ("kill", 3 * LEASE)])
