"""The Quart application: routes from their tables, errors as problems, CORS. No market logic.

`create_app` wires; `web.rest` and `web.stream` say what is answered.
"""

from typing import Any

import msgspec
import structlog
from quart import Response, has_websocket_context, request, websocket
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import NotFound as WerkzeugNotFound
from werkzeug.routing.exceptions import WebsocketMismatch

from actors.errors import MarketError
from web.fanout import Fanouts
from web.openapi import add_pages
from web.parameters import NoQuery, parse
from web.problems import InvalidParameters, NotFound, Problem, problem, problem_of
from web.rest import Answer, Connectors, Route
from web.routes import ROUTES
from web.stream import Sources, catalog, outbox_of_client, serve_stream

INTERNAL_ERROR = 1011
BODY_MAX = 64 << 10  # bytes; no route reads a body

log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode


def create_app(sources: Sources, fanouts: Fanouts, *, cors_origins: list[str] | str) -> QuartTrio:
    """The HTTP face of the feeds. `cors_origins` is "*" or a list of exact origins."""
    connectors = sources.connectors
    app = QuartTrio("marketd", static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=BODY_MAX, BODY_TIMEOUT=10, PROPAGATE_EXCEPTIONS=False)
    app.url_map.redirect_defaults = False
    app.url_map.merge_slashes = False

    for route in ROUTES:
        rule = route.path.replace("{", "<").replace("}", ">")
        app.add_url_rule(rule, route.path, _view(route, connectors), methods=["GET"])
    add_pages(app, sources)

    @app.get("/ws-catalog")
    async def ws_catalog() -> Response:
        parse(request.args, NoQuery)
        return as_json(catalog(sources))

    @app.get("/ws")
    @app.get("/ws/<path:path>")
    async def not_upgraded(path: str = "") -> Response:
        detail = "this is a WebSocket path; connect to it with a WebSocket client"
        response = as_problem(problem("upgrade_required", detail))
        response.headers["Upgrade"] = "websocket"
        return response

    @app.websocket("/<path:path>")
    async def stream(path: str) -> None:
        await serve_stream("/" + path, sources, fanouts, cors_origins)

    @app.websocket("/")
    async def stream_root() -> None:
        await serve_stream("/", sources, fanouts, cors_origins)

    @app.errorhandler(MarketError)
    async def market_error(error: MarketError) -> Response:
        where = request.view_args or {}
        return as_problem(problem_of(error, exchange=where.get("exchange"), symbol=where.get("symbol")))

    @app.errorhandler(NotFound)
    async def not_found(error: NotFound) -> Response:
        return as_problem(problem_of(error))

    @app.errorhandler(InvalidParameters)
    async def invalid_parameters(error: InvalidParameters) -> Response:
        return as_problem(problem_of(error))

    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        if has_websocket_context():  # only a foreign Origin is refused before the handshake
            return as_problem(
                problem("forbidden_origin", "pages of this origin may not connect: see server.cors_origins")
            )
        return _http_problem(error, exists=_has_route(app, request.path))

    @app.errorhandler(Exception)
    async def fault(error: Exception) -> Response:
        """A fault of ours: the client is told so, the log has the rest."""
        path = websocket.path if has_websocket_context() else request.path
        log.error("web.fault", path=path, exc_info=error)
        if has_websocket_context():
            outbox_of_client().close(INTERNAL_ERROR, "internal error")
        return as_problem(problem("internal_error", "the daemon failed to answer; its log says why"))

    @app.after_request
    async def allow_origin(response: Response) -> Response:
        return _with_cors(response, cors_origins)

    return app


def _view(route: Route, connectors: Connectors) -> Any:
    async def view(**where: str) -> Response:
        answer = await route.handler(connectors, parse(request.args, route.query), **where)
        if isinstance(answer, Response):
            return answer
        if isinstance(answer, Answer):
            return as_json(answer.body, answer.status)
        return as_json(answer)

    return view


def as_json(body: object, status: int = 200) -> Response:
    return Response(_encode(body), status, content_type="application/json")


def as_problem(told: Problem) -> Response:
    response = Response(_encode(told), told.status, content_type="application/problem+json")
    if isinstance(told.retry_after, int):
        response.headers["Retry-After"] = str(told.retry_after)
    return response


def _has_route(app: QuartTrio, path: str) -> bool:
    """Whether HTTP has something at a path; the WebSocket rule matches every one."""
    try:
        app.url_map.bind("").match(path, method="GET", websocket=False)
    except (WerkzeugNotFound, WebsocketMismatch):
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


def _with_cors(response: Response, origins: list[str] | str) -> Response:
    origin = request.headers.get("Origin")
    if origins != "*":
        response.headers["Vary"] = "Origin"
    if origin is None or (origins != "*" and origin not in origins):
        return response
    response.headers["Access-Control-Allow-Origin"] = "*" if origins == "*" else origin
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        response.headers["Access-Control-Allow-Methods"] = "GET, HEAD, OPTIONS"
        response.headers["Access-Control-Allow-Headers"] = request.headers.get("Access-Control-Request-Headers", "*")
        response.headers["Access-Control-Max-Age"] = "600"
    return response
