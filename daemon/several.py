"""One node among several, as it is configured: the engine's client, opened where there is one and never else."""

import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

import trio

from actors.archive.seen import with_sampled_interest
from actors.connector import Connector
from actors.engine.words import EngineUnfit, Kept
from actors.exchanges.exchange import Exchange, Supervise
from actors.mirror.connector import MirrorConnector, leader_for
from actors.mirror.ingests import Ingests, open_ingests
from actors.node import NameTaken, Node, NodeSettings, WrongLanes
from daemon.kinds import ConfigError
from daemon.settings import Config


@asynccontextmanager
async def open_node(
    config: Config, exchanges: Iterable[Exchange], supervised: Supervise, url: str
) -> AsyncIterator[Node | None]:
    """This node, which clients reach at `url`; None where the configuration names no engine. Raises ConfigError."""
    settings, streams = config.engine, config.streams
    if not settings.url:
        yield None
        return
    try:
        from actors.engine.remote import open_engine  # half a second of imports that one machine alone never needs
    except ImportError as error:
        raise ConfigError("engine.url", f"needs the extra `engine` (pip install 'marketd[engine]'): {error}") from None
    kept = Kept(streams.resume_seconds, streams.resume_frames, streams.history)
    name = settings.name or f"{socket.gethostname()}:{urlsplit(url).port or 0}"
    about = NodeSettings(
        role=settings.role,
        name=name,
        address=settings.address or address_of(url),
        lanes=settings.lanes,
        copies=settings.copies,
        seconds=settings.lease_seconds,
        flush=settings.flush_ms / 1000,
    )
    async with open_engine(settings.url, settings.prefix, kept, patience=settings.lease_seconds / 2) as engine:
        yield Node(engine, about, exchanges, supervised)


def address_of(url: str) -> str:
    """Where other nodes reach what listens at `url`: a wildcard is none of its names. "": nowhere, a Unix socket."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return ""
    if parts.hostname in ("0.0.0.0", "::"):
        return f"{parts.scheme}://{socket.gethostname()}:{parts.port}"
    return url


class Edge(NamedTuple):
    """What an edge has in the place of connectors."""

    connectors: Mapping[str, MirrorConnector]
    ingests: Ingests

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.ingests.run)
            for connector in self.connectors.values():
                nursery.start_soon(connector.run)


@asynccontextmanager
async def open_edge(config: Config, exchanges: Iterable[Exchange], node: Node | None) -> AsyncIterator[Edge | None]:
    """`exchanges`: as they are configured. None where this node has lines of its own."""
    if node is None or node.settings.role != "edge":
        yield None
        return
    kept = config.archive.keep if config.archive.enabled else ()  # by those that collect
    connectors: dict[str, MirrorConnector] = {}
    async with open_ingests(
        lambda: node.members.present,
        token=config.engine.token,
        ca_file=config.upstream.ca_file,
        first_for=partial(leader_for, connectors),
    ) as ingests:
        for exchange in exchanges:
            name = exchange.name
            connectors[name] = MirrorConnector(
                with_sampled_interest(exchange, kept),
                *(node.mirrors[name], node.engine, ingests),
                symbols=config.exchanges[name].symbols,
                supervise=node.supervise,
            )
        yield Edge(connectors, ingests)


async def run_node(node: Node, connectors: Mapping[str, Connector]) -> None:
    """Raises ConfigError where the engine cannot be used as it is, or as we are configured."""
    try:
        await node.run(connectors)
    except EngineUnfit as error:
        raise ConfigError("engine.url", str(error)) from None
    except NameTaken as error:
        raise ConfigError("engine.name", str(error)) from None
    except WrongLanes as error:
        raise ConfigError("engine.lanes", str(error)) from None
