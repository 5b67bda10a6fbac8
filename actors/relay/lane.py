"""One lane, and what is known of it here."""

from dataclasses import dataclass, field
from math import inf

import trio

from actors.engine.words import EngineAway, Lease, Refused
from actors.relay.reading import Reading
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
    is_awaited: bool = False  # where we lead: by a node that is to lead it, and could at once
    called: trio.Event = field(default_factory=trio.Event)  # one of the two came to be
    holder: str | None = None  # the token of who leads it, as it was seen last
    is_silent: bool = False  # it does not prolong its lease
    seen_at: float = -inf  # when that was, by Trio's clock
    free_since: float | None = None  # None: somebody leads it
    left: str | None = None  # the node that let its lease run out, though the engine was there, before anybody else led
    left_at: float = -inf  # when that was seen
    ahead: Reading | None = None  # its log, of which the most is read while the lease of one that is silent runs out
    ours_since: float | None = None  # to follow, by the order of nodes; None: it is not

    def refuse(self, refusal: Refused | EngineAway) -> None:
        """What it says is not taken."""
        self.refusal = refusal
        self.called.set()
