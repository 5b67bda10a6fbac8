"""What a lost connection did not bring and OKX tells afterwards: trades, and liquidations of the last day."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from actors.decoding import integer
from actors.errors import UpstreamError
from actors.events import Liquidation, Trade
from actors.exchanges.okx.normalise import liquidation, trade
from actors.exchanges.okx.rest import OkxRest, ascending
from actors.upstream.rest import RestClient

LIQUIDATIONS_KEPT = timedelta(days=1)


async def missed_trades(client: RestClient, symbol: str, last: Trade, first: Trade) -> list[Trade]:
    """Trades between two, and the two themselves where OKX still has them.

    The stream tells the fills of one order at one price as one trade with the last one's id, REST tells each: those
    that `last` and `first` are made of must not be told again.
    """
    rest = OkxRest(client, lambda: first.timestamp)
    size = repr(await rest.contract_size(symbol))
    rows = await rest.fills(symbol, int(last.trade_id), int(first.trade_id))
    rows = [row for row in rows if int(last.trade_id) <= integer(row.id) <= int(first.trade_id)]
    trades = [trade(row, symbol, size) for row in rows]
    if trades and trades[-1].trade_id == first.trade_id:
        between = trades[: -_parts_of(first, trades)]
        trades = [*between, first]
    return trades


def _parts_of(whole: Trade, fills: Sequence[Trade]) -> int:
    """How many of the last fills make up a trade."""
    left, parts = Decimal(repr(whole.quantity)), 0
    for fill in reversed(fills):
        if left <= 0 or (fill.timestamp, fill.side, fill.price) != (whole.timestamp, whole.side, whole.price):
            break
        left -= Decimal(repr(fill.quantity))
        parts += 1
    return max(1, parts)


async def missed_liquidations(client: RestClient, symbol: str, start: datetime, end: datetime) -> list[Liquidation]:
    """Those of `[start, end)`. The endpoint is in no document any more, and was seen to go back one day."""
    if end - start > LIQUIDATIONS_KEPT:
        raise UpstreamError("OKX tells liquidations of the last day alone")
    rest = OkxRest(client, lambda: end)
    size = repr(await rest.contract_size(symbol))
    found = [liquidation(row, symbol, size) for row in await rest.forced_orders(symbol, start, end)]
    return ascending([event for event in found if event is not None], start, end)
