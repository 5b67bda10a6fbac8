"""What an exchange can do to the running daemon: in every case its clients stay connected and the stream goes on.

A fault strikes while a client of the daemon is connected. Afterwards the same client hears the exchange again, /health
and the log say what happened, and the exchange was not stormed with connections.
"""

import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import trio

from actors.exchanges.binance import EXCHANGE
from actors.exchanges.binance.simulator import BAD_FRAMES
from actors.exchanges.binance.simulator.limits import banned, error, html, restricted, too_many_requests, unavailable
from actors.exchanges.exchange import Exchange
from actors.feeds import interest
from actors.simulation.server import Faults, Reply, RestFault
from actors.upstream import dial, flights, rest
from daemon.settings import Supervision
from tests.daemon.fixtures import START, Stream, World, eventually, fast, world

SILENCE = 1.2  # seconds; the real limit is 15


@dataclass
class Struck:
    """A daemon whose exchange misbehaves, and its one client."""

    w: World
    client: Stream

    async def hears_again(self) -> None:
        """Trades that the exchange sends from now on reach the client."""
        since = len(self.w.sim.sent)

        def arrived() -> bool:
            fresh = {frame["a"] for frame in self.w.frames("btcusdt@aggTrade", since)}
            return any(trade["trade_id"] in fresh for trade in self.client.of("trade")[-50:])

        await eventually(arrived, what="a fresh trade")
        assert self.client.closed is None

    async def was_down(self, reason: str) -> None:
        """The client, /health and the log have been told that the line went down, and why; and it is up again."""
        await eventually(lambda: "live" in self.states()[1:], what=f"down and live again, not {self.states()}")
        down = next(frame for frame in self.client.of("status") if frame["state"] == "down")
        assert re.search(reason, down["reason"]), down
        (first, *_) = self.w.logged("line.down")
        assert re.search(reason, first["reason"]), first
        assert {"exchange", "attempt", "delay"} <= first.keys()
        assert "exc_info" not in first, "a fault of the outer world needs no traceback"
        feed = (await self.w.is_live())["feeds"][0]
        assert feed["restarts"] >= 1
        assert feed["reason"] is None

    def states(self) -> list[str]:
        return [frame["state"] for frame in self.client.of("status")]

    def no_fault_of_ours(self) -> None:
        assert self.w.logged("web.fault") == []
        assert [entry for entry in self.w.logs if "exc_info" in entry] == []


@asynccontextmanager
async def struck(exchange: Exchange | None = None, **changes: Any) -> AsyncIterator[Struck]:
    """A daemon and a client that hears trades, in real time."""
    async with (
        world(rate=5, start=START, exchange=exchange or fast(silence=SILENCE), **changes) as w,
        w.stream("/ws/binance/BTCUSDT/trades?status=1") as client,
    ):
        scene = Struck(w, client)
        await scene.hears_again()
        yield scene
        scene.no_fault_of_ours()


# --- the WebSocket


@pytest.mark.parametrize(
    ("strike", "reason"),
    [
        pytest.param(lambda w: w.sim.drop(), r"closed by the exchange", id="reset"),
        pytest.param(lambda w: w.sim.close(1001, "24 hours"), r"code 1001: 24 hours", id="1001"),
        pytest.param(lambda w: w.sim.close(1008, "Too many requests"), r"code 1008: Too many", id="1008"),
        pytest.param(lambda w: w.sim.close(1012), r"code 1012", id="1012"),
        pytest.param(lambda w: w.sim.close(4001, "no"), r"code 4001: no", id="4001"),
        pytest.param(
            lambda w: w.sim.connections[0].send_raw(b"\xff" * 20), r"closed by the exchange", id="no websocket"
        ),
    ],
)
async def test_a_connection_that_ends_is_replaced_once(strike: Callable[[World], None], reason: str) -> None:
    async with struck() as scene:
        strike(scene.w)
        await scene.was_down(reason)
        await scene.hears_again()
        assert scene.w.sim.attempts == 2
        assert scene.states() == ["down", "live"]


@pytest.mark.parametrize("fault", ["half-open", "no market data"])
async def test_silence_is_noticed_and_the_connection_replaced(fault: str) -> None:
    async with struck() as scene:
        (first,) = scene.w.sim.connections
        struck_at = trio.current_time()
        if fault == "half-open":
            first.stalled = True
        else:  # acks and pongs go on: they prove nothing
            scene.w.sim.faults.mute.add("*")
        await eventually(lambda: scene.w.sim.attempts == 2)
        assert SILENCE - 1 < trio.current_time() - struck_at < EXCHANGE.limits.silence
        scene.w.sim.faults.mute.clear()
        await scene.was_down("silence")
        await scene.hears_again()
        # While the market stays mute, connections are replaced, but not more often than the silence lasts.
        assert scene.w.sim.attempts <= 3


async def test_silence_is_noticed_within_20_s_as_configured() -> None:
    """The limit that ships, and with it the promise of the contract."""
    assert EXCHANGE.limits.silence < 20
    async with struck(EXCHANGE) as scene:
        scene.w.sim.connections[0].stalled = True
        await eventually(lambda: scene.w.logged("line.down"), 20, "the end of the silence")
        await scene.hears_again()
        await scene.was_down("silence")
        assert scene.w.sim.attempts == 2


async def test_one_silent_topic_is_asked_for_again_and_the_rest_goes_on() -> None:
    async with struck() as scene:
        scene.w.sim.faults.mute.add("btcusdt@markPrice@1s")

        def stale(health: Any) -> bool:
            feed = health["feeds"][0]
            return feed["state"] == "stale" and "funding" in feed["reason"]

        await scene.w.health(stale)
        await scene.hears_again()
        assert scene.w.sim.attempts == 1
        (connection,) = scene.w.sim.connections
        again = [m for m in connection.received if isinstance(m, str) and "UNSUBSCRIBE" in m and "markPrice" in m]
        assert again
        scene.w.sim.faults.mute.clear()
        await scene.w.is_live()  # /health may say so before the stream's frame has arrived
        assert await eventually(lambda: scene.states()[1:], what="live") == ["live"]


@pytest.mark.parametrize("refusal", ["reset", 503])
async def test_a_refusing_exchange_is_tried_ever_more_slowly_and_taken_back(refusal: Literal["reset"] | int) -> None:
    policy = Supervision(reconnect_delay=0.1, max_reconnect_delay=0.8)
    async with struck(supervision=policy) as scene:
        sim = scene.w.sim
        before, began = sim.attempts, trio.current_time()
        sim.faults.ws_accept = refusal
        sim.drop()
        feed = (await scene.w.health(lambda health: health["feeds"][0]["state"] == "down"))["feeds"][0]
        assert feed["reason"]
        assert feed["next_retry"] is not None
        ready = await scene.w.ask("/health/ready")
        assert (ready.status_code, list(ready.json()["reasons"])) == (503, ["binance"])
        await eventually(lambda: sim.attempts >= before + 4, what="four attempts to connect")
        # 0.1, 0.2, 0.4, 0.8, 0.8, ... less a quarter at most
        assert trio.current_time() - began > 0.75 * (0.1 + 0.2 + 0.4)
        sim.faults.ws_accept = "accept"
        await scene.hears_again()
        delays = [entry["delay"] for entry in scene.w.logged("line.down")]
        assert max(delays) <= 0.8
        assert delays[2] > delays[0]


async def test_a_handshake_that_is_never_answered_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async with struck() as scene:
        monkeypatch.setattr(dial, "CONNECT_WITHIN", 1.0)
        scene.w.sim.faults.ws_accept = "silent"
        scene.w.sim.drop()
        await eventually(lambda: scene.w.sim.attempts == 2)
        assert (await scene.w.get("/health"))["feeds"][0]["state"] == "down"
        # Other requests are served meanwhile, from the exchange.
        assert len(await scene.w.get("/binance/ohlc/BTCUSDT/1m", limit=3)) == 3
        assert (await scene.w.get("/binance/funding/BTCUSDT"))["symbol"] == "BTCUSDT"
        scene.w.sim.faults.ws_accept = "accept"
        await scene.hears_again()
        assert "no connection within" in scene.w.logged("line.down")[1]["reason"]


async def test_a_bad_frame_is_dropped_and_said_once() -> None:
    async with struck(fast()) as scene:
        for kind, frame in BAD_FRAMES.items():
            before = len(complaints(scene.w))
            for _ in range(3):
                scene.w.sim.push(frame)
            await scene.hears_again()
            said = complaints(scene.w)[before:]
            assert len(said) <= 1, (kind, said)
            assert all(entry["reason"] and len(entry["sample"]) <= 300 for entry in said)
        assert len(complaints(scene.w)) >= 8
        assert scene.w.sim.attempts == 1
        assert scene.states() == []
        ids = [trade["trade_id"] for trade in scene.client.of("trade")]
        assert ids == list(range(ids[0], ids[0] + len(ids)))


def complaints(w: World) -> list[Any]:
    return w.logged("line.garbage_frame") + w.logged("line.unknown_frame")


async def test_frames_with_more_than_expected_are_understood() -> None:
    async with struck() as scene:
        last = scene.client.of("trade")[-1]
        frame = '{"e":"aggTrade","E":%d,"a":%d,"s":"BTCUSDT","p":"5","q":"7","T":%d,"m":true,"st":1,"new":{"a":[1]}}'
        scene.w.sim.push(frame % (START, last["trade_id"] + 10_000, START), binary=True)
        await eventually(lambda: any(trade["value"] == 35 for trade in scene.client.of("trade")))


async def test_a_flood_of_garbage_ends_the_connection_and_does_not_flood_the_log() -> None:
    async with struck() as scene:
        for number in range(150):
            scene.w.sim.push(f'{{"e":"aggTrade","number":{number}')
        await scene.was_down("undecodable")
        await scene.hears_again()
        assert scene.w.sim.attempts == 2
        assert len(scene.w.logged("line.garbage_frame")) <= 60


# --- REST


def ask_upstream(w: World) -> Any:
    """A request that memory cannot answer."""
    return w.ask("/binance/ohlc/BTCUSDT/1h", start_time=START - 10**9, limit=3)


@pytest.mark.parametrize("status", [429, 418])
async def test_a_limit_or_a_ban_closes_the_gate_for_as_long_as_it_says(status: int) -> None:
    seconds = 1.5
    async with struck() as scene:
        sim = scene.w.sim
        if status == 429:
            reply = too_many_requests()
            reply.headers["Retry-After"] = "2"
            seconds = 2.0
        else:
            reply = banned(round((time.time() + seconds) * 1000))
        sim.faults.rest.append(RestFault(path="/fapi/v1/klines", times=1, reply=reply))
        before, began = len(sim.requests), trio.current_time()
        for _ in range(5):  # only the first one reaches the exchange
            answer = await ask_upstream(scene.w)
            assert (answer.status_code, answer.json()["code"]) == (503, "upstream_limited")
            assert 1 <= int(answer.headers["retry-after"]) == answer.json()["retry_after"] <= 2
            assert str(status) in answer.json()["detail"]
        assert len(sim.requests) == before + 1
        # What is live needs no request.
        await scene.hears_again()
        assert (await scene.w.ask("/binance/funding/BTCUSDT")).status_code == 200
        while (await ask_upstream(scene.w)).status_code != 200:
            assert trio.current_time() - began < 30, "for minutes, as where nothing is said"
            await trio.sleep(0.05)
        assert trio.current_time() - began > seconds - 0.5
        assert len(sim.requests) == before + 2
        assert sim.attempts == 1


PASSING = {
    "503": (RestFault(reply=unavailable()), 502, "upstream_error"),
    "502 page": (RestFault(reply=html(502)), 502, "upstream_error"),
    "page with 200": (RestFault(reply=html(200)), 502, "upstream_error"),
    "half of a JSON": (RestFault(reply=Reply(body=b'{"a":')), 502, "upstream_error"),
    "wrong shape": (RestFault(reply=Reply(body=b"[[1,2]]")), 502, "upstream_error"),
    "wrong type": (RestFault(reply=Reply(body=b'{"msg":"hello"}')), 502, "upstream_error"),
    "nan": (RestFault(reply=Reply(body=b'[[0,"NaN","1","1","1","1",59999,"1",1,"1","1","0"]]')), 502, "upstream_error"),
    "400": (RestFault(reply=error(-1127, "no")), 502, "upstream_error"),
    "truncated": (RestFault(truncate=True), 502, "upstream_error"),
    "hung up": (RestFault(hang_up=True), 502, "upstream_error"),
    "slow": (RestFault(delay=30), 504, "upstream_timeout"),
}
LASTING = {  # the exchange does not want to see us: no request leaves for minutes
    "451": (RestFault(reply=restricted()), 502, "upstream_geo_blocked"),
    "403": (RestFault(reply=html(403)), 502, "upstream_error"),
}


async def test_rest_faults_are_told_and_touch_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "TIMEOUT", 0.5)
    monkeypatch.setattr(flights, "FRESH", 0.0)  # the same is asked again and again
    async with struck() as scene:
        for fault, status, code in PASSING.values():
            await told(scene, fault, status, code)
            assert (await ask_upstream(scene.w)).status_code == 200
        assert scene.w.sim.attempts == 1


@pytest.mark.parametrize("kind", LASTING)
async def test_an_exchange_that_turns_us_away_is_left_alone(kind: str) -> None:
    async with struck() as scene:
        await told(scene, *LASTING[kind])
        before = len(scene.w.sim.requests)
        for _ in range(3):
            answer = await ask_upstream(scene.w)
            assert answer.status_code in (502, 503)
            assert int(answer.headers["retry-after"]) > 60
        assert len(scene.w.sim.requests) == before


async def told(scene: Struck, fault: RestFault, status: int, code: str) -> None:
    """A request that meets the fault is answered with this problem, and nothing else is touched."""
    fault.path = "/fapi/v1/klines"
    faults = scene.w.sim.faults.rest
    faults.append(fault)
    before = len(scene.w.sim.requests)
    answer = await ask_upstream(scene.w)
    faults.clear()
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), problem
    assert (problem["exchange"], problem["symbol"]) == ("binance", "BTCUSDT")
    assert "Traceback" not in answer.text
    assert len(scene.w.sim.requests) <= before + 2, "asked again more than once"
    await scene.hears_again()
    assert (await scene.w.get("/health"))["status"] == "healthy"
    assert scene.states() == []


@pytest.mark.parametrize("fault", [RestFault(close=True), RestFault(hang_up=True, times=1)], ids=["closed", "hung up"])
async def test_a_kept_alive_connection_that_ends_is_not_noticed(fault: RestFault) -> None:
    async with struck() as scene:
        fault.path = "/fapi/v1/klines"
        scene.w.sim.faults.rest.append(fault)
        for _ in range(5):
            assert (await ask_upstream(scene.w)).status_code == 200


async def test_polling_that_fails_is_shown_and_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interest, "POLL_MIN", 0.1)
    monkeypatch.setattr(interest, "UNWANTED", 0.1)
    monkeypatch.setattr(interest, "POLL_SHARE", 10)
    async with struck() as scene:
        scene.w.sim.faults.rest.append(RestFault(path="/fapi/v1/openInterest", reply=unavailable()))

        def stale(health: Any) -> bool:
            return bool(health["status"] == "degraded" and "open interest" in health["feeds"][0]["reason"])

        await scene.w.health(stale)
        assert scene.w.logged("open_interest.down")
        answer = await scene.w.ask("/binance/oi/BTCUSDT")  # asked now, since the poll's answer is too old
        assert (answer.status_code, answer.json()["code"]) == (502, "upstream_error")
        await scene.hears_again()
        scene.w.sim.faults.rest.clear()
        await scene.w.health(lambda health: bool(health["status"] == "healthy"))
        assert (await scene.w.ask("/binance/oi/BTCUSDT")).status_code == 200


async def test_an_exchange_without_rest_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalogue comes late; the streams begin then, for a client that was there before."""
    monkeypatch.setattr(rest, "TIMEOUT", 0.5)
    async with (
        world(rate=1, faults=Faults(rest_accept="silent"), live=False) as w,
        w.stream("/ws/binance/BTCUSDT/trades?status=1") as client,
    ):
        await w.health(lambda health: bool(health["feeds"][0]["state"] == "down"))
        assert "catalogue" in (await w.feed())["reason"]
        assert w.logged("catalogue.down")
        w.sim.faults.rest_accept = "accept"
        await eventually(lambda: client.of("trade"))
        # A feed is live when all of its topics are, and the first trade may be there before. The client may have come
        # when the feed was down already.
        states = await eventually(lambda: [said for frame in client.of("status") if (said := frame["state"]) != "down"])
        assert states == ["live"]
        assert client.closed is None


# --- everything at once


async def test_one_fault_after_another_is_survived() -> None:
    async with struck() as scene:
        sim = scene.w.sim
        for turn in range(4):
            sim.push(BAD_FRAMES["truncated"])
            if turn % 2:
                sim.close(1012, "again")
            else:
                sim.drop()
            await scene.hears_again()
        assert sim.attempts == 5
        assert scene.states() == ["down", "live"] * 4
        trades = scene.client.of("trade")
        assert [trade["trade_id"] for trade in trades] == sorted({trade["trade_id"] for trade in trades})
