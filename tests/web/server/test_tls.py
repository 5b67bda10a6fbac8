"""Certificates that change while it runs: new handshakes get them, connections stay, bad files change nothing."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from structlog.testing import capture_logs

from tests.patience import WITHIN
from tests.web.server.served import TEXT, frame, guarded, handshake
from web.server.tls import LOOK_EVERY, Certificates, load_context


class Files:
    def __init__(self, folder: Path) -> None:
        self.certfile, self.keyfile = folder / "cert.pem", folder / "key.pem"
        self.authority = trustme.CA()
        self.issue()

    def issue(self) -> None:
        issued = self.authority.issue_cert("localhost")
        self.certfile.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.keyfile.write_bytes(issued.private_key_pem.bytes())

    def certificates(self) -> Certificates:
        return Certificates(str(self.certfile), str(self.keyfile))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def connect(port: int, files: Files) -> trio.SSLStream[trio.SocketStream]:
    context = ssl.create_default_context()
    files.authority.configure_trust(context)
    stream = trio.SSLStream(
        await trio.open_tcp_stream("127.0.0.1", port), context, server_hostname="localhost", https_compatible=True
    )
    await stream.do_handshake()
    return stream


async def serial_of(port: int, files: Files) -> Any:
    stream = await connect(port, files)
    found = stream.getpeercert()["serialNumber"]
    await trio.aclose_forcefully(stream)
    return found


async def test_new_handshakes_get_the_new_certificate_and_nobody_is_dropped(files: Files) -> None:
    certificates = files.certificates()
    async with guarded(certificates=certificates) as served:
        with trio.fail_after(WITHIN), capture_logs() as lines:
            first = await serial_of(served.port, files)
            old = await handshake(await connect(served.port, files), b"/ws/echo")
            certificates.look()
            assert lines == [], "nothing has changed"
            files.issue()
            assert await serial_of(served.port, files) == first, "not before it is looked at"
            certificates.look()
            second = await serial_of(served.port, files)
            assert second != first
            await old.send(frame(TEXT, b"still there?"))
            assert await old.message() == "still there?"
            files.keyfile.write_text("broken")
            for _ in range(3):
                certificates.look()
            assert await serial_of(served.port, files) == second
            files.certfile.unlink()
            certificates.look()
            assert await serial_of(served.port, files) == second
            files.issue()
            certificates.reload()
            assert await serial_of(served.port, files) not in (first, second)
            await old.aclose()
    assert [line["event"] for line in lines] == [
        "web.certificate_reloaded",
        "web.certificate_kept",
        "web.certificate_kept",
    ]


async def test_they_are_looked_at_every_minute(files: Files, autojump_clock: trio.testing.MockClock) -> None:
    certificates = files.certificates()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(certificates.watch)
        before = certificates.context
        files.issue()
        await trio.sleep(LOOK_EVERY - 1)
        assert certificates.context is before
        await trio.sleep(2)
        assert certificates.context is not before
        nursery.cancel_scope.cancel()


def test_a_pair_that_does_not_fit_is_refused_and_the_old_one_kept(files: Files, tmp_path: Path) -> None:
    certificates = files.certificates()
    before = certificates.context
    files.keyfile.write_bytes(files.authority.issue_cert("localhost").private_key_pem.bytes())
    with pytest.raises(ssl.SSLError):
        certificates.reload()
    with pytest.raises(FileNotFoundError):
        certificates.change(str(tmp_path / "none.pem"), None)
    assert certificates.context is before


async def test_nothing_older_than_tls_1_2(files: Files) -> None:
    assert load_context(str(files.certfile), str(files.keyfile)).minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_file_that_is_missing_is_named(files: Files) -> None:
    files.keyfile.unlink()
    with pytest.raises(FileNotFoundError, match=r"key\.pem"):
        files.certificates()
