"""Keys are taken out of a request wherever they stand, and nothing else is touched."""

from typing import Any

import pytest

from web.access.credentials import Given, take_credentials, take_from_head

REST = b"GET / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("lines", "keys"),
    [
        (b"", ()),
        (b"Authorization: Bearer a\r\n", ("a",)),
        (b"AUTHORIZATION:bearer   a  \r\nAccept: x\r\n", ("a",)),
        (b"Accept: x\r\nX-API-Key: a\r\n", ("a",)),
        (b"x-api-key: a\r\nauthorization: Bearer a\r\n", ("a",)),
        (b"x-api-key: a\r\nauthorization: Bearer b\r\nx-api-key: c\r\n", ("a", "b", "c")),
        (b"x-api-key:\r\n", ("",)),
        (b"authorization: Bearer\r\n", ("",)),
        (b"authorization: a\r\n", ("a",)),
        (b"authorization: Basic dTpw\r\n", ()),
        (b"authorization: Bearer a\nx-api-key: b\n", ("a", "b")),
        (b"proxy-authorization: Bearer a\r\nmy-x-api-key: b\r\nreferer: authorization: c\r\n", ()),
    ],
)
def test_a_head_without_its_keys(lines: bytes, keys: tuple[str, ...]) -> None:
    taken = take_from_head(REST + lines + b"\r\n")
    assert taken is not None
    head, found = taken
    assert found == keys
    others = [line for line in lines.splitlines(keepends=True) if not line.lower().startswith((b"auth", b"x-api"))]
    assert head == REST + b"".join(others) + b"\r\n"


def test_a_key_that_goes_on_in_the_next_line_is_left_to_others() -> None:
    assert take_from_head(REST + b"authorization: Bearer\r\n a\r\n\r\n") is None
    assert take_from_head(REST + b"accept: x\r\n\ty\r\nx-api-key: a\r\n\r\n") is None


MISPLACED = Given((), is_misplaced=True)


def scope(path: str, query: bytes = b"", kind: str = "http", **headers: bytes) -> dict[str, Any]:
    listed = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    return {"type": kind, "path": path, "query_string": query, "headers": listed}


@pytest.mark.parametrize(
    ("path", "query", "left", "given"),
    [
        ("/ws", b"token=a", b"", Given(("a",))),
        ("/ws/binance/BTCUSDT/trades", b"status=1&token=a&x=y", b"status=1&x=y", Given(("a",))),
        ("/sse", b"topics=a&%74oken=a%2Bb", b"topics=a", Given(("a+b",))),
        ("/sse", b"token=a&token=b", b"", Given(("a", "b"))),
        ("/ws", b"token", b"", Given(("",))),
        ("/ws", b"tokens=a", b"tokens=a", Given(())),
        ("/wsx", b"token=a", b"", MISPLACED),
        ("/health", b"a=b&%74oken=a", b"a=b", MISPLACED),
        ("/as/binance/fapi/v1/ticker/bookTicker", b"token=a&symbol=BTCUSDT", b"symbol=BTCUSDT", MISPLACED),
    ],
)
def test_a_token_is_one_of_streams_alone_and_gone_from_every_query(
    path: str, query: bytes, left: bytes, given: Given
) -> None:
    asked = scope(path, query)
    assert take_credentials(asked, token_in_query=True) == given
    assert asked["query_string"] == left
    asked = scope(path, query)
    has_token = left != query
    assert take_credentials(asked, token_in_query=False) == Given((), is_misplaced=has_token)
    assert asked["query_string"] == left


def test_headers_and_subprotocols() -> None:
    asked = scope(
        *("/ws", b"", "websocket"),
        host=b"x",
        authorization=b"Bearer a",
        sec_websocket_protocol=b"other, marketd.key.b,marketd",
        x_api_key=b"c",
    )
    asked["subprotocols"] = ["other", "marketd.key.b", "marketd"]
    assert take_credentials(asked, token_in_query=True) == Given(("a", "b", "c"), "marketd")
    assert asked["headers"] == [(b"host", b"x"), (b"sec-websocket-protocol", b"other, marketd")]
    assert asked["subprotocols"] == ["other", "marketd"]
    asked = scope("/ws", b"", "websocket", sec_websocket_protocol=b"marketd.key.b")
    assert take_credentials(asked, token_in_query=True) == Given(("b",)), "only what was offered can be selected"
    asked = scope("/health", b"", sec_websocket_protocol=b"marketd.key.b")
    assert take_credentials(asked, token_in_query=True) == Given(()), "HTTP has no subprotocols"
