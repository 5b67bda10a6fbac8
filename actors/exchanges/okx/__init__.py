"""OKX v5: swaps that are settled in USDT or USDC."""

from actors.exchanges.exchange import Exchange, LineLimits
from actors.exchanges.okx.dialect import DIALECT
from actors.exchanges.okx.facade import FACADE
from actors.exchanges.okx.limits import BUDGET
from actors.exchanges.okx.missed import missed_liquidations, missed_trades
from actors.exchanges.okx.normalise import NAME, THEIR_INTERVALS
from actors.exchanges.okx.rest import PERIODS, OkxRest, explain, notices
from actors.exchanges.okx.session import OkxSession, args_of

EXCHANGE = Exchange(
    name=NAME,
    full_name="OKX perpetual swaps",
    rest_url="https://www.okx.com",
    ws_url="wss://ws.okx.com:8443/ws/v5",
    ws_path="/public",
    ws_paths={"ohlc": "/business"},  # on the other one candles are refused
    symbols=("BTC-USDT-SWAP", "ETH-USDT-SWAP", "SOL-USDT-SWAP"),
    intervals=tuple(THEIR_INTERVALS),
    open_interest_periods=tuple(PERIODS),
    capabilities={
        "ohlc": True,
        "trades": True,
        "large_trades": True,
        "liquidations": "partial",  # "doesn't represent the total number", OKX says of them
        "funding_rate": True,
        "funding_rate_history": True,
        "open_interest": True,
        "open_interest_history": True,
        "predicted_funding": False,
    },
    pushed=frozenset({"ohlc", "trades", "liquidations", "funding", "oi"}),
    prompt=frozenset({"oi"}),  # every three seconds
    contiguous_trade_ids=False,  # a trade's id is its last fill's
    closes_bars=True,
    says_closed=True,
    has_empty_bars=True,
    history=1440,
    limits=LineLimits(
        topics=240,  # the documents advise few channels on a connection, for books
        topics_per_frame=60,  # a frame may have 64 KB of arguments; 480 frames an hour
        frames_per_second=3.0,
        connect_spacing=0.5,  # documented: three a second
        heartbeat_every=20.0,  # 30 s without any push end a connection
    ),
    budget=BUDGET,
    used_header=None,
    explain=explain,
    new_session=OkxSession,
    open_rest=OkxRest,
    missed_trades=missed_trades,
    missed_liquidations=missed_liquidations,
    notices=notices,
    subscription_of=lambda topic: args_of(topic)[0],
    unstamped=frozenset({"ohlc", "liquidations"}),
    slow={"funding": 90.0},  # marks come often, and say nothing before the first rate, which comes every 30 to 90 s
    heartbeat="ping",
    facade=FACADE,
    dialect=DIALECT,
    aliases=lambda instrument: (instrument.symbol.replace("-SWAP", "").replace("-", "").upper(),),
)
