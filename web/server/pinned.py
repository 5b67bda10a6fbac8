"""Hypercorn's internals that marketd leans on: imported here only, and checked before they are used.

Law: no other module names Hypercorn. It is pinned to one version; where the installed one differs, the
program says so in one line and does not start, instead of failing at some client's request.
"""

from __future__ import annotations

import importlib.metadata
import inspect

VERSION = "0.18.0"

try:
    from hypercorn.config import Config
    from hypercorn.events import Closed, RawData, Updated
    from hypercorn.events import Event as ConnectionEvent
    from hypercorn.logging import Logger
    from hypercorn.protocol.events import Data, Event, Request, Response, StreamClosed
    from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
    from hypercorn.protocol.ws_stream import Handshake, WSStream
    from hypercorn.trio.task_group import TaskGroup
    from hypercorn.trio.worker_context import WorkerContext
    from hypercorn.typing import (
        AppWrapper,
        ASGIFramework,
        ASGIReceiveEvent,
        ASGISendEvent,
        Scope,
        WebsocketAcceptEvent,
    )
    from hypercorn.utils import parse_socket_addr, wrap_app
except ImportError as error:
    raise RuntimeError(f"hypercorn {VERSION} is needed: {error}") from error

__all__ = [
    "STREAM_ID",
    "ASGIFramework",
    "ASGIReceiveEvent",
    "ASGISendEvent",
    "AppWrapper",
    "Closed",
    "Config",
    "ConnectionEvent",
    "Data",
    "Event",
    "H11Protocol",
    "H11WSConnection",
    "Handshake",
    "Logger",
    "RawData",
    "Request",
    "Response",
    "Scope",
    "StreamClosed",
    "TaskGroup",
    "Updated",
    "WSStream",
    "WebsocketAcceptEvent",
    "WorkerContext",
    "check_hypercorn",
    "parse_socket_addr",
    "wrap_app",
]

_RELIED_ON: tuple[tuple[object, str, str], ...] = (
    (
        H11Protocol,
        "__init__",
        "self app config context task_group connection_state ssl client server send",
    ),
    (H11Protocol, "handle", "self event"),
    (Config, "response_headers", "self protocol"),
    (H11Protocol, "stream_send", "self event"),
    (H11Protocol, "_check_protocol", "self event"),
    (H11Protocol, "_create_stream", "self request"),
    (H11Protocol, "_send_error_response", "self status_code"),
    (H11Protocol, "_maybe_recycle", "self"),
    (H11WSConnection, "__init__", "self h11_connection"),
    (
        WSStream,
        "__init__",
        "self app config context task_group ssl client server send stream_id",
    ),
    (WSStream, "handle", "self event"),
    (WSStream, "app_send", "self message"),
    (WSStream, "_accept", "self message"),
    (WSStream, "_handle_events", "self"),
    (WSStream, "_send_wsproto_event", "self event"),
    (WSStream, "_send_error_response", "self status_code"),
    (Handshake, "__init__", "self headers http_version"),
    (Handshake, "is_valid", "self"),
    (TaskGroup, "spawn_app", "self app config scope send"),
    (WorkerContext, "__init__", "self max_requests"),
    (Logger, "access", "self request response request_time"),
    (Logger, "exception", "self message args kwargs"),
)
_RELIED_ON_SETTINGS = (
    "accesslog errorlog h11_max_incomplete_size include_server_header keep_alive_max_requests logger_class log "
    "websocket_max_message_size websocket_ping_interval"
)


def check_hypercorn() -> None:
    """Raise RuntimeError, in one line, unless Hypercorn is what the server was written against."""
    found = importlib.metadata.version("hypercorn")
    if found != VERSION:
        raise RuntimeError(f"hypercorn {VERSION} is needed exactly, {found} is installed")
    for owner, name, parameters in _RELIED_ON:
        where = f"{getattr(owner, '__name__', owner)}.{name}"
        member = getattr(owner, name, None)
        if member is None:
            raise RuntimeError(f"hypercorn {found} has no {where}")
        if " ".join(inspect.signature(member).parameters) != parameters:
            raise RuntimeError(f"hypercorn {found} changed {where}({parameters})")
    for name in _RELIED_ON_SETTINGS.split():
        if not hasattr(Config, name):
            raise RuntimeError(f"hypercorn {found} has no Config.{name}")
    if not hasattr(TaskGroup(), "_nursery"):
        raise RuntimeError(f"hypercorn {found} has no TaskGroup._nursery")
