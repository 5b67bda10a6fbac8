"""The one nursery: exchanges, fan-outs and the web server, started and stopped in order.

Nothing else starts actors. `run` is startable and reports the address once clients are accepted, so that tests run the
real program on port 0.
"""

import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio

from actors.archive.archive import EXPORTS, Archive
from actors.archive.series import KINDS
from actors.connector import Connector
from actors.events import Said, Topic
from actors.exchanges.exchange import Exchange, Supervise
from actors.facade.desk import Desk, Settings
from actors.feeds.everything import Everything
from actors.node import Node
from actors.recording.recorder import Recorded, Recorder
from actors.sinks.sinks import Sinks
from actors.spikes import Spikes
from actors.upstream.seam import Live, Upstream
from actors.upstream.way import Way
from daemon import descriptors
from daemon.kinds import ConfigError
from daemon.listening import listen, listen_at, remove_at_end
from daemon.log import LINES
from daemon.named import certificates_of
from daemon.notify import Notify
from daemon.reload import Parts, Policy, Reloaded, Reloader
from daemon.settings import Config, ExchangeSettings, Server, Supervision, is_loopback
from daemon.several import open_edge, open_node, run_node
from daemon.sinks import open_sinks
from daemon.supervisor import supervise
from web.access.auth import Auth
from web.access.clients import Clients, Seat
from web.access.hosts import Hosts
from web.access.keys import KeysError
from web.access.origins import Origins
from web.app import create_app, too_many_connections
from web.connectors import Connectors
from web.metrics import Metrics, ProcessCounts, Subjects
from web.pressure import Pressure
from web.problems import InvalidConfig
from web.rest.early import Early
from web.rest.spool import Spool
from web.server.connections import Limits as ServerLimits
from web.server.connections import ServerStatistics, serve
from web.server.forwarded import Proxies
from web.server.quiet import Quiet
from web.streams.fanouts import Fanouts
from web.streams.memory import Memory
from web.streams.multiplex import ClientLimits
from web.streams.topics import Sources

NOBODY = Notify()
GRACE = 8.0  # seconds from the wish to stop until whatever is left is cut off

log = structlog.get_logger()


def exchange_defaults(exchanges: Mapping[str, Exchange]) -> dict[str, ExchangeSettings]:
    """What the configuration starts from: each exchange's own facts."""
    return {
        name: ExchangeSettings(symbols=exchange.symbols, rest_url=exchange.rest_url, ws_url=exchange.ws_url)
        for name, exchange in exchanges.items()
    }


async def run(
    config: Config,
    exchanges: Mapping[str, Exchange],
    *,
    stop: trio.Event,
    upstream: Upstream | None = None,
    rng: random.Random | None = None,
    manager: Notify = NOBODY,
    reloader: Reloader | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the daemon until `stop` is set; reports the base URL when it listens.

    `upstream`: how exchanges are reached; None: as the configuration says. `rng`: the chance in the waits before a
    restart; None: the system's. `manager`: the service manager that is told.
    `reloader`: what a signal and `/admin/reload` use; None: the configuration stays.
    Raises CannotListen, and ConfigError where the engine of several nodes cannot be used.
    Ends within GRACE of the stop, whatever clients or exchanges do.
    """
    quiet, proxies = Quiet(), Proxies(config.server.trusted_proxies)
    slots = _slots(config, exchanges)
    auth = open_auth(config, slots=slots, may_log=quiet.allows)
    certificates = certificates_of(config.server)
    listeners, url = await listen(config.server, certificates)
    policy = Policy(config.supervision)
    supervised = with_policy(policy, rng)
    is_edge = config.engine.role == "edge"
    archive, recorder = (None, None) if is_edge else (open_archive(config), _recorder(config))
    sinks = None if is_edge else open_sinks(config)
    upstream = upstream or Live({name: way_of(settings) for name, settings in config.exchanges.items()})
    if recorder is not None:
        upstream = Recorded(upstream, recorder)
    everything = Everything()
    history, share = config.streams.history, config.engine.budget_share if config.engine.url else 1.0
    running = [
        as_configured(exchanges[name], settings, history).within(share)
        for name, settings in config.exchanges.items()
        if settings.enabled
    ]
    opening = open_node(config, running, supervised, url)
    async with opening as node, open_edge(config, running, node) as edge, trio.open_nursery() as keeping:
        also = _told(node, sinks)
        connectors = {}
        if not is_edge:
            connectors = _connectors(config, running, supervised, upstream, archive, everything, node, also)
        shared = {} if node is None or is_edge else node.shared(connectors)
        spikes = _spikes(config, connectors, supervised, node)
        everywhere = None if node is None else node.everywhere
        served = connectors if edge is None else edge.connectors
        sources = Sources(served, everything, spikes, shared, everywhere)
        if config.server.unix_socket:
            keeping.start_soon(remove_at_end, config.server.unix_socket)
        if certificates is not None:
            keeping.start_soon(certificates.watch)
        if archive is not None:  # it ends after those whose last words it keeps
            keeping.start_soon(supervised, "archive", archive.run)
        if sinks is not None:
            keeping.start_soon(sinks.run, supervised)
        async with trio.open_nursery() as nursery:
            if recorder is not None:
                nursery.start_soon(partial(supervised, "record", recorder.run))
            nursery.start_soon(_limit_stop, stop, nursery.cancel_scope, manager)
            for connector in connectors.values():
                nursery.start_soon(connector.run)
            if edge is not None:
                nursery.start_soon(edge.run)
            nursery.start_soon(sources.spikes.run)
            if node is not None:
                node.on_change = sources.spikes.update
                nursery.start_soon(run_node, node, connectors)
            streams, origins = config.streams, Origins(config.server.cors_origins)
            memory = Memory(streams.resume_frames, streams.resume_seconds, streams.resume_bytes)
            limits = ClientLimits(streams.topics_per_client, streams.commands_per_second)
            pressure = Pressure(config.limits.memory_mb)
            nursery.start_soon(pressure.run)
            fanouts = Fanouts(nursery, supervised, sources, memory, pressure)
            desks = open_desks(config, connectors, supervised)
            for name, desk in desks.items():
                nursery.start_soon(partial(supervised, "facade", desk.run, exchange=name))
            hosts = _hosts(config.server)
            front: Any = {"hosts": hosts, "root_path": config.server.root_path, "sinks": sinks}
            if node is not None:
                front["engine"] = node.report
            statistics = ServerStatistics()
            loader = reloader or Reloader(lambda _: config)
            process = ProcessCounts(LINES, loader.results, lambda: loader.reloaded_at)
            subjects = Subjects(
                *(sources.connectors, fanouts, auth, fanouts.counts, statistics, process, slots),
                desks=desks,
                symbols=lambda: loader.running.metrics.symbols,
                node=node,
                sinks=sinks,
                ingests=None if edge is None else edge.ingests,
            )
            metrics = Metrics(subjects) if config.metrics.enabled else None
            page = None if config.metrics.listen else metrics
            app = create_app(
                fanouts,
                auth,
                client_limits=limits,
                desks=desks,
                metrics=page,
                cors_origins=origins,
                reload=partial(_reload, loader),
                spool=Spool(fanouts.nursery, megabytes=config.export.spool_mb, files=config.export.spool_files),
                dashboard=config.server.dashboard,
                elsewhere=node.elsewhere if node is not None and node.settings.role == "ingest" else None,
                ingests=None if edge is None else edge.ingests,
                **front,
            )
            early = Early(app, sources.connectors, auth, counts=fanouts.counts, origins=origins, **front)
            parts = Parts(
                *(connectors, sources.spikes, archive, fanouts, auth, early, hosts, origins, proxies, certificates),
                *(limits, policy, pressure, node),
            )
            loader.begin(config, parts.take)
            nursery.start_soon(auth.watch)
            if metrics is not None:
                nursery.start_soon(metrics.watch)
            nursery.start_soon(_stop_streams, stop, fanouts)
            async with trio.open_nursery() as web:
                admit = partial(_admit, auth.clients, proxies)
                server = partial(serve, stop=stop, early=early.answer, admit=admit, too_many=too_many_connections())
                server = partial(server, statistics=statistics)
                bounds = ServerLimits(connections=slots)
                await web.start(
                    partial(server, app, listeners, proxies=proxies, quiet=quiet, limits=bounds, statistics=statistics)
                )
                if metrics is not None and config.metrics.listen:
                    await web.start(partial(serve, metrics.serve, await listen_at(config.metrics.listen), stop=stop))
                log.info("web.listening", url=url)
                manager.tell("READY=1")
                nursery.start_soon(manager.watch, partial(_status, sources.connectors, auth.clients))
                task_status.started(url)
            nursery.cancel_scope.cancel()
        keeping.cancel_scope.cancel()
    log.info("daemon.stopped")


def way_of(settings: ExchangeSettings) -> Way:
    return Way(settings.proxy or None, settings.source_address or None, settings.ca_file)


def _slots(config: Config, exchanges: Mapping[str, Exchange]) -> int:
    """How many connections of clients there may be. Raises CannotListen."""
    descriptors.raise_limit()
    running = {name: settings for name, settings in config.exchanges.items() if settings.enabled}
    upstream = [(len(settings.symbols), exchanges[name].limits.topics) for name, settings in running.items()]
    return descriptors.clients_left(upstream, exports=EXPORTS)


def _hosts(server: Server) -> Hosts:
    return Hosts(server.allowed_hosts, bind=server.host if server.port >= 0 else None)


def open_auth(config: Config, *, slots: int, may_log: Callable[[str], bool]) -> Auth:
    """Who may do what. Raises ConfigError where the file of keys cannot be used."""
    server, settings, is_local = config.server, config.auth, is_loopback(config.server)
    if not is_local and "read" in settings.anonymous:
        log.info("web.open_to_all", detail="whoever reaches this address may read; see auth.anonymous")
    try:
        return Auth(
            Clients(config.limits, slots=slots),
            anonymous=settings.anonymous,
            keys_file=Path(settings.keys_file),
            token_in_query=settings.token_in_query,
            in_clear=not (is_local or server.certfile or server.trusted_proxies),
            may_log=may_log,
        )
    except KeysError as error:
        raise ConfigError("auth.keys_file", str(error)) from None


def _admit(clients: Clients, proxies: Proxies, address: str) -> Seat | None:
    return clients.seat(address, is_proxy=proxies.trusts(address))


def _status(connectors: Connectors, clients: Clients) -> str:
    """What a service manager shows."""
    live = sum(connector.is_live for connector in connectors.values())
    return f"{live}/{len(connectors)} exchanges live, {clients.present()} clients"


async def _stop_streams(stop: trio.Event, fanouts: Fanouts) -> None:
    await stop.wait()
    fanouts.stop()


def open_archive(config: Config) -> Archive | None:
    """The archive that is configured; it opens its file when it runs."""
    settings = config.archive
    if not settings.enabled:
        return None
    days = {kind: getattr(settings, f"{kind}_days") for kind in KINDS}
    return Archive(Path(settings.path), keep=[kind for kind in KINDS if kind in settings.keep], days=days)


def open_desks(config: Config, connectors: Mapping[str, Connector], supervised: Supervise) -> dict[str, Desk]:
    """What answers in the dialects of the exchanges that run, where it is not switched off."""
    told = config.facade
    settings = Settings(told.passthrough, told.relay, told.rows_mb, told.share)
    return {
        name: Desk(connector.exchange.facade, connector, settings, supervised)
        for name, connector in connectors.items()
        if told.enabled and connector.exchange.facade is not None
    }


async def _limit_stop(stop: trio.Event, scope: trio.CancelScope, manager: Notify) -> None:
    await stop.wait()
    manager.tell("STOPPING=1")
    log.info("daemon.stopping")
    scope.deadline = trio.current_time() + GRACE


def collected(config: Config) -> dict[str, Any]:
    """What of the configuration decides what is collected, and what events are made of it; no URL among it."""
    chosen = {name: getattr(config, name) for name in ("streams", "oi_vol", "supervision")}
    exchanges = {
        name: {"symbols": settings.symbols, "on_demand": settings.on_demand}
        for name, settings in config.exchanges.items()
        if settings.enabled
    }
    tree: dict[str, Any] = msgspec.to_builtins(chosen | {"exchanges": exchanges})
    return tree


def _recorder(config: Config) -> Recorder | None:
    if config.record.path is None:
        return None
    return Recorder(Path(config.record.path), collected(config), part_bytes=config.record.part_mb * 1_000_000)


def _reload(reloader: Reloader) -> Reloaded:
    try:
        return reloader.reload()
    except ConfigError as error:
        raise InvalidConfig(str(error)) from None


def with_policy(settings: Supervision | Policy, rng: random.Random | None = None) -> Supervise:
    """The supervisor, bound to the configured policy."""
    policy = settings if isinstance(settings, Policy) else Policy(settings)
    chance = {} if rng is None else {"rng": rng}

    async def supervised(
        name: str,
        run: Callable[[], Awaitable[None]],
        *,
        on_change: Callable[[Any], None] | None = None,
        **context: object,
    ) -> None:
        await supervise(name, run, policy.present, on_change=on_change, context=context, **chance)

    return supervised


def as_configured(exchange: Exchange, settings: ExchangeSettings, history: int) -> Exchange:
    """The exchange as far as it is wanted."""
    exchange = replace(exchange, history=min(exchange.history, history))
    if settings.liquidations:
        return exchange
    capabilities = {**exchange.capabilities, "liquidations": False}
    return replace(exchange, capabilities=capabilities, pushed=exchange.pushed - {"liquidations"})


def _told(node: Node | None, sinks: Sinks | None) -> Callable[[str], Callable[[Topic, Said], None] | None]:
    """Who is told all that the feeds of an exchange say. Of several nodes the one that leads a lane feeds the sinks."""
    if node is None:
        return lambda exchange: None if sinks is None else sinks.take
    if sinks is not None:
        node.write_to(sinks.take_said)
    return node.also


def _connectors(
    config: Config,
    exchanges: Iterable[Exchange],
    supervised: Supervise,
    upstream: Upstream,
    archive: Archive | None,
    everything: Everything,
    node: Node | None,
    also: Callable[[str], Callable[[Topic, Said], None] | None],
) -> dict[str, Connector]:
    """Of the exchanges as they are configured. `everything`: the streams over all of them.

    With a node it tells those, and feeds tell the node.
    """
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
            upstream=upstream,
            archive=archive,
            upstream_share=config.limits.upstream_share,
        )
        for exchange in exchanges
        for settings in (config.exchanges[exchange.name],)
    }


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
