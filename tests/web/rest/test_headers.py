"""What an answer's headers say: which encoding is chosen, and that it can be undone."""

import gzip
import random

import pytest
import zstandard

from web.rest.headers import COMPRESS_FROM, choose_encoding, compress, is_compressible, variant_headers


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("", None),
        ("identity", None),
        ("br, deflate", None),
        ("*", None),
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"),
        ("gzip; q=0.5 , zstd ;q=0.8", "zstd"),
        ("gzip;q=0", None),
        ("gzip;q=0.000, zstd;q=0", None),
        ("zstd;q=0, gzip", "gzip"),
        ("gzip;q=much", None),
        ("gzip;level=9", None),
        ("gzip;q=", None),
        (";,;=,,q=1", None),
    ],
)
def test_the_encoding_is_what_the_client_likes_best(accepted: str, chosen: str | None) -> None:
    assert choose_encoding(accepted) == chosen


def test_compression_can_be_undone() -> None:
    body = bytes(random.Random(1).choices(b'{"open":1234567890.}', k=50_000))
    assert gzip.decompress(compress(body, "gzip")) == body
    assert zstandard.decompress(compress(body, "zstd")) == body
    assert max(len(compress(body, "gzip")), len(compress(body, "zstd"))) < len(body) * 0.7


def test_small_answers_and_images_are_left_alone() -> None:
    assert is_compressible("application/json", COMPRESS_FROM)
    assert is_compressible("text/html; charset=utf-8", 10_000)
    assert not is_compressible("application/json", COMPRESS_FROM - 1)
    assert not is_compressible("image/png", 10_000)


def test_an_answer_says_what_it_depends_on() -> None:
    page = "https://page.example"
    assert variant_headers(None, None, "*", compressible=False) == {}
    assert variant_headers("gzip", None, [], compressible=False) == {"Vary": "Origin"}
    assert variant_headers(None, page, [page], compressible=True) == {
        "Vary": "Origin, Accept-Encoding",
        "Access-Control-Allow-Origin": page,
    }
    assert variant_headers("zstd", page, "*", compressible=True) == {
        "Content-Encoding": "zstd",
        "Vary": "Accept-Encoding",
        "Access-Control-Allow-Origin": "*",
    }
    assert "Access-Control-Allow-Origin" not in variant_headers(None, page + ".evil", [page], compressible=True)
