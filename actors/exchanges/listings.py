"""The task that keeps an exchange's catalogue and clock up to date: every hour, and soon after a sign of change.

A sign is a symbol that the catalogue does not know, or not as one that trades, or a topic that fell silent: a listing,
or an end of one. All signs of half a minute share one call. While a configured symbol does not trade it may begin to
without a sign: then the hour is shorter.
"""

from collections.abc import Callable, Sequence
from math import inf

import structlog
import trio

from actors import clock
from actors.errors import BadMessage, MarketError
from actors.events import Instrument
from actors.exchanges.exchange import Rest
from actors.upstream.caller import URGENCY
from actors.upstream.rest import RestClient
from actors.upstream.skew import Skew
from actors.upstream.way import NoWay

EVERY = 3600.0  # seconds
WAITING_EVERY = 300.0  # seconds, while a symbol is waited for
SOONEST = 30.0  # seconds between two calls, whatever the signs

log = structlog.get_logger()


class Listings:
    def __init__(
        self,
        exchange: str,
        adopt: Callable[[Sequence[Instrument]], None],
        skew: Skew,
        is_waiting: Callable[[], bool],
    ) -> None:
        self._exchange = exchange
        self._adopt = adopt
        self._is_waiting = is_waiting  # for a symbol to trade (again)
        self._skew = skew
        self._sign = trio.Event()

    def doubt(self) -> None:
        """A sign that the catalogue may have changed."""
        self._sign.set()

    async def run(self, rest: Rest, clock_rest: Rest, clock_client: RestClient) -> None:
        """For ever. `clock_client`: of its own, so that its last answer is the one that said the time."""
        URGENCY.set(inf)  # before all repairs: without it nothing is collected
        while True:
            asked_at = trio.current_time()
            self._sign = trio.Event()
            is_told = await self._read_clock(clock_rest, clock_client)
            instruments = await rest.instruments()
            if not instruments:
                raise BadMessage("the exchange's catalogue is empty")
            if not is_told:  # refused for a while, most likely: that is over now, and the next look is an hour away
                await self._read_clock(clock_rest, clock_client)
            self._adopt(instruments)
            with trio.move_on_after(WAITING_EVERY if self._is_waiting() else EVERY):
                await self._sign.wait()
            await trio.sleep_until(asked_at + SOONEST)

    async def _read_clock(self, rest: Rest, client: RestClient) -> bool:
        """Whether the exchange told it."""
        before = clock.now()
        try:
            server_time = await rest.server_time()
        except NoWay:  # nothing else can be asked for either
            raise
        except MarketError as error:  # our own clock will do: it only decides which bar is the open one
            log.warning("exchange.clock_unknown", exchange=self._exchange, reason=str(error))
            return False
        answer = client.last_answer
        if answer is not None:  # without the wait for the budget's room
            self._skew.learn(server_time, answer.asked_at, answer.answered_at)
        else:
            self._skew.learn(server_time, before, clock.now())
        return True
