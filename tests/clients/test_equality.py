"""What each client reads through the façade is what it reads from the exchange, text for text, while the market stands
still.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.actors.exchanges.fixtures import simulator_of
from tests.clients.servers import running
from tests.clients.test_clients import NAMES, SNIPPETS, SYMBOL
from tests.web.facade.fixtures import Venue

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
ADDRESS = "0x" + "1" * 40

Call = tuple[str, dict[str, Any]]
Calls = tuple[Call, ...]


@contextmanager
def both(name: str, number: int) -> Iterator[tuple[Venue, dict[str, Any], dict[str, Any]]]:
    """What a snippet of the README defines, with the façade's address and with the exchange's own."""
    patient: dict[str, Any] = {}
    if name == "hyperliquid":  # its clock stands still, and with it the minute in which it counts
        simulator = simulator_of(name)
        patient["options"] = simulator.Options(limits=simulator.Limits(weight=100_000))
    with running(name, rate=0.0, share=0.95, **patient) as world:
        defined: list[dict[str, Any]] = [{}, {}]
        for place, base in zip(defined, (world.url, world.sim.rest_url), strict=True):
            exec(SNIPPETS[number].replace(f"http://127.0.0.1:8000/as/{name}", base), place)
        yield world, defined[0], defined[1]


def compare(ours: Any, theirs: Any, calls: Calls, part: Callable[[Any], Any] = lambda answer: answer) -> None:
    for method, arguments in calls:
        expected = part(getattr(theirs, method)(**arguments))
        assert part(getattr(ours, method)(**arguments)) == expected, (method, arguments)
        assert expected is not None


def test_python_binance() -> None:
    pytest.importorskip("binance")
    with both("binance", 1) as (world, ours, theirs):
        now, one, pair = world.sim.market.now, {"symbol": "BTCUSDT"}, {"pair": "BTCUSDT"}
        bars = {"interval": "1h", "limit": 30}
        history = {**one, "period": "5m", "limit": 20}
        calls: Calls = (
            ("futures_ping", {}),
            ("futures_exchange_info", {}),
            ("futures_order_book", {**one, "limit": 10}),
            ("futures_order_book", {**one, "limit": 500}),
            ("futures_recent_trades", {**one, "limit": 20}),
            ("futures_aggregate_trades", {**one, "limit": 20}),
            ("futures_klines", {**one, "interval": "1m"}),
            ("futures_klines", {**one, "interval": "4h", "limit": 1000}),
            ("futures_klines", {**one, "interval": "1m", "startTime": now - DAY + 123, "limit": 40}),
            ("futures_historical_klines", {**one, "interval": "1h", "start_str": now - 3 * DAY, "end_str": now - DAY}),
            ("futures_continuous_klines", {**pair, **bars, "contractType": "PERPETUAL"}),
            ("futures_mark_price_klines", {**one, **bars}),
            ("futures_index_price_klines", {**pair, **bars}),
            ("futures_premium_index_klines", {**one, **bars}),
            ("futures_mark_price", {}),
            ("futures_mark_price", one),
            ("futures_funding_rate", {**one, "limit": 50}),
            ("futures_funding_rate", {**one, "startTime": now - 30 * DAY, "endTime": now - 10 * DAY}),
            ("futures_ticker", {}),
            ("futures_ticker", one),
            ("futures_symbol_ticker", {}),
            ("futures_symbol_ticker", one),
            ("futures_orderbook_ticker", {}),
            ("futures_orderbook_ticker", one),
            ("futures_open_interest", one),
            ("futures_open_interest_hist", history),
            ("futures_top_longshort_account_ratio", history),
            ("futures_top_longshort_position_ratio", history),
            ("futures_global_longshort_ratio", history),
            ("futures_taker_longshort_ratio", history),
            ("futures_basis", {**pair, "contractType": "PERPETUAL", "period": "5m", "limit": 20}),
        )
        compare(ours["client"], theirs["client"], calls)
        assert abs(ours["client"].futures_time()["serverTime"] - now) < 120_000


def test_pybit() -> None:
    pytest.importorskip("pybit")
    with both("bybit", 2) as (world, ours, theirs):
        now, one = world.sim.market.now, {"category": "linear", "symbol": "BTCUSDT"}
        bars = {**one, "interval": "60", "limit": 30}
        calls: Calls = (
            ("get_kline", {**one, "interval": "1"}),
            ("get_kline", {**one, "interval": "240", "limit": 1000}),
            ("get_kline", {**one, "interval": "1", "start": now - DAY + 123, "limit": 40}),
            ("get_kline", {**one, "interval": "1", "start": now - DAY, "end": now - DAY + 50 * MINUTE, "limit": 10}),
            ("get_mark_price_kline", bars),
            ("get_index_price_kline", bars),
            ("get_premium_index_price_kline", bars),
            ("get_instruments_info", {"category": "linear"}),
            ("get_instruments_info", {"category": "linear", "limit": 1}),
            ("get_orderbook", {**one, "limit": 50}),
            ("get_tickers", {"category": "linear"}),
            ("get_tickers", one),
            ("get_funding_rate_history", {**one, "limit": 50}),
            ("get_funding_rate_history", {**one, "startTime": now - 30 * DAY, "endTime": now - 10 * DAY}),
            ("get_public_trade_history", {**one, "limit": 50}),
            ("get_open_interest", {**one, "intervalTime": "5min", "limit": 20}),
            ("get_open_interest", {**one, "intervalTime": "1h", "startTime": now - DAY, "endTime": now - HOUR}),
            ("get_long_short_ratio", {**one, "period": "1h", "limit": 20}),
            ("get_long_short_ratio", {**one, "period": "5min", "startTime": now - DAY, "endTime": now - HOUR}),
            ("get_risk_limit", {"category": "linear"}),
            ("get_risk_limit", one),
        )
        compare(ours["session"], theirs["session"], calls, lambda answer: answer["result"])
        assert abs(int(ours["session"].get_server_time()["result"]["timeSecond"]) * 1000 - now) < 120_000


def test_the_hyperliquid_sdk() -> None:
    pytest.importorskip("hyperliquid")
    with both("hyperliquid", 3) as (world, ours, theirs):
        now = world.sim.market.now
        calls: Calls = (
            ("all_mids", {}),
            ("all_mids", {"dex": "xyz"}),
            ("meta", {}),
            ("meta_and_asset_ctxs", {}),
            ("perp_dexs", {}),
            ("spot_meta", {}),
            ("spot_meta_and_asset_ctxs", {}),
            ("l2_snapshot", {"name": "BTC"}),
            ("candles_snapshot", {"name": "BTC", "interval": "1m", "startTime": now - 12 * HOUR, "endTime": now}),
            ("candles_snapshot", {"name": "BTC", "interval": "1h", "startTime": now - 9 * DAY, "endTime": now - DAY}),
            ("candles_snapshot", {"name": "ETH", "interval": "1d", "startTime": 0, "endTime": now}),
            ("funding_history", {"name": "BTC", "startTime": now - DAY}),
            ("funding_history", {"name": "BTC", "startTime": now - 60 * DAY, "endTime": now - 20 * DAY}),
            ("user_state", {"address": ADDRESS}),
            ("open_orders", {"address": ADDRESS}),
            ("user_fills", {"address": ADDRESS}),
        )
        try:
            compare(ours["info"], theirs["info"], calls)
            for kind in ("predictedFundings", "perpsAtOpenInterestCap", "exchangeStatus"):
                question = {"type": kind}
                assert ours["info"].post("/info", question) == theirs["info"].post("/info", question), kind
            book, trades = {"type": "perpDexLimits", "dex": "xyz"}, {"type": "recentTrades", "coin": "BTC"}
            for question in (book, trades):
                assert ours["info"].post("/info", question) == theirs["info"].post("/info", question)
        finally:
            for defined in (ours, theirs):
                defined["info"].disconnect_websocket()


@pytest.mark.parametrize("name", NAMES)
def test_ccxt(name: str) -> None:
    pytest.importorskip("ccxt")
    with both(name, 0) as (world, ours, theirs):
        now, symbol = world.sim.market.now, SYMBOL[name]

        async def main() -> None:
            try:
                for defined in (ours, theirs):
                    defined[name].enableRateLimit = False
                markets = [await defined[name].load_markets() for defined in (ours, theirs)]
                assert markets[0] == markets[1]
                for method, arguments in ccxt_calls(name, symbol, now):
                    expected = await getattr(theirs[name], method)(**arguments)
                    found = await getattr(ours[name], method)(**arguments)
                    assert found == expected, (method, arguments)
                    assert expected
            finally:
                for defined in (ours, theirs):
                    for one in NAMES:
                        await defined[one].close()

        asyncio.run(asyncio.wait_for(main(), 120))


def ccxt_calls(name: str, symbol: str, now: int) -> Calls:
    one = {"symbol": symbol}
    intervals = ("1m", "5m", "15m", "1h", "4h", "1d", "1w")
    calls: list[Call] = [("fetch_ohlcv", {**one, "timeframe": interval, "limit": 50}) for interval in intervals]
    calls += [
        ("fetch_ohlcv", {**one, "timeframe": "1m", "since": now - 5 * DAY // 2, "limit": 100}),
        ("fetch_ohlcv", {**one, "timeframe": "1m", "since": now - DAY, "params": {"until": now - DAY + HOUR}}),
        ("fetch_ohlcv", {**one, "timeframe": "1m", "limit": 1000}),
        ("fetch_ohlcv", {**one, "timeframe": "1d", "since": now - 300 * DAY, "limit": 20}),
        ("fetch_ohlcv", {**one, "timeframe": "12h", "limit": 20}),
        ("fetch_funding_rate_history", {**one, "since": now - 5 * DAY, "limit": 10}),
        ("fetch_funding_rates", {"symbols": [symbol]}),
        ("fetch_open_interest", one),
        ("fetch_order_book", {**one, "limit": 20}),
        ("fetch_ticker", one),
        ("fetch_tickers", {"symbols": [symbol]}),
    ]
    if name != "hyperliquid":  # it keeps no past open interest; of trades ccxt reads those of an account there
        calls += [
            ("fetch_open_interest_history", {**one, "timeframe": "1h", "limit": 20}),
            ("fetch_trades", {**one, "limit": 20}),
            ("fetch_mark_ohlcv", {**one, "timeframe": "1h", "limit": 20}),
        ]
    return tuple(calls)
