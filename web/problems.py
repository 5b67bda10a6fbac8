"""What a client is told when something is wrong: RFC 9457 problems, one table from error to HTTP status."""

from http import HTTPStatus
from math import ceil

import msgspec
from msgspec import UNSET, Struct, UnsetType

from actors.errors import MarketError, RateLimited

STATUS_OF = {
    "bad_request": 400,
    "unknown_exchange": 404,
    "unknown_symbol": 404,
    "unknown_interval": 404,
    "not_found": 404,
    "unsupported": 404,
    "unauthorized": 401,
    "forbidden": 403,
    "method_not_allowed": 405,
    "unknown_host": 421,
    "upgrade_required": 426,
    "range_not_satisfiable": 416,
    "invalid_parameter": 422,
    "invalid_command": 400,
    "invalid_config": 422,
    "rate_limited": 429,
    "too_many_topics": 429,
    "too_many_commands": 429,
    "overloaded": 503,
    "upstream_limited": 503,
    "upstream_error": 502,
    "upstream_timeout": 504,
    "upstream_geo_blocked": 502,
    "not_ready": 503,
    "forbidden_origin": 403,
    "internal_error": 500,
}
RETRY_DEFAULT = {
    "upstream_limited": 10,
    "not_ready": 2,
    "rate_limited": 1,
    "overloaded": 10,
}  # seconds, where the error does not say


class BadParameter(Struct, frozen=True):
    """One query or path parameter that cannot be used, and why."""

    parameter: str
    detail: str


class Problem(Struct, frozen=True, kw_only=True):
    """`application/problem+json`; `detail` is a sentence for a person, `code` is for programs."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    exchange: str | UnsetType = UNSET
    symbol: str | UnsetType = UNSET
    errors: list[BadParameter] | UnsetType = UNSET
    retry_after: int | UnsetType = UNSET  # seconds
    limit: str | UnsetType = UNSET  # of rate_limited: the configuration's key, within [limits]


class InvalidParameters(Exception):
    """Every bad parameter of one request."""

    def __init__(self, errors: list[BadParameter]) -> None:
        super().__init__("; ".join(f"{error.parameter}: {error.detail}" for error in errors))
        self.errors = errors


class InvalidConfig(Exception):
    """The configuration cannot be taken over; str() is one line that says what is wrong and where."""


class NotFound(Exception):
    """There is nothing at this path."""


class Denied(Exception):
    """A client may not do this: with no key or a bad one (`unauthorized`), or with this one (`forbidden`).

    `challenge`: what WWW-Authenticate says.
    """

    def __init__(self, code: str, detail: str, challenge: str) -> None:
        super().__init__(detail)
        self.code = code
        self.challenge = challenge


def problem(code: str, detail: str, **members: object) -> Problem:
    status = STATUS_OF[code]
    return msgspec.convert(
        {
            "type": f"urn:marketd:{code}",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            "code": code,
            **{key: value for key, value in members.items() if value is not None},
        },
        Problem,
    )


def problem_of(
    error: MarketError | InvalidParameters | NotFound | Denied,
    *,
    exchange: str | None = None,
    symbol: str | None = None,
) -> Problem:
    """The problem that an error means for the client who caused it or met it."""
    where = {"exchange": exchange, "symbol": symbol}
    match error:
        case InvalidParameters(errors=errors):
            return problem("invalid_parameter", str(error), errors=[*map(msgspec.to_builtins, errors)], **where)
        case NotFound():
            return problem("not_found", str(error))
        case Denied(code=code):
            return problem(code, str(error))
        case MarketError(code=code):
            wait = RETRY_DEFAULT.get(code) if error.retry_after is None else max(1, ceil(error.retry_after))
            limit = error.limit if isinstance(error, RateLimited) else None
            return problem(code, str(error), retry_after=wait, limit=limit, **where)
