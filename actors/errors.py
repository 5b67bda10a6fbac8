"""What can go wrong between a request and an exchange, as exceptions that a client may be told.

Each class is one case of the public contract and carries its `code`; the web layer adds the HTTP status.
`expected` tells the supervisor that a fault outside the program needs no traceback.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, Literal, NamedTuple


class Told(NamedTuple):
    """All events that an exchange has of `[start, end)`, ascending; without a start from the first of them on."""

    rows: Sequence[Any]
    start: datetime | None
    end: datetime | None


class MarketError(Exception):
    """Base of the errors below; `str(error)` is a sentence for a person."""

    code: ClassVar[str] = "upstream_error"
    expected: ClassVar[bool] = True

    def __init__(self, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after  # seconds
        self.told: Told | None = None  # what of an answer had come before it


class UnknownExchange(MarketError):
    code = "unknown_exchange"


class UnknownSymbol(MarketError):
    code = "unknown_symbol"


class UnknownInterval(MarketError):
    code = "unknown_interval"


class Unsupported(MarketError):
    """The exchange has no such data."""

    code = "unsupported"


class NotReady(MarketError):
    """What was asked for has not arrived yet."""

    code = "not_ready"


class UpstreamError(MarketError):
    """The exchange refused or broke."""

    code = "upstream_error"


class BadMessage(UpstreamError):
    """The exchange sent something that is not what its documentation promises."""


class UnknownMessage(BadMessage):
    """A well-formed message of a kind this program does not read: counted, never a reason to reconnect."""


class UpstreamTimeout(MarketError):
    code = "upstream_timeout"


class UpstreamLimited(MarketError):
    """A rate limit or a ban; `retry_after` says for how long where it is known, `until` in Unix seconds till when, by
    the exchange's clock.
    """

    code = "upstream_limited"

    def __init__(self, detail: str, *, retry_after: float | None = None, until: float | None = None) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.until = until


class UpstreamGeoBlocked(MarketError):
    """`said`: the exchange's own body, where it had one."""

    code = "upstream_geo_blocked"
    said = b""


class RateLimited(MarketError):
    """A client asked for more than its share; `limit` is the configuration's key, within `[limits]`."""

    code = "rate_limited"

    def __init__(self, detail: str, *, limit: str, retry_after: float | None = None) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.limit = limit


class Overloaded(MarketError):
    """The daemon itself has no room for more; the text says of what."""

    code = "overloaded"


class LineLost(MarketError):
    """A line's connection ended or stopped delivering; the text says how it was noticed, `how` in one word."""

    def __init__(
        self,
        detail: str,
        *,
        how: Literal["silence", "closed", "refused", "timeout", "error"] = "error",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.how = how
