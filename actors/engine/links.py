"""How the engine is, as one node sees it: by whoever asks it, and as `/health` shows it."""

from datetime import datetime
from typing import Literal

import structlog
from msgspec import Struct

from actors import clock
from actors.engine.words import EngineAway, EngineFull

log = structlog.get_logger()

EngineState = Literal["starting", "live", "away", "full"]


class LaneReport(Struct, frozen=True):
    """`leader`: the node that leads it, null: nobody. `term`: how often that changed.

    `place`: of the last burst that was read here, null: none is, in the role ingest. `lag_ms`: what the last burst took
    to be said, where this node leads.
    """

    name: str
    leader: str | None
    term: int | None
    place: str | None
    lag_ms: float | None


class EngineReport(Struct, frozen=True):
    """The server between several nodes, as this one sees it."""

    state: EngineState
    since: datetime
    reason: str | None
    role: str
    name: str
    lanes: list[LaneReport]


class Links:
    """Whether the engine answers, by who asks it."""

    def __init__(self) -> None:
        self.state: EngineState = "starting"
        self.since = clock.now()
        self.reason: str | None = "the engine was not reached yet"
        self.failures = 0
        self._problems: dict[str, EngineAway] = {}

    def failed(self, who: str, error: EngineAway) -> None:
        self.failures += 1
        self._problems[who] = error
        self._note("full" if isinstance(error, EngineFull) else "away", str(error))

    def answered(self, who: str) -> None:
        if (self._problems.pop(who, None) is not None or self.state == "starting") and not self._problems:
            self._note("live")

    def _note(self, state: EngineState, reason: str | None = None) -> None:
        """`reason`: in the words of whoever failed; None: there is none any more."""
        self.reason = reason
        if state == self.state:
            return
        self.state, self.since = state, clock.now()
        if reason is None:
            log.info("engine.live")
        else:
            log.warning(f"engine.{state}", reason=reason)
