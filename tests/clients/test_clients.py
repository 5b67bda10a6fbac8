"""The programs that the façade is for, from the package registry, against the daemon on its simulators.

Set up by the README's snippets as they stand there, but for the address. The packages are those of the extra `clients`;
without them the tests are skipped.
"""

import asyncio
import json
import re
import threading
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.clients.servers import demo

ROOT = Path(__file__).parents[2]
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "web/facade/README.md").read_text(), re.DOTALL)
SYMBOL = {"binance": "BTC/USDT:USDT", "bybit": "BTC/USDT:USDT", "hyperliquid": "BTC/USDC:USDC", "okx": "BTC/USDT:USDT"}
NAMES = tuple(SYMBOL)
CONNECTED_WITHIN = 30.0  # seconds


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    if not any(find_spec(package) for package in ("ccxt", "binance", "pybit", "hyperliquid")):
        pytest.skip("none of the extra `clients` is installed")
    with demo() as base:
        yield base


def snippet(number: int, url: str) -> dict[str, Any]:
    """What a snippet of the README defines, with the address of the demo."""
    defined: dict[str, Any] = {}
    address = url.removeprefix("http://")
    exec(SNIPPETS[number].replace("127.0.0.1:8000", address), defined)
    return defined


def fetch(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def with_ccxt(url: str, name: str, use: Callable[[Any, str], Awaitable[None]]) -> None:
    pytest.importorskip("ccxt")

    async def main() -> None:
        clients = {one: client for one, client in snippet(0, url).items() if one in NAMES}
        clients[name].enableRateLimit = False  # the simulators' own limits are enough
        try:
            await use(clients[name], SYMBOL[name])
        finally:
            for client in clients.values():
                await client.close()

    asyncio.run(asyncio.wait_for(main(), 120))


@pytest.mark.parametrize("name", NAMES)
def test_ccxt_over_rest(url: str, name: str) -> None:
    async def use(client: Any, symbol: str) -> None:
        markets = await client.load_markets()
        assert symbol in markets
        for interval in ("1m", "5m", "15m", "1h", "4h", "1d", "1w"):
            bars = await client.fetch_ohlcv(symbol, interval, limit=20)
            assert 1 < len(bars) <= 20
            assert [bar[0] for bar in bars] == sorted(bar[0] for bar in bars)
        since = bars[0][0]
        old = await client.fetch_ohlcv(symbol, "1d", since=since, limit=10)
        assert old[0][0] >= since
        assert len(await client.fetch_funding_rate_history(symbol, limit=20)) == 20
        rates = await client.fetch_funding_rates([symbol])
        assert isinstance(rates[symbol]["fundingRate"], float)
        assert (await client.fetch_open_interest(symbol))["openInterestAmount"] > 0
        book = await client.fetch_order_book(symbol, limit=20)
        assert book["bids"][0][0] < book["asks"][0][0]
        assert (await client.fetch_ticker(symbol))["last"] > 0
        if name != "hyperliquid":  # ccxt reads the trades of an account there
            assert len(await client.fetch_trades(symbol, limit=20)) == 20
            assert symbol in await client.fetch_tickers([symbol])

    with_ccxt(url, name, use)


@pytest.mark.parametrize("name", NAMES)
def test_ccxt_over_sockets(url: str, name: str) -> None:
    async def use(client: Any, symbol: str) -> None:
        await client.load_markets()
        assert (await client.watch_trades(symbol))[-1]["symbol"] == symbol
        assert (await client.watch_ohlcv(symbol, "1m"))[-1][4] > 0
        assert (await client.watch_ticker(symbol))["symbol"] == symbol
        for _ in range(3):
            book = await client.watch_order_book(symbol)
            assert book["bids"][0][0] < book["asks"][0][0]

    with_ccxt(url, name, use)


WORDS = "public market data only"
SECRET = "SECRETsecret"


@pytest.mark.parametrize("name", NAMES)
def test_ccxt_tells_its_user_that_private_calls_do_not_pass(url: str, name: str) -> None:
    async def use(client: Any, symbol: str) -> None:
        import ccxt

        base = f"{url}/as/{name}"
        client.apiKey, client.secret, client.password = "key", SECRET, "PHRASEphrase"
        client.walletAddress = "0x" + "1" * 40
        entry = {"binance": "fapiPrivateV2", "okx": "rest"}.get(name, "private")
        client.urls["api"][entry] = base + {"binance": "/fapi/v2"}.get(name, "")
        call, arguments = {
            "binance": ("fapiPrivateV2GetAccount", {}),
            "bybit": ("privateGetV5PositionList", {"category": "linear"}),
            "hyperliquid": ("privatePostExchange", {"action": {}, "nonce": 1, "signature": {"r": SECRET}}),
            "okx": ("privateGetAccountBalance", {}),
        }[name]
        with pytest.raises(ccxt.AuthenticationError, match=WORDS):
            await getattr(client, call)(arguments)

    with_ccxt(url, name, use)


def test_python_binance_tells_its_user_that_private_calls_do_not_pass(url: str) -> None:
    binance = pytest.importorskip("binance")
    public = snippet(1, url)["Public"]
    client = public(api_key="key", api_secret=SECRET)
    with pytest.raises(binance.exceptions.BinanceAPIException, match=WORDS):
        client.futures_account()
    with pytest.raises(binance.exceptions.BinanceAPIException, match=WORDS):
        client.futures_create_order(symbol="BTCUSDT", side="BUY", type="MARKET", quantity=1)
    assert client.futures_ping() == {}, "its key goes with public calls, too, and does no harm"


def test_pybit_tells_its_user_that_private_calls_do_not_pass(url: str) -> None:
    exceptions = pytest.importorskip("pybit.exceptions")
    ut = snippet(2, url)["ut"]
    session = ut.HTTP(api_key="key", api_secret=SECRET)
    session.endpoint = f"{url}/as/bybit"
    with pytest.raises(exceptions.InvalidRequestError, match=WORDS):
        session.get_positions(category="linear", symbol="BTCUSDT")
    with pytest.raises(exceptions.InvalidRequestError, match=WORDS):
        session.place_order(category="linear", symbol="BTCUSDT", side="Buy", orderType="Market", qty="1")


def test_the_hyperliquid_sdk_tells_its_user_that_orders_do_not_pass(url: str) -> None:
    api, errors = pytest.importorskip("hyperliquid.api"), pytest.importorskip("hyperliquid.utils.error")
    with pytest.raises(errors.ClientError, match=WORDS):
        api.API(f"{url}/as/hyperliquid").post("/exchange", {"action": {}, "nonce": 1, "signature": {"r": SECRET}})


def test_python_binance(url: str) -> None:
    pytest.importorskip("binance")
    client = snippet(1, url)["client"]
    assert client.futures_ping() == {}
    assert client.futures_time()["serverTime"] > 0
    assert any(row["symbol"] == "BTCUSDT" for row in client.futures_exchange_info()["symbols"])
    rows = client.futures_klines(symbol="BTCUSDT", interval="1m", limit=5)
    assert (len(rows), len(rows[0])) == (5, 12)
    assert (
        rows[:3]
        == fetch(f"{url}/as/binance/fapi/v1/klines?symbol=BTCUSDT&interval=1m&limit=5&endTime={rows[4][0]}")[:3]
    )
    assert len(client.futures_funding_rate(symbol="BTCUSDT", limit=10)) == 10
    assert float(client.futures_open_interest(symbol="BTCUSDT")["openInterest"]) > 0
    assert client.futures_order_book(symbol="BTCUSDT", limit=5)["bids"]
    assert client.futures_symbol_ticker(symbol="BTCUSDT")["symbol"] == "BTCUSDT"
    assert client.futures_mark_price(symbol="BTCUSDT")["symbol"] == "BTCUSDT"


def test_pybit(url: str) -> None:
    pytest.importorskip("pybit")
    defined = snippet(2, url)
    session, ut = defined["session"], defined["ut"]
    about = {"category": "linear", "symbol": "BTCUSDT"}
    rows = session.get_kline(**about, interval="1", limit=5)["result"]["list"]
    assert (len(rows), len(rows[0])) == (5, 7)
    assert len(session.get_funding_rate_history(**about, limit=10)["result"]["list"]) == 10
    assert session.get_tickers(**about)["result"]["list"][0]["symbol"] == "BTCUSDT"
    assert session.get_instruments_info(category="linear")["result"]["list"]
    assert session.get_orderbook(**about)["result"]["b"]
    assert session.get_public_trade_history(**about)["result"]["list"]
    heard = Heard()
    socket = ut.WebSocket(channel_type="linear", testnet=False)
    try:
        socket.trade_stream(symbol="BTCUSDT", callback=heard.take)
        socket.kline_stream(interval=1, symbol="BTCUSDT", callback=heard.take)
        socket.ticker_stream(symbol="BTCUSDT", callback=heard.take)
        socket.orderbook_stream(depth=50, symbol="BTCUSDT", callback=heard.take)
        topics = {"publicTrade.BTCUSDT", "kline.1.BTCUSDT", "tickers.BTCUSDT", "orderbook.50.BTCUSDT"}
        heard.until(lambda told: {message["topic"] for message in told} == topics)
    finally:
        socket.exit()


def test_the_hyperliquid_sdk(url: str) -> None:
    pytest.importorskip("hyperliquid")
    info = snippet(3, url)["info"]
    try:
        assert "BTC" in info.all_mids()
        assert any(asset["name"] == "BTC" for asset in info.meta()["universe"])
        now = fetch_time(url)
        bars = info.candles_snapshot("BTC", "1m", now - 3_600_000, now)
        assert 50 < len(bars) <= 61
        assert len(info.funding_history("BTC", now - 86_400_000)) >= 23
        assert info.l2_snapshot("BTC")["levels"][0]
        heard = Heard()
        for subscription in (
            {"type": "trades", "coin": "BTC"},
            {"type": "candle", "coin": "BTC", "interval": "1m"},
            {"type": "l2Book", "coin": "BTC"},
            {"type": "bbo", "coin": "BTC"},
            {"type": "allMids"},
            {"type": "userFills", "user": "0x" + "1" * 40},
        ):
            info.subscribe(subscription, heard.take)
        channels = {"trades", "candle", "l2Book", "bbo", "allMids", "userFills"}
        heard.until(lambda told: {message["channel"] for message in told} == channels)
    finally:
        info.disconnect_websocket()


class Heard:
    """What a library's own thread calls back with."""

    def __init__(self) -> None:
        self._told: list[Any] = []
        self._news = threading.Condition()

    def take(self, message: Any) -> None:
        with self._news:
            self._told.append(message)
            self._news.notify()

    def until(self, is_enough: Callable[[list[Any]], bool]) -> None:
        with self._news:
            assert self._news.wait_for(lambda: is_enough(self._told), CONNECTED_WITHIN), self._told


def fetch_time(url: str) -> int:
    time: int = fetch(f"{url}/as/binance/fapi/v1/time")["serverTime"]
    return time
