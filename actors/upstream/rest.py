"""One exchange's REST host, spoken to within its budget. The only module that knows httpx.

Every request has one deadline over all of it (httpx's own are per read), a bound on the answer's size, and leaves
uncompressed (a small gzip body may inflate to gigabytes). A failure is raised as one of `actors.errors`.
"""

import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from functools import lru_cache
from itertools import count
from math import inf
from typing import Any, NamedTuple, Protocol

import httpx
import trio

from actors import clock, turns
from actors.errors import (
    BadMessage,
    MarketError,
    UpstreamError,
    UpstreamGeoBlocked,
    UpstreamLimited,
    UpstreamTimeout,
)
from actors.upstream.bucket import Caller
from actors.upstream.budget import Budget
from actors.upstream.caller import ANSWER_BY, CLIENT
from actors.upstream.pauses import FORBIDDEN_PAUSE, RETRY_AFTER_MAX, http_date, retry_after
from actors.upstream.tunnel import Transport
from actors.upstream.way import DIRECT, USER_AGENT, NoWay, Way, in_words

TIMEOUT = 10.0  # seconds for a whole request
MAX_BYTES = 64 << 20  # of one answer
ANSWER_WITHIN = 25.0  # seconds for a client's answer, with all its questions, what they wait for and second tries
ASK_AGAIN = 0.2  # seconds
CONNECTIONS = 100  # more than there are slots for requests, so that httpx's pool never queues (httpcore #1093)
RETRY_AFTER_DEFAULT = {429: 60.0, 418: 120.0}  # seconds, where the exchange does not say
LIMITED_PAUSE = 10.0  # seconds, where neither the status nor the exchange says

HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Connection": "keep-alive",
    "User-Agent": USER_AGENT,
}
REPEATED = 512  # requests that are kept made

Params = Mapping[str, str | int | None]
Explain = Callable[[int, bytes], MarketError | None]
"""Reads an exchange's own error body: (status, body) -> the error it means, or None when it says nothing special."""


class Question(NamedTuple):
    """A request, without the host."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes = b""


class Answer(NamedTuple):
    """A response of any status; header names are in lower case, times by our clock: sent, and wholly received."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    asked_at: datetime
    answered_at: datetime

    @property
    def told_at(self) -> datetime:
        """When it was sent, by the exchange's clock where it says so: what it says of a time is by that clock."""
        return http_date(self.headers.get("date", "")) or self.answered_at


class Unreachable(UpstreamError):
    """The host could not be reached, or the connection broke."""


FAILURES = {kind.__name__: kind for kind in (Unreachable, NoWay, UpstreamTimeout, UpstreamError)}


class Http(Protocol):
    """A REST host."""

    async def ask(self, question: Question) -> Answer:
        """Raises one of FAILURES where there is no answer."""
        ...


class RestClient:
    """Questions within the budget, of one kind of caller: see Budget.turn."""

    def __init__(
        self,
        http: Http,
        budget: Budget,
        explain: Explain,
        *,
        caller: Caller,
        used_header: tuple[str, str] | None,
    ) -> None:
        self._http = http
        self._budget = budget
        self._explain = explain
        self._caller = caller
        self._used_header = used_header  # (header name, bucket) in which the exchange reports its own count
        self.last_answer: Answer | None = None  # of all that came, whatever they say

    async def get(self, path: str, params: Params | None = None, *, bucket: str, weight: int) -> bytes:
        """The body of a 2xx answer to a GET. Raises MarketError for everything else."""
        query = {key: str(value) for key, value in (params or {}).items() if value is not None}
        return await self._ask(Question("GET", path, query), bucket, weight)

    async def query(self, path: str, body: bytes, *, bucket: str, weight: int) -> bytes:
        """The same for an exchange that takes its questions as POSTed JSON; it must be safe to ask twice."""
        return await self._ask(Question("POST", path, {}, body), bucket, weight)

    async def forward(
        self, question: Question, *, bucket: str, weight: int, leaves: Callable[[], None] = lambda: None
    ) -> Answer:
        """Whatever the exchange answers, as it came; a refusal of the whole address is heeded all the same.

        `leaves` is called when nothing is waited for any more. Raises MarketError where there is no answer.
        """
        for is_last in (False, True):
            try:
                async with self._budget.turn(bucket, weight, self._caller):
                    leaves()
                    answer = await self._http.ask(question)
            except Unreachable:
                if is_last:
                    raise
                continue
            self._observe(answer)
            if answer.status >= 300:
                self.heed(self._error(answer, question.path))
            return answer
        raise AssertionError("unreachable")

    def charge(self, bucket: str, weight: int) -> None:
        """An answer weighed so much more than was spent for it."""
        self._budget.buckets[bucket].spend(weight, self._caller, CLIENT.get().id)

    def heed(self, error: MarketError) -> None:
        """Ask nothing more until the time that an error names. For exchanges, too, that refuse within a 200."""
        if error.retry_after is not None:
            self._budget.close(min(error.retry_after, RETRY_AFTER_MAX), error)

    async def _ask(self, question: Question, bucket: str, weight: int) -> bytes:
        until = min(trio.current_time() + ANSWER_WITHIN, ANSWER_BY.get()) if self._caller == "client" else inf
        try:
            with trio.fail_at(until):
                return await self._ask_patiently(question, bucket, weight)
        except trio.TooSlowError:
            raise UpstreamTimeout(f"{question.path}: no answer within {ANSWER_WITHIN:g} s") from None

    async def _ask_patiently(self, question: Question, bucket: str, weight: int) -> bytes:
        """Twice, where that may help; a repair as often as its deadline lets it: nobody asks in its place."""
        pause = ASK_AGAIN
        for attempt in count(1):
            is_last = attempt > 1 and pause >= self._patience()
            try:
                async with self._budget.turn(bucket, weight, self._caller):
                    answer = self.last_answer = await self._http.ask(question)
            except Unreachable:
                if is_last:
                    raise
                if attempt > 1:  # a keep-alive connection that the server just closed fails at once
                    await trio.sleep(pause)
                    pause *= 2
                continue
            self._observe(answer)
            if not is_last and self._may_pass(answer):
                await trio.sleep(pause)
                pause *= 2
                continue
            if self._may_wait(answer, question.path):
                continue
            self._raise_for(answer, question.path)
            if self._caller == "background":
                await turns.room(turns.PAGE)
            return answer.body
        raise AssertionError("unreachable")

    def _patience(self) -> float:
        """Seconds for which a repair may go on asking; 0 for others."""
        deadline = trio.current_effective_deadline() if self._caller == "repair" else inf
        return deadline - trio.current_time() if deadline < inf else 0.0

    def _may_pass(self, answer: Answer) -> bool:
        """A trouble of the exchange's servers, of which it says neither what it means nor how long it lasts."""
        if answer.status < 500 or retry_after(answer.headers.get("retry-after"), answer.told_at) is not None:
            return False
        return type(self._explain(answer.status, answer.body)) in (type(None), UpstreamError, UpstreamTimeout)

    def _may_wait(self, answer: Answer, path: str) -> bool:
        """A refusal that will be over before the deadline of a repair, which waits for its turn until then."""
        patience = self._patience()
        if answer.status < 300 or not patience:
            return False
        error = self._error(answer, path)
        self.heed(error)
        return isinstance(error, UpstreamLimited) and error.retry_after is not None and error.retry_after < patience

    def _observe(self, answer: Answer) -> None:
        if self._used_header is None:
            return
        header, bucket = self._used_header
        used = answer.headers.get(header.lower(), "")
        if used.isascii() and used.isdigit():
            self._budget.observe(bucket, int(used[:9]))

    def _raise_for(self, answer: Answer, path: str) -> None:
        status, body = answer.status, answer.body
        if status < 300:
            content_type = answer.headers.get("content-type", "")
            if "html" in content_type or body[:1] == b"<":
                raise BadMessage(f"{path}: the exchange answered {status} with a page instead of data")
            return
        error = self._error(answer, path)
        self.heed(error)
        raise error

    def _error(self, answer: Answer, path: str) -> MarketError:
        status, body = answer.status, answer.body
        said = self._explain(status, body)
        if status in (418, 429) or isinstance(said, UpstreamLimited):
            wait = (said and said.retry_after) or retry_after(answer.headers.get("retry-after"), answer.told_at)
            if isinstance(said, UpstreamLimited) and said.until is not None:
                wait = max(1.0, said.until - answer.told_at.timestamp())
            wait = wait or RETRY_AFTER_DEFAULT.get(status, LIMITED_PAUSE)
            text = f"the exchange answered {status}: {said or 'too many requests'}"
            return UpstreamLimited(text, retry_after=min(wait, RETRY_AFTER_MAX))
        if status == 451:
            text = f"the exchange does not serve this location (451): {excerpt(body)}"
            said = UpstreamGeoBlocked(text, retry_after=FORBIDDEN_PAUSE)
        if isinstance(said, UpstreamGeoBlocked):
            said.said = body
            return said
        if status == 403:
            text = "the exchange's firewall refused this address (403)"
            return UpstreamError(text, retry_after=FORBIDDEN_PAUSE)
        if status == 408:
            return UpstreamTimeout(f"{path}: the exchange timed out (408)")
        if status >= 500 and said is None:
            wait = retry_after(answer.headers.get("retry-after"), answer.told_at)
            wait = wait and min(wait, RETRY_AFTER_MAX)
            return UpstreamError(f"{path}: the exchange answered {status}: {excerpt(body)}", retry_after=wait or None)
        return said or UpstreamError(f"{path}: the exchange answered {status}: {excerpt(body)}")


class HttpxHost:
    """A REST host over httpx's connection pool.

    Without httpx's client: of cookies, redirects and logins there are none here, and they cost as much as the rest.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, base_url: str) -> None:
        self._transport = transport
        self._base_url = base_url.rstrip("/")
        self._get = lru_cache(maxsize=REPEATED)(self._make_get)  # polls ask the same again and again

    async def ask(self, question: Question) -> Answer:
        path = question.path
        asked_at = clock.now()
        try:
            with trio.fail_after(TIMEOUT):
                response = await self._transport.handle_async_request(self._request(question))
                try:
                    body = bytearray()
                    async for chunk in response.aiter_raw():
                        body += chunk
                        if len(body) > MAX_BYTES:
                            raise UpstreamError(f"{path}: the answer is larger than {MAX_BYTES} bytes")
                finally:
                    await response.aclose()
        except trio.TooSlowError:
            raise UpstreamTimeout(f"{path}: no answer within {TIMEOUT:g} s") from None
        except httpx.TransportError as error:
            raise Unreachable(f"{path}: {type(error).__name__}: {in_words(error)}") from error
        # httpx joins repeated headers, and names them in lower case.
        return Answer(response.status_code, dict(response.headers), bytes(body), asked_at, clock.now())

    def _request(self, question: Question) -> httpx.Request:
        if question.method == "GET":
            return self._get(question.path, tuple(question.query.items()))
        headers = HEADERS | {"Content-Type": "application/json"}
        return httpx.Request(question.method, self._base_url + question.path, headers=headers, content=question.body)

    def _make_get(self, path: str, query: tuple[tuple[str, str], ...]) -> httpx.Request:
        return httpx.Request("GET", self._base_url + path, params=query or None, headers=HEADERS)


def tls_for(*urls: str) -> ssl.SSLContext | None:
    """A context that verifies, or None where no URL needs one: loading the authorities takes a while."""
    if any(url.startswith(("https:", "wss:")) for url in urls):
        return httpx.create_ssl_context()
    return None


@asynccontextmanager
async def open_http(base_url: str, tls: ssl.SSLContext | None = None, way: Way = DIRECT) -> AsyncIterator[Http]:
    """The connection pool to one REST host."""
    way.trust(tls)
    bounds: Any = {"max_connections": CONNECTIONS, "max_keepalive_connections": 20, "keepalive_expiry": 30}
    # There is no `tls` only where nothing is encrypted, and redirects are not followed.
    transport: httpx.AsyncBaseTransport = (
        httpx.AsyncHTTPTransport(verify=tls or False, limits=httpx.Limits(**bounds), trust_env=False)
        if way == DIRECT
        else Transport(way, tls, **bounds)
    )
    async with transport:
        yield HttpxHost(transport, base_url)


def excerpt(body: bytes) -> str:
    """The beginning of a body that may be anything, as one printable line."""
    text = body[:200].decode("utf-8", "replace")
    text = "".join(char if char.isprintable() else " " for char in text)
    return json.dumps(" ".join(text.split()), ensure_ascii=False)[1:-1] or "(empty)"
