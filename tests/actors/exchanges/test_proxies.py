"""Exchanges that can be reached through a proxy alone: everything goes through it, and its failure is said as such."""

import pytest
import trio

from actors.exchanges.exchange import load_exchanges
from actors.upstream import way
from tests.actors.exchanges.fixtures import quick, venues
from tests.actors.upstream import proxies
from tests.daemon.fixtures import eventually

EXCHANGES = [quick(exchange) for exchange in load_exchanges().values()]


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
async def test_all_feeds_are_live_and_nothing_goes_past_the_proxy(nursery: trio.Nursery, scheme: str) -> None:
    proxy = await proxies.start(nursery, "user:secret")
    async with venues(EXCHANGES, proxy=proxy.url(scheme)) as w:
        for exchange in EXCHANGES:
            answer = await w.client.get(f"/{exchange.name}/ohlc/{exchange.symbols[0]}/1d?limit=3")
            assert len(answer.json()) == 3
        # The names are made up: whatever reached an exchange came through the proxy, REST and WebSocket alike.
        assert {host for host, _ in proxy.reached} == {f"{exchange.name}.invalid" for exchange in EXCHANGES}
        ports = {port for _, port in proxy.reached}
        assert len(ports) == 2 * len(EXCHANGES)
        assert sum(w.attempts().values()) <= len(proxy.reached)
        health = (await w.client.get("/health")).text
    assert "secret" not in health + str(w.logs)


async def test_a_proxy_that_fails_is_said_by_health_and_log(nursery: trio.Nursery) -> None:
    proxy = await proxies.start(nursery, "user:right")
    url = f"http://user:wrong@127.0.0.1:{proxy.port}"
    reason = f"proxy http://***@127.0.0.1:{proxy.port} refused: 407"
    async with venues(EXCHANGES, proxy=url, served={}) as w:
        health = await w.health(lambda health: all(feed["state"] == "down" for feed in health["feeds"]))
        assert all(reason in feed["reason"] for feed in health["feeds"])
        answer = await w.client.get("/binance/ohlc/BTCUSDT/1m")
        assert answer.status_code in (502, 503)
        assert reason in answer.json()["detail"]
        assert "wrong" not in str(w.logs) + answer.text + str(health)
        assert sum(w.attempts().values()) + sum(len(sim.requests) for sim in w.sims.values()) == 0


async def test_a_proxy_that_is_silent_is_down_within_12_s(nursery: trio.Nursery) -> None:
    """By the limits as they are; what is awaited is one dial."""
    assert way.PROXY_WITHIN < 10
    proxy = await proxies.start(nursery)
    proxy.mode = "silent"
    async with venues(EXCHANGES, proxy=proxy.url("socks5h"), served={}) as w:
        began = trio.current_time()
        await w.health(lambda health: all(feed["state"] == "down" for feed in health["feeds"]), 30)
        assert trio.current_time() - began < 2 * way.PROXY_WITHIN, "one dial, not several"
        await eventually(lambda: proxy.clients >= len(EXCHANGES))
