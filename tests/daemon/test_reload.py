"""The configuration taken over while the daemon runs: all or nothing, and no client, line or number notices."""

import random
import signal
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.exchanges.binance import simulator
from actors.exchanges.exchange import load_exchanges
from actors.simulation.market import Clock, Market
from daemon.collecting import exchange_defaults
from daemon.config import load
from daemon.kinds import EXCHANGE_KINDS, KINDS, ConfigError
from daemon.reload import Reloader, difference
from daemon.settings import Config, Engine, ExchangeSettings, Facade, Server
from tests.daemon.fixtures import TWO, Served, configuration, eventually, fast, serving
from tests.daemon.test_process import Process, listening, simulated
from tests.patience import WITHIN
from tests.web.access.test_access import KeyFile
from web.access.limits import Limits

START = 1_760_000_000_000
replace = msgspec.structs.replace


def changed(config: Config, section: str, **values: Any) -> Config:
    return replace(config, **{section: replace(getattr(config, section), **values)})


def of_binance(config: Config, **values: Any) -> Config:
    return replace(config, exchanges=config.exchanges | {"binance": replace(config.exchanges["binance"], **values)})


@pytest.fixture
def config() -> Config:
    return load(None, {}, defaults=exchange_defaults(load_exchanges()))


# --- what is new, and what runs then


def test_what_needs_a_restart_is_told_and_stays_as_it_is(config: Config) -> None:
    new = changed(
        of_binance(config, symbols=("XRPUSDT",), rest_url="http://a"), "server", port=1, cors_origins=["http://b"]
    )
    new = changed(new, "archive", enabled=False, ohlc_days=3.0)
    told, merged = difference(config, new)
    assert told.changed == ["archive.ohlc_days", "exchanges.binance.symbols", "server.cors_origins"]
    assert told.restart_needed == ["archive.enabled", "exchanges.binance.rest_url", "server.port"]
    assert (merged.server.port, merged.server.cors_origins) == (config.server.port, ["http://b"])
    assert merged.exchanges["binance"].rest_url == config.exchanges["binance"].rest_url
    assert merged.exchanges["binance"].symbols == ("XRPUSDT",)
    again, same = difference(merged, new)
    assert (again.changed, again.restart_needed, same) == ([], told.restart_needed, merged)


def test_a_first_certificate_needs_a_restart(config: Config) -> None:
    told, merged = difference(config, changed(config, "server", certfile="a.pem", keyfile="b.pem"))
    assert (told.changed, told.restart_needed) == ([], ["server.certfile", "server.keyfile"])
    assert merged == config


def test_what_follows_from_the_address_follows_from_the_one_that_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that waits for a restart neither closes the door that is open nor opens one."""
    monkeypatch.chdir(tmp_path)
    defaults = exchange_defaults(load_exchanges())
    for used, said in (("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")):
        Path("config.toml").write_text(f'[server]\nhost = "{used}"\n')
        running = load(None, {}, defaults=defaults)
        taken: list[Config] = []
        reloader = Reloader(lambda server: load(None, {}, defaults=defaults, listening=server))
        reloader.begin(running, taken.append)
        Path("config.toml").write_text(f'[server]\nhost = "{said}"\n')
        told = reloader.reload()
        assert (told.changed, told.restart_needed) == ([], ["server.host"])
        assert taken == [running]


RESTART = {
    *(
        "server.host",
        "server.port",
        "server.unix_socket",
        "server.root_path",
        "server.dashboard",
        "metrics.enabled",
        "metrics.listen",
    ),
    *("archive.enabled", "archive.path", "record.path", "record.part_mb", "streams.history"),
    *("export.spool_mb", "export.spool_files"),
    *("upstream.proxy", "upstream.source_address", "upstream.ca_file"),
    *(f"exchanges.binance.{key}" for key in ("enabled", "liquidations", "rest_url", "ws_url")),
    *(f"exchanges.binance.{key}" for key in ("proxy", "source_address", "ca_file")),
    *(f"facade.{key}" for key in Facade.__struct_fields__),
    *(f"engine.{key}" for key in Engine.__struct_fields__),
}
NAMES = {"binance": ExchangeSettings(symbols=("A",), rest_url="https://a", ws_url="wss://a")}
TLS = Config(server=Server(certfile="c", keyfile="k"), exchanges=NAMES)
KEYS = [*KINDS, *(("exchanges", "binance", key) for key in EXCHANGE_KINDS)]


def other(value: Any) -> Any:
    """A value that is not this one."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case tuple():
            return value[:-1] if value else ("x",)
        case list():
            return ["https://x"]
    return "x"


@given(st.lists(st.sampled_from(KEYS), unique=True))
@settings(deadline=None)
def test_every_key_is_taken_over_or_said_to_wait(places: list[tuple[str, ...]]) -> None:
    """What waits is said again each time, until the restart."""
    new = TLS
    for section, *between, key in places:
        if between:
            new = of_binance(new, **{key: other(getattr(new.exchanges["binance"], key))})
        else:
            new = changed(new, section, **{key: other(getattr(getattr(new, section), key))})
    told, merged = difference(TLS, new)
    names = {".".join(place) for place in places}
    assert set(told.restart_needed) == names & RESTART
    assert set(told.changed) == names - RESTART
    again, same = difference(merged, new)
    assert (again.changed, again.restart_needed, same) == ([], told.restart_needed, merged)
    back, before = difference(merged, TLS)
    assert (back.restart_needed, before) == ([], TLS)


def test_what_cannot_be_loaded_or_applied_changes_nothing(config: Config) -> None:
    def broken(_: Server) -> Config:
        raise ConfigError("config.toml: server.port", "expected an integer")

    reloader = Reloader(broken)
    reloader.begin(config, lambda _: pytest.fail("was applied"))
    with pytest.raises(ConfigError, match=r"config\.toml: server\.port"):
        reloader.reload()
    assert (reloader.running, reloader.results) == (config, {"failed": 1})


# --- as an operator does it


async def logged(daemon: Process, event: str, count: int = 1) -> dict[str, Any]:
    await eventually(lambda: len(daemon.logged(event)) >= count, what=event)
    return daemon.logged(event)[count - 1]


async def test_a_signal_takes_over_a_new_symbol_and_a_mistake_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    async with (
        simulated(tmp_path) as sim,
        listening(cwd=tmp_path) as daemon,
        httpx.AsyncClient(base_url=daemon.url, timeout=WITHIN) as client,
    ):
        good = file.read_text()
        feeds = (await client.get("/health")).json()["feeds"]
        assert [feed["symbol"] for feed in feeds] == ["BTCUSDT"]
        file.write_text(good.replace('["BTCUSDT"]', '["BTCUSDT", "ETHUSDT"]').replace("port = 0", "port = 1"))
        daemon.process.send_signal(signal.SIGHUP)
        entry = await logged(daemon, "config.reloaded")
        assert (entry["changed"], entry["restart_needed"]) == (["exchanges.binance.symbols"], ["server.port"])

        async def states() -> dict[str, str]:
            return {feed["symbol"]: feed["state"] for feed in (await client.get("/health")).json()["feeds"]}

        with trio.fail_after(WITHIN):
            while (await states()).get("ETHUSDT") != "live":  # noqa: ASYNC110 (another process)
                await trio.sleep(0.1)
        assert sim.connections_total == 1

        file.write_text(good + "\n[nonsense]\n")
        daemon.process.send_signal(signal.SIGHUP)
        failed = await logged(daemon, "config.reload_failed")
        assert failed["reason"] == "config.toml: nonsense: unknown section"
        assert set(await states()) == {"BTCUSDT", "ETHUSDT"}

        file.write_text(good)
        daemon.process.send_signal(signal.SIGHUP)
        await logged(daemon, "config.reloaded", 2)
        with trio.fail_after(WITHIN):
            while set(await states()) != {"BTCUSDT"}:  # noqa: ASYNC110
                await trio.sleep(0.1)


# --- over HTTP


async def test_it_is_asked_for_by_those_who_may(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path)
    admin, reader = keys.add("admin"), keys.add("read")
    async with trio.open_nursery() as nursery:
        sim = await nursery.start(partial(simulator.serve, Market(assets=TWO, clock=Clock(START))))
        config = changed(configuration(sim, ["BTCUSDT"]), "auth", keys_file=str(keys.path))
        current: list[Config | None] = [changed(config, "limits", topics=7)]

        def read(_: Server) -> Config:
            if current[0] is None:
                raise ConfigError("config.toml: streams.intervals", "expected a list")
            return current[0]

        async with serving(config, fast(), Reloader(read)) as w:

            async def ask(key: str | None, **options: Any) -> httpx.Response:
                headers = {"X-API-Key": key} if key else {}
                return await w.client.post("/admin/reload", headers=headers, **options)

            assert (await ask(None)).json()["code"] == "unauthorized"
            assert (await ask(reader)).json()["code"] == "forbidden"
            assert (await ask(admin, content=b"{}")).status_code == 422
            done = await ask(admin)
            assert (done.status_code, done.json()) == (200, {"changed": ["limits.topics"], "restart_needed": []})
            assert (await ask(admin)).json() == {"changed": [], "restart_needed": []}
            current[0] = None
            failed = await ask(admin)
            assert (failed.status_code, failed.json()["code"]) == (422, "invalid_config")
            assert failed.json()["detail"] == "config.toml: streams.intervals: expected a list"
            assert (await w.client.get("/admin/reload", headers={"X-API-Key": admin})).status_code == 405
        nursery.cancel_scope.cancel()


async def test_spikes_that_stay_the_same_go_on() -> None:
    """A reload of something else costs no call of the exchange, and nothing that was learnt is lost."""
    async with trio.open_nursery() as nursery:
        sim = await nursery.start(partial(simulator.serve, Market(assets=TWO, clock=Clock(START))))
        config = changed(configuration(sim, ["BTCUSDT"]), "oi_vol", timeframes=("5m",))
        current = [config]
        reloader = Reloader(lambda _: current[0])
        async with serving(config, fast(), reloader) as w:

            def taught() -> list[str]:
                return [served.path for served in sim.requests if served.path.endswith("openInterestHist")]

            await eventually(lambda: len(taught()) == 1, what="history of open interest")
            await w.is_live()
            current[0] = changed(config, "limits", topics=7)
            reloader.reload()
            await trio.sleep(0.3)
            assert len(taught()) == 1
            current[0] = of_binance(current[0], symbols=("BTCUSDT", "ETHUSDT"))
            reloader.reload()
            await eventually(lambda: len(taught()) == 2, what="history of the new symbol's open interest")
            await trio.sleep(0.3)
            assert len(taught()) == 2
            current[0] = changed(current[0], "oi_vol", window=50)
            reloader.reload()
            await eventually(lambda: len(taught()) == 4, what="history of both, for another window")
        nursery.cancel_scope.cancel()


# --- 200 times under load


class Numbers:
    """One topic's numbers, as a client of `/ws` hears them."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.others: list[dict[str, Any]] = []

    async def follow(self, w: Served, *topics: str) -> None:
        async with w.stream("/ws") as stream:
            await stream.say({"op": "subscribe", "topics": list(topics)})
            while True:
                await trio.sleep(0.05)
                for frame in stream.frames[len(self.seen) + len(self.others) :]:
                    if "seq" in frame:
                        self.seen.append((frame["epoch"], frame["seq"]))
                    else:
                        self.others.append(frame)


async def test_random_reloads_under_load_leave_no_hole_in_any_clients_numbers() -> None:
    chance = random.Random(12)
    async with trio.open_nursery() as nursery:
        market = Market(assets=TWO, clock=Clock(START, rate=4.0))
        sim = await nursery.start(partial(simulator.serve, market))
        config = configuration(sim, ["BTCUSDT"])
        current = [config]
        reloader = Reloader(lambda _: current[0])
        # As slowly as the exchange wants it: it cuts those who ask too often.
        async with serving(config, fast(frames_per_second=8.0), reloader) as w:
            numbers = Numbers()
            w.nursery.start_soon(numbers.follow, w, "binance:BTCUSDT:trades")
            await eventually(lambda: len(numbers.seen) > 5, what="trades")
            begun = len(numbers.others)  # the answer to the command, and that the feed has become live
            for _ in range(200):
                made = of_binance(
                    config,
                    symbols=chance.choice([("BTCUSDT",), ("BTCUSDT", "ETHUSDT"), ("ETHUSDT", "BTCUSDT")]),
                    on_demand=chance.choice([True, False]),
                )
                made = changed(
                    made,
                    "streams",
                    intervals=chance.choice([("1m",), ("1m", "5m"), ("5m", "1m", "1h")]),
                    large_trade_threshold_usd=chance.choice([1000.0, 100_000.0]),
                    topics_per_client=chance.choice([1, 10, 1000]),
                    resume_seconds=chance.choice([1.0, 300.0]),
                )
                made = replace(made, limits=chance.choice([Limits(), Limits(topics=1, requests_per_second=1.0)]))
                made = changed(made, "log", level=chance.choice(["INFO", "WARNING"]))
                current[0] = made
                reloader.reload()
                await trio.sleep(chance.choice([0.0, 0.01, 0.03]))
            count = len(numbers.seen)
            await eventually(lambda: len(numbers.seen) > count + 5, what="trades afterwards")
            epochs = {epoch for epoch, _ in numbers.seen}
            seqs = [seq for _, seq in numbers.seen]
            assert len(epochs) == 1
            assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
            assert [(f["type"], f.get("state"), f.get("reason")) for f in numbers.others[begun:]] == []
            assert sim.connections_total == 1
            assert reloader.results == {"ok": 200}
        nursery.cancel_scope.cancel()
