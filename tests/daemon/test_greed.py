"""One client that wants everything: it is refused in time, and what others have is not touched."""

from collections import Counter
from dataclasses import replace

import trio

from actors.simulation.assets import synthetic
from actors.upstream.budget import Window
from tests.daemon.fixtures import START, TWO, eventually, fast, world
from web.access.limits import Limits

DAY = 86_400_000  # milliseconds
SMALL = {"weight": Window(300, 60.0)}  # an eighth of Binance's own


async def test_history_that_one_client_asks_for_costs_nobody_a_trade() -> None:
    """It spends all that clients may spend; a cut meanwhile is repaired all the same."""
    exchange = fast()
    exchange = replace(exchange, budget={**exchange.budget, **SMALL})
    limits = Limits(exempt=(), request_burst=1000)
    async with (
        world(rate=1.0, exchange=exchange, limits=limits) as w,
        w.stream("/ws/binance/BTCUSDT/trades?status=1") as stream,
    ):
        answers: Counter[int] = Counter()

        async def ask(number: int) -> None:
            query = {"limit": 1500, "start_time": START - (number + 2) * DAY}
            answers[(await w.client.get("/binance/ohlc/BTCUSDT/1m", params=query)).status_code] += 1

        await eventually(lambda: stream.of("trade"))
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(ask, number)
            await eventually(lambda: answers[429] + answers[503], 30, "a refusal")
            began, w.sim.faults.ws_accept = w.now, "reset"
            w.sim.drop()
            await eventually(lambda: w.now > began + 2000, what="two seconds with some trades")
            w.sim.faults.ws_accept = "accept"
            await eventually(lambda: stream.of("gap"), what="what is said of the cut")
            told = len(stream.of("trade"))
            await eventually(lambda: len(stream.of("trade")) > told + 10, 30, "trades after it")
        assert [gap["repaired"] for gap in stream.of("gap")] == [True]
        ids = [trade["trade_id"] for trade in stream.of("trade")]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        assert answers[429] > answers[200] > 0, answers


async def test_one_client_cannot_have_every_symbol_collected() -> None:
    """One command with the topics of 60 symbols that nobody configured: it has as many as one client may."""
    limits = Limits(exempt=(), on_demand_symbols=8)
    async with world(market=TWO + synthetic(60), limits=limits) as w, w.stream("/ws") as stream:
        await w.until("/symbols", lambda found: len(found) == 62)
        topics = [f"binance:S{number:03}USDT:{kind}" for number in range(60) for kind in ("trades", "oi", "ohlc:1m")]
        await stream.say({"op": "subscribe", "topics": topics})
        await eventually(lambda: stream.of("ack"))
        assert len(stream.of("ack")[0]["topics"]) == 8 * 3
        assert {frame["limit"] for frame in stream.of("error")} == {"on_demand_symbols"}
        assert len(stream.of("error")) == 52 * 3
        feeds = {feed["symbol"] for feed in (await w.get("/health"))["feeds"]}
        assert len(feeds) == 1 + 8
        assert w.sim.connections_total == 1
