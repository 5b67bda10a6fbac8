"""What an answer's headers say beyond its type and length: its encoding, and who may read it. One place for both ways
of answering, Quart's (`web.app`) and the early one (`web.rest.early`).

Compression is worth its CPU from `COMPRESS_FROM` bytes on; the fastest levels are taken, since an answer about a live
market is new several times a second.
"""

import zlib
from functools import lru_cache
from typing import Literal

import zstandard

Encoding = Literal["zstd", "gzip"]
ENCODINGS: tuple[Encoding, ...] = ("zstd", "gzip")

COMPRESS_FROM = 1024  # bytes; below it a packet is a packet
_COMPRESSIBLE = ("application/", "text/")  # the rest is images
_GZIP_LEVEL, _ZSTD_LEVEL = 1, 1
_GZIP_WBITS = 16 + zlib.MAX_WBITS

_zstd = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)


@lru_cache(maxsize=256)
def choose_encoding(accepted: str) -> Encoding | None:
    """What of an Accept-Encoding header to answer with: what the client likes best, zstd before gzip; None for neither.

    A weight that is none counts as a refusal: not to compress is never wrong.
    """
    weights: dict[str, float] = {}
    for item in accepted.lower().split(","):
        name, _, parameter = item.partition(";")
        key, _, text = parameter.partition("=")
        try:
            weights[name.strip()] = float(text) if key.strip() == "q" else float(not parameter.strip())
        except ValueError:
            weights[name.strip()] = 0.0
    zstd, gzip = weights.get("zstd", 0.0), weights.get("gzip", 0.0)
    if zstd > 0 and zstd >= gzip:
        return "zstd"
    return "gzip" if gzip > 0 else None


def prefers_html(accepted: str) -> bool:
    """Whether an Accept header puts text/html before application/json; a tie, or nothing said, is JSON.

    Of the ranges that cover a type the most specific one gives its weight; a weight that is none counts as a refusal.
    """
    weights: dict[str, float] = {}
    for item in accepted.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        weight = 1.0
        for parameter in parameters:
            key, _, text = parameter.partition("=")
            if key.strip() == "q":
                try:
                    weight = float(text)
                except ValueError:
                    weight = 0.0
                weight = weight if 0 <= weight <= 1 else 0.0
        weights[name] = max(weight, weights.get(name, 0.0))

    def weight_of(kind: str) -> float:
        ranges = (kind, f"{kind.partition('/')[0]}/*", "*/*")
        return next((weights[name] for name in ranges if name in weights), 0.0)

    return weight_of("text/html") > weight_of("application/json")


def is_known(tag: str, if_none_match: str) -> bool:
    """Whether the client has what this ETag names already; weak and strong tags are compared alike."""
    return not {tag, "*"}.isdisjoint(part.strip().removeprefix("W/") for part in if_none_match.split(","))


def compress(body: bytes, encoding: Encoding) -> bytes:
    if encoding == "zstd":
        return _zstd.compress(body)
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WBITS)
    return packer.compress(body) + packer.flush()


def is_compressible(content_type: str, size: int) -> bool:
    return size >= COMPRESS_FROM and content_type.startswith(_COMPRESSIBLE)


def variant_headers(
    encoding: Encoding | None, origin: str | None, origins: list[str] | str, *, compressible: bool
) -> dict[str, str]:
    """The headers of an answer to a request of `origin` that takes `encoding`. `origins` is "*" or those allowed."""
    headers: dict[str, str] = {}
    if compressible and encoding is not None:
        headers["Content-Encoding"] = encoding
    if vary := [*(["Origin"] if origins != "*" else []), *(["Accept-Encoding"] if compressible else [])]:
        headers["Vary"] = ", ".join(vary)
    if origin is not None and (origins == "*" or origin in origins):
        headers["Access-Control-Allow-Origin"] = "*" if origins == "*" else origin
    return headers
