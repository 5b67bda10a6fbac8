"""HTTP/1.1 for the simulated exchanges: kept-alive connections, and the ways an answer can go wrong.

Law: knows h11 and nothing of markets; what the right answer is, it is told.
"""

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import h11
import trio


class Request(NamedTuple):
    method: str
    path: str  # without the query
    query: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Reply:
    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    weight: int = 0
    content_type: str = "application/json"


@dataclass(slots=True)
class RestFault:
    """What happens to requests instead of, or on top of, the right answer."""

    path: str = ""  # the prefix of the paths it strikes
    times: int | None = None  # how often; None: until removed from the list
    reply: Reply | None = None  # answered instead; the exchange does not see the request
    delay: float = 0.0  # seconds before the answer
    truncate: bool = False  # half of the body, then the end of the connection
    hang_up: bool = False  # the end of the connection instead of an answer
    close: bool = False  # the right answer, then an unannounced end of the kept-alive connection


def reset(stream: trio.SocketStream) -> None:
    """Close with a TCP reset; tasks that use the stream get ClosedResourceError."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def admitted(mode: str | int, stream: trio.SocketStream) -> bool:
    """Whether to serve a new connection; "silent" lasts until the client gives up."""
    if mode == "reset":
        reset(stream)
    elif mode == "silent":
        while await stream.receive_some():
            pass
    return mode not in ("reset", "silent")


async def serve_connection(
    stream: trio.SocketStream,
    mode: str,
    faults: list[RestFault],
    answer: Callable[[Request], Reply],
    served: Callable[[Request, Reply], None],
) -> None:
    """One connection, kept alive. `served` is told of every request, with status 0 where none was sent."""
    async with stream:
        http = h11.Connection(h11.SERVER)
        try:
            if not await admitted(mode, stream):
                return
            while (request := await _next_request(http, stream)) is not None:
                if not await _respond(http, stream, request, faults, answer, served):
                    return
                http.start_next_cycle()
        except (h11.RemoteProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the client's end of it; the next connection starts anew


async def _next_request(http: h11.Connection, stream: trio.SocketStream) -> Request | None:
    head: h11.Request | None = None
    body = b""
    while True:
        match event := http.next_event():
            case h11.NEED_DATA:
                http.receive_data(await stream.receive_some())
            case h11.Request():
                head = event
            case h11.Data():
                body += event.data
            case h11.EndOfMessage() if head is not None:
                url = urlsplit(head.target.decode("latin-1"))
                query = dict(parse_qsl(url.query, keep_blank_values=True))
                return Request(head.method.decode(), unquote(url.path), query, body)
            case _:
                return None


async def _respond(
    http: h11.Connection,
    stream: trio.SocketStream,
    request: Request,
    faults: list[RestFault],
    answer: Callable[[Request], Reply],
    served: Callable[[Request, Reply], None],
) -> bool:
    """Answer; false where the connection must end."""
    fault = _struck(faults, request.path)
    if fault.delay:
        await trio.sleep(fault.delay)
    reply = Reply(0) if fault.hang_up else fault.reply or answer(request)
    served(request, reply)
    if fault.hang_up:
        return False
    headers = {"Content-Type": reply.content_type, "Content-Length": str(len(reply.body)), **reply.headers}
    head = h11.Response(status_code=reply.status, headers=list(headers.items()))
    data = http.send(head) or b""
    if fault.truncate:
        await stream.send_all(data + reply.body[: len(reply.body) // 2])
        return False
    data += http.send(h11.Data(reply.body)) or b""
    data += http.send(h11.EndOfMessage()) or b""
    await stream.send_all(data)
    return not fault.close and http.our_state is h11.DONE and http.their_state is h11.DONE


def _struck(faults: list[RestFault], path: str) -> RestFault:
    for fault in faults:
        if path.startswith(fault.path):
            if fault.times is not None:
                fault.times -= 1
                if fault.times <= 0:
                    faults.remove(fault)
            return fault
    return RestFault()
