"""What an exchange's façade is to the machinery: a client's request in that exchange's dialect, and what it takes to
answer it. Facts and plain functions, no I/O; who asks the exchange, shares and remembers is `actors.facade`.

Rows are kept as the exchange spelled them and are never rebuilt from events: a number that was "84124.20" stays so.
Times are the exchange's, in ms.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

from actors.errors import MarketError
from actors.upstream.rest import Question


class Asked(NamedTuple):
    """A request, below the façade's base: `path` is the exchange's own. Empty parameters are left out."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes = b""
    content_type: str = "application/json"  # of the body


class Reply(Struct, frozen=True):
    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class Pass(NamedTuple):
    """To be asked of the exchange. `seconds`: for how long the answer is good for others.

    `joins`: who asks the same meanwhile gets the same answer; "unsent": only if it has not left yet; "never".
    """

    question: Question
    bucket: str
    weight: int
    seconds: float = 0.0
    joins: Literal["any", "unsent", "never"] = "any"


class Series(NamedTuple):
    """What rows are of: bars of one interval, or ("" for the interval) settled funding."""

    symbol: str
    interval: str = ""


class Row(NamedTuple):
    """One row as the exchange spelled it. A bar runs from `time` to `end`; a settlement is a moment."""

    time: int
    end: int
    text: bytes


class Rows(NamedTuple):
    """Rows of `[start, end]`, at most `limit`: the first ones, or with `newest` (and without a start) the last ones.

    `wider`: rows to ask for where nothing is known, so that requests a moment apart are one.
    """

    series: Series
    start: int | None
    end: int | None
    limit: int
    newest: bool
    asked: Pass  # the same, of the exchange
    wider: "Rows | None" = None


Way = Pass | Rows | Reply


class Refusal(NamedTuple):
    """Why a request is refused: `text` is for the client's user. `body` is what the exchange itself said, if it did."""

    why: Literal["limited", "private", "not_served", "broke", "timed_out", "blocked"]
    text: str
    retry_after: float | None = None  # seconds
    asked: Asked | None = None
    body: bytes = b""


class View(Protocol):
    """What a façade may know of the present."""

    def now(self) -> int:
        """The exchange's clock."""
        ...

    def lists(self, symbol: str) -> bool:
        """Whether the exchange's catalogue has a symbol, spelled so."""
        ...

    def streams(self, name: str) -> bool:
        """Whether a stream that the exchange has is told here, too."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Facade:
    route: Callable[[Asked, View], Way]
    fetch: Callable[[Series, int | None, int | None, int], Pass]  # (series, start, end, limit) -> the request for rows
    parse: Callable[[Series, bytes], list[Row]]  # of an answer to it, ascending; raises BadMessage
    render: Callable[[Rows, Sequence[bytes], int], Reply]  # (what was asked, ascending rows, the time)
    refuse: Callable[[Refusal, int], Reply]  # (why, the time)
    judge: Callable[[int, bytes], MarketError | None]  # (status, body) -> what such an answer means; None: pass it on
    is_clients_fault: Callable[[int, bytes], bool]  # an answer that will be the same in half a minute
    page: int  # rows that one request may bring
    tail: int  # rows that are asked for to learn the present: the cheapest number that is useful
    backwards: bool = False  # with a start alone, too, the newest rows are given, and not the first ones
    # What a question weighed, by its answer, where that counts; what is more than was spent is spent then.
    weigh: Callable[[Question, bytes], int] | None = None
    has_holes: bool = False  # a time without trades has no bar
    settle: int = 0  # ms after its end until a bar that others follow can change no more
    used_weight: tuple[str, str, str] | None = None  # (path prefix, header, bucket): our count, where clients read it


def number_of(text: str | None, most: int = 2**53) -> int | None:
    """A whole number from a query; None where there is none. Raises ValueError for what is none, or is too large."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 17 and int(text) <= most):
        raise ValueError(text[:40])
    return int(text)
