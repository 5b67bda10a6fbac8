"""What comes before all else on every request, REST, SSE and WebSocket alike: is this the server that was meant, and
which path below it.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from web.access.hosts import ALWAYS, Hosts

App = Callable[[Any, Any, Any], Awaitable[None]]

_encode = msgspec.json.Encoder().encode


class Front:
    """In front of an ASGI app; `root_path`: below which path a proxy serves us, whether it takes it off or not."""

    def __init__(self, app: App, hosts: Hosts, *, root_path: str = "") -> None:
        self._app = app
        self._hosts = hosts
        self._root_path = root_path

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        root_path = self._root_path
        if root_path and (path == root_path or path.startswith(f"{root_path}/")):
            path = scope["path"] = path[len(root_path) :] or "/"
            raw = scope["raw_path"]
            scope["raw_path"] = raw.removeprefix(root_path.encode()) or b"/"
        if path != ALWAYS:
            host = next((value.decode("latin1") for name, value in scope["headers"] if name == b"host"), None)
            told = self._hosts.refusal(host, is_local_socket=scope.get("server", ()) is None)
            if told is not None:
                kind = "websocket.http" if scope["type"] == "websocket" else "http"
                await _answer(send, kind, told.status, _encode(told))
                return
        await self._app(scope, receive, send)


async def _answer(send: Any, kind: str, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body))]
    await send({"type": f"{kind}.response.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": body})
