"""How who is refused before any route is reached is told so: a browser by a page, the chart and the clients of a façade
in their own words. Everybody else gets a problem as it is.
"""

from typing import Any

import msgspec

from actors.errors import RateLimited
from actors.exchanges.facade import Reply
from web.facade.http import Desks, refusal_below
from web.pages.dashboard import Dashboard
from web.problems import Denied, InvalidParameters, problem_of
from web.udf import routes as udf


def refusal_as_understood(
    desks: Desks, pages: Dashboard | None, scope: Any, error: Denied | RateLimited | InvalidParameters
) -> Reply | None:
    """None where it is the ordinary problem."""
    path = scope["path"]
    if path == "/" and pages is not None and isinstance(error, Denied):
        return pages.refused(
            next((value.decode("latin1") for name, value in scope["headers"] if name == b"accept"), "")
        )
    if udf.is_below(path):
        told = problem_of(error)
        body = msgspec.json.encode(udf.worded(told))
        return Reply(told.status, body, "application/problem+json", (("Cache-Control", "no-store"),))
    return refusal_below(desks, path, error)
