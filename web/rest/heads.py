"""The head of a request that memory may answer: which is ordinary, and what it asks.

Law: what is ordinary is decided by h11. A head that is spelled as nearly all programs spell theirs is read by two
expressions that take less than h11 takes, and are some ten times as fast; a test compares the two.
"""

import re
from typing import NamedTuple

import h11

HEAD_MAX = 4096  # bytes of a request's head

# Headers that ask for more than an answer, or announce a body.
_UNUSUAL = {b"upgrade", b"expect", b"content-length", b"transfer-encoding", b"te", b"http2-settings"}

_FIRST = re.compile(rb"GET (/[!-~]*) HTTP/1\.1\r\n")
_LINE = re.compile(rb"([A-Za-z0-9_-]+): ?([!-~](?:[ -~]*[!-~])?)\r\n")


class Head(NamedTuple):
    target: bytes
    headers: dict[bytes, bytes]  # by lower-case name; none of them is repeated


def parse_head(data: bytes) -> Head | None:
    """What is asked, if `data` is the head of an ordinary GET on a connection to be kept, and nothing else."""
    if len(data) > HEAD_MAX or not data.startswith(b"GET /") or not data.endswith(b"\r\n\r\n"):
        return None
    head = parse_plain(data) or parse_any(data)
    if head is None or not _UNUSUAL.isdisjoint(head.headers):
        return None
    return head if head.headers.get(b"connection", b"keep-alive").lower() == b"keep-alive" else None


def parse_plain(data: bytes) -> Head | None:
    """The head as h11 would read it; None where it is not spelled as usual, whatever it says."""
    first = _FIRST.match(data)
    if first is None:
        return None
    at, end, headers = first.end(), len(data) - 2, dict[bytes, bytes]()
    while at < end:
        line = _LINE.match(data, at, end)
        if line is None:
            return None
        name = line[1].lower()
        if name in headers:
            return None
        headers[name] = line[2]
        at = line.end()
    return Head(first[1], headers) if b"host" in headers else None


def parse_any(data: bytes) -> Head | None:
    """The same by h11: None where it refuses, where a header is repeated, or where a body follows."""
    connection = h11.Connection(h11.SERVER, HEAD_MAX)
    connection.receive_data(data)
    try:
        request = connection.next_event()
        is_whole = isinstance(connection.next_event(), h11.EndOfMessage)
    except h11.RemoteProtocolError:
        return None
    if not isinstance(request, h11.Request) or not is_whole or connection.trailing_data[0]:
        return None
    headers = dict(request.headers)
    if request.http_version != b"1.1" or len(headers) < len(list(request.headers)):
        return None
    return Head(request.target, headers)
