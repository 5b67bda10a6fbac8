"""The way to an exchange: REST and WebSocket take the same one, and what fails on it is said as such."""

import ssl
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from actors.errors import LineLost
from actors.exchanges.binance import simulator
from actors.simulation.assets import ASSETS
from actors.simulation.market import Clock, Market
from actors.simulation.server import RestFault, Simulator
from actors.upstream import way as ways
from actors.upstream.dial import open_socket
from actors.upstream.rest import Question, Unreachable, open_http
from actors.upstream.way import NoWay, Way
from tests.actors.upstream import proxies
from tests.programs import free_port

SCHEMES = ("http", "socks5", "socks5h")
TIME = Question("GET", "/fapi/v1/time", {})


@pytest.fixture
async def sim(nursery: trio.Nursery) -> AsyncIterator[Simulator]:
    market = Market(seed=1, clock=Clock(1_795_000_000_000, rate=0), assets=ASSETS[:1])
    running: Simulator = await nursery.start(partial(simulator.serve, market))
    return running  # type: ignore[return-value]


def elsewhere(url: str) -> str:
    """The same under a name that only the proxy knows."""
    return url.replace("127.0.0.1", "exchange.invalid")


@pytest.mark.parametrize("credentials", [None, "user:p%40ss"])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_rest_and_websocket_go_through_the_proxy(
    nursery: trio.Nursery, sim: Simulator, scheme: str, credentials: str | None
) -> None:
    proxy = await proxies.start(nursery, credentials and credentials.replace("%40", "@"))
    url = proxy.url(scheme).replace("p@ss", "p%40ss")
    through = elsewhere if scheme != "socks5" else str  # it looks names up here
    way = Way(proxy=url)
    async with open_http(through(sim.rest_url), None, way) as http:
        for _ in range(3):
            assert (await http.ask(TIME)).status == 200
    async with open_socket(through(sim.ws_url) + "/stream", None, way) as connection:
        await connection.ping()
    host = "127.0.0.1" if scheme == "socks5" else "exchange.invalid"
    assert [reached[0] for reached in proxy.reached] == [host, host], "one kept connection for REST, one socket"
    assert sim.attempts == 1


async def failure(way: Way, sim: Simulator) -> str:
    """What is said of it, the same by REST and WebSocket."""
    with pytest.raises(NoWay) as by_rest:
        async with open_http(sim.rest_url, None, way) as http:
            await http.ask(TIME)
    with pytest.raises(ExceptionGroup) as by_socket:
        async with open_socket(sim.ws_url + "/stream", None, way):
            pass
    [lost] = by_socket.value.exceptions
    assert isinstance(lost, LineLost)
    assert str(lost) == str(by_rest.value)
    assert (sim.attempts, len(sim.requests)) == (0, 0)
    return str(by_rest.value)


async def test_a_proxy_that_wants_other_credentials(nursery: trio.Nursery, sim: Simulator) -> None:
    proxy = await proxies.start(nursery, "user:secret")
    said = await failure(Way(proxy=f"http://user:wrong@127.0.0.1:{proxy.port}"), sim)
    assert said == f"proxy http://***@127.0.0.1:{proxy.port} refused: 407"
    said = await failure(Way(proxy=f"socks5h://user:wrong@127.0.0.1:{proxy.port}"), sim)
    assert said.startswith(f"proxy socks5h://***@127.0.0.1:{proxy.port} refused: ")
    assert "wrong" not in said


@pytest.mark.parametrize("mode", ["refuses", "hangs up", "silent"])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_proxy_that_fails(
    nursery: trio.Nursery, sim: Simulator, monkeypatch: pytest.MonkeyPatch, scheme: str, mode: str
) -> None:
    monkeypatch.setattr(ways, "PROXY_WITHIN", 0.3)
    proxy = await proxies.start(nursery)
    proxy.mode = mode  # type: ignore[assignment]
    said = await failure(Way(proxy=proxy.url(scheme)), sim)
    assert said.startswith(f"proxy {scheme}://127.0.0.1:{proxy.port} ")
    if mode == "silent":
        assert "did not answer within" in said


async def test_a_proxy_that_is_not_there(sim: Simulator) -> None:
    port = free_port()
    said = await failure(Way(proxy=f"http://127.0.0.1:{port}"), sim)
    assert said.startswith(f"proxy http://127.0.0.1:{port} cannot be reached: ")
    assert said.endswith(f"127.0.0.1:{port} failed: Connection refused"), "the system's reason, not Trio's alone"


async def test_an_exchange_that_is_not_there() -> None:
    where = f"127.0.0.1:{free_port()}"
    with pytest.raises(Unreachable) as by_rest:
        async with open_http(f"http://{where}", None) as http:
            await http.ask(TIME)
    assert str(by_rest.value).endswith(f"{where} failed: Connection refused")
    with pytest.raises(ExceptionGroup) as by_socket:
        async with open_socket(f"ws://{where}/stream", None):
            pass
    [lost] = by_socket.value.exceptions
    assert str(lost) == f"cannot connect: all attempts to connect to {where} failed: Connection refused"


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_an_exchange_that_is_not_there_behind_a_proxy(nursery: trio.Nursery, scheme: str) -> None:
    """The proxy takes the call, and the connection ends: never an error of httpx's or the library's own."""
    proxy = await proxies.start(nursery)
    proxy.mode = "hangs up"
    with pytest.raises((NoWay, Unreachable)):
        async with open_http("http://exchange.invalid:1", None, Way(proxy=proxy.url(scheme))) as http:
            await http.ask(TIME)


async def test_a_kept_connection_that_the_other_end_closed_is_not_used_again(
    nursery: trio.Nursery, sim: Simulator
) -> None:
    proxy = await proxies.start(nursery)
    async with open_http(elsewhere(sim.rest_url), None, Way(proxy=proxy.url("http"))) as http:
        for _ in range(3):
            sim.faults.rest.append(RestFault(close=True, times=1))
            assert (await http.ask(TIME)).status == 200
            await trio.testing.wait_all_tasks_blocked(0.02)  # the end has arrived
        assert len(proxy.reached) == 3


async def test_calls_leave_from_the_source_address(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of 127/8 is this machine's on Linux."""
    dialled = []
    open_tcp_stream = trio.open_tcp_stream

    async def dial(host: str, port: int, **how: object) -> trio.SocketStream:
        stream = await open_tcp_stream(host, port, **how)  # type: ignore[arg-type]
        dialled.append(stream.socket.getsockname()[0])
        return stream

    monkeypatch.setattr(trio, "open_tcp_stream", dial)
    way = Way(source_address="127.0.0.9")
    async with open_http(sim.rest_url, None, way) as http:
        assert (await http.ask(TIME)).status == 200
    async with open_socket(sim.ws_url + "/stream", None, way) as connection:
        await connection.ping()
    assert dialled == ["127.0.0.9"] * 2


async def test_a_proxy_behind_tls_is_believed_by_the_own_certificates(
    nursery: trio.Nursery, sim: Simulator, tmp_path: Path
) -> None:
    """And so is the exchange behind it: TLS within TLS."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "corp.pem")
    [proxy, exchange] = [await proxies.start(nursery), await proxies.start(nursery)]
    exchange.fixed = "127.0.0.1", int(sim.rest_url.rpartition(":")[2])
    ports = []
    for fake in (proxy, exchange):
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(tls)
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        ports.append(listener.socket.getsockname()[1])
        nursery.start_soon(trio.serve_listeners, fake.serve, [trio.SSLListener(listener, tls)])
    way = Way(proxy=f"https://localhost:{ports[0]}", ca_file=str(tmp_path / "corp.pem"))
    context = ssl.create_default_context()
    async with open_http(f"https://localhost:{ports[1]}", context, way) as http:
        assert (await http.ask(TIME)).status == 200
    assert proxy.reached == [("localhost", ports[1])]
    with pytest.raises(NoWay, match="CERTIFICATE_VERIFY_FAILED"):
        async with open_http(f"https://localhost:{ports[1]}", None, Way(proxy=way.proxy)) as http:
            await http.ask(TIME)


def test_a_lost_file_of_certificates_is_said() -> None:
    context = ssl.create_default_context()
    with pytest.raises(NoWay, match=r"the certificates of /nowhere/corp\.pem cannot be used"):
        Way(ca_file="/nowhere/corp.pem").trust(context)


def test_a_masked_proxy() -> None:
    assert Way(proxy="socks5h://me:se@cret@host:1080").masked_proxy == "socks5h://***@host:1080"
    assert Way(proxy="http://host:3128").masked_proxy == "http://host:3128"
