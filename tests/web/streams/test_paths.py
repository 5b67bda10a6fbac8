"""Every WebSocket stream of one exchange, read from the running daemon: the exchange's frames, event by event."""

from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial

import pytest
import trio
import trio_websocket

from actors import connector
from actors.feeds import interest
from daemon import collecting
from tests.daemon.fixtures import MINUTE, START, Json, Stream, World, assets, eventually, iso, world
from tests.patience import WITHIN

THRESHOLD = 100_000


def of_kline(frame: Json) -> Json:
    bar = frame["k"]
    return {
        "type": "ohlc",
        "exchange": "binance",
        "symbol": frame["s"],
        "timestamp": iso(bar["t"]),
        "interval": bar["i"],
        **{name: float(bar[key]) for name, key in zip(("open", "high", "low", "close"), "ohlc", strict=True)},
        "volume": float(bar["v"]),
        "quote_volume": float(bar["q"]),
        "trades_count": bar["n"],
        "is_closed": bar["x"],
    }


def of_trade(frame: Json, kind: str = "trade") -> Json:
    price, quantity = float(frame["p"]), float(frame["q"])
    return {
        "type": kind,
        "exchange": "binance",
        "symbol": frame["s"],
        "timestamp": iso(frame["T"]),
        "side": "sell" if frame["m"] else "buy",
        "price": price,
        "quantity": quantity,
        "value": round(price * quantity, 6),
        "is_buyer_maker": frame["m"],
        "trade_id": frame["a"],
    }


def of_order(frame: Json) -> Json:
    order = frame["o"]
    price, quantity = float(order["ap"]), float(order["z"])
    return {
        "type": "liquidation",
        "exchange": "binance",
        "symbol": order["s"],
        "timestamp": iso(order["T"]),
        "side": order["S"].lower(),
        "price": price,
        "quantity": quantity,
        "value": round(price * quantity, 6),
    }


def of_mark(frame: Json) -> Json:
    return {
        "type": "funding_rate",
        "exchange": "binance",
        "symbol": frame["s"],
        "timestamp": iso(frame["E"]),
        "funding_rate": float(frame["r"]),
        "funding_time": iso(frame["T"]),
        "funding_interval_hours": 8,
        "mark_price": float(frame["p"]),
    }


def changes(events: list[Json]) -> list[Json]:
    """Funding events without those that say what the one before said."""
    kept: list[Json] = []
    for event in events:
        if not kept or (event["funding_rate"], event["funding_time"]) != (
            kept[-1]["funding_rate"],
            kept[-1]["funding_time"],
        ):
            kept.append(event)
    return kept


async def heard(stream: Stream, expected: list[Json]) -> None:
    """The stream carries exactly this: waits for as many events, and compares."""
    await eventually(lambda: len(stream.frames) >= len(expected), what=f"{len(expected)} events")
    assert stream.frames == expected


# --- what each stream says


async def test_every_stream_says_what_the_exchange_sent() -> None:
    async with world() as w, AsyncExitStack() as stack:
        await w.settled()
        (open_bar,) = await w.bars(limit=1)
        since = len(w.sim.sent)
        marks = [of_mark(frame) for frame in w.frames("btcusdt@markPrice@1s")]
        open_stream = {
            name: await stack.enter_async_context(w.stream(f"/ws/binance/BTCUSDT/{name}"))
            for name in ("ohlc", "ohlc?interval=5m", "trades", "large_trades", "liquidations", "funding", "oi")
        }
        # The bar and the rates of this moment come at once, before anything happens.
        assert (await open_stream["ohlc"].at_least(1))[0] == {"type": "ohlc"} | open_bar
        assert (await open_stream["funding"].at_least(1))[0] == marks[-1]
        (interest,) = await open_stream["oi"].at_least(1)
        assert interest == {"type": "open_interest"} | await w.get("/binance/oi/BTCUSDT")
        five = (await open_stream["ohlc?interval=5m"].at_least(1))[0]

        for _ in range(3):
            w.sim.market.liquidate("BTC", side="buy", price="84001.10", quantity="0.250")
            await w.pass_time(30_000, step=500)

        def sent(stream: str, read: Callable[[Json], Json]) -> list[Json]:
            return [read(frame) for frame in w.frames(stream, since)]

        await heard(open_stream["ohlc"], [{"type": "ohlc"} | open_bar, *sent("btcusdt@kline_1m", of_kline)])
        await heard(open_stream["ohlc?interval=5m"], [five, *sent("btcusdt@kline_5m", of_kline)])
        trades = sent("btcusdt@aggTrade", of_trade)
        await heard(open_stream["trades"], trades)
        large = [trade | {"type": "large_trade"} for trade in trades if trade["value"] >= THRESHOLD]
        await heard(open_stream["large_trades"], large)
        orders = sent("btcusdt@forceOrder", of_order)
        await heard(open_stream["liquidations"], orders)
        rates = changes([marks[-1], *sent("btcusdt@markPrice@1s", of_mark)])
        await heard(open_stream["funding"], rates)
        assert min(map(len, (trades, large, orders, rates))) >= 3
        assert open_stream["oi"].frames == [interest]


async def test_open_interest_is_told_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interest, "POLL_MIN", 0.05)
    monkeypatch.setattr(interest, "POLL_SHARE", 10)
    async with world() as w, w.stream("/ws/binance/BTCUSDT/oi") as stream:
        for count in range(1, 5):
            (latest,) = (await stream.at_least(count))[count - 1 :]
            row = await w.upstream("/fapi/v1/openInterest", symbol="BTCUSDT")
            assert latest == {
                "type": "open_interest",
                "exchange": "binance",
                "symbol": "BTCUSDT",
                "timestamp": iso(row["time"]),
                "open_interest": float(row["openInterest"]),
                "open_interest_value": None,
            }
            await calls(w, "/fapi/v1/openInterest", w.sim.count("/fapi/v1/openInterest") + 3)
            assert len(stream.frames) == count
            await w.pass_time(3000, step=500)


async def test_every_bar_is_closed_exactly_once_and_is_then_the_exchanges() -> None:
    """Six minutes of the market in a second or two, for two symbols and two intervals."""
    start = START + 2 * MINUTE
    async with world(symbols=["BTCUSDT", "ETHUSDT"], start=start) as w, AsyncExitStack() as stack:
        streams = {
            (symbol, interval): await stack.enter_async_context(
                w.stream(f"/ws/binance/{symbol}/ohlc?interval={interval}")
            )
            for symbol in ("BTCUSDT", "ETHUSDT")
            for interval in ("1m", "5m")
        }
        for stream in streams.values():
            await stream.at_least(1)
        await w.pass_time(6 * MINUTE, step=1000)
        for (symbol, interval), stream in streams.items():
            bars = await w.bars(symbol, interval, startTime=start - 3 * MINUTE, limit=10)
            opened = iso(start - start % (MINUTE * int(interval[0])))
            over = [{"type": "ohlc"} | bar for bar in bars if bar["is_closed"] and bar["timestamp"] >= opened]
            assert len(over) == (6 if interval == "1m" else 1)
            await closes(stream, over)
            times = [(frame["timestamp"], frame["is_closed"]) for frame in stream.frames]
            assert times == sorted(times), "an update of a bar came after its close"
        assert w.logged("feed.bars_repaired") == w.logged("feed.bars_lost") == []


async def calls(w: World, path: str, count: int) -> None:
    """Wait until the exchange has had so many requests."""
    await eventually(lambda: w.sim.count(path) >= count, what=f"{count} calls of {path}")


async def closes(stream: Stream, expected: list[Json]) -> None:
    """The stream closes exactly these bars."""
    await eventually(lambda: len(closed(stream)) >= len(expected), what=f"{len(expected)} closed bars")
    assert closed(stream) == expected


def closed(stream: Stream) -> list[Json]:
    return [frame for frame in stream.frames if frame["is_closed"]]


async def test_an_accelerated_clock_changes_nothing() -> None:
    """The market runs by itself, sixty times as fast as the real one; repairs, if any, must not show."""
    async with world(rate=60, market=assets("BTC")) as w, w.stream("/ws/binance/BTCUSDT/ohlc") as stream:
        await eventually(lambda: len(closed(stream)) >= 2)
        found = closed(stream)
        rows = await w.bars(startTime=START - MINUTE, limit=20)
        first = next(i for i, row in enumerate(rows) if row["timestamp"] == found[0]["timestamp"])
        assert found == [{"type": "ohlc"} | row for row in rows[first : first + len(found)]]


async def test_min_value_filters_what_is_heard() -> None:
    async with world() as w, AsyncExitStack() as stack:
        limits: list[float | None] = [None, 0, 150_000, 2e5, 1e9]
        streams: dict[tuple[str, float | None], Stream] = {}
        for name in ("large_trades", "liquidations"):
            for limit in limits:
                query = "" if limit is None else f"?min_value_usd={limit}"
                streams[name, limit] = await stack.enter_async_context(w.stream(f"/ws/binance/BTCUSDT/{name}{query}"))
        since = len(w.sim.sent)
        for quantity in ("1.190", "1.785", "1.786", "2.500"):
            w.sim.market.trade("BTC", side="buy", price="84000.10", quantity=quantity)
            w.sim.market.liquidate("BTC", side="sell", price="84000.10", quantity=quantity)
            await w.pass_time(5000, step=500)
        seen = {
            "large_trades": [of_trade(frame, "large_trade") for frame in w.frames("btcusdt@aggTrade", since)],
            "liquidations": [of_order(frame) for frame in w.frames("btcusdt@forceOrder", since)],
        }
        for (name, limit), stream in streams.items():
            floor = max(limit or 0, THRESHOLD if name == "large_trades" else 0)
            await heard(stream, [event for event in seen[name] if event["value"] >= floor])


# --- status and gaps


async def test_status_and_gap_frames_are_for_those_who_ask() -> None:
    async with (
        world() as w,
        w.stream("/ws/binance/BTCUSDT/trades") as plain,
        w.stream("/ws/binance/BTCUSDT/trades?status=1") as told,
        w.stream("/ws/binance/BTCUSDT/ohlc?status=true") as bars,
    ):
        since = len(w.sim.sent)

        def sent() -> list[Json]:
            return [of_trade(frame) for frame in w.frames("btcusdt@aggTrade", since)]

        await w.pass_time(2000)
        await heard(told, sent())
        before, known = told.frames[-1], len(sent())
        # The connection breaks, and three minutes pass before there is another one.
        w.sim.drop()
        w.sim.market.clock.advance(3 * MINUTE)
        w.sim.tick()
        await eventually(lambda: w.sim.connections_total == 2)
        await w.subscribed("btcusdt@aggTrade")
        await w.pass_time(2000)

        # Trades between the last one before and the first one after are fetched, and come first.
        first = sent()[known]
        fetched = []
        following = before["trade_id"] + 1
        while following < first["trade_id"]:  # page by page
            rows = await w.upstream("/fapi/v1/aggTrades", symbol="BTCUSDT", fromId=following, limit=1000)
            fetched += [of_trade(row | {"s": "BTCUSDT"}) for row in rows if row["a"] < first["trade_id"]]
            following = fetched[-1]["trade_id"] + 1
        assert len(fetched) > 1000
        everything = [*sent()[:known], *fetched, *sent()[known:]]
        await heard(plain, everything)
        await eventually(lambda: len(told.of("trade")) == len(everything))
        assert told.of("trade") == everything
        down, live = told.of("status")
        assert down.keys() == {"type", "topic", "exchange", "symbol", "timestamp", "state", "reason", "next_retry"}
        assert (down["topic"], down["state"]) == ("binance:BTCUSDT:trades", "down")
        assert down["reason"]
        assert down["next_retry"] is not None
        assert (live["state"], live["reason"], live["next_retry"]) == ("live", None, None)

        (gap,) = told.of("gap")
        assert told.frames.index(gap) == told.frames.index(fetched[0]) - 1
        assert (gap["topic"], gap["repaired"]) == ("binance:BTCUSDT:trades", True)
        assert (gap["from"], gap["to"]) == (before["timestamp"], first["timestamp"])

        # Bars that closed meanwhile are fetched, and come before anything newer.
        opened = START - START % MINUTE
        await eventually(lambda: bars.frames[-1].get("timestamp") == iso(opened + 3 * MINUTE))
        (gap,) = bars.of("gap")
        assert (gap["topic"], gap["repaired"]) == ("binance:BTCUSDT:ohlc:1m", True)
        assert (gap["from"], gap["to"]) == (iso(opened), iso(opened + 3 * MINUTE))
        over = [frame for frame in bars.of("ohlc") if frame["is_closed"]]
        assert over == [{"type": "ohlc"} | row for row in await w.bars(startTime=opened, limit=3)]
        times = [frame["timestamp"] for frame in bars.of("ohlc")]
        assert times == sorted(times)
        assert [frame["state"] for frame in bars.of("status")] == ["down", "live"]


# --- refusals


REFUSED = [
    ("/ws/nowhere/BTCUSDT/trades", "unknown_exchange", "nowhere"),
    ("/ws/binance/NOPE/trades", "unknown_symbol", "NOPE"),
    ("/ws/binance/OCEANUSDT/trades", "unknown_symbol", "OCEANUSDT"),
    ("/ws/binance/BTCUSDT/gossip", "not_found", "gossip"),
    ("/ws/binance/BTCUSDT", "not_found", "/ws/binance/BTCUSDT"),
    ("/ws/binance/BTCUSDT/trades/more", "not_found", "more"),
    ("/elsewhere", "not_found", "/elsewhere"),
    ("/", "not_found", "/"),
    ("/ws/binance/BTCUSDT/ohlc?interval=7m", "unknown_interval", "7m"),
    ("/ws/binance/BTCUSDT/ohlc?interval=", "unknown_interval", "''"),
    ("/ws/binance/BTCUSDT/ohlc?intervall=1m", "invalid_parameter", "intervall"),
    ("/ws/binance/BTCUSDT/trades?min_value_usd=1", "invalid_parameter", "min_value_usd"),
    ("/ws/binance/BTCUSDT/large_trades?min_value_usd=lots", "invalid_parameter", "min_value_usd"),
    ("/ws/binance/BTCUSDT/liquidations?min_value_usd=-1", "invalid_parameter", "min_value_usd"),
    ("/ws/binance/BTCUSDT/liquidations?min_value_usd=nan", "invalid_parameter", "min_value_usd"),
    ("/ws/binance/BTCUSDT/trades?status=maybe", "invalid_parameter", "status"),
    ("/ws/binance/%ff%fe/trades", "unknown_symbol", ""),
]


async def test_what_may_not_be_had_is_refused_in_one_frame() -> None:
    async with world(market=assets("BTC", "OCEAN")) as w:
        for path, code, named in REFUSED:
            frame, closing, reason = await w.refused(path)
            assert (frame["type"], frame["code"], closing) == ("error", code, 1008), (path, frame)
            assert {"title", "status", "detail"} <= frame.keys()
            assert named in frame["detail"]
            assert reason == code
            if code in ("unknown_symbol", "unknown_interval", "invalid_parameter"):
                assert frame["exchange"] == "binance"
            if code == "invalid_parameter":
                assert [error["parameter"] for error in frame["errors"]] == [named]


async def test_symbols_outside_the_configuration_are_refused_where_on_demand_is_off() -> None:
    async with world(on_demand=False) as w:
        frame, closing, _ = await w.refused("/ws/binance/ETHUSDT/trades")
        assert (frame["code"], closing) == ("unknown_symbol", 1008)
        async with w.stream("/ws/binance/btcusdt/ohlc") as stream:
            assert (await stream.at_least(1))[0]["symbol"] == "BTCUSDT"


# --- feeds on demand, and what many clients cost


async def test_a_feed_on_demand_begins_with_its_first_client_and_ends_a_while_after_its_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collecting, "Connector", partial(connector.Connector, linger=0.5))
    mine = ["ethusdt@aggTrade", "ethusdt@kline_1m", "ethusdt@forceOrder", "ethusdt@markPrice@1s"]
    async with world() as w:

        def upstream() -> set[str]:
            return {name for connection in w.sim.connections for name in connection.streams}

        async def collected() -> list[str]:
            (exchange,) = (await w.get("/exchanges"))["exchanges"]
            symbols: list[str] = exchange["symbols"]
            return symbols

        configured = upstream()
        async with w.stream("/ws/binance/ethusdt/trades") as stream:
            await w.subscribed(*mine)
            await w.pass_time(3000)
            assert {frame["symbol"] for frame in await stream.at_least(2)} == {"ETHUSDT"}
            assert await collected() == ["BTCUSDT", "ETHUSDT"]
            await w.is_live("ETHUSDT")
            async with w.stream("/ws/binance/ETHUSDT/ohlc?interval=15m") as other:
                await w.subscribed("ethusdt@kline_15m")
                await w.pass_time(1000)
                assert (await other.at_least(1))[0]["interval"] == "15m"
        left = trio.current_time()
        # A client that comes back in time finds it running.
        async with w.stream("/ws/binance/ETHUSDT/trades") as stream:
            await w.pass_time(2000)
            await stream.at_least(1)
            await eventually(lambda: trio.current_time() > left + 0.7)
            assert set(mine) <= upstream()
        left = trio.current_time()
        await eventually(lambda: upstream() == configured)
        assert trio.current_time() - left >= 0.4
        assert await collected() == ["BTCUSDT"]
        assert w.sim.connections_total == 1
        async with w.stream("/ws/binance/ETHUSDT/trades") as stream:  # and it can be had again
            await w.subscribed(*mine)
            await w.pass_time(2000)
            await stream.at_least(1)
        assert w.logged("feed.down") == w.logged("line.down") == []


async def test_fifty_clients_cost_one_subscription() -> None:
    async with world() as w, AsyncExitStack() as stack:
        path = "/ws/binance/ETHUSDT/ohlc?interval=15m"
        streams = [await stack.enter_async_context(w.stream(path)) for _ in range(50)]
        await w.subscribed("ethusdt@kline_15m")
        for stream in streams:
            await stream.at_least(1)
        since = len(w.sim.sent)
        before = [len(stream.frames) for stream in streams]
        await w.pass_time(10_000)
        expected = [of_kline(frame) for frame in w.frames("ethusdt@kline_15m", since)]
        assert len(expected) > 5
        for stream, count in zip(streams, before, strict=True):
            await stream.at_least(count + len(expected))
            assert stream.frames[count:] == expected
        (connection,) = w.sim.connections
        asked = [message for message in connection.received if b"ethusdt@kline_15m" in as_bytes(message)]
        assert len(asked) == 1
        assert w.sim.connections_total == 1
        wanted = {"symbol": "ETHUSDT", "interval": "15m"}.items()
        assert len([served for served in w.sim.requests if wanted <= served.query.items()]) == 1


def as_bytes(message: str | bytes) -> bytes:
    return message.encode() if isinstance(message, str) else message


async def test_clients_that_come_and_go_leave_no_trace() -> None:
    """Clients that leave while events are on their way are nobody's fault: nothing is logged, and others hear all."""
    async with world(rate=20) as w, w.stream("/ws/binance/BTCUSDT/trades") as witness:

        async def visit(path: str) -> None:
            for _ in range(15):
                async with w.stream(path) as stream:
                    await stream.at_least(1)

        async with trio.open_nursery() as nursery:
            for name in ("ohlc", "ohlc?interval=5m", "funding"):
                nursery.start_soon(visit, f"/ws/binance/BTCUSDT/{name}")
            nursery.start_soon(visit, "/ws/binance/ETHUSDT/trades")
        await witness.at_least(10)
        ids = [trade["trade_id"] for trade in witness.frames]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        troubles = [entry for entry in w.logs if entry["log_level"] in ("warning", "error")]
        assert troubles == []


async def test_what_a_client_sends_is_ignored_until_it_is_a_flood() -> None:
    async with world() as w:
        url = w.url.replace("http", "ws", 1) + "/ws/binance/BTCUSDT/ohlc"
        async with trio_websocket.open_websocket_url(url) as socket:
            await socket.get_message()
            for message in ("hello", b"\x00\xff", "{}", ""):
                await socket.send_message(message)
            await w.pass_time(1000)
            await socket.get_message()
            with suppress(trio_websocket.ConnectionClosed):
                for _ in range(1000):
                    await socket.send_message("flood")
                    await trio.lowlevel.checkpoint()
            with suppress(trio_websocket.ConnectionClosed), trio.fail_after(WITHIN):
                while True:
                    await socket.get_message()
            assert socket.closed is not None
            assert socket.closed.code == 1008


async def test_a_stream_waits_for_an_exchange_that_is_not_there_yet() -> None:
    # The symbol is configured, so its clients may come before the exchange has said anything.
    async with world(live=False) as w, w.stream("/ws/binance/BTCUSDT/trades?status=1") as stream:
        await w.subscribed("btcusdt@aggTrade")
        await w.pass_time(2000)
        await eventually(lambda: stream.of("trade"))
        assert [frame["state"] for frame in stream.of("status")] == ["live"]
