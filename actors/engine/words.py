"""What an engine promises, whichever it is: see Engine. One contract test holds all of them to it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

Role = Literal["both", "ingest", "edge"]
"""What a node does: collect and serve streams, collect alone, or serve alone."""

REACH = 30.0  # seconds: of what nodes remember for a takeover, and of an edge that was away
LOG_SECONDS = REACH + 10.0  # a lane's log goes back so far: a successor may have heard a thing later than its writer
CLOSED_BAR = b'"is_closed":true}'  # how the JSON of a closed bar ends
EPOCH, STATUS = "epoch", "status"  # types of entries: another memory begins here; a feed's state
PRESENT = frozenset({"ohlc", "funding_rate", "open_interest", "oi_spike", STATUS})
"""Types of which an engine keeps the last one of each topic."""
ALL = "all"
"""A lane that nobody leads: the writers of all others share with it what belongs into streams over everything."""


class EngineAway(Exception):
    """No answer: the server cannot be reached, refuses us, or is too slow. It may have done what was asked or not."""


class EngineFull(EngineAway):
    """It has no memory left for what was to be written; nothing of it was."""


class EngineUnfit(Exception):
    """It is there and cannot be used as it is set up: the text says what to change."""


class Fenced(Exception):
    """Somebody else leads the lane, or nobody: nothing was written."""


class RolledBack(Exception):
    """The engine lacks what it had acknowledged: it came back older than it was. Nothing was written.

    Of what is shared also where another memory was begun since.
    """


Refused = Fenced | RolledBack


class Lease(NamedTuple):
    """That one node leads one lane. `token` is its name, its term and the memory's epoch: no two holders share one."""

    lane: str
    token: str


class Entry(NamedTuple):
    """One thing that is said. `topic`: its name; of a status the name of the feed, of an epoch none. `text`: its JSON.

    `seq`: counts up by one per topic within an epoch; None for what has no number.
    """

    topic: str
    type: str
    seq: int | None
    text: bytes


class Burst(NamedTuple):
    """What a lane's writer says at once, all or nothing. `n` counts a lane's bursts up by one.

    `closed`: by topic the open times of the closed bars among its entries, in their order, in Unix milliseconds.
    """

    n: int
    entries: Sequence[Entry]
    closed: Mapping[str, Sequence[int]]


class Told(NamedTuple):
    """A burst as it stands in a log or a topic's memory. `place`: "<ms by the engine's clock>-<n>"."""

    place: str
    entries: Sequence[Entry]

    @property
    def n(self) -> int:
        return int(self.place.partition("-")[2])

    @property
    def at_ms(self) -> int:
        return int(self.place.partition("-")[0])


class Share(NamedTuple):
    """Of what a lane said in its burst `n`, one thing for ALL. `epoch`: of the lane's memory.

    `entry`: under its topic there, numbered by the engine where it has a number at all.
    """

    lane: str
    epoch: str
    n: int
    entry: Entry


class Mark(NamedTuple):
    """How far a lane has come: the name of its memory, and its last burst's n. ("", 0): it is not known."""

    epoch: str
    n: int


def has_number_within(bursts: Iterable[Told], last: int) -> bool:
    """Whether an event of this number or one before it is among them."""
    return any(entry.seq is not None and entry.seq <= last for told in bursts for entry in told.entries)


class Present(NamedTuple):
    """A lane at one moment.

    `epoch`: "" where it was never led. `place`, `n`: of the last burst, "0-0" and 0 before the first. `holder`: the
    token of who leads it, None: nobody. By topic: `seqs`, the number of the last event; `now`, the last text of a type
    of PRESENT; `closed`, the open time of the last closed bar. `at_ms`: the moment, by the engine's clock.
    """

    epoch: str
    place: str
    n: int
    at_ms: int
    holder: str | None
    seqs: Mapping[str, int]
    now: Mapping[str, bytes]
    closed: Mapping[str, int]


class Member(Struct, frozen=True, kw_only=True):
    """A node that is there. `address`: the base URL of its REST API, without a slash at the end.

    `ready`: names of lanes that it could lead at once: its feeds of them are live, and it remembers a lease of them.
    """

    name: str
    role: Role
    address: str
    ready: tuple[str, ...] = ()


class Engine(Protocol):
    """Every call may raise EngineAway: then it is not known whether it was carried out."""

    async def check(self, lanes: int) -> int:
        """How many lanes an exchange has here: `lanes`, unless that was decided before. Raises EngineUnfit."""

    async def take(self, lane: str, name: str, seconds: float, epoch: str) -> Lease | None:
        """Lead a lane that nobody leads, for so long, in a new term; None: somebody does.

        `name`: the node's. `epoch`: the name of the lane's memory, where there is none yet.
        """

    async def hold(self, lease: Lease, seconds: float) -> None:
        """Lead it for so long from now on. Raises Fenced."""

    async def release(self, lease: Lease) -> None:
        """Lead it no longer; nothing where that is so already."""

    async def say(self, bursts: Mapping[Lease, Burst]) -> Mapping[Lease, Refused]:
        """Append bursts, one of each of some lanes, to the lanes' logs, the topics' memory and the present.

        Of each lane all of it, or nothing where it is refused: whose are is returned, and why. A burst whose `n` is not
        above the engine's was said already, and is not said again; where a memory was begun with that `n`, it was not,
        and is refused. Raises EngineFull: nothing of any lane was written.
        """

    async def share(self, shares: Sequence[Share], known: Mark) -> Mark:
        """Append what lanes said to ALL, as one burst that the engine numbers; returns how far ALL has come.

        Each burst of a lane is shared once, and whole: those not above the last one that was are left out. So whoever
        got no answer shares again, and a successor all that its predecessor said. Left out is also what the lane does
        not hold: its memory is another one, or older, and whoever leads it says what that lacks. `known`: how far ALL
        had come when that was last seen. Raises RolledBack, EngineFull.
        """

    async def renew(self, lane: str, old: str, new: str) -> None:
        """Begin another memory where `old` ("": none was begun) is still the lane's: what is numbered from now on is
        not continued.

        The log says so by an entry of type EPOCH, a burst of its own. With a lane ALL begins anew, unless nothing was
        shared since it did: what the lane had yet to share is in no memory any more.
        """

    async def present(self, lane: str) -> Present:
        """Everything of one moment: who reads on behind its place misses nothing and is told nothing twice."""

    async def holders(self, lanes: Sequence[str]) -> Mapping[str, tuple[str, float]]:
        """Of each lane that somebody leads: the token, and the seconds until its lease ends."""

    async def tail(self, lane: str, behind: str = "0-0", count: int | None = None) -> Sequence[Told]:
        """What of the log stands behind a place, the oldest first, at most `count` bursts of it.

        It goes back at least LOG_SECONDS before its last burst.
        """

    async def read(self, places: Mapping[str, str], seconds: float) -> Mapping[str, Sequence[Told]]:
        """What stands behind a place of each lane's log; waits up to `seconds` where that is nothing."""

    async def recall(self, lane: str, topic: str, behind: int = 0) -> tuple[int, Sequence[Told]]:
        """A topic's memory, the oldest first, and the time by the engine's clock, in Unix milliseconds.

        `behind`: with the event of this number, or one before it, it may begin; all that came after is there.
        """

    async def write_bars(self, lease: Lease, topic: str, bars: Mapping[int, bytes]) -> None:
        """Closed bars of a topic, by their open time in Unix milliseconds, ascending; what was kept up to the last
        of them is replaced.

        Those that are said later are added. Raises Fenced, EngineFull.
        """

    async def bars_since(self, lane: str, topics: Sequence[str]) -> Mapping[str, int]:
        """The open times of the oldest closed bars that are kept, of the topics that have any."""

    async def bars(self, lane: str, topic: str) -> Sequence[bytes]:
        """Closed bars of a topic, ascending."""

    async def want(self, exchange: str, topics: Iterable[str], seconds: float) -> None:
        """Have topics of an exchange collected by whoever collects there, for so long from now on."""

    async def wanted(self, exchange: str) -> Sequence[str]:
        """The topics that somebody wants."""

    async def refuse(self, exchange: str, topic: str, reason: str, seconds: float) -> None:
        """Say for so long that a topic that is wanted cannot be collected, and why."""

    async def refused(self, exchange: str) -> Mapping[str, str]:
        """By topic that cannot be collected the reason."""

    async def write_catalogue(self, exchange: str, text: bytes) -> None:
        """What an exchange lists: a JSON list of Instrument. Raises EngineFull."""

    async def catalogue(self, exchange: str) -> bytes | None:
        """What was written last; None: nothing yet."""

    async def announce(self, member: Member, seconds: float) -> None:
        """This node is there, for so long from now on; what it said of itself before is replaced."""

    async def withdraw(self, name: str) -> None:
        """The node is there no longer; nothing where that is so already."""

    async def members(self) -> Sequence[Member]:
        """Every node that is there, by name."""


class Kept(NamedTuple):
    """How much an engine remembers of each topic: seconds, bursts, and closed bars."""

    seconds: float = 300.0
    bursts: int = 5_000
    bars: int = 1_500
