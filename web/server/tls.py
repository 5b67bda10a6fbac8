"""The server's certificate: given to new handshakes, read anew when its files change; nobody is dropped for it."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import structlog
import trio

LOOK_EVERY = 60.0  # seconds

log = structlog.get_logger()


def load_context(certfile: str, keyfile: str | None) -> ssl.SSLContext:
    """What a server of these files speaks: TLS 1.2 or newer, HTTP/1.1. Raises OSError where they do not fit."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for file in filter(None, (certfile, keyfile)):
        Path(file).open("rb").close()  # where one is missing, ssl does not say which
    # An encrypted key would ask the terminal for its password: nobody may be there.
    context.load_cert_chain(certfile, keyfile, password="")
    return context


class Certificates:
    """The pair of files in use. A pair that cannot be used never replaces one that can."""

    def __init__(self, certfile: str, keyfile: str | None) -> None:
        """Raises OSError."""
        self.change(certfile, keyfile)

    def change(self, certfile: str, keyfile: str | None) -> None:
        """Use these files, as they are now, for handshakes from now on. Raises OSError, and nothing has changed."""
        stamp = _stamp(certfile, keyfile)
        self.context = load_context(certfile, keyfile)
        self._files, self._stamp = (certfile, keyfile), stamp

    def reload(self) -> None:
        """Read the files again. Raises OSError, and nothing has changed."""
        self.change(*self._files)

    async def watch(self) -> None:
        """Read the files again whenever they have changed, for ever."""
        while True:
            await trio.sleep(LOOK_EVERY)
            self.look()

    def look(self) -> None:
        """Read the files again if they have changed; what is wrong with them is said once."""
        stamp = _stamp(*self._files)
        if stamp == self._stamp:
            return
        try:
            self.reload()
        except OSError as error:
            self._stamp = stamp
            log.warning("web.certificate_kept", certfile=self._files[0], reason=str(error))
        else:
            log.info("web.certificate_reloaded", certfile=self._files[0])

    def over(self, listener: trio.SocketListener) -> TlsListener:
        """TLS on what a listener accepts."""
        return TlsListener(listener, self)


class TlsListener(trio.abc.Listener[trio.SSLStream[trio.SocketStream]]):
    """Trio's own has one context for its whole life."""

    def __init__(self, transport_listener: trio.SocketListener, certificates: Certificates) -> None:
        self.transport_listener = transport_listener
        self._certificates = certificates

    async def accept(self) -> trio.SSLStream[trio.SocketStream]:
        stream = await self.transport_listener.accept()
        return trio.SSLStream(stream, self._certificates.context, server_side=True, https_compatible=True)

    async def aclose(self) -> None:
        await self.transport_listener.aclose()


def _stamp(*files: str | None) -> tuple[tuple[int, int, int] | None, ...]:
    """What changes when a file does; None for one that is not there."""
    return tuple(None if file is None else _stamp_of(Path(file)) for file in files)


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
