"""The dashboard: one page, its style and modules, and TradingView's chart library. All are read once, at the start.

The chart library is the file that the package `litecharts` carries; nothing else of that package is used.
"""

from functools import cache
from importlib.metadata import files as files_of
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import NotFound as WerkzeugNotFound

from actors.exchanges.facade import Reply
from web.rest.fixed import FixedFile
from web.rest.headers import prefers_html

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CHARTS = "lightweight-charts.js"
PAGE = "index.html"
LICENCES = "licences.txt"
_CONTENT_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}


def chart_library() -> bytes:
    """Looked for without importing the package: what it runs at import is of no use here."""
    spec = find_spec("litecharts")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the package litecharts, which carries {CHARTS}, is not installed")
    return (Path(spec.origin).parent / "js" / CHARTS).read_bytes()


def apache_licence() -> bytes:
    """The chart library's licence, as another package that is under the same one carries it."""
    named = next(file for file in files_of("prometheus-client") or () if file.name == "LICENSE")
    return Path(str(named.locate())).read_bytes()


def page_files() -> dict[str, bytes]:
    """By name, what `/ui/` serves, and the page."""
    ours = (files("web.pages") / "ui").iterdir()
    found = {entry.name: entry.read_bytes() for entry in ours if entry.is_file()}
    return found | {CHARTS: chart_library(), LICENCES: found[LICENCES] + b"\n\n" + apache_licence()}


@cache
def _served() -> dict[str, FixedFile]:
    """Once for the process: compressing them takes longer than all else of a start."""
    safe = {"Referrer-Policy": "no-referrer", "Content-Security-Policy": POLICY}
    return {name: FixedFile(data, _CONTENT_TYPES[name.rpartition(".")[2]], safe) for name, data in page_files().items()}


class Dashboard:
    """What is served; the page itself holds nothing of the market, and asks for a key where one is needed."""

    def __init__(self) -> None:
        self.files = dict(_served())
        self.page = self.files.pop(PAGE)

    def refused(self, accept: str) -> Reply | None:
        """The answer to a browser that has no key, and can give none but to a page; None for a program."""
        if not prefers_html(accept):
            return None
        headers = self.page.headers | {"Cache-Control": "no-store", "Vary": "Accept"}
        return Reply(401, self.page.data, self.page.content_type, tuple(headers.items()))


def add_dashboard(app: QuartTrio, dashboard: Dashboard) -> None:
    """Serve `/` as a page to who prefers one, and the page's files."""
    as_json = app.view_functions["/"]

    async def page() -> Any:
        return (
            dashboard.page.answer()
            if prefers_html(request.headers.get("Accept", ""))
            else await app.ensure_async(as_json)()
        )

    app.view_functions["/"] = page

    @app.get("/ui/<name>")
    async def page_file(name: str) -> Response:
        if name not in dashboard.files:
            raise WerkzeugNotFound
        return dashboard.files[name].answer()
