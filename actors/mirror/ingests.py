"""The nodes with lines, asked over their REST for what an edge does not hold.

An answer goes through as it comes, and is never held here as a whole. Every question has bounds: how many are under way
at once, how long a node may take to be reached, and to go on with an answer. One whose node is gone is asked of the
next one, as long as nothing of its answer was told.
"""

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from math import inf
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

import httpx
import msgspec
import structlog
import trio
from msgspec import Struct

from actors.engine.words import Member
from actors.errors import (
    MarketError,
    NotReady,
    Overloaded,
    UnknownExchange,
    UnknownInterval,
    UnknownSymbol,
    Unsupported,
    UpstreamError,
    UpstreamGeoBlocked,
    UpstreamLimited,
    UpstreamTimeout,
)
from actors.upstream.way import Way

AT_ONCE = 64  # questions under way
CONNECTIONS = 2 * AT_ONCE  # so that httpx's pool never queues (httpcore #1093)
TURN = 5.0  # seconds that a question waits for others to end
REACHED_WITHIN = 2.0  # seconds for a connection
GOES_ON_WITHIN = 60.0  # seconds between two pieces of an answer
ANSWERED_WITHIN = 900.0  # seconds until an answer begins: an export that is read in parts is made as a whole first
LAST = 5.0  # seconds that a node which did not answer is asked after all others
CLOSED_WITHIN = 1.0  # seconds
LOOK = 0.25  # seconds between looks whether the nodes that are waited for are still there
MAX_BYTES = 64 << 20  # of an answer that is read as a whole

KINDS: Mapping[str, type[MarketError]] = {
    kind.code: kind
    for kind in (
        *(UnknownExchange, UnknownSymbol, UnknownInterval, Unsupported, NotReady, Overloaded),
        *(UpstreamError, UpstreamGeoBlocked, UpstreamLimited, UpstreamTimeout),
    )
}

T = TypeVar("T")

log = structlog.get_logger()


class Question(NamedTuple):
    """`target`: path and query, as they are on the wire. `headers`: by lower-case name."""

    method: str
    target: bytes
    headers: Mapping[str, str] = {}
    body: bytes = b""


class Passage(NamedTuple):
    """An answer that begins to come. `pieces`: of its body, as it is encoded; they raise BrokenOff."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]  # names in lower case
    pieces: AsyncGenerator[bytes, None]


class BrokenOff(Exception):
    """The node that answered is gone, in the midst of its answer."""


class _Problem(Struct):
    """What is read of an answer that is none."""

    code: str = ""
    detail: str = ""
    retry_after: float | None = None


class Ingests:
    """See open_ingests."""

    def __init__(
        self,
        members: Callable[[], Sequence[Member]],
        client: httpx.AsyncClient,
        token: str,
        first_for: Callable[[str], str | None],
    ) -> None:
        self._members, self._first_for = members, first_for
        self._client = client
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._turns = trio.CapacityLimiter(AT_ONCE)
        self._waiting: dict[trio.CancelScope, str] = {}  # for the answer of a node, by name
        self._problems: dict[str, tuple[str, float]] = {}  # by the name of a node: why it did not answer, and when
        self._limited_by: set[str] = set()  # names of nodes that held us to a client's limits
        self.answered: Counter[str] = Counter()  # questions, by the name of the node
        self.failed: Counter[str] = Counter()  # by that of a node that was not reached or went away

    async def run(self) -> None:
        """Give up waiting for nodes that are there no more, until cancelled: one that is frozen says nothing of it."""
        while True:
            await trio.sleep(LOOK)
            there = {member.name for member in self._members()}
            for scope, name in list(self._waiting.items()):
                if name not in there:
                    scope.cancel()

    @property
    def present(self) -> list[Member]:
        return [member for member in self._members() if member.role != "edge" and member.address]

    @asynccontextmanager
    async def asked(self, question: Question) -> AsyncIterator[Passage]:
        """An answer, whatever it says. Equal questions go to one node, which shares its work for them.

        Raises NotReady, Overloaded.
        """
        with trio.move_on_after(TURN) as waiting:
            await self._turns.acquire()
        if waiting.cancelled_caught:
            raise Overloaded("too much is asked of the nodes that collect at the moment")
        response = None
        try:
            response = await self._first_answer(question)
            yield Passage(response.status_code, _lines(response), _pieces(response))
        finally:
            self._turns.release()
            if response is not None:
                with trio.move_on_after(CLOSED_WITHIN, shield=True):
                    await response.aclose()

    async def _first_answer(self, question: Question) -> httpx.Response:
        first = self._first_for(question.target.decode("latin1"))

        now = trio.current_time()

        def rank(member: Member) -> tuple[bool, bool, int]:
            _, failed_at = self._problems.get(member.name, ("", -inf))
            return now < failed_at + LAST, member.name != first, crc32(member.name.encode() + question.target)

        problem = "none of them is there"
        for member in sorted(self.present, key=rank):
            try:
                response = await self._answer_of(member, question)
                self.answered[member.name] += 1
                if self._problems.pop(member.name, None) is not None:
                    log.info("ingest.answers", node=member.name)
                return response
            except BrokenOff as error:
                self.failed[member.name] += 1
                problem = f"{member.name}: {error}"
                if self._problems.get(member.name, ("", 0.0))[0] != str(error):  # said once, however many ask
                    log.warning("ingest.fails", node=member.name, address=member.address, reason=str(error))
                self._problems[member.name] = str(error), trio.current_time()
        raise NotReady(f"no node that collects answers ({problem})")

    async def _answer_of(self, member: Member, question: Question) -> httpx.Response:
        """Raises BrokenOff."""
        for is_last in (False, True):
            try:
                return await self._ask(member, question)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.InvalidURL) as error:
                raise BrokenOff(str(error) or type(error).__name__) from error
            except httpx.TransportError as error:
                if is_last:  # a connection that was kept may have been closed just now
                    raise BrokenOff(str(error) or type(error).__name__) from error
        raise AssertionError("unreachable")

    async def _ask(self, member: Member, question: Question) -> httpx.Response:
        base = httpx.URL(member.address)
        url = base.copy_with(raw_path=base.raw_path.rstrip(b"/") + question.target)
        headers = {"accept-encoding": "identity", **question.headers, **self._headers}
        request = self._client.build_request(question.method, url, headers=headers, content=question.body or None)
        with trio.CancelScope(deadline=trio.current_time() + ANSWERED_WITHIN) as scope:
            self._waiting[scope] = member.name
            try:
                response = await self._client.send(request, stream=True)
            finally:
                del self._waiting[scope]
        if scope.cancelled_caught:
            raise BrokenOff("it is gone")
        if response.status_code in (401, 403) and "www-authenticate" in response.headers:
            await response.aclose()
            raise BrokenOff("it refuses this edge's key, see engine.token")
        if response.status_code == 429 and member.name not in self._limited_by:
            self._limited_by.add(member.name)
            log.warning(
                "ingest.limits_us", node=member.name, detail="all clients of this edge are one there: see limits.exempt"
            )
        return response

    async def get(self, target: str, kind: type[T]) -> T:
        """An answer as a value. Raises MarketError."""
        async with self.asked(Question("GET", target.encode())) as passage:
            body = bytearray()
            try:
                async with aclosing(passage.pieces) as pieces:
                    async for piece in pieces:
                        body += piece
                        if len(body) > MAX_BYTES:
                            raise UpstreamError(f"the answer is larger than {MAX_BYTES} bytes")
            except BrokenOff as error:
                raise NotReady(str(error)) from error
        if passage.status == 200:
            try:
                return msgspec.json.decode(body, type=kind)
            except msgspec.MsgspecError as error:
                raise UpstreamError(f"a node that collects answered something else: {error}") from error
        raise _error_of(passage.status, bytes(body))


def _error_of(status: int, body: bytes) -> MarketError:
    try:
        told = msgspec.json.decode(body, type=_Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        told = _Problem()
    kind = KINDS.get(told.code, NotReady)
    return kind(told.detail or f"a node that collects answered {status}", retry_after=told.retry_after)


def _lines(response: httpx.Response) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in response.headers.raw]


async def _pieces(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    raw = aiter(response.aiter_raw())
    while True:
        try:
            with trio.fail_after(GOES_ON_WITHIN):
                piece = await anext(raw)
        except StopAsyncIteration:
            return
        except trio.TooSlowError:
            raise BrokenOff(f"nothing more came for {GOES_ON_WITHIN:g} s") from None
        except httpx.TransportError as error:
            raise BrokenOff(str(error) or type(error).__name__) from error
        yield piece


@asynccontextmanager
async def open_ingests(
    members: Callable[[], Sequence[Member]],
    *,
    token: str,
    ca_file: str | None = None,
    first_for: Callable[[str], str | None] = lambda target: None,
) -> AsyncIterator[Ingests]:
    """`members`: the nodes that are there. `token`: the API key that is shown to them, "": none.

    `ca_file`: certificates to believe of those that are reached by https, beside the system's. `first_for`: (path and
    query) -> the name of the node that is asked before others.
    """
    tls = httpx.create_ssl_context()
    Way(ca_file=ca_file).trust(tls)
    bounds: Any = {"max_connections": CONNECTIONS, "max_keepalive_connections": AT_ONCE, "keepalive_expiry": 15}
    async with httpx.AsyncClient(
        verify=tls,
        timeout=httpx.Timeout(GOES_ON_WITHIN, read=None, connect=REACHED_WITHIN, pool=TURN),
        limits=httpx.Limits(**bounds),
        headers={"User-Agent": "marketd"},
        follow_redirects=False,
        trust_env=False,
    ) as client:
        yield Ingests(members, client, token, first_for)
