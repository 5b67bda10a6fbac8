"""What one IP may do at the simulated Binance USD-M, and how the exchange, or what stands before it, says no.

Law: no I/O, and nothing of the market. Codes and texts are the documented ones.
"""

from collections import deque
from dataclasses import dataclass, field

import msgspec

from actors.simulation.history import MINUTE
from actors.simulation.server import Reply

_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Limits:
    """What one IP may do."""

    weight: int = 2400  # per minute
    patience: int = 20  # refused requests in a minute before the ban
    futures_data: int = 1000  # requests per 5 min to /futures/data
    funding: int = 500  # requests per 5 min to fundingRate and fundingInfo together


@dataclass(slots=True)
class Account:
    """What one IP has done. Time is market time."""

    limits: Limits
    banned_until: int = 0
    used: int = 0
    _minute: int = 0
    _refused: int = 0
    _bans: int = 0
    _recent: dict[str, deque[int]] = field(default_factory=dict)

    def refusal(self, now: int, path: str, weight: int) -> Reply | None:
        """Charge a request; the 418 or 429 if it may not pass."""
        if now // MINUTE != self._minute:
            self._minute, self.used, self._refused = now // MINUTE, 0, 0
        if now < self.banned_until:
            return banned(self.banned_until)
        self.used += weight
        limits = self.limits
        over = self.used > limits.weight
        for bucket, limit in (("/futures/data", limits.futures_data), ("/fapi/v1/funding", limits.funding)):
            if path.startswith(bucket):
                times = self._recent.setdefault(bucket, deque())
                while times and times[0] <= now - 5 * MINUTE:
                    times.popleft()
                times.append(now)
                over = over or len(times) > limit
        if not over:
            return None
        self._refused += 1
        if self._refused > limits.patience:
            self._bans += 1
            self.banned_until = now + 2 * MINUTE * 2 ** min(self._bans - 1, 10)
            return banned(self.banned_until)
        return too_many_requests(limit=limits.weight)


def error(code: int, message: str, status: int = 400) -> Reply:
    return Reply(status, _encode({"code": code, "msg": message}))


def too_many_requests(*, retry_after: int | None = None, limit: int = 2400) -> Reply:
    """429. The exchange does not document a Retry-After (seconds) here; proxies send one."""
    reply = error(
        -1003,
        f"Too many requests; current limit of IP(127.0.0.1) is {limit} requests per minute. "
        "Please use the websocket for live updates to avoid polling the API.",
        429,
    )
    if retry_after is not None:
        reply.headers["Retry-After"] = str(retry_after)
    return reply


def banned(until: int) -> Reply:
    """418, until a time in ms."""
    message = f"Way too many requests; IP(127.0.0.1) banned until {until}. "
    return error(-1003, message + "Please use the websocket for live updates to avoid bans.", 418)


def restricted() -> Reply:
    """451: the body has no code."""
    text = "Service unavailable from a restricted location according to 'b. Eligibility' in the terms of use."
    return Reply(451, _encode({"msg": text}))


def html(status: int) -> Reply:
    """What a proxy or firewall in between says: 403, 502, or a page with 200."""
    page = f"<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>"
    return Reply(status, page.encode(), content_type="text/html")


def unavailable(text: str = "Unknown error, please check your request or try again later.") -> Reply:
    """503 in one of its flavours; `Service Unavailable.` is another."""
    return error(-1000, text, 503)
