"""What one client may ask for: the numbers of `[limits]`, checked by their types. Nothing is counted here.

A description says what a value must be, for the one line that a mistake is told in; `keep` is what msgspec cannot
check: it returns the value to keep, or raises ValueError.
"""

import ipaddress
from typing import Annotated

from msgspec import Meta, Struct


def networks(values: tuple[str, ...]) -> tuple[str, ...]:
    """Addresses and networks, each as a network: "10.0.0.1" is "10.0.0.1/32". Raises ValueError."""
    return tuple(str(ipaddress.ip_network(value)) for value in values)


Networks = Annotated[
    tuple[str, ...],
    Meta(description='a list of addresses or networks such as "10.0.0.0/8"', extra={"keep": networks}),
]
Count = Annotated[int, Meta(ge=0, le=10**12, description="an integer of at least 0")]
Rate = Annotated[float, Meta(ge=0, le=1e300, description="a number of at least 0")]
Share = Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")]


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Of one client, 0 = none; `memory_mb` alone is of the whole process, 0 = nine tenths of the cgroup's limit.

    `exempt`: peers without limits. `request_burst`: requests at once, earned anew at `requests_per_second`.
    `connections`: open at once, of every kind. `topics`: over all of them. `filtered_topics`: those of them with
    `min_value_usd`, `max_rate` or `timeframes`. `on_demand_symbols`: held at once. `upstream_share`: of what clients
    may spend of an exchange's budget. `exports`: at once. `egress_bytes_per_second`: averaged over 10 s.
    """

    exempt: Networks = ("127.0.0.0/8", "::1/128")
    requests_per_second: Rate = 20.0
    request_burst: Count = 100
    connections: Count = 50
    topics: Count = 2000
    filtered_topics: Count = 20
    on_demand_symbols: Count = 20
    upstream_share: Share = 0.5
    exports: Count = 1
    egress_bytes_per_second: Count = 0
    memory_mb: Count = 0
