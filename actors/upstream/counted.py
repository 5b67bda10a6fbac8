"""A REST host whose answers are counted, by how they ended and how long they took."""

import trio

from actors.counts import Counts, Outcome
from actors.errors import UpstreamError, UpstreamTimeout
from actors.upstream.rest import Answer, Http, Question, Unreachable


class CountedHttp:
    def __init__(self, http: Http, counts: Counts) -> None:
        self._http = http
        self._counts = counts

    async def ask(self, question: Question) -> Answer:
        """Raises what the host raises."""
        began = trio.current_time()
        try:
            answer = await self._http.ask(question)
        except UpstreamTimeout:
            self._ended("timeout", began)
            raise
        except Unreachable:
            self._ended("unreachable", began)
            raise
        except UpstreamError:  # an answer that cannot be used
            self._ended("server_error", began)
            raise
        self._ended(_outcome(answer.status), began)
        return answer

    def _ended(self, outcome: Outcome, began: float) -> None:
        self._counts.requests[outcome] += 1
        self._counts.request_seconds.observe(trio.current_time() - began)


def _outcome(status: int) -> Outcome:
    if status >= 500:
        return "server_error"
    if status >= 400:
        return "banned" if status == 418 else "limited" if status == 429 else "client_error"
    return "ok"
