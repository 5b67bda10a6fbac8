"""Where clients come in: TCP, with TLS or without, and a Unix socket."""

import errno
import os
import socket
import stat
from contextlib import suppress

import trio

from daemon.settings import Server
from web.server.accepting import Listener
from web.server.tls import Certificates

BACKLOG = 1024  # connections that the kernel holds while we are busy
SOCKET_MASK = 0o117  # what a Unix socket does not permit: to others all, to anybody to execute it


class CannotListen(Exception):
    """The configured address cannot be bound, or nobody could be served there; the text says why."""


async def listen(server: Server, certificates: Certificates | None) -> tuple[list[Listener], str]:
    """The listeners, and the URL that clients are told. Raises CannotListen."""
    listeners: list[Listener] = []
    url = f"unix:{server.unix_socket}"
    if server.port >= 0:
        plain = await _listen_on(server.host, server.port, hint="; another program uses it, choose another by --port")
        listeners += plain if certificates is None else map(certificates.over, plain)
        host = f"[{server.host}]" if ":" in server.host else server.host
        scheme = "http" if certificates is None else "https"
        url = f"{scheme}://{host}:{plain[0].socket.getsockname()[1]}"
    if server.unix_socket:
        try:
            listeners.append(_listen_on_path(server.unix_socket))
        except OSError as error:
            for listener in listeners:
                await listener.aclose()
            raise CannotListen(f"cannot listen on {server.unix_socket}: {error.strerror or error}") from None
    return listeners, url


async def listen_at(address: str) -> list[Listener]:
    """The listeners of "host:port". Raises CannotListen."""
    host, _, port = address.rpartition(":")
    return list(await _listen_on(host.strip("[]"), int(port), hint="; another program uses it"))


async def _listen_on(host: str, port: int, *, hint: str) -> list[trio.SocketListener]:
    try:
        return list(await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG))
    except OSError as error:
        why = f"{error.strerror or error}{hint if error.errno == errno.EADDRINUSE else ''}"
        raise CannotListen(f"cannot listen on {host} port {port}: {why}") from None


def _listen_on_path(path: str) -> trio.SocketListener:
    """Raises OSError. A socket that a daemon left behind when it was killed is taken over, one in use is not."""
    if _is_abandoned(path):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX)
    mask = os.umask(SOCKET_MASK)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(mask)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _is_abandoned(path: str) -> bool:
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            with socket.socket(socket.AF_UNIX) as peer:
                return peer.connect_ex(path) == errno.ECONNREFUSED
    return False


async def remove_at_end(path: str) -> None:
    """Take a Unix socket's name away when this is cancelled."""
    try:
        await trio.sleep_forever()
    finally:
        with suppress(OSError):
            os.unlink(path)
