"""Streams over everything, as lanes' writers shared them in the engine: the same on every node, numbers included."""

from collections.abc import Callable
from datetime import datetime

from actors.broadcast import Broadcast, Reader
from actors.engine.words import ALL, Engine, EngineAway
from actors.engine.words import Told as Logged
from actors.events import Event, Status, Topic
from actors.exchanges.exchange import Supervise
from actors.feeds.everything import KINDS
from actors.mirror.lane import Lane, said
from actors.mirror.logs import Logs
from actors.relayed import Numbering, Recalled, Renumbered, Told


class Everywhere:
    """A source of topics like a feed: `all:liquidations`, `all:large_trades`, `oi-vol`."""

    def __init__(
        self,
        engine: Engine,
        *,
        supervise: Supervise,
        on_failure: Callable[[EngineAway], None] = lambda error: None,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        self._supervise = supervise
        self._failed, self._answered = on_failure, on_answer
        self._lane = Lane(ALL)
        self._broadcasts: dict[str, Broadcast[Told]] = {}  # by the topic's name
        self._logs = Logs(
            *(engine, [self._lane]), take=self._take, begin_anew=self._begin_anew, note=self._note, begins=True
        )

    # --- a source ---

    @property
    def received_at(self) -> datetime | None:
        """When what is told at the moment came from the engine."""
        return self._lane.received_at

    @property
    def holes(self) -> int:
        """How often it began anew."""
        return self._logs.holes

    def subscribe(self, topic: Topic, capacity: int) -> Reader[Told]:
        return self._broadcasts.setdefault(str(topic), Broadcast()).subscribe(capacity)

    def numbering(self, topic: Topic) -> Numbering:
        return Numbering(self._lane.epoch, self._lane.seqs.get(str(topic), 0))

    def current(self, topic: Topic) -> Event | None:
        return None  # events of a moment: there is no present one

    async def recall(self, topic: Topic, behind: int) -> list[Recalled] | None:
        return await self._logs.recall(ALL, topic, behind)

    # --- what is told ---

    async def run(self) -> None:
        """Read until cancelled."""
        await self._supervise("everywhere", self._logs.follow)

    def tell_status(self, status: Status) -> None:
        """To the readers of all topics into which the feed's events go."""
        for kind in KINDS:
            self._publish(str(Topic(ALL, "", kind)), status)

    def _take(self, lane: Lane, told: Logged) -> None:
        for entry in told.entries:
            if entry.seq is not None:
                lane.seqs[entry.topic] = entry.seq
            self._publish(entry.topic, said(entry))

    def _publish(self, name: str, told: Told) -> None:
        if (broadcast := self._broadcasts.get(name)) is not None:
            broadcast.publish(told)

    def _begin_anew(self, lane: Lane) -> None:
        for name, broadcast in self._broadcasts.items():
            broadcast.publish(Renumbered(Numbering(lane.epoch, lane.seqs.get(name, 0))))

    def _note(self, failure: EngineAway | None) -> None:
        if failure is None:
            self._answered()
        else:
            self._failed(failure)
