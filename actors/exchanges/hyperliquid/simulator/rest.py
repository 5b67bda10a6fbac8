"""The REST half of the simulated Hyperliquid: one endpoint that answers questions, refusals included.

Law: no I/O; a request in, a reply out, all of it from the market as it stands. Weights and bounds are the documented
ones; where the documents are silent the strictest plausible behaviour was chosen.
"""

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from actors.decoding import UNREADABLE
from actors.exchanges.hyperliquid.simulator.rows import (
    BUILDERS,
    Coin,
    candle,
    context,
    dex_row,
    funding_rows,
    l2_book,
    last_day,
    listing,
    meta,
    predictions,
    trade_row,
)
from actors.simulation.history import INTERVALS, MINUTE, floor_open, shift_open
from actors.simulation.market import Market
from actors.simulation.server import Reply, Request

_encode = msgspec.json.encode
_FAR = 4_133_404_800_000  # no calendar overflow, whatever the client sends
NULL = Reply(500, b"null")  # what a name that does not exist gets

Body = dict[str, Any]


class _Untyped(Exception):
    """A missing or ill-typed parameter."""


@dataclass(slots=True)
class Limits:
    """What one IP may ask, and has asked. Time is market time; the weight is known after the answer."""

    weight: int = 1200  # in any minute
    _spent: deque[tuple[int, int]] = field(default_factory=deque)

    def used(self, now: int) -> int:
        while self._spent and self._spent[0][0] <= now - MINUTE:
            self._spent.popleft()
        return sum(weight for _, weight in self._spent)

    def spend(self, now: int, weight: int) -> None:
        self._spent.append((now, weight))


def text(status: int, message: str) -> Reply:
    return Reply(status, message.encode(), content_type="text/plain; charset=utf-8")


def too_many_requests() -> Reply:
    """The status is known from others, the body from nobody; there is no Retry-After."""
    return text(429, "Too Many Requests")


class Rest:
    """Answers requests."""

    def __init__(self, market: Market, limits: Limits, *, empty_candles: bool = False) -> None:
        self._market = market
        self._limits = limits
        self._empty_candles = empty_candles
        self._coins = listing(market)
        self._dexes = ["", *BUILDERS]
        self._questions: dict[str, Callable[[Body], tuple[object, int]]] = {
            "exchangeStatus": lambda _: ({"specialStatuses": None, "time": market.now}, 2),
            "meta": lambda body: (self._meta(_dex(body)), 20),
            "allPerpMetas": lambda _: ([self._meta(dex) for dex in self._dexes], 20),
            "perpDexs": lambda _: ([None, *map(dex_row, BUILDERS)], 20),
            "metaAndAssetCtxs": lambda body: (self._contexts(_dex(body)), 20),
            "candleSnapshot": self._candles,
            "fundingHistory": self._funding_history,
            "predictedFundings": lambda _: (self._predictions(), 20),
            "recentTrades": self._recent_trades,
            "spotMeta": lambda _: (SPOT, 20),
            "spotMetaAndAssetCtxs": lambda _: ([SPOT, []], 20),
            "allMids": lambda body: (self._mids(_dex(body)), 2),
            "l2Book": lambda body: (self._book(body), 2),
            "perpsAtOpenInterestCap": lambda body: (
                [coin.name for coin in self._of(_dex(body)) if coin.is_delisted],
                20,
            ),
            "perpDexLimits": lambda body: (self._limits_of(_dex(body)), 20),
            "clearinghouseState": lambda body: (_nothing_held(_user(body), market.now), 2),
            "openOrders": lambda body: (_none(_user(body)), 20),
            "userFills": lambda body: (_none(_user(body)), 20),
        }

    def answer(self, request: Request) -> Reply:
        self._market.advance()
        now = self._market.now
        if request.path != "/info":
            return text(404, "")
        if request.method != "POST":
            return text(405, "")
        if self._limits.used(now) >= self._limits.weight:
            return too_many_requests()
        weight = 20
        try:
            body = msgspec.json.decode(request.body)
            question = self._questions.get(_text(body, "type") if isinstance(body, dict) else "")
            if question is None:
                raise _Untyped
            said, weight = question(body)
            reply = Reply(body=_encode(said))
        except UNREADABLE:
            reply = text(400, "Failed to parse the request body as JSON")
        except _Untyped:
            reply = text(422, "Failed to deserialize the JSON body into the target type")
        except KeyError:
            reply = Reply(NULL.status, NULL.body)
        reply.weight = weight
        self._limits.spend(now, weight)
        return reply

    def _of(self, dex: str) -> list[Coin]:
        if dex not in self._dexes:
            raise KeyError(dex)
        return [coin for coin in self._coins.values() if coin.dex == dex]

    def _meta(self, dex: str) -> object:
        return meta(self._of(dex), dex)

    def _contexts(self, dex: str) -> object:
        now = self._market.now
        return [self._meta(dex), [context(coin, now, last_day(coin.tape, now)) for coin in self._of(dex)]]

    def _candles(self, body: Body) -> tuple[object, int]:
        """Both bounds count with the bars that contain them; only the newest 5000 bars are kept."""
        request = body.get("req")
        if not isinstance(request, dict):
            raise _Untyped
        interval, start = _text(request, "interval"), _time(request, "startTime")
        end = _time(request, "endTime") if request.get("endTime") is not None else _FAR
        if interval not in INTERVALS or interval == "6h":
            raise _Untyped
        coin, now = self._coins[_text(request, "coin")], self._market.now
        kept = shift_open(interval, floor_open(interval, now), -4999)
        first = max(floor_open(interval, start), kept)
        bars = coin.tape.bars(interval, now, start=first, end=end, limit=5000)
        rows = [candle(coin, interval, bar) for bar in bars if bar.trades or self._empty_candles]
        return rows, 20 + len(rows) // 60

    def _funding_history(self, body: Body) -> tuple[object, int]:
        start = _time(body, "startTime")
        end = _time(body, "endTime") if body.get("endTime") is not None else _FAR
        coin = self._coins[_text(body, "coin")]
        rows = funding_rows(coin, self._market.now, start, end, 500)
        return rows, 20 + len(rows) // 20

    def _predictions(self) -> object:
        now = self._market.now
        return [predictions(coin, now) for coin in self._of("") if not coin.is_delisted]

    def _recent_trades(self, body: Body) -> tuple[object, int]:
        coin = self._coins[_text(body, "coin")]
        return [trade_row(coin, trade) for trade in reversed(coin.tape.trades[-10:])], 20

    def _limits_of(self, dex: str) -> object:
        """The first dex has none."""
        coins = [[coin.name, "100000000.0"] for coin in self._of(dex)]
        limits = {"totalOiCap": "500000000.0", "oiSzCapPerPerp": "10000000000.0", "maxTransferNtl": "100000000.0"}
        return {**limits, "coinToOiCap": coins} if dex else None

    def _mids(self, dex: str) -> object:
        now = self._market.now
        return {coin.name: coin.mark(now) for coin in self._of(dex) if not coin.is_delisted}

    def _book(self, body: Body) -> object:
        """`null` for a name that does not exist; a delisted one has two empty sides."""
        coin = self._coins.get(_text(body, "coin"))
        return None if coin is None else l2_book(coin, self._market.now)


SPOT = {
    "universe": [],
    "tokens": [{"name": "USDC", "szDecimals": 8, "weiDecimals": 8, "index": 0, "isCanonical": True}],
}


def _none(user: str) -> list[object]:
    """Of a user who never traded."""
    return []


def _nothing_held(user: str, now: int) -> object:
    summary = dict.fromkeys(("accountValue", "totalNtlPos", "totalRawUsd", "totalMarginUsed"), "0.0")
    summaries = {"marginSummary": summary, "crossMarginSummary": summary, "crossMaintenanceMarginUsed": "0.0"}
    return {**summaries, "withdrawable": "0.0", "assetPositions": [], "time": now}


def _user(body: Body) -> str:
    return address(_text(body, "user"))


def address(text: str) -> str:
    """An account's. Raises _Untyped for what is none."""
    if not re.fullmatch(r"0x[0-9a-fA-F]{40}", text):
        raise _Untyped
    return text.lower()


def _text(body: Body, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise _Untyped
    return value


def _time(body: Body, name: str) -> int:
    value = body.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**64:
        raise _Untyped
    return min(value, _FAR)


def _dex(body: Body) -> str:
    return _text(body, "dex") if body.get("dex") is not None else ""
