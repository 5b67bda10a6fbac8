"""All sinks of a daemon: each is told everything, and none of them holds up another."""

from collections.abc import Sequence
from functools import partial

import trio

from actors.engine.words import Entry
from actors.events import Said, Topic
from actors.exchanges.exchange import Supervise
from actors.sinks.report import SinkReport
from actors.sinks.sink import Sink


class Sinks:
    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.all = tuple(sinks)

    @property
    def are_failing(self) -> bool:
        """At least one of them."""
        return any(sink.is_failing for sink in self.all)

    def report(self) -> list[SinkReport]:
        return [sink.report() for sink in self.all]

    def want(self, topic: Topic) -> bool:
        """At least one of them writes it."""
        return any(sink.wants(topic) for sink in self.all)

    def take(self, topic: Topic, said: Said) -> None:
        for sink in self.all:
            sink.take(topic, said)

    def take_said(self, epoch: str, entries: Sequence[Entry]) -> None:
        for sink in self.all:
            sink.take_said(epoch, entries)

    async def run(self, supervise: Supervise) -> None:
        async with trio.open_nursery() as nursery:
            for sink in self.all:
                nursery.start_soon(partial(supervise, "sink", sink.run, sink=sink.name))
