"""Every exchange's simulator on loopback, and the daemon pointed at them: a look at the program without a network."""

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import trio

from actors.exchanges.exchange import Exchange
from actors.simulation.market import Market
from daemon import main
from daemon.settings import Config

SEED = 2026


async def run(
    config: Config,
    exchanges: Mapping[str, Exchange],
    *,
    stop: trio.Event,
    announce: Callable[[str], object],
    seed: int = SEED,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """The daemon against simulated exchanges that share one seeded market; `announce` gets the text for a person."""
    market = Market(seed=seed)
    # Invented history must not get into a real archive or a sink, and nothing is left behind.
    with TemporaryDirectory(prefix="marketd-demo-") as folder:
        async with trio.open_nursery() as simulators:
            settings = dict(config.exchanges)
            for name in [name for name in exchanges if settings[name].enabled]:
                simulator = importlib.import_module(f"actors.exchanges.{name}.simulator")
                running = await simulators.start(partial(simulator.serve, market))
                # A proxy, or another address of this machine, is no way to the loopback interface.
                way = {"proxy": None, "source_address": None, "ca_file": None}
                urls = {"rest_url": running.rest_url, "ws_url": running.ws_url}
                settings[name] = msgspec.structs.replace(settings[name], **urls, **way)
            archive = msgspec.structs.replace(config.archive, path=str(Path(folder) / "demo.db"))
            simulated = msgspec.structs.replace(config, exchanges=settings, archive=archive, sink=())
            async with trio.open_nursery() as nursery:
                url = await nursery.start(partial(main.run, simulated, exchanges, stop=stop))
                announce(welcome(url, simulated))
                task_status.started(url)
            simulators.cancel_scope.cancel()


def welcome(url: str, config: Config) -> str:
    """What a person may try next."""
    stream = url.replace("http", "ws", 1)
    running = {name: settings for name, settings in config.exchanges.items() if settings.enabled}
    name, settings = next(iter(running.items()), ("binance", None))
    symbol = next(iter(settings.symbols if settings else ()), "BTCUSDT")
    dashboard = f"\n  dashboard       {url}/" if config.server.dashboard else ""
    return f"""
marketd is running on simulated exchanges: prices are invented, everything else is real. Ctrl-C stops it.
{dashboard}
  documentation   {url}/docs   {url}/redoc
  health          curl {url}/health
  last 5 bars     curl '{url}/{name}/ohlc/{symbol}/1m?limit=5'
  funding         curl {url}/{name}/funding/{symbol}
  open interest   curl {url}/{name}/oi/{symbol}
  all streams     curl {url}/ws-catalog

  live bars       {stream}/ws/{name}/{symbol}/ohlc?interval=1m
  large trades    {stream}/ws/{name}/{symbol}/large_trades?min_value_usd=250000
  liquidations    {stream}/ws/all/liquidations

  Any WebSocket client will do: pip install websockets; python -m websockets '{stream}/ws/{name}/{symbol}/trades'

"""
