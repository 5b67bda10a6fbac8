"""Whom an upstream request is made for: known where a request enters, needed where the budget is spent.

It is in the task's context, so that no function in between has to hand it on; a task that is started for a request
inherits it.
"""

from contextvars import ContextVar
from typing import NamedTuple


class Client(NamedTuple):
    """`id`: the key's id, or the address (of IPv6 its /64). An exempt client is held to no limit of its own.

    `upstream_share`: of what clients may spend, where its key says so; None: everybody's.
    """

    id: str
    exempt: bool
    upstream_share: float | None = None


LOCAL = Client("", exempt=True)  # the daemon itself

CLIENT: ContextVar[Client] = ContextVar("client", default=LOCAL)

URGENCY: ContextVar[float] = ContextVar("urgency", default=0.0)
"""Of a repair: what is more urgent for its weight goes first. Trades a second of the symbol that is repaired."""

ANSWER_BY: ContextVar[float] = ContextVar("answer_by", default=float("inf"))
"""When a client's answer is to be there that several requests are made for, in trio's time."""
