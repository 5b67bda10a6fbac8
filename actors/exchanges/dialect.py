"""What an exchange's streams are to the façade: one client's side of its protocol, and the upstream side of what many
clients share. Plain functions and objects without I/O.

A stream has one name, the same for every client and for the exchange: what is subscribed to.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from actors.events import Kind
from actors.exchanges.facade import Asked, Reply, Row, Series, View
from actors.exchanges.memory import Memory
from actors.exchanges.sieves import Found, Sieve
from actors.upstream.rest import Question


class Heard(NamedTuple):
    """What a client's message leads to, in this order: `replies` to it, streams begun and ended, the end of it all.

    `question`: to be answered as over REST, by `Talk.answered`.
    """

    replies: Sequence[bytes] = ()
    joined: Sequence[str] = ()
    left: Sequence[str] = ()
    closed: tuple[int, str] | None = None
    question: Asked | None = None


class Talk(Protocol):
    """One client's socket."""

    def begin(self) -> Heard:
        """What the path alone asks for."""
        ...

    def receive(self, message: str | bytes) -> Heard: ...

    def answered(self, asked: Asked, reply: Reply) -> bytes:
        """The frame that answers a question."""
        ...

    def wrap(self, name: str, frame: bytes) -> bytes:
        """A stream's frame in the envelope of this client's socket."""
        ...


class Follow(NamedTuple):
    """How a stream is had out of what a feed's connections bring."""

    symbol: str
    kind: Kind
    interval: str | None
    source: str  # the stream that the feed subscribes to
    sieve: Callable[[], Sieve]
    shape: Callable[[bytes], bytes | None] | None = (
        None  # the source's frame as this stream tells it; None: it does not
    )
    is_kept: bool = False  # its state is told once, at the beginning of the feed's own subscription


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    talk: Callable[[str, str, View], Talk | Reply]  # (path, query, view); a Reply refuses the handshake
    # (configured URL, name) -> the URL that carries it; None: none does. After a "#" the end of the name, of which the
    # stream's frames say nothing: only names with the same end are on one line, and `read` tells them without it.
    line_of: Callable[[str, str], str | None]
    ask: Callable[[bool, Sequence[str], int], Sequence[str]]  # (subscribe?, names, number) -> the frames that do it
    read: Callable[[bytes], tuple[str, bytes] | None]  # a frame -> its stream and what it tells; None: of no stream
    memory: Callable[[str], Memory]
    bars_name: Callable[[Series], str]  # the stream of a series of bars
    bars: Callable[[bytes], Sequence[tuple[Row, bool]]]  # what such a stream tells -> rows as of REST; closed for good?
    follow: Callable[[str], Follow | None]  # None: no feed can have such a stream
    missed: Callable[[Question, bytes], Sequence[tuple[str, Iterable[Found]]]]  # what an answer tells, by sources
    # A frame of a stream that is kept -> what tells this stream from others, how many of its last frames say its whole
    # state (None: all since one that begins), whether this one begins. None for all other frames. It sees every frame
    # while nobody listens: it should look at their beginnings alone.
    glance: Callable[[bytes], tuple[bytes, int | None, bool] | None] | None = None
    heartbeat: str | None = None
    messages: tuple[int, float] = (2000, 33.0)  # that a client may send at once, and per second
    idle: float | None = None  # seconds without a word to a client, after which the exchange would hang up
    ping_every: float | None = None  # seconds between frames by which the exchange asks whether a client lives
