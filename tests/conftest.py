"""What holds for every test."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No example fails for how long it took, and a run that is green is green again: others are found with another profile.
settings.register_profile(
    "steady", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon keeps its archive where it is started unless it is told otherwise: never in the repository."""
    monkeypatch.chdir(tmp_path)
