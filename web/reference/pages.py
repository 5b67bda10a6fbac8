"""The pages for people: Swagger UI at /docs, a reference rendered on the server at /redoc.

Everything comes from this host, and the Content-Security-Policy holds a browser to that. Swagger UI's files are those
of the installed `flask_swagger_ui` package, of which only the files are used.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import msgspec
from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape
from quart import Response, abort
from quart_trio import QuartTrio

Json = dict[str, Any]

DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)  # Swagger UI sets inline styles and draws its icons from data: URLs
REFERENCE_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_CONTENT_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "png": "image/png",
}
_JSON_TOKEN = re.compile(r'([\s\[\]{}:,]+)|("(?:[^"\\]|\\.)*")(?=:)|("(?:[^"\\]|\\.)*")|([^\s\[\]{}:,]+)')
_OURS = ("docs.css", "docs.js", "reference.css")
_SWAGGER_UI = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")


def prose(text: str) -> Markup:
    """The little Markdown that the document's texts use: paragraphs, `code` and **strong**; the rest is escaped."""
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    html = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", html)
    return Markup("".join(f"<p>{paragraph}</p>" for paragraph in html.split("\n\n") if paragraph))


def inline(text: str) -> Markup:
    """`prose` of one paragraph, without its tags."""
    return Markup(str(prose(text)).removeprefix("<p>").removesuffix("</p>"))


def pretty(value: object) -> Markup:
    """JSON for reading: indented, with keys, strings and other values told apart."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    html = []
    for plain, key, string, other in _JSON_TOKEN.findall(text):
        kind, token = ("key", key) if key else ("str", string) if string else ("val", other)
        html.append(escape(plain) if plain else Markup('<i class="{}">{}</i>').format(kind, token))
    return Markup("").join(html)


_templates = Environment(loader=PackageLoader("web.reference"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
_templates.filters |= {"prose": prose, "inline": inline, "pretty": pretty}


@cache
def _assets() -> Mapping[str, bytes]:
    """The only files that /docs/assets/ serves, by name."""
    ours, swagger_ui = files("web.reference") / "templates", files("flask_swagger_ui") / "dist"
    found = {name: (ours / name).read_bytes() for name in _OURS}
    return found | {name: (swagger_ui / name).read_bytes() for name in _SWAGGER_UI}


def add_docs(app: QuartTrio) -> None:
    """Swagger UI over /openapi.json, and the files of both pages."""
    assets = _assets()
    page = _templates.get_template("docs.html").render()

    @app.get("/docs")
    async def docs() -> Response:
        return _page(page, DOCS_POLICY)

    @app.get("/docs/assets/<path:name>")
    async def docs_asset(name: str) -> Response:
        if name not in assets:
            abort(404)
        response = Response(assets[name], content_type=_CONTENT_TYPES[name.rpartition(".")[2]])
        response.headers["Cache-Control"] = "public, max-age=3600"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def add_reference(
    app: QuartTrio,
    document: Json,
    streams: Sequence[object],
    codes: Sequence[tuple[str, int, str]],
    closes: Mapping[int, str],
) -> None:
    """The OpenAPI document as one page that needs no JavaScript; `codes` are (code, status, meaning)."""
    operations: dict[str, list[Json]] = {tag["name"]: [] for tag in document["tags"]}
    for path, item in document["paths"].items():
        for operation in item.values():
            operations[operation["tags"][0]].append(
                {"path": path, "example_path": _example(path, operation)} | operation
            )
    page = _templates.get_template("reference.html").render(
        document=document, operations=operations, streams=streams, codes=codes, closes=closes
    )

    @app.get("/redoc")
    async def redoc() -> Response:
        return _page(page, REFERENCE_POLICY)


def _example(path: str, operation: Json) -> str | None:
    """The path with an example in every place that must be filled, where there is one for each; it works here."""
    places = [place for place in operation.get("parameters", ()) if place.get("required")]
    if not all("example" in place for place in places):
        return None
    filled = {place["name"]: quote(place["example"], safe=":") for place in places}
    query = "&".join(f"{place['name']}={filled[place['name']]}" for place in places if place["in"] == "query")
    return path.format_map(filled) + (f"?{query}" if query else "")


def _page(html: str, policy: str) -> Response:
    response = Response(html, content_type="text/html; charset=utf-8")
    response.headers["Cache-Control"] = "no-cache"
    response.headers["Content-Security-Policy"] = policy
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
