"""How long an exchange that refuses us is left alone: what its answer says, and what is done where it says nothing."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRY_AFTER_MAX = 3 * 86_400.0  # Binance's longest ban
FORBIDDEN_PAUSE = 300.0  # seconds between tries while a firewall turns us away, or our location is not served


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds from a Retry-After header, in seconds or as an HTTP date; None where it is absent or nonsense."""
    if value is None:
        return None
    if value.isascii() and value.strip().isdigit():
        return float(value.strip()[:9])
    when = http_date(value)
    return None if when is None else max(0.0, (when - now).total_seconds())


def http_date(value: str) -> datetime | None:
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)
