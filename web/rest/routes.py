"""Every REST route, in one list for the app and for the document."""

from functools import partial

from actors.sinks.sinks import Sinks
from web.rest import export, handlers, multi, state
from web.rest.route import Handler, Route

ROUTES = [*state.ROUTES, *handlers.ROUTES, *multi.ROUTES, *export.ROUTES]


def routes_below(root_path: str, engine: state.Engine | None = None, sinks: Sinks | None = None) -> list[Route]:
    """The same, with links as they are for clients of a proxy that serves us below a path, and what else there is."""
    if not root_path and engine is None and sinks is None:
        return ROUTES
    bound: dict[str, Handler] = {
        "/": partial(state.root, root_path=root_path, engine=engine, sinks=sinks),
        "/health": partial(state.health, engine=engine, sinks=sinks),
    }
    if engine is not None:
        bound["/health/ready"] = partial(state.health_ready, engine=engine)
    return [route._replace(handler=bound.get(route.path, route.handler)) for route in ROUTES]
