"""One lane, and what is known of it here."""

from dataclasses import dataclass, field

import trio

from actors.engine.words import EngineAway, Lease, Refused
from actors.relay.writer import Writer


@dataclass
class Lane:
    """`epoch`, `n`: of the last burst that the engine acknowledged to us."""

    name: str
    writer: Writer
    lease: Lease | None = None
    epoch: str = ""
    n: int = 0
    past: set[str] = field(default_factory=set)  # epochs that were left: one that comes back is an engine that is older
    said: int = 0  # bursts
    entries: int = 0
    say_seconds: float = 0.0  # that the last burst took
    refusal: Refused | EngineAway | None = None  # why what it says is not taken
    is_awaited: bool = False  # where we lead: by a node that comes before us and could lead at once
    called: trio.Event = field(default_factory=trio.Event)  # one of the two came to be
    holder: str | None = None  # the token of who leads it, as it was seen last
    free_since: float | None = None  # by Trio's clock; None: somebody leads it
    ours_since: float | None = None  # to follow, by the order of nodes; None: it is not

    def refuse(self, refusal: Refused | EngineAway) -> None:
        """What it says is not taken."""
        self.refusal = refusal
        self.called.set()
