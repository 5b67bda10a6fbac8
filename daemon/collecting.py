"""What collects, made of the configuration: exchanges as far as they are wanted, connectors, who keeps what they say.

Law: nothing here waits or runs by itself; `daemon.main` says when it starts, and in which nursery.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import trio

from actors.archive.archive import Archive
from actors.archive.series import KINDS, ArchiveKind
from actors.connector import Connector
from actors.events import Said, Topic
from actors.exchanges.exchange import Exchange, Supervise
from actors.feeds.everything import Everything
from actors.node import Node
from actors.recording.recorder import Recorded, Recorder
from actors.sinks.sinks import Sinks
from actors.spikes import Spikes
from actors.upstream.seam import Live, Upstream
from actors.upstream.way import Way
from daemon.settings import Archive as ArchiveSettings
from daemon.settings import Config, ExchangeSettings
from daemon.several import Edge, run_node
from daemon.sinks import open_sinks
from web.streams.topics import Sources


def exchange_defaults(exchanges: Mapping[str, Exchange]) -> dict[str, ExchangeSettings]:
    """What the configuration starts from: each exchange's own facts."""
    return {
        name: ExchangeSettings(symbols=exchange.symbols, rest_url=exchange.rest_url, ws_url=exchange.ws_url)
        for name, exchange in exchanges.items()
    }


def wanted(config: Config, exchanges: Mapping[str, Exchange]) -> list[Exchange]:
    """Those that are not switched off, as they are configured, within this node's share of their budgets."""
    history, share = config.streams.history, config.engine.budget_share if config.engine.url else 1.0
    return [
        as_configured(exchanges[name], settings, history).within(share)
        for name, settings in config.exchanges.items()
        if settings.enabled
    ]


def as_configured(exchange: Exchange, settings: ExchangeSettings, history: int) -> Exchange:
    """The exchange as far as it is wanted."""
    exchange = replace(exchange, history=min(exchange.history, history))
    if settings.liquidations:
        return exchange
    capabilities = {**exchange.capabilities, "liquidations": False}
    return replace(exchange, capabilities=capabilities, pushed=exchange.pushed - {"liquidations"})


def way_of(settings: ExchangeSettings) -> Way:
    return Way(settings.proxy or None, settings.source_address or None, settings.ca_file)


# --- who keeps what is collected


class Keepers(NamedTuple):
    """None of them where the configuration names none, and on an edge: those that collect have them."""

    archive: Archive | None = None
    recorder: Recorder | None = None
    sinks: Sinks | None = None

    def start(self, nursery: trio.Nursery, supervised: Supervise) -> None:
        """Those that keep the last words of what collects, and so end after it."""
        if self.archive is not None:
            nursery.start_soon(supervised, "archive", self.archive.run)
        if self.sinks is not None:
            nursery.start_soon(self.sinks.run, supervised)


def open_keepers(config: Config) -> Keepers:
    """Raises ConfigError."""
    if config.engine.role == "edge":
        return Keepers()
    return Keepers(open_archive(config), _recorder(config), open_sinks(config))


def open_archive(config: Config) -> Archive | None:
    """The archive that is configured; it opens its file when it runs."""
    settings = config.archive
    if not settings.enabled:
        return None
    return Archive(Path(settings.path), keep=_kinds(settings), days=_days(settings))


def _kinds(settings: ArchiveSettings) -> list[ArchiveKind]:
    return [kind for kind in KINDS if kind in settings.keep]


def _days(settings: ArchiveSettings) -> dict[ArchiveKind, float]:
    return {kind: getattr(settings, f"{kind}_days") for kind in KINDS}


def _recorder(config: Config) -> Recorder | None:
    if config.record.path is None:
        return None
    return Recorder(Path(config.record.path), _collected(config), part_bytes=config.record.part_mb * 1_000_000)


def _collected(config: Config) -> dict[str, Any]:
    """What of the configuration decides what is collected, and what events are made of it; no URL among it."""
    chosen = {name: getattr(config, name) for name in ("streams", "oi_vol", "supervision")}
    exchanges = {
        name: {"symbols": settings.symbols, "on_demand": settings.on_demand}
        for name, settings in config.exchanges.items()
        if settings.enabled
    }
    tree: dict[str, Any] = msgspec.to_builtins(chosen | {"exchanges": exchanges})
    return tree


# --- what collects


class Collecting(NamedTuple):
    """`connectors`: those with lines of their own, none on an edge. `sources`: what clients of this node read from."""

    connectors: Mapping[str, Connector]
    sources: Sources
    keepers: Keepers
    node: Node | None
    edge: Edge | None

    def start(self, nursery: trio.Nursery, supervised: Supervise) -> None:
        """All that collects; it runs until the nursery is cancelled."""
        if self.keepers.recorder is not None:
            nursery.start_soon(partial(supervised, "record", self.keepers.recorder.run))
        for connector in self.connectors.values():
            nursery.start_soon(connector.run)
        if self.edge is not None:
            nursery.start_soon(self.edge.run)
        nursery.start_soon(self.sources.spikes.run)
        if self.node is not None:
            nursery.start_soon(run_node, self.node, self.connectors)

    def change(self, config: Config) -> None:
        """Collect by this configuration from now on."""
        watch, node, archive = config.oi_vol, self.node, self.keepers.archive
        for name, connector in self.connectors.items():
            settings = config.exchanges[name]
            connector.change(
                symbols=settings.symbols if node is None else node.collect(name, settings.symbols),
                on_demand=settings.on_demand,
                intervals=config.streams.intervals,
                large_trade_threshold_usd=config.streams.large_trade_threshold_usd,
                upstream_share=config.limits.upstream_share,
            )
        self.sources.spikes.change(
            timeframes=watch.timeframes, window=watch.window, threshold=watch.z_threshold, symbols=watch.symbols
        )
        if archive is not None:
            archive.change(keep=_kinds(config.archive), days=_days(config.archive))


def make_collecting(
    config: Config,
    exchanges: Iterable[Exchange],
    keepers: Keepers,
    supervised: Supervise,
    *,
    node: Node | None,
    edge: Edge | None,
    upstream: Upstream | None,
) -> Collecting:
    """`exchanges`: those that are wanted. `upstream`: how they are reached; None: as the configuration says."""
    is_replayed = upstream is not None
    upstream = upstream or Live({name: way_of(settings) for name, settings in config.exchanges.items()})
    if keepers.recorder is not None:
        upstream = Recorded(upstream, keepers.recorder)
    everything = Everything()
    connectors: dict[str, Connector] = {}
    if edge is None:
        is_wanted = _always_wanted(keepers, is_replayed=is_replayed)
        connectors = _connectors(config, exchanges, supervised, upstream, keepers, everything, node, is_wanted)
    spikes = _spikes(config, connectors, supervised, node)
    if node is None:
        sources = Sources(connectors, everything, spikes)
    else:
        node.on_change = spikes.update
        served = connectors if edge is None else edge.connectors
        sources = Sources(served, everything, spikes, node.shared(connectors), node.everywhere)
    return Collecting(connectors, sources, keepers, node, edge)


def _connectors(
    config: Config,
    exchanges: Iterable[Exchange],
    supervised: Supervise,
    upstream: Upstream,
    keepers: Keepers,
    everything: Everything,
    node: Node | None,
    always_wanted: Callable[[Topic], bool],
) -> dict[str, Connector]:
    """Of the exchanges as they are configured. `everything`: the streams over all of them.

    With a node it tells those, and feeds tell the node.
    """
    also = _told(node, keepers.sinks)
    return {
        exchange.name: Connector(
            exchange,
            symbols=settings.symbols if node is None else node.collect(exchange.name, settings.symbols),
            on_demand=settings.on_demand,
            rest_url=settings.rest_url,
            ws_url=settings.ws_url,
            intervals=config.streams.intervals,
            large_trade_threshold_usd=config.streams.large_trade_threshold_usd,
            supervise=supervised,
            everything=everything if node is None else None,
            also=also(exchange.name),
            always_wanted=always_wanted,
            upstream=upstream,
            archive=keepers.archive,
            upstream_share=config.limits.upstream_share,
        )
        for exchange in exchanges
        for settings in (config.exchanges[exchange.name],)
    }


def _always_wanted(keepers: Keepers, *, is_replayed: bool) -> Callable[[Topic], bool]:
    """Which topics are wanted whoever reads. A recording and its replay ask the same, whoever reads either."""
    if is_replayed or keepers.recorder is not None:
        return lambda topic: True
    return keepers.sinks.want if keepers.sinks is not None else lambda topic: False


def _told(node: Node | None, sinks: Sinks | None) -> Callable[[str], Callable[[Topic, Said], None] | None]:
    """Who is told all that the feeds of an exchange say. Of several nodes the one that leads a lane feeds the sinks."""
    if node is None:
        return lambda exchange: None if sinks is None else sinks.take
    if sinks is not None:
        node.write_to(sinks.take_said)
    return node.also


def _spikes(config: Config, connectors: Mapping[str, Connector], supervised: Supervise, node: Node | None) -> Spikes:
    watch = config.oi_vol
    return Spikes(
        connectors,
        timeframes=watch.timeframes,
        window=watch.window,
        threshold=watch.z_threshold,
        symbols=watch.symbols,
        supervise=supervised,
        also=None if node is None else node.take,
    )
