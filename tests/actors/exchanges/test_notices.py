"""Maintenance that an exchange announces: logged once, and said where a feed is not live while it is on."""

from datetime import timedelta
from functools import partial

import pytest
import trio

from actors import clock
from actors.errors import UpstreamError
from actors.events import ms
from actors.exchanges import notices
from actors.exchanges.exchange import Notice
from actors.exchanges.notices import Notices
from actors.exchanges.okx.simulator import Options, serve
from actors.simulation.market import Clock, Market
from daemon import main
from daemon.settings import Archive, Config, ExchangeSettings, Server, Streams
from tests.actors.exchanges.fixtures import EXCHANGES, quick, running
from tests.daemon.fixtures import LOOK, START, SUPERVISION, TWO, captured_logs, eventually
from tests.patience import WITHIN

HOUR = timedelta(hours=1)


async def test_each_notice_is_logged_once_and_what_is_on_is_present(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr(notices, "EVERY", 0.01)
    now = clock.now()
    time = [now]
    later, endless = Notice("upgrade", now + HOUR, now + 2 * HOUR), Notice("trouble", now + 3 * HOUR, None)
    told = [[later, endless]]
    asked = [0]

    async def ask() -> list[Notice]:
        asked[0] += 1
        if not told[0]:
            raise UpstreamError("503")
        return told[0]

    known = Notices("toy", lambda: time[0])
    with captured_logs() as logs:
        async with trio.open_nursery() as own:
            own.start_soon(known.run, ask)
            await eventually(lambda: asked[0] > 3)
            assert known.present() is None, "it is only announced"
            time[0] = now + HOUR
            assert known.present() == f"maintenance: upgrade, until {now + 2 * HOUR:%Y-%m-%dT%H:%M:%SZ}"
            time[0] = now + 2 * HOUR
            assert known.present() is None
            time[0] = now + 4 * HOUR
            assert known.present() == "maintenance: trouble"
            own.cancel_scope.cancel()
        assert [entry["title"] for entry in logs if entry["event"] == "exchange.maintenance"] == ["upgrade", "trouble"]
    assert known.present() is None, "nobody asks any more"
    told[0] = []
    with pytest.raises(UpstreamError):
        await known.run(ask)


def row(title: str, state: str, begin: int, end: int, env: str = "1") -> dict[str, str]:
    return {"title": title, "state": state, "begin": str(begin), "end": str(end), "href": "", "env": env}


async def test_a_feed_that_is_down_says_what_its_exchange_announces() -> None:
    """By OKX's /system/status: not what is over, not what is to come, and not the demo's."""
    options = Options()
    hour = 3_600_000
    async with trio.open_nursery() as nursery:
        sim = await nursery.start(partial(serve, Market(assets=TWO, clock=Clock(START, rate=0)), options=options))
        now = ms(clock.now())
        options.maintenance[:] = [
            row("over", "completed", START - hour, now + 99 * hour),
            row("demo", "ongoing", START - hour, now + 99 * hour, env="2"),
            row("to come", "scheduled", now + 99 * hour, now + 100 * hour),
            row("Trading system upgrade", "ongoing", START - hour, now + 98 * hour),
        ]
        config = Config(
            server=Server(port=0),
            streams=Streams(intervals=("1m",)),
            supervision=SUPERVISION,
            archive=Archive(enabled=False),
            exchanges={
                "okx": ExchangeSettings(symbols=("BTC-USDT-SWAP",), rest_url=sim.rest_url, ws_url=sim.ws_url),
            },
        )
        async with running(partial(main.run, config, {"okx": quick(EXCHANGES["okx"])})) as served:

            async def reason(state: str) -> str | None:
                with trio.fail_after(WITHIN):
                    while True:
                        sim.market.clock.advance(500)
                        sim.tick()
                        feeds = (await served.client.get("/health")).json()["feeds"]
                        if feeds and feeds[0]["state"] == state:
                            told: str | None = feeds[0]["reason"]
                            return told
                        await trio.sleep(LOOK)

            assert await reason("live") is None
            await eventually(lambda: served.logged("exchange.maintenance"), WITHIN, "the notices")
            titles = {entry["title"] for entry in served.logged("exchange.maintenance")}
            assert titles == {"to come", "Trading system upgrade"}
            sim.faults.ws_accept = 503
            sim.drop()
            told = await reason("down")
            assert told is not None
            assert "; the exchange announces maintenance: Trading system upgrade, until " in told
            ready = (await served.client.get("/health/ready")).json()
            assert "Trading system upgrade" in ready["reasons"]["okx"]
        nursery.cancel_scope.cancel()
