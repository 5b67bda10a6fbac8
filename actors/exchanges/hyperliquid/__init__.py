"""Hyperliquid perpetuals, those of the first dex and those of builders (HIP-3, `xyz:TSLA`)."""

from math import inf

from actors.exchanges.exchange import Exchange, LineLimits
from actors.exchanges.hyperliquid.dialect import DIALECT
from actors.exchanges.hyperliquid.facade import FACADE
from actors.exchanges.hyperliquid.rest import HyperliquidRest, aliases, explain, predicted_funding
from actors.exchanges.hyperliquid.session import NAME, HyperliquidSession, subscription_of
from actors.upstream.budget import Window

EXCHANGE = Exchange(
    name=NAME,
    full_name="Hyperliquid perpetuals",
    rest_url="https://api.hyperliquid.xyz",
    ws_url="wss://api.hyperliquid.xyz/ws",
    ws_path="",
    symbols=("BTC", "ETH", "SOL"),
    intervals=("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "8h", "12h", "1d", "3d", "1w", "1M"),
    open_interest_periods=(),
    capabilities={
        "ohlc": True,
        "trades": True,
        "large_trades": True,
        "liquidations": "partial",  # those that its liquidator vaults were a side of, and nobody else's
        "funding_rate": True,
        "funding_rate_history": True,
        "open_interest": True,
        "open_interest_history": False,
        "predicted_funding": True,
    },
    pushed=frozenset({"ohlc", "trades", "liquidations", "funding", "oi"}),
    prompt=frozenset({"funding", "oi"}),  # activeAssetCtx, about every second
    unstamped=frozenset({"ohlc", "liquidations", "funding", "oi"}),
    contiguous_trade_ids=False,
    closes_bars=False,
    has_empty_bars=False,  # nothing is pushed for such a minute, and none was seen in snapshots
    history=500,  # 29 of weight per interval; 1500 bars would cost 45, and a minute's budget is 1200
    limits=LineLimits(
        topics=420,  # 356 subscriptions on one connection were seen to work, and of five topics two ride on others
        topics_per_frame=1,  # an array is refused
        frames_per_second=8.0,  # documented 2000 a minute for all connections; four carry the 1000 subscriptions
        connect_spacing=2.5,  # documented 30 new connections a minute
        ping_every=inf,  # nowhere is it said that WebSocket pings are answered: silence and the heartbeat tell enough
        heartbeat_every=20.0,  # the exchange ends a connection on which it had nothing to say for 60 s
        subscriptions=1000,
    ),
    budget={"weight": Window(1200, 60.0)},
    used_header=None,
    explain=explain,
    new_session=HyperliquidSession,
    open_rest=HyperliquidRest,
    predicted_funding=predicted_funding,
    subscription_of=subscription_of,
    heartbeat='{"method":"ping"}',
    aliases=aliases,
    facade=FACADE,
    dialect=DIALECT,
)
