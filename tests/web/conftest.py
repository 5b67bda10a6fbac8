"""A browser for the modules that need one; where there is none their tests are skipped, and say why."""

from collections.abc import Iterator

import pytest

from tests.web.browser import CHROMIUM, Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium (Debian's package) is not installed")
    opened = Browser()
    yield opened
    opened.close()
