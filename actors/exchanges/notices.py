"""The task that knows what maintenance an exchange announces, where it does: what is on just now is said beside the
reason of a feed that is not live, and each notice is logged once.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

import structlog
import trio

from actors.exchanges.exchange import Notice

EVERY = 60.0  # seconds

log = structlog.get_logger()


class Notices:
    def __init__(self, exchange: str, now: Callable[[], datetime]) -> None:
        self._exchange, self._now = exchange, now  # the exchange's clock
        self._known: Sequence[Notice] = ()

    def present(self) -> str | None:
        """The maintenance that is on just now; None where there is none, as far as is known."""
        now = self._now()
        return next((str(one) for one in self._known if one.start <= now and (one.end is None or now < one.end)), None)

    async def run(self, ask: Callable[[], Awaitable[Sequence[Notice]]]) -> None:
        """For ever. Raises MarketError where the exchange does not say; what was known is then forgotten."""
        try:
            while True:
                told = await ask()
                for notice in told:
                    if notice not in self._known:
                        log.warning(
                            "exchange.maintenance",
                            exchange=self._exchange,
                            title=notice.title,
                            begins=notice.start,
                            ends=notice.end,
                        )
                self._known = told
                await trio.sleep(EVERY)
        finally:
            self._known = ()
