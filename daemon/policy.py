"""When supervised tasks are run again, as it is configured now."""

import random
from collections.abc import Awaitable, Callable
from typing import Any

from actors.exchanges.exchange import Supervise
from daemon.settings import Supervision
from daemon.supervisor import RestartPolicy, supervise


class Policy:
    """It counts at each failure, so a new configuration holds for what runs already."""

    def __init__(self, settings: Supervision) -> None:
        self.change(settings)

    def change(self, settings: Supervision) -> None:
        self._policy = RestartPolicy(
            delay=settings.reconnect_delay,
            max_delay=settings.max_reconnect_delay,
            max_attempts=settings.max_reconnect_attempts,
            stable_after=settings.stable_after,
        )

    def present(self) -> RestartPolicy:
        return self._policy


def with_policy(settings: Supervision | Policy, rng: random.Random | None = None) -> Supervise:
    """The supervisor, bound to the configured policy. `rng`: the chance in its waits; None: the system's."""
    policy = settings if isinstance(settings, Policy) else Policy(settings)
    chance = {} if rng is None else {"rng": rng}

    async def supervised(
        name: str,
        run: Callable[[], Awaitable[None]],
        *,
        on_change: Callable[[Any], None] | None = None,
        **context: object,
    ) -> None:
        await supervise(name, run, policy.present, on_change=on_change, context=context, **chance)

    return supervised
