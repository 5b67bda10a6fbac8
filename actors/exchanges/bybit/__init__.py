"""Bybit v5, linear: USDT and USDC perpetuals and dated futures."""

from actors.exchanges.bybit.dialect import DIALECT
from actors.exchanges.bybit.facade import FACADE
from actors.exchanges.bybit.normalise import NAME, THEIR_INTERVALS
from actors.exchanges.bybit.rest import PERIODS, BybitRest, explain, missed_trades
from actors.exchanges.bybit.session import BybitSession, stream_name
from actors.exchanges.exchange import Exchange, LineLimits
from actors.upstream.budget import Window

EXCHANGE = Exchange(
    name=NAME,
    full_name="Bybit linear perpetuals and futures",
    rest_url="https://api.bybit.com",
    ws_url="wss://stream.bybit.com/v5/public/linear",
    ws_path="",
    symbols=("BTCUSDT", "ETHUSDT", "SOLUSDT"),
    intervals=tuple(THEIR_INTERVALS),
    open_interest_periods=tuple(PERIODS),
    capabilities={
        "ohlc": True,
        "trades": True,
        "large_trades": True,
        "liquidations": True,  # all of them since 2025-02-20, as they happen; no history
        "funding_rate": True,
        "funding_rate_history": True,
        "open_interest": True,
        "open_interest_history": True,
        "predicted_funding": False,
    },
    pushed=frozenset({"ohlc", "trades", "liquidations", "funding", "oi"}),
    prompt=frozenset(),  # a ticker speaks when something of it changes: of a market that stands still, never
    contiguous_trade_ids=False,
    closes_bars=True,
    has_empty_bars=True,
    history=1500,
    limits=LineLimits(
        # The names of one connection may take 21,000 characters. A symbol of 20 characters takes 520 with all its
        # intervals, and 160 topics are 40 symbols at most: four topics each, and intervals are added on demand.
        topics=160,
        topics_per_frame=10,  # no documented limit; but one bad topic costs its frame a round trip
        frames_per_second=10.0,  # none documented; 18 at once were all acknowledged
        connect_spacing=1.0,  # documented: 500 in 5 minutes
    ),
    budget={"weight": Window(600, 5.0)},
    used_header=None,
    explain=explain,
    new_session=BybitSession,
    open_rest=BybitRest,
    missed_trades=missed_trades,
    subscription_of=stream_name,
    heartbeat='{"op":"ping"}',  # every 20 s, as documented
    facade=FACADE,
    dialect=DIALECT,
)
