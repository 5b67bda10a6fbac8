"""What holds for every test."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon keeps its archive where it is started unless it is told otherwise: never in the repository."""
    monkeypatch.chdir(tmp_path)
