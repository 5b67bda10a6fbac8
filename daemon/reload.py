"""The configuration read anew while the daemon runs: checked whole, then taken over without dropping anybody.

Anything wrong: nothing changes. What only a start can change is told, and stays as it is until then.
"""

import time
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatch

import msgspec
import structlog
from msgspec import Struct

from daemon.kinds import ConfigError
from daemon.settings import Config, Server

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
