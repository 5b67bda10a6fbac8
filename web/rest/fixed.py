"""Files that are the same bytes as long as the daemon runs: tagged, compressed once, and not sent to who has them."""

from hashlib import sha256

from quart import Response, request

from web.rest.headers import ENCODINGS, Encoding, choose_encoding, compress, is_compressible, is_known


class FixedFile:
    def __init__(self, data: bytes, content_type: str, headers: dict[str, str] | None = None) -> None:
        """`headers` go with every answer, also with one that says that nothing has changed."""
        self.data = data
        self.content_type = content_type
        self.headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff", **(headers or {})}
        self._tag = sha256(data).hexdigest()[:20]
        self._packed: dict[Encoding | None, bytes] = {None: data}
        if is_compressible(content_type, len(data)):
            self._packed |= {encoding: compress(data, encoding) for encoding in ENCODINGS}

    def answer(self) -> Response:
        """To the request that is being handled."""
        encoding = choose_encoding(request.headers.get("Accept-Encoding", ""))
        if encoding not in self._packed:
            encoding = None
        tag = f'"{self._tag}"' if encoding is None else f'"{self._tag}-{encoding}"'
        headers = self.headers | {"ETag": tag}
        if is_known(tag, request.headers.get("If-None-Match", "")):
            return Response(b"", 304, headers=headers)
        if encoding is not None:
            headers["Content-Encoding"] = encoding
        return Response(self._packed[encoding], content_type=self.content_type, headers=headers)
