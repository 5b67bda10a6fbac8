"""What happened at one exchange since the start, as plain numbers, kept where things happen. Whoever shows them reads.

Nothing here falls when a feed or a line is made anew. Reasons and outcomes are there as zeros from the start: to who
watches, the first of its kind is a rise only where there was a zero before it. Times are seconds.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from typing import Literal, get_args

from actors.events import Gap, Kind

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Lost = Literal["silence", "closed", "refused", "timeout", "error", "rotation"]
"""Why a line's connection ended, or was not made."""

Outcome = Literal["ok", "client_error", "server_error", "limited", "banned", "timeout", "unreachable"]
"""How a REST request ended."""


class Histogram:
    """How many durations were at most so long each; `counts` has one more number, for the longer ones."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds


class Counts:
    def __init__(self) -> None:
        self.connects = 0
        self.disconnects: Counter[Lost] = Counter(dict.fromkeys(get_args(Lost), 0))
        self.frames = self.bytes = self.bad_frames = 0
        self.events: defaultdict[Kind, int] = defaultdict(int)
        self.duplicates: Counter[Kind] = Counter()  # of feeds that are gone
        self.gaps: Counter[tuple[Kind, bool]] = Counter()  # by kind, and whether it was repaired
        self.gap_seconds: defaultdict[Kind, float] = defaultdict(float)  # of those that were not
        self.lag: defaultdict[Kind, Histogram] = defaultdict(Histogram)  # pushed by the exchange -> received
        self.skew = 0.0  # the exchange's clock minus ours: taken off the lags
        self.requests: Counter[Outcome] = Counter(dict.fromkeys(get_args(Outcome), 0))
        self.request_seconds = Histogram()

    def lost(self, kind: Kind, gap: Gap) -> None:
        """Something did not come as it should have."""
        self.gaps[kind, gap.repaired] += 1
        if not gap.repaired:
            self.gap_seconds[kind] += max(0.0, (gap.end - gap.start).total_seconds())
