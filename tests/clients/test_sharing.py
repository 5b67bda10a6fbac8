"""Five programs cost the exchange what one costs, and a program that is refused does what its library says.

The daemon and the simulator run in a thread of this process, so that what the exchange was asked can be counted.
"""

import asyncio
import threading
from collections import Counter
from typing import Any

import pytest

from actors.simulation.server import Reply, RestFault
from tests.clients.servers import asked_of, running
from tests.clients.test_clients import NAMES, SYMBOL, snippet

pytestmark = pytest.mark.timeout(180)


async def use(client: Any, symbol: str, name: str) -> None:
    await client.load_markets()
    await client.fetch_ohlcv(symbol, "1h", limit=50)
    await client.fetch_funding_rate_history(symbol, limit=20)
    await client.watch_trades(symbol)
    await client.watch_ohlcv(symbol, "1m")
    await client.watch_order_book(symbol)


@pytest.mark.parametrize("name", NAMES)
def test_five_ccxt_clients_are_one_to_the_exchange(name: str) -> None:
    pytest.importorskip("ccxt")
    with running(name) as world:
        since, url = len(world.sim.requests), world.url.removesuffix(f"/as/{name}")

        async def main() -> None:
            made = [snippet(0, url) for _ in range(5)]
            for defined in made:
                defined[name].enableRateLimit = False
            try:
                await asyncio.gather(*(use(defined[name], SYMBOL[name], name) for defined in made))
            finally:
                for defined in made:
                    for one in NAMES:
                        await defined[one].close()

        asyncio.run(asyncio.wait_for(main(), 120))
        asked = asked_of(world, since)
        catalogue = {"/fapi/v1/exchangeInfo", "/v5/market/instruments-info", "/fapi/v1/depth"}
        again = {one: count for one, count in asked.items() if count > 1 and one[0] not in catalogue}
        # A book of more than a hundred levels is shared only while the question has not left.
        assert not again
        assert all(count <= 5 for count in asked.values())
        assert world.sim.connections_total <= 3
        names = Counter(stream for c in world.sim.connections for stream in c.streams)
        assert max(names.values()) == 1


def test_pybit_sleeps_until_it_may_ask_again() -> None:
    pytest.importorskip("pybit")
    with running("bybit") as world:
        session = snippet(2, world.url.removesuffix("/as/bybit"))["session"]
        limited = b'{"retCode":10006,"retMsg":"Too many visits!","result":{},"retExtInfo":{},"time":0}'
        fault = RestFault(path="/v5/market/orderbook", reply=Reply(200, limited))
        world.sim.faults.rest.append(fault)
        timer = threading.Timer(0.5, lambda: world.sim.faults.rest.remove(fault))
        timer.start()
        book = session.get_orderbook(category="linear", symbol="BTCUSDT")
        assert book["retCode"] == 0
        timer.join()


def test_python_binances_sockets() -> None:
    binance = pytest.importorskip("binance")
    with running("binance") as world:

        async def main() -> None:
            manager = binance.BinanceSocketManager(binance.AsyncClient())
            manager.FSTREAM_URL = world.url.replace("http", "ws", 1) + "/"
            heard = set()
            for socket in (
                manager.kline_futures_socket("BTCUSDT", interval="1m"),
                manager.aggtrade_futures_socket("BTCUSDT"),
                manager.symbol_mark_price_socket("BTCUSDT"),
            ):
                async with socket as stream:
                    told = await asyncio.wait_for(stream.recv(), 30)
                    heard.add(told.get("data", told)["e"])
            assert heard == {"continuous_kline", "aggTrade", "markPriceUpdate"}

        asyncio.run(asyncio.wait_for(main(), 120))
        assert len(world.sim.connections) == 1
