"""The simulated Bybit on real loopback sockets: its answers and frames, and its rules.

The market's clock stands still unless a test advances it, so that every frame is known.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, open_websocket_url

from actors.errors import UpstreamGeoBlocked, UpstreamLimited
from actors.events import Topic, from_ms
from actors.exchanges.bybit import EXCHANGE
from actors.exchanges.bybit.rest import BybitRest
from actors.exchanges.bybit.session import BybitSession
from actors.exchanges.bybit.simulator import BAD_FRAMES, Options, serve
from actors.exchanges.bybit.simulator.rest import Limits, blocked
from actors.exchanges.bybit.simulator.rows import delivery
from actors.simulation.assets import ASSETS, Asset
from actors.simulation.history import HOUR, MINUTE
from actors.simulation.market import Clock, Market
from actors.simulation.server import RestFault, Simulator
from actors.upstream.budget import Budget
from actors.upstream.rest import RestClient, open_http
from tests import recordings
from tests.patience import WITHIN

START = 1_795_000_037_000
RECORDINGS = recordings.RECORDINGS / "bybit-docs"
SMALL = [asset for asset in ASSETS if asset.name in ("BTC", "ETH", "BLZ", "OCEAN", "BTC-quarter")]


async def start(nursery: trio.Nursery, options: Options | None = None, **market: Any) -> Simulator:
    made = Market(seed=7, clock=Clock(START, rate=0), **{"assets": SMALL, **market})
    running: Simulator = await nursery.start(partial(serve, made, options=options))
    return running


@pytest.fixture
async def sim(nursery: trio.Nursery) -> Simulator:
    return await start(nursery)


def advance(sim: Simulator, milliseconds: int) -> None:
    sim.market.clock.advance(milliseconds)
    sim.tick()


async def get(sim: Simulator, path: str, **query: Any) -> Any:
    with trio.fail_after(WITHIN):
        async with httpx.AsyncClient(base_url=sim.rest_url, timeout=WITHIN) as client:
            answer = await client.get(f"/v5/market/{path}", params={"category": "linear", **query})
    body = answer.raise_for_status().json()
    assert (body["retCode"], body["time"]) == (0, sim.market.now), body["retMsg"]
    return body["result"]


class Client:
    """A WebSocket client that knows when it has everything: replies come in order with frames."""

    def __init__(self, ws: WebSocketConnection) -> None:
        self._ws = ws

    async def said(self, message: str) -> Any:
        """The next frame after sending this."""
        await self._ws.send_message(message)
        return json.loads(await self._ws.get_message())

    async def order(self, operation: str, *args: str, number: str = "") -> Any:
        return await self.said(json.dumps({"op": operation, "args": args, "req_id": number}))

    async def everything(self) -> list[Any]:
        """All market frames before now."""
        frames = [await self.said('{"op":"ping","req_id":"all"}')]
        while frames[-1].get("req_id") != "all":
            frames.append(json.loads(await self._ws.get_message()))
        return [frame for frame in frames if "topic" in frame]


@asynccontextmanager
async def connected(sim: Simulator) -> AsyncIterator[Client]:
    with trio.fail_after(WITHIN):
        async with open_websocket_url(sim.ws_url, disconnect_timeout=1) as ws:
            yield Client(ws)


def fields(value: Any) -> Any:
    """The shape of a JSON value: keys and types."""
    if isinstance(value, dict):
        return {key: fields(each) for key, each in value.items()}
    if isinstance(value, list):
        return [fields(value[0])] if value else []
    return type(value)


def recorded(name: str) -> Any:
    file = RECORDINGS / name
    if not file.exists():
        pytest.skip(f"no recordings at {RECORDINGS}")
    return json.loads(file.read_text())


# -- REST -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sample", "path", "query"),
    [
        ("rest_time", "time", {}),
        ("rest_instruments_linear_perpetual", "instruments-info", {}),
        ("rest_kline", "kline", {"symbol": "BTCUSDT", "interval": "60"}),
        ("rest_open_interest", "open-interest", {"symbol": "BTCUSDT", "intervalTime": "1d"}),
        ("rest_funding_history", "funding/history", {"symbol": "BTCUSDT"}),
        ("rest_recent_trade", "recent-trade", {"symbol": "BTCUSDT"}),
    ],
)
async def test_rest_answers_have_the_documented_fields(
    sim: Simulator, sample: str, path: str, query: dict[str, str]
) -> None:
    advance(sim, 5000)
    assert fields(await get(sim, path, **query)) == fields(recorded(f"{sample}.json")["result"])


def test_quarters_end_on_the_last_friday() -> None:
    assert delivery(START) == 1_798_185_600_000, "2026-12-25 08:00"
    assert delivery(1_798_185_600_000) == 1_806_048_000_000, "2027-03-26 08:00"


async def test_the_catalogue(sim: Simulator) -> None:
    rows = {row["symbol"]: row for row in (await get(sim, "instruments-info"))["list"]}
    assert list(rows) == ["BLZUSDT", "BTCUSDT", "BTCUSDT-25DEC26", "ETHUSDT"], "by name, trading ones only"
    assert rows["BTCUSDT-25DEC26"]["contractType"] == "LinearFutures"
    (closed,) = (await get(sim, "instruments-info", status="Closed"))["list"]
    assert (closed["symbol"], closed["status"]) == ("OCEANUSDT", "Closed")
    page = await get(sim, "instruments-info", limit="2")
    assert page["nextPageCursor"] == "first%3DBLZUSDT%26last%3DBTCUSDT"
    rest = await get(sim, "instruments-info", limit="2", cursor="first=BLZUSDT&last=BTCUSDT")
    assert [row["symbol"] for row in rest["list"]] == ["BTCUSDT-25DEC26", "ETHUSDT"]
    assert rest["nextPageCursor"] == ""
    with pytest.raises(AssertionError, match="cursor"):
        await get(sim, "instruments-info", cursor=page["nextPageCursor"])


async def test_klines_as_the_exchange_cuts_them(sim: Simulator) -> None:
    query = {"symbol": "BTCUSDT", "interval": "60"}
    rows = (await get(sim, "kline", **query))["list"]
    times = [int(row[0]) for row in rows]
    assert len(rows) == 200
    assert times == sorted(times, reverse=True)
    assert times[0] <= START < times[0] + HOUR, "the newest is open"

    async def opened(**more: int) -> list[int]:
        return [int(row[0]) for row in (await get(sim, "kline", **query, **more))["list"]]

    assert await opened(start=times[5], end=times[3]) == times[3:6], "both included"
    assert await opened(start=times[5] + 1, end=times[3]) == times[3:5]
    assert await opened(start=times[9], limit=3) == times[7:10], "from the start forward"
    assert await opened(end=times[3], limit=3) == times[3:6]
    assert await opened(start=times[50], end=times[3], limit=3) == times[3:6], "too wide: the old end is lost"


async def test_open_interest_as_the_exchange_cuts_it(sim: Simulator) -> None:
    query = {"symbol": "BTCUSDT", "intervalTime": "5min"}
    page = await get(sim, "open-interest", **query)
    times = [int(row["timestamp"]) for row in page["list"]]
    assert len(times) == 50
    assert times[-1] < 10**10, "the oldest of a page that has a successor is in seconds"
    assert await get(sim, "open-interest", **query, startTime=START - HOUR) == page, "ignored without an endTime"
    narrow = await get(sim, "open-interest", **query, startTime=times[5], endTime=times[2])
    assert [int(row["timestamp"]) for row in narrow["list"]] == times[2:5], "startTime excluded, endTime included"
    following = await get(
        sim, "open-interest", **query, cursor=page["nextPageCursor"].replace("%3D", "=").replace("%26", "&")
    )
    assert int(following["list"][0]["timestamp"]) == times[-2] - 10 * MINUTE
    row = page["list"][0]
    assert float(row["openInterest"]) == pytest.approx(2 * float(row["singleOpenInterest"]))


async def test_the_present_agrees_with_the_streams(sim: Simulator) -> None:
    async with connected(sim) as client:
        await client.order("subscribe", "tickers.BTCUSDT")
        (snapshot,) = await client.everything()
    (row,) = (await get(sim, "tickers", symbol="BTCUSDT"))["list"]
    shared = {key: value for key, value in snapshot["data"].items() if key in row}
    assert {key: row[key] for key in shared} == shared
    assert len((await get(sim, "tickers"))["list"]) == 4


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("kline", {"interval": "1"}),
        ("kline", {"symbol": "NOPEUSDT", "interval": "1"}),
        ("kline", {"symbol": "btcusdt", "interval": "1"}),
        ("kline", {"symbol": "OCEANUSDT", "interval": "1"}),
        ("kline", {"symbol": "BTCUSDT", "interval": "1m"}),
        ("kline", {"symbol": "BTCUSDT", "interval": "1", "limit": "1001"}),
        ("kline", {"symbol": "BTCUSDT", "interval": "1", "start": "-5"}),
        ("kline", {"symbol": "BTCUSDT", "interval": "1", "category": "spot"}),
        ("open-interest", {"symbol": "BTCUSDT", "intervalTime": "5m"}),
        ("funding/history", {"symbol": "BTCUSDT", "startTime": "1"}),
        ("tickers", {"symbol": "NOPEUSDT"}),
    ],
)
async def test_refusals_come_with_a_200(sim: Simulator, path: str, query: dict[str, str]) -> None:
    with pytest.raises(AssertionError, match="10001"):
        await get(sim, path, **query)
    assert sim.requests[-1].status == 200


async def test_too_many_requests_close_the_door(nursery: trio.Nursery) -> None:
    limits = Limits(requests=3)
    sim = await start(nursery, Options(limits=limits))
    budget = Budget(EXCHANGE.budget)
    with trio.fail_after(WITHIN):
        async with open_http(sim.rest_url) as http:
            client = RestClient(http, budget, EXCHANGE.explain, caller="client", used_header=EXCHANGE.used_header)
            rest = BybitRest(client, lambda: from_ms(START))
            for _ in range(3):
                await rest.server_time()
            for _ in range(2):
                with pytest.raises(UpstreamLimited) as raised:
                    await rest.server_time()
                assert raised.value.retry_after == pytest.approx(600, abs=1)
    assert len(sim.requests) == 4, "the second refusal was ours"
    advance(sim, limits.ban + limits.window)
    assert (await get(sim, "time"))["timeSecond"]


async def test_a_country_that_is_not_served(sim: Simulator) -> None:
    sim.faults.rest.append(RestFault(reply=blocked()))
    budget = Budget(EXCHANGE.budget)
    with trio.fail_after(WITHIN):
        async with open_http(sim.rest_url) as http:
            client = RestClient(http, budget, EXCHANGE.explain, caller="client", used_header=None)
            with pytest.raises(UpstreamGeoBlocked, match="your country"):
                await BybitRest(client, lambda: from_ms(START)).instruments()


# -- streams ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "sample", "optional"),
    [
        ("kline.5.BTCUSDT", "ws_kline.json", set()),
        ("publicTrade.BTCUSDT", "ws_trade.json", {"RPI"}),
        ("allLiquidation.BTCUSDT", "ws_all_liquidation.json", set()),
        ("tickers.BTCUSDT", "ws_ticker_linear_perpetual.json", {"singleOpenInterest", "singleOpenInterestValue"}),
    ],
)
async def test_frames_have_the_documented_fields(sim: Simulator, topic: str, sample: str, optional: set[str]) -> None:
    async with connected(sim) as client:
        await client.order("subscribe", topic)
        sim.market.trade("BTC", side="buy", price="84000.00", quantity="1.000")
        sim.market.liquidate("BTC", side="sell", price="83000.00", quantity="1.250")
        advance(sim, 1000)
        frame = (await client.everything())[0]
    documented = recorded(sample)
    assert frame["topic"] == topic
    assert set(frame) == set(documented)
    ours, theirs = (each["data"] if isinstance(each["data"], dict) else each["data"][0] for each in (frame, documented))
    assert fields({key: value for key, value in ours.items() if key not in optional}) == fields(theirs)


async def test_a_bars_end_is_one_message_of_two_bars(sim: Simulator) -> None:
    async with connected(sim) as client:
        await client.order("subscribe", "kline.1.BTCUSDT")
        (first,) = await client.everything()
        assert [row["confirm"] for row in first["data"]] == [False], "a newcomer is told the open bar"
        for _ in range(50):
            advance(sim, 1000)
        frames = await client.everything()
        both = [frame["data"] for frame in frames if len(frame["data"]) == 2]
        assert [[row["confirm"] for row in data] for data in both] == [[True, False]]
        closed, begun = both[0]
        assert closed["end"] + 1 == begun["start"]
        row = (await get(sim, "kline", symbol="BTCUSDT", interval="1", limit=2))["list"][1]
        keys = ("start", "open", "high", "low", "close", "volume", "turnover")
        assert [str(closed[key]) for key in keys] == row
        advance(sim, 5 * MINUTE)
        frames = await client.everything()
        assert sum(row["confirm"] for frame in frames for row in frame["data"]) == 5, "none is skipped"


async def test_trades_are_those_of_rest(sim: Simulator) -> None:
    async with connected(sim) as client:
        await client.order("subscribe", "publicTrade.BTCUSDT")
        advance(sim, 400_000)
        frames = await client.everything()
    rows = [row for frame in frames for row in frame["data"]]
    assert max(len(frame["data"]) for frame in frames) == 1024
    assert [row["T"] for row in rows] == sorted(row["T"] for row in rows)
    assert len({row["i"] for row in rows}) == len(rows)
    recent = (await get(sim, "recent-trade", symbol="BTCUSDT", limit=1000))["list"]
    assert [row["execId"] for row in recent] == [row["i"] for row in rows[:-1001:-1]]


async def test_ticker_deltas_say_what_changed(sim: Simulator) -> None:
    async with connected(sim) as client:
        await client.order("subscribe", "tickers.BTCUSDT")
        (snapshot,) = await client.everything()
        state = dict(snapshot["data"])
        assert snapshot["type"] == "snapshot"
        for _ in range(20):
            advance(sim, 700)
        frames = await client.everything()
        assert {frame["type"] for frame in frames} == {"delta"}
        for frame in frames:
            changes = {key: value for key, value in frame["data"].items() if key != "symbol"}
            assert changes
            assert all(state[key] != value for key, value in changes.items())
            state |= changes
        async with connected(sim) as newcomer:
            await newcomer.order("subscribe", "tickers.BTCUSDT")
            (late,) = await newcomer.everything()
        assert late["data"] == state
        await client.order("subscribe", "tickers.BTCUSDT-25DEC26")
        (dated,) = await client.everything()
        assert (dated["data"]["fundingRate"], dated["data"]["nextFundingTime"]) == ("", "")
        assert dated["data"]["deliveryTime"] == "2026-12-25T08:00:00Z"


async def test_liquidations_name_the_position(sim: Simulator) -> None:
    async with connected(sim) as client:
        await client.order("subscribe", "allLiquidation.ETHUSDT")
        sim.market.liquidate("ETH", side="sell", price="2800.00", quantity="1.000")
        sim.market.liquidate("ETH", side="buy", price="2900.00", quantity="2.000")
        advance(sim, 500)
        frames = await client.everything()
    rows = [row for frame in frames for row in frame["data"]]
    assert [(row["S"], row["v"]) for row in rows[:2]] == [("Buy", "1.000"), ("Sell", "2.000")]
    assert float(rows[0]["p"]) < 2800, "the bankruptcy price is worse than the fill"


async def test_acks(sim: Simulator) -> None:
    async with connected(sim) as client:
        ack = await client.order("subscribe", "publicTrade.BTCUSDT", "publicTrade.ETHUSDT", number="7")
        assert (ack["success"], ack["ret_msg"], ack["req_id"], ack["op"]) == (True, "", "7", "subscribe")
        again = await client.order("subscribe", "publicTrade.BTCUSDT")
        assert again["ret_msg"] == "error:already subscribed,topic:publicTrade.BTCUSDT"
        assert (await client.order("unsubscribe", "publicTrade.BTCUSDT"))["success"]
        assert (await client.order("subscribe", "publicTrade.BTCUSDT"))["success"]
        pong = await client.said(EXCHANGE.heartbeat or "")
        assert (pong["ret_msg"], pong["op"], pong["req_id"]) == ("pong", "ping", "")
        assert (await client.order("dance"))["ret_msg"] == "error:invalid op"
        assert (await client.said("hello"))["ret_msg"].startswith("Failed to decode incoming data:")


@pytest.mark.parametrize(
    "bad",
    ["publicTrade.NOPEUSDT", "publicTrade.btcusdt", "publicTrade.OCEANUSDT", "kline.7.BTCUSDT", "galaxy.BTCUSDT", "x"],
)
async def test_one_bad_topic_refuses_the_frame(sim: Simulator, bad: str) -> None:
    async with connected(sim) as client:
        refused = await client.order("subscribe", "publicTrade.BTCUSDT", bad, "also.bad", number="3")
        assert not refused["success"]
        assert (refused["ret_msg"], refused["req_id"]) == (f"error:handler not found,topic:{bad}", "3")
        advance(sim, 10_000)
        assert await client.everything() == []


async def test_a_full_line_fits_into_the_characters_of_a_connection(nursery: trio.Nursery) -> None:
    """As many symbols as a line takes with the longest names there are, each grown to all its intervals."""
    count = EXCHANGE.limits.topics // 4
    names = [f"1000000BABYDOG{number:02}" for number in range(count + 1)]
    sim = await start(nursery, assets=[Asset(name, "2.0000", "0.0001", "0.1", 0.2, shape="x") for name in names])
    session = BybitSession({})
    kinds: list[tuple[Any, str | None]] = [(kind, None) for kind in ("trades", "liquidations", "funding", "oi")]
    kinds += [("ohlc", interval) for interval in EXCHANGE.intervals]
    async with connected(sim) as client:
        for number, name in enumerate(names):
            topics = [Topic("bybit", f"{name}USDT", *kind) for kind in kinds]
            assert len(topics[0].symbol) == 20
            (frame,) = session.subscribe(topics)
            ack = await client.said(frame)
            await client.everything()
            assert ack["success"] == (number < count), ack["ret_msg"]


async def test_an_idle_connection_is_cut(nursery: trio.Nursery) -> None:
    sim = await start(nursery, Options(idle=0.3))
    async with connected(sim) as client:
        await client.order("subscribe", "allLiquidation.BLZUSDT")
        with pytest.raises(ConnectionClosed):
            await client._ws.get_message()


async def test_other_paths_are_refused(sim: Simulator) -> None:
    url = sim.ws_url.replace("linear", "spot")
    with trio.fail_after(WITHIN), pytest.raises((ConnectionRejected, BaseExceptionGroup)):
        async with open_websocket_url(url):
            pass


@pytest.mark.parametrize("kind", [kind for kind in BAD_FRAMES if kind not in ("oversized", "not utf-8")])
async def test_bad_frames_go_out_as_they_are(sim: Simulator, kind: str) -> None:
    async with connected(sim) as client:
        await client.order("ping")
        sim.push(BAD_FRAMES[kind])
        assert await client._ws.get_message() == BAD_FRAMES[kind].decode()


def test_the_record_stays_within_what_is_documented() -> None:
    assert EXCHANGE.limits.connect_spacing * 500 >= 300, "500 connections in 5 minutes"
    assert EXCHANGE.limits.heartbeat_every <= 20
    assert EXCHANGE.prompt <= EXCHANGE.pushed
