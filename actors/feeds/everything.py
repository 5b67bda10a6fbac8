"""Streams over all exchanges and symbols at once. Feeds publish into them as they publish to their own readers."""

from datetime import datetime

from actors.broadcast import Broadcast, Reader
from actors.events import Event, Kind, Topic
from actors.relayed import Told

ALL = "all"  # stands for the exchange in such a topic
KINDS: tuple[Kind, ...] = ("liquidations", "large_trades")


class Everything:
    """One broadcast per kind that makes sense across exchanges; a source of topics like a feed."""

    def __init__(self) -> None:
        self.received_at: datetime | None = None  # of what is being told
        self._broadcasts: dict[Kind, Broadcast[Told]] = {kind: Broadcast() for kind in KINDS}

    def publish(self, kind: Kind, said: Told, received_at: datetime | None = None) -> None:
        broadcast = self._broadcasts.get(kind)
        if broadcast is not None:
            self.received_at = received_at
            broadcast.publish(said)

    def subscribe(self, topic: Topic, capacity: int) -> Reader[Told]:
        """A reader of one kind over everything that is collected."""
        return self._broadcasts[topic.kind].subscribe(capacity)

    def current(self, topic: Topic) -> Event | None:
        return None  # events of a moment: there is no present one
