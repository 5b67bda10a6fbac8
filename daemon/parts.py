"""A configuration taken over while the daemon runs: all of it or nothing, and nobody is dropped."""

from typing import NamedTuple

from daemon import log as log_settings
from daemon.collecting import Collecting
from daemon.front import Front
from daemon.policy import Policy
from daemon.settings import Config


class Parts(NamedTuple):
    """Everything that a configuration may change while it runs."""

    collecting: Collecting
    front: Front
    policy: Policy

    def take(self, config: Config) -> None:
        """Run by this configuration from now on. Raises ConfigError, and nothing has changed."""
        keys = self.front.door.read_files(config)
        # From here on nothing can fail.
        log_settings.configure(config.log.level, config.log.format)
        self.policy.change(config.supervision)
        self.collecting.change(config)
        self.front.change(config, keys)
