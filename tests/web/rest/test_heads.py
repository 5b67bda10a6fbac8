"""The quick reading of a head says what h11 says, or nothing."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from web.rest.heads import Head, parse_any, parse_plain

PLAIN = b"GET /x?limit=5 HTTP/1.1\r\nHost: localhost:8000\r\nAccept-Encoding: gzip, br\r\nX-Request: 7\r\n\r\n"
PIECES = [
    *(b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b": ", b";", b"  ", b"/", b"?", b"#", b"a", b"-_", b'"', b"("),
    *(b"Host: y", b"Host:", b"\r\nHost: x", b"\x00", b"\x7f", b"\x80", b"\xff"),
    *(b"\r\n folded", b"HTTP/1.0", b"GET /", b"Connection: close\r\n"),
]


def test_nearly_all_heads_are_read_quickly() -> None:
    headers = {b"host": b"localhost:8000", b"accept-encoding": b"gzip, br", b"x-request": b"7"}
    assert parse_plain(PLAIN) == parse_any(PLAIN) == Head(b"/x?limit=5", headers)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(PLAIN)), st.integers(0, 12), st.sampled_from(PIECES)), max_size=4))
@example([(len(PLAIN) - 2, 0, b"X-Request: 8\r\n")])
@example([(25, 0, b"a\r\n")])
@example([(len(PLAIN) - 2, 0, PLAIN[:-2])])
def test_it_never_says_anything_else(changes: list[tuple[int, int, bytes]]) -> None:
    """Pieces that matter are put anywhere, in the place of as many bytes as they happen to meet."""
    data = PLAIN
    for at, width, piece in changes:
        data = data[:at] + piece + data[at + width :]
    if not (data.startswith(b"GET /") and data.endswith(b"\r\n\r\n")):
        return  # which is seen before
    quick = parse_plain(data)
    assert quick is None or quick == parse_any(data)
