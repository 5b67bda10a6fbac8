"""An example of each answer, for the OpenAPI document. They are instances of the answer types, so they cannot drift."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from actors.archive.archive import ArchiveReport
from actors.archive.flows import LargeTradeBar, LiquidationBar
from actors.events import (
    FundingRate,
    Gap,
    Instrument,
    LargeTrade,
    Liquidation,
    Ohlc,
    OpenInterest,
    PredictedFunding,
    VenuePrediction,
)
from actors.feeds.health import FeedReport
from actors.feeds.quality import Lag, TopicReport
from actors.upstream.bucket import BucketReport
from actors.upstream.budget import BudgetReport
from web.problems import problem
from web.rest.multi import MultiFunding, MultiLargeTradeBars, MultiLiquidationBars, MultiOhlc, MultiOpenInterest
from web.rest.state import VERSION, ExchangesAnswer, ExchangeSummary, FeedQuality, Health, Live, Ready, Root


def _at(hour: int, minute: int, second: int = 0, millisecond: int = 0) -> datetime:
    return datetime(2026, 1, 15, hour, minute, second, millisecond * 1000, tzinfo=UTC)


_WHERE: Any = {"exchange": "binance", "symbol": "BTCUSDT"}
_OPEN_INTEREST = OpenInterest(
    **_WHERE, timestamp=_at(12, 0), open_interest=91843.217, open_interest_value=8863291022.54
)
_FUNDING = FundingRate(
    **_WHERE,
    timestamp=_at(12, 0, 3),
    funding_rate=0.0001,
    funding_time=_at(16, 0),
    funding_interval_hours=8.0,
    mark_price=96504.1,
)

_BAR = Ohlc(
    **_WHERE,
    timestamp=_at(11, 59),
    interval="1m",
    open=96480.0,
    high=96512.4,
    low=96471.3,
    close=96504.1,
    volume=41.382,
    quote_volume=3993128.07,
    trades_count=1284,
    is_closed=True,
)
_BUDGET = BudgetReport(
    buckets=[
        BucketReport(
            name="weight",
            used=184,
            limit=2400,
            by={"repair": 20, "client": 14, "background": 150},
            window_seconds=60.0,
        )
    ],
    waiting=0,
    closed_for=None,
    closed_reason=None,
)
_QUALITY = FeedQuality(
    "binance",
    "BTCUSDT",
    "live",
    -3.5,
    [
        TopicReport(
            topic="binance:BTCUSDT:trades",
            since=_at(8, 30, 2),
            events=148_211,
            covered=1.0,
            gaps_repaired=1,
            gaps_unrepaired=0,
            gaps=[
                Gap(
                    **_WHERE,
                    timestamp=_at(9, 14, 8),
                    start=_at(9, 14, 6),
                    end=_at(9, 14, 8),
                    reason="trades were not received",
                    repaired=True,
                )
            ],
            duplicates=4,
            last_event=_at(12, 0, 3, 412),
            last_event_age=0.21,
            lag=Lag(median_ms=48.2, p99_ms=131.9),
        )
    ],
)
_LIQUIDATED = LiquidationBar(
    **_WHERE, timestamp=_at(11, 0), interval="1h", count=14, long_value=1284511.9, short_value=90337.25
)
_FLOW = LargeTradeBar(**_WHERE, timestamp=_at(11, 0), interval="1h", count=93, buy_value=18022114.7, sell_value=23908.5)
_FAILED = {"bybit": problem("upstream_timeout", "/v5/market/kline: no answer within 10 s", exchange="bybit")}

EXAMPLES: dict[Any, object] = {
    Root: Root("marketd", VERSION, "healthy", "/docs", ["binance"]),
    Health: Health(
        "healthy",
        {"binance": True},
        [
            FeedReport(
                **_WHERE,
                state="live",
                since=_at(8, 30, 2),
                restarts=0,
                last_event=_at(12, 0, 3, 412),
                reason=None,
                next_retry=None,
            )
        ],
        {"binance": _BUDGET},
        ArchiveReport(state="ok", since=_at(8, 30), reason=None, written=51204, pending=12, dropped=0, lagged=0),
    ),
    Live: Live("live"),
    Ready: Ready("ready"),
    "/health/ready": Ready("not_ready", {"binance": "no feed is live yet"}),
    ExchangesAnswer: ExchangesAnswer(
        [
            ExchangeSummary(
                "binance",
                {"ohlc": True, "funding_rate": True, "open_interest": True, "liquidations": "partial"},
                ["BTCUSDT", "ETHUSDT"],
                ["1m", "5m", "1h", "1d"],
                _BUDGET,
            )
        ]
    ),
    FeedQuality: _QUALITY,
    list[FeedQuality]: [_QUALITY],
    list[Instrument]: [
        Instrument(
            **_WHERE,
            base="BTC",
            quote="USDT",
            settle="USDT",
            status="TRADING",
            tick_size=0.1,
            step_size=0.001,
            funding_interval_hours=8.0,
        )
    ],
    list[Ohlc]: [
        _BAR,
        Ohlc(
            **_WHERE,
            timestamp=_at(12, 0),
            interval="1m",
            open=96504.1,
            high=96505.0,
            low=96504.0,
            close=96504.9,
            volume=1.207,
            quote_volume=116481.03,
            trades_count=37,
            is_closed=False,
        ),
    ],
    OpenInterest: _OPEN_INTEREST,
    list[OpenInterest]: [_OPEN_INTEREST],
    FundingRate: _FUNDING,
    list[FundingRate]: [_FUNDING],
    list[Liquidation]: [
        Liquidation(
            **_WHERE,
            timestamp=_at(11, 58, 41, 90),
            side="sell",
            price=96477.5,
            quantity=2.25,
            value=217074.375,
        ),
        Liquidation(
            exchange="hyperliquid",
            symbol="BTC",
            timestamp=_at(11, 58, 41, 312),
            side="sell",
            price=96470.0,
            quantity=0.5,
            value=48235.0,
            method="backstop",
            partial=True,
        ),
    ],
    list[LargeTrade]: [
        LargeTrade(
            **_WHERE,
            timestamp=_at(11, 59, 12, 207),
            side="buy",
            price=96500.0,
            quantity=3.5,
            value=337750.0,
            is_buyer_maker=False,
            trade_id=2915483391,
        )
    ],
    list[LiquidationBar]: [_LIQUIDATED],
    list[LargeTradeBar]: [_FLOW],
    MultiLiquidationBars: MultiLiquidationBars(binance=[_LIQUIDATED], errors=_FAILED),
    MultiLargeTradeBars: MultiLargeTradeBars(binance=[_FLOW], errors=_FAILED),
    MultiOhlc: MultiOhlc(binance=[_BAR], errors=_FAILED),
    MultiOpenInterest: MultiOpenInterest(binance=_OPEN_INTEREST, errors=_FAILED),
    MultiFunding: MultiFunding(binance=_FUNDING, errors=_FAILED),
    list[PredictedFunding]: [
        PredictedFunding(
            coin="BTC",
            venues=[
                VenuePrediction(
                    venue="binance",
                    funding_rate=0.0001,
                    next_funding_time=_at(16, 0),
                    funding_interval_hours=8.0,
                )
            ],
        )
    ],
}
"""An answer by its type; by its path where a route has two."""

EXPORTS: dict[str, dict[str, str]] = {
    "csv": {
        "summary": "A header, then a line per row",
        "value": "exchange,symbol,timestamp,open_interest,open_interest_value\r\n"
        "binance,BTCUSDT,2026-01-15T12:00:00.000000Z,91843.217,8863291022.54\r\n",
    },
    "ndjson": {"summary": "An object per line", "value": msgspec.json.encode(_OPEN_INTEREST).decode() + "\n"},
    "parquet": {"summary": "Bytes; the columns are those of CSV, times in UTC", "value": "PAR1..."},
    "arrow": {"summary": "Bytes; the columns are those of CSV, times in UTC", "value": "ARROW1..."},
}
"""An example of each file format."""
