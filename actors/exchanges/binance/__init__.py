"""Binance USD-M futures."""

from datetime import timedelta

from actors.exchanges.binance.dialect import DIALECT
from actors.exchanges.binance.facade import FACADE
from actors.exchanges.binance.rest import BinanceRest, explain, missed_trades
from actors.exchanges.binance.session import NAME, BinanceSession
from actors.exchanges.exchange import Exchange, LineLimits
from actors.upstream.budget import Window

EXCHANGE = Exchange(
    name=NAME,
    full_name="Binance USD-M futures",
    rest_url="https://fapi.binance.com",
    # Only the market tier carries trades, bars, marks and forced orders: the old paths ack them and stay silent.
    ws_url="wss://fstream.binance.com/market",
    ws_path="/stream",
    symbols=("BTCUSDT", "ETHUSDT", "SOLUSDT"),
    intervals=(
        *("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h"),
        *("1d", "3d", "1w", "1M"),
    ),
    open_interest_periods=("5m", "15m", "30m", "1h", "2h", "4h", "6h", "12h", "1d"),
    capabilities={
        "ohlc": True,
        "trades": True,
        "large_trades": True,
        "liquidations": "partial",  # sampled: at most one per symbol and second, and no history
        "funding_rate": True,
        "funding_rate_history": True,
        "open_interest": True,
        "open_interest_history": True,
        "predicted_funding": False,
    },
    pushed=frozenset({"ohlc", "trades", "liquidations", "funding"}),
    prompt=frozenset({"funding"}),  # markPrice@1s
    contiguous_trade_ids=True,
    closes_bars=True,
    has_empty_bars=True,
    history=1500,
    limits=LineLimits(
        topics=200,  # documented 1024; the exchange's own SDK stops at 200
        topics_per_frame=50,
        frames_per_second=4.0,  # documented 10, pongs included
        connect_spacing=1.0,
        lifetime=23.5 * 3600,  # documented: cut after 24 hours
    ),
    budget={
        "weight": Window(2400, 60.0),
        "futures_data": Window(1000, 300.0),
        "funding": Window(500, 300.0),
    },
    open_interest_kept=timedelta(days=30) - timedelta(minutes=5),  # the latest month; a startTime before it is an error
    used_header=("X-MBX-USED-WEIGHT-1M", "weight"),
    explain=explain,
    new_session=BinanceSession,
    open_rest=BinanceRest,
    missed_trades=missed_trades,
    facade=FACADE,
    dialect=DIALECT,
)
