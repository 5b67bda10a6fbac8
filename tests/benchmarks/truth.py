"""What happened on the simulated market, as each exchange names it: what clients were told is compared with it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import trio

from actors.events import INTERVALS, from_ms, ms
from actors.exchanges.bybit.simulator.rows import trade_id
from actors.exchanges.exchange import Exchange
from actors.exchanges.hyperliquid.simulator.rows import Coin, trade_row
from actors.simulation.market import Market, Tape, Trade
from actors.simulation.server import Simulator
from actors.upstream.budget import Budget
from actors.upstream.rest import RestClient, open_http

LOOK = 0.5  # seconds between looks at the tape, which holds its last 20,000 trades

Json = dict[str, Any]


class Truth:
    """Trades by the exchange's id, and liquidations, by their times in ms.

    OKX calls a trade by its last fill. It tells missed ones fill by fill, and the last one is among them. Of
    liquidations Hyperliquid tells those by the vault; only Bybit's and its own are known one by one.
    """

    def __init__(self, exchange: str, tape: Tape) -> None:
        self._exchange, self._tape = exchange, tape
        self._coin = Coin(tape.asset.name, "", tape)
        self._following, self._forced = tape.next_id, len(tape.liquidations)
        self.trades: dict[Any, int] = {}
        self.liquidations: list[int] = []

    def _name(self, trade: Trade) -> Any:
        match self._exchange:
            case "bybit":
                return trade_id(self._tape, trade)
            case "hyperliquid":
                return trade_row(self._coin, trade)["tid"]
            case "okx":
                return trade.last
        return trade.id

    async def collect(self) -> None:
        while True:
            self.look()
            await trio.sleep(LOOK)

    def look(self) -> None:
        tape = self._tape
        count, self._following = tape.next_id - self._following, tape.next_id
        for trade in tape.trades[-count:] if count else ():
            self.trades[self._name(trade)] = trade.time
        for order in tape.liquidations[self._forced :]:
            if self._exchange != "hyperliquid" or order.end - order.first == 1:
                self.liquidations.append(order.time)
        self._forced = len(tape.liquidations)


def time_of(event: Json, key: str = "timestamp") -> int:
    return ms(datetime.fromisoformat(event[key]).astimezone(UTC))


def is_covered(at: int, gaps: list[Json]) -> bool:
    return any(not gap["repaired"] and time_of(gap, "from") <= at <= time_of(gap, "to") for gap in gaps)


async def bars_of(
    exchange: Exchange, sim: Simulator, symbol: str, market: Market, intervals: Sequence[str]
) -> dict[str, list[Json]]:
    """The exchange's own closed bars since the market began, as the API tells them."""
    found = {}
    async with open_http(sim.rest_url) as http:
        client = RestClient(http, Budget(exchange.budget), exchange.explain, caller="background", used_header=None)
        rest = exchange.open_rest(client, lambda: from_ms(market.now))
        for bar in intervals:
            start = from_ms(market.genesis) - 2 * INTERVALS[bar]
            count = (from_ms(market.now) - start) // INTERVALS[bar] + 1
            rows = await rest.ohlc(symbol, bar, limit=count, start=start)
            found[bar] = [msgspec.to_builtins(row) for row in rows if row.is_closed]
    return found
