"""What meets clients, made of the configuration: the door where they come in, and the front that answers behind it.

Law: as in `daemon.collecting`; clients are accepted when `daemon.main` says so, and not before.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import structlog
import trio
from quart_trio import QuartTrio

from actors.archive.archive import EXPORTS
from actors.connector import Connector
from actors.exchanges.exchange import Exchange, Supervise
from actors.facade.desk import Desk, Settings
from daemon import descriptors
from daemon.collecting import Collecting
from daemon.kinds import ConfigError
from daemon.listening import listen, listen_at, remove_at_end
from daemon.log import LINES
from daemon.named import certificates_of, change_certificates, keys_of
from daemon.reload import Reloaded, Reloader
from daemon.settings import Config, Server, Streams, is_loopback
from web.access.auth import Auth
from web.access.clients import Clients, Seat
from web.access.hosts import Hosts
from web.access.keys import Key, KeysError
from web.access.origins import Origins
from web.app import create_app, too_many_connections
from web.metrics.page import Metrics
from web.metrics.subjects import ProcessCounts, Subjects
from web.pressure import Pressure
from web.problems import InvalidConfig
from web.rest.early import Early
from web.rest.spool import Spool
from web.server.accepting import Listener
from web.server.connections import Limits as ServerLimits
from web.server.connections import ServerStatistics, serve
from web.server.forwarded import Proxies
from web.server.quiet import Quiet
from web.server.tls import Certificates
from web.streams.fanouts import Fanouts
from web.streams.memory import Memory
from web.streams.multiplex import ClientLimits

log = structlog.get_logger()


# --- the door


class Door(NamedTuple):
    """Where clients come in, and which of them may. It is bound, and nobody is accepted yet."""

    slots: int  # connections that there may be
    auth: Auth
    hosts: Hosts
    origins: Origins
    proxies: Proxies
    quiet: Quiet
    certificates: Certificates | None
    listeners: list[Listener]
    url: str
    unix_socket: str  # "": none

    def start(self, nursery: trio.Nursery) -> None:
        """What keeps it as it should be, for as long as anybody may be there."""
        if self.unix_socket:
            nursery.start_soon(remove_at_end, self.unix_socket)
        if self.certificates is not None:
            nursery.start_soon(self.certificates.watch)

    def admit(self, address: str) -> Seat | None:
        """A place for a connection from this address; None: there is none."""
        return self.auth.clients.seat(address, is_proxy=self.proxies.trusts(address))

    def read_files(self, config: Config) -> dict[str, Key]:
        """The keys, and certificates that are used at once. Raises ConfigError, and nothing has changed."""
        keys = keys_of(config.auth)
        if self.certificates is not None and config.server.certfile is not None:
            change_certificates(self.certificates, config.server)
        return keys

    def change(self, config: Config, keys: dict[str, Key]) -> None:
        """Admit by this configuration, and the keys that were read with it, from now on."""
        server, settings = config.server, config.auth
        self.auth.change(config.limits, anonymous=settings.anonymous, token_in_query=settings.token_in_query)
        self.auth.keys_file = Path(settings.keys_file)
        self.auth.adopt(keys)
        self.hosts.change(server.allowed_hosts)
        self.origins.change(server.cors_origins)
        self.proxies.change(server.trusted_proxies)


async def open_door(config: Config, exchanges: Mapping[str, Exchange]) -> Door:
    """Raises CannotListen, and ConfigError where the files of keys or certificates cannot be used."""
    server, quiet = config.server, Quiet()
    slots = _slots(config, exchanges)
    auth = _auth(config, slots, quiet)
    certificates = certificates_of(server)
    listeners, url = await listen(server, certificates)
    return Door(
        slots=slots,
        auth=auth,
        hosts=_hosts(server),
        origins=Origins(server.cors_origins),
        proxies=Proxies(server.trusted_proxies),
        quiet=quiet,
        certificates=certificates,
        listeners=listeners,
        url=url,
        unix_socket=server.unix_socket,
    )


def _slots(config: Config, exchanges: Mapping[str, Exchange]) -> int:
    """How many connections of clients there may be. Raises CannotListen."""
    descriptors.raise_limit()
    running = {name: settings for name, settings in config.exchanges.items() if settings.enabled}
    upstream = [(len(settings.symbols), exchanges[name].limits.topics) for name, settings in running.items()]
    return descriptors.clients_left(upstream, exports=EXPORTS)


def _hosts(server: Server) -> Hosts:
    return Hosts(server.allowed_hosts, bind=server.host if server.port >= 0 else None)


def _auth(config: Config, slots: int, quiet: Quiet) -> Auth:
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
            may_log=quiet.allows,
        )
    except KeysError as error:
        raise ConfigError("auth.keys_file", str(error)) from None


# --- the front


class Front(NamedTuple):
    """What answers those who came in."""

    door: Door
    app: QuartTrio
    early: Early
    fanouts: Fanouts
    pressure: Pressure
    client_limits: ClientLimits
    desks: Mapping[str, Desk]
    statistics: ServerStatistics
    metrics: Metrics | None
    metrics_at: str  # an address of their own; "": none

    def start(self, nursery: trio.Nursery, supervised: Supervise) -> None:
        """What is to run before anybody is accepted, and as long as anybody is there."""
        nursery.start_soon(self.pressure.run)
        for name, desk in self.desks.items():
            nursery.start_soon(partial(supervised, "facade", desk.run, exchange=name))
        nursery.start_soon(self.door.auth.watch)
        if self.metrics is not None:
            nursery.start_soon(self.metrics.watch)

    async def accept(self, nursery: trio.Nursery, stop: trio.Event) -> None:
        """Accept clients, in this nursery, until `stop`; returns once they are. Raises CannotListen."""
        door = self.door
        server = partial(serve, stop=stop, early=self.early.answer, admit=door.admit, too_many=too_many_connections())
        server = partial(server, limits=ServerLimits(connections=door.slots), statistics=self.statistics)
        await nursery.start(partial(server, self.app, door.listeners, proxies=door.proxies, quiet=door.quiet))
        if self.metrics is not None and self.metrics_at:
            await nursery.start(partial(serve, self.metrics.serve, await listen_at(self.metrics_at), stop=stop))

    def change(self, config: Config, keys: dict[str, Key]) -> None:
        """Answer by this configuration from now on. `keys`: see Door."""
        streams = config.streams
        self.fanouts.change(_memory(streams))
        self.pressure.set_limit(config.limits.memory_mb)
        self.client_limits.topics = streams.topics_per_client
        self.client_limits.commands_per_second = streams.commands_per_second
        self.door.change(config, keys)
        self.early.forget()


def make_front(
    nursery: trio.Nursery,
    config: Config,
    door: Door,
    collecting: Collecting,
    supervised: Supervise,
    loader: Reloader,
) -> Front:
    """`nursery`: where topics that clients follow are read. `loader`: what `/admin/reload` uses."""
    sources, node, edge, sinks = collecting.sources, collecting.node, collecting.edge, collecting.keepers.sinks
    auth, origins, streams = door.auth, door.origins, config.streams
    ingests = None if edge is None else edge.ingests
    limits = ClientLimits(streams.topics_per_client, streams.commands_per_second)
    pressure, statistics = Pressure(config.limits.memory_mb), ServerStatistics()
    fanouts = Fanouts(nursery, supervised, sources, _memory(streams), pressure)
    desks = _desks(config, collecting.connectors, supervised)
    process = ProcessCounts(LINES, loader.results, lambda: loader.reloaded_at)
    subjects = Subjects(
        *(sources.connectors, fanouts, auth, fanouts.counts, statistics, process, door.slots),
        desks=desks,
        symbols=lambda: loader.running.metrics.symbols,
        node=node,
        sinks=sinks,
        ingests=ingests,
    )
    metrics = Metrics(subjects) if config.metrics.enabled else None
    engine = None if node is None else node.report
    both: Any = {"hosts": door.hosts, "root_path": config.server.root_path, "engine": engine, "sinks": sinks}
    app = create_app(
        fanouts,
        auth,
        client_limits=limits,
        desks=desks,
        metrics=None if config.metrics.listen else metrics,
        cors_origins=origins,
        reload=partial(_reload, loader),
        spool=Spool(nursery, megabytes=config.export.spool_mb, files=config.export.spool_files),
        dashboard=config.server.dashboard,
        elsewhere=node.elsewhere if node is not None and node.settings.role == "ingest" else None,
        ingests=ingests,
        **both,
    )
    early = Early(app, sources.connectors, auth, counts=fanouts.counts, origins=origins, **both)
    return Front(
        door=door,
        app=app,
        early=early,
        fanouts=fanouts,
        pressure=pressure,
        client_limits=limits,
        desks=desks,
        statistics=statistics,
        metrics=metrics,
        metrics_at=config.metrics.listen,
    )


def _memory(streams: Streams) -> Memory:
    return Memory(streams.resume_frames, streams.resume_seconds, streams.resume_bytes)


def _desks(config: Config, connectors: Mapping[str, Connector], supervised: Supervise) -> dict[str, Desk]:
    """What answers in the dialects of the exchanges that run, where it is not switched off."""
    told = config.facade
    settings = Settings(told.passthrough, told.relay, told.rows_mb, told.share)
    return {
        name: Desk(connector.exchange.facade, connector, settings, supervised)
        for name, connector in connectors.items()
        if told.enabled and connector.exchange.facade is not None
    }


def _reload(reloader: Reloader) -> Reloaded:
    try:
        return reloader.reload()
    except ConfigError as error:
        raise InvalidConfig(str(error)) from None
