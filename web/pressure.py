"""How much memory the process has, and whether it is nearly used up: then nothing is begun that takes more."""

from collections.abc import Callable
from pathlib import Path

import structlog

from actors import clock

LOOK_EVERY = 1.0  # seconds
SHARE = 0.9  # of the cgroup's limit
RELIEF = 0.95  # of the limit: pressure ends only below this, not at each breath
NO_LIMIT = 1 << 60  # bytes; cgroup v1 says "none" by a number about as large

log = structlog.get_logger()


class Pressure:
    """Looks at the resident memory. `limit_mb` 0: nine tenths of the cgroup's limit, where there is one."""

    def __init__(self, limit_mb: int = 0, *, resident: Callable[[], int] | None = None) -> None:
        self.is_high = False
        self._resident = resident or resident_bytes
        self.set_limit(limit_mb)

    def set_limit(self, limit_mb: int) -> None:
        group = cgroup_limit()
        self.limit = limit_mb * 1_000_000 or (round(group * SHARE) if group is not None else 0)  # bytes; 0: none

    def look(self) -> None:
        if not self.limit:
            self.is_high = False
            return
        used = self._resident()
        was_high, self.is_high = self.is_high, used > self.limit * (RELIEF if self.is_high else 1)
        if self.is_high != was_high:
            tell, event = (log.warning, "memory.short") if self.is_high else (log.info, "memory.enough")
            tell(event, used_mb=used // 10**6, limit_mb=self.limit // 10**6)

    async def run(self) -> None:
        while True:
            self.look()
            await clock.tick(LOOK_EVERY)


def resident_bytes() -> int:
    """What the process holds of the machine's memory; 0 where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    return 0


def cgroup_limit(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The lowest limit in bytes on this process's cgroup and those above it (v2, else v1); None where there is none."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        folder = base / path.lstrip("/")
        # Within a container the path may be the host's: its own group is then the root.
        for place in (folder, *folder.parents):
            limits.append(_limit_in(place / name))
            if place == base:
                break
    found = [limit for limit in limits if limit is not None and limit < NO_LIMIT]
    return min(found, default=None)


def _limit_in(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # there is none, or it says "max"
        return None
