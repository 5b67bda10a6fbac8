"""How a sink is, for whoever asks."""

from datetime import datetime
from typing import Literal

from msgspec import Struct

State = Literal["starting", "ok", "failing"]


class SinkReport(Struct, frozen=True, kw_only=True):
    """A sink's health, as `/health` shows it. Counts are of events and gaps, since the daemon started."""

    name: str
    kind: str
    state: State
    since: datetime
    reason: str | None
    written: int
    pending: int
    dropped: int
