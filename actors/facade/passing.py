"""What is asked of the exchange for a façade's clients: once for all who ask the same, and remembered for a while.

All pass-through of one exchange together may use a share of each bucket; clients that wait for room take turns, so that
one who loads history does not starve nine bots.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable, Mapping
from typing import NamedTuple

import trio

from actors.errors import MarketError, UpstreamLimited
from actors.exchanges.facade import Facade, Pass
from actors.upstream.bucket import Bucket, Window
from actors.upstream.budget import PATIENCE
from actors.upstream.caller import CLIENT
from actors.upstream.rest import Answer, RestClient

FAULTS_KEPT = 30.0  # seconds that an answer is remembered which is the client's own fault
BODIES_MAX = 64 << 20  # bytes of answers remembered, the least recently asked for are forgotten first
OVERHEAD = 500  # bytes that an answer takes beside its body


class Passed(NamedTuple):
    """An answer of the exchange. `at`: when it was asked for, by a clock that nobody sets; `cached`: by another;
    `error`: what it means, where it is no answer for a client.
    """

    answer: Answer
    at: float
    cached: bool
    error: MarketError | None


class Share:
    """What of each bucket the façade may use."""

    def __init__(self, windows: Mapping[str, Window], share: float) -> None:
        self._buckets = {name: Bucket(window) for name, window in windows.items()}
        self._share = share
        self._waiting: dict[str, OrderedDict[str, deque[trio.Event]]] = {name: OrderedDict() for name in windows}

    async def spend(self, bucket: str, weight: int) -> None:
        """Wait for room, in turn. Raises UpstreamLimited where it would take too long."""
        spent, turns = self._buckets[bucket], self._waiting[bucket]
        most = self._share * spent.window.limit
        client = CLIENT.get().id
        deadline = trio.current_time() + PATIENCE
        turn = trio.Event()
        mine = turns.setdefault(client, deque())
        mine.append(turn)
        if len(turns) == 1 and len(mine) == 1:
            turn.set()
        try:
            with trio.move_on_at(deadline):
                await turn.wait()
                while wait := spent.wait_for_client(weight, "", most):
                    if trio.current_time() + wait > deadline:
                        break
                    await trio.sleep(wait)
                else:
                    spent.spend(weight, "client")
                    return
            wait = max(1.0, spent.wait_for_client(weight, "", most))
            text = f"{self._share:.0%} of what this address may ask, the part of all clients here together, is used up"
            raise UpstreamLimited(text, retry_after=wait)
        finally:
            mine.remove(turn)
            if not mine:
                del turns[client]
            elif turn.is_set():
                turns.move_to_end(client)
            if turn.is_set() and turns:
                next(iter(turns.values()))[0].set()

    def charge(self, bucket: str, weight: int) -> None:
        """More was spent than was known before."""
        self._buckets[bucket].spend(weight, "client")


class _Flight:
    def __init__(self) -> None:
        self.landed = trio.Event()
        self.has_left = False
        self.passed: Passed | None = None
        self.error: MarketError | None = None


class Passing:
    """One exchange's. Calls run in `nursery`: one client's leaving does not take the answer from the others."""

    def __init__(self, facade: Facade, client: RestClient, share: Share, nursery: trio.Nursery) -> None:
        self._facade = facade
        self._client = client
        self._share = share
        self._nursery = nursery
        self._flights: dict[Hashable, _Flight] = {}
        self._kept: OrderedDict[Hashable, tuple[Passed, float]] = OrderedDict()  # and until when
        self._size = 0
        self.saved = 0  # weight that sharing and remembering spared

    async def ask(self, way: Pass, epoch: int = 0) -> Passed:
        """The exchange's answer, whatever it says. Raises MarketError where there is none, or none may be asked for.

        Requests of different epochs are different.
        """
        question = way.question
        key = (question.method, question.path, tuple(sorted(question.query.items())), question.body, epoch)
        if way.joins != "never":
            if (passed := self._remembered(key)) is not None:
                self.saved += way.weight
                return passed
            flight = self._flights.get(key)
            if flight is not None and not (way.joins == "unsent" and flight.has_left):
                self.saved += way.weight
                await flight.landed.wait()
                return _landed(flight, cached=True)
        flight = _Flight()
        if way.joins != "never":
            self._flights[key] = flight
        self._nursery.start_soon(self._fly, key, flight, way)
        await flight.landed.wait()
        return _landed(flight, cached=False)

    async def _fly(self, key: Hashable, flight: _Flight, way: Pass) -> None:
        def leaves() -> None:
            flight.has_left = True

        try:
            await self._share.spend(way.bucket, way.weight)
            answer = await self._client.forward(way.question, bucket=way.bucket, weight=way.weight, leaves=leaves)
            self._charge(way, answer)
            error = self._facade.judge(answer.status, answer.body)
            flight.passed = Passed(answer, trio.current_time() - _seconds(answer), cached=False, error=error)
            if error is None:
                self._remember(key, flight.passed, way)
            elif answer.status < 300:
                self._client.heed(error)  # some exchanges refuse an address within a 200
        except MarketError as error:
            flight.error = error
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]
            flight.landed.set()

    def _charge(self, way: Pass, answer: Answer) -> None:
        if self._facade.weigh is None or answer.status != 200:
            return
        more = self._facade.weigh(way.question, answer.body) - way.weight
        if more > 0:
            self._share.charge(way.bucket, more)
            self._client.charge(way.bucket, more)

    def _remember(self, key: Hashable, passed: Passed, way: Pass) -> None:
        seconds = way.seconds
        if way.joins != "never" and self._facade.is_clients_fault(passed.answer.status, passed.answer.body):
            seconds = FAULTS_KEPT
        elif passed.answer.status >= 300:
            return
        if seconds <= 0:
            return
        self._drop(key)
        self._kept[key] = passed, trio.current_time() + seconds
        self._size += len(passed.answer.body) + OVERHEAD
        while self._size > BODIES_MAX:
            self._drop(next(iter(self._kept)))

    def _remembered(self, key: Hashable) -> Passed | None:
        passed, until = self._kept.get(key, (None, 0.0))
        if passed is None:
            return None
        if until < trio.current_time():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return passed._replace(cached=True)

    def _drop(self, key: Hashable) -> None:
        passed, _ = self._kept.pop(key, (None, 0.0))
        if passed is not None:
            self._size -= len(passed.answer.body) + OVERHEAD


def _landed(flight: _Flight, *, cached: bool) -> Passed:
    if flight.error is not None:
        raise flight.error.with_traceback(None)
    assert flight.passed is not None  # only a cancelled nursery leaves neither, and takes everybody with it
    return flight.passed._replace(cached=cached)


def _seconds(answer: Answer) -> float:
    """How long the exchange took."""
    return max(0.0, (answer.answered_at - answer.asked_at).total_seconds())
