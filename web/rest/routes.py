"""Every REST route, in one list for the app and for the document."""

from functools import partial

from web.rest import export, handlers, multi, state
from web.rest.route import Route

ROUTES = [*state.ROUTES, *handlers.ROUTES, *multi.ROUTES, *export.ROUTES]


def routes_below(root_path: str) -> list[Route]:
    """The same, with links as they are for clients of a proxy that serves us below a path."""
    if not root_path:
        return ROUTES
    return [
        route._replace(handler=partial(state.root, root_path=root_path)) if route.path == "/" else route
        for route in ROUTES
    ]
