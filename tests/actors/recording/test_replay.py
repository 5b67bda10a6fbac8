"""A daemon on simulated exchanges is recorded, and the recording replayed: the same events come out, byte for byte.

What clients are sent on every topic is compared as the bytes of whole WebSocket messages.
"""

import gzip
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.to_thread
import trio_websocket
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from actors.clock import RecordedClock, fixed_order
from actors.exchanges.exchange import Exchange
from actors.feeds.everything import KINDS
from actors.recording import cryptofeed
from actors.recording.format import VERSION, Answered, AnyRecord, Begin, Failed, Frame, Recording, Up, encoded
from actors.simulation.http import Reply
from actors.simulation.server import RestFault
from daemon import replay
from daemon.settings import Config, OiVol, Record, Server
from tests.actors.exchanges.fixtures import EXCHANGES, INTERVALS, Venues, quick, venues
from tests.actors.recording.test_capture import RECORDINGS, Recorded, bar, trade
from tests.actors.recording.test_capture import SYMBOLS as SUSHI_AND_OTHERS
from tests.daemon.fixtures import MINUTE, START, Json, captured_logs, eventually, iso
from tests.daemon.test_process import Process, listening, simulated, started
from web.streams.topics import STREAMS

QUICK = {name: quick(exchange) for name, exchange in EXCHANGES.items()}
SPIKES = OiVol(timeframes=("5m",), window=30, z_threshold=0.01)


def every_path(exchanges: Mapping[str, Exchange], symbols: Mapping[str, Sequence[str]]) -> list[str]:
    """The streams of every topic there is, with what is said of it beside its events."""
    paths = [f"/ws/all/{kind}?status=1" for kind in KINDS] + ["/ws/oi-vol?status=1"]
    for name, exchange in exchanges.items():
        for stream in STREAMS.values():
            if exchange.capabilities.get(stream.capability):
                for symbol in symbols[name]:
                    path = f"/ws/{name}/{symbol}/{stream.name}?status=1"
                    paths += [f"{path}&interval={i}" for i in INTERVALS] if stream.kind == "ohlc" else [path]
    return paths


SYMBOLS = {name: exchange.symbols[:2] for name, exchange in EXCHANGES.items()}
PATHS = every_path(QUICK, SYMBOLS)
RARE = tuple(f"/ws/okx/{symbol}/funding?" for symbol in SYMBOLS["okx"]) + tuple(
    f"/ws/hyperliquid/{symbol}/liquidations?" for symbol in SYMBOLS["hyperliquid"]
)


@dataclass
class Listener:
    """A client of one stream: the messages it got, as they came, and how it ended."""

    messages: list[str | bytes] = field(default_factory=list)
    closed: tuple[int, str | None] | None = None

    async def run(self, url: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio_websocket.open_websocket_url(url) as socket:
            task_status.started()
            try:
                while True:
                    self.messages.append(await socket.get_message())
            except trio_websocket.ConnectionClosed as error:
                self.closed = (int(error.reason.code), error.reason.reason) if error.reason else None

    def decoded(self) -> list[Json]:
        return [*map(msgspec.json.decode, self.messages)]

    def events(self) -> list[str | bytes]:
        return [said for said in self.messages if msgspec.json.decode(said)["type"] not in ("status", "gap")]


async def listen(nursery: trio.Nursery, url: str, paths: Sequence[str]) -> dict[str, Listener]:
    """A client on each path; one after the other, so that they join in this order."""
    listeners = {}
    for path in paths:
        listeners[path] = Listener()
        await nursery.start(listeners[path].run, url.replace("http", "ws", 1) + path)
    return listeners


def replayed(
    files: Sequence[Path],
    paths: Sequence[str],
    exchanges: Mapping[str, Exchange] = QUICK,
    speed: float = inf,
) -> tuple[dict[str, Listener], list[dict[str, Any]]]:
    """What clients of a replay that join before its beginning are sent, and what is logged."""
    found = Recording(files)
    clock = RecordedClock(found.begin.at, speed)
    config = replay.configured(Config(server=Server(port=0), exchanges={}), found)
    heard: dict[str, Listener] = {}

    async def program() -> None:
        async with trio.open_nursery() as nursery:
            run = partial(replay.run, config, exchanges, found, clock=clock, delay=inf, stop=trio.Event())
            url = await nursery.start(run)
            heard.update(await listen(nursery, url, paths))
            clock.start()

    with captured_logs() as logs, fixed_order():
        trio.run(program, clock=clock, instruments=[clock])
    return heard, [dict(entry) for entry in logs if entry["event"] != "web.listening"]  # on another port each time


async def live(w: Venues, exchange: str, restarts: int) -> None:
    """Wait until an exchange's feeds deliver again after so many restarts."""

    def again(health: Any) -> bool:
        feeds = [feed for feed in health["feeds"] if feed["exchange"] == exchange]
        return all(feed["state"] == "live" and feed["restarts"] >= restarts for feed in feeds)

    for _ in range(400):
        if again(await w.get("/health")):
            return
        await w.pass_time(50)
        await trio.sleep(0.02)
    raise AssertionError(await w.get("/health"))


def newest(listener: Listener) -> str:
    """When the last trade was that it was sent."""
    events = map(msgspec.json.decode, reversed(listener.messages))
    return next((str(event["timestamp"]) for event in events if event["type"] == "trade"), "")


async def silence(w: Venues, heard: Mapping[str, Listener]) -> None:
    """Wait until clients have been sent trades of the last seconds, which wait for repairs, and then nothing at several
    looks: at one, nothing may have had its turn before it."""
    trades = [listener for path, listener in heard.items() if path.split("?")[0].endswith("/trades")]
    await eventually(lambda: min(map(newest, trades)) > iso(w.now - 10_000), what="the last trades of every symbol")
    count, looks = -1, 0
    while looks < 10:
        await trio.sleep(0.05)
        before, count = count, sum(len(listener.messages) for listener in heard.values())
        looks = looks + 1 if count == before else 0


async def an_eventful_life(folder: Path) -> dict[str, Listener]:
    """Record a daemon that loses connections and answers; what its clients were sent meanwhile."""
    async with venues(QUICK.values(), start=START + 2 * MINUTE, oi_vol=SPIKES, record=Record(path=str(folder))) as w:
        heard = await listen(w.nursery, w.url, PATHS)
        await w.client.get("/health/live")  # answered after the last of them has joined
        await w.pass_time(MINUTE)
        w.sims["binance"].push("nonsense")
        await eventually(lambda: w.logged("line.garbage_frame"))
        w.sims["binance"].faults.rest.append(
            RestFault(path="/fapi/v1/klines", times=2, reply=Reply(503, b'{"code":-1,"msg":"try again"}'))
        )
        w.sims["binance"].drop()
        w.sims["bybit"].faults.rest.append(RestFault(path="/v5/market/kline", times=1, hang_up=True))
        for name in ("binance", "bybit"):  # in case that no repair runs into these faults
            await w.ask(f"/{name}/ohlc/BTCUSDT/15m", limit=3)
        w.sims["bybit"].close(1012, "maintenance")
        w.sims["hyperliquid"].faults.ws_accept = 502
        w.sims["hyperliquid"].drop()
        await w.pass_time(MINUTE)  # a bar closes meanwhile
        await eventually(lambda: [down["exchange"] for down in w.logged("line.down")].count("hyperliquid") >= 3)
        w.sims["hyperliquid"].faults.ws_accept = "accept"
        for name in w.sims:
            await live(w, name, restarts=int(name in ("binance", "bybit", "hyperliquid")))
        await w.pass_time(MINUTE)
        await silence(w, heard)
        w.stop.set()
        await eventually(lambda: all(listener.closed for listener in heard.values()))
        await w.stopped.wait()
    return heard


def closes(bars: Sequence[str | bytes]) -> list[str | bytes]:
    return [bar for bar in bars if msgspec.json.decode(bar)["is_closed"]]


def test_a_replay_is_what_was_and_always_the_same(tmp_path: Path) -> None:
    lived = trio.run(an_eventful_life, tmp_path)
    files = [*tmp_path.iterdir()]
    first, logs = replayed(files, PATHS)
    second, same_logs = replayed(files, PATHS)
    slower, _ = replayed(files, PATHS, speed=100)
    assert first == second
    assert first == slower
    assert logs == same_logs

    for path in PATHS:
        was, now = lived[path].events()[1:], first[path].events()  # the first one may be what was when they joined
        assert first[path].closed == (1001, "server is stopping")
        if path.startswith("/ws/oi-vol"):
            continue  # what open interest was when a bar closed: live, the detector looks a moment later
        if path.startswith("/ws/all/"):
            # Live, one symbol's task may take a frame before the other's took an earlier one.
            assert Counter(was) <= Counter(now), path
        elif "/ohlc?" in path:
            # Which updates of the open bar a repair passes over hangs on which task is first to run, live.
            closed = closes(was)
            assert not closed or closes(now)[-len(closed) :] == closed, path
        else:
            assert now[len(now) - len(was) :] == was, path
        is_rare = "/oi?" in path or path.startswith(RARE)
        assert len(now) > (0 if is_rare else 10), path

    # It was as eventful as it was meant to be.
    told = [entry["event"] for entry in logs]
    assert told.count("line.down") >= 5
    assert {"line.garbage_frame", "bars.repaired", "replay.finished"} <= {*told}
    assert "gap" in {said["type"] for path in PATHS for said in map(msgspec.json.decode, first[path].messages)}
    records = [*Recording(files).records()]
    assert [record.status for record in records if isinstance(record, Answered) and record.status == 503] == [503, 503]
    assert [record.error for record in records if isinstance(record, Failed)] == ["Unreachable"]


# --- a capture by another program


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason=f"the recordings are not at {RECORDINGS}")
def test_the_capture_is_converted_and_replayed(tmp_path: Path) -> None:
    out = tmp_path / "capture.gz"
    captures = [str(RECORDINGS / name) for name in ("BINANCE_FUTURES.0", "BINANCE_FUTURES.ws.1.0")]
    assert cryptofeed.main([*captures, "-o", str(out)]) == 0
    paths = [f"/ws/binance/{symbol}/{name}" for symbol in SUSHI_AND_OTHERS for name in ("trades", "ohlc")]
    heard, logs = replayed([out], paths, EXCHANGES)
    assert (heard, logs) == replayed([out], paths, EXCHANGES)

    capture = Recorded()
    for symbol in SUSHI_AND_OTHERS:
        trades, bars = (heard[f"/ws/binance/{symbol}/{name}"].decoded() for name in ("trades", "ohlc"))
        assert trades == [trade(push) for push in capture.said("aggTrade", symbol)]
        assert bars == [bar(push) for push in capture.said("kline", symbol)]
    # What the capture lacks is said.
    reasons = list(dict.fromkeys(e["reason"] for e in logs if e["event"] == "exchange.clock_unknown"))  # asked again
    assert reasons == ["/fapi/v1/time: the recording has no answer to this"]


def test_what_is_no_capture_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "text", tmp_path / "out"
    for text, why in (
        ("hello\n", "line 1: not a line of a capture: 'hello'"),
        ("", "no connection to streams of bars"),
    ):
        path.write_text(text)
        assert cryptofeed.main([str(path), "-o", str(out)]) == 1
        assert why in capsys.readouterr().err
    assert cryptofeed.main([str(tmp_path / "none"), "-o", str(out)]) == 1
    assert not out.exists()


# --- the program


async def heard_of(daemon: Process, path: str, pause: float = 0.0) -> list[bytes]:
    """What a client of another program's making is sent until the end; `pause`: seconds in which it reads nothing."""
    messages = []

    def listen() -> None:
        ours = socket.socket()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        ours.connect(("127.0.0.1", int(daemon.url.rpartition(":")[2])))
        with connect(daemon.url.replace("http", "ws", 1) + path, sock=ours, max_queue=4, proxy=None) as client:
            with suppress(ConnectionClosed):
                messages.append(client.recv(timeout=20, decode=False))
                time.sleep(pause)
                while True:
                    messages.append(client.recv(timeout=20, decode=False))
            assert client.protocol.close_code == 1001

    await trio.to_thread.run_sync(listen, abandon_on_cancel=True)
    return messages


async def test_the_program_records_until_it_is_killed_and_replays_that(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    env = {"MARKETD_RECORD__PATH": str(folder)}
    async with simulated(tmp_path), listening(cwd=tmp_path, env=env) as daemon, trio.open_nursery() as nursery:
        path = "/ws/binance/BTCUSDT/trades"
        heard_live = (await listen(nursery, daemon.url, [path]))[path]
        await eventually(lambda: len(heard_live.messages) > 25)
        await trio.sleep(1.5)  # what is younger than a second may not be on the disk
        daemon.process.kill()
        nursery.cancel_scope.cancel()
    files = [str(path) for path in folder.iterdir()]
    assert len(files) == 1

    heard: list[list[bytes]] = []

    async def replay_it(seed: str) -> None:
        arguments = ("replay", *files, "--speed", "max", "--delay", "2")
        # Another hash seed is another order of every set of strings.
        async with listening(*arguments, cwd=tmp_path, env={"PYTHONHASHSEED": seed}) as daemon:
            heard.append(await heard_of(daemon, "/ws/binance/BTCUSDT/trades?status=1"))
            assert await daemon.process.wait() == 0
            assert [entry["event"] for entry in daemon.log][-3:] == [
                "replay.finished",
                "daemon.stopping",
                "daemon.stopped",
            ]
            assert daemon.stdout == b""

    async with trio.open_nursery() as nursery:
        nursery.start_soon(replay_it, "1")
        nursery.start_soon(replay_it, "2")
    assert heard[0] == heard[1]
    assert len(heard[0]) > 20


def many_trades(path: Path, count: int) -> None:
    """A recording of nothing but so many trades of one symbol, a hundred in a second."""
    contract = {
        **{"symbol": "BTCUSDT", "status": "TRADING", "contractType": "PERPETUAL", "filters": []},
        **{"baseAsset": "BTC", "quoteAsset": "USDT", "marginAsset": "USDT"},
    }
    config = {
        **{"streams": {"intervals": ["1m"]}, "oi_vol": {"timeframes": []}, "supervision": {}},
        "exchanges": {"binance": {"symbols": ["BTCUSDT"]}},
    }
    catalogue = msgspec.json.encode({"symbols": [contract]})
    records: list[AnyRecord] = [
        Begin(0, VERSION, "run", 1, config, is_complete=False),
        Answered(0, "binance", 0, "GET", "/fapi/v1/exchangeInfo", "", b"", 200, {}, catalogue),
        Up(0, "binance", 1, []),
    ]
    for number in range(1, count + 1):
        fields = {"E": number // 10, "T": number // 10, "a": number, "s": "BTCUSDT", "p": "84000.10", "q": "0.001"}
        push = {"e": "aggTrade", **fields, "f": number, "l": number, "m": False}
        frame = msgspec.json.encode({"stream": "btcusdt@aggTrade", "data": push})
        records.append(Frame(1_000_000 + number * 10_000, "binance", 1, frame, False))
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.writelines(map(encoded, records))


async def test_without_waits_a_slow_client_is_waited_for(tmp_path: Path) -> None:
    path, count = tmp_path / "trades.gz", 25_000  # more than the sockets between us hold
    many_trades(path, count)
    arguments = ("replay", str(path), "--speed", "max", "--delay", "1", "--port", "0")
    async with listening(*arguments, cwd=tmp_path) as daemon:
        heard = await heard_of(daemon, "/ws/binance/BTCUSDT/trades", pause=0.5)
        assert await daemon.process.wait() == 0
    numbers = [msgspec.json.decode(said)["trade_id"] for said in heard]
    assert numbers[0] < count / 2, "the client was there in time"
    assert numbers == [*range(numbers[0], count + 1)]


async def test_what_cannot_be_replayed_is_refused_in_a_line(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no recording")
    cases = [
        ([str(text)], 1, "not gzip"),
        ([str(tmp_path / "none.gz")], 1, "none.gz: cannot be read: No such file"),
        ([str(text), "--speed", "fast"], 2, "expected a number of at least 0, got 'fast'"),
    ]
    for arguments, code, why in cases:
        async with started("replay", *arguments, cwd=tmp_path) as process:
            assert await process.ends(20) == code
            await eventually(partial(process.stderr.endswith, b"\n"))
        assert why in process.stderr.decode()
        assert b"Traceback" not in process.stderr
        assert process.stdout == b""
