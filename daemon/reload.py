"""The configuration read anew while the daemon runs: checked whole, then taken over without dropping anybody.

Anything wrong: nothing changes. What only a start can change is told, and stays as it is until then.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog
from msgspec import Struct

from actors.archive.archive import Archive
from actors.archive.series import KINDS
from actors.connector import Connector
from actors.node import Node
from actors.spikes import Spikes
from daemon import log as log_settings
from daemon.kinds import ConfigError
from daemon.named import change_certificates, keys_of
from daemon.settings import Config, Server, Supervision
from daemon.supervisor import RestartPolicy
from web.access.auth import Auth
from web.access.hosts import Hosts
from web.access.origins import Origins
from web.pressure import Pressure
from web.rest.early import Early
from web.server.forwarded import Proxies
from web.server.tls import Certificates
from web.streams.fanouts import Fanouts
from web.streams.memory import Memory
from web.streams.multiplex import ClientLimits

NEEDS_RESTART = (
    *("server.host", "server.port", "server.unix_socket", "server.root_path", "server.dashboard"),
    *("exchanges.*.enabled", "exchanges.*.rest_url", "exchanges.*.ws_url", "exchanges.*.liquidations"),
    *("exchanges.*.proxy", "exchanges.*.source_address", "exchanges.*.ca_file", "upstream.*"),
    *("archive.enabled", "archive.path", "record.*", "export.*", "metrics.enabled", "metrics.listen"),
    *("streams.history", "facade.*", "engine.*", "sink"),
)
"""Keys that hold for as long as the process runs, as patterns."""

log = structlog.get_logger()


class Reloaded(Struct, frozen=True):
    """Dotted keys: those that are taken over, and those that differ from what runs until it is started again."""

    changed: list[str]
    restart_needed: list[str]


class Reloader:
    """`load` gives the configuration as it is now for a daemon that listens where it does, or raises ConfigError."""

    def __init__(self, load: Callable[[Server], Config]) -> None:
        self._load = load
        self.running: Config
        self._has_begun = False
        self._apply: Callable[[Config], None] = lambda config: None
        self.results: Counter[str] = Counter()
        self.reloaded_at = time.time()  # Unix seconds

    def begin(self, running: Config, apply: Callable[[Config], None]) -> None:
        """From now on there is something to reload. `apply` takes over a configuration; ConfigError: it cannot."""
        self.running, self._apply = running, apply
        self._has_begun = True

    def reload(self) -> Reloaded:
        """Take over what is new. Raises ConfigError, and nothing has changed."""
        if not self._has_begun:  # it is only starting: what it has just read is new enough
            return Reloaded([], [])
        try:
            new = self._load(self.running.server)
            told, merged = difference(self.running, new)
            self._apply(merged)
        except ConfigError as error:
            self.results["failed"] += 1
            log.error("config.reload_failed", reason=str(error))
            raise
        self.running = merged
        self.results["ok"] += 1
        self.reloaded_at = time.time()
        log.info("config.reloaded", changed=told.changed, restart_needed=told.restart_needed)
        return told


class Policy:
    """When supervised tasks are run again, as it is configured now."""

    def __init__(self, settings: Supervision) -> None:
        self.change(settings)

    def change(self, settings: Supervision) -> None:
        self._policy = RestartPolicy(
            delay=settings.reconnect_delay,
            max_delay=settings.max_reconnect_delay,
            max_attempts=settings.max_reconnect_attempts,
            stable_after=settings.stable_after,
        )

    def present(self) -> RestartPolicy:
        return self._policy


class Parts(NamedTuple):
    """Everything that a configuration may change while it runs."""

    connectors: Mapping[str, Connector]
    spikes: Spikes
    archive: Archive | None
    fanouts: Fanouts
    auth: Auth
    early: Early
    hosts: Hosts
    origins: Origins
    proxies: Proxies
    certificates: Certificates | None
    client_limits: ClientLimits
    policy: Policy
    pressure: Pressure
    node: Node | None

    def take(self, config: Config) -> None:
        """Run by this configuration from now on. Raises ConfigError, and nothing has changed."""
        server, streams, watch = config.server, config.streams, config.oi_vol
        keys = keys_of(config.auth)
        if self.certificates is not None and server.certfile is not None:
            change_certificates(self.certificates, server)
        # From here on nothing can fail.
        log_settings.configure(config.log.level, config.log.format)
        self.policy.change(config.supervision)
        for name, connector in self.connectors.items():
            settings = config.exchanges[name]
            connector.change(
                symbols=settings.symbols if self.node is None else self.node.collect(name, settings.symbols),
                on_demand=settings.on_demand,
                intervals=streams.intervals,
                large_trade_threshold_usd=streams.large_trade_threshold_usd,
                upstream_share=config.limits.upstream_share,
            )
        self.spikes.change(
            timeframes=watch.timeframes, window=watch.window, threshold=watch.z_threshold, symbols=watch.symbols
        )
        if self.archive is not None:
            days = {kind: getattr(config.archive, f"{kind}_days") for kind in KINDS}
            self.archive.change(keep=[kind for kind in KINDS if kind in config.archive.keep], days=days)
        self.fanouts.change(Memory(streams.resume_frames, streams.resume_seconds, streams.resume_bytes))
        self.pressure.set_limit(config.limits.memory_mb)
        self.client_limits.topics = streams.topics_per_client
        self.client_limits.commands_per_second = streams.commands_per_second
        anonymous, token_in_query = config.auth.anonymous, config.auth.token_in_query
        self.auth.change(config.limits, anonymous=anonymous, token_in_query=token_in_query)
        self.auth.keys_file = Path(config.auth.keys_file)
        self.auth.adopt(keys)
        self.hosts.change(server.allowed_hosts)
        self.origins.change(server.cors_origins)
        self.proxies.change(server.trusted_proxies)
        self.early.forget()


def difference(running: Config, new: Config) -> tuple[Reloaded, Config]:
    """What is new, and what runs once it is taken over: the new values, but for those that need a restart."""
    old_values, new_values = _flat(running), _flat(new)
    differing = [key for key in new_values if new_values[key] != old_values.get(key)]
    held = [key for key in differing if any(fnmatch(key, pattern) for pattern in NEEDS_RESTART)]
    # A certificate where there was none is another kind of listener.
    if (running.server.certfile is None) != (new.server.certfile is None):
        held += [key for key in ("server.certfile", "server.keyfile") if key in differing]
    merged = new
    for key in held:
        merged = _with(merged, key.split("."), old_values[key])
    return Reloaded(sorted(set(differing) - set(held)), sorted(held)), merged


def _flat(config: Config) -> dict[str, object]:
    """Every value by its dotted key."""
    flat: dict[str, object] = {}
    for section, value in msgspec.structs.asdict(config).items():
        if section == "sink":
            flat[section] = value
            continue
        tables = (
            {f"{section}.{name}": table for name, table in value.items()}
            if section == "exchanges"
            else {section: value}
        )
        for place, table in tables.items():
            flat |= {f"{place}.{key}": each for key, each in msgspec.structs.asdict(table).items()}
    return flat


def _with(config: Config, key: list[str], value: object) -> Config:
    """`config` with one value replaced."""
    replace = msgspec.structs.replace
    if key == ["sink"]:
        return replace(config, sink=value)
    if key[0] == "exchanges":
        settings = replace(config.exchanges[key[1]], **{key[2]: value})
        return replace(config, exchanges=config.exchanges | {key[1]: settings})
    return replace(config, **{key[0]: replace(getattr(config, key[0]), **{key[1]: value})})
