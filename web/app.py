"""The Quart application: routes from their tables, errors as problems, CORS. No market logic.

`create_app` wires; `web.rest.routes` and `web.streams.paths` say what is answered.
"""

from collections.abc import Callable, Collection
from functools import lru_cache, partial
from inspect import isawaitable
from time import perf_counter
from typing import Any

import msgspec
import structlog
from quart import Response, g, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import NotFound as WerkzeugNotFound

from actors.errors import MarketError, NotReady, Overloaded, RateLimited
from actors.mirror.ingests import Ingests
from actors.sinks.sinks import Sinks
from web.access.auth import Auth
from web.access.clients import Clients
from web.access.credentials import take_credentials
from web.access.front import Front
from web.access.hosts import Hosts
from web.access.limits import Limits
from web.access.origins import Origins
from web.connectors import Connectors
from web.counts import OTHER
from web.dialects import refusal_as_understood
from web.facade.http import PREFIX, Desks, FacadeHttp, place_of
from web.facade.socket import refuse_on_edge, serve_facade
from web.metrics.page import Metrics
from web.pages.dashboard import Dashboard, add_dashboard
from web.parameters import NoQuery, TableQuery, parse
from web.problems import (
    BadParameter,
    InvalidConfig,
    InvalidParameters,
    NotFound,
    Problem,
    problem,
    problem_of,
)
from web.reference.asyncapi import add_asyncapi
from web.reference.openapi import add_pages
from web.rest import tables
from web.rest.gate import App, Gate
from web.rest.headers import choose_encoding, compress, is_compressible, variant_headers
from web.rest.passing import Passing
from web.rest.route import Answer, Route, held_of
from web.rest.routes import ROUTES, routes_below
from web.rest.spool import Spool
from web.rest.state import Engine
from web.server.accepting import refusal
from web.streams.entry import RETRY, Elsewhere, enter
from web.streams.fanouts import Fanouts
from web.streams.multiplex import ClientLimits
from web.streams.paths import catalog, serve_stream
from web.streams.socket import WebSocket, serving
from web.streams.sse import respond, topics_of
from web.udf import routes as udf

BODY_MAX = 64 << 10  # bytes; no route reads a body

log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode


def create_app(
    fanouts: Fanouts,
    auth: Auth | None = None,
    *,
    cors_origins: Origins | list[str] | str,
    client_limits: ClientLimits | None = None,
    hosts: Hosts | None = None,
    root_path: str = "",
    engine: Engine | None = None,
    sinks: Sinks | None = None,
    desks: Desks | None = None,
    metrics: Metrics | None = None,
    reload: Callable[[], object] | None = None,
    spool: Spool | None = None,
    dashboard: bool = True,
    ingests: Ingests | None = None,
    elsewhere: Elsewhere | None = None,
) -> QuartTrio:
    """The HTTP face of the feeds. `auth`: who may do what; None: everybody all but `admin`, within the ordinary limits.

    `cors_origins` is "*" or a list of exact origins. `hosts`: the names it is asked by; None: any. `root_path`: below
    which path a proxy serves it. `metrics`: what `/metrics` tells; None: there is no such page.
    `spool`: keeps the files of `/export`.
    `engine`: how that of several nodes is; None: there is none. `sinks`: what other systems are written by; None: none.
    `reload`: takes over the configuration anew and says what changed; raises InvalidConfig. None: it cannot be done.
    `dashboard`: whether `/` is a page for browsers. `ingests`: who is asked for what is not held here; None: it is.
    `elsewhere`: where streams are told; None: here.
    """
    auth = auth or Auth(Clients(Limits()))
    origins = cors_origins if isinstance(cors_origins, Origins) else Origins(cors_origins)
    sources = fanouts.sources
    connectors = sources.connectors
    limits = client_limits or ClientLimits()
    app = QuartTrio("marketd", static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=BODY_MAX, BODY_TIMEOUT=10, PROPAGATE_EXCEPTIONS=False)
    app.url_map.redirect_defaults = False
    app.url_map.merge_slashes = False
    app.extensions["spool"] = spool or Spool(fanouts.nursery, megabytes=1024, files=16)

    for route in routes_below(root_path, engine, sinks):
        rule = route.path.replace("{", "<").replace("}", ">")
        app.add_url_rule(rule, route.path, _view(route, connectors), methods=["GET"])
    add_pages(app, sources, root_path=root_path)
    add_asyncapi(app, fanouts, limits, root_path=root_path)

    if metrics is not None:
        page = metrics.page

        @app.get("/metrics")
        async def metrics_page() -> Response:
            parse(request.args, NoQuery)
            kind, text = page(request.headers.get("Accept", ""))
            return Response(text, content_type=kind)

    if reload is not None:
        take_over = reload

        @app.post("/admin/reload")
        async def admin_reload() -> Response:
            parse(request.args, NoQuery)
            if await request.get_data(cache=False):
                raise InvalidParameters([BadParameter("body", "nothing may be sent here: the configuration is a file")])
            return as_json(take_over())

        @app.errorhandler(InvalidConfig)
        async def invalid_config(error: InvalidConfig) -> Response:
            return as_problem(problem("invalid_config", str(error)))

    udf.add_udf(app, fanouts)
    pages = Dashboard() if dashboard else None
    if pages is not None:
        add_dashboard(app, pages)

    @app.get("/ws-catalog")
    async def ws_catalog() -> Response:
        parse(request.args, NoQuery)
        return as_json(catalog(sources))

    @app.get("/sse")
    async def sse() -> Response:
        if elsewhere is not None:
            raise NotReady(elsewhere(), retry_after=RETRY)
        return await respond(
            topics_of(request.args),
            request.headers.get("Last-Event-ID"),
            fanouts,
            auth,
            head_only=request.method == "HEAD",
        )

    @app.get("/ws")
    @app.get("/ws/<path:path>")
    async def not_upgraded(path: str = "") -> Response:
        detail = "this is a WebSocket path; connect to it with a WebSocket client"
        response = as_problem(problem("upgrade_required", detail))
        response.headers["Upgrade"] = "websocket"
        return response

    desks = desks or {}
    below: App = FacadeHttp(app.asgi_app, desks, origins=origins)
    if ingests is not None:
        passed = partial(_route_passed_on, app, {route.path for route in ROUTES if held_of(route) is None})
        below = Passing(below, ingests, passed=passed, worded=_worded, origins=origins, counts=fanouts.counts)
    over_http = Gate(
        below, auth, origins=origins, dialect=partial(refusal_as_understood, desks, pages), counts=fanouts.counts
    )

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            await over_http(scope, receive, send)
            return
        await receive()  # says only that it was connected
        given = take_credentials(scope, token_in_query=auth.token_in_query)
        admitted = partial(enter, auth, origins, given)
        with serving(WebSocket(scope, receive, send)):
            if place_of(scope["path"]) is not None:
                if ingests is not None:
                    await refuse_on_edge(ingests)
                else:
                    await serve_facade(desks, admitted)
                return
            await serve_stream(scope["path"], fanouts, limits, partial(admitted, elsewhere=elsewhere))

    app.asgi_app = Front(asgi, hosts or Hosts(), root_path=root_path)  # type: ignore[method-assign]  # Quart's way of putting something in front

    @app.errorhandler(MarketError)
    async def market_error(error: MarketError) -> Response:
        if isinstance(error, RateLimited) and error.limit == "upstream_share":  # its account knows the others
            auth.clients.limited[error.limit] += 1
        where = request.view_args or {}
        return as_problem(problem_of(error, exchange=where.get("exchange"), symbol=where.get("symbol")))

    @app.errorhandler(InvalidParameters)
    async def invalid_parameters(error: InvalidParameters) -> Response:
        return as_problem(problem_of(error))

    @app.errorhandler(NotFound)
    async def not_found(error: NotFound) -> Response:
        return as_problem(problem_of(error))

    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        return _http_problem(error, exists=_has_route(app, request.path))

    @app.errorhandler(Exception)
    async def fault(error: Exception) -> Response:
        """A fault of ours: the client is told so, the log has the rest."""
        log.error("web.fault", path=request.path, exc_info=error)
        return as_problem(problem("internal_error", "the daemon failed to answer; its log says why"))

    @app.before_request
    async def begin() -> None:
        g.began = perf_counter()

    @app.before_request
    async def short_of_memory() -> None:
        if request.path.startswith("/export/") and fanouts.is_short_of_memory:
            raise Overloaded("the daemon is short of memory: no exports for now")

    @app.after_request
    async def count(response: Response) -> Response:
        rule = request.url_rule.rule.replace("<", "{").replace(">", "}") if request.url_rule else OTHER
        fanouts.counts.answered(rule, response.status_code, perf_counter() - g.began)
        return response

    @app.after_request
    async def vary(response: Response) -> Response:
        await _vary(response, origins.allowed)
        if request.path == "/":
            response.vary.add("Accept")
        if request.method == "HEAD" and response.status_code == 200 and response.content_length == 0:
            del response.headers["Content-Length"]  # a stream is not begun for HEAD: who knows how long it would be
        if response.status_code in (204, 304):  # there is no body to describe, and a cache would believe it of its own
            response.headers.pop("Content-Length", None)
            response.headers.pop("Content-Type", None)
        return response

    return app


def _view(route: Route, connectors: Connectors) -> Any:
    async def view(**where: str) -> Response:
        query = parse(request.args, route.query)
        answer = route.handler(connectors, query, **where)
        if isawaitable(answer):
            answer = await answer
        if isinstance(query, TableQuery) and query.format != "json":
            if getattr(query, "partial", False):
                answer = tables.without_errors(answer)
            content_type, file = tables.write(route.answer, answer, query.format)
            return Response(file, content_type=content_type, headers={"Content-Disposition": "inline"})
        if isinstance(answer, Response):
            return answer
        if isinstance(answer, Answer):
            return as_json(answer.body, answer.status)
        return as_json(answer)

    return view


def too_many_connections() -> bytes:
    """The whole answer to a connection whose client has as many as it may: nothing is read before."""
    detail = "this client has as many connections open as it may"
    told = problem_of(RateLimited(detail, limit="connections", retry_after=1.0))
    body = _encode(told)
    return refusal(f"{told.status} {told.title}", 1, "application/problem+json", body)


def as_json(body: object, status: int = 200) -> Response:
    return Response(_encode(body), status, content_type="application/json")


def as_problem(told: Problem) -> Response:
    response = Response(_encode(_worded(request.path, told)), told.status)
    response.content_type = "application/problem+json"
    if udf.is_below(request.path):
        response.headers["Cache-Control"] = "no-store"
    if isinstance(told.retry_after, int):
        response.headers["Retry-After"] = str(told.retry_after)
    return response


def _worded(path: str, told: Problem) -> object:
    """A problem as who asks there understands it."""
    return udf.worded(told) if udf.is_below(path) else told


def _route_passed_on(app: QuartTrio, passed: Collection[str], method: str, path: str) -> str | None:
    """The route of a request for what an edge does not hold. `passed`: such routes, of the table."""
    if place_of(path) is not None:
        return None if method == "OPTIONS" else f"{PREFIX}{{exchange}}/{{path}}"
    if method not in ("GET", "HEAD"):
        return None
    if udf.is_below(path):
        return f"{udf.BELOW}/{{path}}"
    try:
        route, _ = app.url_map.bind("").match(path, method="GET", websocket=False)
    except HTTPException:
        return None
    return route if route in passed else None


def _has_route(app: QuartTrio, path: str) -> bool:
    """Whether HTTP has something at a path."""
    try:
        app.url_map.bind("").match(path, method="GET", websocket=False)
    except WerkzeugNotFound:
        return False
    except HTTPException:
        return True
    return True


def _http_problem(error: HTTPException, *, exists: bool) -> Response:
    """Errors that Quart itself raises, before a route is reached."""
    if error.code in (400, 404, 405) and not exists:
        return as_problem(problem_of(NotFound(f"there is nothing at {request.path[:100]!r}; see /docs")))
    if error.code == 405:
        if request.method == "OPTIONS":
            return Response(b"", 204)
        allowed = ", ".join(getattr(error, "valid_methods", None) or ["GET"])
        response = as_problem(problem("method_not_allowed", f"{request.method} is not allowed here, only {allowed}"))
        response.headers["Allow"] = allowed
        return response
    told = Problem(
        type="about:blank",
        title=error.name,
        status=error.code or 500,
        detail=error.description or error.name,
        code=error.name.lower().replace(" ", "_"),
    )
    return as_problem(told)


async def _vary(response: Response, origins: list[str] | str) -> None:
    """Compress the answer for clients that take it so, and let pages of allowed origins read it."""
    encoding = choose_encoding(request.headers.get("Accept-Encoding", ""))
    compressible = is_compressible(response.content_type or "", response.content_length or 0)
    compressible &= "Accept-Ranges" not in response.headers  # a part of something else would not fit to the rest
    is_packed = "Content-Encoding" in response.headers
    if compressible and encoding is not None and not is_packed:
        response.set_data(_compressed(await response.get_data(as_text=False), encoding))
    headers = variant_headers(encoding, request.headers.get("Origin"), origins, compressible=compressible or is_packed)
    for name, value in headers.items():
        response.headers[name] = value
    is_preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
    if is_preflight and "Access-Control-Allow-Origin" in headers:
        response.headers["Access-Control-Allow-Methods"] = "GET, HEAD, OPTIONS"
        response.headers["Access-Control-Allow-Headers"] = request.headers.get("Access-Control-Request-Headers", "*")
        response.headers["Access-Control-Max-Age"] = "600"


# The pages' files are the same bytes each time; answers of the market are new each time, and few fit.
_compressed = lru_cache(maxsize=16)(compress)
