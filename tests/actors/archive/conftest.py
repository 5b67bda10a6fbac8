import pytest

from actors.archive import archive as archive_module


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush waits for the disk however busy the machine is; tests of disks that hang set their own limit."""
    monkeypatch.setattr(archive_module, "PATIENCE", 30.0)
