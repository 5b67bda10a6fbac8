"""How long newer events wait for missed ones, and which of an exchange's troubles are waited out meanwhile."""

from collections.abc import Iterator

from actors.errors import MarketError, UpstreamError, UpstreamLimited, UpstreamTimeout

REPAIR_WITHIN = 10.0  # seconds
ASK_AGAIN = 0.5  # seconds, and each time twice as many: REST may lag a little behind the stream


def pauses() -> Iterator[float]:
    """Seconds between one question and the next."""
    pause = ASK_AGAIN
    while True:
        yield pause
        pause *= 2


def may_pass(error: MarketError) -> bool:
    """Whether the same question may have an answer in time."""
    is_trouble = isinstance(error, UpstreamError | UpstreamTimeout | UpstreamLimited)
    return is_trouble and (error.retry_after or 0.0) < REPAIR_WITHIN
